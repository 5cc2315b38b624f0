"""Where people already look at curves: the records of metrics.jsonl in TensorBoard and Weights &
Biases as well (extras, off by default).

A tracker is any object with write(step, values) and close().
"""

from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from fast.callbacks import Metrics
from harness.records.tracking import FOLDER, RUN_ID, Tracking


class TensorBoard:
    """Event files below a run directory, for `tensorboard --logdir`."""

    def __init__(self, out: Path, step: int):
        """step: records after it are dropped, those of a run that goes on from there."""
        from torch.utils.tensorboard import SummaryWriter

        self.writer = SummaryWriter(out / FOLDER, purge_step=step + 1)

    def write(self, step: int, values: dict[str, float]) -> None:
        """Add one record."""
        for name, value in values.items():
            self.writer.add_scalar(name, value, step)

    def close(self) -> None:
        """Write what is not written yet."""
        self.writer.close()


class WeightsAndBiases:
    """A run of a Weights & Biases project, its recipe as the configuration; WANDB_MODE=offline
    keeps it on this machine.
    """

    def __init__(self, out: Path, project: str, recipe: dict):
        import wandb

        kept = out / RUN_ID
        known = kept.read_text().strip() if kept.exists() else None
        self.run = wandb.init(
            project=project,
            name=out.name,
            dir=str(out),
            config=recipe,
            id=known,
            resume="allow" if known else None,
        )
        kept.write_text(self.run.id + "\n")

    def write(self, step: int, values: dict[str, float]) -> None:
        """Add one record; its own step is logged, as the axis never goes back."""
        self.run.log({"step": step, **values})

    def close(self) -> None:
        """End the run."""
        self.run.finish()


@contextmanager
def opened(tracking: Tracking | None, out: Path, recipe: dict, step: int):
    """Yield the trackers of a run that has done `step` steps; they are closed however it ends."""
    trackers = []
    try:
        if tracking and tracking.tensorboard:
            trackers.append(TensorBoard(out, step))
        if tracking and tracking.wandb is not None:
            trackers.append(WeightsAndBiases(out, tracking.wandb, recipe))
        yield trackers
    finally:
        for tracker in trackers:
            tracker.close()


@dataclass
class TrackedMetrics(Metrics):
    """metrics.jsonl, each of whose records goes to trackers too."""

    trackers: list = field(default_factory=list)

    def record(self, **fields) -> None:
        """Append one object to the file, then to every tracker."""
        super().record(**fields)
        values = {name: value for name, value in fields.items() if name != "step"}
        for tracker in self.trackers:
            tracker.write(fields["step"], {k: v for k, v in values.items() if v is not None})
