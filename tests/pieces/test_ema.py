"""EMA: closed form, a float32 shadow that moves, and the moment it is seeded."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import fast.ema
import reference.ema
from tests.support.compare import assert_same_algorithm, relative_error, unit_roundoff
from tests.support.strategies import rngs

decays = st.sampled_from([0.0, 0.5, 0.9, 0.999])


@given(rngs, decays)
def test_update(rng, decay):
    shadow, weight = rng.standard_normal((2, 3, 4))
    expected = reference.ema.ema_update(shadow, weight, decay)
    for decay_given in (decay, torch.tensor(decay, dtype=torch.float64)):
        assert_same_algorithm(
            fast.ema.ema_update(torch.from_numpy(shadow), torch.from_numpy(weight), decay_given),
            expected,
        )
    between = np.minimum(shadow, weight) - 1e-15, np.maximum(shadow, weight) + 1e-15
    assert (between[0] <= expected).all() and (expected <= between[1]).all()


@given(rngs, decays, st.integers(0, 30))
def test_closed_form(rng, decay, steps):
    """After n steps: beta**n of the seed and (1 - beta) beta**(n - 1 - j) of the weights at
    step j.
    """
    weights = rng.standard_normal((steps + 1, 5))
    shadow = weights[0]
    for weight in weights[1:]:
        shadow = reference.ema.ema_update(shadow, weight, decay)
    powers = decay ** np.arange(steps - 1, -1, -1.0)
    expected = decay**steps * weights[0] + (1 - decay) * (powers[:, None] * weights[1:]).sum(axis=0)
    assert np.abs(shadow - expected).max() < 1e-14


@given(rngs, decays, st.sampled_from([torch.float32, torch.bfloat16]))
def test_float32_shadow_stays_within_three_roundings(rng, decay, live):
    shadow, weight = torch.from_numpy(rng.standard_normal((2, 16))).float()
    weight = weight.to(live)
    exact = reference.ema.ema_update(shadow.double().numpy(), weight.double().numpy(), decay)
    found = fast.ema.ema_update(shadow, weight, decay)
    assert found.dtype == torch.float32
    size = np.maximum(shadow.double().abs().numpy(), weight.double().abs().numpy())
    assert (np.abs(found.double().numpy() - exact) <= 3 * unit_roundoff(torch.float32) * size).all()


def test_float32_shadow_moves_where_a_bfloat16_one_freezes():
    weight = torch.full((4,), 1.25, dtype=torch.bfloat16)
    exact = 1.25 - 0.25 * 0.999**1000
    for dtype, moves in ((torch.float32, True), (torch.bfloat16, False)):
        shadow = torch.ones(4, dtype=dtype)
        for _ in range(1000):
            shadow = fast.ema.ema_update(shadow, weight, 0.999)
        assert shadow.dtype == dtype
        assert (
            relative_error(shadow, np.full(4, exact)) < 3000 * unit_roundoff(torch.float32)
        ) == moves
    assert torch.equal(shadow, torch.ones(4, dtype=torch.bfloat16))


def test_decay_zero_seeds_the_shadow_exactly():
    shadow, weight = torch.randn(2, 1000, generator=torch.Generator().manual_seed(0))
    assert torch.equal(fast.ema.ema_update(shadow, weight, 0.0), weight)
    np.testing.assert_array_equal(
        reference.ema.ema_update(shadow.numpy(), weight.numpy(), 0.0), weight.numpy()
    )


@given(st.integers(0, 10**5), st.integers(0, 10**5), st.floats(0, 0.99))
def test_start_is_the_same_step_in_both_halves(step, remaining, start):
    expected = reference.ema.ema_starts(step, remaining, start)
    assert fast.ema.ema_starts(step, remaining, start) == expected
    assert expected == (step >= start * (step + remaining))


@pytest.mark.parametrize(
    ("total", "start", "first"),
    [(100, 0.1, 10), (50, 0.1, 5), (7, 0.1, 1), (80_000, 0.1, 8000), (10, 0.0, 0), (10, 0.95, 10)],
)
def test_first_step_of_a_known_budget(total, start, first):
    assert (
        next(
            step for step in range(total + 1) if reference.ema.ema_starts(step, total - step, start)
        )
        == first
    )
