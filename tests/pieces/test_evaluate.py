"""Evaluation of a whole stream: groups, bytes, passes, and errors."""

import math
import types
from dataclasses import replace

import numpy as np
import pytest
import torch

import fast.chain
import fast.likelihood
import reference.bytes
import reference.likelihood
from fast.bytes import byte_table
from fast.data import Windows
from fast.evaluate import (
    METHODS,
    Effort,
    bytes_of,
    evaluate,
    measure,
    pilot_passes,
    predictor,
    window_bytes,
)
from fast.orders import ORDERS
from fast.row_predictor import RowPredictor
from fast.train import initial_state
from reference.recipe import TINY, InputError
from tests.support.halves import EXACT
from tests.support.table_model import TableModel

TABLE = byte_table(["<s>", "\u2581ab", "c"], ["control", "normal", "normal"])


def uniform(ids_BL):
    return torch.full((*ids_BL.shape, 3), -math.log(3), dtype=torch.float64)


def stream():
    """Two full windows and a tail of one stream, which starts at <s>."""
    return [
        Windows(np.array([[0, 1, 2, 1], [1, 1, 0, 2]]), np.array([-1, 1])),
        Windows(np.array([[1, 2, 2]]), np.array([2])),
    ]


def test_bytes_follow_the_true_token_before_each_window():
    full, tail = stream()
    assert window_bytes(full, TABLE).tolist() == [0 + 2 + 1 + 3, 3 + 3 + 0 + 1]
    assert window_bytes(tail, TABLE).tolist() == [3 + 1 + 1]
    assert window_bytes(full, TABLE, "control").tolist() == [6, 6]
    assert window_bytes(tail, TABLE, "control").tolist() == [4]
    # No token at all, not id 0, which may be a word.
    words = byte_table(["\u2581a", "b", "<s>"], ["normal", "normal", "control"])
    start = Windows(np.array([[0, 0]]), np.array([0]))
    assert (
        window_bytes(start, words).tolist(),
        window_bytes(start, words, "control").tolist(),
    ) == ([4], [3])


def test_control_holds_for_every_window_as_the_reference_counts_it():
    """Three windows that begin with a word of a leading space: none of them counts it, not the
    first alone.
    """
    group = Windows(np.array([[1, 2], [1, 1], [1, 0]]), np.array([2, 2, 1]))
    exact = reference.bytes.byte_table(["<s>", "\u2581ab", "c"], ["control", "normal", "normal"])
    counted = {}
    for name, previous_N in (
        ("stream", group.previous_N),
        ("control", np.full(3, -1)),
        ("first alone", np.array([-1, 2, 1])),
    ):
        before_NL = np.concatenate([previous_N[:, None], group.ids_NL[:, :-1]], axis=1)
        counted[name] = reference.bytes.token_bytes(group.ids_NL, before_NL, exact).tolist()
    for name in ("stream", "control"):
        assert bytes_of(group, TABLE, name).tolist() == counted[name]
        assert window_bytes(group, TABLE, name).tolist() == [sum(row) for row in counted[name]]
    assert [sum(map(sum, counted[name])) for name in counted] == [13, 10, 12]


@pytest.mark.parametrize(
    ("estimator", "order", "passes"),
    [
        ("nelbo", None, 3 * 4 + 2 * 16),
        ("causal", None, 3),
        *(("chain", order, 2 * 2 + 2) for order in ORDERS),
    ],
)
def test_uniform_model_scores_its_entropy_on_known_bytes(estimator, order, passes):
    seen = []
    score = evaluate(
        uniform,
        stream(),
        TABLE,
        estimator,
        order,
        seed=1,
        draws=4,
        step=2,
        on_progress=lambda *p: seen.append(p),
    )
    assert (score.tokens, score.bytes, score.forwards) == (11, 18, passes)
    assert score.bpb == pytest.approx(11 * math.log2(3) / 18, rel=1e-12)
    assert score.nats_per_token == pytest.approx(math.log(3), rel=1e-12)
    assert score.stderr_masks < 1e-9 and score.stderr_sequences > 0 and score.seconds > 0
    assert (score.estimator, score.order) == (
        estimator,
        "left-to-right" if estimator == "causal" else order,
    )
    assert seen[-1] == (passes, passes) and [done for done, _ in seen] == sorted(
        {done for done, _ in seen}
    )
    control = evaluate(
        uniform, stream(), TABLE, estimator, order, seed=1, draws=4, step=2, first_token="control"
    )
    assert control.bytes == 16


def test_grid_score_of_the_uniform_model_is_its_bias_formula():
    """Only the forced mask of the first time (weight 1 / epsilon) adds to log V; tails and windows
    all have it.
    """
    points, epsilon = 64, 0.05
    settings = {"points": points, "epsilon": epsilon, "forced_below": 0.06}
    scores = [
        evaluate(uniform, stream(), TABLE, "nelbo-grid", seed=seed, **settings)
        for seed in range(50)
    ]
    nats = np.array([score.nats_per_token for score in scores])
    t = epsilon
    expected = math.log(3) * (1 - epsilon) * (1 + 3 * (1 - t) / t / points / 11)
    assert abs(nats.mean() - expected) < 4 * nats.std() / math.sqrt(len(nats))
    assert scores[0].forwards == 3 * points


def test_every_window_draws_as_its_place_in_the_stream():
    """Groups of one length joined or apart, or started at a later row: the same windows cost the
    same.
    """
    model = TableModel(3, 4)
    ids_NL, previous_N = model.windows(7), np.array([-1, 0, 1, 2, 0, 1, 2])
    whole = evaluate(model.torch, [Windows(ids_NL, previous_N)], TABLE, "chain", "random", seed=2)
    parts = [
        Windows(ids_NL[:3], previous_N[:3]),
        Windows(ids_NL[:0], previous_N[:0]),
        Windows(ids_NL[3:], previous_N[3:]),
    ]
    assert evaluate(model.torch, parts, TABLE, "chain", "random", seed=2)[:8] == whole[:8]
    first = evaluate(model.torch, parts[:1], TABLE, "chain", "random", seed=2)
    last = evaluate(model.torch, parts[2:], TABLE, "chain", "random", seed=2, first_row=3)
    assert first.bpb * first.bytes + last.bpb * last.bytes == pytest.approx(
        whole.bpb * whole.bytes, rel=1e-12
    )
    assert evaluate(model.torch, parts[2:], TABLE, "chain", "random", seed=2).bpb != last.bpb


@pytest.mark.parametrize("estimator", ["nelbo", "nelbo-grid", "chain"])
def test_ranges_scored_apart_go_through_passes_of_one_shape(estimator):
    """Two lone windows, a batch and a half, or all at once: the shape of a pass, which decides the
    last bits, is that of a whole batch.
    """
    model, shapes = TableModel(3, 4), set()
    windows, effort = (
        Windows(model.windows(7), np.full(7, -1)),
        Effort(estimator, "random" if estimator == "chain" else None, points=3),
    )
    plan = fast.likelihood.pilot(model.torch, windows.ids_NL, 3, 8, 0)

    def log_probs(ids_BL):
        shapes.add(tuple(ids_BL.shape))
        return model.torch(ids_BL)

    def parts(first, stop, filled):
        group = Windows(windows.ids_NL[first:stop], windows.previous_N[first:stop])
        settings = {"first_row": first, "batch_rows": 4, "plans": {4: plan}, "filled": filled}
        found = list(measure(log_probs, [group], TABLE, effort, **settings))
        return {row: rest for part in found for row, *rest in zip(*part[:5], strict=True)}

    whole = parts(0, 7, 4)
    assert parts(0, 1, 4) | parts(1, 6, 4) | parts(6, 7, 4) == whole == parts(
        0, 7, None
    ) and shapes == {(4, 4)}
    parts(0, 1, None)
    assert shapes == {(4, 4), (1, 4)}


def test_scores_are_what_the_estimators_give():
    model = TableModel(3, 4)
    group = Windows(model.windows(5), np.full(5, -1))
    settings = {
        "seed": 3,
        "draws": 6,
        "points": 7,
        "epsilon": 0.01,
        "forced_below": 0.2,
        "step": 2,
        "block": 3,
        "batch_rows": 2,
    }
    plan = fast.likelihood.pilot(model.torch, group.ids_NL, 3, pilot_passes(5, 6), 3)
    drawn = {
        "nelbo": fast.likelihood.nelbo(model.torch, group.ids_NL, 3, 6, plan, 3),
        "nelbo-grid": fast.likelihood.nelbo_grid(model.torch, group.ids_NL, 3, 7, 0.01, 0.2, 3),
    }
    total = window_bytes(group, TABLE).sum()
    for name, nats_NK in drawn.items():
        score = evaluate(model.torch, [group], TABLE, name, **settings)
        assert score.bpb == pytest.approx(
            nats_NK.mean(axis=1).sum() / math.log(2) / total, rel=1e-12
        )
        deviation = math.sqrt(fast.likelihood.mask_variance(nats_NK).sum())
        assert score.stderr_masks == pytest.approx(deviation / math.log(2) / total, rel=1e-12)
    nats_NL = fast.chain.chain(model.torch, group.ids_NL, 3, "block", 3, 2, 3)
    score = evaluate(model.torch, [group], TABLE, "chain", "block", **settings)
    assert score.bpb == pytest.approx(nats_NL.sum() / math.log(2) / total, rel=1e-12)
    assert score.stderr_masks == 0


@pytest.mark.parametrize(
    "effort",
    [
        Effort("nelbo", seed=3, draws=40),  # its pilot takes more than the least of passes
        Effort("nelbo-grid", seed=3, points=7, epsilon=0.01, forced_below=0.2),
        *(Effort("chain", order, seed=3, step=2, block=3) for order in ORDERS),
        *(Effort("chain", "random", seed=3, positions=count) for count in (2, 3, 4, 9)),
        Effort("chain", "left-to-right", trailing=3),
    ],
    ids=repr,
)
def test_every_estimator_gives_what_the_reference_gives(effort):
    model, previous_N = TableModel(3, 4), np.array([-1, 0, 2, 1, 1])
    group = Windows(model.windows(5), previous_N)
    estimate = reference.likelihood.METHODS[effort.estimator]
    nats_N, variance_N = estimate(model.numpy, group.ids_NL, previous_N, 3, effort, 7)
    parts = list(measure(model.torch, [group], TABLE, effort, first_row=7, batch_rows=2))
    for column, expected_N in ((1, nats_N), (2, variance_N)):
        found_N = np.concatenate([part[column] for part in parts])
        np.testing.assert_allclose(found_N, expected_N, **EXACT)


def test_causal_model_sees_the_true_token_before_the_window_whatever_the_byte_convention():
    def follows(ids_BL):  # token after t is t + 1 mod 3 for sure
        return torch.eye(3, dtype=torch.float64)[(ids_BL + 1) % 3].log()

    group = [Windows(np.array([[0, 1, 2], [1, 2, 0]]), np.array([2, 0]))]
    for first_token in ("stream", "control"):
        assert evaluate(follows, group, TABLE, "causal", seed=0, first_token=first_token).bpb == 0


@pytest.mark.parametrize(
    ("keywords", "message"),
    [
        ({"estimator": "elbo"}, "nelbo, nelbo-grid, chain, causal"),
        ({"estimator": "chain", "order": "best"}, "left-to-right, right-to-left, random"),
        ({"estimator": "chain"}, "left-to-right, right-to-left, random"),
        ({"estimator": "nelbo", "order": "random"}, "chain"),
        ({"first_token": "none"}, "stream, control"),
        ({"draws": 1}, "draws of at least 2, found 1"),
        ({"seed": -1}, r"a seed of 0 ... 2\*\*64 - 1, found -1"),
        ({"seed": 2**64}, r"a seed of 0 ... 2\*\*64 - 1, found 18446744073709551616"),
        ({"points": 1}, "points of at least 2, found 1"),
        ({"step": 0}, "step of at least 1, found 0"),
        ({"block": 0}, "block of at least 1, found 0"),
        ({"batch_rows": 0}, "batch_rows of at least 1, found 0"),
        ({"epsilon": 0.0}, "epsilon"),
        ({"epsilon": 1.0}, "epsilon"),
    ],
)
def test_bad_settings_are_one_clear_error(keywords, message):
    with pytest.raises(InputError, match=message):
        evaluate(uniform, stream(), TABLE, **{"seed": 0} | keywords)


def test_bad_windows_and_broken_models_are_one_clear_error():
    empty = Windows(np.zeros((0, 4), np.int64), np.zeros(0, np.int64))
    for windows in ([], [empty]):
        with pytest.raises(InputError, match="at least one window"):
            evaluate(uniform, windows, TABLE, seed=0)
    with pytest.raises(InputError, match="0 bytes"):
        evaluate(uniform, [Windows(np.zeros((2, 4), np.int64), np.array([-1, 0]))], TABLE, seed=0)
    for estimator, order in (("nelbo", None), ("chain", "confidence"), ("causal", None)):
        with pytest.raises(InputError, match="nan"):
            evaluate(lambda ids: uniform(ids) * math.nan, stream(), TABLE, estimator, order, seed=0)
        with pytest.raises(InputError, match="such as inf"):
            evaluate(lambda ids: uniform(ids) * math.inf, stream(), TABLE, estimator, order, seed=0)


def test_pilot_stays_a_small_part_of_the_work():
    assert [
        2 * pilot_passes(windows, draws)
        for windows, draws in ((1, 16), (16, 16), (64, 16), (60_000, 16))
    ] == [16, 16, 64, 512]


def test_every_estimator_runs_on_windows_of_one_token():
    windows = [Windows(np.array([[1], [2]]), np.array([-1, 1]))]
    for estimator in METHODS:
        order = "margin" if estimator == "chain" else None
        score = evaluate(
            uniform, windows, TABLE, estimator, order, seed=0, forced_below=0.0, points=4096
        )
        assert score.nats_per_token == pytest.approx(
            math.log(3), abs=6 * score.stderr_masks * score.bytes + 0.01
        )


def test_gradients_are_never_kept():
    weight = torch.zeros(3, requires_grad=True)
    counts = types.SimpleNamespace(tracked=0)

    def model(ids_BL):
        out = (weight + 0 * ids_BL[..., None]).log_softmax(-1)
        counts.tracked += out.requires_grad
        return out

    for estimator in METHODS:
        evaluate(
            model,
            stream(),
            TABLE,
            estimator,
            "random" if estimator == "chain" else None,
            seed=0,
            points=2,
            draws=2,
        )
    assert counts.tracked == 0


def test_what_an_effort_is_unless_asked():
    effort = Effort()
    assert (effort.estimator, effort.order, effort.seed) == ("nelbo", None, 0)
    assert (effort.epsilon, effort.forced_below) == (0.001, 0.01)
    assert {name: method[2:] for name, method in METHODS.items()} == {
        "nelbo": (True, False, False),  # planned, ordered, slides
        "nelbo-grid": (False, False, False),
        "chain": (False, True, True),
        "causal": (False, False, True),
    }


@pytest.mark.parametrize(
    ("least", "order"),
    [
        ({"draws": 2, "points": 2}, None),
        ({"step": 1, "block": 1}, "block"),
        ({"positions": 2}, "random"),
        ({"trailing": 0}, "left-to-right"),
    ],
)
def test_the_least_of_each_number_is_allowed(least, order):
    estimator = "chain" if order else "nelbo"
    Effort(estimator, order, **least).check()
    for name, value in least.items():
        with pytest.raises(InputError, match=f"{name} of at least {value}, found {value - 1}"):
            Effort(estimator, order, **{name: value - 1}).check()
    if not order:
        for name, value in (("positions", 2), ("trailing", 0)):
            with pytest.raises(InputError, match=f"expected no --{name}, found one"):
                Effort(estimator, None, **{name: value}).check()


@pytest.mark.parametrize("compiled", [False, True])
def test_whole_windows_alone_go_through_the_compiled_network(compiled, monkeypatch):
    """One graph for the one length; a shorter last window runs as it is."""
    asked, taken = [], []

    def compile_(function, **options):
        asked.append(options)
        return lambda ids_BL: taken.append(tuple(ids_BL.shape)) or function(ids_BL)

    monkeypatch.setattr(torch, "compile", compile_)
    recipe = replace(TINY, model=replace(TINY.model, causal=True))
    params = initial_state(recipe).params
    predict = predictor(params, recipe, compiled=compiled)
    whole, short = torch.zeros(2, 8, dtype=torch.int64), torch.zeros(3, 5, dtype=torch.int64)
    vocab = recipe.model.vocab
    assert predict(whole).shape == (2, 8, vocab) and predict(short).shape == (3, 5, vocab)
    assert not predict(whole).requires_grad
    assert asked == [{"dynamic": False}] * compiled and taken == [(2, 8)] * 2 * compiled


def test_attention_looks_back_where_the_causal_estimator_is_asked_for():
    """By its whole name; every other estimator takes the network that answers for single rows."""
    params = initial_state(TINY).params
    for estimator in (None, "nelbo", "nelbo-grid", "chain", "aaa"):
        assert isinstance(predictor(params, TINY, estimator=estimator), RowPredictor)
    assert not isinstance(predictor(params, TINY, estimator="causal"), RowPredictor)


def test_chains_take_no_more_rows_than_fit(monkeypatch):
    asked = []
    monkeypatch.setattr(RowPredictor, "most_rows", lambda self, length: asked.append(length) or 2)
    predict, table = (
        predictor(initial_state(TINY).params, TINY),
        byte_table(["a"] * 12, ["normal"] * 12),
    )
    group = Windows(np.arange(20).reshape(5, 4) % 12, np.full(5, -1))
    for effort, sizes in ((Effort("chain", "random"), [2, 2, 1]), (Effort("nelbo-grid"), [3, 2])):
        parts = measure(predict, [group], table, effort, batch_rows=3)
        assert [len(part.rows_N) for part in parts] == sizes
    assert set(asked) == {4}
