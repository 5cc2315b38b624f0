"""What an operation makes of the marks of its two sides, where that decides whether probabilities
sum to one: an index that keys share, counts at one such index over those at another, the cost of a
token over the number of its bytes.
"""

import ast

from harness.validate.marks import (
    Cost,
    Hashed,
    Learned,
    Length,
    Looked,
    Ratio,
    Reciprocal,
    Single,
    Spread,
    Text,
    Value,
    of,
)

OPERATORS = {  # functions and methods that do as an operator does
    **dict.fromkeys(("divide", "true_divide", "div"), ast.Div),
    **dict.fromkeys(("mod", "remainder", "fmod"), ast.Mod),
    **dict.fromkeys(("pow", "power", "float_power"), ast.Pow),
    **dict.fromkeys(("multiply", "mul"), ast.Mult),
    "bitwise_and": ast.BitAnd,
}


def _is_of_one(value: Value) -> bool:
    """Return whether a value is made of costs of single tokens."""
    return all(of(kind, value.marks) for kind in (Cost, Text, Single))


def _is_length(value: Value) -> bool:
    """Return whether a value is how many bytes a token of the text has."""
    lengths = of(Length, value.marks)
    of_text = any(mark.of_text for mark in lengths) or bool(of(Text, value.marks))
    return bool(lengths) and of_text and not of(Cost, value.marks)


def _is_ratio(one: Value, other: Value) -> bool:
    """Return whether counts are divided by those at another index."""
    indices = {(mark.index, mark.texts) for mark in of(Looked, other.marks)}
    return bool(indices) and any(
        (mark.index, mark.texts) not in indices for mark in of(Looked, one.marks)
    )


def _is_scaled(one: Value, other: Value) -> bool:
    """Return whether costs of single tokens are multiplied by one over how many bytes they have."""
    return _is_of_one(one) and bool(of(Reciprocal, other.marks))


def marked(operator: type, one: Value, other: Value, where: str, switches: frozenset) -> set:
    """Return the marks that an operation adds to those of its sides."""
    marks: set = set()
    if operator in (ast.BitAnd, ast.Mod):
        both = one.marks | other.marks
        marks |= {Hashed()} if of(Text, both) or of(Learned, both) else set()
    elif operator is ast.Div:
        if _is_ratio(one, other):
            marks.add(Ratio(where, switches))
        if _is_length(other) and _is_of_one(one):
            marks.add(Spread(where, switches))
        elif _is_length(other) and isinstance(one.const, int | float):
            marks.add(Reciprocal())
    elif operator is ast.Mult and (_is_scaled(one, other) or _is_scaled(other, one)):
        marks.add(Spread(where, switches))
    elif operator is ast.Pow and of(Text, one.marks) and of(Reciprocal, other.marks):
        marks.add(Spread(where, switches))
    return marks
