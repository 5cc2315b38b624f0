"""What a recipe decides, as named parts: arrays and plain values that a changed field changes or
leaves alone. Most parts exist in both halves, the others in the fast one.
"""

import functools
import json
import tempfile
import zlib
from dataclasses import replace
from pathlib import Path
from unittest import mock

import numpy as np
import torch

import fast.train
from fast import artifact, callbacks, container, data, distributed, evaluate, transformer
from fast.bytes import ByteTable
from harness import runs
from reference.recipe import (
    EMA,
    Diffusion,
    Model,
    Optimizer,
    Quantization,
    Recipe,
    Training,
)
from tests.support.compare import array
from tests.support.halves import of

# No two numbers of one kind alike, none at a default, and each where its rule binds: the clip and
# the cap on the weights below what they hold, the warm-up and the averaging begun in mid-run.
BASE = Recipe(
    preset="lopsided",
    seed=7,
    model=Model(
        layers=2,
        d=12,
        heads=3,
        kv_heads=1,
        mlp=3,
        vocab=11,
        length=4,
        rope_base=50.0,
        softcap=3.0,
        norm_eps=0.01,
        query_gain=1.25,
        embedding_std=0.3,
    ),
    diffusion=Diffusion(epsilon=0.02, max_weight=1.8),
    optimizer=Optimizer(
        muon_lr=0.03,
        muon_steps=3,
        muon_coefficients=(3.4, -4.7, 2.0),
        muon_eps=0.01,
        muon_dtype="float32",
        momentum_start=0.6,
        momentum=0.9,
        momentum_warmup=6,
        embedding_lr=0.05,
        vector_lr=0.04,
        adam_beta1=0.8,
        adam_beta2=0.7,
        adam_eps=0.001,
        clip=0.1,
    ),
    training=Training(
        iterations=4,
        max_wallclock_seconds=100.0,
        warmdown=2,
        tokens_per_step=8,
        micro_batch_tokens=4,
        compute_dtype="float64",
        shuffle=True,
        checkpoint_every=3,
        validate_every=2,
        log_every=2,
    ),
    ema=EMA(decay=0.7, start=0.4),
    quantization=Quantization(format="e4m3", small_format="float16", threshold=100),
)
STREAM_IDS = 3  # ids below this fill the stream: the smallest vocabulary of any recipe here
STEP = 3  # of the update: in the warm-up of the momentum
MULTIPLIER = 0.5


def draws(name: str, shape: tuple[int, ...]) -> np.ndarray:
    """Return standard normal numbers that depend on a name and a shape alone."""
    return np.random.default_rng(zlib.crc32(name.encode())).standard_normal(shape)


def weights(model: Model, salt: str = "") -> dict[str, np.ndarray]:
    """Return float64 weights by name, drawn apart: a tensor whose shape stays keeps its values."""
    shapes = of("reference", "transformer").shapes(model)
    return {name: draws(salt + name, shape) / np.sqrt(shape[-1]) for name, shape in shapes.items()}


def native(half: str, values: dict[str, np.ndarray]) -> dict:
    """Return arrays by name as a half takes them."""
    if half == "reference":
        return values
    return transformer.stack({name: torch.from_numpy(value) for name, value in values.items()})


def named(half: str, values: dict) -> dict[str, np.ndarray]:
    """Return arrays by name, whichever half they come from."""
    if half == "fast":
        values = transformer.unstack({name: value.detach() for name, value in values.items()})
    return {name: array(value) for name, value in values.items()}


def kind_of(name: str) -> str:
    """Return the last component of a parameter's name."""
    return name.rpartition(".")[2]


def joined(values: dict[str, np.ndarray], chosen) -> np.ndarray:
    """Return the entries of some parameters, one after the other."""
    parts = [values[name].ravel() for name in sorted(values) if chosen(kind_of(name))]
    return np.concatenate([*parts, np.zeros(0)])


def windows(model: Model, rows: int) -> tuple[np.ndarray, np.ndarray]:
    """Return (ids_BL, previous_B) that are the same for one vocabulary and one length."""
    ids = np.random.default_rng(model.vocab).integers(0, model.vocab, (rows, model.length + 1))
    return ids[:, 1:], ids[:, 0]


def of_model(half: str, recipe: Recipe) -> dict:
    """Return what the network is: shapes, initial weights, logits of given weights."""
    model, network = recipe.model, of(half, "transformer")
    initial = network.initialize(model, recipe.seed)
    initial = {name: array(value) for name, value in initial.items()}
    ids = windows(model, 2)[0]
    ids = ids if half == "reference" else torch.from_numpy(ids)
    matrices = of("reference", "train").MATRICES
    groups = {"embedding": ("embedding",), "matrices": matrices, "gains": ("query_gain",)}
    taken = [kind for kinds in groups.values() for kind in kinds]
    return {
        "shapes": tuple((name, tuple(shape)) for name, shape in network.shapes(model).items()),
        **{
            f"initial {group}": joined(initial, lambda kind, kinds=kinds: kind in kinds)
            for group, kinds in groups.items()
        },
        "initial rest": joined(initial, lambda kind: kind not in taken),
        "logits": array(network.forward(native(half, weights(model)), ids, model)),
    }


def of_noise(half: str, recipe: Recipe) -> dict:
    """Return what training shows and asks for at two steps, with the loss of given weights."""
    model, objective = recipe.model, of(half, "objective").objective_of(recipe.model)
    rows = np.arange(2 if model.causal_share else 4)  # those of a step, where they share a grid
    ids, before = windows(model, len(rows))
    params = native(half, weights(model))
    if half == "fast":
        ids, before = torch.from_numpy(ids), torch.from_numpy(before)
        rows = torch.from_numpy(rows)
    parts = {name: [] for name in ("inputs", "masks", "weights", "loss")}
    for step in (0, 5):
        if objective.mask_token:
            if half == "reference":
                views = objective.views(ids, before, step, rows, recipe)
                masked = [view[1:-1] for view in views if not view.looks_back]
            else:
                *drawn, masked_M = (*objective.noise(recipe, step, rows), None, None)[:3]
                chosen = slice(None) if masked_M is None else masked_M
                given = ids[chosen], before[chosen], step, rows[chosen], recipe
                masked = [objective.view(*given, drawn)] if len(rows[chosen]) else []
            for view in masked:
                for name, value in zip(("inputs", "masks", "weights"), view, strict=True):
                    parts[name].append(array(value))
        loss = of(half, "train").batch_loss(params, (ids, before), step, rows, recipe)
        parts["loss"].append(array(loss))
    return {name: np.array(values) for name, values in parts.items()}


def of_budget(half: str, recipe: Recipe) -> dict:
    """Return momentum, steps left and learning rate as functions of the place in the budget."""
    schedule, training = of(half, "schedule"), recipe.training
    places = [(0, 0.0, 0.0), (2, 3.0, 1.0), (6, 6.0, 1.0), (7, 60.0, 10.0)]
    return {
        "momentum": np.array(
            [schedule.muon_momentum(step, recipe.optimizer) for step in (0, 2, 3, 6, 9)]
        ),
        "remaining": tuple(schedule.remaining_steps(*place, training) for place in places),
        "multipliers": np.array(
            [schedule.lr_multiplier(left, 0.9, training) for left in (1, 2, 3, 4, 9)]
        ),
    }


def of_update(half: str, recipe: Recipe) -> dict:
    """Return what one update from given weights, states and gradients moves, by kind of tensor."""
    train, model = of(half, "train"), recipe.model
    groups = {group: weights(model, group) for group in fast.train.GROUPS}
    groups["second"] = {name: value**2 for name, value in groups["second"].items()}
    is_matrix = of("reference", "train").is_matrix
    groups["buffers"] = {k: value for k, value in groups["buffers"].items() if is_matrix(k)}
    for group in ("first", "second"):
        groups[group] = {k: value for k, value in groups[group].items() if not is_matrix(k)}
    state = train.State(**{k: native(half, values) for k, values in groups.items()}, step=STEP)
    grads = native(half, weights(model, "grads"))
    new, norm = train.apply_gradients(state, grads, MULTIPLIER, True, recipe)
    moved = {
        group: {
            name: value - groups[group][name]
            for name, value in named(half, getattr(new, group)).items()
        }
        for group in fast.train.GROUPS
    }
    matrices = of("reference", "train").MATRICES
    return {
        "update matrices": joined(moved["params"], lambda kind: kind in matrices),
        "update embedding": joined(moved["params"], lambda kind: kind == "embedding"),
        "update vectors": joined(
            moved["params"], lambda kind: kind not in (*matrices, "embedding")
        ),
        **{
            f"update {group}": joined(moved[group], lambda kind: True)
            for group in ("buffers", "first", "second", "shadow")
        },
        "update norm": float(norm),
    }


@functools.cache
def stream(count: int = 37) -> data.Tokens:
    """Return tokens on disk; of 37, 9 windows of 4: epochs end in mid-batch."""
    folder = tempfile.TemporaryDirectory(prefix="observed")
    ids = np.random.default_rng(0).integers(0, STREAM_IDS, count)
    data.write_shard(Path(folder.name) / "made_train_000000.bin", ids)
    tokens = data.Tokens([Path(folder.name) / "made_train_000000.bin"])
    tokens.folder = folder  # removed with the stream
    return tokens


def of_run(half: str, recipe: Recipe) -> dict:
    """Return a whole run of the smallest model under the rest of the recipe, without a clock."""
    smallest = replace(recipe.model, layers=1, d=2, heads=1, kv_heads=1, mlp=1, vocab=STREAM_IDS)
    return _run(half, replace(recipe, preset="", model=smallest))


@functools.cache
def _run(half: str, recipe: Recipe) -> dict:
    batch = data.batches(stream(), recipe)
    initial = of("reference", "train").initial_state(recipe)
    if half == "reference":
        state, losses = of(half, "train").train(
            batch, recipe, choose=of(half, "allot").choose_steps
        )
    else:
        groups = {
            group: {k: value.clone() for k, value in native(half, getattr(initial, group)).items()}
            for group in fast.train.GROUPS
        }
        for value in groups["params"].values():
            value.requires_grad_()
        state, losses = fast.train.train(
            batch,
            recipe,
            fast.train.State(**groups),
            clock=lambda: 0.0,
            choose=artifact.choose_steps,
        )
    return {
        "run losses": np.array(losses),
        "run weights": joined(named(half, state.params), lambda kind: True),
        "run shadow": joined(named(half, state.shadow), lambda kind: True),
    }


def of_storage(half: str, recipe: Recipe) -> dict:
    """Return the format and the bytes of every tensor of given weights in the artifact."""
    quantize, dials = of(half, "quantize"), {}
    batch = data.batches(stream(), recipe)
    stored = {name: value.astype(np.float32) for name, value in weights(recipe.model).items()}
    if half == "reference":
        formats = {
            name: quantize.choose_format(name, value.shape, recipe.quantization)
            for name, value in stored.items()
        }
        if recipe.quantization.fisher:
            allot, wide = of(half, "allot"), {k: v.astype(np.float64) for k, v in stored.items()}
            uniform = {name: wide[name] for name in wide if formats[name] == "uniform"}
            squares = allot.squared_gradients(wide, batch, recipe)
            dials = allot.step_exponents(uniform, squares, recipe.quantization.dial)
        if recipe.quantization.compensate:
            compensate = of(half, "compensate")
            for name, moments in compensate.second_moments(wide, batch, recipe).items():
                back = compensate.feedback(moments)
                stored[name] = compensate.compensated(wide[name], dials[name], back)
        blobs = {
            name: quantize.to_bytes(
                stored[name].astype(np.float64),
                format,
                name,
                dials.get(name, recipe.quantization.dial),
            )
            for name, format in formats.items()
        }
    else:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "artifact.mgolf"
            params = {name: torch.from_numpy(value) for name, value in stored.items()}
            artifact.write(path, transformer.stack(params), recipe, codec="none", batch=batch)
            packed = path.read_bytes()
            header, payload = container.read_header(packed)
            assert artifact.recipe_of(artifact.read(path)[0]) == recipe
        spans = {
            row["name"]: slice(row["offset"], row["offset"] + row["bytes"])
            for row in header["tensors"]
        }
        blobs = {name: payload[span] for name, span in spans.items()}
        formats = {row["name"]: row["format"] for row in header["tensors"]}
    return {"formats": sorted(formats.items()), "bytes": sorted(blobs.items())}


def of_loop(recipe: Recipe) -> dict:
    """Return a run of the training loop that ships, in float32, one second a step: what its
    callbacks did at which step included.
    """
    seconds, events, averaging = iter(np.arange(0.0, 1000.0, 0.5)), [], []

    def validate(state):
        events.append((state.step, "validated"))
        return of("reference", "recipe").Score("nelbo", None, *[1.0] * 4, 1, 1, 1, 1.0)

    def say(line: str) -> None:
        words = line.split()
        if not words[1].startswith("val_loss"):
            events.append((int(words[0].split(":")[1].split("/")[0]), words[1].split(":")[0]))

    def saved(folder, tensors, progress, recipe) -> None:
        events.append((progress["step"], "saved"))

    def note(state, report) -> None:
        averaging.append(state.ema_started_step is not None)

    batch = data.batches(stream(), recipe)
    with (
        tempfile.TemporaryDirectory() as folder,
        mock.patch.object(callbacks.checkpoint, "save", saved),
    ):
        log = callbacks.TrainLog(Path(folder) / "train.log", say)
        metrics = callbacks.Metrics(Path(folder) / "metrics.jsonl")
        given = (log, metrics, validate, lambda: None, lambda *shown: None)
        made = callbacks.run_callbacks(Path(folder), recipe, *given)
        clock = functools.partial(next, seconds)
        state, losses = fast.train.train(
            batch, recipe, callbacks=[note, *made], clock=clock, choose=artifact.choose_steps
        )
        for record in map(json.loads, metrics.path.read_text().splitlines()):
            events.append((record["step"], f"recorded {'val' if 'val_bpb' in record else 'train'}"))
    return {
        "loop losses": np.array(losses),
        "loop weights": joined(named("fast", state.params), lambda kind: True),
        "loop shadow": joined(named("fast", state.shadow), lambda kind: True),
        "loop averaging": tuple(averaging),
        "loop events": tuple(sorted(events)),
    }


def of_data(recipe: Recipe) -> dict:
    """Return which windows the rows of some steps train on, and how a step is cut up."""
    batch = data.batches(stream(), recipe)
    rows = range(recipe.training.tokens_per_step // recipe.model.length)
    read = [np.column_stack(batch(step, rows)) for step in range(8)]
    first, micro = distributed.share(recipe, distributed.World(0, 1))
    return {"windows": np.concatenate(read), "rows": (len(first), micro)}


def of_scoring(recipe: Recipe) -> dict:
    """Return what scores given weights: log-probabilities, the settings, the score while training."""
    model = recipe.model
    params = {k: torch.from_numpy(value).float() for k, value in weights(model).items()}
    predict = evaluate.predictor(params, recipe)
    table = ByteTable(
        1 + np.arange(model.vocab) % 4, np.zeros(model.vocab, bool), np.zeros(model.vocab, bool)
    )
    state = fast.train.State(params, {}, {}, {}, transformer.stack(params))
    score = evaluate.validator(recipe, stream(), table)(state)
    return {
        "predictor": array(predict(torch.from_numpy(windows(model, 2)[0]))),
        "effort": evaluate.default_effort(recipe),
        "validator": (score.bpb, score.nats_per_token, score.tokens),
    }


def of_plan(recipe: Recipe) -> dict:
    """Return what a dry run prints, the weights' bytes apart, and whether kernels may vary."""
    with mock.patch.object(runs.size, "code_bytes", lambda *given: {}):
        plan = runs.plan(recipe)
    # Both have the header, which is as long as the recipe in it
    compressed = plan.pop("artifact_bytes_estimate") - plan.pop("artifact_bytes_bound")
    return {
        "plan": sorted(plan.items()),
        "estimate": compressed,
        "kernels": fast.train.compiler_options(recipe.training, torch.device("cuda")),
    }


@functools.cache
def parts(half: str, recipe: Recipe) -> dict:
    """Return all parts of one half under a recipe."""
    shared = (of_model, of_noise, of_budget, of_update, of_run, of_storage)
    known = {}
    for observe in shared:
        known |= observe(half, recipe)
    if half == "fast":
        for observe in (of_loop, of_data, of_scoring, of_plan):
            known |= observe(recipe)
    return known


def same(one, other) -> bool:
    """Return whether two parts are equal to the last bit."""
    if isinstance(one, np.ndarray):
        return one.shape == other.shape and np.array_equal(one, other, equal_nan=True)
    return one == other
