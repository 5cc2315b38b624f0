"""The house rules that a machine can check: what imports what, twins, docstrings, short
functions.
"""

import ast
import importlib
import inspect
import re
import subprocess
import sys
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

from harness.packaging import bundle

ROOT = Path(__file__).parent.parent
STANDARD = sys.stdlib_module_names
ALLOWED = {
    "reference": STANDARD | {"numpy", "reference"},
    "fast": STANDARD | {"torch", "numpy", "sentencepiece", "fast", "reference"},
}
LAZY = {"fast/codec.py": {"lz4", "constriction"}}  # only inside the function that needs them
CLASSES = (
    "Parity: bitwise",
    "Parity: algebra + rounding",
    "Parity: algebra",
    "Parity: not a numeric piece",
)
FILES = {half: sorted((ROOT / half).rglob("*.py")) for half in ("reference", "fast", "harness")}
TWINS = sorted(
    {path.stem for path in FILES["reference"]}
    & {path.stem for path in FILES["fast"]} - {"__init__"}
)
MODULES = [path for half in FILES.values() for path in half]
names = {"ids": lambda path: path.relative_to(ROOT).as_posix()}


def imported(tree: ast.AST) -> set[str]:
    """Return the full names of everything imported anywhere under a node; `from a import b` gives a
    and a.b.
    """
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            module = "." * node.level + (node.module or "")
            found |= {module} | {f"{module}.{alias.name}" for alias in node.names}
    return found


def eager(tree: ast.Module) -> set[str]:
    """Return what is imported when the module is: everything outside functions."""
    functions = ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda
    inside = {
        id(inner)
        for node in ast.walk(tree)
        if isinstance(node, functions)
        for inner in ast.walk(node)
    }
    outside = [
        node
        for node in ast.walk(tree)
        if isinstance(node, ast.Import | ast.ImportFrom) and id(node) not in inside
    ]
    return imported(ast.Module(outside, []))


def broken_imports(half: str, file: str, source: str) -> list[str]:
    """Return the imports of a file that the layout forbids."""
    tree = ast.parse(source)
    lazy = LAZY.get(file, set())
    every, at_once = imported(tree), eager(tree)
    bad = [name for name in every if name.startswith(".")]
    if half == "harness":
        return bad
    bad += [name for name in every if name.split(".")[0] not in ALLOWED[half] | lazy]
    bad += [name for name in at_once if name.split(".")[0] in lazy]
    if half == "fast":
        bad += [
            name
            for name in every
            if name.split(".")[0] == "reference" and not name.startswith("reference.recipe")
        ]
    return sorted(set(bad))


def public_functions(module) -> dict:
    """Return {name: function} of the public functions that a module defines itself, and of the
    methods of its classes, named Class.method.
    """
    members = dict(inspect.getmembers(module, inspect.isfunction))
    for label, kind in inspect.getmembers(module, inspect.isclass):
        methods = inspect.getmembers(kind, inspect.isfunction)
        members |= {f"{label}.{name}": method for name, method in methods}
    return {
        name: function
        for name, function in members.items()
        if function.__module__ == module.__name__ and "_" not in (name[0], name.split(".")[-1][0])
    }


def bare(name: str) -> str:
    """Return an argument's name without its shape suffix: a fast function may take a batch where
    the reference takes a row.
    """
    return re.sub("_[A-Z][A-Za-z0-9]*$", "", name)


@pytest.mark.parametrize("path", MODULES, **names)
def test_imports(path):
    assert (
        broken_imports(
            path.relative_to(ROOT).parts[0], path.relative_to(ROOT).as_posix(), path.read_text()
        )
        == []
    )


@pytest.mark.parametrize(
    ("half", "file", "source", "bad"),
    [
        ("reference", "reference/a.py", "import torch", ["torch"]),
        ("reference", "reference/a.py", "from fast import muon", ["fast", "fast.muon"]),
        ("reference", "reference/a.py", "def f():\n    import harness.cli", ["harness.cli"]),
        ("reference", "reference/a.py", "from . import muon", [".", "..muon"]),
        ("fast", "fast/a.py", "from reference import muon", ["reference", "reference.muon"]),
        ("fast", "fast/a.py", "import reference.muon", ["reference.muon"]),
        ("fast", "fast/a.py", "def f():\n    import lz4.frame", ["lz4.frame"]),
        ("fast", "fast/codec.py", "import lz4.frame", ["lz4.frame"]),
        (
            "fast",
            "fast/codec.py",
            "try:\n    import constriction\nexcept ImportError:\n    pass",
            ["constriction"],
        ),
        ("fast", "fast/a.py", "import rich", ["rich"]),
    ],
)
def test_forbidden_imports_are_seen(half, file, source, bad):
    assert broken_imports(half, file, source) == bad


# What harness/ may import inside functions: where, what, why.
LATE = {
    "harness/commands/": {"*"},  # run() loads torch; arguments and --help do without
    "harness/api.py": {"*"},  # the first call loads torch
    "harness/results.py": {"*"},  # so does the first table
    "harness/devices.py": {"torch"},  # a wrong name is answered without
    "harness/cli.py": {"harness"},  # Ctrl-C is answered first
    "harness/command_line.py": {"fast.checkpoint"},  # loads torch
    "harness/ranks.py": {"fast.distributed"},  # loads torch
    "harness/corpus/fineweb.py": {"huggingface_hub"},  # an extra
    "harness/display/figures.py": {"matplotlib"},  # an extra
    "harness/page/": {"matplotlib"},  # an extra
    "harness/records/trackers.py": {"torch.utils.tensorboard", "wandb"},  # extras
    "harness/importers/archive.py": {"compression", "zstandard"},  # one of them may be there
    "harness/lower/": {"triton", "harness.lower"},  # Linux, and a CUDA build of torch
    "harness/corpus/documents.py": {"pydoc_data.topics"},  # left out of some Pythons
    "harness/bench/device.py": {"harness.bench"},  # apart imports it
    "harness/validate/source.py": {"brotli"},  # a submission's, perhaps
    "harness/validate/caller.py": {"numpy", "sentencepiece", "torch"},  # not all scripts need all
}


def imports_in_functions(tree: ast.Module) -> set[str]:
    """Return the modules that functions import."""
    functions = ast.FunctionDef | ast.AsyncFunctionDef
    bodies = [node for node in ast.walk(tree) if isinstance(node, functions)]
    return {
        name
        for body in bodies
        for node in ast.walk(body)
        for name in (
            [alias.name for alias in node.names]
            if isinstance(node, ast.Import)
            else [node.module]
            if isinstance(node, ast.ImportFrom)
            else []
        )
    }


def late(file: str, source: str) -> set[str]:
    """Return the imports inside functions that no line of the table allows."""
    allowed = {name for where, names in LATE.items() if file.startswith(where) for name in names}
    return {
        name
        for name in imports_in_functions(ast.parse(source))
        if not any(word in ("*", name) or name.startswith(f"{word}.") for word in allowed)
    }


@pytest.mark.parametrize("path", FILES["harness"], **names)
def test_the_harness_imports_at_the_top(path):
    assert late(path.relative_to(ROOT).as_posix(), path.read_text()) == set()


def test_a_late_import_is_seen():
    source = "class A:\n    def f(self):\n        import torch.nn\n        from fast import data"
    assert late("harness/evaluation/scoring.py", source) == {"torch.nn", "fast"}
    assert (
        late("harness/display/figures.py", "def f():\n    from matplotlib import pyplot") == set()
    )


# What each part of harness/ (a package or a module) may import of the others; one that is not here,
# nothing. A new word is a decision.
MAY_IMPORT = {
    "__main__": "cli",
    "cli": "command_line interrupts",
    "command_line": "commands errors interrupts ranks",
    "commands": (
        "api bench compression corpus devices display errors evaluation importers packaging page"
        " paths ranks records runs sampling validate"
    ),
    "api": (
        "compression corpus devices display evaluation parity pieces records results runs sampling"
    ),
    "results": "corpus display records runs",
    "bench": "corpus display errors evaluation parity runs",
    "lower": "bench",
    "runs": "compression corpus display evaluation packaging parity records",
    "sampling": "compression corpus",
    "page": "corpus display evaluation records",
    "packaging": "corpus evaluation paths records validate",
    "compression": "bounded corpus display evaluation paths",
    "validate": "bounded display importers paths",
    "evaluation": "corpus display errors paths",
    "records": "display paths",
    "importers": "bounded",
    "bounded": "paths",
    "corpus": "paths",
    "display": "paths",
    "parity": "pieces",
}


def part(name: str) -> str:
    """Return the part of harness/ that a module is of: that of harness.parity.suite and of
    harness.parity is parity.
    """
    return (name.split(".") + [""])[1]


def other_parts(path: Path, source: str) -> set[str]:
    """Return the other parts of harness/ that a module imports."""
    modules = {
        part(name) for name in imported(ast.parse(source)) if name.split(".")[0] == "harness"
    } - {""}
    return modules - {part(".".join(path.with_suffix("").parts))}


@pytest.mark.parametrize("path", FILES["harness"], **names)
def test_parts_of_the_harness_import_what_the_table_says(path):
    place = path.relative_to(ROOT)
    allowed = set(MAY_IMPORT.get(part(".".join(place.with_suffix("").parts)), "").split())
    assert other_parts(place, path.read_text()) - allowed == set()


def test_the_table_of_parts_holds_nothing_unused():
    entered = {}
    for path in FILES["harness"]:
        place = path.relative_to(ROOT)
        entered.setdefault(part(".".join(place.with_suffix("").parts)), set()).update(
            other_parts(place, path.read_text())
        )
    assert {name: set(allowed.split()) for name, allowed in MAY_IMPORT.items()} == {
        name: found for name, found in entered.items() if found
    }


def test_no_part_imports_one_that_imports_it():
    graph = {name: allowed.split() for name, allowed in MAY_IMPORT.items()}
    order = list(TopologicalSorter(graph).static_order())  # CycleError names a cycle
    assert order.index("errors") < order.index("commands")


def test_a_part_that_imports_another_is_seen():
    source = "def f():\n    from harness import cli, parity\n    import harness.parity.suite"
    assert other_parts(Path("harness/corpus/shards.py"), source) == {"cli", "parity"}
    assert other_parts(Path("harness/parity/chain.py"), source) == {"cli"}


def test_only_the_objectives_ask_whether_a_model_is_causal():
    """Everything else asks objective_of(model), but for the rule which fields go together. The
    importers' own flag has the same name.
    """
    asking = {
        (path.relative_to(ROOT).as_posix(), ast.unparse(node))
        for path in MODULES
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Attribute) and node.attr == "causal"
    }
    assert asking == {
        ("reference/objective.py", "model.causal"),
        ("fast/objective.py", "model.causal"),
        ("reference/recipe.py", "model.causal"),
        ("harness/importers/naming.py", "assume.causal"),
    }


def test_allowed_imports_pass():
    assert (
        broken_imports(
            "fast",
            "fast/codec.py",
            "def f():\n    import lz4.frame\n    from constriction import stream",
        )
        == []
    )
    assert (
        broken_imports(
            "fast",
            "fast/a.py",
            "import math\nimport torch.nn.functional as F\nfrom reference.recipe import Model",
        )
        == []
    )
    assert (
        broken_imports(
            "reference", "reference/a.py", "import numpy as np\nfrom reference import philox"
        )
        == []
    )


def test_the_pieces_have_twins():
    assert {
        "philox",
        "masking",
        "transformer",
        "objective",
        "muon",
        "adam",
        "ema",
        "schedule",
        "train",
        "fp8",
        "quantize",
        "container",
        "bytes",
        "likelihood",
        "orders",
        "allot",
        "compensate",
    } <= set(TWINS)


@pytest.mark.parametrize("name", TWINS)
def test_twins_take_the_same_arguments(name):
    slow, quick = (
        public_functions(importlib.import_module(f"{half}.{name}"))
        for half in ("reference", "fast")
    )
    shared = slow.keys() & quick.keys()
    assert shared, f"{name}: no public function has a twin"
    for function in shared:
        expected = list(inspect.signature(slow[function]).parameters.values())
        found = list(inspect.signature(quick[function]).parameters.values())
        label = f"{name}.{function}"
        for by_name in (False, True):
            wanted, given = (
                [(bare(p.name), p.default) for p in all_ if (p.kind is p.KEYWORD_ONLY) is by_name]
                for all_ in (expected, found)
            )
            assert given[: len(wanted)] == wanted, label
        assert all(p.default is not p.empty for p in found[len(expected) :]), (
            f"{label}: an extra argument without a default"
        )


def test_the_modules_of_fast_can_be_joined_in_one_file():
    """No two define the same name, and no local variable has the name of what it hides: what
    maskgolf pack relies on, held for every module.
    """
    modules = {}
    for path in FILES["fast"]:
        name = ".".join(path.relative_to(ROOT).with_suffix("").parts)
        modules[name] = bundle.read_module(name, path.read_text())
    assert "sum_over_ranks" in bundle.meanings(modules)


@pytest.mark.parametrize("path", FILES["fast"], **names)
def test_fast_files_say_their_parity_class(path):
    if path.stem == "__init__":
        assert ast.get_docstring(ast.parse(path.read_text()))
    else:
        assert ast.get_docstring(ast.parse(path.read_text())).startswith(CLASSES)


@pytest.mark.parametrize("path", MODULES, **names)
def test_modules_and_public_functions_have_docstrings(path):
    tree = ast.parse(path.read_text())
    assert ast.get_docstring(tree)
    kinds = ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef
    bare = [
        node.name
        for node in tree.body
        if isinstance(node, kinds) and not node.name.startswith("_") and not ast.get_docstring(node)
    ]
    assert bare == []


@pytest.mark.parametrize("path", MODULES, **names)
def test_functions_are_short(path):
    """Statements are counted, so that the formatter's line breaks do not matter."""
    limit = 26 if path.parent.name == "reference" else 44
    tree = ast.parse(path.read_text())
    functions = [
        node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    ]
    sizes = {
        node.name: sum(isinstance(inner, ast.stmt) for inner in ast.walk(node)) - 1
        for node in functions
    }
    assert {name: size for name, size in sizes.items() if size > limit} == {}


@pytest.mark.parametrize("path", FILES["reference"], **names)
def test_reference_docstrings_are_six_lines_at_most(path):
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.FunctionDef):
            assert len((ast.get_docstring(node) or "").splitlines()) <= 6, node.name


def test_reference_loads_without_torch():
    """An interpreter in which torch cannot be imported imports every reference module."""
    modules = ", ".join(
        f"reference.{path.stem}" for path in FILES["reference"] if path.stem != "__init__"
    )
    code = (
        f"import sys; sys.modules['torch'] = None; import {modules}; print('fast' in sys.modules or"
        " 'harness' in sys.modules)"
    )
    ran = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr
    assert ran.stdout == "False\n"


@pytest.mark.parametrize("path", MODULES, **names)
def test_help_of_a_flag_is_one_line_or_comments(path):
    """tyro keeps the line breaks of a string below a field; it joins the lines of comments above."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ClassDef):
            for field, text in zip(node.body, node.body[1:], strict=False):
                if isinstance(field, ast.AnnAssign) and isinstance(text, ast.Expr):
                    assert text.lineno == text.end_lineno, f"{node.name}, line {text.lineno}"
