"""Parity: bitwise. Atomic checkpoints: write beside, fsync, rename, so that a kill at any moment
leaves the old one or the new one.
"""

import contextlib
import io
import os
from dataclasses import asdict
from pathlib import Path

import torch

from reference.recipe import InputError, Recipe

NAME = "latest.pt"
RESUMABLE = {
    "training.checkpoint_every",
    "training.validate_every",
    "training.log_every",
}  # may change between sessions of one run


def is_special(path: Path) -> bool:
    """Return whether a device, a pipe or a socket lies there: it has no size, may have no end, and
    is not replaced.
    """
    return path.exists() and not path.is_file() and not path.is_dir()


def write_atomic(path: Path, data: bytes) -> None:
    """Write data so that path holds the old content or the new, never a part; a failure raises
    InputError and leaves no litter.

    A link stays one: its target is written. A device or a pipe takes the data as it is: renaming
    would put a file in its place.
    """
    path, place = Path(path), Path(os.path.realpath(path))
    beside = place.with_name(
        f".{place.name}.tmp"
    )  # one name, so that a killed writer leaves one file at most
    try:
        if is_special(path):
            path.write_bytes(data)
            return
        place.parent.mkdir(parents=True, exist_ok=True)
        with open(beside, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(beside, place)
        folder = os.open(place.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
    except BaseException as error:
        with contextlib.suppress(OSError):
            beside.unlink()
        if not isinstance(error, OSError):
            raise
        raise InputError(
            f"{path}: cannot write {len(data):,} bytes: {error.strerror or error}; free space or"
            " choose another place"
        ) from error


def _flat(recipe: dict, prefix: str = "") -> dict:
    out = {}
    for name, value in recipe.items():
        out |= (
            _flat(value, f"{prefix}{name}.") if isinstance(value, dict) else {prefix + name: value}
        )
    return out


def differences(one: dict, other: dict) -> list[str]:
    """Return "field: a, now b" for every recipe field in which two recipes (as dicts) differ."""
    a, b = _flat(one), _flat(other)
    return [
        f"{name}: {a.get(name)}, now {b.get(name)}"
        for name in sorted(a | b)
        if a.get(name) != b.get(name)
    ]


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
    write_atomic(Path(folder) / NAME, buffer.getbuffer())


def load(
    folder: Path, recipe: Recipe, device="cpu"
) -> tuple[dict[str, dict[str, torch.Tensor]], dict] | None:
    """Return (tensors, progress) of the checkpoint in folder, None where there is none; InputError
    if damaged or of another recipe.
    """
    path = Path(folder) / NAME
    if not path.exists():
        return None
    try:
        content = torch.load(path, map_location=device, weights_only=True)
        tensors, progress, made_by = content["tensors"], content["progress"], content["recipe"]
    except Exception as error:  # torch raises many kinds for a damaged file
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise InputError(
            f"{path}: not a readable checkpoint ({reason}); delete the run directory or choose"
            " another --out"
        ) from error
    changed = [
        line for line in differences(made_by, asdict(recipe)) if line.split(":")[0] not in RESUMABLE
    ]
    if changed:
        raise InputError(
            f"{path}: made by another recipe ({'; '.join(changed)}); resume with the same one or"
            " choose another --out"
        )
    return tensors, progress
