"""Nothing is timed while parity is red: planted bugs, and the commands that refuse."""

import pytest

from harness import parity
from harness.bench import gate
from harness.errors import CheckFailed
from tests.bugs import likelihood, optimizer, plant
from tests.support.commands import refused


def bug(room, name):
    """Return a bug of the zoo by name."""
    return next(bug for bug in room.BUGS if bug.name == name)


def test_green_pieces_let_a_timing_through():
    """The rows are those of parity itself, the 50-step trajectory aside; progress reaches the
    end.
    """
    seen = []
    rows = gate.require(
        ("muon", "clip"),
        dtypes=("float32",),
        on_piece=lambda done, total, rows: seen.append((done, total)),
    )
    assert [row.piece for row in rows] == ["muon", "muon", "clip", "clip"] and all(
        row.passed for row in rows
    )
    assert seen == [(1, 2), (2, 2)]


def test_no_names_mean_every_piece_but_the_long_one(monkeypatch):
    """And only the draws and the step go through the compiler."""
    asked = []
    monkeypatch.setattr(
        parity,
        "parity",
        lambda names, device, dtypes, compiled: asked.append((*names, compiled)) or [],
    )
    gate.require(compiled=True)
    assert [name for name, _ in asked] == [
        name for name in parity.PIECES if name not in parity.LONG
    ]
    assert {name for name, compiled in asked if compiled} == set(parity.COMPILED)


def test_a_planted_bug_shuts_the_gate(monkeypatch):
    """The message names the red row and the command that shows it; a bug in another piece does not
    matter.
    """
    plant(bug(optimizer, "momentum-averaged"), monkeypatch)
    gate.require(("adam", "newton-schulz"))
    with pytest.raises(
        CheckFailed,
        match=(
            r"parity is red on cpu: muon \(algorithm, float64: error .* maskgolf parity muon"
            r" --device cpu"
        ),
    ):
        gate.require(gate.BEHIND["muon"])


def test_an_exception_in_the_fast_half_shuts_the_gate(monkeypatch):
    def broken(*arguments):
        raise RuntimeError("no kernel image")

    monkeypatch.setattr("fast.ema.ema_update", broken)
    with pytest.raises(CheckFailed, match="ema .* not finite, or an exception"):
        gate.require(("ema",))


def test_the_command_refuses_to_time(run_directory, monkeypatch, capsys):
    """Exit 1, one message, nothing measured."""
    plant(next(bug for bug in likelihood.BUGS if "nelbo" in bug.caught_by), monkeypatch)
    monkeypatch.setattr(
        "harness.bench.likelihood.likelihood", lambda *arguments: pytest.fail("timed")
    )
    assert "nothing is timed" in refused(
        capsys, "bench", "likelihood", run_directory, "--no-compiled", code=1
    )


def test_every_benchmark_says_what_it_rests_on():
    for pieces in gate.BEHIND.values():
        parity.select(pieces)
    assert {"formats", "likelihood", "muon", "step"} == set(gate.BEHIND)
