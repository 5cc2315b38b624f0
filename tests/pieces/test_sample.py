"""Sampling: both halves draw the same ids in the same order, prompts stay, and what is drawn
follows the model's own distribution.
"""

from dataclasses import replace

import numpy as np
import pytest
import torch

import fast.sample
import reference.sample
from fast.row_predictor import RowPredictor
from reference.chain import chain
from reference.orders import ORDERS
from reference.recipe import TINY, InputError
from tests.support.strategies import random_params, tensors
from tests.support.table_model import TableModel

V, L = 3, 4
MODEL = TableModel(V, L, seed=5)
HIDDEN = np.full((1, L), V)


def both(
    ids_BL, order="left-to-right", seed=1, step=1, block=2, temperature=1.0, first_row=0, stop=None
):
    """Return what the fast half draws (arrays), after holding it to the reference."""
    settings = (V, order, seed, step, block, temperature, first_row, stop)
    given_BL, expected = ids_BL.copy(), reference.sample.fill(MODEL.numpy, ids_BL, *settings)
    found = fast.sample.fill(MODEL.torch, torch.from_numpy(ids_BL), *settings)
    for mine, theirs in zip(found, expected, strict=True):
        np.testing.assert_array_equal(mine.numpy(), theirs)
    np.testing.assert_array_equal(ids_BL, given_BL)  # of the caller
    return expected


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("step", [1, 3])
@pytest.mark.parametrize("temperature", [0.0, 0.5, 1.0])
def test_twins_draw_the_same(order, step, temperature):
    """Ids of both halves are equal for every order; nothing stays hidden."""
    drawn = both(np.repeat(HIDDEN, 20, axis=0), order, step=step, temperature=temperature)
    assert drawn.ids_BL.min() >= 0 and drawn.ids_BL.max() < V
    assert (np.sort(drawn.rank_BL) == np.arange(L)).all()


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("step", [1, 2])
def test_each_draw_is_explained(order, step):
    """Played back by rank, `step` draws to a pass, the model gives every token the log-probability
    that was written down, and chooses the same positions.
    """
    ids_BL = np.array([[V, 1, V, V], [V, 1, V, V], [V, 1, V, V]])
    drawn = both(ids_BL, order, step=step)
    assert (drawn.rank_BL[:, 1] == -1).all() and (drawn.log_p_BL[:, 1] == 0).all()
    for b, shown_L in enumerate(ids_BL):
        for first in range(0, 3, step):
            log_probs_LV = MODEL.numpy(shown_L[None])[0]
            places = [int(np.argmax(drawn.rank_BL[b] == first + k)) for k in range(step)]
            for place in places[: 3 - first]:
                token = drawn.ids_BL[b, place]
                assert drawn.log_p_BL[b, place] == log_probs_LV[place, token]
            shown_L[places[: 3 - first]] = drawn.ids_BL[b, places[: 3 - first]]


@pytest.mark.parametrize("order", ORDERS)
def test_what_stands_behind_the_stop_stays_hidden(order):
    """It is never drawn; what is drawn before it is drawn with all that hidden."""
    drawn = both(np.repeat(HIDDEN, 9, axis=0), order, step=2, stop=3)
    assert (drawn.ids_BL[:, 3] == V).all() and (drawn.rank_BL[:, 3] == -1).all()
    assert (drawn.ids_BL[:, :3] < V).all()
    assert len({tuple(ids) for ids in both(np.repeat(HIDDEN, 9, axis=0), order).ids_BL}) > 1


def test_passes_are_shown_as_they_come():
    """After each pass as many as it draws, two and then one, are there and stay as they are."""
    seen = []

    def on_pass(so_far):
        seen.append(so_far.ids_BL.clone())

    ids_BL = torch.tensor([[V, 2, V, V]] * 5)
    settings = V, "confidence", 1, 2, 2, 1.0
    drawn = fast.sample.fill(MODEL.torch, ids_BL, *settings, on_pass=on_pass)
    assert [(ids != V).sum(dim=1).unique().tolist() for ids in seen] == [[3], [4]]
    assert torch.equal(seen[-1], drawn.ids_BL)
    assert (seen[0] == drawn.ids_BL)[seen[0] != V].all()


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("step", [1, 3])
def test_single_rows_draw_as_whole_passes_do(order, step):
    """A predictor that computes no more rows than it is asked for, behind a prompt, with and without
    draws that are made before the first pass.
    """
    model = replace(TINY.model, mixing=2, shift=True)
    params = random_params(model, np.random.default_rng(3))
    predictor = RowPredictor(tensors(params), model, torch.float64)
    ids_BL = torch.full((3, model.length), model.vocab)
    ids_BL[:, 0] = torch.tensor([5, 6, 7])
    settings = model.vocab, order, 3, step, 4, 1.0, 2, model.length - 1
    by_rows = fast.sample.fill(predictor, ids_BL, *settings)
    whole = fast.sample.fill(lambda ids: predictor(ids), ids_BL, *settings)
    assert torch.equal(by_rows.ids_BL, whole.ids_BL)
    assert torch.equal(by_rows.rank_BL, whole.rank_BL)
    torch.testing.assert_close(by_rows.log_p_BL, whole.log_p_BL, rtol=1e-9, atol=0)


def test_draws_do_not_depend_on_when_they_are_made(monkeypatch):
    """All before the first pass, or those of each pass alone."""
    ids_BL = torch.full((7, L), V)
    settings = V, "confidence", 5, 2, 2, 0.9, 3
    at_once = fast.sample.fill(MODEL.torch, ids_BL, *settings)
    monkeypatch.setattr(fast.sample, "GUMBELS_AT_ONCE", 7 * L * V - 1)
    assert torch.equal(fast.sample.fill(MODEL.torch, ids_BL, *settings).ids_BL, at_once.ids_BL)


def test_prompt_stays_and_rows_do_not_depend_on_the_batch():
    """Revealed ids are never changed, and a row draws the same alone as among others."""
    ids_BL = np.array([[2, V, 1, V], [2, V, 1, V], [2, V, 1, V]])
    drawn = both(ids_BL, "confidence").ids_BL
    assert (drawn[:, [0, 2]] == [2, 1]).all()
    for row in range(3):
        np.testing.assert_array_equal(
            both(ids_BL[:1], "confidence", first_row=row).ids_BL, drawn[row : row + 1]
        )


@pytest.mark.parametrize("order", [order for order in ORDERS if order != "random"])
def test_frequencies_follow_the_chain_rule(order):
    """Over 4,000 rows each sequence appears as often as its chain-rule probability says: Pearson's
    chi-square, rare ones pooled.

    (Along `random` every row has an order, hence a distribution, of its own.)
    """
    count = 4000
    hidden_BL = torch.full((count, L), V)
    drawn = fast.sample.fill(MODEL.torch, hidden_BL, V, order, 3, 1, 2, 1.0).ids_BL.numpy()
    sequences = MODEL.sequences()
    expected = count * np.exp(-chain(MODEL.numpy, sequences, V, order, 3, 1, 2).sum(axis=1))
    observed = np.array([(drawn == sequence).all(axis=1).sum() for sequence in sequences])
    rare = expected < 5
    expected = np.append(expected[~rare], expected[rare].sum())
    observed = np.append(observed[~rare], observed[rare].sum())
    freedom = len(expected) - 1
    # Wilson and Hilferty's approximation of the chi-square quantile at 1 - 1e-6 (z = 4.753).
    limit = freedom * (1 - 2 / (9 * freedom) + 4.753 * np.sqrt(2 / (9 * freedom))) ** 3
    assert ((observed - expected) ** 2 / expected).sum() < limit


def test_temperature_zero_takes_the_most_probable_with_ties_to_the_lowest():
    """A uniform model gives id 0 everywhere at temperature 0."""
    uniform = torch.full((2, L, V), -np.log(V))
    drawn = fast.sample.fill(lambda ids: uniform, torch.full((2, L), V), V, "random", 0, 1, 2, 0.0)
    assert (drawn.ids_BL == 0).all()
    assert reference.sample.draw(np.array([0.1, 0.7, 0.7]), 0, 0, 0, 0.0) == 1


def test_unknown_order_is_an_input_error():
    """The message lists the orders."""
    with pytest.raises(InputError, match="left-to-right"):
        fast.sample.fill(MODEL.torch, torch.from_numpy(HIDDEN), V, "sideways", 0, 1, 2, 1.0)
