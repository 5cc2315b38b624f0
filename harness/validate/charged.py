"""What is wrong with the costs that a walk through a program found: text that was learned from
before it was charged, and probabilities that do not sum to one.
"""

from collections.abc import Iterator
from typing import NamedTuple

from harness.validate.marks import Cost, Improper, Text, apart, of


class Early(NamedTuple):
    """Text that was learned from before it was charged: where, what, where it is charged; why it is
    not certain, "" where it is.
    """

    where: str
    what: str
    charged: str
    doubt: str


class Charged(NamedTuple):
    """What makes charged probabilities sum to another number than one: where, where it is charged;
    why it is not certain, "" where it is.
    """

    where: str
    charged: str
    doubt: str


def unshown(switches: frozenset) -> str:
    """Return the doubt about what happens under some switches, "" under none."""
    return f"nothing shows {min(switch.name for switch in switches)}" if switches else ""


def uneven(one: Text, other: Text, loops: frozenset) -> bool:
    """Return whether one of two texts is of a turn of these loops and the other is of all."""
    mine, theirs = ({loop for loop, _ in text.turns} & loops for text in (one, other))
    return mine != theirs


def early(costs: list[Cost]) -> Iterator[Early]:
    """Yield what was learned from text that is charged afterwards."""
    for cost in costs:
        if not cost.is_score:
            continue
        for event in cost.learned:
            pairs = [(a, b) for a in event.texts for b in cost.texts if not apart(a, b)]
            if not pairs:
                continue
            doubt = ""
            parts = {part.at for part in event.parts}
            loops = event.loops & cost.loops
            shared = [{turn.loop for turn in a.turns & b.turns} & loops for a, b in pairs]
            within_one = all(shared)
            if event.unfollowed:
                doubt = event.what
            elif event.anew:
                doubt = "in a table for this piece of it alone"
            elif cost.chosen_by:
                doubt = "something is chosen by it, and it may be no part of a score"
            elif switches := event.switches | cost.switches:
                doubt = unshown(switches)
            elif all(uneven(a, b, loops) for a, b in pairs):
                doubt = "the part of the text is not followed"
            elif all(a.cuts and b.cuts and a.cuts != b.cuts for a, b in pairs):
                doubt = "another part of the text, it seems"
            elif event.what == "trains" and parts and not parts & cost.at and within_one:
                doubt = "at some positions, which may be others"
            yield Early(event.where, event.what, cost.where, doubt)


def improper(costs: list[Cost], kind: type[Improper]) -> list[Charged]:
    """Return each place where a kind of improper probabilities is made and charged once, with the
    cost that is the most certain.
    """
    rows: dict[str, Charged] = {}
    for cost in costs:
        for mark in of(kind, cost.improper) if cost.is_score else ():
            row = Charged(mark.where, cost.where, unshown(mark.switches | cost.switches))
            rows[row.where] = min(rows.get(row.where, row), row, key=lambda row: bool(row.doubt))
    return sorted(rows.values())
