"""Which names a piece of Python asks of its module, and which it gives to it, read from its
bytecode: Python's own compiler decides what is local.
"""

import dis
import warnings
from collections.abc import Iterator
from types import CodeType

ASKS = {"LOAD_NAME", "LOAD_GLOBAL", "LOAD_FROM_DICT_OR_GLOBALS"}


def compiled(source) -> CodeType:
    """Return the code of a text or a tree, which is not run."""
    with warnings.catch_warnings(action="ignore"):
        return compile(source, "<source>", "exec", dont_inherit=True, optimize=0)


def codes(code: CodeType) -> Iterator[CodeType]:
    """Yield a code object and those of all functions, classes and comprehensions in it."""
    yield code
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from codes(constant)


def instructions(code: CodeType) -> list[dis.Instruction]:
    """Return what one code object does."""
    return [step for step in dis.get_instructions(code) if step.opname != "EXTENDED_ARG"]


def asked(code: CodeType) -> set[str]:
    """Return the names that code looks up in its module before it has bound them itself."""
    names = set()
    for part in codes(code):
        stored = set()
        for step in instructions(part):
            if step.opname == "STORE_NAME":
                stored.add(step.argval)
            elif step.opname in ASKS and step.argval not in stored:
                names.add(step.argval)
    return names


def bound(code: CodeType) -> set[str]:
    """Return the names that the code of a module gives a value."""
    return {step.argval for step in instructions(code) if step.opname == "STORE_NAME"}
