"""maskgolf report."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from harness import overview
from harness.commands.flags import Json


@dataclass(frozen=True)
class Report:
    """Show finished runs side by side, from their summaries: a table for each text.

    Example: maskgolf report runs/a runs/b --plot curves.png
    """

    runs: tyro.conf.Positional[Annotated[tuple[Path, ...], tyro.conf.arg(metavar="RUN")]]
    """Run directories."""
    plot: Annotated[Path | None, tyro.conf.arg(metavar="FILE")] = None
    """Also draw the training curves (needs the plot extra)."""
    json: Json = None
    """Write the list of summaries to PATH, - for stdout."""

    def run(self):
        """Return the summaries."""
        results = overview.summaries(self.runs)
        from harness import report

        if self.plot:
            overview.plot(self.runs, self.plot)
        return results, lambda: report.overview(results)
