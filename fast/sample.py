"""Parity: bitwise, except where two candidates lie within rounding of each other. Sampling batched
over rows, nothing read back on the way.
"""

import torch

from fast import orders, philox
from fast.likelihood import LogProbs
from fast.next_predictor import NextPredictor
from reference.recipe import Stream


def draw(
    log_probs_BV: torch.Tensor,
    seed: int,
    row: torch.Tensor,
    position: torch.Tensor,
    temperature: float,
) -> torch.Tensor:
    """Return one token id per row of p ** (1 / temperature), normalised; row and position are (B,);
    temperature 0 takes the largest.
    """
    scores_BV = log_probs_BV.double()
    if temperature:
        u_BV = (
            philox.uniforms(
                philox.words(seed, Stream.SAMPLING, position[:, None], row, log_probs_BV.shape[1])
            )
            + 2.0**-25
        )
        scores_BV = scores_BV / temperature - torch.log(-torch.log(u_BV))
    # A stable sort: argmax does not promise the lowest id on ties.
    return scores_BV.sort(dim=1, descending=True, stable=True).indices[:, 0]


@torch.no_grad()
def fill(
    log_probs: LogProbs | NextPredictor,
    ids_BL: torch.Tensor,
    vocab: int,
    order: str,
    seed: int,
    step: int,
    block: int,
    temperature: float,
    first_row: int = 0,
) -> torch.Tensor:
    """Return ids_BL with every hidden position (id vocab) drawn given what is revealed; every row
    hides equally many. A NextPredictor draws from left to right, given what stands before.
    """
    orders.check_order(order)
    row_B = first_row + torch.arange(len(ids_BL), device=ids_BL.device)
    if isinstance(log_probs, NextPredictor) and order == "left-to-right" and step == 1:
        return _fill_next(log_probs, ids_BL, row_B, vocab, seed, temperature)
    priority_BL = orders.priorities(order, seed, row_B, ids_BL.shape[1], block)
    hidden = int((ids_BL[0] == vocab).sum())
    for done in range(0, hidden, step):
        ids_BL = _pass(
            log_probs,
            ids_BL,
            row_B,
            priority_BL,
            vocab,
            order,
            seed,
            min(step, hidden - done),
            temperature,
        )
    return ids_BL


def _fill_next(predictor, ids_BL, row_B, vocab, seed, temperature):
    """Return ids_BL with every hidden position drawn, one after the other."""
    past, tokens = predictor.begin(len(ids_BL)), []
    for position, given_B in enumerate(ids_BL.unbind(1)):
        log_probs_BV = predictor.next(past, tokens[-1] if tokens else None)
        drawn_B = draw(log_probs_BV, seed, row_B, torch.full_like(row_B, position), temperature)
        tokens.append(torch.where(given_B == vocab, drawn_B, given_B))
    return torch.stack(tokens, dim=1)


def _pass(log_probs, ids_BL, row_B, priority_BL, vocab, order, seed, count, temperature):
    """Return ids_BL with the next `count` hidden positions drawn."""
    log_probs_BLV = log_probs(ids_BL)
    chosen_BK = orders.next_positions(order, log_probs_BLV, ids_BL == vocab, priority_BL, count)
    tokens = [
        draw(log_probs_BLV[torch.arange(len(row_B)), i_B], seed, row_B, i_B, temperature)
        for i_B in chosen_BK.unbind(1)
    ]
    return ids_BL.scatter(1, chosen_BK, torch.stack(tokens, dim=1))
