"""maskgolf train."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import tyro

from harness import api, ranks
from harness.commands.flags import Fields, Flat, Json, Resume
from harness.corpus.sources import Source
from harness.records import run_directory
from harness.records.tracking import Tracking
from reference.recipe import check


@dataclass(frozen=True)
class Train:
    """Train a model, ship the artifact and score it from the file.

    Example: maskgolf train --preset demo --out runs/mine --model.d 160 --training.iterations 300
    """

    recipe: Annotated[Fields, Flat]
    source: Annotated[Source, Flat] = field(default_factory=Source)
    out: Annotated[Path | None, tyro.conf.arg(metavar="DIR", aliases=["-o"])] = None
    """Run directory (default runs/PRESET)."""
    resume: Resume = False
    """Go on from the checkpoint in --out; auto: if there is one, else begin."""
    overwrite: bool = False
    """Replace the run in --out."""
    dry_run: bool = False
    """Print parameters, FLOPs per token and the artifact estimate; train nothing."""
    device: str = "cpu"
    """cpu or cuda."""
    compiled: bool = True
    """torch.compile the step and the scoring."""
    preflight: bool = True
    """Check parity with the specification on the device before the first step."""
    tracking: Annotated[Tracking, Flat] = field(default_factory=Tracking)
    json: Json = None
    """Write the summary to PATH, - for stdout."""

    def run(self):
        """Return the summary, or the plan of a dry run."""
        out = self.out or Path("runs") / self.recipe.preset
        check(self.recipe)
        self.tracking.check()
        if not self.dry_run and ranks.rank() == 0:
            # Asked again once the data is open: here so that nobody waits for torch to hear it
            run_directory.check(out, self.resume, self.overwrite, self.recipe)
        if self.dry_run:
            from harness import runs
            from harness.display import report

            plan = runs.plan(self.recipe)
            return plan, lambda: report.plan(plan)
        run = api.train(
            self.recipe,
            **vars(self.source),
            out=out,
            resume=self.resume,
            overwrite=self.overwrite,
            device=self.device,
            compiled=self.compiled,
            preflight=self.preflight,
            **vars(self.tracking),
        )
        return run and run.json, lambda: run and run.show()
