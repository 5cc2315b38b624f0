"""Parity: bitwise for fixed orders and exact ties; elsewhere equal where scores differ by more than
the rounding of log_probs.
"""

import torch

from fast import philox
from reference.recipe import ORDERS, TIE, InputError, Stream

LAST = torch.iinfo(torch.int64).max  # priority of a revealed position


def _left_to_right(seed, rows_B, position_L, block):
    return position_L


def _right_to_left(seed, rows_B, position_L, block):
    return position_L.flip(0)


def _random(seed, rows_B, position_L, block):
    return philox.words(seed, Stream.ORDER, 0, rows_B, len(position_L))


def _block_index(seed, rows_B, position_L, block):
    return position_L // block


def _confidence(log_probs_BLV):
    return log_probs_BLV.amax(dim=-1)


def _negative_entropy(log_probs_BLV):
    return -torch.special.entr(log_probs_BLV.exp()).sum(dim=-1)


def _margin(log_probs_BLV):
    top_BL2 = log_probs_BLV.topk(2, dim=-1).values.exp()
    return top_BL2[..., 0] - top_BL2[..., 1]


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


def check_order(order: str) -> None:
    """Raise InputError unless order is one of ORDERS."""
    if order not in ORDERS:
        raise InputError(
            f"unknown evaluation order {order!r}: expected one of {', '.join(ORDERS)}; choose one"
            " of these"
        )


def priorities(
    order: str, seed: int, rows, length: int, block: int, *, device=None
) -> torch.Tensor:
    """Return priority_BL (int64): positions of a smaller value are revealed first, whatever the
    model says.
    """
    rows = torch.as_tensor(rows, dtype=torch.int64, device=device)
    position_L = torch.arange(length, device=rows.device)
    if order not in PRIORITIES:
        return torch.zeros_like(position_L).expand(len(rows), length)
    return PRIORITIES[order](seed, rows, position_L, block).expand(len(rows), length)


def scores(order: str, log_probs_BLV: torch.Tensor) -> torch.Tensor:
    """Return score_BL: among positions of equal priority the largest score is revealed first. Zeros
    for orders fixed in advance.

    Rounded to multiples of TIE.
    """
    if order in FIXED:
        return log_probs_BLV.new_zeros(log_probs_BLV.shape[:2])
    return (SCORES[order](log_probs_BLV) / TIE).round() * TIE


def next_positions(
    order: str,
    log_probs_BLV: torch.Tensor,
    masked_BL: torch.Tensor,
    priority_BL: torch.Tensor,
    count: int,
) -> torch.Tensor:
    """Return positions (B, count) to reveal next, first one first: smallest priority, largest
    score, lowest index.

    Every row must have `count` masked positions left. Two stable sorts: ties keep the lower index
    without looking at any value.
    """
    waiting_BL = priority_BL.masked_fill(~masked_BL, LAST)
    if order in FIXED:
        return waiting_BL.sort(dim=-1, stable=True).indices[:, :count]
    by_score_BL = scores(order, log_probs_BLV).sort(dim=-1, descending=True, stable=True).indices
    by_priority_BL = waiting_BL.gather(1, by_score_BL).sort(dim=-1, stable=True).indices
    return by_score_BL.gather(1, by_priority_BL)[:, :count]
