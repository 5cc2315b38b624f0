"""Chains on a budget: queried rows, drawn positions and trailing masks against the plain L passes
and by enumeration.
"""

import itertools
import math
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import fast.chain
import reference.chain
import reference.transformer
from fast.bytes import byte_table
from fast.data import Windows
from fast.evaluate import Effort, evaluate, measure, predictor, total
from fast.row_predictor import RowPredictor
from reference.orders import FIXED, ORDERS
from reference.recipe import EVALUATION_STEPS, TINY, InputError
from tests.support.compare import ALGORITHM, assert_same_algorithm, rms
from tests.support.halves import EXACT, halves, log_probs
from tests.support.strategies import models, random_ids, random_params, rngs, tensors
from tests.support.table_model import TableModel

CHAIN = {"reference": reference.chain, "fast": fast.chain}
NETWORK = replace(TINY.model, layers=3, vocab=7, length=6, heads=2, kv_heads=1)


class Rounded(RowPredictor):
    """A RowPredictor to nine decimals: when nothing is revealed yet all rows are alike in theory,
    and rounding errors must not choose.
    """

    def rows(self, *arguments):
        """Rounded log-probabilities of rows."""
        return super().rows(*arguments).round(decimals=9)

    def __call__(self, ids_BL):
        """Rounded log-probabilities of all rows."""
        return super().__call__(ids_BL).round(decimals=9)


def network(model=NETWORK, seed=0, dtype=torch.float64, compiled=False):
    """A RowPredictor, and the same weights as the reference's log_probs; in float64 both to nine
    decimals.
    """
    params = random_params(model, np.random.default_rng(seed))

    def plain(ids_BL):
        return reference.transformer.log_probs(params, ids_BL, model).round(9)

    return (Rounded if dtype == torch.float64 else RowPredictor)(
        tensors(params, dtype), model, dtype, compiled=compiled
    ), plain


class AnyLength:
    """A table of random distributions for every window up to `length` tokens."""

    def __init__(self, vocab, length):
        self.models = {size: TableModel(vocab, size, seed=size) for size in range(1, length + 1)}

    def numpy(self, ids_BL):
        """log_probs for the reference."""
        return self.models[ids_BL.shape[1]].numpy(ids_BL)

    def torch(self, ids_BL):
        """log_probs for the fast half."""
        return self.models[ids_BL.shape[1]].torch(ids_BL)


# the network asked for single rows


@settings(max_examples=60)
@given(models(causal=st.just(False)), rngs, st.data())
def test_queried_rows_are_those_of_the_whole_pass(model, rng, data):
    """Any rows in any order, twice too, and with only the first tokens of the window in being."""
    params, ids_BL = random_params(model, rng), random_ids(model, rng, 3)
    rows_BR = rng.integers(0, model.length, (3, data.draw(st.integers(1, model.length + 1))))
    query = RowPredictor(tensors(params), model, torch.float64)
    whole = reference.transformer.log_probs(params, ids_BL, model)
    rows = torch.from_numpy(rows_BR)
    assert_same_algorithm(
        query.rows(torch.from_numpy(ids_BL), rows),
        np.take_along_axis(whole, rows_BR[..., None], axis=1),
    )
    assert_same_algorithm(query(torch.from_numpy(ids_BL)), whole)
    visible = data.draw(st.integers(1, model.length))
    short = reference.transformer.log_probs(params, ids_BL[:, :visible], model)
    found = query.rows(torch.from_numpy(ids_BL), rows % visible, torch.tensor([visible]))
    assert_same_algorithm(found, np.take_along_axis(short, rows_BR[..., None] % visible, axis=1))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_queried_rows_round_as_the_whole_pass_does(dtype):
    """Other sums, the same arithmetic: against float64 the error is at most twice that of the plain
    forward pass.
    """
    model = replace(NETWORK, d=48, heads=6, kv_heads=2, layers=4, length=32)
    exact, _ = network(model)
    params = {name: value.float() for name, value in exact.weights.items()}
    query, ids_BL = (
        RowPredictor(params, model, dtype),
        torch.from_numpy(random_ids(model, np.random.default_rng(1), 8)),
    )
    rows_BL = torch.arange(model.length).expand(8, -1)
    truth = RowPredictor(
        {name: value.double() for name, value in params.items()}, model, torch.float64
    )(ids_BL)
    assert rms(query.rows(ids_BL, rows_BL) - truth) <= 2 * rms(query(ids_BL) - truth)


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("step", [1, 4, 9])
def test_chain_of_queries_is_the_chain_of_whole_passes(order, step):
    """Every order, a step that does not divide the window and one that exceeds it, windows that do
    not fill their last batch.
    """
    query, plain = network()
    ids_NL = np.random.default_rng(2).integers(0, NETWORK.vocab, (5, NETWORK.length))
    expected = reference.chain.chain(plain, ids_NL, NETWORK.vocab, order, 3, step, 2, 7)
    for model in (query, query.__call__):
        found = fast.chain.chain(model, ids_NL, NETWORK.vocab, order, 3, step, 2, 7, batch_rows=3)
        np.testing.assert_allclose(found, expected, rtol=ALGORITHM)


def test_chain_of_queries_chooses_alike_where_everything_ties():
    """A network that says the same everywhere: the lowest index decides, as in the reference."""
    params = {
        name: 0 * value for name, value in random_params(NETWORK, np.random.default_rng(0)).items()
    }
    query, seen = RowPredictor(tensors(params), NETWORK, torch.float64), []
    rows = query.rows
    query.rows = lambda ids, *rest: (
        seen.append((ids == NETWORK.vocab).tolist()),
        rows(ids, *rest),
    )[1]
    ids_NL = np.zeros((1, NETWORK.length), np.int64)
    for order in ("confidence", "entropy", "margin", "block"):
        seen.clear()
        fast.chain.chain(query, ids_NL, NETWORK.vocab, order, 0, 1, 2)
        assert [row[0] for row in seen] == [
            [place >= done for place in range(NETWORK.length)] for done in range(NETWORK.length)
        ]


@pytest.mark.slow
def test_every_pass_runs_one_compiled_graph(monkeypatch):
    """One graph for a fixed order, two for one that the model decides or that grows; no break in
    any, so nothing is read back.
    """
    graphs = []

    def backend(graph, inputs):
        graphs.append(graph)
        return graph.forward

    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend=backend))
    ids_NL = np.random.default_rng(2).integers(0, NETWORK.vocab, (5, NETWORK.length))
    for name, arguments, expected in (
        ("chain", ("random", 0, 1, 2), 1),
        ("chain", ("margin", 0, 1, 2), 2),
        ("chain", ("block", 0, 4, 2), 2),
        ("sampled", ("left-to-right", 0, 3), 1),
        ("trailing", (1,), 2),
    ):
        graphs.clear()
        query, plain = network(compiled=True)
        fast_one = getattr(fast.chain, name)(query, ids_NL, NETWORK.vocab, *arguments, batch_rows=2)
        assert len(graphs) == expected, name
        slow = getattr(reference.chain, name)
        np.testing.assert_allclose(
            fast_one, slow(plain, ids_NL, NETWORK.vocab, *arguments), rtol=ALGORITHM
        )


@pytest.mark.slow
def test_compiled_passes_err_at_most_twice_as_much_as_plain_ones():
    """The real compiler in float32: against float64, summed over windows; one rounding of each
    number is always granted.
    """
    exact, _ = network()
    params = {name: value.float() for name, value in exact.weights.items()}
    ids_NL = np.random.default_rng(4).integers(0, NETWORK.vocab, (4, NETWORK.length))
    arguments = (ids_NL, NETWORK.vocab, "random", 0, 1, 2)
    truth = fast.chain.chain(
        RowPredictor(
            {name: value.double() for name, value in params.items()}, NETWORK, torch.float64
        ),
        *arguments,
    )
    eager = fast.chain.chain(RowPredictor(params, NETWORK, torch.float32).__call__, *arguments)
    found = fast.chain.chain(
        RowPredictor(params, NETWORK, torch.float32, compiled=True), *arguments
    )
    assert rms(found - truth) <= 2 * rms(eager - truth) + 2.0**-24 * rms(truth)


# drawn positions


def test_places_have_exactly_their_probability():
    """A stratum's 2**24 draws fall to its places in the shares that the weights say: settled at
    both ends of each share.
    """
    for length, count in ((7, 3), (5, 5), (8, 2), (1, 1), (11, 4)):
        total_L = np.zeros(length)
        for k in range(count):
            first, stop = k * length // count, (k + 1) * length // count
            for place in range(first, stop):
                low, high = (-(-(place - first + end) * 2**24 // (stop - first)) for end in (0, 1))
                total_L[place] += (high - low) / 2**24
                for draw in (low, high - 1):
                    for half in ("reference", "fast"):
                        with pytest.MonkeyPatch.context() as patch:
                            plant(patch, half, [draw] * count)
                            drawn_1K, weight_1K = CHAIN[half].draw_positions(0, [0], length, count)
                        assert drawn_1K[0, k] == place and weight_1K[0, k] == 2**24 / (high - low)
        np.testing.assert_allclose(total_L.sum(), count)


def plant(patch, half, draws_K):
    """Make the positions' draws what they are told to be."""
    original = CHAIN[half].philox.words

    def words(seed, stream, step, rows, columns, **keywords):
        if step != EVALUATION_STEPS["positions"][0]:
            return original(seed, stream, step, rows, columns, **keywords)
        planted = np.tile(np.array(draws_K, np.int64) << 8, (len(rows), 1))
        return planted.astype(np.uint32) if half == "reference" else torch.from_numpy(planted)

    patch.setattr(CHAIN[half].philox, "words", words)


@halves
@pytest.mark.parametrize("order", FIXED)
def test_drawn_positions_are_unbiased_by_enumeration(monkeypatch, half, order):
    """Over all draws, each with its probability, the estimate's mean is the chain rule."""
    model, ids_1L, count = TableModel(2, 5), np.array([[1, 0, 1, 1, 0]]), 2
    exact = reference.chain.chain(model.numpy, ids_1L, 2, order, 9, 1, 1, 3).sum()
    mean, chance = 0.0, 0.0
    for places in itertools.product(range(2), range(3)):  # five places in strata of two and three
        with pytest.MonkeyPatch.context() as patch:
            plant(
                patch,
                half,
                [-(-place * 2**24 // size) for place, size in zip(places, (2, 3), strict=True)],
            )
            _, weight_1K = CHAIN[half].draw_positions(9, [3], 5, count)
            nats_1K = CHAIN[half].sampled(log_probs(model, half), ids_1L, 2, order, 9, count, 3)
        mean, chance = mean + nats_1K.sum() / weight_1K.prod(), chance + 1 / weight_1K.prod()
    np.testing.assert_allclose([mean, chance], [exact, 1], **EXACT)


@settings(max_examples=40)
@given(
    st.integers(0, 2**64 - 1),
    st.sampled_from(FIXED),
    st.integers(1, 5),
    st.integers(1, 4),
    st.integers(0, 2**31),
    st.data(),
)
def test_drawn_positions_of_the_twins_agree_and_all_of_them_are_the_chain(
    seed, order, length, count, first_row, data
):
    model = TableModel(2, length)
    ids_NL = model.windows(count)
    positions = data.draw(st.integers(1, length))
    for found, expected in zip(
        *(half.draw_positions(seed, [first_row, 4], length, positions) for half in CHAIN.values()),
        strict=True,
    ):
        np.testing.assert_array_equal(found, expected)
    arguments = (ids_NL, 2, order, seed)
    expected = reference.chain.sampled(model.numpy, *arguments, positions, first_row)
    np.testing.assert_allclose(
        fast.chain.sampled(model.torch, *arguments, positions, first_row, batch_rows=2),
        expected,
        **EXACT,
    )
    exact = reference.chain.chain(model.numpy, *arguments, 1, 1, first_row).sum(axis=1)
    np.testing.assert_allclose(
        fast.chain.sampled(model.torch, *arguments, length, first_row).sum(axis=1), exact, **EXACT
    )


@halves
@pytest.mark.parametrize("positions", [2, 3, 5, 6])
def test_variance_of_drawn_positions(half, positions):
    """By hand for pairs, a triple, both and a window drawn whole."""
    nats_1K = np.array([[3.0, 1.0, 4.0, 1.0, 5.0, 9.0]])[:, :positions]
    triple = 3 * nats_1K[:, :3].var(ddof=1)
    expected = {2: 4 * (1 - 2 / 6), 3: triple * (1 - 3 / 6), 5: (triple + 16) * (1 - 5 / 6), 6: 0.0}
    np.testing.assert_allclose(
        CHAIN[half].sampled_variance(nats_1K, 6), expected[positions], **EXACT
    )


@halves
@pytest.mark.parametrize("count", [2, 3, 4, 5, 8])
def test_the_variance_of_a_window_is_its_own(half, count):
    nats_NK = np.random.default_rng(count).gamma(2.0, size=(3, count))
    variance_N = CHAIN[half].sampled_variance(nats_NK, 9)
    for nats_K, variance in zip(nats_NK, variance_N):
        alone = CHAIN[half].sampled_variance(nats_K[None], 9)
        np.testing.assert_allclose(alone, [variance], **EXACT)


def test_error_bar_of_drawn_positions_covers_the_chain():
    """400 seeds on a network whose costs differ from place to place: 95 % within 1.96 standard
    errors, less 4 of their own.
    """
    model = replace(NETWORK, length=24)
    query, _ = network(model)
    group = Windows(
        np.random.default_rng(3).integers(0, model.vocab, (8, model.length)), np.full(8, -1)
    )
    table = byte_table(list("abcdefg"), ["normal"] * 7)
    exact = evaluate(query, [group], table, "chain", "random", seed=0).bpb
    errors = []
    for seed in range(400):
        # The order stays that of seed 0; only the drawn places change.
        with pytest.MonkeyPatch.context() as patch:
            original = fast.chain.draw_positions
            patch.setattr(
                fast.chain,
                "draw_positions",
                lambda _, *rest, seed=seed, original=original: original(seed, *rest),
            )
            score = evaluate(query, [group], table, "chain", "random", seed=0, positions=8)
        errors.append((score.bpb - exact) / score.stderr_masks)
    assert np.mean(np.abs(errors) < 1.96) >= 0.95 - 4 * math.sqrt(0.95 * 0.05 / 400)
    assert abs(np.mean(errors)) < 4 / math.sqrt(400) * np.std(errors)


# trailing masks


@halves
@pytest.mark.parametrize("masks", [0, 1, 2, 3, 9])
def test_probabilities_with_any_trailing_masks_sum_to_one(half, masks):
    model = AnyLength(3, 4)
    nats_N = (
        CHAIN[half]
        .trailing(log_probs(model, half), model.models[4].sequences(), 3, masks)
        .sum(axis=1)
    )
    assert abs(np.exp(-nats_N).sum() - 1) < 1e-12


@pytest.mark.parametrize("masks", [0, 1, 2, 4, 5, 6])
def test_trailing_masks_of_the_twins_agree_and_all_of_them_are_the_chain(masks):
    query, plain = network()
    ids_NL = np.random.default_rng(5).integers(0, NETWORK.vocab, (4, NETWORK.length))
    expected = reference.chain.trailing(plain, ids_NL, NETWORK.vocab, masks)
    for model in (query, query.__call__):
        np.testing.assert_allclose(
            fast.chain.trailing(model, ids_NL, NETWORK.vocab, masks, batch_rows=3),
            expected,
            rtol=ALGORITHM,
        )
    whole = reference.chain.chain(plain, ids_NL, NETWORK.vocab, "left-to-right", 0, 1, 1)
    # With L - 2 only position 0 misses a mask, and where nothing but masks is visible any number of
    # them says the same.
    assert (np.abs(expected - whole).max() < 1e-12) == (masks >= NETWORK.length - 2)


@halves
def test_trailing_masks_are_as_many_as_told(half):
    """The model sees what was revealed, the queried mask and no more than `masks` others, within
    the window.
    """
    seen = []

    def model(ids_BL):
        seen.append(np.asarray(ids_BL)[0].tolist())
        ones = np.full((*ids_BL.shape, 2), math.log(0.5))
        return ones if half == "reference" else torch.from_numpy(ones)

    CHAIN[half].trailing(model, np.array([[0, 1, 1, 0]]), 2, 1)
    assert seen == [[2, 2], [0, 2, 2], [0, 1, 2, 2], [0, 1, 1, 2]]


# a whole stream


TABLE = byte_table(list("abcdefg"), ["normal"] * 7)


def stream(count=7):
    """Full windows and a shorter tail."""
    rng = np.random.default_rng(6)
    tail = Windows(rng.integers(0, 7, (1, 3)), np.array([1]))
    return [Windows(rng.integers(0, 7, (count, NETWORK.length)), np.full(count, 1)), tail]


@pytest.mark.parametrize(
    "effort",
    [
        {"estimator": "chain", "order": "random"},
        {"estimator": "chain", "order": "entropy", "step": 2},
        {"estimator": "nelbo", "draws": 4},
        {"estimator": "chain", "order": "left-to-right", "positions": 4},
        {"estimator": "chain", "order": "left-to-right", "trailing": 2},
    ],
)
def test_parts_of_any_ranges_add_up(effort):
    """The same plan, other ranges and batches: every window keeps its numbers, and the totals
    merge.
    """
    query, _ = network()
    full, tail = stream()
    plans = {}
    whole = list(measure(query, [full, tail], TABLE, Effort(**effort), plans=plans, batch_rows=3))
    apart = []
    for start, stop in ((4, 7), (0, 4)):
        group = Windows(full.ids_NL[start:stop], full.previous_N[start:stop])
        apart += measure(
            query, [group], TABLE, Effort(**effort), plans=plans, first_row=start, batch_rows=2
        )
    apart += measure(query, [tail], TABLE, Effort(**effort), plans=plans, first_row=7)
    together = [
        dict(
            zip(
                np.concatenate([p.rows_N for p in parts]), np.concatenate([p.nats_N for p in parts])
            )
        )
        for parts in (whole, apart)
    ]
    assert list(together[0]) == list(range(8)) and set(together[1]) == set(range(8))
    for row, nats in together[0].items():
        assert together[1][row] == pytest.approx(nats, rel=1e-12)
    merged, straight = total(apart, Effort(**effort), 0.0), total(whole, Effort(**effort), 0.0)
    pilot = sum(part.forwards for part in whole if not len(part.rows_N))
    assert (
        merged[2:6] == pytest.approx(straight[2:6], rel=1e-12)
        and merged.forwards + pilot == straight.forwards
    )


def test_passes_are_counted_and_a_short_tail_is_exact():
    query, _ = network()
    few = evaluate(query, stream(), TABLE, "chain", "right-to-left", positions=5)
    assert few.forwards == 7 * 5 + 3 and few.stderr_masks > 0
    every, exact = (
        evaluate(query, stream(), TABLE, "chain", "right-to-left", positions=positions)
        for positions in (NETWORK.length, None)
    )
    assert (
        every.bpb == pytest.approx(exact.bpb, rel=1e-12)
        and every.stderr_masks == 0
        and every.forwards == exact.forwards
    )


@pytest.mark.parametrize(
    ("keywords", "message"),
    [
        ({"order": "entropy", "positions": 4}, "fixed in advance"),
        ({"order": "block", "positions": 4}, "left-to-right, right-to-left, random"),
        ({"order": "random", "positions": 1}, "positions of at least 2, found 1"),
        ({"order": "random", "positions": 4, "step": 2}, "found --step 2"),
        ({"order": "left-to-right", "trailing": -1}, "trailing of at least 0, found -1"),
        ({"order": "random", "trailing": 3}, "left-to-right, found 'random'"),
        ({"order": "left-to-right", "trailing": 3, "step": 2}, "found --step 2"),
        ({"order": "left-to-right", "trailing": 3, "positions": 4}, "found --trailing"),
        ({"order": "random", "stride": 3}, "left-to-right, found 'random'"),
        ({"order": "left-to-right", "stride": 0}, "stride of at least 1, found 0"),
        ({"order": "left-to-right", "stride": 3, "step": 2}, "found --stride 3"),
        ({"order": "left-to-right", "stride": 3, "positions": 4}, "found --stride 3"),
        ({"estimator": "nelbo", "order": None, "stride": 3}, "--estimator causal or chain"),
        ({"estimator": "nelbo", "order": None, "positions": 4}, "--estimator chain"),
        ({"estimator": "nelbo-grid", "order": None, "trailing": 0}, "--estimator chain"),
    ],
)
def test_options_that_do_not_go_together_are_one_clear_error(keywords, message):
    with pytest.raises(InputError, match=message):
        evaluate(network()[0], stream(), TABLE, **{"estimator": "chain"} | keywords)


@halves
def test_positions_need_an_order_known_in_advance(half):
    with pytest.raises(InputError, match="fixed in advance"):
        CHAIN[half].sampled(
            log_probs(TableModel(2, 2), half), np.array([[0, 1]]), 2, "confidence", 0, 1
        )


def test_a_masked_model_is_asked_for_rows_and_a_causal_one_is_not():
    params = {
        name: torch.from_numpy(value)
        for name, value in random_params(TINY.model, np.random.default_rng(0)).items()
    }
    assert isinstance(predictor(params, TINY), RowPredictor)
    causal = replace(TINY, model=replace(TINY.model, causal=True))
    assert not isinstance(
        predictor({**params, "embedding": params["embedding"][:-1]}, causal), RowPredictor
    )


def test_windows_are_counted_from_0_unless_asked():
    """Their number draws the order."""
    model = TableModel(3, 4)
    given = model.torch, model.windows(5), 3, "random", 1
    for cost in (
        lambda **row: fast.chain.chain(*given, 1, 1, **row),
        lambda **row: fast.chain.sampled(*given, 2, **row),
    ):
        assert np.array_equal(cost(), cost(first_row=0))
        assert not np.array_equal(cost(), cost(first_row=1))
