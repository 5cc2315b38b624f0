"""Checks of what the code asks of a machine: a Python version, installed packages. Read from the
source, nothing is executed.
"""

import ast
import io
import re
import sys
import tokenize
import warnings
from collections.abc import Iterator
from importlib.metadata import packages_distributions
from pathlib import PurePosixPath

from harness.validate.finding import CannotTell, Check, Explain, Finding, judged
from harness.validate.submission import Submission

VERSIONS = ((3, 10), (3, 11), (3, 12))
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
REQUIREMENT = re.compile(r"^\s*([A-Za-z0-9][A-Za-z0-9._-]*)")
ABSENCE = ("ImportError", "ModuleNotFoundError", "Exception", "BaseException")


def sources(submission: Submission) -> list:
    """Return the sources that run: the script, what it imports from the folder, what is hidden in
    it.
    """
    found = submission.code.running or list(submission.code.sources.values())
    if not found:
        raise CannotTell("there is no Python in the folder")
    return found


def canonical(name: str) -> str:
    """Return a distribution's name as package indexes compare it."""
    return re.sub(r"[-_.]+", "-", name).lower()


def syntax_error(data: bytes, version: tuple[int, int]) -> str | None:
    """Return why a source is no Python of this version, with the line; None if it is."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            ast.parse(data, feature_version=version)
    except SyntaxError as error:
        return f"line {error.lineno}: {error.msg}"
    except (ValueError, RecursionError, MemoryError) as error:
        return f"{type(error).__name__}: {error}"
    found = None if version >= (3, 12) else nested_quotes(data.decode("utf-8", "replace"))
    return (
        f"line {found}: an f-string with its own quotes, a backslash or a comment inside the"
        " braces, which needs 3.12"
        if found
        else None
    )


def nested_quotes(text: str) -> int | None:
    """Return the line of the first f-string that only Python 3.12 reads (PEP 701); older
    interpreters refuse it themselves.
    """
    if sys.version_info < (3, 12):
        return None
    open_strings: list[str] = []
    try:
        for token in tokenize.generate_tokens(io.StringIO(text).readline):
            if token.type == tokenize.FSTRING_START:
                quote = token.string.lstrip("rRfFbBuU")
                if any(
                    quote == outer or (len(outer) == 1 and quote[0] == outer)
                    for outer in open_strings
                ):
                    return token.start[0]
                open_strings.append(quote)
            elif token.type == tokenize.FSTRING_END:
                open_strings.pop()
            elif open_strings and token.type == tokenize.STRING:
                quote = token.string.lstrip("rRfFbBuU")[:1]
                if "\\" in token.string or any(
                    outer[0] == quote and len(outer) == 1 for outer in open_strings
                ):
                    return token.start[0]
            elif open_strings and (
                token.type == tokenize.COMMENT
                or (token.type == tokenize.NL and len(open_strings[-1]) == 1)
            ):
                return token.start[0]
    except (tokenize.TokenError, SyntaxError, IndexError):
        return None
    return None


def versions(submission: Submission) -> Finding:
    """All code that runs parses on every supported Python."""
    faults, unknown = [], []
    for source in sources(submission):
        file = source.label.partition("[")[0]
        data = submission.code.texts[file] if source.label == file else source.text.encode()
        for version in VERSIONS:
            problem = syntax_error(data, version)
            if problem and version > sys.version_info[:2]:
                unknown.append(f"{source.label} {problem}")
            elif problem:
                faults.append(
                    f"{source.label} does not parse on {version[0]}.{version[1]}: {problem}"
                )
    if unknown and not faults:
        raise CannotTell(
            f"this Python {sys.version_info[0]}.{sys.version_info[1]} cannot read for a newer one:"
            f" {unknown[0]}"
        )
    names = ", ".join(f"{major}.{minor}" for major, minor in VERSIONS)
    return judged(faults, f"{len(sources(submission))} sources parse on {names}")


def imported(tree: ast.AST) -> Iterator[tuple[str, int, bool]]:
    """Yield (top-level module, line, whether the program goes on without it) of every import."""

    def visit(node: ast.AST, optional: bool):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield alias.name.partition(".")[0], node.lineno, optional
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            yield node.module.partition(".")[0], node.lineno, optional
        elif isinstance(node, ast.Try):
            caught = any(
                handler.type is None or any(name in ast.unparse(handler.type) for name in ABSENCE)
                for handler in node.handlers
            )
            for child in node.body:
                yield from visit(child, optional or caught)
            for child in (*node.handlers, *node.orelse, *node.finalbody):
                yield from visit(child, optional)
        else:
            if (
                isinstance(node, ast.Call)
                and ast.unparse(node.func)
                in ("__import__", "import_module", "importlib.import_module")
                and node.args
            ):
                name = getattr(node.args[0], "value", None)
                if isinstance(name, str) and re.match(r"[A-Za-z_]", name):
                    yield name.partition(".")[0], node.lineno, optional
            for child in ast.iter_child_nodes(node):
                yield from visit(child, optional)

    return visit(tree, False)


def required(submission: Submission) -> tuple[set[str], str]:
    """Return (canonical names that requirements*.txt asks for, everything said in comments, README
    and shell scripts).
    """
    names, said = set(), []
    for file in submission.files:
        lower = PurePosixPath(file).name.lower()
        try:
            if re.fullmatch(r"requirements.*\.txt", lower):
                for line in submission.text(file).splitlines():
                    found = REQUIREMENT.match(line)
                    if found:
                        names.add(canonical(found[1]))
                    else:
                        said.append(line)
            elif lower.endswith((".md", ".sh")):
                said.append(submission.text(file))
        except CannotTell:
            continue
    return names, canonical(" ".join(said))


def imports(submission: Submission) -> Finding:
    """The code imports the standard library, its own modules, and what requirements.txt or the
    challenge's machine give.
    """
    names, said = required(submission)
    local = {
        PurePosixPath(path).parts[0].removesuffix(".py")
        for path in submission.files
        if path.endswith(".py")
    }
    local |= {PurePosixPath(path).stem for path in submission.files if path.endswith(".py")}
    installed = packages_distributions()
    faults, mentioned, optional, used = [], [], [], set()
    for source in sources(submission):
        if source.tree is None:
            raise CannotTell(f"{source.label} does not parse: {source.error}")
        for module, line, skippable in imported(source.tree):
            if module in sys.stdlib_module_names or module in local:
                continue
            named = {
                canonical(DISTRIBUTIONS.get(module, module)),
                *map(canonical, installed.get(module, ())),
            }
            used.add(module)
            if named & names or named & PREINSTALLED or canonical(module) in names:
                continue
            where = f"{module} ({source.label}:{line})"
            if skippable:
                optional.append(where)
            elif any(
                re.search(rf"\b{re.escape(name)}\b", said) for name in (*named, canonical(module))
            ):
                mentioned.append(where)
            else:
                faults.append(where)
    note = f"; used where installed: {', '.join(dict.fromkeys(optional))}" if optional else ""
    if faults:
        return judged([f"not in requirements.txt: {', '.join(dict.fromkeys(faults))}"], "")
    if mentioned:
        raise CannotTell(
            "installed by hand, as README or a comment says, not by requirements.txt:"
            f" {', '.join(dict.fromkeys(mentioned))}"
        )
    return judged([], f"beyond the standard library: {', '.join(sorted(used)) or 'nothing'}{note}")


CHECKS = (
    Check(
        "Python versions",
        "runs",
        versions,
        Explain(
            "All code that runs parses on Python 3.10, 3.11 and 3.12, the versions that the"
            " challenge's machines have had.",
            "f-strings with nested quotes, type parameters and except* that parsed on the author's"
            " machine only.",
            "Write it the older way; the evidence names the version and the line.",
        ),
    ),
    Check(
        "imports",
        "runs",
        imports,
        Explain(
            "Every import is of the standard library, of a file in the folder, of a package that"
            " requirements.txt lists, or of one that the challenge's machine has. An import inside"
            " try ... except ImportError may be missing.",
            "Compressors and attention kernels that were installed on the author's machine alone,"
            " and helper files left out of the folder.",
            "List the package in requirements.txt with its version, or put the helper into the"
            " folder.",
        ),
    ),
)
