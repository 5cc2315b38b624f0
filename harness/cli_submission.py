"""The sub-commands about submissions."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal

import tyro

from harness.flags import Flat, Json, check_device
from harness.foreign import Assume
from harness.sources import Source
from reference.recipe import InputError


@dataclass(frozen=True)
class Validate:
    """Check a submission folder, ours or anybody's: exit 1 when something is wrong with it. Nothing in it is executed without --run.

    Example: maskgolf validate records/2026-11-23_Mine --data ../shared/fineweb --run
    """

    folder: tyro.conf.Positional[Annotated[Path | None, tyro.conf.arg(metavar="DIR")]] = None
    """Folder that holds submission.json."""
    data: Annotated[Path | None, tyro.conf.arg(metavar="DIR")] = None
    """Folder in the official layout, or the word embedded for the text that ships with Python: the artifact is scored on its validation
    split."""
    tokenizer: Annotated[Path | None, tyro.conf.arg(metavar="FILE")] = None
    """SentencePiece model, where --data holds none or several."""
    run_: Annotated[bool, tyro.conf.arg(name="run")] = False
    """Execute the submission's code: in a temporary folder, without network, within --time-limit."""
    time_limit: float = 600.0  # seconds that what is executed may take
    explain: Annotated[str | None, tyro.conf.arg(metavar="CHECK")] = None
    """Say what a check is, which submissions it has caught, how to fix it (no DIR)."""
    json: Json = None
    """Write the list of check, verdict, evidence to PATH, - for stdout."""

    def run(self):
        """Return the rows, and whether none of them failed."""
        from fast.data import find_layout
        from harness import corpus, report, validate

        if self.explain is not None:
            explained = validate.explain(self.explain)
            return explained, lambda: report.explanation(explained)
        if self.folder is None:
            raise InputError("validate: expected a submission folder, found none; name the folder that holds submission.json")
        if self.tokenizer and not self.data:
            raise InputError(f"--tokenizer {self.tokenizer}: expected --data with it, found none; name the folder whose text it reads")
        if not self.time_limit > 0:
            raise InputError(f"--time-limit {self.time_limit:g}: expected seconds above 0; leave it out for 600")
        data = corpus.embedded() if self.data == Path("embedded") and not self.data.exists() else self.data
        if data:
            find_layout(data, self.tokenizer)  # what cannot be read is said now, not check by check
        rows = validate.validate(self.folder, data, self.tokenizer, self.run_, self.time_limit)
        return rows, lambda: report.validation(rows, self.folder), not any(row["verdict"] == "fail" for row in rows)


@dataclass(frozen=True)
class Import:
    """Bring a run from elsewhere: read a .ptz, .pt or .safetensors file of the challenge's network, write the same numbers as an artifact.

    Example: maskgolf import final_model.int8.ptz -o artifact.mgolf
    """

    file: tyro.conf.Positional[Annotated[Path, tyro.conf.arg(metavar="FILE")]]
    """Weights; nothing in the file is ever run."""
    out: Annotated[Path, tyro.conf.arg(metavar="FILE.mgolf", aliases=["-o"])]
    """Artifact to write, for maskgolf eval --data DIR --tokenizer FILE."""
    assume: Annotated[Assume, Flat] = field(default_factory=Assume)
    json: Json = None
    """Write what was found to PATH, - for stdout."""

    def run(self):
        """Return what was found in the file."""
        from harness import foreign, report

        brought = foreign.bring(self.file, self.out, self.assume)
        return brought, lambda: report.brought(brought)


@dataclass(frozen=True)
class Pack:
    """Write the submission folder of finished runs that differ in seed alone: README, JSON, train_gpt.py, logs, first run's artifact.

    Example: maskgolf pack runs/a runs/b runs/c --name "Masked diffusion 8x576" --author "A. Person" --github-id aperson --out records
    """

    runs: tyro.conf.Positional[Annotated[tuple[Path, ...], tyro.conf.arg(metavar="RUN")]]
    """Run directories, one per seed."""
    name: str
    """Title of the submission; the folder is DATE_NAME."""
    author: str
    """Who submits."""
    github_id: str
    """GitHub user name of the author."""
    out: Annotated[Path, tyro.conf.arg(metavar="DIR")]
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
    source: Annotated[Source, Flat] = field(default_factory=Source)
    device: str = "cpu"
    """cpu or cuda: where a run that scored only a part of the validation split is scored again."""
    json: Json = None
    """Write submission.json and its folder to PATH, - for stdout."""

    def run(self):
        """Return what submission.json says, and the folder."""
        from harness import report
        from harness.pack import pack

        packed = pack(
            self.runs, self.out, name=self.name, author=self.author, github_id=self.github_id, date=self.date, blurb=self.blurb,
            technique=self.technique, hardware=self.hardware, track=self.track, device=check_device(self.device), source=self.source,
        )  # fmt: skip
        return packed, lambda: report.packed(packed)
