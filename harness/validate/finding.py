"""What a check says: a verdict, its evidence, and the words of --explain."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Literal, NamedTuple

if TYPE_CHECKING:
    from harness.validate.submission import Submission

Verdict = Literal["pass", "fail", "cannot tell"]
VERDICTS: tuple[Verdict, ...] = ("pass", "fail", "cannot tell")
GROUPS = ("folder", "bytes", "runs", "score", "validity", "log", "safety")


class CannotTell(Exception):
    """What a check needs is not there or not readable; the message says what."""


class Finding(NamedTuple):
    """A verdict, and the numbers or names that it rests on."""

    verdict: Verdict
    evidence: str


class Explain(NamedTuple):
    """What a check looks at, which kind of submission it has caught, how to fix it."""

    what: str
    caught: str
    fix: str


class Check(NamedTuple):
    """A named question to a submission. run() returns a Finding or raises CannotTell."""

    name: str
    group: str
    run: "Callable[[Submission], Finding]"
    explain: Explain


def passed(evidence: str) -> Finding:
    """The check holds."""
    return Finding("pass", evidence)


def failed(evidence: str) -> Finding:
    """The check does not hold."""
    return Finding("fail", evidence)


def judged(faults: list[str], evidence: str) -> Finding:
    """Fail with the faults where there are any, pass with the evidence otherwise."""
    return failed("; ".join(faults)) if faults else passed(evidence)
