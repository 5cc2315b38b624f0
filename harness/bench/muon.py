"""Benchmark of Muon against torch.optim.Muon: a whole optimizer step on the matrices of a preset,
the same inputs, both in bfloat16.

Set to compute the same (coefficients, steps, Nesterov, scale by sqrt(rows / columns), no weight
decay), two differences remain. torch averages the momentum where we sum it, a factor that the
division by the norm takes out; and it divides by max(norm, eps), not norm + eps.
"""

import torch

from fast import transformer
from fast.muon import muon_steps
from fast.train import is_matrix
from harness.bench.measure import machine, paired
from harness.errors import CheckFailed
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
    rows = [
        against_torch(name, model, PRESETS["golf"].optimizer, pairs, device, compiled)
        for name, model in shapes.items()
    ]
    return [{**row, "machine": machine(device)} for row in rows]


def drawn(model: Model, device: str) -> tuple[dict[str, torch.Tensor], ...]:
    """Return (weights, gradients, momentum buffers) of the matrices of a model, stacked by kind."""
    generator = torch.Generator().manual_seed(0)
    groups = []
    for _ in range(3):
        named = {
            name: torch.randn(shape, generator=generator).to(device)
            for name, shape in transformer.shapes(model).items()
        }
        groups.append(
            {
                name: value
                for name, value in transformer.stack(named, model).items()
                if is_matrix(name)
            }
        )
    return tuple(groups)


def torch_muon(weights, grads, buffers, optimizer: Optimizer) -> torch.optim.Muon:
    """Return torch's optimizer on copies of the single matrices, its state that of our buffers."""
    separate = [plain.unstacked(group) for group in (weights, grads, buffers)]
    params = {name: torch.nn.Parameter(weight.clone()) for name, weight in separate[0].items()}
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
        param.grad = separate[1][name].clone()
        peer.state[param]["momentum_buffer"] = (1 - MOMENTUM) * separate[2][name]
    return peer


def against_torch(
    name: str, model: Model, optimizer: Optimizer, pairs: int, device: str, compiled: bool
) -> dict:
    """Return the row of one set of shapes: our step against float64 may err twice as much as
    torch's.
    """
    weights, grads, buffers = drawn(model, device)
    peer = torch_muon(weights, grads, buffers, optimizer)
    numbers = torch.tensor([LR, MOMENTUM], dtype=torch.float64, device=device)

    def step_(weights, grads, buffers, numbers):
        lr, momentum = numbers.unbind()
        groups = [list(group.values()) for group in (weights, grads, buffers)]
        new, after = muon_steps(*groups, lr, momentum, optimizer, torch.bfloat16)
        for value, moved in zip(groups[0] + groups[2], new + after, strict=True):
            value.copy_(moved)

    singles = zip(
        *(plain.unstacked(group).values() for group in (weights, grads, buffers)), strict=True
    )
    wanted = [
        plain.muon_step(*(value.double() for value in each), LR, MOMENTUM, optimizer)[0]
        for each in singles
    ]
    step_ = torch.no_grad()(
        torch.compile(step_, dynamic=False, fullgraph=True) if compiled else step_
    )
    step_(weights, grads, buffers, numbers)
    peer.step()
    ours, theirs = plain.unstacked(weights).values(), peer.param_groups[0]["params"]
    error, limit = (
        sum((a.detach().double() - b).square().sum() for a, b in zip(side, wanted, strict=True))
        ** 0.5
        for side in (ours, theirs)
    )
    if not error <= 2 * limit:
        raise CheckFailed(
            f"bench muon: nothing is timed while the two sides differ: {name} weights lie"
            f" {error:.3g} from float64 after a step, torch's {limit:.3g}, expected at most twice"
            " that; see maskgolf parity muon"
        )
    title = f"muon, {name} shapes: ours / torch.optim.Muon"
    return paired(title, peer.step, lambda: step_(weights, grads, buffers, numbers), pairs, device)
