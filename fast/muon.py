"""Parity: algebra + rounding. Matrices of one shape are orthogonalised together; the iteration may run in a lower dtype.

Bound of the lower dtype: twice the error of the same iteration with its products associated the other way.
"""

import math

import torch

from reference.recipe import Optimizer


def newton_schulz(matrix: torch.Tensor, steps: int, coefficients: tuple[float, float, float], eps: float) -> torch.Tensor:
    """Return matrices (..., rows, columns) with the singular vectors of the input and singular values pushed near 1."""
    a, b, c = coefficients
    tall = matrix.shape[-2] > matrix.shape[-1]
    x = matrix.mT if tall else matrix
    x = (x / (torch.linalg.matrix_norm(x, keepdim=True) + eps)).reshape(-1, *x.shape[-2:])
    for _ in range(steps):
        gram = x @ x.mT
        x = torch.baddbmm(x, torch.baddbmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return (x.mT if tall else x).reshape(matrix.shape)


def muon_step(weight: torch.Tensor, grad: torch.Tensor, buffer: torch.Tensor, lr, momentum, optimizer: Optimizer, dtype=None):
    """Return (weight, buffer) after one step on (..., rows, columns); dtype is that of the iteration, default the gradient's."""
    buffer = momentum * buffer + grad
    nesterov = (grad + momentum * buffer).to(dtype or grad.dtype)
    update = newton_schulz(nesterov, optimizer.muon_steps, optimizer.muon_coefficients, optimizer.muon_eps).to(weight.dtype)
    rows, columns = weight.shape[-2:]
    return weight - lr * math.sqrt(max(1.0, rows / columns)) * update, buffer
