"""Muon: momentum, then the nearest semi-orthogonal matrix by Newton-Schulz (Jordan et al. 2024;
Bernstein & Newhouse 2024).
"""

import numpy as np


def newton_schulz(matrix, steps, coefficients, eps):
    """Return a matrix with the singular vectors of the input and singular values pushed near 1.

    Iterates X <- a X + (b A + c A A) X with A = X X', on the wide side (transposed when rows >
    columns), after division by the Frobenius norm + eps. (rows, columns) in and out.
    """
    a, b, c = coefficients
    rows, columns = matrix.shape
    x = matrix / (np.sqrt((matrix * matrix).sum()) + eps)
    if rows > columns:
        x = x.T
    for _ in range(steps):
        gram = x @ x.T
        x = a * x + (b * gram + c * gram @ gram) @ x
    return x.T if rows > columns else x


def muon_step(weight, grad, buffer, lr, momentum, optimizer):
    """Return (weight, buffer) after one step: m <- mu m + g; Nesterov g + mu m; w <- w - lr
    sqrt(max(1, rows/columns)) O.
    """
    buffer = momentum * buffer + grad
    update = newton_schulz(
        grad + momentum * buffer,
        optimizer.muon_steps,
        optimizer.muon_coefficients,
        optimizer.muon_eps,
    )
    rows, columns = weight.shape
    return weight - lr * np.sqrt(max(1.0, rows / columns)) * update, buffer
