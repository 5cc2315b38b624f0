"""Which trackers a run has, as a person asks for them. Loads no torch, so that a missing package is
told at once.
"""

from dataclasses import dataclass
from importlib.util import find_spec

from reference.recipe import InputError

# What trackers write in a run directory
FOLDER = "tensorboard"
RUN_ID = "wandb-run-id.txt"  # a run that goes on is one run
FILES = {FOLDER, "wandb", RUN_ID}


@dataclass(frozen=True)
class Tracking:
    """Where the records of metrics.jsonl go as well."""

    # TensorBoard event files in the run directory (needs the tensorboard extra).
    tensorboard: bool = False
    # Project of Weights & Biases (needs the wandb extra; WANDB_MODE=offline stays on this machine).
    wandb: str | None = None

    def check(self) -> None:
        """Raise InputError where a package is missing."""
        asked = {"tensorboard": self.tensorboard, "wandb": self.wandb is not None}
        for package, wanted in asked.items():
            if wanted and find_spec(package) is None:
                raise InputError(
                    f"--{package}: expected the package {package}, found none; install"
                    f" maskgolf[{package}]"
                )
