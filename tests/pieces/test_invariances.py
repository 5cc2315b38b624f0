"""What must not matter: how the rows of a batch are shared out and in which order they come
(resumption and micro-batches: test_train).
"""

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import fast.masking
import fast.train
from fast.data import Windows, windows_of
from reference.recipe import TINY
from tests.support.compare import assert_same_tensors, relative_error
from tests.support.strategies import random_params, seeds, tensors

ROWS = 8
RECIPE = replace(TINY, training=replace(TINY.training, tokens_per_step=ROWS * TINY.model.length))


def gradients(seed, step, batch, rows) -> tuple[float, dict]:
    """Return (mean loss, its gradients) over some global rows, float64."""
    recipe = replace(RECIPE, seed=seed)
    leaves = {
        name: value.requires_grad_()
        for name, value in tensors(random_params(recipe.model, np.random.default_rng(0))).items()
    }
    loss = fast.train.batch_loss(leaves, tuple(map(torch.from_numpy, batch)), step, rows, recipe)
    return loss.item(), dict(
        zip(leaves, torch.autograd.grad(loss, list(leaves.values())), strict=True)
    )


def windows(seed) -> Windows:
    """Return the windows of a global batch."""
    shape = ROWS, RECIPE.model.length + 1
    return windows_of(np.random.default_rng(seed).integers(0, RECIPE.model.vocab, shape))


def as_arrays(grads) -> dict:
    """Return gradients for comparison."""
    return {name: value.numpy() for name, value in grads.items()}


@given(seeds, st.integers(0, 80_000), st.permutations(range(ROWS)))
@settings(max_examples=8)
def test_order_of_the_rows_in_a_batch(seed, step, order):
    batch, order = windows(seed % 2**32), np.array(order)
    loss, grads = gradients(seed, step, batch, np.arange(ROWS))
    other, others = gradients(seed, step, batch.take(order), order)
    assert relative_error(np.array(other), np.array(loss)) < 1e-12
    assert_same_tensors(others, as_arrays(grads))


@pytest.mark.parametrize("world", [1, 2, 4, 8])
@pytest.mark.parametrize("strided", [False, True])
def test_any_number_of_ranks_makes_the_same_gradient_and_the_same_masks(world, strided):
    """Each rank takes its share of the rows, contiguous or every world-th; the mean of the ranks is
    the whole.
    """
    batch, every = windows(world), np.arange(ROWS)
    shares = [
        every[rank::world] if strided else np.split(every, world)[rank] for rank in range(world)
    ]
    loss, grads = gradients(3, 7, batch, every)
    parts = [gradients(3, 7, batch.take(rows), rows) for rows in shares]
    assert relative_error(np.array(np.mean([part for part, _ in parts])), np.array(loss)) < 1e-12
    assert_same_tensors(
        {name: sum(part[name] for _, part in parts) / world for name in grads}, as_arrays(grads)
    )

    def masks(rows):
        thresholds_B, _ = fast.masking.noise(RECIPE, 7, rows)
        return fast.masking.mask(
            RECIPE.seed, 7, torch.from_numpy(rows), RECIPE.model.length, thresholds_B
        )

    whole = masks(every)
    assert all(torch.equal(masks(rows), whole[rows]) for rows in shares)
