"""maskgolf parity."""

from dataclasses import dataclass
from typing import Annotated, Literal

import tyro

from harness import pieces
from harness.commands.flags import Json, check_device


@dataclass(frozen=True)
class Parity:
    """Compare the fast half with the specification, piece by piece; exit 1 and print the input that
    breaks it where they differ.

    Example: maskgolf parity attention quantize --device cuda --compiled --json -
    """

    pieces: tyro.conf.Positional[Annotated[tuple[str, ...], tyro.conf.arg(metavar="PIECE")]] = ()
    """Pieces, or the first word of several (chain, quantize); none means all."""
    device: str = "cpu"
    """cpu or cuda."""
    dtype: Literal["float32", "bfloat16", "float16"] | None = None
    """Compute dtype of the numbers (default: float32 and bfloat16, those of the presets)."""
    compiled: bool = False
    """Also run what the training step compiles through torch.compile."""
    json: Json = None
    """Write the rows to PATH, - for stdout."""

    def run(self):
        """Return the rows, and whether all of them passed."""
        pieces.select(self.pieces)
        from harness import parity, report
        from harness.progress import bar

        device = check_device(self.device)
        dtypes = (self.dtype,) if self.dtype else parity.PRODUCTION
        with bar("parity", "pieces") as progress:

            def show(done: int, total: int, new: list) -> None:
                progress.update(done, total, new[0].piece)

            rows = parity.parity(self.pieces, device, dtypes, self.compiled, show)
        result = [row.plain() for row in rows]
        return result, lambda: report.parity(result), all(row.passed for row in rows)
