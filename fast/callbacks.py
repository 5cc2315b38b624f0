"""Parity: not a numeric piece. What follows each training step: log lines, records, validation,
a stop that was asked for, checkpoints. train() calls a list of these in order.

A callback takes (state, report) and returns the seconds that it takes off the training clock, or
None.
"""

import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from fast import checkpoint
from fast.errors import Interrupted
from fast.train import State, StepReport
from reference.recipe import InputError, Recipe, Score, Training


def is_due(every: int, state: State) -> bool:
    """Return whether the step just done is the last one or a multiple of `every` (0: never)."""
    return state.finished or bool(every and state.step % every == 0)


def step_text(state: State, training: Training) -> str:
    """Return the step as the log's lines begin with it."""
    return f"step:{state.step}/{training.iterations}"


def clock_text(state: State) -> str:
    """Return the training clock as the log's lines end with it."""
    milliseconds = 1000 * state.elapsed
    return f"train_time:{milliseconds:.0f}ms step_avg:{milliseconds / state.step:.2f}ms"


def validation_text(count: int, windows: int) -> str:
    """Return what the scores of steps are of: no numbers behind a colon, which would read as a
    result.
    """
    return (
        f"val_loss and val_bpb of a step are on the first {count} of {windows} windows of the"
        " validation split"
    )


@dataclass
class TrainLog:
    """train.log: the challenge's lines, appended to a file and shown."""

    path: Path
    show: Callable[[str], None]

    def begin(self) -> None:
        """Start the file afresh."""
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self.path.write_text("")
        except OSError as error:
            raise InputError(
                f"{self.path}: cannot write the log ({error.strerror}); choose another RUN_ID or"
                " folder"
            ) from error

    def resume(self) -> None:
        """Drop a line cut by a kill."""
        if self.path.exists():
            whole, newline, _ = self.path.read_text().rpartition("\n")
            checkpoint.write_atomic(self.path, (whole + newline).encode())

    def line(self, text: str) -> None:
        """Append a line to the log and show it."""
        with open(self.path, "a") as file:
            file.write(text + "\n")
        self.show(text)


@dataclass
class Metrics:
    """metrics.jsonl: one JSON object with its step on every line."""

    path: Path

    def record(self, **fields) -> None:
        """Append one object."""
        with open(self.path, "a") as file:
            file.write(json.dumps(fields) + "\n")

    def resume(self, step: int) -> None:
        """Drop what was recorded after a step, and a line cut by a kill."""
        if not self.path.exists():
            return
        lines = self.path.read_text().splitlines(keepends=True)
        try:
            kept = [x for x in lines if x.endswith("\n") and json.loads(x)["step"] <= step]
        except (ValueError, KeyError, TypeError) as error:
            raise InputError(
                f"{self.path}: expected a JSON object with its step on every line, found another"
                f" ({error}); mend or remove it"
            ) from error
        checkpoint.write_atomic(self.path, "".join(kept).encode())


@dataclass
class LogLoss:
    """A line with the loss now and then, and one when averaging starts."""

    log: TrainLog
    training: Training

    def __call__(self, state: State, report: StepReport) -> None:
        """Write the lines of a step."""
        at = step_text(state, self.training)
        if state.step == 1 or is_due(self.training.log_every, state):
            self.log.line(f"{at} train_loss:{report.loss:.4f} {clock_text(state)}")
        if state.ema_started_step == state.step:
            self.log.line(f"{at} ema started: the shadow is seeded from the live weights")


@dataclass
class RecordLoss:
    """A record beside every line with the loss."""

    metrics: Metrics
    training: Training

    def __call__(self, state: State, report: StepReport) -> None:
        """Write the record of a step."""
        if state.step == 1 or is_due(self.training.log_every, state):
            self.metrics.record(
                step=state.step,
                train_loss=report.loss,
                grad_norm=report.norm,
                lr_multiplier=state.multiplier,
                elapsed=state.elapsed,
                tokens_per_second=tokens_per_second(state, self.training),
                remaining=report.remaining,
            )


def tokens_per_second(state: State, training: Training) -> float:
    """Return the speed of the last step."""
    return training.tokens_per_step / max(state.durations[-1], 1e-9)


@dataclass
class ShowProgress:
    """Where the run is, on a bar."""

    show: Callable[[int, int, str], None]  # of steps done, their total, a text
    training: Training

    def __call__(self, state: State, report: StepReport) -> None:
        """Show a step."""
        speed = f"{tokens_per_second(state, self.training):,.0f} tokens/s"
        self.show(state.step, state.step + report.remaining, f"loss {report.loss:.3f}, {speed}")


@dataclass
class Validate:
    """A score of the averaged weights now and then, off the training clock."""

    validate: Callable[[State], Score]
    training: Training
    log: TrainLog
    metrics: Metrics | None = None

    def __call__(self, state: State, report: StepReport) -> float | None:
        """Return the seconds that the score took, None where it is not its turn."""
        if not is_due(self.training.validate_every, state):
            return None
        begun = time.perf_counter()
        score = self.validate(state)
        seconds = time.perf_counter() - begun
        values = f"val_loss:{score.nats_per_token:.4f} val_bpb:{score.bpb:.4f}"
        self.log.line(f"{step_text(state, self.training)} {values} {clock_text(state)}")
        if self.metrics:
            self.metrics.record(
                step=state.step,
                val_loss=score.nats_per_token,
                val_bpb=score.bpb,
                tokens=score.tokens,
                stderr_masks=score.stderr_masks,
                stderr_sequences=score.stderr_sequences,
            )
        return seconds


@dataclass
class SaveCheckpoint:
    """A checkpoint now and then."""

    folder: Path
    recipe: Recipe

    def save(self, state: State) -> None:
        """Write the checkpoint."""
        checkpoint.save(self.folder, state.tensors(), state.progress(), self.recipe)

    def __call__(self, state: State, report: StepReport) -> None:
        """Save where it is its turn."""
        if is_due(self.recipe.training.checkpoint_every, state):
            self.save(state)


@dataclass
class StopOnRequest:
    """The end of a run that is asked to stop before its last step."""

    asked: Callable[[], str | None]  # the reason, the same on every rank
    leave: Callable[[State, str], None] | None = None  # called before the run is interrupted

    def __call__(self, state: State, report: StepReport) -> None:
        """Raise Interrupted where a stop is asked for."""
        reason = self.asked()
        if reason and not state.finished:
            if self.leave:
                self.leave(state, reason)
            raise Interrupted(f"{reason} at step {state.step}")


def run_callbacks(
    folder: Path,
    recipe: Recipe,
    log: TrainLog,
    metrics: Metrics,
    validate: Callable[[State], Score],
    asked: Callable[[], str | None],
    show: Callable[[int, int, str], None],
) -> list[Callable]:
    """Return the callbacks of a run directory, for the rank that writes to it."""
    training, saving = recipe.training, SaveCheckpoint(folder / "checkpoint", recipe)

    def leave(state: State, reason: str) -> None:
        saving.save(state)
        log.line(f"{step_text(state, training)} stopped by {reason}: checkpoint written")

    return [
        LogLoss(log, training),
        RecordLoss(metrics, training),
        ShowProgress(show, training),
        Validate(validate, training, log, metrics),
        StopOnRequest(asked, leave),
        saving,
    ]
