"""Complex-step derivatives: exact on functions with known ones, and equal to autograd of the fast
loss for every parameter.
"""

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import fast.train
import reference.train
from fast.data import windows_of
from reference import gradient, masking, transformer
from reference.recipe import TINY
from tests.support.compare import assert_same_algorithm, assert_same_tensors, relative_error
from tests.support.strategies import models, random_params, rngs, seeds, tensors


def both_gradients(recipe, params, windows, step, rows):
    """Return (fast, reference) gradients of the whole loss, and (fast, reference) losses."""

    def loss(p):
        return reference.train.batch_loss(p, windows, step, rows, recipe)

    leaves = {name: value.requires_grad_() for name, value in tensors(params).items()}
    value = fast.train.batch_loss(leaves, tuple(map(torch.from_numpy, windows)), step, rows, recipe)
    grads = torch.autograd.grad(value, list(leaves.values()), materialize_grads=True)
    return (
        dict(zip(leaves, grads, strict=True)),
        gradient.gradient(loss, params),
        value,
        loss(params),
    )


def assert_gradients_agree(recipe, seed, step, rows):
    """Every parameter's gradient and the loss agree on random weights and a random batch."""
    rng = np.random.default_rng(seed)
    params = random_params(recipe.model, rng)
    ids_BS = rng.integers(0, recipe.model.vocab, (len(rows), recipe.model.length + 1))
    ids_BS[0, 0] = -1  # the first token of a stream
    found, expected, value, wanted = both_gradients(
        replace(recipe, seed=seed), params, windows_of(ids_BS), step, rows
    )
    assert_same_algorithm(value, wanted, "loss")
    assert_same_tensors(found, expected)
    return expected


@pytest.mark.parametrize("causal", [False, True])
def test_every_parameter_of_tiny(causal):
    recipe = replace(TINY, model=replace(TINY.model, causal=causal))
    expected = assert_gradients_agree(recipe, 0, 3, np.arange(2))
    assert all(value.any() for value in expected.values())


@given(
    models(layers=st.integers(1, 3), length=st.integers(1, 3)).filter(lambda model: model.d <= 8),
    seeds,
    st.integers(0, 10_000),
    st.integers(0, 64),
)
@settings(max_examples=10)
def test_every_parameter_of_any_model(model, seed, step, first):
    """On two rows of a batch."""
    first %= TINY.training.tokens_per_step // model.length - 1
    assert_gradients_agree(replace(TINY, model=model), seed, step, np.arange(first, first + 2))


@given(rngs, st.integers(1, 6))
@settings(max_examples=30)
def test_quadratic_and_exponential(rng, size):
    a, x = (
        rng.standard_normal((size, size)),
        {"x": rng.standard_normal(size), "unused": np.ones((2, 2))},
    )
    found = gradient.gradient(lambda p: p["x"] @ a @ p["x"], x)
    assert relative_error(found["x"], (a + a.T) @ x["x"]) < 1e-13
    assert not found["unused"].any() and found["unused"].shape == (2, 2)
    assert (
        relative_error(gradient.gradient(lambda p: np.exp(p["x"]).sum(), x)["x"], np.exp(x["x"]))
        < 1e-13
    )


@given(rngs)
@settings(max_examples=30)
def test_cross_entropy_by_hand(rng):
    logits, ids_BL = rng.standard_normal((2, 3, 5)), rng.integers(0, 5, (2, 3))
    found = gradient.gradient(
        lambda p: masking.causal_loss(p["logits"], ids_BL), {"logits": logits}
    )["logits"]
    p = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
    assert relative_error(found, (p - np.eye(5)[ids_BL]) / 6) < 1e-13


def test_step_far_below_rounding_cancels_nothing():
    """Central differences lose half the digits; the complex step none."""
    x = {"x": np.array([0.3])}
    assert gradient.gradient(lambda p: np.sin(p["x"][0]), x)["x"][0] == pytest.approx(
        np.cos(0.3), rel=2e-16, abs=0
    )


def test_parameters_are_left_as_they_were():
    params = {"x": np.array([[1.0, 2.0]]), "empty": np.zeros((0, 2)), "scalar": np.array(3.0)}
    found = gradient.gradient(lambda p: (p["x"] ** 2).sum() * p["scalar"], params)
    assert params["x"].tolist() == [[1.0, 2.0]] and params["x"].dtype == np.float64
    assert (
        found["x"].tolist() == [[6.0, 12.0]]
        and found["empty"].shape == (0, 2)
        and found["scalar"] == 5.0
    )


def test_rmsnorm_gradient_is_orthogonal_to_its_input():
    """Scaling x changes nothing but through eps, so x . grad vanishes as eps does."""
    x, c = np.random.default_rng(0).standard_normal((2, 6))
    found = gradient.gradient(lambda p: transformer.rmsnorm(p["x"], 0.0) @ c, {"x": x})["x"]
    assert abs(found @ x) < 1e-14 * np.linalg.norm(found) * np.linalg.norm(x) * 10
