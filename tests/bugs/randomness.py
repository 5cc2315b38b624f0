"""Bugs in draws, times, masks and initial weights."""

import math

import numpy as np
import torch

from fast.philox import LOW, WEYL
from tests.bugs import Bug
from tests.bugs.edits import argument, call, constant, first, left, name, operator, right, whole


def by_position(rows):
    """Rows counted inside the batch that is at hand."""
    return torch.arange(len(rows), device=rows.device)


BUGS = [
    Bug(
        "nine-rounds",
        "fast.philox._rounds",
        constant(10, 9),
        "Philox variants exist with 7 and 10 rounds; off by one reads well",
        ("philox",),
    ),
    Bug(
        "key-bumped-first",
        "fast.philox._rounds",
        whole(
            by=lambda rounds, c0, c1, c2, c3, k0, k1: rounds(
                c0, c1, c2, c3, (k0 + WEYL[0]) & LOW, (k1 + WEYL[1]) & LOW
            )
        ),
        "Random123's code bumps the key before every round but the first",
        ("philox",),
    ),
    Bug(
        "key-not-bumped",
        "fast.philox._rounds",
        operator("+", by=left, nth=1),
        "half a key schedule still looks random",
        ("philox",),
    ),
    Bug(
        "product-that-overflows",
        "fast.philox._high_low",
        whole(
            by=lambda halves, multiplier, value: (
                (multiplier * value) >> 32 & LOW,
                multiplier * value & LOW,
            )
        ),
        "PyTorch's own kernels wrap, compiled C++ leaves an overflow undefined",
        ("tests/pieces/test_philox.py::test_no_product_overflows",),
    ),
    Bug(
        "seed-of-32-bits",
        "fast.philox.words",
        operator(">>", by=lambda seed, bits: 0),
        "most generators take 32-bit seeds",
        ("philox",),
    ),
    Bug(
        "draws-of-23-bits",
        "fast.philox.uniforms",
        operator(">>", by=lambda words, bits: words >> 9 << 1),
        "a float32 mantissa stores 23 bits, not 24",
        ("philox",),
    ),
    Bug(
        "draws-of-32-bits",
        "fast.masking.mask",
        operator(">>", by=left),
        "comparing words with a 24-bit threshold masks next to nothing",
        ("masks",),
    ),
    Bug(
        "draws-by-local-row",
        "fast.masking.mask",
        call("words", by=argument(3, by_position)),
        "every rank then repeats the masks of rank 0",
        ("masks", "gradients"),
    ),
    Bug(
        "draws-ignore-step",
        "fast.masking.mask",
        call("words", by=argument(2, lambda step: 0)),
        "a constant folded under torch.compile repeats one mask",
        ("masks",),
    ),
    Bug(
        "mask-reuses-the-time-stream",
        "fast.masking.mask",
        name("MASK", to="TIME"),
        "two uses of one word correlate time and mask",
        ("masks",),
    ),
    Bug(
        "threshold-inclusive",
        "fast.masking.mask",
        operator("<", to="<="),
        "u <= t masks one draw in 2**24 too many",
        ("masks",),
    ),
    Bug(
        "threshold-floors",
        "fast.masking.thresholds",
        call("ceil", to="floor"),
        "int() truncates; float comparison and integer comparison then differ",
        ("times",),
    ),
    Bug(
        "time-by-local-row",
        "fast.masking.times",
        call("radical_inverse", by=argument(0, lambda rows: np.arange(len(rows)))),
        "t drawn per rank instead of per batch: every rank covers the same few times",
        ("times",),
    ),
    Bug(
        "van-der-corput-off-by-one",
        "fast.masking.times",
        call("radical_inverse", by=argument(0, lambda rows: np.asarray(rows) + 1)),
        "textbooks index the sequence from 1",
        ("times",),
    ),
    Bug(
        "rotation-per-row",
        "fast.masking.times",
        whole(
            by=lambda times, seed, step, rows, epsilon: np.concatenate(
                [times(seed, step + int(row), [row], epsilon) for row in rows]
            )
        ),
        "independent times have four times the variance; nothing fails",
        ("times",),
    ),
    Bug(
        "epsilon-clamped",
        "fast.masking.times",
        (operator("+", by=np.maximum, nth=1), operator("*", by=right)),
        "clamping instead of rescaling is what SEDD's code does",
        ("times",),
    ),
    Bug(
        "clamp-on-the-wrong-side",
        "fast.masking.weights",
        call("minimum", to="maximum"),
        "min and max of a clamp are easily swapped: every weight is at least 100",
        ("times", "masks"),
    ),
    Bug(
        "weight-not-clamped",
        "fast.masking.weights",
        call("minimum", by=first),
        "the paper has no clamp",
        ("times",),
    ),
    Bug(
        "clamped-time",
        "fast.masking.weights",
        call("reciprocal", by=argument(0, lambda times: np.maximum(times, 0.05))),
        "a floor on t that was left over from an experiment",
        ("times",),
    ),
    Bug(
        "corrupted-with-zero",
        "fast.masking.corrupt",
        call("masked_fill", by=argument(1, lambda mask_id: 0)),
        "id 0 is <unk> in many vocabularies; the model cannot tell it from text",
        ("masks",),
    ),
    Bug(
        "init-matrices-alike",
        "fast.transformer.initialize",
        call("words", by=argument(3, lambda rows: [0]), nth=2),
        "a generator reseeded per tensor gives every matrix the same entries",
        ("init",),
    ),
    Bug(
        "init-twice-as-wide",
        "fast.transformer.initialize",
        operator("/", by=lambda draws, root: draws / math.sqrt(draws.shape[0])),
        "fan-in and fan-out are swapped when weights are stored transposed",
        ("init",),
    ),
]
