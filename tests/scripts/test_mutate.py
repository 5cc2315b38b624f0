"""The mutation runner on a toy: what a test notices is killed, what none does survives, and neither
loops nor crashes hold it up.
"""

import parso
import pytest

from tests.scripts import mutants, mutate

PIECE = (
    "SIDES = 2\n\n\ndef double(x):\n    return x * SIDES\n\n\ndef positive(x):\n    return x > 0\n"
)
TEST = "import toy_piece\n\n\ndef test_double():\n    assert toy_piece.double(3) == 6\n"


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


def test_the_obvious_is_killed_and_the_untested_survives(toy, tmp_path):
    jobs = [
        mutant("x * SIDES", "x + SIDES"),  # fails the test
        mutant("SIDES = 2", "SIDES = two"),  # does not import
        mutant("return x * SIDES", "while True: x"),  # never ends
        mutant("return x * SIDES", "return len(bytes(1 << 46))"),  # takes more memory than there is
        mutant("x > 0", "x >= 0"),  # nobody looks
    ]
    verdicts = {
        verdict.mutant.after: verdict.status for verdict in mutate.judge(toy, jobs, 2, tmp_path, 2)
    }
    assert verdicts.pop("x >= 0") == 0
    assert len(verdicts) == 4 and all(verdicts.values())


def test_tests_that_fail_on_the_unchanged_module_stop_the_run(toy, tmp_path):
    assert mutate.baseline(toy, PIECE, tmp_path) > 0
    with pytest.raises(SystemExit, match="toy_piece: its tests fail on the unchanged module"):
        mutate.baseline(toy, PIECE.replace("2", "3"), tmp_path)


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
    for module in {entry["module"] for entry in mutate.equivalents()}:
        source = (mutate.ROOT / "fast" / f"{module.removeprefix('fast.')}.py").read_text()
        assert mutate.reasons(mutate.equivalents(), module, source)


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
    for name, suite in mutate.PIECES.items():
        assert (mutate.ROOT / "fast" / f"{name}.py").is_file()
        assert all(
            (mutate.ROOT / "tests" / "pieces" / f"test_{test}.py").is_file() for test in suite
        )


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
        ("f(x)", "f( x )", ("", "")),
    ],
)
def test_the_changed_statement_is_told_apart(before, after, changed):
    """Without its body and its layout, so that an entry outlives both."""
    assert mutants._changed(before, after) == changed
    assert changed[0] in ("", *mutants.statements(before))
