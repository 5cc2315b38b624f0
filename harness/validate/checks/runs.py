"""Checks of what the code asks of a machine: a Python version, installed packages; with --run, that
it scores and trains by itself, without network.
"""

import ast
import io
import sys
import tokenize
import warnings
from collections.abc import Iterable
from contextlib import suppress
from functools import lru_cache

from harness.validate import execution
from harness.validate.checks.bytes import code_files, log_sizes
from harness.validate.modules import needed
from harness.validate.source import Source
from harness.validate.submission import Submission
from harness.validate.verdict import Finding, all_of, check, failed, judged, passed, require

Version = tuple[int, int]
VERSIONS: tuple[Version, ...] = ((3, 10), (3, 11), (3, 12))


@lru_cache(maxsize=64)
def _unparsed(data: bytes, version: Version) -> str | None:
    """Return why this interpreter's parser takes a source for no Python of a version."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            ast.parse(data, feature_version=version)
    except SyntaxError as error:
        return f"line {error.lineno}: {error.msg}"
    except (ValueError, RecursionError, MemoryError) as error:
        return f"{type(error).__name__}: {error}"
    return None


def syntax_error(data: bytes, version: Version) -> str | None:
    """Return why a source is no Python of this version, with the line; None if it is."""
    if problem := _unparsed(data, version):
        return problem
    if version >= (3, 12) or sys.version_info < (3, 12):  # older interpreters refuse it themselves
        return None
    line = nested_quotes(data.decode("utf-8", "replace"))
    quotes = "an f-string with its own quotes, a backslash or a comment inside the braces"
    return f"line {line}: {quotes}, which needs 3.12" if line else None


def nested_quotes(text: str) -> int | None:
    """Return the line of the first f-string that only Python 3.12 reads (PEP 701)."""
    quotes: list[str] = []  # of the f-strings that are open
    with suppress(tokenize.TokenError, SyntaxError):
        for token in tokenize.generate_tokens(io.StringIO(text).readline):
            kind, quote = token.type, token.string.lstrip("rRfFbBuU")
            start, string = kind == tokenize.FSTRING_START, kind == tokenize.STRING
            if (
                ((start or string) and any(len(q) == 1 and q == quote[:1] for q in quotes))
                or (start and quote in quotes)
                or (quotes and string and "\\" in token.string)
                or (quotes and kind == tokenize.COMMENT)
                or (quotes and kind == tokenize.NL and len(quotes[-1]) == 1)
            ):
                return token.start[0]
            quotes += [quote] if start else []
            quotes = quotes[:-1] if kind == tokenize.FSTRING_END else quotes
    return None


@check(
    "Python versions",
    "rules",
    caught="f-strings with nested quotes, type parameters and except* that parsed on the author's"
    " machine only.",
    fix="Write it the older way; the evidence names the version and the line.",
)
def versions(submission: Submission) -> Finding:
    """All code that runs parses on the Python that the logs name; where they name none, on 3.10,
    3.11 and 3.12, the versions that the challenge's machines have had. Code whose bytes the logs
    print ran on one of these; nobody can tell on which.
    """
    # a packed folder of ours promises all three
    logs, sources = [] if submission.ours else submission.own_logs, submission.code.required
    named = sorted({version for log in logs for version in log.pythons})
    asked, faults, ran, unread = named or VERSIONS, [], [], []
    for source in sources:
        whole = source.label == source.file
        data = submission.code.texts[source.file] if whole else source.text.encode()
        known, newer = _problems(data, asked)
        told = [f"{source.label} does not parse on 3.{v[1]}: {why}" for v, why in known.items()]
        somewhere = len(known) + len(newer) < len(asked) or any(map(_may_be_newer, newer.values()))
        ran_so = logs and not named and somewhere and _is_logged(submission, source)
        (ran if ran_so else faults).extend(told)
        unread += [f"{source.label} {why}" for why in newer.values()]
    size = "the logs print the bytes of this code, so that it ran, but not on which Python"
    require(faults or not ran, "; ".join([*ran[-1:], size]))
    here = f"this Python 3.{sys.version_info.minor}"
    require(faults or not unread, f"{here} cannot read for a newer one: {', '.join(unread[:1])}")
    versions = ", ".join(f"3.{minor}" for _, minor in asked)
    said = ", on which the logs say that it ran" if named else ""
    return judged(faults, f"{len(sources)} sources parse on {versions}{said}")


def _problems(data: bytes, versions: Iterable[Version]) -> tuple[dict, dict]:
    """Return why a source is no Python of these versions, by version: of those that this Python
    reads, and of newer ones.
    """
    problems = {version: syntax_error(data, version) for version in versions}
    known, newer = {}, {}
    for version, problem in problems.items():
        if problem:
            (newer if version > sys.version_info[:2] else known)[version] = problem
    return known, newer


def _may_be_newer(problem: str) -> bool:
    """Return whether what an older Python says of a source may be syntax of a newer one: strings
    with their own quotes inside the braces.
    """
    return "f-string" in problem


def _is_logged(submission: Submission, source: Source) -> bool:
    """Return whether the logs print the bytes of a source, of the file that it is packed in, or of
    all code, as those that ran.
    """
    sizes = {submission.files[source.file], len(source.text.encode())}
    sizes |= {sum(code_files(submission).values())} if submission.code.entry else set()
    return not sizes.isdisjoint(log_sizes(submission, "code size"))


@check(
    "imports",
    "paperwork",
    caught="Compressors and attention kernels that were installed on the author's machine alone,"
    " and helper files left out of the folder.",
    fix="List the package in requirements.txt with its version, or put the helper into the folder.",
)
def imports(submission: Submission) -> Finding:
    """Every import is of the standard library, of a file in the folder, of a package that
    requirements.txt lists, or of one that the challenge's machine has. An import inside try ...
    except ImportError may be missing.
    """
    missing, mentioned, optional, used = needed(submission)
    if missing:
        return failed(f"not in requirements.txt: {', '.join(missing)}")
    by_hand = "installed by hand, as README or a comment says, not by requirements.txt:"
    require(not mentioned, f"{by_hand} {', '.join(mentioned)}")
    note = f"; used where installed: {', '.join(optional)}" if optional else ""
    return passed(f"beyond the standard library: {', '.join(sorted(used)) or 'nothing'}{note}")


@check(
    "runs alone",
    "rules",
    caught="Scripts that read a file of the author's machine, needed a folder beside them, or"
    " hung.",
    fix="Run it in an empty container: everything it needs is in the folder, DATA_PATH and"
    " TOKENIZER_PATH.",
)
def runs_alone(submission: Submission) -> Finding:
    """With --run: train_gpt.py scores the artifact in a temporary copy of the folder, in a fresh
    process with none of your variables, in time.
    """
    trial = execution.scored(submission)
    fault = execution.problem(submission, trial.ran)
    if not fault and trial.printed:
        return passed(f"scored {trial.printed.tokens:,} tokens in {trial.ran.seconds:.1f} s")
    said = f"no line with val_loss, val_bpb, tokens and bytes: {execution.last_line(trial.ran.out)}"
    return failed(f"{submission.code.entry} --score: {fault or said}")


@check(
    "trains",
    "rules",
    caught="Scripts that were cut down for size after the run and never started again.",
    fix="Start the packed script with ITERATIONS=2 before you submit.",
)
def trains(submission: Submission) -> Finding:
    """With --run: two steps of training run to their end, write the artifact and print its
    score.
    """
    trial, ours = execution.trained(submission), submission.ours
    fault = (
        execution.problem(submission, trial.ran)
        or (ours and not trial.artifact and f"it wrote no {execution.WRITTEN}")
        or (ours and not trial.printed and "it printed no score of the artifact")
    )
    if fault:
        return failed(f"{execution.STEPS} steps of {submission.code.entry}: {fault}")
    losses = ", ".join(loss for _, loss in trial.losses) or "not printed"
    return passed(f"{execution.STEPS} steps in {trial.ran.seconds:.1f} s, training losses {losses}")


def _tried(submission: Submission, kind: str, what: str) -> Finding:
    """Judge what executions tried; those that failed or did not end say nothing good."""
    runs = execution.executions(submission)
    tried = list(dict.fromkeys(note for ran in runs for note in ran.noted(kind)))
    errors = [execution.last_line(ran.err) for ran in runs] if kind == "write" else []
    tried = tried or [error for error in errors if "Read-only file system" in error]
    ended = tried or all(ran.code == 0 for ran in runs)
    require(ended, f"nothing {what} in what was executed, but it did not run to its end")
    fault = tried and f"it {what}: {', '.join(tried[:5])}"
    return judged([fault], f"nothing {what} in {len(runs)} executions")


def no_network(submission: Submission) -> Finding:
    """No execution opens a connection."""
    return _tried(submission, "network", "reached for the network")


def no_writes_outside(submission: Submission) -> Finding:
    """No execution changes a file outside its own folder."""
    return _tried(submission, "write", "wrote outside its folder")


@check(
    "stays inside",
    "rules",
    caught="Scripts that fetch data, kernels or weights while they run or score, or write to the"
    " home folder or to absolute paths of the author's machine.",
    fix="Put what is needed into the folder, or have it fetched before the run; write below the"
    " current folder or to TMPDIR.",
)
def stays_inside(submission: Submission) -> Finding:
    """With --run: no execution opens a connection or changes a file outside its own folder. The
    kernel gives it no network and makes all else read-only; where the system has no namespaces for
    that, nothing is executed. This is a check, not a jail: run code that you do not trust at all in
    a machine of its own.
    """
    return all_of(submission, no_network, no_writes_outside)
