"""Whether the tests notice small wrong changes: `python -m tests.scripts.mutate [MODULE…]`.

Each mutant of a module runs against the tests that execute the changed statement, cheapest first,
in a process forked from one that has imported the libraries. The first test that fails kills it, and
so do the limits on time and memory, or not importing. What the tests of one mutant may take together
is bounded (--seconds): a mutant that outlives that has survived. Which tests execute what is
measured once and kept in `.mutation` until a source changes (coverage_map.py).

Tests marked `slow` do not run. A process that a test starts (`python -m harness`, torchrun, the
sandbox) runs unchanged code: only what a test calls in its own process can kill.
mutants_equivalent.toml lists mutants that no test can tell from the original, each with its reason.
Exit status 1 below 90 % killed of the others in all, or below 85 % in one module.
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

from tests.scripts import coverage_map
from tests.scripts.coverage_map import Cache, Map, Plan
from tests.scripts.mutants import Mutant, mutants, statements

ROOT = Path(__file__).parents[2]
CACHE = ROOT / ".mutation"
# Test files under tests/, without test_ and .py, that may notice a change of a module of fast/
CONTAINER = ("pieces/container", "pieces/container_damage", "pieces/codec")
LIKELIHOOD = (
    "pieces/likelihood",
    "pieces/likelihood_peeking",
    "pieces/likelihood_error_bars",
    "pieces/likelihood_batches",
    "pieces/sizes",
)
TRAINING = ("pieces/train", "pieces/resume", "pieces/checkpoint", "pieces/callbacks")
COMMANDS = tuple(
    f"harness/{name}"
    for name in (
        "commands",
        "runs",
        "run_parts",
        "score_parts",
        "run_directory",
        "paired",
        "eval_flags",
        "report",
        "statements",
    )
)
PACKING = ("harness/pack", "harness/bundle", "harness/statements")
VALIDATE = tuple(
    f"validate/{path.stem.removeprefix('test_')}"
    for path in sorted((ROOT / "tests" / "validate").glob("test_*.py"))
)
TESTS = {
    "philox": ("pieces/philox",),
    "masking": ("pieces/masking",),
    "muon": ("pieces/muon",),
    "adam": ("pieces/adam",),
    "ema": ("pieces/ema",),
    "schedule": ("pieces/schedule",),
    "fp8": ("pieces/fp8",),
    "quantize": ("pieces/quantize",),
    "orders": ("pieces/orders",),
    "bytes": ("pieces/bytes",),
    "container": CONTAINER,
    "codec": CONTAINER,
    "sizes": LIKELIHOOD,
    "likelihood": LIKELIHOOD,
    "chain": (*LIKELIHOOD, "pieces/chain"),
    "data": ("pieces/data", "pieces/resume"),
    "distributed": ("pieces/distributed", "pieces/world", "pieces/ranks", *TRAINING),
    "checkpoint": TRAINING,
    "callbacks": (*TRAINING, *COMMANDS),
    "train": TRAINING,
    "evaluate": ("pieces/evaluate", "pieces/device", *COMMANDS),
    "harness.runs": COMMANDS,
    "harness.evaluation.scoring": COMMANDS,
    "harness.evaluation.paired": COMMANDS,
    "harness.evaluation.stats": COMMANDS,
    "harness.evaluation.partial": COMMANDS,
    "harness.packaging.pack": PACKING,
    "harness.packaging.claim": PACKING,
} | {
    ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): VALIDATE
    for path in sorted((ROOT / "harness" / "validate").rglob("*.py"))
    if path.stem != "__init__" or path.parent.name == "validate"
}
PRELOAD = (
    "torch",
    "numpy",
    "sentencepiece",
    "lz4.block",
    "constriction",
    "ml_dtypes",
    "hypothesis.extra.numpy",
    "mpmath",
    "rich.console",
    "safetensors",
    "tyro",
    "tests.support.strategies",
)
OPTIONS = (
    "-x",
    "-q",
    "-o",
    "addopts=",
    "-m",
    "not slow",
    "-p",
    "no:cacheprovider",
    "-p",
    "no:benchmark",
    "--tb=short",
    "--hypothesis-profile=mutate",
)
# of pytest's that say something about the mutant: passed, failed, interrupted by an import, broken
# inside, no conftest.py because of an import
LAST_STATUS = 4
NO_TESTS = 5  # of pytest's: a mutant under which none of its tests is collected outlives them
PASS = 0.9
LEAST = 0.85  # in each module
# Bytes of address space beyond what the parent has; a shift by a wrong count asks for more
MEMORY = 8 << 30


class Suite(NamedTuple):
    """A module to change and the test files that may notice."""

    module: str
    path: Path
    tests: tuple[Path, ...]


class Job(NamedTuple):
    """A mutant and the tests to run against it."""

    mutant: Mutant
    plan: Plan


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
        folder = [str(self.suite.path.parent)] if self.suite.path.stem == "__init__" else None
        return spec_from_file_location(
            fullname,
            place,
            loader=_Loader(fullname, place, self.source),
            submodule_search_locations=folder,
        )


def _child(tests: list[str], plugins: list, log: Path, seconds: int, finder=None) -> None:
    """Run tests with plugins of pytest in this forked process, and end it."""
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
        if finder:
            sys.meta_path.insert(0, finder)
        import pytest

        status = int(pytest.main([*OPTIONS, *tests], plugins))
    except BaseException as error:
        print(repr(error), file=sys.stderr)
    finally:
        sys.stdout.flush()
        os._exit(status)


def _limit(plan: Plan) -> int:
    """Processor seconds that the tests of a plan may take; they have four times that by the
    clock.
    """
    return int(20 + 5 * plan.seconds)


def judge(
    suite: Suite, jobs: Iterable[Job], measured: Map, workers: int, folder: Path
) -> Iterator[Verdict]:
    """Yield the verdict on each mutant as it comes; one that no test executes has survived."""
    jobs, running, free = iter(jobs), {}, list(range(workers))
    try:
        while True:
            while free and (job := next(jobs, None)) is not None:
                if not job.plan.tests:
                    yield Verdict(job.mutant, 0, 0.0)
                    continue
                slot, limit = free.pop(), _limit(job.plan)
                process = os.fork()
                if process == 0:
                    selection = coverage_map.Selection(job.plan, measured)
                    finder = _Finder(suite, job.mutant.source)
                    tests = [*job.plan.files(suite.tests), f"--basetemp={folder / f'made{slot}'}"]
                    _child(tests, [selection], folder / f"{slot}.log", limit, finder)
                running[process] = (job.mutant, slot, time.monotonic() + 4 * limit)
            if not running:
                return
            for process, (mutant, slot, deadline) in list(running.items()):
                ended, status, usage = os.wait4(process, os.WNOHANG)
                if ended:
                    del running[process]
                    free.append(slot)
                    seconds, status = (
                        usage.ru_utime + usage.ru_stime,
                        os.waitstatus_to_exitcode(status),
                    )
                    yield Verdict(mutant, 0 if status == NO_TESTS else status, seconds)
                elif time.monotonic() > deadline:
                    os.kill(process, signal.SIGKILL)
            time.sleep(0.02)
    finally:
        for process in running:
            os.kill(process, signal.SIGKILL)


def measure(cache: Cache, tests: list[Path], root: Path) -> None:
    """Record which test executes what, of every test file of which that is not known. The tests
    must pass, or every mutant would seem killed.
    """
    missing, base = cache.missing(tests), cache.new_base()
    if not missing:
        return
    ready = {key: entry.paths for key, entry in cache.fixtures().items() if entry.paths}
    with tempfile.TemporaryDirectory() as folder:
        output, log = Path(folder) / "recorded.json", Path(folder) / "log"
        process = os.fork()
        if process == 0:
            recorder = coverage_map.Recorder(cache.measures, output)
            plugins = [recorder, coverage_map.Ready(ready)]
            _child([*map(str, missing), f"--basetemp={base}"], plugins, log, 7200)
        _, status = os.waitpid(process, 0)
        if os.waitstatus_to_exitcode(status) not in (0, NO_TESTS):
            raise SystemExit(f"tests fail on the unchanged modules\n{log.read_text()[-4000:]}")
        cache.keep(coverage_map.recorded(output), missing, base, root)


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


def judge_module(
    suite: Suite, options: argparse.Namespace, measured: Map, entries: list[dict], folder: Path
) -> dict[str, list[Mutant]]:
    """{killed, equivalent, survived, wrong} of one module, survivors printed; wrong: listed as
    equivalent, yet a test tells it apart.
    """
    source = suite.path.read_text()
    listed = reasons(entries, suite.module, source)
    names = {str(path.relative_to(ROOT)) for path in suite.tests}
    tests = {test for test in measured.tests if test.partition("::")[0] in names}
    jobs = (
        Job(
            mutant,
            coverage_map.plan(measured, tests, suite.path, source, mutant.line, options.seconds),
        )
        for mutant in mutants(source, options.most, suite.module)
    )
    found = {"killed": [], "equivalent": [], "survived": [], "wrong": []}
    for verdict in judge(suite, jobs, measured, options.workers, folder):
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
    lines = [f"{kind}: {suite.path.relative_to(ROOT)}:{mutant.line} {mutant.operator}"]
    for sign, text in (("-", mutant.before), ("+", mutant.after)):
        lines += [f"  {sign} {line}" for line in text.splitlines()]
    return "\n".join(lines)


def row(name: str, found: dict[str, list[Mutant]]) -> str:
    """One line of the table: mutants, killed, equivalent, survived, score."""
    counts = [len(found[kind]) for kind in ("killed", "equivalent", "survived")]
    return f"{name:<36}{sum(counts):>8}{counts[0]:>8}{counts[1]:>12}{counts[2]:>10}{score(found):>8.1%}"


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


def suite_of(name: str) -> Suite:
    """Return the module of a name in TESTS, and its test files that are there."""
    module = name if name.startswith("harness.") else f"fast.{name}"
    path = ROOT.joinpath(*module.split("."))
    path = path / "__init__.py" if path.is_dir() else path.with_suffix(".py")
    files = [*TESTS[name], *(() if module == name else ("pieces/purity",))]
    places = [ROOT / "tests" / f"{file.replace('/', '/test_')}.py" for file in files]
    return Suite(module, path, tuple(places))


def chosen(names: list[str]) -> list[str]:
    """Return the modules that names stand for: one each, or all of a package; all for none."""
    found = []
    for name in names:
        inside = [known for known in TESTS if f"{known}.".startswith(f"{name}.")]
        if not inside:
            raise SystemExit(f"MODULE: expected some of {' '.join(TESTS)}, found {name}")
        found += [known for known in inside if known not in found]
    return found or list(TESTS)


def sources() -> list[Path]:
    """Return every file on which any test may depend, but for test files and these scripts."""
    places = [ROOT / name for name in ("fast", "harness", "reference", "tests")]
    apart = (ROOT / "tests" / "scripts", ROOT / "tests" / "bugs")
    return [
        path
        for place in places
        for path in place.rglob("*")
        if path.suffix in (".py", ".toml", ".json", ".txt")
        and not path.name.startswith("test_")
        and not any(path.is_relative_to(folder) for folder in apart)
    ]


def main(arguments: list[str] | None = None) -> int:
    """Judge the modules, print the survivors as they come, then the table; return the exit
    status.
    """
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "modules", nargs="*", metavar="MODULE", help=f"or a package; default: {' '.join(TESTS)}"
    )
    parser.add_argument("--most", type=int, default=24, help="mutants of each module")
    parser.add_argument("--seconds", type=float, default=40.0, help="of tests for each mutant")
    parser.add_argument("--workers", type=int, default=os.cpu_count(), help="processes")
    options = parser.parse_args(arguments)
    if options.most < 1 or options.workers < 1 or not options.seconds > 0:
        parser.error(f"expected at least one mutant, one worker and some time, found {options}")
    suites = {name: suite_of(name) for name in chosen(options.modules)}
    prepare()
    entries = equivalents()
    files = list(dict.fromkeys(path for suite in suites.values() for path in suite.tests))
    cache = Cache(CACHE, sources(), [ROOT / "fast", ROOT / "harness"])
    measure(cache, files, ROOT)
    total, lines = {"killed": [], "equivalent": [], "survived": [], "wrong": []}, []
    lowest = 1.0
    with tempfile.TemporaryDirectory() as folder:
        for name, suite in suites.items():
            found = judge_module(suite, options, cache.map(suite.tests), entries, Path(folder))
            lines.append(row(name, found))
            print(lines[-1], flush=True)
            lowest = min(lowest, score(found))
            for kind in total:
                total[kind] += found[kind]
    head = (
        f"{'module':<36}{'mutants':>8}{'killed':>8}{'equivalent':>12}{'survived':>10}{'score':>8}"
    )
    print("", head, *lines, row("all", total), sep="\n")
    return 1 if score(total) < PASS or lowest < LEAST or total["wrong"] else 0


if __name__ == "__main__":
    sys.exit(main())
