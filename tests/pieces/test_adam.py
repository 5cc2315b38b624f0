"""Adam and the clip of the global norm: twins, torch's own, and the first step by hand."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import fast.adam
import reference.adam
from reference.recipe import GOLF, Optimizer
from tests.support.compare import (
    assert_same_algorithm,
    assert_same_tensors,
    relative_error,
    unit_roundoff,
)
from tests.support.strategies import rngs

OPTIMIZER = GOLF.optimizer
shapes = st.sampled_from([(1,), (7,), (2, 5), (0, 3), (2, 3, 4)])
scales = st.sampled_from([1e-20, 1e-8, 1.0, 1e6])


def adam_inputs(rng, shape, scale):
    """Return (weight, grad, first, second) with a second moment that is not negative."""
    weight, grad, first = rng.standard_normal((3, *shape))
    return weight, scale * grad, scale * first, (scale * rng.standard_normal(shape)) ** 2


@given(rngs, shapes, scales, st.integers(1, 20_000), st.floats(0, 0.1))
def test_step(rng, shape, scale, step, lr):
    inputs = adam_inputs(rng, shape, scale)
    expected = reference.adam.adam_step(*inputs, step, lr, OPTIMIZER)
    for numbers in (
        (step, lr),
        (torch.tensor(step, dtype=torch.float64), torch.tensor(lr, dtype=torch.float64)),
    ):
        found = fast.adam.adam_step(
            *(torch.from_numpy(value) for value in inputs), *numbers, OPTIMIZER
        )
        for half, other in zip(found, expected, strict=True):
            assert_same_algorithm(half, other)


@given(rngs, shapes, scales, st.integers(1, 20_000))
def test_step_in_float32_stays_within_its_rounding(rng, shape, scale, step):
    """Moments: 3 roundings of two terms. Update: 8 more (bias corrections, root, eps, quotient,
    product), then one of the weight.
    """
    inputs = [
        value.astype(np.float32).astype(np.float64) for value in adam_inputs(rng, shape, scale)
    ]
    exact = reference.adam.adam_step(*inputs, step, 0.04, OPTIMIZER)
    found = fast.adam.adam_step(
        *(torch.from_numpy(value).float() for value in inputs), step, 0.04, OPTIMIZER
    )
    assert all(value.dtype == torch.float32 for value in found)
    u, tiny = unit_roundoff(torch.float32), torch.finfo(torch.float32).tiny
    weight, grad, first, second = (np.abs(value) for value in inputs)
    b1, b2 = OPTIMIZER.adam_beta1, OPTIMIZER.adam_beta2
    # The first moment may cancel: its error is relative to this
    size = b1 * first + (1 - b1) * grad
    assert (np.abs(found[1].double().numpy() - exact[1]) <= 3 * u * size + tiny).all()
    assert (np.abs(found[2].double().numpy() - exact[2]) <= 4 * u * exact[2] + tiny).all()
    root = np.sqrt(exact[2] / (1 - b2**step))
    # Squares below 2**-126 lose their bits
    underflow = np.sqrt(2 * tiny / (1 - b2**step)) if scale < 1e-18 else 0.0
    update = 0.04 * size / (1 - b1**step) / (root + OPTIMIZER.adam_eps)
    spread = update * (14 * u + underflow / OPTIMIZER.adam_eps) + u * (weight + update)
    assert (np.abs(found[0].double().numpy() - exact[0]) <= spread).all()


@given(rngs, st.integers(1, 6))
@settings(max_examples=20)
def test_torch_optim_adam(rng, count):
    weight = rng.standard_normal((3, 4))
    parameter = torch.nn.Parameter(torch.from_numpy(weight.copy()))
    torchs = torch.optim.Adam([parameter], lr=0.04, betas=(0.9, 0.95), eps=1e-8)
    ours, first, second = weight, np.zeros((3, 4)), np.zeros((3, 4))
    for step in range(1, count + 1):
        grad = rng.standard_normal((3, 4)) * 10.0 ** rng.integers(-9, 3)
        parameter.grad = torch.from_numpy(grad)
        torchs.step()
        ours, first, second = reference.adam.adam_step(
            ours, grad, first, second, step, 0.04, OPTIMIZER
        )
        assert relative_error(ours, parameter.detach()) < 1e-13


@given(st.floats(1e-3, 1e3), st.floats(1e-4, 0.1), st.booleans())
def test_first_step_moves_by_the_learning_rate(grad, lr, negative):
    """Bias correction makes the first step lr g / (|g| + eps) whatever the betas."""
    grad = -grad if negative else grad
    weight, _, _ = reference.adam.adam_step(
        np.zeros(1), np.array([grad]), np.zeros(1), np.zeros(1), 1, lr, OPTIMIZER
    )
    assert weight[0] == pytest.approx(-lr * grad / (abs(grad) + 1e-8), rel=1e-13)


def test_betas_come_from_the_recipe():
    optimizer = Optimizer(adam_beta1=0.5, adam_beta2=0.25)
    _, first, second = reference.adam.adam_step(
        np.zeros(1), np.array([2.0]), np.ones(1), np.ones(1), 1, 0.1, optimizer
    )
    assert (first[0], second[0]) == (0.5 + 0.5 * 2, 0.25 + 0.75 * 4)


def test_zero_gradients_of_a_fresh_state_move_nothing():
    zero = torch.zeros(3)
    assert torch.equal(
        fast.adam.adam_step(torch.ones(3), zero, zero, zero, 1, 0.04, OPTIMIZER)[0], torch.ones(3)
    )


# clip


def grads_of(rng, scale):
    """Return gradients of several shapes, one of them empty."""
    return {
        name: scale * rng.standard_normal(shape)
        for name, shape in {"a": (3, 4), "b": (5,), "empty": (0, 2), "c": (2, 2, 2)}.items()
    }


@given(
    rngs,
    st.sampled_from([1e-150, 1e-3, 0.2, 1.0, 1e5, 1e150]),
    st.sampled_from([0.0, 0.5, 1.0, 7.0]),
)
def test_clip(rng, scale, limit):
    grads = grads_of(rng, scale)
    expected, norm = reference.adam.clip(grads, limit)
    found, found_norm = fast.adam.clip(
        {name: torch.from_numpy(value) for name, value in grads.items()}, limit
    )
    assert_same_tensors(found, expected)
    assert_same_algorithm(found_norm, norm)
    assert norm == pytest.approx(
        math.sqrt(math.fsum(float(v) ** 2 for g in grads.values() for v in g.ravel())),
        rel=1e-13,
        abs=0,
    )
    clipped = math.sqrt(math.fsum(float(v) ** 2 for g in expected.values() for v in g.ravel()))
    assert clipped == pytest.approx(min(norm, limit) if limit else norm, rel=1e-13, abs=0)


@given(rngs, st.sampled_from([1e-3, 1.0, 1e4]))
@settings(max_examples=30)
def test_torch_clip_grad_norm(rng, scale):
    """torch adds 1e-6 to the norm it divides by."""
    grads = grads_of(rng, scale)
    parameters = [
        torch.nn.Parameter(torch.zeros(value.shape, dtype=torch.float64))
        for value in grads.values()
    ]
    for parameter, value in zip(parameters, grads.values(), strict=True):
        parameter.grad = torch.from_numpy(value.copy())
    total = torch.nn.utils.clip_grad_norm_(parameters, 1.0)
    ours, norm = reference.adam.clip(grads, 1.0)
    assert norm == pytest.approx(float(total), rel=1e-13)
    for parameter, value in zip(parameters, ours.values(), strict=True):
        assert relative_error(value, parameter.grad) <= (
            1.01e-6 / norm + 1e-13 if norm > 1 else 1e-6
        )


def test_direction_is_kept_and_at_the_limit_nothing_happens():
    grads = {"a": np.array([3.0]), "b": np.array([4.0])}
    assert reference.adam.clip(grads, 5.0)[0] == grads
    halved, norm = reference.adam.clip(grads, 2.5)
    assert norm == 5.0 and (halved["a"][0], halved["b"][0]) == (1.5, 2.0)
    zero, norm = fast.adam.clip({"a": torch.zeros(2)}, 1.0)
    assert norm == 0 and torch.equal(zero["a"], torch.zeros(2))


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_gradient_that_is_not_finite_shows_in_the_norm(bad):
    _, norm = fast.adam.clip({"a": torch.ones(2), "b": torch.tensor([1.0, bad])}, 1.0)
    assert not torch.isfinite(norm)
