"""How things are timed, which side is which, and how much longer they take."""

import time

import pytest
from rich.console import Console
from rich.progress import Progress

from harness.bench import measure
from harness.display import progress


@pytest.fixture
def clock(monkeypatch):
    """Return a clock that only the code under test turns: clock.now, in seconds."""

    class Clock:
        now = 100.0

    made = Clock()
    monkeypatch.setattr(time, "perf_counter", lambda: made.now)
    return made


def test_pairs_are_timed_baseline_first(clock):
    """Seconds that change from turn to turn: the first turn is left out; medians of the sides,
    median, least and largest of the ratios of one turn.
    """
    spent = {"baseline": [50.0, 6.0, 9.0, 2.0], "candidate": [99.0, 2.0, 2.0, 1.0]}
    order = []

    def way(name):
        def run():
            order.append(name)
            clock.now += spent[name].pop(0)

        return run

    row = measure.paired("a row", way("baseline"), way("candidate"), 3)
    assert order == ["baseline", "candidate"] * 4
    assert row == {
        "name": "a row",
        "baseline": 6000.0,
        "candidate": 2000.0,
        "ratio": 3.0,
        "low": 2.0,
        "high": 4.5,
        "pairs": 3,
        "unit": "ms",
    }
    rated = measure.as_rate(row, 30)
    assert rated == row | {"baseline": 5.0, "candidate": 15.0, "unit": "tokens/s"}


def test_the_time_left_is_that_at_the_rate_since_the_bar_began(clock, monkeypatch):
    """Plain lines, at most one in ten seconds; what was done before the bar began is no speed of
    its own.
    """
    said = []
    monkeypatch.setattr(progress.Bar, "say", lambda self, text: said.append(text))
    with progress.bar("train", "steps") as bar:
        bar.update(1000, 1100, "first")
        clock.now += 9.0
        bar.update(1009, 1100, "too soon")
        clock.now += 11.0
        bar.update(1020, 1100, "note")
        clock.now += 5.0
        bar.update(1025, 1100)
        clock.now += 5.0
        bar.update(1060, 1100)
    assert said == [
        "train: 1,020 of 1,100 steps, 80 s left, note",
        "train: 1,060 of 1,100 steps, 20 s left",
    ]


def test_a_bar_goes_from_task_to_task(clock, monkeypatch):
    """Plain lines say which task begins, at most one in ten seconds; the rate of a task is its
    own.
    """
    said = []
    monkeypatch.setattr(progress.Bar, "say", lambda self, text: said.append(text))
    with progress.bar("validate", "windows") as bar:
        bar.start("first", 0, 3, "checks")
        clock.now += 10.0
        bar.start("second", 1, 3, "checks")
        bar.update(5, 100)
        clock.now += 10.0
        bar.update(15, 100)
        bar.start("third", 2, 3, "checks")
    assert said == ["second: 1 of 3 checks done", "second: 15 of 100 windows, 85 s left"]


def test_a_bar_on_a_terminal_counts_tasks_until_one_tells_how_far_it_is():
    shown = Progress(disable=True)
    bar = progress.Bar("validate", "windows", shown, Console(quiet=True))
    [task] = shown.tasks
    bar.start("second", 1, 3, "checks")
    told = task.description, task.completed, task.total, task.fields["unit"]
    assert told == ("second", 1, 3, "checks")
    bar.update(5, 100, "note")
    told = task.description, task.completed, task.total, task.fields["unit"]
    assert told == ("second", 5, 100, "windows") and task.fields["note"] == "note"
    bar.start("third", 2, 3, "checks")
    told = task.description, task.completed, task.total, task.fields["unit"]
    assert told == ("third", 2, 3, "checks") and task.fields["note"] == ""


def test_a_bar_speaks_on_stderr_and_a_quiet_one_not_at_all(capsys):
    """Standard output is for JSON."""
    with progress.bar("train", "steps") as bar:
        bar.say("a line")
    with progress.bar("train", "steps", quiet=True) as bar:
        bar.say("another")
    assert capsys.readouterr() == ("", "a line\n")
