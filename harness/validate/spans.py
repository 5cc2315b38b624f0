"""Which values an expression of a program can take: a point, a grid or an interval, read off the
syntax tree. Nothing is executed.
"""

import ast
import math
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import lru_cache
from typing import NamedTuple

from harness.validate.source import FUNCTIONS, last_name, within

DEPTH = 24  # expressions and names followed
MOST_POINTS = 4_096
SAMPLES = 65  # of an interval, for functions that need not be monotonic
DRAWS = frozenset("rand rand_like random uniform uniform_ random_sample rand_n".split())
SAME = frozenset(
    "float int abs tensor array asarray as_tensor FloatTensor list tuple sorted reversed set to"
    " item tolist double half expand expand_as view reshape unsqueeze squeeze clone repeat cpu cuda"
    " numpy detach contiguous astype type flatten ravel iter copy flip bfloat16 repeat_interleave"
    " broadcast_to type_as device".split()
)
MATHS: dict[str, Callable[[float], float]] = {
    name: getattr(math, name) for name in "exp cos sin tan log sqrt log1p expm1 tanh".split()
} | {"sigmoid": lambda x: 1 / (1 + math.exp(-x)), "square": lambda x: x * x}
OPERATIONS: dict[type, Callable[[float, float], float]] = {
    ast.Add: lambda a, b: a + b,
    ast.Sub: lambda a, b: a - b,
    ast.Mult: lambda a, b: a * b,
    ast.Div: lambda a, b: a / b,
    ast.FloorDiv: lambda a, b: a // b,
    ast.Pow: lambda a, b: a**b,
}


class Span(NamedTuple):
    """Values from low to high: the points in their order where they are countable, None for all
    values between.
    """

    low: float
    high: float
    points: tuple[float, ...] | None = None

    @property
    def value(self) -> float | None:
        """The only value, None where there are several."""
        return self.low if self.points is not None and self.low == self.high else None


def of_points(points: list[float]) -> Span | None:
    """Return the span of some numbers, None where there are none or too many."""
    if not points or len(points) > MOST_POINTS or not all(map(math.isfinite, points)):
        return None
    return Span(min(points), max(points), tuple(points))


def union(spans: list[Span]) -> Span | None:
    """Return the values of any of these spans."""
    if not spans:
        return None
    if all(span.points is not None for span in spans):
        return of_points([point for span in spans for point in span.points])
    return Span(min(span.low for span in spans), max(span.high for span in spans))


def ends(span: Span) -> tuple[float, ...]:
    """Return the points of a span, its two ends where it has no points."""
    return span.points or (span.low, span.high)


@dataclass
class Bindings:
    """What the names of one function stand for: (value, which member of the tuple it is)."""

    names: dict[str, list[tuple[ast.AST, int | None]]] = field(default_factory=dict)
    changed: set[str] = field(default_factory=set)  # in place, by +=

    def bind(self, target: ast.AST, value: ast.AST, member: int | None = None) -> None:
        """Note an assignment or what a loop runs over."""
        if isinstance(target, ast.Tuple | ast.List):
            alike = isinstance(value, ast.Tuple | ast.List) and len(value.elts) == len(target.elts)
            for i, part in enumerate(target.elts):
                self.bind(part, value.elts[i] if alike else value, None if alike else i)
        elif isinstance(target, ast.Name | ast.Attribute):
            self.names.setdefault(last_name(target), []).append((value, member))


def bindings(scope: ast.AST) -> Bindings:
    """Return what the names in a function or module stand for, functions inside it left out."""
    result = Bindings()
    for node in within(scope):
        match node:
            case ast.Assign():
                for target in node.targets:
                    result.bind(target, node.value)
            case ast.AnnAssign(value=ast.AST()) | ast.NamedExpr():
                result.bind(node.target, node.value)
            case ast.For() | ast.comprehension():
                result.bind(node.target, node.iter)
            case ast.AugAssign():
                result.changed.add(last_name(node.target))
    return result


@lru_cache(maxsize=16)
def program(tree: ast.Module) -> "Program":
    """Return what is known of a source, worked out once."""
    return Program(tree)


class Program:
    """One source: its functions, and the names that hold everywhere in it."""

    def __init__(self, tree: ast.Module):
        """tree: of the whole source."""
        self.tree = tree
        nodes = list(ast.walk(tree))
        self.functions = {node.name: node for node in nodes if isinstance(node, FUNCTIONS)}
        self.outer = bindings(tree)  # of classes too
        self.around = {  # the function that a function is defined in
            inner: outer
            for outer in nodes[::-1]
            if isinstance(outer, FUNCTIONS)
            for inner in ast.walk(outer)
            if isinstance(inner, FUNCTIONS) and inner is not outer
        }
        for node in nodes:
            if isinstance(node, ast.Call) and last_name(node.func) == "add_argument":
                self._argument(node)
        self._kept: dict[ast.AST, Bindings] = {}

    def _argument(self, call: ast.Call) -> None:
        """Note the default of a command-line argument."""
        names = [part.value for part in call.args if isinstance(part, ast.Constant)]
        defaults = [key.value for key in call.keywords if key.arg == "default"]
        for name in names:
            if isinstance(name, str) and defaults:
                name = name.lstrip("-").replace("-", "_")
                self.outer.names.setdefault(name, []).append((defaults[0], None))

    def bindings(self, scope: ast.AST) -> Bindings:
        """Return what the names of a function stand for."""
        if scope not in self._kept:
            self._kept[scope] = bindings(scope)
        return self._kept[scope]


class Frame:
    """A function that is called: its names, and where its arguments come from."""

    def __init__(self, program: Program, scope: ast.AST, call=None, caller: "Frame | None" = None):
        """scope: function or module; call: of it, in the caller."""
        self.program, self.scope, self.caller = program, scope, caller
        self.given: dict[str, ast.AST] = {}
        self.defaults: dict[str, ast.AST] = {}
        self.parameters: set[str] = set()
        if isinstance(scope, FUNCTIONS):
            self._take(scope.args, call)

    def _take(self, arguments: ast.arguments, call: ast.Call | None) -> None:
        """Bind parameters to the call's arguments, else to their defaults."""
        parameters = [*arguments.posonlyargs, *arguments.args]
        self.defaults |= dict(
            zip([p.arg for p in parameters][::-1], arguments.defaults[::-1], strict=False)
        )
        self.defaults |= {
            p.arg: value
            for p, value in zip(arguments.kwonlyargs, arguments.kw_defaults, strict=True)
            if value is not None
        }
        self.parameters = {p.arg for p in [*parameters, *arguments.kwonlyargs]}
        if call is not None:
            names = [p.arg for p in parameters]
            method = names[:1] in (["self"], ["cls"]) and isinstance(call.func, ast.Attribute)
            self.given |= dict(zip(names[method:], call.args, strict=False))
            self.given |= {key.arg: key.value for key in call.keywords if key.arg}

    @property
    def depth(self) -> int:
        """How many calls deep this is."""
        return 0 if self.caller is None else 1 + self.caller.depth

    def meanings(self, name: str) -> list[tuple["Frame", ast.AST, int | None]] | None:
        """Return what a name may stand for: (where, value, which member of it); None where it is
        changed in place or nothing says so.
        """
        mine = self.program.bindings(self.scope)
        if name in mine.changed:
            return None
        if name in mine.names:
            return [(self, value, member) for value, member in mine.names[name]]
        if name in self.given:
            return [(self.caller or self, self.given[name], None)]
        if name in self.defaults:
            return [(self, self.defaults[name], None)]
        if name in self.parameters:
            return None
        around = self.program.around.get(self.scope)
        if around is not None:
            called = self.caller is not None and self.caller.scope is around
            frame = self.caller if called else Frame(self.program, around)
            return frame.meanings(name)
        outer = self.program.outer
        rows = outer.names.get(name) if name not in outer.changed else None
        return rows and [(self, value, member) for value, member in rows]

    def span(self, node: ast.AST, depth: int = 0, seen: frozenset = frozenset()) -> Span | None:
        """Return the values that an expression can take, None where that cannot be followed."""
        if depth > DEPTH:
            return None

        def again(part: ast.AST, frame: "Frame" = self, also: frozenset = seen) -> Span | None:
            return frame.span(part, depth + 1, also)

        match node:
            case ast.Constant(value=bool() | None):
                return None
            case ast.Constant():
                try:
                    return of_points([float(node.value)])
                except (TypeError, ValueError, OverflowError):
                    return None
            case ast.List() | ast.Tuple() | ast.Set():
                parts = [again(part) for part in node.elts[:MOST_POINTS]]
                return union(parts) if all(parts) else None
            case ast.ListComp() | ast.GeneratorExp():
                return again(node.elt)
            case ast.UnaryOp(op=ast.USub()):
                return _mapped(lambda x: -x, again(node.operand))
            case ast.BinOp() if type(node.op) in OPERATIONS:
                return _combined(OPERATIONS[type(node.op)], again(node.left), again(node.right))
            case ast.IfExp():
                parts = [part for part in map(again, (node.body, node.orelse)) if part]
                return union(parts)
            case ast.Subscript():
                return self._item(node, again)
            case ast.Name() | ast.Attribute():
                return self._named(node, again, seen)
            case ast.Call():
                return self._called(node, again, seen, depth)
        return None

    def _named(self, node: ast.AST, again: Callable, seen: frozenset) -> Span | None:
        name = last_name(node)
        if name in ("pi", "e", "inf"):
            return of_points([getattr(math, name)])
        rows, spans = self.meanings(name), []
        for frame, value, member in rows or ():
            if (id(frame), id(value)) in seen:
                continue
            also = seen | {(id(frame), id(value))}
            spans.append(_member(frame, value, member, again, also))
        return union(spans) if spans and all(spans) else None

    def _item(self, node: ast.Subscript, again: Callable) -> Span | None:
        whole = again(node.value)
        index = node.slice.value if isinstance(node.slice, ast.Constant) else None
        if whole and whole.points and isinstance(index, int) and not isinstance(index, bool):
            inside = -len(whole.points) <= index < len(whole.points)
            return of_points([whole.points[index]]) if inside else whole
        return whole

    def _called(self, node: ast.Call, again: Callable, seen: frozenset, depth: int) -> Span | None:
        name, arguments = last_name(node.func), node.args
        inner = node.func.value if isinstance(node.func, ast.Attribute) else None
        keys = {key.arg: key.value for key in node.keywords}
        if name in ("get", "getenv") and len(arguments) == 2:
            return again(arguments[1])
        if name in DRAWS:
            low, high = _two(arguments, keys, again) if name.startswith("uniform") else (None, None)
            return Span(low.low, high.high) if low and high else Span(0.0, 1.0)
        if name == "linspace":
            return _linspace([again(part) for part in arguments], keys, again)
        if name in ("arange", "range"):
            return _arange([again(part) for part in arguments[:3]])
        if name in ("clamp", "clip", "clamp_", "clip_", "clamp_min", "clamp_max"):
            return _clamped(node, again)
        if name in ("full", "full_like", "new_full") and len(arguments) > 1:
            return again(arguments[1])
        if name in ("ones", "ones_like", "zeros", "zeros_like"):
            return of_points([float(name.startswith("ones"))])
        if name in ("min", "max", "minimum", "maximum", "cat", "concatenate", "stack", "hstack"):
            return union([part for part in map(again, arguments) if part])
        if name == "where" and len(arguments) == 3:
            parts = [again(part) for part in arguments[1:]]
            return union(parts) if all(parts) else None
        if name in MATHS:
            operand = arguments[0] if arguments else inner
            return _mapped(MATHS[name], again(operand)) if operand is not None else None
        if name in SAME:
            module = isinstance(inner, ast.Name) and self.meanings(inner.id) is None
            operand = arguments[0] if arguments and (inner is None or module) else inner
            return again(operand) if operand is not None else None
        function = self.program.functions.get(name)
        if function is None or self.depth > 6:
            return None
        return self.returned(node, function, None, again, seen)

    def returned(
        self, call: ast.Call, function, member: int | None, again: Callable, seen: frozenset
    ) -> Span | None:
        """Return the values of a function's result, or of one member of the tuple it returns."""
        frame, spans = Frame(self.program, function, call, self), []
        for node in within(function):
            if isinstance(node, ast.Return) and node.value is not None:
                value = node.value
                if member is not None:
                    members = getattr(value, "elts", [])
                    value = members[member] if member < len(members) else None
                spans.append(again(value, frame, seen) if value is not None else None)
        return union(spans) if spans and all(spans) else None


def _member(
    frame: Frame, value: ast.AST, member: int | None, again: Callable, seen: frozenset
) -> Span | None:
    """Return the values of one member of what is assigned or run over: of zip, enumerate, a
    function's tuple.
    """
    if isinstance(value, ast.Call):
        name, arguments = last_name(value.func), value.args
        if name == "zip" and member is not None and member < len(arguments):
            return again(arguments[member], frame, seen)
        if name == "enumerate" and arguments:
            return again(arguments[0], frame, seen) if member == 1 else None
        function = frame.program.functions.get(name)
        if member is not None:
            known = function is not None and frame.depth <= 6
            return frame.returned(value, function, member, again, seen) if known else None
    return again(value, frame, seen) if member is None else None


def _mapped(function: Callable, span: Span | None) -> Span | None:
    """Return the values of a function over a span."""
    if span is None:
        return None
    step = (span.high - span.low) / (SAMPLES - 1)
    points = span.points or [span.low + i * step for i in range(SAMPLES)]
    try:
        values = [function(point) for point in points]
    except (ValueError, OverflowError, ZeroDivisionError):
        return None
    result = of_points(values)
    return result if span.points or result is None else Span(result.low, result.high)


def _combined(operation: Callable, left: Span | None, right: Span | None) -> Span | None:
    """Return the values of an operation on two spans."""
    if left is None or right is None:
        return None
    try:
        alone = 1 in (len(ends(left)), len(ends(right)))
        pair = [span if alone else Span(span.low, span.high) for span in (left, right)]
        values = [operation(a, b) for a in ends(pair[0]) for b in ends(pair[1])]
        values = [value for value in values if isinstance(value, float)]
    except (ZeroDivisionError, OverflowError, ValueError):
        return None
    result = of_points(values)
    exact = alone and left.points and right.points
    return result if exact or result is None else Span(result.low, result.high)


def _two(arguments: list[ast.AST], keys: dict, again: Callable) -> tuple[Span | None, Span | None]:
    """Return the spans of the two limits of a uniform draw."""
    parts = [again(part) for part in arguments[:2]]
    low = keys.get("low", keys.get("from"))
    high = keys.get("high", keys.get("to"))
    parts = parts if len(parts) == 2 else [again(part) if part else None for part in (low, high)]
    return parts[0], parts[1]


def _linspace(parts: list[Span | None], keys: dict, again: Callable) -> Span | None:
    count = parts[2] if len(parts) > 2 else None
    for name in ("steps", "num"):
        count = again(keys[name]) if name in keys else count
    if len(parts) < 2 or None in parts[:2]:
        return None
    first, last = parts[0].value, parts[1].value
    if count is None or count.value is None or None in (first, last):
        return Span(parts[0].low, parts[1].high)
    number = int(count.value)
    if not 2 <= number <= MOST_POINTS:
        return Span(min(first, last), max(first, last)) if number > 2 else of_points([first])
    return of_points([first + (last - first) * i / (number - 1) for i in range(number)])


def _arange(parts: list[Span | None]) -> Span | None:
    if not parts or None in parts:
        return None
    values = [part.value for part in parts]
    if None in values:
        return Span(parts[0].low if len(parts) > 1 else 0.0, parts[min(1, len(parts) - 1)].high)
    start, stop = (0.0, values[0]) if len(values) == 1 else values[:2]
    step = values[2] if len(values) > 2 else 1.0
    if step == 0:
        return None
    number = math.ceil((stop - start) / step - 1e-9)
    if number > MOST_POINTS:
        return Span(start, stop)
    return of_points([start + i * step for i in range(number)])


def _clamped(node: ast.Call, again: Callable) -> Span | None:
    """Return the values of clamp(x, min, max) or x.clamp(min, max), with or without names."""
    keys = {key.arg: key.value for key in node.keywords}
    inner = node.func.value if isinstance(node.func, ast.Attribute) else None
    arguments, operand = list(node.args), inner
    span = again(operand) if operand is not None else None
    if span is None and arguments:
        span = again(arguments.pop(0))
    if span is None:
        return None
    lowest = keys.get("min", arguments[0] if arguments else None)
    highest = keys.get("max", arguments[1] if len(arguments) > 1 else None)
    if last_name(node.func) == "clamp_max" and arguments:
        lowest, highest = None, arguments[0]
    low = again(lowest) if lowest is not None else None
    high = again(highest) if highest is not None else None

    def held(value: float) -> float:
        value = max(value, low.low) if low else value
        return min(value, high.high) if high else value

    return _mapped(held, span)
