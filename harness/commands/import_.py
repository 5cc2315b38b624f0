"""maskgolf import."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import tyro

from harness import paths
from harness.commands.flags import Flat, Json
from harness.importers.assume import Assume


@dataclass(frozen=True)
class Import:
    """Import a run of another project: read a .ptz, .pt or .safetensors file of the challenge's
    network, write the same numbers as an artifact.

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
        paths.check_readable(self.file)
        from harness.display import report
        from harness.importers import convert

        imported = convert.convert(self.file, self.out, self.assume)
        return imported, lambda: report.imported(imported)
