"""Gathers what a page shows, computes and draws it, and writes it as one file."""

from pathlib import Path

from fast import artifact
from fast.checkpoint import write_atomic
from harness.display.progress import bar
from harness.page import charts, computed, contents, sections
from harness.page.contents import Group
from harness.page.sections import Drawn
from harness.page.style import STYLE
from reference.recipe import InputError


def _known(group: Group, prefix: str) -> Drawn:
    """Return the figures of what the runs wrote down."""
    drawn = Drawn()
    if any(run.best for run in group.runs):
        drawn.scores = charts.scores(group, f"{prefix}-scores")
    for key in charts.CURVES:
        shown = charts.curve(group, key, f"{prefix}-{key.replace('_', '-')}")
        if shown:
            drawn.curves.append(shown)
    if not drawn.curves:
        drawn.missing.append("training curves (no records in metrics.jsonl).")
    return drawn


def _sizes(run, prefix: str) -> charts.Figure:
    file = run.path / "artifact.mgolf"
    header, _ = artifact.read(file)
    parts = artifact.size_report(header, file.stat().st_size, {"code": run.summary["code_bytes"]})
    return charts.sizes(charts.by_kind(parts), f"{prefix}-sizes")


def _measured(group: Group, drawn: Drawn, prefix: str, device: str, progress) -> None:
    """Add the figures that the best run's artifact is needed for."""
    run, made = group.best, None

    def attempt(title: str, make) -> None:
        try:
            make()
        except InputError as error:
            drawn.missing.append(f"{title} ({error}).")

    def opened():
        nonlocal made
        made = made or computed.opened(run.path, run.best or {}, device)
        return made

    def positions():
        shown = computed.positions(opened(), progress.update)
        drawn.positions = charts.positions(shown, run, f"{prefix}-positions")

    def reveal():
        drawn.revealed = computed.reveal(opened())
        drawn.reveal = charts.reveal(drawn.revealed, f"{prefix}-reveal")

    def sizes():
        drawn.sizes = _sizes(run, prefix)

    def grid():
        drawn.grid = charts.grid(computed.grid(run.path, opened()), f"{prefix}-grid")

    progress.say(f"report: {run.name}, passes over a few windows of its text")
    attempt("bits per byte by what is known", positions)
    attempt("the order in which confidence reveals a sentence", reveal)
    attempt("bytes by tensor and format", sizes)
    attempt("weights against their grid", grid)


def write(runs: tuple[Path, ...], out: Path, device: str = "cpu") -> Path:
    """Write the page of some finished runs and return its path. The same runs give the same bytes
    on one machine.
    """
    groups, drawn = contents.read(runs), []
    with bar("report", "passes") as progress:
        for index, group in enumerate(groups, 1):
            figures = _known(group, f"text{index}")
            _measured(group, figures, f"text{index}", device, progress)
            drawn.append(figures)
    write_atomic(out, sections.whole(groups, drawn, STYLE).encode())
    return out
