"""Which tests execute which lines, measured once and kept until a source changes; and the tests
that can notice a change of one statement.

Two pytest plugins run in processes forked by mutate.py: Recorder measures, Selection runs the tests
of one plan. What a test needs of wider scope than its function (a corpus, a packed folder) is
measured apart. Those of session scope that are folders are kept and handed to later runs as copies,
unless the changed statement had a part in them.
"""

import ast
import hashlib
import json
import resource
import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

import pytest

Lines = dict[str, list[int]]  # of files by absolute path
IMPORT = ""


class Item(NamedTuple):
    """What one test takes and executes itself, and the keys of the fixtures it shares."""

    seconds: float
    lines: Lines
    fixtures: list[str]


class Fixture(NamedTuple):
    """The same of a fixture wider than a test; `paths` are its value where that is one folder or
    several and can be kept, else None.
    """

    seconds: float
    lines: Lines
    fixtures: list[str]
    paths: list[str] | None


class Map(NamedTuple):
    """All tests by node id, and their fixtures by key; IMPORT stands for what no test executes but
    the import of its file.
    """

    tests: dict[str, Item]
    fixtures: dict[str, Fixture]


class Plan(NamedTuple):
    """Tests that can notice a mutant, in the order to run them; what they take in seconds; the
    fixtures that are handed to them: {key: paths}.
    """

    tests: list[str]
    seconds: float
    ready: dict[str, list[str]]

    def files(self, paths: Iterable[Path]) -> list[str]:
        """Return those of some test files that hold its tests."""
        names = {test.partition("::")[0] for test in self.tests}
        return [str(path) for path in paths if any(_is(path, name) for name in names)]


def _processor_seconds() -> float:
    """Return what this process and its ended children have used: not how busy the machine is."""
    used = (resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return sum(usage.ru_utime + usage.ru_stime for usage in used)


def _is(path: Path, name: str) -> bool:
    """Return whether a node id's file is this one."""
    return path.parts[-len(Path(name).parts) :] == Path(name).parts


# What can notice a change


def statement(source: str, line: int) -> tuple[range, bool]:
    """Return (the lines that run the statement of a line, whether importing the module runs it).

    The heading of a function stands for its body: a default or a decorator acts when it is called.
    """
    inside, found = False, ast.parse(source)
    while True:
        blocks = [getattr(found, name, []) for name in ("body", "orelse", "finalbody", "handlers")]
        blocks.append(getattr(found, "cases", []))
        children = [child for block in blocks if isinstance(block, list) for child in block]
        inner = [child for child in children if _first(child) <= line <= _last(child)]
        if not inner:
            break
        inside |= isinstance(found, ast.FunctionDef | ast.AsyncFunctionDef)
        found = inner[0]
    if isinstance(found, ast.Module):
        return range(line, line + 1), True
    whole = isinstance(found, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef)
    body = getattr(found, "body", None) or getattr(found, "cases", None)
    last = _last(found) if whole or not isinstance(body, list) else _first(body[0]) - 1
    return range(_first(found), max(line, last) + 1), not inside


def _first(node: ast.AST) -> int:
    if isinstance(node, ast.match_case):
        return node.pattern.lineno
    return min([node.lineno, *(item.lineno for item in getattr(node, "decorator_list", []))])


def _last(node: ast.AST) -> int:
    return node.body[-1].end_lineno if isinstance(node, ast.match_case) else node.end_lineno


def plan(measured: Map, tests: set[str], path: Path, source: str, line: int, most: float) -> Plan:
    """Return the tests that execute the statement of a line, as many as take `most` seconds
    together: the cheapest, then those that add to the executed lines of the function around it (a
    branch that few tests take is seen before time is up), then the others.

    Of a statement that importing the module runs, all tests of the module can notice a change:
    those that execute nothing of it come last.
    """
    lines, imported = statement(source, line)
    around = set(lines if imported else _function(source, line))
    name = str(path)
    if IMPORT in measured.fixtures:  # a function that is called while modules are imported
        imported |= not set(measured.fixtures[IMPORT].lines.get(name, ())).isdisjoint(lines)

    def runs(entry: Item | Fixture) -> bool:
        return any(number in lines for number in entry.lines.get(name, ()))

    fixtures = {key: entry for key, entry in measured.fixtures.items() if key != IMPORT}
    changed = _dependents(fixtures, {key for key, entry in fixtures.items() if runs(entry)})
    touched = {key for key, entry in fixtures.items() if imported and name in entry.lines}
    suspect = changed | _dependents(fixtures, touched)
    ready = {
        key: entry.paths for key, entry in fixtures.items() if entry.paths and key not in suspect
    }
    ranks = [{}, {}, {}]  # executes the statement, anything of the module, nothing of it: {test: …}
    for test in tests:
        entry = measured.tests[test]
        built = needs(measured, entry) - ready.keys()
        direct = runs(entry) or not changed.isdisjoint(built)
        touches = name in entry.lines or not suspect.isdisjoint(built)
        if direct or imported:
            ranks[0 if direct else 1 if touches else 2][test] = built
    chosen, spent, paid = [], 0.0, set()
    for rank in ranks:
        for test in _ordered(measured, rank, name, around if rank is ranks[0] else None):
            cost = measured.tests[test].seconds
            cost += sum(fixtures[key].seconds for key in rank[test] - paid)
            if spent + cost <= most or not chosen:
                chosen.append(test)
                spent += cost
                paid |= rank[test]
    return Plan(chosen, spent, ready)


def _function(source: str, line: int) -> range:
    """Return the lines of the outermost function around a line, of the class around that, or the
    line itself.
    """
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            if _first(node) <= line <= _last(node):
                return range(_first(node), _last(node) + 1)
    return range(line, line + 1)


def _ordered(
    measured: Map, tests: dict[str, set[str]], name: str, around: set[int] | None
) -> list[str]:
    """Return tests in the order to run them; `around`: lines that they should cover early, None
    for all lines of the module.
    """
    costs = {
        test: measured.tests[test].seconds + sum(measured.fixtures[key].seconds for key in built)
        for test, built in tests.items()
    }
    order = sorted(tests, key=lambda test: (costs[test], test))
    executed = {
        test: {
            number
            for entry in (measured.tests[test], *(measured.fixtures[key] for key in built))
            for number in entry.lines.get(name, ())
            if around is None or number in around
        }
        for test, built in tests.items()
    }
    first, rest = order[:1], order[1:]
    covered = set().union(*(executed[test] for test in first))
    while rest:
        gains = {test: len(executed[test] - covered) / (costs[test] + 0.1) for test in rest}
        best = max(rest, key=gains.get)
        if not gains[best]:
            break
        first.append(best)
        rest.remove(best)
        covered |= executed[best]
    return first + rest


def needs(measured: Map, entry: Item | Fixture) -> set[str]:
    """Return the fixtures that a test needs, those of its fixtures too."""
    found, open_keys = set(), list(entry.fixtures)
    while open_keys:
        key = open_keys.pop()
        if key not in found and key in measured.fixtures:
            found.add(key)
            open_keys += measured.fixtures[key].fixtures
    return found


def _dependents(fixtures: dict[str, Fixture], keys: set[str]) -> set[str]:
    """Return fixtures and all that are made from them."""
    return keys | {
        key
        for key, entry in fixtures.items()
        if not keys.isdisjoint(needs(Map({}, fixtures), entry))
    }


# Kept


class Cache:
    """What was measured of test files, in a folder of its own for each state of the sources."""

    def __init__(self, home: Path, sources: Iterable[Path], measures: list[Path]) -> None:
        """`sources`: the files on which every test may depend; `measures`: folders or files whose
        lines are recorded.
        """
        self.measures = measures
        state = hashlib.sha256()
        for path in sorted(sources):
            state.update(f"{path}\0".encode() + hashlib.sha256(path.read_bytes()).digest())
        self.folder = home / state.hexdigest()[:16]
        for other in home.glob("*") if home.is_dir() else ():
            if other != self.folder:
                shutil.rmtree(other)
        self.folder.mkdir(parents=True, exist_ok=True)

    def place(self, test_file: Path) -> Path:
        """Return where the record of one test file in its present state is."""
        state = hashlib.sha256(test_file.read_bytes()).hexdigest()[:16]
        return self.folder / f"{test_file.stem}-{state}.json"

    def missing(self, test_files: Iterable[Path]) -> list[Path]:
        """Return the test files of which there is no record."""
        return [path for path in test_files if not self.place(path).is_file()]

    def map(self, test_files: Iterable[Path]) -> Map:
        """Return what is recorded of test files."""
        tests = {}
        for path in test_files:
            if self.place(path).is_file():
                tests |= json.loads(self.place(path).read_text())
        return Map({name: Item(*entry) for name, entry in tests.items()}, self.fixtures())

    def fixtures(self) -> dict[str, Fixture]:
        """Return every fixture recorded so far."""
        place = self.folder / "fixtures.json"
        entries = json.loads(place.read_text()) if place.is_file() else {}
        return {key: Fixture(*entry) for key, entry in entries.items()}

    def new_base(self) -> Path:
        """Return a folder that is not there yet, for what the next run makes."""
        count = len(list(self.folder.glob("made*")))
        return self.folder / f"made{count}"

    def keep(self, recorded: Map, test_files: list[Path], base: Path, root: Path) -> None:
        """Add what a run recorded; of what it made in `base`, only fixtures stay."""
        known = self.fixtures()
        fixtures = recorded.fixtures | known
        if IMPORT in known:
            old, new = known[IMPORT].lines, recorded.fixtures[IMPORT].lines
            both = {path: sorted({*old.get(path, ()), *new.get(path, ())}) for path in old | new}
            fixtures[IMPORT] = Fixture(0.0, both, [], None)
        kept = {Path(path) for entry in fixtures.values() for path in entry.paths or ()}
        for made in base.iterdir():
            if not any(path.is_relative_to(made) for path in kept):
                made.unlink() if made.is_symlink() else shutil.rmtree(made)
        (self.folder / "fixtures.json").write_text(json.dumps(fixtures))
        for path in test_files:
            tests = {
                name: entry
                for name, entry in recorded.tests.items()
                if (root / name.partition("::")[0]) == path
            }
            self.place(path).write_text(json.dumps(tests))


# In the forked process


def _key(fixture) -> str:
    """Return the name of a fixture wider than a test, with where it is defined."""
    return f"{fixture.baseid}::{fixture.argname}"


def _shared(definitions: Iterable) -> list[str]:
    return sorted({_key(fixture) for fixture in definitions if fixture.scope != "function"})


class Ready:
    """Hands out copies of kept folders in place of setting up their fixtures."""

    def __init__(self, ready: dict[str, list[str]]) -> None:
        """`ready`: {key of a fixture: paths}."""
        self.ready = ready

    @pytest.hookimpl(tryfirst=True)
    def pytest_fixture_setup(self, fixturedef, request):
        """Return a copy of a kept fixture's value."""
        paths = self.ready.get(_key(fixturedef))
        if paths is None:
            return None
        base = request.config._tmp_path_factory.mktemp("ready")
        copies = []
        for index, path in enumerate(map(Path, paths)):
            copies.append(Path(shutil.copytree(path, base / str(index) / path.name, symlinks=True)))
        value = copies[0] if len(copies) == 1 else tuple(copies)
        fixturedef.cached_result = (value, fixturedef.cache_key(request), None)
        return value


class Recorder:
    """Measures every test that runs: seconds and lines, those of its shared fixtures apart."""

    def __init__(self, measures: list[Path], output: Path) -> None:
        """Write to `output` at the end."""
        import coverage  # the mutate extra

        include = [str(path / "*" if path.is_dir() else path) for path in measures]
        self.measure = coverage.Coverage(data_file=None, config_file=False, include=include)
        self.output = output
        self.fixtures, self.tests = {}, {}
        self.context, self.elsewhere = "", 0.0

    def pytest_sessionstart(self, session):
        """From here on lines are recorded."""
        self.measure.start()

    def _switch(self, context: str) -> str:
        before, self.context = self.context, context
        self.measure.switch_context(context)
        return before

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_protocol(self, item):
        """One test, from setup to teardown; caches of the modules under test are emptied, or only
        the first test to ask would execute what they keep.
        """
        import sys

        for name, module in list(sys.modules.items()):
            if name.partition(".")[0] in ("fast", "harness"):
                for value in list(vars(module).values()):
                    getattr(value, "cache_clear", lambda: None)()
        definitions = item._fixtureinfo.name2fixturedefs
        shared = _shared(definitions[name][-1] for name in item.fixturenames if name in definitions)
        self.elsewhere, start = 0.0, _processor_seconds()
        before = self._switch(item.nodeid)
        result = yield
        self._switch(before)
        seconds = _processor_seconds() - start - self.elsewhere
        self.tests[item.nodeid] = Item(seconds, {}, shared)
        return result

    @pytest.hookimpl(wrapper=True)
    def pytest_fixture_setup(self, fixturedef, request):
        """One fixture, if it is wider than a test."""
        if fixturedef.scope == "function":
            return (yield)
        key, start, elsewhere = _key(fixturedef), _processor_seconds(), self.elsewhere
        before = self._switch(key)
        value = yield
        self._switch(before)
        seconds = _processor_seconds() - start
        self.elsewhere = elsewhere + seconds
        needs = [
            request._get_active_fixturedef(name)
            for name in fixturedef.argnames
            if name != "request"
        ]
        paths = None if fixturedef.params or fixturedef.scope != "session" else _folders(value)
        self.fixtures[key] = Fixture(seconds, {}, _shared(needs), paths)
        return value

    def pytest_sessionfinish(self, session):
        """Write what was recorded."""
        self.measure.stop()
        data = self.measure.get_data()
        self.fixtures[IMPORT] = Fixture(0.0, {}, [], None)
        entries = self.tests | self.fixtures
        for path in sorted(data.measured_files()):
            for line, contexts in data.contexts_by_lineno(path).items():
                for context in contexts:
                    if context in entries:
                        entries[context].lines.setdefault(path, []).append(line)
        self.output.write_text(json.dumps(Map(self.tests, self.fixtures)))


def recorded(output: Path) -> Map:
    """Return what a Recorder wrote."""
    tests, fixtures = json.loads(output.read_text())
    return Map(
        {name: Item(*entry) for name, entry in tests.items()},
        {key: Fixture(*entry) for key, entry in fixtures.items()},
    )


def _folders(value) -> list[str] | None:
    """Return the paths of a fixture's value that is one folder or a tuple of them."""
    values = value if type(value) is tuple else (value,)
    if values and all(isinstance(path, Path) and path.is_dir() for path in values):
        return [str(path) for path in values]
    return None


class Selection(Ready):
    """Runs the tests of a plan in its order, each no longer than ten times what it took."""

    def __init__(self, chosen: Plan, measured: Map) -> None:
        """`measured`: what each test took."""
        super().__init__(chosen.ready)
        self.chosen, self.measured = chosen, measured

    @pytest.hookimpl(trylast=True)
    def pytest_collection_modifyitems(self, items):
        """Keep the tests of the plan."""
        known = {item.nodeid: item for item in items}
        items[:] = [known[test] for test in self.chosen.tests if test in known]
        for item in items:
            entry = self.measured.tests[item.nodeid]
            shared = [self.measured.fixtures[key].seconds for key in needs(self.measured, entry)]
            limit = 10 + 10 * (entry.seconds + sum(shared))
            item.add_marker(pytest.mark.timeout(limit), append=False)
