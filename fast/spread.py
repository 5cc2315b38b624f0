"""Parity: not a numeric piece. How far the integers of a tensor (the format uniform) spread: by the
class of their row and the class of their column.
"""

from typing import NamedTuple

import numpy as np

from reference.recipe import EIGHTHS

# A class holds integers whose root mean square lies within a quarter of an octave. Those of a row
# and of a column add up to that of an integer; a column's are counted from ALIKE.
CLASSES = 64
FIRST_OCTAVE = -2  # of the first class that holds anything but zeros
ALIKE = 32
ROUNDS = 3  # of fitting rows to columns and columns to rows


def quarters_of(mean_squares: np.ndarray) -> np.ndarray:
    """Quarters of an octave of root mean squares, nearest; any integer for 0."""
    fraction, exponent = np.frexp(mean_squares * EIGHTHS[2])
    # A half octave of the mean square is a quarter of its root
    return 2 * (exponent.astype(np.int64) - 1) + (2 * fraction >= EIGHTHS[4])


def _one_over(quarters: np.ndarray) -> np.ndarray:
    """What brings squares of so many quarters of an octave to 1."""
    halves = -quarters
    return np.ldexp(np.array((1.0, EIGHTHS[4]))[halves % 2], halves // 2)


def _mean(squares: np.ndarray, alive: np.ndarray) -> np.ndarray:
    """Mean over the first axis, of what is alive in it: terms are added one after another, which is
    the same on every machine.
    """
    return np.add.reduce(np.ascontiguousarray(squares), axis=0) / max(np.count_nonzero(alive), 1)


def classes_of(integers_RC: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The classes of the rows and of the columns, 0 where all are zeros: such that their sum less
    ALIKE is near the class of each integer's spread.
    """
    squares_RC = np.square(integers_RC, dtype=np.float64)
    alive_R, alive_C = squares_RC.any(axis=1), squares_RC.any(axis=0)
    column_C = np.zeros(len(alive_C), np.int64)
    for _ in range(ROUNDS):
        row_R = quarters_of(_mean((squares_RC * _one_over(column_C)).T, alive_C))
        column_C = quarters_of(_mean(squares_RC * _one_over(row_R)[:, None], alive_R))
    row_R = np.clip(row_R - 4 * FIRST_OCTAVE + 1, 1, CLASSES - 1)
    column_C = np.clip(column_C + ALIKE, 1, CLASSES - 1)
    rows_R, columns_C = np.where(alive_R, row_R, 0), np.where(alive_C, column_C, 0)
    return rows_R.astype(np.uint8), columns_C.astype(np.uint8)


def reach_of(sizes: np.ndarray) -> int:
    """The largest magnitude that has a symbol of its own, such that the table and the integers
    beyond it take the fewest bytes together; sizes: all magnitudes of a class.
    """
    counts = np.bincount(sizes)
    bits = np.arange(len(counts)) + 8 * np.cumsum(counts > 0) + 16 * (len(sizes) - counts.cumsum())
    return int(np.argmin(bits))


class Grid(NamedTuple):
    """A tensor of integers, in the parts that are coded: the bytes of its exponents, the classes of
    its rows and columns, the integers (R, C).
    """

    exponents: np.ndarray
    class_R: np.ndarray
    class_C: np.ndarray
    integers_RC: np.ndarray

    def kinds(self) -> np.ndarray:
        """The class of each integer, row after row: 0 in a row or a column of zeros."""
        sums_RC = np.add.outer(self.class_R.astype(np.int16), self.class_C.astype(np.int16) - ALIKE)
        kind_RC = sums_RC.clip(1, CLASSES - 1).astype(np.uint8)
        kind_RC[self.class_R == 0] = 0
        kind_RC[:, self.class_C == 0] = 0
        return kind_RC.reshape(-1)


def grid_of(piece: np.ndarray, columns: int) -> Grid:
    """The parts of a tensor's bytes, as views; the classes are to be filled in."""
    rows = (len(piece) - 2 * columns) // (2 * columns + 2)
    exponents, integers = piece[: 2 * (rows + columns)], piece[2 * (rows + columns) :]
    classes = np.empty(rows, np.uint8), np.empty(columns, np.uint8)
    return Grid(exponents, *classes, integers.view("<i2").reshape(rows, columns))


def ends_of(arrays: list[np.ndarray]) -> np.ndarray:
    """Where each array but the last ends in all of them, end to end."""
    return np.cumsum([array.size for array in arrays[:-1]], dtype=np.int64)


def by_class(grids: list[Grid]) -> tuple[np.ndarray, np.ndarray]:
    """(the order in which the integers of all grids, end to end, stand class after class; where
    each class ends in it).
    """
    kinds = np.concatenate([np.empty(0, np.uint8), *(grid.kinds() for grid in grids)])
    counts = np.bincount(kinds, minlength=CLASSES)
    return np.argsort(kinds, kind="stable"), np.cumsum(counts)
