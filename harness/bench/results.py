"""Result files: what maskgolf bench --json and make bench write."""

from pathlib import Path

from reference.recipe import InputError


def read(path: Path) -> str:
    """Return the text of a result file."""
    try:
        return path.read_text()
    except OSError as error:
        raise InputError(
            f"{path}: cannot be read ({error.strerror}); name a file that maskgolf bench --json"
            " wrote"
        ) from error
