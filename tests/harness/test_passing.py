"""What a person gives a command, and a function gives the next one, arrives: every value is another
than its default and than its neighbours'.
"""

import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import tyro

from fast import artifact, transformer
from fast.sample import Drawn
from harness import cli, runs
from harness.bench import gate
from harness.compression import compress
from harness.corpus import dataset, prepare
from harness.corpus.sources import Source
from harness.errors import CheckFailed
from harness.evaluation import scoring
from harness.evaluation.estimate import Estimate
from harness.importers.assume import Assume
from harness.packaging.claim import Claim
from harness.sampling import samples
from reference.recipe import TINY
from tests.support import tokenizers
from tests.support.recorded import record

A, B, C, D = (Path(f"/path/{letter}") for letter in "abcd")
SOURCE = Source(A, B, ())
FROM = ["--data", str(A), "--tokenizer", str(B)]
CUDA = ["--device", "cuda:3"]
TRAINED = replace(TINY, seed=11, training=replace(TINY.training, iterations=17))
RECIPE = ["--preset", "tiny", "--seed", "11", "--training.iterations", "17"]

COMMANDS = {  # name: (arguments, {function: (what it returns, what must arrive there)})
    "train": (
        [*RECIPE, *FROM, "--out", str(C), "--resume", "--no-compiled", *CUDA],
        {
            "harness.records.run_directory.check": (
                None,
                dict(out=C, resume=True, overwrite=False, recipe=TRAINED),
            ),
            "harness.runs.run": (
                {},
                dict(
                    recipe=TRAINED,
                    source=SOURCE,
                    out=C,
                    resume=True,
                    overwrite=False,
                    device="checked cuda:3",
                    compiled=False,
                    preflight=True,
                    sequences=None,
                ),
            ),
        },
    ),
    "train, the other way": (
        [*RECIPE, "--out", str(C), "--overwrite"],
        {
            "harness.runs.run": (
                {},
                dict(resume=False, overwrite=True, compiled=True, preflight=True),
            )
        },
    ),
    "train, unchecked": (
        [*RECIPE, "--out", str(C), "--no-preflight"],
        {"harness.runs.run": ({}, dict(preflight=False, compiled=True, device="checked cpu"))},
    ),
    "demo, its page": (
        ["--out", str(C), *CUDA],
        {
            "harness.api.train": (SimpleNamespace(json={}, show=print), dict(out=C)),
            "harness.page.write.write": (
                None,
                dict(runs=(C,), out=C / "report.html", device="cuda:3"),
            ),
        },
    ),
    "demo": (
        [*RECIPE, *FROM, "--out", str(C), "--no-compiled", "--no-preflight", *CUDA],
        {
            "harness.runs.run": (
                {},
                dict(
                    recipe=TRAINED,
                    source=SOURCE,
                    out=C,
                    resume=False,
                    overwrite=True,
                    device="checked cuda:3",
                    compiled=False,
                    preflight=False,
                    scoring=runs.SCORING,
                    sequences=128,
                ),
            )
        },
    ),
    "sample": (
        "/path/a --prompt Once --count 2 --order block --step 3 --block 5 --temperature 0.5"
        " --seed 7 --tokens 6 --tokenizer /path/b --device cuda:3".split(),
        {
            "harness.sampling.samples.sample": (
                [],
                dict(
                    run=A,
                    tokenizer=B,
                    prompt="Once",
                    count=2,
                    order="block",
                    step=3,
                    block=5,
                    temperature=0.5,
                    seed=7,
                    device="checked cuda:3",
                    infill=None,
                    gap=None,
                    tokens=6,
                    watch=None,
                ),
            )
        },
    ),
    "sample, gaps": (
        ["/path/a", "--infill", "a ___ b", "--gap", "2"],
        {"harness.sampling.samples.sample": ([], dict(run=A, prompt="", infill="a ___ b", gap=2))},
    ),
    "compress": (
        "/path/a --run /path/b -o /path/c --order confidence --tokenizer /path/d --verify".split()
        + CUDA,
        {
            "harness.compression.compress.compress": (
                {},
                dict(
                    file=A,
                    run=B,
                    out=C,
                    order="confidence",
                    tokenizer=D,
                    device="checked cuda:3",
                    verify=True,
                ),
            )
        },
    ),
    "decompress": (
        "/path/a --run /path/b -o /path/c --tokenizer /path/d".split() + CUDA,
        {
            "harness.compression.compress.decompress": (
                {},
                dict(file=A, run=B, out=C, tokenizer=D, device="checked cuda:3"),
            )
        },
    ),
    "pack": (
        "/path/a /path/b --name N --author W --github-id g --out /path/c --date 2026-01-02"
        " --blurb B --technique T --hardware H --track 10min_16mb --budget 777".split()
        + [*FROM, *CUDA],
        {
            "harness.packaging.pack.pack": (
                {},
                dict(
                    folders=(A, B),
                    out=C,
                    claim=Claim("N", "W", "g", "2026-01-02", "B", "T", "H", "10min_16mb"),
                    device="checked cuda:3",
                    source=SOURCE,
                    budget=777,
                ),
            )
        },
    ),
    "data build": (
        "/path/a /path/b --out /path/c --vocab 301 --tokenizer /path/d".split(),
        {
            "harness.corpus.prepare.from_text": (
                None,
                dict(files=(A, B), out_dir=C, vocab=301, tokenizer=D, holdout=10),
            ),
            "harness.corpus.shards.describe": ({}, dict(path=C, tokenizer=None)),
        },
    ),
    "data fineweb": (
        "--out /path/a --train-shards 3".split(),
        {
            "harness.corpus.fineweb.fetch_fineweb": (None, dict(out_dir=A, train_shards=3)),
            "harness.corpus.shards.describe": ({}, dict(path=A, tokenizer=None)),
        },
    ),
    "data list": (
        "/path/a --tokenizer /path/b".split(),
        {"harness.corpus.shards.describe": ({}, dict(path=A, tokenizer=B))},
    ),
    "import": (
        "/path/a -o /path/b --length 33 --vocab 77 --causal true --rope-base 500 --softcap 15"
        " --compute-dtype float32 --rope-frequencies bfloat16".split(),
        {
            "harness.importers.convert.convert": (
                {},
                dict(
                    path=A, out=B, assume=Assume(33, 77, True, 500.0, "bfloat16", 15.0, "float32")
                ),
            )
        },
    ),
    "parity": (
        "masks ema --dtype float16 --compiled".split() + CUDA,
        {
            "harness.parity.parity": (
                [],
                dict(
                    names=("masks", "ema"),
                    device="checked cuda:3",
                    dtypes=("float16",),
                    compiled=True,
                ),
            )
        },
    ),
    "parity, by default": (
        [],
        {
            "harness.parity.parity": (
                [],
                dict(names=(), dtypes=("float32", "bfloat16"), compiled=False),
            )
        },
    ),
    "report": (
        "/path/a /path/b /path/c --plot /path/d".split(),
        {
            "harness.records.overview.summaries": ([], dict(runs=(A, B, C))),
            "harness.records.overview.plot": (None, dict(runs=(A, B, C), path=D)),
        },
    ),
    "report, as a page": (
        "/path/a /path/b -o /path/d --device cuda:3".split(),
        {
            "harness.records.overview.summaries": ([], dict(runs=(A, B))),
            "harness.page.write.write": (
                None,
                dict(runs=(A, B), out=D, device="checked cuda:3"),
            ),
        },
    ),
    "watch": (["/path/a"], {"harness.records.watch.follow": (None, dict(run=A, quiet=False))}),
    "watch, once": (["/path/a", "--once"], {"harness.records.watch.read": (None, dict(run=A))}),
    "watch, as JSON": (
        ["/path/a", "--json", "-"],
        {"harness.records.watch.follow": (None, dict(run=A, quiet=True))},
    ),
    "validate": (
        "/path/a --data /path/b --tokenizer /path/c --run --time-limit 7".split(),
        {
            "fast.shards.find_layout": (None, dict(path=B, tokenizer=C)),
            "harness.validate.validate": (
                [],
                dict(folder=A, data=B, tokenizer=C, run=True, time_limit=7.0, checks=None),
            ),
        },
    ),
    "bench likelihood": (
        "/path/a --repetitions 9 --windows 4 --pairs 3".split() + CUDA,
        {
            "harness.bench.gate.require": (
                [],
                dict(pieces=gate.BEHIND["likelihood"], device="checked cuda:3", compiled=True),
            ),
            "harness.bench.likelihood.likelihood": (
                [],
                dict(
                    run=A,
                    repetitions=9,
                    windows=4,
                    pairs=3,
                    device="checked cuda:3",
                    compiled=True,
                ),
            ),
        },
    ),
    "bench formats": (
        "/path/a --sequences 5 --fisher 6 --plot /path/b.png".split() + CUDA,
        {
            "harness.bench.gate.require": (
                [],
                dict(pieces=gate.BEHIND["formats"], device="checked cuda:3", compiled=True),
            ),
            "harness.bench.formats.formats": (
                [],
                dict(run=A, sequences=5, fisher=6, device="checked cuda:3"),
            ),
            "harness.bench.formats.plot": (None, dict(rows=[], path=Path("/path/b.png"))),
        },
    ),
    "bench step": (
        "--preset tiny --tokens 24 --against public --only update average --pairs 3".split()
        + [*CUDA, "--no-compiled"],
        {
            "harness.bench.gate.require": (
                [],
                dict(pieces=gate.BEHIND["step"], device="checked cuda:3", compiled=False),
            ),
            "harness.bench.step.with_tokens": ("the recipe", dict(recipe=TINY, tokens=24)),
            "harness.bench.step.step": (
                [],
                dict(
                    recipe="the recipe",
                    pairs=3,
                    device="checked cuda:3",
                    compiled=False,
                    against=("public",),
                    only=("update", "average"),
                ),
            ),
        },
    ),
    "bench muon": (
        ["--pairs", "3", *CUDA, "--no-compiled"],
        {
            "harness.bench.gate.require": ([], dict(pieces=gate.BEHIND["muon"], compiled=False)),
            "harness.bench.muon.muon": (
                [],
                dict(pairs=3, device="checked cuda:3", compiled=False),
            ),
        },
    ),
    "bench device": (
        "--smoke --parts levers update --budget 99 --separate no --pairs 3 --no-compiled".split()
        + CUDA,
        {
            "harness.bench.device.device": (
                [],
                dict(
                    name="checked cuda:3",
                    smoke=True,
                    compiled=False,
                    pairs=3,
                    parts=("levers", "update"),
                    budget=99.0,
                    separate=False,
                ),
            ),
        },
    ),
}


class Reached(BaseException):
    """The last call of a command, which ends it."""


def reached(*_, **__):
    """What the last function does."""
    raise Reached


@pytest.fixture
def unasked(monkeypatch):
    """Let commands take paths where there is nothing."""
    monkeypatch.setattr("harness.commands.flags.check", lambda command: None)
    monkeypatch.setattr(
        "harness.records.run_directory.check", lambda out, resume, overwrite, recipe: False
    )
    for name in ("check_readable", "check_run_directory", "run_or_artifact", "submission_names"):
        monkeypatch.setattr(f"harness.paths.{name}", lambda *given: None)
    monkeypatch.setattr("fast.shards.find_layout", lambda path, tokenizer=None: None)
    monkeypatch.setattr("harness.records.overview.summaries", lambda runs: [])
    monkeypatch.setattr("harness.commands.data.find_layout", lambda *given: None)
    monkeypatch.setattr("harness.commands.data.read_shard", lambda *given: None)


@pytest.mark.parametrize("name", COMMANDS)
def test_what_a_command_is_given_arrives(name, monkeypatch, unasked):
    """From the words of the command line to the call that does the work."""
    arguments, functions = COMMANDS[name]
    command = name.partition(",")[0].split()
    monkeypatch.setattr("harness.devices.check_device", lambda name: f"checked {name}")
    *_, last = functions
    calls = {
        where: record(monkeypatch, where, reached if where == last else back)
        for where, (back, _) in functions.items()
    }
    with pytest.raises(Reached):
        cli.main([*command, *arguments])
    for where, (_, expected) in functions.items():
        [found] = calls[where]
        assert {key: found[key] for key in expected} == expected, where


# functions that hand on what they are given


def test_a_sample_is_drawn_as_asked(monkeypatch):
    """Every setting of the draws reaches them, and what is hidden is on the device."""
    tokenizer = tokenizers.small()
    recipe = replace(TINY, model=replace(TINY.model, vocab=tokenizers.VOCAB))
    model = SimpleNamespace(log_probs="the model", recipe=recipe, tokenizer=tokenizer)
    loaded = record(monkeypatch, "harness.compression.compress.load", model)
    all_70 = lambda query, ids, *_, **__: Drawn(ids * 0 + 70, ids * 0.0, ids * 0)  # noqa: E731
    drawn = record(monkeypatch, "fast.sample.fill", all_70)
    [one, *_] = samples.sample(A, B, "he", 3, "block", 2, 5, 0.5, 7, "cpu", tokens=2)
    assert [one[name] for name in ("order", "step", "block", "temperature", "seed")] == [
        *("block", 2, 5, 0.5, 7)
    ]
    assert loaded == [dict(run=A, tokenizer=B, device="cpu")]
    [found] = drawn
    assert found.pop("ids_BL").shape == (3, recipe.model.length)
    assert found == dict(
        log_probs="the model",
        vocab=tokenizers.VOCAB,
        order="block",
        seed=7,
        step=2,
        block=5,
        temperature=0.5,
        first_row=0,
        stop=4,
        on_pass=None,
    )


def test_text_is_built_as_asked(monkeypatch):
    """Into the cache, for the recipe's vocabulary, by the tokenizer that is named."""
    built = record(monkeypatch, "harness.corpus.prepare.from_text", C)
    embedded = record(monkeypatch, "harness.corpus.prepare.embedded", D)
    found = record(monkeypatch, "harness.corpus.dataset.find_layout", "a layout")
    assert dataset.layout_of(Source(text=(A, B), tokenizer=D), 301) == "a layout"
    dataset.layout_of(Source(), 302)
    dataset.layout_of(Source(A, B), 303)
    assert built == [dict(files=(A, B), out_dir=None, vocab=301, tokenizer=D, holdout=10)]
    assert [one["vocab"] for one in embedded] == [302]
    assert found == [
        dict(path=C, tokenizer=None),
        dict(path=D, tokenizer=None),
        dict(path=A, tokenizer=B),
    ]


def test_every_file_is_read_and_split_as_asked(monkeypatch):
    read = record(monkeypatch, "harness.corpus.prepare.read_documents", ["one", "two"])
    split = record(monkeypatch, "harness.corpus.prepare.split_documents", "a corpus")
    built = record(monkeypatch, "harness.corpus.prepare.build", D)
    assert prepare.from_text([A, B, C], D, 301, A, 4) == D
    assert read == [dict(files=[A, B, C])]
    assert split == [dict(name="text", documents=["one", "two"], holdout=4)]
    assert built == [
        dict(corpus="a corpus", out_dir=D, vocab=301, tokenizer=A, cache_dir=None),
    ]


def test_a_fresh_process_is_asked_for_the_same_score(monkeypatch, unasked):
    """Flags that maskgolf eval reads back as what was asked for."""
    commands = []

    def run(command, **_):
        commands.append(command)
        return SimpleNamespace(returncode=0, stdout="{}")

    monkeypatch.setattr(scoring, "run_without_interrupts", run)
    scored = record(monkeypatch, "harness.evaluation.scoring.every", reached)
    monkeypatch.setattr("harness.devices.check_device", lambda name: name)
    texts = Source(tokenizer=B, text=(C, D))
    for asked in (
        (A, "chain", "confidence", 6, "cuda:3", True, texts),
        (A, "nelbo", None, None, "cuda:3", False, SOURCE),
        (B, "nelbo-grid", None, 7, "cpu", True, None),
        (B, None, None, 7, "cpu", False, Source(A)),
    ):
        assert scoring.score_fresh(*asked) == {}
        with pytest.raises(Reached):
            cli.main(commands[-1][3:])
        run_, estimator, order, sequences, device, compiled, source = asked
        assert scored[-1] == dict(
            runs=(run_,),
            source=source or Source(),
            estimate=Estimate(estimator=estimator, order=order, sequences=sequences),
            device=device,
            compiled=None if compiled else False,
            partial=None,
        )


@pytest.mark.parametrize(
    "source", [Source(), Source(A), SOURCE, Source(text=(A,)), Source(None, B, (C, D, A))], ids=str
)
def test_a_source_survives_flags_and_files(source):
    assert tyro.cli(Source, args=source.flags()) == source
    assert Source.restore(json.loads(json.dumps(source.describe()))) == source


def test_a_coder_runs_where_asked(monkeypatch, tmp_path):
    """The weights, recipe and tokenizer of the file, on the device that is named."""
    tokenizer = tokenizers.small()
    recipe = replace(TINY, seed=5, model=replace(TINY.model, vocab=tokenizers.VOCAB))
    params = transformer.initialize(recipe.model, 3)
    artifact.write(tmp_path / "a.mgolf", params, recipe, {"tokenizer_sha256": tokenizer.sha256})
    made = record(monkeypatch, "harness.compression.compress.predictor", "a predictor")
    assert compress.load(tmp_path / "a.mgolf", tokenizer.path, "cuda:3") == "a predictor"
    [found] = made
    assert all(torch.isfinite(value).all() for value in found["params"].values())
    assert (found["recipe"], found["device"]) == (recipe, "cuda:3")
    assert found["tokenizer"].sha256 == tokenizer.sha256


def test_the_gate_checks_what_is_timed(monkeypatch):
    examined = record(monkeypatch, "harness.bench.gate.examined", [])
    gate.require(("ema", "masks"), "cuda:3", True, ("bfloat16",))
    shared = dict(device="cuda:3", compiled=True, dtypes=("bfloat16",))
    assert examined == [dict(name="ema", **shared), dict(name="masks", **shared)]
    told, piece = [], SimpleNamespace(passed=True)
    examined = record(monkeypatch, "harness.bench.gate.examined", [piece])
    rows = gate.require(("ema", "masks"), on_piece=lambda *given: told.append(given))
    assert rows == [piece] * 2 and told == [(1, 2, [piece]), (2, 2, [piece])]
    assert [one["compiled"] for one in examined] == [False, False]
    red = SimpleNamespace(passed=False, piece="ema", words=lambda: "the ema is red")
    record(monkeypatch, "harness.bench.gate.examined", [piece, red])
    said = "red on cuda:3: the ema is red; see maskgolf parity ema --device cuda:3 --compiled$"
    with pytest.raises(CheckFailed, match=said):
        gate.require(("ema",), "cuda:3", True)
