"""Pieces philox, times, masks and init: what is drawn is the same bit for bit, whoever asks for
which rows.
"""

from dataclasses import replace

import numpy as np
import torch

import fast.masking
import fast.philox
import fast.train
import fast.transformer
import reference.masking
import reference.philox
import reference.train
import reference.transformer
from harness.parity.compare import (
    Compare,
    Difference,
    Setting,
    joined,
    relative,
    same,
    unit_roundoff,
    within,
)
from harness.parity.suite import Piece, table
from reference.recipe import GOLF, TINY, Model, Recipe, Stream

LAST = 2**32 - 1  # of a counter word
SEED = 2**64 - 1
EPSILON, MAX_WEIGHT = GOLF.diffusion.epsilon, GOLF.diffusion.max_weight


def philox(seed: int, stream: int, step: int, rows: list[int], columns: int) -> Compare:
    """Draws of some rows, and what they are as uniforms."""
    words = reference.philox.words(seed, stream, step, rows, columns)
    uniforms = reference.philox.uniforms(words)
    counter = np.array([[columns, row, step, stream] for row in rows])
    key = np.array([seed & LAST, seed >> 32])
    blocks = reference.philox.philox4x32(counter, key)

    def compare(setting: Setting) -> list[Difference]:
        def draw(rows, step):
            return fast.philox.words(seed, stream, step, rows, columns)

        at = torch.tensor(step, device=setting.device)
        drawn = setting.run(draw, setting.tensor(np.array(rows)), at)
        fast_blocks = fast.philox.philox4x32(setting.tensor(counter), setting.tensor(key))
        return [
            same(drawn, words),
            same(fast.philox.uniforms(drawn), uniforms),
            same(fast_blocks, blocks),
        ]

    return compare


def times(
    seed: int, step: int, rows: list[int], epsilon: float, count: int | None = None
) -> Compare:
    """Times, thresholds and weights of some global rows of a step; count: of all its rows, for an
    even grid over any number of them.
    """

    def numbers(half) -> list[np.ndarray]:
        times_B = half.times(seed, step, rows, epsilon, count)
        others = half.thresholds(times_B), half.weights(times_B, MAX_WEIGHT)
        return [half.radical_inverse(rows), times_B, *others]

    exact = numbers(reference.masking)
    return lambda at: [*map(same, numbers(fast.masking), exact)]


def masks(seed: int, step: int, rows: list[int], length: int) -> Compare:
    """From a step and global rows to corrupted ids, as the training step draws them."""
    recipe, vocab, rows_B = Recipe(seed=seed), 7, np.array(rows)
    ids_BL = np.random.default_rng(seed % LAST).integers(0, vocab, (len(rows), length))
    times_B = reference.masking.times(seed, step, rows, recipe.diffusion.epsilon)
    thresholds_B = reference.masking.thresholds(times_B)
    weights_B = reference.masking.weights(times_B, recipe.diffusion.max_weight)
    # Thresholds that fall on a draw exactly.
    draws_B = reference.philox.words(seed, Stream.MASK, step, rows, length)[:, -1] >> 8
    edges = [draws_B.astype(np.int64) + more for more in (0, 1)]
    mask_BL, *at_edges = (
        reference.masking.mask(seed, step, rows, length, limits_B)
        for limits_B in (thresholds_B, *edges)
    )
    corrupted_BL = reference.masking.corrupt(ids_BL, mask_BL, vocab)

    def draw(step, rows_B, ids_BL, thresholds_B):
        mask_BL = fast.masking.mask(seed, step, rows_B, length, thresholds_B)
        return mask_BL, fast.masking.corrupt(ids_BL, mask_BL, vocab)

    def compare(setting: Setting) -> list[Difference]:
        limits_B, fast_weights_B = fast.masking.noise(recipe, step, rows_B, setting.device)
        at, rows = torch.tensor(step, device=setting.device), setting.tensor(rows_B)
        drawn = setting.run(draw, at, rows, setting.tensor(ids_BL), limits_B)
        near = [
            fast.masking.mask(seed, step, rows, length, setting.tensor(edge_B)) for edge_B in edges
        ]
        exact = mask_BL, corrupted_BL, weights_B, *at_edges
        return [*map(same, (*drawn, fast_weights_B, *near), exact)]

    return compare


def init(seed: int, model: Model) -> Compare:
    """Initial weights and the state that a run begins with; the fast half rounds the same float64
    formulas to float32.
    """
    recipe, bound = replace(TINY, seed=seed, model=model), 2 * unit_roundoff(torch.float32)
    state = reference.train.initial_state(recipe)
    expected = reference.transformer.initialize(model, seed)

    def compare(setting: Setting) -> list[Difference]:
        weights = fast.transformer.initialize(model, seed)
        if list(weights) != list(expected):
            return [Difference(float("inf"), 0.0)]
        begun = fast.train.initial_state(recipe, setting.device)
        groups = [
            (fast.transformer.unstack(getattr(begun, group)), getattr(state, group))
            for group in fast.train.GROUPS
        ]
        return [relative(*map(joined, pair), bound) for pair in groups] + [
            within(setting, weights[name], value, bound * np.abs(value).max(initial=0.0))
            for name, value in expected.items()
        ]

    return compare


def random_cases(names: str, count: int, **shared) -> list[dict]:
    """Return seeded coordinates: seeds of 64 bits, steps of a run, a few rows of a batch."""
    cases = []
    for number in range(count):
        rng = np.random.default_rng(number)
        values = {
            "seed": int(rng.integers(0, 2**63)) * 2 + 1,
            "stream": int(rng.integers(0, len(Stream))),
            "step": int(rng.integers(0, 80_000)),
            "rows": rng.integers(0, 4096, int(rng.integers(1, 9))).tolist(),
            "columns": int(rng.integers(1, 65)),
        }
        cases.append({name: values[name] for name in names.split()} | shared)
    return cases


CAUSAL = Model(layers=3, d=12, heads=3, kv_heads=1, mlp=1, vocab=5, length=4, causal=True)
PIECES = [
    Piece(
        "philox",
        philox,
        table(
            "seed stream step rows columns",
            (0, 0, 0, [0], 1),
            (SEED, 6, LAST, [0, LAST], 5),
            (2**32, 1, 1, [1, 2**31], 4),
            (LAST, 2, 2**31, [3], 3),
        )
        + random_cases("seed stream step rows columns", 12),
        bitwise=True,
        compiles=1,
    ),
    Piece(
        "times",
        times,
        table(
            "seed step rows epsilon",
            (0, 0, [0, 1, 2, 3], EPSILON),
            (SEED, LAST, [LAST, 2**31, 4], 0.5),
            (1337, 7, list(range(64)), EPSILON),
            (1337, 7, list(range(64, 128)), 1e-9),
        )
        + table(
            "seed step rows epsilon count",
            (5, 3, [0, 23, 7, 8], EPSILON, 24),
            (6, 2, list(range(11)), EPSILON, 11),
            (7, 1, list(range(16)), EPSILON, 16),
        )
        + random_cases("seed step rows", 12, epsilon=EPSILON),
        bitwise=True,
    ),
    Piece(
        "masks",
        masks,
        [
            {"seed": 0, "step": 0, "rows": [0], "length": 1},
            {"seed": SEED, "step": 80_000, "rows": [8, 9, 10, 11], "length": 6},
            *random_cases("seed step rows", 8, length=33),
            {"seed": 1337, "step": 12, "rows": list(range(512)), "length": 64},
        ],
        bitwise=True,
        compiles=1,
    ),
    Piece(
        "init",
        init,
        table("seed model", (0, TINY.model), (SEED, CAUSAL)),
        "one rounding to float32, one more where the libraries' log and cos differ",
        float32_only=True,
        numbers_only=True,
    ),
]
