"""Objectives and inputs: neighbours, predictions one position early, two attentions; whatever the
attention and the order, a text's probabilities sum to 1.
"""

import itertools
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import fast.chain
import fast.likelihood
import reference.chain
import reference.likelihood
import reference.masking
import reference.transformer
from fast import evaluate, masking, transformer
from fast.data import windows_of
from fast.objective import objective_of
from fast.train import batch_loss
from reference.objective import objective_of as plain_objective_of
from reference.recipe import ORDERS, TINY, InputError, check
from tests.support.compare import assert_same_algorithm
from tests.support.strategies import random_params, rngs, tensors

DUAL = replace(
    TINY.model, d=4, heads=2, kv_heads=1, vocab=3, length=4, mixing=2, shift=True, causal_share=0.5
)
TEXTS_NL = np.array(list(itertools.product(range(DUAL.vocab), repeat=DUAL.length)))
float64 = replace(TINY.training, compute_dtype="float64")
variants = pytest.mark.parametrize(
    "fields",
    [{}, {"shift": False}, {"mixing": 0}, {"mixing": 3, "shift": False, "causal_share": 0.0}],
    ids=["all", "without shift", "without mixing", "mixing alone"],
)


def recipe_of(model, **training):
    """Return a recipe in float64."""
    return replace(TINY, model=model, training=replace(float64, **training))


def batch_of(rows, share=0.5, **fields):
    """Return a recipe of `rows` rows per step, of which a share trains causally."""
    model = replace(DUAL, causal_share=share, **fields)
    tokens = rows * model.length
    return recipe_of(model, tokens_per_step=tokens, micro_batch_tokens=tokens)


# inputs


@given(rngs, st.integers(1, 3), st.booleans())
def test_each_position_adds_its_neighbours(rng, mixing, causal):
    """One position and channel at a time; what lies outside the window adds nothing."""
    model = replace(DUAL, mixing=mixing, causal=causal, shift=False, causal_share=0)
    x_BLd, weights_Od = rng.normal(size=(2, 4, 3)), rng.normal(size=(2 * mixing, 3))
    expected = x_BLd.copy()
    for i, far in itertools.product(range(4), range(1, mixing + 1)):
        if i - far >= 0:
            expected[:, i] += weights_Od[far - 1] * x_BLd[:, i - far]
        if i + far < 4 and not causal:
            expected[:, i] += weights_Od[mixing + far - 1] * x_BLd[:, i + far]
    offsets = reference.transformer.offsets(model)
    assert transformer.offsets(model) == offsets
    found = transformer.mix_neighbours(*map(torch.from_numpy, (x_BLd, weights_Od)), offsets)
    np.testing.assert_allclose(found.numpy(), expected, rtol=1e-12)
    plainly = reference.transformer.mix_neighbours(x_BLd, weights_Od, offsets)
    np.testing.assert_allclose(plainly, expected, rtol=1e-12)


def test_neighbours_count_for_nothing_at_first():
    """Their weights start at 0, so that a run begins as one without them."""
    without = reference.transformer.initialize(replace(DUAL, mixing=0), 3)
    params = reference.transformer.initialize(DUAL, 3)
    assert not params.pop("neighbours").any()
    assert all(np.array_equal(params[name], value) for name, value in without.items())


def test_shift_puts_the_mask_token_in_front_and_drops_the_last_token():
    ids_BL = np.array([[0, 3, 2, 1], [3, 3, 1, 0]])
    expected = [[3, 0, 3, 2], [3, 3, 3, 1]]
    assert plain_objective_of(DUAL).shown(ids_BL, DUAL).tolist() == expected
    assert objective_of(DUAL).shown(torch.from_numpy(ids_BL), DUAL).tolist() == expected


# likelihoods


@variants
@pytest.mark.parametrize("order", ORDERS)
def test_probabilities_of_all_texts_sum_to_one_along_any_order(order, fields):
    model = replace(DUAL, **fields)
    params = random_params(model, np.random.default_rng(1))
    predict = evaluate.predictor(tensors(params), recipe_of(model))
    # Every text as the same window of the stream, of which a random order depends
    parts = np.split(TEXTS_NL, len(TEXTS_NL)) if order == "random" else [TEXTS_NL]
    chains = [fast.chain.chain(predict, ids_NL, model.vocab, order, 3, 1, 2, 6) for ids_NL in parts]
    nats_NL = np.concatenate(chains)
    assert abs(np.exp(-nats_NL.sum(axis=1)).sum() - 1) < 1e-12


@variants
def test_probabilities_of_all_texts_sum_to_one_where_attention_looks_back(fields):
    """In one pass; by the reference too, which gives every token the same cost."""
    model = replace(DUAL, **fields)
    params = random_params(model, np.random.default_rng(1))
    predict = evaluate.predictor(tensors(params), recipe_of(model), estimator="causal")
    previous_N = np.full(len(TEXTS_NL), 2)
    nats_NL = fast.likelihood.causal_nll(predict, TEXTS_NL, previous_N)
    assert abs(np.exp(-nats_NL.sum(axis=1)).sum() - 1) < 1e-12

    def plainly(ids_BL):
        return reference.transformer.log_probs(params, ids_BL, model, causal=True)

    exact_NL = reference.likelihood.causal_nll(plainly, TEXTS_NL, previous_N)
    assert_same_algorithm(torch.from_numpy(nats_NL), exact_NL)
    masked = evaluate.predictor(tensors(params), recipe_of(model))
    chain_NL = fast.chain.chain(masked, TEXTS_NL, model.vocab, "left-to-right", 0, 1, 1)
    assert np.abs(chain_NL - nats_NL).max() > 0.1  # the other attention is another model


# two objectives


@given(st.integers(1, 40), st.floats(0.01, 0.99))
def test_causal_rows_are_spread_and_times_of_the_others_are_even(rows, share):
    """Any stretch of the batch holds its share to within one row; the times of the masked rows are
    an even grid at any number of them.
    """
    recipe = batch_of(rows, share)
    objective, every = objective_of(recipe.model), np.arange(rows)
    thresholds_M, weights_M, masked_M, causal_C = objective.noise(recipe, 5, every)
    assert sorted([*masked_M.tolist(), *causal_C.tolist()]) == every.tolist()
    causal_B = np.isin(every, causal_C)
    assert (np.abs(causal_B.cumsum() - share * (every + 1)) < 1 + 1e-9).all()
    times_M = np.sort(masking.times(recipe.seed, 5, np.arange(len(masked_M)), 0, len(masked_M)))
    assert np.allclose(np.diff(times_M), 1 / max(len(masked_M), 1))
    epsilon = recipe.diffusion.epsilon
    even = masking.thresholds(epsilon + (1 - epsilon) * times_M)
    assert np.abs(np.sort(thresholds_M) - even).max(initial=0) <= 1
    plainly = plain_objective_of(recipe.model)
    assert np.array_equal(plainly.causal_rows(5, every, recipe), causal_B)
    expected = reference.masking.thresholds(plainly.times(5, every[~causal_B], recipe))
    assert np.array_equal(thresholds_M, expected)


@pytest.mark.parametrize("drift", [0.0, 0.25, -0.25, 0.5, -0.5])
def test_each_stage_of_a_run_has_its_own_causal_rows(drift):
    """From none to all of them at the ends of the largest drift; the masked rows of every step are
    an even grid of times.
    """
    recipe = batch_of(16, 0.5)
    training = replace(recipe.training, iterations=8, causal_drift=drift)
    recipe, every = check(replace(recipe, training=training)), np.arange(16)
    objective, plainly = objective_of(recipe.model), plain_objective_of(recipe.model)
    counts = []
    for step in range(8):
        thresholds_M, _, masked_M, causal_C = objective.noise(recipe, step, every)
        assert sorted([*masked_M.tolist(), *causal_C.tolist()]) == every.tolist()
        causal_B = plainly.causal_rows(step, every, recipe)
        assert np.array_equal(np.isin(every, causal_C), causal_B)
        assert len(set(thresholds_M.tolist())) == len(masked_M)
        expected = reference.masking.thresholds(plainly.times(step, every[~causal_B], recipe))
        assert np.array_equal(thresholds_M, expected)
        counts.append(len(causal_C))
    ends = {0.0: [8] * 4, 0.25: [4, 6, 9, 12], 0.5: [0, 5, 10, 16]}
    stages = ends[abs(drift)][:: -1 if drift < 0 else 1]
    assert counts == [count for count in stages for _ in range(2)]


@pytest.mark.parametrize("count", [1, 2, 8, 64])
def test_the_grid_of_a_power_of_two_is_the_radical_inverse(count):
    every = np.arange(count)
    assert np.array_equal(masking.grid(every, count), masking.radical_inverse(every))


@pytest.mark.parametrize("world", [2, 3, 6])
def test_rows_train_by_the_same_objective_on_any_number_of_ranks(world):
    """The mean of the ranks' losses is the loss of the whole batch, though their shares differ."""
    recipe, rng = batch_of(12, 0.3), np.random.default_rng(2)
    params = tensors(random_params(recipe.model, rng))
    windows = windows_of(rng.integers(0, 3, (12, 5)))

    def loss(rows):
        given_windows = tuple(map(torch.from_numpy, windows.take(rows)))
        return float(batch_loss(params, given_windows, 7, rows, recipe))

    parts = [loss(rows) for rows in np.split(np.arange(12), world)]
    assert np.mean(parts) == pytest.approx(loss(np.arange(12)), rel=1e-12)
    assert max(parts) - min(parts) > 0.1


def test_the_loss_is_the_mean_of_both_objectives_over_their_rows():
    """By the plain losses of the two kinds of rows."""
    recipe, rng = batch_of(5, 0.4), np.random.default_rng(4)
    model, params = recipe.model, random_params(recipe.model, rng)
    windows, rows = windows_of(rng.integers(0, 3, (5, 5))), np.arange(5)
    causal_B = np.array([False, False, True, False, True])
    before_BL = np.array([[3, *ids_L[:-1]] for ids_L in windows.ids_NL[causal_B]])
    logits = reference.transformer.forward(params, before_BL, model, causal=True)
    causal = reference.masking.cross_entropy(logits, windows.ids_NL[causal_B]).mean(axis=1)
    epsilon, uniform = recipe.diffusion.epsilon, reference.masking.rotation(recipe.seed, 2)
    times = [epsilon + (1 - epsilon) * ((uniform + part) % 1) for part in (0, 2 / 3, 1 / 3)]
    masked = []
    for row, t, ids_L in zip((0, 1, 3), times, windows.ids_NL[~causal_B], strict=True):
        hidden_L = reference.masking.mask(
            recipe.seed, 2, [row], 4, reference.masking.thresholds([t])
        )[0]
        shown_L = [3, *np.where(hidden_L, 3, ids_L)[:-1]]
        logits = reference.transformer.forward(params, np.array([shown_L]), model)
        nats_L = reference.masking.cross_entropy(logits, ids_L[None])[0]
        masked.append(min(1 / t, recipe.diffusion.max_weight) * nats_L[hidden_L].sum() / 4)
    given_windows = tuple(map(torch.from_numpy, windows))
    found = batch_loss(tensors(params), given_windows, 2, rows, recipe)
    assert float(found) == pytest.approx((sum(masked) + sum(causal)) / 5, rel=1e-12)


def test_slots_hold_the_masked_positions_of_masked_rows():
    """As many as their masks ask for, of all rows of a batch; the loss is then the same."""
    recipe, every = batch_of(40, 0.25, length=64), np.arange(40)
    objective, rows_B = objective_of(recipe.model), torch.from_numpy(every)
    noise = objective.noise(recipe, 3, every)
    slots = objective.capacity(3, rows_B, noise, recipe)
    masked = objective.mask(3, rows_B[noise[2]], noise[0], recipe).sum()
    assert masked <= slots == masking.capacity(30, 64) < 30 * 64
    rng = np.random.default_rng(0)
    params = tensors(random_params(recipe.model, rng))
    given = tuple(map(torch.from_numpy, windows_of(rng.integers(0, 3, (40, 65)))))
    found = batch_loss(params, given, 3, rows_B, recipe, noise, capacity=slots)
    assert float(found) == pytest.approx(float(batch_loss(params, given, 3, every, recipe)), 1e-12)


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"mixing": -1}, "model.mixing must not be negative"),
        ({"mixing": 4}, "model.mixing must be below model.length (found 4 and 4)"),
        (
            {"causal_share": 0.2},
            "model.causal_share must make a row of a step causal; a step has"
            " training.tokens_per_step / model.length = 4 rows (found 0.2)",
        ),
        ({"causal_share": 1.0}, "model.causal_share must lie in [0, 1) (found 1.0)"),
        ({"causal": True}, "model.shift goes with a masked model, not with model.causal"),
        ({"causal": True, "shift": False}, "model.causal_share goes with a masked model"),
    ],
)
def test_impossible_inputs_are_refused(fields, words):
    with pytest.raises(InputError) as refused:
        check(recipe_of(replace(DUAL, **fields), tokens_per_step=16, micro_batch_tokens=16))
    assert words in str(refused.value)
