"""Weights as bytes: a tensor is cut into rows (its last axis), scales come first, codes follow. All
arithmetic is float64.
"""

from math import prod
from typing import NamedTuple

import numpy as np

from reference import fp8
from reference.recipe import (
    CONTROL,
    EIGHTHS,
    FORMATS,
    GROUP,
    InputError,
    Quantization,
    StepExponents,
)


class Format(NamedTuple):
    """How one value is written, in how many bits, and what shares a scale."""

    code: str  # "float", "fp8", "int", "ternary" or "steps" (int16)
    bits: int  # of one code; 0 for ternary, which puts five codes in a byte
    scale: str  # "", "row exponent" (int8), "row" or "group" (float16), "step" (int16)
    kind: str = ""  # of float: NumPy's or fp8.py's name
    top: int = 0  # what a float16 scale brings the largest value to: the largest code


DESCRIPTIONS = {
    "float32": Format("float", 32, "", "<f4"),
    "float16": Format("float", 16, "", "<f2"),
    "e4m3": Format("fp8", 8, "", "e4m3"),
    "e4m3-row": Format("fp8", 8, "row exponent", "e4m3"),
    "e5m2": Format("fp8", 8, "", "e5m2"),
    "int8-row": Format("int", 8, "row", top=127),
    "int6-row": Format("int", 6, "row", top=31),
    "int4-group": Format("int", 4, "group", top=7),
    "e2m1-group": Format("fp8", 4, "group", "e2m1", top=6),
    "ternary-group": Format("ternary", 0, "group", top=1),
    "uniform": Format("steps", 16, "step"),
}
# Of e4m3-row; 448 * 2^119 is the last scale whose largest code is a float32
EXPONENTS = np.arange(-128, 120)
# Every positive finite float16
HALVES = np.arange(1, 0x7C00, dtype=np.uint16).view(np.float16).astype(np.float64)
FLOAT32_MAX = float(np.finfo(np.float32).max)
# Of uniform: a step is 2^(e/8), and codes have 16 bits
LARGEST_CODE = 2**15 - 1
# How many exponents a row's own step may lie from that of its root mean square: rounding moves that
# by a quarter at most, as steps are at most half of it
NEAR = 5


def _look_up(format: str) -> Format:
    """The description of a format; an unknown name is an InputError."""
    if format not in DESCRIPTIONS:
        raise InputError(f"unknown weight format {format!r}: expected one of {', '.join(FORMATS)}")
    return DESCRIPTIONS[format]


def rows_and_columns(shape: tuple[int, ...]) -> tuple[int, int]:
    """A tensor as rows along its last axis; a vector or a scalar is one row."""
    return (prod(shape[:-1]), shape[-1]) if shape else (1, 1)


def encoded_bytes(shape: tuple[int, ...], format: str) -> int:
    """Exact size in bytes of a tensor of this shape in this format."""
    description = _look_up(format)
    rows, columns = rows_and_columns(shape)
    count = rows * columns
    if count == 0:
        return 0
    codes = -(-count // 5) if description.code == "ternary" else -(-count * description.bits // 8)
    scales = {
        "": 0,
        "row exponent": rows,
        "row": 2 * rows,
        "step": 2 * (rows + columns),
        "group": 2 * rows * -(-columns // GROUP),
    }
    return scales[description.scale] + codes


def integer_columns(shape: tuple[int, ...], format: str) -> int:
    """How many columns of 16-bit integers a tensor has in this format, 0 where it holds bytes."""
    return rows_and_columns(shape)[1] if _look_up(format).code == "steps" else 0


def choose_format(name: str, shape: tuple[int, ...], quantization: Quantization) -> str:
    """Control tensors and tensors of at most `threshold` elements take the small format, the rest
    the format.
    """
    if name.split(".")[-1] in CONTROL or prod(shape) <= quantization.threshold:
        return quantization.small_format
    return quantization.format


def _row_exponents(largest_R: np.ndarray) -> np.ndarray:
    """Smallest k in -128..119 with max <= 464 * 2^k: what lies in (448, 464] still rounds to 448,
    so encoding twice changes nothing.
    """
    return EXPONENTS[
        np.minimum(np.searchsorted(464.0 * 2.0**EXPONENTS, largest_R), len(EXPONENTS) - 1)
    ]


def _covering_scales(groups_RGW: np.ndarray, top: float, name: str) -> np.ndarray:
    """Smallest positive float16 s with s * top >= max of the group: no code is clipped and no error
    exceeds half a step.
    """
    largest_RG = np.abs(groups_RGW).max(axis=-1)
    index = np.searchsorted(HALVES * top, largest_RG)
    if index.max() == len(HALVES):
        limit = f"{65504.0 * top} (a float16 scale)"
        raise InputError(
            f"{name}: expected values up to {limit}, found {largest_RG.max()}; use float32 or"
            " e4m3-row"
        )
    return HALVES[index]


def _ternary_scales(groups_RGW: np.ndarray, name: str) -> np.ndarray:
    """Scale of least squared error over codes -1, 0, 1: the mean of the k largest magnitudes, k
    maximising (sum of k)^2 / k.

    Li & Liu 2016, eq. 4, solved exactly; rounded to the nearest float16, ties to even, at least the
    smallest. Sums run in order.
    """
    ordered_RGW = -np.sort(-np.abs(groups_RGW), axis=-1)
    total, best, scale = (np.zeros(groups_RGW.shape[:-1]) for _ in range(3))
    for k in range(groups_RGW.shape[-1]):
        total = total + ordered_RGW[..., k]
        gain = total * total / (k + 1)
        scale = np.where(gain > best, total / (k + 1), scale)
        best = np.maximum(best, gain)
    if scale.max() > HALVES[-1]:
        raise InputError(
            f"{name}: expected a group scale up to 65504 (float16), found {scale.max()}; use"
            " float32 or e4m3-row"
        )
    midpoints = (HALVES[:-1] + HALVES[1:]) / 2
    below, above = (
        np.searchsorted(midpoints, scale, "left"),
        np.searchsorted(midpoints, scale, "right"),
    )
    # HALVES starts at code 1, so odd places hold the even codes
    return HALVES[np.where(below % 2 == 1, below, above)]


def step_sizes(exponents: np.ndarray) -> np.ndarray:
    """2^(e/8), 0 or infinity beyond the range of float64."""
    exponents = np.asarray(exponents, np.int64)
    with np.errstate(over="ignore"):
        return np.ldexp(np.array(EIGHTHS)[exponents % 8], exponents // 8)


def rounded(values, exponents):
    """Return {name: array} with the matrices that `exponents` names as the format uniform stores
    them, by steps of those exponents; the others as they are.
    """

    def stored(values_RC, rows_R, columns_C):
        steps_RC = step_sizes(np.add.outer(rows_R, columns_C))
        return np.rint(values_RC / steps_RC) * steps_RC

    return values | {name: stored(values[name], *parts) for name, parts in exponents.items()}


def mean_exponents(values_RC: np.ndarray) -> np.ndarray:
    """The e whose 2^(e/8) is nearest to the root mean square of each row, on a logarithmic scale;
    0 for zeros.

    Squares are added pair by pair, the second half of the row to the first, in a row of zeros that
    fill it up to a power of two.
    """
    rows, columns = values_RC.shape
    width = 1
    while width < columns:
        width *= 2
    sums_RC = np.zeros((rows, width))
    sums_RC[:, :columns] = values_RC * values_RC
    while width > 1:
        width //= 2
        sums_RC = sums_RC[:, :width] + sums_RC[:, width:]
    mean_R = sums_RC[:, 0] / columns
    fraction_R, exponent_R = np.frexp(mean_R)
    below_R = np.searchsorted(EIGHTHS, 2 * fraction_R, "right") - 1
    eighth_R = 8 * (exponent_R - 1) + below_R  # of the square, rounded down
    return np.where(mean_R > 0, (eighth_R + 1) // 2, 0)


def row_steps(values_RC: np.ndarray, dial: int) -> np.ndarray:
    """The e of each row, whose step is 2^(e/8): nearest to its root mean square over 2^(dial/8). A
    row whose values are all multiples of a step near that, rounded to float32, takes that step: so
    encoding twice changes no value.
    """
    middle_R = mean_exponents(values_RC) - dial
    exponent_R, found_R = middle_R, np.zeros(len(middle_R), bool)
    for offset in sorted(range(-NEAR, NEAR + 1), key=abs):
        steps_R1 = step_sizes(middle_R + offset)[:, None]
        codes_RC = np.rint(values_RC / steps_R1)
        same_RC = (codes_RC * steps_R1).astype(np.float32) == values_RC
        fits_R = (same_RC & (np.abs(codes_RC) <= LARGEST_CODE)).all(axis=1) & ~found_R
        exponent_R, found_R = np.where(fits_R, middle_R + offset, exponent_R), found_R | fits_R
    return exponent_R


def fit_steps(
    values_RC: np.ndarray, dial: int | StepExponents, name: str
) -> tuple[np.ndarray, bytes]:
    """(step of each value; the exponents as they are stored, rows first)."""
    columns = values_RC.shape[1]
    given = isinstance(dial, StepExponents)
    exponent_R, exponent_C = dial if given else (row_steps(values_RC, dial), np.zeros(columns, int))
    steps_RC = step_sizes(np.asarray(exponent_R)[:, None] + np.asarray(exponent_C))
    with np.errstate(divide="ignore", invalid="ignore"):
        largest_R = np.rint(np.abs(values_RC / steps_RC).max(axis=1))
    if not largest_R.max() <= LARGEST_CODE:
        raise InputError(
            f"{name}: expected values up to {LARGEST_CODE} steps, found {largest_R.max():.0f}; use"
            " float32 or a smaller dial"
        )
    stored = np.concatenate([np.where(largest_R == 0, 0, exponent_R), exponent_C])
    return steps_RC, stored.astype("<i2").tobytes()


def pack_codes(codes: np.ndarray, bits: int) -> bytes:
    """Unsigned codes (n,) as one little-endian stream of bits, or five base-3 digits a byte when
    bits is 0.
    """
    if bits:
        return np.packbits(
            np.unpackbits(codes[:, None], axis=1, bitorder="little")[:, :bits], bitorder="little"
        ).tobytes()
    digits = np.zeros((-(-len(codes) // 5), 5), np.int64)
    digits.ravel()[: len(codes)] = codes
    return (digits @ 3 ** np.arange(5)).astype(np.uint8).tobytes()


def unpack_codes(data: bytes, bits: int, count: int, name: str) -> np.ndarray:
    """Inverse of pack_codes: `count` codes; a ternary byte above 242 is an InputError."""
    packed = np.frombuffer(data, np.uint8)
    if bits:
        stream = np.unpackbits(packed, bitorder="little")[: count * bits].reshape(count, bits)
        return np.packbits(stream, axis=1, bitorder="little")[:, 0]
    if packed.max() >= 3**5:
        raise InputError(
            f"{name}: expected ternary bytes up to 242, found {packed.max()}; the data is damaged"
        )
    return (packed[:, None] // 3 ** np.arange(5) % 3).ravel()[:count]


def check_values(values: np.ndarray, format: str, name: str) -> np.ndarray:
    """The values as float64; NaN, infinity and what a float format cannot hold are an InputError
    that names the tensor.
    """
    values = np.asarray(values, np.float64)
    wrong = np.argwhere(~np.isfinite(values))
    if len(wrong):
        where = tuple(map(int, wrong[0]))
        raise InputError(
            f"{name}: expected finite numbers, found {values[where]} at index {where}; the weights"
            " cannot be stored"
        )
    form = _look_up(format)
    limit = float(np.finfo(form.kind).max) if form.code == "float" else np.inf
    if form.code == "steps":  # rounded up a value must stay a float32
        limit = FLOAT32_MAX / 2
    if np.abs(values).max() > limit:
        raise InputError(
            f"{name}: expected magnitudes up to {limit} ({format}), found {np.abs(values).max()};"
            " choose a wider format"
        )
    return values


def _fit_scales(
    groups_RGW: np.ndarray, form: Format, dial: int | StepExponents, name: str
) -> tuple[np.ndarray, bytes]:
    """(scale of each group, float64; the scales as they are stored)."""
    if form.scale == "":
        return np.ones((len(groups_RGW), 1)), b""
    if form.scale == "row exponent":
        exponents_R = _row_exponents(np.abs(groups_RGW[:, 0]).max(axis=1))
        return 2.0 ** exponents_R[:, None], exponents_R.astype(np.int8).tobytes()
    if form.scale == "step":
        return fit_steps(groups_RGW[:, :, 0], dial, name)
    if form.code == "ternary":
        scales_RG = _ternary_scales(groups_RGW, name)
    else:
        scales_RG = _covering_scales(groups_RGW, form.top, name)
    return scales_RG, scales_RG.astype("<f2").tobytes()


def _read_scales(data: bytes, rows: int, form: Format, name: str) -> np.ndarray:
    """Inverse of _fit_scales: the scale of each group, float64. One that is not positive and finite
    is an InputError.
    """
    if form.scale == "":
        return np.ones((rows, 1))
    if form.scale == "row exponent":
        return 2.0 ** np.frombuffer(data, np.int8).astype(np.float64)[:, None]
    if form.scale == "step":
        exponents = np.frombuffer(data, "<i2").astype(np.int64)
        scales_RG = step_sizes(exponents[:rows, None] + exponents[rows:])
    else:
        scales_RG = np.frombuffer(data, "<f2").astype(np.float64).reshape(rows, -1)
    if not (np.isfinite(scales_RG) & (scales_RG > 0)).all():
        raise InputError(
            f"{name}: expected positive finite scales, found others; the data is damaged"
        )
    return scales_RG


def _width(form: Format, columns: int) -> int:
    """How many neighbours in a row share a scale."""
    return {"group": GROUP, "step": 1}.get(form.scale, columns)


def to_bytes(
    values: np.ndarray,
    format: str,
    name: str = "tensor",
    dial: int | StepExponents = Quantization.dial,
) -> bytes:
    """A tensor of any shape as encoded_bytes(shape, format) bytes, scales before codes. Bad values:
    see check_values. dial: of the format uniform: what its steps follow from, or they themselves.
    """
    form = _look_up(format)
    rows, columns = rows_and_columns(np.shape(values))
    if rows * columns == 0:
        return b""
    values_RC = check_values(values, format, name).reshape(rows, columns)
    if form.code == "float":
        return values_RC.astype(form.kind).tobytes()
    width = _width(form, columns)
    groups_RGW = np.pad(values_RC, ((0, 0), (0, -columns % width))).reshape(rows, -1, width)
    scales_RG, head = _fit_scales(groups_RGW, form, dial, name)
    units = (groups_RGW / scales_RG[:, :, None]).reshape(rows, -1)[:, :columns].ravel()
    if form.code == "fp8":
        return head + pack_codes(fp8.encode(units, form.kind), form.bits)
    if form.code == "steps":
        return head + np.rint(units).astype("<i2").tobytes()
    integers = np.clip(np.rint(units), -form.top, form.top)
    offset = 1 << (form.bits - 1) if form.bits else 1
    return head + pack_codes((integers + offset).astype(np.uint8), form.bits)


def from_bytes(
    data: bytes, shape: tuple[int, ...], format: str, name: str = "tensor"
) -> np.ndarray:
    """Inverse of to_bytes up to rounding: a float32 array. A wrong length, a bad scale or a value
    that is not finite is an InputError.
    """
    form = _look_up(format)
    rows, columns = rows_and_columns(shape)
    if len(data) != encoded_bytes(shape, format):
        raise InputError(
            f"{name}: expected {encoded_bytes(shape, format)} bytes of {format}, found {len(data)};"
            " the data is damaged"
        )
    if not data:
        return np.zeros(shape, np.float32)
    width = _width(form, columns)
    heads = {"": 0, "row exponent": rows, "step": 2 * (rows + columns)}
    head = heads.get(form.scale, 2 * rows * -(-columns // width))
    scales_RG = _read_scales(data[:head], rows, form, name)
    if form.code == "float":
        units = np.frombuffer(data, form.kind)
        # One kind of bad value, refused below
        units = np.where(np.isfinite(units), units, np.inf).astype(np.float64)
    elif form.code == "steps":
        units = np.frombuffer(data[head:], "<i2").astype(np.float64)
    else:
        codes = unpack_codes(data[head:], form.bits, rows * columns, name)
        offset = 1 << (form.bits - 1) if form.bits else 1
        units = (
            fp8.decode(codes, form.kind)
            if form.code == "fp8"
            else codes.astype(np.float64) - offset
        )
    values = units.reshape(rows, columns) * np.repeat(scales_RG, width, axis=1)[:, :columns]
    if not (np.abs(values) <= FLOAT32_MAX).all():
        raise InputError(
            f"{name}: expected finite float32 values, found others; the data is damaged"
        )
    return values.astype(np.float32).reshape(shape)
