"""Parity: bitwise. Atomic checkpoints: write a temporary file, fsync, rename, so that a kill at any
moment leaves the old checkpoint or the new one.
"""

import contextlib
import io
import os
from dataclasses import asdict
from pathlib import Path

import torch

from fast.config import CHECKPOINT, changes
from reference.recipe import InputError, Recipe


def is_special(path: Path) -> bool:
    """Return whether a path is a device, a pipe or a socket: without a size, perhaps without an
    end, and not to be replaced.
    """
    return path.exists() and not path.is_file() and not path.is_dir()


def write_atomic(path: Path, data: bytes) -> None:
    """Write data so that path holds the old content or the new, never a part; a failure raises
    InputError and leaves no temporary file.

    A link stays a link: its target is written. A device or a pipe is written to directly: a rename
    would replace it by a file.
    """
    path, target = Path(path), Path(os.path.realpath(path))
    # One name, so that killed writers leave one file at most.
    temporary = target.with_name(f".{target.name}.tmp")
    try:
        if is_special(path):
            path.write_bytes(data)
            return
        target.parent.mkdir(parents=True, exist_ok=True)
        with open(temporary, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, target)
        folder = os.open(target.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
    except BaseException as error:
        with contextlib.suppress(OSError):
            temporary.unlink()
        if not isinstance(error, OSError):
            raise
        raise InputError(
            f"{path}: cannot write {len(data):,} bytes: {error.strerror or error}; free space or"
            " choose another place"
        ) from error


def save(
    folder: Path, tensors: dict[str, dict[str, torch.Tensor]], progress: dict, recipe: Recipe
) -> None:
    """Write the checkpoint of a run: groups of tensors, plain progress values and the recipe they
    belong to.
    """
    buffer = io.BytesIO()
    groups = {
        group: {name: value.detach() for name, value in members.items()}
        for group, members in tensors.items()
    }
    torch.save({"tensors": groups, "progress": progress, "recipe": asdict(recipe)}, buffer)
    write_atomic(Path(folder) / CHECKPOINT, buffer.getbuffer())


def load(
    folder: Path, recipe: Recipe, device="cpu"
) -> tuple[dict[str, dict[str, torch.Tensor]], dict] | None:
    """Return (tensors, progress) of the checkpoint in folder, None where there is none; InputError
    if damaged or of another recipe.
    """
    path = Path(folder) / CHECKPOINT
    if not path.exists():
        return None
    try:
        content = torch.load(path, map_location=device, weights_only=True)
        tensors, progress, saved = content["tensors"], content["progress"], content["recipe"]
    except Exception as error:  # torch raises many kinds for a damaged file
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise InputError(
            f"{path}: not a readable checkpoint ({reason}); delete the run directory or choose"
            " another --out"
        ) from error
    changed = changes(saved, asdict(recipe))
    if changed:
        raise InputError(
            f"{path}: made by another recipe ({'; '.join(changed)}); resume with the same one or"
            " choose another --out"
        )
    return tensors, progress
