"""Muon: the odd polynomial on singular values, torch.optim.Muon, and matrices of every awkward
kind.
"""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils.flop_counter import FlopCounterMode

import fast.muon
import reference.muon
from harness.parity import plain
from reference.recipe import GOLF, Optimizer
from tests.support.compare import assert_same_algorithm, relative_error, rms, unit_roundoff
from tests.support.strategies import rngs

OPTIMIZER = GOLF.optimizer
SETTING = (OPTIMIZER.muon_steps, OPTIMIZER.muon_coefficients, OPTIMIZER.muon_eps)
SHAPES = [(1, 1), (1, 7), (7, 1), (5, 5), (4, 9), (9, 4), (16, 33)]
sizes = st.integers(1, 9)


def matrices(rng, rows, columns, rank=None, scale=1.0):
    """Return a random matrix of a rank."""
    rank = min(rows, columns) if rank is None else rank
    return scale * rng.standard_normal((rows, rank)) @ rng.standard_normal((rank, columns))


def by_singular_values(matrix, steps, coefficients, eps):
    """Return U p(...p(s / (|s| + eps))) V': Newton-Schulz changes singular values alone, by the
    polynomial a s + b s**3 + c s**5.
    """
    u, s, vt = np.linalg.svd(matrix, full_matrices=False)
    a, b, c = coefficients
    s = s / (np.linalg.norm(s) + eps)
    for _ in range(steps):
        s = a * s + b * s**3 + c * s**5
    return u * s @ vt


@given(rngs, sizes, sizes, st.sampled_from([1e-3, 1.0, 1e3]), st.integers(1, 6))
def test_newton_schulz_is_a_polynomial_of_the_singular_values(rng, rows, columns, scale, steps):
    matrix = matrices(rng, rows, columns, scale=scale)
    expected = by_singular_values(matrix, steps, *SETTING[1:])
    found = reference.muon.newton_schulz(matrix, steps, *SETTING[1:])
    assert relative_error(found, expected) < 1e-11
    assert_same_algorithm(
        fast.muon.newton_schulz(torch.from_numpy(matrix), steps, *SETTING[1:]), found
    )


@given(rngs, st.integers(2, 9), st.integers(2, 9), st.integers(1, 3))
def test_rank_deficient_matrices_keep_their_rank(rng, rows, columns, rank):
    rank = min(rank, rows, columns)
    matrix = matrices(rng, rows, columns, rank)
    found = reference.muon.newton_schulz(matrix, *SETTING)
    assert relative_error(found, by_singular_values(matrix, *SETTING)) < 1e-10
    assert np.linalg.matrix_rank(found, tol=1e-9) <= rank
    assert_same_algorithm(fast.muon.newton_schulz(torch.from_numpy(matrix), *SETTING), found)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("scale", [0.0, 1e-300, 1e-150, 1e-12, 1e-7, 1e12, 1e150])
def test_zero_tiny_and_huge(shape, scale):
    """The largest entry decides: below eps the input shrinks with it, above it the scale is gone;
    nothing overflows up to 1e150.
    """
    matrix = scale * np.random.default_rng(1).standard_normal(shape)
    expected = reference.muon.newton_schulz(matrix, *SETTING)
    assert np.isfinite(expected).all() and expected.any() == (scale > 0)
    assert relative_error(expected, by_singular_values(matrix, *SETTING)) < 1e-10
    assert_same_algorithm(fast.muon.newton_schulz(torch.from_numpy(matrix), *SETTING), expected)


@given(rngs, sizes, sizes)
def test_transposing_commutes(rng, rows, columns):
    matrix = matrices(rng, rows, columns)
    assert (
        relative_error(
            reference.muon.newton_schulz(matrix.T, *SETTING),
            reference.muon.newton_schulz(matrix, *SETTING).T,
        )
        < 1e-12
    )
    transposed = fast.muon.newton_schulz(torch.from_numpy(matrix).mT, *SETTING)
    assert_same_algorithm(transposed, reference.muon.newton_schulz(matrix, *SETTING).T)


def test_products_are_taken_on_the_short_side():
    """Without transposing the numbers are the same in exact arithmetic: the multiplications
    tell.
    """
    rows, columns, counts = 4, 32, []
    for shape in ((rows, columns), (columns, rows), (64, rows, columns), (64, columns, rows)):
        with FlopCounterMode(display=False) as counter:
            fast.muon.newton_schulz(torch.ones(shape), *SETTING)
        counts.append(counter.get_total_flops() // math.prod(shape[:-2]))
    assert counts == [2 * SETTING[0] * (2 * rows * rows * columns + rows**3)] * 4


@given(st.floats(0.01, 1.0))
def test_singular_values_land_between_0_6_and_1_3(s):
    """Five steps of the polynomial take [0.01, 1] into a band around 1: scanned by hypothesis,
    about 0.7 ... 1.2 in Jordan's post.
    """
    found = reference.muon.newton_schulz(np.diag([s, math.sqrt(1 - s * s)]), *SETTING)
    assert 0.6 < found[0, 0] < 1.3 and abs(found[0, 1]) < 1e-12


@given(rngs, st.sampled_from(SHAPES), st.integers(1, 4))
@settings(max_examples=40)
def test_a_stack_is_its_members(rng, shape, layers):
    stack = rng.standard_normal((layers, *shape))
    stack[0] *= 1e3  # each has its own norm
    expected = np.stack([reference.muon.newton_schulz(matrix, *SETTING) for matrix in stack])
    assert_same_algorithm(fast.muon.newton_schulz(torch.from_numpy(stack), *SETTING), expected)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
@pytest.mark.parametrize("shape", [(64, 64), (32, 64), (128, 64)])
def test_low_precision_errs_at_most_twice_as_much_as_the_other_association(dtype, shape):
    matrix = torch.from_numpy(np.random.default_rng(5).standard_normal(shape)).to(dtype)
    exact = reference.muon.newton_schulz(matrix.double().numpy(), *SETTING)
    found = fast.muon.newton_schulz(matrix, *SETTING)
    assert found.dtype == dtype
    limit = 2 * rms(plain.newton_schulz(matrix, OPTIMIZER, True).double().numpy() - exact)
    assert 0 < limit < 0.2 * rms(exact)
    assert rms(found.double().numpy() - exact) <= limit


def muon_inputs(rng, rows, columns):
    """Return (weight, grad, buffer)."""
    return rng.standard_normal((3, rows, columns))


@given(rngs, sizes, sizes, st.floats(0, 0.1), st.floats(0, 0.99))
def test_step(rng, rows, columns, lr, momentum):
    weight, grad, buffer = muon_inputs(rng, rows, columns)
    expected, new_buffer = reference.muon.muon_step(weight, grad, buffer, lr, momentum, OPTIMIZER)
    found = fast.muon.muon_step(
        *(torch.from_numpy(value) for value in (weight, grad, buffer)), lr, momentum, OPTIMIZER
    )
    assert_same_algorithm(found[0], expected)
    assert_same_algorithm(found[1], new_buffer)
    as_tensors = [torch.tensor(value, dtype=torch.float64) for value in (lr, momentum)]
    again = fast.muon.muon_step(
        *(torch.from_numpy(value) for value in (weight, grad, buffer)), *as_tensors, OPTIMIZER
    )
    assert_same_algorithm(again[0], expected)
    np.testing.assert_allclose(new_buffer, momentum * buffer + grad, rtol=1e-14)
    nesterov = by_singular_values(grad + momentum * new_buffer, *SETTING)
    assert (
        np.abs((weight - expected) - lr * math.sqrt(max(1, rows / columns)) * nesterov).max()
        < 1e-12
    )


@given(rngs, sizes, sizes, st.sampled_from([2.0**-20, 2.0**20]))
@settings(max_examples=40)
def test_scale_of_all_gradients_does_not_matter(rng, rows, columns, scale):
    """With eps = 0 exactly (powers of two), with eps = 1e-7 up to eps / norm."""
    weight, first, second = muon_inputs(rng, rows, columns)

    def after_two_steps(factor, optimizer):
        buffer, w = np.zeros_like(weight), weight
        for grad in (first, second):
            w, buffer = reference.muon.muon_step(w, factor * grad, buffer, 0.02, 0.9, optimizer)
        return w

    exact = replace(OPTIMIZER, muon_eps=0.0)
    np.testing.assert_array_equal(after_two_steps(scale, exact), after_two_steps(1.0, exact))
    if scale > 1:
        norm = min(np.linalg.norm(first), np.linalg.norm(second + 0.9 * (0.9 * first + second)))
        assert relative_error(
            after_two_steps(scale, OPTIMIZER), after_two_steps(1.0, OPTIMIZER)
        ) < 1e-4 * max(1, 1 / norm)


@pytest.mark.parametrize("shape", [(48, 48), (32, 96), (96, 32)])
@pytest.mark.parametrize("momentum", [0.0, 0.85, 0.95])
def test_torch_optim_muon(shape, momentum):
    """torch keeps (1 - mu) times our buffer, so it orthogonalises (1 - mu) times our matrix: the
    same up to eps.

    It iterates in bfloat16, so its update and our bfloat16 one may err at most twice as much as the
    iteration associated the other way.
    """
    rng, u = np.random.default_rng(7), unit_roundoff(torch.float32)
    weight = rng.standard_normal(shape)
    parameter = torch.nn.Parameter(torch.from_numpy(weight).float())
    torchs = torch.optim.Muon(
        [parameter],
        lr=0.02,
        weight_decay=0.0,
        momentum=momentum,
        nesterov=True,
        ns_coefficients=OPTIMIZER.muon_coefficients,
        eps=OPTIMIZER.muon_eps,
        ns_steps=OPTIMIZER.muon_steps,
        adjust_lr_fn="original",
    )
    buffer, fast_weight, fast_buffer = (
        np.zeros(shape),
        parameter.detach().clone(),
        torch.zeros(shape),
    )
    for _ in range(3):
        grad = rng.standard_normal(shape)
        before, fast_before = parameter.detach().clone(), fast_weight
        parameter.grad = torch.from_numpy(grad).float()
        torchs.step()
        moved, buffer = reference.muon.muon_step(
            np.zeros(shape), grad, buffer, 0.02, momentum, OPTIMIZER
        )
        fast_weight, fast_buffer = fast.muon.muon_step(
            fast_weight, parameter.grad, fast_buffer, 0.02, momentum, OPTIMIZER, torch.bfloat16
        )
        nesterov = torch.from_numpy(grad + momentum * buffer).bfloat16()
        plainly = (
            -0.02
            * math.sqrt(max(1, shape[0] / shape[1]))
            * plain.newton_schulz(nesterov, OPTIMIZER, True).double().numpy()
        )
        limit = 2 * rms(plainly - moved) + 2 * u * rms(weight)  # and the weights' own rounding
        assert limit < 0.1 * rms(moved)
        for update in (parameter.detach() - before, fast_weight - fast_before):
            assert rms(update.double().numpy() - moved) <= limit


@pytest.mark.parametrize(
    ("shape", "factor"), [((4, 4), 1.0), ((4, 16), 1.0), ((16, 4), 2.0), ((9, 1), 3.0)]
)
def test_tall_matrices_move_further(shape, factor):
    zero, grad = np.zeros(shape), np.random.default_rng(2).standard_normal(shape)
    moved, _ = reference.muon.muon_step(zero, grad, zero, 1.0, 0.0, OPTIMIZER)
    np.testing.assert_allclose(
        -moved, factor * reference.muon.newton_schulz(grad, *SETTING), rtol=1e-13
    )


def test_iteration_dtype_leaves_master_and_buffer_alone():
    weight, grad, buffer = (
        torch.randn(4, 6, generator=torch.Generator().manual_seed(i)) for i in range(3)
    )
    new, kept = fast.muon.muon_step(weight, grad, buffer, 0.02, 0.95, OPTIMIZER, torch.bfloat16)
    assert new.dtype == kept.dtype == torch.float32
    assert torch.equal(kept, 0.95 * buffer + grad)
    moved = (weight - new) / 0.02
    # Rounding in float32, not a bfloat16 master
    assert len(torch.unique(moved.bfloat16().float() - moved)) > 1


@given(rngs, sizes, sizes, st.integers(1, 4))
@settings(max_examples=40)
def test_a_step_of_a_stack_is_the_steps_of_its_members(rng, rows, columns, layers):
    state = rng.standard_normal((3, layers, rows, columns))
    found = fast.muon.muon_step(*map(torch.from_numpy, state), 0.02, 0.95, OPTIMIZER)
    members = [
        reference.muon.muon_step(*state[:, layer], 0.02, 0.95, OPTIMIZER) for layer in range(layers)
    ]
    for half, expected in zip(found, zip(*members, strict=True), strict=True):
        assert_same_algorithm(half, np.stack(expected))


@pytest.mark.parametrize("dtype", [None, torch.bfloat16, torch.float64])
def test_only_the_iteration_runs_in_its_dtype(monkeypatch, dtype):
    """To the bit: the matrix is rounded to the dtype once, the update is widened before it is
    scaled. Default: the gradient's dtype.
    """
    weight, grad, buffer = (
        torch.randn(9, 4, generator=torch.Generator().manual_seed(i)) for i in range(3)
    )
    inputs, original = [], fast.muon.newton_schulz
    monkeypatch.setattr(
        fast.muon,
        "newton_schulz",
        lambda matrix, *setting: inputs.append(matrix) or original(matrix, *setting),
    )
    new, _ = fast.muon.muon_step(weight, grad, buffer, 0.02, 0.95, OPTIMIZER, dtype)
    assert inputs[0].dtype == (dtype or torch.float32)
    update = original((grad + 0.95 * (0.95 * buffer + grad)).to(inputs[0].dtype), *SETTING)
    assert torch.equal(new, weight - 0.02 * math.sqrt(9 / 4) * update.float())


def test_coefficients_come_from_the_recipe():
    identity = Optimizer(muon_coefficients=(1.0, 0.0, 0.0), muon_steps=3, muon_eps=0.0)
    grad = np.array([[3.0, 0.0], [0.0, 4.0]])
    moved, _ = reference.muon.muon_step(
        np.zeros((2, 2)), grad, np.zeros((2, 2)), 1.0, 0.0, identity
    )
    np.testing.assert_allclose(-moved, grad / 5, rtol=1e-15)
