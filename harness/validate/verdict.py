"""What a check is and what it answers: a verdict with its evidence."""

from collections.abc import Callable
from typing import Literal, NamedTuple

Verdict = Literal["pass", "fail", "cannot tell"]
Severity = Literal["score", "rules", "paperwork"]
VERDICTS: tuple[Verdict, ...] = ("pass", "fail", "cannot tell")
# What a failure means, the worst first
SEVERITIES: dict[Severity, str] = {
    "score": "the number is wrong or cannot be proven",
    "rules": "size, time, or what may run breaks a rule",
    "paperwork": "score and rules stand, something else is to be mended",
}


class CannotTell(Exception):
    """What a check needs is not there or not readable; the message says what."""


def require(condition: object, reason: str) -> None:
    """Raise CannotTell with a reason where a condition does not hold."""
    if not condition:
        raise CannotTell(reason)


class Finding(NamedTuple):
    """A verdict, and the numbers or names that it rests on."""

    verdict: Verdict
    evidence: str


class Check(NamedTuple):
    """A named question to a submission. run(submission) returns a Finding or raises CannotTell."""

    name: str
    group: str
    severity: Severity  # of its failure
    run: Callable[..., Finding]
    what: str  # it looks at
    caught: str  # so far
    fix: str  # what it finds


CHECKS: list[Check] = []  # in the order of their definition


def check(name: str, severity: Severity, caught: str, fix: str) -> Callable:
    """Register a function of a submission as a check of the group that its file is named after.
    Severity, its docstring, what has been caught and the fix are what --explain prints.
    """

    def register(function: Callable[..., Finding]) -> Callable[..., Finding]:
        group = function.__module__.rpartition(".")[2]
        what = " ".join(function.__doc__.split())
        CHECKS.append(Check(name, group, severity, function, what, caught, fix))
        return function

    return register


def passed(evidence: str) -> Finding:
    """The check holds."""
    return Finding("pass", evidence)


def failed(evidence: str) -> Finding:
    """The check does not hold."""
    return Finding("fail", evidence)


def judged(faults: list[str | bool], evidence: str, unseen: list[str] = ()) -> Finding:
    """Fail with the faults where there are any, cannot tell where something is unseen, pass with
    the evidence otherwise. What is false is no fault.
    """
    present = [fault for fault in faults if fault]
    if present:
        return failed("; ".join(present))
    require(not unseen, "; ".join(unseen[:3]))
    return passed(evidence)


def by_doubt(said: list[tuple[str, str]]) -> tuple[list[str], list[str]]:
    """Return what is wrong for certain, and what may be with the doubt about it ("": none)."""
    faults = [what for what, doubt in said if not doubt]
    return faults, [f"{what}: {doubt}" for what, doubt in said if doubt]


def all_of(submission, *parts: Callable[..., Finding]) -> Finding:
    """Ask several questions as one: fail where one fails, cannot tell where one cannot."""
    told: dict[Verdict, list[str]] = {verdict: [] for verdict in VERDICTS}
    for part in parts:
        try:
            finding = part(submission)
            told[finding.verdict].append(finding.evidence)
        except CannotTell as reason:
            told["cannot tell"].append(str(reason))
    reasons = list(dict.fromkeys(told["cannot tell"]))
    return judged(told["fail"], "; ".join(told["pass"]), reasons)


def is_sound(rows: list[dict], strict: bool = False) -> bool:
    """Return whether no check of score or rules failed; strict: none of paperwork either."""
    failures = {row["severity"] for row in rows if row["verdict"] == "fail"}
    return not failures & (SEVERITIES.keys() if strict else {"score", "rules"})
