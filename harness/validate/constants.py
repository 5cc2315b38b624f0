"""Constants that a walk through a program knows: what operations and calls make of them, and the
switches that they depend on.
"""

import ast
import operator
from contextlib import suppress

from harness.validate.marks import UNKNOWN, Switch, Value, joined, of

LONGEST = 1000  # items of a constant that is joined to another
PLAIN = {  # functions and methods of constants
    **{kind.__name__: kind for kind in (int, float, bool, str, max, min)},
    **{name: getattr(str, name) for name in ("lower", "upper", "strip")},
}
COMPARE = {
    ast.Eq: operator.eq,
    ast.NotEq: operator.ne,
    ast.Gt: operator.gt,
    ast.GtE: operator.ge,
    ast.Lt: operator.lt,
    ast.LtE: operator.le,
    ast.Is: operator.is_,
    ast.IsNot: operator.is_not,
    ast.In: lambda a, b: a in b,
    ast.NotIn: lambda a, b: a not in b,
}
ARITHMETIC = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.FloorDiv: operator.floordiv,
}


def _is_small(value: object) -> bool:
    return isinstance(value, int | float) and abs(value) < 1 << 40


def _is_short(value: object) -> bool:
    """Return whether a sequence may be joined to another: no program makes this process grow."""
    return isinstance(value, str | bytes | tuple) and len(value) < LONGEST


def is_off(value: Value) -> bool:
    """Return whether a value is what a switch is set to that is off."""
    return value.const in (0, "", "0", "false", "False")


def switched(value: Value, switches: frozenset) -> Value:
    """Return a value, marked as one that switches may set on where it is off."""
    return value._replace(marks=value.marks | switches) if is_off(value) else value


def deciding(values: list[Value], stops: list[Value], result: object) -> frozenset:
    """Return the switches that an `and` or an `or` of values depends on, if any: stops are those
    that decide it alone.
    """
    if not all(of(Switch, value.marks) for value in stops) and isinstance(result, bool):
        return frozenset()  # one of them decides it whatever the switches are
    if result is UNKNOWN:
        values = [value for value in values if value.const is UNKNOWN]
    return of(Switch, joined(values).marks)


def call(name: str, consts: list) -> object:
    """Return what a function of constants, or a method of the first, returns; UNKNOWN where that is
    not known.
    """
    if name in PLAIN and consts and UNKNOWN not in consts:
        with suppress(TypeError, ValueError, AttributeError):
            return PLAIN[name](*consts)
    return UNKNOWN


def operation(node: ast.AST, values: list[Value]) -> Value:
    """Return what an operation makes of its parts: a constant where they decide it. Of `and` and
    `or` it depends on those switches alone that decide.
    """
    marks, const = joined(values).marks, UNKNOWN
    consts = [value.const for value in values]
    known = [const is not UNKNOWN for const in consts]
    with suppress(TypeError, ValueError, KeyError, ZeroDivisionError, OverflowError):
        match node:
            case ast.BoolOp(op=op):
                is_or = isinstance(op, ast.Or)
                stops = [v for v in values if v.const is not UNKNOWN and bool(v.const) == is_or]
                if all(known):
                    const = (stops or values[-1:])[0].const
                elif stops:
                    const = is_or
                marks = marks - of(Switch, marks) | deciding(values, stops, const)
            case ast.UnaryOp(op=ast.Not()) if all(known):
                const = not consts[0]
            case ast.Compare(ops=[op]) if all(known):
                const = COMPARE[type(op)](*consts)
            case ast.BinOp() if all(known) and type(node.op) in ARITHMETIC:
                added = isinstance(node.op, ast.Add) and all(map(_is_short, consts))
                if added or all(map(_is_small, consts)):
                    const = ARITHMETIC[type(node.op)](*consts)
    return Value(marks, const)
