"""The mutation runner on a toy: what a test notices is killed, what none does survives, and neither
loops nor crashes hold it up.
"""

import json

import parso
import pytest

from tests.scripts import coverage_map, mutants, mutate
from tests.scripts.coverage_map import Fixture, Item, Map, Plan

PIECE = (
    "SIDES = 2\n\n\ndef double(x):\n    return x * SIDES\n\n\ndef positive(x):\n    return x > 0\n"
)
TEST = "import toy_piece\n\n\ndef test_double():\n    assert toy_piece.double(3) == 6\n"
DOUBLE = "test_toy.py::test_double"
MEASURED = Map({DOUBLE: Item(0.01, {}, [])}, {})
PLAN = Plan([DOUBLE], 0.01, {})


def mutant(before: str, after: str) -> mutants.Mutant:
    """One changed statement of the toy."""
    assert before in PIECE
    return mutants.Mutant("by hand", 0, before, after, PIECE.replace(before, after))


@pytest.fixture
def toy(tmp_path):
    """The toy piece with the one test file that covers half of it."""
    mutate.prepare()
    for name, text in (("toy_piece.py", PIECE), ("test_toy.py", TEST), ("conftest.py", "")):
        (tmp_path / name).write_text(text)
    return mutate.Suite("toy_piece", tmp_path / "toy_piece.py", (tmp_path / "test_toy.py",))


def test_the_obvious_is_killed_and_the_untested_survives(toy, tmp_path, monkeypatch):
    jobs = [
        mutant("x * SIDES", "x + SIDES"),  # fails the test
        mutant("SIDES = 2", "SIDES = two"),  # does not import
        mutant("return x * SIDES", "while True: x"),  # never ends
        mutant("return x * SIDES", "return len(bytes(1 << 46))"),  # takes more memory than there is
        mutant("x > 0", "x >= 0"),  # nobody looks
    ]
    monkeypatch.setattr(mutate, "_limit", lambda plan: 2)
    planned = [mutate.Job(job, PLAN) for job in jobs]
    planned += [mutate.Job(jobs[0]._replace(after="no test"), Plan([], 0.0, {}))]
    verdicts = {
        verdict.mutant.after: verdict.status
        for verdict in mutate.judge(toy, planned, MEASURED, 2, tmp_path)
    }
    assert verdicts.pop("x >= 0") == verdicts.pop("no test") == 0
    assert len(verdicts) == 4 and all(verdicts.values())


def test_equivalents_are_keyed_by_their_statements():
    key = {"operator": "by hand", "before": "return x > 0", "after": "return x >= 0"}
    entry = {"module": "toy_piece", **key, "reason": "zero is never passed"}
    assert mutate.reasons([entry], "toy_piece", PIECE) == {
        tuple(key.values()): "zero is never passed"
    }
    assert mutate.reasons([entry], "another", PIECE) == {}
    assert mutate.reasons([entry], "toy_piece", PIECE.replace("x > 0", "(x\n   >0)"))
    for stale in ({"before": "return x < 0"}, {"reason": ""}):
        with pytest.raises(SystemExit, match="mutants_equivalent.toml"):
            mutate.reasons([entry | stale], "toy_piece", PIECE)


def test_the_equivalents_are_of_code_that_is_there():
    modules = {mutate.suite_of(name).module: mutate.suite_of(name).path for name in mutate.TESTS}
    entries = mutate.equivalents()
    for module in {entry["module"] for entry in entries}:
        assert mutate.reasons(entries, module, modules[module].read_text())


def test_score_leaves_the_equivalent_out():
    found = {"killed": [1] * 9, "equivalent": [1] * 5, "survived": [1], "wrong": []}
    assert mutate.score(found) == 0.9
    assert mutate.row("toy", found).split() == ["toy", "15", "9", "5", "1", "90.0%"]


@pytest.mark.parametrize(
    ("before", "after", "same"),
    [
        ("def f(x: int | str) -> int: return x", "def f(x: int & str) -> list: return x", True),
        ("def f(x):\n    'words'\n    return x", "def f(x):\n    'others'\n    return x", True),
        ("raise E(f'{n - 1} left')", "raise E(f'{n + 1} left')", True),
        ("def f(x, *, y): return y", "def f(x, /, y): return y", True),
        ("class C:\n    x: int = 1", "class C:\n    x: str = 1", True),
        ("def f(x=1): return x", "def f(x=2): return x", False),
        ("f(x, 'a')", "f(x, 'b')", False),
    ],
)
def test_behaviour_is_what_can_change_a_result(before, after, same):
    assert (mutants.behaviour(before) == mutants.behaviour(after)) == same


def every(operator, source: str) -> list[str]:
    """All that an operator makes of a source."""
    found = []
    while True:
        tree, left = parso.parse(source), len(found)
        nodes = [tree]
        for node in nodes:
            spots = len(list(operator.mutation_positions(node)))
            if left < spots:
                operator.mutate(node, left)
                found.append(tree.get_code())
                break
            left -= spots
            nodes += getattr(node, "children", [])
        else:
            return found


def test_our_operators():
    assert every(mutants.DropKeyword(), "f(a=1)") == ["f()"]
    assert every(mutants.DropKeyword(), "f(x, a=1, b=g(y))") == ["f(x, b=g(y))", "f(x, a=1)"]
    assert every(mutants.DropKeyword(), "f(a=1, b=2)") == ["f( b=2)", "f(a=1)"]
    assert every(mutants.DropKeyword(), "def f(a=1): return f(a)") == []
    assert every(mutants.DropCall(), "x.f(1).g().h") == ["x.g().h", "x.f(1).h"]
    assert every(mutants.DropCall(), "import m\nm.f(1).g()") == ["import m\nm.f(1)"]
    assert every(mutants.DropCall(), "f(x)[0].real") == []


def test_every_module_has_its_test_files():
    for name in mutate.TESTS:
        suite = mutate.suite_of(name)
        assert suite.path.is_file() and all(path.is_file() for path in suite.tests)
    assert mutate.suite_of("fp8").module == "fast.fp8"
    assert mutate.suite_of("harness.validate").path.name == "__init__.py"


def test_a_package_stands_for_its_modules():
    assert mutate.chosen([]) == list(mutate.TESTS)
    assert mutate.chosen(["fp8", "harness.packaging", "fp8"]) == [
        "fp8",
        "harness.packaging.pack",
        "harness.packaging.claim",
    ]
    with pytest.raises(SystemExit, match="found harness.pack$"):
        mutate.chosen(["harness.pack"])


@pytest.mark.parametrize(
    ("before", "after", "changed"),
    [
        ("f(1,\n  2)\ng(3)", "f(1,\n  4)\ng(3)", ("f(1, 2)", "f(1, 4)")),
        ("def f(x):\n  return x", "def f(x):\n  return -x", ("return x", "return -x")),
        (
            "@a\ndef f(x=1): return x",
            "@a\ndef f(x=2): return x",
            ("@a\ndef f(x=1):", "@a\ndef f(x=2):"),
        ),
        ("@a\n@b\ndef f(): g()", "@a\ndef f(): g()", ("@a\n@b\ndef f():", "@a\ndef f():")),
        (
            "if x > 0:\n  g()\nelse:\n  h()",
            "if not x > 0:\n  g()\nelse:\n  h()",
            ("if x > 0:", "if not x > 0:"),
        ),
        ("for i in x:\n  continue", "for i in x:\n  break", ("continue", "break")),
        ("try: f()\nexcept A: g()", "try: f()\nexcept B: g()", ("except A:", "except B:")),
        ("with f(): g()", "with h(): g()", ("with f():", "with h():")),
        (
            "match x:\n  case 1: f()\n  case 2: g(1)",
            "match x:\n  case 1: f()\n  case 2: g(2)",
            ("g(1)", "g(2)"),
        ),
        (
            "match x:\n  case 1 if y: f()",
            "match x:\n  case 1 if z: f()",
            ("match x:\n    case 1 if y:", "match x:\n    case 1 if z:"),
        ),
        ("f(x)", "f( x )", ("", "")),
    ],
)
def test_the_changed_statement_is_told_apart(before, after, changed):
    """Without its body and its layout, so that an entry outlives both."""
    assert mutants._changed(before, after) == changed
    assert changed[0] in ("", *mutants.statements(before))


# Which tests can notice a change


SOURCE = """import a
LIMIT = 3
@named("f",
       b=2)
def f(x, y=1):
    if (x >
            y):
        return g(x,
                 2)
    def inner(z=4):
        return z
    return inner
class C:
    size: int = 2
    def method(self):
        try:
            return 1
        except E:
            return 3
match LIMIT:
    case 3:
        f(1)
"""


@pytest.mark.parametrize(
    ("lines", "executed", "imported"),
    [
        ((1,), (1, 1), True),
        ((2,), (2, 2), True),
        ((3, 4, 5), (3, 12), True),  # a decorator or default stands for the function
        ((6, 7), (6, 7), False),
        ((8, 9), (8, 9), False),
        ((10,), (10, 11), False),
        ((11,), (11, 11), False),
        ((13,), (13, 19), True),
        ((14,), (14, 14), True),
        ((15,), (15, 19), True),
        ((17,), (17, 17), False),
        ((18,), (18, 18), False),
        ((19,), (19, 19), False),
        ((22,), (22, 22), True),
    ],
)
def test_a_line_belongs_to_a_statement(lines, executed, imported):
    for line in lines:
        found, at_import = coverage_map.statement(SOURCE, line)
        assert (found[0], found[-1], at_import) == (*executed, imported), line


def test_of_a_statement_those_tests_run_that_execute_it_the_cheapest_first(tmp_path):
    path, other = tmp_path / "toy_piece.py", tmp_path / "other.py"
    tests = {
        "slow": Item(3.0, {str(path): [2, 5]}, []),
        "quick": Item(1.0, {str(path): [1, 5]}, []),
        "half": Item(0.1, {str(path): [9]}, []),
        "else": Item(0.1, {str(other): [5]}, []),
        "apart": Item(0.1, {str(path): [5]}, []),
    }
    measured, chosen = Map(tests, {}), set(tests) - {"apart"}

    def planned(line, most=40.0):
        found = coverage_map.plan(measured, chosen, path, PIECE, line, most)
        return found.tests, found.seconds

    assert planned(5) == (["quick", "slow"], 4.0)
    assert planned(5, most=3.9) == (["quick"], 1.0)
    assert planned(5, most=0.5) == (["quick"], 1.0)  # one test at least
    assert planned(9) == (["half"], 0.1)
    # A constant: what executes anything of the module, then what executes nothing of it
    assert planned(1)[0] == ["quick", "half", "slow", "else"]
    measured.fixtures[coverage_map.IMPORT] = Fixture(0.0, {str(path): [9]}, [], None)
    assert planned(9)[0] == ["half", "quick", "slow", "else"]  # called by an import
    assert planned(5)[0] == ["quick", "slow"]


def test_what_a_changed_statement_made_is_not_handed_out(tmp_path):
    path = str(tmp_path / "toy_piece.py")
    fixtures = {
        "corpus": Fixture(5.0, {path: [5]}, [], ["/made/corpus"]),
        "packed": Fixture(9.0, {}, ["corpus"], ["/made/a", "/made/b"]),
        "judged": Fixture(2.0, {}, ["packed"], None),
    }
    tests = {
        "one": Item(1.0, {}, ["packed"]),
        "two": Item(0.5, {path: [9]}, ["packed", "judged"]),
    }

    def planned(line):
        plan = coverage_map.plan(
            Map(tests, fixtures), set(tests), tmp_path / "toy_piece.py", PIECE, line, 40.0
        )
        return plan.tests, plan.seconds, sorted(plan.ready)

    assert planned(9) == (["two"], 2.5, ["corpus", "packed"])
    assert planned(5) == (["one", "two"], 5 + 9 + 2 + 1.5, [])


CONFTEST = """
import pytest, pathlib, toy_piece

@pytest.fixture(scope="session")
def made(tmp_path_factory):
    folder = tmp_path_factory.mktemp("folder")
    (folder / "number").write_text(str(toy_piece.double(4)))
    return folder

@pytest.fixture(scope="session")
def twice(made):
    return int((made / "number").read_text()) * 2
"""
WIDER = (
    TEST
    + """
def test_made(made, tmp_path):
    assert (made / "number").read_text() == "8"
    assert not (made / "spoiled").exists()
    (made / "spoiled").touch()

def test_positive(twice):
    assert toy_piece.positive(twice)
"""
)


def test_lines_and_fixtures_are_recorded_once_and_handed_out(toy, tmp_path, monkeypatch):
    """From the first measurement to the verdicts of a package of three tests."""
    pytest.importorskip("coverage", reason="of the mutate extra")
    (tmp_path / "conftest.py").write_text(CONFTEST)
    (tmp_path / "test_toy.py").write_text(WIDER)
    home, files = tmp_path / "kept", list(toy.tests)
    sources = [toy.path, tmp_path / "conftest.py"]

    def cache():
        return coverage_map.Cache(home, sources, [toy.path])

    assert cache().missing(files) == files
    mutate.measure(cache(), files, tmp_path)
    measured, path = cache().map(files), str(toy.path)
    lines = {name.partition("::")[2]: test.lines for name, test in measured.tests.items()}
    assert lines == {"test_double": {path: [5]}, "test_made": {}, "test_positive": {path: [9]}}
    fixtures = {key.partition("::")[2]: entry for key, entry in measured.fixtures.items()}
    assert fixtures["made"].lines == {path: [5]} and fixtures["twice"].paths is None
    assert [json.loads((home / p / "number").read_text()) for p in fixtures["made"].paths] == [8]
    assert cache().missing(files) == []

    verdicts = {}
    for before, after, line in (
        ("x * SIDES", "x + SIDES", 5),
        ("x > 0", "x < 0", 9),
        ("x > 0", "x > 1", 9),
    ):
        plan = coverage_map.plan(measured, set(measured.tests), toy.path, PIECE, line, 40.0)
        job = mutate.Job(mutant(before, after), plan)
        [verdict] = mutate.judge(toy, [job], measured, 1, tmp_path)
        verdicts[after] = len(plan.tests), verdict.status
    assert verdicts == {"x + SIDES": (3, 1), "x < 0": (1, 1), "x > 1": (1, 0)}

    (tmp_path / "test_toy.py").write_text(TEST.replace("== 6", "== 7"))
    assert cache().missing(files) == files
    with pytest.raises(SystemExit, match="tests fail on the unchanged modules"):
        mutate.measure(cache(), files, tmp_path)
    toy.path.write_text(PIECE + "\n")
    assert cache().map(files) == Map({}, {}) and len(list(home.iterdir())) == 1
