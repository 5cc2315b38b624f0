"""What is most likely to fail on a device that nobody has tried, cheapest first: the first part of
`bench device`.

Each job returns a row with the one number that it measured, or whose note says why there is none.
"""

import time
from collections.abc import Callable, Iterator
from functools import partial

import numpy as np
import torch

import reference.masking
from fast import masking
from harness.bench import attention, components
from harness.bench.measure import facts, row, seconds
from harness.bench.step import windows
from reference.recipe import Recipe

NOT_COMPILED = "not available: nothing is compiled"
ROWS = 8  # whose masks are drawn
STEPS = (0, 79_999)  # of a run whose masks are drawn


def jobs(bench, toy: Recipe) -> Iterator[tuple[str, Callable[[], dict]]]:
    """Yield (name, job) in the order of cost; bench is a device.Bench, toy the recipe of the
    compiled step.
    """
    yield "device", lambda: noted("device", facts(bench.device))
    yield "matrix product", lambda: number("matrix product", bench.products / 1e12, "TFLOP/s")
    yield "copy", lambda: number("copy", bench.bandwidth / 1e9, "GB/s")
    for kernel in attention.KERNELS:
        name = f"attention, heads of {bench.recipe.model.d // bench.recipe.model.heads}: {kernel}"
        yield name, partial(attended, name, bench, kernel)
    yield "a graph compiles", partial(graph, "a graph compiles", bench)
    yield "masks, compiled", partial(masks, "masks, compiled", bench)
    yield "a toy step, compiled", partial(step, "a toy step, compiled", bench, toy)


def number(name: str, value: float, unit: str) -> dict:
    """Return the row of one measured number."""
    return row(name, None, value, None, None, None, 1, unit)


def noted(name: str, note: str) -> dict:
    """Return the row of what is no number."""
    return row(name, None, None, None, None, None, 0, "") | {"note": note}


def attended(name: str, bench, kernel: str) -> dict:
    """Return the milliseconds of attention forward and backward by one kernel on a few rows, once
    its result is right.
    """
    dtype = getattr(torch, bench.recipe.training.compute_dtype)
    given = attention.inputs(bench.recipe.model, attention.CHECKED, bench.device, dtype)
    try:
        error = attention.excess(given, kernel, False)
    except RuntimeError as problem:
        if not attention.absence(problem):
            raise
        return noted(name, attention.absence(problem))
    if not error <= 1:
        return noted(name, f"failed: its error is {error:.3g} times the limit")
    return number(
        name, 1e3 * seconds(lambda: attention.both_ways(given, kernel, False), bench.device), "ms"
    )


def graph(name: str, bench) -> dict:
    """Return the milliseconds that a trivial graph takes to compile and run."""
    if not bench.compiled:
        return noted(name, NOT_COMPILED)

    def double(x):
        return torch.relu(2 * x + 1).sum(dim=1)

    x_44 = torch.arange(16.0, device=bench.device).view(4, 4) - 8
    begun = time.perf_counter()
    found = torch.compile(double, dynamic=False, fullgraph=True)(x_44)
    if not torch.equal(found, double(x_44)):
        return noted(name, f"failed: {found.tolist()} instead of {double(x_44).tolist()}")
    return number(name, 1e3 * (time.perf_counter() - begun), "ms")


def masks(name: str, bench) -> dict:
    """Return the milliseconds that the masks of a few rows take, compiled, once they are those of
    the reference bit for bit.
    """
    if not bench.compiled:
        return noted(name, NOT_COMPILED)
    recipe, rows = bench.recipe, np.arange(ROWS)
    drawn = torch.compile(masking.mask, dynamic=False, fullgraph=True)

    def ours(step: int, thresholds_B: np.ndarray) -> torch.Tensor:
        given = (
            torch.from_numpy(np.asarray(value)).to(bench.device)
            for value in (step, rows, thresholds_B)
        )
        at, rows_B, limits_B = given
        return drawn(recipe.seed, at, rows_B, recipe.model.length, limits_B)

    for step in STEPS:
        times_B = reference.masking.times(recipe.seed, step, rows, recipe.diffusion.epsilon)
        thresholds_B = reference.masking.thresholds(times_B).astype(np.int64)
        wanted_BL = reference.masking.mask(
            recipe.seed, step, rows, recipe.model.length, thresholds_B
        )
        wrong = int((ours(step, thresholds_B).cpu().numpy() != wanted_BL).sum())
        if wrong:
            return noted(
                name,
                f"failed: {wrong} positions differ from the reference at step {step}",
            )
    return number(name, 1e3 * seconds(lambda: ours(0, thresholds_B), bench.device), "ms")


def step(name: str, bench, toy: Recipe) -> dict:
    """Return the milliseconds that a toy step takes to compile and run, once its gradients are
    those of the eager step.
    """
    if not bench.compiled:
        return noted(name, NOT_COMPILED)
    batch, begun = windows(toy), time.perf_counter()
    quick, eager = (
        components.Production(toy, batch, bench.device, compiled) for compiled in (True, False)
    )
    expected = components.flat(eager)
    limit = 2 * max(
        components.distance(components.flat(components.Plain(eager)), expected), components.BFLOAT16
    )
    strayed = components.distance(components.flat(quick), expected)
    (loss, grads), (wanted, _) = quick.gradients(), eager.gradients()
    apart = abs(float(loss) / float(wanted) - 1)
    if not max(strayed, apart) <= limit:
        return noted(
            name,
            f"failed: loss and gradients differ by {apart:.3g} and {strayed:.3g} "
            f"from the eager step's, limit {limit:.3g}",
        )
    quick.update(loss, grads)
    broken = [key for key, value in quick.state.params.items() if not torch.isfinite(value).all()]
    if broken:
        return noted(name, f"failed: {broken[0]} is not finite after a step")
    return number(name, 1e3 * (time.perf_counter() - begun), "ms")
