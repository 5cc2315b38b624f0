"""Every bug of the zoo is planted, and the check that is named for it goes red; without bugs the
same checks are green.
"""

import ast
import functools
import io
import sys
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hypothesis import Phase, settings

from harness import parity
from tests.bugs import (
    arguments,
    chain,
    compiled,
    dtypes,
    gates,
    identity,
    likelihood,
    network,
    optimizer,
    plant,
    randomness,
    sizes,
    storage,
    syntax_tree,
    target_of,
    training,
    twins,
    wrappers,
)
from tests.bugs.edits import PREFIX, edited, local_names, parameters

ROOT = Path(__file__).parents[2]
ROOMS = (randomness, network, optimizer, training, storage, likelihood, chain)
# Bugs of what calls a right function with the wrong argument, by what goes wrong
ROOMS += (arguments, twins, gates, sizes, wrappers, identity, dtypes)
BUGS = [bug for room in ROOMS for bug in room.BUGS]
SHORT = {"iterations": 12, "warmdown": 5}  # a trajectory that a second shows
DTYPES = (torch.float32, torch.bfloat16)


@functools.cache
def prepared_once(check: str) -> parity.Piece:
    """Return a piece of parity that computes the reference's half of a case once for all bugs, of
    which none is planted there; runs are short.
    """
    piece, kept = parity.PIECES[check], {}

    def prepare(**case):
        key = parity.literal(case)
        if key not in kept:
            kept[key] = piece.prepare(**case)
        return kept[key]

    cases = [case | SHORT for case in piece.cases] if check in parity.LONG else piece.cases
    return replace(piece, cases=cases, prepare=prepare)


class NoShrinking:
    """Pytest plugin by which property tests end at their first failing example. Nobody reads the
    smallest one here, and Hypothesis may look for it for five minutes.
    """

    KEY = "_hypothesis_internal_use_settings"  # where Hypothesis keeps the settings of a test

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_call(self, item):
        own = getattr(item.obj, self.KEY, None)
        if own is None:
            return (yield)
        phases = [phase for phase in own.phases if phase not in (Phase.shrink, Phase.explain)]
        setattr(item.obj, self.KEY, settings(own, phases=phases))
        try:
            return (yield)
        finally:
            setattr(item.obj, self.KEY, own)


def red(check: str) -> bool:
    """Return whether a check fails: a piece of parity, until its first red input, or a test by its
    name.
    """
    if check in parity.PIECES:
        piece, levels = prepared_once(check), ("algorithm",) if check in parity.LONG else None
        rows = parity.examine(piece, dtypes=DTYPES, levels=levels, shrink=False, hurry=True)
        return not all(row.passed for row in rows)
    with redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()):
        code = pytest.main(
            [
                "-o",
                "addopts=-q --strict-markers",
                "-x",
                "--tb=native",  # the shortest to make, and nobody reads it
                "-p",
                "no:timeout",
                "-p",
                "no:benchmark",  # which asks git and the processor who they are
                "-p",
                "no:cacheprovider",
                "-p",
                "no:unraisableexception",  # which collects garbage five times at the end
                "--rootdir",
                str(ROOT),
                str(ROOT / check),
            ],
            plugins=[NoShrinking()],
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


FAILING = """
import hypothesis
from hypothesis import strategies as st

calls = []

@hypothesis.settings(database=None)
@hypothesis.given(st.integers(1000, 2**32))
def test_fails(number):
    calls.append(number)
    assert number < 1000
"""


def test_no_failing_example_is_shrunk(tmp_path, monkeypatch):
    """One call that fails, and the one by which Hypothesis shows it."""
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "test_failing.py").write_text(FAILING)
    assert red(str(tmp_path / "test_failing.py"))
    assert len(sys.modules["test_failing"].calls) == 2


class Renamed(ast.NodeTransformer):
    """A function whose variables, inner functions and their parameters all have other names."""

    def __init__(self, function: ast.FunctionDef) -> None:
        self.local = {
            name
            for name in local_names(function) - parameters(function)
            if not name.startswith(PREFIX)
        }

    def generic_visit(self, node):
        for field in ("id", "arg", "name"):
            if getattr(node, field, None) in self.local and not isinstance(node, ast.keyword):
                setattr(node, field, f"renamed_{getattr(node, field)}")
        return super().generic_visit(node)


def renamed(function: ast.FunctionDef) -> ast.FunctionDef:
    """Return a function with other names, written by ast.unparse and read again."""
    [other] = ast.parse(ast.unparse(Renamed(function).visit(function))).body
    return other


@pytest.mark.parametrize("bug", BUGS, ids=lambda bug: bug.name)
def test_names_and_layout_play_no_part(bug):
    """The same code with other local names and another layout takes the same bug."""
    function = syntax_tree(target_of(bug))
    planted, _ = edited(function, bug.edits, bug.name)
    assert ast.dump(planted) != ast.dump(function)
    other, _ = edited(renamed(syntax_tree(target_of(bug))), bug.edits, bug.name)
    assert ast.dump(other) == ast.dump(renamed(planted))
    assert compiled(other, bug.name).co_argcount == target_of(bug).__code__.co_argcount


def test_zoo_is_a_zoo():
    """Names are unique, every bug says why and is caught by something, and what it is planted in
    goes back to what it was.
    """
    names = [bug.name for bug in BUGS]
    assert len(set(names)) == len(names) >= 415
    assert all(bug.edits and bug.why and bug.caught_by for bug in BUGS)
    for bug in BUGS:
        function = target_of(bug)
        before, names = function.__code__, set(function.__globals__)
        with pytest.MonkeyPatch.context() as monkeypatch:
            plant(bug, monkeypatch)
            assert function.__code__ is not before
            assert target_of(bug) is function
        assert function.__code__ is before and set(function.__globals__) == names


def test_every_piece_has_caught_something():
    caught = {check for bug in BUGS for check in bug.caught_by}
    never = set(parity.PIECES) - caught
    assert not never, f"no bug proves that these pieces can go red: {sorted(never)}"
