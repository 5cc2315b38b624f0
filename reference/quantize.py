"""Weights as bytes: a tensor is cut into rows (its last axis), scales come first, codes follow. All
arithmetic is float64.
"""

from math import prod
from typing import NamedTuple

import numpy as np

from reference import fp8
from reference.recipe import CONTROL, FORMATS, GROUP, InputError, Quantization


class Format(NamedTuple):
    """How one value is written, in how many bits, and what shares a scale."""

    code: str  # "float", "fp8", "int" or "ternary"
    bits: int  # of one code; 0 for ternary, which puts five codes in a byte
    scale: str  # "", "row exponent" (int8), "row" or "group" (float16)
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
}
# Of e4m3-row; 448 * 2^119 is the last scale whose largest code is a float32
EXPONENTS = np.arange(-128, 120)
# Every positive finite float16
HALVES = np.arange(1, 0x7C00, dtype=np.uint16).view(np.float16).astype(np.float64)
FLOAT32_MAX = float(np.finfo(np.float32).max)


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
        "group": 2 * rows * -(-columns // GROUP),
    }
    return scales[description.scale] + codes


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
    if np.abs(values).max() > limit:
        raise InputError(
            f"{name}: expected magnitudes up to {limit} ({format}), found {np.abs(values).max()};"
            " choose a wider format"
        )
    return values


def to_bytes(values: np.ndarray, format: str, name: str = "tensor") -> bytes:
    """A tensor of any shape as encoded_bytes(shape, format) bytes, scales before codes. Bad values:
    see check_values.
    """
    form = _look_up(format)
    rows, columns = rows_and_columns(np.shape(values))
    if rows * columns == 0:
        return b""
    values_RC = check_values(values, format, name).reshape(rows, columns)
    if form.code == "float":
        return values_RC.astype(form.kind).tobytes()
    width = GROUP if form.scale == "group" else columns
    groups_RGW = np.pad(values_RC, ((0, 0), (0, -columns % width))).reshape(rows, -1, width)
    if form.scale == "":
        scales_RG, head = np.ones((rows, 1)), b""
    elif form.scale == "row exponent":
        exponents_R = _row_exponents(np.abs(values_RC).max(axis=1))
        scales_RG, head = 2.0 ** exponents_R[:, None], exponents_R.astype(np.int8).tobytes()
    else:
        scales_RG = (
            _ternary_scales(groups_RGW, name)
            if form.code == "ternary"
            else _covering_scales(groups_RGW, form.top, name)
        )
        head = scales_RG.astype("<f2").tobytes()
    units = (groups_RGW / scales_RG[:, :, None]).reshape(rows, -1)[:, :columns].ravel()
    if form.code == "fp8":
        return head + pack_codes(fp8.encode(units, form.kind), form.bits)
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
    width = GROUP if form.scale == "group" else columns
    head = {"": 0, "row exponent": rows}.get(form.scale, 2 * rows * -(-columns // width))
    scales_RG = np.ones((rows, 1))
    if form.scale == "row exponent":
        scales_RG = 2.0 ** np.frombuffer(data[:head], np.int8).astype(np.float64)[:, None]
    elif form.scale:
        scales_RG = np.frombuffer(data[:head], "<f2").astype(np.float64).reshape(rows, -1)
        if not (np.isfinite(scales_RG) & (scales_RG > 0)).all():
            raise InputError(
                f"{name}: expected positive finite scales, found others; the data is damaged"
            )
    if form.code == "float":
        units = np.frombuffer(data, form.kind)
        # One kind of bad value, refused below
        units = np.where(np.isfinite(units), units, np.inf).astype(np.float64)
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
