"""Every flag of every command reaches what it is for: each is given a good value that is not its
default, and the arguments of the call, the numbers or the files change as they must.
"""

import importlib
import inspect
import json
import shutil
import types
import typing
from dataclasses import MISSING, asdict, dataclass, fields, is_dataclass, replace
from pathlib import Path

import pytest

from fast.data import find_layout
from harness import cli, commands
from harness.commands.bench import READ, Bench
from harness.corpus.sources import Source
from harness.evaluation.estimate import Estimate
from harness.importers.assume import Assume
from harness.packaging.claim import Claim
from harness.records.tracking import Tracking
from reference.recipe import TINY, Recipe
from tests.support.commands import refused

SOURCE = Source(Path("DATA"), Path("PIECES"))
SOURCE_WORDS = ("--data", "DATA", "--tokenizer", "PIECES")
TEXT = Source(None, Path("PIECES"), (Path("A.txt"), Path("B.txt")))
TEXT_WORDS = ("--tokenizer", "PIECES", "--text", "A.txt", "B.txt")
# Options that one estimator reads together, and the words for them
ESTIMATES = [
    (
        {"estimator": "chain", "order": "block", "step": 2, "block": 3, "from_": 8}
        | {"sequences": 9, "first_token": "control", "batch_rows": 11},
        ("--estimator", "chain", "--order", "block", "--step", "2", "--block", "3", "--from", "8")
        + ("--sequences", "9", "--first-token", "control", "--batch-rows", "11"),
    ),
    (
        {"estimator": "nelbo", "draws": 5, "seed": 10},
        ("--estimator", "nelbo", "--draws", "5", "--seed", "10"),
    ),
    (
        {"estimator": "nelbo-grid", "points": 7},
        ("--estimator", "nelbo-grid", "--points", "7"),
    ),
    (
        {"estimator": "chain", "order": "random", "positions": 4, "seed": 10},
        ("--estimator", "chain", "--order", "random", "--positions", "4", "--seed", "10"),
    ),
    ({"estimator": "chain", "trailing": 6}, ("--estimator", "chain", "--trailing", "6")),
    ({"estimator": "causal", "stride": 6}, ("--estimator", "causal", "--stride", "6")),
]
# A device of every machine whose name is not the default
DEVICE = ("--device", "cpu:0")


@dataclass(frozen=True)
class Call:
    """The words of a command, the function that it calls, and some of its arguments by name."""

    words: tuple[str, ...]
    function: str
    arguments: dict
    answers: tuple[str, ...] = ()  # functions before it, which do nothing here


CLAIM = Claim(
    name="My name",
    author="An author",
    github_id="an-id",
    date="2026-02-03",
    blurb="A blurb",
    technique="A technique",
    hardware="A machine",
    track="10min_16mb",
)
CLAIM_WORDS = tuple(
    word for name, value in asdict(CLAIM).items() for word in (f"--{name.replace('_', '-')}", value)
)
EVAL = (*SOURCE_WORDS, *DEVICE)
GATE = ("harness.bench.gate.require",)
UNCHECKED = ("harness.records.run_directory.check",)
PATHS = ("harness.paths.run_or_artifact",)
TRAIN = ("train", *SOURCE_WORDS, "--out", "OUT", *DEVICE)
RUN = {"source": SOURCE, "out": Path("OUT"), "device": "cpu:0"}
SAMPLING = ("--order", "block", "--step", "2", "--block", "5", "--temperature", "0.25")

SCORING = (("nelbo", None), ("causal", None), ("chain", "left-to-right"))

CALLS = [
    *(
        Call((*words, *TEXT_WORDS), function, {"source": TEXT}, UNCHECKED)
        for words, function in (
            (("train", "--out", "OUT"), "harness.runs.run"),
            (("demo", "--out", "OUT"), "harness.runs.run"),
            (("eval", "R1"), "harness.evaluation.scoring.every"),
            (("pack", "R1", "--out", "OUT", *CLAIM_WORDS), "harness.packaging.pack.pack"),
        )
    ),
    Call(
        (*TRAIN, "--resume", "--no-compiled"),
        "harness.runs.run",
        {**RUN, "resume": True, "overwrite": False, "compiled": False, "preflight": True},
        UNCHECKED,
    ),
    Call(
        (*TRAIN, "--resume", "auto"),
        "harness.runs.run",
        {**RUN, "resume": "auto", "overwrite": False},
        UNCHECKED,
    ),
    Call(
        (*TRAIN, "--tensorboard", "--wandb", "PROJECT"),
        "harness.runs.run",
        {**RUN, "tracking": Tracking(tensorboard=True, wandb="PROJECT")},
        (*UNCHECKED, "harness.records.tracking.find_spec"),
    ),
    Call(
        ("export", "RUN", "--out", "OUT"),
        "harness.packaging.export.export",
        {"run": Path("RUN")},
        PATHS,
    ),
    *(
        Call(
            (*TRAIN, "--preset", "tiny", *words),
            "harness.records.run_directory.check",
            {"out": Path("OUT"), "resume": resume, "overwrite": overwrite, "recipe": TINY},
        )
        for words, resume, overwrite in (
            (("--resume", "auto"), "auto", False),
            (("--resume",), True, False),
            (("--overwrite",), False, True),
        )
    ),
    Call(
        ("demo", "--preset", "tiny", *TRAIN[1:]),
        "harness.records.run_directory.check",
        {"out": Path("OUT"), "resume": False, "overwrite": True, "recipe": TINY},
    ),
    Call(
        (*TRAIN, "--overwrite", "--no-preflight"),
        "harness.runs.run",
        {**RUN, "resume": False, "overwrite": True, "compiled": True, "preflight": False},
    ),
    Call(TRAIN, "harness.runs.run", {**RUN, "compiled": True, "preflight": True}),
    Call(("train", "--preset", "tiny"), "harness.runs.run", {"out": Path("runs/tiny")}),
    Call(("train", "--dry-run", "--preset", "tiny"), "harness.runs.plan", {"recipe": TINY}),
    Call(
        ("demo", *TRAIN[1:], "--no-compiled", "--no-preflight"),
        "harness.runs.run",
        {**RUN, "resume": False, "overwrite": True, "compiled": False, "preflight": False},
    ),
    Call(
        ("demo", *TRAIN[1:]),
        "harness.runs.run",
        {**RUN, "compiled": True, "preflight": True, "sequences": 128, "scoring": SCORING},
    ),
    *(
        Call(
            ("eval", "R1", *words, *EVAL),
            "harness.evaluation.scoring.every",
            {
                "runs": (Path("R1"),),
                "source": SOURCE,
                "estimate": Estimate(**given),
                "device": "cpu:0",
            },
        )
        for given, words in ESTIMATES
    ),
    Call(
        ("eval", "R1", "--partial", "P.json", "--compiled"),
        "harness.evaluation.scoring.every",
        {"runs": (Path("R1"),), "partial": Path("P.json"), "compiled": True},
    ),
    Call(
        ("eval", "R1", "R2", "--against", "R3", "R4", "--no-compiled"),
        "harness.evaluation.scoring.every",
        {
            "runs": tuple(map(Path, ("R1", "R2", "R3", "R4"))),
            "partial": None,
            "compiled": False,
        },
    ),
    Call(
        ("eval", "R1", "R2", *ESTIMATES[0][1][2:], *EVAL, "--no-compiled", "--compare", "--plot")
        + ("P.png",),
        "harness.evaluation.paired.runs",
        {
            "paths": (Path("R1"), Path("R2")),
            "source": SOURCE,
            "estimate": replace(Estimate(**ESTIMATES[0][0]), estimator=Estimate().estimator),
            "device": "cpu:0",
            "compiled": False,
            "image": Path("P.png"),
        },
    ),
    Call(
        ("eval", "R1", "R2", "--compare", "--compiled"),
        "harness.evaluation.paired.runs",
        {"device": "cpu", "compiled": True, "image": None},
    ),
    Call(
        ("eval", "--merge", "A.json", "B.json"),
        "harness.evaluation.partial.read",
        {"path": Path("A.json")},
    ),
    Call(
        ("parity", "muon", "ema", *DEVICE, "--dtype", "float16", "--compiled"),
        "harness.parity.parity",
        {
            "names": ("muon", "ema"),
            "device": "cpu:0",
            "dtypes": ("float16",),
            "compiled": True,
        },
    ),
    Call(
        ("bench", "likelihood", "RUN", "--repetitions", "9", "--windows", "3", "--pairs", "4")
        + (*DEVICE, "--no-compiled"),
        "harness.bench.likelihood.likelihood",
        {
            "run": Path("RUN"),
            "repetitions": 9,
            "windows": 3,
            "pairs": 4,
            "device": "cpu:0",
            "compiled": False,
        },
        GATE,
    ),
    Call(
        ("bench", "formats", "RUN", "--sequences", "5", "--fisher", "6", "--plot", "PLOT.png")
        + DEVICE,
        "harness.bench.formats.formats",
        {
            "run": Path("RUN"),
            "sequences": 5,
            "fisher": 6,
            "device": "cpu:0",
        },
        GATE,
    ),
    Call(
        ("bench", "step", "--preset", "tiny", "--tokens", "64", "--against", "public", "--pairs")
        + ("4", "--only", "update", "average", *DEVICE, "--no-compiled"),
        "harness.bench.step.step",
        {
            "recipe": replace(TINY, training=replace(TINY.training, tokens_per_step=64)),
            "pairs": 4,
            "device": "cpu:0",
            "compiled": False,
            "against": ("public",),
            "only": ("update", "average"),
        },
        GATE,
    ),
    Call(
        ("bench", "step", "--against", "both"),
        "harness.bench.step.step",
        {"against": ("plain", "public"), "only": ()},
        GATE,
    ),
    Call(
        ("bench", "muon", "--pairs", "4", *DEVICE, "--no-compiled"),
        "harness.bench.muon.muon",
        {"pairs": 4, "device": "cpu:0", "compiled": False},
        GATE,
    ),
    Call(
        ("bench", "muon", *DEVICE, "--no-compiled"),
        "harness.bench.gate.require",
        {"device": "cpu:0", "compiled": False},
    ),
    Call(
        ("bench", "device", "--smoke", "--parts", "step", "muon", "--budget", "30", "--separate")
        + ("yes", "--pairs", "4", *DEVICE, "--no-compiled"),
        "harness.bench.device.device",
        {
            "name": "cpu:0",
            "smoke": True,
            "compiled": False,
            "pairs": 4,
            "parts": ("step", "muon"),
            "budget": 30.0,
            "separate": True,
        },
    ),
    Call(
        ("bench", "device", "--separate", "no"),
        "harness.bench.device.device",
        {"smoke": False, "compiled": True, "separate": False},
    ),
    Call(("bench", "device"), "harness.bench.device.device", {"separate": None}),
    Call(
        ("bench", "compare", "A.json", "B.json"),
        "harness.bench.compare.files",
        {"paths": (Path("A.json"), Path("B.json"))},
    ),
    Call(
        ("sample", "RUN", "--prompt", "Once", "--count", "3", *SAMPLING, "--seed", "9")
        + ("--tokens", "7")
        + ("--tokenizer", "PIECES", *DEVICE),
        "harness.sampling.samples.sample",
        {
            "run": Path("RUN"),
            "tokenizer": Path("PIECES"),
            "prompt": "Once",
            "count": 3,
            "order": "block",
            "step": 2,
            "block": 5,
            "temperature": 0.25,
            "seed": 9,
            "device": "cpu:0",
            "infill": None,
            "gap": None,
            "tokens": 7,
            "watch": None,
        },
    ),
    Call(
        ("sample", "RUN", "--infill", "a ___", "--gap", "5"),
        "harness.sampling.samples.sample",
        {"infill": "a ___", "gap": 5, "prompt": "", "tokens": None},
    ),
    Call(
        ("report", "R1", "R2"),
        "harness.records.overview.summaries",
        {"runs": (Path("R1"), Path("R2"))},
    ),
    Call(
        ("report", "R1", "R2", "--plot", "P.png"),
        "harness.records.overview.plot",
        {"runs": (Path("R1"), Path("R2")), "path": Path("P.png")},
        ("harness.records.overview.summaries",),
    ),
    Call(
        ("report", "R1", "R2", "--out", "P.html", "--device", "cpu:0"),
        "harness.page.write.write",
        {"runs": (Path("R1"), Path("R2")), "out": Path("P.html"), "device": "cpu:0"},
        ("harness.records.overview.summaries",),
    ),
    Call(("watch", "RUN", "--once"), "harness.records.watch.read", {"run": Path("RUN")}),
    Call(("watch", "RUN"), "harness.records.watch.follow", {"run": Path("RUN"), "quiet": False}),
    Call(
        ("compress", "FILE", "--run", "RUN", "--out", "OUT", "--order", "confidence", "--verify")
        + ("--tokenizer", "PIECES", *DEVICE),
        "harness.compression.compress.compress",
        {
            "file": Path("FILE"),
            "run": Path("RUN"),
            "out": Path("OUT"),
            "order": "confidence",
            "tokenizer": Path("PIECES"),
            "device": "cpu:0",
            "verify": True,
        },
    ),
    Call(
        ("decompress", "FILE", "--run", "RUN", "--out", "OUT", "--tokenizer", "PIECES", *DEVICE),
        "harness.compression.compress.decompress",
        {
            "file": Path("FILE"),
            "run": Path("RUN"),
            "out": Path("OUT"),
            "tokenizer": Path("PIECES"),
            "device": "cpu:0",
        },
    ),
    Call(
        ("pack", "R1", "R2", "--out", "OUT", "--budget", "777")
        + (*CLAIM_WORDS, *SOURCE_WORDS, *DEVICE),
        "harness.packaging.pack.pack",
        {
            "folders": (Path("R1"), Path("R2")),
            "out": Path("OUT"),
            "claim": CLAIM,
            "device": "cpu:0",
            "source": SOURCE,
            "budget": 777,
        },
    ),
    Call(
        ("validate", "DIR", "--data", "DATA", "--tokenizer", "PIECES", "--run", "--time-limit")
        + ("12.5",),
        "harness.validate.validate",
        {
            "folder": Path("DIR"),
            "data": Path("DATA"),
            "tokenizer": Path("PIECES"),
            "run": True,
            "time_limit": 12.5,
        },
        ("fast.data.find_layout",),
    ),
    Call(
        ("validate", "DIR", "--data", "DATA", "--tokenizer", "PIECES"),
        "fast.data.find_layout",
        {"path": Path("DATA"), "tokenizer": Path("PIECES")},
    ),
    Call(("validate", "--explain", "CHECK"), "harness.validate.explain", {"name": "CHECK"}),
    Call(
        ("validate", "DIR", "--strict"),
        "harness.validate.verdict.is_sound",
        {"strict": True},
        ("harness.validate.validate",),
    ),
    Call(
        ("validate", "DIR", "--all"),
        "harness.display.report.validation",
        {"folder": Path("DIR"), "passes": True, "strict": False},
        ("harness.validate.validate",),
    ),
    Call(
        ("import", "FILE", "--out", "OUT", "--length", "20", "--vocab", "30", "--causal", "true")
        + (
            "--rope-base",
            "40",
            "--rope-frequencies",
            "bfloat16",
            "--softcap",
            "50",
            "--compute-dtype",
            "float32",
        ),
        "harness.importers.convert.convert",
        {
            "path": Path("FILE"),
            "out": Path("OUT"),
            "assume": Assume(20, 30, True, 40.0, "bfloat16", 50.0, "float32"),
        },
    ),
    Call(
        ("data", "build", "A.txt", "B.txt", "--out", "OUT", "--vocab", "99", "--tokenizer")
        + ("PIECES",),
        "harness.corpus.prepare.from_text",
        {
            "files": (Path("A.txt"), Path("B.txt")),
            "out_dir": Path("OUT"),
            "vocab": 99,
            "tokenizer": Path("PIECES"),
        },
    ),
    Call(
        ("data", "list", "DATA", "--tokenizer", "PIECES"),
        "harness.corpus.shards.describe",
        {"path": Path("DATA"), "tokenizer": Path("PIECES")},
    ),
    Call(
        ("data", "fineweb", "--out", "OUT", "--train-shards", "3"),
        "harness.corpus.fineweb.fetch_fineweb",
        {"out_dir": Path("OUT"), "train_shards": 3},
    ),
    Call(
        ("data", "fineweb", "--out", "DATA"),
        "harness.corpus.shards.describe",
        {"path": Path("DATA")},
        ("harness.corpus.fineweb.fetch_fineweb",),
    ),
]


@pytest.fixture(scope="module")
def place(corpus, tmp_path_factory) -> Path:
    """Return a folder that holds what the words of CALLS name, as far as it is looked at before
    the call.
    """
    folder = tmp_path_factory.mktemp("place")
    for name in ("R1", "R2", "R3", "R4", "RUN"):
        (folder / name).mkdir()
        for file in ("artifact.mgolf", "summary.json"):
            (folder / name / file).write_text("{}")
        (folder / name / "recipe.json").write_text('{"recipe": {"model": {}}}')
    (folder / "DIR").mkdir()
    for name in ("A.txt", "B.txt", "FILE", "A.json", "B.json"):
        (folder / name).write_text("{}")
    shutil.copytree(corpus, folder / "DATA")
    shutil.copy(find_layout(corpus).tokenizer, folder / "PIECES")
    return folder


@pytest.fixture(autouse=True)
def _there(place, monkeypatch):
    monkeypatch.chdir(place)


class Reached(BaseException):
    """The arguments of a call, by name, in place of what it does."""


def reached(monkeypatch, words, function: str, answers=()) -> dict:
    """Return the arguments with which a command calls a function, all of them by name."""
    module, _, name = function.rpartition(".")
    home = importlib.import_module(module)
    signature = inspect.signature(getattr(home, name))

    def stop(*given, **named):
        bound = signature.bind(*given, **named)
        bound.apply_defaults()
        raise Reached(bound.arguments)

    with monkeypatch.context() as patch, pytest.raises(Reached) as caught:
        for answer in answers:
            part, _, called = answer.rpartition(".")
            patch.setattr(importlib.import_module(part), called, lambda *given, **named: [])
        patch.setattr(home, name, stop)
        code = cli.main([str(word) for word in words])
        raise AssertionError(f"exit {code} before {function} was called")
    return caught.value.args[0]


@pytest.mark.parametrize("call", CALLS, ids=lambda call: " ".join(call.words[:2]))
def test_flags_reach_the_function_behind_the_command(call, monkeypatch):
    found = reached(monkeypatch, call.words, call.function, call.answers)
    assert {name: found[name] for name in call.arguments} == call.arguments


def parsed(words) -> object:
    """Return the command that words stand for, parsed and not run."""
    kind = commands.load(words[0])
    with pytest.MonkeyPatch.context() as patch, pytest.raises(Reached) as caught:

        def stop(self):
            raise Reached(self)

        patch.setattr(kind, "run", stop)
        cli.main([str(word) for word in words])
    return caught.value.args[0]


def kinds_in(hint) -> list[type]:
    """Return the dataclasses that an annotation names."""
    if typing.get_origin(hint) is typing.Annotated:
        return kinds_in(typing.get_args(hint)[0])
    if isinstance(hint, types.UnionType) or typing.get_origin(hint) is typing.Union:
        return [kind for one in typing.get_args(hint) for kind in kinds_in(one)]
    return [hint] if is_dataclass(hint) else []


def flags_of(kind: type, prefix: str) -> set[str]:
    """Return every flag and positional of a command as COMMAND.FIELD, those of nested parts too;
    --json and the recipe, which have tests of their own, aside.
    """
    hints, names = typing.get_type_hints(kind, include_extras=True), set()
    for field in fields(kind):
        nested = kinds_in(hints[field.name])
        if field.name == "json" or Recipe in nested:
            continue
        for part in nested:
            names |= flags_of(part, f"{prefix}.{part.__name__}")
        if not nested:
            names.add(f"{prefix}.{field.name}")
    return names


def given_in(value: object, prefix: str) -> set[str]:
    """Return the names, as flags_of has them, of what differs from its default."""
    names = set()
    for field in fields(value):
        found = getattr(value, field.name)
        if isinstance(found, Recipe):
            continue
        if is_dataclass(found):
            names |= given_in(found, f"{prefix}.{type(found).__name__}")
        elif field.default is MISSING or found != field.default:
            names.add(f"{prefix}.{field.name}")
    return names


def test_every_flag_of_every_command_is_given_in_a_call():
    every = {flag for name in commands.NAMES for flag in flags_of(commands.load(name), name)}
    given = {flag for call in CALLS for flag in given_in(parsed(call.words), call.words[0])}
    assert every - given == set()


def test_values_of_one_call_are_distinct():
    """Two flags of one kind with one value could stand in each other's place."""
    for call in CALLS:
        words = [word for word in call.words if not word.startswith("--")]
        assert len(words) == len(set(words)), call.words


# What a command does not read is refused


def bench_flags() -> list[tuple[str, str, tuple[str, ...]]]:
    """Return (piece, field, words) of every argument that a piece of bench does not read."""
    words = {
        "paths": ("RUN",),
        "repetitions": ("--repetitions", "9"),
        "windows": ("--windows", "3"),
        "sequences": ("--sequences", "3"),
        "fisher": ("--fisher", "9"),
        "plot": ("--plot", "a.png"),
        "preset": ("--preset", "tiny"),
        "tokens": ("--tokens", "64"),
        "against": ("--against", "public"),
        "only": ("--only", "update"),
        "smoke": ("--smoke",),
        "parts": ("--parts", "step"),
        "budget": ("--budget", "30"),
        "separate": ("--separate", "no"),
        "pairs": ("--pairs", "4"),
        "device": DEVICE,
        "compiled": ("--no-compiled",),
    }
    return [
        (piece, name, words[name])
        for piece, read in READ.items()
        for name in words
        if name not in read
    ]


def test_pieces_of_bench_say_what_they_read():
    named = {name for names in READ.values() for name in names}
    assert {field.name for field in fields(Bench)} == {"piece", "json", *named}
    assert {name for _, name, _ in bench_flags()} == named


@pytest.mark.parametrize(("piece", "name", "words"), bench_flags(), ids=str)
def test_what_a_piece_of_bench_does_not_read_is_refused(piece, name, words, capsys):
    flag = "PATH" if name == "paths" else f"--{name}"
    message = refused(capsys, "bench", piece, *words)
    assert f"{flag}: expected bench" in message and f"found bench {piece}" in message


def test_block_of_sample_needs_its_order(capsys):
    message = refused(capsys, "sample", "RUN", "--order", "entropy", "--block", "4")
    assert "--block 4: expected --order block" in message and "found entropy" in message


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--infill", "a ___", "--prompt", "b"), "--prompt: expected no --infill"),
        (("--infill", "a ___", "--tokens", "3"), "--tokens: expected no --infill"),
        (("--gap", "3"), "--gap 3: expected --infill, which reads it"),
        (("--infill", "a ___", "--gap", "0"), "--gap: expected at least 1, found 0"),
        (("--infill", "a __ b"), "--infill: expected a gap, three underscores or more"),
        (("--infill", ""), "--infill: expected a gap, three underscores or more, found none in ''"),
        (
            ("--infill", "a\udcff___"),
            "--infill: expected UTF-8 text, found '\\udcff' at character 1",
        ),
        (("--prompt", "\udc80"), "--prompt: expected UTF-8 text, found '\\udc80' at character 0"),
    ],
)
def test_what_sample_cannot_fill_is_refused(words, said, capsys):
    """Before the run is looked for."""
    assert said in refused(capsys, "sample", "RUN", *words)


# The recipe


def leaves(part=Recipe, prefix: str = "") -> list[tuple[str, type]]:
    """Return (dotted name, type) of every field of the recipe that holds a value."""
    names = []
    for field in fields(part):
        if is_dataclass(field.type):
            names += leaves(field.type, f"{prefix}{field.name}.")
        else:
            names.append((prefix + field.name, field.type))
    return names


def another(recipe: Recipe) -> tuple[Recipe, list[str]]:
    """Return a recipe of which every field differs, no two numbers alike, and the flags for it."""
    words = []
    for number, (name, kind) in enumerate(leaves(), 1000):
        if name == "preset":
            continue
        *path, last = name.split(".")
        part = getattr(recipe, path[0]) if path else recipe
        if kind is bool:
            value = not getattr(part, last)
            text = [str(value).lower()]
        elif kind in (int, float, str):
            value = kind(number) if kind is not str else f"word{number}"
            text = [str(value)]
        else:
            value = (number + 0.25, number + 0.5, number + 0.75)
            text = list(map(str, value))
        words += [f"--{name}", *text]
        changed = {last: value}
        recipe = replace(recipe, **{path[0]: replace(part, **changed)} if path else changed)
    return recipe, words


@pytest.mark.parametrize(
    ("command", "function"),
    [
        (("train",), "harness.runs.run"),
        (("train", "--dry-run"), "harness.runs.plan"),
        (("demo",), "harness.runs.run"),
    ],
    ids=["train", "train --dry-run", "demo"],
)
def test_every_field_of_the_recipe_is_handed_on(command, function, monkeypatch):
    recipe, words = another(TINY)
    words = [*command, "--preset", "tiny", *words]
    checks = ("harness.commands.train.check", "harness.commands.demo.check", *UNCHECKED)
    found = reached(monkeypatch, words, function, checks)
    assert found["recipe"] == recipe
    for name, _ in leaves():
        if name != "preset":
            assert f"--{name}" in words


# --json


@pytest.mark.parametrize("name", commands.NAMES)
def test_json_of_every_command_goes_where_it_says(name, monkeypatch, tmp_path, capsys):
    kind, shown = commands.load(name), []
    words = next(call.words for call in CALLS if call.words[0] == name)
    monkeypatch.setattr(kind, "run", lambda self: ({"command": name}, lambda: shown.append(name)))
    path = tmp_path / "out.json"
    assert cli.main([*words, "--json", str(path)]) == 0
    assert json.loads(path.read_text()) == {"command": name} and shown == [name]
    assert cli.main([*words, "--json", "-"]) == 0
    assert json.loads(capsys.readouterr().out) == {"command": name} and shown == [name]
