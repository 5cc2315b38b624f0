"""Training: a short trajectory in both halves, accumulation, resumption bit for bit, and what stops
a run.
"""

import math
import os
import platform
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import fast.errors
import fast.masking
import fast.objective
import fast.quantize
import fast.train
import reference.allot
import reference.quantize
import reference.train
from fast import artifact, checkpoint, masking, transformer
from fast.data import windows_of
from harness.parity import plain
from reference.recipe import TINY
from tests.support.compare import (
    ALGORITHM,
    assert_same_algorithm,
    assert_same_tensors,
    relative_error,
    rms,
)
from tests.support.strategies import random_params, seeds, tensors

SHORT = replace(
    TINY,
    training=replace(
        TINY.training, iterations=6, warmdown=4, tokens_per_step=32, micro_batch_tokens=16
    ),
    ema=replace(TINY.ema, start=0.3),  # seeded after the second step
    optimizer=replace(TINY.optimizer, momentum_warmup=4),
)
EXACT = replace(SHORT, training=replace(SHORT.training, compute_dtype="float64"))
STORED = replace(TINY.quantization, format="uniform", threshold=16, dial=10, aware_steps=3)
AWARE = replace(EXACT, quantization=STORED)
ROWS = 4


def batch(step, rows):
    """Return windows that depend on step and row alone; row 0 of step 0 starts the stream."""
    windows = [np.random.default_rng([step, int(row)]).integers(0, 12, 9) for row in rows]
    if step == 0 and 0 in rows:
        windows[0][0] = -1
    return windows_of(np.stack(windows))


def sent(windows):
    """Return the same windows in tensors."""
    return tuple(map(torch.from_numpy, windows))


def fast_state(expected):
    """Return the fast float64 state that equals a reference state."""
    groups = {
        group: transformer.stack(tensors(getattr(expected, group))) for group in fast.train.GROUPS
    }
    groups["params"] = {
        name: value.clone().requires_grad_() for name, value in groups["params"].items()
    }
    groups = {
        group: {
            name: value if group == "params" else value.clone()
            for name, value in groups[group].items()
        }
        for group in groups
    }
    return fast.train.State(**groups, step=expected.step)


def random_state(recipe, seed):
    """Return a reference state in mid-run: weights, moments and shadow at random, so that every
    term of the update counts.
    """
    rng = np.random.default_rng(seed)
    state = reference.train.initial_state(recipe)
    params = random_params(recipe.model, rng)
    noise = {
        group: {
            name: 0.1 * rng.standard_normal(value.shape)
            for name, value in getattr(state, group).items()
        }
        for group in ("buffers", "first")
    }
    second = {name: 0.01 * rng.random(value.shape) for name, value in state.second.items()}
    return reference.train.State(
        params, **noise, second=second, shadow=random_params(recipe.model, rng), step=7
    )


def assert_same_state(found, expected):
    """Weights, buffers, moments and shadow agree."""
    for group in fast.train.GROUPS:
        wanted, named = getattr(expected, group), transformer.unstack(getattr(found, group))
        assert_same_tensors({name: named[name].detach() for name in wanted}, wanted)
    assert found.step == expected.step


@pytest.mark.parametrize("causal", [False, True])
def test_trajectory(causal):
    """Losses, weights, optimizer states and shadow of a whole run through warm-up, warmdown and the
    seeding of the shadow.
    """
    recipe = replace(EXACT, model=replace(EXACT.model, causal=causal))
    if causal:
        recipe = replace(recipe, training=replace(recipe.training, iterations=3))
    expected, losses = reference.train.train(batch, recipe)
    state = fast_state(reference.train.initial_state(recipe))
    found, fast_losses = fast.train.train(batch, recipe, state)
    assert max(abs(a / b - 1) for a, b in zip(fast_losses, losses, strict=True)) <= ALGORITHM
    assert_same_state(found, expected)
    assert found.ema_started_step == (1 if causal else 2)
    assert any((expected.shadow[name] != expected.params[name]).any() for name in expected.params)
    assert len(set(losses)) == len(losses)


@pytest.mark.parametrize("averaging, aware", [(False, False), (True, False), (True, True)])
def test_train_step_and_stepper_and_reference_take_the_same_step(averaging, aware):
    """By gradients at the weights, and at the weights as they are stored."""
    start = random_state(EXACT, 3)
    windows = batch(start.step, range(ROWS))
    if aware:
        start = start._replace(exponents=reference.allot.choose_steps(start.shadow, batch, AWARE))
    expected, loss, norm = reference.train.train_step(start, windows, 0.3, averaging, EXACT)

    def begun():
        state = fast_state(start)
        if aware:
            state.exponents = artifact.choose_steps(state.shadow, batch, AWARE)
        return state

    state, fast_loss, fast_norm = fast.train.train_step(
        begun(), sent(windows), 0.3, averaging, EXACT
    )
    assert_same_state(state, expected)
    assert_same_algorithm(fast_loss, loss)
    assert_same_algorithm(fast_norm, norm)
    in_place = begun()
    report = fast.train.Stepper(EXACT, compiled=False)(in_place, batch, 0.3, averaging)
    assert_same_state(in_place, expected)
    assert_same_algorithm(report, np.array([loss, norm, 1.0]))
    assert averaging or all(
        torch.equal(in_place.shadow[name], in_place.params[name]) for name in in_place.params
    )


@pytest.mark.parametrize("layers", [1, 3])
@pytest.mark.parametrize("clip", [0.0, 1e-3])
def test_updates_of_random_gradients(layers, clip):
    """apply_gradients alone, without a network: odd numbers of layers, with and without
    clipping.
    """
    recipe = replace(
        EXACT,
        model=replace(EXACT.model, layers=layers),
        optimizer=replace(EXACT.optimizer, clip=clip),
    )
    start, grads = (
        random_state(recipe, layers),
        random_params(recipe.model, np.random.default_rng(9)),
    )
    expected, norm = reference.train.apply_gradients(start, grads, 0.5, True, recipe)
    found, fast_norm = fast.train.apply_gradients(
        fast_state(start), transformer.stack(tensors(grads)), 0.5, True, recipe
    )
    assert_same_state(found, expected)
    assert_same_algorithm(fast_norm, norm)


@pytest.mark.parametrize("layers", [1, 3])
def test_odd_numbers_of_layers_train(layers):
    recipe = replace(SHORT, model=replace(SHORT.model, layers=layers))
    state, losses = fast.train.train(batch, recipe)
    assert state.step == 6 and all(map(math.isfinite, losses))


def test_tensors_that_muon_trains():
    names = reference.train.initial_state(TINY).params
    matrices = {name for name in names if reference.train.is_matrix(name)}
    assert matrices == {
        f"blocks.{i}.{kind}" for i in range(2) for kind in ("q", "k", "v", "o", "up", "down")
    }
    assert all(fast.train.is_matrix(name) == reference.train.is_matrix(name) for name in names)
    assert all(
        fast.train.is_matrix(name.split(".")[-1]) == reference.train.is_matrix(name)
        for name in names
    )
    state = fast.train.initial_state(TINY)
    assert set(state.buffers) == {"q", "k", "v", "o", "up", "down"}
    assert set(state.first) == set(state.second) == set(state.params) - set(state.buffers)


def test_initial_state_is_float32_with_a_shadow_of_its_own():
    state = fast.train.initial_state(TINY)
    assert {value.dtype for group in state.tensors().values() for value in group.values()} == {
        torch.float32
    }
    assert all(
        torch.equal(state.shadow[name], value) and state.shadow[name] is not value
        for name, value in state.params.items()
    )
    storages = [value.data_ptr() for group in state.tensors().values() for value in group.values()]
    assert len(set(storages)) == len(storages)


# batches


@given(seeds, st.integers(0, 1000))
@settings(max_examples=10)
def test_accumulation_does_not_change_the_gradient(seed, step):
    named = random_params(EXACT.model, np.random.default_rng(seed))
    params = {
        name: value.requires_grad_() for name, value in transformer.stack(tensors(named)).items()
    }
    results = []
    for micro in (8, 16, 32, 64):
        recipe = replace(
            EXACT, seed=seed, training=replace(EXACT.training, micro_batch_tokens=micro)
        )
        results.append(fast.train.Stepper(recipe, compiled=False).gradients(params, batch, step))
    rows = np.arange(ROWS)
    whole = reference.train.batch_loss(
        named, batch(step, rows), step, rows, replace(EXACT, seed=seed)
    )
    for loss, grads in results:
        assert_same_algorithm(loss, whole)
        assert_same_tensors(grads, {name: value.numpy() for name, value in results[-1][1].items()})


def test_loss_takes_rows_by_their_global_index():
    params = random_params(EXACT.model, np.random.default_rng(0))
    rows = np.array([5, 2])
    expected = reference.train.batch_loss(params, batch(1, rows), 1, rows, EXACT)
    found = fast.train.batch_loss(tensors(params), sent(batch(1, rows)), 1, rows, EXACT)
    assert_same_algorithm(found, expected)
    elsewhere = fast.train.batch_loss(
        tensors(params), sent(batch(1, rows)), 1, np.array([0, 1]), EXACT
    )
    assert found != elsewhere


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("causal", [False, True])
def test_gradients_in_production_dtype_err_at_most_twice_as_much_as_a_plain_run(dtype, causal):
    recipe = replace(
        TINY, model=replace(TINY.model, layers=3, d=32, length=16, vocab=24, causal=causal)
    )
    rng, rows = np.random.default_rng(4), np.arange(8)
    ids_BS = torch.from_numpy(rng.integers(0, 24, (8, 17)))
    masters = tensors(random_params(recipe.model, rng), torch.float32)

    def gradients(forward, dtype):
        leaves = {
            name: value.to(torch.promote_types(dtype, torch.float32)).requires_grad_()
            for name, value in masters.items()
        }
        inputs_BL, ids_BL = ids_BS[:, :-1], ids_BS[:, 1:]
        thresholds_B, weights_B = masking.noise(recipe, 0, rows)
        mask_BL = masking.mask(recipe.seed, 0, torch.from_numpy(rows), 16, thresholds_B)
        corrupted = inputs_BL if causal else masking.corrupt(ids_BL, mask_BL, 24)
        logits = forward(leaves, corrupted, recipe.model, dtype)
        loss = (
            masking.causal_loss(logits, ids_BL)
            if causal
            else masking.loss(logits, ids_BL, mask_BL, weights_B)
        )
        return torch.cat(
            [grad.double().flatten() for grad in torch.autograd.grad(loss, list(leaves.values()))]
        )

    exact = gradients(transformer.forward, torch.float64)
    limit = 2 * rms(gradients(plain.forward, dtype) - exact)
    assert 0 < limit < rms(exact)
    assert rms(gradients(transformer.forward, dtype) - exact) <= limit


# resuming


class StopAfter:
    """Save a checkpoint after one step and stop, as a signal would."""

    def __init__(self, folder, step, recipe):
        self.folder, self.step, self.recipe = folder, step, recipe

    def __call__(self, state, report):
        """Stop at the step."""
        if state.step == self.step:
            checkpoint.save(
                self.folder / "checkpoint", state.tensors(), state.progress(), self.recipe
            )
            raise fast.errors.Interrupted("asked")


@pytest.mark.parametrize("stop", [1, 2, 3, 5])
def test_resumed_is_uninterrupted_bit_for_bit(tmp_path, stop):
    whole, losses = fast.train.train(batch, SHORT)
    with pytest.raises(fast.errors.Interrupted):
        fast.train.train(batch, SHORT, callbacks=[StopAfter(tmp_path, stop, SHORT)])
    state = fast.train.restore(tmp_path, SHORT)
    assert state.step == stop
    state, rest = fast.train.train(batch, SHORT, state)
    assert rest == losses[stop:]
    for group, members in whole.tensors().items():
        for name, value in members.items():
            assert torch.equal(state.tensors()[group][name], value), f"{group}.{name}"
    assert (state.step, state.multiplier, state.ema_started_step) == (
        whole.step,
        whole.multiplier,
        whole.ema_started_step,
    )


def test_the_same_run_twice_is_the_same_run():
    one, two = (fast.train.train(batch, SHORT) for _ in range(2))
    assert one[1] == two[1] and all(
        torch.equal(one[0].shadow[name], value) for name, value in two[0].shadow.items()
    )
    other = fast.train.train(batch, replace(SHORT, seed=SHORT.seed + 1))
    assert other[1] != one[1]


@pytest.mark.parametrize("start", [0.0, 0.3, 0.6])
def test_shadow_is_seeded_at_its_moment(start):
    """Until then the shadow is the live weights; from then on the closed form of everything since,
    never of the initial weights.
    """
    recipe = replace(EXACT, ema=replace(EXACT.ema, start=start))
    seen = []

    def watch(state, report):
        seen.append(
            (
                state.step,
                state.ema_started_step,
                state.params["skip"].detach().clone(),
                state.shadow["skip"].clone(),
            )
        )

    fast.train.train(
        batch, recipe, fast.train.initial_state(recipe, dtype=torch.float64), callbacks=[watch]
    )
    seeded = max(1, math.ceil(start * 6))
    shadow = None
    for step, started, live, found in seen:
        shadow = (
            live if step <= seeded else recipe.ema.decay * shadow + (1 - recipe.ema.decay) * live
        )
        assert started == (seeded if step >= seeded else None)
        assert relative_error(found, shadow.numpy()) <= ALGORITHM


# the head on masked positions alone


def test_the_head_sees_masked_positions_while_they_have_room(monkeypatch):
    """Capacities that always suffice, sometimes, and never: one loss, one gradient in float64, and
    slots are used where they suffice.
    """
    long = replace(EXACT, model=replace(EXACT.model, length=16))
    recipe = replace(
        long, training=replace(long.training, tokens_per_step=256, micro_batch_tokens=128)
    )
    windows = windows_of(np.random.default_rng(0).integers(0, recipe.model.vocab, (16, 17)))
    params = fast.train.initial_state(recipe, dtype=torch.float64).params
    objective = fast.objective.objective_of(recipe.model)
    results, seen = [], []
    for slots in (128, 127, 64, 1):
        monkeypatch.setattr(fast.masking, "capacity", lambda rows, length, slots=slots: slots)
        stepper = fast.train.Stepper(recipe, compiled=False)
        halves = [np.arange(first, first + 8) for first in (0, 8)]
        seen.append(
            [
                objective.capacity(
                    5, torch.from_numpy(rows), objective.noise(recipe, 5, rows), recipe
                )
                for rows in halves
            ]
        )
        results.append(stepper.gradients(params, lambda step, rows: windows.take(rows), 5))
    assert (
        seen[0] == [None, None]
        and seen[1] == [127, 127]
        and sorted(map(str, seen[2])) == ["64", "None"]
        and seen[3] == [None, None]
    )
    for loss, grads in results[1:]:
        assert relative_error(loss.detach(), results[0][0].detach()) <= ALGORITHM
        for name, grad in grads.items():
            assert relative_error(grad, results[0][1][name]) <= ALGORITHM, name


# inputs prepared ahead, and how a GPU is asked to compile


def test_the_inputs_of_the_next_step_are_prepared_while_this_one_runs():
    """Every window is read once, one step ahead, but for the last step; what is prepared is what
    would have been made.
    """
    read, recipe = (
        [],
        replace(
            SHORT,
            training=replace(
                SHORT.training, tokens_per_step=48, micro_batch_tokens=16, iterations=3, warmdown=0
            ),
        ),
    )

    def noted(step, rows):
        read.append((step, *rows.tolist()))
        return batch(step, rows)

    stepper = fast.train.Stepper(recipe, compiled=False)
    update, order = stepper.update, []
    stepper.update = lambda state, *rest: (
        order.append((state.step, len(read))),
        update(state, *rest),
    )[1]
    ahead, losses = fast.train.train(noted, recipe, stepper=stepper)
    assert read == [(step, first, first + 1) for step in range(3) for first in (0, 2, 4)]
    assert order == [(0, 3), (1, 6), (2, 9)]
    stepper.prepare = lambda batch, step: None
    alone, expected = fast.train.train(noted, recipe, stepper=stepper)
    assert losses == expected
    assert all(torch.equal(value, alone.params[name]) for name, value in ahead.params.items())


def test_what_was_prepared_for_another_step_or_source_is_not_used():
    stepper = fast.train.Stepper(SHORT, compiled=False)
    rows = stepper.rows[: stepper.micro_rows]

    def other(step, rows):
        return batch(step + 1, rows)

    stepper.prepare(batch, 3)
    found = (
        stepper.inputs(other, 3, rows),
        stepper.inputs(batch, 4, rows),
        stepper.inputs(batch, 3, rows),
    )
    for inputs, (source, step) in zip(found, ((other, 3), (batch, 4), (batch, 3)), strict=True):
        for part, expected in zip(inputs[0], source(step, np.array(rows)), strict=True):
            assert torch.equal(part, torch.as_tensor(expected))
        assert int(inputs[1]) == step


def test_kernels_are_timed_on_a_gpu_unless_the_run_must_repeat():
    repeatable = replace(SHORT.training, repeatable=True)
    cuda, cpu = torch.device("cuda"), torch.device("cpu")
    assert fast.train.compiler_options(SHORT.training, cuda) == fast.train.AUTOTUNED
    assert (
        fast.train.compiler_options(repeatable, cuda)
        == fast.train.compiler_options(SHORT.training, cpu)
        == {}
    )
    assert set(fast.train.AUTOTUNED) <= set(torch._inductor.config.get_config_copy())


def test_the_loss_alone_is_compiled_under_these_options(monkeypatch):
    """Not the update: ranks that choose other kernels would drift apart."""
    compiled = []
    monkeypatch.setattr(
        torch,
        "compile",
        lambda function, **settings: (compiled.append((function.__name__, settings)), function)[1],
    )
    monkeypatch.setattr(
        fast.train,
        "compiler_options",
        lambda training, device: {"max_autotune_gemm": training.repeatable},
    )
    fast.train.Stepper(SHORT)
    assert [(name, settings["options"]) for name, settings in compiled] == [
        ("loss", {"max_autotune_gemm": False}),
        ("update", {}),
    ]
    assert all(settings["fullgraph"] and settings["dynamic"] is False for _, settings in compiled)


@pytest.mark.parametrize("repeatable", [False, True])
def test_deterministic_refuses_what_does_not_repeat_only_where_asked(repeatable, monkeypatch):
    monkeypatch.delenv("CUBLAS_WORKSPACE_CONFIG", raising=False)
    with fast.train.deterministic(repeatable):
        assert torch.are_deterministic_algorithms_enabled()
        assert torch.is_deterministic_algorithms_warn_only_enabled() is not repeatable
        assert os.environ.get("CUBLAS_WORKSPACE_CONFIG") == (":4096:8" if repeatable else None)
    assert not torch.are_deterministic_algorithms_enabled()


# what stops a run


def spoil(stepper, at, value):
    """Make the loss of a stepper's micro-batches value(loss, params) from one step on."""
    plain_loss = stepper._loss

    def loss(params, windows, step, *rest):
        result = plain_loss(params, windows, step, *rest)
        return value(result, params) if step >= at else result

    stepper._loss = loss
    return stepper


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (lambda loss, params: loss * math.nan, "step 3: loss (nan)"),
        (lambda loss, params: loss * math.inf, "step 3: loss (inf)"),
        (lambda loss, params: loss + (params["up"] * 0).sum().sqrt(), "step 3: gradient of up"),
        (lambda loss, params: loss + 1e25 * params["down"].sum(), "step 3: norm of all gradients"),
    ],
)
def test_what_is_not_finite_is_named_and_weights_stay(value, words):
    before, _ = fast.train.train(
        batch, replace(SHORT, training=replace(SHORT.training, iterations=2, warmdown=0))
    )
    recipe = replace(SHORT, training=replace(SHORT.training, warmdown=0))
    state = fast.train.initial_state(recipe)
    with pytest.raises(
        fast.train.TrainingError, match=words.replace("(", r"\(").replace(")", r"\)")
    ):
        fast.train.train(
            batch, recipe, state, spoil(fast.train.Stepper(recipe, compiled=False), 2, value)
        )
    assert state.step == 2
    for group in ("params", "buffers", "first", "second"):
        for name, kept in getattr(before, group).items():
            assert torch.equal(getattr(state, group)[name], kept), f"{group}.{name}"


@pytest.mark.parametrize("first", [0, 5])
@pytest.mark.parametrize(("share", "drift"), [(0.0, 0.0), (0.3, 0.0), (0.5, 0.25), (0.5, -0.5)])
def test_warm_up_meets_every_shape_of_inputs_once(share, drift, first):
    """Those that a run has still to see: a compiler must not stop the training clock later."""
    model = replace(SHORT.model, causal_share=share)
    tokens = 10 * model.length
    training = replace(
        SHORT.training,
        iterations=9,
        causal_drift=drift,
        tokens_per_step=tokens,
        micro_batch_tokens=tokens // 2,
    )
    recipe = replace(SHORT, model=model, training=training)
    stepper = fast.train.Stepper(recipe, compiled=False)
    seen = []

    def loss(params, windows, step, rows, noise, capacity):
        seen.append(tuple(values.shape for values in noise))
        return sum(value.sum() for value in params.values())

    stepper._loss = loss
    state = fast.train.initial_state(recipe)
    state.step = first
    stepper.warm_up(state, batch)
    warmed, seen[:] = list(seen), []
    for step in range(first, 9):
        stepper.gradients(state.params, batch, step)
    *examples, _, _ = warmed  # its last two are the micro-batches of a whole step
    assert set(examples) == set(seen)
    assert len(examples) == len(set(examples))


def test_warm_up_changes_nothing():
    state = fast.train.initial_state(SHORT)
    copies = {
        group: {name: value.detach().clone() for name, value in members.items()}
        for group, members in state.tensors().items()
    }
    fast.train.Stepper(SHORT, compiled=False).warm_up(state, batch)
    assert state.step == 0
    assert all(
        torch.equal(state.tensors()[group][name], value)
        for group, members in copies.items()
        for name, value in members.items()
    )


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="needs glibc, whose memory it is")
def test_a_step_on_a_cpu_finds_the_memory_of_the_one_before():
    """Blocks of the size of golf's stacked gradients: at glibc's first thresholds each of their
    pages is faulted in anew, 20,000 times.
    """
    thresholds = {"MALLOC_MMAP_THRESHOLD_": "131072", "MALLOC_TRIM_THRESHOLD_": "131072"}
    script = """
import resource, sys, torch
from fast.train import keep_freed_memory
if sys.argv[1:]:
    keep_freed_memory()
def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    blocks = [torch.ones(5_000_000) for _ in range(4)]
    del blocks
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
print([faults() for _ in range(10)][-1])  # the first few grow the heap
"""
    runs = ([sys.executable, "-c", script, *flag] for flag in ([], ["keep"]))
    by_default, kept = (
        int(subprocess.check_output(run, text=True, env=os.environ | thresholds)) for run in runs
    )
    assert kept < 200 and by_default > 4_000


def test_a_step_on_the_host_keeps_its_memory(monkeypatch):
    """Of a GPU the allocator does that itself."""
    kept = []
    monkeypatch.setattr(fast.train, "keep_freed_memory", lambda: kept.append(True))
    fast.train.Stepper(TINY, "meta", False)
    assert kept == []
    fast.train.Stepper(TINY, "cpu", False)
    assert kept == [True]


def test_compiled_steps_may_have_a_graph_for_every_shape():
    """Dynamo's limit is raised, never lowered, and by compiled steps alone: the stages of a causal
    share give a micro-batch more shapes than it allows.
    """
    with torch._dynamo.config.patch(recompile_limit=8):
        fast.train.Stepper(TINY, compiled=False)
        assert torch._dynamo.config.recompile_limit == 8
        fast.train.Stepper(TINY)
        assert torch._dynamo.config.recompile_limit == 64
    with torch._dynamo.config.patch(recompile_limit=100):
        fast.train.Stepper(TINY)
        assert torch._dynamo.config.recompile_limit == 100


# quantisation-aware training


@pytest.mark.parametrize("aware_steps, fisher, first", [(2, 2, 1), (99, 0, 0)])
def test_aware_steps_are_those_of_the_reference(aware_steps, fisher, first):
    """The exponents, and the whole run of three steps, of which the first to differ is `first`."""
    stored = replace(STORED, aware_steps=aware_steps, fisher=fisher)
    recipe = replace(AWARE, quantization=stored, training=replace(EXACT.training, iterations=3))
    chosen = []

    def choose(shadow, batch, recipe):
        chosen.append(reference.allot.choose_steps(shadow, batch, recipe))
        return chosen[-1]

    expected, losses = reference.train.train(batch, recipe, choose=choose)
    state = fast_state(reference.train.initial_state(recipe))
    found, fast_losses = fast.train.train(batch, recipe, state, choose=artifact.choose_steps)
    [exponents] = chosen
    assert len(exponents) > 3
    named = transformer.unstack(found.exponents)
    for name, parts in exponents.items():
        assert named[name].tolist() == np.concatenate(parts).tolist()
    assert max(abs(a / b - 1) for a, b in zip(fast_losses, losses, strict=True)) <= ALGORITHM
    assert_same_state(found, expected)
    plain = replace(recipe, quantization=TINY.quantization)
    plain = fast.train.train(batch, plain, fast_state(reference.train.initial_state(plain)))[1]
    differ = [bool(abs(a / b - 1) > 1e-8) for a, b in zip(losses, plain, strict=True)]
    assert differ == [step >= first for step in range(3)]


def test_a_step_changes_the_weights_before_rounding():
    """By the gradients at the rounded ones."""
    state = fast_state(random_state(AWARE, 3))
    exponents = artifact.choose_steps(state.params, batch, AWARE)
    rounded = fast.quantize.rounded(state.params, exponents)
    assert all((rounded[name] != state.params[name]).any() for name in exponents)
    ends = [
        fast.train.train_step(begun, sent(batch(7, range(ROWS))), 0.3, True, AWARE)
        for begun in (replace(state, exponents=exponents), replace(state, params=rounded))
    ]
    assert ends[0][1:] == ends[1][1:]
    moved, other = (
        end.params["up"] - begun["up"]
        for (end, *_), begun in zip(ends, (state.params, rounded), strict=True)
    )
    torch.testing.assert_close(moved, other, rtol=0, atol=1e-12)


@pytest.mark.parametrize("stop", [2, 4, 5])
def test_an_aware_run_resumes_bit_for_bit(tmp_path, stop):
    """Stopped before the steps are chosen, and after."""
    recipe = replace(SHORT, quantization=STORED)
    whole, losses = fast.train.train(batch, recipe, choose=artifact.choose_steps)
    with pytest.raises(fast.errors.Interrupted):
        callbacks = [StopAfter(tmp_path, stop, recipe)]
        fast.train.train(batch, recipe, callbacks=callbacks, choose=artifact.choose_steps)
    state = fast.train.restore(tmp_path, recipe)
    assert (state.exponents is None) == (stop < len(losses) - 2)
    state, rest = fast.train.train(batch, recipe, state, choose=artifact.choose_steps)
    assert rest == losses[stop:]
    assert all(torch.equal(state.params[name], value) for name, value in whole.params.items())


def test_an_aware_run_ships_by_the_steps_it_ended_with(tmp_path):
    """Storing the weights as they were rounded changes nothing but the type of the small ones."""
    recipe = replace(SHORT, quantization=STORED)
    state, _ = fast.train.train(batch, recipe, choose=artifact.choose_steps)
    path = tmp_path / "a.mgolf"
    artifact.write(path, state.shadow, recipe, exponents=state.exponents)
    kept = transformer.stack(artifact.read(path)[1])
    rounded = fast.quantize.rounded(state.shadow, state.exponents)
    for name in state.exponents:
        assert torch.equal(kept[name], rounded[name].float())
        assert not torch.equal(kept[name], state.shadow[name])


def spread_weights(recipe) -> dict[str, torch.Tensor]:
    """Initial weights, of which none is 0 any more."""
    draw = torch.Generator().manual_seed(0)
    return {
        name: value + 0.02 * torch.randn(value.shape, generator=draw)
        for name, value in fast.train.initial_state(recipe).shadow.items()
    }


@pytest.mark.parametrize("share", [0.4, 0.8, 1.2])
def test_a_budget_moves_the_steps_of_an_aware_run(tmp_path, share):
    """All by about the same, so that the artifact is just within it."""
    model = replace(SHORT.model, layers=4, d=64)
    recipe = replace(SHORT, model=model, quantization=replace(STORED, dial=20))
    params = spread_weights(recipe)
    exponents = artifact.choose_steps(params, batch, recipe)
    plain = artifact.write(tmp_path / "a.mgolf", params, recipe, exponents=exponents)
    budget = int(share * plain)
    recipe = replace(recipe, quantization=replace(recipe.quantization, budget=budget))
    size = artifact.write(tmp_path / "a.mgolf", params, recipe, exponents=exponents)
    assert 0.999 * budget <= size <= budget


@pytest.mark.parametrize("budget", [0, 90_000])
def test_an_aware_run_is_on_target_when_it_begins(tmp_path, budget):
    """Its steps are those by which the same weights would be stored then, all but to a hundredth of
    a budget.
    """
    model = replace(SHORT.model, layers=4, d=64)
    recipe = replace(SHORT, model=model, quantization=replace(STORED, fisher=2, budget=budget))
    params = spread_weights(recipe)
    exponents = artifact.choose_steps(params, batch, recipe, "entropy")
    plain = replace(recipe, quantization=replace(STORED, fisher=2))
    size = artifact.write(tmp_path / "a", params, plain, codec="entropy", exponents=exponents)
    anew = artifact.write(tmp_path / "b", params, recipe, codec="entropy", batch=batch)
    if budget:
        assert 0.999 * budget <= anew <= budget and 0.99 * budget - 50 <= size <= budget
        return
    wanted, read = (transformer.stack(artifact.read(tmp_path / name)[1]) for name in "ba")
    assert all(torch.equal(read[name], wanted[name]) for name in exponents)
