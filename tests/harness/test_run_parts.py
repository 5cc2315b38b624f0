"""A run with stand-ins for all that trains, ships and scores: what is called, in which order, with
what, on rank 0 and on another one; and what the files of a run say.
"""

import contextlib
import errno
import fcntl
import json
import os
from dataclasses import asdict, replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from fast import artifact
from fast.distributed import World
from fast.errors import PeerLost, TrainingError
from harness import runs
from harness.commands.demo import recipe_for
from harness.corpus.sources import Source
from reference.recipe import DEMO, PRESETS, TINY, InputError
from tests.support.stand_ins import Bar

SOURCE = Source(data=Path("somewhere"))
TOKENIZER = SimpleNamespace(table="table", sha256="abc", vocab=12)
DATASET = SimpleNamespace(
    train="train", validation="validation", tokenizer=TOKENIZER, identity=lambda: {"of": "data"}
)


class Calls:
    """What was called, in order; `plant` puts a stand-in that keeps its arguments in the place of
    a function and lets it return a value.
    """

    def __init__(self, monkeypatch):
        self.monkeypatch, self.made = monkeypatch, []

    def plant(self, place, name, value=None):
        def stand_in(*arguments, **keywords):
            self.made.append((name, *arguments, *keywords.items()))
            return value(*arguments) if callable(value) else value

        self.monkeypatch.setattr(place, name, stand_in)

    @property
    def names(self):
        return [call[0] for call in self.made]

    def of(self, name):
        """Return the arguments of every call of a function."""
        return [call[1:] for call in self.made if call[0] == name]


@pytest.fixture
def calls(monkeypatch):
    return Calls(monkeypatch)


# The order of a run


@pytest.fixture
def run_of(calls, monkeypatch):
    """Return a function that makes a run on a rank, where `goes_on` is what is there at first and
    `resumes` what is there once the folder is held.
    """

    def run(*, rank=0, goes_on=False, resumes=False, sent=None, **options):
        world = World(rank, 1 + rank, "device")
        calls.plant(runs.distributed, "join", world)
        calls.plant(runs.distributed, "fail_on_all_ranks", lambda _: contextlib.nullcontext())
        calls.plant(runs.distributed, "share")
        calls.plant(runs.distributed, "from_rank_0", lambda value, _: sent if rank else value)
        calls.plant(runs.distributed, "leave")
        calls.plant(runs, "plan")
        calls.plant(runs.run_directory, "check", goes_on)
        calls.plant(runs, "open_dataset", DATASET)
        calls.plant(runs, "prepare", resumes)
        calls.plant(runs, "restore", "restored")
        calls.plant(runs, "initial_state", "fresh")
        for name in ("_check_data", "_check_parity", "_describe", "_write_parity"):
            calls.plant(runs, name)
        calls.plant(runs, "_train", "trained")
        calls.plant(runs, "_ship", "summary")
        result = runs.run(TINY, SOURCE, "out", **options)
        calls.made = [call for call in calls.made if call[0] != "fail_on_all_ranks"]
        return result

    return run


def test_a_run_begins_is_trained_and_shipped(run_of, calls):
    assert run_of(device="asked", compiled=False) == "summary"
    world = World(0, 1, "device")
    assert calls.of("join") == [("asked",)]
    assert calls.of("plan") == [(TINY,)] and calls.of("share") == [(TINY, world)]
    assert calls.of("check") == [("out", False, False, TINY)]
    assert calls.of("open_dataset") == [(SOURCE, TINY.model.vocab, TINY.model.length)]
    [(*prepared, holding)] = calls.of("prepare")
    assert prepared == ["out", False, False, TINY] and isinstance(holding, contextlib.ExitStack)
    assert calls.of("_describe") == [("out", TINY, SOURCE, {"of": "data"}, False)]
    assert calls.of("initial_state") == [(TINY, "device")] and not calls.of("restore")
    assert calls.of("_train") == [(TINY, DATASET, "out", "fresh", False, world, False, None)]
    shipped = (("nelbo", None),)
    assert calls.of("_ship") == [
        (TINY, DATASET, "out", "trained", list(shipped), None, "device", False)
    ]
    assert (
        calls.names
        == (
            "join plan share check open_dataset prepare _describe from_rank_0 initial_state _train leave"
            " _ship"
        ).split()
    )


def test_what_a_run_does_unless_asked(run_of, calls):
    """Nothing is resumed, replaced or checked; it is compiled, on the CPU."""
    run_of()
    assert calls.of("join") == [("cpu",)] and calls.of("_train")[0][6:] == (True, None)
    assert calls.of("check") == [("out", False, False, TINY)] and not calls.of("_check_parity")
    assert calls.of("_ship")[0][5:] == (None, "device", True)


@pytest.mark.parametrize("goes_on", [False, True])
@pytest.mark.parametrize("resumes", [False, True])
@pytest.mark.parametrize("preflight", [False, True])
def test_a_run_that_goes_on_is_compared_before_and_once_it_is_held(
    goes_on, resumes, preflight, run_of, calls
):
    run_of(
        goes_on=goes_on,
        resumes=resumes,
        resume="auto",
        overwrite="whether",
        preflight=preflight,
        sequences=7,
        compiled="how",
        tracking="trackers",
    )
    expected = ["join", "plan", "share", "check", "open_dataset"]
    expected += ["_check_data"] if goes_on else []
    expected += ["_check_parity"] if preflight else []
    expected += ["prepare", "_check_data"] if resumes else ["prepare"]
    expected += ["_describe"] + ["_write_parity"] * preflight
    expected += ["from_rank_0", "restore" if resumes else "initial_state"]
    assert calls.names == [*expected, "_train", "leave", "_ship"]
    assert calls.of("check") == [("out", "auto", "whether", TINY)]
    assert calls.of("prepare")[0][:4] == ("out", "auto", "whether", TINY)
    assert calls.of("_check_data") == [("out", {"of": "data"})] * (goes_on + resumes)
    assert calls.of("_check_parity") == [(TINY, "device", "how")] * preflight
    assert calls.of("_describe")[0][-1] is resumes
    assert calls.of("restore") == [("out", TINY, "device")] * resumes
    assert calls.of("_train")[0][3:] == (
        "restored" if resumes else "fresh",
        resumes,
        World(0, 1, "device"),
        "how",
        "trackers",
    )
    assert calls.of("_ship")[0][5] == 7


@pytest.mark.parametrize("sent", [False, True])
@pytest.mark.parametrize("rank", [1, 2])
def test_another_rank_trains_and_does_no_more(sent, rank, run_of, calls):
    """Whether it goes on, rank 0 says."""
    assert run_of(rank=rank, sent=sent, resume="auto", preflight=True, goes_on=not sent) is None
    state = "restore" if sent else "initial_state"
    expected = ["join", "plan", "share", "from_rank_0", "open_dataset", state, "_train", "leave"]
    assert calls.names == expected
    assert calls.of("_train")[0][4:6] == (sent, World(rank, 1 + rank, "device"))


@pytest.mark.parametrize(
    ("asked", "scored"),
    [
        (runs.SCORING, [("nelbo", None), ("chain", "left-to-right")]),
        ([("causal", None)], [(None, None)]),
        ([], [(None, None)]),
    ],
)
def test_estimators_that_the_model_does_not_know_are_left_out(asked, scored, run_of, calls):
    run_of(scoring=asked)
    assert calls.of("_ship")[0][4] == scored


# Training


@pytest.fixture
def train_of(calls, monkeypatch, tmp_path):
    """Return a function that trains on a rank with stand-ins, and what it said."""
    progress = Bar()
    progress.update = "update"

    @contextlib.contextmanager
    def bar(title, unit, quiet):
        calls.made.append(("bar", title, unit, quiet))
        yield progress

    def train(*arguments, error=None, averaged=None, **keywords):
        calls.made.append(("train", *arguments, *keywords.items()))
        if error:
            raise error
        return SimpleNamespace(ema_started_step=averaged), [1.0]

    def trained(*, rank=0, resumed=False, compiled=False, finished=False, **outcome):
        calls.plant(runs.data, "batches", "batch")
        calls.plant(runs.evaluate, "validator", "validate")
        calls.plant(runs.evaluate, "validated", (64, 99))
        calls.plant(runs, "deterministic", lambda _: contextlib.nullcontext())
        stop = contextlib.nullcontext("stop")
        calls.plant(runs.distributed, "stop_on_all_ranks", lambda _: stop)
        calls.plant(runs, "run_callbacks", "callbacks")
        monkeypatch.setattr(runs, "bar", bar)
        stepper = SimpleNamespace(
            warm_up=lambda *arguments: calls.made.append(("warm", *arguments))
        )
        calls.plant(runs, "Stepper", stepper)
        monkeypatch.setattr(runs, "train", lambda *a, **k: train(*a, **k, **outcome))
        state = SimpleNamespace(finished=finished, step=7, ema_started_step=None)
        world = World(rank, 1 + rank, "device")
        result = runs._train(TINY, DATASET, tmp_path, state, resumed, world, compiled)
        return result, state, stepper

    return trained, progress.said, tmp_path


def log_of(folder) -> list[str]:
    path = folder / "train.log"
    return path.read_text().splitlines() if path.exists() else []


PART = runs.validation_text(64, 99)
NEVER = "ema never started: the live weights ship"


def test_rank_0_trains_with_its_callbacks(train_of, calls):
    trained, said, folder = train_of
    _, state, stepper = trained(averaged=3)
    world = World(0, 1, "device")
    assert calls.of("batches") == [("train", TINY)]
    assert calls.of("validator") == [(TINY, "validation", "table", "device")]
    assert calls.of("validated") == [("validation", TINY.model.length)]
    assert calls.of("deterministic") == [(TINY.training.repeatable,)]
    assert calls.of("stop_on_all_ranks") == [(world,)]
    assert calls.of("bar") == [(f"train {TINY.preset}", "steps", False)]
    [(out, recipe, log, metrics, validate, stop, update)] = calls.of("run_callbacks")
    assert (out, recipe, validate, stop, update) == (folder, TINY, "validate", "stop", "update")
    assert log.path == folder / "train.log" and metrics.path == folder / "metrics.jsonl"
    assert calls.of("Stepper") == [(TINY, "device", False, world)] and not calls.of("warm")
    [trained] = calls.of("train")
    given = {"world": world, "choose": artifact.choose_steps}
    assert trained == ("batch", TINY, state, stepper, "callbacks", *given.items())
    assert log_of(folder) == said == [PART]


def test_another_rank_trains_until_all_stop_and_writes_nothing(train_of, calls):
    trained, said, folder = train_of
    _, state, stepper = trained(rank=1)
    assert calls.of("bar")[0][2] is True and not calls.of("run_callbacks")
    [(*_, [callback], _, _)] = calls.of("train")
    assert (callback.asked, callback.leave) == ("stop", None)
    assert log_of(folder) == said == [] and not list(folder.iterdir())


@pytest.mark.parametrize("rank", [0, 1])
def test_compiling_is_said_and_comes_first(rank, train_of, calls):
    trained, said, _ = train_of
    _, state, stepper = trained(rank=rank, compiled=True, averaged=3)
    assert calls.of("Stepper")[0][2] is True and calls.of("warm") == [(state, "batch")]
    assert calls.names.index("warm") < calls.names.index("train")
    assert [text for text in said if text.startswith("compiling the training step (the first")]
    assert len(said) == 2 - rank


def test_a_run_that_goes_on_says_where_and_drops_what_came_after(train_of, calls):
    trained, said, folder = train_of
    (folder / "train.log").write_text("step:7/9 whole\nstep:8/9 cu")
    (folder / "metrics.jsonl").write_text('{"step": 7}\n{"step": 8}\n')
    trained(resumed=True, averaged=3)
    assert log_of(folder) == ["step:7/9 whole", "resumed at step 7"]
    assert (folder / "metrics.jsonl").read_text() == '{"step": 7}\n'
    assert said == ["resumed at step 7", PART]


def test_another_rank_that_goes_on_leaves_the_files_alone(train_of):
    trained, said, folder = train_of
    (folder / "train.log").write_text("step:7/9 cu")
    (folder / "metrics.jsonl").write_text('{"step": 8}\n')
    trained(rank=1, resumed=True)
    assert (folder / "train.log").read_text() == "step:7/9 cu"
    assert (folder / "metrics.jsonl").read_text() == '{"step": 8}\n'
    assert said == [PART]  # on a bar that shows nothing


def test_a_finished_run_is_not_trained(train_of, calls):
    trained, _, folder = train_of
    result, state, _ = trained(finished=True, compiled=True)
    assert result is state and not calls.of("train") and not calls.of("Stepper")
    assert log_of(folder) == [PART]


@pytest.mark.parametrize("rank", [0, 1])
def test_weights_that_were_never_averaged_are_told(rank, train_of):
    trained, _, folder = train_of
    trained(rank=rank)
    assert log_of(folder) == ([] if rank else [PART, NEVER])


@pytest.mark.parametrize("rank", [0, 1])
@pytest.mark.parametrize("kind", [TrainingError, PeerLost])
def test_a_failure_is_in_the_log(rank, kind, train_of):
    trained, _, folder = train_of
    with pytest.raises(kind, match="planted"):
        trained(rank=rank, error=kind("planted"))
    told = "stopped: planted; the last checkpoint is kept"
    assert log_of(folder) == ([] if rank else [PART, told])


# The plan


@pytest.mark.parametrize(
    ("changes", "attended"),
    [({}, 1.0), ({"causal": True}, 0.5)],  # half of what is before
)
def test_a_plan_counts_parameters_and_operations(changes, attended, monkeypatch):
    """By hand: matrices, the shared embedding, attention of every layer."""
    recipe = replace(TINY, model=replace(TINY.model, **changes))
    model = recipe.model
    monkeypatch.setattr(
        runs.size, "code_bytes", lambda given: {"a": 30, "b": 12 * (given == recipe)}
    )
    monkeypatch.setattr(runs.size, "estimate", lambda given, shapes: 1_000 + len(shapes))
    monkeypatch.setattr(runs.size, "bound", lambda given, shapes: 2_000 + len(shapes))
    shapes = runs.transformer.shapes(model)
    plan = runs.plan(recipe)
    matrices = sum(
        int(np.prod(shape))
        for name, shape in shapes.items()
        if name.split(".")[-1] in runs.transformer.MATRICES
    )
    share = runs.objective_of(model).attended(model)
    assert share == pytest.approx(attended)
    products = matrices + model.vocab * model.d
    products += int(2 * model.layers * share * model.length * model.d)
    assert matrices > 0 and plan == {
        "preset": "tiny",
        "parameters": sum(int(np.prod(shape)) for shape in shapes.values()),
        "tokens_per_step": recipe.training.tokens_per_step,
        "iterations": recipe.training.iterations,
        "flops_per_token": 6 * products,
        "flops_per_token_forward": 2 * products,
        "artifact_bytes_estimate": 1_042 + len(shapes),
        "artifact_bytes_bound": 2_042 + len(shapes),
        "code_bytes": 42,
        "limit": 16_000_000,
    }


def test_a_plan_of_a_wrong_recipe_is_refused():
    wrong = replace(TINY, model=replace(TINY.model, heads=3))
    with pytest.raises(InputError):
        runs.plan(wrong)


# The folder


def test_a_folder_is_held_by_one_run(tmp_path):
    with contextlib.ExitStack() as holding:
        runs.hold(tmp_path, holding)
        with contextlib.ExitStack() as other:
            with pytest.raises(InputError, match=f"^--out {tmp_path}: another process is training"):
                runs.hold(tmp_path, other)
        before = len(os.listdir("/proc/self/fd"))
    assert len(os.listdir("/proc/self/fd")) == before - 1  # nothing stays open
    with contextlib.ExitStack() as holding:
        runs.hold(tmp_path, holding)


def test_a_folder_is_made_empty_while_it_is_held(tmp_path, monkeypatch):
    out = tmp_path / "a" / "b"
    (out / "checkpoint" / "old").mkdir(parents=True)
    (out / "recipe.json").write_text("{}")
    (tmp_path / "kept").mkdir()
    (tmp_path / "kept" / "file").write_text("precious")
    (out / "link").symlink_to(tmp_path / "kept")
    asked = []

    def check(folder, *rest):
        with pytest.raises(BlockingIOError):
            fcntl.flock(os.open(folder, os.O_RDONLY), fcntl.LOCK_EX | fcntl.LOCK_NB)
        asked.append((folder, *rest))
        return False

    monkeypatch.setattr(runs.run_directory, "check", check)
    with contextlib.ExitStack() as holding:
        assert runs.prepare(out, "auto", True, TINY, holding) is False
    assert asked == [(out, "auto", True, TINY)]
    assert [path.name for path in out.iterdir()] == ["checkpoint"]
    assert not list((out / "checkpoint").iterdir())
    assert (tmp_path / "kept" / "file").read_text() == "precious"


def test_a_folder_of_a_run_that_goes_on_is_kept(tmp_path, monkeypatch):
    monkeypatch.setattr(runs.run_directory, "check", lambda *_: True)
    (tmp_path / "train.log").write_text("a")
    with contextlib.ExitStack() as holding:
        assert runs.prepare(tmp_path, True, False, TINY, holding) is True
    assert [path.name for path in tmp_path.iterdir()] == ["train.log"]


def test_a_folder_that_cannot_be_made_is_one_message(tmp_path):
    (tmp_path / "file").write_text("a")
    with contextlib.ExitStack() as holding, pytest.raises(InputError) as caught:
        runs.prepare(tmp_path / "file" / "out", False, False, TINY, holding)
    assert str(caught.value) == (
        f"--out {tmp_path / 'file' / 'out'}: cannot create the run directory"
        f" ({os.strerror(errno.ENOTDIR)}); choose another --out"
    )


# The files


def test_a_run_is_described_by_its_session_and_its_beginning(tmp_path):
    """The source of the first session, the recipe of the last; a file that a person reads."""
    identity = {"tokenizer_sha256": "a", "training_tokens": 3}
    runs._describe(tmp_path, TINY, Source(data=Path("/first")), identity, False)
    text = (tmp_path / "recipe.json").read_text()
    first = json.loads(text)
    assert first == {
        "source": Source(data=Path("/first")).describe(),
        "recipe": json.loads(json.dumps(asdict(TINY))),
        **identity,
    }
    assert text == json.dumps(first, indent=2) + "\n"
    (tmp_path / "recipe.json").write_text(json.dumps(first | {"more": 1, "training_tokens": 9}))
    later = replace(TINY, training=replace(TINY.training, log_every=3))
    runs._describe(tmp_path, later, Source(data=Path("/second")), identity, True)
    assert json.loads((tmp_path / "recipe.json").read_text()) == first | {
        "more": 1,
        "recipe": json.loads(json.dumps(asdict(later))),
    }


def test_data_that_changed_is_told_whole(tmp_path):
    path = tmp_path / "recipe.json"
    path.write_text(json.dumps({"recipe": {"model": {}}, "a": 1, "b": 2, "c": 3}))
    runs._check_data(tmp_path, {"a": 1, "c": 3})
    with pytest.raises(InputError) as caught:
        runs._check_data(tmp_path, {"a": 1, "b": 4, "c": 5, "d": 6})
    assert str(caught.value) == (
        f"--resume: {path} began with other data (b: 2, now 4; c: 3, now 5; d: None, now 6); pass"
        " the same --data, --tokenizer or --text"
    )


def test_parity_is_said_and_shows_its_pieces(monkeypatch, calls):
    progress = Bar()

    @contextlib.contextmanager
    def bar(*arguments):
        calls.made.append(("bar", *arguments))
        yield progress

    def preflight(recipe, device, compiled, say):
        say(f"{recipe.preset} {device} {compiled}")

    monkeypatch.setattr(runs, "bar", bar)
    monkeypatch.setattr(runs.parity, "preflight", preflight)
    runs._check_parity(TINY, "device", "how")
    assert calls.of("bar") == [("preflight", "pieces")]
    said = "preflight: parity with the specification on this device"
    assert progress.said == [said, "tiny device how"]


@pytest.fixture
def shipped(calls, monkeypatch, tmp_path):
    """Return a function that ships a run with stand-ins for the artifact and its scores."""

    def write(path, shadow, recipe, fields, *, batch, exponents):
        calls.made.append(("write", path, shadow, recipe, fields, batch, exponents))
        path.write_bytes(b"x" * 77)

    header = {"codec": "lzma", "recipe": "packed"}
    params = {"a": torch.zeros(2, 3), "b": torch.zeros(4)}
    monkeypatch.setattr(runs.artifact, "write", write)
    calls.plant(runs.artifact, "read", (header, params))
    calls.plant(runs.artifact, "check_size")
    calls.plant(runs.size, "code_bytes", {"a.py": 30, "b.py": 12})
    calls.plant(runs.data, "evaluation_count", 40)
    calls.plant(runs.data, "batches", lambda tokens, recipe: ("batches", tokens, recipe))
    calls.plant(runs, "score_fresh", lambda _, *how: {"how": list(how)})
    calls.plant(runs, "_baselines", {"zlib": 3.5})
    calls.plant(runs.log, "hardware", lambda device, count: f"{count} of {device}")
    calls.plant(runs.distributed, "environment", (0, 3, 0))
    state = SimpleNamespace(
        shadow="shadow",
        params="live",
        step=20,
        elapsed=8.0,
        multiplier=0.25,
        ema_started_step=6,
        exponents="exponents",
    )

    def ship(sequences=None):
        estimators = [("nelbo", None), ("chain", "confidence")]
        return runs._ship(TINY, DATASET, tmp_path, state, estimators, sequences, "gpu", "how")

    return ship, header, tmp_path


def test_a_summary_says_what_was_trained_and_scored(shipped, calls):
    """The averaged weights are written, and everything is read back from the file."""
    ship, header, out = shipped
    summary = ship()
    file = out / "artifact.mgolf"
    batch = "batches", DATASET.train, TINY
    fields = {"tokenizer_sha256": "abc"}
    assert calls.of("write") == [(file, "shadow", TINY, fields, batch, "exponents")]
    assert calls.of("read") == [(file,)] and calls.of("code_bytes") == [(TINY, "lzma")]
    assert calls.of("check_size") == [(header, 77, {"a.py": 30, "b.py": 12})]
    assert calls.of("score_fresh") == [
        (out, "nelbo", None, None, "gpu", "how"),
        (out, "chain", "confidence", None, "gpu", "how"),
    ]
    assert calls.of("_baselines") == [(DATASET, TINY.model.length, None)]
    assert calls.of("hardware") == [("gpu", 3)]
    assert summary == {
        "preset": "tiny",
        "parameters": 10,
        "steps": 20,
        "seconds": 8.0,
        "tokens_per_second": 2.5 * TINY.training.tokens_per_step,
        "final_lr_multiplier": 0.25,
        "ema_started_step": 6,
        "artifact_bytes": 77,
        "code_bytes": 42,
        "codec": "lzma",
        "scores": [
            {"how": ["nelbo", None, None, "gpu", "how"]},
            {"how": ["chain", "confidence", None, "gpu", "how"]},
        ],
        "baselines": {"zlib": 3.5},
        "hardware": "3 of gpu",
        "pytorch_version": torch.__version__,
    }
    assert (out / "summary.json").read_text() == json.dumps(summary, indent=2) + "\n"


@pytest.mark.parametrize(("asked", "scored"), [(7, 7), (40, 40), (41, 40), (0, 0)])
def test_no_more_windows_are_scored_than_there_are(asked, scored, shipped, calls):
    ship, _, _ = shipped
    ship(asked)
    assert {arguments[3] for arguments in calls.of("score_fresh")} == {scored}
    assert calls.of("_baselines") == [(DATASET, TINY.model.length, scored)]
    assert calls.of("evaluation_count") == ([("validation", TINY.model.length)] if asked else [])


def test_sizes_are_those_of_the_file_and_of_its_code(tmp_path, calls):
    (tmp_path / "artifact.mgolf").write_bytes(b"x" * 77)
    (tmp_path / "recipe.json").write_text('{"source": {}}')
    header = {"codec": "lzma"}
    calls.plant(runs.artifact, "read", (header, {}))
    calls.plant(runs.artifact, "recipe_of", "recipe")
    calls.plant(runs.size, "code_bytes", "code")
    calls.plant(runs.artifact, "size_report", "rows")
    assert runs.sizes(tmp_path) == "rows"
    assert calls.of("read") == [(tmp_path / "artifact.mgolf",)]
    assert calls.of("recipe_of") == [(header,)] and calls.of("code_bytes") == [("recipe", "lzma")]
    assert calls.of("size_report") == [(header, 77, "code")]


@pytest.mark.parametrize(("sequences", "count"), [(None, 30), (0, 30), (2, 16), (3, 24), (9, 30)])
def test_baselines_are_of_the_text_that_is_scored(sequences, count, calls):
    tokens = SimpleNamespace(read=lambda start, stop: range(start, stop))
    validation = type(
        "Tokens", (), {"__len__": lambda _: 30, "read": lambda _, a, b: range(a, b)}
    )()
    dataset = SimpleNamespace(validation=validation, tokenizer=TOKENIZER, train=tokens)
    calls.plant(runs, "raw_text", "text")
    calls.plant(runs, "baselines", {"zlib": 1.0})
    assert runs._baselines(dataset, 8, sequences) == {"zlib": 1.0}
    assert calls.of("raw_text") == [(range(count), TOKENIZER)]
    assert calls.of("baselines") == [("text", 12, count)]


def test_a_demo_is_scored_by_every_estimator_on_a_few_windows():
    assert runs.DEMO_WINDOWS == 128 and set(PRESETS) >= {"demo", "tiny", "golf"}
    names = [("nelbo", None), ("causal", None), ("chain", "left-to-right")]
    assert list(runs.SCORING) == names


def test_the_demo_trains_fewer_steps_on_the_embedded_text():
    found = recipe_for(DEMO, Source(tokenizer=Path("mine")))
    shorter = replace(DEMO.training, iterations=225, warmdown=75)
    assert found == replace(DEMO, training=shorter)


@pytest.mark.parametrize(
    ("changes", "source"),
    [
        ({}, Source(data=Path("shards"))),
        ({}, Source(text=(Path("notes.txt"),))),
        ({"iterations": 449}, Source()),
        ({"warmdown": 151}, Source()),
    ],
)
def test_the_demo_keeps_the_steps_of_other_texts_and_those_asked_for(changes, source):
    recipe = replace(DEMO, training=replace(DEMO.training, **changes))
    assert recipe_for(recipe, source) == recipe
    assert recipe_for(TINY, source) == TINY
