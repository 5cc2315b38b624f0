"""Two result files side by side: what is matched, what overlaps, what is refused."""

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness import cli
from harness.bench import compare
from harness.bench.measure import row
from reference.recipe import InputError
from tests.support.commands import refused


def rows(**ratios):
    """Return rows by name, each with (ratio, low, high) or None for one that was not measured."""
    made = []
    for name, numbers in ratios.items():
        ratio, low, high = numbers or (None, None, None)
        made.append(
            row(name, 6.0, 3.0, ratio, low, high, 5 if numbers else 0, "ms") | {"machine": "here"}
        )
    return made


def written(folder, name, content):
    """Write a file (text as it is, anything else as JSON) and return its path."""
    path = folder / name
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return path


def test_rows_are_matched_by_name(tmp_path, capsys):
    """Better, worse and unclear, in one file only, not measured; the order is that of the first
    file, then the second's own rows.
    """
    a = written(
        tmp_path,
        "a.json",
        rows(
            step=(2.0, 1.9, 2.1), muon=(3.0, 2.0, 4.0), gone=(1.0, 1.0, 1.0), left=(1.0, 0.9, 1.1)
        ),
    )
    others = rows(muon=(6.0, 4.0, 7.0), step=(1.0, 0.9, 1.1), left=None, new=(5.0, 5.0, 5.0))
    b = written(tmp_path, "b.json", [each | {"machine": "there"} for each in others])
    assert cli.main(["bench", "compare", str(a), str(b), "--json", "-"]) == 0
    both = json.loads(capsys.readouterr().out)
    assert (
        set(both) == {"a", "b", "rows"}
        and both["a"] == {"file": str(a), "machine": "here"}
        and both["b"]["machine"] == "there"
    )
    found = {each["name"]: each for each in both["rows"]}
    assert list(found) == ["step", "muon", "gone", "left", "new"]
    assert all(
        set(each) == {"name", "unit", "a", "b", "change", "overlap"} for each in both["rows"]
    )
    assert (found["step"]["change"], found["step"]["overlap"]) == (0.5, False)
    assert (found["muon"]["change"], found["muon"]["overlap"]) == (2.0, True)  # they touch in 4.0
    assert (
        found["gone"]["b"] is None
        and found["new"]["a"] is None
        and found["left"]["b"]["ratio"] is None
    )
    assert all(
        found[name]["change"] is found[name]["overlap"] is None for name in ("gone", "new", "left")
    )
    assert found["step"]["a"] == {
        "baseline": 6.0,
        "candidate": 3.0,
        "ratio": 2.0,
        "low": 1.9,
        "high": 2.1,
        "pairs": 5,
    }
    assert cli.main(["bench", "compare", str(a), str(b)]) == 0
    shown = capsys.readouterr().out
    assert "here" in shown and "there" in shown and "apart" in shown and "overlap" in shown


@given(st.lists(st.floats(0.1, 10), min_size=6, max_size=6))
def test_overlap_is_symmetric_and_change_turns_over(numbers):
    """Any two intervals, either way round."""
    (low, ratio, high), (other_low, other, other_high) = sorted(numbers[:3]), sorted(numbers[3:])
    one, two = rows(x=(ratio, low, high))[0], rows(x=(other, other_low, other_high))[0]
    there, back = compare._matched("x", one, two), compare._matched("x", two, one)
    assert there["overlap"] == back["overlap"] == (max(low, other_low) <= min(high, other_high))
    assert there["change"] * back["change"] == pytest.approx(1, rel=1e-12)


def predicted(name, ms, unit="ms"):
    """Return a row that holds a predicted time and no ratio."""
    return row(name, None, ms, None, None, None, 0, unit) | {"machine": "H100 (predicted)"}


def test_predicted_times_are_compared_by_themselves(tmp_path, capsys):
    """How many times less the second takes; not where a ratio, another unit or no time stands on a
    side.
    """
    a = [
        predicted("step", 300.0),
        predicted("size", 6.0, "MB"),
        predicted("none", None),
        *rows(mixed=(2.0, 2.0, 2.0)),
    ]
    b = [
        predicted("step", 200.0),
        predicted("size", 3.0, "MB"),
        predicted("none", 5.0),
        predicted("mixed", 3.0),
    ]
    paths = written(tmp_path, "a.json", a), written(tmp_path, "b.json", b)
    found = {each["name"]: each for each in compare.files(paths)["rows"]}
    assert found["step"]["change"] == 1.5
    assert all(found[name]["change"] is None for name in ("size", "none", "mixed"))
    assert all(each["overlap"] is None for each in found.values())
    assert cli.main(["bench", "compare", *map(str, paths)]) == 0
    shown = capsys.readouterr().out
    assert "300 ms" in shown and "200 ms" in shown and "1.5" in shown


def stats(median):
    """Return the statistics of one timed implementation, in seconds."""
    return {"median": median, "q1": 0.9 * median, "q3": 1.2 * median, "rounds": 7}


def test_results_of_make_bench_are_rows_too(tmp_path):
    """Each group's fast implementations against every other, intervals from the quartiles: 0.9 /
    1.2 and 1.2 / 0.9 of the ratio.
    """
    content = {
        "machine_info": {
            "cpu": {"brand_raw": "EPYC"},
            "python_version": "3.12.1",
            "torch": "torch 2.13.0",
        },
        "benchmarks": [
            {"group": "adam", "params": {"implementation": name}, "stats": stats(seconds)}
            for name, seconds in (
                ("reference", 0.008),
                ("fast", 0.002),
                ("compiled", 0.001),
                ("torch", 0.003),
            )
        ],
    }
    found = compare.read(written(tmp_path, "bench.json", content))
    assert list(found) == [
        f"adam: {ours} / {other}"
        for ours in ("fast", "compiled")
        for other in ("reference", "torch")
    ]
    assert found["adam: compiled / torch"]["ratio"] == pytest.approx(3.0)
    one = found["adam: fast / reference"]
    assert (
        one["machine"] == "EPYC, Python 3.12.1, torch 2.13.0"
        and one["unit"] == "ms"
        and one["pairs"] == 7
    )
    assert [one[key] for key in compare.NUMBERS] == pytest.approx(
        [8.0, 2.0, 4.0, 3.0, 4.0 * 1.2 / 0.9], rel=1e-12
    )


GOOD = rows(step=(2.0, 1.9, 2.1))[0]
FOREIGN = {
    "text": "not json",
    "bytes": "\x00\x01",
    "null": "null",
    "no rows": [],
    "a score": {"bpb": 1.2},
    "numbers": [1, 2],
    "no name": [{key: value for key, value in GOOD.items() if key != "name"}],
    "no machine": [{key: value for key, value in GOOD.items() if key != "machine"}],
    "no low": [{key: value for key, value in GOOD.items() if key != "low"}],
    "words for numbers": [GOOD | {"ratio": "2.0"}],
    "truth for numbers": [GOOD | {"pairs": True}],
    "not a number": "[" + json.dumps(GOOD).replace("2.0", "NaN") + "]",
    "outside its interval": [GOOD | {"ratio": 3.0}],
    "half an interval": [GOOD | {"low": None}],
    "twice": [GOOD, GOOD],
    "foreign benchmarks": {
        "benchmarks": [{"group": None, "params": None, "stats": {}}],
        "machine_info": {},
    },
    "benchmarks without fast": {
        "benchmarks": [{"group": "a", "params": {"implementation": "slow"}, "stats": stats(1.0)}],
        "machine_info": {"cpu": {"brand_raw": "EPYC"}, "python_version": "3"},
    },
}


@pytest.mark.parametrize("content", FOREIGN.values(), ids=FOREIGN)
def test_what_is_no_result_is_refused(tmp_path, capsys, content):
    """One message that names the file, whatever is in it."""
    good, bad = written(tmp_path, "good.json", [GOOD]), written(tmp_path, "bad.json", content)
    assert str(bad) in refused(capsys, "bench", "compare", good, bad)


def test_two_readable_files_are_needed(tmp_path, capsys):
    """None, one, three, a folder, nothing there."""
    good = written(tmp_path, "good.json", [GOOD])
    for paths in ((), (good,), (good, good, good)):
        assert f"expected two result files, found {len(paths)}" in refused(
            capsys, "bench", "compare", *paths
        )
    for missing in (tmp_path, tmp_path / "nowhere.json"):
        with pytest.raises(InputError, match="cannot be read"):
            compare.files((good, missing))


def test_kept_results_can_be_compared():
    """Every file that the repository keeps is a result."""
    kept = sorted((Path(__file__).parents[1] / "benchmarks" / "results").glob("*.json"))
    assert kept
    for path in kept:
        assert all(
            each["ratio"] is None or each["ratio"] > 0 for each in compare.read(path).values()
        )
