"""Checks of the folder itself: its files, its name, its JSON."""

from harness.validate.finding import CannotTell, Check, Explain, Finding, judged
from harness.validate.submission import Submission

README = r"readme(\.(md|rst|txt))?"


def files(submission: Submission) -> Finding:
    """README, submission.json, the training script and a log are there and not empty."""
    missing = []
    if not submission.find(README):
        missing.append("README.md")
    try:
        submission.json_name
    except CannotTell:
        missing.append("submission.json")
    entry = submission.code.entry
    if entry is None:
        missing.append("train_gpt.py")
    if not submission.logs:
        missing.append("a training log (train_seedN.log)")
    named = [name for name in (entry, *submission.find(README)) if name]
    empty = [f"{name} is empty" for name in named if submission.files[name] == 0]
    faults = ([f"missing: {', '.join(missing)}"] if missing else []) + empty
    return judged(faults, f"{len(submission.files)} files, {sum(submission.files.values()):,} bytes; script {entry}, {len(submission.logs)} logs")


CHECKS = (
    Check("required files", "folder", files, Explain(
        "The folder holds README.md, submission.json, train_gpt.py and at least one training log, none of them empty.",
        "Submissions whose script was committed as an empty file, or that came as a log alone.",
        "Add the missing file; maskgolf pack writes all of them.",
    )),
)  # fmt: skip
