"""Files read within a limit."""

from pathlib import Path

from reference.recipe import InputError


def read(path: Path, most: int, what: str, advice: str) -> bytes:
    """Return the bytes of a file; one larger than `most`, or that cannot be read, is an InputError. what: "bytes", "bytes of weights"."""
    try:
        size = path.stat().st_size
        if size > most:
            raise InputError(f"{path}: expected at most {most:,} {what}, found {size:,}; {advice}")
        return path.read_bytes()
    except OSError as error:
        raise InputError(f"{path}: expected a readable file, found none ({error.strerror}); check the path") from error
