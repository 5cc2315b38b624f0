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
from harness.parity import plain
from harness.parity.compare import (
    Difference,
    Setting,
    joined,
    relative,
    same,
    unit_roundoff,
    within,
)
from harness.parity.suite import Compare, Piece
from reference.recipe import GOLF, TINY, Model, Recipe, Stream

LAST = 2**32 - 1  # of a counter word
SEED = 2**64 - 1
EPSILON, MAX_WEIGHT = GOLF.diffusion.epsilon, GOLF.diffusion.max_weight


def philox(seed: int, stream: int, step: int, rows: list[int], columns: int) -> Compare:
    """Draws of some rows, and what they are as uniforms."""
    words = reference.philox.words(seed, stream, step, rows, columns)
    uniforms = reference.philox.uniforms(words)
    counter = np.array([[columns, row, step, stream] for row in rows])
    blocks = reference.philox.philox4x32(counter, np.array([seed & LAST, seed >> 32]))

    def compare(setting: Setting) -> list[Difference]:
        on_device, at = setting.tensor(np.array(rows)), torch.tensor(step, device=setting.device)
        found = setting.run(
            lambda rows, step: fast.philox.words(seed, stream, step, rows, columns), on_device, at
        )
        key = setting.tensor(np.array([seed & LAST, seed >> 32]))
        found_blocks = fast.philox.philox4x32(setting.tensor(counter), key)
        return [
            same(found, words),
            same(fast.philox.uniforms(found), uniforms),
            same(found_blocks, blocks),
        ]

    return compare


def times(seed: int, step: int, rows: list[int], epsilon: float) -> Compare:
    """Times, thresholds and weights of some global rows of a step."""
    expected = reference.masking.times(seed, step, rows, epsilon)
    thresholds = reference.masking.thresholds(expected)
    weights = reference.masking.weights(expected, MAX_WEIGHT)

    def compare(setting: Setting) -> list[Difference]:
        found = fast.masking.times(seed, step, rows, epsilon)
        return [
            same(fast.masking.radical_inverse(rows), reference.masking.radical_inverse(rows)),
            same(found, expected),
            same(fast.masking.thresholds(found), thresholds),
            same(fast.masking.weights(found, MAX_WEIGHT), weights),
        ]

    return compare


def masks(seed: int, step: int, rows: list[int], length: int) -> Compare:
    """From a step and global rows to corrupted ids, as the training step draws them."""
    recipe, vocab = Recipe(seed=seed), 7
    ids_BL = np.random.default_rng(seed % LAST).integers(0, vocab, (len(rows), length))
    times_B = reference.masking.times(seed, step, rows, recipe.diffusion.epsilon)
    mask_BL = reference.masking.mask(
        seed, step, rows, length, reference.masking.thresholds(times_B)
    )
    draws_B = (
        reference.philox.words(seed, Stream.MASK, step, rows, length)[:, -1] >> 8
    )  # thresholds that fall on a draw exactly
    edges = [draws_B.astype(np.int64) + more for more in (0, 1)]
    at_edges = [reference.masking.mask(seed, step, rows, length, edge_B) for edge_B in edges]
    corrupted_BL = reference.masking.corrupt(ids_BL, mask_BL, vocab)

    def drawn(step, rows_B, ids_BL, thresholds_B):
        found_BL = fast.masking.mask(seed, step, rows_B, length, thresholds_B)
        return found_BL, fast.masking.corrupt(ids_BL, found_BL, vocab)

    def compare(setting: Setting) -> list[Difference]:
        thresholds_B, weights_B = fast.train.noise(recipe, step, np.array(rows), setting.device)
        at = torch.tensor(step, device=setting.device)
        found = setting.run(
            drawn, at, setting.tensor(np.array(rows)), setting.tensor(ids_BL), thresholds_B
        )
        weights = reference.masking.weights(times_B, recipe.diffusion.max_weight)
        near = [
            fast.masking.mask(
                seed, step, setting.tensor(np.array(rows)), length, setting.tensor(edge_B)
            )
            for edge_B in edges
        ]
        pairs = [
            (found[0], mask_BL),
            (found[1], corrupted_BL),
            (weights_B, weights),
            *zip(near, at_edges, strict=True),
        ]
        return [same(mine, theirs) for mine, theirs in pairs]

    return compare


def init(seed: int, model: Model) -> Compare:
    """Initial weights and the state that a run begins with; the fast half rounds the same float64
    formulas to float32.
    """
    state = reference.train.initial_state(replace(TINY, seed=seed, model=model))
    expected = reference.transformer.initialize(model, seed)

    def compare(setting: Setting) -> list[Difference]:
        found = fast.transformer.initialize(model, seed)
        if list(found) != list(expected):
            return [Difference(float("inf"), 0.0)]
        u = unit_roundoff(torch.float32)
        begun = fast.train.initial_state(replace(TINY, seed=seed, model=model), setting.device)
        groups = {
            group: (plain.unstacked(getattr(begun, group)), getattr(state, group))
            for group in fast.train.GROUPS
        }
        begins = [relative(joined(mine), joined(theirs), 2 * u) for mine, theirs in groups.values()]
        return begins + [
            within(setting, found[name], value, 2 * u * np.abs(value).max(initial=0.0))
            for name, value in expected.items()
        ]

    return compare


def random_cases(names: tuple[str, ...], count: int, **extra) -> list[dict]:
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
        cases.append({name: values[name] for name in names} | extra)
    return cases


PIECES = [
    Piece(
        "philox",
        philox,
        [
            {"seed": 0, "stream": 0, "step": 0, "rows": [0], "columns": 1},
            {"seed": SEED, "stream": 6, "step": LAST, "rows": [0, LAST], "columns": 5},
            {"seed": 2**32, "stream": 1, "step": 1, "rows": [1, 2**31], "columns": 4},
            {"seed": LAST, "stream": 2, "step": 2**31, "rows": [3], "columns": 3},
            *random_cases(("seed", "stream", "step", "rows", "columns"), 12),
        ],
        bitwise=True,
        compiles=1,
    ),
    Piece(
        "times",
        times,
        [
            {"seed": 0, "step": 0, "rows": [0, 1, 2, 3], "epsilon": EPSILON},
            {"seed": SEED, "step": LAST, "rows": [LAST, 2**31, 4], "epsilon": 0.5},
            {"seed": 1337, "step": 7, "rows": list(range(64)), "epsilon": EPSILON},
            {"seed": 1337, "step": 7, "rows": list(range(64, 128)), "epsilon": 1e-9},
            *random_cases(("seed", "step", "rows"), 12, epsilon=EPSILON),
        ],
        bitwise=True,
    ),
    Piece(
        "masks",
        masks,
        [
            {"seed": 0, "step": 0, "rows": [0], "length": 1},
            {"seed": SEED, "step": 80_000, "rows": [8, 9, 10, 11], "length": 6},
            *random_cases(("seed", "step", "rows"), 8, length=33),
            {"seed": 1337, "step": 12, "rows": list(range(512)), "length": 64},
        ],
        bitwise=True,
        compiles=1,
    ),
    Piece(
        "init",
        init,
        [
            {"seed": 0, "model": TINY.model},
            {
                "seed": SEED,
                "model": Model(
                    layers=3, d=12, heads=3, kv_heads=1, mlp=1, vocab=5, length=4, causal=True
                ),
            },
        ],
        "one rounding to float32, one more where the libraries' log and cos differ",
        float32_only=True,
        numbers_only=True,
    ),
]
