"""Parity: algebra + rounding. Error-compensated rounding of matrices in the format uniform (twin of
reference/compensate.py): what rounding adds to the columns of a row is made up for in its later
columns (Frantar et al. 2022, GPTQ).
"""

from collections.abc import Callable

import torch

from fast import allot
from fast.quantize import LARGEST_CODE, choose_format, rows_and_columns, step_sizes
from reference.recipe import Recipe, StepExponents

DAMPING = 0.1  # of the mean of the diagonal: added to it, that few windows suffice
AT_ONCE = 64  # columns whose errors reach the later ones in one product


def second_moments(
    params: dict[str, torch.Tensor], batch: Callable, recipe: Recipe
) -> dict[str, torch.Tensor]:
    """Return {name: sum over rows of the mean products of two columns' gradients, (C, C)} of the
    matrices in the format uniform, float64 on the CPU; arguments as of allot.gradients, whose
    tokens count as independent.

    A token's share is its activations' second moments, times the square of the gradient that comes
    back.
    """
    moments, tokens = {}, 0
    for count, grads in allot.gradients(params, batch, recipe):
        for name, grad in grads.items():
            if choose_format(name, tuple(grad.shape), recipe.quantization) == "uniform":
                grad_RC = grad.reshape(rows_and_columns(grad.shape))
                moments[name] = moments.get(name, 0) + (grad_RC.T @ grad_RC).cpu()
        tokens += count
    return {name: moment_CC / tokens for name, moment_CC in moments.items()}


def feedback(moments_CC: torch.Tensor) -> torch.Tensor:
    """Return M (C, C) of M D M', the damped moments: upper triangular, ones on the diagonal. Row i
    says how much of the error of column i is added to each later column.
    """
    added = DAMPING * moments_CC.trace() / len(moments_CC) + torch.finfo(torch.float64).tiny
    damped_CC = moments_CC + added * torch.eye(len(moments_CC), dtype=torch.float64)
    upper_CC = torch.linalg.cholesky(damped_CC.flip(0, 1)).flip(0, 1)
    return upper_CC / upper_CC.diagonal()


def compensated(
    values: torch.Tensor, exponents: StepExponents, feedback_CC: torch.Tensor
) -> torch.Tensor:
    """Return a matrix rounded to multiples of its steps, float64 on the CPU, in codes of 16 bits.

    A value may move by more than half a step; where feedback_CC is the identity it moves to the
    nearest multiple.
    """
    values_RC = values.detach().cpu().double().reshape(rows_and_columns(values.shape))
    rows_R, columns_C = (torch.as_tensor(part, dtype=torch.int64) for part in exponents)
    # Columns stand in rows, which are then in one piece
    values_CR, steps_CR = values_RC.T.contiguous(), step_sizes(columns_C[:, None] + rows_R)
    stored_CR, error_CR = torch.empty_like(values_CR), torch.zeros_like(values_CR)
    back_CC = feedback_CC.T.contiguous()
    for start in range(0, len(values_CR), AT_ONCE):
        stop = min(start + AT_ONCE, len(values_CR))
        wanted_BR = values_CR[start:stop] + back_CC[start:stop, :start] @ error_CR[:start]
        for j in range(start, stop):
            wanted_R = wanted_BR[j - start] + back_CC[j, start:j] @ error_CR[start:j]
            codes_R = (wanted_R / steps_CR[j]).round().clamp(-LARGEST_CODE, LARGEST_CODE)
            stored_CR[j] = codes_R * steps_CR[j]
            error_CR[j] = values_CR[j] - stored_CR[j]
    return stored_CR.T.reshape(values.shape)
