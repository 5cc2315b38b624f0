"""maskgolf validate: asks a submission folder one question after the other. A check answers, or
says why it cannot.
"""

from pathlib import Path

from harness.validate import bytes as sizes
from harness.validate import (
    execution,
    folder,
    log,
    portable,
    safety,
    score,
    script_table,
    seeds,
    tables,
    validity,
)
from harness.validate.finding import GROUPS, CannotTell, Check, Finding
from harness.validate.submission import Options, Submission
from reference.recipe import InputError

MODULES = (
    folder,
    sizes,
    portable,
    execution,
    score,
    tables,
    script_table,
    seeds,
    validity,
    log,
    safety,
)
CHECKS: tuple[Check, ...] = tuple(
    sorted(
        (check for module in MODULES for check in module.CHECKS),
        key=lambda check: GROUPS.index(check.group),
    )
)
LONGEST = 1_000  # characters of evidence


def answer(check: Check, submission: Submission) -> Finding:
    """Return what a check finds; whatever it raises is "cannot tell" with the reason."""
    try:
        return check.run(submission)
    except CannotTell as reason:
        return Finding("cannot tell", str(reason))
    except (Exception, RecursionError) as error:
        return Finding("cannot tell", f"the check itself failed: {type(error).__name__}: {error}")


def printable(text: str) -> str:
    """Return evidence as one line of text that any terminal and any JSON takes; folders may hold
    anything.
    """
    text = text.encode("utf-8", "backslashreplace").decode()
    text = "".join(character if character.isprintable() else " " for character in text)
    return text if len(text) <= LONGEST else f"{text[: LONGEST - 1]}…"


def validate(
    folder: Path | str,
    data: Path | None = None,
    tokenizer: Path | None = None,
    run: bool = False,
    time_limit: float = 600.0,
    checks: tuple[Check, ...] | None = None,
) -> list[dict]:
    """Return [{check, group, verdict, evidence}] for a submission folder; nothing in it is executed
    unless run is true.
    """
    submission = Submission(folder, Options(data, tokenizer, run, time_limit))
    rows = []
    for check in CHECKS if checks is None else checks:
        found = answer(check, submission)
        rows.append(
            {
                "check": check.name,
                "group": check.group,
                "verdict": found.verdict,
                "evidence": printable(found.evidence),
            }
        )
    return rows


def explain(name: str) -> dict:
    """Return what a check is, what it has caught and how to fix it; InputError with all names for
    an unknown one.
    """
    for check in CHECKS:
        if check.name == name:
            return {"check": check.name, "group": check.group, **check.explain._asdict()}
    raise InputError(
        f"--explain {name!r}: expected one of: {', '.join(check.name for check in CHECKS)}; choose"
        " one of these"
    )
