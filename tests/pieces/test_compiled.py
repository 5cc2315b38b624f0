"""The compiled training step: the same numbers as uncompiled, up to the order of float32 sums."""

from dataclasses import replace

import numpy as np
import pytest
import torch

import fast.train
from fast.data import windows_of
from reference.recipe import TINY
from tests.support.compare import rms, unit_roundoff

pytestmark = pytest.mark.slow  # the compiler takes a minute
STEPS = 3


def batch(step, rows):
    """Return windows that depend on step and row alone."""
    drawn = [np.random.default_rng([step, int(row)]).integers(0, 12, 9) for row in rows]
    return windows_of(np.stack(drawn))


def run(recipe, compiled, dtype=torch.float32):
    """Return (state, reports) after a few steps of two micro-batches, the shadow seeded after the
    first.
    """
    state, reports = fast.train.initial_state(recipe, dtype=dtype), []
    stepper = fast.train.Stepper(recipe, compiled=compiled)
    for step in range(STEPS):
        reports.append(stepper(state, batch, 1.0 - 0.25 * step, step > 0))
    return state, torch.stack(reports).numpy()


def test_compiled_steps_err_at_most_twice_as_much_as_uncompiled_ones():
    """Against float64, over all weights, losses and norms; one rounding of each number is always
    granted.
    """
    plain, plain_reports = run(TINY, compiled=False)
    state, reports = run(TINY, compiled=True)
    exact, exact_reports = run(
        replace(TINY, training=replace(TINY.training, compute_dtype="float64")),
        compiled=False,
        dtype=torch.float64,
    )
    u = unit_roundoff(torch.float32)
    assert state.step == STEPS and (reports[:, 2] == 1).all()
    assert rms(reports - exact_reports) <= 2 * rms(plain_reports - exact_reports) + u * rms(
        exact_reports
    )
    for group in fast.train.GROUPS:
        wanted, eager, found = (
            torch.cat(
                [value.detach().double().flatten() for value in getattr(each, group).values()]
            )
            for each in (exact, plain, state)
        )
        assert rms(found - wanted) <= 2 * rms(eager - wanted) + u * rms(wanted), group


def test_compiled_gradient_of_the_embedding_repeats_to_the_bit():
    """Two threads add the rows of one id in any order unless held to deterministic(), which leaves
    torch as it was.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    generator = torch.Generator().manual_seed(0)
    table = torch.randn(64, 128, generator=generator, requires_grad=True)
    ids_BL = torch.randint(0, 64, (32, 128), generator=generator)
    upstream = torch.randn(32, 128, 128, generator=generator)
    try:
        with fast.train.deterministic():
            looked_up = torch.compile(
                lambda table: (torch.nn.functional.embedding(ids_BL, table) * upstream).sum(),
                dynamic=False,
            )
            grads = [torch.autograd.grad(looked_up(table), table)[0] for _ in range(20)]
            assert not torch.utils.deterministic.fill_uninitialized_memory
        assert (
            not torch.are_deterministic_algorithms_enabled()
            and torch.utils.deterministic.fill_uninitialized_memory
        )
    finally:
        torch.set_num_threads(threads)
    assert all(torch.equal(grad, grads[0]) for grad in grads)
