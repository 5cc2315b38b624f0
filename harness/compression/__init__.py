"""Files written with a model and a range coder, and restored byte for byte."""

from pathlib import Path
from typing import Literal

from harness import paths
from reference.recipe import InputError

CodedOrder = Literal["left-to-right", "confidence"]  # a file stores the place in this list
SUFFIX = ".mgz"


def compressed_path(file: Path, out: Path | None) -> Path:
    """Return where the compressed form of a file goes (default: beside it)."""
    return paths.output_or_default(out, file.with_name(file.name + SUFFIX), file)


def restored_path(file: Path, out: Path | None) -> Path:
    """Return where what a compressed file holds goes (default: beside it, without the suffix)."""
    if out is None and (file.suffix != SUFFIX or file.name == SUFFIX):
        raise InputError(
            f"{file}: expected a name that ends in {SUFFIX}, found {file.name!r}; name the output"
            " with --out"
        )
    return paths.output_or_default(out, file.with_suffix(""), file)
