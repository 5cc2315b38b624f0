"""A score measured again from the reloaded artifact, on all of the validation text or on as much as
the time allows.
"""

import math
import re
import time
from functools import partial
from typing import NamedTuple

import numpy as np
import torch

from fast import data, evaluate
from fast.evaluate import Effort
from fast.likelihood import LogProbs
from fast.objective import objective_of
from harness.display.progress import Bar, silent
from harness.validate.model import Model, Text
from harness.validate.numbers import digits
from reference.recipe import ORDERS

CHUNKS = 16  # stretches of the split that stand for it where time is short
BATCH_TOKENS = 1 << 15  # per forward pass
SAME_MASKS = 1e-2  # relative: two standard errors closer than this come from the same masks
ARITHMETIC = 5e-4  # relative: how far bfloat16 on one device moves a score from another's
PLAN_WINDOWS = 256  # of the split: what nelbo's plan is fitted to, as `maskgolf eval` does


class Measured(NamedTuple):
    """A Score of our own, over how many of the split's windows."""

    score: object
    windows: int
    of: int


def effort_of(named: str, estimators: tuple[str, ...], epsilon: float) -> Effort | None:
    """Return the effort that an estimator's name stands for, of those that may score the model;
    None for a name of somebody else's.
    """
    words = re.findall(r"[\w-]+", named.lower().replace("_", "-"))
    if not {"nelbo", "nelbo-grid", "chain"} & set(words[:1]):
        looks_back = {"causal", "autoregressive", "ar"} & set(words)
        known = looks_back or (not words and estimators == ("causal",))
        return Effort("causal", epsilon=epsilon) if known and "causal" in estimators else None
    if words[0] not in estimators:
        return None
    order = next((word for word in words if word in ORDERS), "left-to-right")
    return Effort(words[0], order if words[0] == "chain" else None, epsilon=epsilon)


def pass_seconds(opened: Model, length: int, log_probs: LogProbs | None = None) -> float:
    """Return the seconds that one window takes per forward pass of a model, or of these log_probs
    of it, measured after a warm-up.
    """
    log_probs = log_probs or opened.predictor()
    rows, shape = max(1, min(8, BATCH_TOKENS // length)), opened.recipe.model
    ids_BL = torch.full((rows, length), shape.vocab if objective_of(shape).mask_token else 0)
    log_probs(ids_BL)
    started = time.perf_counter()
    log_probs(ids_BL)
    return (time.perf_counter() - started) / rows


def ranges(total: int, wanted: int) -> list[tuple[int, int]]:
    """Return disjoint ranges of windows, spread evenly over the split, `wanted` windows in all."""
    chunks = min(CHUNKS, wanted) if wanted < total else 1
    sizes = np.diff(np.arange(chunks + 1) * min(wanted, total) // chunks).tolist()
    starts = (np.arange(chunks) * total // chunks).tolist()
    return [(start, start + size) for start, size in zip(starts, sizes, strict=True)]


def measure(
    opened: Model,
    given: Text,
    effort: Effort,
    seconds: float,
    most: int | None = None,
    progress: Bar | None = None,
) -> Measured:
    """Return the score of the split, or of its first windows, or of evenly spread stretches that
    take about `seconds`. progress: counts windows.
    """
    length, vocab, tokens = opened.recipe.model.length, opened.recipe.model.vocab, given.validation
    total = min(-(-len(tokens) // length), most or len(tokens))
    log_probs = opened.predictor(effort.estimator)
    window = pass_seconds(opened, min(length, len(tokens)), log_probs) * effort.passes(length)
    chosen = ranges(total, max(2, int(min(total, seconds / window))))
    largest = max(stop - start for start, stop in chosen)
    rows, plans = max(1, min(64, BATCH_TOKENS // length, largest)), {}
    if evaluate.METHODS[effort.estimator].planned:
        first = min(PLAN_WINDOWS, total)
        pilot = data.evaluation_windows(tokens, length, vocab, 0, first)[0]
        plans[pilot.ids_NL.shape[1]] = evaluate.fit_plan(
            log_probs, pilot, vocab, effort, batch_rows=rows
        )
    parts, started = [], time.perf_counter()
    shown, wanted = progress or silent(), sum(stop - start for start, stop in chosen)
    for start, stop in chosen:
        scored = sum(len(part.rows_N) for part in parts)
        parts += evaluate.measure(
            log_probs,
            data.evaluation_windows(tokens, length, vocab, start, stop - start),
            given.tokenizer.table,
            effort,
            first_row=start,
            plans=plans,
            batch_rows=rows,
            on_progress=partial(_show, shown, scored, stop - start, wanted),
        )
    score = evaluate.total(parts, effort, time.perf_counter() - started)
    return Measured(score, wanted, total)


def _show(progress: Bar, scored: int, windows: int, wanted: int, done: int, total: int) -> None:
    """Show how many windows are scored when `done` of the `total` passes of a stretch are."""
    progress.update(scored + windows * done / total, wanted)


def rounding(value: float) -> float:
    """Return half a unit of the last digit of a number as JSON prints it."""
    return 0.5 * 10.0 ** -digits(value)


def allowed(measured: Measured, claim: float, stderr: float | None) -> float:
    """Return how far a claim may lie from the score measured here.

    All windows: nothing for masks where the estimator has none or where the claim's own standard
    error shows that they were the same ones, else two standard errors of the difference of two
    draws. Some windows: four over sequences, for windows that stand close are alike. Beside that
    the claim's rounding, and what another device's arithmetic moves a score by.
    """
    score = measured.score
    other = score.stderr_masks if stderr is None else stderr
    same_masks = stderr is not None and math.isclose(stderr, score.stderr_masks, rel_tol=SAME_MASKS)
    spread = 2 * math.hypot(score.stderr_masks, other)
    if measured.windows < measured.of:
        spread = 4 * math.hypot(score.stderr_sequences, other)
    elif same_masks or not score.stderr_masks:
        spread = 0.0
    return spread + rounding(claim) + ARITHMETIC * claim
