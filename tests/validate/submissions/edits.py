"""What defects are made of: edits of a submission folder that keep everything else consistent."""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple


class Defect(NamedTuple):
    """One thing wrong with a folder: plant(folder) makes it so and may return where the folder is
    now.
    """

    name: str
    check: str  # must fail
    plant: Callable[[Path], Path | None]
    also: tuple[str, ...] = ()  # checks that see the same fact by construction


def claims(folder: Path) -> dict:
    """Return submission.json."""
    return json.loads((folder / "submission.json").read_text())


def state(folder: Path, **fields) -> None:
    """Set fields of submission.json; None of a field that is Ellipsis takes it out."""
    content = claims(folder)
    for name, value in fields.items():
        content.pop(name) if value is ... else content.update({name: value})
    (folder / "submission.json").write_text(json.dumps(content, indent=2))


def state_seed(folder: Path, seed: str, **fields) -> None:
    """Set fields of one seed's results."""
    results = claims(folder)["seed_results"]
    results[seed] |= fields
    state(folder, seed_results=results)


def logs(folder: Path) -> list[Path]:
    """Return the training logs, first seed first."""
    return sorted(folder.glob("train_seed*.log"))


def replace(path: Path, pattern: str, new: str, count: int = 0) -> None:
    """Replace a pattern in a text file; it must occur."""
    text, found = re.subn(pattern, new, path.read_text(), count=count, flags=re.MULTILINE)
    assert found, f"{path.name}: no {pattern!r}"
    path.write_text(text)


def in_logs(folder: Path, pattern: str, new: str) -> None:
    """Replace a pattern in every log."""
    for path in logs(folder):
        replace(path, pattern, new)


def append_code(folder: Path, code: str) -> None:
    """Add code to train_gpt.py, its bytes to the JSON and to the logs: nothing but the code
    is new.
    """
    script = folder / "train_gpt.py"
    script.write_text(script.read_text() + code)
    resize(folder, len(code.encode()))


def edit_code(folder: Path, old: str, new: str) -> None:
    """Replace a text that occurs once in train_gpt.py, and the bytes of code wherever they are
    stated.
    """
    script = folder / "train_gpt.py"
    text = script.read_text()
    assert text.count(old) == 1, old
    script.write_text(text.replace(old, new))
    resize(folder, len(new.encode()) - len(old.encode()))


def resize(folder: Path, more: int) -> None:
    """Add bytes of code to what the JSON and the logs state."""
    content = claims(folder)
    results = {
        seed: fields | {"bytes_total": fields["bytes_total"] + more}
        for seed, fields in content["seed_results"].items()
    }
    state(
        folder,
        bytes_code=content["bytes_code"] + more,
        bytes_total=content["bytes_total"] + more,
        seed_results=results,
    )
    for path in logs(folder):
        grown = lambda found: f"{found[1]}{int(found[2]) + more} bytes"  # noqa: E731
        path.write_text(
            re.sub(
                r"^((?:Code size|Total submission size[^:]*): )(\d+) bytes",
                grown,
                path.read_text(),
                flags=re.MULTILINE,
            )
        )
