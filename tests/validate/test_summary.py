"""What a person reads of a validation, and the exit status: by severity, the worst first."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from rich.console import Console

from harness import cli, validate
from harness.display import report
from harness.validate.summary import LONGEST_HEADLINE, Missing, missing, summarise
from harness.validate.verdict import SEVERITIES, is_sound

ROOT = Path(__file__).parents[2]
STEPS = "".join(
    f"step:{i}/9 train_loss:{9 - i / 10} train_time:{i}ms step_avg:1ms\n" for i in range(1, 10)
)
FOLDER = {  # nothing in it is wrong, and much is missing
    "README.md": "# Mine\n\nval_bpb 1.3530\n",
    "submission.json": json.dumps(
        {"author": "Ada", "github_id": "ada", "name": "Mine", "val_bpb": 1.353, "val_loss": 2.2845}
        | {"track": "non_record_16mb"}
    ),
    "train_gpt.py": 'import torch\nprint("final_int8 val_loss")\n',
    "requirements.txt": "torch==2.6.0\n",
    "train_seed1.log": f"seed:1\n{STEPS}final_int8 val_loss:2.2845 val_bpb:1.3530\n",
}
OTHER_SCORE = (("1.3530", "1.4530"), ("2.2845", "2.4534"))  # of as many bytes per token
FAULTS = {  # severity: the file, what becomes of its text, the check that fails, its evidence
    "score": ("train_seed1.log", OTHER_SCORE, "score in log", "the JSON says 1.353, no log does"),
    "rules": (
        "train_gpt.py",
        (("import torch", "size_limit = 16 * 1024 * 1024"),),
        "decimal megabytes",
        "train_gpt.py:1",
    ),
    "paperwork": (
        "requirements.txt",
        (("==2.6.0", ""),),
        "requirements pinned",
        "torch: not one version",
    ),
}
CASES = [(), ("paperwork",), ("rules",), ("score",), ("paperwork", "rules"), tuple(FAULTS)]


@pytest.fixture
def make(tmp_path):
    """Return a function that writes a folder with faults of these severities."""

    def made(*severities: str) -> Path:
        home = tmp_path / "2026-03-20_Mine"
        home.mkdir()
        for name, text in FOLDER.items():
            (home / name).write_text(text)
        for name, changes, *_ in (FAULTS[severity] for severity in severities):
            text = FOLDER[name]
            for old, new in changes:
                text = text.replace(old, new)
            (home / name).write_text(text)
        return home

    return made


@pytest.fixture
def shown(monkeypatch, capsys):
    """Return a function that returns the exit status of a validation and the lines it prints on a
    terminal of some columns.
    """

    def show(*words, columns: int = 80) -> tuple[int, list[str]]:
        monkeypatch.setattr(report, "KNOWN_WIDTH", True)
        monkeypatch.setattr(report, "console", Console(width=columns, emoji=False))
        code = cli.main(["validate", *map(str, words)])
        return code, [line.rstrip() for line in capsys.readouterr().out.splitlines()]

    return show


def joined(lines: list[str]) -> str:
    """Return lines as one, single spaces between words."""
    return " ".join(" ".join(lines).split())


def row(check: str, verdict: str, evidence: str = "", severity: str = "score") -> dict:
    return dict(check=check, group="g", severity=severity, verdict=verdict, evidence=evidence)


# Severities


def test_every_check_has_one_of_the_severities():
    assert tuple(SEVERITIES) == ("score", "rules", "paperwork")
    assert {check.severity for check in validate.CHECKS} == set(SEVERITIES)


@pytest.mark.parametrize(
    ("severity", "names"),
    [
        ("score", "required files, rescored, byte accounting, score in log, code length"),
        ("rules", "size limit, Python versions, training time, stays inside, pickles, secrets"),
        ("paperwork", "requirements pinned, README scores, JSON fields, folder name and date"),
    ],
)
def test_what_each_severity_is_of(severity, names):
    kinds = {check.name: check.severity for check in validate.CHECKS}
    assert {kinds[name] for name in names.split(", ")} == {severity}


def test_explain_tells_the_severity(capsys):
    for name, severity in (("size limit", "rules"), ("JSON fields", "paperwork")):
        assert cli.main(["validate", "--explain", name]) == 0
        assert f"Severity: {severity}, {SEVERITIES[severity]}" in joined(
            capsys.readouterr().out.splitlines()
        )


def test_a_readme_is_paperwork_and_a_log_is_none(make):
    home = make()
    for name, severity in (("README.md", "paperwork"), ("train_seed1.log", "score")):
        text = (home / name).read_text()
        (home / name).unlink()
        failures = [row for row in validate.validate(home) if row["verdict"] == "fail"]
        assert [row["severity"] for row in failures] == [severity]
        (home / name).write_text(text)


# Exit status


@pytest.mark.parametrize("severities", CASES, ids="+".join)
def test_score_and_rules_decide_the_exit_status_and_paperwork_if_asked(severities, make, shown):
    home = make(*severities)
    rows = validate.validate(home)
    failed = {row["check"]: row["severity"] for row in rows if row["verdict"] == "fail"}
    assert failed == {FAULTS[severity][2]: severity for severity in severities}
    assert shown(home)[0] == int(bool({"score", "rules"} & set(severities)))
    assert shown(home, "--strict")[0] == int(bool(severities))


def test_what_cannot_be_told_is_sound():
    for severity in SEVERITIES:
        rows = [row("a", "cannot tell", severity=severity), row("b", "pass", severity=severity)]
        assert is_sound(rows) and is_sound(rows, strict=True)
    assert is_sound([]) and is_sound([], strict=True)


def test_json_tells_the_severity_and_leaves_nothing_out(make, capsys):
    home = make("paperwork")
    assert cli.main(["validate", str(home), "--json", "-"]) == 0
    rows = json.loads(capsys.readouterr().out)
    assert rows == validate.validate(home)
    assert {row["check"]: row["severity"] for row in rows} == {
        check.name: check.severity for check in validate.CHECKS
    }


# What is read first


@pytest.mark.parametrize("severities", CASES, ids="+".join)
def test_it_begins_with_the_worst_and_goes_on_by_severity(severities, make, shown):
    text = joined(shown(make(*severities))[1])
    if not severities:
        assert text.startswith("Nothing wrong was found, but ")
    expected = [severity for severity in SEVERITIES if severity in severities]
    for severity in expected[:1]:
        _, _, check, evidence = FAULTS[severity]
        start = {
            "score": "The score is wrong or cannot be proven",
            "rules": "The score was not seen to be wrong, but a rule is broken",
            "paperwork": "Only paperwork is wrong",
        }
        assert text.startswith(f"{start[severity]} ({check}): {evidence}")
    titles = [f" {severity.capitalize()}: {meaning}" for severity, meaning in SEVERITIES.items()]
    places = [text.find(title) for title in titles if title in text]
    assert len(places) == len(severities) and places == sorted(places)
    for severity in severities:
        place = text.index(f" {severity.capitalize()}: ")
        assert f" {FAULTS[severity][2]} {FAULTS[severity][3]}" in text[place:]
    assert "Cannot tell nothing is executed without --run" in text
    assert f"{len(severities)} failed" in text


def test_paperwork_is_a_warning_unless_it_is_not(make, shown):
    home = make("paperwork")
    assert "(warnings: " in joined(shown(home)[1])
    assert "(warnings: " not in joined(shown(home, "--strict")[1])


def test_passes_are_counted_and_listed_if_asked(make, shown):
    home = make()
    passes = [row["check"] for row in validate.validate(home) if row["verdict"] == "pass"]
    code, lines = shown(home)
    assert code == 0 and f"{len(passes)} passed (--all lists them), 0 failed" in joined(lines)
    names = [line.split("  ")[1] for line in lines if line.startswith("  ")]
    assert not set(passes) & set(names)
    code, lines = shown(home, "--all")
    assert code == 0 and f"{len(passes)} passed, 0 failed" in joined(lines)
    below = lines[lines.index("Passed") :]
    names = [line.split("  ")[1] for line in below if line.startswith("  ")]
    assert [name for name in names if name] == passes


def test_a_headline_is_one_sentence_of_bounded_length():
    rows = [row("a", "fail", "word " * 99, "rules"), row("b", "pass")]
    told = summarise(rows).headline
    assert len(told) <= LONGEST_HEADLINE and told.endswith("word …")
    assert summarise([row("b", "pass")]).headline == "Nothing wrong was found: all 1 checks passed."
    rows = [row("b", "pass"), row("a", "cannot tell", "why")]
    assert summarise(rows).headline == (
        "Nothing wrong was found, but 1 of 2 checks cannot tell, for what is missing below."
    )
    rows = [row("p", "fail", "1; 2", "paperwork"), row("s", "fail", "3 < 4."), row("t", "fail")]
    told = summarise(rows)
    assert told.headline == "The score is wrong or cannot be proven (s): 3 < 4."
    assert told.failures == {"score": rows[1:], "paperwork": rows[:1]} and not told.passes


# What is missing


def test_a_missing_thing_is_named_once_with_all_that_wait_for_it():
    rows = [
        row("alone", "cannot tell", "one; two"),
        row("first", "cannot tell", "no log"),
        row("fails", "fail", "no log"),
        row("second", "cannot tell", "3 + 4; no artifact"),
        row("third", "cannot tell", "no artifact"),
        row("fourth", "cannot tell", "no artifact; 5"),
        row("fifth", "cannot tell", "no log"),
        row("passes", "pass", "no artifact"),
    ]
    assert missing(rows) == [
        Missing("no artifact", {"second": "3 + 4", "third": "", "fourth": "5"}),
        Missing("no log", {"first": "", "fifth": ""}),
        Missing("one; two", {"alone": ""}),
    ]
    assert missing(rows[-1:]) == []


def test_what_one_check_repeats_is_shared_with_nobody():
    assert missing([row("a", "cannot tell", "x; x; y")]) == [Missing("x; x; y", {"a": ""})]


@pytest.mark.parametrize(
    ("gone", "what"),
    [
        (("train_seed1.log",), "there is no training log"),
        (("train_gpt.py",), "there is no Python script"),
        (("submission.json",), "there is no submission.json"),
        ((), "the artifact is not in the folder"),
        ((), "needs the validation text: pass --data and --tokenizer"),
    ],
)
def test_what_a_folder_lacks_is_said_once(gone, what, make, shown):
    home = make()
    for name in gone:
        (home / name).unlink()
    [waiting] = [one for one in missing(validate.validate(home)) if what in one.what]
    assert waiting.what == what and len(waiting.checks) > ("text" not in what)
    _, lines = shown(home, columns=200)
    assert [line for line in lines if what in line] == [f"  {what}"]


# Columns


@pytest.mark.parametrize("columns", [60, 80, 100])
def test_it_fits_the_terminal(columns, make, shown):
    home = make(*FAULTS)
    (home / "helper.py").write_text("x" * 3000 + "y(" + "\n")
    (home / f"{'z' * 90}.py").symlink_to("/nowhere")
    _, lines = shown(home, "--all", columns=columns)
    longest = max(map(len, lines))
    assert columns - 12 < longest <= columns
    assert "z" * 30 in "".join(lines)


@pytest.mark.parametrize(("columns", "least"), [("60", 50), ("110", 100), (None, 70)])
def test_it_obeys_columns_and_takes_80_where_nobody_says(columns, least, make):
    given = {} if columns is None else {"COLUMNS": columns}
    known = {name: value for name, value in os.environ.items() if name != "COLUMNS"}
    command = [sys.executable, "-m", "harness", "validate", str(make(*FAULTS)), "--all"]
    ran = subprocess.run(command, cwd=ROOT, env=known | given, text=True, capture_output=True)
    assert ran.returncode == 1, ran.stderr
    longest = max(len(line.rstrip()) for line in ran.stdout.splitlines())
    assert least < longest <= int(columns or 80)
