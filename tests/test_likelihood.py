"""Likelihood: estimators against enumeration, no peeking, honest error bars, and twins on the same draws."""

import itertools
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import fast.likelihood
import fast.orders
import fast.philox
import fast.sizes
import reference.likelihood
import reference.philox
import reference.sizes
from reference.orders import ORDERS
from reference.recipe import Stream
from tests.compare import OnlyStableSorts
from tests.table_model import TableModel

EXACT = {"rtol": 1e-12, "atol": 1e-12}  # sums of at most a few hundred float64 terms of order 1
halves = pytest.mark.parametrize("half", ["reference", "fast"])


def of(half, name):
    """The module and the model method of one half."""
    return {"reference": reference, "fast": fast}[half].__dict__[name]


def log_probs(model, half):
    return model.numpy if half == "reference" else model.torch


def uniform_model(vocab):
    return lambda ids_BL: torch.full((*ids_BL.shape, vocab), -math.log(vocab), dtype=torch.float64)


# Exactness by enumeration


@halves
@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize(("vocab", "length"), [(2, 4), (3, 3)])
def test_probabilities_of_all_sequences_sum_to_one(half, order, vocab, length):
    model = TableModel(vocab, length, seed=vocab)
    for step in range(1, length + 1):
        # One row each, so that the random order is the same for all sequences, as a code needs it to be.
        chain, callable_ = of(half, "likelihood").chain, log_probs(model, half)
        nats = [chain(callable_, ids_1L, vocab, order, 3, step, 2, 5).sum() for ids_1L in model.sequences()[:, None]]
        assert abs(np.exp(-np.array(nats)).sum() - 1) < 1e-12, step


@pytest.mark.parametrize("order", ORDERS)
def test_probabilities_sum_to_one_at_the_largest_size_enumerated(order):
    model = TableModel(3, 4, seed=8)
    for step in (1, 2, 3, 4):
        if order == "random":
            nats_N = [fast.likelihood.chain(model.torch, ids_1L, 3, order, 3, step, 2).sum() for ids_1L in model.sequences()[:, None]]
        else:
            nats_N = fast.likelihood.chain(model.torch, model.sequences(), 3, order, 3, step, 3).sum(axis=1)
        assert abs(np.exp(-np.asarray(nats_N)).sum() - 1) < 1e-12, step


@pytest.mark.parametrize(("vocab", "length"), [(2, 1), (2, 3), (3, 4), (2, 5)])
def test_mean_over_all_orders_is_the_nelbo(vocab, length):
    model = TableModel(vocab, length)
    for ids_L in model.windows(3):
        by_orders = reference.likelihood.mean_over_orders(model.numpy, ids_L, vocab)
        np.testing.assert_allclose(reference.likelihood.exact_nelbo(model.numpy, ids_L, vocab), by_orders, **EXACT)


def test_nelbo_is_at_least_the_negative_log_of_the_mean_over_orders():
    # Jensen: the code of a randomly drawn order is never shorter than the mixture of all of them, so no sum over sequences exceeds 1.
    model = TableModel(2, 4)
    total = sum(math.exp(-reference.likelihood.exact_nelbo(model.numpy, ids_L, 2)) for ids_L in model.sequences())
    assert total < 1


@halves
def test_sizes_follow_their_probability_exactly(half):
    """Point k 2**24 + offset takes each of the draws * 2**24 values once, so a size's share is settled at its two ends."""
    for spread_L, draws in ((np.ones(4), 3), (np.array([5.0, 0.0, 1e-9, 2.0, 1.0]), 4), (np.ones(1), 2), (1 / np.arange(1, 9), 1)):
        cumulative_L = of(half, "sizes").cumulative_counts(spread_L)
        begin = 0
        for size, end in enumerate((draws * cumulative_L).tolist(), start=1):
            for point in (begin, end - 1):
                k, offset = divmod(point, 2**24)
                if half == "reference":
                    drawn = reference.sizes.draw_sizes(cumulative_L, offset, draws)[k]
                else:
                    drawn = fast.sizes.draw_sizes(torch.from_numpy(cumulative_L)[None], torch.tensor([offset]), draws)[0, k]
                assert drawn == size
            begin = end
        assert begin == draws * 2**24


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
        assert len(subsets) == math.comb(4, size) and set(counts) == {24 // math.comb(4, size)} and (subsets.sum(axis=1) == size).all()
        np.testing.assert_array_equal(tied, np.arange(4) < size)


def plant_draws(monkeypatch, half, words_L, rotation=0):
    """Make every mask draw words_L and every rotation `rotation`, so that a test can enumerate what Philox only samples."""

    def planted(seed, stream, step, rows, columns, **_):
        words = np.full((len(rows), columns), rotation << 8) if step == reference.sizes.ROTATIONS else np.tile(words_L, (len(rows), 1))
        return words.astype(np.uint32) if half == "reference" else torch.from_numpy(words.astype(np.int64))

    monkeypatch.setattr(of(half, "philox"), "words", planted)


@halves
@pytest.mark.parametrize("row", [4, 7])
def test_nelbo_is_unbiased_by_enumeration(monkeypatch, half, row):
    """The mean of the estimator over all rotations and all masks is the NELBO, for a plan that fits nothing."""
    model, ids_1L, draws = TableModel(3, 3), np.array([[2, 0, 1]]), 2
    cumulative_2L = np.array([[3, 4, 16], [9, 15, 16]]) * 2**20
    plan = of(half, "sizes").Plan(cumulative_2L, np.array([[1.7, -0.4, 3.0], [0.2, 5.0, 1.0]]))
    estimates = []
    # Sizes change at multiples of 2**20 / draws only, so 16 * draws rotations stand for all of them.
    for rotation in range(2**18, 2**24, 2**19):
        for words_L in itertools.permutations(range(3)):
            plant_draws(monkeypatch, half, np.array(words_L), rotation)
            nats_NK = of(half, "likelihood").nelbo(log_probs(model, half), ids_1L, 3, draws, plan, 11, row)
            estimates.append(nats_NK.mean())
    assert len(estimates) == 32 * 6 and np.ptp(estimates) > 1
    np.testing.assert_allclose(np.mean(estimates), reference.likelihood.exact_nelbo(model.numpy, ids_1L[0], 3), **EXACT)


@halves
@pytest.mark.parametrize("forced_below", [0.0, 0.001, 0.3])  # 0.001 is the smallest time: not below itself
def test_nelbo_grid_has_its_enumerated_expectation(monkeypatch, half, forced_below):
    model, ids_1L, points, epsilon = TableModel(2, 3), np.array([[1, 0, 1]]), 5, 0.001
    chance_K = reference.masking.thresholds(epsilon + (1 - epsilon) * np.arange(points) / (points - 1)) * 2.0**-24
    expectation_K = np.zeros(points)
    for hidden in itertools.product([True, False], repeat=3):
        plant_draws(monkeypatch, half, np.where(hidden, 0, 2**32 - 1))
        nats_NK = of(half, "likelihood").nelbo_grid(log_probs(model, half), ids_1L, 2, points, epsilon, forced_below, 0)
        expectation_K += nats_NK[0] * np.prod([chance_K if hides else 1 - chance_K for hides in hidden], axis=0)
    exact = reference.likelihood.exact_grid(model.numpy, ids_1L[0], 2, points, epsilon, forced_below)
    np.testing.assert_allclose(expectation_K.mean(), exact, **EXACT)


def test_unforced_grid_tends_to_the_nelbo_and_errs_by_the_end_point_rule():
    """K points with both ends weigh them once too often: the bias is ((g(0) + g(1)) / 2 - integral) / K to first order."""
    model, ids_L = TableModel(2, 3), np.array([1, 0, 1])
    exact = reference.likelihood.exact_nelbo(model.numpy, ids_L, 2)
    alone = [reference.likelihood.nll(model.numpy, ids_L, np.arange(3) == i, 2).sum() for i in range(3)]
    everything = reference.likelihood.nll(model.numpy, ids_L, np.ones(3, bool), 2).sum()
    for points in (256, 512):
        # 2**-20 is exact in the 24-bit thresholds, and what it cuts off the integral is below 4e-6.
        bias = reference.likelihood.exact_grid(model.numpy, ids_L, 2, points, 2.0**-20, 0.0) - exact
        assert abs(bias * points - ((sum(alone) + everything) / 2 - exact)) < 20 / points


def test_forced_mask_costs_what_the_documentation_says():
    """Bias at L = 1024 of losses like a trained model's, in its limit of many windows: the enumeration above with the masks summed out.

    1.9 nats per token with all else visible, 6 with nothing, 3 at the first position; 2.44 bytes per token.
    """
    length, epsilon = 1024, 0.001
    for points, documented in ((256, 0.0086), (64, 0.03)):
        t_K = epsilon + (1 - epsilon) * np.arange(points) / (points - 1)
        curve_K = 1.9 + 4.1 * t_K**2  # nats per hidden token; integral 1.9 + 4.1 / 3
        forced_K = np.where(t_K < 0.01, 3.0 * (1 - t_K) / t_K / length, 0)
        bias = (1 - epsilon) * (curve_K + forced_K).mean() - (1.9 + 4.1 / 3)
        assert abs(bias / math.log(2) / 2.44 - documented) < 0.1 * documented


# No peeking


def reveal_order(model, ids_L, order, step=1):
    """The positions in the order in which the fast chain reveals them, read off what it shows to the model; and the nats."""
    shown = []

    def spy(ids_BL):
        shown.append(ids_BL[0].clone())
        return model(ids_BL)

    nats_L = fast.likelihood.chain(spy, ids_L[None], 3, order, 3, step, 2, 1)[0]
    hidden = [set(torch.nonzero(ids == 3)[:, 0].tolist()) for ids in shown] + [set()]
    for ids in shown:
        assert ((ids == 3) | (ids == torch.from_numpy(ids_L))).all()
    return [sorted(before - after) for before, after in itertools.pairwise(hidden)], nats_L


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("step", [1, 2])
def test_replacing_unrevealed_tokens_changes_neither_choices_nor_costs(order, tied, step):
    model = uniform_model(3) if tied else TableModel(3, 5, scale=2.0).torch
    random = np.random.default_rng(4)
    for ids_L in random.integers(0, 3, (4, 5)):
        passes, nats_L = reveal_order(model, ids_L, order, step)
        assert [len(chosen) for chosen in passes] == ([1] * 5 if step == 1 else [2, 2, 1])
        for known in range(len(passes)):
            revealed = sum(passes[:known], [])
            other_L = random.integers(0, 3, 5)
            other_L[revealed] = ids_L[revealed]
            other_passes, other_nats_L = reveal_order(model, other_L, order, step)
            assert other_passes[: known + 1] == passes[: known + 1]
            np.testing.assert_array_equal(other_nats_L[revealed], nats_L[revealed])


def test_fixed_orders_reveal_what_they_say():
    model, ids_L = TableModel(3, 5).torch, np.array([0, 1, 2, 1, 0])
    assert reveal_order(model, ids_L, "left-to-right")[0] == [[0], [1], [2], [3], [4]]
    assert reveal_order(model, ids_L, "right-to-left", 2)[0] == [[3, 4], [1, 2], [0]]
    words_L = reference.philox.words(3, Stream.ORDER, 0, [1], 5)[0]
    assert sum(reveal_order(model, ids_L, "random")[0], []) == np.argsort(words_L).tolist()
    assert [set(c) for c in reveal_order(model, ids_L, "block", 2)[0]] == [{0, 1}, {2, 3}, {4}]


def test_nelbo_shows_the_model_nothing_it_charges_for():
    """Hidden positions hold the mask id and all others their token: as many hidden as the size that the weights assume."""
    model, ids_NL = TableModel(3, 5), np.array([[0, 1, 2, 1, 0], [2, 2, 2, 1, 0]])
    shown = []

    def spy(ids_BL):
        shown.append(ids_BL.clone())
        return model.torch(ids_BL)

    plan = fast.likelihood.pilot(spy, ids_NL, 3, 8, 0)
    fast.likelihood.nelbo(spy, ids_NL, 3, 4, plan, 0)
    fast.likelihood.nelbo_grid(spy, ids_NL, 3, 4, 0.001, 0.01, 0)
    for ids_BL in shown:
        assert all(any(((row == 3) | (row == torch.from_numpy(ids_L))).all() for ids_L in ids_NL) for row in ids_BL)
    assert all((ids_BL == 3).any(dim=1).all() for ids_BL in shown[:-4])


# Known sources


def test_uniform_model_costs_log_v_per_token_in_every_estimator():
    vocab, ids_NL, model = 1024, np.arange(48).reshape(3, 16), uniform_model(1024)
    expected = 16 * math.log(vocab)
    for order in ORDERS:
        for step in (1, 5):
            nats_NL = fast.likelihood.chain(model, ids_NL, vocab, order, 0, step, 4)
            np.testing.assert_allclose(nats_NL, math.log(vocab), **EXACT)
    plan = fast.likelihood.pilot(model, ids_NL, vocab, 8, 0)
    nats_NK = fast.likelihood.nelbo(model, ids_NL, vocab, 4, plan, 0)
    # A weight of at most 2**24 / count times the rounding error of a curve fitted to equal values.
    np.testing.assert_allclose(nats_NK, expected, rtol=1e-11)
    assert (fast.likelihood.mask_variance(nats_NK) < 1e-18 * expected**2).all()
    np.testing.assert_allclose(fast.likelihood.causal_nll(model, ids_NL, np.array([-1, 3, 4])), math.log(vocab), **EXACT)


def markov_model(flip):
    """Exact conditionals of the symmetric two-state chain given any visible positions: only the nearest on each side matter."""

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
        weights = torch.stack([(1 + left_BL) * (1 + right_BL), (1 - left_BL) * (1 - right_BL)], dim=-1)
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
        nats_NL = fast.likelihood.chain(markov_model(0.2), ids_NL, 2, order, 1, 1, 4)
        np.testing.assert_allclose(nats_NL.sum(axis=1), exact_N, **EXACT)
        several = fast.likelihood.chain(markov_model(0.2), ids_NL, 2, order, 1, 4, 4).sum()
        assert several > exact_N.sum() + 5  # positions of one pass are coded independently: looser
    plan = fast.likelihood.pilot(markov_model(0.2), ids_NL, 2, 16, 1)
    nats_NK = fast.likelihood.nelbo(markov_model(0.2), ids_NL, 2, 64, plan, 1)
    error = nats_NK.mean(axis=1).sum() - exact_N.sum()
    assert abs(error) < 4 * math.sqrt(fast.likelihood.mask_variance(nats_NK).sum())


@pytest.mark.parametrize("flip", [0.1, 0.3])
def test_no_model_beats_the_entropy_of_a_markov_source(flip):
    length, source = 16, 0.2
    ids_NL = markov_windows(source, 400, length, 7)
    entropy = math.log(2) - (length - 1) * (source * math.log(source) + (1 - source) * math.log(1 - source))
    model = markov_model(flip)
    plan = fast.likelihood.pilot(model, ids_NL, 2, 32, 2)
    totals = {"nelbo": fast.likelihood.nelbo(model, ids_NL, 2, 4, plan, 2).mean(axis=1)}
    for order in ORDERS:
        for step in (1, 5):
            totals[order, step] = fast.likelihood.chain(model, ids_NL, 2, order, 2, step, 4).sum(axis=1)
    for name, nats_N in totals.items():
        assert nats_N.mean() > entropy - 4 * nats_N.std() / math.sqrt(len(nats_N)), name


# Error bars


def test_error_bar_over_masks_covers_the_exact_value():
    """60 runs against enumeration: 1.96 standard errors miss in 5 %, so 10 or more misses have probability 0.0006."""
    model, repetitions = TableModel(3, 6), 60
    ids_NL = model.windows(24)
    exact = sum(reference.likelihood.exact_nelbo(model.numpy, ids_L, 3) for ids_L in ids_NL)
    errors, bars = np.zeros(repetitions), np.zeros(repetitions)
    for seed in range(repetitions):
        plan = fast.likelihood.pilot(model.torch, ids_NL, 3, 12, seed)
        nats_NK = fast.likelihood.nelbo(model.torch, ids_NL, 3, 8, plan, seed)
        errors[seed] = nats_NK.mean(axis=1).sum() - exact
        bars[seed] = math.sqrt(fast.likelihood.mask_variance(nats_NK).sum())
    assert (abs(errors) > 1.96 * bars).sum() < 10
    # Mean squared error over mean squared bar: 60 squared normals stay within 0.5 ... 1.7 times their mean but for 1 in 1,000.
    assert 0.4 < (errors**2).mean() / (bars**2).mean() < 1.7
    assert abs(errors.mean()) < 4 * errors.std() / math.sqrt(repetitions)


def test_default_design_beats_independent_bernoulli_times():
    """Variance at equal passes on losses like a language model's: 6 nats**2 per token, a curve that rises with the size."""
    length, vocab, count, draws = 64, 2, 16, 8
    random = np.random.default_rng(0)
    base_L = random.gamma(0.5, 2.0, length)

    def model(ids_BL):
        share_B1 = (ids_BL == vocab).double().mean(dim=1, keepdim=True)
        first_BL = -torch.from_numpy(base_L) * (0.3 + 0.7 * share_B1)
        return torch.stack([first_BL, torch.log1p(-first_BL.exp())], dim=-1)

    ids_NL = np.zeros((count, length), np.int64)
    size_L = np.arange(1, length + 1)
    exact = count * base_L.mean() * (0.3 + 0.7 * size_L / length).sum()
    errors = {"default": [], "independent": []}
    for seed in range(40):
        plan = fast.likelihood.pilot(model, ids_NL, vocab, 8, seed)
        errors["default"].append(fast.likelihood.nelbo(model, ids_NL, vocab, draws, plan, seed).mean(axis=1).sum() - exact)
        t = np.random.default_rng(seed).uniform(0.001, 1, (draws, count))
        hidden = np.random.default_rng(seed + 1000).random((draws, count, length)) < t[..., None]
        share = hidden.mean(axis=2)
        errors["independent"].append(((hidden * base_L).sum(axis=2) * (0.3 + 0.7 * share) / t).mean(axis=0).sum() - exact)
    assert np.mean(np.square(errors["independent"])) > 5 * np.mean(np.square(errors["default"]))


def naive_mask_variance(nats_K):
    """The unbiased variance of three neighbours on a line, of two at either end; the mean divides the sum by K**2."""
    inner = [np.array([1, -2, 1]) @ nats_K[k - 1 : k + 2] / math.sqrt(6) for k in range(1, len(nats_K) - 1)]
    return (sum(value**2 for value in inner) + np.var(nats_K[:2], ddof=1) + np.var(nats_K[-2:], ddof=1)) / len(nats_K) ** 2


@halves
@pytest.mark.parametrize("draws", [2, 3, 4, 5, 8, 9])
def test_mask_variance_counts_every_draw_once(half, draws):
    mask_variance = of(half, "likelihood").mask_variance
    nats_NK = np.random.default_rng(draws).standard_normal((7, draws)) + np.arange(draws)
    np.testing.assert_allclose(mask_variance(nats_NK), [naive_mask_variance(row) for row in nats_NK], **EXACT)
    # Independent draws of variances v_k around a line: the estimate's expectation is linear in them, and equal variances sum to K.
    weights_K = draws**2 * (mask_variance(np.eye(draws)))
    assert weights_K.sum() == pytest.approx(draws, rel=1e-12)
    ramp_K = np.arange(draws)[None] * 3.0
    assert mask_variance(ramp_K)[0] * draws**2 == pytest.approx(9.0, rel=1e-12)  # the two ends, half a step squared each


@halves
def test_summary_of_windows_of_several_lengths(half):
    summarize = of(half, "likelihood").summarize
    nats_N, variance_N = np.array([70.0, 50.0, 8.0]), np.array([4.0, 5.0, 0.0])
    tokens_N, bytes_N = np.array([32, 32, 5]), np.array([40, 30, 4])
    score = summarize("nelbo", None, nats_N, variance_N, tokens_N, bytes_N, 48, 1.5)
    rate = 128 / math.log(2) / 74
    spread = sum((n / math.log(2) - rate * b) ** 2 for n, b in zip(nats_N, bytes_N))
    assert score._fields == (
        "estimator", "order", "bpb", "stderr_masks", "stderr_sequences", "nats_per_token", "tokens", "bytes", "forwards", "seconds",
    )  # fmt: skip
    expected = (rate, 3 / math.log(2) / 74, math.sqrt(1.5 * spread) / 74, 128 / 69)
    np.testing.assert_allclose(score[2:6], expected, **EXACT)
    assert score[:2] == ("nelbo", None) and score[6:] == (69, 74, 48, 1.5)
    assert [type(value) for value in score[2:9]] == [float] * 4 + [int] * 3
    alone = summarize("chain", "random", nats_N[:1], variance_N[:1] * 0, tokens_N[:1], bytes_N[:1], 32, 0.1)
    assert math.isnan(alone.stderr_sequences) and alone.stderr_masks == 0


def test_error_bar_over_sequences_covers_the_population():
    """Windows of unequal length and rate from a known population: the ratio's bar covers its bits per byte in 95 % of samples."""
    random, misses = np.random.default_rng(3), 0
    for _ in range(300):
        bytes_N = random.integers(20, 80, 100)
        rate_N = random.normal(1.2, 0.2, 100)
        nats_N = bytes_N * rate_N * math.log(2)
        score = fast.likelihood.summarize("chain", "random", nats_N, np.zeros(100), bytes_N // 2, bytes_N, 1, 0.0)
        misses += abs(score.bpb - 1.2) > 1.96 * score.stderr_sequences
    assert 3 <= misses <= 32  # binomial(300, 0.05): 15 +- 3.8, within 4.5 deviations


# Twins, batches, rows


@settings(max_examples=40)
@given(
    st.integers(0, 2**64 - 1), st.integers(2, 3), st.integers(1, 5), st.integers(1, 7), st.sampled_from(ORDERS), st.integers(1, 6),
    st.integers(1, 4), st.integers(0, 2**31), st.integers(1, 8),
)  # fmt: skip
def test_twins_agree_on_the_same_draws(seed, vocab, length, count, order, step, block, first_row, batch_rows):
    model = TableModel(vocab, length)
    ids_NL, batch = model.windows(count), {"batch_rows": batch_rows}
    expected = reference.likelihood.chain(model.numpy, ids_NL, vocab, order, seed, step, block, first_row)
    found = fast.likelihood.chain(model.torch, ids_NL, vocab, order, seed, step, block, first_row, **batch)
    np.testing.assert_array_equal(found, expected)
    expected_plan = reference.likelihood.pilot(model.numpy, ids_NL, vocab, 6, seed, first_row)
    plan = fast.likelihood.pilot(model.torch, ids_NL, vocab, 6, seed, first_row, **batch)
    np.testing.assert_array_equal(plan.cumulative_2L, expected_plan.cumulative_2L)
    np.testing.assert_allclose(plan.curve_2L, expected_plan.curve_2L, rtol=1e-9)
    expected = reference.likelihood.nelbo(model.numpy, ids_NL, vocab, 3, expected_plan, seed, first_row)
    found = fast.likelihood.nelbo(model.torch, ids_NL, vocab, 3, plan, seed, first_row, **batch)
    np.testing.assert_allclose(found, expected, rtol=1e-9, atol=1e-9 * abs(expected).max())  # a draw may lie near 0 by cancellation
    expected = reference.likelihood.nelbo_grid(model.numpy, ids_NL, vocab, 3, 0.001, 0.01, seed, first_row)
    found = fast.likelihood.nelbo_grid(model.torch, ids_NL, vocab, 3, 0.001, 0.01, seed, first_row, **batch)
    np.testing.assert_allclose(found, expected, rtol=1e-12)


def shift_model(ids_BL):
    """Next token = input + 1 mod 5 with probability 0.6, the rest even."""
    p = np.full((*ids_BL.shape, 5), 0.1)
    np.put_along_axis(p, ((np.asarray(ids_BL) + 1) % 5)[..., None], 0.6, axis=-1)
    return np.log(p)


def test_causal_pass_predicts_each_token_from_the_one_before():
    ids_NL, previous_N = np.array([[1, 2, 3], [4, 0, 1], [0, 1, 4], [3, 4, 0]]), np.array([-1, 3, 2, 2])
    hit, miss = -math.log(0.6), -math.log(0.1)
    expected = [[hit, hit, hit], [hit, hit, hit], [miss, hit, miss], [hit, hit, hit]]  # id 0 stands in before the stream
    np.testing.assert_allclose(reference.likelihood.causal_nll(shift_model, ids_NL, previous_N), expected, **EXACT)
    for batch_rows in (1, 3, 9):
        found = fast.likelihood.causal_nll(lambda ids: torch.from_numpy(shift_model(ids)), ids_NL, previous_N, batch_rows=batch_rows)
        np.testing.assert_allclose(found, expected, **EXACT)


def test_single_precision_costs_one_rounding_per_token():
    """float32 log-probabilities differ from float64 ones by 2**-24 relative each, and everything after is float64."""
    model = TableModel(3, 5)
    ids_NL = model.windows(6)
    single = lambda ids_BL: model.torch(ids_BL).float()  # noqa: E731
    for order in ORDERS:  # the table's scores lie further apart than the rounding, so the orders are the same
        expected = reference.likelihood.chain(model.numpy, ids_NL, 3, order, 2, 1, 2)
        assert (abs(fast.likelihood.chain(single, ids_NL, 3, order, 2, 1, 2) - expected) <= 2.0**-24 * expected).all()
    plan = reference.likelihood.pilot(model.numpy, ids_NL, 3, 8, 2)
    expected = reference.likelihood.nelbo(model.numpy, ids_NL, 3, 4, plan, 2)
    flat = plan._replace(curve_2L=np.zeros_like(plan.curve_2L))
    charged = reference.likelihood.nelbo(model.numpy, ids_NL, 3, 4, flat, 2)  # weight * loss alone: what rounding is relative to
    assert (abs(fast.likelihood.nelbo(single, ids_NL, 3, 4, plan, 2) - expected) <= 2.0**-24 * charged + 1e-12).all()


def test_a_window_costs_the_same_in_any_batch():
    model = TableModel(3, 5)
    ids_NL = model.windows(11)
    plan = fast.likelihood.pilot(model.torch, ids_NL, 3, 8, 9, 20)

    def chain(order):
        return lambda ids_NL, row, **k: fast.likelihood.chain(model.torch, ids_NL, 3, order, 9, 2, 2, row, **k)

    estimators = {
        "nelbo": lambda ids_NL, row, **k: fast.likelihood.nelbo(model.torch, ids_NL, 3, 4, plan, 9, row, **k),
        "grid": lambda ids_NL, row, **k: fast.likelihood.nelbo_grid(model.torch, ids_NL, 3, 4, 0.001, 0.01, 9, row, **k),
        **{order: chain(order) for order in ORDERS},
    }
    for name, estimate in estimators.items():
        whole = estimate(ids_NL, 20)
        for batch_rows in (1, 2, 4, 11, 100):
            np.testing.assert_array_equal(estimate(ids_NL, 20, batch_rows=batch_rows), whole, err_msg=name)
        np.testing.assert_array_equal(np.concatenate([estimate(ids_NL[:3], 20), estimate(ids_NL[3:], 23)]), whole, err_msg=name)
        if name in ("nelbo", "grid", "random"):
            assert not np.array_equal(estimate(ids_NL[3:], 20), whole[3:]), name


def test_batches_keep_one_shape_and_copies_are_not_counted():
    model = TableModel(3, 4)
    ids_NL, passes = model.windows(10), []
    settings = {"batch_rows": 4, "on_pass": passes.append}
    plan = fast.likelihood.pilot(model.torch, ids_NL, 3, 6, 0, **settings)
    fast.likelihood.nelbo(model.torch, ids_NL, 3, 5, plan, 0, **settings)
    fast.likelihood.nelbo_grid(model.torch, ids_NL, 3, 5, 0.001, 0.01, 0, **settings)
    fast.likelihood.chain(model.torch, ids_NL, 3, "entropy", 0, 3, 2, **settings)
    assert model.shapes == {(4, 4)}
    assert sum(passes) == 2 * 6 + 10 * 5 + 10 * 5 + 10 * 2 and set(passes) == {4, 2}
    assert model.calls > sum(passes)  # the filled-up batches did run


# The design of the draws


@settings(max_examples=60)
@given(st.lists(st.floats(0, 1e6), min_size=1, max_size=300).filter(lambda spread: 1e-6 < sum(spread)))
def test_counts_are_proportional_and_never_zero(spread):
    spread_L = np.array(spread)
    cumulative_L = reference.sizes.cumulative_counts(spread_L)
    np.testing.assert_array_equal(fast.sizes.cumulative_counts(spread_L), cumulative_L)
    count_L = np.diff(cumulative_L, prepend=0)
    assert cumulative_L.dtype == np.int64 and cumulative_L[-1] == 2**24 and count_L.min() >= 1
    # One point each is set aside, and floor moves each end of a size's interval by less than one point.
    assert (abs(count_L - 1 - (2**24 - len(spread)) * spread_L / spread_L.sum()) <= 1 + 1e-6).all()


@given(st.integers(0, 2**64 - 1), st.lists(st.integers(0, 2**24 - 1), min_size=1, max_size=9), st.integers(0, 3))
def test_offsets_agree_bit_for_bit(seed, indices, column):
    expected = [reference.sizes.offset(seed, index, column) for index in indices]
    np.testing.assert_array_equal(fast.sizes.offset(seed, np.array(indices), column), expected)
    assert all(0 <= offset < 2**24 for offset in expected)


def test_offsets_of_an_aligned_power_of_two_of_windows_are_an_even_grid():
    for first, count in ((0, 16), (32, 32), (7, 1), (48, 16)):
        offsets = np.sort(fast.sizes.offset(1, np.arange(first, first + count), 0))
        assert set(np.diff(offsets)) <= {2**24 // count}
    assert len({int(fast.sizes.offset(seed, [0], column)[0]) for seed in range(5) for column in range(4)}) == 20


def test_sizes_are_stratified_over_windows_and_draws():
    """Of M even points an interval of probability p holds M p of them, rounded up or down: per window and over all windows."""
    spread_L = 1 / np.sqrt(np.arange(1, 33))
    cumulative_L = torch.from_numpy(fast.sizes.cumulative_counts(spread_L))
    share_L = np.diff(cumulative_L.numpy(), prepend=0) / 2**24
    size_NK = fast.sizes.draw_sizes(cumulative_L.expand(16, 32), torch.from_numpy(fast.sizes.offset(3, np.arange(16), 0)), 12).numpy()
    expected = [reference.sizes.draw_sizes(cumulative_L.numpy(), reference.sizes.offset(3, n, 0), 12) for n in range(16)]
    np.testing.assert_array_equal(size_NK, expected)
    for sizes, points in [(size_NK, 192), *((row, 12) for row in size_NK)]:
        counts_L = np.bincount(sizes.ravel(), minlength=33)[1:]
        assert (abs(counts_L - points * share_L) < 1 + 1e-6).all()
        assert (abs(counts_L.cumsum() - points * share_L.cumsum()) < 1 + 1e-6).all()


def test_pilot_spreads_its_sizes_over_all_scales(monkeypatch):
    seen = []
    fit = fast.sizes.fit
    monkeypatch.setattr(fast.sizes, "fit", lambda sizes_P, losses_P, length: seen.append(sizes_P) or fit(sizes_P, losses_P, length))
    fast.likelihood.pilot(uniform_model(4), np.zeros((8, 256), np.int64), 4, 64, 0)
    for sizes_P in seen:
        octaves = np.bincount(np.log2(sizes_P).astype(int), minlength=9)
        harmonic = [sum(1 / size for size in range(2**j, min(2 ** (j + 1), 257))) for j in range(9)]
        assert (abs(octaves - 64 * np.array(harmonic) / sum(harmonic)) < 1 + 1e-6).all()


@halves
def test_each_fold_learns_from_the_other(half):
    """Tokens 0 cost 1 nat and fill the even rows, tokens 1 cost 3 and fill the odd ones: the plans must say 3 and 1."""
    log_p = np.log([math.exp(-1), math.exp(-3), 1 - math.exp(-1) - math.exp(-3)])
    table = np.broadcast_to(log_p, (64, 6, 3)).copy()
    model = (lambda ids: table[: len(ids)]) if half == "reference" else (lambda ids: torch.from_numpy(table[: len(ids)]))
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
    words, used = module.words, []

    def spy(seed, stream, step, rows, columns, **keywords):
        used.extend((int(stream), int(step), int(row)) for row in rows)
        return words(seed, stream, step, rows, columns, **keywords)

    monkeypatch.setattr(module, "words", spy)
    ids_NL, keywords = model.windows(6), {} if half == "reference" else {"batch_rows": 3}
    likelihood, callable_ = of(half, "likelihood"), log_probs(model, half)
    plan = likelihood.pilot(callable_, ids_NL, 3, 6, 0, 2, **keywords)
    likelihood.nelbo(callable_, ids_NL, 3, 4, plan, 0, 2, **keywords)
    likelihood.nelbo_grid(callable_, ids_NL, 3, 5, 0.001, 0.01, 0, 2, **keywords)
    likelihood.chain(callable_, ids_NL, 3, "random", 0, 1, 1, 2, **keywords)
    masks = [use for use in used if use[1] != reference.sizes.ROTATIONS]
    assert len(masks) == len(set(masks)) == 2 * 6 + 6 * 4 + 6 * 5 + 6


@settings(max_examples=40)
@given(st.integers(1, 200), st.integers(1, 40), st.integers(0, 2**32 - 1))
def test_fitted_curves_agree(length, draws, seed):
    random = np.random.default_rng(seed)
    sizes_P, losses_P = random.integers(1, length + 1, draws), random.gamma(2.0, 1.0, draws)
    expected, found = reference.sizes.fit(sizes_P, losses_P, length), fast.sizes.fit(sizes_P, losses_P, length)
    np.testing.assert_array_equal(found[0], expected[0])
    np.testing.assert_allclose(found[1], expected[1], rtol=1e-9, atol=1e-9)


def test_a_long_pilot_finds_the_curve_and_the_spread():
    random, length = np.random.default_rng(0), 64
    sizes_P = random.integers(1, length + 1, 400_000)
    truth_L = 1 + 0.3 * np.log2(np.arange(1, length + 1))
    spread_L = 2 / np.sqrt(np.arange(1, length + 1)) + 0.3
    losses_P = truth_L[sizes_P - 1] + spread_L[sizes_P - 1] * random.standard_normal(400_000)
    cumulative_L, curve_L = reference.sizes.fit(sizes_P, losses_P, length)
    assert abs(curve_L - truth_L).max() < 0.12  # at size 1: 6,000 draws of deviation 2.3, error 0.03
    share_L = np.diff(cumulative_L, prepend=0) / 2**24
    # Rounding to 1/16 octave of variance moves a spread by 1 %, its fit is straight between knots, and 6,000 draws know it to 1 %.
    assert (abs(share_L / (spread_L / spread_L.sum()) - 1) < 0.05).all()


@pytest.mark.parametrize("first", itertools.permutations([np.inf, np.nan, -np.inf], 2))
def test_infinite_pilot_losses_leave_a_usable_plan(first):
    sizes_P, losses_P = np.array([1, 2, 4, 4]), np.array([*first, 2.0, 1.0])
    expected, found = reference.sizes.fit(sizes_P, losses_P, 4), fast.sizes.fit(sizes_P, losses_P, 4)
    np.testing.assert_array_equal(found[0], expected[0])
    np.testing.assert_allclose(found[1], expected[1], **EXACT)
    assert np.isfinite(found[1]).all() and np.isfinite(expected[1]).all() and (np.diff(found[0], prepend=0) >= 1).all()


def test_fit_survives_one_draw_and_equal_losses():
    for sizes_P, losses_P in ((np.array([3]), np.array([2.0])), (np.array([1, 8, 8]), np.full(3, 2.0))):
        cumulative_L, curve_L = reference.sizes.fit(sizes_P, losses_P, 8)
        np.testing.assert_allclose(curve_L, 2.0, **EXACT)
        spread_L = 1 / np.sqrt(np.arange(1, 9))
        np.testing.assert_array_equal(cumulative_L, reference.sizes.cumulative_counts(spread_L * 2.0**-20))


# Devices and ties


def test_masks_of_fixed_size_ask_for_a_stable_sort():
    with OnlyStableSorts() as sorts:
        fast.likelihood.fixed_mask(torch.zeros(2, 5), torch.tensor([2, 3]))
    assert sorts.seen


def test_masks_and_sizes_lie_where_their_inputs_do():
    """The meta device computes shapes and devices alone, and refuses operands from two devices."""
    words_BL, size_B = torch.zeros(3, 5, dtype=torch.int64, device="meta"), torch.ones(3, dtype=torch.int64, device="meta")
    mask_BL = fast.likelihood.fixed_mask(words_BL, size_B)
    assert (mask_BL.device.type, mask_BL.shape, mask_BL.dtype) == ("meta", (3, 5), torch.bool)
    size_BK = fast.sizes.draw_sizes(words_BL, size_B, 4)
    assert (size_BK.device.type, size_BK.shape, size_BK.dtype) == ("meta", (3, 4), torch.int64)


def test_every_estimator_stays_on_the_device_asked_for(monkeypatch):
    """On the meta device an operation on two devices is an error, and so is a way back to the host other than .cpu(), which makes zeros."""
    on_host = torch.Tensor.cpu
    monkeypatch.setattr(torch.Tensor, "cpu", lambda self: torch.zeros(self.shape, dtype=self.dtype) if self.is_meta else on_host(self))

    def model(ids_BL):
        assert ids_BL.is_meta and ids_BL.dtype == torch.int64
        return torch.zeros(*ids_BL.shape, 3, dtype=torch.float64, device="meta")

    likelihood, ids_NL, plan = fast.likelihood, np.zeros((5, 4), np.int64), flat_plan(4)
    assert np.isfinite(likelihood.pilot(model, ids_NL, 3, 4, 0, device="meta").curve_2L).all()
    for nats, columns in (
        (likelihood.nelbo(model, ids_NL, 3, 2, plan, 0, batch_rows=2, device="meta"), 2),
        (likelihood.nelbo_grid(model, ids_NL, 3, 2, 0.001, 0.01, 0, batch_rows=2, device="meta"), 2),
        (likelihood.causal_nll(model, ids_NL, np.zeros(5, np.int64), batch_rows=2, device="meta"), 4),
        *((likelihood.chain(model, ids_NL, 3, order, 0, 3, 2, batch_rows=2, device="meta"), 4) for order in ORDERS),
    ):
        assert nats.shape == (5, columns) and not nats.any()


def flat_plan(length):
    """A plan that draws every size alike and expects nothing."""
    cumulative_L = fast.sizes.cumulative_counts(np.ones(length))
    return fast.sizes.Plan(np.stack([cumulative_L] * 2), np.zeros((2, length)))


def test_no_estimator_records_a_graph():
    """The weights of a model being validated ask for gradients: keeping every pass would fill the device."""
    weight, ids_NL = torch.zeros(3, dtype=torch.float64, requires_grad=True), np.zeros((2, 4), np.int64)

    def model(ids_BL):
        log_probs_BLV = weight.expand(*ids_BL.shape, 3).log_softmax(-1)
        assert not log_probs_BLV.requires_grad
        return log_probs_BLV

    likelihood = fast.likelihood
    likelihood.pilot(model, ids_NL, 3, 4, 0)
    likelihood.nelbo(model, ids_NL, 3, 2, flat_plan(4), 0)
    likelihood.nelbo_grid(model, ids_NL, 3, 2, 0.001, 0.01, 0)
    likelihood.causal_nll(model, ids_NL, np.zeros(2, np.int64))
    likelihood.chain(model, ids_NL, 3, "confidence", 0, 1, 1)


def test_sums_are_float64_whatever_the_model_returns():
    """A float32 model costs to the bit what its numbers cost when they are widened first."""
    random = np.random.default_rng(4)
    table = torch.from_numpy(random.standard_normal((3, 3))).float().log_softmax(-1)

    def narrow(ids_BL):
        return table[ids_BL.clamp(max=2)]

    def wide(ids_BL):
        return narrow(ids_BL).double()

    likelihood, ids_NL = fast.likelihood, random.integers(0, 3, (4, 33))
    plan = flat_plan(33)
    for score in (
        lambda model: likelihood.nelbo(model, ids_NL, 3, 2, plan, 0),
        lambda model: likelihood.nelbo_grid(model, ids_NL, 3, 2, 0.001, 0.01, 0),
        lambda model: likelihood.causal_nll(model, ids_NL, np.zeros(4, np.int64)),
        lambda model: likelihood.chain(model, ids_NL, 3, "left-to-right", 0, 5, 1),
        lambda model: likelihood.pilot(model, ids_NL, 3, 6, 0).curve_2L,
    ):
        assert score(narrow).dtype == np.float64
        np.testing.assert_array_equal(score(narrow), score(wide))
