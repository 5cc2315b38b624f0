"""Evaluation orders: which masked position is revealed next, chosen from what is already revealed
and never from the target.
"""

import numpy as np

from reference import philox
from reference.recipe import ORDERS, TIE, InputError, Stream


def _left_to_right(seed, rows, position_L, block):
    return position_L


def _right_to_left(seed, rows, position_L, block):
    return len(position_L) - 1 - position_L


def _random(seed, rows, position_L, block):
    """Return the draws of each row: its own permutation."""
    return philox.words(seed, Stream.ORDER, 0, rows, len(position_L))


def _block_index(seed, rows, position_L, block):
    """Return the index of the block of `block` positions."""
    return position_L // block


def _confidence(log_probs_LV):
    """Return the largest log-probability."""
    return log_probs_LV.max(axis=1)


def _negative_entropy(log_probs_LV):
    """Return minus the entropy in nats."""
    p_LV = np.exp(log_probs_LV)
    return (p_LV * np.where(p_LV > 0, log_probs_LV, 0.0)).sum(axis=1)


def _margin(log_probs_LV):
    """Return the gap between the two largest probabilities."""
    descending_LV = -np.sort(-np.exp(log_probs_LV), axis=1)
    return descending_LV[:, 0] - descending_LV[:, 1]


# An order is an entry here (what is known before anything is revealed: the smallest first), one in
# SCORES (what the model says: the largest first), or both.
PRIORITIES = {
    "left-to-right": _left_to_right,
    "right-to-left": _right_to_left,
    "random": _random,
    "block": _block_index,
}
SCORES = {
    "confidence": _confidence,
    "entropy": _negative_entropy,
    "margin": _margin,
    "block": _confidence,
}
FIXED = tuple(order for order in ORDERS if order not in SCORES)  # known in advance as a whole


def check_order(order):
    """Raise InputError unless order is one of ORDERS."""
    if order not in ORDERS:
        raise InputError(
            f"unknown evaluation order {order!r}: expected one of {', '.join(ORDERS)}; choose one"
            " of these"
        )


def priorities(order, seed, rows, length, block):
    """Return priority_BL (int64): positions of a smaller value are revealed first, whatever the
    model says. All 0 for an order that leaves the choice to `scores`.
    """
    position_L = np.arange(length)
    if order not in PRIORITIES:
        return np.zeros((len(rows), length), np.int64)
    priority = PRIORITIES[order](seed, rows, position_L, block)
    return np.broadcast_to(priority, (len(rows), length)).astype(np.int64)


def scores(order, log_probs_LV):
    """Return score_L: among positions of equal priority the largest score is revealed first. Zeros
    for orders fixed in advance.

    Rounded to multiples of TIE. Before anything is revealed all positions are equal by symmetry:
    the lowest index must win.
    """
    if order in FIXED:
        return np.zeros(len(log_probs_LV))
    return np.round(SCORES[order](log_probs_LV) / TIE) * TIE


def next_positions(order, log_probs_LV, masked_L, priority_L, count):
    """Return the `count` masked positions to reveal next, first one first: smallest priority,
    largest score, lowest index.

    All of them come from one pass: with count > 1 they are coded independently given what was
    revealed before.
    """
    score_L = scores(order, log_probs_LV)
    waiting = [i for i in range(len(masked_L)) if masked_L[i]]
    return np.array(sorted(waiting, key=lambda i: (priority_L[i], -score_L[i], i))[:count])
