"""Tables: every number under its own heading, and runs side by side only where their scores rank."""

import json
import re

import pytest
from rich.console import Console

from harness.display import report
from harness.records import overview


@pytest.fixture(autouse=True)
def wide(monkeypatch):
    """No cell is broken over lines."""
    monkeypatch.setattr(report, "console", Console(width=250, emoji=False))


def score(number: float, **changes) -> dict:
    """Return a score whose fields all differ, by `number` from those of another."""
    return {
        "run": f"runs/{number:g}",
        "estimator": "nelbo",
        "order": None,
        "bpb": 1.1111 + number,
        "stderr_masks": 0.2222 + number,
        "stderr_sequences": 0.3333 + number,
        "nats_per_token": 4.4444 + number,
        "tokens": 5_000 + int(number),
        "bytes": 60_000 + int(number),
        "forwards": 700_000,
        "seconds": 88.8 + number,
        "tokenizer_sha256": "c" * 64,
        "validation_sha256": "d" * 64,
        **changes,
    }


def summary(number: float, *scores: dict, **changes) -> dict:
    return {
        "run": f"runs/{number:g}",
        "preset": "tiny",
        "parameters": 1_001 + int(number),
        "steps": 2_002 + int(number),
        "seconds": 333.0 + number,
        "tokens_per_second": 4_004.0 + number,
        "artifact_bytes": 50_005 + int(number),
        "code_bytes": 606,
        "codec": "lzma",
        "scores": list(scores) or [score(number)],
        "baselines": {"zlib": 2.71, "bz2": 2.61, "lzma": 2.51, "uniform": 4.11},
        **changes,
    }


def tables(said: str) -> list[tuple[str, list[str], list[list[str]]]]:
    """Return (title, headings, rows of cells) of every table in what was printed."""
    found, above = [], []
    for line in said.splitlines():
        cells = [cell.strip() for cell in re.split("[│┃]", line)[1:-1]]
        if line.startswith("┏"):
            found.append((" ".join(above), [], []))
        elif line.startswith("┃"):
            found[-1][1].extend(cells)
        elif line.startswith("│"):
            found[-1][2].append(cells)
        above = [*above, line.strip()] if line[:1] not in "┏┃┡│├└" else []
    return found


def cells(table) -> list[dict[str, str]]:
    """Return {heading: cell} of every row; headings that stand twice are numbered."""
    _, headings, rows = table
    names = [f"{name} {headings[:i].count(name) or ''}".strip() for i, name in enumerate(headings)]
    return [dict(zip(names, row, strict=True)) for row in rows]


def test_a_score_is_printed_under_its_own_headings(capsys):
    report.scores([score(1), score(2, stderr_sequences=None)])
    first, second = cells(tables(capsys.readouterr().out)[0])
    assert first == {
        "run": "runs/1",
        "estimator": "NELBO (mean over all orders)",
        "bits/byte": "2.1111",
        "± masks": "1.2222",
        "± sequences": "1.3333",
        "nats/token": "5.4444",
        "tokens": "5,001",
        "bytes": "60,001",
        "passes/token": "139.97",
        "seconds": "89.8",
    }
    assert (second["run"], second["± sequences"], second["bits/byte"]) == ("runs/2", "-", "3.1111")


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"estimator": "chain", "order": "random"}, "chain rule, random"),
        (
            {"estimator": "chain", "order": "random", "positions": 9},
            "chain rule, random, 9 positions",
        ),
        ({"estimator": "chain", "order": "block", "block": 7}, "chain rule, block, 7 block"),
        ({"estimator": "chain", "order": "margin", "step": 3}, "chain rule, margin, 3 step"),
        ({"estimator": "causal", "order": "left-to-right"}, "causal attention, one pass"),
        ({"estimator": "nelbo-grid", "points": 64}, "NELBO by grid (biased upward), 64 points"),
    ],
)
def test_an_estimator_is_named_with_what_moves_it(changes, said, capsys):
    report.scores([score(1, **changes)])
    [row] = cells(tables(capsys.readouterr().out)[0])
    assert row["estimator"] == said


def test_sets_print_each_mean_with_its_own_runs(capsys):
    """Which set is which, and the sign, t and degrees of freedom as they are."""
    welch = {"difference": -1.25, "stderr": 0.5, "t": -2.5, "degrees_of_freedom": 3.4, "p": 0.087}
    against = {"scores": [score(7), score(8), score(9)], "n": 3, "mean": 6.5, "std": 0.75}
    report.sets(
        {"scores": [score(1), score(2)], "n": 2, "mean": 5.25, "std": 0.25}
        | {"against": against, "welch": welch}
    )
    said = capsys.readouterr().out
    one, other = tables(said)
    assert [row["run"] for row in cells(one)] == ["runs/1", "runs/2"]
    assert [row["run"] for row in cells(other)] == ["runs/7", "runs/8", "runs/9"]
    assert "2 runs: mean 5.2500 bits/byte, standard deviation 0.2500" in said
    assert "3 runs: mean 6.5000 bits/byte, standard deviation 0.7500" in said
    assert said.index("mean 5.25") < said.index("runs/7") < said.index("mean 6.5")
    assert (
        "difference of the means -1.2500 ± 0.5000 bits/byte; Welch's t-test: t = -2.50, 3.4 degrees"
        " of freedom, p = 0.087"
    ) in " ".join(said.split())


def test_a_comparison_prints_a_b_and_the_difference_with_their_errors(capsys):
    def entry(first, last, number):
        names = "a", "a_stderr", "b", "b_stderr", "difference", "difference_stderr"
        return {"first": first, "last": last} | {
            name: number + i / 10 for i, name in enumerate(names)
        }

    report.comparison(
        {
            "runs": {
                "a": {"run": "one", "method": "chain", "looks_before": False},
                "b": {"run": "two", "method": "causal", "looks_before": True},
            },
            "tokens": 3_210,
            "bytes": 65_432,
            "whole": entry(1, 4, 1),
            "positions": [entry(1, 1, 2), entry(2, 2, 3), entry(3, 4, 4)],
        }
    )
    said = capsys.readouterr().out
    assert "a: one (chain)" in said and "b: two (causal)" in said
    assert "At position 1 b alone sees what stands before the window." in said
    [table] = tables(said)
    assert "on 3,210 tokens, 65,432 bytes" in table[0]
    assert table[1] == ["positions", "a", "±", "b", "±", "a - b", "±"]
    expected = {"all": 1, "1": 2, "2": 3, "3 to 4": 4}
    assert {row[0]: row[1:] for row in table[2]} == {
        name: [f"{number + i / 10:.4f}" for i in range(6)] for name, number in expected.items()
    }


def test_a_summary_prints_its_own_numbers(capsys, tmp_path):
    sizes = [
        {"part": "blocks.0.q", "kind": "tensor", "format": "e4m3", "bytes": 123, "stored": 45},
        {"part": "blocks.1.q", "kind": "tensor", "format": "e4m3", "bytes": 1_000, "stored": 100},
        {"part": "a.py", "kind": "code", "format": "python", "bytes": 606, "stored": 606},
    ]
    report.summary(summary(0), tmp_path, sizes)
    said = capsys.readouterr().out
    scores, parts = tables(said)
    assert [row["bits/byte"] for row in cells(scores)] == [
        "1.1111",
        "2.7100",
        "2.6100",
        "2.5100",
        "4.1100",
    ]
    assert cells(scores)[0] | {"method": ""} == {
        "method": "",
        "bits/byte": "1.1111",
        "± masks": "0.2222",
        "± sequences": "0.3333",
        "text": "60,000 bytes",
    }
    assert [row["method"] for row in cells(scores)[1:]] == [
        "zlib 9",
        "bz2 9",
        "lzma 9",
        "uniform predictor",
    ]
    assert parts[0] == "Artifact: 50,611 of 16,000,000 bytes, codec lzma"
    assert [list(row.values()) for row in cells(parts)] == [
        ["blocks.*.q", "e4m3", "1,123", "145"],
        ["code", "python", "606", "606"],
    ]
    assert "1,001 parameters, 2002 steps in 333 s, 4,004 tokens/s" in " ".join(said.split())


def test_a_packed_submission_prints_its_own_numbers(capsys):
    result = {
        "val_bpb": 1.5,
        "stderr_masks": 0.25,
        "stderr_sequences": 0.125,
        "train_steps": 9_876,
        "wallclock_seconds": 54.3,
        "bytes_total": 1_234_567,
    }
    report.packed(
        {
            "name": "N",
            "seed_results": {"11": result, "12": result | {"val_bpb": 2.5}},
            "val_bpb": 2.0,
            "val_bpb_estimator": "nelbo",
            "bytes_code": 1_111,
            "bytes_model": 22_222,
            "bytes_total": 33_333,
            "folder": "here",
        }
    )
    said = capsys.readouterr().out
    assert cells(tables(said)[0])[0] == {
        "seed": "11",
        "bits/byte": "1.5000",
        "± masks": "0.2500",
        "± sequences": "0.1250",
        "steps": "9,876",
        "seconds": "54.3",
        "bytes": "1,234,567",
    }
    assert "mean 2.0000 bits/byte (nelbo), code 1,111 + model 22,222 = 33,333 bytes" in said


def test_runs_stand_in_one_table_only_where_their_text_is_one(capsys):
    """Another text, another tokenizer or another part of the text is another table, and words say
    so.
    """
    same = {"tokens": 5_000, "bytes": 60_000}
    others = {
        "another text": {"validation_sha256": "e" * 64},
        "another tokenizer": {"tokenizer_sha256": "f" * 64},
        "another part": {"tokens": 4_000},
    }
    one, two = (summary(number, score(number, **same)) for number in (1, 2))
    report.overview([one, two])
    said = capsys.readouterr().out
    [table] = tables(said)
    assert (
        table[0]
        == "Finished runs on 5,000 tokens, 60,000 bytes of text dddddddd, tokenizer cccccccc"
    )
    assert [row["run"] for row in cells(table)] == ["runs/1", "runs/2"] and "rank" not in said
    for change in others.values():
        report.overview([one, summary(3, score(3, **same | change)), two])
        said = capsys.readouterr().out
        first, second = tables(said)
        assert [row["run"] for row in cells(first)] == ["runs/1", "runs/2"]
        assert [row["run"] for row in cells(second)] == ["runs/3"]
        assert "do not rank runs of different tables" in " ".join(said.split())


def test_runs_stand_together_by_estimator(capsys):
    """Every run's number of one estimator, then of the next, with the numbers of its own run."""
    chain = {"estimator": "chain", "order": "random", "tokens": 5_000, "bytes": 60_000}
    nelbo = {"tokens": 5_000, "bytes": 60_000}
    runs = [summary(i, score(i, **nelbo), score(i + 0.5, **chain)) for i in (1, 2)]
    report.overview(runs)
    said = capsys.readouterr().out
    rows = cells(tables(said)[0])
    names = ["NELBO (mean over all orders)"] * 2 + ["chain rule, random"] * 2
    assert [" ".join(row["estimator"].split()) for row in rows] == names
    assert [row["bits/byte"] for row in rows] == ["2.1111", "3.1111", "2.6111", "3.6111"]
    assert rows[1] == {
        "run": "runs/2",
        "parameters": "1,003",
        "steps": "2,004",
        "tokens/s": "4,006",
        "artifact + code": "50,613",
        "estimator": "NELBO (mean over all orders)",
        "bits/byte": "3.1111",
        "± masks": "2.2222",
        "± sequences": "2.3333",
    }
    assert "by one estimator" in said


def test_a_score_without_hashes_is_of_an_unknown_text(capsys):
    unscored = {"estimator": "nelbo", "order": None, "bpb": None, "stderr_masks": None}
    report.overview([summary(1, unscored | {"stderr_sequences": None, "bytes": 0})])
    assert "0 bytes of text unknown, tokenizer unknown" in capsys.readouterr().out


def test_a_legend_tells_runs_on_other_texts_apart(tmp_path):
    """Losses of one text and tokenizer rank: their labels are the paths alone."""
    runs = [tmp_path / name for name in "abc"]
    for run, text in zip(runs, "112"):
        run.mkdir()
        described = {"training_sha256": text * 64, "tokenizer_sha256": "3" * 64}
        (run / "recipe.json").write_text(json.dumps(described))
    assert overview.labels(runs[:2]) == [str(run) for run in runs[:2]]
    first, _, last = overview.labels(runs)
    assert first == f"{runs[0]} (text 11111111, tokenizer 33333333)"
    assert last == f"{runs[2]} (text 22222222, tokenizer 33333333)"
    assert overview.labels([runs[0], tmp_path])[1].endswith("(text unknown, tokenizer unknown)")


@pytest.mark.parametrize(
    ("called", "on_path", "spelled"),
    [
        (".venv/bin/maskgolf", False, ".venv/bin/maskgolf"),
        (".venv/bin/maskgolf", True, "maskgolf"),
        ("harness/__main__.py", True, "python -m harness"),
    ],
)
def test_the_next_command_is_spelled_as_the_last(
    called, on_path, spelled, tmp_path, monkeypatch, capsys
):
    program = tmp_path / ".venv/bin/maskgolf"
    program.parent.mkdir(parents=True)
    program.write_text("#!/bin/sh\n")
    program.chmod(0o755)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.argv", [called, "demo"])
    monkeypatch.setenv("PATH", str(program.parent) if on_path else "/nowhere")
    report.next_command("sample", "runs/a b", "--prompt", "The")
    assert capsys.readouterr().out == f"next: {spelled} sample 'runs/a b' --prompt The\n"
