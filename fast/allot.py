"""Parity: algebra + rounding. Which steps a matrix is stored with in the format uniform (twin of
reference/allot.py): F s^2 is equal over all weights, F being the diagonal of the Fisher
information.
"""

import math
from collections.abc import Callable, Iterator
from dataclasses import replace

import numpy as np
import torch

from fast import train, transformer
from fast.quantize import LARGEST_CODE, rows_and_columns
from reference.recipe import Recipe, StepExponents

TOKENS = 1024  # of one gradient, at most, but for a single window that is longer
FLOOR = 1e-6  # of the mean of a matrix: added to each entry, that none is zero
FIT_ROUNDS = 8  # of fitting rows to columns and columns to rows


def gradients(
    params: dict[str, torch.Tensor], batch: Callable, recipe: Recipe
) -> Iterator[tuple[int, dict[str, torch.Tensor]]]:
    """Yield (tokens, {name: gradient of the sum of their losses, float64}) over the first
    quantization.fisher windows of training, several at a time; params: named or stacked;
    batch(step, rows) returns the windows of some global rows. The share of causal rows is
    model.causal_share, without drift.
    """
    recipe = replace(recipe, training=replace(recipe.training, causal_drift=0.0))
    length, windows = recipe.model.length, recipe.quantization.fisher
    global_rows = recipe.training.tokens_per_step // length
    group = min(max(1, TOKENS // length), global_rows)
    leaves = {
        name: value.detach().clone().requires_grad_()
        for name, value in transformer.stack(params).items()
    }
    device = next(iter(leaves.values())).device
    start = 0
    while start < windows:
        step, first = divmod(start, global_rows)
        rows = np.arange(first, min(first + group, global_rows, first + windows - start))
        shown = tuple(torch.as_tensor(part, device=device) for part in batch(step, rows))
        loss = train.batch_loss(leaves, shown, step, rows, recipe)
        count = len(rows) * length
        grads = torch.autograd.grad(loss, list(leaves.values()), materialize_grads=True)
        sums = [count * grad.double() for grad in grads]
        yield count, transformer.unstack(dict(zip(leaves, sums, strict=True)))
        start += len(rows)


def squared_gradients(
    params: dict[str, torch.Tensor], batch: Callable, recipe: Recipe
) -> dict[str, torch.Tensor]:
    """Return {name: mean square of the gradient of a token's loss} in float64 on the CPU, the
    diagonal of the empirical Fisher information; arguments as of gradients(), whose tokens count
    as independent.
    """
    squares, tokens = {}, 0
    for count, grads in gradients(params, batch, recipe):
        for name, grad in grads.items():
            squares[name] = squares.get(name, 0) + grad.square().cpu()
        tokens += count
    return {name: square / tokens for name, square in squares.items()}


def factors(squares_RC: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return (rows_R, columns_C) whose products are near the squares: each is the mean of the
    squares over the other. The geometric mean of columns_C is 1.
    """
    squares_RC = squares_RC + FLOOR * squares_RC.mean() + torch.finfo(torch.float64).tiny
    columns_C = torch.ones(squares_RC.shape[1], dtype=torch.float64)
    for _ in range(FIT_ROUNDS):
        rows_R = (squares_RC / columns_C).mean(dim=1)
        columns_C = (squares_RC / rows_R[:, None]).mean(dim=0)
        columns_C = columns_C / columns_C.log().mean().exp()
    return rows_R, columns_C


def step_exponents(
    values: dict[str, torch.Tensor], squares: dict[str, torch.Tensor] | None, dial: float
) -> dict[str, StepExponents]:
    """Return {name: StepExponents} of some matrices: F s^2 is equal over all of them, F being the
    product of the factors of `squares`; without squares all rows have the same dial.

    A row's dial is eight times the octaves from its step to its root mean square, at least 0; its
    mean over all weights is `dial`, before that bound. A fraction of the dial is the share of the
    rows, the first ones of each matrix, that take the next dial.
    """
    wanted, size, total = {}, 0, 0.0
    for name, tensor in values.items():
        values_RC = tensor.detach().cpu().double().reshape(rows_and_columns(tensor.shape))
        alive_R = values_RC.any(dim=1)
        size_R = values_RC.square().mean(dim=1).sqrt().masked_fill(~alive_R, 1.0).log2()
        step_R, step_C = size_R, torch.zeros(values_RC.shape[1], dtype=torch.float64)
        if squares is not None:
            rows_R, columns_C = factors(squares[name].reshape(values_RC.shape))
            step_R, step_C = -rows_R.log2() / 2, -columns_C.log2() / 2
        wanted[name] = values_RC, size_R, step_R, step_C
        size += int(alive_R.sum()) * values_RC.shape[1]
        total += float((size_R - step_R)[alive_R].sum()) * values_RC.shape[1]
    offset = total / max(size, 1) - math.floor(dial) / 8
    return {name: _bounded(*parts, offset, dial % 1) for name, parts in wanted.items()}


def _bounded(values_RC, size_R, step_R, step_C, offset: float, finer: float) -> StepExponents:
    """Return the nearest exponents, a share of the first ones smaller by one: at most the size of a
    row, and such that no code takes more than 16 bits.
    """
    columns_C = (8 * step_C).round().long()
    rows_R = (8 * (step_R + offset)).round() - _first(len(step_R), finer).double()
    rows_R = torch.minimum(rows_R, (8 * size_R).round())
    return StepExponents(torch.maximum(rows_R.long(), _least(values_RC, columns_C)), columns_C)


def _first(rows: int, share: float) -> torch.Tensor:
    """Return which rows are the first of them, so large a share."""
    return torch.arange(rows, dtype=torch.float64) < share * rows


def _least(values_RC: torch.Tensor, columns_C: torch.Tensor) -> torch.Tensor:
    """Return the least exponent of each row by which no code takes more than 16 bits."""
    largest_R = (values_RC / 2.0 ** (columns_C.double() / 8)).abs().amax(dim=1)
    most_R = (largest_R / LARGEST_CODE).masked_fill(largest_R == 0, 1.0)
    return (8 * most_R.log2()).ceil().long()


def shifted(
    values: dict[str, torch.Tensor], exponents: dict[str, StepExponents], dial: float
) -> dict[str, StepExponents]:
    """Return {name: StepExponents} of matrices, steps finer by so much of a dial than `exponents`,
    and such that no code takes more than 16 bits; of a fraction of a dial: as in step_exponents.
    """
    moved = {}
    for name, (rows_R, columns_C) in exponents.items():
        values_RC = values[name].detach().cpu().double()
        rows_R = rows_R - math.floor(dial) - _first(len(rows_R), dial % 1).long()
        moved[name] = StepExponents(torch.maximum(rows_R, _least(values_RC, columns_C)), columns_C)
    return moved
