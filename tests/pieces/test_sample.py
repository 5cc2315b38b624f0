"""Sampling: both halves draw the same ids, prompts stay, and what is drawn follows the model's own
distribution.
"""

import numpy as np
import pytest
import torch

import fast.sample
import reference.sample
from reference.chain import chain
from reference.orders import ORDERS
from reference.recipe import InputError
from tests.support.table_model import TableModel

V, L = 3, 4
MODEL = TableModel(V, L, seed=5)
HIDDEN = np.full((1, L), V)


def both(ids_BL, order="left-to-right", seed=1, step=1, block=2, temperature=1.0, first_row=0):
    """Return what the fast half draws, after holding it to the reference."""
    settings = (V, order, seed, step, block, temperature, first_row)
    expected = reference.sample.fill(MODEL.numpy, ids_BL, *settings)
    found = fast.sample.fill(MODEL.torch, torch.from_numpy(ids_BL), *settings).numpy()
    np.testing.assert_array_equal(found, expected)
    return found


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("step", [1, 3])
@pytest.mark.parametrize("temperature", [0.0, 0.5, 1.0])
def test_twins_draw_the_same(order, step, temperature):
    """Ids of both halves are equal for every order; nothing stays hidden."""
    drawn = both(np.repeat(HIDDEN, 20, axis=0), order, step=step, temperature=temperature)
    assert drawn.min() >= 0 and drawn.max() < V


def test_prompt_stays_and_rows_do_not_depend_on_the_batch():
    """Revealed ids are never changed, and a row draws the same alone as among others."""
    ids_BL = np.array([[2, V, 1, V], [2, V, 1, V], [2, V, 1, V]])
    drawn = both(ids_BL, "confidence")
    assert (drawn[:, [0, 2]] == [2, 1]).all()
    for row in range(3):
        np.testing.assert_array_equal(
            both(ids_BL[:1], "confidence", first_row=row), drawn[row : row + 1]
        )


@pytest.mark.parametrize("order", [order for order in ORDERS if order != "random"])
def test_frequencies_follow_the_chain_rule(order):
    """Over 4,000 rows each sequence appears as often as its chain-rule probability says: Pearson's
    chi-square, rare ones pooled.

    (Along `random` every row has an order, hence a distribution, of its own.)
    """
    count = 4000
    drawn = fast.sample.fill(MODEL.torch, torch.full((count, L), V), V, order, 3, 1, 2, 1.0).numpy()
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
    assert (drawn == 0).all()
    assert reference.sample.draw(np.array([0.1, 0.7, 0.7]), 0, 0, 0, 0.0) == 1


def test_unknown_order_is_an_input_error():
    """The message lists the orders."""
    with pytest.raises(InputError, match="left-to-right"):
        fast.sample.fill(MODEL.torch, torch.from_numpy(HIDDEN), V, "sideways", 0, 1, 2, 1.0)
