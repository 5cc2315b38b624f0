"""Parity: not a numeric piece. What a run writes while it trains: train.log (the challenge's
lines), metrics.jsonl, checkpoints.
"""

import json
import time
from collections.abc import Callable
from pathlib import Path

from fast import checkpoint
from fast.errors import Interrupted
from fast.train import State
from reference.recipe import InputError, Recipe


class Journal:
    """Hooks of train(): logs, validates, checkpoints and stops on request. Validation is off the
    training clock.
    """

    def __init__(
        self,
        folder: Path,
        recipe: Recipe,
        validate: Callable,
        stop: Callable,
        show: Callable,
        on_step: Callable,
    ):
        """validate(state) -> Score; stop() -> reason or None; show(line); on_step(state, loss,
        remaining).
        """
        self.folder, self.recipe, self.validate, self.stop, self.show, self.on_step = (
            Path(folder),
            recipe,
            validate,
            stop,
            show,
            on_step,
        )
        self.log = self.folder / "train.log"

    def resume(self, state: State) -> None:
        """Drop what was recorded after the checkpoint that the run resumes from, so that every step
        appears once, and lines cut by a kill.
        """
        path = self.folder / "metrics.jsonl"
        if self.log.exists():
            whole, newline, _ = self.log.read_text().rpartition("\n")
            checkpoint.write_atomic(self.log, (whole + newline).encode())
        if path.exists():
            whole = [
                line for line in path.read_text().splitlines(keepends=True) if line.endswith("\n")
            ]
            try:
                kept = [line for line in whole if json.loads(line)["step"] <= state.step]
            except (ValueError, KeyError, TypeError) as error:
                raise InputError(
                    f"{path}: expected a JSON object with its step on every line, found another"
                    f" ({error}); mend or remove it"
                ) from error
            checkpoint.write_atomic(path, "".join(kept).encode())
        self.line(f"resumed at step {state.step}")

    def line(self, text: str) -> None:
        """Append a line to the log and show it."""
        with open(self.log, "a") as file:
            file.write(text + "\n")
        self.show(text)

    def record(self, **fields) -> None:
        """Append one JSON object to metrics.jsonl."""
        with open(self.folder / "metrics.jsonl", "a") as file:
            file.write(json.dumps(fields) + "\n")

    def save(self, state: State) -> None:
        """Write the checkpoint."""
        checkpoint.save(self.folder / "checkpoint", state.tensors(), state.progress(), self.recipe)

    def step_done(self, state: State, loss: float, norm: float, remaining: int) -> float:
        """Log, validate, checkpoint, stop as the recipe says; return the seconds that do not count
        as training.
        """
        training, last, step = self.recipe.training, state.finished, state.step
        milliseconds = 1000 * state.elapsed
        place = f"step:{step}/{training.iterations}"
        clock = f"train_time:{milliseconds:.0f}ms step_avg:{milliseconds / step:.2f}ms"
        if step == 1 or step % training.log_every == 0 or last:
            self.line(f"{place} train_loss:{loss:.4f} {clock}")
            self.record(
                step=step,
                train_loss=loss,
                grad_norm=norm,
                lr_multiplier=state.multiplier,
                elapsed=state.elapsed,
                tokens_per_second=training.tokens_per_step / max(state.durations[-1], 1e-9),
                remaining=remaining - 1,
            )
        if state.ema_started_step == step:
            self.line(f"{place} ema started: the shadow is seeded from the live weights")
        off_clock = 0.0
        self.on_step(state, loss, remaining - 1)
        if last or (training.validate_every and step % training.validate_every == 0):
            begun = time.perf_counter()
            score = self.validate(state)
            off_clock = time.perf_counter() - begun
            self.line(
                f"{place} val_loss:{score.nats_per_token:.4f} val_bpb:{score.bpb:.4f} {clock}"
            )
            self.record(
                step=step,
                val_loss=score.nats_per_token,
                val_bpb=score.bpb,
                stderr_masks=score.stderr_masks,
                stderr_sequences=score.stderr_sequences,
            )
        reason = self.stop()
        if last or reason or (training.checkpoint_every and step % training.checkpoint_every == 0):
            self.save(state)
        if reason and not last:
            self.line(f"{place} stopped by {reason}: checkpoint written")
            raise Interrupted(f"{reason} at step {step}")
        return off_clock


class Follower:
    """Hooks of train() on every rank but 0, whose journal logs, validates and saves for all: stops
    when that one does.
    """

    def __init__(self, stop: Callable):
        """stop() -> reason or None, the same on every rank."""
        self.stop = stop

    def step_done(self, state: State, loss: float, norm: float, remaining: int) -> float:
        """Stop at the step at which rank 0 saves and stops."""
        reason = self.stop()
        if reason and not state.finished:
            raise Interrupted(f"{reason} at step {state.step}")
        return 0.0


def restore(folder: Path, recipe: Recipe, device="cpu") -> State | None:
    """Return the state of the checkpoint in a run directory, None where there is none."""
    loaded = checkpoint.load(Path(folder) / "checkpoint", recipe, device)
    if loaded is None:
        return None
    tensors, progress = loaded
    tensors["params"] = {name: value.requires_grad_() for name, value in tensors["params"].items()}
    return State(**tensors, **progress)
