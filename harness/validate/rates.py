"""Where a program computes bits per byte: what its expressions multiply and divide by, and whether
a constant stands where bytes should be counted.
"""

import ast
import math
import re
from collections.abc import Iterator
from typing import NamedTuple

from harness.validate.source import FUNCTIONS

RATE = re.compile(r"(^|_)(bpb|bits_per_byte|bpbyte|bits_byte)", re.IGNORECASE)
RATIO = re.compile(
    r"(bytes?|tokens?|chars?|characters)_per_(tokens?|bytes?|chars?)|bytes_token|tok(en)?_bytes_ratio",
    re.IGNORECASE,
)
# nats to bits, means, bits of a byte
PLAIN = (math.log(2), 1 / math.log(2), 1.0, 2.0, 8.0, 0.5, 0.125)
WRAPPERS = ("float", "int", "round", "tensor", "item", "abs")
DEPTH = 6  # assignments followed back
Values = dict[str, list[ast.AST]]  # what each name is assigned


class Factors(NamedTuple):
    """The numbers that an expression multiplies or divides by, with their lines, and whether it
    mentions a count of bytes.
    """

    numbers: list[tuple[float, int]]
    counts_bytes: bool


def within(scope: ast.AST, *inner: type) -> Iterator[ast.AST]:
    """Yield the nodes under a scope, what lies in nodes of some kinds left out."""
    waiting = list(ast.iter_child_nodes(scope))
    while waiting:
        node = waiting.pop()
        if not isinstance(node, inner):
            yield node
            waiting += ast.iter_child_nodes(node)


def assignments(scope: ast.AST) -> Values:
    """Return what each name is assigned in a function or module, nested functions excluded."""
    values: Values = {}
    for node in within(scope, ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda):
        targets = getattr(node, "targets", None) or [getattr(node, "target", None)]
        kinds = ast.Assign | ast.AnnAssign | ast.NamedExpr | ast.AugAssign
        if isinstance(node, kinds) and node.value is not None:
            for target in targets:
                for name, value in _pairs(target, node.value):
                    values.setdefault(name, []).append(value)
    return values


def _pairs(target: ast.AST, value: ast.AST) -> Iterator[tuple[str, ast.AST]]:
    if isinstance(target, ast.Name):
        yield target.id, value
    elif isinstance(target, ast.Attribute):
        yield target.attr, value
    elif isinstance(target, ast.Tuple | ast.List):
        members = value.elts if isinstance(value, ast.Tuple | ast.List) else []
        if len(members) != len(target.elts):
            members = [value] * len(target.elts)
        for part, member in zip(target.elts, members, strict=True):
            yield from _pairs(part, member)


def factors(node: ast.AST, known: Values, depth: int = 0) -> Factors:
    """Return the factors of an expression, names replaced by what they were assigned; sums and
    logarithms hold no factors.
    """
    parts, numbers, deeper, mention = [], [], depth, False
    match node:
        case ast.BinOp(op=ast.Mult() | ast.Div() | ast.Pow()):
            parts = [node.left, node.right]
        case ast.UnaryOp():
            parts = [node.operand]
        case ast.IfExp():
            parts = [node.body, node.orelse]
        case ast.Constant():
            if type(node.value) in (int, float):
                numbers = [(float(node.value), node.lineno)]
        case ast.Name(id=name) | ast.Attribute(attr=name):
            mention, deeper = "byte" in name.lower(), depth + 1
            parts = known.get(name, []) if depth < DEPTH else []
        case ast.Call():
            mention = "byte" in ast.unparse(node).lower()
            parts = _arguments(node)
            numbers = _default(node)
        case _:
            mention = "byte" in ast.unparse(node).lower()
    inner = [factors(part, known, deeper) for part in parts]
    numbers = numbers + [number for part in inner for number in part.numbers]
    return Factors(numbers, mention or any(part.counts_bytes for part in inner))


def _arguments(call: ast.Call) -> list[ast.AST]:
    """Return what a call passes on as a number: float(x), x.item()."""
    name = ast.unparse(call.func).lower().rpartition(".")[2]
    if name not in WRAPPERS:
        return []
    method = name == "item" and isinstance(call.func, ast.Attribute)
    return call.args[:1] + ([call.func.value] if method else [])


def _default(call: ast.Call) -> list[tuple[float, int]]:
    """Return the number that an environment variable has where it is not set."""
    named = re.search(r"environ|getenv", ast.unparse(call.func).lower())
    if named and len(call.args) == 2 and isinstance(call.args[1], ast.Constant):
        try:
            return [(float(call.args[1].value), call.lineno)]
        except (TypeError, ValueError):
            pass
    return []


def suspicious(number: float) -> bool:
    """Return whether a factor may stand for bytes per token, or for tokens per byte."""
    size = abs(number)
    size = 1 / size if 0 < size < 1 else size
    plain = any(math.isclose(abs(number), value, rel_tol=5e-3) for value in PLAIN)
    return 1.2 < size < 16 and not plain


def _arithmetic(node: ast.AST) -> bool:
    operations = [part.op for part in ast.walk(node) if isinstance(part, ast.BinOp)]
    return any(isinstance(operator, ast.Mult | ast.Div) for operator in operations)


def rates(tree: ast.AST) -> Iterator[tuple[str, ast.AST, Values | None]]:
    """Yield (name, expression, what names were assigned) wherever bits per byte are computed, and
    (name, expression, None) where something is called bytes per token.
    """
    nodes = list(ast.walk(tree))
    classes = [node for node in nodes if isinstance(node, ast.ClassDef)]
    functions = [node for node in nodes if isinstance(node, FUNCTIONS)]
    outer: Values = {}
    for scope in [*classes, tree]:
        outer |= assignments(scope)
    for scope in [tree, *functions, *classes]:
        local = assignments(scope)
        values = [(name, value) for name in local for value in local[name]]
        yield from ((name, value, None) for name, value in values if RATIO.search(name))
        named = [(name, value) for name, value in values if RATE.search(name)]
        rate = RATE.search(getattr(scope, "name", ""))
        for node in within(scope, ast.FunctionDef, ast.AsyncFunctionDef):
            if isinstance(node, ast.Return) and node.value is not None:
                parts = node.value.elts if isinstance(node.value, ast.Tuple) else [node.value]
                named += [
                    ("return", part) for part in parts if rate or "per_byte" in ast.unparse(part)
                ]
        for name, value in named if scope not in classes else ():
            if _arithmetic(value):
                yield name, value, {**outer, **local}


def constants(tree: ast.AST) -> tuple[list[str], list[str], int]:
    """Return (constants of bytes per token, rates that count no bytes, rates that do) of a
    program.
    """
    fixed, uncounted, counted = {}, {}, 0  # dicts: each once, in order
    for name, value, known in rates(tree):
        numbers, counts_bytes = factors(value, known or {})
        guilty = [(number, line) for number, line in numbers if suspicious(number)]
        fixed |= {f"{number:g} in {name} (line {line})": True for number, line in guilty}
        if known is not None and not guilty:
            counted += counts_bytes
            if not counts_bytes and "log" in ast.unparse(value):
                uncounted[f"{name} (line {value.lineno})"] = True
    return list(fixed), list(uncounted), counted
