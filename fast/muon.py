"""Parity: algebra + rounding. Matrices of one shape are orthogonalised as one batch; the iteration
may run in a lower dtype.

Bound of the lower dtype: twice the error of the same iteration with its products associated the
other way.
"""

import math

import torch

from reference.recipe import Optimizer


def newton_schulz(
    matrix: torch.Tensor, steps: int, coefficients: tuple[float, float, float], eps: float
) -> torch.Tensor:
    """Return matrices (..., rows, columns) with the singular vectors of the input and singular
    values pushed near 1.
    """
    a, b, c = coefficients
    tall = matrix.shape[-2] > matrix.shape[-1]
    x = matrix.mT if tall else matrix
    x = (x / (torch.linalg.matrix_norm(x, keepdim=True) + eps)).reshape(-1, *x.shape[-2:])
    for _ in range(steps):
        gram = x @ x.mT
        x = torch.baddbmm(x, torch.baddbmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return (x.mT if tall else x).reshape(matrix.shape)


def orthogonalize(stacks: list[torch.Tensor], optimizer: Optimizer) -> list[torch.Tensor]:
    """Return stacks (..., rows, columns) orthogonalised, those of one shape or its transpose as one
    batch.
    """
    wide = [stack.mT if stack.shape[-2] > stack.shape[-1] else stack for stack in stacks]
    out = [None] * len(stacks)
    for shape in dict.fromkeys(x.shape[-2:] for x in wide):
        indices = [i for i, x in enumerate(wide) if x.shape[-2:] == shape]
        batch = torch.cat([wide[i].reshape(-1, *shape) for i in indices])
        batch = newton_schulz(
            batch, optimizer.muon_steps, optimizer.muon_coefficients, optimizer.muon_eps
        )
        sizes = [wide[i].shape[:-2].numel() for i in indices]
        for i, part in zip(indices, batch.split(sizes), strict=True):
            part = part.reshape(wide[i].shape)
            out[i] = part.mT if stacks[i].shape[-2] > stacks[i].shape[-1] else part
    return out


def muon_steps(
    weights: list, grads: list, buffers: list, lr, momentum, optimizer: Optimizer, dtype=None
) -> tuple[list, list]:
    """Return (weights, buffers) after one step on each stack (..., rows, columns), as muon_step."""
    after = [momentum * buffer + grad for buffer, grad in zip(buffers, grads, strict=True)]
    nesterov = [
        (grad + momentum * buffer).to(dtype or grad.dtype)
        for buffer, grad in zip(after, grads, strict=True)
    ]
    moved = []
    for weight, update in zip(weights, orthogonalize(nesterov, optimizer), strict=True):
        rows, columns = weight.shape[-2:]
        moved.append(weight - lr * math.sqrt(max(1.0, rows / columns)) * update.to(weight.dtype))
    return moved, after


def muon_step(
    weight: torch.Tensor,
    grad: torch.Tensor,
    buffer: torch.Tensor,
    lr,
    momentum,
    optimizer: Optimizer,
    dtype=None,
):
    """Return (weight, buffer) after one step on (..., rows, columns); dtype is that of the
    iteration, default the gradient's.
    """
    weights, buffers = muon_steps([weight], [grad], [buffer], lr, momentum, optimizer, dtype)
    return weights[0], buffers[0]
