"""Sliding context: which window predicts which token, that it is a code, and that rows stay what
they are without it.
"""

import itertools
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import reference.likelihood
import reference.transformer
from fast import evaluate
from fast.bytes import byte_table
from fast.data import Continued, Windows
from fast.evaluate import Effort, measure, token_nats
from reference.recipe import TINY
from tests.support.compare import assert_same_algorithm
from tests.support.halves import halves, of
from tests.support.strategies import random_params, tensors

DUAL = replace(
    TINY.model, d=4, heads=2, kv_heads=1, vocab=2, length=4, mixing=2, shift=True, causal_share=0.5
)
MODELS = {
    "masked": ("chain", replace(DUAL, shift=False, causal_share=0.0)),
    "dual, masked": ("chain", DUAL),
    "dual, causal": ("causal", DUAL),
    "autoregressive": ("causal", replace(DUAL, shift=False, causal_share=0.0, causal=True)),
}
models = pytest.mark.parametrize(("estimator", "model"), MODELS.values(), ids=MODELS)
TABLE = byte_table(["<s>", "\u2581ab"], ["control", "normal"])


def rows_of(texts_NT: np.ndarray, length: int) -> list[Continued]:
    """Return the rows of some texts, those of one place in the text as a group: a column each."""
    padded_NT = np.concatenate([np.full((len(texts_NT), length), -1), texts_NT], axis=1)
    groups = []
    for start in range(0, texts_NT.shape[1], length):
        context_NC = padded_NT[:, start : start + length]
        groups.append(Continued(texts_NT[:, start : start + length], context_NC[:, -1], context_NC))
    return groups


def halves_of(estimator: str, model, stride: int | None):
    """Return functions of a group of rows that give nats_NL by the reference and the fast half."""
    params = random_params(model, np.random.default_rng(1))
    training = replace(TINY.training, compute_dtype="float64")
    recipe = replace(TINY, model=model, training=training)
    predict = evaluate.predictor(tensors(params), recipe, estimator=estimator)
    order = "left-to-right" if estimator == "chain" else None
    effort = Effort(estimator, order, stride=stride)

    def plainly(ids_BL):
        return reference.transformer.log_probs(params, ids_BL, model, estimator == "causal")

    def slowly(group):
        given = group.ids_NL, group.context_NC, model.vocab, effort
        return reference.likelihood.strided(plainly, *given)

    return slowly, lambda group: token_nats(predict, group, model.vocab, effort)


@models
@pytest.mark.parametrize("stride", [1, 2, 4])
def test_probabilities_of_all_texts_sum_to_one(estimator, model, stride):
    """Of two rows and a shorter one; the halves give every token the same cost."""
    texts_NT = np.array(list(itertools.product(range(model.vocab), repeat=2 * model.length + 2)))
    slowly, quickly = halves_of(estimator, model, stride)
    groups = rows_of(texts_NT, model.length)
    nats_N = sum(quickly(group).sum(axis=1) for group in groups)
    assert abs(np.exp(-nats_N).sum() - 1) < 1e-12
    for group in groups:
        some = group.take(np.arange(0, len(texts_NT), 97))
        assert_same_algorithm(torch.from_numpy(quickly(some)), slowly(some))


@models
def test_a_stride_of_the_whole_window_is_no_stride(estimator, model):
    """Bit for bit, and so are its passes."""
    texts_NT = np.random.default_rng(0).integers(0, 2, (5, 2 * model.length + 3))
    for group in rows_of(texts_NT, model.length):
        found, expected = (
            halves_of(estimator, model, stride)[1](group) for stride in (model.length, None)
        )
        assert np.array_equal(found, expected)


@halves
@given(
    st.integers(1, 4), st.integers(1, 4), st.integers(0, 3), st.integers(0, 11), st.integers(1, 3)
)
def test_every_token_is_charged_once_at_the_end_of_its_window(half, part, parts, row, tail, count):
    """With the true tokens before it, as many as its window has room for."""
    length, stride = part * parts, part
    tail = tail % length
    size = row * length + (tail or length)
    texts_NT = 100 * np.arange(1, count + 1)[:, None] + np.arange(size)
    group, asked = rows_of(texts_NT, length)[row], []

    def cost(ids_NW, previous_N, first_N, count):
        ids_NW, nats = np.asarray(ids_NW), np.empty((len(ids_NW), count))
        for n, (ids_W, first) in enumerate(zip(ids_NW, first_N, strict=True)):
            place = ids_W[0] % 100
            assert (np.diff(ids_W) == 1).all() and previous_N[n] == (ids_W[0] - 1 if place else -1)
            assert place == max(ids_W[first] % 100 + stride - length, 0)
            assert len(ids_W) == min(length, size - place) and first + count <= len(ids_W)
            nats[n] = ids_W[first : first + count]
            asked.extend(nats[n])
        return nats

    nats_NL = of(half, "likelihood").sliding(cost, group.ids_NL, group.context_NC, stride)
    assert np.array_equal(nats_NL, group.ids_NL)
    assert sorted(asked) == sorted(group.ids_NL.ravel())


@halves
def test_a_continuation_is_shown_all_that_stands_before_it(half):
    """And nothing at or behind what is asked for; it takes a pass per token."""
    shown = []

    def model(ids_BL):
        shown.append(np.asarray(ids_BL).tolist())
        log_probs = np.log(np.broadcast_to([0.5, 0.25, 0.25], (*ids_BL.shape, 3)))
        return log_probs if half == "reference" else torch.tensor(log_probs)

    ids_NL = np.array([[0, 1, 2, 1]])
    nats = of(half, "chain").continuation(model, ids_NL, 3, np.array([1]), 2)
    assert shown == [[[0, 3, 3, 3]], [[0, 1, 3, 3]]]
    assert np.allclose(nats, np.log([[4, 4]]), rtol=1e-12)


@models
def test_rows_keep_their_bytes_and_numbers_in_any_range(estimator, model):
    """A token counts once, whatever its context; what a row costs does not depend on its batch."""
    texts_NT = np.random.default_rng(3).integers(0, 2, (1, 6 * model.length + 3))
    rows = rows_of(texts_NT, model.length)
    full = Continued(*map(np.concatenate, zip(*rows[:-1], strict=True)))
    params = random_params(model, np.random.default_rng(1))
    recipe = replace(TINY, model=model)
    predict = evaluate.predictor(tensors(params, torch.float32), recipe, estimator=estimator)
    order = "left-to-right" if estimator == "chain" else None
    efforts = [Effort(estimator, order, stride=stride) for stride in (None, 2)]

    def parts(effort, groups, first_row=0):
        settings = {"first_row": first_row, "batch_rows": 2, "filled": model.length}
        measured = list(measure(predict, groups, TABLE, effort, **settings))
        columns = [np.concatenate(column) for column in list(zip(*measured, strict=True))[:5]]
        return list(zip(*columns, strict=True)), sum(part.forwards for part in measured)

    groups = [full, rows[-1]]
    side_by_side = [Windows(*group[:2]) for group in groups]
    (plain, _), (slid, passes) = map(parts, efforts, (side_by_side, groups))
    assert [row[3:] for row in slid] == [row[3:] for row in plain]
    assert slid[0][1] == pytest.approx(plain[0][1], rel=1e-5)  # the first row has no context
    assert all(abs(one[1] - other[1]) > 1e-3 for one, other in zip(slid[1:], plain[1:]))
    # chain: a pass per token, as ever; causal: one per stride
    assert passes == (texts_NT.size if estimator == "chain" else 6 * 2 + 2)
    apart = []
    for start, stop in ((3, 6), (0, 3)):
        apart += parts(efforts[1], [full.take(slice(start, stop))], start)[0]
    assert sorted(apart) == slid[:-1]
    assert parts(efforts[1], [rows[-1]], 6)[0] == slid[-1:]


def test_more_context_helps_a_model_that_copies():
    """A text of period 3 in windows of 4: a model that repeats what stood 3 places before knows it
    from its fourth token on, where the window reaches back so far.
    """
    texts_NT = np.tile([0, 1, 1], 8)[None]

    def repeats(before_BL):
        """Return log-probabilities of every token, given the token before each."""
        known_BL = before_BL.roll(2, dims=1)
        sure_BLV = torch.nn.functional.one_hot(known_BL, 2).double().clamp(0.01, 0.99).log()
        sure_BLV[:, :3] = np.log(0.5)
        return sure_BLV

    costs = {}
    for stride in (4, 2, 1):
        effort = Effort("causal", stride=stride)
        groups = rows_of(texts_NT, 4)
        costs[stride] = sum(token_nats(repeats, group, 2, effort).sum() for group in groups)
    unsure = {4: 18, 2: 3 + 10, 1: 3}  # of 24 tokens
    for stride, count in unsure.items():
        expected = count * np.log(2) - (24 - count) * np.log(0.99)
        assert costs[stride] == pytest.approx(expected, rel=1e-12)
