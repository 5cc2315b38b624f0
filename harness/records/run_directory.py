"""What a run's directory holds before training: whether a run may begin there, or go on. Loads no
torch, so that a wrong flag is answered at once.
"""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Literal

from fast.config import CHECKPOINT, changes
from harness.records.tracking import FILES
from reference.recipe import InputError, Recipe

Resume = bool | Literal["auto"]
# All there is of a run that was killed before it wrote its recipe
BEGUN = {"checkpoint", ".recipe.json.tmp"}
# What a run writes before its first checkpoint, temporary files aside
EARLY = BEGUN | {"recipe.json", "parity.json", "train.log", "metrics.jsonl"} | FILES


def begun(out: Path) -> dict:
    """Return what recipe.json says of a run: recipe, source, identity of the data."""
    path = out / "recipe.json"
    try:
        described = json.loads(path.read_text())
        described["recipe"]["model"]
        return described
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(
            f"{path}: expected the JSON of a run, found something else ({error}); restore the file"
        ) from error


def check(out: Path, resume: Resume, overwrite: bool, recipe: Recipe) -> bool:
    """Return whether the run in `out` goes on from its checkpoint; InputError where it cannot, or
    where what is there would be replaced unasked. Touches nothing.

    resume "auto": where there is a checkpoint; a run that was killed before its first one begins
    again.
    """
    flag = "--resume auto" if resume == "auto" else "--resume"
    if out.exists() and not out.is_dir():
        raise InputError(
            f"--out {out}: expected a directory or nothing, found a file; choose another --out"
        )
    if resume and overwrite:
        raise InputError(
            f"{flag}: expected no --overwrite beside it, found one; drop one, since a run is"
            " continued or replaced"
        )
    names = {path.name for path in out.iterdir()} if out.exists() else set()
    has_checkpoint = (out / "checkpoint" / CHECKPOINT).exists()
    if resume and has_checkpoint:
        changed = changes(begun(out)["recipe"], asdict(recipe))
        if changed:
            raise InputError(
                f"{flag}: {out} was begun with another recipe ({'; '.join(changed)}); resume with"
                " the same one or choose another --out"
            )
        return True
    if resume is True:
        raise InputError(
            f"--resume: expected a checkpoint in {out / 'checkpoint'}, found none; leave"
            " --resume out to start afresh"
        )
    is_run = (out / "recipe.json").exists()
    if not is_run and names - BEGUN:
        raise InputError(
            f"--out {out}: expected a run directory or an empty one, found other files; choose"
            " another --out"
        )
    if resume and names - EARLY:
        raise InputError(
            f"--resume auto: expected a checkpoint beside {out / min(names - EARLY)}, found none;"
            " pass --overwrite to replace that run, or another --out"
        )
    if is_run and not overwrite and not resume:
        raise InputError(
            f"--out {out}: a run is there; pass --resume to go on, --overwrite to replace it, or"
            " another --out"
        )
    return False
