"""Which steps a matrix is stored with in the format uniform: coarse where the loss hardly depends
on a weight, fine where it does.

Rounding by a step s adds an error of variance s^2 / 12 to a weight, and so about F s^2 / 24 to the
loss, F being the weight's entry on the diagonal of the Fisher information. A bit less per weight
quadruples s^2. So the loss is least for a given size where F s^2 is equal everywhere (reverse
water-filling, Cover & Thomas 2006, section 10.3.3). F is estimated by squared gradients on training
text, and as the product of a number for each row and one for each column.
"""

from dataclasses import replace

import numpy as np

from reference import gradient, train
from reference.quantize import LARGEST_CODE, choose_format, rows_and_columns
from reference.recipe import StepExponents

TOKENS = 1024  # of one gradient, at most, but for a single window that is longer
FLOOR = 1e-6  # of the mean of a matrix: added to each entry, that none is zero
ROUNDS = 8  # of fitting rows to columns and columns to rows


def gradients(params, batch, recipe):
    """Yield (tokens, {name: gradient of the sum of their losses}) over the first
    quantization.fisher windows of training, several at a time; batch(step, rows) returns the
    windows of some global rows. The share of causal rows is model.causal_share, without drift.
    """
    recipe = replace(recipe, training=replace(recipe.training, causal_drift=0.0))
    length, windows = recipe.model.length, recipe.quantization.fisher
    global_rows = recipe.training.tokens_per_step // length
    group = min(max(1, TOKENS // length), global_rows)
    start = 0
    while start < windows:
        step, first = divmod(start, global_rows)
        rows = np.arange(first, min(first + group, global_rows, first + windows - start))
        shown = batch(step, rows)

        def loss(params, shown=shown, step=step, rows=rows):
            return train.batch_loss(params, shown, step, rows, recipe)

        count = len(rows) * length
        grads = gradient.gradient(loss, params)
        yield count, {name: count * grad for name, grad in grads.items()}
        start += len(rows)


def squared_gradients(params, batch, recipe):
    """Return {name: mean square of the gradient of a token's loss}, the diagonal of the empirical
    Fisher information; arguments as of gradients(), whose tokens count as independent.
    """
    squares, tokens = {name: np.zeros(value.shape) for name, value in params.items()}, 0
    for count, grads in gradients(params, batch, recipe):
        squares = {name: square + np.square(grads[name]) for name, square in squares.items()}
        tokens += count
    return {name: square / tokens for name, square in squares.items()}


def factors(squares_RC):
    """Return (rows_R, columns_C) whose products are near the squares: each is the mean of the
    squares over the other. The geometric mean of columns_C is 1.
    """
    squares_RC = squares_RC + FLOOR * squares_RC.mean() + np.finfo(np.float64).tiny
    columns_C = np.ones(squares_RC.shape[1])
    for _ in range(ROUNDS):
        rows_R = (squares_RC / columns_C).mean(axis=1)
        columns_C = (squares_RC / rows_R[:, None]).mean(axis=0)
        columns_C = columns_C / np.exp(np.log(columns_C).mean())
    return rows_R, columns_C


def step_exponents(values, squares, dial):
    """Return {name: StepExponents} of some matrices: F s^2 is equal over all of them, F being the
    product of the factors of `squares`; without squares all rows have the same dial.

    A row's dial is eight times the octaves from its step to its root mean square, at least 0; its
    mean over all weights is `dial`, before that bound. A fraction of the dial is the share of the
    rows, the first ones of each matrix, that take the next dial.
    """
    wanted, size, total = {}, 0, 0.0
    for name, tensor in values.items():
        values_RC = np.asarray(tensor, np.float64).reshape(rows_and_columns(np.shape(tensor)))
        alive_R = values_RC.any(axis=1)
        size_R = np.log2(np.where(alive_R, np.sqrt(np.square(values_RC).mean(axis=1)), 1.0))
        step_R, step_C = size_R, np.zeros(values_RC.shape[1])
        if squares is not None:
            rows_R, columns_C = factors(np.asarray(squares[name]).reshape(values_RC.shape))
            step_R, step_C = -np.log2(rows_R) / 2, -np.log2(columns_C) / 2
        wanted[name] = values_RC, size_R, step_R, step_C
        size += alive_R.sum() * values_RC.shape[1]
        total += (size_R - step_R)[alive_R].sum() * values_RC.shape[1]
    offset = total / max(size, 1) - np.floor(dial) / 8
    return {name: _bounded(*parts, offset, dial % 1) for name, parts in wanted.items()}


def _bounded(values_RC, size_R, step_R, step_C, offset, finer):
    """Return the nearest exponents, a share of the first ones smaller by one: at most the size of a
    row, and such that no code takes more than 16 bits.
    """
    columns_C = np.rint(8 * step_C).astype(int)
    rows_R = np.rint(8 * (step_R + offset)) - _first(len(step_R), finer)
    rows_R = np.minimum(rows_R, np.rint(8 * size_R))
    return StepExponents(np.maximum(rows_R.astype(int), _least(values_RC, columns_C)), columns_C)


def _first(rows, share):
    """Return which rows are the first of them, so large a share."""
    return np.arange(rows) < share * rows


def _least(values_RC, columns_C):
    """Return the least exponent of each row by which no code takes more than 16 bits."""
    largest_R = np.abs(values_RC / 2.0 ** (columns_C / 8)).max(axis=1)
    most_R = np.where(largest_R > 0, largest_R / LARGEST_CODE, 1.0)
    return np.ceil(8 * np.log2(most_R)).astype(int)


def shifted(values, exponents, dial):
    """Return {name: StepExponents} of matrices, steps finer by so much of a dial than `exponents`,
    and such that no code takes more than 16 bits; of a fraction of a dial: as in step_exponents.
    """
    moved = {}
    for name, (rows_R, columns_C) in exponents.items():
        rows_R = np.asarray(rows_R) - int(np.floor(dial)) - _first(len(rows_R), dial % 1)
        moved[name] = StepExponents(np.maximum(rows_R, _least(values[name], columns_C)), columns_C)
    return moved


def choose_steps(params, batch, recipe):
    """Return {name: StepExponents} of the matrices that are stored in the format uniform, by the
    recipe's dial; batch: as in squared_gradients. A budget is met by the fast half alone.
    """
    wanted = recipe.quantization
    formats = {name: choose_format(name, np.shape(params[name]), wanted) for name in params}
    values = {name: params[name] for name in params if formats[name] == "uniform"}
    squares = squared_gradients(params, batch, recipe) if wanted.fisher else None
    return step_exponents(values, squares, wanted.dial)
