"""The modules that a submission imports, and where they are to come from."""

import ast
import re
import sys
from collections.abc import Iterator
from functools import cache
from importlib.metadata import packages_distributions
from pathlib import PurePosixPath
from typing import NamedTuple

from packaging.utils import canonicalize_name

from harness.validate.requirements import instructions, requirements
from harness.validate.source import IMPORT, dotted
from harness.validate.submission import Submission
from harness.validate.verdict import require

# What the challenge's machine has without being asked.
PREINSTALLED = frozenset(
    "numpy tqdm torch huggingface-hub kernels setuptools typing-extensions datasets tiktoken"
    " sentencepiece triton pip wheel".split()
)
DISTRIBUTIONS = {  # import name -> distribution, where they differ
    "PIL": "pillow",
    "attr": "attrs",
    "bs4": "beautifulsoup4",
    "cv2": "opencv-python",
    "dateutil": "python-dateutil",
    "fla": "flash-linear-attention",
    "flash_attn_interface": "flash-attn-3",
    "hopper": "flash-attn-3",
    "pkg_resources": "setuptools",
    "skimage": "scikit-image",
    "sklearn": "scikit-learn",
    "yaml": "pyyaml",
    "_distutils_hack": "setuptools",
}
ABSENCE = ("ImportError", "ModuleNotFoundError", "Exception")


class Needed(NamedTuple):
    """Imports, "module (file:line)": that nothing brings, that README or a comment speaks of alone,
    that may be missing; and all modules beyond the standard library and the folder.
    """

    missing: dict[str, bool]
    mentioned: dict[str, bool]
    optional: dict[str, bool]
    used: set[str]


@cache
def installed() -> dict[str, list[str]]:
    """Return {top-level module: distributions} of this environment, read once per process."""
    return packages_distributions()


def imported(node: ast.AST, optional: bool = False) -> Iterator[tuple[str, int, bool]]:
    """Yield (top-level module, line, whether the program goes on without it) of every import."""
    names, body = [], set()
    match node:
        case ast.Import():
            names = [alias.name for alias in node.names]
        case ast.ImportFrom(module=str(name), level=0):
            names = [name]
        case ast.Try():
            caught = [ast.unparse(h.type) if h.type else "Exception" for h in node.handlers]
            if any(word in text for word in ABSENCE for text in caught):
                body = set(node.body)
        case ast.Call(args=[ast.Constant(value=str(name)), *_]) if dotted(node.func) in IMPORT:
            names = [name] if re.match(r"[A-Za-z_]", name) else []
    for name in names:
        yield name.partition(".")[0], node.lineno, optional
    for child in ast.iter_child_nodes(node):
        yield from imported(child, optional or child in body)


def needed(submission: Submission) -> Needed:
    """Return what a submission imports; CannotTell where a source does not parse."""
    wanted, text = requirements(submission), instructions(submission)
    paths = [PurePosixPath(path) for path in submission.files if path.endswith(".py")]
    local = {path.stem for path in paths} | {path.parts[0] for path in paths}
    there = PREINSTALLED | (wanted.pins.keys() if wanted else set())
    text += canonicalize_name(wanted.comments) if wanted else ""
    missing, mentioned, optional, used = {}, {}, {}, set()  # dicts: each place once, in order
    for source in submission.code.required:
        require(source.tree, f"{source.label} does not parse: {source.error}")
        for module, line, skippable in imported(source.tree):
            if module in sys.stdlib_module_names or module in local:
                continue
            names = {DISTRIBUTIONS.get(module, module), module, *installed().get(module, ())}
            names = set(map(canonicalize_name, names))
            used.add(module)
            if names & there:
                continue
            known = any(re.search(rf"\b{re.escape(name)}\b", text) for name in names)
            where = optional if skippable else mentioned if known else missing
            where[f"{module} ({source.label}:{line})"] = True
    return Needed(missing, mentioned, optional, used)
