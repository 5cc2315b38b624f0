"""What is shown of a run in progress is what its files say, until it ends."""

import json
import signal
import time

import pytest

from harness import cli
from harness.records import watch
from tests.support.commands import TINY_MODEL, refused, start


def record(step: int, **changes) -> dict:
    """Return a record of a step of 40, which took half a second."""
    return {
        "step": step,
        "train_loss": 7.0 - step / 10,
        "grad_norm": 0.25 + step / 100,
        "lr_multiplier": 1.0 - step / 40,
        "elapsed": step / 2,
        "tokens_per_second": 1_000.0 + step,
        "remaining": 40 - step,
        **changes,
    }


@pytest.fixture
def run(tmp_path):
    """Return a run that has just begun."""
    described = {"recipe": {"model": {}, "training": {"iterations": 44}}}
    (tmp_path / "recipe.json").write_text(json.dumps(described))
    return tmp_path


def write(run, *records, log="", summary=None, rest=""):
    """Write what training has written so far."""
    lines = "".join(json.dumps(one) + "\n" for one in records)
    (run / "metrics.jsonl").write_text(lines + rest)
    (run / "train.log").write_text(log)
    if summary:
        (run / "summary.json").write_text(json.dumps(summary))


def test_before_the_first_step_a_run_waits(run):
    state = watch.read(run)
    assert (state.state, state.step, state.steps, state.loss) == ("waiting", 0, 44, None)
    assert "waiting" in watch.line(state)
    write(run)
    assert watch.read(run) == state


def test_a_state_is_that_of_the_last_record(run):
    write(run, record(1), record(10), {"step": 10, "val_bpb": 3.5, "val_loss": 9.0}, record(20))
    state = watch.read(run)
    assert (state.state, state.step, state.steps) == ("training", 20, 40)
    assert (state.loss, state.grad_norm, state.lr_multiplier) == (5.0, 0.45, 0.5)
    assert (state.tokens_per_second, state.seconds, state.val_bpb) == (1_020.0, 10.0, 3.5)
    assert state.seconds_left == pytest.approx(10.0)
    assert state.losses == [(1, 6.9), (10, 6.0), (20, 5.0)]
    said = "step 20/40, loss 5.0000, norm 0.45, rate 0.5, 1,020 tokens/s"
    assert watch.line(state) == f"{said}, validation 3.5000 bits/byte, 0:10 left"


def test_the_time_left_is_that_of_the_last_records(run):
    """A slow start is forgotten; one record alone counts from the start."""
    slow = [record(step, elapsed=100.0 + step / 4) for step in range(1, 31)]
    write(run, *slow)
    assert watch.read(run).seconds_left == pytest.approx(2.5)
    write(run, record(4, elapsed=8.0))
    assert watch.read(run).seconds_left == pytest.approx(72.0)


def test_a_line_that_is_being_written_is_left_for_later(run):
    write(run, record(1), record(2), rest='{"step": 3, "train_l')
    assert watch.read(run).step == 2


@pytest.mark.parametrize(
    ("log", "state"),
    [
        ("step:20/40 train_loss:5.0 stopped_early:no\n", "training"),
        ("step:20/40 stopped by SIGTERM: checkpoint written\n", "stopped"),
        ("step:20/40 x\nstopped: loss is not finite; the last checkpoint is kept\n", "stopped"),
        ("step:9/40 stopped by SIGTERM: checkpoint written\nstep:10/40 train_loss:3\n", "training"),
    ],
)
def test_a_run_that_stopped_says_why(run, log, state):
    write(run, record(20), log=log)
    known = watch.read(run)
    assert known.state == state
    assert (known.message == log.splitlines()[-1]) is (state == "stopped")


def test_after_the_last_step_a_run_is_scored_and_then_finished(run):
    write(run, record(39), record(40))
    assert watch.read(run).state == "scoring" and "scoring" in watch.line(watch.read(run))
    write(run, record(40), summary={"scores": [{"bpb": 2.5}, {"bpb": 2.25}, {"bpb": None}]})
    state = watch.read(run)
    assert (state.state, state.bpb) == ("finished", 2.25)
    assert watch.line(state).endswith("finished, 2.2500 bits/byte")


def test_the_curve_falls_as_the_loss_does():
    """Its first column is full, its last all but empty; between records it is a straight line."""
    rows = watch.curve([(1, 8.0), (5, 6.0), (9, 4.0)], width=9, height=2)
    assert [row[:9] for row in rows] == ["   8.000 ", "   4.000 "]
    heights = [
        8 * (rows[0][i] != " ")
        + watch.EIGHTHS.index(rows[0][i] if rows[0][i] != " " else rows[1][i])
        for i in range(9, 18)
    ]
    assert heights[0] == 16 and heights[-1] == 1 and heights[4] == pytest.approx(8.5, abs=1)
    assert heights == sorted(heights, reverse=True)
    assert watch.curve([(1, 2.0)]) == []
    assert len(watch.curve([(1, 2.0), (2, 2.0)])) == watch.HEIGHT


def test_a_pipe_gets_a_line_for_every_new_record(run, capsys):
    """And none for a look that finds nothing new; it ends with the run."""
    pauses = []

    def sleep(seconds):
        pauses.append(seconds)
        steps = [20, 20, 30, 40]
        if len(pauses) <= len(steps):
            write(run, record(10), record(steps[len(pauses) - 1]))
        else:
            write(run, record(40), summary={"scores": [{"bpb": 2.5}]})

    write(run, record(10))
    state = watch.follow(run, sleep=sleep)
    lines = capsys.readouterr().out.splitlines()
    steps = [line.split(",")[0] for line in lines]
    assert steps == [f"step {n}/40" for n in (10, 20, 30, 40, 40)]
    assert state.state == "finished" and pauses == [watch.EVERY] * 5
    assert watch.follow(run, quiet=True, sleep=sleep) == state
    assert capsys.readouterr().out == ""


def test_a_terminal_shows_the_curve_and_the_numbers(run, monkeypatch, capsys):
    monkeypatch.setenv("FORCE_COLOR", "1")
    write(run, record(10), record(20))
    state = watch.follow(run, sleep=lambda seconds: write(run, record(40), summary={"scores": []}))
    said = capsys.readouterr().out
    assert state.state == "finished" and "█" in said and "step 20 of 40" in said
    assert "finished" in said and "5.0000" in said


def test_once_shows_the_state_and_ends(run, capsys):
    write(run, record(10), record(20))
    assert cli.main(["watch", str(run), "--once"]) == 0
    said = " ".join(capsys.readouterr().out.split())
    assert "step 20 of 40" in said and "loss 5.0000" in said and "left 0:10" in said
    assert cli.main(["watch", str(run), "--once", "--json", "-"]) == 0
    known = json.loads(capsys.readouterr().out)
    assert (known["step"], known["state"], known["losses"]) == (
        20,
        "training",
        [[10, 6.0], [20, 5.0]],
    )


def test_a_finished_run_ends_at_once(run_directory, capsys):
    assert cli.main(["watch", str(run_directory)]) == 0
    [line] = capsys.readouterr().out.splitlines()
    assert line.startswith("step 20/20, ") and "finished" in line


def test_what_is_no_run_is_refused(run, tmp_path, capsys):
    assert "expected a run directory, found nothing" in refused(capsys, "watch", tmp_path / "no")
    (run / "recipe.json").write_text("nonsense")
    assert "expected the JSON of a run" in refused(capsys, "watch", run)
    (run / "recipe.json").unlink()
    assert f"maskgolf train --out {run}" in refused(capsys, "watch", run)


def test_ctrl_c_leaves_the_run_alone(run):
    """The state so far is printed where it is asked for, and nothing is written into the run."""
    write(run, record(10))
    before = sorted(path.name for path in run.iterdir())
    process = start("watch", run)
    assert process.stdout.readline().startswith("step 10/40")
    process.send_signal(signal.SIGINT)
    said = process.communicate(timeout=60)[1]
    assert process.returncode == 130 and "the run is left alone" in said and "Traceback" not in said
    assert sorted(path.name for path in run.iterdir()) == before


@pytest.mark.slow
def test_a_run_is_watched_while_it_trains(corpus, tmp_path):
    """From its first step to its score, a line for each record that is there in time."""
    out = tmp_path / "run"
    words = ("train", *TINY_MODEL, "--training.iterations", "60", "--data", corpus, "--out", out)
    trained = start(*words)
    while not (out / "recipe.json").exists():
        assert trained.poll() is None and not time.sleep(0.05)
    watched = start("watch", out)
    lines = watched.communicate(timeout=240)[0].splitlines()
    assert trained.wait(60) == 0 and watched.returncode == 0
    trained.communicate()
    assert lines[-1].startswith("step 60/60") and "finished" in lines[-1]
    steps = [int(line.split()[1].partition("/")[0]) for line in lines]
    assert steps == sorted(steps)
