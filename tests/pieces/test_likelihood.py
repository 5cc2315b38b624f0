"""Likelihood: estimators against enumeration, and against sources and models whose cost is
known.
"""

import itertools
import math

import numpy as np
import pytest
import torch

import fast.chain
import fast.likelihood
import reference.chain
import reference.likelihood
import reference.masking
import reference.sizes
from reference.orders import ORDERS
from reference.recipe import EVALUATION_STEPS, Plan
from tests.support.halves import EXACT, halves, log_probs, of
from tests.support.table_model import TableModel, uniform_model

# Exactness by enumeration


@halves
@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize(("vocab", "length"), [(2, 4), (3, 3)])
def test_probabilities_of_all_sequences_sum_to_one(half, order, vocab, length):
    model = TableModel(vocab, length, seed=vocab)
    for step in range(1, length + 1):
        # One row each, so that the random order is the same for all sequences, as a code needs it
        # to be.
        chain, callable_ = of(half, "chain").chain, log_probs(model, half)
        nats = [
            chain(callable_, ids_1L, vocab, order, 3, step, 2, 5).sum()
            for ids_1L in model.sequences()[:, None]
        ]
        assert abs(np.exp(-np.array(nats)).sum() - 1) < 1e-12, step


@pytest.mark.parametrize("order", ORDERS)
def test_probabilities_sum_to_one_at_the_largest_size_enumerated(order):
    model = TableModel(3, 4, seed=8)
    for step in (1, 2, 3, 4):
        if order == "random":
            nats_N = [
                fast.chain.chain(model.torch, ids_1L, 3, order, 3, step, 2).sum()
                for ids_1L in model.sequences()[:, None]
            ]
        else:
            nats_N = fast.chain.chain(model.torch, model.sequences(), 3, order, 3, step, 3).sum(
                axis=1
            )
        assert abs(np.exp(-np.asarray(nats_N)).sum() - 1) < 1e-12, step


@pytest.mark.parametrize(("vocab", "length"), [(2, 1), (2, 3), (3, 4), (2, 5)])
def test_mean_over_all_orders_is_the_nelbo(vocab, length):
    model = TableModel(vocab, length)
    for ids_L in model.windows(3):
        by_orders = reference.likelihood.mean_over_orders(model.numpy, ids_L, vocab)
        np.testing.assert_allclose(
            reference.likelihood.exact_nelbo(model.numpy, ids_L, vocab), by_orders, **EXACT
        )


def test_nelbo_is_at_least_the_negative_log_of_the_mean_over_orders():
    # Jensen: the code of a randomly drawn order is never shorter than the mixture of all of them,
    # so no sum over sequences exceeds 1.
    model = TableModel(2, 4)
    total = sum(
        math.exp(-reference.likelihood.exact_nelbo(model.numpy, ids_L, 2))
        for ids_L in model.sequences()
    )
    assert total < 1


@halves
def test_masks_of_a_size_are_uniform_over_subsets_and_ties_go_low(half):
    permutations_PL = np.array(list(itertools.permutations(range(4))), np.int64)
    for size in range(5):
        if half == "reference":
            masks = [reference.likelihood.fixed_mask(words_L, size) for words_L in permutations_PL]
            tied = reference.likelihood.fixed_mask(np.zeros(4), size)
        else:
            words_PL, size_P = torch.from_numpy(permutations_PL), torch.full((24,), size)
            masks = fast.likelihood.fixed_mask(words_PL, size_P).numpy()
            tied = fast.likelihood.fixed_mask(torch.zeros(1, 4), torch.tensor([size]))[0].numpy()
        subsets, counts = np.unique(np.array(masks), axis=0, return_counts=True)
        assert (
            len(subsets) == math.comb(4, size)
            and set(counts) == {24 // math.comb(4, size)}
            and (subsets.sum(axis=1) == size).all()
        )
        np.testing.assert_array_equal(tied, np.arange(4) < size)


def plant_draws(monkeypatch, half, words_L, rotation=0):
    """Make every mask draw words_L and every rotation `rotation`, so that a test can enumerate what
    Philox only samples.
    """

    def planted(seed, stream, step, rows, columns, **_):
        words = (
            np.full((len(rows), columns), rotation << 8)
            if step == EVALUATION_STEPS["rotations"][0]
            else np.tile(words_L, (len(rows), 1))
        )
        return (
            words.astype(np.uint32)
            if half == "reference"
            else torch.from_numpy(words.astype(np.int64))
        )

    monkeypatch.setattr(of(half, "philox"), "words", planted)


@halves
@pytest.mark.parametrize("row", [4, 7])
def test_nelbo_is_unbiased_by_enumeration(monkeypatch, half, row):
    """The mean of the estimator over all rotations and all masks is the NELBO, for a plan that fits
    nothing.
    """
    model, ids_1L, draws = TableModel(3, 3), np.array([[2, 0, 1]]), 2
    cumulative_2L = np.array([[3, 4, 16], [9, 15, 16]]) * 2**20
    plan = Plan(cumulative_2L, np.array([[1.7, -0.4, 3.0], [0.2, 5.0, 1.0]]))
    estimates = []
    # Sizes change at multiples of 2**20 / draws only, so 16 * draws rotations stand for all of
    # them.
    for rotation in range(2**18, 2**24, 2**19):
        for words_L in itertools.permutations(range(3)):
            plant_draws(monkeypatch, half, np.array(words_L), rotation)
            nats_NK = of(half, "likelihood").nelbo(
                log_probs(model, half), ids_1L, 3, draws, plan, 11, row
            )
            estimates.append(nats_NK.mean())
    assert len(estimates) == 32 * 6 and np.ptp(estimates) > 1
    np.testing.assert_allclose(
        np.mean(estimates), reference.likelihood.exact_nelbo(model.numpy, ids_1L[0], 3), **EXACT
    )


@halves
@pytest.mark.parametrize(
    "forced_below", [0.0, 0.001, 0.3]
)  # 0.001 is the smallest time: not below itself
def test_nelbo_grid_has_its_enumerated_expectation(monkeypatch, half, forced_below):
    model, ids_1L, points, epsilon = TableModel(2, 3), np.array([[1, 0, 1]]), 5, 0.001
    chance_K = (
        reference.masking.thresholds(epsilon + (1 - epsilon) * np.arange(points) / (points - 1))
        * 2.0**-24
    )
    expectation_K = np.zeros(points)
    for hidden in itertools.product([True, False], repeat=3):
        plant_draws(monkeypatch, half, np.where(hidden, 0, 2**32 - 1))
        nats_NK = of(half, "likelihood").nelbo_grid(
            log_probs(model, half), ids_1L, 2, points, epsilon, forced_below, 0
        )
        expectation_K += nats_NK[0] * np.prod(
            [chance_K if hides else 1 - chance_K for hides in hidden], axis=0
        )
    exact = reference.likelihood.exact_grid(
        model.numpy, ids_1L[0], 2, points, epsilon, forced_below
    )
    np.testing.assert_allclose(expectation_K.mean(), exact, **EXACT)


def test_unforced_grid_tends_to_the_nelbo_and_errs_by_the_end_point_rule():
    """K points with both ends weigh them once too often: the bias is ((g(0) + g(1)) / 2 - integral)
    / K to first order.
    """
    model, ids_L = TableModel(2, 3), np.array([1, 0, 1])
    exact = reference.likelihood.exact_nelbo(model.numpy, ids_L, 2)
    alone = [
        reference.likelihood.nll(model.numpy, ids_L, np.arange(3) == i, 2).sum() for i in range(3)
    ]
    everything = reference.likelihood.nll(model.numpy, ids_L, np.ones(3, bool), 2).sum()
    for points in (256, 512):
        # 2**-20 is exact in the 24-bit thresholds, and what it cuts off the integral is below 4e-6.
        bias = reference.likelihood.exact_grid(model.numpy, ids_L, 2, points, 2.0**-20, 0.0) - exact
        assert abs(bias * points - ((sum(alone) + everything) / 2 - exact)) < 20 / points


def test_forced_mask_costs_what_the_documentation_says():
    """Bias at L = 1024 of losses like a trained model's, in its limit of many windows: the
    enumeration above with the masks summed out.

    1.9 nats per token with all else visible, 6 with nothing, 3 at the first position; 2.44 bytes
    per token.
    """
    length, epsilon = 1024, 0.001
    for points, documented in ((256, 0.0086), (64, 0.03)):
        t_K = epsilon + (1 - epsilon) * np.arange(points) / (points - 1)
        curve_K = 1.9 + 4.1 * t_K**2  # nats per hidden token; integral 1.9 + 4.1 / 3
        forced_K = np.where(t_K < 0.01, 3.0 * (1 - t_K) / t_K / length, 0)
        bias = (1 - epsilon) * (curve_K + forced_K).mean() - (1.9 + 4.1 / 3)
        assert abs(bias / math.log(2) / 2.44 - documented) < 0.1 * documented


# Known sources


def test_uniform_model_costs_log_v_per_token_in_every_estimator():
    vocab, ids_NL, model = 1024, np.arange(48).reshape(3, 16), uniform_model(1024)
    expected = 16 * math.log(vocab)
    for order in ORDERS:
        for step in (1, 5):
            nats_NL = fast.chain.chain(model, ids_NL, vocab, order, 0, step, 4)
            np.testing.assert_allclose(nats_NL, math.log(vocab), **EXACT)
    plan = fast.likelihood.pilot(model, ids_NL, vocab, 8, 0)
    nats_NK = fast.likelihood.nelbo(model, ids_NL, vocab, 4, plan, 0)
    # A weight of at most 2**24 / count times the rounding error of a curve fitted to equal values.
    np.testing.assert_allclose(nats_NK, expected, rtol=1e-11)
    assert (fast.likelihood.mask_variance(nats_NK) < 1e-18 * expected**2).all()
    np.testing.assert_allclose(
        fast.likelihood.causal_nll(model, ids_NL, np.array([-1, 3, 4])), math.log(vocab), **EXACT
    )


def markov_model(flip):
    """Exact conditionals of the symmetric two-state chain given any visible positions: only the
    nearest on each side matter.
    """

    def model(ids_BL):
        sign_BL = torch.where(ids_BL == 2, 0, 1 - 2 * ids_BL).double()
        keep = 1 - 2 * flip

        def carried(sign_BL):
            columns, state_B = [], torch.zeros(len(sign_BL), dtype=torch.float64)
            for i in range(sign_BL.shape[1]):
                state_B = state_B * keep
                columns.append(state_B)
                state_B = torch.where(sign_BL[:, i] == 0, state_B, sign_BL[:, i])
            return torch.stack(columns, dim=1)

        left_BL, right_BL = carried(sign_BL), carried(sign_BL.flip(1)).flip(1)
        weights = torch.stack(
            [(1 + left_BL) * (1 + right_BL), (1 - left_BL) * (1 - right_BL)], dim=-1
        )
        return (weights / weights.sum(dim=-1, keepdim=True)).log()

    return model


def markov_windows(flip, count, length, seed):
    random = np.random.default_rng(seed)
    flips = random.random((count, length)) < np.where(np.arange(length), flip, 0.5)
    return flips.cumsum(axis=1) % 2


def test_true_model_of_a_markov_source_costs_the_same_along_every_order():
    ids_NL = markov_windows(0.2, 30, 12, 0)
    flips_N = (ids_NL[:, 1:] != ids_NL[:, :-1]).sum(axis=1)
    exact_N = math.log(2) - flips_N * math.log(0.2) - (11 - flips_N) * math.log(0.8)
    for order in ORDERS:
        nats_NL = fast.chain.chain(markov_model(0.2), ids_NL, 2, order, 1, 1, 4)
        np.testing.assert_allclose(nats_NL.sum(axis=1), exact_N, **EXACT)
        several = fast.chain.chain(markov_model(0.2), ids_NL, 2, order, 1, 4, 4).sum()
        assert several > exact_N.sum() + 5  # positions of one pass are coded independently: looser
    plan = fast.likelihood.pilot(markov_model(0.2), ids_NL, 2, 16, 1)
    nats_NK = fast.likelihood.nelbo(markov_model(0.2), ids_NL, 2, 64, plan, 1)
    error = nats_NK.mean(axis=1).sum() - exact_N.sum()
    assert abs(error) < 4 * math.sqrt(fast.likelihood.mask_variance(nats_NK).sum())


@pytest.mark.parametrize("flip", [0.1, 0.3])
def test_no_model_beats_the_entropy_of_a_markov_source(flip):
    length, source = 16, 0.2
    ids_NL = markov_windows(source, 400, length, 7)
    entropy = math.log(2) - (length - 1) * (
        source * math.log(source) + (1 - source) * math.log(1 - source)
    )
    model = markov_model(flip)
    plan = fast.likelihood.pilot(model, ids_NL, 2, 32, 2)
    totals = {"nelbo": fast.likelihood.nelbo(model, ids_NL, 2, 4, plan, 2).mean(axis=1)}
    for order in ORDERS:
        for step in (1, 5):
            totals[order, step] = fast.chain.chain(model, ids_NL, 2, order, 2, step, 4).sum(axis=1)
    for name, nats_N in totals.items():
        assert nats_N.mean() > entropy - 4 * nats_N.std() / math.sqrt(len(nats_N)), name
