"""maskgolf decompress."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from harness import devices, paths
from harness.commands.flags import Json
from harness.compression import restored_path


@dataclass(frozen=True)
class Decompress:
    """Restore a file that maskgolf compress wrote, with the same run on the same machine.

    Example: maskgolf decompress notes.txt.mgz --run runs/demo --out restored.txt
    """

    file: tyro.conf.Positional[Annotated[Path, tyro.conf.arg(metavar="FILE.mgz")]]
    """What maskgolf compress wrote."""
    run_: Annotated[Path, tyro.conf.arg(name="run", metavar="RUN")]
    """The run directory or .mgolf file it was compressed with."""
    out: Annotated[Path | None, tyro.conf.arg(metavar="FILE", aliases=["-o"])] = None
    """Where to write (default: the name without .mgz, if there is none yet)."""
    tokenizer: Annotated[Path | None, tyro.conf.arg(metavar="FILE")] = None
    """SentencePiece model (default: that of the run's data)."""
    device: str = "cpu"
    """cpu or cuda: the one it was compressed on."""
    json: Json = None
    """Write the sizes to PATH, - for stdout."""

    def run(self):
        """Return the sizes."""
        restored_path(self.file, self.out)
        paths.check_readable(self.file)
        paths.run_or_artifact(self.run_)
        from harness.compression import compress
        from harness.display import report

        result = compress.decompress(
            self.file, self.run_, self.out, self.tokenizer, devices.check_device(self.device)
        )
        return result, lambda: report.compression(result)
