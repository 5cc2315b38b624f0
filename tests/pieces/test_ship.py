"""The program of a submission and its log, function by function: what it takes from the
environment, hands on, writes and says.
"""

import contextlib
import math
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from fast import artifact, data, evaluate, quantize, transformer
from fast.bytes import byte_table
from fast.callbacks import LogLoss, Validate, validation_text
from fast.data import evaluation_windows, write_shard
from fast.distributed import World
from fast.ship import log, submission
from fast.train import State, initial_state
from reference.recipe import TINY, InputError, Score
from tests.pieces.test_ranks import Threads
from tests.support import tokenizers
from tests.support.recorded import record
from tests.support.strategies import random_params

RUN = replace(
    TINY,
    seed=7,
    model=replace(TINY.model, vocab=tokenizers.VOCAB),
    training=replace(
        TINY.training,
        iterations=9,
        warmdown=4,
        max_wallclock_seconds=60.0,
        tokens_per_step=48,  # 6 rows
        micro_batch_tokens=16,
    ),
)
TRAIN, VALIDATION = 41, 27  # tokens
TABLE = byte_table(["ab", "\u2581c"] * 6, ["normal"] * 12)


@pytest.fixture
def here(tmp_path, monkeypatch):
    """Return a folder to run in; the data is in data/, beside another tokenizer than the one
    that is named.
    """
    rng = np.random.default_rng(0)
    write_shard(tmp_path / "data" / "x_train_000000.bin", rng.integers(4, 300, TRAIN))
    write_shard(tmp_path / "data" / "x_val_000000.bin", rng.integers(4, 300, VALIDATION))
    (tmp_path / "data" / "other.model").write_bytes(b"no tokenizer")
    monkeypatch.setenv("DATA_PATH", str(tmp_path / "data"))
    monkeypatch.setenv("TOKENIZER_PATH", str(tokenizers.small().path))
    for name in ("SEED", "ITERATIONS", "MAX_WALLCLOCK_SECONDS", "RUN_ID"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_variables_set_their_own_fields(monkeypatch):
    values = {"SEED": "5", "ITERATIONS": "8", "MAX_WALLCLOCK_SECONDS": "2.5"}
    training = replace(RUN.training, iterations=8)
    expected = {
        "SEED": replace(RUN, seed=5),
        "ITERATIONS": replace(RUN, training=training),
        "MAX_WALLCLOCK_SECONDS": replace(
            RUN, training=replace(RUN.training, max_wallclock_seconds=2.5)
        ),
    }
    for name in values:
        monkeypatch.delenv(name, raising=False)
    assert submission.configured(RUN) == RUN
    for name, value in values.items():
        with monkeypatch.context() as alone:
            alone.setenv(name, value)
            assert submission.configured(RUN) == expected[name]
    for name, value in values.items():
        monkeypatch.setenv(name, value)
    together = replace(training, max_wallclock_seconds=2.5)
    assert submission.configured(RUN) == replace(RUN, seed=5, training=together)


def test_what_a_program_begins_with(here, monkeypatch, capsys):
    """Each split in its place, the tokenizer that is named, the lines of the log, and callbacks
    that write to it.
    """
    validators = record(monkeypatch, "fast.evaluate.validator", "a validation")
    machines = record(monkeypatch, "fast.ship.log.hardware", "a machine")
    world = World(device="cuda:1")
    recipe, tokens, tokenizer, train_log, callbacks = submission.begin(RUN, world)
    assert (recipe, len(tokens), tokenizer.sha256) == (RUN, TRAIN, tokenizers.small().sha256)
    [found] = validators
    assert (len(found["tokens"]), found["recipe"], found["device"]) == (VALIDATION, RUN, "cuda:1")
    assert found["table"] is tokenizer.table
    assert [type(callback) for callback in callbacks] == [LogLoss, Validate]
    assert callbacks[1].validate == "a validation" and callbacks[1].training is recipe.training
    parameters = sum(value.numel() for value in transformer.initialize(RUN.model, 0).values())
    lines = log.opening_lines(RUN, "a machine", torch.__version__, parameters, VALIDATION)
    windows = -(-VALIDATION // RUN.model.length)
    lines = [*lines, validation_text(windows, windows)]
    assert machines == [dict(device="cuda:1", count=1)]
    assert (here / "logs" / "train_seed7.txt").read_text().splitlines() == lines
    assert capsys.readouterr().out.splitlines() == lines
    monkeypatch.setenv("RUN_ID", "mine")
    submission.begin(RUN, world)
    assert (here / "logs" / "mine.txt").read_text().splitlines() == lines


@pytest.mark.parametrize("split", ["train", "val"])
def test_a_split_shorter_than_a_window_is_refused_at_once(split, here):
    """8 tokens are a window, 7 are none; a score needs the validation split alone."""
    artifact.write("mine.mgolf", transformer.initialize(RUN.model, 3), RUN)
    for count in (8, 7):
        write_shard(here / "data" / f"x_{split}_000000.bin", [5] * count)
        if count == 8:
            submission.begin(RUN, World())
            continue
        with pytest.raises(InputError, match="one window of 8 tokens, found 7"):
            submission.begin(RUN, World())
        if split == "val":
            with pytest.raises(InputError, match="one window of 8 tokens, found 7"):
                submission.score_file("mine.mgolf", World())


@contextlib.contextmanager
def unshared(world):
    """Stand for what several ranks do together."""
    yield


def trained(recipe) -> State:
    """Return the state of a run: live weights and average are others than the initial ones."""
    state = initial_state(recipe)
    state.step, state.elapsed = 6, 3.0
    for number, group in enumerate((state.params, state.shadow), 1):
        for value in group.values():
            value.data += number / 64
    return state


def test_only_rank_0_has_a_log_and_callbacks(here, monkeypatch):
    """Of three ranks, two write nothing: no log, no artifact."""
    _, tokens, _, train_log, callbacks = submission.begin(RUN, World(1, 3))
    assert (len(tokens), train_log, callbacks) == (TRAIN, None, [])
    monkeypatch.setattr(submission.distributed, "fail_on_all_ranks", unshared)
    trainings = record(
        monkeypatch, "fast.ship.submission.train_model", lambda recipe, *_: trained(recipe)
    )
    scored = record(monkeypatch, "fast.ship.submission.score_file", ["the score"])
    written = record(monkeypatch, "fast.artifact.write")
    for rank in (2, 1):
        submission.run(RUN, World(rank, 3))
    assert not (here / "logs").exists() and not written
    submission.run(RUN, World(0, 3))
    assert len(written) == 1
    assert [(str(one["path"]), one["world"].rank) for one in scored] == [
        ("final_model.mgolf", rank) for rank in (2, 1, 0)
    ]
    assert [(len(one["tokens"]), len(one["callbacks"])) for one in trainings] == [
        (TRAIN, count) for count in (0, 0, 2)
    ]
    text = (here / "logs" / "train_seed7.txt").read_text()
    assert "3 x" in text and text.endswith("ms\nthe score\n")


def test_a_program_ships_by_its_codec_and_names_its_tokenizer(here, monkeypatch):
    state = trained(RUN)
    monkeypatch.setattr(submission, "CODEC", "zlib")
    monkeypatch.setattr(submission, "train_model", lambda *_: state)
    monkeypatch.setattr(submission, "score_file", lambda *_: [])
    submission.run(RUN, World())
    header, params = artifact.read(here / "final_model.mgolf")
    assert header["codec"] == "zlib"
    assert header["tokenizer_sha256"] == tokenizers.small().sha256
    artifact.write(here / "expected", state.shadow, RUN)
    expected = artifact.read(here / "expected")[1]
    assert all(torch.equal(params[name], value) for name, value in expected.items())


def test_a_program_ships_by_the_steps_that_its_training_chose(here, monkeypatch, stream):
    stored = replace(RUN.quantization, format="uniform", threshold=16, dial=8, aware_steps=2)
    recipe, tokens = replace(RUN, quantization=stored), stream([5] * 30, [6] * 13)
    state = trained(recipe)
    state.exponents = artifact.choose_steps(
        state.params, data.batches(tokens, recipe), recipe, "zlib"
    )
    monkeypatch.setattr(submission, "train_model", lambda *_: state)
    monkeypatch.setattr(submission, "score_file", lambda *_: [])
    submission.run(recipe, World())
    params = transformer.stack(artifact.read(here / "final_model.mgolf")[1])
    for name, value in quantize.rounded(state.shadow, state.exponents).items():
        assert name not in state.exponents or torch.equal(params[name], value)


@pytest.mark.parametrize("device", ["cpu", "cuda:1"])
def test_a_program_trains_as_its_recipe_says(device, monkeypatch, stream):
    """The mode, the device, the world and the callbacks reach the loop; on a GPU the step is
    compiled, and warmed up on the state and the batches of the run.
    """
    recipe = replace(RUN, training=replace(RUN.training, repeatable=True))
    modes = record(
        monkeypatch, "fast.ship.submission.deterministic", lambda _: contextlib.nullcontext()
    )
    batches = record(monkeypatch, "fast.data.batches", "the batches")
    warmed = []
    stepper = SimpleNamespace(warm_up=lambda *given: warmed.append(given))
    steppers = record(monkeypatch, "fast.ship.submission.Stepper", stepper)
    states = record(monkeypatch, "fast.ship.submission.initial_state", "a start")
    loops = record(monkeypatch, "fast.ship.submission.train", ("a state", []))
    world = World(1, 3, device)
    tokens = stream([5] * 30, [6] * 13)
    assert submission.train_model(recipe, tokens, ["a callback"], world) == "a state"
    assert modes == [dict(repeatable=True)]
    assert batches == [dict(tokens=tokens, recipe=recipe)]
    [made] = steppers
    assert made == dict(recipe=recipe, device=device, compiled=device != "cpu", world=world)
    [started] = states
    assert (started["recipe"], started["device"]) == (recipe, device)
    assert warmed == ([] if device == "cpu" else [("a start", "the batches")])
    [found] = loops
    del found["clock"]
    choose = found.pop("choose")
    assert (choose.func, choose.keywords) == (artifact.choose_steps, {"codec": submission.CODEC})
    assert found == dict(
        batch="the batches",
        recipe=recipe,
        state="a start",
        stepper=stepper,
        callbacks=["a callback"],
        world=world,
    )


def test_data_lies_in_the_challenges_folders_unless_said(monkeypatch):
    """DATA_PATH and TOKENIZER_PATH, each alone, and neither."""
    layout = SimpleNamespace(tokenizer="the tokenizer")
    found = record(monkeypatch, "fast.data.find_layout", layout)
    loaded = record(monkeypatch, "fast.ship.submission.load_tokenizer", "loaded")
    data = "./data/datasets/fineweb10B_sp1024"
    model = "./data/tokenizers/fineweb_1024_bpe.model"
    for variables, expected in (
        ({}, (data, model)),
        ({"DATA_PATH": "mine"}, ("mine", model)),
        ({"TOKENIZER_PATH": "mine"}, (data, "mine")),
    ):
        with monkeypatch.context() as environment:
            for name in ("DATA_PATH", "TOKENIZER_PATH"):
                environment.delenv(name, raising=False)
            for name, value in variables.items():
                environment.setenv(name, value)
            assert submission.opened(RUN) == (layout, "loaded")
        assert (found[-1]["path"], found[-1]["tokenizer"]) == expected
    assert loaded[-1] == dict(path="the tokenizer", expect_vocab=tokenizers.VOCAB)


def test_an_artifact_is_scored_on_the_validation_split_and_weighed(here, monkeypatch):
    """With the program's own bytes; one of another tokenizer is refused."""
    params = transformer.initialize(RUN.model, 3)
    sha = tokenizers.small().sha256
    size = artifact.write("mine.mgolf", params, RUN, {"tokenizer_sha256": sha}, "zlib")
    score = Score("nelbo", None, 2.0, 0.1, 0.2, 1.25, 10, 5, 3, 0.5)
    scored = record(monkeypatch, "fast.ship.submission.score_tokens", score)
    weighed = record(monkeypatch, "fast.artifact.check_size")
    code = len(open(submission.__file__, "rb").read())
    lines = submission.score_file("mine.mgolf", World())
    assert lines == [
        *log.size_lines("e4m3+zlib", size, code),
        *log.score_lines("e4m3+zlib", score),
    ]
    header, kept = artifact.read("mine.mgolf")
    assert (len(scored[0]["tokens"]), scored[0]["recipe"]) == (VALIDATION, RUN)
    assert {name: value.tolist() for name, value in scored[0]["params"].items()} == {
        name: value.tolist() for name, value in kept.items()
    }
    assert (weighed[0]["file_bytes"], weighed[0]["code"]) == (size, {"submission.py": code})
    assert weighed[0]["header"] == header
    artifact.write("other.mgolf", params, RUN, {"tokenizer_sha256": "0" * 64})
    with pytest.raises(InputError, match="expected the tokenizer the model was trained with"):
        submission.score_file("other.mgolf", World())


@pytest.mark.parametrize("size", [3, 5])
def test_ranks_share_a_score_whatever_their_number(size, monkeypatch, stream):
    """12 windows, the last one short, in passes of two: ranks that get none of them, or fewer than
    others, change no number.
    """
    recipe = replace(TINY, training=replace(TINY.training, compute_dtype="float32"))
    ids = np.random.default_rng(1).integers(0, 12, 11 * 8 + 5).tolist()
    tokens = stream(ids[:17], ids[17:20], ids[20:])
    params = random_params(recipe.model, np.random.default_rng(2))
    params = {name: torch.from_numpy(value).float() for name, value in params.items()}
    tokenizer = SimpleNamespace(table=TABLE)
    monkeypatch.setattr(submission, "SCORED_ROWS", 2)

    def score(world):
        return submission.score_tokens(params, recipe, tokens, tokenizer, world)

    alone = score(World())._replace(seconds=0)
    assert alone.tokens == len(ids) and alone.stderr_sequences > 0
    effort = evaluate.default_effort(recipe)
    predict, settings = evaluate.predictor(params, recipe), {"batch_rows": 2}
    plan, _ = evaluate.split_plan(predict, tokens, 8, 12, effort, **settings)
    windows = evaluation_windows(tokens, 8, 12)
    parts = list(evaluate.measure(predict, windows, TABLE, effort, **settings, plans={8: plan}))
    assert evaluate.total(parts, effort, 0)._replace(forwards=0) == alone
    ranks = Threads(size)
    monkeypatch.setattr(submission.distributed, "dist", ranks)
    for found in ranks.run(score):
        assert found._replace(seconds=0) == alone


def test_a_gpu_scores_by_a_compiled_model(monkeypatch, stream):
    predictors = record(monkeypatch, "fast.evaluate.predictor", "a model")
    plans = record(monkeypatch, "fast.evaluate.split_plan", ("a plan", 0))
    measures = record(monkeypatch, "fast.evaluate.measure", [])
    monkeypatch.setattr(submission.distributed, "sum_over_ranks", lambda tensors, world: tensors)
    monkeypatch.setattr(torch.Tensor, "to", lambda self, *_, **__: self)
    record(monkeypatch, "fast.evaluate.total", "a score")
    world, tokens = World(device="cuda:1"), stream([1] * 20)
    given = "weights", TINY, tokens, SimpleNamespace(table=TABLE), world
    assert submission.score_tokens(*given) == "a score"
    [made] = predictors
    expected = dict(params="weights", recipe=TINY, device="cuda:1", compiled=True)
    assert {name: made[name] for name in expected} == expected
    assert plans[0]["settings"] == {"batch_rows": 2, "device": "cuda:1"}
    assert (measures[0]["device"], measures[0]["plans"]) == ("cuda:1", {8: "a plan"})


def test_ids_beyond_the_vocabulary_are_not_scored(stream):
    params = transformer.initialize(TINY.model, 0)
    tokens = stream([1] * 20, [12] * 10)
    with pytest.raises(InputError, match="expected token ids below 12, found 12"):
        submission.score_tokens(params, TINY, tokens, SimpleNamespace(table=TABLE), World())


def test_the_log_of_a_run_line_by_line():
    """Every number another one, the distances computed anew."""
    state = trained(RUN)
    state.multiplier, state.ema_started_step = 0.125, 2
    start = initial_state(RUN).params

    def distance(one: dict, other: dict) -> float:
        vectors = [
            np.concatenate([group[name].detach().double().numpy().ravel() for name in start])
            for group in (one, other)
        ]
        return np.linalg.norm(vectors[0] - vectors[1]) / np.linalg.norm(vectors[1])

    from_start, from_live = distance(state.shadow, start), distance(state.shadow, state.params)
    assert abs(from_start - from_live) > 0.01
    assert log.closing_lines(state, RUN) == [
        "stopping_early: wallclock_cap train_time:3000ms step:6/9",
        "ema started_step:2 decay:0.9 dtype:float32"
        f" from_start:{from_start:.6f} from_live:{from_live:.6f}",
        "final_lr_multiplier:0.12500000",
        "steps:6 train_time:3000ms step_avg:500.00ms",
    ]
    assert log.opening_lines(RUN, "a GPU", "2.9", 4321, 27) == [
        "Running PyTorch 2.9 on a GPU",
        "model_params:4321 layers:2 d:8 heads:4 kv_heads:2 vocab:300 length:8 causal:False",
        "iterations:9 max_wallclock_seconds:60 warmdown:4 tokens_per_step:48",
        "val_tokens:27",
        "seed:7",
    ]
    assert log.size_lines("e4m3+zlib", 2000, 30) == [
        "Code size: 30 bytes",
        "Serialized model e4m3+zlib: 2000 bytes",
        "Total submission size e4m3+zlib: 2030 bytes",
    ]
    score = Score("nelbo", None, 2.0, 0.1, 0.2, 1.25, 10, 5, 3, 0.5)
    assert log.score_lines("e4m3+zlib", score) == [
        "final_e4m3_zlib_roundtrip val_loss:1.2500 val_bpb:2.0000 eval_time:500ms",
        "final_e4m3_zlib_roundtrip_exact val_loss:1.25000000 val_bpb:2.00000000"
        " stderr_masks:0.10000000 stderr_sequences:0.20000000 tokens:10 bytes:5 estimator:nelbo",
    ]
    assert math.isclose(log.distance({"a": torch.ones(4)}, {"a": 2 * torch.ones(4)}), 0.5)
