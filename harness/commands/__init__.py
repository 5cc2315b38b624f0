"""The sub-commands of maskgolf, one per file: arguments, one call, one rendering.

A command NAME is a dataclass Name in NAME.py whose run() returns (JSON value, function that shows
it) and, for a check, whether it passed. Only the chosen command's file is imported, and only its
run() imports what loads torch: --help and bad arguments answer at once.
"""

import ast
from dataclasses import make_dataclass
from importlib import import_module
from keyword import iskeyword
from pathlib import Path

NAMES = (  # as --help lists them
    "demo",
    "train",
    "eval",
    "parity",
    "bench",
    "sample",
    "report",
    "watch",
    "compress",
    "decompress",
    "pack",
    "validate",
    "import",
    "export",
    "data",
)


def _module(name: str) -> str:
    return f"{name}_" if iskeyword(name) else name


def load(name: str) -> type:
    """Return the class of a command."""
    return getattr(import_module(f"harness.commands.{_module(name)}"), name.capitalize())


def listed(name: str) -> type:
    """Return a stand-in for a command that is not imported: its docstring without its arguments."""
    tree = ast.parse(Path(__file__).with_name(f"{_module(name)}.py").read_text())
    [command] = [node for node in tree.body if getattr(node, "name", "") == name.capitalize()]
    return make_dataclass(name, (), namespace={"__doc__": ast.get_docstring(command)})
