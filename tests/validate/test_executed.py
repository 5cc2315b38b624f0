"""Checks that execute, score or probe, on folders: the good one passes all of them, each defect is
caught by its check alone.
"""

import shutil
from pathlib import Path

import numpy as np
import pytest

from fast.bytes import load_tokenizer
from fast.data import Tokens, find_layout, write_shard
from harness import validate
from harness.validate import execution, sandbox
from harness.validate.submission import Options, Submission
from tests.validate.submissions import run_defects
from tests.validate.submissions.edits import state

pytestmark = pytest.mark.skipif(
    not sandbox.has_namespaces(), reason="this system has no namespaces: nothing is executed"
)
PATIENCE = 6000.0  # seconds: what is scored does not depend on how busy the machine is


@pytest.fixture(scope="session")
def judged(packed, corpus) -> tuple[dict, dict]:
    """Return what every check says of the good folder with data and --run, and its executions by
    name.
    """
    run_defects.DATA["corpus"] = corpus
    submission = Submission(packed, Options(corpus, None, True, PATIENCE))
    rows = {check.name: validate.answer(check, submission) for check in validate.CHECKS}
    trials = {"score": execution.scored(submission), "train": execution.trained(submission)}
    run_defects.PROGRAM["replay"] = run_defects.replay(trials)
    return rows, trials


def named(*names: str) -> tuple:
    """Return checks by their names."""
    checks = tuple(check for check in validate.CHECKS if check.name in names)
    assert len(checks) == len(names)
    return checks


def without(checks: tuple, *others: tuple) -> tuple:
    """Return checks less others."""
    return tuple(check for check in checks if all(check not in some for some in others))


COMPUTING = named("code length")  # by the submission's own code
EXECUTED = named(
    "runs alone",
    "trains",
    "stays inside",
    "scores itself",
    "training data",
)
TABLE = named("script's byte table")
STATIC_RUNS = named("Python versions", "imports")
ABOUT_TEXT = named("rescored", "tokens and bytes", "byte accounting")
WITHOUT_MODEL = without(validate.CHECKS, named("rescored"), COMPUTING)
EXECUTING = without(WITHOUT_MODEL, named("hidden validation text"))
UNSCORED = without(EXECUTING, EXECUTED, STATIC_RUNS)  # the script does not run as a whole
OTHER_TEXT = without(UNSCORED, ABOUT_TEXT)  # nothing is compared with claims about the text


@pytest.fixture(scope="session")
def spaced(corpus, tmp_path_factory) -> Path:
    """Return the corpus with one more document of validation text, which begins with a space."""
    folder = Path(shutil.copytree(corpus, tmp_path_factory.mktemp("spaced") / "corpus"))
    layout = find_layout(folder)
    table, tokens = load_tokenizer(layout.tokenizer).table, Tokens(layout.validation)
    ids = np.asarray(tokens.read(0, len(tokens)), np.int64)
    begin = np.flatnonzero(table.space_V[ids])[0]
    write_shard(layout.validation[0], np.concatenate([ids, ids[:1], ids[begin:]]))
    assert table.control_V[ids[0]]
    return folder


def failures(
    folder, corpus, checks=validate.CHECKS, run: bool = False, time_limit: float = PATIENCE
) -> set[str]:
    rows = validate.validate(folder, corpus, None, run, time_limit, checks)
    assert not [row for row in rows if "the check itself failed" in row["evidence"]], rows
    return {row["check"] for row in rows if row["verdict"] == "fail"}


def test_the_good_folder_passes_every_check(judged):
    assert {name: found for name, found in judged[0].items() if found.verdict != "pass"} == {}


def test_the_replaying_program_passes(judged, good, corpus):
    run_defects.Replay("pass")(good)
    rows = validate.validate(good, corpus, None, True, PATIENCE, EXECUTED)
    assert {row["check"] for row in rows if row["verdict"] != "pass"} == set()


def test_a_right_table_as_the_challenge_builds_it_passes(good, corpus):
    run_defects.with_luts()(good)
    [row] = validate.validate(good, corpus, None, True, PATIENCE, TABLE)
    assert (
        row["verdict"] == "pass"
        and "build_sentencepiece_luts" in row["evidence"]
        and "token_bytes" in row["evidence"]
    )


def test_a_claim_is_measured_by_the_estimator_that_it_names(good, corpus):
    state(good, val_bpb_estimator="chain left-to-right")
    [row] = validate.validate(good, corpus, checks=named("rescored"))
    assert " by chain on " in row["evidence"]


CASES = [
    *((defect, validate.CHECKS, False) for defect in run_defects.DEFECTS),
    *((defect, WITHOUT_MODEL, False) for defect in run_defects.IN_CODE),
    *((defect, EXECUTING, True) for defect in run_defects.EXECUTED),
    *((defect, UNSCORED, True) for defect in run_defects.COUNTING),
    *((defect, (*COMPUTING, *named("scores itself")), True) for defect in run_defects.COMPUTED),
]


@pytest.mark.parametrize(
    ("defect", "checks", "run"), CASES, ids=lambda value: getattr(value, "name", "")
)
def test_each_defect_is_caught_by_its_check_alone(defect, checks, run, judged, good, corpus):
    defect.plant(good)
    found = failures(good, corpus, checks, run)
    assert defect.check in found and found <= {defect.check, *defect.also}


@pytest.mark.parametrize("defect", run_defects.AFTER_BOUNDARY, ids=lambda defect: defect.name)
def test_a_space_after_a_boundary_is_caught_where_a_document_begins_with_one(
    defect, judged, good, corpus, spaced
):
    """Elsewhere it changes no count, but the table is not called right either."""
    defect.plant(good)
    assert failures(good, spaced, OTHER_TEXT, True) == {defect.check}
    [row] = validate.validate(good, corpus, None, True, PATIENCE, TABLE)
    assert row["verdict"] == "cannot tell" and (
        "boundary of" in row["evidence"] or "leading space of" in row["evidence"]
    )


def test_a_script_that_hangs_is_stopped(judged, good, corpus):
    run_defects.HANGS.plant(good)
    found = failures(good, corpus, EXECUTED, True, time_limit=9.0)
    assert run_defects.HANGS.check in found and found <= {
        run_defects.HANGS.check,
        *run_defects.HANGS.also,
    }


def test_nothing_is_executed_without_run(judged, good, corpus):
    marker = good.parent / "ran"
    run_defects.Replay(f"open({str(marker)!r}, 'w')")(good)
    rows = validate.validate(good, corpus)
    assert not marker.exists()
    executing = {
        "runs alone",
        "trains",
        "stays inside",
        "scores itself",
        "script's byte table",
        "code length",
    }
    assert {
        row["check"] for row in rows if "nothing is executed without --run" in row["evidence"]
    } >= executing


def test_every_check_here_has_caught_something():
    """A check that no defect turns red is not yet a check."""
    mine = (*ABOUT_TEXT, *COMPUTING, *EXECUTED, *TABLE, *STATIC_RUNS)
    mine += named("bytes per token", "hidden validation text")
    defects = (
        *run_defects.DEFECTS,
        *run_defects.IN_CODE,
        *run_defects.EXECUTED,
        *run_defects.COUNTING,
        *run_defects.COMPUTED,
        *run_defects.AFTER_BOUNDARY,
        run_defects.HANGS,
    )
    assert {check.name for check in mine} - {defect.check for defect in defects} == set()
    assert len({defect.name for defect in defects}) == len(defects) >= 38
