"""Benchmark of the likelihood estimators on a trained run: their spread, the honesty of the error
bar, the speed of the chain rule.
"""

import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np

import fast.chain
import fast.likelihood
from fast import artifact, data, evaluate
from fast.objective import objective_of
from harness.bench import designs
from harness.bench.measure import as_rate, compared, on_machine, row, turns, waiting
from harness.corpus.dataset import open_dataset
from harness.corpus.sources import Source
from harness.display.progress import bar
from harness.evaluation import scoring
from reference.recipe import InputError

DRAWS = 16  # passes per window
PLANNED = ("default", "default, complementary masks")
DESIGNS = {
    "independent Bernoulli times": designs.independent,
    "stratified Bernoulli times": designs.stratified,
    "nelbo-grid unforced": designs.grid,
    "fixed sizes": designs.fixed_sizes,
    "default": designs.default,
    "default, complementary masks": designs.complementary,
}


def likelihood(
    run: Path, repetitions: int, windows: int, pairs: int, device: str, compiled: bool
) -> list[dict]:
    """Return the rows of `bench likelihood` on a trained run."""
    file, described = scoring.locate(run)
    header, params = artifact.read(file)
    recipe = artifact.recipe_of(header, str(file))
    model = recipe.model
    if not objective_of(model).single_rows:
        raise InputError(
            f"{run}: expected a masked-diffusion model, found a causal one, whose single pass is"
            " exact; choose another run"
        )
    tokens = open_dataset(Source.restore(described), model.vocab, model.length).validation
    full = data.count_windows(tokens, model.length)
    if full < windows:
        raise InputError(
            f"{run}: expected {windows} whole windows of validation text, found {full};"
            " lower --windows"
        )
    count = min(full, max(windows, evaluate.PLAN_WINDOWS))
    [group] = data.evaluation_windows(tokens, model.length, model.vocab, 0, count)
    query = evaluate.predictor(params, recipe, device, compiled)
    eager = evaluate.predictor(params, recipe, device)
    rows = speed(query, eager, group.ids_NL, model.vocab, pairs)
    return on_machine(rows + variances(query, group, model.vocab, repetitions, windows), device)


def variances(query, group, vocab: int, repetitions: int, windows: int) -> list[dict]:
    """Return the rows about the spread of estimates, in (nats per token)**2 times passes per
    window, and the coverage of the error bar.
    """
    ids_NL, length = group.ids_NL[:windows].astype(np.int64), group.ids_NL.shape[1]
    plan = evaluate.fit_plan(query, group, vocab, evaluate.Effort(draws=DRAWS))
    # The default's error bar needs the most repetitions; the others differ from it by factors.
    counts = dict.fromkeys(DESIGNS, max(repetitions // 4, 8)) | {"default": repetitions}
    estimates, bars, done = {name: [] for name in DESIGNS}, [], 0
    with bar("variance", "estimates") as progress:
        for name, design in DESIGNS.items():
            given = (plan,) if name in PLANNED else ()
            for seed in range(counts[name]):
                nats_NK = design(query, ids_NL, vocab, DRAWS, seed, *given)
                estimates[name].append(nats_NK.mean(axis=1).sum() / length)
                if name == "default":
                    bars.append(np.sqrt(fast.likelihood.mask_variance(nats_NK).sum()) / length)
                done += 1
                progress.update(done, sum(counts.values()), name)
    scale, rng = DRAWS / windows, np.random.default_rng(0)
    spread = {name: scale * np.var(values, ddof=1) for name, values in estimates.items()}
    resampled = {
        name: scale * np.var(rng.choice(values, (2000, len(values))), axis=1, ddof=1)
        for name, values in estimates.items()
    }

    def against(name: str, other: str, variance: float, samples, count: int) -> dict:
        low, high = np.percentile(samples / resampled[name], (2.5, 97.5))
        numbers = variance, spread[name], variance / spread[name], low, high
        title = f"variance: {name} / {other}"
        return row(title, *map(float, numbers), count, "(nats/token)^2 x passes")

    first, *others = DESIGNS
    rows = [against(name, first, spread[first], resampled[first], counts[name]) for name in others]
    best = designs.best_allocation(query, ids_NL, vocab, max(repetitions // 4, 2), repetitions)
    best /= length**2
    rows.append(against("default", "best allocation", best, best, repetitions))
    # The truth is known to 1 / sqrt(repetitions) of a single estimate's error.
    error = np.abs(np.array(estimates["default"]) - np.mean(estimates["default"]))
    share = float(np.mean(error <= 1.96 * np.array(bars)))
    numbers = (number / 0.95 for number in (share, *_wilson(share, repetitions)))
    title = "coverage of the error bar (1.96 standard errors)"
    return [*rows, row(title, 0.95, share, *numbers, repetitions, "share")]


def _wilson(share: float, count: int) -> tuple[float, float]:
    z2 = 1.96**2 / count
    middle, half = share + z2 / 2, 1.96 * (share * (1 - share) / count + z2 / 4 / count) ** 0.5
    return (middle - half) / (1 + z2), (middle + half) / (1 + z2)


class _Enough(Exception):
    """Raised inside a chain when enough passes were timed."""


def seconds_per_window(
    run: Callable, windows: int, passes: int, wait: Callable = lambda: None
) -> float:
    """Return the seconds one pass takes for one window, over `passes` passes of run(on_pass=...),
    the first one not counted.

    wait() returns when the device has done what it was given.
    """
    stamps = []

    def on_pass(_):
        wait()
        stamps.append(time.perf_counter())
        if len(stamps) > passes:
            raise _Enough

    try:
        run(on_pass=on_pass)
    except _Enough:
        pass
    return (stamps[-1] - stamps[0]) / max(len(stamps) - 1, 1) / windows


def speed(query, as_written, ids_NL, vocab: int, pairs: int, batch: int = 64) -> list[dict]:
    """Return the rows about chain left to right against the plain loop (every logit of every row),
    in tokens per second, A B C A B C.

    The loop runs as it is written (as_written, not compiled) and compiled; each side takes as many
    windows at once as suits it.
    """
    length, device = ids_NL.shape[1], str(query.device)
    ids_NL = np.resize(ids_NL, (batch, length))
    cached = min(batch, query.most_rows(length))

    def clock(model, rows: int, passes: int) -> float:
        given = model, ids_NL, vocab, "left-to-right", 0, 1, 1
        once = partial(fast.chain.chain, *given, batch_rows=batch, device=device)
        return seconds_per_window(once, rows, min(passes, length - 1), waiting(device))

    timed = turns(
        pairs,
        partial(clock, as_written.__call__, batch, 8),
        partial(clock, query.__call__, batch, 8),
        partial(clock, query, cached, 8 * batch // cached),
    )
    return [
        as_rate(compared(f"chain left-to-right / {name}", [(one[i], one[2]) for one in timed]), 1)
        for i, name in enumerate(("full forward passes", "full forward passes, compiled"))
    ]
