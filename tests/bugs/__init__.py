"""The bug zoo: faults that such code has had or tempts one to write, each an edit of one function by
reference (tests/bugs/edits.py), and the check that sees it.
"""

import ast
import inspect
import pkgutil
import textwrap
from dataclasses import dataclass
from functools import cached_property
from types import CodeType, FunctionType

from tests.bugs.edits import Edit, edited


@dataclass(frozen=True)
class Bug:
    """One planted bug: the edits of the function or method that target, a dotted path, names.

    caught_by names pieces of parity ("newton-schulz") or one test
    ("tests/pieces/test_data.py::test_..."); each of them must go red.
    """

    name: str
    target: str
    edits: Edit | tuple[Edit, ...]
    why: str
    caught_by: tuple[str, ...]

    def __post_init__(self):
        """A lone edit may stand without brackets."""
        if isinstance(self.edits, Edit):
            object.__setattr__(self, "edits", (self.edits,))


def target_of(bug: Bug) -> FunctionType:
    """Return the plain function that the bug edits, without its decorators; of a property, the
    function that computes it.
    """
    target = pkgutil.resolve_name(bug.target)
    if isinstance(target, property):
        target = target.fget
    elif isinstance(target, cached_property):
        target = target.func
    return inspect.unwrap(target)


def syntax_tree(function: FunctionType) -> ast.FunctionDef:
    """Return the definition of a function, without its decorators."""
    [definition] = ast.parse(textwrap.dedent(inspect.getsource(function))).body
    definition.decorator_list = []
    return definition


def compiled(definition: ast.FunctionDef, label: str) -> CodeType:
    """Return the code of a function's body."""
    module = compile(ast.Module([definition], []), f"<{label}>", "exec", dont_inherit=True)
    [code] = [
        value
        for value in module.co_consts
        if isinstance(value, CodeType) and value.co_name == definition.name
    ]
    return code


def plant(bug: Bug, monkeypatch) -> None:
    """Give the target the code of its edited source until the test ends; whoever imported the
    function before runs it too.
    """
    function = target_of(bug)
    definition, names = edited(syntax_tree(function), bug.edits, bug.name)
    for name, by in names.items():
        monkeypatch.setitem(function.__globals__, name, by)
    monkeypatch.setattr(function, "__code__", compiled(definition, bug.name))
