"""The next token's predictor: one position at a time, as the whole pass has it."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import reference.sample
import reference.transformer
from fast import sample
from fast.next_predictor import NextPredictor
from reference.recipe import TINY
from tests.support.compare import assert_same_algorithm
from tests.support.strategies import models, random_params, rngs, tensors

DUAL = replace(TINY.model, mixing=2, shift=True, causal_share=0.5)


def predictors(model, rng, start=0):
    """Return (NextPredictor, log_probs of the reference's whole pass: row i from tokens before i)."""
    params = random_params(model, rng)

    def whole(ids_BL):
        before_BL = np.concatenate([np.full((len(ids_BL), 1), start), ids_BL[:, :-1]], axis=1)
        hidden_BL = before_BL == model.vocab  # ids that are not drawn yet, and that no row reads
        before_BL = np.where(hidden_BL, 0, before_BL)
        return reference.transformer.log_probs(params, before_BL, model, causal=True)

    return NextPredictor(tensors(params), model, torch.float64, start=start), whole


@given(models(), rngs, st.integers(1, 3))
@settings(max_examples=40)
def test_each_position_as_the_whole_pass_has_it(model, rng, rows):
    """Of windows that are cut short too, whose pasts do not meet."""
    predictor, whole = predictors(model, rng, start=1)
    ids_BL, length = rng.integers(0, model.vocab, (rows, model.length)), rng.integers(model.length)
    past, other = predictor.begin(rows), predictor.begin(1)
    found = [predictor.next(past)]
    for token_B in torch.from_numpy(ids_BL[:, :length]).unbind(1):
        predictor.next(other, token_B[:1])
        found.append(predictor.next(past, token_B))
    expected = whole(ids_BL)
    assert_same_algorithm(torch.stack(found, dim=1), expected[:, : length + 1])
    assert_same_algorithm(predictor(torch.from_numpy(ids_BL)), expected)


def test_hidden_tokens_are_not_read():
    predictor, _ = predictors(DUAL, np.random.default_rng(0))
    ids_BL = torch.tensor([[3, 1, 4, 1, 5, 9, 2, 6]])
    hidden_BL = ids_BL.clone()
    hidden_BL[:, 5:] = DUAL.vocab
    assert torch.equal(predictor(ids_BL)[:, :6], predictor(hidden_BL)[:, :6])


@pytest.mark.parametrize("model", [DUAL, replace(TINY.model, causal=True)], ids=["dual", "causal"])
@pytest.mark.parametrize("temperature", [0.0, 0.8])
def test_text_is_drawn_as_from_whole_passes(model, temperature):
    """Behind a prompt, and around a token that is given; the same draws as the reference's."""
    predictor, whole = predictors(model, np.random.default_rng(5))
    ids_BL = np.full((4, model.length), model.vocab)
    ids_BL[:, 0], ids_BL[:, 4] = 2, 7
    drawn = "left-to-right", 11, 1, 1, temperature, 3
    stop = model.length - 1
    expected = reference.sample.fill(whole, ids_BL, model.vocab, *drawn, stop)
    passes = []
    found = sample.fill(
        predictor, torch.from_numpy(ids_BL), model.vocab, *drawn, stop, on_pass=passes.append
    )
    assert np.array_equal(found.rank_BL, expected.rank_BL)
    assert np.abs(found.log_p_BL.numpy() - expected.log_p_BL).max() < 1e-9
    found = found.ids_BL
    assert np.array_equal(found, expected.ids_BL)
    assert len(passes) == stop - 2 and (found[:, -1] == model.vocab).all()
    assert (found[:, 0] == 2).all() and (found[:, 4] == 7).all()
    assert temperature == 0 or len({tuple(row) for row in found.tolist()}) == 4
