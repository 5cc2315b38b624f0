"""Results round as their dtype says, not less and not more: what is computed in a wider dtype than
the recipe's is another computation, though its error is smaller.
"""

from dataclasses import replace

import numpy as np
import pytest
import torch

from fast import adam, ema, evaluate, masking, muon, train, transformer
from fast.data import windows_of
from harness.parity.compare import rms
from harness.parity.plain import PlainStep, newton_schulz
from reference.recipe import TINY, Model
from tests.support.strategies import random_params

MODEL = Model(layers=3, d=32, heads=4, kv_heads=2, mlp=4, vocab=24, length=16)
FLOATS = np.float32


def recipe(dtype: str, **model):
    """Return a recipe that computes in a dtype, Muon's iteration too; 6 rows in three passes."""
    training = replace(
        TINY.training, compute_dtype=dtype, tokens_per_step=96, micro_batch_tokens=32
    )
    return replace(
        TINY,
        model=replace(MODEL, **model),
        training=training,
        optimizer=replace(TINY.optimizer, muon_dtype=dtype, muon_lr=0.5),
    )


def weights(model: Model, seed: int = 0) -> dict[str, torch.Tensor]:
    """Return random weights, stacked, float32."""
    params = random_params(model, np.random.default_rng(seed))
    named = {name: torch.from_numpy(value).float() for name, value in params.items()}
    return transformer.stack(named)


def batch(step, rows):
    """Return windows that depend on the row alone."""
    drawn = [np.random.default_rng(int(row)).integers(0, 24, 17) for row in rows]
    return windows_of(np.stack(drawn))


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("causal", [False, True])
def test_a_step_rounds_to_its_compute_dtype(dtype, causal):
    """The gradients err at most twice as much as those of a plain step in the same dtype, and at
    least an eighth as much: one dtype further, the error is 2**-16 or 2**-29 of it.
    """
    own = recipe(dtype, causal=causal)
    state = train.initial_state(own)
    state.params = {name: value.requires_grad_() for name, value in weights(own.model).items()}

    def flat(grads: dict) -> np.ndarray:
        named = transformer.unstack(grads) if "q" in grads else grads
        return np.concatenate([named[name].double().numpy().ravel() for name in sorted(named)])

    exact = flat(PlainStep(own, state, "cpu", torch.float64).gradients(batch, 0)[1])
    rough = rms(flat(PlainStep(own, state, "cpu").gradients(batch, 0)[1]) - exact)
    found = rms(
        flat(train.Stepper(own, compiled=False).gradients(state.params, batch, 0)[1]) - exact
    )
    assert rough / 8 <= found <= 2 * rough


@pytest.mark.parametrize(("dtype", "held"), [("bfloat16", True), ("float32", False)])
def test_muon_iterates_in_its_own_dtype(dtype, held):
    """From weights of 0 the step is the update times a power of two: a bfloat16 iteration gives
    bfloat16 values, a float32 one does not.
    """
    own = recipe(dtype)
    state = train.initial_state(own)
    state.params = {name: torch.zeros_like(value) for name, value in state.params.items()}
    new, _ = train.apply_gradients(state, weights(own.model), 1.0, True, own)
    for name in new.buffers:
        value = new.params[name]
        assert value.dtype == torch.float32
        assert torch.equal(value, value.bfloat16().float()) is held, name


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
@pytest.mark.parametrize("shape", [(32, 24), (16, 48)])
def test_an_iteration_rounds_at_every_product(shape, dtype):
    """Orthogonalised matrices err at most twice as much as by another order of the products, and at
    least an eighth as much: rounded once at the end, it is a twentieth.
    """
    optimizer = TINY.optimizer
    matrix = torch.from_numpy(np.random.default_rng(4).standard_normal(shape)).to(dtype)
    exact = newton_schulz(matrix.double(), optimizer).numpy()
    rough = rms(newton_schulz(matrix, optimizer, other_order=True).double().numpy() - exact)
    [found] = muon.orthogonalize([matrix], optimizer)
    assert found.dtype == dtype
    assert rough / 8 <= rms(found.double().numpy() - exact) <= 2 * rough


@pytest.mark.parametrize("causal", [False, True])
def test_a_score_is_that_of_the_compute_dtype(causal):
    """The same bits as the forward pass in that dtype, which are others than in float32."""
    params = weights(replace(MODEL, causal=causal))
    ids_BL = torch.from_numpy(np.random.default_rng(1).integers(0, 24, (3, 16)))
    found = {}
    for dtype in ("float32", "bfloat16"):
        own = recipe(dtype, causal=causal)
        found[dtype] = evaluate.predictor(params, own)(ids_BL)
        logits = transformer.forward(
            transformer.unstack(params), ids_BL, own.model, getattr(torch, dtype)
        )
        expected = masking.log_softmax(logits)
        assert found[dtype].dtype == torch.float32 and torch.equal(found[dtype], expected)
    apart = rms(found["float32"] - found["bfloat16"]) / rms(found["float32"])
    assert 2**-12 < apart < 2**-4  # some roundings to 8 bits


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_positions_are_told_apart_whatever_the_dtype(dtype):
    """The table of angles is float32 or better: 1,000 positions, of which 8 bits tell 256 apart."""
    table = transformer.table_for(MODEL, 1000, dtype)
    assert table.dtype == torch.float32
    assert not torch.equal(table, table.bfloat16().float())


def test_the_average_rounds_to_float32_at_every_operation():
    """Bit for bit two products and a sum in float32, by a decay on the host or on the device."""
    rng = np.random.default_rng(2)
    shadow, weight = rng.standard_normal((2, 500)).astype(FLOATS)
    for decay in (0.997, 0.9, 0.5):
        expected = FLOATS(decay) * shadow + FLOATS(1 - decay) * weight
        for given in (decay, torch.tensor(decay, dtype=torch.float64)):
            found = ema.ema_update(torch.from_numpy(shadow), torch.from_numpy(weight), given)
            assert found.dtype == torch.float32
            np.testing.assert_array_equal(found.numpy(), expected)


def test_the_moments_round_to_float32_at_every_operation():
    """Bit for bit the lines of Adam in float32."""
    rng, optimizer = np.random.default_rng(3), TINY.optimizer
    weight, grad, first = rng.standard_normal((3, 500)).astype(FLOATS)
    second = rng.random(500).astype(FLOATS)
    one, two = optimizer.adam_beta1, optimizer.adam_beta2
    moment = FLOATS(one) * first + FLOATS(1 - one) * grad
    square = FLOATS(two) * second + FLOATS(1 - two) * grad * grad
    given = map(torch.from_numpy, (weight, grad, first, second))
    moved, *found = adam.adam_step(*given, 5, 0.01, optimizer)
    assert moved.dtype == torch.float32
    for value, expected in zip(found, (moment, square), strict=True):
        assert value.dtype == torch.float32
        np.testing.assert_array_equal(value.numpy(), expected)
