"""Parity: bitwise for counts, offsets and sizes (integers decide); algebra for the fitted curve, on
the host in float64.
"""

import math

import numpy as np
import torch

from fast import masking, philox
from reference.recipe import EVALUATION_STEPS, GRID, Stream


def cumulative_counts(spread_L: np.ndarray) -> np.ndarray:
    """Return the grid points given to sizes 1..l (int64, last 2**24): one each, the rest in
    proportion to spread_L >= 0.
    """
    length = len(spread_L)
    # The reference's order of summation: floor must not see a different last bit
    share_L = np.cumsum(spread_L) / np.sum(spread_L)
    counts_L = np.arange(1, length + 1) + np.floor((GRID - length) * share_L).astype(np.int64)
    counts_L[-1] = GRID
    return counts_L


def offset(seed: int, index, column: int) -> np.ndarray:
    """Return points `index` (1-D) of a randomly rotated van der Corput sequence on the grid, int64
    below 2**24.
    """
    step = EVALUATION_STEPS["rotations"][0]
    rotation = int(philox.words(seed, Stream.EVALUATION, step, [0], 4)[0, column]) >> 8
    return (rotation + np.floor(masking.radical_inverse(index) * GRID).astype(np.int64)) & (
        GRID - 1
    )


def draw_sizes(cumulative_BL: torch.Tensor, offset_B: torch.Tensor, draws: int) -> torch.Tensor:
    """Return sizes (B, draws) in 1..L, one from each equal slice of the row's probability: draw k
    sits at (k + offset / 2**24) / draws.
    """
    points_BK = torch.arange(draws, device=offset_B.device) * GRID + offset_B[:, None]
    return 1 + torch.searchsorted((draws * cumulative_BL).contiguous(), points_BK, right=True)


def hats(sizes_P: np.ndarray, octaves: int) -> np.ndarray:
    """Return (P, octaves + 1): the weights by which size l leans on the octave knots 2**0, 2**1,
    ... (linear in log2 l).
    """
    return np.clip(1 - np.abs(np.subtract.outer(np.log2(sizes_P), np.arange(octaves + 1))), 0, None)


def smooth(
    sizes_P: np.ndarray, values_P: np.ndarray, weights_P: np.ndarray, length: int
) -> np.ndarray:
    """Return a curve over sizes 1..length through weighted points, as ordinary least squares with
    the penalty as extra rows.
    """
    octaves = math.ceil(math.log2(length))
    root_P = np.sqrt(weights_P)
    rows = np.concatenate(
        [root_P[:, None] * hats(sizes_P, octaves), np.diff(np.eye(octaves + 1), axis=0)]
    )
    targets = np.concatenate([root_P * values_P, np.zeros(octaves)])
    return hats(np.arange(1, length + 1), octaves) @ np.linalg.lstsq(rows, targets, rcond=None)[0]


def fit(sizes_P: np.ndarray, losses_P: np.ndarray, length: int) -> tuple[np.ndarray, np.ndarray]:
    """Return (cumulative_L, curve_L) from pilot draws: sizes_P and their mean losses in nats per
    hidden token.
    """
    # Any plan is unbiased: what is not finite must show in the score
    losses_P = np.nan_to_num(losses_P, nan=0.0, posinf=0.0, neginf=0.0)
    curve_L = smooth(sizes_P, losses_P, sizes_P.astype(np.float64), length)
    squares_P = np.square(losses_P - curve_L[sizes_P - 1]) * sizes_P
    variance_L = smooth(sizes_P, squares_P, np.ones(len(sizes_P)), length)
    variance_L = np.clip(variance_L, max(squares_P.mean() / 10, 1e-12), None)
    variance_L = 2.0 ** (np.round(16 * np.log2(variance_L)) / 16)
    return cumulative_counts(np.sqrt(variance_L / np.arange(1, length + 1))), curve_L
