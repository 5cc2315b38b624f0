"""Pieces fisher and allot: how far the loss depends on each weight, and the steps that follow;
pieces moments and compensate: how rounding makes up for its own errors.
"""

from dataclasses import replace

import numpy as np
import torch

import fast.allot
import fast.compensate
import reference.allot
import reference.compensate
from fast.data import windows_of
from harness.parity.compare import Compare, Difference, Setting, relative, same, same_tensors
from harness.parity.network import random_params
from harness.parity.suite import Piece, table
from reference.recipe import TINY, Model, check


def _on_text(of: str, seed: int, model: Model, windows: int, rows: int) -> Compare:
    """A function of weights, text and recipe, named module.function, on batches of so many rows."""
    module, function = of.split(".")
    slow, quick = (getattr(getattr(half, module), function) for half in (reference, fast))
    tokens = {"tokens_per_step": rows * model.length, "micro_batch_tokens": model.length}
    kept = replace(TINY.quantization, format="uniform", fisher=windows, threshold=8)
    training = replace(TINY.training, **tokens)
    recipe = check(replace(TINY, seed=seed, model=model, training=training, quantization=kept))
    params = random_params(model, seed)

    def batch(step, rows):
        ids_BS = [
            np.random.default_rng([seed, step, int(row)]).integers(0, model.vocab, model.length + 1)
            for row in rows
        ]
        return windows_of(np.array(ids_BS))

    expected = slow(params, batch, recipe)

    def compare(setting: Setting) -> list[Difference]:
        return same_tensors(quick(setting.tensors(params), batch, recipe), expected)

    return compare


def fisher(seed: int, model: Model, windows: int, rows: int) -> Compare:
    """Squared gradients by autograd and by the complex step, on batches of so many rows."""
    return _on_text("allot.squared_gradients", seed, model, windows, rows)


def moments(seed: int, model: Model, windows: int, rows: int) -> Compare:
    """Second moments of gradients by autograd and by the complex step."""
    return _on_text("compensate.second_moments", seed, model, windows, rows)


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
    moved = reference.allot.shifted(values, expected, dial - 20)

    def compare(setting: Setting) -> list[Difference]:
        tensors = {name: torch.from_numpy(square) for name, square in squares.items()}
        found = fast.allot.step_exponents(
            setting.tensors(values), tensors if squared else None, dial
        )
        shifted = fast.allot.shifted(setting.tensors(values), found, dial - 20)
        pairs = [
            (one, other)
            for ours, theirs in ((found, expected), (shifted, moved))
            for name in values
            for one, other in zip(ours[name], theirs[name], strict=True)
        ]
        made = {name: fast.allot.factors(tensor) for name, tensor in tensors.items()}
        factors = [
            relative(one, other)
            for name in values
            for one, other in zip(made[name], parts[name], strict=True)
        ]
        return [*(same(one, other) for one, other in pairs), *factors]

    return compare


def compensate(seed: int, shape: list[int], dial: float, samples: int) -> Compare:
    """What of each column's error is passed on, by moments of so many samples; a matrix rounded
    with it, to the same multiples.
    """
    rng = np.random.default_rng(seed)
    values = rng.standard_normal(shape) * np.exp(rng.standard_normal((shape[0], 1)))
    drawn_NC = rng.standard_normal((samples, shape[1])) @ rng.standard_normal((shape[1], shape[1]))
    second_CC = drawn_NC.T @ drawn_NC / max(samples, 1)
    exponents = reference.allot.step_exponents({"w": values}, None, dial)["w"]
    back_CC = reference.compensate.feedback(second_CC)
    expected = reference.compensate.compensated(values, exponents, back_CC)

    def compare(setting: Setting) -> list[Difference]:
        made_CC = fast.compensate.feedback(torch.from_numpy(second_CC))
        rounded = fast.compensate.compensated(setting.tensor(values), exponents, made_CC)
        return [relative(made_CC, back_CC), same(rounded, expected)]

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
    Piece(
        "moments",
        moments,
        table(
            "seed model windows rows",
            (0, SMALL, 1, 2),
            (1, replace(SMALL, causal_share=0.5, shift=True, mixing=1), 7, 4),
        ),
    ),
    Piece(
        "compensate",
        compensate,
        table(
            "seed shape dial samples",
            (0, [5, 3], 20.0, 10),
            (1, [7, 130], 12.0, 60),
            (2, [1, 9], 20.0, 0),
            (3, [9, 1], 8.0, 4),
        ),
    ),
]
