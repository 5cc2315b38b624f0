"""Exact derivatives without a backward pass: the complex step (Squire & Trapp 1998; Martins et al.
2003, eq. 6).
"""

import numpy as np

STEP = 1e-30  # no subtraction takes place, so the step can be far below rounding


def gradient(function, params):
    """Return {name: d function / d params[name]} for a scalar function of a dict of float64 arrays,
    exact to rounding.

    function must be analytic along the way: it may branch on real parts, never take abs, max or
    conj of a perturbed value.
    """
    grads = {}
    for name, value in params.items():
        grad = np.zeros(value.size)
        for j in range(value.size):
            shifted = value.astype(np.complex128)
            shifted.flat[j] += 1j * STEP
            grad[j] = function(params | {name: shifted}).imag / STEP
        grads[name] = grad.reshape(value.shape)
    return grads
