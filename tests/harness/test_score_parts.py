"""Scoring and comparing with stand-ins for what computes: what is asked of whom, what is kept and
when, and what a picture shows.
"""

import contextlib
import hashlib
import json
import math
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from fast.evaluate import Effort
from harness.corpus.sources import Source
from harness.evaluation import paired, scoring
from harness.evaluation.scoring import Estimate, Job
from reference.recipe import TINY, InputError
from tests.support.stand_ins import Bar, Split

LENGTH = TINY.model.length
TOKENIZER = SimpleNamespace(sha256="t" * 64, table="table")


def job(first=2, stop=9, total=20, effort=None, tokens=160, recipe=TINY, **identity) -> Job:
    """Return windows 2 to 8 of 20, on a text of a hundred tokens."""
    known = {"tokenizer_sha256": "a" * 64, "validation_tokens": 100, "validation_sha256": "b" * 64}
    dataset = SimpleNamespace(validation=Split(range(tokens)), tokenizer=TOKENIZER)
    effort = effort or Effort("nelbo")
    place = Path("run"), Path("file"), {"a": 1}
    return Job(*place, recipe, dataset, known | identity, effort, first, stop, total)


@pytest.fixture
def shown(monkeypatch):
    """Return the bar that scoring and comparing show, and its titles."""
    made, titles = Bar(), []

    @contextlib.contextmanager
    def bar(*title):
        titles.append(title)
        yield made

    monkeypatch.setattr(scoring, "bar", bar)
    monkeypatch.setattr(paired, "bar", bar)
    return made, titles


# One score


@pytest.mark.parametrize("partial", [None, Path("kept.json")])
@pytest.mark.parametrize("compiled", [None, False, True])
def test_a_score_is_of_the_job_and_says_how_it_came_about(partial, compiled, monkeypatch):
    asked, made = {}, job()
    monkeypatch.setattr(scoring, "_identity", lambda given: {"of": given})
    monkeypatch.setattr(scoring, "compiles", lambda *given: asked.update(work=given) or "decided")

    class Known:
        rows = {}

        def __init__(self, header, path):
            asked["header"], asked["path"] = header, path

        def score(self):
            return "score"

    def measure(*given):
        asked["measure"] = given

    def predictor(*given):
        asked["predictor"] = given
        return "predict"

    monkeypatch.setattr(scoring, "Partial", Known)
    monkeypatch.setattr(scoring.evaluate, "predictor", predictor)
    monkeypatch.setattr(scoring, "_measure", measure)
    estimate = Estimate(batch_rows=7, first_token="control")
    assert scoring.scored(made, estimate, "cpu:0", compiled, partial) == "score"
    chosen = "decided" if compiled is None else compiled
    assert asked["header"] == {
        "of": made,
        "first_token": "control",
        "batch_rows": 7,
        "device": "cpu",
        "compiled": chosen,
    }
    assert asked["path"] == partial
    assert asked["predictor"] == ({"a": 1}, TINY, "cpu:0", chosen, "nelbo")
    known, predict, *rest = asked["measure"]
    assert predict == "predict" and rest == [made, estimate.filled(), "cpu:0"]
    # Of a partial file the whole split decides, so that ranges scored apart add up.
    assert asked.get("work") == (
        (made, "cpu:0", 20 if partial else 7) if compiled is None else None
    )


@pytest.mark.parametrize(
    ("partial", "kept"),
    [(None, "; --partial FILE would keep them"), (Path("a.json"), "; go on with --partial a.json")],
)
def test_an_interrupted_score_says_what_is_kept(partial, kept, monkeypatch):
    class Known:
        rows = {3: (), 4: ()}

        def score(self):
            return {"bpb": 1.0}

    def stop(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(scoring, "Partial", lambda header, path: Known())
    monkeypatch.setattr(scoring, "_identity", lambda given: {})
    monkeypatch.setattr(scoring.evaluate, "predictor", lambda *_: None)
    monkeypatch.setattr(scoring, "_measure", stop)
    with pytest.raises(scoring.Stopped) as caught:
        scoring.scored(job(), Estimate(), "cpu", False, partial)
    assert str(caught.value) == f"stopped: 2 windows are scored, 7 were asked for{kept}"
    assert caught.value.result == {"bpb": 1.0}


@pytest.mark.parametrize(("device", "least"), [("cpu", 4e9), ("cuda", 1.5e12), ("cuda:1", 1.5e12)])
def test_the_compiler_is_worth_it_from_an_amount_of_work_on(device, least):
    """Layers times width times the tokens of all passes."""
    model = SimpleNamespace(layers=5, d=10, length=8)
    effort = SimpleNamespace(passes=lambda length: 20 if length == 8 else 0)
    made = SimpleNamespace(recipe=SimpleNamespace(model=model), effort=effort)
    windows = int(least) // (5 * 10 * 8 * 20)
    assert scoring.compiles(made, device, windows) is True
    assert scoring.compiles(made, device, windows - 1) is False


def test_compiling_says_how_long_it_takes():
    assert scoring.compiling("cpu").startswith("compiling the forward pass: about 30 s, unless the")
    assert scoring.compiling("cuda:1").startswith("compiling the forward pass: about 60 s, unless")


def test_windows_are_measured_from_where_they_are_missing(shown, monkeypatch):
    """With one plan of the split; in whole passes where they are added up with others."""
    bar, titles = shown
    asked, plans, saved = [], {}, []
    group = SimpleNamespace(ids_NL=np.zeros((7, LENGTH)))

    class Known:
        header = {"compiled": True}
        rows, seconds, forwards = {}, 100.0, 3
        path = None

        def __init__(self):
            self.plans = plans

        def missing(self, first, stop):
            assert (first, stop) == (2, 9)
            return [(2, 4), (7, 9)]

        def add(self, part):
            self.rows = {1: part}

        def save(self):
            saved.append(self.seconds)

    def windows(*given):
        asked.append(("windows", *given[1:]))
        return [group]

    def measure(*given, **settings):
        asked.append(("measure", *given, settings))
        yield "part"

    def split_plan(*given, **settings):
        asked.append(("plan", *given[2:], settings))
        return "plan", 9

    monkeypatch.setattr(scoring.data, "evaluation_windows", windows)
    monkeypatch.setattr(scoring.evaluate, "measure", measure)
    monkeypatch.setattr(scoring.evaluate, "split_plan", split_plan)
    for path, rows, filled in ((None, 7, None), (Path("a"), 64, LENGTH), (Path("a"), 64, LENGTH)):
        asked.clear()
        saved.clear()
        known = Known()
        known.path = path
        before = plans.copy()
        scoring._measure(known, "predict", job(), Estimate().filled(), "cpu")
        settings = {"batch_rows": rows, "device": "cpu"}
        whole = settings | {
            "first_token": "stream",
            "plans": plans,
            "filled": filled,
            "on_progress": bar.update,
        }
        model, effort = TINY.model, Effort("nelbo")
        text = "predict", [group], "table", effort
        fitted = [("plan", model.length, model.vocab, effort, settings)]
        assert asked == [
            ("windows", model.length, model.vocab, 2, 7),
            *([] if before else fitted),
            ("windows", model.length, model.vocab, 2, 2, False),
            ("measure", *text, {"first_row": 2} | whole),
            ("windows", model.length, model.vocab, 7, 2, False),
            ("measure", *text, {"first_row": 7} | whole),
        ]
        assert plans == {model.length: "plan"} and known.forwards == (3 if before else 12)
        assert len(saved) == 1 and 100.0 <= saved[0] < 160.0  # what was known before counts
    assert titles == [("nelbo", "passes")] * 3
    assert bar.said == [scoring.compiling("cpu")] * 3


def test_what_is_known_is_saved_now_and_then(shown, monkeypatch):
    """Ten seconds after it was saved last, and at the end, whatever ends it."""
    clock, saved, rows = iter([0.0, 9.9, 10.1, 10.2, 20.2, 20.3, 20.4]), [], {}

    class Known:
        header, path, plans = {"compiled": False}, None, {LENGTH: "plan"}
        seconds = 0.0

        def __init__(self):
            self.rows = rows

        def missing(self, first, stop):
            return [(first, stop)]

        def add(self, part):
            self.rows[part] = ()

        def save(self):
            saved.append(sorted(self.rows))

    def measure(*given, **settings):
        yield from range(4)
        raise KeyboardInterrupt

    group = SimpleNamespace(ids_NL=np.zeros((7, LENGTH)))
    monkeypatch.setattr(scoring.data, "evaluation_windows", lambda *_: [group])
    monkeypatch.setattr(scoring.evaluate, "measure", measure)
    monkeypatch.setattr(scoring.time, "monotonic", lambda: next(clock))
    with pytest.raises(KeyboardInterrupt):
        scoring._measure(Known(), None, job(), Estimate().filled(), "cpu")
    # The clock is read after each part, and once more when something is saved.
    assert saved == [[0, 1], [0, 1, 2, 3], [0, 1, 2, 3]]
    assert shown[0].said == []


# What is scored


def test_a_run_says_where_its_data_is(tmp_path):
    (tmp_path / "artifact.mgolf").write_bytes(b"a")
    (tmp_path / "recipe.json").write_text(json.dumps({"source": {"data": "/a"}}))
    (tmp_path / "summary.json").write_text("{}")
    assert scoring.locate(tmp_path) == (tmp_path / "artifact.mgolf", {"data": "/a"})
    assert scoring.locate(tmp_path / "artifact.mgolf")[0] == tmp_path / "artifact.mgolf"
    for text in ("", "[]", "{}", "null"):
        (tmp_path / "recipe.json").write_text(text)
        with pytest.raises(InputError, match="recipe.json: expected the JSON of a run, found some"):
            scoring.locate(tmp_path)


@pytest.mark.parametrize(
    ("first", "sequences", "stop", "told"),
    [
        (None, None, 20, ""),
        (0, 20, 20, ""),
        (3, None, 20, ""),
        (3, 17, 20, ""),
        (19, 1, 20, ""),
        (3, 5, 8, ""),
        (0, 21, 0, "--sequences 21: expected at most 20, as the validation split of run has 20 wi"),
        (
            3,
            18,
            0,
            "--sequences 18: expected at most 17, as the .* 20 windows and --from is 3; low",
        ),
        (
            20,
            None,
            0,
            "--from 20: expected at most 19, as the validation split of run has 20 windo",
        ),
        (20, 1, 0, "--from 20: expected at most 19"),
    ],
)
def test_a_job_is_a_range_of_the_split(first, sequences, stop, told, monkeypatch):
    identified = []
    dataset = SimpleNamespace(
        validation="validation", identity=lambda splits: identified.append(splits) or {"of": splits}
    )
    monkeypatch.setattr(
        scoring, "opened", lambda *given: (Path("file"), {"a": 1}, TINY, dataset, given)[:4]
    )
    monkeypatch.setattr(
        scoring.data, "evaluation_count", lambda *given: {("validation", LENGTH): 20}[given]
    )
    monkeypatch.setattr(scoring, "effort_of", lambda *given: given)
    estimate = Estimate(from_=first, sequences=sequences)
    if told:
        with pytest.raises(InputError, match=f"^{told}"):
            scoring._job(Path("run"), Source(), estimate, True)
    else:
        made = scoring._job(Path("run"), Source(), estimate, True)
        assert made[:5] == (Path("run"), Path("file"), {"a": 1}, TINY, dataset)
        assert made[5:] == (
            {"of": ("validation",)},
            (estimate, TINY, True),
            first or 0,
            stop,
            20,
        )


def test_an_order_that_there_is_not_is_refused():
    with pytest.raises(
        InputError, match="^--order best: expected .* as a .* model has no other; dr"
    ):
        scoring.effort_of(Estimate(estimator="chain", order="best"), TINY)
    assert scoring.effort_of(Estimate(order="random"), TINY, exact=True).order == "random"


def test_a_partial_file_tells_the_model_the_text_and_the_effort(tmp_path):
    (tmp_path / "file").write_bytes(b"weights")
    made = job(effort=Effort("nelbo", seed=7))._replace(file=tmp_path / "file")
    assert scoring._identity(made) == {
        "run": "run",
        "artifact_sha256": hashlib.sha256(b"weights").hexdigest(),
        "length": LENGTH,
        "tokenizer_sha256": "a" * 64,
        "validation_tokens": 100,
        "validation_sha256": "b" * 64,
        **asdict(Effort("nelbo", seed=7)),
    }


# A fresh process


@pytest.mark.parametrize(
    ("given", "flags"),
    [
        ((None, None, None, "cpu", True), []),
        (("nelbo", None, 3, "cpu", False), ["--estimator", "nelbo", "--sequences", "3"]),
        (("chain", "random", None, "gpu", True), ["--estimator", "chain", "--order", "random"]),
    ],
)
@pytest.mark.parametrize("source", [None, Source(data=Path("/a"))])
def test_a_fresh_process_is_given_what_was_asked(given, flags, source, monkeypatch):
    asked = []

    def run(command):
        asked.append(command)
        return subprocess.CompletedProcess(command, 0, '{"bpb": 1.5}')

    monkeypatch.setattr(scoring, "run_without_interrupts", run)
    assert scoring.score_fresh(Path("run"), *given, *([source] if source else [])) == {"bpb": 1.5}
    [command] = asked
    assert command[:6] == [sys.executable, "-m", "harness", "eval", "run", "--json"]
    assert command[6:] == [
        "-",
        "--device",
        given[3],
        *flags,
        *([] if given[4] else ["--no-compiled"]),
        *(source.flags() if source else []),
    ]


def test_a_process_ends_with_the_one_that_waits_for_it(monkeypatch):
    done = scoring.run_without_interrupts([sys.executable, "-c", "print('a'); exit(3)"])
    assert (done.returncode, done.stdout) == (3, "a\n")
    started, plain = [], subprocess.Popen

    class Interrupted(plain):
        def communicate(self, *given):
            started.append(self)
            raise KeyboardInterrupt

    monkeypatch.setattr(scoring.subprocess, "Popen", Interrupted)
    with pytest.raises(KeyboardInterrupt):
        scoring.run_without_interrupts([sys.executable, "-c", "import time; time.sleep(20)"])
    assert started[0].returncode == -9
    started[0].stdout.close()


# Jobs of one text


def told(one: Job, other: Job, first_token="stream", exact=False) -> str:
    with pytest.raises(InputError) as caught:
        scoring._check_one_text(one, other, first_token, exact)
    return str(caught.value)


def test_what_tells_two_texts_apart_is_told(monkeypatch):
    sizes = {2: 300, 3: 301}
    monkeypatch.setattr(scoring, "scored_bytes", lambda made, first_token: sizes[made.first])
    scoring._check_one_text(job(), job(), "stream", True)
    assert told(job(), job(first=3)) == (
        "eval: expected runs on one text, found run and run with scored part tokens 16 to 72 and"
        " tokens 24 to 72; name one text with --data, and leave --from and --sequences out where"
        " the windows differ in length"
    )
    part = told(job(), job(validation_tokens=1_200, validation_sha256="c" * 64), exact=True)
    assert part.startswith("--compare: expected runs on one text, tokenizer and window length,")
    assert (
        "with text of 100 tokens, SHA-256 bbbbbbbb and of 1,200 tokens, SHA-256 cccccccc;" in part
    )
    other = job(first=3, tokenizer_sha256="c" * 64)
    assert "tokenizer aaaaaaaa and cccccccc; scored part" in told(job(), other)
    assert "; bytes of text 300 and 301; name one" in told(job(), other)
    sizes[3] = 300
    scoring._check_one_text(job(), other, "stream", False)
    assert "tokenizer aaaaaaaa and cccccccc" in told(job(), other, exact=True)


def test_the_bytes_of_a_job_are_those_of_its_windows(monkeypatch):
    """A thousand windows at a time."""
    asked = []

    def windows(*given):
        asked.append(given[1:])
        return ["group"] * 2

    monkeypatch.setattr(scoring, "COUNTED", 3)
    monkeypatch.setattr(scoring.data, "evaluation_windows", windows)
    monkeypatch.setattr(
        scoring.evaluate,
        "window_bytes",
        lambda *given: np.array([5, 6]) * (given == ("group", "table", "control")),
    )
    assert scoring.scored_bytes(job(), "control") == 3 * 2 * 11
    assert asked == [(LENGTH, 12, 2, 3), (LENGTH, 12, 5, 3), (LENGTH, 12, 8, 1)]


def test_a_range_may_end_with_the_text():
    """The last window is shorter."""
    message = told(job(stop=20, tokens=155), job(stop=19, tokens=155))
    assert "tokens 16 to 155 and tokens 16 to 152" in message


# Comparing


def costs(**changes) -> paired.TokenCosts:
    bits = [np.arange(12.0).reshape(3, 4)]
    given = {"run": "a", "method": "m", "bits": bits, "bytes": [np.ones((3, 4))], "tokenizer": "t"}
    return paired.TokenCosts(**{**given, **changes})


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"tokenizer": "123456789"}, "tokenizer t and 12345678;"),
        ({"text": "123456789"}, "text  and 12345678;"),
        ({"bits": [np.ones((3, 5)), np.ones((1, 2))]}, "windows 3 of 4 and 3 of 5, 1 of 2;"),
    ],
)
def test_what_does_not_pair_is_told_in_short(changes, said):
    with pytest.raises(InputError, match=f"found a and b with {said} train both on the same data"):
        paired.difference(costs(), costs(run="b", **changes))


@pytest.mark.parametrize(
    ("length", "expected"),
    [
        (1, [(1, 1)]),
        (2, [(1, 1), (2, 2)]),
        (6, [(1, 1), (2, 2), (3, 4), (5, 6)]),
        (8, [(1, 1), (2, 2), (3, 4), (5, 8)]),
        (9, [(1, 1), (2, 2), (3, 4), (5, 8), (9, 9)]),
    ],
)
def test_spans_of_positions_double(length, expected):
    assert paired.buckets(length) == expected


def test_bits_stand_to_the_bytes_that_there_are():
    """Without bytes there is no score, of one window no error."""
    assert paired.ratio(np.array([2.0, 4.0]), np.array([0, 0])) == (None, None)
    assert paired.ratio(np.array([2.0]), np.array([4])) == (0.5, None)
    value, error = paired.ratio(np.array([2.0, 4.0]), np.array([4, 4]))
    assert value == 0.75 and error > 0
    reply = paired.difference(costs(), costs(run="b"))
    assert (reply["tokens"], reply["bytes"]) == (12, 12) and type(reply["bytes"]) is int


def test_a_picture_shows_both_runs_by_position(monkeypatch):
    """With no bar where there is no error, and no point where there is no value."""
    drawn, named = [], []

    class Axes:
        def __getattr__(self, name):
            return lambda *values, **options: drawn.append((name, values, options))

    @contextlib.contextmanager
    def figure(path):
        named.append(path)
        yield Axes()

    monkeypatch.setattr(paired, "figure", figure)
    rows = [
        {"last": 1, "a": None, "a_stderr": None, "b": 2.5, "b_stderr": None},
        {"last": 4, "a": 2.0, "a_stderr": 0.5, "b": 2.4, "b_stderr": 0.1},
    ]
    kinds = {name: {"run": f"run {name}", "method": f"method {name}"} for name in "ab"}
    paired.plot({"positions": rows, "runs": kinds}, Path("a.png"))
    (one, other), axes = drawn[:2], dict((name, options) for name, _, options in drawn[2:])
    assert named == [Path("a.png")]
    last, values, errors = one[1]
    assert last == [1, 4] and math.isnan(values[0]) and values[1] == 2.0 and errors == [0, 0.5]
    assert other[1] == ([1, 4], [2.5, 2.4], [0, 0.1])
    assert one[2]["label"] == "run a (method a)" and other[2]["label"] == "run b (method b)"
    assert drawn[2] == ("set_xscale", ("log",), {"base": 2})
    assert axes["set"] == {"xlabel": "last position of the span", "ylabel": "bits per byte"}


@pytest.mark.parametrize("image", [None, Path("a.png")])
def test_two_runs_are_compared_and_drawn_where_asked(image, monkeypatch):
    asked = []

    def plant(name, value):
        monkeypatch.setattr(
            paired, name, lambda *given, **more: asked.append((name, *given, more)) or value
        )

    plant("prepare", ["one", "other"])
    plant("per_token", "costs")
    plant("difference", "result")
    plant("plot", None)
    assert paired.runs("paths", "source", "estimate", "device", "how", image) == "result"
    assert asked == [
        ("prepare", "paths", "source", "estimate", {"exact": True}),
        ("per_token", "one", "estimate", "device", "how", {}),
        ("per_token", "other", "estimate", "device", "how", {}),
        ("difference", "costs", "costs", {}),
        *([("plot", "result", image, {})] if image else []),
    ]


@pytest.mark.parametrize("compiled", [None, False])
def test_the_cost_of_every_token_is_asked_of_the_job(compiled, shown, monkeypatch):
    """Windows from the job's first on, each group at its own row."""
    bar, titles = shown
    groups = [
        SimpleNamespace(ids_NL=np.zeros((count, length), int)) for count, length in ((6, 8), (1, 5))
    ]
    asked, sized = [], []

    def token_nats(predict, group, vocab, effort, row, **settings):
        settings["on_pass"](len(group.ids_NL))
        asked.append((predict, vocab, effort, row, {**settings, "on_pass": None}))
        return np.full(group.ids_NL.shape, math.log(2))

    def predictor(*given):
        sized.append(given)
        return "predict"

    monkeypatch.setattr(
        paired, "compiles", lambda made, device, windows: sized.append(windows) or True
    )
    monkeypatch.setattr(paired.evaluate, "predictor", predictor)
    monkeypatch.setattr(
        paired.data, "evaluation_windows", lambda *given: sized.append(given[1:]) or groups
    )
    monkeypatch.setattr(paired.evaluate, "token_nats", token_nats)
    monkeypatch.setattr(paired.evaluate, "bytes_of", lambda *given: given[1:])
    for order, stride, before, method in (
        ("random", None, False, "chain rule, random, seed 5"),
        ("block", None, False, "chain rule, block, block 4"),
        ("left-to-right", None, False, "chain rule, left-to-right"),
        (None, None, True, "causal attention, one pass"),
        (None, 2, True, "causal attention, a window every 2 tokens"),
    ):
        effort = Effort("chain" if order else "causal", order, stride=stride, seed=5, block=4)
        reply = paired.per_token(job(effort=effort), Estimate(batch_rows=3), "cpu", compiled)
        assert reply.method == method and reply.looks_before == before
        assert reply.run == "run" and reply.tokenizer == "t" * 64
        assert [bits.tolist() for bits in reply.bits] == [[[1.0] * 8] * 6, [[1.0] * 5]]
        assert reply.bytes == [("table", "stream")] * 2 and len(reply.text) == 64
        settings = {"batch_rows": 3, "device": "cpu", "on_pass": None}
        assert asked == [("predict", 12, effort, row, settings) for row in (2, 8)]
        total = 6 * 8 + 5 if order else 6 * 4 + 3 if stride else 7
        assert bar.updates == [(6, total), (7, total)]
        assert titles.pop() == (f"run: {method}", "passes")
        expected = [7] if compiled is None else []
        network = ({"a": 1}, TINY, "cpu", compiled is None, effort.estimator)
        assert sized == [*expected, network, (8, 12, 2, 7, bool(stride))]
        assert bar.said == ([scoring.compiling("cpu")] if compiled is None else [])
        for kept in (asked, sized, bar.updates, bar.said):
            kept.clear()
