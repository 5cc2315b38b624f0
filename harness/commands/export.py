"""maskgolf export."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from harness import paths
from harness.commands.flags import Json


@dataclass(frozen=True)
class Export:
    """Write a model's weights as a safetensors file, with its recipe in the metadata.

    Example: maskgolf export runs/demo --out demo.safetensors
    """

    # Run directory or .mgolf file.
    run_: tyro.conf.Positional[Annotated[Path, tyro.conf.arg(name="run", metavar="RUN")]]
    out: Annotated[Path, tyro.conf.arg(metavar="FILE", aliases=["-o"])]
    """The file to write."""
    json: Json = None
    """Write what was written to PATH, - for stdout."""

    def run(self):
        """Return what was written."""
        paths.run_or_artifact(self.run_)
        paths.check_output("--out", self.out)
        from harness.display import report
        from harness.packaging import export

        written = export.export(self.run_, self.out)
        return written, lambda: report.exported(written)
