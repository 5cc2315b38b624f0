"""What the functions of harness.api return: dataclasses with a line, a table and a plot each.

Every result keeps under `json` the object that the command of its name writes with --json. A plot
is a matplotlib Figure (the plot extra), which notebooks show and savefig() writes.
"""

import html
from abc import ABC, abstractmethod
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from harness.display import figures
from harness.records import overview


def _report():
    """Return harness.display.report, which loads torch, as importing this module does not."""
    from harness.display import report

    return report


def _axes(height: float = 3.5):
    """Return the axes of a new figure, which no window owns."""
    figures.check_matplotlib("plot")
    from matplotlib.figure import Figure

    return Figure(figsize=(8, height), layout="constrained").subplots()


@dataclass(frozen=True, repr=False)
class Result(ABC):
    """A line as its repr, table() as text, plot() as a figure, json as the command writes it."""

    json: Any

    @classmethod
    def of(cls, json: dict, **others) -> "Result":
        """Return the result whose fields are those of a JSON object, and some others."""
        names = {known.name for known in fields(cls)} & set(json)
        return cls(json=json, **{name: json[name] for name in names} | others)

    @abstractmethod
    def line(self) -> str:
        """Return the result in a few words."""

    @abstractmethod
    def show(self) -> None:
        """Print the table."""

    @abstractmethod
    def plot(self):
        """Return a matplotlib Figure."""

    def table(self) -> str:
        """Return the table that the command prints, as text."""
        with _report().console.capture() as printed:
            self.show()
        return printed.get()

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.line()}>"

    def _repr_html_(self) -> str:
        return f"<pre>{html.escape(self.table())}</pre>"


def _plot_scores(scores: "tuple[Score, ...]"):
    """Return bits per byte of some scores as points with the error bars of their sequences."""
    axes = _axes(1 + 0.4 * len(scores))
    for row, score in enumerate(scores):
        error = score.stderr_sequences or score.stderr_masks
        axes.errorbar(score.bpb, row, xerr=error, fmt="o", capsize=3, color="#0072B2")
    axes.set(xlabel="bits per byte, ± one standard error", ylim=(len(scores) - 0.5, -0.5))
    axes.set_yticks(range(len(scores)), [f"{score.run}\n{score.method}" for score in scores])
    return axes.figure


@dataclass(frozen=True, repr=False)
class Score(Result):
    """Bits per byte of an artifact on a text, by one estimator.

    stderr_masks: standard error over random masks or drawn positions, 0 where nothing is drawn;
    stderr_sequences: over windows, None of one window; forwards: positions through the network.
    """

    run: str
    estimator: str
    order: str | None
    bpb: float
    nats_per_token: float
    stderr_masks: float
    stderr_sequences: float | None
    tokens: int
    bytes: int
    forwards: int
    seconds: float

    @property
    def method(self) -> str:
        """The estimator, in words."""
        return _report().estimator_of(self.json)

    def line(self) -> str:
        """Return run, bits per byte, error and estimator."""
        error = "" if self.stderr_sequences is None else f" ± {self.stderr_sequences:.4f}"
        return f"{self.run}: {self.bpb:.4f}{error} bits per byte, {self.method}"

    def show(self) -> None:
        """Print the table of maskgolf eval."""
        _report().scores([self.json])

    def plot(self):
        """Return bits per byte with its error bar."""
        return _plot_scores((self,))


@dataclass(frozen=True, repr=False)
class Scores(Result):
    """Scores of several runs: mean, standard deviation, and Welch's t-test against other runs."""

    scores: tuple[Score, ...]
    mean: float
    std: float | None
    against: tuple[Score, ...]
    welch: dict | None

    def line(self) -> str:
        """Return the mean and the standard deviation."""
        deviation = "" if self.std is None else f", standard deviation {self.std:.4f}"
        return f"of {len(self.scores)} runs: mean {self.mean:.4f} bits per byte{deviation}"

    def show(self) -> None:
        """Print the table of maskgolf eval, of each set."""
        _report().sets(self.json)

    def plot(self):
        """Return bits per byte of every run with its error bar."""
        return _plot_scores((*self.scores, *self.against))


@dataclass(frozen=True, repr=False)
class Run(Result):
    """A finished run: where its files are, what it cost, and its scores from the artifact."""

    path: Path
    preset: str
    parameters: int
    steps: int
    seconds: float
    tokens_per_second: float
    artifact_bytes: int
    code_bytes: int
    scores: tuple[Score, ...]
    baselines: dict[str, float]

    def line(self) -> str:
        """Return path, size, steps and the first score."""
        total = self.artifact_bytes + self.code_bytes
        return (
            f"{self.path}: {self.parameters:,} parameters, {self.steps:,} steps, {total:,} bytes,"
            f" {self.scores[0].bpb:.4f} bits per byte ({self.scores[0].method})"
        )

    def show(self) -> None:
        """Print the tables of maskgolf train."""
        from harness import runs

        _report().summary(self.json, self.path, runs.sizes(self.path))

    def plot(self):
        """Return the training loss by step."""
        axes = _axes()
        axes.plot(*overview.curve(self.path), linewidth=1, color="#0072B2")
        axes.set(xlabel="step", ylabel="training loss, nats per token", title=str(self.path))
        return axes.figure


@dataclass(frozen=True, repr=False)
class Model(Result):
    """A model read from its artifact, computing in float32 (float64 where its recipe does).

    json: the size of each tensor, rows of fast.artifact.size_report.
    """

    path: Path
    parameters: int
    artifact_bytes: int
    predictor: Any
    tokenizer: Path | None  # where it was named

    @property
    def recipe(self):
        """The recipe it was trained by."""
        return self.predictor.recipe

    @property
    def objective(self) -> str:
        """What it was trained to predict, in words."""
        from fast.objective import objective_of

        return objective_of(self.recipe.model).name

    def line(self) -> str:
        """Return path, objective and size."""
        return (
            f"{self.path}: {self.objective}, {self.parameters:,} parameters in"
            f" {self.artifact_bytes:,} bytes"
        )

    def encode(self, text: str) -> list[int]:
        """Return the tokens of a text."""
        from harness.corpus import prepare

        return prepare.encode(text, self.predictor.tokenizer)

    def decode(self, ids) -> str:
        """Return the text of some tokens; bytes that are no UTF-8 are replaced."""
        import numpy as np

        from harness.corpus import shards

        raw = shards.raw_text(np.asarray(ids), self.predictor.tokenizer)
        return raw.decode("utf-8", errors="replace")

    def show(self) -> None:
        """Print the bytes of every part of the artifact."""
        _report().sizes(self.json)

    def plot(self):
        """Return the stored bytes of the tensors of each kind."""
        kinds = {
            name: sum(size["stored"] for size in members)
            for name, members in _report().kinds(self.json).items()
        }
        axes = _axes(1 + 0.25 * len(kinds))
        axes.barh(list(kinds), list(kinds.values()), color="#0072B2")
        axes.invert_yaxis()
        axes.set(xlabel="bytes stored", title=str(self.path))
        return axes.figure


@dataclass(frozen=True, repr=False)
class Samples(Result):
    """Texts drawn from a model."""

    path: Path
    texts: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.texts)

    def __getitem__(self, row):
        return self.texts[row]

    def line(self) -> str:
        """Return how many there are, and how the first begins."""
        return f"{len(self)} of {self.path}: {self.texts[0][:60]!r}"

    def show(self) -> None:
        """Print every text under a rule."""
        _report().samples(self.json)

    def plot(self):
        """Return when each token of the first text was drawn, coloured by its probability then."""
        drawn = self.json[0]
        rows = zip(drawn["reveal"], drawn["probabilities"], strict=True)
        points = [(place, *row) for place, row in enumerate(rows) if row[0] is not None]
        axes = _axes()
        places, turns, probabilities = zip(*points, strict=True)
        shown = axes.scatter(places, turns, c=probabilities, cmap="cividis", vmin=0, vmax=1, s=12)
        axes.figure.colorbar(shown, label="probability when drawn")
        axes.set(xlabel="place in the text, tokens", ylabel="drawn as number", title=str(self.path))
        return axes.figure


@dataclass(frozen=True, repr=False)
class Parity(Result):
    """The comparison of the fast half with the specification, a row for each piece and level."""

    device: str
    passed: bool

    def line(self) -> str:
        """Return how many rows agree."""
        red = sum(not row["passed"] for row in self.json)
        return f"on {self.device}: {len(self.json) - red} of {len(self.json)} rows agree"

    def show(self) -> None:
        """Print the table of maskgolf parity."""
        _report().parity(self.json)

    def plot(self):
        """Return the error of every row over its limit, on a logarithmic axis."""
        names, ratios = [], []
        for row in self.json:
            if row["limit"]:  # 0 where the halves must agree to the bit
                names.append(f"{row['piece']}, {row['level']}, {row['dtype']}")
                error = float("inf") if row["error"] is None else row["error"]
                ratios.append(min(max(error / row["limit"], 1e-6), 1e3))
        axes = _axes(1 + 0.2 * max(len(names), 1))
        axes.scatter(ratios, range(len(names)), color="#0072B2", s=12)
        axes.axvline(1, color="#D55E00", linewidth=1)
        axes.set_yticks(range(len(names)), names, fontsize=7)
        axes.set(xscale="log", xlabel="error / limit", ylim=(len(names) - 0.5, -0.5))
        return axes.figure
