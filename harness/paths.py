"""Whether what a person named is there and can be written: asked before anything is loaded, and
again by what uses it. Each message exists once, here.
"""

import os
from pathlib import Path

from reference.recipe import InputError

# Words for unreadable()
PARTIAL = ("a partial evaluation", "name a file that maskgolf eval --partial wrote")


def kind(path: Path) -> str:
    """Return what is at a path: "a folder", "a file" or "nothing"."""
    if path.is_dir():
        return "a folder"
    return "a file" if path.exists() else "nothing"


def unreadable(
    path: Path, error: OSError, expected: str = "a readable file", advice: str = "check the path"
) -> InputError:
    """Return the error of a file that cannot be read."""
    return InputError(f"{path}: expected {expected}, found none ({error.strerror}); {advice}")


def check_readable(path: Path, *words: str) -> None:
    """Raise InputError, in the words that unreadable() takes, unless a file can be read."""
    try:
        if path.is_fifo():
            return  # opened, it would wait for whoever writes
        with open(path, "rb"):
            pass
    except OSError as error:
        raise unreadable(path, error, *words) from error


def check_output(flag: str, path: Path) -> None:
    """Raise InputError unless a file can be written to path: no folder is made for it."""
    problem = output_problem(path)
    if problem:
        raise InputError(
            f"{flag} {path}: expected a file to write, found {problem}; choose another path"
        )


def output_problem(path: Path) -> str | None:
    """Return why no file can be written to path, None where one can. A link's target counts; a
    device or a pipe is written to directly.
    """
    target = Path(os.path.realpath(path))
    try:
        if target.is_dir():
            return "a folder"
        if not target.parent.is_dir():
            return f"no folder {path.parent}"
        target.exists()  # raises where the name is too long
        written = target if target.exists() and not target.is_file() else target.parent
    except OSError as error:
        return f"none that is possible ({error.strerror})"
    return None if os.access(written, os.W_OK) else f"no right to write to {written}"


def check_run_directory(run: Path) -> None:
    """Raise InputError where there is no folder."""
    if not run.is_dir():
        raise InputError(
            f"{run}: expected a run directory, found {kind(run)}; name one, such as runs/demo"
        )


def run_or_artifact(run: Path) -> tuple[Path, Path | None]:
    """Return (artifact file, recipe.json) of a finished run's directory, or (the file, None) of an
    artifact; InputError if neither.
    """
    if run.is_dir():
        described, file = run / "recipe.json", run / "artifact.mgolf"
        if not described.exists() or not file.exists():
            missing = file.name if described.exists() else described.name
            raise InputError(
                f"{run}: expected a finished run, "
                f"found no {missing}; train it to the end (maskgolf train --resume --out {run})"
            )
        return file, described
    if not run.exists():
        raise InputError(
            f"{run}: expected a run directory or an artifact file, found nothing; check the path"
            " (maskgolf demo makes runs/demo)"
        )
    return run, None


def submission_names(folder: Path) -> list[str]:
    """Return the sorted names in a submission folder; InputError where there is none."""
    try:
        return sorted(os.listdir(folder))
    except OSError as error:
        kinds = {NotADirectoryError: "a file", FileNotFoundError: "nothing"}
        found = kinds.get(type(error), f"one that does not open ({error.strerror})")
        raise InputError(
            f"{folder}: expected a submission folder, found {found}; name the folder that"
            " holds submission.json"
        ) from error


def output_or_default(out: Path | None, default: Path, file: Path) -> Path:
    """Return `out`, which may be replaced, or the default, which may not: what is written from
    `file`, and never in its place.
    """
    path = out or default
    if path.is_dir() or (path.exists() and file.exists() and path.samefile(file)):
        problem = "a folder" if path.is_dir() else "the input itself"
        raise InputError(
            f"{path}: expected a file to write, found {problem}; name another with --out"
        )
    if out is None and path.exists():
        raise InputError(
            f"{path}: expected no file of that name yet, found one; name the output with --out,"
            " which replaces it"
        )
    return path
