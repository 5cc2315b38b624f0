"""Parity: bitwise, except where two candidates lie within rounding of each other. Sampling batched
over rows, nothing read back on the way.
"""

from collections.abc import Callable
from typing import NamedTuple

import torch

from fast import orders, philox
from fast.chain import by_rows
from fast.likelihood import LogProbs
from fast.next_predictor import NextPredictor
from fast.row_predictor import take_rows
from reference.recipe import Stream

GUMBELS_AT_ONCE = 2**24  # numbers drawn before the first pass, 128 MiB; above, before each one


class Drawn(NamedTuple):
    """Windows (B, L), and how their tokens came: log-probability in nats (float64) given what was
    revealed before the pass, and place among the draws of the window (0, 1, ...). Given and hidden
    ones have 0 and -1.
    """

    ids_BL: torch.Tensor
    log_p_BL: torch.Tensor
    rank_BL: torch.Tensor


def gumbel(seed: int, row: torch.Tensor, position: torch.Tensor, vocab: int) -> torch.Tensor:
    """Return g_RV = -log(-log u), with one Philox draw u in (0, 1) per token id; row and position
    are (R,).
    """
    words_RV = philox.words(seed, Stream.SAMPLING, position[:, None], row, vocab)
    return -torch.log(-torch.log(philox.uniforms(words_RV) + 2.0**-25))


def draw(
    log_probs_BV: torch.Tensor,
    seed: int,
    row: torch.Tensor,
    position: torch.Tensor,
    temperature: float,
    *,
    gumbel_BV: torch.Tensor | None = None,
) -> torch.Tensor:
    """Return one token id per row of p ** (1 / temperature), normalised; row and position are (B,);
    temperature 0 takes the largest.

    gumbel_BV: gumbel() of these rows and positions, where it is known already.
    """
    scores_BV, vocab = log_probs_BV.double(), log_probs_BV.shape[1]
    if temperature:
        if gumbel_BV is None:
            gumbel_BV = gumbel(seed, row, position, vocab)
        scores_BV = scores_BV / temperature + gumbel_BV
    # argmax does not promise the lowest id on ties.
    is_best_BV = scores_BV == scores_BV.amax(dim=1, keepdim=True)
    ids_V = torch.arange(vocab, device=scores_BV.device)
    return torch.where(is_best_BV, ids_V, vocab - 1).amin(dim=1)


class _Draws:
    """The draws of some windows: how they are made, and what they gave so far."""

    def __init__(self, ids_BL, row_B, vocab, seed, temperature):
        self.row_B, self.seed, self.temperature = row_B, seed, temperature
        ids_BL = ids_BL.clone()
        log_p_BL = torch.zeros(ids_BL.shape, dtype=torch.float64, device=ids_BL.device)
        self.so_far = Drawn(ids_BL, log_p_BL, torch.full_like(ids_BL, -1))
        (count, length), self.gumbel_BLV = ids_BL.shape, None
        if temperature and count * length * vocab <= GUMBELS_AT_ONCE:
            row_R = row_B.repeat_interleave(length)
            position_R = torch.arange(length, device=ids_BL.device).repeat(count)
            self.gumbel_BLV = gumbel(seed, row_R, position_R, vocab).view(count, length, vocab)

    def reveal_(self, chosen_BK, log_probs_BKV, first):
        """Draw and reveal the chosen positions: draws first, first + 1, ... of each window."""
        index_B = torch.arange(len(chosen_BK), device=chosen_BK.device)
        tokens = []
        for k, position_B in enumerate(chosen_BK.unbind(1)):
            known_BV = None if self.gumbel_BLV is None else self.gumbel_BLV[index_B, position_B]
            given = self.seed, self.row_B, position_B, self.temperature
            tokens.append(draw(log_probs_BKV[:, k], *given, gumbel_BV=known_BV))
        tokens_BK = torch.stack(tokens, dim=1)
        log_p_BK = log_probs_BKV.gather(2, tokens_BK[..., None]).squeeze(2).double()
        rank_K = torch.arange(first, first + len(tokens), device=chosen_BK.device)
        self.so_far.ids_BL.scatter_(1, chosen_BK, tokens_BK)
        self.so_far.log_p_BL.scatter_(1, chosen_BK, log_p_BK)
        self.so_far.rank_BL.scatter_(1, chosen_BK, rank_K.expand_as(chosen_BK))


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
    stop: int | None = None,
    *,
    on_pass: Callable[[Drawn], None] | None = None,
) -> Drawn:
    """Return Drawn: every hidden position (id vocab) before `stop` (default: the end) drawn given
    what is revealed; every row hides equally many. A NextPredictor draws from left to right, given
    what stands before; every row hides the same ones.

    on_pass: called with what is drawn so far after each pass, which changes it.
    """
    orders.check_order(order)
    row_B = first_row + torch.arange(len(ids_BL), device=ids_BL.device)
    draws = _Draws(ids_BL, row_B, vocab, seed, temperature)
    stop = ids_BL.shape[1] if stop is None else stop
    hidden = int((ids_BL[0, :stop] == vocab).sum())
    if isinstance(log_probs, NextPredictor) and order == "left-to-right" and step == 1:
        passes = _next_passes(log_probs, draws, ids_BL[:, :stop], vocab)
    else:
        ask = by_rows(log_probs)
        priority_BL = orders.priorities(order, seed, row_B, ids_BL.shape[1], block)
        passes = (
            _pass(ask, draws, priority_BL, vocab, stop, order, done, hidden, step)
            for done in range(0, hidden, step)
        )
    for _ in passes:
        if on_pass:
            on_pass(draws.so_far)
    return draws.so_far


def _next_passes(predictor, draws, given_BS, vocab):
    """Draw every hidden position, one after the other; yield after each."""
    past, token_B, done = predictor.begin(len(given_BS)), None, 0
    hidden_S = (given_BS[0] == vocab).tolist()
    for position, hidden in enumerate(hidden_S):
        log_probs_BV = predictor.next(past, token_B)
        if hidden:
            place_B1 = torch.full_like(given_BS[:, :1], position)
            draws.reveal_(place_B1, log_probs_BV[:, None], done)
            done += 1
            yield
        token_B = draws.so_far.ids_BL[:, position]


def _pass(ask, draws, priority_BL, vocab, stop, order, done, hidden, step):
    """Draw the next `step` hidden positions, of which `done` of `hidden` are revealed."""
    ids_BL, count = draws.so_far.ids_BL, min(step, hidden - done)
    waiting_BL = (ids_BL == vocab) & (torch.arange(ids_BL.shape[1], device=ids_BL.device) < stop)
    if order in orders.FIXED:
        chosen_BK = orders.next_positions(order, None, waiting_BL, priority_BL, count)
        log_probs_BKV = ask.rows(ids_BL, chosen_BK)
    else:
        by_place_BL = waiting_BL.to(torch.uint8).sort(dim=1, descending=True, stable=True).indices
        rows_BR = by_place_BL[:, : hidden - done]
        log_probs_BRV = ask.rows(ids_BL, rows_BR)
        best_BK = orders.next_positions(
            order,
            log_probs_BRV,
            torch.ones_like(rows_BR, dtype=torch.bool),
            priority_BL.gather(1, rows_BR),
            count,
        )
        chosen_BK, log_probs_BKV = rows_BR.gather(1, best_BK), take_rows(log_probs_BRV, best_BK)
    draws.reveal_(chosen_BK, log_probs_BKV, done)
