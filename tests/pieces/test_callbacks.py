"""What follows a step: when each callback acts, in which order, and what it leaves behind."""

import json
from dataclasses import replace

import pytest
import torch

from fast import callbacks
from fast.errors import Interrupted
from fast.train import State, StepReport, restore, train
from reference.recipe import TINY, InputError, Score
from tests.pieces.test_train import batch

RECIPE = replace(
    TINY,
    training=replace(
        TINY.training, iterations=6, warmdown=0, checkpoint_every=3, validate_every=4, log_every=2
    ),
)
REPORT = StepReport(loss=1.5, norm=0.5, remaining=4)
SCORE = Score("nelbo", None, 2.0, 0.1, 0.2, 1.25, 10, 5, 3, 0.5)


def state(step: int, **fields) -> State:
    """Return a state with next to no tensors."""
    one = {"embedding": torch.zeros(1)}
    return State(one, {}, {}, {}, one, step, elapsed=step / 4, durations=[0.25], **fields)


def run(folder, stops: dict[int, str] | None = None):
    """Train with all callbacks of a run directory; stops: reasons by step. Returns (lines shown,
    progress shown).
    """
    shown, progress, at = [], [], [0]
    log = callbacks.TrainLog(folder / "train.log", shown.append)
    metrics = callbacks.Metrics(folder / "metrics.jsonl")
    numbers = {"show": lambda *given: progress.append(given), "validate": lambda state: SCORE}
    made = callbacks.run_callbacks(
        folder, RECIPE, log, metrics, asked=lambda: (stops or {}).get(at[0]), **numbers
    )

    def count(state, report):
        at[0] = state.step

    try:
        train(batch, RECIPE, callbacks=[count, *made])
    except Interrupted as error:
        shown.append(f"interrupted: {error}")
    return shown, progress


def test_lines_and_records_come_as_often_as_the_recipe_says(tmp_path):
    shown, progress = run(tmp_path)
    assert (tmp_path / "train.log").read_text().splitlines() == shown
    words = [(line.split("/")[0], line.split()[1].split(":")[0]) for line in shown]
    assert words == [
        ("step:1", "train_loss"),
        ("step:1", "ema"),
        ("step:2", "train_loss"),
        ("step:4", "train_loss"),
        ("step:4", "val_loss"),
        ("step:6", "train_loss"),
        ("step:6", "val_loss"),
    ]
    records = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    kinds = [(record["step"], "train_loss" in record) for record in records]
    assert kinds == [(1, True), (2, True), (4, True), (4, False), (6, True), (6, False)]
    assert [record["remaining"] for record in records if "remaining" in record] == [5, 4, 2, 0]
    assert [given[:2] for given in progress] == [(step, 6) for step in range(1, 7)]


@pytest.mark.parametrize(("step", "saved"), [(2, 2), (3, 3), (5, 5), (6, 6)])
def test_a_stop_saves_first_and_the_last_step_is_never_stopped(tmp_path, step, saved):
    shown, _ = run(tmp_path, {step: "SIGTERM"})
    assert restore(tmp_path, RECIPE).step == saved
    told = [line for line in shown if "SIGTERM" in line]
    if step == 6:
        assert told == []
    else:
        said = f"step:{step}/6 stopped by SIGTERM: checkpoint written"
        assert told == [said, f"interrupted: SIGTERM at step {step}"]


def test_only_the_score_is_off_the_clock(tmp_path, monkeypatch):
    clock = iter((10.0, 13.0))
    monkeypatch.setattr(callbacks.time, "perf_counter", lambda: next(clock))
    lines = []
    log = callbacks.TrainLog(tmp_path / "train.log", lines.append)
    validate = callbacks.Validate(lambda state: SCORE, RECIPE.training, log)
    assert validate(state(3), REPORT) is None and validate(state(4), REPORT) == 3.0
    assert lines == ["step:4/6 val_loss:1.2500 val_bpb:2.0000 train_time:1000ms step_avg:250.00ms"]
    assert callbacks.LogLoss(log, RECIPE.training)(state(4), REPORT) is None


def test_what_was_written_after_the_checkpoint_is_dropped(tmp_path):
    log = callbacks.TrainLog(tmp_path / "train.log", lambda line: None)
    log.path.write_text("step:1\nstep:2\nste")
    log.resume()
    assert log.path.read_text() == "step:1\nstep:2\n"
    metrics = callbacks.Metrics(tmp_path / "metrics.jsonl")
    metrics.resume(1)
    assert not metrics.path.exists()
    metrics.path.write_text('{"step": 1}\n{"step": 2}\n{"step": 3}\n{"st')
    metrics.resume(2)
    assert metrics.path.read_text() == '{"step": 1}\n{"step": 2}\n'
    metrics.path.write_text("3\n")
    with pytest.raises(InputError, match="expected a JSON object with its step on every line"):
        metrics.resume(2)


def test_lines_and_records_hold_the_numbers_of_their_names(tmp_path):
    """A step whose time, loss, norm, error bars and tokens are all different numbers."""
    training = replace(RECIPE.training, tokens_per_step=48, micro_batch_tokens=16)
    one = state(4, multiplier=0.75)
    one.elapsed, one.durations = 75.5, [0.25, 0.5, 2.0]
    report = StepReport(loss=1.5, norm=0.125, remaining=2)
    lines, shown = [], []
    log = callbacks.TrainLog(tmp_path / "train.log", lines.append)
    metrics = callbacks.Metrics(tmp_path / "metrics.jsonl")
    for callback in (
        callbacks.LogLoss(log, training),
        callbacks.RecordLoss(metrics, training),
        callbacks.ShowProgress(lambda *given: shown.append(given), training),
        callbacks.Validate(lambda state: SCORE, training, log, metrics),
    ):
        callback(one, report)
    clock = "train_time:75500ms step_avg:18875.00ms"
    assert lines == [
        f"step:4/6 train_loss:1.5000 {clock}",
        f"step:4/6 val_loss:1.2500 val_bpb:2.0000 {clock}",
    ]
    assert [json.loads(line) for line in metrics.path.read_text().splitlines()] == [
        dict(
            step=4,
            train_loss=1.5,
            grad_norm=0.125,
            lr_multiplier=0.75,
            elapsed=75.5,
            tokens_per_second=24.0,
            remaining=2,
        ),
        dict(
            step=4,
            val_loss=1.25,
            val_bpb=2.0,
            stderr_masks=0.1,
            stderr_sequences=0.2,
            tokens=SCORE.tokens,
        ),
    ]
    assert shown == [(4, 6, "loss 1.500, 24 tokens/s")]


@pytest.mark.parametrize(
    ("every", "step", "finished", "due"),
    [
        (0, 4, False, False),
        (0, 7, True, True),
        (4, 7, True, True),
        (4, 7, False, False),
        (4, 8, False, True),
        (1, 1, False, True),
    ],
)
def test_the_last_step_is_due_whatever_the_number(every, step, finished, due):
    assert callbacks.is_due(every, state(step, finished=finished)) is due


def test_a_checkpoint_comes_as_often_as_the_recipe_says_and_holds_its_step(tmp_path):
    """Every third step, which is neither as often as lines nor as validation; a line where the
    average begins.
    """
    saved, lines = [], []
    saving = callbacks.SaveCheckpoint(tmp_path / "checkpoint", RECIPE)
    logging = callbacks.LogLoss(callbacks.TrainLog(tmp_path / "log", lines.append), RECIPE.training)
    saving.save(state(0))
    for step in range(1, 8):
        one = state(step, finished=step == 7, multiplier=1 / step, ema_started_step=5)
        saving(one, REPORT)
        logging(one, REPORT)
        if (kept := restore(tmp_path, RECIPE)).step == step:
            assert kept.progress() == one.progress()
            saved.append(step)
            saving.save(state(0))
    assert saved == [3, 6, 7]
    assert [line for line in lines if "ema" in line] == [
        "step:5/6 ema started: the shadow is seeded from the live weights"
    ]


def test_a_log_makes_its_folder_and_starts_afresh(tmp_path):
    """A folder that is there already is fine."""
    shown = []
    log = callbacks.TrainLog(tmp_path / "runs" / "one" / "train.log", shown.append)
    for text in ("first", "second"):
        log.begin()
        log.line(text)
        assert log.path.read_text() == f"{text}\n"
    assert shown == ["first", "second"]
