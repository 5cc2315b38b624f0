"""Parity: bitwise for the drawn positions, algebra for the nats (float64 sums over whatever dtype
log_probs returns).

log_probs is a function ids_BL -> (B, L, V), or a RowPredictor, which answers for single rows and is
compiled once per shape. A pass is one call of one function on tensors that stay where they are: its
index is a tensor, and nothing is read back before a batch of windows is done.
"""

from collections.abc import Callable
from functools import partial

import numpy as np
import torch

from fast import orders, philox
from fast.likelihood import LogProbs, in_batches
from fast.row_predictor import RowPredictor, take_rows
from reference.recipe import EVALUATION_STEPS, GRID, InputError, Stream

BUCKETS = 2  # shapes of a compiled pass whose number of rows or tokens changes


def check_fixed(order: str) -> None:
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


def draw_positions(seed: int, rows, length: int, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Return (drawn_NK, weight_NK): one place in the order from each of K strata of nearly equal
    size, and 1 / its probability.
    """
    edges_K = np.arange(count + 1) * length // count
    size_K = np.diff(edges_K)
    step = EVALUATION_STEPS["positions"][0]
    draws_NK = philox.words(seed, Stream.EVALUATION, step, rows, count).numpy() >> 8
    place_NK = draws_NK * size_K // GRID
    share_NK = -(-(place_NK + 1) * GRID // size_K) + (-place_NK * GRID // size_K)
    return edges_K[:-1] + place_NK, GRID / share_NK


class _WholePasses:
    """A plain log_probs that is asked for rows: the whole pass, then a look-up. Only the first
    `visible` tokens are passed on.
    """

    compiled = False

    def __init__(self, log_probs: LogProbs):
        self.log_probs = log_probs

    def most_rows(self, length):
        return 2**31

    def run(self, function, length, *settings):
        return partial(function, self, *settings)

    def rows(self, ids_BL, rows_BR, visible=None):
        shown_BL = ids_BL if visible is None else ids_BL[:, : int(visible)]
        return take_rows(self.log_probs(shown_BL), rows_BR)


def by_rows(log_probs: LogProbs):
    """Return what answers for single rows: log_probs itself where it has the method rows()."""
    return log_probs if hasattr(log_probs, "rows") else _WholePasses(log_probs)


def _reveal(log_probs_BKV, ids_BL, current_BL, nats_BL, chosen_BK, masked_BK=None):
    """Charge the chosen positions and reveal them, in place. masked_BK: where it is False, what was
    revealed before keeps its cost.
    """
    target_BK = ids_BL.gather(1, chosen_BK)
    nats_BK = -log_probs_BKV.gather(-1, target_BK[..., None]).squeeze(-1).to(nats_BL.dtype)
    if masked_BK is not None:
        nats_BK = torch.where(masked_BK, nats_BK, nats_BL.gather(1, chosen_BK))
    nats_BL.scatter_(1, chosen_BK, nats_BK)
    current_BL.scatter_(1, chosen_BK, target_BK)


def _fixed_pass(ask, step, ids_BL, sequence_BL, current_BL, nats_BL, index):
    """One pass along an order known in advance: ask for its next `step` positions. Behind the end
    the last one is asked for again.
    """
    place_K = (index * step + torch.arange(step, device=ids_BL.device)).clamp(
        max=ids_BL.shape[1] - 1
    )
    chosen_BK = sequence_BL.index_select(1, place_K)
    _reveal(ask.rows(current_BL, chosen_BK), ids_BL, current_BL, nats_BL, chosen_BK)
    index.add_(1)


def _adaptive_pass(ask, order, step, waiting, vocab, ids_BL, priority_BL, current_BL, nats_BL):
    """One pass along an order that the model decides: ask for `waiting` rows, all masked ones among
    them, and reveal the best `step`.
    """
    masked_BL = current_BL == vocab
    rows_BR = (
        masked_BL.to(torch.uint8).sort(dim=1, descending=True, stable=True).indices[:, :waiting]
    )
    log_probs_BRV = ask.rows(current_BL, rows_BR)
    masked_BR = masked_BL.gather(1, rows_BR)
    best_BK = orders.next_positions(
        order, log_probs_BRV, masked_BR, priority_BL.gather(1, rows_BR), step
    )
    log_probs_BKV = take_rows(log_probs_BRV, best_BK)
    chosen_BK, still_BK = rows_BR.gather(1, best_BK), masked_BR.gather(1, best_BK)
    # The last pass may choose more than is masked.
    _reveal(log_probs_BKV, ids_BL, current_BL, nats_BL, chosen_BK, still_BK)


def _sampled_pass(ask, vocab, ids_BL, sequence_BL, rank_BL, drawn_BK, nats_BK, index):
    """One pass for column `index` of the drawn places, another place in each window."""
    place_B1 = drawn_BK.index_select(1, index)
    chosen_B1 = sequence_BL.gather(1, place_B1)
    log_probs_B1V = ask.rows(ids_BL.masked_fill(rank_BL >= place_B1, vocab), chosen_B1)
    cost_B1 = -log_probs_B1V.gather(-1, ids_BL.gather(1, chosen_B1)[..., None]).squeeze(-1)
    nats_BK.index_copy_(1, index, cost_B1.to(nats_BK.dtype))
    index.add_(1)


def _trailing_pass(ask, masks, length, ids_BL, current_BL, nats_BL, index):
    """One pass from left to right that hides what lies more than `masks` behind position `index`;
    length: tokens passed on, no less.
    """
    chosen_B1 = index.expand(len(ids_BL), 1)
    visible = (index + 1 + masks).clamp(max=ids_BL.shape[1])
    _reveal(
        ask.rows(current_BL[:, :length], chosen_B1, visible), ids_BL, current_BL, nats_BL, chosen_B1
    )
    index.add_(1)


def _start(ids_BL, columns, vocab):
    """Return (masked windows, costs (B, columns), index of the pass), which the passes update."""
    nats = ids_BL.new_zeros((len(ids_BL), columns), dtype=torch.float64)
    return torch.full_like(ids_BL, vocab), nats, ids_BL.new_zeros(1)


def _bucket(needed: int, length: int) -> int:
    """Return the smallest of BUCKETS even sizes that holds `needed` of `length`."""
    size = -(-length // BUCKETS)
    return min(-(-needed // size) * size, length)


def chain(
    log_probs: LogProbs | RowPredictor,
    ids_NL,
    vocab: int,
    order: str,
    seed: int,
    step: int,
    block: int,
    first_row: int = 0,
    *,
    batch_rows: int = 64,
    device=None,
    on_pass: Callable[[int], None] | None = None,
) -> np.ndarray:
    """Return nats_NL (float64): the cost of every token by the chain rule along an order, `step`
    positions revealed per pass. Exact.

    Asks only for the rows that the order needs. on_pass(windows) is called after each pass.
    """
    orders.check_order(order)
    ask, (count, length) = by_rows(log_probs), ids_NL.shape
    step = min(step, length)

    def cost(ids_BL, indices, passed):
        priority_BL = orders.priorities(
            order, seed, first_row + indices, length, block, device=ids_BL.device
        ).contiguous()
        sequence_BL = priority_BL.sort(dim=1, stable=True).indices
        current_BL, nats_BL, index = _start(ids_BL, length, vocab)
        for done in range(0, length, step):
            if order in orders.FIXED:
                ask.run(_fixed_pass, length, step)(ids_BL, sequence_BL, current_BL, nats_BL, index)
            else:
                waiting = max(_bucket(length - done, length), step)
                ask.run(_adaptive_pass, length, order, step, waiting, vocab)(
                    ids_BL, priority_BL, current_BL, nats_BL
                )
            passed()
        return nats_BL

    rows = min(batch_rows, count, ask.most_rows(length))
    return in_batches(cost, ids_NL, length, rows, device, on_pass)


def continuation(
    log_probs: LogProbs | RowPredictor,
    ids_NL,
    vocab: int,
    first_N: np.ndarray,
    count: int,
    *,
    batch_rows: int = 64,
    device=None,
    on_pass: Callable[[int], None] | None = None,
) -> np.ndarray:
    """Return nats_NC (float64) of the C = count tokens from position first_N on, left to right:
    each is predicted from all that stand before it in its window, mask tokens behind it.

    One pass per token. From position 0 to the end these are the passes of `chain`.
    """
    ask, (windows, length) = by_rows(log_probs), ids_NL.shape

    def cost(ids_BL, indices, passed):
        first_B1 = torch.as_tensor(first_N[indices]).to(ids_BL.device)[:, None]
        current_BL, nats_BL, index = _start(ids_BL, length, vocab)
        position_L = torch.arange(length, device=ids_BL.device)
        current_BL = torch.where(position_L < first_B1, ids_BL, current_BL)
        # What is charged comes first: behind the end of the window, its beginning
        sequence_BL = (first_B1 + position_L) % length
        for _ in range(count):
            ask.run(_fixed_pass, length, 1)(ids_BL, sequence_BL, current_BL, nats_BL, index)
            passed()
        return nats_BL.gather(1, sequence_BL[:, :count])

    rows = min(batch_rows, windows, ask.most_rows(length))
    return in_batches(cost, ids_NL, count, rows, device, on_pass)


def sampled(
    log_probs: LogProbs | RowPredictor,
    ids_NL,
    vocab: int,
    order: str,
    seed: int,
    positions: int,
    first_row: int = 0,
    *,
    batch_rows: int = 64,
    device=None,
    on_pass: Callable[[int], None] | None = None,
) -> np.ndarray:
    """Return nats_NK (float64), K = positions, whose sum over k is an unbiased estimate of window
    n's chain-rule nats; exact for K = L.
    """
    check_fixed(order)
    ask, (count, length) = by_rows(log_probs), ids_NL.shape

    def cost(ids_BL, indices, passed):
        rows_B, device = first_row + indices, ids_BL.device
        drawn_BK, weight_BK = map(torch.from_numpy, draw_positions(seed, rows_B, length, positions))
        priority_BL = orders.priorities(order, seed, rows_B, length, 1, device=device)
        sequence_BL = priority_BL.sort(dim=1, stable=True).indices
        places = sequence_BL, sequence_BL.argsort(dim=1), drawn_BK.to(device)
        _, nats_BK, index = _start(ids_BL, positions, vocab)
        for _ in range(positions):
            ask.run(_sampled_pass, length, vocab)(ids_BL, *places, nats_BK, index)
            passed()
        return nats_BK.cpu() * weight_BK

    rows = min(batch_rows, count, ask.most_rows(length))
    return in_batches(cost, ids_NL, positions, rows, device, on_pass)


def sampled_variance(nats_NK: np.ndarray, length: int) -> np.ndarray:
    """Return variance_N of the sum over K >= 2 strata of a window of `length` places: neighbouring
    strata in pairs, 0 for K = L.
    """
    count = nats_NK.shape[1]
    first = 3 * (count % 2)
    total_N = np.square(nats_NK[:, first::2] - nats_NK[:, first + 1 :: 2]).sum(axis=1)
    if first:
        total_N = total_N + 3 * nats_NK[:, :3].var(axis=1, ddof=1)
    return total_N * ((length - count) / length)


def trailing(
    log_probs: LogProbs | RowPredictor,
    ids_NL,
    vocab: int,
    masks: int,
    *,
    batch_rows: int = 64,
    device=None,
    on_pass: Callable[[int], None] | None = None,
) -> np.ndarray:
    """Return nats_NL (float64) left to right, each token predicted from those before it and `masks`
    mask tokens behind it.

    A code for every fixed number of masks. Fewer masks cost less and are off the training
    distribution.
    """
    ask, (count, length) = by_rows(log_probs), ids_NL.shape

    def cost(ids_BL, indices, passed):
        current_BL, nats_BL, index = _start(ids_BL, length, vocab)
        for i in range(length):
            needed = min(i + 1 + masks, length)
            seen = _bucket(needed, length) if ask.compiled else needed
            ask.run(_trailing_pass, length, masks, seen)(ids_BL, current_BL, nats_BL, index)
            passed()
        return nats_BL

    rows = min(batch_rows, count, ask.most_rows(length))
    return in_batches(cost, ids_NL, length, rows, device, on_pass)
