"""How many positions each draw of the NELBO hides: sizes in proportion to the spread they carry,
spread evenly over the whole data set.

Sizes live on a grid of 2**24 points: a size's probability is its exact share of the grid, so
importance weights are exact too.
"""

import numpy as np

from reference import masking, philox
from reference.recipe import EVALUATION_STEPS, GRID, Stream


def cumulative_counts(spread_L):
    """Return the grid points given to sizes 1..l (int64, last 2**24): one each, the rest in
    proportion to spread_L >= 0.
    """
    share_L = np.cumsum(spread_L) / np.sum(spread_L)
    size_L = np.arange(1, len(spread_L) + 1)
    counts_L = size_L + np.floor((GRID - len(spread_L)) * share_L).astype(np.int64)
    counts_L[-1] = GRID
    return counts_L


def offset(seed, index, column):
    """Return point number `index` of a randomly rotated van der Corput sequence on the grid, an
    integer below 2**24.
    """
    step = EVALUATION_STEPS["rotations"][0]
    rotation = int(philox.words(seed, Stream.EVALUATION, step, [0], 4)[0, column]) >> 8
    return (rotation + int(masking.radical_inverse(index)[0] * GRID)) % GRID


def draw_sizes(cumulative_L, offset, draws):
    """Return `draws` sizes in 1..L, one from each equal slice of the probability: draw k sits at (k
    + offset / 2**24) / draws.

    Over all 2**24 offsets size l comes exactly draws * (its grid points) times: systematic sampling
    (Madow & Madow 1944).
    """
    return np.array(
        [1 + int((draws * cumulative_L <= k * GRID + offset).sum()) for k in range(draws)]
    )


def hats(sizes_P, octaves):
    """Return (P, octaves + 1): the weights by which size l leans on the octave knots 2**0, 2**1,
    ... (linear in log2 l).
    """
    return np.maximum(0.0, 1 - np.abs(np.log2(sizes_P)[:, None] - np.arange(octaves + 1)))


def smooth(sizes_P, values_P, weights_P, length):
    """Return a curve over sizes 1..length through weighted points: linear between octaves, steps
    between octaves penalised.

    Penalised least squares (Eilers & Marx 1996, eq. 9, first differences); one octave's step costs
    as much as one point of weight 1.
    """
    octaves = int(np.ceil(np.log2(length)))
    basis_PJ, step_KJ = hats(sizes_P, octaves), np.diff(np.eye(octaves + 1), axis=0)
    normal_JJ = basis_PJ.T @ (weights_P[:, None] * basis_PJ) + step_KJ.T @ step_KJ
    return hats(np.arange(1, length + 1), octaves) @ np.linalg.solve(
        normal_JJ, basis_PJ.T @ (weights_P * values_P)
    )


def fit(sizes_P, losses_P, length):
    """Return (cumulative_L, curve_L) from pilot draws: sizes_P and their mean losses in nats per
    hidden token.

    A mean over l tokens has variance near 1 / l: the curve weighs draws by l, and the spread is
    fitted as residual**2 * l. The spread is floored (no weight may run away) and rounded to 1/16
    octave (so that rounding errors do not move the counts).
    """
    # Any plan is unbiased: what is not finite must show in the score
    losses_P = np.nan_to_num(losses_P, nan=0.0, posinf=0.0, neginf=0.0)
    curve_L = smooth(sizes_P, losses_P, sizes_P.astype(float), length)
    squares_P = (losses_P - curve_L[sizes_P - 1]) ** 2 * sizes_P
    variance_L = smooth(sizes_P, squares_P, np.ones(len(sizes_P)), length)
    variance_L = np.maximum(variance_L, max(squares_P.mean() / 10, 1e-12))
    variance_L = 2.0 ** (np.round(16 * np.log2(variance_L)) / 16)
    return cumulative_counts(np.sqrt(variance_L / np.arange(1, length + 1))), curve_L
