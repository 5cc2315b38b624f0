"""Chain rule along an evaluation order, of a few tokens in their context, and on a budget: few
positions of an order known in advance, or few mask tokens behind the position that is asked for.
"""

import numpy as np

from reference import orders, philox
from reference.recipe import EVALUATION_STEPS, GRID, InputError, Stream


def chain(log_probs, ids_NL, vocab, order, seed, step, block, first_row=0):
    """Return nats_NL: the cost of every token by the chain rule along an order, `step` positions
    revealed per pass. Exact.

    With step > 1 the positions of a pass are coded independently: still a code, looser. Row n draws
    as row first_row + n.
    """
    orders.check_order(order)
    nats_NL = np.zeros(ids_NL.shape)
    priority_NL = orders.priorities(
        order, seed, first_row + np.arange(len(ids_NL)), ids_NL.shape[1], block
    )
    for n, ids_L in enumerate(ids_NL):
        masked_L = np.ones(len(ids_L), bool)
        while masked_L.any():
            log_probs_LV = log_probs(np.where(masked_L, vocab, ids_L)[None])[0]
            for i in orders.next_positions(order, log_probs_LV, masked_L, priority_NL[n], step):
                nats_NL[n, i] = -log_probs_LV[i, ids_L[i]]
                masked_L[i] = False
    return nats_NL


def continuation(log_probs, ids_NL, vocab, first_N, count):
    """Return nats_NC of the C = count tokens from position first_N on, left to right: each is
    predicted from all that stand before it in its window, mask tokens behind it.
    """
    nats_NC = np.zeros((len(ids_NL), count))
    for n, ids_L in enumerate(ids_NL):
        for k in range(count):
            asked = first_N[n] + k
            hidden_L = np.arange(len(ids_L)) >= asked
            log_probs_LV = log_probs(np.where(hidden_L, vocab, ids_L)[None])[0]
            nats_NC[n, k] = -log_probs_LV[asked, ids_L[asked]]
    return nats_NC


def check_fixed(order):
    """Raise InputError unless the order is known before anything is revealed: only then can single
    positions stand for the rest.
    """
    orders.check_order(order)
    if order not in orders.FIXED:
        fixed = ", ".join(orders.FIXED)
        raise InputError(
            f"positions: expected an order fixed in advance ({fixed}), found {order!r}; choose one,"
            " or drop positions"
        )


def draw_positions(seed, rows, length, count):
    """Return (drawn_NK, weight_NK): one place in the order from each of K = count <= length nearly
    equal strata, and 1 / its probability.

    A stratum of m places shares the 2**24 values of a draw as evenly as integers allow; the weights
    hold the exact shares.
    """
    drawn_NK, weight_NK = np.zeros((len(rows), count), np.int64), np.zeros((len(rows), count))
    step = EVALUATION_STEPS["positions"][0]
    draws_NK = philox.words(seed, Stream.EVALUATION, step, rows, count).astype(np.int64) >> 8
    for k in range(count):
        first, size = k * length // count, (k + 1) * length // count - k * length // count
        # Draws below begins[j + 1] belong to places 0..j
        begins = np.array([-(-j * GRID // size) for j in range(size + 1)])
        for n in range(len(rows)):
            j = int((begins[1:] <= draws_NK[n, k]).sum())
            drawn_NK[n, k] = first + j
            weight_NK[n, k] = GRID / (begins[j + 1] - begins[j])
    return drawn_NK, weight_NK


def sampled(log_probs, ids_NL, vocab, order, seed, positions, first_row=0):
    """Return nats_NK, K = positions, whose sum over k is an unbiased estimate of window n's
    chain-rule nats; exact for K = L.

    Column k holds the cost at one place of the order, drawn from stratum k, times its stratum's
    weight. One pass each.
    """
    check_fixed(order)
    length, rows = ids_NL.shape[1], first_row + np.arange(len(ids_NL))
    drawn_NK, weight_NK = draw_positions(seed, rows, length, positions)
    priority_NL = orders.priorities(order, seed, rows, length, 1)
    nats_NK = np.zeros(drawn_NK.shape)
    for n, ids_L in enumerate(ids_NL):
        sequence_L = np.argsort(priority_NL[n], kind="stable")
        for k, place in enumerate(drawn_NK[n]):
            masked_L = np.isin(np.arange(length), sequence_L[place:])
            asked = sequence_L[place]
            log_probs_LV = log_probs(np.where(masked_L, vocab, ids_L)[None])[0]
            nats_NK[n, k] = -log_probs_LV[asked, ids_L[asked]] * weight_NK[n, k]
    return nats_NK


def sampled_variance(nats_NK, length):
    """Return variance_N of the sum over K >= 2 strata of `length` places: neighbouring strata in
    pairs (three first if K is odd).

    Collapsed strata with the correction for finite strata, 1 - K / L (Cochran 1977, sections 5A.12
    and 2.6); 0 for K = L.
    """
    count, total_N = nats_NK.shape[1], 0.0
    for stratum_NG in np.array_split(nats_NK, count // 2, axis=1):
        total_N = total_N + stratum_NG.shape[1] * stratum_NG.var(axis=1, ddof=1)
    return total_N * (1 - count / length)


def trailing(log_probs, ids_NL, vocab, masks):
    """Return nats_NL left to right, each token predicted from those before it and `masks` mask
    tokens behind it (fewer at the end).

    A code for every fixed number of masks; log_probs sees windows of masks + 1 to L tokens, of L
    alone for masks >= L - 1.
    """
    nats_NL = np.zeros(ids_NL.shape)
    length = ids_NL.shape[1]
    for n, ids_L in enumerate(ids_NL):
        for i, token in enumerate(ids_L):
            visible = min(i + 1 + masks, length)
            context = np.where(np.arange(visible) < i, ids_L[:visible], vocab)
            nats_NL[n, i] = -log_probs(context[None])[0, i, token]
    return nats_NL
