"""A command is one file in harness/commands and its name in the list there: here one is added in a
scratch copy.
"""

import subprocess
import sys

from tests.support.scratch import ROOT, Copy

FILE = '''"""maskgolf count."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from harness.commands.flags import Json


@dataclass(frozen=True)
class Count:
    """Count the words of a file.

    Example: maskgolf count notes.txt
    """

    file: tyro.conf.Positional[Annotated[Path, tyro.conf.arg(metavar="FILE")]]
    """Any text."""
    least: int = 1
    """Fewest words that will do."""
    json: Json = None
    """Write the count to PATH, - for stdout."""

    def run(self):
        """Return the count, and whether there are enough."""
        words = len(self.file.read_text().split())
        return {"words": words}, lambda: print(words, "words"), words >= self.least
'''
HELP = """
import sys
from harness import cli, commands

for arguments in ([name, "--help"] for name in commands.NAMES):
    try:
        cli.main(arguments)
    except SystemExit as end:
        assert end.code == 0, arguments
try:
    cli.main(["eval", "--draws", "many"])
except SystemExit as end:
    assert end.code == 2
assert cli.main(["train", "--preset", "none"]) == 2
assert "torch" not in sys.modules
"""


def test_a_command_is_one_file_and_its_name(tmp_path):
    copy = Copy(tmp_path)
    copy.append("harness/commands/count.py", FILE)
    copy.insert("harness/commands/__init__.py", '"report",', '    "count",\n')
    (tmp_path / "notes.txt").write_text("one two three")

    ran = copy.run("-m", "harness", "--help")
    assert "count       Count the words of a file." in ran.stdout and "Draw text" in ran.stdout
    ran = copy.run("-m", "harness", "count", "--help")
    assert "Fewest words that will do. (default: 1)" in ran.stdout, ran.stderr
    ran = copy.run("-m", "harness", "count", "notes.txt", "--json", "-")
    assert (ran.returncode, ran.stdout) == (0, '{\n  "words": 3\n}\n'), ran.stderr
    ran = copy.run("-m", "harness", "count", "notes.txt", "--least", "4")
    assert (ran.returncode, ran.stdout) == (1, "3 words\n"), ran.stderr


def test_help_and_bad_arguments_load_no_torch():
    """What computes is imported by the run() of the chosen command alone."""
    ran = subprocess.run([sys.executable, "-c", HELP], cwd=ROOT, capture_output=True, text=True)
    assert ran.returncode == 0 and ran.stdout.count("Example: maskgolf") >= 13, ran.stderr
