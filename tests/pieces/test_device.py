"""No tensor is left on the wrong device: training, evaluation, parity and storage on a second
device that is only pretended.
"""

from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel

from fast import artifact, evaluate, masking, train, transformer
from fast.bytes import ByteTable
from fast.data import Continued, windows_of
from fast.evaluate import Effort
from fast.objective import objective_of
from fast.orders import ORDERS
from harness import parity
from tests.support import ranked
from tests.support.second_device import Away, second_device

RECIPE = replace(ranked.SHORT, training=replace(ranked.SHORT.training, compute_dtype="float64"))
EFFORTS = (
    Effort("nelbo", draws=4),
    Effort("nelbo-grid", points=8),
    *(Effort("chain", order) for order in ORDERS),
    Effort("chain", "left-to-right", step=3),
    Effort("chain", "confidence", step=3),
    Effort("chain", "random", positions=4),
    Effort("chain", "left-to-right", trailing=2),
    Effort("chain", "left-to-right", stride=4),
)
PLAIN = partial(sdpa_kernel, SDPBackend.MATH)  # the attention that the second device has, too
# The slowest pieces: the estimates and the training below run the same code
COVERED = ("nelbo", "nelbo-grid", "evaluate", "gradients")


def test_the_second_device_is_one():
    """It computes as the CPU does, forward and backward, and what CUDA refuses it refuses."""
    x_4, y_4 = torch.arange(4.0), torch.full((4,), 3.0)
    with second_device() as device:
        far = x_4.to(device).requires_grad_()
        product = (far * torch.tensor([3.0] * 4, device=device)).cumsum(0)
        [gradient] = torch.autograd.grad(product.sum(), [far])
        assert isinstance(gradient, Away) and gradient.device.type == product.device.type == device
        assert product.tolist() == (x_4 * y_4).cumsum(0).tolist() and gradient.cpu().tolist() == [
            12.0,
            9.0,
            6.0,
            3.0,
        ]
        filled = torch.zeros(4, device=device)
        filled[torch.tensor([1, 3])] = 2.0
        assert filled.cpu().tolist() == [0.0, 2.0, 0.0, 2.0] and product.sum().item() == 30.0
        for mixed in (
            lambda: far * y_4,
            lambda: x_4[torch.tensor([1], device=device)],
            lambda: torch.cat([far, y_4]),
            lambda: x_4.add_(filled),
        ):
            with pytest.raises(RuntimeError, match="two devices"):
                mixed()
        with pytest.raises((RuntimeError, TypeError)):
            filled.numpy()


LONGER = replace(  # micro-batches in which the head sees fewer positions than there are
    ranked.training(tokens_per_step=1024, micro_batch_tokens=512, iterations=4),
    model=replace(ranked.SHORT.model, length=32),
)


def batch(step, rows):
    """Return windows that depend on step and row alone."""
    model = LONGER.model
    drawn = [
        np.random.default_rng([step, int(row)]).integers(0, model.vocab, model.length + 1)
        for row in rows
    ]
    return windows_of(np.stack(drawn))


def trained(device: str) -> train.State:
    """Return the state after a whole run on a device."""
    stepper = train.Stepper(LONGER, device, compiled=False)
    objective = objective_of(LONGER.model)
    noise = objective.noise(LONGER, 0, np.arange(16))
    slots = objective.capacity(0, torch.arange(16), noise, LONGER)
    assert slots == masking.capacity(16, 32) < 512
    return train.train(batch, LONGER, train.initial_state(LONGER, device), stepper)[0]


def test_a_run_trains_and_ships_there(tmp_path):
    """The artifact has the same bytes as the CPU's, and no part of the state has come back."""
    with PLAIN():
        expected = trained("cpu")
    artifact.write(tmp_path / "cpu.mgolf", expected.shadow, LONGER)
    with second_device() as device:
        state = trained(device)
        tensors = [value for members in state.tensors().values() for value in members.values()]
        assert all(isinstance(value, Away) for value in tensors)
        artifact.write(tmp_path / "away.mgolf", state.shadow, LONGER)
    assert (tmp_path / "away.mgolf").read_bytes() == (tmp_path / "cpu.mgolf").read_bytes()


@pytest.mark.parametrize("queried", [True, False])
def test_every_estimate_is_made_there(queried):
    """Predictor, estimators and orders, by queried rows or by whole forward passes."""
    model, rng = RECIPE.model, np.random.default_rng(0)
    ids_NL = rng.integers(0, model.vocab, (6, model.length))
    context_NC = np.concatenate([np.full((1, model.length), -1), ids_NL[:-1]])
    windows = Continued(ids_NL, context_NC[:, -1], context_NC)
    table = ByteTable(
        np.full(model.vocab, 2), np.zeros(model.vocab, bool), np.zeros(model.vocab, bool)
    )
    params = transformer.unstack(train.initial_state(RECIPE).params)

    def scores(device):
        predict = evaluate.predictor(params, RECIPE, device)
        asked = predict if queried else lambda ids_BL: predict(ids_BL)
        measured = (
            (effort, list(evaluate.measure(asked, [windows], table, effort, device=device)))
            for effort in EFFORTS
        )
        return [evaluate.total(costs, effort, 0.0)[:4] for effort, costs in measured]

    with PLAIN():
        expected = scores("cpu")
    with second_device() as device:
        assert scores(device) == expected


@pytest.mark.parametrize(
    "piece", [name for name in parity.PIECES if name not in (*parity.LONG, *COVERED)]
)
def test_parity_runs_there(piece):
    with second_device() as device:
        rows = parity.parity([piece], device, ["bfloat16"])
    assert rows and all(row.passed for row in rows), rows
