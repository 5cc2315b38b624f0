"""Pieces fisher and allot: how far the loss depends on each weight, and the steps that follow."""

from dataclasses import replace

import numpy as np
import torch

import fast.allot
import reference.allot
from fast.data import windows_of
from harness.parity.compare import Compare, Difference, Setting, relative, same, same_tensors
from harness.parity.network import random_params
from harness.parity.suite import Piece, table
from reference.recipe import TINY, Model, check


def fisher(seed: int, model: Model, windows: int, rows: int) -> Compare:
    """Squared gradients by autograd and by the complex step, on a batch of so many rows."""
    tokens = {"tokens_per_step": rows * model.length, "micro_batch_tokens": model.length}
    kept = replace(TINY.quantization, format="uniform", fisher=windows)
    training = replace(TINY.training, **tokens)
    recipe = check(replace(TINY, seed=seed, model=model, training=training, quantization=kept))
    params = random_params(model, seed)

    def batch(step, rows):
        ids_BS = [
            np.random.default_rng([seed, step, int(row)]).integers(0, model.vocab, model.length + 1)
            for row in rows
        ]
        return windows_of(np.array(ids_BS))

    expected = reference.allot.squared_gradients(params, batch, recipe)

    def compare(setting: Setting) -> list[Difference]:
        found = fast.allot.squared_gradients(setting.tensors(params), batch, recipe)
        return same_tensors(found, expected)

    return compare


def allot(seed: int, shapes: list[list[int]], dial: float, squared: bool) -> Compare:
    """Factors of squared gradients, and steps of matrices, some of whose rows are zeros."""
    rng = np.random.default_rng(seed)
    values, squares = {}, {}
    for number, shape in enumerate(shapes):
        spread_RC = np.exp(np.add.outer(*(2 * rng.standard_normal(size) for size in shape)))
        values[f"m{number}"] = rng.standard_normal(shape) * np.sqrt(spread_RC)
        values[f"m{number}"][rng.random(shape[0]) < 0.1] = 0.0
        squares[f"m{number}"] = spread_RC * rng.exponential(size=shape)
    given = squares if squared else None
    expected = reference.allot.step_exponents(values, given, dial)
    parts = {name: reference.allot.factors(square) for name, square in squares.items()}

    def compare(setting: Setting) -> list[Difference]:
        tensors = {name: torch.from_numpy(square) for name, square in squares.items()}
        found = fast.allot.step_exponents(
            setting.tensors(values), tensors if squared else None, dial
        )
        pairs = [
            (one, other)
            for name in values
            for one, other in zip(found[name], expected[name], strict=True)
        ]
        made = {name: fast.allot.factors(tensor) for name, tensor in tensors.items()}
        factors = [
            relative(one, other)
            for name in values
            for one, other in zip(made[name], parts[name], strict=True)
        ]
        return [*(same(one, other) for one, other in pairs), *factors]

    return compare


SMALL = Model(layers=1, d=4, heads=2, kv_heads=1, vocab=5, length=4, embedding_std=0.5)
PIECES = [
    Piece(
        "fisher",
        fisher,
        table(
            "seed model windows rows",
            (0, SMALL, 1, 2),
            (1, SMALL, 5, 3),
            (2, replace(SMALL, causal=True), 4, 3),
            (3, replace(SMALL, causal_share=0.5, shift=True, mixing=1), 7, 4),
        ),
    ),
    Piece(
        "allot",
        allot,
        table(
            "seed shapes dial squared",
            (0, [[5, 3]], 20.0, True),
            (1, [[8, 8], [30, 7], [1, 9]], 13.3, True),
            (2, [[8, 8], [30, 7]], 63.0, False),
            (3, [[20, 40]], 8.0, True),
        ),
    ),
]
