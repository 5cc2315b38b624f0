"""maskgolf parity."""

from dataclasses import dataclass
from typing import Annotated, Literal

import tyro

from harness import api
from harness.commands.flags import Json


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
        dtypes = self.dtype and (self.dtype,)
        result = api.parity(self.pieces, device=self.device, dtypes=dtypes, compiled=self.compiled)
        return result.json, result.show, result.passed
