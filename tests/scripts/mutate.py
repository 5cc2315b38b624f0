"""Whether the property suites notice small wrong changes: `python -m tests.scripts.mutate [PIECE…]`
(a sample of every piece, about 15 minutes).

Each mutant of a fast module runs against that piece's own test files, then test_purity.py, in a
process forked from one that has imported the libraries. The first test that fails kills it, and so
do the limits on time and memory, or not importing. mutants_equivalent.toml lists those that no test
can tell from the original, each with its reason. Exit status 1 below 90 % killed of the others.
"""

import argparse
import gc
import os
import resource
import signal
import sys
import tempfile
import time
import tomllib
from collections.abc import Iterable, Iterator
from importlib import import_module
from importlib.machinery import SourceFileLoader
from importlib.util import spec_from_file_location
from pathlib import Path
from typing import NamedTuple

from tests.scripts.mutants import Mutant, mutants, statements

ROOT = Path(__file__).parents[2]
# One test file, of the same name
ALONE = (
    "philox",
    "masking",
    "muon",
    "adam",
    "ema",
    "schedule",
    "fp8",
    "quantize",
    "orders",
    "bytes",
)
CONTAINER = ("container", "container_damage", "codec")
LIKELIHOOD = (
    "likelihood",
    "likelihood_peeking",
    "likelihood_error_bars",
    "likelihood_batches",
    "sizes",
)
PIECES = {name: (name,) for name in ALONE} | {
    "container": CONTAINER,
    "codec": CONTAINER,
    "sizes": LIKELIHOOD,
    "likelihood": LIKELIHOOD,
    "chain": (*LIKELIHOOD, "chain"),
}
PRELOAD = (
    "torch",
    "numpy",
    "sentencepiece",
    "lz4.block",
    "constriction",
    "ml_dtypes",
    "hypothesis.extra.numpy",
    "tests.support.strategies",
)
OPTIONS = (
    "-x",
    "-q",
    "-o",
    "addopts=",
    "-p",
    "no:cacheprovider",
    "-p",
    "no:benchmark",
    "--tb=short",
    "--hypothesis-profile=mutate",
)
# of pytest's that say something about the mutant: passed, failed, interrupted by an import, broken
# inside
LAST_STATUS = 3
PASS = 0.9
# Bytes of address space beyond what the parent has; a shift by a wrong count asks for more
MEMORY = 8 << 30


class Suite(NamedTuple):
    """A module to change and the test files that must notice."""

    module: str
    path: Path
    tests: tuple[Path, ...]


class Verdict(NamedTuple):
    """One mutant's end: exit status of its tests (negative: a signal) and processor seconds."""

    mutant: Mutant
    status: int
    seconds: float


class _Loader(SourceFileLoader):
    """Loads one module from changed source, under the original's file name."""

    def __init__(self, name: str, path: str, source: str) -> None:
        super().__init__(name, path)
        self.source = source

    def get_code(self, fullname):
        """Compiled from the changed source, past any cache."""
        return compile(self.source, self.path, "exec")


class _Finder:
    """Finds one module before anything else does."""

    def __init__(self, suite: Suite, source: str) -> None:
        self.suite, self.source = suite, source

    def find_spec(self, fullname, path=None, target=None):
        """The changed module's spec, or None for every other name."""
        if fullname != self.suite.module:
            return None
        place = str(self.suite.path)
        return spec_from_file_location(
            fullname, place, loader=_Loader(fullname, place, self.source)
        )


def _child(suite: Suite, source: str, log: Path, seconds: int) -> None:
    """Run the suite against the source in this forked process, and end it."""
    status = 70
    try:
        descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(descriptor, 1)
        os.dup2(descriptor, 2)
        pages = int(Path("/proc/self/statm").read_text().split()[0])
        limit = pages * resource.getpagesize() + MEMORY
        resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
        resource.setrlimit(resource.RLIMIT_CPU, (seconds, seconds))
        gc.disable()
        gc.freeze()  # pytest's own collections need not look at what the parent imported
        sys.meta_path.insert(0, _Finder(suite, source))
        import pytest

        status = int(pytest.main([*OPTIONS, *map(str, suite.tests)]))
    except BaseException as error:
        print(repr(error), file=sys.stderr)
    finally:
        sys.stdout.flush()
        os._exit(status)


def judge(
    suite: Suite, jobs: Iterable[Mutant], workers: int, folder: Path, seconds: int
) -> Iterator[Verdict]:
    """Yield the verdict on each mutant as it comes; a run ends after `seconds` of processor time or
    ten times that on the clock.
    """
    jobs, running, free = iter(jobs), {}, list(range(workers))
    try:
        while True:
            while free and (mutant := next(jobs, None)) is not None:
                slot = free.pop()
                process = os.fork()
                if process == 0:
                    _child(suite, mutant.source, folder / f"{slot}.log", seconds)
                running[process] = (mutant, slot, time.monotonic() + 10 * seconds)
            if not running:
                return
            for process, (mutant, slot, deadline) in list(running.items()):
                ended, status, usage = os.wait4(process, os.WNOHANG)
                if ended:
                    del running[process]
                    free.append(slot)
                    yield Verdict(
                        mutant, os.waitstatus_to_exitcode(status), usage.ru_utime + usage.ru_stime
                    )
                elif time.monotonic() > deadline:
                    os.kill(process, signal.SIGKILL)
            time.sleep(0.02)
    finally:
        for process in running:
            os.kill(process, signal.SIGKILL)


def baseline(suite: Suite, source: str, folder: Path) -> float:
    """Processor seconds of the suite on the unchanged module; it must pass, or every mutant would
    seem killed.
    """
    (verdict,) = judge(suite, [Mutant("none", 0, "", "", source)], 1, folder, 600)
    if verdict.status:
        raise SystemExit(
            f"{suite.module}: its tests fail on the unchanged"
            f" module\n{(folder / '0.log').read_text()[-4000:]}"
        )
    return verdict.seconds


def equivalents() -> list[dict]:
    """The entries of mutants_equivalent.toml: module, operator, before, after, reason."""
    return tomllib.loads(Path(__file__).with_name("mutants_equivalent.toml").read_text())[
        "equivalent"
    ]


def reasons(entries: list[dict], module: str, source: str) -> dict[tuple[str, str, str], str]:
    """{(operator, before, after): reason} of a module's equivalent mutants; an entry whose statement
    is gone is an error.
    """
    known = set(statements(source))
    chosen = [entry for entry in entries if entry["module"] == module]
    for entry in chosen:
        if not entry["reason"] or entry["before"] not in known:
            raise SystemExit(
                f"mutants_equivalent.toml: {module} has no statement {entry['before']!r}, or the"
                " entry gives no reason"
            )
    return {
        (entry["operator"], entry["before"], entry["after"]): entry["reason"] for entry in chosen
    }


def judge_piece(
    suite: Suite, most: int, workers: int, entries: list[dict], folder: Path
) -> dict[str, list[Mutant]]:
    """{killed, equivalent, survived, wrong} of one module, survivors printed; wrong: listed as
    equivalent, yet a test tells it apart.
    """
    source = suite.path.read_text()
    listed = reasons(entries, suite.module, source)
    limit = int(20 + 5 * baseline(suite, source, folder))
    found = {"killed": [], "equivalent": [], "survived": [], "wrong": []}
    for verdict in judge(suite, mutants(source, most, suite.module), workers, folder, limit):
        if verdict.status > LAST_STATUS:
            raise SystemExit(
                f"{suite.module}: the tests ended with status"
                f" {verdict.status}\n{(folder / '0.log').read_text()[-4000:]}"
            )
        same = (verdict.mutant.operator, verdict.mutant.before, verdict.mutant.after) in listed
        kind = (
            ("wrong" if same else "killed")
            if verdict.status
            else ("equivalent" if same else "survived")
        )
        found[kind].append(verdict.mutant)
        if kind in ("survived", "wrong"):
            print(said(kind, suite, verdict.mutant), flush=True)
    return found


def said(kind: str, suite: Suite, mutant: Mutant) -> str:
    """A mutant in words: kind, place, operator, and the statement before and after."""
    lines = [f"{kind}: {suite.path.parent.name}/{suite.path.name}:{mutant.line} {mutant.operator}"]
    for sign, text in (("-", mutant.before), ("+", mutant.after)):
        lines += [f"  {sign} {line}" for line in text.splitlines()]
    return "\n".join(lines)


def row(name: str, found: dict[str, list[Mutant]]) -> str:
    """One line of the table: mutants, killed, equivalent, survived, score."""
    counts = [len(found[kind]) for kind in ("killed", "equivalent", "survived")]
    return f"{name:<12}{sum(counts):>8}{counts[0]:>8}{counts[1]:>12}{counts[2]:>10}{score(found):>8.1%}"


def score(found: dict[str, list[Mutant]]) -> float:
    """Killed over killed and survived; 1 where there are none."""
    killed, survived = len(found["killed"]), len(found["survived"])
    return killed / (killed + survived) if killed + survived else 1.0


def prepare() -> None:
    """Import the libraries once for every process to come; hypothesis draws the same examples for
    every mutant and shrinks none.
    """
    os.environ["OMP_NUM_THREADS"] = "1"
    for name in PRELOAD:
        import_module(name)
    from hypothesis import HealthCheck, Phase, settings

    phases, unchecked = (Phase.explicit, Phase.generate), list(HealthCheck)
    settings.register_profile(
        "mutate",
        deadline=None,
        derandomize=True,
        database=None,
        phases=phases,
        suppress_health_check=unchecked,
    )


def main(arguments: list[str] | None = None) -> int:
    """Judge the pieces, print the survivors as they come, then the table; return the exit
    status.
    """
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("pieces", nargs="*", metavar="PIECE", help=f"default: {' '.join(PIECES)}")
    parser.add_argument("--most", type=int, default=24, help="mutants of each piece")
    parser.add_argument("--workers", type=int, default=os.cpu_count(), help="processes")
    options = parser.parse_args(arguments)
    unknown = sorted(set(options.pieces) - PIECES.keys())
    if unknown or options.most < 1 or options.workers < 1:
        parser.error(
            f"expected pieces among {' '.join(PIECES)}, at least one mutant and one worker, found"
            f" {unknown or options}"
        )
    prepare()
    entries = equivalents()
    total, lines = {"killed": [], "equivalent": [], "survived": [], "wrong": []}, []
    with tempfile.TemporaryDirectory() as folder:
        for name in options.pieces or PIECES:
            tests = tuple(
                ROOT / "tests" / "pieces" / f"test_{test}.py" for test in (*PIECES[name], "purity")
            )
            suite = Suite(f"fast.{name}", ROOT / "fast" / f"{name}.py", tests)
            found = judge_piece(suite, options.most, options.workers, entries, Path(folder))
            lines.append(row(name, found))
            print(lines[-1], flush=True)
            for kind in total:
                total[kind] += found[kind]
    head = f"{'piece':<12}{'mutants':>8}{'killed':>8}{'equivalent':>12}{'survived':>10}{'score':>8}"
    print("", head, *lines, row("all", total), sep="\n")
    return 1 if score(total) < PASS or total["wrong"] else 0


if __name__ == "__main__":
    sys.exit(main())
