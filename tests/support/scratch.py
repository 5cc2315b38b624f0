"""A scratch copy of the code, for tests that add something to it and run the result."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
CODE = ("maskgolf", "reference", "fast", "harness", "tests", "pyproject.toml")


class Copy:
    """A copy of the code in a folder of its own."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        for name in CODE:
            source = ROOT / name
            if source.is_dir():
                skip = shutil.ignore_patterns("__pycache__", "results")
                shutil.copytree(source, folder / name, ignore=skip)
            else:
                shutil.copy(source, folder / name)

    def append(self, file: str, text: str) -> None:
        """Write text at the end of a file, made where there is none."""
        with open(self.folder / file, "a") as target:
            target.write(text)

    def insert(self, file: str, after: str, text: str) -> None:
        """Write text behind the one line of a file that reads `after`, spaces at its ends aside."""
        path = self.folder / file
        lines = path.read_text().splitlines(keepends=True)
        (number,) = [n for n, line in enumerate(lines) if line.strip() == after]
        path.write_text("".join([*lines[: number + 1], text, *lines[number + 1 :]]))

    def replace(self, file: str, old: str, new: str) -> None:
        """Write `new` in the place of the one `old` of a file."""
        path = self.folder / file
        before, after = path.read_text().split(old)
        path.write_text(before + new + after)

    def run(self, *arguments: str) -> subprocess.CompletedProcess:
        """Run Python in the copy (`-c`, `-m harness …`, `-m pytest …`); output is text."""
        environment = os.environ | {"PYTHONPATH": str(self.folder)}
        command = [sys.executable, *map(str, arguments)]
        return subprocess.run(
            command, cwd=self.folder, env=environment, capture_output=True, text=True
        )
