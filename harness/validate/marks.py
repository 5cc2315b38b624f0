"""What a walk through a program knows of its values: marks that say what text they come from, what
changed them and what was charged before, and a constant where there is one.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import NamedTuple

UNKNOWN = object()  # no constant


class Function(NamedTuple):
    """A constant: a function of a library, whatever name it is bound to."""

    name: str


class Turn(NamedTuple):
    """A mark: depends on which turn of a loop it is."""

    loop: int
    turn: int


class Text(NamedTuple):
    """A mark: validation text, of these turns of loops, cut by these fixed indices."""

    turns: frozenset = frozenset()
    cuts: frozenset = frozenset()


@dataclass(frozen=True)
class Site:
    """A mark: made by this expression, or with what it made."""

    number: int


@dataclass(frozen=True)
class Part:
    """A mark: a cost at these positions alone."""

    at: str


@dataclass(frozen=True)
class At:
    """A mark: written at this index."""

    index: str


@dataclass(frozen=True)
class Hashed:
    """A mark: an index that several keys share."""


@dataclass(frozen=True)
class Looked:
    """A mark: read from a table at an index that several keys share: what the index is called, and
    the text in it.
    """

    index: str
    texts: frozenset


@dataclass(frozen=True)
class Improper:
    """A mark: made where probabilities come to sum to another number than one, under these
    switches.
    """

    where: str
    switches: frozenset


class Ratio(Improper):
    """A mark: counts at one index that keys share over counts at another."""


class Least(Improper):
    """A mark: of each token the least of several costs."""


@dataclass(frozen=True)
class Length:
    """A mark: how long something is, of validation text or of anything."""

    of_text: bool


@dataclass(frozen=True)
class Reciprocal:
    """A mark: one over how many bytes a token of the text has."""


@dataclass(frozen=True)
class Single:
    """A mark: the costs of single tokens, not yet summed or averaged."""


class Spread(Improper):
    """A mark: the cost of one token divided by the number of its bytes, or the probability that
    this makes of it.
    """


@dataclass(frozen=True)
class Record:
    """A mark: a dictionary of named values, not of counts."""


@dataclass(frozen=True)
class Switch:
    """A mark: depends on a setting whose value nothing shows."""

    name: str


class Learned(NamedTuple):
    """A mark: changed by this text, at a line, at these positions of it (none: at all), under these
    switches; unfollowed: by code that cannot be read; anew: made for this piece of the text.
    """

    where: str
    what: str
    texts: frozenset
    parts: frozenset
    switches: frozenset
    loops: frozenset  # that ran
    unfollowed: bool
    anew: bool = False


@dataclass(eq=False)
class Cost:
    """A mark: a cost of text, what had been learned before, and what becomes of it."""

    where: str
    texts: frozenset
    learned: frozenset
    switches: frozenset
    loops: frozenset
    trained: bool = False
    compared: bool = False  # to choose by
    added: bool = False  # to others
    shown: bool = False  # returned or printed
    in_bits: bool = False  # it or a sum of it: a score
    at: set[str] = field(default_factory=set)
    improper: frozenset = frozenset()  # Least: where it is so token by token, and summed

    @property
    def chosen_by(self) -> bool:
        """Whether something is chosen by it, and it is added to no other."""
        return self.compared and not self.added

    @property
    def is_score(self) -> bool:
        """Whether it may be part of a score: it is not trained on, nor chosen by, alone."""
        trained = self.trained and not self.in_bits
        return not trained and not (self.chosen_by and not self.shown)


class Value(NamedTuple):
    """What is known of a value."""

    marks: frozenset = frozenset()
    const: object = UNKNOWN
    function: tuple | None = None  # (definition, names around it, marks of what it is bound to)
    items: tuple | None = None  # the values in a tuple


NOTHING = Value()


def joined(values: Iterable[Value]) -> Value:
    """Return what any of some values can be."""
    return Value(frozenset().union(*(value.marks for value in values)))


def of(kind: type, marks: Iterable) -> frozenset:
    """Return the marks of a kind."""
    return frozenset(mark for mark in marks if isinstance(mark, kind))


def narrowed(marks: Iterable, index: Iterable, cut: str = "") -> frozenset:
    """Return marks of text at an index: in the turns that the index depends on."""
    turns = of(Turn, index)
    cuts = frozenset([cut]) if cut and not turns else frozenset()
    return frozenset(
        Text(mark.turns | turns, mark.cuts | cuts) if isinstance(mark, Text) else mark
        for mark in marks
    )


def finest(texts: frozenset) -> frozenset:
    """Return texts less those of which others are a piece."""
    return frozenset(a for a in texts if not any(a.turns < b.turns for b in texts))


def apart(one: Text, other: Text) -> bool:
    """Return whether two texts are of different turns of one loop."""
    loops = {loop for loop, _ in one.turns} & {loop for loop, _ in other.turns}
    common = {loop for loop, _ in one.turns & other.turns}
    return bool(loops - common)


def statistic(marks: frozenset) -> frozenset:
    """Return marks of what is kept: costs and counts of a text are no longer text, nor of one
    token.
    """
    kept = marks - of(Spread, marks)
    return kept - of(Text, kept) if of(Cost, kept) or of(Learned, kept) else kept


class Names:
    """The names of a function that runs, of the ones around it."""

    def __init__(self, outer: "Names | None" = None):
        self.outer, self.known = outer, {}
        self.shared: set[str] = set()  # declared global or nonlocal
        self.unset: frozenset = frozenset()  # the switches whose default decided a branch

    def home(self, name: str) -> "Names | None":
        """Return the names that hold a name."""
        if name in self.known and name not in self.shared:
            return self
        return self.outer.home(name) if self.outer else None
