"""maskgolf sample."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from harness import api, paths
from harness.commands.flags import Json
from reference.recipe import InputError, Order


@dataclass(frozen=True)
class Sample:
    """Draw text from a model along an evaluation order.

    Example: maskgolf sample runs/demo --prompt "The class" --order confidence --temperature 0.8
    """

    # Run directory or .mgolf file.
    run_: tyro.conf.Positional[Annotated[Path, tyro.conf.arg(name="run", metavar="RUN")]]
    # Text that every sample begins with.
    prompt: str = ""
    count: int = 1  # samples
    # Which hidden position is drawn next; left-to-right and the other fixed orders draw from the
    # model's distribution.
    order: Order = "left-to-right"
    step: int = 1  # positions drawn per pass
    block: int = 32  # order block: tokens per block
    temperature: float = 1.0  # 0 takes the most probable token
    seed: int = 0  # of the draws
    # SentencePiece model (default: that of the run's data).
    tokenizer: Annotated[Path | None, tyro.conf.arg(metavar="FILE")] = None
    # cpu or cuda.
    device: str = "cpu"
    # Write the samples to PATH, - for stdout.
    json: Json = None

    def run(self):
        """Return the samples."""
        if self.block != type(self).block and self.order != "block":
            raise InputError(
                f"--block {self.block}: expected --order block, which reads it, found"
                f" {self.order}; drop it"
            )
        paths.run_or_artifact(self.run_)
        drawn = api.sample(
            self.run_,
            self.prompt,
            count=self.count,
            order=self.order,
            step=self.step,
            block=self.block,
            temperature=self.temperature,
            seed=self.seed,
            tokenizer=self.tokenizer,
            device=self.device,
        )
        return drawn.json, drawn.show
