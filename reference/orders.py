"""Evaluation orders: which masked position is revealed next, chosen from what is already revealed
and never from the target.
"""

import numpy as np

from reference import philox
from reference.recipe import InputError, Stream

FIXED = ("left-to-right", "right-to-left", "random")  # known before anything is revealed
ORDERS = (*FIXED, "confidence", "entropy", "margin", "block")
# scores are rounded to multiples of this: what is equal but for rounding must tie on every device
TIE = 2.0**-10


def check_order(order):
    """Raise InputError unless order is one of ORDERS."""
    if order not in ORDERS:
        raise InputError(
            f"unknown evaluation order {order!r}: expected one of {', '.join(ORDERS)}; choose one"
            " of these"
        )


def priorities(order, seed, rows, length, block):
    """Return priority_BL (int64): positions of a smaller value are revealed first, whatever the
    model says.

    random: the draws of the row, its own permutation for every row; block: index of the block of
    `block` positions. The other orders leave the choice to `scores` (all priorities 0).
    """
    position_L = np.arange(length)
    if order == "random":
        return philox.words(seed, Stream.ORDER, 0, rows, length).astype(np.int64)
    per_position = {
        "left-to-right": position_L,
        "right-to-left": length - 1 - position_L,
        "block": position_L // block,
    }
    return np.tile(per_position.get(order, np.zeros(length, np.int64)), (len(rows), 1))


def scores(order, log_probs_LV):
    """Return score_L: among positions of equal priority the largest score is revealed first. Zeros
    for orders fixed in advance.

    confidence and block: largest log-probability; entropy: minus the entropy in nats; margin: gap
    between the two largest probabilities. Rounded to multiples of TIE. Before anything is revealed
    all positions are equal by symmetry: the lowest index must win.
    """
    if order in FIXED:
        return np.zeros(len(log_probs_LV))
    p_LV = np.exp(log_probs_LV)
    if order in ("confidence", "block"):
        score_L = log_probs_LV.max(axis=1)
    elif order == "entropy":
        score_L = (p_LV * np.where(p_LV > 0, log_probs_LV, 0.0)).sum(axis=1)
    else:
        descending_LV = -np.sort(-p_LV, axis=1)
        score_L = descending_LV[:, 0] - descending_LV[:, 1]
    return np.round(score_L / TIE) * TIE


def next_positions(order, log_probs_LV, masked_L, priority_L, count):
    """Return the `count` masked positions to reveal next, first one first: smallest priority,
    largest score, lowest index.

    All of them come from one pass: with count > 1 they are coded independently given what was
    revealed before.
    """
    score_L = scores(order, log_probs_LV)
    waiting = [i for i in range(len(masked_L)) if masked_L[i]]
    return np.array(sorted(waiting, key=lambda i: (priority_L[i], -score_L[i], i))[:count])
