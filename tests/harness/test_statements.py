"""What a person states about a submission, what several seeds say together, and what a partial
evaluation knows: each alone.
"""

import json
import math
from dataclasses import replace
from datetime import date
from types import SimpleNamespace

import mpmath
import numpy as np
import pytest

from fast.evaluate import Effort, Part, total
from harness.evaluation import paired, partial, scoring, stats
from harness.packaging.claim import Claim
from reference.recipe import InputError, Plan

# Claims

CLAIM = Claim("Tiny model", "A. Person", "a-person", "2026-11-23")


@pytest.mark.parametrize("field", ["name", "author", "github_id", "blurb", "technique", "hardware"])
@pytest.mark.parametrize("text", ["", " \t", "TODO", "a\x1b[31m", "two\nlines"])
def test_a_text_that_says_nothing_or_cannot_be_printed_is_refused(field, text):
    claim = replace(CLAIM, **{field: text})
    if field == "blurb" and "\n" in text:
        claim.check()
        return
    with pytest.raises(InputError, match=f"^--{field.replace('_', '-')}: expected"):
        claim.check()


@pytest.mark.parametrize(
    ("name", "fine"),
    [
        ("a", True),
        ("a-b-c1", True),
        ("a" * 39, True),
        ("a" * 40, False),
        ("-a", False),
        ("a-", False),
        ("a--b", False),
        ("@a", False),
        ("github.com/a", False),
    ],
)
def test_github_names(name, fine):
    claim = replace(CLAIM, github_id=name)
    if fine:
        claim.check()
    else:
        with pytest.raises(InputError, match="^--github-id: expected a GitHub user name"):
            claim.check()


def test_tracks_days_and_folders():
    replace(CLAIM, track="10min_16mb").check()
    with pytest.raises(InputError, match="^--track 'fast': expected one of non_record_16mb, 10min"):
        replace(CLAIM, track="fast").check()
    assert CLAIM.day() == "2026-11-23"
    before = date.today().isoformat()
    assert before <= replace(CLAIM, date=None).day() <= date.today().isoformat()
    for wrong in ("23.11.2026", "2026-13-01", "today"):
        with pytest.raises(InputError, match="^--date: expected YYYY-MM-DD"):
            replace(CLAIM, date=wrong).day()
    assert CLAIM.folder() == "2026-11-23_Tiny_model"
    assert replace(CLAIM, name="_1.5 B / +x-y.").folder() == "2026-11-23_1.5_B_+x-y"
    with pytest.raises(InputError, match="^--name: expected letters or digits"):
        replace(CLAIM, name="__ ..").folder()


def test_what_a_run_knows_stands_where_nothing_is_stated():
    known = CLAIM.fields("of the run", "a GPU")
    assert known == {
        "author": "A. Person",
        "github_id": "a-person",
        "name": "Tiny model",
        "blurb": "of the run",
        "date": "2026-11-23",
        "track": "non_record_16mb",
        "hardware": "a GPU",
        "technique_summary": "of the run",
    }
    stated = replace(CLAIM, technique="mine", hardware="a CPU").fields("of the run", "a GPU")
    assert stated["blurb"] == stated["technique_summary"] == "mine"
    assert stated["hardware"] == "a CPU"
    assert replace(CLAIM, blurb="short").fields("t", "h")["blurb"] == "short"


# Several seeds


def test_welch_is_the_area_under_students_density():
    """The p-value by quadrature, sizes and variances unequal."""
    one, other = [1.0, 1.5, 1.2], [2.0, 2.9, 1.1, 2.2, 1.9]
    found = stats.welch(one, other)
    a, b = np.var(one, ddof=1) / 3, np.var(other, ddof=1) / 5
    freedom = (a + b) ** 2 / (a**2 / 2 + b**2 / 4)
    t = (np.mean(one) - np.mean(other)) / np.sqrt(a + b)

    def density(x):
        return (1 + x * x / freedom) ** (-(freedom + 1) / 2)

    whole = mpmath.quad(density, [-mpmath.inf, 0, mpmath.inf])
    p = 2 * mpmath.quad(density, [abs(t), mpmath.inf]) / whole
    expected = {"difference": t * np.sqrt(a + b), "stderr": np.sqrt(a + b), "t": t}
    expected |= {"degrees_of_freedom": freedom, "p": float(p)}
    assert found == pytest.approx(expected, rel=1e-9)
    assert stats.welch(other, one) == pytest.approx(
        found | {"difference": -found["difference"], "t": -found["t"]}
    )


@pytest.mark.parametrize(
    ("one", "other"), [([1.0], [2.0, 3.0]), ([2.0, 3.0], [1.0]), ([1.0, 1.0], [2.0, 2.0])]
)
def test_sets_that_say_nothing_of_the_noise_have_a_difference_alone(one, other):
    found = stats.welch(one, other)
    assert found.pop("difference") == np.mean(one) - np.mean(other)
    assert found == dict.fromkeys(("stderr", "t", "degrees_of_freedom", "p"))


def test_one_set_that_varies_is_enough():
    assert stats.welch([1.0, 1.0], [2.0, 3.0])["stderr"] == 0.5


def test_sets_of_scores():
    scores = [{"bpb": value} for value in (1.0, 3.0, 2.0, 6.0, 4.0)]
    assert stats.sets(scores[:1], 1) == {
        "scores": scores[:1],
        "n": 1,
        "mean": 1.0,
        "std": None,
        "against": None,
        "welch": None,
    }
    found = stats.sets(scores, 2)
    assert (found["scores"], found["n"], found["mean"], found["std"]) == (
        scores[:2],
        2,
        2.0,
        math.sqrt(2),
    )
    assert found["against"] == {"scores": scores[2:], "n": 3, "mean": 4.0, "std": 2.0}
    assert found["welch"] == stats.welch([1.0, 3.0], [2.0, 6.0, 4.0])


# Partial evaluations

HEADER = {"estimator": "nelbo", "order": None, "run": "a", "artifact_sha256": "0" * 64}
PLAN = Plan(np.array([2, 1]), np.array([0.5, 0.25]))


def known(rows, path=None, plans=None, **header) -> partial.Partial:
    """Return a partial evaluation of some windows, whose numbers are those of their rows."""
    made = partial.Partial(HEADER | header, path)
    columns = np.array(rows), np.array(rows) * 1.5, np.array(rows) / 8
    made.add(Part(*columns, np.array(rows) + 3, np.array(rows) + 7, 5))
    made.plans, made.seconds = dict(plans or {}), 2.0
    return made


def test_a_file_gives_back_what_was_saved(tmp_path):
    path = tmp_path / "some.json"
    made = known([4, 2, 9], path, {8: PLAN, 3: PLAN})
    made.save()
    again = partial.Partial(HEADER | {"run": "moved"}, path)
    assert (
        again.rows
        == made.rows
        == {row: (row * 1.5, row / 8, row + 3, row + 7) for row in (2, 4, 9)}
    )
    assert (again.forwards, again.seconds) == (5, 2.0)
    assert {length: [*map(list, plan)] for length, plan in again.plans.items()} == {
        length: [[2, 1], [0.5, 0.25]] for length in (3, 8)
    }
    assert [row[0] for row in json.loads(path.read_text())["windows"]] == [2, 4, 9]
    known([1]).save()  # without a path
    assert sorted(tmp_path.iterdir()) == [path]


def test_windows_that_are_missing():
    made = known([3, 4, 7])
    assert made.missing(0, 10) == [(0, 3), (5, 7), (8, 10)]
    assert made.missing(3, 5) == [] and made.missing(4, 8) == [(5, 7)]
    assert made.missing(5, 7) == [(5, 7)] and known([]).missing(2, 4) == [(2, 4)]


def test_files_are_merged_in_the_order_of_their_windows(tmp_path):
    paths = []
    for name, rows in (("b", [5, 3]), ("a", [1]), ("c", [8])):
        paths.append(tmp_path / name)
        known(rows, paths[-1], {8: PLAN}).save()
    found = partial.merge(paths)
    whole = known([1, 3, 5, 8])
    columns = [np.array(column) for column in zip(*(whole.rows[row] for row in (1, 3, 5, 8)))]
    expected = total([Part(np.array([1, 3, 5, 8]), *columns, 15)], Effort("nelbo", None), 6.0)
    assert {name: found[name] for name in expected._fields} == expected._asdict()
    assert found["windows"] == 4 and found["run"] == "a" and found["validation_sha256"] is None


def test_a_score_of_one_window_has_no_error_over_windows():
    found = known([4]).score()
    assert found["stderr_sequences"] is None and found["bpb"] > 0
    assert "points" not in found and "step" not in found and "block" not in found


@pytest.mark.parametrize(
    ("header", "told"),
    [
        ({}, set()),
        ({"positions": None, "trailing": None, "step": 1, "block": 4, "points": 9}, set()),
        ({"estimator": "causal", "stride": 4}, {"stride"}),
        ({"stride": None}, set()),
        ({"positions": 0, "trailing": 0, "step": 2}, {"positions", "trailing", "step"}),
        ({"estimator": "chain", "order": "block", "block": 4, "points": 9}, {"block"}),
        ({"estimator": "nelbo-grid", "points": 9, "block": 4}, {"points"}),
    ],
)
def test_a_score_tells_the_settings_that_move_it(header, told):
    found = known([4, 5], **header).score()
    names = {"positions", "trailing", "stride", "step", "block", "points"} & found.keys()
    assert names == told and all(found[name] == header[name] for name in told)


def test_what_does_not_belong_together_is_refused(tmp_path):
    path = tmp_path / "other.json"
    other_plan = {8: Plan(PLAN[0] + 1, PLAN[1])}
    for other, message in (
        (
            known([1], path, artifact_sha256="1" * 64),
            "expected artifact_sha256 '00000000', found '1",
        ),
        (known([1], path, step=2), "expected step None, found 2"),
        (known([7, 5, 3], path), "found window 5 again"),
        (known([1], path, other_plan), "expected the plan of the other files"),
    ):
        other.save()
        with pytest.raises(InputError, match=f"^{path}: .*{message}"):
            known([2, 5, 7], None, {8: PLAN}).absorb(other)
    fine = known([2], None, {8: PLAN})
    fine.absorb(known([1], tmp_path / "fine.json", {3: PLAN}, run="elsewhere"))
    assert sorted(fine.rows) == [1, 2] and sorted(fine.plans) == [3, 8]
    assert (fine.forwards, fine.seconds) == (10, 4.0)


def test_a_file_of_something_else_is_one_message(tmp_path):
    path = tmp_path / "some.json"
    with pytest.raises(InputError, match="expected a partial evaluation, found none"):
        partial.read(path)
    known([1], path).save()
    state = json.loads(path.read_text())
    for text in ("", "[]", "{}", json.dumps(state | {"windows": [[1, 2]]}), "null"):
        path.write_text(text)
        with pytest.raises(InputError, match="expected a partial evaluation, found something else"):
            partial.read(path)
    path.write_text(json.dumps(state | {"version": 1}))
    with pytest.raises(InputError, match="expected version 2 of a partial evaluation, found 1"):
        partial.read(path)
    path.write_text(json.dumps(state | {"windows": []}))
    with pytest.raises(InputError, match="expected at least one window"):
        partial.merge([path])


# The picture of a comparison


def test_spans_without_bytes_or_with_one_window_are_drawn(tmp_path):
    """Without a value there is no point, without an error no bar."""
    spans = [
        {"last": 1, "a": None, "a_stderr": None, "b": 2.5, "b_stderr": None},
        {"last": 2, "a": 2.0, "a_stderr": None, "b": 2.4, "b_stderr": 0.1},
    ]
    named = {name: {"run": name, "method": "chain rule"} for name in "ab"}
    paired.plot({"positions": spans, "runs": named}, tmp_path / "a.png")
    assert (tmp_path / "a.png").read_bytes().startswith(b"\x89PNG")


# An evaluation that is interrupted


@pytest.mark.parametrize("windows", [0, 2])
def test_what_is_scored_when_an_evaluation_is_interrupted_is_told(monkeypatch, windows):
    """Where no window is, there is nothing to tell."""

    def measure(made, *_):
        if windows:
            made.absorb(known([4, 5], **made.header))
        raise KeyboardInterrupt

    monkeypatch.setattr(scoring, "_identity", lambda job: HEADER)
    monkeypatch.setattr(scoring, "_measure", measure)
    monkeypatch.setattr(scoring.evaluate, "predictor", lambda *_: None)
    job = SimpleNamespace(
        params=None, recipe=None, first=2, stop=9, total=20, effort=Effort("causal", None)
    )
    with pytest.raises(KeyboardInterrupt) as caught:
        scoring.scored(job, scoring.Estimate(), "cpu", False)
    assert isinstance(caught.value, scoring.Stopped) == bool(windows)
    if windows:
        assert "stopped: 2 windows are scored, 7 were asked for" in str(caught.value)
