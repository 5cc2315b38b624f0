"""What the rows of a validation come to, in the order in which a person reads them: the worst
failure, all failures by severity, what is missing for the rest.
"""

import textwrap
from collections import Counter
from typing import NamedTuple

from harness.validate.verdict import SEVERITIES, Severity

LONGEST_HEADLINE = 300  # characters
FAILED = {  # how a headline begins
    "score": "The score is wrong or cannot be proven",
    "rules": "The score was not seen to be wrong, but a rule is broken",
    "paperwork": "Only paperwork is wrong",
}


class Missing(NamedTuple):
    """Something that is missing, and the checks that wait for it: name -> what else they say, ""
    where that is all.
    """

    what: str
    checks: dict[str, str]


class Summary(NamedTuple):
    """The rows of a validation, sorted."""

    headline: str  # one sentence
    failures: dict[Severity, list[dict]]  # the worst first, none that is empty
    missing: list[Missing]  # what most checks wait for first
    passes: list[dict]


def summarise(rows: list[dict]) -> Summary:
    """Return the summary of what validate() returned."""
    failures = {
        severity: [row for row in rows if (row["severity"], row["verdict"]) == (severity, "fail")]
        for severity in SEVERITIES
    }
    failures = {severity: some for severity, some in failures.items() if some}
    passes = [row for row in rows if row["verdict"] == "pass"]
    return Summary(headline(failures, len(rows), len(passes)), failures, missing(rows), passes)


def headline(failures: dict[Severity, list[dict]], checks: int, passes: int) -> str:
    """Return the one sentence to begin with: the worst failure with its evidence, or that there is
    none.
    """
    for severity, (worst, *_) in failures.items():
        told = f"{FAILED[severity]} ({worst['check']}): {worst['evidence']}"
        told = textwrap.shorten(told, LONGEST_HEADLINE, placeholder=" …")
        return told if told.endswith((".", "…")) else f"{told}."
    if passes == checks:
        return f"Nothing wrong was found: all {checks} checks passed."
    unknown = f"{checks - passes} of {checks} checks cannot tell, for what is missing below"
    return f"Nothing wrong was found, but {unknown}."


def missing(rows: list[dict]) -> list[Missing]:
    """Return what checks wait for. A part of a reason, between semicolons, that several checks give
    is one missing thing for all of them; else a whole reason is.
    """
    reasons = {row["check"]: row["evidence"] for row in rows if row["verdict"] == "cannot tell"}
    parts = {name: list(dict.fromkeys(reason.split("; "))) for name, reason in reasons.items()}
    counts = Counter(part for some in parts.values() for part in some)
    waiting: dict[str, dict[str, str]] = {}
    for name, some in parts.items():
        shared = max(some, key=counts.__getitem__)
        what = shared if counts[shared] > 1 else reasons[name]
        rest = "; ".join(part for part in some if part != shared) if counts[shared] > 1 else ""
        waiting.setdefault(what, {})[name] = rest
    return sorted((Missing(*item) for item in waiting.items()), key=lambda one: -len(one.checks))
