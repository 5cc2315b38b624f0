"""Each kind of edit on a toy: what it makes of a function, and what it refuses."""

import ast
import math
from functools import cached_property

import pytest

from tests.bugs import Bug, edits, plant, syntax_tree
from tests.bugs.edits import argument, call, constant, name, operator, whole

LIMIT = 3


class Point:
    """Something with attributes and a method."""

    x, y = 5, 7

    def shifted(self, by, scale=1):
        """A number from a receiver, an argument and a keyword."""
        return self.x + scale * by


POINT = Point()


def toy(a, b=2, *, point=POINT):
    """Values that an edit changes; this text, and the message, hold < 10 and LIMIT as well."""
    total: int | list[1000] = 10
    if a < b <= 10 and not a == 4:
        total -= a - b
    words = [point.shifted(total, scale=b), math.floor(a / b), -a]
    if a == 1000:
        raise ValueError(f"{a < 10}: {LIMIT}")
    return (*words[1:], words[0], point.x, LIMIT, str(a), True)


def generator(n):
    """Yield; decorated functions and methods are in the zoo itself."""
    yield from range(n)


def closure(n):
    """An inner function that reads a variable."""
    step = 2

    def inner(k):
        return k * step

    return inner(n)


def planted(edit, *given, function=toy, **named):
    """What the toy returns with edits."""
    with pytest.MonkeyPatch.context() as monkeypatch:
        plant(Bug("a.toy-bug", f"{__name__}.{function.__name__}", edit, "", ()), monkeypatch)
        result = function(*given, **named)
        return list(result) if function is generator else result


def changes(edit, *given, **named):
    """{index: value} of what an edit changes in the toy's result."""
    before, after = toy(*given, **named), planted(edit, *given, **named)
    assert toy(*given, **named) == before
    return {i: new for i, (old, new) in enumerate(zip(before, after, strict=True)) if old != new}


def test_operator():
    assert toy(1) == (0, -1, 27, 5, 3, "1", True)
    assert changes(operator("<", to=">"), 1) == {2: 25}
    assert changes(operator("<=", to="!="), 1, 20) == {2: 5 + 20 * 29}
    assert changes(operator("and", to="or"), 3) == {2: 23}
    assert changes(operator("-=", to="+="), 1) == {2: 23}
    assert changes(operator("-=", by=lambda total, moved: total * 2), 1) == {2: 45}
    assert changes(operator("-", to="*"), 1) == {2: 21}
    assert changes(operator("/", by=lambda a, b: b / a), 1) == {0: 2}
    assert changes(operator("-x", to="~x"), 1) == {1: -2}
    assert changes(operator("not x", by=lambda same: same), 1) == {2: 25}
    assert changes(operator("==", by=lambda a, four: True, nth=1), 1) == {2: 25}
    assert changes(operator("[]", by=lambda words, index: words[index][::-1], nth=1), 1) == {
        0: -1,
        1: 0,
    }
    assert changes(operator("[]", by=lambda words, index: 8, nth=-1), 1) == {2: 8}


def test_constant():
    assert changes(constant(10, 20, nth=1), 1) == {2: 47}
    assert changes(constant(10, 1, nth=-1), 1) == {2: 25}
    assert changes(constant(True, False), 1) == {6: False}


def test_name():
    assert changes(name("x", to="y"), 1) == {3: 7}
    assert changes(name("x", by=lambda x: -x), 1) == {3: -5}
    assert changes(name("LIMIT", to="POINT"), 1) == {4: POINT}
    assert changes(name("LIMIT", by=lambda limit: limit + 1), 1) == {4: 4}


def test_call():
    assert changes(call("floor", to="ceil"), 1) == {0: 1}
    assert changes(call("str", to="float"), 1) == {5: 1.0}
    assert changes(call("floor", by=edits.first), 1) == {0: 0.5}
    assert changes(call("shifted", by=edits.receiver), 1) == {2: POINT}
    assert changes(call("shifted", by=edits.always(0)), 1) == {2: 0}
    assert changes(call("shifted", by=edits.giving(scale=0)), 1) == {2: 5}
    assert changes(call("shifted", by=edits.without("scale")), 1) == {2: 16}
    assert changes(call("shifted", by=argument(0, lambda by: 10 * by)), 1) == {2: 225}
    assert changes(call("shifted", by=lambda shifted, by, scale: shifted(scale, scale=by)), 1) == {}


def test_whole():
    assert planted(whole(by=lambda toy, a, b, point: toy(b, a, point=point)), 2, 1) == toy(1, 2)
    assert planted(whole(by=lambda toy, *given: given), 1) == (1, 2, POINT)
    assert planted(whole(by=lambda generator, n: [*generator(n), -1]), 2, function=generator) == [
        0,
        1,
        -1,
    ]


def test_inner_functions():
    assert planted(operator("*", by=lambda k, step: k**step), 3, function=closure) == 9
    assert planted(constant(2, 4), 3, function=closure) == 12


def test_edits_of_one_bug_go_together():
    """All mean nodes of the code as it was, an inner one changes before the one around it, and one
    edit may take apart what another returns.
    """
    swapped = constant("x", "y"), constant("y", "x")
    assert ast.unparse(edits.edited(tree("def f(): return 'x' + 'y'"), swapped)[0]).endswith(
        "'y' + 'x'"
    )
    both = (
        operator("/", by=edits.pair),
        call("floor", by=lambda floor, pair: floor(pair[1] / pair[0])),
    )
    assert changes(both, 1) == {0: 2}
    assert (
        planted((constant(2, 4), whole(by=lambda closure, n: -closure(n))), 3, function=closure)
        == -12
    )


def tree(source: str) -> ast.FunctionDef:
    """The one function of a source."""
    return ast.parse(source).body[0]


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (operator("%", to="*"), "toy: expected one operator %, found 0"),
        (operator("==", to="!="), "toy: expected one operator ==, found 2: pass nth"),
        (operator("==", to="!=", nth=3), "toy: expected operator == number 3, found 2"),
        (operator("==", to="!=", nth=0), "toy: expected operator == number 0, found 2"),
        (operator("<", by=edits.left), "a chain of comparisons"),
        (constant(1, 2, nth=2), "literal 1 number 2, found 1"),
        (constant(10.0, 2), "one literal 10.0, found 0"),
        (constant(10, 2), "one literal 10, found 2"),
        (name("z", to="x"), "one name z, found 0"),
        (name("shifted", to="x"), "one name shifted, found 0"),
        (name("words", to="x"), "one name words, found 0"),
        (name("a", to="b"), "one name a, found 0"),
        (call("x", by=edits.first), "one call of x, found 0"),
        (call("round", by=edits.first), "one call of round, found 0"),
    ],
)
def test_refused(edit, message):
    """No such node, or several, or the name of a local variable."""
    with pytest.raises(LookupError, match=message):
        edits.edited(syntax_tree(toy), [edit])


def test_inner_functions_and_variables_are_no_callees():
    with pytest.raises(LookupError, match="one call of inner, found 0"):
        edits.edited(syntax_tree(closure), [call("inner", by=edits.first)])


def test_parameters_in_stars_are_refused():
    with pytest.raises(LookupError, match="f: expected parameters with names"):
        edits.edited(tree("def f(*x): return x"), [whole(by=edits.first)])


@pytest.mark.parametrize(
    "edit",
    [
        lambda: operator("<", to="+"),
        lambda: operator("and", by=edits.left),
        lambda: operator("[]", to="[]"),
        lambda: operator("<"),
        lambda: name("x"),
        lambda: call("f", to="g", by=edits.first),
    ],
)
def test_misused(edit):
    with pytest.raises(TypeError, match="expected"):
        edit()


class Circle:
    """Values that are computed when they are asked for."""

    radius = 3

    @property
    def width(self):
        """Twice the radius."""
        return 2 * self.radius

    @cached_property
    def area(self):
        """About 3 r r."""
        return 3 * self.radius**2


def starred(first, *rest, **named):
    """Parameters of every kind."""
    return first, rest, named


def test_parameters_of_every_kind_are_known():
    assert edits.parameters(syntax_tree(starred)) == {"first", "rest", "named"}
    assert edits.parameters(syntax_tree(toy)) == {"a", "b", "point"}


@pytest.mark.parametrize(("what", "before", "after"), [("width", 6, 2), ("area", 27, 3)])
def test_a_property_is_edited_like_a_method(what, before, after):
    """Of an object that is there and of a new one, until the test ends."""
    circle, edit = Circle(), name("radius", by=lambda radius: radius - 2)
    bug = Bug("a-toy", f"{__name__}.Circle.{what}", edit, "", ())
    with pytest.MonkeyPatch.context() as monkeypatch:
        plant(bug, monkeypatch)
        assert getattr(circle, what) == getattr(Circle(), what) == after
    assert getattr(Circle(), what) == before
