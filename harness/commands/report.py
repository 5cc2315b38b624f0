"""maskgolf report."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from harness import devices
from harness.commands.flags import Json
from harness.display import figures
from harness.records import overview
from reference.recipe import InputError


@dataclass(frozen=True)
class Report:
    """Show finished runs side by side, from their summaries: a table for each text, and a page of
    figures where -o names one.

    Example: maskgolf report runs/a runs/b -o report.html
    """

    # Run directories.
    runs: tyro.conf.Positional[Annotated[tuple[Path, ...], tyro.conf.arg(metavar="RUN")]]
    # Also write a page of figures: one HTML file (needs the plot extra).
    out: Annotated[Path | None, tyro.conf.arg(metavar="FILE.html", aliases=["-o"])] = None
    # Also draw the training curves (needs the plot extra).
    plot: Annotated[Path | None, tyro.conf.arg(metavar="FILE")] = None
    # With -o: what computes its figures, cpu or cuda.
    device: Annotated[
        str | None, tyro.conf.arg(metavar="STR", help_behavior_hint="(default: cpu)")
    ] = None
    # Write the list of summaries to PATH, - for stdout.
    json: Json = None

    def check(self) -> None:
        """Raise InputError for a page that cannot be written; loads no torch."""
        if self.device:
            devices.check_name(self.device)
            if not self.out:
                raise InputError(
                    f"--device {self.device}: expected -o as well, whose figures it computes, found"
                    " none; add it, or drop --device"
                )
        if self.out:
            figures.check_page(self.out)

    def run(self):
        """Return the summaries."""
        results = overview.summaries(self.runs)
        from harness.display import report

        if self.plot:
            overview.plot(self.runs, self.plot)
        if not self.out:
            return results, lambda: report.overview(results)
        from harness.page import write

        page = write.write(self.runs, self.out, devices.check_device(self.device or "cpu"))

        def show() -> None:
            report.overview(results)
            report.page(page)

        return results, show
