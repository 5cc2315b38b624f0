"""Where a program computes bits per byte: what its expressions multiply and divide by, and whether
a constant stands where bytes should be counted.
"""

import ast
import math
import re
from collections.abc import Iterator
from functools import lru_cache

from harness.validate.source import FUNCTIONS, last_name, within

RATE = re.compile(r"(^|_)(bpb|bits_per_byte|bpbyte|bits_byte)", re.IGNORECASE)
RATIO = re.compile(
    r"(bytes?|tokens?|chars?|characters)_per_(tokens?|bytes?|chars?)|bytes_token|tok(en)?_bytes_ratio",
    re.IGNORECASE,
)
# nats to bits, means, bits of a byte
PLAIN = (math.log(2), 1 / math.log(2), 1.0, 2.0, 8.0, 0.5, 0.125)
WRAPPER = re.compile(r"(^|\.)(float|int|round|tensor|item|abs)$", re.IGNORECASE)
# Methods that leave a sum what it is
METHOD = re.compile(r"to|type|float|double|item|sum|mean|detach|cpu|cuda|reshape|view|clamp\w*|abs")
DEPTH = 6  # assignments followed back
NESTED = FUNCTIONS | ast.Lambda
Values = dict[str, list[ast.AST]]  # what each name is assigned


def assignments(scope: ast.AST) -> Values:
    """Return what each name is assigned in a function or module, nested functions excluded."""
    values: Values = {}
    kinds = ast.Assign | ast.AnnAssign | ast.NamedExpr | ast.AugAssign
    for node in within(scope, NESTED):
        if isinstance(node, kinds) and node.value is not None:
            for target in getattr(node, "targets", None) or [node.target]:
                for name, value in _pairs(target, node.value):
                    values.setdefault(name, []).append(value)
    return values


def _pairs(target: ast.AST, value: ast.AST) -> Iterator[tuple[str, ast.AST]]:
    """Yield the names that an assignment sets, each with its value."""
    if isinstance(target, ast.Tuple | ast.List):
        members = getattr(value, "elts", [])
        if len(members) != len(target.elts):
            members = [value] * len(target.elts)
        for pair in zip(target.elts, members, strict=True):
            yield from _pairs(*pair)
    elif isinstance(target, ast.Name | ast.Attribute):
        yield last_name(target), value


def factors(node: ast.AST, known: Values, depth: int = 0) -> Iterator[ast.AST]:
    """Yield what an expression multiplies and divides, names followed to what they were assigned;
    sums and logarithms are factors as a whole.
    """
    parts: list[ast.AST] = []
    match node:
        case ast.BinOp(op=ast.Mult() | ast.Div() | ast.Pow()):
            parts = [node.left, node.right]
        case ast.UnaryOp():
            parts = [node.operand]
        case ast.IfExp():
            parts = [node.body, node.orelse]
        case _:
            yield node
    if isinstance(node, ast.Name | ast.Attribute) and depth < DEPTH:
        parts, depth = known.get(last_name(node), []), depth + 1
    if isinstance(node, ast.Call) and (wrapper := WRAPPER.search(ast.unparse(node.func))):
        parts = node.args[:1] + ([node.func.value] if wrapper[0] == ".item" else [])
    for part in parts:
        yield from factors(part, known, depth)


def mentions_bytes(factor: ast.AST) -> bool:
    """Return whether a factor may be a count of bytes, by its name or by what it is made of."""
    return "byte" in (getattr(factor, "attr", None) or ast.unparse(factor)).lower()


def suspicious(factor: ast.AST) -> float | None:
    """Return a factor that may stand for bytes per token or for tokens per byte, None for any
    other. Of an environment variable it is what it has where it is not set.
    """
    if isinstance(factor, ast.Call) and len(factor.args) == 2:
        if re.search(r"environ|getenv", ast.unparse(factor.func)):
            factor = factor.args[1]
    try:
        number = float(getattr(factor, "value", None))
    except (TypeError, ValueError, OverflowError):
        return None
    size = abs(number)
    plain = any(math.isclose(size, value, rel_tol=5e-3) for value in PLAIN)
    return number if not plain and (1.2 < size < 16 or 1.2 < 1 / max(size, 1e-9) < 16) else None


def rates(tree: ast.AST) -> Iterator[tuple[str, ast.AST, Values | None]]:
    """Yield (name, expression, what names were assigned) wherever bits per byte are computed, and
    (name, expression, None) where something is called bytes per token.
    """
    functions = [node for node in ast.walk(tree) if isinstance(node, FUNCTIONS)]
    outer = assignments(tree)
    for scope in [tree, *functions]:
        local = assignments(scope)
        values = [(name, value) for name in local for value in local[name]]
        yield from ((name, value, None) for name, value in values if RATIO.search(name))
        returns = [node.value for node in within(scope, NESTED) if isinstance(node, ast.Return)]
        parts = [part for value in returns if value for part in getattr(value, "elts", [value])]
        rate = RATE.search(getattr(scope, "name", ""))
        named = [(name, value) for name, value in values if RATE.search(name)]
        named += [("return", part) for part in parts if rate or "per_byte" in ast.unparse(part)]
        for name, value in named:
            if any(isinstance(part, ast.Mult | ast.Div) for part in ast.walk(value)):
                yield name, value, {**outer, **local}


@lru_cache(maxsize=16)
def constants(tree: ast.AST) -> tuple[list[str], list[str], int]:
    """Return (constants of bytes per token, rates that count no bytes, rates that do) of a
    program.
    """
    fixed, uncounted, counted = {}, {}, 0  # dicts: each once, in order
    for name, value, known in rates(tree):
        parts = list(factors(value, known or {}))
        numbers = [(number, part) for part in parts if (number := suspicious(part)) is not None]
        fixed |= {f"{number:g} in {name} (line {part.lineno})": True for number, part in numbers}
        if known is not None and not numbers:
            counts = any(map(mentions_bytes, parts))
            counted += counts
            if not counts and "log" in ast.unparse(value):
                uncounted[f"{name} (line {value.lineno})"] = True
    return list(fixed), list(uncounted), counted


def numerators(node: ast.AST, known: Values, depth: int = 0) -> Iterator[str]:
    """Yield the names that an expression is proportional to, each followed to what it was assigned;
    not what it divides by, is indexed with or passes to a function.
    """
    parts: list[ast.AST] = []
    match node:
        case ast.BinOp():
            parts = [node.left] if isinstance(node.op, ast.Div) else [node.left, node.right]
        case ast.UnaryOp():
            parts = [node.operand]
        case ast.IfExp():
            parts = [node.body, node.orelse]
        case ast.Subscript():
            parts = [node.value]
        case ast.Call(func=ast.Name(), args=[first, *_]) if WRAPPER.search(node.func.id):
            parts = [first]
        case ast.Call(func=ast.Attribute(value=inner, attr=method)):
            parts = [inner] if METHOD.fullmatch(method) else []
        case ast.Name() | ast.Attribute():
            name = last_name(node)
            yield name
            parts, depth = known.get(name, []) if depth < DEPTH else [], depth + 1
    for part in parts:
        yield from numerators(part, known, depth)


@lru_cache(maxsize=16)
def two_objectives(tree: ast.AST) -> tuple[list[int], bool]:
    """Return the lines on which functions return a mean loss beside bits per byte that are made of
    other sums, and whether any function returns two of the same sums.
    """
    lines, same = [], False
    for scope in (node for node in ast.walk(tree) if isinstance(node, FUNCTIONS)):
        known = assignments(scope)
        for node in within(scope, NESTED):
            if not (isinstance(node, ast.Return) and isinstance(node.value, ast.Tuple)):
                continue
            losses, rated = set(), set()
            for part in node.value.elts:
                names = set(numerators(part, known))
                values = [part, *(value for name in names for value in known.get(name, []))]
                if not any(isinstance(inner, ast.Div) for v in values for inner in ast.walk(v)):
                    continue
                if any(map(mentions_bytes, factors(part, known))):
                    rated |= names
                else:
                    losses |= names
            if losses and rated:
                same = same or bool(losses & rated)
                lines += [] if losses & rated else [node.lineno]
    return lines, same
