"""Pieces query, chain-queried, chain-positions, chain-trailing and sample: what saves passes or
rows, and drawing along an order.
"""

from dataclasses import replace

import numpy as np
import torch

import fast.chain
import fast.row_predictor
import fast.sample
import reference.chain
import reference.masking
import reference.sample
import reference.transformer
from harness.parity import plain
from harness.parity.compare import Difference, Setting, relative, same, twice
from harness.parity.likelihood import APART, STILL, table, windows
from harness.parity.network import GROUPED, MEDIUM, SMALL, TWICE, random_params
from harness.parity.suite import Compare, Piece
from reference.orders import FIXED, ORDERS
from reference.recipe import Model


def _reference_log_probs(params: dict[str, np.ndarray], model: Model):
    """Return log_probs(ids_BL) of the reference's network."""
    return lambda ids_BL: reference.masking.log_softmax(
        reference.transformer.forward(params, ids_BL, model)
    )


def query(
    seed: int, model: Model, count: int, rows: list[int], visible: int | None = None
) -> Compare:
    """Log-probabilities of some rows of half-hidden windows, of which only the first `visible`
    tokens exist.
    """
    params, rng, V = random_params(model, seed), np.random.default_rng(seed), model.vocab
    ids_BL = np.where(
        rng.random((count, model.length)) < 0.5, V, rng.integers(0, V, (count, model.length))
    )
    rows_BR = np.tile(np.array(rows), (count, 1))
    seen_BL = ids_BL if visible is None else ids_BL[:, :visible]
    exact = _reference_log_probs(params, model)(seen_BL)[:, rows]

    def compare(setting: Setting) -> list[Difference]:
        given, at_BR = (setting.tensors(params), setting.tensor(seen_BL)), setting.tensor(rows_BR)
        limit = None if visible is None else torch.tensor([visible], device=setting.device)
        asked = fast.row_predictor.RowPredictor(given[0], model, setting.dtype, setting.device)
        found = setting.run(asked.rows, setting.tensor(ids_BL), at_BR, limit)
        return twice(
            setting,
            found,
            exact,
            lambda: plain.forward(*given, model, setting.dtype).log_softmax(-1)[:, rows],
            setting.master,
        )

    return compare


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
    params, ids_NL = random_params(model, seed), windows(seed, model.vocab, model.length, count)
    exact = reference.chain.chain(
        _reference_log_probs(params, model),
        ids_NL,
        model.vocab,
        order,
        seed,
        step,
        block,
        first_row,
    )

    def compare(setting: Setting) -> list[Difference]:
        asked = fast.row_predictor.RowPredictor(
            setting.tensors(params), model, setting.dtype, setting.device, setting.compiled
        )
        where = {"batch_rows": batch_rows, "device": setting.device}
        return [
            relative(
                fast.chain.chain(
                    asked, ids_NL, model.vocab, order, seed, step, block, first_row, **where
                ),
                exact,
            )
        ]

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
    model, ids_NL, rows = (
        table(seed, vocab, length),
        windows(seed, vocab, length, count),
        np.arange(first_row, first_row + 5),
    )
    place_NK, weight_NK = reference.chain.draw_positions(seed, rows, 1024, 7)
    exact = reference.chain.sampled(model.reference, ids_NL, vocab, order, seed, drawn, first_row)
    variance_N = reference.chain.sampled_variance(exact, length) if drawn > 1 else np.zeros(count)

    def compare(setting: Setting) -> list[Difference]:
        own_place_NK, own_weight_NK = fast.chain.draw_positions(seed, rows, 1024, 7)
        where = {"batch_rows": batch_rows, "device": setting.device}
        found = fast.chain.sampled(
            model.fast(setting), ids_NL, vocab, order, seed, drawn, first_row, **where
        )
        spread_N = fast.chain.sampled_variance(found, length) if drawn > 1 else np.zeros(count)
        return [
            same(own_place_NK, place_NK),
            same(own_weight_NK, weight_NK),
            relative(found, exact),
            relative(spread_N, variance_N),
        ]

    return compare


def trailing(seed: int, model: Model, count: int, masks: int, batch_rows: int) -> Compare:
    """Left to right with few mask tokens behind the position that is asked for."""
    params, ids_NL = random_params(model, seed), windows(seed, model.vocab, model.length, count)
    exact = reference.chain.trailing(
        _reference_log_probs(params, model), ids_NL, model.vocab, masks
    )

    def compare(setting: Setting) -> list[Difference]:
        asked = fast.row_predictor.RowPredictor(
            setting.tensors(params), model, setting.dtype, setting.device, setting.compiled
        )
        where = {"batch_rows": batch_rows, "device": setting.device}
        return [relative(fast.chain.trailing(asked, ids_NL, model.vocab, masks, **where), exact)]

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
    tied: bool = False,
) -> Compare:
    """The tokens drawn behind a given first one."""
    model, ids_BL = table(seed, vocab, length, tied), np.full((count, length), vocab)
    ids_BL[:, 0] = np.random.default_rng(seed).integers(0, vocab, count)
    exact = reference.sample.fill(
        model.reference, ids_BL, vocab, order, seed, step, block, temperature, first_row
    )

    def compare(setting: Setting) -> list[Difference]:
        given = setting.tensor(ids_BL)
        return [
            same(
                fast.sample.fill(
                    model.fast(setting),
                    given,
                    vocab,
                    order,
                    seed,
                    step,
                    block,
                    temperature,
                    first_row,
                ),
                exact,
            )
        ]

    return compare


ONE_LAYER = replace(SMALL, layers=1)
PIECES = [
    Piece(
        "query",
        query,
        [
            {
                "seed": 0,
                "model": replace(SMALL, heads=1, kv_heads=1, length=1),
                "count": 1,
                "rows": [0],
            },
            {"seed": 1, "model": ONE_LAYER, "count": 3, "rows": [3, 0]},
            {"seed": 2, "model": replace(SMALL, layers=5), "count": 2, "rows": [1, 1, 2]},
            {"seed": 3, "model": GROUPED, "count": 2, "rows": [2, 0], "visible": 3},
            {"seed": 4, "model": MEDIUM, "count": 2, "rows": list(range(20)), "visible": 20},
            {"seed": 5, "model": MEDIUM, "count": 2, "rows": list(range(0, 33, 2))},
        ],
        TWICE,
        compiles=1,
    ),
    Piece(
        "chain-queried",
        queried,
        [
            *[
                {
                    "seed": seed,
                    "model": model,
                    "order": order,
                    "count": 3,
                    "step": 1 + seed % 2,
                    "block": 2,
                    "first_row": 3 * seed,
                    "batch_rows": 2,
                }
                for seed, order in enumerate(ORDERS)
                for model in (SMALL, replace(GROUPED, layers=3))
            ],
            {
                "seed": 9,
                "model": ONE_LAYER,
                "order": "entropy",
                "count": 2,
                "step": 3,
                "block": 1,
                "first_row": 0,
                "batch_rows": 64,
            },
            {
                "seed": 10,
                "model": GROUPED,
                "order": "confidence",
                "count": 2,
                "step": 1,
                "block": 1,
                "first_row": 0,
                "batch_rows": 64,
            },
        ],
    ),
    Piece(
        "chain-positions",
        positions,
        [
            {
                "order": order,
                "seed": seed,
                "vocab": 3,
                "length": length,
                "count": 5,
                "drawn": drawn,
                "first_row": 4 * seed,
                "batch_rows": 2,
            }
            for order in FIXED
            for seed, (length, drawn) in enumerate(((1, 1), (5, 2), (5, 5), (6, 4), (6, 3), (4, 1)))
        ],
        STILL,
        float32_only=True,
    ),
    Piece(
        "chain-trailing",
        trailing,
        [
            {"seed": masks, "model": model, "count": 3, "masks": masks, "batch_rows": 2}
            for model in (SMALL, GROUPED)
            for masks in (0, 1, 3, 9)
        ],
    ),
    Piece(
        "sample",
        sample,
        [
            *[
                {
                    "order": order,
                    "seed": seed,
                    "vocab": 3,
                    "length": 5,
                    "count": 4,
                    "step": 1 + seed % 3,
                    "block": 2,
                    "temperature": temperature,
                    "first_row": seed,
                }
                for seed, order in enumerate(ORDERS)
                for temperature in (0.0, 0.7, 1.0)
            ],
            {
                "order": "left-to-right",
                "seed": 9,
                "vocab": 4,
                "length": 4,
                "count": 3,
                "step": 1,
                "block": 1,
                "temperature": 0.0,
                "first_row": 0,
                "tied": True,
            },
        ],
        APART,
        bitwise=True,
        float32_only=True,
    ),
]
