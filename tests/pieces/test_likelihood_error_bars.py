"""Error bars of a likelihood: over masks and over sequences they cover what is known exactly."""

import math

import numpy as np
import pytest
import torch

import fast.likelihood
import reference.likelihood
from tests.support.halves import EXACT, halves, of
from tests.support.table_model import TableModel


def test_error_bar_over_masks_covers_the_exact_value():
    """60 runs against enumeration: 1.96 standard errors miss in 5 %, so 10 or more misses have
    probability 0.0006.
    """
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
    # Mean squared error over mean squared bar: 60 squared normals stay within 0.5 ... 1.7 times
    # their mean but for 1 in 1,000.
    assert 0.4 < (errors**2).mean() / (bars**2).mean() < 1.7
    assert abs(errors.mean()) < 4 * errors.std() / math.sqrt(repetitions)


def test_default_design_beats_independent_bernoulli_times():
    """Variance at equal passes on losses like a language model's: 6 nats**2 per token, a curve that
    rises with the size.
    """
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
        errors["default"].append(
            fast.likelihood.nelbo(model, ids_NL, vocab, draws, plan, seed).mean(axis=1).sum()
            - exact
        )
        t = np.random.default_rng(seed).uniform(0.001, 1, (draws, count))
        hidden = np.random.default_rng(seed + 1000).random((draws, count, length)) < t[..., None]
        share = hidden.mean(axis=2)
        errors["independent"].append(
            ((hidden * base_L).sum(axis=2) * (0.3 + 0.7 * share) / t).mean(axis=0).sum() - exact
        )
    assert np.mean(np.square(errors["independent"])) > 5 * np.mean(np.square(errors["default"]))


def naive_mask_variance(nats_K):
    """The unbiased variance of three neighbours on a line, of two at either end; the mean divides
    the sum by K**2.
    """
    inner = [
        np.array([1, -2, 1]) @ nats_K[k - 1 : k + 2] / math.sqrt(6)
        for k in range(1, len(nats_K) - 1)
    ]
    return (
        sum(value**2 for value in inner) + np.var(nats_K[:2], ddof=1) + np.var(nats_K[-2:], ddof=1)
    ) / len(nats_K) ** 2


@halves
@pytest.mark.parametrize("draws", [2, 3, 4, 5, 8, 9])
def test_mask_variance_counts_every_draw_once(half, draws):
    mask_variance = of(half, "likelihood").mask_variance
    nats_NK = np.random.default_rng(draws).standard_normal((7, draws)) + np.arange(draws)
    np.testing.assert_allclose(
        mask_variance(nats_NK), [naive_mask_variance(row) for row in nats_NK], **EXACT
    )
    # Independent draws of variances v_k around a line: the estimate's expectation is linear in
    # them, and equal variances sum to K.
    weights_K = draws**2 * (mask_variance(np.eye(draws)))
    assert weights_K.sum() == pytest.approx(draws, rel=1e-12)
    ramp_K = np.arange(draws)[None] * 3.0
    # The two ends, half a step squared each
    assert mask_variance(ramp_K)[0] * draws**2 == pytest.approx(9.0, rel=1e-12)


@halves
def test_summary_of_windows_of_several_lengths(half):
    summarize = of(half, "likelihood").summarize
    nats_N, variance_N = np.array([70.0, 50.0, 8.0]), np.array([4.0, 5.0, 0.0])
    tokens_N, bytes_N = np.array([32, 32, 5]), np.array([40, 30, 4])
    score = summarize("nelbo", None, nats_N, variance_N, tokens_N, bytes_N, 48, 1.5)
    rate = 128 / math.log(2) / 74
    spread = sum((n / math.log(2) - rate * b) ** 2 for n, b in zip(nats_N, bytes_N))
    assert score._fields == (
        "estimator",
        "order",
        "bpb",
        "stderr_masks",
        "stderr_sequences",
        "nats_per_token",
        "tokens",
        "bytes",
        "forwards",
        "seconds",
    )
    expected = (rate, 3 / math.log(2) / 74, math.sqrt(1.5 * spread) / 74, 128 / 69)
    np.testing.assert_allclose(score[2:6], expected, **EXACT)
    assert score[:2] == ("nelbo", None) and score[6:] == (69, 74, 48, 1.5)
    assert [type(value) for value in score[2:9]] == [float] * 4 + [int] * 3
    alone = summarize(
        "chain", "random", nats_N[:1], variance_N[:1] * 0, tokens_N[:1], bytes_N[:1], 32, 0.1
    )
    assert math.isnan(alone.stderr_sequences) and alone.stderr_masks == 0
    two = summarize(
        "chain", "random", nats_N[:2], variance_N[:2] * 0, tokens_N[:2], bytes_N[:2], 32, 0.1
    )
    residual = (70 - 120 / 70 * 40) / math.log(2)  # of the first; the second's is the negative
    np.testing.assert_allclose(two.stderr_sequences, 2 * residual / 70, **EXACT)


def test_error_bar_over_sequences_covers_the_population():
    """Windows of unequal length and rate from a known population: the ratio's bar covers its bits
    per byte in 95 % of samples.
    """
    random, misses = np.random.default_rng(3), 0
    for _ in range(300):
        bytes_N = random.integers(20, 80, 100)
        rate_N = random.normal(1.2, 0.2, 100)
        nats_N = bytes_N * rate_N * math.log(2)
        score = fast.likelihood.summarize(
            "chain", "random", nats_N, np.zeros(100), bytes_N // 2, bytes_N, 1, 0.0
        )
        misses += abs(score.bpb - 1.2) > 1.96 * score.stderr_sequences
    assert 3 <= misses <= 32  # binomial(300, 0.05): 15 +- 3.8, within 4.5 deviations
