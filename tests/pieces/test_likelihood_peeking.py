"""What the estimators show to the model: nothing that they charge for, and nothing that would tell
an order what is hidden.
"""

import itertools

import numpy as np
import pytest
import torch

import fast.chain
import fast.likelihood
import reference.philox
from reference.orders import ORDERS
from reference.recipe import Stream
from tests.support.table_model import TableModel, uniform_model


def reveal_order(model, ids_L, order, step=1):
    """The positions in the order in which the fast chain reveals them, read off what it shows to
    the model; and the nats.
    """
    shown = []

    def spy(ids_BL):
        shown.append(ids_BL[0].clone())
        return model(ids_BL)

    nats_L = fast.chain.chain(spy, ids_L[None], 3, order, 3, step, 2, 1)[0]
    hidden = [set(torch.nonzero(ids == 3)[:, 0].tolist()) for ids in shown] + [set()]
    for ids in shown:
        assert ((ids == 3) | (ids == torch.from_numpy(ids_L))).all()
    return [sorted(before - after) for before, after in itertools.pairwise(hidden)], nats_L


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("step", [1, 2])
def test_replacing_unrevealed_tokens_changes_neither_choices_nor_costs(order, tied, step):
    model = uniform_model(3) if tied else TableModel(3, 5, scale=2.0).torch
    random = np.random.default_rng(4)
    for ids_L in random.integers(0, 3, (4, 5)):
        passes, nats_L = reveal_order(model, ids_L, order, step)
        assert [len(chosen) for chosen in passes] == ([1] * 5 if step == 1 else [2, 2, 1])
        for known in range(len(passes)):
            revealed = sum(passes[:known], [])
            other_L = random.integers(0, 3, 5)
            other_L[revealed] = ids_L[revealed]
            other_passes, other_nats_L = reveal_order(model, other_L, order, step)
            assert other_passes[: known + 1] == passes[: known + 1]
            np.testing.assert_array_equal(other_nats_L[revealed], nats_L[revealed])


def test_fixed_orders_reveal_what_they_say():
    model, ids_L = TableModel(3, 5).torch, np.array([0, 1, 2, 1, 0])
    assert reveal_order(model, ids_L, "left-to-right")[0] == [[0], [1], [2], [3], [4]]
    assert reveal_order(model, ids_L, "right-to-left", 2)[0] == [[3, 4], [1, 2], [0]]
    words_L = reference.philox.words(3, Stream.ORDER, 0, [1], 5)[0]
    assert sum(reveal_order(model, ids_L, "random")[0], []) == np.argsort(words_L).tolist()
    assert [set(c) for c in reveal_order(model, ids_L, "block", 2)[0]] == [{0, 1}, {2, 3}, {4}]


def test_nelbo_shows_the_model_nothing_it_charges_for():
    """Hidden positions hold the mask id and all others their token: as many hidden as the size that
    the weights assume.
    """
    model, ids_NL = TableModel(3, 5), np.array([[0, 1, 2, 1, 0], [2, 2, 2, 1, 0]])
    shown = []

    def spy(ids_BL):
        shown.append(ids_BL.clone())
        return model.torch(ids_BL)

    plan = fast.likelihood.pilot(spy, ids_NL, 3, 8, 0)
    fast.likelihood.nelbo(spy, ids_NL, 3, 4, plan, 0)
    fast.likelihood.nelbo_grid(spy, ids_NL, 3, 4, 0.001, 0.01, 0)
    for ids_BL in shown:
        assert all(
            any(((row == 3) | (row == torch.from_numpy(ids_L))).all() for ids_L in ids_NL)
            for row in ids_BL
        )
    assert all((ids_BL == 3).any(dim=1).all() for ids_BL in shown[:-4])
