"""Error-compensated rounding: what it promises of the error, of each matrix and of the loss that its
second moments describe.
"""

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import fast.compensate
import fast.quantize
import reference.compensate
import reference.quantize
from fast import artifact, container, data, train, transformer
from reference.recipe import StepExponents, check
from tests.pieces.test_allot import large_weights, recipe_with, weights_of, written
from tests.support.observed import stream

ROUNDING = 1e-9  # of float64 sums, relative; they have a few hundred terms
both = pytest.mark.parametrize(
    "half", [reference.compensate, fast.compensate], ids=["reference", "fast"]
)
sizes = {"seed": st.integers(0, 2**32), "rows": st.integers(1, 6), "columns": st.integers(1, 150)}


def made(half, array: np.ndarray):
    """An array as one half takes it."""
    return torch.from_numpy(array) if half is fast.compensate else array


def drawn(seed: int, rows: int, columns: int) -> tuple:
    """A matrix, exponents of its steps, second moments of correlated columns."""
    rng = np.random.default_rng(seed)
    values_RC = rng.standard_normal((rows, columns))
    exponents = StepExponents(rng.integers(-24, 4, rows), rng.integers(-8, 9, columns))
    inputs_NC = rng.standard_normal((3 * columns, columns)) @ rng.standard_normal(
        (columns, columns)
    )
    return values_RC, exponents, inputs_NC.T @ inputs_NC


def damped(moments_CC: np.ndarray) -> np.ndarray:
    """The moments that feedback() describes."""
    added = reference.compensate.DAMPING * np.trace(moments_CC) / len(moments_CC)
    return moments_CC + added * np.eye(len(moments_CC))


def steps_of(exponents: StepExponents) -> np.ndarray:
    return 2.0 ** (np.add.outer(*exponents) / 8)


def rounded(half, values_RC, exponents, moments_CC) -> np.ndarray:
    back_CC = half.feedback(made(half, moments_CC))
    return np.asarray(half.compensated(made(half, values_RC), exponents, back_CC))


def nearest(values_RC, exponents) -> np.ndarray:
    steps_RC = steps_of(exponents)
    return np.rint(values_RC / steps_RC) * steps_RC


def damage(errors_RC, moments_CC) -> np.ndarray:
    """What each row adds to the loss that the moments describe, times 2."""
    return np.einsum("rc,cd,rd->r", errors_RC, moments_CC, errors_RC)


@both
@settings(max_examples=30)
@given(**sizes)
def test_no_row_does_more_damage_than_its_bound(half, seed, rows, columns):
    """The sum over columns of D_jj s_j^2 / 4, D_jj being what column j's moment is beyond what the
    later columns explain of it.
    """
    values_RC, exponents, moments_CC = drawn(seed, rows, columns)
    wide_CC = damped(moments_CC)
    beyond_C = [
        wide_CC[j, j]
        - wide_CC[j, j + 1 :] @ np.linalg.solve(wide_CC[j + 1 :, j + 1 :], wide_CC[j + 1 :, j])
        for j in range(columns)
    ]
    stored_RC = rounded(half, values_RC, exponents, moments_CC)
    most_R = steps_of(exponents) ** 2 @ np.array(beyond_C) / 4
    assert (damage(stored_RC - values_RC, wide_CC) <= most_R * (1 + ROUNDING) + 1e-300).all()


@both
def test_damage_is_below_that_of_nearest_rounding_and_a_value_may_move_further(half):
    """Over 2,000 rows: correlated columns; no row is promised less than nearest rounding's."""
    values_RC, exponents, moments_CC = drawn(7, 2000, 60)
    stored_RC = rounded(half, values_RC, exponents, moments_CC)
    kept, plain = (
        damage(other_RC - values_RC, moments_CC)
        for other_RC in (stored_RC, nearest(values_RC, exponents))
    )
    assert kept.sum() < 0.7 * plain.sum()
    moved = np.abs(stored_RC - values_RC) / steps_of(exponents)
    assert 0.5 < moved.max()


@both
@settings(max_examples=30)
@given(**sizes)
def test_columns_that_know_nothing_of_each_other_are_rounded_to_nearest(half, seed, rows, columns):
    values_RC, exponents, _ = drawn(seed, rows, columns)
    moments_CC = np.diag(np.random.default_rng(seed).random(columns))
    for moments in (moments_CC, np.zeros_like(moments_CC)):
        stored_RC = rounded(half, values_RC, exponents, moments)
        assert np.array_equal(stored_RC, nearest(values_RC, exponents))


@both
@settings(max_examples=30)
@given(**sizes)
def test_what_is_stored_is_read_back_and_rounding_it_again_changes_nothing(
    half, seed, rows, columns
):
    """By the same steps."""
    values_RC, exponents, moments_CC = drawn(seed, rows, columns)
    stored_RC = rounded(half, values_RC, exponents, moments_CC)
    storage = fast.quantize if half is fast.compensate else reference.quantize
    stored = storage.to_bytes(made(half, stored_RC), "uniform", dial=exponents)
    read_RC = np.asarray(storage.from_bytes(stored, stored_RC.shape, "uniform"))
    assert np.array_equal(read_RC, stored_RC.astype(np.float32))
    again_RC = rounded(half, read_RC.astype(np.float64), exponents, moments_CC)
    assert np.array_equal(again_RC, stored_RC)


@both
def test_no_code_takes_more_than_16_bits(half):
    """Where what is passed on would need one; the value alone just fits."""
    values_RC = np.array([[0.49, 2**15 - 1 + 0.45], [-0.49, 1 - 2**15 - 0.45]])
    moments_CC = np.array([[1.0, 3.0], [3.0, 10.0]])
    exponents = StepExponents(np.zeros(2, int), np.zeros(2, int))
    below_RC = values_RC - np.array([[0, 9], [0, -9]])
    for given_RC, size in ((values_RC, 2**15 - 1), (below_RC, 2**15 - 9)):
        stored_RC = rounded(half, given_RC, exponents, moments_CC)
        assert stored_RC.tolist() == [[0, size], [0, -size]]


@both
def test_damping_is_a_tenth_of_the_mean(half):
    moments_CC = np.array([[2.0, 1.0], [1.0, 4.0]])
    back_CC = np.asarray(half.feedback(made(half, moments_CC)))
    np.testing.assert_allclose(back_CC, [[1, 1 / 4.3], [0, 1]], rtol=1e-12)


def test_moments_are_those_of_each_window_alone(monkeypatch):
    """At a gradient per window, a token; of the matrices in the format uniform."""
    recipe = recipe_with(fisher=5)
    batch, params = data.batches(stream(), recipe), weights_of(recipe)
    length, rows = recipe.model.length, recipe.training.tokens_per_step // recipe.model.length
    monkeypatch.setattr(fast.allot, "TOKENS", length)
    measured = fast.compensate.second_moments(params, batch, recipe)
    formats = artifact.formats_of({name: tuple(v.shape) for name, v in params.items()}, recipe)
    expected = {name: 0.0 for name in params if formats[name] == "uniform"}
    assert measured.keys() == expected.keys() and 1 < len(expected) < len(params)
    for window in range(5):
        step, row = divmod(window, rows)
        leaves = {name: value.clone().requires_grad_() for name, value in params.items()}
        given_ = tuple(map(torch.from_numpy, batch(step, [row])))
        loss = train.batch_loss(transformer.stack(leaves), given_, step, np.array([row]), recipe)
        loss.backward()
        for name in expected:
            grad_RC = length * leaves[name].grad
            expected[name] += grad_RC.T @ grad_RC / (5 * length)
    for name, moment_CC in expected.items():
        torch.testing.assert_close(measured[name], moment_CC, rtol=1e-9, atol=1e-15)


def test_an_artifact_holds_the_compensated_weights(tmp_path):
    recipe, params = large_weights(recipe_with(fisher=4, compensate=True))
    batch = data.batches(stream(), recipe)
    squares = fast.allot.squared_gradients(params, batch, recipe)
    formats = artifact.formats_of({name: tuple(v.shape) for name, v in params.items()}, recipe)
    steps = artifact.steps_of(params, formats, squares, recipe.quantization.dial)
    moments = fast.compensate.second_moments(params, batch, recipe)
    stored = container.unpack(written(tmp_path, recipe, params))[1]
    for name, moments_CC in moments.items():
        back_CC = fast.compensate.feedback(moments_CC)
        expected = fast.compensate.compensated(params[name], steps[name], back_CC)
        assert torch.equal(stored[name], expected.float())
    assert written(tmp_path, recipe, params) == written(tmp_path, recipe, transformer.stack(params))


@pytest.mark.parametrize("share", [0.1, 0.6])
def test_a_budget_counts_the_compensated_weights(tmp_path, share):
    recipe, params = large_weights(recipe_with(fisher=4, compensate=True))
    most = len(written(tmp_path, recipe, params))
    budget = int((1 - share / 2) * most)
    kept = replace(recipe.quantization, budget=budget)
    size = len(written(tmp_path, check(replace(recipe, quantization=kept)), params))
    assert 0.999 * budget <= size <= budget
