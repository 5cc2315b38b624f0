"""Likelihood estimators: every number a bound, in nats; log_probs(ids_BL) -> (B, L, V) sees hidden
positions as id `vocab`.

NELBO(x) = mean over orders of the chain-rule NLL = sum over l = 1..L of E_{|S| = l} mean_{i in S}
-log p(x_i | x outside S) (Uria et al. 2014, "A deep and tractable density estimator", eq. 8; Ou et
al. 2024, RADD, eq. 3.4).
"""

from itertools import combinations, permutations
from math import comb, factorial, log

import numpy as np

from reference import chain, masking, philox, sizes
from reference.recipe import EVALUATION_STEPS, GRID, Plan, Score, Stream


def nll(log_probs, ids_L, masked_L, vocab):
    """Return -log p(x_i | x outside the mask) for every position i in nats; positions outside the
    mask cost 0.
    """
    log_probs_LV = log_probs(np.where(masked_L, vocab, ids_L)[None])[0]
    return np.array([-log_probs_LV[i, ids_L[i]] if masked_L[i] else 0.0 for i in range(len(ids_L))])


def fixed_mask(words_L, size):
    """Return mask_L hiding the `size` positions of the smallest words, ties to the lowest index:
    uniform over subsets.
    """
    return np.isin(np.arange(len(words_L)), np.argsort(words_L, kind="stable")[:size])


def causal_nll(log_probs, ids_NL, previous_N):
    """Return nats_NL of a causal model, one pass per window: position 0 is predicted from the token
    before the window.

    previous_N is -1 where the stream starts: no token precedes, and id 0 stands in for it.
    """
    nats_NL = np.zeros(ids_NL.shape)
    for n, ids_L in enumerate(ids_NL):
        log_probs_LV = log_probs(np.array([[max(previous_N[n], 0), *ids_L[:-1]]]))[0]
        nats_NL[n] = [-log_probs_LV[i, token] for i, token in enumerate(ids_L)]
    return nats_NL


def sliding(cost, ids_NL, context_NC, stride):
    """Return nats_NL of rows, left to right: every `stride` tokens cost what they do at the end of
    a window of C tokens, or in the first window of the stream.

    context_NC: the C tokens before each row (-1: before the stream). cost(ids_NW, previous_N,
    first_N, count) returns nats of `count` tokens of windows from position first_N on.
    """
    nats_NL, length = np.zeros(ids_NL.shape), context_NC.shape[1]
    for n, ids_L in enumerate(ids_NL):
        text_T = np.array([*context_NC[n], *ids_L])
        for first in range(0, len(ids_L), stride):
            start = first + stride  # in text_T, as `place` is
            while text_T[start] < 0:
                start += 1
            window_W, place = text_T[start : start + length], length + first
            count = min(stride, len(ids_L) - first)
            given = window_W[None], text_T[start - 1 : start], np.array([place - start]), count
            nats_NL[n, first : first + count] = cost(*given)[0]
    return nats_NL


def pilot(log_probs, ids_NL, vocab, passes, seed, first_row=0):
    """Return the Plan fitted to `passes` draws per fold, their sizes even in log l.

    The plan of a fold sees windows of the other fold only (of a lone window: other masks), so
    estimates stay unbiased.
    """
    length = ids_NL.shape[1]
    even_in_log_L = sizes.cumulative_counts(1 / np.arange(1, length + 1))
    fits = []
    for fold in (0, 1):
        others = [n for n in range(len(ids_NL)) if (first_row + n) % 2 != fold] or [0]
        drawn_P, losses_P = np.zeros(passes, np.int64), np.zeros(passes)
        for i in range(passes):
            drawn_P[i] = sizes.draw_sizes(even_in_log_L, sizes.offset(seed, i, 2 + fold), 1)[0]
            step = EVALUATION_STEPS["pilot"][fold]
            words_L = philox.words(seed, Stream.EVALUATION, step, [i], length)[0]
            ids_L = ids_NL[others[i * len(others) // passes]]
            losses_P[i] = (
                nll(log_probs, ids_L, fixed_mask(words_L, drawn_P[i]), vocab).sum() / drawn_P[i]
            )
        fits.append(sizes.fit(drawn_P, losses_P, length))
    return Plan(*map(np.stack, zip(*fits, strict=True)))


def nelbo(log_probs, ids_NL, vocab, draws, plan, seed, first_row=0):
    """Return nats_NK: the mean over the K draws of row n is an unbiased estimate of the NELBO of
    window n, whatever the plan.

    Fixed-size masks; sizes drawn in proportion to the plan's counts, stratified over windows and
    draws; the plan's curve is the control variate: (loss - curve) / probability + sum of the curve.
    Row n draws as row first_row + n.
    """
    nats_NK = np.zeros((len(ids_NL), draws))
    for n, ids_L in enumerate(ids_NL):
        row = first_row + n
        cumulative_L, curve_L = plan.cumulative_2L[row % 2], plan.curve_2L[row % 2]
        count_L = np.diff(cumulative_L, prepend=0)
        for k, size in enumerate(
            sizes.draw_sizes(cumulative_L, sizes.offset(seed, row // 2, row % 2), draws)
        ):
            step = EVALUATION_STEPS["nelbo"][k]
            words_L = philox.words(seed, Stream.EVALUATION, step, [row], len(ids_L))[0]
            loss = nll(log_probs, ids_L, fixed_mask(words_L, size), vocab).sum() / size
            nats_NK[n, k] = (loss - curve_L[size - 1]) * GRID / count_L[size - 1] + curve_L.sum()
    return nats_NK


def nelbo_grid(log_probs, ids_NL, vocab, points, epsilon, forced_below, seed, first_row=0):
    """Return nats_NK, one column per time: K = points >= 2 even times from epsilon to 1, Bernoulli
    masks, weight (1 - epsilon) / t.

    Position 0 is hidden whenever t < forced_below. Kept because published numbers use it
    (forced_below 0.01); biased upward: at L = 1024 by about +0.0086 bits per byte for K = 256 and
    +0.03 for K = 64 (forced mask, end-point rule).
    """
    nats_NK = np.zeros((len(ids_NL), points))
    for n, ids_L in enumerate(ids_NL):
        for k in range(points):
            t = epsilon + (1 - epsilon) * k / (points - 1)
            step = EVALUATION_STEPS["nelbo-grid"][k]
            words_L = philox.words(seed, Stream.EVALUATION, step, [first_row + n], len(ids_L))[0]
            masked_L = (words_L >> 8) < masking.thresholds(t)
            masked_L[0] |= t < forced_below
            nats_NK[n, k] = (1 - epsilon) / t * nll(log_probs, ids_L, masked_L, vocab).sum()
    return nats_NK


def mask_variance(nats_NK):
    """Return variance_N of the mean over a window's K >= 2 draws, one in each stratum of the sizes:
    v / K**2.

    v sums (y_{k-1} - 2 y_k + y_{k+1})**2 / 6 over inner draws and (y_k - y_{k+1})**2 / 2 over the
    two ends: every draw counts once, and strata whose means lie on a line add nothing but at the
    ends (Wolter 1984, v_4 and v_2). Otherwise too large: the safe side.
    """
    first_NK, second_NK = np.diff(nats_NK, 1, axis=1), np.diff(nats_NK, 2, axis=1)
    ends_N = (first_NK[:, 0] ** 2 + first_NK[:, -1] ** 2) / 2
    return ((second_NK**2).sum(axis=1) / 6 + ends_N) / nats_NK.shape[1] ** 2


def summarize(estimator, order, nats_N, variance_N, tokens_N, bytes_N, forwards, seconds):
    """Return the Score of all windows: bpb = sum of nats / log 2 / sum of bytes, windows of any
    length together.

    stderr_masks: these windows, other masks. stderr_sequences: other windows too, by the ratio
    estimator (Cochran 1977, eq. 6.13), which takes windows as independent; it holds the mask noise
    as well, and is nan for one window.
    """
    count, total = len(nats_N), bytes_N.sum()
    bpb = nats_N.sum() / log(2) / total
    residual_N = nats_N / log(2) - bpb * bytes_N
    stderr_sequences = (
        np.sqrt(count / (count - 1) * (residual_N**2).sum()) / total if count > 1 else np.nan
    )
    stderr_masks = np.sqrt(variance_N.sum()) / log(2) / total
    per_token = nats_N.sum() / tokens_N.sum()
    return Score(
        estimator,
        order,
        float(bpb),
        float(stderr_masks),
        float(stderr_sequences),
        float(per_token),
        int(tokens_N.sum()),
        int(total),
        forwards,
        seconds,
    )


def _nelbo(log_probs, ids_NL, previous_N, vocab, effort, row):
    passes = min(max(len(ids_NL) * effort.draws // 16, 16), 512) // 2
    plan = pilot(log_probs, ids_NL, vocab, passes, effort.seed, row)
    nats_NK = nelbo(log_probs, ids_NL, vocab, effort.draws, plan, effort.seed, row)
    return nats_NK.mean(axis=1), mask_variance(nats_NK)


def _nelbo_grid(log_probs, ids_NL, previous_N, vocab, effort, row):
    grid = effort.points, effort.epsilon, effort.forced_below
    nats_NK = nelbo_grid(log_probs, ids_NL, vocab, *grid, effort.seed, row)
    return nats_NK.mean(axis=1), mask_variance(nats_NK)


def _chain(log_probs, ids_NL, previous_N, vocab, effort, row):
    how = effort.order, effort.seed
    if effort.positions is not None and effort.positions < ids_NL.shape[1]:
        nats_NK = chain.sampled(log_probs, ids_NL, vocab, *how, effort.positions, row)
        return nats_NK.sum(axis=1), chain.sampled_variance(nats_NK, ids_NL.shape[1])
    if effort.trailing is not None:
        nats_NL = chain.trailing(log_probs, ids_NL, vocab, effort.trailing)
    else:
        nats_NL = chain.chain(log_probs, ids_NL, vocab, *how, effort.step, effort.block, row)
    return nats_NL.sum(axis=1), np.zeros(len(ids_NL))


def _causal(log_probs, ids_NL, previous_N, vocab, effort, row):
    return causal_nll(log_probs, ids_NL, previous_N).sum(axis=1), np.zeros(len(ids_NL))


def strided(log_probs, ids_NL, context_NC, vocab, effort):
    """Return nats_NL of rows under effort.stride, by causal or chain left-to-right."""

    def cost(ids_NW, previous_N, first_N, count):
        if effort.estimator == "chain":
            return chain.continuation(log_probs, ids_NW, vocab, first_N, count)
        nats_NW = causal_nll(log_probs, ids_NW, previous_N)
        return np.array([nats_NW[n, i : i + count] for n, i in enumerate(first_N)])

    return sliding(cost, ids_NL, context_NC, effort.stride)


# (nats_N, variance_N) of windows by each estimator: their totals, and how far other masks would
# move them. effort: ScoreOptions and seed, epsilon, forced_below; row: of the first window.
METHODS = {
    "nelbo": _nelbo,
    "nelbo-grid": _nelbo_grid,
    "chain": _chain,
    "causal": _causal,
}


def exact_nelbo(log_probs, ids_L, vocab):
    """Return the NELBO of one window in nats by enumerating all 2**L - 1 masks."""
    length, total = len(ids_L), 0.0
    for size in range(1, length + 1):
        for hidden in combinations(range(length), size):
            total += (
                nll(log_probs, ids_L, np.isin(np.arange(length), hidden), vocab).sum()
                / size
                / comb(length, size)
            )
    return total


def mean_over_orders(log_probs, ids_L, vocab):
    """Return the mean over all L! orders of the chain-rule NLL of one window in nats: the NELBO by
    its definition.
    """
    length, total = len(ids_L), 0.0
    for order in permutations(range(length)):
        for done, i in enumerate(order):
            total += nll(log_probs, ids_L, np.isin(np.arange(length), order[done:]), vocab)[i]
    return total / factorial(length)


def exact_grid(log_probs, ids_L, vocab, points, epsilon, forced_below):
    """Return the expectation of nelbo_grid for one window in nats by enumerating all masks at every
    time.
    """
    length, total = len(ids_L), 0.0
    for k in range(points):
        t = epsilon + (1 - epsilon) * k / (points - 1)
        chance = masking.thresholds(t) * 2.0**-24
        for bits in range(2**length):
            masked_L = np.array([bool(bits >> i & 1) for i in range(length)])
            probability = np.prod(np.where(masked_L, chance, 1 - chance))
            masked_L[0] |= t < forced_below
            total += (
                probability
                * (1 - epsilon)
                / t
                / points
                * nll(log_probs, ids_L, masked_L, vocab).sum()
            )
    return total
