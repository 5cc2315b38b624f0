"""Pieces query, next, chain-queried, chain-positions, chain-trailing, chain-sliding and sample:
what saves passes or rows, sliding context, and drawing along an order.
"""

from dataclasses import replace
from functools import partial

import numpy as np
import torch

import fast.chain
import fast.data
import fast.evaluate
import fast.next_predictor
import fast.row_predictor
import fast.sample
import reference.chain
import reference.likelihood
import reference.sample
import reference.transformer
from harness.parity.compare import (
    Compare,
    Difference,
    Setting,
    against_plain,
    relative,
    same,
)
from harness.parity.likelihood import APART, STILL, table_model, windows
from harness.parity.network import (
    DUAL,
    GROUPED,
    MEDIUM,
    MIXED,
    ROUNDED,
    SHIFTED,
    SMALL,
    TWICE,
    plain_log_probs,
    random_params,
)
from harness.parity.suite import Piece, table
from reference.orders import FIXED, ORDERS
from reference.recipe import TINY, Model


def _exact_log_probs(params: dict[str, np.ndarray], model: Model):
    """Return log_probs(ids_BL) of the reference's network."""
    return lambda ids_BL: reference.transformer.log_probs(params, ids_BL, model)


def _predictor(params: dict[str, np.ndarray], model: Model, at: Setting, compiled: bool = False):
    """Return the fast half's predictor of single rows."""
    return fast.row_predictor.RowPredictor(at.tensors(params), model, at.dtype, at.device, compiled)


def query(
    seed: int, model: Model, count: int, rows: list[int], visible: int | None = None
) -> Compare:
    """Log-probabilities of some rows of half-hidden windows, of which only the first `visible`
    tokens exist.
    """
    params, rng, V = random_params(model, seed), np.random.default_rng(seed), model.vocab
    hidden_BL = rng.random((count, model.length)) < 0.5
    ids_BL = np.where(hidden_BL, V, rng.integers(0, V, (count, model.length)))
    rows_BR, seen_BL = np.tile(np.array(rows), (count, 1)), ids_BL[:, :visible]

    def run(at: Setting) -> torch.Tensor:
        limit = None if visible is None else torch.tensor([visible], device=at.device)
        given = at.tensor(ids_BL), at.tensor(rows_BR), limit
        return at.run(_predictor(params, model, at).rows, *given)

    return against_plain(
        _exact_log_probs(params, model)(seen_BL)[:, rows],
        run,
        lambda at: plain_log_probs(params, seen_BL, model, at)[:, at.tensor(np.array(rows))],
        masters=True,
    )


def next_token(seed: int, model: Model, count: int) -> Compare:
    """Log-probabilities of every token of some windows, one position after the other, behind a
    token that stands in front of all of them.
    """
    params, rng = random_params(model, seed), np.random.default_rng(seed)
    ids_BS = rng.integers(0, model.vocab, (count, model.length))
    ids_BS[:, 0] = start = int(rng.integers(0, model.vocab))

    def run(at: Setting) -> torch.Tensor:
        given = at.tensors(params), model, at.dtype, at.device, start
        predictor = fast.next_predictor.NextPredictor(*given)
        past = predictor.begin(count)
        tokens = [None, *at.tensor(ids_BS[:, 1:]).unbind(1)]
        return torch.stack([predictor.next(past, token_B) for token_B in tokens], dim=1)

    return against_plain(
        reference.transformer.log_probs(params, ids_BS, model, causal=True),
        run,
        lambda at: plain_log_probs(params, ids_BS, model, at, causal=True),
        masters=True,
    )


def queried(
    seed: int,
    model: Model,
    order: str,
    count: int,
    step: int,
    block: int,
    first_row: int,
    batch_rows: int,
) -> Compare:
    """What every token costs along an order, from the rows that the order needs, against whole
    passes of the whole network.
    """
    ids_NL = windows(seed, model.vocab, model.length, count)
    given = ids_NL, model.vocab, order, seed, step, block, first_row
    chains = reference.chain.chain, fast.chain.chain
    return _by_network(seed, model, batch_rows, chains, given)


def trailing(seed: int, model: Model, count: int, masks: int, batch_rows: int) -> Compare:
    """Left to right with few mask tokens behind the position that is asked for."""
    given = windows(seed, model.vocab, model.length, count), model.vocab, masks
    chains = reference.chain.trailing, fast.chain.trailing
    return _by_network(seed, model, batch_rows, chains, given)


def sliding(
    seed: int, model: Model, estimator: str, stride: int, rows: int, tail: int, batch_rows: int
) -> Compare:
    """What every token of a stream costs where windows slide: full rows, then a shorter one."""
    params, (V, L) = random_params(model, seed), (model.vocab, model.length)
    ids = np.random.default_rng(seed).integers(0, V, rows * L + tail)
    text = np.concatenate([np.full(L, -1), ids])
    groups = [(ids[: rows * L].reshape(rows, L), text[: rows * L].reshape(rows, L))]
    if tail:
        groups.append((ids[None, rows * L :], text[None, rows * L : -tail]))
    causal = estimator == "causal"
    order = None if causal else "left-to-right"
    effort = fast.evaluate.Effort(estimator, order, stride=stride)

    def log_probs(ids_BL: np.ndarray) -> np.ndarray:
        return reference.transformer.log_probs(params, ids_BL, model, causal)

    exact = [reference.likelihood.strided(log_probs, *group, V, effort) for group in groups]

    def compare(at: Setting) -> list[Difference]:
        training = replace(TINY.training, compute_dtype=at.dtype_name)
        recipe = replace(TINY, model=model, training=training)
        given = at.tensors(params), recipe, at.device, at.compiled, estimator
        predict, where = fast.evaluate.predictor(*given), {"device": at.device}
        windows = [fast.data.Continued(ids, context[:, -1], context) for ids, context in groups]
        costs = [
            fast.evaluate.token_nats(predict, group, V, effort, batch_rows=batch_rows, **where)
            for group in windows
        ]
        return [relative(*pair) for pair in zip(costs, exact, strict=True)]

    return compare


def _by_network(seed: int, model: Model, batch_rows: int, chains: tuple, given: tuple) -> Compare:
    """Return the comparison of one chain of both halves on a random network."""
    params, (slow, quick) = random_params(model, seed), chains
    exact = slow(_exact_log_probs(params, model), *given)
    quick = partial(quick, batch_rows=batch_rows)

    def compare(at: Setting) -> list[Difference]:
        predictor = _predictor(params, model, at, at.compiled)
        return [relative(quick(predictor, *given, device=at.device), exact)]

    return compare


def positions(
    order: str,
    seed: int,
    vocab: int,
    length: int,
    count: int,
    drawn: int,
    first_row: int,
    batch_rows: int,
) -> Compare:
    """The drawn places, their weights bit for bit, what they cost and the spread of the sum."""
    model, ids_NL = table_model(seed, vocab, length), windows(seed, vocab, length, count)
    given = ids_NL, vocab, order, seed, drawn, first_row
    rows = np.arange(first_row, first_row + 5)
    draws = reference.chain.draw_positions(seed, rows, 1024, 7)
    exact = reference.chain.sampled(model.reference, *given)

    def variance_N(half, nats_NK) -> np.ndarray:
        return half.sampled_variance(nats_NK, length) if drawn > 1 else np.zeros(count)

    def compare(setting: Setting) -> list[Difference]:
        where = {"batch_rows": batch_rows, "device": setting.device}
        nats_NK = fast.chain.sampled(model.fast(setting), *given, **where)
        fast_draws = fast.chain.draw_positions(seed, rows, 1024, 7)
        spread = variance_N(fast.chain, nats_NK), variance_N(reference.chain, exact)
        return [*map(same, fast_draws, draws), relative(nats_NK, exact), relative(*spread)]

    return compare


def sample(
    order: str,
    seed: int,
    vocab: int,
    length: int,
    count: int,
    step: int,
    block: int,
    temperature: float,
    first_row: int,
    stop: int | None = None,
    tied: bool = False,
) -> Compare:
    """The tokens drawn behind a given first one, their log-probabilities and their order."""
    model, ids_BL = table_model(seed, vocab, length, tied), np.full((count, length), vocab)
    ids_BL[:, 0] = np.random.default_rng(seed).integers(0, vocab, count)
    given = vocab, order, seed, step, block, temperature, first_row, stop
    exact = reference.sample.fill(model.reference, ids_BL, *given)

    def compare(at: Setting) -> list[Difference]:
        drawn = fast.sample.fill(model.fast(at), at.tensor(ids_BL), *given)
        return [same(*pair) for pair in zip(drawn, exact, strict=True)]

    return compare


ONE_LAYER = replace(SMALL, layers=1)
PIECES = [
    Piece(
        "query",
        query,
        table(
            "seed model count rows visible",
            (0, replace(SMALL, heads=1, kv_heads=1, length=1), 1, [0], None),
            (1, ONE_LAYER, 3, [3, 0], None),
            (2, replace(SMALL, layers=5), 2, [1, 1, 2], None),
            (3, GROUPED, 2, [2, 0], 3),
            (4, MEDIUM, 2, list(range(20)), 20),
            (5, MEDIUM, 2, list(range(0, 33, 2)), None),
            (14, ROUNDED, 2, list(range(0, 33, 2)), None),
            (6, SHIFTED, 2, [2, 0], 3),
            (7, replace(MEDIUM, mixing=2, shift=True), 2, list(range(20)), 20),
        ),
        TWICE,
        compiles=1,
    ),
    Piece(
        "next",
        next_token,
        table(
            "seed model count",
            (0, replace(SMALL, heads=1, kv_heads=1, length=1, causal=True), 1),
            (1, replace(ONE_LAYER, causal=True), 3),
            (2, replace(SMALL, layers=5, causal=True), 2),
            (3, MIXED, 3),
            (4, replace(DUAL, layers=3), 2),
            (5, replace(GROUPED, mixing=1, causal_share=0.5), 2),
            (6, replace(MEDIUM, causal=True), 3),
            (7, replace(ROUNDED, causal=True), 3),
        ),
        TWICE,
    ),
    Piece(
        "chain-queried",
        queried,
        table(
            "seed model order count step block first_row batch_rows",
            *(
                (seed, model, order, 3, 1 + seed % 2, 2, 3 * seed, 2)
                for seed, order in enumerate(ORDERS)
                for model in (SMALL, replace(GROUPED, layers=3))
            ),
            (9, ONE_LAYER, "entropy", 2, 3, 1, 0, 64),
            (10, GROUPED, "confidence", 2, 1, 1, 0, 64),
            (11, SHIFTED, "confidence", 2, 1, 1, 0, 64),
            (12, SHIFTED, "left-to-right", 3, 1, 1, 4, 2),
            (13, replace(GROUPED, rope_frequencies="bfloat16"), "confidence", 2, 1, 1, 0, 64),
        ),
    ),
    Piece(
        "chain-positions",
        positions,
        table(
            "order seed length drawn first_row",
            *(
                (order, seed, length, drawn, 4 * seed)
                for order in FIXED
                for seed, (length, drawn) in enumerate(
                    ((1, 1), (5, 2), (5, 5), (6, 4), (6, 3), (4, 1))
                )
            ),
            vocab=3,
            count=5,
            batch_rows=2,
        ),
        STILL,
        float32_only=True,
    ),
    Piece(
        "chain-trailing",
        trailing,
        table(
            "seed model masks",
            *(
                (masks, model, masks)
                for model in (SMALL, GROUPED, SHIFTED)
                for masks in (0, 1, 3, 9)
            ),
            count=3,
            batch_rows=2,
        ),
    ),
    Piece(
        "chain-sliding",
        sliding,
        table(
            "seed model estimator stride rows tail",
            (0, SMALL, "chain", 1, 3, 0),
            (1, SMALL, "chain", 2, 1, 3),
            (2, SHIFTED, "chain", 1, 3, 2),
            (3, GROUPED, "chain", 5, 3, 1),
            (4, MIXED, "causal", 1, 3, 2),
            (5, MIXED, "causal", 5, 2, 0),
            (6, replace(SMALL, causal=True), "causal", 2, 4, 3),
            *(
                (7 + stride, DUAL, estimator, stride, 3, 5)
                for estimator in ("chain", "causal")
                for stride in (2, 4)
            ),
            batch_rows=2,
        ),
    ),
    Piece(
        "sample",
        sample,
        table(
            "order seed vocab length count step block temperature first_row stop tied",
            *(
                (order, seed, 3, 5, 4, 1 + seed % 3, 2, temperature, seed, stop, False)
                for seed, order in enumerate(ORDERS)
                for temperature, stop in ((0.0, None), (0.7, 4), (1.0, None))
            ),
            ("left-to-right", 9, 4, 4, 3, 1, 1, 0.0, 0, None, True),
        ),
        APART,
        bitwise=True,
        float32_only=True,
    ),
]
