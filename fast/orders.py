"""Parity: bitwise for fixed orders and exact ties; elsewhere equal where scores differ by more than
the rounding of log_probs.
"""

import torch

from fast import philox
from reference.recipe import InputError, Stream

FIXED = ("left-to-right", "right-to-left", "random")  # known before anything is revealed
ORDERS = (*FIXED, "confidence", "entropy", "margin", "block")
# scores are rounded to multiples of this: what is equal but for rounding must tie on every device
TIE = 2.0**-10
LAST = torch.iinfo(torch.int64).max  # priority of a revealed position


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
    if order == "random":
        return philox.words(seed, Stream.ORDER, 0, rows, length)
    if order == "left-to-right":
        priority_L = position_L
    elif order == "right-to-left":
        priority_L = position_L.flip(0)
    elif order == "block":
        priority_L = position_L // block
    else:
        priority_L = torch.zeros_like(position_L)
    return priority_L.expand(len(rows), length)


def scores(order: str, log_probs_BLV: torch.Tensor) -> torch.Tensor:
    """Return score_BL: among positions of equal priority the largest score is revealed first. Zeros
    for orders fixed in advance.

    Rounded to multiples of TIE.
    """
    if order in FIXED:
        return log_probs_BLV.new_zeros(log_probs_BLV.shape[:2])
    if order in ("confidence", "block"):
        score_BL = log_probs_BLV.amax(dim=-1)
    elif order == "entropy":
        score_BL = -torch.special.entr(log_probs_BLV.exp()).sum(dim=-1)
    else:
        top_BL2 = log_probs_BLV.topk(2, dim=-1).values.exp()
        score_BL = top_BL2[..., 0] - top_BL2[..., 1]
    return (score_BL / TIE).round() * TIE


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
