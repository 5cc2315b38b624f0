"""Files read within a limit."""

import os
from pathlib import Path

from reference.recipe import InputError


def read(path: Path, most: int, what: str, advice: str) -> bytes:
    """Return the bytes of a file; one larger than `most`, or that cannot be read, is an InputError.
    what: "bytes", "bytes of weights".
    """
    try:
        with open(path, "rb") as file:
            size = os.fstat(file.fileno()).st_size
            data = file.read(most + 1) if size <= most else b""  # a device has no size, and no end
        if max(size, len(data)) > most:
            raise InputError(
                f"{path}: expected at most {most:,} {what}, found"
                f" {f'{size:,}' if size > most else 'more'}; {advice}"
            )
        return data
    except OSError as error:
        raise InputError(
            f"{path}: expected a readable file, found none ({error.strerror}); check the path"
        ) from error
