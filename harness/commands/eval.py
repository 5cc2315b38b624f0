"""maskgolf eval."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import tyro

from harness.commands.flags import Flat, Json, check_device
from harness.corpus.sources import Source
from harness.estimate import Estimate


@dataclass(frozen=True)
class Eval:
    """Score runs or artifact files in bits per byte, from the file, with error bars. Ctrl-C prints
    what is known so far.

    Example: maskgolf eval runs/demo --estimator chain --order confidence --json -
    """

    # Run directories or .mgolf files.
    runs: tyro.conf.Positional[Annotated[tuple[Path, ...], tyro.conf.arg(metavar="RUN")]]
    estimate: Annotated[Estimate, Flat] = field(default_factory=Estimate)
    source: Annotated[Source, Flat] = field(default_factory=Source)
    # cpu or cuda.
    device: str = "cpu"
    # torch.compile the forward pass.
    compiled: bool = True
    # Keep every window's numbers in FILE and go on from what is there: the score covers all its
    # windows.
    partial: Annotated[Path | None, tyro.conf.arg(metavar="FILE")] = None
    # Print the score of several --partial files of disjoint ranges (no RUN).
    merge: Annotated[tuple[Path, ...], tyro.conf.arg(metavar="FILE")] = ()
    # Score two runs token by token on the same windows: the paired difference, and both by position
    # in the window.
    compare: bool = False
    # Other seeds or another recipe: Welch's t-test of RUN... against these.
    against: Annotated[tuple[Path, ...], tyro.conf.arg(metavar="RUN")] = ()
    # With --compare: draw bits per byte by position (needs the plot extra).
    plot: Annotated[Path | None, tyro.conf.arg(metavar="FILE")] = None
    # Write the score to PATH, - for stdout; several runs: their scores, mean, standard deviation
    # and test.
    json: Json = None

    def run(self):
        """Return one score, or scores with mean and standard deviation for several runs, or a
        comparison.
        """
        from harness import report, scoring

        if self.merge:
            return scoring.merged(self.merge, self.runs, self.partial), lambda: report.scores(
                [scoring.merged(self.merge)]
            )
        device = check_device(self.device)
        if self.compare or self.plot:
            from harness import paired

            result = paired.runs(
                self.runs,
                self.source,
                self.estimate,
                device,
                self.compiled,
                self.compare,
                self.plot,
            )
            return result, lambda: report.comparison(result)
        scores = scoring.every(
            (*self.runs, *self.against),
            self.source,
            self.estimate,
            device,
            self.compiled,
            self.partial,
        )
        if len(scores) == 1:
            return scores[0], lambda: report.scores(scores)
        from harness import stats

        result = stats.sets(scores, len(self.runs))
        return result, lambda: report.sets(result)
