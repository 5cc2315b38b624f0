"""The one-file train_gpt.py: it computes what fast computes, to the last bit; it stands alone;
names survive being made flat.
"""

import ast
import importlib.util
import os
import re
import subprocess
import sys
import textwrap
from dataclasses import asdict, replace
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch

import fast.artifact
import fast.data
import fast.evaluate
import fast.likelihood
import fast.ship.submission
import fast.train
import fast.transformer
from fast.bytes import ByteTable
from fast.data import Windows, windows_of
from harness.corpus.sources import Source
from harness.evaluation import scoring
from harness.packaging import bundle
from harness.packaging.names import asked, compiled
from reference.recipe import TINY, Recipe

RUN = replace(
    TINY,
    seed=7,
    model=replace(TINY.model, vocab=400),
    training=replace(TINY.training, iterations=6, warmdown=4),
    ema=replace(TINY.ema, start=0.3),
)
VARIABLES = {"SEED": "5", "ITERATIONS": "8", "RUN_ID": "here"}
AFTER_310 = {
    "tomllib",
    "StrEnum",
    "Self",
    "file_digest",
    "ExceptionGroup",
    "TaskGroup",
    "add_note",
    "UTC",
    "exp2",
    "cbrt",
    "batched",
    "override",
}


@pytest.fixture(scope="module")
def script(tmp_path_factory) -> Path:
    """Return train_gpt.py of the tiny run."""
    path = tmp_path_factory.mktemp("bundle") / "train_gpt.py"
    path.write_text(bundle.build(RUN, "zlib"))
    return path


@pytest.fixture(scope="module")
def flat(script) -> ModuleType:
    """Return the program, loaded and not run."""
    spec = importlib.util.spec_from_file_location("flat_train_gpt", script)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def batch(step, rows):
    """Return windows that depend on step and row alone; row 0 of step 0 starts the stream."""
    windows = [np.random.default_rng([step, int(row)]).integers(0, 400, 9) for row in rows]
    if step == 0 and 0 in rows:
        windows[0][0] = -1
    return windows_of(np.stack(windows))


def same(one: dict, other: dict) -> bool:
    """Return whether two sets of tensors are equal bit for bit."""
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def environment(corpus, **variables) -> dict:
    """Return the challenge's variables for a small corpus."""
    shards, tokenizer = next(corpus.glob("datasets/*")), next(corpus.glob("tokenizers/*.model"))
    return {"DATA_PATH": str(shards), "TOKENIZER_PATH": str(tokenizer)} | variables


def alone(folder: Path, environ: dict, *arguments: str) -> subprocess.CompletedProcess:
    """Run train_gpt.py of a folder in a fresh, isolated process in which none of our packages can
    be imported.
    """
    without = "import runpy, sys; sys.modules |= dict.fromkeys(('fast', 'reference', 'harness'))"
    program = f"{without}; runpy.run_path('train_gpt.py', run_name='__main__')"
    kept = {
        name: value
        for name, value in os.environ.items()
        if name in ("PATH", "HOME", "OMP_NUM_THREADS", "TMPDIR")
    }
    return subprocess.run(
        [sys.executable, "-I", "-c", program, *arguments],
        cwd=folder,
        env=kept | environ,
        capture_output=True,
        text=True,
    )


def test_recipe_is_the_runs_own(flat):
    assert asdict(flat.RECIPE) == asdict(RUN) and flat.CODEC == "zlib"


def test_forward_and_loss_are_bit_for_bit_those_of_fast(flat):
    recipe, windows = flat.RECIPE, tuple(map(torch.from_numpy, batch(1, range(4))))
    params, twin = (
        fast.transformer.initialize(RUN.model, 7),
        flat.initialize(recipe.model, 7),
    )
    assert same(params, twin)
    noisy = {
        name: value + 0.1 * torch.randn(value.shape, generator=torch.Generator().manual_seed(1))
        for name, value in params.items()
    }
    forward = flat.forward
    assert torch.equal(
        fast.transformer.forward(noisy, windows[0], RUN.model),
        forward(noisy, windows[0], recipe.model),
    )
    expected = fast.train.batch_loss(noisy, windows, 1, torch.arange(4), RUN)
    assert (
        torch.equal(expected, flat.batch_loss(noisy, windows, 1, torch.arange(4), recipe))
        and expected > 1
    )


def test_training_is_bit_for_bit_that_of_fast(flat):
    expected, losses = fast.train.train(batch, RUN)
    found, again = flat.train(batch, flat.RECIPE)
    assert losses == again and len(losses) == 6
    assert all(same(group, found.tensors()[name]) for name, group in expected.tensors().items())
    assert (
        (found.multiplier, found.ema_started_step)
        == (expected.multiplier, expected.ema_started_step)
        == (0.25, 2)
    )


def test_artifact_is_byte_for_byte_that_of_fast(flat, tmp_path):
    params = fast.transformer.initialize(RUN.model, 7)
    fast.artifact.write(tmp_path / "a.mgolf", params, RUN, {"tokenizer_sha256": "0" * 64}, "zlib")
    flat.write(
        tmp_path / "b.mgolf",
        params,
        flat.RECIPE,
        {"tokenizer_sha256": "0" * 64},
        "zlib",
    )
    assert (tmp_path / "a.mgolf").read_bytes() == (tmp_path / "b.mgolf").read_bytes()
    header, read = flat.read(tmp_path / "a.mgolf")
    assert same(read, fast.artifact.read(tmp_path / "a.mgolf")[1]) and asdict(
        flat.recipe_of(header)
    ) == asdict(RUN)


def test_scores_are_those_of_fast(flat):
    rng = np.random.default_rng(3)
    table = (rng.integers(1, 5, 400), rng.random(400) < 0.3, np.zeros(400, bool))
    windows = (rng.integers(0, 400, (6, 8)), rng.integers(0, 400, 6))
    params = {
        name: value + 0.1 for name, value in fast.transformer.initialize(RUN.model, 7).items()
    }
    expected = fast.evaluate.evaluate(
        fast.evaluate.predictor(params, RUN), [Windows(*windows)], ByteTable(*table)
    )
    predict = flat.predictor(params, flat.RECIPE)
    found = flat.evaluate(predict, [flat.Windows(*windows)], flat.ByteTable(*table))
    assert found[:-1] == expected[:-1] and found.bpb > 0  # all but the seconds


def test_file_is_readable_text(script):
    """What a reviewer sees: one file, docstrings and comments kept, the recipe in plain values,
    nothing hidden, no word of our packages.
    """
    text = script.read_text()
    tree = ast.parse(text, feature_version=(3, 10))
    imports = [node for node in ast.walk(tree) if isinstance(node, ast.Import | ast.ImportFrom)]
    tops = {
        (getattr(node, "module", None) or node.names[0].name).partition(".")[0] for node in imports
    }
    assert tops - set(sys.stdlib_module_names) == {"torch", "numpy", "sentencepiece"}
    used = asked(compiled(text))
    assert (
        {"print", "len"} <= used
        and not used & {"exec", "eval", "compile", "__import__"}
        and "base64" not in text
    )
    names = {node.id for node in ast.walk(tree) if isinstance(node, ast.Name)}
    attributes = {node.attr for node in ast.walk(tree) if isinstance(node, ast.Attribute)}
    assert not (names | attributes) & AFTER_310
    functions = [
        node
        for node in tree.body
        if isinstance(node, ast.FunctionDef | ast.ClassDef) and not node.name.startswith("_")
    ]
    assert len(functions) > 100 and all(ast.get_docstring(node) for node in functions)
    assert "    # where, not a product: an unmasked position may hold -inf.\n" in text
    assert "\n    seed=7,\n" in text and "\n        muon_lr=0.02,\n" in text
    assert max(map(len, text.splitlines())) < 200


def test_only_what_is_reached_is_there(script):
    defined = {
        node.name
        for node in ast.parse(script.read_text()).body
        if isinstance(node, ast.FunctionDef)
    }
    assert {"choose_format", "initialize", "main"} <= defined
    assert not any("write_shard" in name or "train_step" in name for name in defined)
    assert "GOLF = " not in script.read_text()


def test_the_same_recipe_gives_the_same_text():
    """In another process too, whatever its string hashes."""
    imports = (
        "import hashlib; from harness.packaging import bundle; from reference.recipe import TINY"
    )
    command = [
        sys.executable,
        "-c",
        f"{imports}; print(hashlib.sha256(bundle.build(TINY).encode()).hexdigest())",
    ]
    sums = {
        subprocess.run(
            command,
            cwd=bundle.ROOT,
            env=os.environ | {"PYTHONHASHSEED": seed},
            capture_output=True,
            text=True,
        ).stdout
        for seed in ("1", "2")
    }
    assert len(sums) == 1 and len(sums.pop()) == 65


def test_packed_script_scores_its_artifact_alone(packed, corpus, tmp_path):
    """In a folder of its own, a fresh isolated process prints the score that is claimed, to eight
    places.
    """
    for name in ("train_gpt.py", "final_model.mgolf"):
        (tmp_path / name).write_bytes((packed / name).read_bytes())
    done = alone(tmp_path, environment(corpus), "--score", "final_model.mgolf")
    assert done.returncode == 0 and not done.stderr, done.stderr
    claimed = (packed / "train_seed1.log").read_text().splitlines()[-1]
    last = done.stdout.splitlines()[-1]
    assert last == claimed
    assert f"Code size: {(packed / 'train_gpt.py').stat().st_size} bytes" in done.stdout


@pytest.fixture(scope="module")
def trained(packed, corpus, tmp_path_factory) -> Path:
    """Return a folder in which nothing but the packed train_gpt.py lay, and which it has trained
    in, alone.
    """
    folder = tmp_path_factory.mktemp("alone")
    (folder / "train_gpt.py").write_bytes((packed / "train_gpt.py").read_bytes())
    done = alone(folder, environment(corpus, **VARIABLES))
    assert done.returncode == 0 and not done.stderr, done.stderr
    assert done.stdout == (folder / "logs" / "here.txt").read_text()
    return folder


def test_packed_script_trains_alone_and_ships_what_maskgolf_scores(trained, corpus):
    assert {path.name for path in trained.iterdir()} == {
        "train_gpt.py",
        "final_model.mgolf",
        "logs",
    }
    text = (trained / "logs" / "here.txt").read_text()
    assert (
        "\nseed:5\n" in text
        and "step:8/8 train_loss:" in text
        and "final_lr_multiplier:0.05000000" in text
    )
    header, _ = fast.artifact.read(trained / "final_model.mgolf")
    assert header["recipe"]["seed"] == 5 and header["recipe"]["training"]["iterations"] == 8
    fresh = scoring.score(
        trained / "final_model.mgolf", Source(corpus), scoring.Estimate(), compiled=False
    )
    last = text.splitlines()[-1]
    assert (
        f"val_loss:{fresh['nats_per_token']:.8f} val_bpb:{fresh['bpb']:.8f}"
        f" stderr_masks:{fresh['stderr_masks']:.8f}" in last
    )
    assert f"tokens:{fresh['tokens']} bytes:{fresh['bytes']} estimator:nelbo" in last


def test_two_processes_train_the_same_model_and_share_its_score(trained, corpus, tmp_path):
    """Under torchrun: one process's artifact byte for byte, one log, and the score up to float32's
    rounding in batches of other shapes.
    """
    (tmp_path / "train_gpt.py").write_bytes((trained / "train_gpt.py").read_bytes())
    environ = {
        name: value for name, value in os.environ.items() if name != "PYTHONPATH"
    } | environment(corpus, **VARIABLES)
    command = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--standalone",
        "--nproc_per_node=2",
        "train_gpt.py",
    ]
    done = subprocess.run(command, cwd=tmp_path, env=environ, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    logs = [(folder / "logs" / "here.txt").read_text() for folder in (trained, tmp_path)]
    assert logs[1] == done.stdout and "2 x 1 threads" in logs[1]
    assert (tmp_path / "final_model.mgolf").read_bytes() == (
        trained / "final_model.mgolf"
    ).read_bytes()
    losses = [re.findall(r"train_loss:\S+", log) for log in logs]
    assert losses[0] == losses[1] and len(losses[0]) == 8
    one, two = (
        {name: float(value) for name, value in re.findall(r"(\w+):([\d.]+)", log.splitlines()[-1])}
        for log in logs
    )
    assert two == pytest.approx(one, rel=1e-6, abs=2e-8) and len(one) == 6


@pytest.fixture
def program(monkeypatch, corpus, tmp_path, capsys):
    """Return a function that runs the program here with some variables, and gives (exit code,
    stdout, stderr).
    """
    monkeypatch.setattr(fast.ship.submission, "RECIPE", RUN)
    monkeypatch.chdir(tmp_path)

    def run(*arguments, **variables):
        for name, value in (environment(corpus) | variables).items():
            monkeypatch.setenv(name, value)
        code = fast.ship.submission.main(list(arguments))
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return run


def test_the_average_ships(program, monkeypatch, tmp_path):
    states, plain = [], fast.ship.submission.train_model

    def watched(*arguments):
        states.append(plain(*arguments))
        return states[0]

    monkeypatch.setattr(fast.ship.submission, "train_model", watched)
    code, _, err = program()
    assert code == 0 and not err
    sha = fast.artifact.read(tmp_path / "final_model.mgolf")[0]["tokenizer_sha256"]
    fast.artifact.write(
        tmp_path / "expected",
        states[0].shadow,
        RUN,
        {"tokenizer_sha256": sha},
    )
    assert (tmp_path / "final_model.mgolf").read_bytes() == (tmp_path / "expected").read_bytes()


def test_a_program_scores_every_window(program, corpus, tmp_path):
    """Every token of the split, the last short window's too; nobody's zeros among them."""
    program()
    code, out, _ = program("--score", "final_model.mgolf")
    tokens = fast.data.Tokens(fast.data.find_layout(corpus).validation)
    fresh = scoring.score(
        tmp_path / "final_model.mgolf", Source(corpus), scoring.Estimate(), compiled=False
    )
    assert (
        code == 0
        and len(tokens) % 8
        and f" val_bpb:{fresh['bpb']:.8f} " in out
        and f" tokens:{len(tokens)} " in out
    )


def test_clock_binds_and_the_log_says_so(program, tmp_path):
    code, out, err = program(ITERATIONS="100000", MAX_WALLCLOCK_SECONDS="0.5")
    assert code == 0 and not err
    steps = int(re.search(r"^steps:(\d+) ", out, re.M)[1])
    assert 1 <= steps < 100_000 and re.search(
        rf"^stopping_early: wallclock_cap train_time:\d+ms step:{steps}/100000$", out, re.M
    )
    assert (tmp_path / "logs" / "train_seed7.txt").read_text() == out


def test_causal_runs_are_scored_by_their_exact_pass(program, monkeypatch):
    monkeypatch.setattr(
        fast.ship.submission, "RECIPE", replace(RUN, model=replace(RUN.model, causal=True))
    )
    code, out, err = program()
    assert (
        code == 0
        and not err
        and out.splitlines()[-1].endswith("estimator:causal")
        and "stderr_masks:0.00000000" in out
    )


@pytest.mark.parametrize(
    ("variables", "said"),
    [
        ({"ITERATIONS": "many"}, "ITERATIONS: expected a whole number, found 'many'"),
        ({"ITERATIONS": "0"}, "training.iterations must be at least 1"),
        ({"SEED": "-1"}, "seed must lie in 0 ... 2**64 - 1"),
        (
            {"MAX_WALLCLOCK_SECONDS": "nan"},
            "training.max_wallclock_seconds must not be negative nor infinite",
        ),
        ({"RUN_ID": "../up"}, "RUN_ID: expected a file name"),
        (
            {"DATA_PATH": "/nothing/here"},
            "data /nothing/here: expected a directory of shards, found nothing",
        ),
        (
            {"TOKENIZER_PATH": "/nothing/here"},
            "tokenizer /nothing/here: expected a readable SentencePiece model",
        ),
    ],
)
def test_bad_input_is_one_message_and_leaves_nothing(program, tmp_path, variables, said):
    code, out, err = program(**variables)
    assert code == 2 and said in err and len(err.splitlines()) == 1 and not out
    assert not any(tmp_path.iterdir())


def test_bad_artifacts_are_one_message(program, packed, tmp_path):
    (tmp_path / "cut.mgolf").write_bytes((packed / "final_model.mgolf").read_bytes()[:-5])
    for name, said in (
        ("absent.mgolf", "expected a readable artifact, found none"),
        ("cut.mgolf", "the file is cut off or damaged"),
    ):
        code, out, err = program("--score", name)
        assert code == 2 and said in err and name in err and len(err.splitlines()) == 1 and not out


def test_a_diverging_run_ends_with_its_step(program, monkeypatch):
    monkeypatch.setattr(
        fast.ship.submission,
        "RECIPE",
        replace(RUN, optimizer=replace(RUN.optimizer, embedding_lr=1e38)),
    )
    code, _, err = program()
    assert code == 1 and re.search(r"step \d+: .* is not finite", err)


def test_an_interrupted_run_says_so(program, monkeypatch):
    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(fast.ship.submission, "train_model", interrupted)
    code, _, err = program()
    assert code == 130 and err == "submission.py: interrupted\n"


@pytest.mark.parametrize(
    ("source", "names"),
    [
        ("def f(a, *b, c=one, **d):\n    return a + b + c + d + two", ["one", "two"]),
        (
            "def f():\n    a = one\n    def g():\n        return a, two\n    return g",
            ["one", "two"],
        ),
        (
            "def f():\n    a = 0\n    def g():\n        nonlocal a\n        a += one\n    return g",
            ["one"],
        ),
        ("f = [a for a in a if a]", ["a"]),
        ("f = {a: b for a in one for b in a}", ["one"]),
        ("f = lambda a, b=b: a + b + c", ["b", "c"]),
        (
            "class C:\n    a = a\n    b: one = two\n    def g(self, b=b):\n        return b",
            ["a", "one", "two"],
        ),
        ("class C:\n    a = one\n    b = a\n    def g(self):\n        return a", ["one", "a"]),
        ("@one\ndef f(a: two) -> three:\n    pass", ["two", "one", "three"]),
        (
            (
                "def f():\n    try:\n        pass\n    except one as error:\n        raise two from"
                " error"
            ),
            ["one", "two"],
        ),
        (
            (
                "def f(x):\n    match x:\n        case {'a': a, **rest}:\n            return a,"
                " rest, one"
            ),
            ["one"],
        ),
        (
            "def f():\n    if (a := one):\n        return [b := 1 for _ in two], a, b",
            ["one", "two"],
        ),
        ("def f():\n    import a.b\n    from c import d as e\n    return a, e, d", ["d"]),
        (
            (
                "def f():\n    for a, (b, *c) in one:\n        with two as d:\n            del a,"
                " b, c, d"
            ),
            ["one", "two"],
        ),
    ],
)
def test_names_asked_follow_the_scopes_of_python(source, names):
    assert asked(compiled(source)) - {"__name__", "__annotations__"} == set(names)


def assembled(**modules: str) -> dict:
    """Return the names of the one file that small modules make, run; `entry` is where it starts."""
    sources = {
        f"fast.{name}": textwrap.dedent(source)
        for name, source in modules.items()
        if name != "entry"
    }
    sources[bundle.ENTRY] = textwrap.dedent(modules["entry"])
    text = bundle.assemble(bundle.read_modules(sources))
    values = {"__name__": "flat"}
    exec(compile(text, "flat", "exec"), values)
    return values | {"text": text}


def test_names_of_modules_become_names_of_the_file():
    flat = assembled(
        first=(
            "import math\n\nSIZE = 3\n\n\ndef area(size=SIZE):\n    return size * math.floor(1.5)\n"
        ),
        second=(
            "from fast import first\n\nWIDTH = 5\n\n\ndef volume(first_size):\n    size ="
            " first.area(first_size)\n    return size + WIDTH + first.SIZE\n"
        ),
        entry="""
            from fast import first, second as other

            result = [first.area(), other.volume(2), f'{first.SIZE} first.SIZE {other.WIDTH:{first.SIZE}}']
            words = "first.SIZE", {first.SIZE: "{first.SIZE}"}  # first.SIZE

            print(result, words)
        """,
    )
    assert flat["result"] == [3, 10, "3 first.SIZE   5"]
    assert flat["words"] == ("first.SIZE", {3: "{first.SIZE}"})
    assert "[area(), volume(2), f'{SIZE} first.SIZE {WIDTH:{SIZE}}']" in flat["text"]


def test_locals_do_not_capture_and_keywords_stay():
    flat = assembled(
        tools=(
            "def take(rows, first=0):\n    return rows[first:]\n\n\nclass Box:\n    take = take\n  "
            "  rows = 2\n"
        ),
        entry="""
            from fast import tools

            def run(rows):
                first = tools.take(rows, first=1)
                tools_of = [take for take in first]
                return first, tools_of, tools.Box.rows

            result = run([1, 2, 3])
            str(result)
        """,
    )
    assert flat["result"] == ([2, 3], [2, 3], 2) and flat["Box"].take is flat["take"]


def test_what_a_module_runs_is_kept():
    flat = assembled(
        table="ROWS = {}\nROWS['one'] = 1\n", entry="from fast import table\n\nstr(table.ROWS)\n"
    )
    assert flat["ROWS"] == {"one": 1}


def test_comments_and_what_nobody_needs():
    flat = assembled(
        parts=(
            '"""What the parts are."""\n\n# Why it is four.\nFOUR = 4  # of them\nFIVE = 5\n\n\n'
            'def unused():\n    """Nobody calls it."""\n'
        ),
        entry="from fast.parts import FOUR\n\nstr(FOUR)\n",
    )
    assert (
        "# fast/parts.py\n# What the parts are.\n\n# Why it is four.\nFOUR = 4  # of them\n"
        in flat["text"]
    )
    assert "FIVE" not in flat["text"] and "unused" not in flat["text"]


@pytest.mark.parametrize(
    ("entry", "said"),
    [
        ("from fast import a\n\nstr(a)\n", "module a is used as a value"),
        ("from fast import a\n\nstr(a.missing)\n", "fast.a defines no missing"),
        ("from fast.a import one as two\n\nstr(two)\n", "is imported under another name"),
        ("import fast.a\n\nstr(fast.a.one)\n", "import fast.a is not followed"),
        (
            "def f():\n    from fast import a\n    return a.one\n\n\nf()\n",
            "imported inside a function",
        ),
        ("str(nothing)\n", "nothing is not defined"),
        (
            "from fast import a\n\n\ndef f(one):\n    return a.one\n\n\nf(1)\n",
            "fast.ship.submission, f: a local variable has the name of what another module defines, one",
        ),
        (
            "from fast import a\n\n\ndef f():\n    return [a.one for one in ()]\n\n\nf()\n",
            "a local variable has the name of what another module defines, one",
        ),
        (
            "from fast import a\n\n\ndef f(a):\n    return a.one\n\n\nf(a.one)\n",
            "a local variable has the name of what another module defines, one",
        ),
        (
            "from fast import a\n\n\ndef f(a, one):\n    return a.one\n\n\nf(a.one, 7)\n",
            "f: a local variable has the name of a module or of what a module defines, a;",
        ),
        (
            "from fast import a\n\n\nclass V:\n    one = 5\n    two = a.one\n\n\nV()\n",
            "V: a local variable has the name of a module or of what a module defines, one",
        ),
        pytest.param(
            "from fast import a\n\nstr(f'{{a.one {a.one}')\n",
            "an f-string is too hard",
            marks=pytest.mark.skipif(sys.version_info >= (3, 12), reason="its parts are tokens"),
        ),
        ("from fast import a\n\none = 2\nstr(a.one)\n", "one is defined in fast.a and again in"),
        ("one = 2\nstr(one)\none = 3\n", "one is defined in fast.ship.submission and again in"),
        ("from fast import b\n\nstr = b.np_of\nstr()\n", "str is defined in Python and again in"),
        ("import math as np\nfrom fast import b\n\nstr((np, b.np_of()))\n", "np is defined in"),
    ],
)
def test_what_cannot_be_followed_is_refused(entry, said):
    with pytest.raises(bundle.BundleError, match=re.escape(said)):
        assembled(
            a="one = 1\n", b="import numpy as np\n\n\ndef np_of():\n    return np\n", entry=entry
        )


def test_recipes_are_written_as_they_are_read():
    text = bundle.packed_source(
        replace(RUN, optimizer=replace(RUN.optimizer, muon_eps=1e-7)), "lzma"
    )
    values = {}
    exec(text, values)
    assert (
        values["RECIPE"] == RUN
        and isinstance(values["RECIPE"], Recipe)
        and values["CODEC"] == "lzma"
    )
