"""What a folder asks to be installed: its requirements*.txt, read as pip reads them."""

import re
from pathlib import PurePosixPath
from typing import NamedTuple

from packaging.requirements import InvalidRequirement, Requirement
from packaging.utils import canonicalize_name

from harness.validate.submission import Submission
from harness.validate.verdict import CannotTell

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


def _is_pinned(requirement: Requirement) -> bool:
    """Return whether a requirement names one version, or an address."""
    equal = [s for s in requirement.specifier if s.operator in ("==", "===")]
    return bool(requirement.url) or any("*" not in specifier.version for specifier in equal)


def requirements(submission: Submission) -> Requirements | None:
    """Return what all requirements*.txt of a folder ask for, None where there is none."""
    names = [
        name
        for name in submission.files
        if re.fullmatch(r"requirements.*\.txt", PurePosixPath(name).name.lower())
    ]
    result = Requirements({}, [], [], "")
    for line in [line for name in names for line in _lines(submission, name)]:
        text, _, comment = line.partition("#") if line.startswith("#") else line.partition(" #")
        text = re.split(r"\s--|\\$", text)[0].strip()
        result = result._replace(comments=f"{result.comments} {comment}")
        other = OTHER_LIST.match(text)
        if LOCAL.match(line) or (other and other[1] not in submission.files):
            result.elsewhere.append(line[:100])
        if not text or text.startswith("-"):
            continue
        try:
            requirement = Requirement(text)
        except InvalidRequirement:
            name = re.match(r"[A-Za-z0-9][\w.-]*", text)
            if name:
                result.pins[canonicalize_name(name[0])] = text.removeprefix(name[0]).strip()
                result.loose.append(text)
            continue
        name = canonicalize_name(requirement.name)
        address = f" @ {requirement.url}" if requirement.url else ""
        result.pins[name] = address or str(requirement.specifier)
        if not _is_pinned(requirement):
            result.loose.append(f"{name}{requirement.specifier}")
    return result if names else None


def _lines(submission: Submission, name: str) -> list[str]:
    try:
        return [line.strip() for line in submission.text(name).splitlines()]
    except CannotTell:
        return []


def instructions(submission: Submission) -> str:
    """Return all that READMEs and shell scripts of a folder say, as one canonical name."""
    texts = []
    for name in submission.files:
        if name.lower().endswith((".md", ".sh")):
            texts += _lines(submission, name)
    return canonicalize_name(" ".join(texts))
