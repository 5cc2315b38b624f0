"""Is our own scorer a code length? Distributions are normalised, nothing is known before it is
revealed, every token is charged once; models that cheat are caught.
"""

import math

import numpy as np
import pytest
import torch

from fast.data import Tokens, Windows, evaluation_windows
from fast.orders import ORDERS
from harness.validate.model import Model, model
from harness.validate.submission import Submission
from tests.support import probes
from tests.support.table_model import TableModel

V, L = 3, 4


def log_probs(ids_BL: torch.Tensor) -> torch.Tensor:
    """Answer for every position, the revealed ones too, from a table without structure."""
    return torch.nan_to_num(TABLE.torch(ids_BL), nan=-1.0)


TABLE = TableModel(V, L)
WINDOWS = TABLE.windows(5)


def causal_model(peek: int = 0):
    """Return an autoregressive log_probs: the distribution at a position depends on the ids up to
    it, and `peek` beyond.
    """
    weights = torch.from_numpy(np.random.default_rng(3).standard_normal((L + 1, L + 1, V, V)))

    def model(ids_BL: torch.Tensor) -> torch.Tensor:
        rows = []
        for i in range(ids_BL.shape[1]):
            seen = range(min(i + 1 + peek, ids_BL.shape[1]))
            rows.append(sum(weights[i, j, ids_BL[:, j]] for j in seen).log_softmax(-1))
        return torch.stack(rows, dim=1)

    return model


# Probabilities sum to 1


def test_normalised_distributions_pass_and_others_do_not():
    contexts_BL, asked_BL = probes.masked_contexts(WINDOWS, V)
    honest = probes.mass(lambda ids: log_probs(ids).float(), contexts_BL, asked_BL)
    assert honest.error <= honest.limit and honest.distributions == int(asked_BL.sum())
    for gain in (1e-4, -1e-4, math.log(2)):  # 0.01 % too much or too little is far beyond rounding
        cheating = probes.mass(lambda ids, gain=gain: log_probs(ids) + gain, contexts_BL, asked_BL)
        assert cheating.error == pytest.approx(abs(gain), rel=1e-2)
        assert not cheating.error <= cheating.limit


def test_nan_is_no_distribution():
    contexts_BL, asked_BL = probes.masked_contexts(WINDOWS, V)
    found = probes.mass(lambda ids: log_probs(ids) * math.nan, contexts_BL, asked_BL)
    assert not found.error <= found.limit


def test_contexts_hide_one_all_and_some():
    contexts_BL, hidden_BL = probes.masked_contexts(WINDOWS, V)
    sizes = hidden_BL.sum(dim=1).tolist()
    assert (
        sizes[:5] == [1] * 5
        and sizes[5:10] == [L] * 5
        and all(1 <= size <= L for size in sizes[10:])
    )
    assert ((contexts_BL == V) == hidden_BL).all()
    assert (contexts_BL[~hidden_BL] == torch.from_numpy(np.tile(WINDOWS, (3, 1)))[~hidden_BL]).all()


# Nothing is known before it is revealed


def faults(found: dict) -> list[list[str]]:
    return [
        probes.changed_charges(found),
        probes.moved_orders(found),
        probes.charged_twice_or_never(found),
    ]


def look(scorers: dict) -> dict:
    return probes.look_ahead(scorers, WINDOWS, V)


@pytest.mark.parametrize("order", ORDERS)
def test_our_chain_neither_peeks_nor_moves(order):
    found = look({order: probes.chain_scorer(log_probs, V, order, block=2)})
    assert faults(found) == [[], [], []] and found[order].compared > 0


@pytest.mark.parametrize("order", ORDERS)
def test_places_are_those_of_the_chain(order):
    """The recorder reads the order off the contexts; following it by hand gives the same
    charges.
    """
    for place_L, nats_L, rows_LV, ids_L in zip(
        *probes.chain_scorer(log_probs, V, order, block=2, seed=4)(WINDOWS), WINDOWS, strict=True
    ):
        current = np.full(L, V)
        for position in np.argsort(place_L):
            row = log_probs(torch.from_numpy(current[None]))[0, position]
            assert np.array_equal(rows_LV[position], row.numpy())
            assert nats_L[position] == pytest.approx(-float(row[ids_L[position]]), abs=1e-12)
            current[position] = ids_L[position]


def test_an_honest_causal_model_passes_and_one_that_peeks_does_not():
    assert faults(look({"ar": probes.causal_scorer(causal_model())})) == [[], [], []]
    for peek in (1, 2):  # at the token itself, at the one after it
        found = look({"ar": probes.causal_scorer(causal_model(peek))})
        assert "still hidden" in probes.changed_charges(found)[0] and not probes.moved_orders(found)


def charged(rows: torch.Tensor, ids_BL: torch.Tensor) -> np.ndarray:
    """Return the charges that distributions (B, L, V) put on tokens."""
    return -rows.gather(-1, ids_BL[..., None])[..., 0].numpy()


def test_a_pseudo_likelihood_is_peeking():
    """Each token given all the others."""

    def scorer(ids_NL):
        ids_BL, hidden = torch.from_numpy(ids_NL), torch.eye(L, dtype=torch.bool)
        rows = torch.stack(
            [log_probs(ids_BL.masked_fill(hidden[i], V))[:, i] for i in range(L)], dim=1
        )
        return probes.Scored(
            np.tile(np.arange(L), (len(ids_NL), 1)), charged(rows, ids_BL), rows.numpy()
        )

    assert probes.changed_charges(look({"pseudo": scorer}))


def test_an_order_from_the_target_is_caught():
    """Confidence in the true token chooses the next position: charges are honest conditionals, the
    order is not.
    """

    def scorer(ids_NL):
        ids_BL = torch.from_numpy(ids_NL)
        current, place, rows = (
            torch.full_like(ids_BL, V),
            np.zeros(ids_NL.shape, int),
            torch.zeros(*ids_BL.shape, V, dtype=torch.float64),
        )
        for step in range(L):
            answer = log_probs(current)
            chosen = (
                answer.gather(-1, ids_BL[..., None])[..., 0]
                .masked_fill(current != V, -math.inf)
                .argmax(dim=1)
            )
            for row, position in enumerate(chosen.tolist()):
                place[row, position], rows[row, position] = step, answer[row, position]
                current[row, position] = ids_BL[row, position]
        return probes.Scored(place, charged(rows, ids_BL), rows.numpy())

    found = look({"target": scorer})
    assert probes.moved_orders(found) and not probes.charged_twice_or_never(found)


def test_a_position_that_is_never_charged_is_caught():
    def scorer(ids_NL):
        scored = probes.chain_scorer(log_probs, V, "left-to-right")(ids_NL)
        scored.place_NL[:, 2] = scored.place_NL[:, 1]
        return scored

    assert probes.charged_twice_or_never(look({"skips": scorer}))


@pytest.mark.parametrize("discount", [1e-3, 0.5])
def test_a_charge_that_is_not_the_distributions_is_caught(discount):
    def scorer(ids_NL):
        scored = probes.chain_scorer(log_probs, V, "random")(ids_NL)
        return scored._replace(nats_NL=scored.nats_NL - discount)

    assert "off" in probes.changed_charges(look({"cheap": scorer}))[0]


def test_windows_that_miss_repeat_or_alter_tokens_are_counted(stream):
    ids = np.arange(1, 24)
    groups = evaluation_windows(stream(ids[:9], ids[9:]), 5, None)
    assert probes.uncovered(groups, ids) == 0
    assert probes.uncovered(groups[:1], ids) == 3  # the short last window
    assert probes.uncovered([*groups, groups[-1]], ids) == 3
    swapped = [Windows(groups[0].ids_NL[::-1], groups[0].previous_N), groups[1]]
    assert probes.uncovered(swapped, ids) == 20
    blind = [Windows(group.ids_NL, np.full(len(group.ids_NL), -1)) for group in groups]
    assert probes.uncovered(blind, ids) == len(blind[0].ids_NL) + len(blind[1].ids_NL) - 1
    assert probes.uncovered([], ids) == len(ids)


# The network of a packed artifact


@pytest.fixture(scope="session")
def reloaded(packed) -> Model:
    """Return the artifact of the packed folder as a model."""
    return model(Submission(packed))


def test_the_network_of_an_artifact_is_a_code(reloaded):
    vocab, log_probs = reloaded.recipe.model.vocab, reloaded.predictor()
    ids_NL = np.random.default_rng(0).integers(0, vocab, (4, 12))
    contexts_BL, asked_BL = probes.masked_contexts(ids_NL, vocab)
    found = probes.mass(log_probs, contexts_BL, asked_BL)
    assert found.error <= found.limit
    scorers = {order: probes.chain_scorer(log_probs, vocab, order) for order in ORDERS}
    assert faults(probes.look_ahead(scorers, ids_NL, vocab)) == [[], [], []]


def test_windows_cover_the_validation_text(reloaded, layout):
    tokens = Tokens(layout.validation)
    groups = evaluation_windows(tokens, reloaded.recipe.model.length, None)
    assert probes.uncovered(groups, np.asarray(tokens.read(0, len(tokens)))) == 0
