"""Benchmark of the likelihood estimators on a trained run: their spread, the honesty of the error
bar, the speed of the chain rule.
"""

import time
from functools import partial
from pathlib import Path

from harness.bench.measure import machine, row, waiting
from reference.recipe import InputError

DRAWS = 16  # passes per window


def likelihood(
    run: Path, repetitions: int, windows: int, pairs: int, device: str, compiled: bool
) -> list[dict]:
    """Return the rows of `bench likelihood` on a trained run."""
    from fast import artifact, data, evaluate
    from harness import scoring
    from harness.corpus.sources import Source, open_dataset

    file, described = scoring.locate(run)
    header, params = artifact.read(file)
    recipe = artifact.recipe_of(header, str(file))
    model = recipe.model
    if model.causal:
        raise InputError(
            f"{run}: expected a masked-diffusion model, found a causal one, whose single pass is"
            " exact; choose another run"
        )
    dataset = open_dataset(Source.restore(described), model.vocab, model.length)
    group = data.evaluation_windows(
        dataset.validation, model.length, model.vocab, 0, evaluate.PLAN_WINDOWS
    )[0]
    if len(group.ids_NL) < windows:
        raise InputError(
            f"{run}: expected {windows} windows of validation text, found {len(group.ids_NL)};"
            " lower --windows"
        )
    query = evaluate.predictor(params, recipe, device, compiled)
    rows = speed(
        query, evaluate.predictor(params, recipe, device), group.ids_NL, model.vocab, pairs
    )
    rows += variances(query, group, model.vocab, repetitions, windows)
    return [{**each, "machine": machine(device)} for each in rows]


def variances(query, group, vocab: int, repetitions: int, windows: int) -> list[dict]:
    """Return the rows about the spread of estimates, in (nats per token)**2 times passes per
    window, and the coverage of the error bar.
    """
    import numpy as np

    from fast import evaluate
    from fast.likelihood import mask_variance
    from harness.bench import designs
    from harness.progress import bar

    ids_NL, length = group.ids_NL[:windows].astype(np.int64), group.ids_NL.shape[1]
    plan = evaluate.fit_plan(query, group, vocab, evaluate.Effort(draws=DRAWS))
    plain = {
        "independent Bernoulli times": designs.independent,
        "stratified Bernoulli times": designs.stratified,
        "nelbo-grid unforced": designs.grid,
        "fixed sizes": designs.fixed_sizes,
    }
    planned = {"default": designs.default, "default, complementary masks": designs.complementary}
    found, bars = {}, []
    # The default's error bar needs the most repetitions; the others differ from it by factors.
    counts = {
        name: repetitions if name == "default" else max(repetitions // 4, 8)
        for name in plain | planned
    }
    with bar("variance", "estimates") as progress:
        for name, design in (plain | planned).items():
            found[name] = []
            for seed in range(counts[name]):
                nats_NK = design(
                    query, ids_NL, vocab, DRAWS, seed, *([plan] if name in planned else [])
                )
                found[name].append(nats_NK.mean(axis=1).sum() / length)
                if name == "default":
                    bars.append(np.sqrt(mask_variance(nats_NK).sum()) / length)
                progress.update(sum(map(len, found.values())), sum(counts.values()), name)
    scale, rng = DRAWS / windows, np.random.default_rng(0)
    spread = {name: scale * np.var(values, ddof=1) for name, values in found.items()}
    resampled = {
        name: scale * np.var(rng.choice(values, (2000, len(values))), axis=1, ddof=1)
        for name, values in found.items()
    }
    first, unit, rows = next(iter(plain)), "(nats/token)^2 x passes", []
    for name in [name for name in found if name != first]:
        low, high = np.percentile(resampled[first] / resampled[name], (2.5, 97.5))
        numbers = (spread[first], spread[name], spread[first] / spread[name], low, high)
        rows.append(row(f"variance: {name} / {first}", *numbers, counts[name], unit))
    best = (
        designs.best_allocation(query, ids_NL, vocab, max(repetitions // 4, 2), repetitions)
        / length**2
    )
    low, high = np.percentile(best / resampled["default"], (2.5, 97.5))
    rows.append(
        row(
            "variance: default / best allocation",
            best,
            spread["default"],
            best / spread["default"],
            low,
            high,
            repetitions,
            unit,
        )
    )
    truth = np.mean(found["default"])  # known to 1 / sqrt(repetitions) of a single estimate's error
    share = float(np.mean(np.abs(np.array(found["default"]) - truth) <= 1.96 * np.array(bars)))
    low, high = _wilson(share, repetitions)
    numbers = (0.95, share, share / 0.95, low / 0.95, high / 0.95)
    rows.append(
        row("coverage of the error bar (1.96 standard errors)", *numbers, repetitions, "share")
    )
    return [
        {
            name: float(value) if isinstance(value, np.floating) else value
            for name, value in each.items()
        }
        for each in rows
    ]


def _wilson(share: float, count: int) -> tuple[float, float]:
    z2 = 1.96**2 / count
    middle, half = share + z2 / 2, 1.96 * (share * (1 - share) / count + z2 / 4 / count) ** 0.5
    return (middle - half) / (1 + z2), (middle + half) / (1 + z2)


class _Enough(Exception):
    """Raised inside a chain when enough passes were timed."""


def seconds_per_window(run, windows: int, passes: int, wait=lambda: None) -> float:
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
    import numpy as np

    from fast import chain
    from fast import likelihood as plain

    ids_NL = np.resize(ids_NL, (batch, ids_NL.shape[1]))
    cached, most, device = (
        min(batch, query.most_rows(ids_NL.shape[1])),
        ids_NL.shape[1] - 1,
        str(query.device),
    )
    ours = (chain.chain_by_rows, query, cached, min(8 * batch // cached, most))
    ways = (
        (plain.chain, as_written, batch, min(8, most)),
        (plain.chain, query, batch, min(8, most)),
        ours,
    )

    def seconds(run, model, rows, passes):
        once = partial(
            run, model, ids_NL, vocab, "left-to-right", 0, 1, 1, batch_rows=batch, device=device
        )
        return seconds_per_window(once, rows, passes, waiting(device))

    timed = [[seconds(*way) for way in ways] for _ in range(pairs + 1)]
    seconds_P3 = np.array(timed[1:])  # the first round compiles
    rate_3, rows = 1 / np.median(seconds_P3, axis=0), []
    for way, name in enumerate(("full forward passes", "full forward passes, compiled")):
        ratio_P = seconds_P3[:, way] / seconds_P3[:, 2]
        numbers = (rate_3[way], rate_3[2], np.median(ratio_P), ratio_P.min(), ratio_P.max())
        rows.append(row(f"chain left-to-right / {name}", *map(float, numbers), pairs, "tokens/s"))
    return rows
