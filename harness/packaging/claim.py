"""What a person states about a submission."""

import re
from dataclasses import dataclass
from datetime import date as day

from harness.validate.checks.folder import PLACEHOLDER
from reference.recipe import InputError

TRACKS = {"non_record_16mb": None, "10min_16mb": 600.0}  # cap on the training clock, seconds


@dataclass(frozen=True)
class Claim:
    """Fields of submission.json that no run knows; maskgolf pack has a flag for each."""

    name: str
    author: str
    github_id: str
    date: str | None = None  # YYYY-MM-DD; None: today
    blurb: str | None = None
    technique: str | None = None
    hardware: str | None = None
    track: str = "non_record_16mb"

    def check(self) -> None:
        """Raise InputError for what cannot stand, what validate would refuse included."""
        for field in ("name", "author", "github_id", "blurb", "technique", "hardware"):
            flag, text = f"--{field.replace('_', '-')}", getattr(self, field)
            if text is None:
                continue
            if not text.strip() or PLACEHOLDER.search(text):
                raise InputError(f"{flag}: expected your own, found {text!r}; give it")
            if not (text.replace("\n", "") if field == "blurb" else text).isprintable():
                raise InputError(
                    f"{flag}: expected a line of text, found {text!r}; leave out what cannot be"
                    " printed"
                )
        if not re.fullmatch(r"[A-Za-z0-9](-?[A-Za-z0-9]){0,38}", self.github_id):
            raise InputError(
                "--github-id: expected a GitHub user name (letters, digits, single hyphens), found"
                f" {self.github_id!r}; give it without @ or address"
            )
        if self.track not in TRACKS:
            raise InputError(
                f"--track {self.track!r}: expected one of {', '.join(TRACKS)}; choose one of these"
            )

    def day(self) -> str:
        """Return the date of the submission."""
        try:
            return (day.fromisoformat(self.date) if self.date else day.today()).isoformat()
        except ValueError:
            raise InputError(
                f"--date: expected YYYY-MM-DD, found {self.date!r}; write it so"
            ) from None

    def folder(self) -> str:
        """Return the name of the submission's folder."""
        word = re.sub(r"[^A-Za-z0-9.+-]+", "_", self.name).strip("_.")
        if not word:
            raise InputError(
                "--name: expected letters or digits for the folder's name, found"
                f" {self.name!r}; choose another"
            )
        return f"{self.day()}_{word}"

    def fields(self, technique: str, hardware: str) -> dict:
        """Return the fields of submission.json; technique and hardware: those of the run, where the
        person states none.
        """
        technique = self.technique or technique
        return {name: getattr(self, name) for name in ("author", "github_id", "name")} | {
            "blurb": self.blurb or technique,
            "date": self.day(),
            "track": self.track,
            "hardware": self.hardware or hardware,
            "technique_summary": technique,
        }
