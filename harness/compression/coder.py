"""Windows of tokens through a range coder, along an evaluation order, with the model's
conditionals. Encoder and decoder run the same loop.

The decoder must compute the encoder's probabilities bit for bit: the same batches, shapes, dtype,
threads and libraries. The coder gets them as whole numbers that float32 holds and adds up exactly.
It has 24 bits, and a model may give a token less than 2**-24: tokens below RARE are coded after an
escape with the sum of their probabilities, by their probabilities relative to that sum; again and
again, until the token is no longer rare.
"""

import math
from collections.abc import Callable, Iterator
from typing import NamedTuple, get_args

import numpy as np
import torch

from fast import orders
from fast.codec import require
from fast.likelihood import LogProbs
from fast.next_predictor import NextPredictor
from harness.compression import CodedOrder
from reference.recipe import InputError

ORDERS: tuple[str, ...] = get_args(CodedOrder)
# Probabilities are in units of 2**-23: their sum stays below 2**24, and the coder adds 2**-24 to
# each so that none is 0.
SCALE = 2**23
# A token of a lower probability is coded after the escape: of the others, at least 32 units, the
# rounding is at most 1/64.
RARE = 2**-18
DAMAGED = (
    "the file is damaged, or this machine does not compute as the one that made it (is there a"
    " limit on threads?)"
)
# Smallest probability of an escape: damaged code words reach it, a model does not.
LEAST = 2.0**-900

Step = Callable[[np.ndarray, np.ndarray, np.ndarray], np.ndarray]


class Plan(NamedTuple):
    """How tokens are coded: windows of `length` tokens, `rows` of them per forward pass, the
    vocabulary, the order.
    """

    length: int
    rows: int
    vocab: int
    order: str


def batches(tokens: int, plan: Plan) -> Iterator[tuple[int, int, int]]:
    """Yield (first token, windows, tokens per window) of each batch; the last window may be shorter
    and runs alone.
    """
    windows, rest = divmod(tokens, plan.length)
    for first in range(0, windows, plan.rows):
        yield first * plan.length, min(plan.rows, windows - first), plan.length
    if rest:
        yield windows * plan.length, 1, rest


def level(
    p_BV: np.ndarray, open_BV: np.ndarray, reserve_B: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return (weight_BW, rest_BV, escape_B): float32 whole numbers, the weights of V tokens, the
    escape (id V) and nothing (id V + 1); the open tokens that go to the escape; its probability.
    reserve_B is the probability of the open tokens, after the escapes so far.
    """
    q_BV = np.where(open_BV, p_BV, 0.0) / reserve_B[:, None]
    rest_BV = open_BV & (q_BV < RARE)
    common_BV = np.where(rest_BV, 0.0, q_BV)
    escape_B = np.where(rest_BV.any(axis=1), np.maximum((q_BV - common_BV).sum(axis=1), RARE), 0.0)
    nothing_B = np.maximum(1 - common_BV.sum(axis=1) - escape_B, 0.0)
    weight_BW = np.rint(
        np.concatenate([common_BV, escape_B[:, None], nothing_B[:, None]], axis=1) * SCALE
    )
    return weight_BW.astype(np.float32), rest_BV, escape_B


def code(p_BV: np.ndarray, step: Step) -> np.ndarray:
    """Return symbol_B: step(rows, weight_RW, rest_RV) -> symbol_R codes all rows in one call, then
    each row that escapes alone.
    """
    rows, vocab = np.arange(len(p_BV)), p_BV.shape[1]
    weight_BW, rest_BV, escape_B = level(p_BV, np.ones(p_BV.shape, bool), np.ones(len(p_BV)))
    symbol_B = np.array(step(rows, weight_BW, rest_BV), np.int64)
    for row in np.flatnonzero(symbol_B == vocab):
        one = rows[row : row + 1]
        open_BV, reserve_B = rest_BV[one], escape_B[one]
        while symbol_B[row] == vocab and reserve_B[0] > LEAST:
            weight_BW, left_BV, share_B = level(p_BV[one], open_BV, reserve_B)
            symbol_B[row] = step(one, weight_BW, left_BV)[0]
            open_BV, reserve_B = left_BV, reserve_B * share_B
    if (symbol_B >= vocab).any():
        raise InputError(f"code words: expected tokens below {vocab}, found none; {DAMAGED}")
    return symbol_B


@torch.no_grad()
def _code_windows(
    log_probs: LogProbs | NextPredictor,
    tokens: int,
    plan: Plan,
    device,
    code_pass,
    on_pass: Callable[[int], None] | None,
) -> None:
    """Reveal every token, one position per window and pass. code_pass(log_p_BV, index_B) ->
    symbol_B codes the tokens of these indices in the file.

    log_probs may have a method rows(ids_BL, rows_BR) -> (B, R, V): an order that is fixed in
    advance asks for one row of each window. A NextPredictor goes from left to right.
    """
    if isinstance(log_probs, NextPredictor):
        return _code_next(log_probs, tokens, plan, code_pass, on_pass)
    rows = getattr(log_probs, "rows", None) if plan.order in orders.FIXED else None
    for first, count, length in batches(tokens, plan):
        current_BL = torch.full((count, length), plan.vocab, dtype=torch.int64, device=device)
        masked_BL = torch.ones_like(current_BL, dtype=torch.bool)
        priority_BL = orders.priorities(plan.order, 0, range(count), length, 1, device=device)
        for _ in range(length):
            log_probs_BLV = None if rows else log_probs(current_BL)
            chosen_B1 = orders.next_positions(plan.order, log_probs_BLV, masked_BL, priority_BL, 1)
            if rows:
                row_BV = rows(current_BL, chosen_B1).squeeze(1)
            else:
                row_BV = log_probs_BLV.gather(
                    1, chosen_B1[..., None].expand(-1, -1, plan.vocab)
                ).squeeze(1)
            index_B = first + length * np.arange(count) + chosen_B1.squeeze(1).cpu().numpy()
            symbol_B = code_pass(row_BV.double().cpu().numpy(), index_B)
            current_BL = current_BL.scatter(
                1, chosen_B1, torch.as_tensor(symbol_B, device=device)[:, None]
            )
            masked_BL.scatter_(1, chosen_B1, False)
            if on_pass:
                on_pass(count)


def _code_next(predictor: NextPredictor, tokens: int, plan: Plan, code_pass, on_pass) -> None:
    """Reveal every token from left to right, as _code_windows does."""
    for first, count, length in batches(tokens, plan):
        past, token_B = predictor.begin(count), None
        for position in range(length):
            row_BV = predictor.next(past, token_B)
            symbol_B = code_pass(
                row_BV.double().cpu().numpy(), first + length * np.arange(count) + position
            )
            token_B = torch.as_tensor(symbol_B, device=predictor.device)
            if on_pass:
                on_pass(count)


def _probabilities(log_p_BV: np.ndarray) -> np.ndarray:
    p_BV = np.exp(log_p_BV)
    if not np.isfinite(p_BV).all():
        raise InputError("model: expected finite probabilities, found nan; check its weights")
    return p_BV


def encode(
    log_probs: LogProbs, ids: np.ndarray, plan: Plan, device="cpu", on_pass=None
) -> tuple[bytes, float]:
    """Return the code words of ids and their chain-rule bits: the sum of -log2 p under the model's
    unrounded conditionals.
    """
    stream = require("constriction", "range coder").stream
    coder, family = stream.queue.RangeEncoder(), stream.model.Categorical(perfect=False)
    ids, bits = np.asarray(ids, np.int64), 0.0

    def code_pass(log_p_BV, index_B):
        nonlocal bits
        p_BV, symbol_B = _probabilities(log_p_BV), ids[index_B]
        bits -= float(log_p_BV[np.arange(len(symbol_B)), symbol_B].sum()) / math.log(2)
        if not math.isfinite(bits):
            raise InputError(
                "model: expected a probability above 0 for every token, found 0 for one of the"
                " text; check its weights"
            )

        def step(rows, weight_RW, rest_RV):
            token_R = symbol_B[rows]
            coded_R = np.where(rest_RV[np.arange(len(rows)), token_R], plan.vocab, token_R)
            coder.encode(coded_R.astype(np.int32), family, weight_RW)
            return coded_R

        return code(p_BV, step)

    _code_windows(log_probs, len(ids), plan, device, code_pass, on_pass)
    return coder.get_compressed().astype("<u4").tobytes(), bits


def decode(
    log_probs: LogProbs, words: bytes, tokens: int, plan: Plan, device="cpu", on_pass=None
) -> np.ndarray:
    """Inverse of encode. Words that encode() did not write give other tokens or an InputError: the
    caller checks what they spell.
    """
    stream = require("constriction", "range coder").stream
    coder = stream.queue.RangeDecoder(np.frombuffer(words, "<u4").astype(np.uint32))
    family = stream.model.Categorical(perfect=False)
    ids = np.empty(tokens, np.int64)

    def step(rows, weight_RW, rest_RV):
        try:
            return coder.decode(family, weight_RW)
        except (ValueError, AssertionError) as error:
            raise InputError(
                f"code words: expected those of {tokens} tokens, found others ({error}); {DAMAGED}"
            ) from error

    def code_pass(log_p_BV, index_B):
        ids[index_B] = code(_probabilities(log_p_BV), step)
        return ids[index_B]

    _code_windows(log_probs, tokens, plan, device, code_pass, on_pass)
    if not coder.maybe_exhausted():
        raise InputError(f"code words: expected those of {tokens} tokens, found more; {DAMAGED}")
    return ids
