"""Ways to spend K masks on a window: what each estimate of the NELBO would be, repetition after
repetition. For benchmarks only.

Each design returns nats_NK, whose mean over k estimates window n. A repetition is a seed: every
draw belongs to it.
"""

import numpy as np
import torch

from fast import likelihood, sizes
from reference.recipe import GRID, Plan


def _bernoulli(log_probs, ids_NL, vocab, times_NK, rng):
    ids, (count, length), draws = torch.from_numpy(ids_NL), ids_NL.shape, times_NK.shape[1]
    columns = []
    for k in range(draws):
        masked = torch.from_numpy(rng.random((count, length)) < times_NK[:, k, None])
        columns.append(
            likelihood.nll(log_probs, ids, masked, vocab).sum(dim=1).numpy() / times_NK[:, k]
        )
    return np.stack(columns, axis=1)


def independent(log_probs, ids_NL, vocab, draws, seed):
    """Bernoulli masks at independent uniform times, weight 1 / t."""
    rng = np.random.default_rng([seed, 0])
    return _bernoulli(log_probs, ids_NL, vocab, 1 - rng.random((len(ids_NL), draws)), rng)


def stratified(log_probs, ids_NL, vocab, draws, seed):
    """Bernoulli masks at times from equal strata over windows and draws, weight 1 / t."""
    rng = np.random.default_rng([seed, 1])
    cells = rng.permuted(np.arange(len(ids_NL)))[:, None] + len(ids_NL) * np.arange(draws)
    return _bernoulli(
        log_probs, ids_NL, vocab, (cells + 1 - rng.random(cells.shape)) / cells.size, rng
    )


def grid(log_probs, ids_NL, vocab, draws, seed):
    """nelbo-grid without its forced mask; biased, so only its spread compares."""
    return likelihood.nelbo_grid(
        log_probs, ids_NL, vocab, draws, 0.001, 0.0, seed, batch_rows=len(ids_NL)
    )


def fixed_sizes(log_probs, ids_NL, vocab, draws, seed):
    """Fixed-size masks, every size as likely as any other, no control variate."""
    length = ids_NL.shape[1]
    even = Plan(np.tile(sizes.cumulative_counts(np.ones(length)), (2, 1)), np.zeros((2, length)))
    return likelihood.nelbo(log_probs, ids_NL, vocab, draws, even, seed, batch_rows=len(ids_NL))


def default(log_probs, ids_NL, vocab, draws, seed, plan):
    """Sizes in proportion to the spread they carry, with the control variate: `nelbo` itself."""
    return likelihood.nelbo(log_probs, ids_NL, vocab, draws, plan, seed, batch_rows=len(ids_NL))


def complementary(log_probs, ids_NL, vocab, draws, seed, plan):
    """The default's sizes for every other mask, its complement for the next; both weighed by the
    mean of the two ways to get a size.

    (Balance heuristic, Veach & Guibas 1995, eq. 8: unbiased, since every size 1..L can come. An
    empty complement adds nothing.)
    """
    rng, ids, (count, length) = (
        np.random.default_rng([seed, 2]),
        torch.from_numpy(ids_NL),
        ids_NL.shape,
    )
    pairs, fold_N = draws // 2, np.arange(count) % 2
    chance_NL = np.diff(plan.cumulative_2L, prepend=0, axis=1)[fold_N] / GRID
    mixed_NL = (
        chance_NL + np.concatenate([chance_NL[:, -2::-1], np.zeros((count, 1))], axis=1)
    ) / 2
    offset_N = torch.from_numpy(rng.integers(0, GRID, count))
    size_NP = sizes.draw_sizes(torch.from_numpy(plan.cumulative_2L[fold_N]), offset_N, pairs)
    columns = []
    for p in range(pairs):
        mask = likelihood.fixed_mask(torch.from_numpy(rng.random((count, length))), size_NP[:, p])
        for masked in (mask, ~mask):
            size_N, row_N = masked.sum(dim=1).numpy(), np.arange(count)
            at_N = np.maximum(size_N, 1) - 1
            loss_N = likelihood.nll(log_probs, ids, masked, vocab).sum(dim=1).numpy() / (at_N + 1)
            excess_N = np.where(
                size_N > 0, (loss_N - plan.curve_2L[fold_N, at_N]) / mixed_NL[row_N, at_N], 0.0
            )
            columns.append(excess_N + plan.curve_2L[fold_N].sum(axis=1))
    return np.stack(columns, axis=1)


def best_allocation(log_probs, ids_NL, vocab, masks, seed):
    """Return the variance of one pass, nats**2 per window, when sizes come in proportion to their
    measured spread around the mean curve.

    With probabilities proportional to s_l the variance is (sum over l of s_l)**2 (Cochran 1977,
    section 9A.4); s_l**2 is measured over windows and `masks` masks at sizes half an octave apart
    and s_l**2 l is interpolated between them.
    """
    rng, ids, (count, length) = (
        np.random.default_rng([seed, 3]),
        torch.from_numpy(ids_NL),
        ids_NL.shape,
    )
    size_J = np.unique(
        np.round(np.geomspace(1, length, 2 * int(np.ceil(np.log2(length))) + 1)).astype(int)
    )
    scaled_J = []
    for size in size_J:
        losses = []
        for _ in range(masks):
            masked = likelihood.fixed_mask(
                torch.from_numpy(rng.random((count, length))), torch.full((count,), int(size))
            )
            losses.append(likelihood.nll(log_probs, ids, masked, vocab).sum(dim=1).numpy() / size)
        scaled_J.append(np.var(losses, ddof=1) * size)
    every_L = np.arange(1, length + 1)
    return float(np.sqrt(np.interp(np.log(every_L), np.log(size_J), scaled_J) / every_L).sum() ** 2)
