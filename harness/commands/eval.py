"""maskgolf eval."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import tyro

from harness import api, devices, paths
from harness.commands.flags import Flat, Json, given
from harness.corpus.sources import Source
from harness.evaluation.estimate import Estimate
from reference.recipe import InputError

# What --compare does not read: it takes the exact cost of every token.
UNCOMPARED = (
    "estimator",
    "draws",
    "points",
    "positions",
    "trailing",
    "partial",
    "against",
)
_COMPILES = tyro.conf.arg(help_behavior_hint="(default: where it saves more time than it takes)")


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
    device: Annotated[
        str | None, tyro.conf.arg(metavar="STR", help_behavior_hint="(default: cpu)")
    ] = None
    # torch.compile the forward pass.
    compiled: Annotated[bool, tyro.conf.FlagCreatePairsOff, _COMPILES] = False
    # Run the forward pass as it is.
    no_compiled: Annotated[bool, tyro.conf.FlagCreatePairsOff, _COMPILES] = False
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

    def check(self) -> None:
        """Raise InputError for what does not go together; loads no model, nor torch."""
        flags = given(self, "runs", "json")
        if self.merge:
            others = [str(run) for run in self.runs]
            others += [words for name, words in flags.items() if name != "merge"]
            if others:
                raise InputError(
                    f"--merge: expected partial files alone, found {others[0]} as well; drop it"
                )
            return
        if self.compiled and self.no_compiled:
            raise InputError("--compiled: expected no --no-compiled beside it, found one; drop one")
        if self.plot and not self.compare:
            raise InputError(
                "--plot: expected --compare as well, found none; add it, or use maskgolf report"
                " --plot for training curves"
            )
        if self.compare:
            unread = [flags[name] for name in UNCOMPARED if name in flags]
            if unread:
                raise InputError(
                    "--compare: expected no estimate but the exact cost of every token of two"
                    f" runs, found {unread[0]} as well; drop it"
                )
            if len(self.runs) != 2:
                raise InputError(f"--compare: expected two runs, found {len(self.runs)}; name two")
        if not self.runs:
            raise InputError(
                "eval: expected at least one run directory or artifact file, found none before"
                f" {flags.get('against', 'the options')}; name one, such as runs/demo"
            )
        scored = len(self.runs) + len(self.against)
        if self.partial and scored > 1:
            raise InputError(
                f"--partial {self.partial}: expected one run, found {scored}; score them one by one"
            )
        self.estimate.check()

    def run(self):
        """Return one score, or scores with mean and standard deviation for several runs, or a
        comparison.
        """
        for run in (*self.runs, *self.against):
            paths.run_or_artifact(run)
        for file in self.merge:
            paths.check_readable(file, *paths.PARTIAL)
        from harness.display import report
        from harness.evaluation import paired, partial

        if self.merge:
            merged = partial.merge(list(self.merge))
            return merged, lambda: report.scores([merged])
        device = self.device or "cpu"
        compiled = self.compiled if self.compiled or self.no_compiled else None
        if self.compare:
            settings = self.source, self.estimate, devices.check_device(device), compiled
            compared = paired.runs(self.runs, *settings, self.plot)
            return compared, lambda: report.comparison(compared)
        result = api.score(
            self.runs[0] if len(self.runs) == 1 else self.runs,
            against=self.against,
            **vars(self.source),
            device=device,
            compiled=compiled,
            partial=self.partial,
            **vars(self.estimate),
        )
        return result.json, result.show
