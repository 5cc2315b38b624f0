"""Every bug of the zoo is planted, and the check that is named for it goes red; without bugs the
same checks are green.
"""

import functools
import io
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from harness import parity
from tests.bugs import chains, drawing, network, optimizing, plant, scoring, storing

ROOT = Path(__file__).parents[2]
BUGS = [
    bug for room in (drawing, network, optimizing, storing, scoring, chains) for bug in room.BUGS
]
SHORT = {"iterations": 12, "warmdown": 5}  # a trajectory that a second shows
DTYPES = (torch.float32, torch.bfloat16)


def red(check: str) -> bool:
    """Return whether a check fails: a piece of parity, until its first red input, or a test by its
    name.
    """
    if check in parity.PIECES:
        piece, levels = parity.PIECES[check], None
        if check in parity.LONG:
            piece, levels = (
                replace(piece, cases=[case | SHORT for case in piece.cases]),
                ("algorithm",),
            )
        return any(
            not row.passed
            for row in parity.examine(piece, dtypes=DTYPES, levels=levels, shrink=False, hurry=True)
        )
    with redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()):
        code = pytest.main(
            [
                "-q",
                "-p",
                "no:timeout",
                "-p",
                "no:cacheprovider",
                "--rootdir",
                str(ROOT),
                str(ROOT / check),
            ]
        )
    assert code in (
        pytest.ExitCode.OK,
        pytest.ExitCode.TESTS_FAILED,
    ), f"{check} did not run: {code}"
    return code == pytest.ExitCode.TESTS_FAILED


red_without_bugs = functools.cache(red)


def named(bugs: list) -> list:
    """Return (bug, check) for every check that is named."""
    return [
        pytest.param(bug, check, id=f"{bug.name}-{check.rpartition('::')[2]}")
        for bug in bugs
        for check in bug.caught_by
    ]


@pytest.mark.parametrize(("bug", "check"), named(BUGS))
def test_planted_bug_is_caught(bug, check, monkeypatch):
    assert not red_without_bugs(check)
    plant(bug, monkeypatch)
    assert red(check), f"{bug.name} ({bug.why}) went unnoticed by {check}"


def test_zoo_is_a_zoo():
    """Names are unique, every bug is caught by something, says why, and changes its target."""
    names = [bug.name for bug in BUGS]
    assert len(set(names)) == len(names) >= 40
    assert all(bug.caught_by and bug.why and bug.old != bug.new for bug in BUGS)


def test_every_piece_has_caught_something():
    caught = {check for bug in BUGS for check in bug.caught_by}
    never = set(parity.PIECES) - caught
    assert not never, f"no bug proves that these pieces can go red: {sorted(never)}"
