"""Adam (Kingma & Ba 2015, algorithm 1) and the clip of the global gradient norm (Pascanu et al.
2013).
"""

import numpy as np


def adam_step(weight, grad, first, second, step, lr, optimizer):
    """Return (weight, first, second) after one step; step counts from 1. Shapes are those of
    weight.
    """
    first = optimizer.adam_beta1 * first + (1 - optimizer.adam_beta1) * grad
    second = optimizer.adam_beta2 * second + (1 - optimizer.adam_beta2) * grad**2
    first_hat = first / (1 - optimizer.adam_beta1**step)
    second_hat = second / (1 - optimizer.adam_beta2**step)
    return weight - lr * first_hat / (np.sqrt(second_hat) + optimizer.adam_eps), first, second


def clip(grads, limit):
    """Return (grads, norm): {name: array} scaled so that the norm over all tensors together is at
    most limit; 0 does not clip.
    """
    norm = np.sqrt(sum((g * g).sum() for g in grads.values()))
    scale = limit / norm if limit and norm > limit else 1.0
    return {name: scale * g for name, g in grads.items()}, norm
