"""maskgolf validate."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from harness import paths
from harness.commands.flags import Json, given
from reference.recipe import InputError


@dataclass(frozen=True)
class Validate:
    """Check a submission folder, ours or anybody's: exit 1 when its score is wrong or cannot be
    proven, or a rule is broken. Nothing in it is executed without --run.

    Example: maskgolf validate records/2026-11-23_Mine --data ../shared/fineweb --run
    """

    # Folder that holds submission.json.
    folder: tyro.conf.Positional[Annotated[Path | None, tyro.conf.arg(metavar="DIR")]] = None
    # Folder in the official layout, or the word embedded for the text that ships with Python: the
    # artifact is scored on its validation split.
    data: Annotated[Path | None, tyro.conf.arg(metavar="DIR")] = None
    # SentencePiece model, where --data holds none or several.
    tokenizer: Annotated[Path | None, tyro.conf.arg(metavar="FILE")] = None
    # Execute the submission's code: in a temporary folder, without network, within --time-limit.
    run_: Annotated[bool, tyro.conf.arg(name="run")] = False
    time_limit: float = 600.0  # seconds that what is executed may take
    # Say what a check is, which submissions it has caught, how to fix it (no DIR).
    explain: Annotated[str | None, tyro.conf.arg(metavar="CHECK")] = None
    # Exit 1 for paperwork too: pins, README, JSON fields. Without it these are warnings.
    strict: bool = False
    # List the checks that passed too.
    all: bool = False
    # Write the list of check, severity, verdict, evidence to PATH, - for stdout.
    json: Json = None

    def run(self):
        """Return the rows, and whether none of them failed, warnings left out."""
        if self.explain is None:
            self._check_submission()
        from harness import validate
        from harness.corpus import prepare
        from harness.display import report
        from harness.display.progress import bar
        from harness.validate.summary import summarise
        from harness.validate.verdict import SEVERITIES, is_sound

        if self.explain is not None:
            explained = validate.explain(self.explain)
            return explained, lambda: report.explanation(
                explained, SEVERITIES[explained["severity"]]
            )
        data = prepare.embedded() if self._embedded else self.data
        with bar("validate", "windows") as progress:
            rows = validate.validate(
                self.folder, data, self.tokenizer, self.run_, self.time_limit, progress=progress
            )
        return (
            rows,
            lambda: report.validation(
                summarise(rows), SEVERITIES, self.folder, self.all, self.strict
            ),
            is_sound(rows, self.strict),
        )

    @property
    def _embedded(self) -> bool:
        return self.data == Path("embedded") and not self.data.exists()

    def check(self) -> None:
        """Raise InputError for what --explain does not read."""
        others = given(self, "explain", "json")
        if self.explain is not None and others:
            name, words = next(iter(others.items()))
            raise InputError(
                f"--explain {self.explain}: expected no submission with it, found"
                f" {'a folder' if name == 'folder' else words}; ask for one at a time"
            )

    def _check_submission(self) -> None:
        """Raise InputError for what is wrong before anything is looked at: what cannot be read is
        said now, not check by check.
        """
        from fast.shards import find_layout

        if self.folder is None:
            raise InputError(
                "validate: expected a submission folder, found none; name the folder that holds"
                " submission.json"
            )
        if self.tokenizer and not self.data:
            raise InputError(
                f"--tokenizer {self.tokenizer}: expected --data with it, found none; name the"
                " folder whose text it reads"
            )
        if not self.time_limit > 0:
            raise InputError(
                f"--time-limit {self.time_limit:g}: expected seconds above 0; leave it out for 600"
            )
        paths.submission_names(self.folder)
        if self.data and not self._embedded:
            find_layout(self.data, self.tokenizer)
