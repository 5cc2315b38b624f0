"""Optimizers, clip and average against torch's own, at the shapes of a preset."""

import functools
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch.optim.swa_utils import get_ema_multi_avg_fn

import fast.adam
import fast.ema
import fast.muon
import reference.adam
import reference.ema
import reference.muon
from fast import transformer
from fast.train import is_matrix
from harness.bench import muon, public
from harness.parity import plain
from harness.parity.compare import joined, rms, unit_roundoff
from reference.recipe import DEMO, GOLF
from tests.benchmarks import compiled, implementations

OPTIMIZER = GOLF.optimizer
SCHULZ = (OPTIMIZER.muon_steps, OPTIMIZER.muon_coefficients, OPTIMIZER.muon_eps)
FLOAT32 = unit_roundoff(torch.float32)
LR, STEP = 0.02, 5


@functools.cache
def golf(seed: int) -> dict[str, np.ndarray]:
    """Return normal arrays of the golf preset's shapes with two layers, 5.3 M numbers, made
    once.
    """
    rng, model = np.random.default_rng(seed), replace(GOLF.model, layers=2)
    return {
        name: rng.standard_normal(shape, dtype=np.float32)
        for name, shape in transformer.shapes(model).items()
    }


def tensors(values: dict) -> dict[str, torch.Tensor]:
    """Return copies as tensors."""
    return {name: torch.from_numpy(value.copy()) for name, value in values.items()}


def doubles(values: dict) -> dict[str, np.ndarray]:
    """Return copies in float64."""
    return {name: np.asarray(value, np.float64) for name, value in values.items()}


@pytest.mark.benchmark(group="muon step, demo shapes")
@implementations("reference", "fast", "compiled", "torch.optim.Muon")
def test_muon(benchmark, implementation):
    """One step of the two sides of `maskgolf bench muon`, which holds them to a plain step's error
    first. The reference's agrees with the plain step in float64.
    """
    inputs = [doubles(transformer.unstack(group)) for group in muon.drawn(DEMO.model, "cpu")]
    compiles = implementation == "compiled" and not benchmark.disabled
    theirs, ours = muon.sides("demo", DEMO.model, OPTIMIZER, "cpu", compiles)

    def exact_step():
        settings = muon.LR, muon.MOMENTUM, OPTIMIZER
        return {
            name: reference.muon.muon_step(*(group[name] for group in inputs), *settings)[0]
            for name in inputs[0]
        }

    for name, exact in exact_step().items():
        weight, grad, buffer = (torch.from_numpy(group[name]) for group in inputs)
        moments = muon.MOMENTUM * buffer + grad, muon.LR, muon.MOMENTUM
        wanted = plain.muon_weight(weight, grad, *moments, OPTIMIZER).numpy()
        assert np.abs(exact - wanted).max() <= 1e-9 * np.abs(wanted).max(), name
    benchmark({"reference": exact_step, "torch.optim.Muon": theirs}.get(implementation, ours))


@pytest.mark.benchmark(group="newton-schulz 8 x 576 x 288")
@implementations("reference", "fast", "compiled", "plain")
def test_newton_schulz(benchmark, implementation):
    """A stack of matrices in float32; the rms error is at most twice that of the plain iteration
    with products in another order.
    """
    stack = np.random.default_rng(0).standard_normal((8, 576, 288)).astype(np.float32)
    tensor, wide = torch.from_numpy(stack), stack.astype(np.float64)
    run = {
        "reference": lambda: np.stack(
            [reference.muon.newton_schulz(each, *SCHULZ) for each in wide]
        ),
        "fast": lambda: fast.muon.newton_schulz(tensor, *SCHULZ),
        "compiled": compiled(benchmark, lambda: fast.muon.newton_schulz(tensor, *SCHULZ)),
        "plain": lambda: torch.stack(
            [plain.newton_schulz(each, OPTIMIZER, True) for each in tensor]
        ),
    }[implementation]
    one = reference.muon.newton_schulz(wide[0], *SCHULZ)
    limit = 2 * max(
        rms(plain.newton_schulz(tensor[0], OPTIMIZER, True).double().numpy() - one),
        FLOAT32 * rms(one),
    )
    assert rms(np.asarray(run()[0], np.float64) - one) <= limit
    benchmark(run)


@pytest.mark.benchmark(group="adam step, demo shapes")
@implementations("reference", "fast", "compiled", "torch.optim.Adam")
def test_adam(benchmark, implementation):
    """One step from moments; entries differ by float32 rounding of the weight and of an update of a
    dozen operations.
    """
    rng, shapes = np.random.default_rng(0), transformer.shapes(DEMO.model).items()
    weight, grad, first, second = (
        {
            name: rng.standard_normal(shape, np.float32)
            for name, shape in shapes
            if not is_matrix(name)
        }
        for _ in range(4)
    )
    second = {name: value**2 + np.float32(1e-3) for name, value in second.items()}
    inputs = weight, grad, first, second
    wide, narrow = list(map(doubles, inputs)), list(map(tensors, inputs))
    controls = torch.tensor([STEP, LR], dtype=torch.float64)

    def step_of(half, inputs, step, lr):
        return {
            name: half.adam_step(*(group[name] for group in inputs), step, lr, OPTIMIZER)[0]
            for name in weight
        }

    exact = functools.partial(step_of, reference.adam, wide, STEP, LR)
    step = functools.partial(step_of, fast.adam, narrow, *controls)
    weights, grads, *moments = map(tensors, inputs)
    params = {name: torch.nn.Parameter(value) for name, value in weights.items()}
    peer = public.torch_adam(params, *moments, STEP - 1, OPTIMIZER)
    for group in peer.param_groups:
        group["lr"] = LR
    for name, param in params.items():
        param.grad = grads[name]

    def torch_step():
        peer.step()
        return {name: param.detach() for name, param in params.items()}

    run = {
        "reference": exact,
        "fast": step,
        "compiled": compiled(benchmark, step),
        "torch.optim.Adam": torch_step,
    }[implementation]
    found, expected = joined(run()), joined(exact())
    # The first moment may cancel: its roundings count with the size of what was added.
    size = joined(
        {
            name: LR * (np.abs(first[name]) + np.abs(grad[name])) / np.sqrt(second[name])
            for name in weight
        }
    )
    assert (np.abs(found - expected) <= FLOAT32 * (2 * np.abs(joined(weight)) + 32 * size)).all()
    benchmark(run)


@pytest.mark.benchmark(group="ema update, two layers of golf")
@implementations("reference", "fast", "compiled", "torch.optim.swa_utils")
def test_ema(benchmark, implementation):
    """One update of 5.3 M weights; 3 float32 roundings of the larger of shadow and weight."""
    shadow, weight = golf(0), golf(1)
    narrow, decay = [tensors(each) for each in (shadow, weight)], GOLF.ema.decay
    average = get_ema_multi_avg_fn(decay)

    def update():
        return {
            name: fast.ema.ema_update(narrow[0][name], narrow[1][name], decay) for name in shadow
        }

    def torch_update():
        average(list(narrow[0].values()), list(narrow[1].values()), None)
        return narrow[0]

    run = {
        "reference": lambda: {
            name: reference.ema.ema_update(shadow[name], weight[name], decay) for name in shadow
        },
        "fast": update,
        "compiled": compiled(benchmark, update),
        "torch.optim.swa_utils": torch_update,
    }[implementation]
    found = run()
    for name in ("embedding", "blocks.0.up", "blocks.1.mix", "skip"):
        exact = reference.ema.ema_update(
            shadow[name].astype(np.float64), weight[name].astype(np.float64), decay
        )
        size = np.maximum(np.abs(shadow[name]), np.abs(weight[name]))
        assert (np.abs(np.asarray(found[name]) - exact) <= 4 * FLOAT32 * size).all()
    benchmark(run)


@pytest.mark.benchmark(group="clip, two layers of golf")
@implementations("reference", "fast", "compiled", "torch.nn.utils")
def test_clip(benchmark, implementation):
    """The norm of 5.3 M gradients to the rounding of a pairwise sum, and one scaled tensor."""
    grads = golf(0)
    norm = np.sqrt(sum(float(np.square(value, dtype=np.float64).sum()) for value in grads.values()))
    narrow = tensors(grads)
    params = {name: torch.nn.Parameter(torch.empty_like(value)) for name, value in narrow.items()}

    def torch_clip():
        for name, param in params.items():
            param.grad = narrow[name]
        total = torch.nn.utils.clip_grad_norm_(params.values(), OPTIMIZER.clip, foreach=True)
        return {name: param.grad for name, param in params.items()}, total

    run = {
        "reference": lambda: reference.adam.clip(grads, OPTIMIZER.clip),
        "fast": lambda: fast.adam.clip(narrow, OPTIMIZER.clip),
        "compiled": compiled(benchmark, lambda: fast.adam.clip(narrow, OPTIMIZER.clip)),
        "torch.nn.utils": torch_clip,
    }[implementation]
    found, total = run()
    # Blocks of at least 2^7 entries are summed in trees: under 2^9 roundings of positive terms in
    # any order that is used here.
    bound = 512 * FLOAT32
    assert abs(float(total) - norm) <= bound * norm
    assert (
        np.abs(np.asarray(found["embedding"]) - grads["embedding"] / norm).max()
        <= bound * np.abs(grads["embedding"]).max() / norm
    )
    benchmark(run)
