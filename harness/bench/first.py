"""What is most likely to fail on a device that nobody has tried, cheapest first: the first part of
`bench device`.

Each job returns a row with the one number that it measured, or whose note says why there is none.
"""

import time
from collections.abc import Callable

import numpy as np
import torch

import reference.masking
from fast import masking
from harness.bench import attention, components
from harness.bench.measure import Jobs, compiler, facts, job, noted, number, seconds
from harness.bench.step import windows
from reference.recipe import Recipe

NOT_COMPILED = "not available: nothing is compiled"
ROWS = 8  # whose masks are drawn
STEPS = (0, 79_999)  # of a run whose masks are drawn


def jobs(bench, toy: Recipe) -> Jobs:
    """Yield (name, job) in the order of cost; bench is a device.Bench, toy the recipe of the
    compiled step.
    """
    yield "device", lambda: noted("device", facts(bench.device))
    yield "matrix product", lambda: number("matrix product", bench.products / 1e12, "TFLOP/s")
    yield "copy", lambda: number("copy", bench.bandwidth / 1e9, "GB/s")
    width = bench.recipe.model.d // bench.recipe.model.heads
    for kernel in attention.KERNELS:
        yield job(f"attention, heads of {width}: {kernel}", in_ms, attended, bench, kernel)
    for name, measure, given in (
        ("a graph compiles", graph, ()),
        ("masks, compiled", masks, (bench.recipe,)),
        ("a toy step, compiled", step, (toy,)),
    ):
        if bench.compiled:
            yield job(name, in_ms, measure, bench.device, *given)
        else:
            yield job(name, noted, NOT_COMPILED)


def in_ms(name: str, measure: Callable[..., float | str], *arguments) -> dict:
    """Return the row of a function that returns seconds, or in a line why there are none."""
    result = measure(*arguments)
    return noted(name, result) if isinstance(result, str) else number(name, 1e3 * result, "ms")


def attended(bench, kernel: str) -> float | str:
    """Return the seconds of attention forward and backward by one kernel on a few rows, once its
    result is right.
    """
    dtype = getattr(torch, bench.recipe.training.compute_dtype)
    given = attention.inputs(bench.recipe.model, attention.CHECKED, bench.device, dtype)
    run = attention.timed(given, kernel)
    return attention.trouble(given, kernel) or seconds(run, bench.device)


def graph(device: str) -> float | str:
    """Return the seconds that a trivial graph takes to compile and run."""

    def double(x):
        return torch.relu(2 * x + 1).sum(dim=1)

    x_44 = torch.arange(16.0, device=device).view(4, 4) - 8
    begun = time.perf_counter()
    doubled, expected = compiler(True)(double)(x_44), double(x_44)
    if not torch.equal(doubled, expected):
        return f"failed: {doubled.tolist()} instead of {expected.tolist()}"
    return time.perf_counter() - begun


def masks(device: str, recipe: Recipe) -> float | str:
    """Return the seconds that the masks of a few rows take, compiled, once they are those of the
    reference bit for bit.
    """
    rows, length = np.arange(ROWS), recipe.model.length
    drawn = compiler(True)(masking.mask)

    def ours(step: int, thresholds_B: np.ndarray) -> torch.Tensor:
        at, rows_B, limits_B = (
            torch.from_numpy(np.asarray(value)).to(device) for value in (step, rows, thresholds_B)
        )
        return drawn(recipe.seed, at, rows_B, length, limits_B)

    for step in STEPS:
        times_B = reference.masking.times(recipe.seed, step, rows, recipe.diffusion.epsilon)
        thresholds_B = reference.masking.thresholds(times_B).astype(np.int64)
        wanted_BL = reference.masking.mask(recipe.seed, step, rows, length, thresholds_B)
        wrong = int((ours(step, thresholds_B).cpu().numpy() != wanted_BL).sum())
        if wrong:
            return f"failed: {wrong} positions differ from the reference at step {step}"
    return seconds(lambda: ours(0, thresholds_B), device)


def step(device: str, toy: Recipe) -> float | str:
    """Return the seconds that a toy step takes to compile and run, once its gradients are those of
    the eager step.
    """
    batch, begun = windows(toy), time.perf_counter()
    quick, eager = (
        components.Production(toy, batch, device, compiled) for compiled in (True, False)
    )
    expected = components.flat(eager)
    limit = components.limit(components.Plain(eager), expected)
    strayed = components.distance(components.flat(quick), expected)
    (loss, grads), (wanted, _) = quick.gradients(), eager.gradients()
    apart = abs(float(loss) / float(wanted) - 1)
    if not max(strayed, apart) <= limit:
        return (
            f"failed: loss and gradients differ by {apart:.3g} and {strayed:.3g} from the eager"
            f" step's, limit {limit:.3g}"
        )
    quick.update(loss, grads)
    broken = [key for key, value in quick.params.items() if not torch.isfinite(value).all()]
    if broken:
        return f"failed: {broken[0]} is not finite after a step"
    return time.perf_counter() - begun
