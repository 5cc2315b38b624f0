"""maskgolf pack."""

from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Annotated, Literal

import tyro

from harness import devices, paths
from harness.commands.flags import Flat, Json
from harness.corpus.sources import Source
from harness.records import overview
from reference.recipe import InputError


@dataclass(frozen=True)
class Pack:
    """Write the submission folder of finished runs that differ in seed alone: README, JSON,
    train_gpt.py, logs, first run's artifact.

    Example: maskgolf pack runs/a runs/b --name Mine --author Me --github-id me --out records
    """

    runs: tyro.conf.Positional[Annotated[tuple[Path, ...], tyro.conf.arg(metavar="RUN")]]
    """Run directories, one per seed."""
    name: str
    """Title of the submission; the folder is DATE_NAME."""
    author: str
    """Who submits."""
    github_id: str
    """GitHub user name of the author."""
    out: Annotated[Path, tyro.conf.arg(metavar="DIR", aliases=["-o"])]
    """Where the folder goes."""
    date: str | None = None
    """YYYY-MM-DD (default: today)."""
    blurb: str | None = None
    """A sentence or two on the submission (default: the technique)."""
    technique: str | None = None
    """The technique in one line (default: from the recipe)."""
    hardware: str | None = None
    """What the runs trained on (default: as they recorded it)."""
    track: Literal["non_record_16mb", "10min_16mb"] = "non_record_16mb"
    """The challenge's track; 10min_16mb holds the training clock to 600 s."""
    budget: int | None = None
    """Store the averaged weights anew, so that code and artifact take so many bytes (16000000)."""
    source: Annotated[Source, Flat] = field(default_factory=Source)
    device: str = "cpu"
    """cpu or cuda: where runs are scored that scored a part of the split or are stored anew."""
    json: Json = None
    """Write submission.json and its folder to PATH, - for stdout."""

    def check(self) -> None:
        """Raise InputError for a budget that nothing fits."""
        if self.budget is not None and self.budget < 1:
            raise InputError(f"--budget: expected bytes, at least 1, found {self.budget}")

    def run(self):
        """Return what submission.json says, and the folder."""
        for run in self.runs:
            paths.check_run_directory(run)
            paths.run_or_artifact(run)
        overview.summaries(self.runs)
        from harness.display import report
        from harness.packaging.claim import Claim
        from harness.packaging.pack import pack

        claim = Claim(**{one.name: getattr(self, one.name) for one in fields(Claim)})
        packed = pack(
            self.runs, self.out, claim, devices.check_device(self.device), self.source, self.budget
        )
        return packed, lambda: report.packed(packed)
