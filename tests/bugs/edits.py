"""Edits of a function by reference. An edit names a node of the syntax tree by what it means (an
operator, a literal, a name from outside the function, a called function) and says what stands there
instead: `to` another of its kind, or the result of `by`, a Python function of the node's operands.

Layout and the names of local variables play no part. Where a function has several such nodes, nth
counts them in the order of the text, from 1, or backwards from -1. An edit that means no node, or
one of several without saying which, raises LookupError.
"""

import ast
import copy
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

PREFIX = "_bug_"  # of the names through which edited code reaches `by`
BINARY = {
    "+": ast.Add,
    "-": ast.Sub,
    "*": ast.Mult,
    "/": ast.Div,
    "//": ast.FloorDiv,
    "%": ast.Mod,
    "**": ast.Pow,
    "@": ast.MatMult,
    "<<": ast.LShift,
    ">>": ast.RShift,
    "&": ast.BitAnd,
    "|": ast.BitOr,
    "^": ast.BitXor,
}
COMPARISONS = {
    "==": ast.Eq,
    "!=": ast.NotEq,
    "<": ast.Lt,
    "<=": ast.LtE,
    ">": ast.Gt,
    ">=": ast.GtE,
    "is": ast.Is,
    "is not": ast.IsNot,
    "in": ast.In,
    "not in": ast.NotIn,
}
OPERATORS = {  # symbol: (kind of node, kind of operator)
    **{symbol: (ast.BinOp, kind) for symbol, kind in BINARY.items()},
    **{f"{symbol}=": (ast.AugAssign, kind) for symbol, kind in BINARY.items()},
    **{symbol: (ast.Compare, kind) for symbol, kind in COMPARISONS.items()},
    "-x": (ast.UnaryOp, ast.USub),
    "~x": (ast.UnaryOp, ast.Invert),
    "not x": (ast.UnaryOp, ast.Not),
    "and": (ast.BoolOp, ast.And),
    "or": (ast.BoolOp, ast.Or),
    "[]": (ast.Subscript, ast.Load),
}


@dataclass(frozen=True)
class Spot:
    """A node that an edit may mean, and where it stands."""

    place: tuple[int, int]  # line, column: puts the spots of a function in order
    node: ast.AST
    index: int = 0  # of the operator, in a chain of comparisons


@dataclass(frozen=True)
class Edit:
    """One change of a function: `spots` finds what it may mean, `change` returns what stands there
    instead, given a spot and an expression for `by`.
    """

    what: str
    spots: Callable[[ast.FunctionDef], Iterator[Spot]]
    change: Callable[[Spot, ast.expr], ast.AST]
    by: Callable | None = None
    nth: int | None = None

    def spot(self, function: ast.FunctionDef) -> Spot:
        """Return the one spot that is meant; LookupError where there is none or a choice is left."""
        spots = sorted(self.spots(function), key=lambda spot: (spot.place, spot.index))
        if not spots or (self.nth is None and len(spots) > 1):
            raise LookupError(
                f"{function.name}: expected one {self.what}, found {len(spots)}"
                + (": pass nth" if spots else "")
            )
        if self.nth is None:
            return spots[0]
        if not 1 <= abs(self.nth) <= len(spots):
            raise LookupError(
                f"{function.name}: expected {self.what} number {self.nth}, found {len(spots)}"
            )
        return spots[self.nth - 1 if self.nth > 0 else self.nth]


def operator(symbol: str, to: str | None = None, *, by=None, nth: int | None = None) -> Edit:
    """Return an edit of an operator: "+", "<=", "is not", "and", "|=", "[]" (a value that is read by
    subscript), or a prefix, written "-x", "~x", "not x".

    by(*operands) is its value instead; "and" and "or", which need not evaluate both, take `to`
    alone.
    """
    node_kind, kind = OPERATORS[symbol]
    if (to is None) == (by is None) or (by and node_kind is ast.BoolOp):
        raise TypeError(f"operator {symbol}: expected to or by, which `and` and `or` do not take")
    if to is not None and (OPERATORS[to][0] is not node_kind or node_kind is ast.Subscript):
        raise TypeError(f"operator {symbol}: expected another of its kind, found {to}")

    def spots(function):
        for node in _nodes(function):
            if isinstance(node, node_kind):
                for index, (operation, place) in enumerate(_operations(node)):
                    if isinstance(operation, kind):
                        yield Spot(place, node, index)

    def change(spot, by):
        node = spot.node
        if to is None:
            return _computed(node, by)
        if isinstance(node, ast.Compare):
            node.ops[spot.index] = OPERATORS[to][1]()
        else:
            node.op = OPERATORS[to][1]()
        return node

    return Edit(f"operator {symbol}", spots, change, by, nth)


def constant(value, to, *, nth: int | None = None) -> Edit:
    """Return an edit that puts another literal in the place of one (of the same type: 1 is neither
    True nor 1.0).
    """

    def spots(function):
        for node in _nodes(function):
            if (
                isinstance(node, ast.Constant)
                and type(node.value) is type(value)
                and node.value == value
            ):
                yield Spot(_start(node), node)

    return Edit(f"literal {value!r}", spots, lambda spot, by: ast.Constant(to), nth=nth)


def name(last: str, to: str | None = None, *, by=None, nth: int | None = None) -> Edit:
    """Return an edit of a name that is read: an attribute or enum member by its last name, or a
    global of the module. to: another name in its place; by(value): its value instead.
    """
    if (to is None) == (by is None):
        raise TypeError(f"name {last}: expected one of to and by")

    def spots(function):
        local, callees = local_names(function), _callees(function)
        for node in _nodes(function):
            if _last_name(node) == last and isinstance(node.ctx, ast.Load) and node not in callees:
                if isinstance(node, ast.Attribute):
                    yield Spot(_end(node), node)
                elif last not in local:
                    yield Spot(_start(node), node)

    def change(spot, by):
        return _call(by, [spot.node]) if to is None else _renamed(spot.node, to)

    return Edit(f"name {last}", spots, change, by, nth)


def call(last: str, to: str | None = None, *, by=None, nth: int | None = None) -> Edit:
    """Return an edit of a call, found by the last name of what is called. to: another name in its
    place; by(original, *arguments, **keywords) is called instead, with the function or bound method
    that stood there and the evaluated arguments.
    """
    if (to is None) == (by is None):
        raise TypeError(f"call of {last}: expected one of to and by")

    def spots(function):
        local = local_names(function) - parameters(function)
        for callee, node in _callees(function).items():
            if _last_name(callee) == last and (
                isinstance(callee, ast.Attribute) or last not in local
            ):
                yield Spot(_end(callee), node)

    def change(spot, by):
        node = spot.node
        if to is None:
            return ast.Call(by, [node.func, *node.args], node.keywords)
        node.func = _renamed(node.func, to)
        return node

    return Edit(f"call of {last}", spots, change, by, nth)


def whole(by: Callable) -> Edit:
    """Return an edit that calls by(original, *arguments) in place of the whole function: all of its
    parameters in their order, keywords and defaults included.
    """

    def change(spot, by):
        function = spot.node
        names = [argument.arg for argument in _arguments(function)]
        parameters = ast.arguments([], [ast.arg(name) for name in names], None, [], [], None, [])
        original = ast.FunctionDef(f"{PREFIX}original", parameters, function.body, [])
        given = [ast.Name(name, ast.Load()) for name in (original.name, *names)]
        function.body = [original, ast.Return(_call(by, given))]
        return function

    return Edit("function", lambda function: iter([Spot((0, 0), function)]), change, by)


# What `by` often is.


def left(x, y):
    """The first of two operands."""
    return x


def right(x, y):
    """The second of two operands."""
    return y


def pair(x, y):
    """Both operands, for another edit to take apart."""
    return x, y


def always(value) -> Callable:
    """A function of anything that returns value."""
    return lambda *_, **__: value


def first(original, x, *_, **__):
    """The first argument of the call that is left out."""
    return x


def receiver(method, *_, **__):
    """The object whose method is not called."""
    return method.__self__


def giving(**named) -> Callable:
    """A function that makes the call with these keywords, whatever it gave before."""
    return lambda original, *given, **keywords: original(*given, **{**keywords, **named})


def without(keyword: str) -> Callable:
    """A function that makes the call without a keyword."""
    return lambda original, *given, **keywords: original(
        *given, **{name: value for name, value in keywords.items() if name != keyword}
    )


def argument(index: int, change: Callable) -> Callable:
    """A function that makes the call with change(value) in place of a positional argument."""

    def by(original, *given, **keywords):
        given = list(given)
        given[index] = change(given[index])
        return original(*given, **keywords)

    return by


# Applying them.


def edited(
    function: ast.FunctionDef, edits: Sequence[Edit], label: str = ""
) -> tuple[ast.FunctionDef, dict[str, Callable]]:
    """Return (the function after all edits, {global name: by} that it reads). Every edit means a
    node of the unedited function; inner nodes change before those around them.
    """
    function, changes, names = copy.deepcopy(function), {}, {}
    for number, edit in enumerate(edits):
        spot = edit.spot(function)
        reserved = f"{PREFIX}{label.replace('-', '_').replace('.', '_')}_{number}"
        if edit.by is not None:
            names[reserved] = edit.by
        changes.setdefault(spot.node, []).append((edit, spot, ast.Name(reserved, ast.Load())))
    return ast.fix_missing_locations(_Changes(changes).visit(function)), names


class _Changes(ast.NodeTransformer):
    def __init__(self, changes: dict) -> None:
        self.changes = changes

    def visit(self, node):
        changed = self.generic_visit(node)
        for edit, spot, by in self.changes.get(node, ()):
            changed = edit.change(spot, by)
        return changed


# What a function consists of.


def parameters(function: ast.FunctionDef) -> set[str]:
    """Return the names of a function's parameters."""
    given = function.args
    starred = [argument for argument in (given.vararg, given.kwarg) if argument]
    named = (*given.posonlyargs, *given.args, *given.kwonlyargs, *starred)
    return {argument.arg for argument in named}


def local_names(function: ast.FunctionDef) -> set[str]:
    """Return the names that a function binds: its parameters, variables, inner functions and what
    those bind.
    """
    names = set()
    for node in ast.walk(function):
        if isinstance(node, ast.Name) and not isinstance(node.ctx, ast.Load):
            names.add(node.id)
        elif isinstance(node, ast.arg):
            names.add(node.arg)
        elif isinstance(node, ast.FunctionDef) and node is not function:
            names.add(node.name)
        elif isinstance(node, ast.ExceptHandler) and node.name:
            names.add(node.name)
        elif isinstance(node, ast.alias):
            names.add((node.asname or node.name).partition(".")[0])
    return names


def _arguments(function: ast.FunctionDef) -> list[ast.arg]:
    given = function.args
    if given.vararg or given.kwarg:
        raise LookupError(f"{function.name}: expected parameters with names, found * or **")
    return [*given.posonlyargs, *given.args, *given.kwonlyargs]


def _nodes(function: ast.FunctionDef) -> Iterator[ast.AST]:
    """Yield the nodes of a function's body that are computed: no annotations, docstrings or
    messages (the f-strings).
    """
    waiting = list(function.body)
    while waiting:
        node = waiting.pop()
        if isinstance(node, ast.JoinedStr) or (
            isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
        ):
            continue
        yield node
        for field, value in ast.iter_fields(node):
            if field not in ("annotation", "returns"):
                children = value if isinstance(value, list) else [value]
                waiting += [child for child in children if isinstance(child, ast.AST)]


def _callees(function: ast.FunctionDef) -> dict[ast.expr, ast.Call]:
    return {node.func: node for node in _nodes(function) if isinstance(node, ast.Call)}


def _operations(node: ast.AST) -> list[tuple[ast.AST, tuple[int, int]]]:
    """Return (operator, place) of each operator of a node."""
    if isinstance(node, ast.Compare):
        return list(zip(node.ops, map(_start, node.comparators), strict=True))
    if isinstance(node, ast.Subscript):
        return [(node.ctx, _end(node.value))]
    operands = {
        ast.BinOp: lambda: node.right,
        ast.BoolOp: lambda: node.values[1],
        ast.AugAssign: lambda: node.value,
        ast.UnaryOp: lambda: node,
    }
    return [(node.op, _start(operands[type(node)]()))]


def _computed(node: ast.AST, by: ast.expr) -> ast.AST:
    """Return a call of by with the operands of an operation."""
    if isinstance(node, ast.BinOp):
        return _call(by, [node.left, node.right])
    if isinstance(node, ast.UnaryOp):
        return _call(by, [node.operand])
    if isinstance(node, ast.Subscript):
        return _call(by, [node.value, _index(node.slice)])
    if isinstance(node, ast.AugAssign):
        before = copy.deepcopy(node.target)
        before.ctx = ast.Load()
        return ast.Assign([node.target], _call(by, [before, node.value]))
    if len(node.ops) > 1:
        raise LookupError(f"{ast.unparse(node)}: a chain of comparisons has no two operands")
    return _call(by, [node.left, *node.comparators])


def _index(index: ast.expr) -> ast.expr:
    """Return what stands between brackets as an expression that stands anywhere."""
    if isinstance(index, ast.Tuple):
        return ast.Tuple([_index(part) for part in index.elts], ast.Load())
    if isinstance(index, ast.Slice):
        bounds = (index.lower, index.upper, index.step)
        return _call(
            ast.Name("slice", ast.Load()), [bound or ast.Constant(None) for bound in bounds]
        )
    return index


def _call(function: ast.expr, given: list[ast.expr]) -> ast.Call:
    return ast.Call(function, given, [])


def _last_name(node: ast.AST) -> str | None:
    return getattr(node, "attr", None) or getattr(node, "id", None)


def _renamed(node: ast.expr, to: str) -> ast.expr:
    if isinstance(node, ast.Attribute):
        return ast.Attribute(node.value, to, node.ctx)
    return ast.Name(to, node.ctx)


def _start(node: ast.AST) -> tuple[int, int]:
    return node.lineno, node.col_offset


def _end(node: ast.AST) -> tuple[int, int]:
    return node.end_lineno, node.end_col_offset
