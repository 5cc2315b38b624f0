"""The network's pieces against eager attention, torch's own loss and the plain network of the
parity suite.
"""

import functools
from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F

import fast.masking
import fast.train
import fast.transformer
import reference.masking
import reference.train
import reference.transformer
from fast.data import windows_of
from harness.bench import attention
from harness.parity import plain
from harness.parity.compare import ALGORITHM, Setting, rms, unit_roundoff
from harness.parity.network import SMALL, random_params
from harness.parity.training import fast_state, recipe_of
from reference.recipe import DEMO
from tests.benchmarks import compiled, implementations

MODEL, ROWS = DEMO.model, 4
FLOAT32 = unit_roundoff(torch.float32)
KINDS = ("q", "k", "v", "o", "query_gain")


@pytest.mark.benchmark(group=f"attention, demo shapes, {ROWS} rows")
@implementations("reference", "fast", "compiled", "eager")
def test_attention(benchmark, implementation):
    """Projections, norms, rotation and softmax in float32; the rms error is at most twice that of
    eager code, head by head.
    """
    params = random_params(MODEL, 0)
    weights = {kind: params[f"blocks.0.{kind}"] for kind in KINDS}
    x_BLd = np.random.default_rng(1).standard_normal((ROWS, MODEL.length, MODEL.d))
    x, narrow = (
        torch.from_numpy(x_BLd).float(),
        {kind: torch.from_numpy(value).float() for kind, value in weights.items()},
    )
    table = fast.transformer.rope_table(MODEL.length, MODEL.d // MODEL.heads, MODEL.rope_base)

    def attend():
        return fast.transformer.attention(x, *narrow.values(), MODEL, table)

    run = {
        "reference": lambda: reference.transformer.attention(x_BLd, *weights.values(), MODEL),
        "fast": attend,
        "compiled": compiled(benchmark, attend),
        "eager": lambda: plain.attention(x, narrow, MODEL),
    }[implementation]
    exact = reference.transformer.attention(x_BLd, *weights.values(), MODEL)
    limit = 2 * max(
        rms(plain.attention(x, narrow, MODEL).double().numpy() - exact), FLOAT32 * rms(exact)
    )
    assert rms(np.asarray(run(), np.float64) - exact) <= limit
    benchmark(run)


@pytest.mark.benchmark(
    group=f"scaled dot-product attention, demo shapes, {ROWS} rows, forward and backward"
)
@implementations("fast", "math", "eager")
def test_sdpa(benchmark, implementation):
    """softmax(q k' / sqrt(h)) v and its gradients: torch's chosen kernel, its plain one, and the
    formula; rms as above.
    """
    given = attention.inputs(replace(MODEL, kv_heads=MODEL.heads), ROWS, "cpu", torch.float32)
    way = {
        "fast": attention.attend,
        "math": functools.partial(attention.attend, kernel="math"),
        "eager": attention.formula,
    }[implementation]
    assert attention.excess(given, way) <= 1
    benchmark(attention.both_ways, way, given)


@pytest.mark.benchmark(group="diffusion loss 16 x 128 x 1024")
@implementations("reference", "fast", "compiled", "torch")
def test_loss(benchmark, implementation):
    """Nats per token of given logits: shift, exponentials, a sum over V and the logarithm, then
    sums over positions.
    """
    rng = np.random.default_rng(0)
    logits_BLV = rng.uniform(-30, 30, (16, 128, 1024)).astype(np.float32)
    ids_BL, mask_BL = rng.integers(0, 1024, (16, 128)), rng.random((16, 128)) < 0.5
    weights_B = rng.uniform(1, 10, 16)
    given = [torch.from_numpy(value) for value in (logits_BLV, ids_BL, mask_BL, weights_B)]

    def peer():
        nats_BL = F.cross_entropy(
            given[0].flatten(0, 1), given[1].flatten(), reduction="none"
        ).view(16, 128)
        return ((nats_BL * given[2]).mean(1) * given[3].float()).mean()

    run = {
        "reference": lambda: reference.masking.loss(logits_BLV, ids_BL, mask_BL, weights_B),
        "fast": lambda: fast.masking.loss(*given),
        "compiled": compiled(benchmark, lambda: fast.masking.loss(*given)),
        "torch": peer,
    }[implementation]
    exact = reference.masking.loss(logits_BLV.astype(np.float64), ids_BL, mask_BL, weights_B)
    assert abs(float(run()) - exact) <= FLOAT32 * (1024 + 128 + 16 + 6 * 30) * exact
    benchmark(run)


@pytest.mark.benchmark(group="training step, 220 parameters")
@implementations("reference", "fast")
def test_training_step(benchmark, implementation):
    """Loss, gradients and update in float64; the reference takes its gradient by the complex step,
    one forward pass per parameter.
    """
    recipe = recipe_of(0, SMALL)
    windows = windows_of(np.random.default_rng(0).integers(0, SMALL.vocab, (4, SMALL.length + 1)))
    tensors = tuple(map(torch.from_numpy, windows))
    slow = reference.train.initial_state(recipe)
    quick = fast_state(slow, Setting())
    run = {
        "reference": lambda: reference.train.train_step(slow, windows, 1.0, False, recipe),
        "fast": lambda: fast.train.train_step(quick, tensors, 1.0, False, recipe),
    }[implementation]
    _, loss, norm = run()
    _, exact_loss, exact_norm = reference.train.train_step(slow, windows, 1.0, False, recipe)
    assert [float(loss), float(norm)] == pytest.approx([exact_loss, exact_norm], rel=ALGORITHM)
    benchmark(run)
