"""Parity: bitwise for sizes and masks, algebra for the estimates: sums in float64 over whatever
dtype log_probs returns.

log_probs(ids_BL) -> (B, L, V) natural logs, hidden positions hold id `vocab`. Every call of a group
of windows has one shape: the last batch repeats its last window and drops the copies. Windows are
never cut, filled up or mixed, so a window's nats depend on its row alone.
"""

import math
from collections.abc import Callable
from functools import partial

import numpy as np
import torch

from fast import masking, philox, sizes
from reference.recipe import EVALUATION_STEPS, GRID, Plan, Score, Stream

LogProbs = Callable[[torch.Tensor], torch.Tensor]


@torch.no_grad()
def in_batches(
    cost: Callable,
    ids_NL,
    columns: int,
    rows: int,
    device=None,
    on_pass: Callable[[int], None] | None = None,
) -> np.ndarray:
    """Return nats (N, columns) of cost(ids_BL, indices, passed) for `rows` windows at a time, which
    calls passed() after each forward pass; on_pass learns how many windows that was.

    The last batch is filled up with its last window; the copies do not count.
    """
    count = len(ids_NL)
    nats = np.empty((count, columns))
    for start in range(0, count, rows):
        indices, kept = np.arange(start, start + rows).clip(max=count - 1), min(rows, count - start)
        ids_BL = torch.as_tensor(ids_NL[indices]).to(device, torch.int64)
        passed = partial(on_pass, kept) if on_pass else lambda: None
        nats[start : start + kept] = cost(ids_BL, indices, passed)[:kept].cpu().numpy()
    return nats


def _target_nll(log_probs_BLV: torch.Tensor, ids_BL: torch.Tensor) -> torch.Tensor:
    return -log_probs_BLV.gather(-1, ids_BL[..., None]).squeeze(-1).to(torch.float64)


def nll(
    log_probs: LogProbs, ids_BL: torch.Tensor, masked_BL: torch.Tensor, vocab: int
) -> torch.Tensor:
    """Return -log p(x_i | x outside the mask) in nats (float64) at every position; positions
    outside the mask cost 0.
    """
    # where, not a product: an unmasked position may hold -inf.
    return torch.where(
        masked_BL, _target_nll(log_probs(ids_BL.masked_fill(masked_BL, vocab)), ids_BL), 0.0
    )


def fixed_mask(words_BL: torch.Tensor, size_B: torch.Tensor) -> torch.Tensor:
    """Return mask_BL hiding the size_B positions of each row's smallest words, ties to the lowest
    index.
    """
    rank_L = torch.arange(words_BL.shape[1], device=words_BL.device)
    order_BL = words_BL.sort(dim=1, stable=True).indices
    return torch.zeros_like(words_BL, dtype=torch.bool).scatter(
        1, order_BL, rank_L < size_B[:, None]
    )


def causal_nll(
    log_probs: LogProbs,
    ids_NL,
    previous_N,
    *,
    batch_rows: int = 64,
    device=None,
    on_pass: Callable[[int], None] | None = None,
) -> np.ndarray:
    """Return nats_NL (float64) of a causal model, one pass per window: position 0 is predicted from
    the token before the window.

    previous_N is -1 where the stream starts: no token precedes, and id 0 stands in for it.
    """
    count, length = ids_NL.shape

    def cost(ids_BL, indices, passed):
        previous_B = torch.as_tensor(previous_N[indices]).to(ids_BL.device, torch.int64)
        log_probs_BLV = log_probs(masking.tokens_before(ids_BL, previous_B))
        passed()
        return _target_nll(log_probs_BLV, ids_BL)

    return in_batches(cost, ids_NL, length, min(batch_rows, count), device, on_pass)


def sliding(cost: Callable, ids_NL, context_NC, stride: int) -> np.ndarray:
    """Return nats_NL (float64) of rows, left to right: every `stride` tokens cost what they do at
    the end of a window of C tokens, or in the first window of the stream.

    context_NC: the C tokens before each row (-1: before the stream). cost(ids_NW, previous_N,
    first_N, count) returns nats of `count` tokens of windows from position first_N on. Rows shorter
    than C are all behind a whole context, or all at the beginning.
    """
    (count, row), length = ids_NL.shape, context_NC.shape[1]
    text_NT = np.concatenate([context_NC, ids_NL], axis=1)
    missing_N = (context_NC < 0).sum(axis=1)
    nats_NL = np.empty((count, row))
    for first in range(0, row, stride):
        start_N = np.maximum(first + stride, missing_N)
        windows = [text_T[at : at + length] for text_T, at in zip(text_NT, start_N, strict=True)]
        previous_N = text_NT[np.arange(count), start_N - 1]
        last = min(first + stride, row)
        nats_NL[:, first:last] = cost(
            np.stack(windows), previous_N, length + first - start_N, last - first
        )
    return nats_NL


def pilot(
    log_probs: LogProbs,
    ids_NL,
    vocab: int,
    passes: int,
    seed: int,
    first_row: int = 0,
    *,
    batch_rows: int = 64,
    device=None,
    on_pass: Callable[[int], None] | None = None,
) -> Plan:
    """Return the Plan fitted to `passes` draws per fold, their sizes even in log l: what each fold
    learns from the other one.

    A lone window learns from other masks of itself: the pilot shares no draw with the estimate,
    which is all that unbiasedness needs.
    """
    count, length = ids_NL.shape
    even_in_log_L = torch.from_numpy(sizes.cumulative_counts(1 / np.arange(1, length + 1)))

    def fit_fold(fold: int) -> tuple[np.ndarray, np.ndarray]:
        others = np.flatnonzero((first_row + np.arange(count)) % 2 != fold)
        others = others if len(others) else np.zeros(1, np.int64)
        offset_P = torch.from_numpy(sizes.offset(seed, np.arange(passes), 2 + fold))
        drawn_P = sizes.draw_sizes(even_in_log_L.expand(passes, length), offset_P, 1)[:, 0]
        step = EVALUATION_STEPS["pilot"][fold]

        def cost(ids_BL, indices, passed):
            size_B, device = drawn_P[indices].to(ids_BL.device), ids_BL.device
            words_BL = philox.words(seed, Stream.EVALUATION, step, indices, length, device=device)
            loss_BL = nll(log_probs, ids_BL, fixed_mask(words_BL, size_B), vocab)
            passed()
            return loss_BL.sum(dim=1, keepdim=True) / size_B[:, None]

        ids_PL = ids_NL[others[np.arange(passes) * len(others) // passes]]
        losses_P1 = in_batches(cost, ids_PL, 1, min(batch_rows, count), device, on_pass)
        return sizes.fit(drawn_P.numpy(), losses_P1[:, 0], length)

    return Plan(*map(np.stack, zip(fit_fold(0), fit_fold(1), strict=True)))


def nelbo(
    log_probs: LogProbs,
    ids_NL,
    vocab: int,
    draws: int,
    plan: Plan,
    seed: int,
    first_row: int = 0,
    *,
    batch_rows: int = 64,
    device=None,
    on_pass: Callable[[int], None] | None = None,
) -> np.ndarray:
    """Return nats_NK (float64): the mean over the K draws of row n is an unbiased estimate of the
    NELBO of window n, whatever the plan.

    Fixed-size masks; sizes in proportion to the plan's counts, stratified over windows and draws;
    the plan's curve as control variate.
    """
    count, length = ids_NL.shape

    def cost(ids_BL, indices, passed):
        rows_B = first_row + indices
        fold_B, device = rows_B % 2, ids_BL.device
        offset_B = np.where(
            fold_B == 0, sizes.offset(seed, rows_B // 2, 0), sizes.offset(seed, rows_B // 2, 1)
        )
        cumulative_BL = torch.from_numpy(plan.cumulative_2L[fold_B]).to(device)
        curve_BL = torch.from_numpy(plan.curve_2L[fold_B]).to(device)
        size_BK = sizes.draw_sizes(cumulative_BL, torch.from_numpy(offset_B).to(device), draws)
        weight_BL = GRID / cumulative_BL.diff(
            dim=1, prepend=torch.zeros_like(cumulative_BL[:, :1])
        ).to(torch.float64)
        columns = []
        for k in range(draws):
            size_B = size_BK[:, k]
            step = EVALUATION_STEPS["nelbo"][k]
            words_BL = philox.words(seed, Stream.EVALUATION, step, rows_B, length, device=device)
            loss_B = nll(log_probs, ids_BL, fixed_mask(words_BL, size_B), vocab).sum(dim=1) / size_B
            at_B1 = size_B[:, None] - 1
            excess_B = (loss_B - curve_BL.gather(1, at_B1)[:, 0]) * weight_BL.gather(1, at_B1)[:, 0]
            columns.append(excess_B + curve_BL.sum(dim=1))
            passed()
        return torch.stack(columns, dim=1)

    return in_batches(cost, ids_NL, draws, min(batch_rows, count), device, on_pass)


def nelbo_grid(
    log_probs: LogProbs,
    ids_NL,
    vocab: int,
    points: int,
    epsilon: float,
    forced_below: float,
    seed: int,
    first_row: int = 0,
    *,
    batch_rows: int = 64,
    device=None,
    on_pass: Callable[[int], None] | None = None,
) -> np.ndarray:
    """Return nats_NK (float64), one column per time: points >= 2 even times in [epsilon, 1],
    Bernoulli masks, weight (1 - epsilon) / t.

    Position 0 is hidden whenever t < forced_below. Kept because published numbers use it
    (forced_below 0.01); biased upward: at L = 1024 by about +0.0086 bits per byte for 256 points
    and +0.03 for 64 (forced mask, end-point rule). Prefer nelbo.
    """
    count, length = ids_NL.shape
    times_K = epsilon + (1 - epsilon) * np.arange(points) / (points - 1)
    steps, thresholds_K = EVALUATION_STEPS["nelbo-grid"][:points], masking.thresholds(times_K)
    draws = list(zip(steps, times_K.tolist(), thresholds_K.tolist(), strict=True))

    def cost(ids_BL, indices, passed):
        rows_B, columns = first_row + indices, []
        for step, t, threshold in draws:
            words_BL = philox.words(
                seed, Stream.EVALUATION, step, rows_B, length, device=ids_BL.device
            )
            masked_BL = (words_BL >> 8) < threshold
            masked_BL[:, 0] |= t < forced_below
            columns.append((1 - epsilon) / t * nll(log_probs, ids_BL, masked_BL, vocab).sum(dim=1))
            passed()
        return torch.stack(columns, dim=1)

    return in_batches(cost, ids_NL, points, min(batch_rows, count), device, on_pass)


def mask_variance(nats_NK: np.ndarray) -> np.ndarray:
    """Return variance_N of the mean over a window's K >= 2 draws: from second differences inside,
    first differences at the two ends.

    Right where the strata's means lie on a line but for the ends, too large otherwise, so the error
    bar errs on the safe side.
    """
    step_NK = nats_NK[:, 1:] - nats_NK[:, :-1]
    bend_NK = step_NK[:, 1:] - step_NK[:, :-1]
    ends_N = (np.square(step_NK[:, 0]) + np.square(step_NK[:, -1])) / 2
    return (np.square(bend_NK).sum(axis=1) / 6 + ends_N) / nats_NK.shape[1] ** 2


def ratio(values_N: np.ndarray, sizes_N: np.ndarray) -> tuple[float, float]:
    """Return (sum of values / sum of sizes, its standard error over N windows taken as independent,
    nan for one) by the ratio estimator (Cochran 1977, eq. 6.13).
    """
    count, total = len(values_N), float(sizes_N.sum())
    value = float(values_N.sum()) / total
    spread = float(np.square(values_N - value * sizes_N).sum())
    return value, math.sqrt(spread * count / (count - 1)) / total if count > 1 else math.nan


def summarize(
    estimator: str,
    order: str | None,
    nats_N: np.ndarray,
    variance_N: np.ndarray,
    tokens_N: np.ndarray,
    bytes_N: np.ndarray,
    forwards: int,
    seconds: float,
) -> Score:
    """Return the Score of all windows: bpb = sum of nats / log 2 / sum of bytes, windows of any
    length together.

    stderr_masks: these windows, other masks. stderr_sequences: other windows too, by the ratio
    estimator (Cochran 1977, eq. 6.13), which takes windows as independent; it holds the mask noise
    as well, and is nan for one window.
    """
    total = int(bytes_N.sum())
    bpb, stderr_sequences = ratio(nats_N / math.log(2), bytes_N)
    return Score(
        estimator=estimator,
        order=order,
        bpb=bpb,
        stderr_masks=math.sqrt(variance_N.sum()) / math.log(2) / total,
        stderr_sequences=stderr_sequences,
        nats_per_token=float(nats_N.sum()) / int(tokens_N.sum()),
        tokens=int(tokens_N.sum()),
        bytes=total,
        forwards=forwards,
        seconds=seconds,
    )
