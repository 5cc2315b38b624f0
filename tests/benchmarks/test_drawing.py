"""Draws and masks. torch.rand is a peer in speed alone: its stream depends on order and device,
ours on coordinates.
"""

import numpy as np
import pytest
import torch

import fast.masking
import fast.philox
import reference.masking
import reference.philox
from reference.recipe import Stream
from tests.benchmarks import compiled, implementations

SEED, STEP, ROWS, LENGTH = 1337, 7, 128, 1024


@pytest.mark.benchmark(group=f"philox uniforms {ROWS} x {LENGTH}")
@implementations("reference", "fast", "compiled", "torch.rand")
def test_uniforms(benchmark, implementation):
    """Uniform multiples of 2^-24; ours are the reference's bit for bit, torch's mean lies within 5
    standard errors of 1/2.
    """
    rows = torch.arange(ROWS)
    generator = torch.Generator().manual_seed(SEED)

    def draw():
        return fast.philox.uniforms(fast.philox.words(SEED, Stream.MASK, STEP, rows, LENGTH))

    run = {
        "reference": lambda: reference.philox.uniforms(
            reference.philox.words(SEED, Stream.MASK, STEP, np.arange(ROWS), LENGTH)
        ),
        "fast": draw,
        "compiled": compiled(benchmark, draw),
        "torch.rand": lambda: torch.rand(ROWS, LENGTH, generator=generator),
    }[implementation]
    found = np.asarray(run(), np.float64)
    assert (
        found.shape == (ROWS, LENGTH)
        and (found * 2**24 % 1 == 0).all()
        and (0 <= found).all()
        and (found < 1).all()
    )
    assert abs(found.mean() - 0.5) < 5 * (12 * found.size) ** -0.5
    if implementation != "torch.rand":
        words = reference.philox.words(SEED, Stream.MASK, STEP, np.arange(ROWS), LENGTH)
        assert np.array_equal(found, reference.philox.uniforms(words))
    benchmark(run)


@pytest.mark.benchmark(group=f"masks {ROWS} x {LENGTH}")
@implementations("reference", "fast", "compiled", "torch.rand")
def test_masks(benchmark, implementation):
    """Masked positions of a batch with stratified times: bit for bit; torch's share of masks lies
    within 5 standard errors.
    """
    times_B = reference.masking.times(SEED, STEP, np.arange(ROWS), 0.001)
    thresholds_B, rows = torch.from_numpy(fast.masking.thresholds(times_B)), torch.arange(ROWS)
    chances_B = torch.from_numpy(times_B).float()[:, None]
    generator = torch.Generator().manual_seed(SEED)

    def draw():
        return fast.masking.mask(SEED, STEP, rows, LENGTH, thresholds_B)

    run = {
        "reference": lambda: reference.masking.mask(
            SEED, STEP, np.arange(ROWS), LENGTH, reference.masking.thresholds(times_B)
        ),
        "fast": draw,
        "compiled": compiled(benchmark, draw),
        "torch.rand": lambda: torch.rand(ROWS, LENGTH, generator=generator) < chances_B,
    }[implementation]
    found = np.asarray(run())
    if implementation == "torch.rand":
        spread = (times_B * (1 - times_B)).sum() * LENGTH
        assert abs(found.sum() - times_B.sum() * LENGTH) < 5 * spread**0.5
    else:
        assert np.array_equal(
            found,
            reference.masking.mask(
                SEED, STEP, np.arange(ROWS), LENGTH, reference.masking.thresholds(times_B)
            ),
        )
    benchmark(run)
