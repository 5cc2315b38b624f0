"""What a run does before, around and after its training, without any: checks, folders, modes, the
text it validates on, what it ships.
"""

import contextlib
import hashlib
import json
from dataclasses import asdict, replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from fast import artifact, checkpoint
from fast.distributed import World
from fast.train import initial_state
from harness import parity, runs
from harness.corpus.dataset import Dataset
from harness.corpus.shards import raw_text
from harness.corpus.sources import Source
from harness.records import run_directory
from reference.recipe import GOLF, TINY, InputError
from tests.support import tokenizers
from tests.support.recorded import record

RUN = replace(TINY, seed=7, model=replace(TINY.model, vocab=tokenizers.VOCAB))


class Split:
    """A split of some tokens."""

    def __init__(self, ids):
        self.ids = torch.tensor(ids)

    def __len__(self):
        return len(self.ids)

    def read(self, start, stop, vocab=None):
        """Return tokens start..stop."""
        return self.ids[start:stop].numpy()


def dataset(train=range(5, 40), validation=range(7, 30)) -> Dataset:
    """Return a dataset of two unlike splits."""
    return Dataset(Split(list(train)), Split(list(validation)), tokenizers.small())


# in which order a run begins


@pytest.fixture
def events(monkeypatch):
    """Return what a run does, in order, none of it for long."""
    done = []

    def note(name, result=None):
        return lambda *given, **_: (done.append((name, *given)), result)[1]

    checked = record(monkeypatch, "harness.records.run_directory.check", lambda *given: given[1])
    monkeypatch.setattr(runs, "open_dataset", note("opened", dataset()))
    monkeypatch.setattr(runs.distributed, "join", lambda device: World(device=f"{device}:3"))
    monkeypatch.setattr(runs, "_check_parity", note("parity", "the rows"))
    monkeypatch.setattr(
        runs, "prepare", lambda *given: (done.append(("folder", *given)), given[1])[1]
    )
    monkeypatch.setattr(runs, "_check_data", note("data"))
    monkeypatch.setattr(runs, "_describe", note("described"))
    monkeypatch.setattr(runs, "_write_parity", note("rows"))
    monkeypatch.setattr(runs, "restore", note("restored", "a checkpoint"))
    monkeypatch.setattr(runs, "initial_state", note("begun", "a start"))
    monkeypatch.setattr(runs, "_train", note("trained", "the end"))
    monkeypatch.setattr(runs, "_ship", note("shipped", "a summary"))
    return done, checked


@pytest.mark.parametrize(("resume", "overwrite"), [(False, False), (False, True), (True, False)])
@pytest.mark.parametrize("compiled", [False, True])
@pytest.mark.parametrize("preflight", [False, True])
def test_a_run_is_checked_before_anything_is_touched(
    events, tmp_path, resume, overwrite, preflight, compiled
):
    """What lies there, its data where a run goes on, parity of what will run, on a resumed run
    too, and only then the folder; the device and the mode of the compiler everywhere.
    """
    (events, checked), out = events, tmp_path / "run"
    given = RUN, Source(tmp_path), out, resume, overwrite, "cuda", compiled, preflight
    summary = runs.run(*given, sequences=9)
    assert summary == "a summary"
    assert checked == [dict(out=out, resume=resume, overwrite=overwrite, recipe=RUN)]
    assert [name for name, *_ in events] == [
        "opened",
        *["data"] * resume,
        *["parity"] * preflight,
        *[
            "folder",
            *["data"] * resume,
            "described",
            *["rows"] * preflight,
            "restored" if resume else "begun",
            "trained",
            "shipped",
        ],
    ]
    assert events[0] == ("opened", Source(tmp_path), tokenizers.VOCAB, 8)
    known = {name: given for name, *given in events}
    if preflight:
        assert known["parity"] == [RUN, "cuda:3", compiled]
        assert known["rows"] == [out, "the rows"]
    assert known["folder"][:4] == [out, resume, overwrite, RUN]
    assert known["described"][:3] == [out, RUN, Source(tmp_path)]
    assert known["described"][4] is resume
    if resume:
        assert known["data"][0] == out and known["restored"] == [out, RUN, "cuda:3"]
    else:
        assert known["begun"] == [RUN, "cuda:3"]
    state = "a checkpoint" if resume else "a start"
    recipe, _, folder, begun, resumed, world, mode, tracking = known["trained"]
    assert (recipe, folder, begun, resumed, mode) == (RUN, out, state, resume, compiled)
    assert world.device == "cuda:3" and known["shipped"][0] is RUN and tracking is None
    assert known["shipped"][2:] == [out, "the end", list(runs.SCORING[:1]), 9, "cuda:3", compiled]


@pytest.mark.parametrize("compiled", [False, True])
def test_a_preflight_is_that_of_the_run(monkeypatch, compiled):
    """Its device and compute dtype, the pieces that are compiled, all but the long one."""
    examined = record(monkeypatch, "harness.parity.examine", [])
    recipe = replace(GOLF, training=replace(GOLF.training, compute_dtype="float16"))
    runs._check_parity(recipe, "cuda:3", compiled)
    assert {one["piece"].name for one in examined} == set(parity.PIECES) - {"trajectory"}
    assert {one["device"] for one in examined} == {"cuda:3"}
    assert {one["dtypes"][0] for one in examined} == {torch.float16}
    own = {one["piece"].name for one in examined if one["dtypes"][1:] == (torch.bfloat16,)}
    assert own == set(parity.MUON)
    chosen = {one["piece"].name for one in examined if one["compiled"]}
    assert chosen == ({"masks", "step"} if compiled else set())


def test_a_folder_is_emptied_where_asked_alone(tmp_path):
    """A run is there, or foreign files are: refused and untouched, unless a run is to be
    overwritten.
    """
    run, foreign = tmp_path / "run", tmp_path / "foreign"
    described = json.dumps({"recipe": asdict(RUN)})
    for folder, name in ((run, "recipe.json"), (foreign, "thesis.txt")):
        (folder / "checkpoint").mkdir(parents=True)
        (folder / name).write_text(described)
        (folder / "checkpoint" / "latest.pt").write_text("hours")
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(InputError, match="a run is there; pass --resume to go on"):
        run_directory.check(run, False, False, RUN)
    for overwrite in (False, True):
        with pytest.raises(InputError, match="or an empty one, found other files"):
            run_directory.check(foreign, False, overwrite, RUN)
    assert run_directory.check(run, True, False, RUN) is True
    with contextlib.ExitStack() as holding:
        assert runs.prepare(run, True, False, RUN, holding) is True
    assert sorted(tmp_path.rglob("*")) == before
    assert run_directory.check(run, False, True, RUN) is False
    with contextlib.ExitStack() as holding:
        assert runs.prepare(run, False, True, RUN, holding) is False
    assert sorted(path.name for path in run.rglob("*")) == ["checkpoint"]


def plain(recipe) -> dict:
    """Return a recipe as JSON has it."""
    return json.loads(json.dumps(asdict(recipe)))


def test_what_is_written_of_a_run(tmp_path):
    """Its recipe, its data and where that was; gone on with from elsewhere, where it was first."""
    path = tmp_path / "recipe.json"
    runs._describe(tmp_path, RUN, Source(tmp_path / "here"), dataset().identity(), False)
    written = json.loads(path.read_text())
    assert path.read_text().endswith("}\n")
    first = Source(tmp_path / "here").describe()
    assert written == {"source": first, "recipe": plain(RUN), **dataset().identity()}
    often = replace(RUN, training=replace(RUN.training, log_every=7))
    runs._describe(tmp_path, often, Source(tmp_path / "there"), dataset().identity(), True)
    assert json.loads(path.read_text()) == written | {"recipe": plain(often)}


# what identifies its data and its recipe


def test_a_dataset_is_told_by_both_of_its_splits():
    """Its tokenizer, and of each split the length and the tokens, late ones too."""
    base = dataset().identity()
    assert base["tokenizer_sha256"] == tokenizers.small().sha256
    assert (base["training_tokens"], base["validation_tokens"]) == (35, 23)
    others = {
        "training_sha256": dataset(train=[*range(5, 39), 4]).identity(),
        "validation_sha256": dataset(validation=[*range(7, 29), 4]).identity(),
    }
    for name, other in others.items():
        assert {key for key in base if base[key] != other[key]} == {name}
    whole = np.arange(5, 40).astype("<u2").tobytes()
    assert base["training_sha256"] == hashlib.sha256(whole).hexdigest()
    longer = dataset(validation=range(7, 31)).identity()
    assert {key for key in base if base[key] != longer[key]} == {
        "validation_tokens",
        "validation_sha256",
    }


@pytest.mark.parametrize("split", ["train", "validation"])
def test_other_data_of_either_split_is_refused_on_resuming(split, tmp_path):
    path = tmp_path / "recipe.json"
    path.write_text(json.dumps({"recipe": asdict(RUN), **dataset().identity()}))
    runs._check_data(tmp_path, dataset().identity())
    name = {"train": "training", "validation": "validation"}[split]
    other = dataset(**{split: [*range(5, 5 + len(getattr(dataset(), split)) - 1), 4]})
    with pytest.raises(InputError, match=f"began with other data .{name}_sha256: "):
        runs._check_data(tmp_path, other.identity())


@pytest.mark.parametrize(
    ("part", "field", "value"),
    [
        ("", "seed", 8),
        ("training", "iterations", 4000),
        ("training", "max_wallclock_seconds", 5.0),
        ("training", "warmdown", 3),
        ("training", "shuffle", not RUN.training.shuffle),
        ("training", "repeatable", not RUN.training.repeatable),
        ("training", "compute_dtype", "float64"),
        ("diffusion", "epsilon", 0.02),
        ("ema", "start", 0.7),
        ("optimizer", "clip", 0.5),
        ("quantization", "format", "float16"),
        ("model", "rope_base", 500.0),
    ],
)
def test_a_run_goes_on_under_its_own_recipe_alone(part, field, value, tmp_path):
    """Whatever decides a step, its data, its end or its artifact may not change on resuming."""
    checkpoint.save(tmp_path, {}, {}, RUN)
    assert checkpoint.load(tmp_path, RUN) == ({}, {})
    if part:
        other = replace(RUN, **{part: replace(getattr(RUN, part), **{field: value})})
    else:
        other = replace(RUN, **{field: value})
    with pytest.raises(InputError, match=f"made by another recipe .*{field}: .*, now {value}"):
        checkpoint.load(tmp_path, other)


# the loop's surroundings


@pytest.fixture
def surrounded(monkeypatch, tmp_path):
    """Return (validators, modes, loops) that _train() asks for, and a function that calls it."""
    state = initial_state(RUN)
    validators = record(monkeypatch, "fast.evaluate.validator", "a validation")
    modes = record(monkeypatch, "harness.runs.deterministic", lambda _: contextlib.nullcontext())
    loops = record(monkeypatch, "harness.runs.train", (SimpleNamespace(ema_started_step=3), []))

    def train(recipe, world=World()):
        runs._train(recipe, dataset(range(5, 165)), tmp_path, state, False, world, False)

    return validators, modes, loops, train


def test_callbacks_write_into_the_run_directory(surrounded, monkeypatch, tmp_path):
    """Its log, its records, its checkpoints; and a bar that other ranks do not show."""
    *_, train = surrounded
    made = record(monkeypatch, "harness.runs.run_callbacks", [])
    bars = record(monkeypatch, "harness.runs.bar", runs.bar)
    steppers = record(monkeypatch, "harness.runs.Stepper", "a step")
    split = replace(RUN, training=replace(RUN.training, tokens_per_step=48))
    worlds = [World(rank, 3) for rank in (2, 0)]
    for world in worlds:
        train(split, world)
    [found] = made
    assert (found["folder"], found["recipe"]) == (tmp_path, split)
    assert found["log"].path == tmp_path / "train.log"
    assert found["metrics"].path == tmp_path / "metrics.jsonl"
    assert [one["quiet"] for one in bars] == [True, False]
    shared = dict(recipe=split, device="cpu", compiled=False)
    assert steppers == [dict(world=world, **shared) for world in worlds]


def test_a_run_is_validated_on_the_validation_split(surrounded):
    validators, _, loops, train = surrounded
    train(RUN)
    [found] = validators
    assert (len(found["tokens"]), found["recipe"], found["device"]) == (23, RUN, "cpu")
    assert found["table"] is tokenizers.small().table
    callbacks = {type(one).__name__: one for one in loops[0]["callbacks"]}
    assert callbacks["Validate"].validate == "a validation"
    first = loops[0]["batch"](0, torch.arange(1).numpy())
    assert set(first.ids_NL.ravel().tolist()) <= set(range(5, 165))


@pytest.mark.parametrize("repeatable", [False, True])
def test_a_run_repeats_where_its_recipe_says_so(surrounded, repeatable):
    _, modes, _, train = surrounded
    train(replace(RUN, training=replace(RUN.training, repeatable=repeatable)))
    assert modes == [dict(repeatable=repeatable)]


def test_other_ranks_have_the_stop_alone(surrounded):
    _, _, loops, train = surrounded
    train(replace(RUN, training=replace(RUN.training, tokens_per_step=48)), World(1, 3))
    assert [type(one).__name__ for one in loops[0]["callbacks"]] == ["StopOnRequest"]


def test_a_run_ships_its_average_under_its_tokenizer(monkeypatch, tmp_path):
    """The file, and a summary whose numbers are those of the state and of the file."""
    state = initial_state(RUN)
    for value in state.shadow.values():
        value.data += 1 / 64
    state.step, state.elapsed, state.multiplier, state.ema_started_step = 12, 3.0, 0.25, 5
    scored = record(monkeypatch, "harness.runs.score_fresh", lambda *given: given[1])
    compared = record(monkeypatch, "harness.runs.baselines", {"zlib": 4.5})
    checked = record(monkeypatch, "fast.artifact.check_size")
    machines = record(monkeypatch, "fast.ship.log.hardware", "a machine")
    monkeypatch.setenv("WORLD_SIZE", "3")
    weighed = record(monkeypatch, "harness.packaging.size.code_bytes", {"train_gpt.py": 1234})
    scoring = [("nelbo", None), ("chain", "confidence")]
    given = RUN, dataset(), tmp_path, state, scoring, 2, "cuda:3", False
    summary = runs._ship(*given)
    text = (tmp_path / "summary.json").read_text()
    assert summary == json.loads(text) and text.endswith("}\n")
    assert machines == [dict(device="cuda:3", count=3)]
    first = raw_text(list(range(7, 23)), tokenizers.small())
    assert compared == [dict(text=first, vocab=tokenizers.VOCAB, tokens=16)]
    header, params = artifact.read(tmp_path / "artifact.mgolf")
    assert header["tokenizer_sha256"] == tokenizers.small().sha256
    artifact.write(tmp_path / "expected", state.shadow, RUN)
    for name, value in artifact.read(tmp_path / "expected")[1].items():
        assert torch.equal(params[name], value), name
    assert weighed == [dict(recipe=RUN, codec=header["codec"])]
    [one] = checked
    size = (tmp_path / "artifact.mgolf").stat().st_size
    assert one["header"] == header
    assert (one["file_bytes"], one["code"]) == (size, {"train_gpt.py": 1234})
    shared = dict(run=tmp_path, sequences=2, device="cuda:3", compiled=False, source=None)
    assert scored == [dict(estimator=name, order=order, **shared) for name, order in scoring]
    expected = {
        "preset": "tiny",
        "parameters": sum(value.numel() for value in params.values()),
        "steps": 12,
        "seconds": 3.0,
        "tokens_per_second": 12 * RUN.training.tokens_per_step / 3.0,
        "final_lr_multiplier": 0.25,
        "ema_started_step": 5,
        "artifact_bytes": (tmp_path / "artifact.mgolf").stat().st_size,
        "code_bytes": 1234,
        "codec": header["codec"],
        "scores": ["nelbo", "chain"],
        "baselines": {"zlib": 4.5},
        "hardware": "a machine",
    }
    assert {name: summary[name] for name in expected} == expected
