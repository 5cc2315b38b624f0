"""Benchmark of Muon against torch.optim.Muon: a whole optimizer step on the matrices of a preset,
the same inputs, both in bfloat16.

Set to compute the same (coefficients, steps, Nesterov, scale by sqrt(rows / columns), no weight
decay), two differences remain. torch averages the momentum where we sum it, a factor that the
division by the norm takes out; and it divides by max(norm, eps), not norm + eps.
"""

from collections.abc import Callable

import torch

from fast import transformer
from fast.muon import muon_steps
from fast.train import is_matrix
from harness.bench.gate import hold
from harness.bench.measure import compiler, on_machine, paired
from harness.parity import plain
from reference.recipe import PRESETS, Model, Optimizer

SHAPES = ("demo", "golf")
LR, MOMENTUM = 0.02, 0.95


def muon(
    pairs: int, device: str, compiled: bool, shapes: dict[str, Model] | None = None
) -> list[dict]:
    """Return the rows of `bench muon`, by default at the shapes of `demo` and `golf`; CheckFailed
    where the two sides differ.
    """
    shapes = shapes or {preset: PRESETS[preset].model for preset in SHAPES}
    optimizer = PRESETS["golf"].optimizer
    rows = [
        against_torch(title(name), name, model, optimizer, pairs, device, compiled)
        for name, model in shapes.items()
    ]
    return on_machine(rows, device)


def title(name: str) -> str:
    """Return the name of the row of one set of shapes."""
    return f"muon, {name} shapes: ours / torch.optim.Muon"


def drawn(model: Model, device: str) -> tuple[dict[str, torch.Tensor], ...]:
    """Return (weights, gradients, momentum buffers) of the matrices of a model, stacked by kind."""
    generator = torch.Generator().manual_seed(0)

    def draw() -> dict[str, torch.Tensor]:
        shapes = transformer.shapes(model).items()
        named = {name: torch.randn(shape, generator=generator).to(device) for name, shape in shapes}
        stacked = transformer.stack(named)
        return {name: value for name, value in stacked.items() if is_matrix(name)}

    return draw(), draw(), draw()


def torch_muon(weights, grads, buffers, optimizer: Optimizer) -> torch.optim.Muon:
    """Return torch's optimizer on copies of the single matrices, its state that of our buffers."""
    weights, grads, buffers = map(transformer.unstack, (weights, grads, buffers))
    params = {name: torch.nn.Parameter(weight.clone()) for name, weight in weights.items()}
    peer = torch.optim.Muon(
        params.values(),
        lr=LR,
        weight_decay=0.0,
        momentum=MOMENTUM,
        nesterov=True,
        ns_coefficients=optimizer.muon_coefficients,
        eps=optimizer.muon_eps,
        ns_steps=optimizer.muon_steps,
        adjust_lr_fn="original",
    )
    for name, param in params.items():
        param.grad = grads[name].clone()
        peer.state[param]["momentum_buffer"] = (1 - MOMENTUM) * buffers[name]
    return peer


def sides(
    name: str, model: Model, optimizer: Optimizer, device: str, compiled: bool
) -> tuple[Callable[[], None], Callable[[], None]]:
    """Return one step of torch's optimizer and of ours on one set of shapes, both in place;
    CheckFailed where one of them errs more than twice as much against float64 as a plain step.
    """
    inputs = drawn(model, device)
    peer = torch_muon(*inputs, optimizer)
    groups = [list(group.values()) for group in inputs]
    numbers = torch.tensor([LR, MOMENTUM], dtype=torch.float64, device=device)

    def step_(weights, grads, buffers, numbers):
        moved, after = muon_steps(
            weights, grads, buffers, *numbers.unbind(), optimizer, torch.bfloat16
        )
        for value, new in zip(weights + buffers, moved + after, strict=True):
            value.copy_(new)

    step_ = torch.no_grad()(compiler(compiled)(step_))

    def plainly(dtype: torch.dtype, iteration: torch.dtype) -> dict[str, torch.Tensor]:
        singles = [transformer.unstack(group) for group in inputs]
        settings, moved = (LR, MOMENTUM, optimizer, iteration), {}
        for key in singles[0]:
            weight, grad, buffer = (group[key].to(dtype) for group in singles)
            moved[key] = plain.muon_weight(weight, grad, MOMENTUM * buffer + grad, *settings)
        return moved

    exact = plainly(torch.float64, torch.float64)
    rough = plainly(torch.float32, torch.bfloat16)
    step_(*groups, numbers)
    peer.step()
    theirs = dict(zip(exact, peer.param_groups[0]["params"], strict=True))
    for side, weights in {"ours": transformer.unstack(inputs[0]), "torch": theirs}.items():
        hold("muon", side, f"{name} weights", weights, rough, exact, 2)
    return peer.step, lambda: step_(*groups, numbers)


def against_torch(
    row: str,
    name: str,
    model: Model,
    optimizer: Optimizer,
    pairs: int,
    device: str,
    compiled: bool,
) -> dict:
    """Return the row of one set of shapes."""
    return paired(row, *sides(name, model, optimizer, device, compiled), pairs, device)
