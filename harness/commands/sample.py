"""maskgolf sample."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from harness import api, paths
from harness.commands.flags import Json
from harness.display import filling
from harness.sampling import gaps
from reference.recipe import InputError, Order


@dataclass(frozen=True)
class Sample:
    """Draw text from a model along an evaluation order; on a terminal it fills in as it is drawn.

    Example: maskgolf sample runs/demo --prompt "The class" --order confidence --temperature 0.8

    Example: maskgolf sample runs/demo --infill "The ___ statement is ______ executed."
    """

    # Run directory or .mgolf file.
    run_: tyro.conf.Positional[Annotated[Path, tyro.conf.arg(name="run", metavar="RUN")]]
    # Text that every sample begins with.
    prompt: str = ""
    # Text to keep, with gaps to fill: ___ is a gap of 3 tokens, one for each underscore, 3 or more.
    infill: Annotated[str | None, tyro.conf.arg(metavar="TEXT")] = None
    # Tokens in every gap of --infill (default: one for each underscore).
    gap: Annotated[int | None, tyro.conf.arg(metavar="N")] = None
    # Tokens drawn behind the prompt (default: to the end of the model's window).
    tokens: Annotated[int | None, tyro.conf.arg(metavar="N")] = None
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
    # Write texts, tokens, their probabilities and the order of draws to PATH, - for stdout.
    json: Json = None

    def check(self) -> None:
        """Raise InputError for flags that do not go together."""
        if self.block != type(self).block and self.order != "block":
            raise InputError(
                f"--block {self.block}: expected --order block, which reads it, found"
                f" {self.order}; drop it"
            )
        gaps.check(self.prompt, self.infill, self.gap, self.tokens)

    def run(self):
        """Return the samples."""
        paths.run_or_artifact(self.run_)
        from harness.display import report  # loads torch

        with filling.live(report.console, shown=self.json is None) as watch:
            drawn = api.sample(
                self.run_,
                self.prompt,
                infill=self.infill,
                gap=self.gap,
                tokens=self.tokens,
                count=self.count,
                order=self.order,
                step=self.step,
                block=self.block,
                temperature=self.temperature,
                seed=self.seed,
                tokenizer=self.tokenizer,
                device=self.device,
                watch=watch,
            )
        return drawn.json, drawn.show
