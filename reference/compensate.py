"""Error-compensated rounding of matrices in the format uniform: what rounding adds to the columns
of a row is made up for in its later columns (Frantar et al. 2022, GPTQ).

Errors E of a matrix add about tr(E H E') / 2 to the loss, H being second moments of its columns.
Let H = M D M' with D diagonal and M upper triangular, ones on its diagonal. Then the sum is that of
D_jj times the squares of (E M)_j, which is the rounding error of column j alone, if each column is
rounded after the earlier errors times column j of M are added to it. So a row adds at most the sum
of D_jj s_j^2 / 4 for steps s_j, and no D_jj is above H_jj.
"""

import numpy as np

from reference import allot
from reference.quantize import LARGEST_CODE, choose_format, rows_and_columns, step_sizes

DAMPING = 0.1  # of the mean of the diagonal: added to it, that few windows suffice


def second_moments(params, batch, recipe):
    """Return {name: sum over rows of the mean products of two columns' gradients, (C, C)} of the
    matrices in the format uniform; arguments as of allot.gradients, whose tokens count as
    independent.

    A token's share is its activations' second moments, times the square of the gradient that comes
    back.
    """
    moments, tokens = {}, 0
    for count, grads in allot.gradients(params, batch, recipe):
        for name, grad in grads.items():
            if choose_format(name, grad.shape, recipe.quantization) == "uniform":
                grad_RC = grad.reshape(rows_and_columns(grad.shape))
                moments[name] = moments.get(name, 0) + grad_RC.T @ grad_RC
        tokens += count
    return {name: moment_CC / tokens for name, moment_CC in moments.items()}


def feedback(moments_CC):
    """Return M (C, C) of M D M', the damped moments: upper triangular, ones on the diagonal. Row i
    says how much of the error of column i is added to each later column.
    """
    added = DAMPING * np.trace(moments_CC) / len(moments_CC) + np.finfo(np.float64).tiny
    damped_CC = moments_CC + added * np.eye(len(moments_CC))
    upper_CC = np.linalg.cholesky(damped_CC[::-1, ::-1])[::-1, ::-1]
    return upper_CC / np.diag(upper_CC)


def compensated(values, exponents, feedback_CC):
    """Return a matrix rounded to multiples of its steps, (R, C) float64, in codes of 16 bits.

    A value may move by more than half a step; where feedback_CC is the identity it moves to the
    nearest multiple.
    """
    values_RC = np.asarray(values, np.float64).reshape(rows_and_columns(np.shape(values)))
    rows_R, columns_C = (np.asarray(part) for part in exponents)
    steps_RC = step_sizes(rows_R[:, None] + columns_C)
    stored_RC, error_RC = np.zeros_like(values_RC), np.zeros_like(values_RC)
    for j in range(values_RC.shape[1]):
        wanted_R = values_RC[:, j] + error_RC[:, :j] @ feedback_CC[:j, j]
        codes_R = np.clip(np.rint(wanted_R / steps_RC[:, j]), -LARGEST_CODE, LARGEST_CODE)
        stored_RC[:, j] = codes_R * steps_RC[:, j]
        error_RC[:, j] = values_RC[:, j] - stored_RC[:, j]
    return stored_RC.reshape(np.shape(values))
