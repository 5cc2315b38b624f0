"""Sizes of masks: how many draws each gets, that they spread evenly over windows, and what a pilot
learns of them.
"""

import itertools
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import fast.likelihood
import fast.sizes
import reference.sizes
from reference.recipe import EVALUATION_STEPS, Stream
from tests.support.halves import EXACT, halves, log_probs, of
from tests.support.table_model import TableModel, uniform_model


@halves
def test_sizes_follow_their_probability_exactly(half):
    """Point k 2**24 + offset takes each of the draws * 2**24 values once, so a size's share is
    settled at its two ends.
    """
    for spread_L, draws in (
        (np.ones(4), 3),
        (np.array([5.0, 0.0, 1e-9, 2.0, 1.0]), 4),
        (np.ones(1), 2),
        (1 / np.arange(1, 9), 1),
    ):
        cumulative_L = of(half, "sizes").cumulative_counts(spread_L)
        begin = 0
        for size, end in enumerate((draws * cumulative_L).tolist(), start=1):
            for point in (begin, end - 1):
                k, offset = divmod(point, 2**24)
                if half == "reference":
                    drawn = reference.sizes.draw_sizes(cumulative_L, offset, draws)[k]
                else:
                    drawn = fast.sizes.draw_sizes(
                        torch.from_numpy(cumulative_L)[None], torch.tensor([offset]), draws
                    )[0, k]
                assert drawn == size
            begin = end
        assert begin == draws * 2**24


@settings(max_examples=60)
@given(
    st.lists(st.floats(0, 1e6), min_size=1, max_size=300).filter(lambda spread: 1e-6 < sum(spread))
)
def test_counts_are_proportional_and_never_zero(spread):
    spread_L = np.array(spread)
    cumulative_L = reference.sizes.cumulative_counts(spread_L)
    np.testing.assert_array_equal(fast.sizes.cumulative_counts(spread_L), cumulative_L)
    count_L = np.diff(cumulative_L, prepend=0)
    assert cumulative_L.dtype == np.int64 and cumulative_L[-1] == 2**24 and count_L.min() >= 1
    # One point each is set aside, and floor moves each end of a size's interval by less than one
    # point.
    assert (abs(count_L - 1 - (2**24 - len(spread)) * spread_L / spread_L.sum()) <= 1 + 1e-6).all()


@given(
    st.integers(0, 2**64 - 1),
    st.lists(st.integers(0, 2**24 - 1), min_size=1, max_size=9),
    st.integers(0, 3),
)
def test_offsets_agree_bit_for_bit(seed, indices, column):
    expected = [reference.sizes.offset(seed, index, column) for index in indices]
    np.testing.assert_array_equal(fast.sizes.offset(seed, np.array(indices), column), expected)
    assert all(0 <= offset < 2**24 for offset in expected)


def test_offsets_of_an_aligned_power_of_two_of_windows_are_an_even_grid():
    for first, count in ((0, 16), (32, 32), (7, 1), (48, 16)):
        offsets = np.sort(fast.sizes.offset(1, np.arange(first, first + count), 0))
        assert set(np.diff(offsets)) <= {2**24 // count}
    assert (
        len(
            {
                int(fast.sizes.offset(seed, [0], column)[0])
                for seed in range(5)
                for column in range(4)
            }
        )
        == 20
    )


def test_sizes_are_stratified_over_windows_and_draws():
    """Of M even points an interval of probability p holds M p of them, rounded up or down: per
    window and over all windows.
    """
    spread_L = 1 / np.sqrt(np.arange(1, 33))
    cumulative_L = torch.from_numpy(fast.sizes.cumulative_counts(spread_L))
    share_L = np.diff(cumulative_L.numpy(), prepend=0) / 2**24
    size_NK = fast.sizes.draw_sizes(
        cumulative_L.expand(16, 32), torch.from_numpy(fast.sizes.offset(3, np.arange(16), 0)), 12
    ).numpy()
    expected = [
        reference.sizes.draw_sizes(cumulative_L.numpy(), reference.sizes.offset(3, n, 0), 12)
        for n in range(16)
    ]
    np.testing.assert_array_equal(size_NK, expected)
    for sizes, points in [(size_NK, 192), *((row, 12) for row in size_NK)]:
        counts_L = np.bincount(sizes.ravel(), minlength=33)[1:]
        assert (abs(counts_L - points * share_L) < 1 + 1e-6).all()
        assert (abs(counts_L.cumsum() - points * share_L.cumsum()) < 1 + 1e-6).all()


def test_pilot_spreads_its_sizes_over_all_scales(monkeypatch):
    seen = []
    fit = fast.sizes.fit
    monkeypatch.setattr(
        fast.sizes,
        "fit",
        lambda sizes_P, losses_P, length: seen.append(sizes_P) or fit(sizes_P, losses_P, length),
    )
    fast.likelihood.pilot(uniform_model(4), np.zeros((8, 256), np.int64), 4, 64, 0)
    for sizes_P in seen:
        octaves = np.bincount(np.log2(sizes_P).astype(int), minlength=9)
        harmonic = [sum(1 / size for size in range(2**j, min(2 ** (j + 1), 257))) for j in range(9)]
        assert (abs(octaves - 64 * np.array(harmonic) / sum(harmonic)) < 1 + 1e-6).all()


@halves
def test_each_fold_learns_from_the_other(half):
    """Tokens 0 cost 1 nat and fill the even rows, tokens 1 cost 3 and fill the odd ones: the plans
    must say 3 and 1.
    """
    log_p = np.log([math.exp(-1), math.exp(-3), 1 - math.exp(-1) - math.exp(-3)])
    table = np.broadcast_to(log_p, (64, 6, 3)).copy()
    model = (
        (lambda ids: table[: len(ids)])
        if half == "reference"
        else (lambda ids: torch.from_numpy(table[: len(ids)]))
    )
    ids_NL = np.tile(np.arange(5)[:, None] % 2, (1, 6))
    plan = of(half, "likelihood").pilot(model, ids_NL, 3, 10, 0, 6)
    np.testing.assert_allclose(plan.curve_2L, np.tile([[3.0], [1.0]], (1, 6)), **EXACT)
    plan = of(half, "likelihood").pilot(model, ids_NL, 3, 10, 0, 7)
    np.testing.assert_allclose(plan.curve_2L, np.tile([[1.0], [3.0]], (1, 6)), **EXACT)
    plan = of(half, "likelihood").pilot(model, ids_NL, 3, 10, 0)  # rows count from 0, an even one
    np.testing.assert_allclose(plan.curve_2L, np.tile([[3.0], [1.0]], (1, 6)), **EXACT)
    lone = of(half, "likelihood").pilot(model, ids_NL[1:2], 3, 10, 0, 6)
    np.testing.assert_allclose(lone.curve_2L, np.full((2, 6), 3.0), **EXACT)


@halves
def test_no_two_uses_share_a_draw(monkeypatch, half):
    model, module = TableModel(3, 4), of(half, "philox")
    words, used, counted = module.words, [], []

    def spy(seed, stream, step, rows, columns, **keywords):
        used.extend((int(stream), int(step), int(row)) for row in rows)
        return words(seed, stream, step, rows, columns, **keywords)

    def steps_of(*uses):
        """Return whether what was drawn since the last call is of these uses alone."""
        steps = {step for stream, step, _ in used[len(counted) :] if stream == Stream.EVALUATION}
        counted.extend(used[len(counted) :])
        return steps and all(any(step in EVALUATION_STEPS[use] for use in uses) for step in steps)

    monkeypatch.setattr(module, "words", spy)
    ids_NL, keywords = model.windows(6), {} if half == "reference" else {"batch_rows": 3}
    likelihood, callable_ = of(half, "likelihood"), log_probs(model, half)
    plan = likelihood.pilot(callable_, ids_NL, 3, 6, 0, 2, **keywords)
    assert steps_of("pilot", "rotations")
    likelihood.nelbo(callable_, ids_NL, 3, 4, plan, 0, 2, **keywords)
    assert steps_of("nelbo", "rotations")
    likelihood.nelbo_grid(callable_, ids_NL, 3, 5, 0.001, 0.01, 0, 2, **keywords)
    assert steps_of("nelbo-grid")
    of(half, "chain").sampled(callable_, ids_NL, 3, "left-to-right", 0, 2, 2, **keywords)
    assert steps_of("positions")
    of(half, "chain").chain(callable_, ids_NL, 3, "random", 0, 1, 1, 2, **keywords)
    masks = [use for use in used if use[1] != EVALUATION_STEPS["rotations"][0]]
    assert len(masks) == len(set(masks)) == 2 * 6 + 6 * 4 + 6 * 5 + 6 + 6


@settings(max_examples=40)
@given(st.integers(1, 200), st.integers(1, 40), st.integers(0, 2**32 - 1))
def test_fitted_curves_agree(length, draws, seed):
    random = np.random.default_rng(seed)
    sizes_P, losses_P = random.integers(1, length + 1, draws), random.gamma(2.0, 1.0, draws)
    expected, found = (
        reference.sizes.fit(sizes_P, losses_P, length),
        fast.sizes.fit(sizes_P, losses_P, length),
    )
    np.testing.assert_array_equal(found[0], expected[0])
    np.testing.assert_allclose(found[1], expected[1], rtol=1e-9, atol=1e-9)


def test_a_long_pilot_finds_the_curve_and_the_spread():
    random, length = np.random.default_rng(0), 64
    sizes_P = random.integers(1, length + 1, 400_000)
    truth_L = 1 + 0.3 * np.log2(np.arange(1, length + 1))
    spread_L = 2 / np.sqrt(np.arange(1, length + 1)) + 0.3
    losses_P = truth_L[sizes_P - 1] + spread_L[sizes_P - 1] * random.standard_normal(400_000)
    cumulative_L, curve_L = reference.sizes.fit(sizes_P, losses_P, length)
    # At size 1: 6,000 draws of deviation 2.3, error 0.03
    assert abs(curve_L - truth_L).max() < 0.12
    share_L = np.diff(cumulative_L, prepend=0) / 2**24
    # Rounding to 1/16 octave of variance moves a spread by 1 %, its fit is straight between knots,
    # and 6,000 draws know it to 1 %.
    assert (abs(share_L / (spread_L / spread_L.sum()) - 1) < 0.05).all()


@pytest.mark.parametrize("first", itertools.permutations([np.inf, np.nan, -np.inf], 2))
def test_infinite_pilot_losses_leave_a_usable_plan(first):
    sizes_P, losses_P = np.array([1, 2, 4, 4]), np.array([*first, 2.0, 1.0])
    expected, found = (
        reference.sizes.fit(sizes_P, losses_P, 4),
        fast.sizes.fit(sizes_P, losses_P, 4),
    )
    np.testing.assert_array_equal(found[0], expected[0])
    np.testing.assert_allclose(found[1], expected[1], **EXACT)
    assert (
        np.isfinite(found[1]).all()
        and np.isfinite(expected[1]).all()
        and (np.diff(found[0], prepend=0) >= 1).all()
    )


def test_fit_survives_one_draw_and_equal_losses():
    for sizes_P, losses_P in (
        (np.array([3]), np.array([2.0])),
        (np.array([1, 8, 8]), np.full(3, 2.0)),
    ):
        cumulative_L, curve_L = reference.sizes.fit(sizes_P, losses_P, 8)
        np.testing.assert_allclose(curve_L, 2.0, **EXACT)
        spread_L = 1 / np.sqrt(np.arange(1, 9))
        np.testing.assert_array_equal(
            cumulative_L, reference.sizes.cumulative_counts(spread_L * 2.0**-20)
        )
