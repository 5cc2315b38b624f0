"""What a page is about: finished runs as their directories describe them, in groups that rank."""

import json
from dataclasses import dataclass
from pathlib import Path

from harness.display import report
from harness.records import overview


@dataclass(frozen=True)
class Finished:
    """A finished run: its summary.json, recipe.json, metrics.jsonl and parity.json."""

    path: Path
    name: str  # as the page calls it
    summary: dict
    described: dict  # {} where recipe.json cannot be read
    records: list[dict]  # [] where metrics.jsonl cannot be read
    parity: list[dict]  # rows of the preflight, [] where the run began without one

    @property
    def best(self) -> dict | None:
        """Return the score of the fewest bits per byte, None where nothing is scored."""
        scored = [score for score in self.summary["scores"] if score.get("bpb") is not None]
        return min(scored, key=lambda score: score["bpb"], default=None)

    @property
    def text(self) -> str:
        """Return what it was scored on, in words: of one text it is the same."""
        return report.text_of(self.best or next(iter(self.summary["scores"]), {}))

    @property
    def trained_on(self) -> str:
        """Return its training text and tokenizer: only of the same ones do losses rank."""
        known = (str(self.described.get(f"{x}_sha256"))[:8] for x in ("training", "tokenizer"))
        return "text {}, tokenizer {}".format(*known)

    @property
    def bytes(self) -> int:
        """Return the bytes of artifact and code."""
        return self.summary["artifact_bytes"] + self.summary["code_bytes"]


@dataclass(frozen=True)
class Group:
    """Runs that were scored on one text: only their bits per byte rank."""

    text: str
    runs: list[Finished]

    @property
    def best(self) -> Finished:
        """Return the run of the fewest bits per byte, the first where none is scored."""
        scored = [run for run in self.runs if run.best]
        return min(scored, key=lambda run: run.best["bpb"], default=self.runs[0])

    @property
    def baselines(self) -> dict[str, float]:
        """Return the bits per byte of general compressors on the same text."""
        return self.runs[0].summary["baselines"]

    def labels(self) -> list[str]:
        """Return what legends call the runs: with their training text where it is not that of all,
        as losses of other texts do not rank.
        """
        several = len({run.trained_on for run in self.runs}) > 1
        return [f"{run.name} ({run.trained_on})" if several else run.name for run in self.runs]


def _lines(path: Path) -> list[dict]:
    try:
        return [json.loads(line) for line in path.read_text().splitlines()]
    except (OSError, ValueError):
        return []


def _whole(path: Path, otherwise):
    try:
        return json.loads(path.read_text())
    except (OSError, ValueError):
        return otherwise


def names(paths: list[Path]) -> list[str]:
    """Return the shortest ends of some paths that tell them apart."""
    most = max(len(path.parts) for path in paths)
    for parts in range(1, most + 1):
        short = ["/".join(path.parts[-parts:]) for path in paths]
        if len({*short}) == len(paths):
            return short
    return [str(path) for path in paths]


def read(paths: tuple[Path, ...]) -> list[Group]:
    """Return the groups of some finished runs, one that is named twice once; InputError where one
    is not finished.
    """
    paths = list({path.resolve(): path for path in paths}.values())
    summaries = overview.summaries(tuple(paths))
    groups = {}
    for path, name, summary in zip(paths, names(paths), summaries, strict=True):
        recipe = _whole(path / "recipe.json", {})
        rows = _whole(path / "parity.json", [])
        run = Finished(path, name, summary, recipe, _lines(path / "metrics.jsonl"), rows)
        groups.setdefault(run.text, []).append(run)
    return [Group(text, runs) for text, runs in groups.items()]
