"""maskgolf validate: asks a submission folder one question after the other. A check answers, or
says why it cannot.
"""

import difflib
from pathlib import Path

from harness.display.progress import Bar, silent
from harness.validate.checks import bytes, folder, likelihood, log, runs, safety, score, validity
from harness.validate.submission import Options, Submission
from harness.validate.verdict import CHECKS as REGISTERED
from harness.validate.verdict import CannotTell, Check, Finding
from reference.recipe import InputError

# In the order of their rows
GROUPS = tuple(
    module.__name__.rpartition(".")[2]
    for module in (folder, bytes, runs, score, likelihood, validity, log, safety)
)
CHECKS = tuple(sorted(REGISTERED, key=lambda check: GROUPS.index(check.group)))
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
    progress: Bar | None = None,
) -> list[dict]:
    """Return [{check, group, severity, verdict, evidence}] for a submission folder; nothing in it
    is executed unless run is true. progress: shows which check runs, and how far the long ones are.
    """
    progress = progress or silent()
    submission = Submission(folder, Options(data, tokenizer, run, time_limit, progress))
    rows, asked = [], CHECKS if checks is None else checks
    for check in asked:
        progress.start(f"validate: {check.name}", len(rows), len(asked), "checks")
        verdict, evidence = answer(check, submission)
        row = {"check": check.name, "group": check.group, "severity": check.severity}
        rows.append(row | {"verdict": verdict, "evidence": printable(evidence)})
    return rows


def explain(name: str) -> dict:
    """Return what a check is, what it has caught and how to fix it; InputError for an unknown
    name, with those most like it, or else with all.
    """
    for check in CHECKS:
        if check.name == name:
            told = {"check": check.name, "group": check.group, "severity": check.severity}
            return told | {"what": check.what, "caught": check.caught, "fix": check.fix}
    names = [check.name for check in CHECKS]
    near = difflib.get_close_matches(name, names, cutoff=0.5)
    others = f"did you mean {' or '.join(map(repr, near))}?"
    advice = others if near else f"it has {', '.join(names)}"
    raise InputError(
        f"--explain {name!r}: expected a check of maskgolf validate, found none of that name;"
        f" {advice}"
    )
