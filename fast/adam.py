"""Parity: algebra + rounding. Float32 states; every line is elementwise, so the bound is a few unit
roundoffs of the update.
"""

import torch

from reference.recipe import Optimizer


def adam_step(
    weight: torch.Tensor,
    grad: torch.Tensor,
    first: torch.Tensor,
    second: torch.Tensor,
    step,
    lr,
    optimizer: Optimizer,
):
    """Return (weight, first, second) after one step; step (from 1) and lr are numbers or 0-d
    float64 tensors.
    """
    beta1, beta2 = optimizer.adam_beta1, optimizer.adam_beta2
    first = beta1 * first + (1 - beta1) * grad
    second = beta2 * second + (1 - beta2) * grad * grad
    denominator = (second / (1 - beta2**step)).sqrt() + optimizer.adam_eps
    return weight - lr * (first / (1 - beta1**step)) / denominator, first, second


def clip(
    grads: dict[str, torch.Tensor], limit: float
) -> tuple[dict[str, torch.Tensor], torch.Tensor]:
    """Return (grads, norm): scaled to a norm over all tensors of at most limit; a limit of 0 does
    not clip. No host synchronization.
    """
    norm = torch.stack([grad.square().sum() for grad in grads.values()]).sum().sqrt()
    if not limit:
        return grads, norm
    scale = torch.where(norm > limit, limit / norm, torch.ones_like(norm))
    return {name: scale * grad for name, grad in grads.items()}, norm
