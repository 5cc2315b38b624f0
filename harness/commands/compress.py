"""maskgolf compress."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from harness import devices, paths
from harness.commands.flags import Json
from harness.compression import CodedOrder, compressed_path


@dataclass(frozen=True)
class Compress:
    """Write a file with the model and a range coder along an evaluation order; decompress restores
    it byte for byte.

    Example: maskgolf compress notes.txt --run runs/demo --order confidence
    """

    # Any file; what is not text is stored beside the model's code.
    file: tyro.conf.Positional[Annotated[Path, tyro.conf.arg(metavar="FILE")]]
    # Run directory or .mgolf file.
    run_: Annotated[Path, tyro.conf.arg(name="run", metavar="RUN")]
    # Where to write (default FILE.mgz, if there is none yet).
    out: Annotated[Path | None, tyro.conf.arg(metavar="FILE.mgz", aliases=["-o"])] = None
    # Evaluation order; confidence takes a little longer.
    order: CodedOrder = "left-to-right"
    # SentencePiece model (default: that of the run's data).
    tokenizer: Annotated[Path | None, tyro.conf.arg(metavar="FILE")] = None
    # Decompress before writing, and write only if that gives the file back; takes twice as long.
    verify: bool = False
    # cpu or cuda.
    device: str = "cpu"
    # Write sizes and bits to PATH, - for stdout.
    json: Json = None

    def run(self):
        """Return sizes and bits."""
        compressed_path(self.file, self.out)
        paths.check_readable(self.file)
        paths.run_or_artifact(self.run_)
        from harness.compression import compress
        from harness.display import report

        device = devices.check_device(self.device)
        result = compress.compress(
            self.file, self.run_, self.out, self.order, self.tokenizer, device, self.verify
        )
        return result, lambda: report.compression(result)
