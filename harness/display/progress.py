"""A progress bar with rate and ETA on a terminal, otherwise a plain line now and then; on stderr,
so that stdout stays JSON.
"""

import sys
import time
from contextlib import contextmanager

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

PLAIN_EVERY = 10.0  # seconds between plain lines


class Bar:
    """One running task: update(done, total, note) redraws it, say(text) prints a line above it."""

    def __init__(self, title: str, unit: str, progress: Progress | None, console: Console):
        self.title, self.unit, self.progress, self.console = title, unit, progress, console
        self.task = progress.add_task(title, total=None, note="", unit=unit) if progress else None
        self.shown, self.first = time.perf_counter(), None

    def say(self, text: str) -> None:
        """Print a line above the bar."""
        self.console.print(text, highlight=False, markup=False, soft_wrap=True)

    def start(self, title: str, done: int, total: int, unit: str) -> None:
        """Go on to another of `total` tasks, of which `done` are finished: that is shown until an
        update tells how far the new one is.
        """
        self.title, self.first = title, None
        if self.progress:
            shown = {"completed": done, "total": total, "unit": unit}
            self.progress.reset(self.task, description=title, note="", **shown)
        elif time.perf_counter() - self.shown >= PLAIN_EVERY:
            self.shown = time.perf_counter()
            self.say(f"{title}: {done:,} of {total:,} {unit} done")

    def update(self, done: float, total: float, note: str = "") -> None:
        """Show that `done` of `total` units are finished; note says what else is worth knowing,
        such as the rate.
        """
        now = time.perf_counter()
        self.first = self.first or (done, now)
        if self.progress:
            shown = {"completed": done, "total": total, "unit": self.unit, "note": note}
            self.progress.update(self.task, **shown)
        elif now - self.shown >= PLAIN_EVERY:
            self.shown = now
            rate = (done - self.first[0]) / max(now - self.first[1], 1e-9)
            eta = f", {(total - done) / rate:.0f} s left" if rate > 0 else ""
            self.say(
                f"{self.title}: {done:,.0f} of {total:,.0f}"
                f" {self.unit}{eta}{', ' + note if note else ''}"
            )


def silent() -> Bar:
    """Return a Bar that shows nothing."""
    return Bar("", "", None, Console(stderr=True, quiet=True))


@contextmanager
def bar(title: str, unit: str, quiet: bool = False):
    """Yield a Bar for the duration of a task; a quiet one shows nothing."""
    console = Console(stderr=True, quiet=quiet)
    if quiet or not sys.stderr.isatty():
        yield Bar(title, unit, None, console)
        return
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[unit]}"),
        TimeElapsedColumn(),
        TextColumn("ETA"),
        TimeRemainingColumn(),
        TextColumn("{task.fields[note]}"),
    )
    with Progress(*columns, console=console, transient=True) as progress:
        yield Bar(title, unit, progress, console)
