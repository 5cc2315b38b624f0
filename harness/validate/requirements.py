"""What a folder asks to be installed: its requirements*.txt, read as pip reads them."""

import re
from pathlib import PurePosixPath
from typing import NamedTuple

from packaging.requirements import InvalidRequirement, Requirement
from packaging.utils import canonicalize_name

from harness.validate.submission import Submission

LIST = re.compile(r"requirements.*\.txt", re.IGNORECASE)
GUIDE = re.compile(r"\.(md|sh)$", re.IGNORECASE)
CARD = re.compile(r"(^|/)model_?card[^/]*$", re.IGNORECASE)
OTHER_LIST = re.compile(r"(?:-r|-c|--requirement|--constraint)[\s=]*([^\s#]+)")
LOCAL = re.compile(
    r"(-e|--editable)\b|(\.{1,2}|~)?/|--find-links[\s=]*(\.|/|~)|[A-Za-z]:\\|.*(\bfile:|@\s*(\.{1,2}|~)?/)"
)


class Requirements(NamedTuple):
    """What the requirements of a folder ask for."""

    pins: dict[str, str]  # canonical name -> version specifier or address, as written
    loose: list[str]  # lines without one version
    elsewhere: list[str]  # lines that name a file which is not in the folder
    comments: str  # everything else that they say


def _is_pinned(text: str) -> bool:
    """Return whether a requirement names one version, or an address."""
    try:
        requirement = Requirement(text)
    except InvalidRequirement:
        return False
    equal = [s.version for s in requirement.specifier if s.operator in ("==", "===")]
    return bool(requirement.url) or any("*" not in version for version in equal)


def requirements(submission: Submission) -> Requirements | None:
    """Return what all requirements*.txt of a folder ask for, None where there is none."""
    names = [name for name in submission.files if LIST.fullmatch(PurePosixPath(name).name)]
    pins, loose, elsewhere, comments = {}, [], [], []
    for line in map(str.strip, "\n".join(map(submission.text, names)).splitlines()):
        text, *comment = re.split(r"(?:^|\s)#", line, maxsplit=1)
        comments += comment
        text = re.split(r"\s--|\\$", text)[0].strip()
        other = OTHER_LIST.match(text)
        if LOCAL.match(line) or (other and other[1] not in submission.files):
            elsewhere.append(line[:100])
        package = re.match(r"[A-Za-z0-9][\w.-]*", text)
        if package:
            pins[canonicalize_name(package[0])] = text.removeprefix(package[0])
            loose += [] if _is_pinned(text) else [text]
    return Requirements(pins, loose, elsewhere, " ".join(comments)) if names else None


def instructions(submission: Submission) -> str:
    """Return all that READMEs and shell scripts of a folder say, as one canonical name. A model
    card describes, it does not install.
    """
    names = [name for name in submission.files if GUIDE.search(name) and not CARD.search(name)]
    return canonicalize_name("\n".join(map(submission.text, names)))
