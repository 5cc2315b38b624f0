"""The bug zoo: faults that such code has had or tempts one to write, each one edit of one function,
and the check that sees it.
"""

import functools
import importlib
import inspect
import re
import textwrap
from dataclasses import dataclass


@dataclass(frozen=True)
class Bug:
    """One planted bug: in the source of target, old (which occurs once) becomes new.

    caught_by names pieces of parity ("newton-schulz") or one test
    ("tests/pieces/test_data.py::test_..."); each of them must go red.
    """

    name: str
    target: str
    old: str
    new: str
    why: str
    caught_by: tuple[str, ...]


def target_of(bug: Bug) -> tuple[object, object]:
    """Return (the plain function that the bug edits, the module whose names it uses)."""
    parts = bug.target.split(".")
    module = importlib.import_module(".".join(parts[:2]))
    return inspect.unwrap(functools.reduce(getattr, parts[2:], module)), module


def plant(bug: Bug, monkeypatch) -> None:
    """Give the target the code of its edited source until the test ends; whoever imported the
    function before runs it too.
    """
    function, module = target_of(bug)
    source = textwrap.dedent(inspect.getsource(function))
    tokens = re.findall(r"\w+|[^\w\s]", bug.old)
    pattern = r"\s*".join(
        (r",?\s*" if token in ")]}" else "") + re.escape(token) for token in tokens
    )
    found = list(re.finditer(pattern, source))
    message = f"{bug.name}: {bug.target} holds {bug.old!r} {len(found)} times, expected once"
    assert len(found) == 1, message
    edited = source[: found[0].start()] + bug.new.strip() + source[found[0].end() :]
    made = {}
    exec(compile(edited, f"<{bug.name}>", "exec"), vars(module), made)
    monkeypatch.setattr(function, "__code__", inspect.unwrap(made[function.__name__]).__code__)
