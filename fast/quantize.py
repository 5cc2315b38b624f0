"""Parity: bitwise. Weights as bytes: every operation on values is one correctly rounded float64
operation, in a stated order.
"""

from collections.abc import Callable
from math import gcd, prod
from typing import NamedTuple

import numpy as np
import torch

from fast import fp8
from reference.recipe import (
    CONTROL,
    EIGHTHS,
    FORMATS,
    GROUP,
    InputError,
    Quantization,
    StepExponents,
)

FLOAT32_MAX = float(np.finfo(np.float32).max)
FLOAT16_MAX = 65504.0
SMALLEST_SCALE = 2.0**-24  # smallest positive float16
LARGEST_CODE = 2**15 - 1  # of Steps
# uniform: how many exponents a row's own step may lie from that of its root mean square, which
# rounding moves by a quarter at most, as steps are at most half of it
NEAR = 5


def rows_and_columns(shape: tuple[int, ...]) -> tuple[int, int]:
    """A tensor as rows along its last axis; a vector or a scalar is one row."""
    return (prod(shape[:-1]), shape[-1]) if shape else (1, 1)


def encoded_bytes(shape: tuple[int, ...], format: str) -> int:
    """Exact size in bytes of a tensor of this shape in this format."""
    code, scale = _look_up(format)
    rows, columns = rows_and_columns(shape)
    count = rows * columns
    if count == 0:
        return 0
    codes = -(-count * code.bits // 8) if code.bits else -(-count // 5)
    return codes + (scale.count_bytes(rows, columns) if scale else 0)


def integer_columns(shape: tuple[int, ...], format: str) -> int:
    """How many columns of 16-bit integers a tensor has in this format, 0 where it holds bytes."""
    return rows_and_columns(shape)[1] if isinstance(_look_up(format).code, Steps) else 0


def choose_format(name: str, shape: tuple[int, ...], quantization: Quantization) -> str:
    """Control tensors and tensors of at most `threshold` elements take the small format, the rest
    the format.
    """
    if name.split(".")[-1] in CONTROL or prod(shape) <= quantization.threshold:
        return quantization.small_format
    return quantization.format


def _power_of_two(exponents: torch.Tensor) -> torch.Tensor:
    """2^k as float64, written into the exponent bits: exact on every device and version, which pow
    and ldexp do not promise.
    """
    return ((exponents.to(torch.int64) + 1023) << 52).view(torch.float64)


def _row_exponents(groups_RGW: torch.Tensor, top: float, name: str) -> torch.Tensor:
    """Smallest k in -128..119 with max <= 464 * 2^k, from the bits: max = f 2^e with f in [0.5, 1),
    and 464 = 0.90625 * 2^9.
    """
    fraction_RG, exponent_RG = torch.frexp(groups_RGW.abs().amax(dim=-1))
    smallest_RG = exponent_RG - 9 + (fraction_RG > 0.90625).to(exponent_RG.dtype)
    return torch.where(fraction_RG == 0, -128, smallest_RG).clamp(-128, 119)


def _covering_scales(groups_RGW: torch.Tensor, top: float, name: str) -> torch.Tensor:
    """Smallest positive float16 s with s * top >= max of the group, as float64: the nearest float16
    to max / top, or the next one up.
    """
    largest_RG = groups_RGW.abs().amax(dim=-1)
    if largest_RG.max() > FLOAT16_MAX * top:
        limit = f"{FLOAT16_MAX * top} (a float16 scale)"
        raise InputError(
            f"{name}: expected values up to {limit}, found {largest_RG.max()}; use float32 or"
            " e4m3-row"
        )
    near_RG = (largest_RG / top).to(torch.float16)
    short_RG = near_RG.double() * top < largest_RG
    next_RG = (near_RG.view(torch.int16) + short_RG.to(torch.int16)).view(torch.float16)
    return next_RG.double().clamp(min=SMALLEST_SCALE)


def _ternary_scales(groups_RGW: torch.Tensor, top: float, name: str) -> torch.Tensor:
    """Scale of least squared error over -1, 0, 1 (Li & Liu 2016, eq. 4, solved exactly), nearest
    float16, as float64.
    """
    ordered_RGW = groups_RGW.abs().sort(dim=-1, descending=True).values
    total = best = scale = torch.zeros(groups_RGW.shape[:-1], dtype=torch.float64)
    # One addition after another: a library's sum may pair them otherwise and round otherwise.
    for k in range(groups_RGW.shape[-1]):
        total = total + ordered_RGW[..., k]
        gain = total * total / (k + 1)
        scale = torch.where(gain > best, total / (k + 1), scale)
        best = torch.maximum(best, gain)
    if scale.max() > FLOAT16_MAX:
        raise InputError(
            f"{name}: expected a group scale up to 65504 (float16), found {scale.max()}; use"
            " float32 or e4m3-row"
        )
    # torch goes through float32 and rounds twice.
    rounded = scale.numpy().astype(np.float16).astype(np.float64)
    return torch.from_numpy(rounded).clamp(min=SMALLEST_SCALE)


def step_sizes(exponents: torch.Tensor) -> torch.Tensor:
    """2^(e/8) as float64, 0 or infinity beyond its range."""
    eighths = torch.tensor(EIGHTHS, dtype=torch.float64, device=exponents.device)
    exponents = exponents.to(torch.int64)
    return eighths[exponents % 8] * _power_of_two((exponents // 8).clamp(-1023, 1024))


def rounded(
    values: dict[str, torch.Tensor], exponents: dict[str, torch.Tensor]
) -> dict[str, torch.Tensor]:
    """Return {name: tensor} with the matrices that `exponents` names as the format uniform stores
    them, by steps of those exponents, (..., rows + columns) for one matrix or a stack of them; the
    others as they are.
    """

    def stored(values: torch.Tensor, exponents: torch.Tensor) -> torch.Tensor:
        exponent_R, exponent_C = exponents.tensor_split([values.shape[-2]], dim=-1)
        steps = step_sizes(exponent_R[..., :, None] + exponent_C[..., None, :])
        return ((values.double() / steps).round() * steps).to(values.dtype)

    return values | {name: stored(values[name], parts) for name, parts in exponents.items()}


def _mean_exponents(values_RC: torch.Tensor) -> torch.Tensor:
    """The e whose 2^(e/8) is nearest to the root mean square of each row, on a logarithmic scale;
    0 for zeros.

    Squares are added pair by pair, the second half of the row to the first, in a row of zeros that
    fill it up to a power of two.
    """
    columns = values_RC.shape[1]
    width = 1 << (columns - 1).bit_length()
    sums_RC = torch.nn.functional.pad(values_RC.square(), (0, width - columns))
    while sums_RC.shape[1] > 1:
        left_RC, right_RC = sums_RC.tensor_split(2, dim=1)
        sums_RC = left_RC + right_RC
    mean_R = sums_RC[:, 0] / columns
    fraction_R, exponent_R = torch.frexp(mean_R)
    eighths = torch.tensor(EIGHTHS, dtype=torch.float64)
    below_R = torch.searchsorted(eighths, 2 * fraction_R, right=True) - 1
    eighth_R = 8 * (exponent_R.to(torch.int64) - 1) + below_R  # of the square, rounded down
    return torch.where(mean_R > 0, (eighth_R + 1).div(2, rounding_mode="floor"), 0)


def _row_steps(values_RC: torch.Tensor, dial: int) -> torch.Tensor:
    """The e of each row, whose step is 2^(e/8): nearest to its root mean square over 2^(dial/8). A
    row whose values are all multiples of a step near that, rounded to float32, takes that step: so
    encoding twice changes no value.
    """
    middle_R = _mean_exponents(values_RC) - dial
    exponent_R, found_R = middle_R.clone(), torch.zeros_like(middle_R, dtype=torch.bool)
    for offset in sorted(range(-NEAR, NEAR + 1), key=abs):
        open_R = torch.nonzero(~found_R)[:, 0]
        # A few columns rule most rows out
        for part_RC in (values_RC[:, :8], values_RC):
            steps_R1 = step_sizes(middle_R[open_R] + offset)[:, None]
            codes_RC = (part_RC[open_R] / steps_R1).round()
            again_RC = (codes_RC * steps_R1).to(torch.float32).double()
            fits_R = (again_RC == part_RC[open_R]).all(dim=1)
            open_R = open_R[fits_R & (codes_RC.abs() <= LARGEST_CODE).all(dim=1)]
        exponent_R[open_R] += offset
        found_R[open_R] = True
    return exponent_R


def _words(bits: int) -> tuple[int, int, torch.dtype]:
    """(codes, bytes, integer type) of the shortest run of codes that fills whole bytes; bits as in
    pack_codes.
    """
    codes = 8 // gcd(8, bits) if bits else 5
    width = codes * bits // 8 or 1
    return codes, width, torch.int32 if width < 4 else torch.int64


def pack_codes(codes: torch.Tensor, bits: int) -> bytes:
    """Unsigned codes (n,) as one little-endian stream of bits (1 to 8 each), or five base-3 digits
    a byte when bits is 0.
    """
    if bits == 8:
        return codes.to(torch.uint8).numpy().tobytes()
    per_word, width, dtype = _words(bits)
    digits = torch.nn.functional.pad(codes.to(dtype), (0, -len(codes) % per_word))
    factors = [3**i if bits == 0 else 1 << (bits * i) for i in range(per_word)]
    words = (digits.reshape(-1, per_word) * torch.tensor(factors, dtype=dtype)).sum(1, dtype=dtype)
    packed = torch.stack([words >> (8 * i) & 255 for i in range(width)], dim=1).reshape(-1)
    used = -(-len(codes) * bits // 8) if bits else len(packed)
    return packed[:used].to(torch.uint8).numpy().tobytes()


def unpack_codes(data: bytes, bits: int, count: int, name: str) -> torch.Tensor:
    """Inverse of pack_codes: `count` codes; a ternary byte above 242 is an InputError."""
    per_word, width, dtype = _words(bits)
    packed = torch.from_numpy(np.frombuffer(data, np.uint8).copy()).to(dtype)
    if bits == 8:
        return packed
    if bits == 0 and packed.max() >= 3**5:
        raise InputError(
            f"{name}: expected ternary bytes up to 242, found {packed.max()}; the data is damaged"
        )
    words = torch.nn.functional.pad(packed, (0, -len(packed) % width)).reshape(-1, width)
    words = sum(words[:, i] << (8 * i) for i in range(width))
    codes = [
        words // 3**i % 3 if bits == 0 else words >> (bits * i) & ((1 << bits) - 1)
        for i in range(per_word)
    ]
    return torch.stack(codes, dim=1).reshape(-1)[:count]


class Floats(NamedTuple):
    """Code: numbers of an IEEE type, little-endian."""

    bits: int
    dtype: str
    largest: float  # larger values are refused

    def encode(self, units: torch.Tensor) -> bytes:
        return units.numpy().astype(self.dtype).tobytes()

    def decode(self, data: bytes, count: int, name: str) -> torch.Tensor:
        values = np.frombuffer(data, self.dtype)
        # NumPy warns where it casts a signalling NaN; infinity stands for every value that
        # from_bytes refuses.
        return torch.from_numpy(np.where(np.isfinite(values), values, np.inf).astype(np.float64))


class SmallFloats(NamedTuple):
    """Code: small floats of fp8.py, which saturate."""

    bits: int
    kind: str
    top: float = 0.0
    largest: float = float("inf")

    def encode(self, units: torch.Tensor) -> bytes:
        return pack_codes(fp8.encode(units, self.kind), self.bits)

    def decode(self, data: bytes, count: int, name: str) -> torch.Tensor:
        return fp8.decode(unpack_codes(data, self.bits, count, name), self.kind).double()


class Integers(NamedTuple):
    """Code: integers from -top to top, stored as integer + offset."""

    bits: int  # 0 puts five ternary codes into a byte
    top: int
    offset: int
    largest: float = float("inf")

    def encode(self, units: torch.Tensor) -> bytes:
        return pack_codes(units.round().clamp(-self.top, self.top) + self.offset, self.bits)

    def decode(self, data: bytes, count: int, name: str) -> torch.Tensor:
        return unpack_codes(data, self.bits, count, name).double() - self.offset


class Steps(NamedTuple):
    """Code: integers of any size that fits 16 bits, little-endian. The dial stands for top."""

    bits: int = 16
    largest: float = FLOAT32_MAX / 2  # rounded up it must stay a float32
    top: None = None

    def encode(self, units: torch.Tensor) -> bytes:
        return units.round().numpy().astype("<i2").tobytes()

    def decode(self, data: bytes, count: int, name: str) -> torch.Tensor:
        return torch.from_numpy(np.frombuffer(data, "<i2").astype(np.float64))


def _positive(scales: torch.Tensor, name: str) -> torch.Tensor:
    """The scales; one that is not positive and finite is an InputError."""
    if not (torch.isfinite(scales) & (scales > 0)).all():
        raise InputError(
            f"{name}: expected positive finite scales, found others; the data is damaged"
        )
    return scales


class Scale(NamedTuple):
    """What the values of a row, or of each group of `width` in a row, are divided by."""

    dtype: str  # as it is stored
    width: int | None  # None: the whole row
    fit: Callable[[torch.Tensor, float, str], torch.Tensor]  # (groups_RGW, top, name) -> stored_RG
    value: Callable[[torch.Tensor], torch.Tensor]  # stored_RG, as float64 or int64 -> float64

    def count_bytes(self, rows: int, columns: int) -> int:
        """Bytes of all scales of a tensor."""
        return np.dtype(self.dtype).itemsize * rows * -(-columns // (self.width or columns))

    def divide(self, values_RC: torch.Tensor, top: float, name: str) -> tuple[bytes, torch.Tensor]:
        """(stored scales, values over their scale (R * C,))."""
        rows, columns = values_RC.shape
        width = self.width or columns
        padded_RC = torch.nn.functional.pad(values_RC, (0, -columns % width))
        groups_RGW = padded_RC.reshape(rows, -1, width)
        stored_RG = self.fit(groups_RGW, top, name)
        units_RGW = groups_RGW / self.value(stored_RG)[:, :, None]
        stored = stored_RG.numpy().astype(self.dtype).tobytes()
        return stored, units_RGW.reshape(rows, -1)[:, :columns].reshape(-1)

    def read(self, stored: bytes, rows: int, columns: int, name: str) -> torch.Tensor:
        """scales_RC of stored scales; one that is not positive and finite is an InputError."""
        wide = np.frombuffer(stored, self.dtype).astype(np.float64).reshape(rows, -1)
        scales_RG = _positive(self.value(torch.from_numpy(wide)), name)
        return scales_RG.repeat_interleave(self.width or columns, dim=1)[:, :columns]


class StepScale:
    """What values are divided by: 2^((e + c)/8), where e belongs to the row and c to the column;
    int16 each, rows first.
    """

    def count_bytes(self, rows: int, columns: int) -> int:
        """Bytes of all exponents of a tensor."""
        return 2 * (rows + columns)

    def divide(
        self, values_RC: torch.Tensor, dial: int | StepExponents, name: str
    ) -> tuple[bytes, torch.Tensor]:
        """(stored exponents, values over their step (R * C,)); dial: as in to_bytes."""
        if isinstance(dial, StepExponents):
            exponent_R, exponent_C = (torch.as_tensor(part, dtype=torch.int64) for part in dial)
        else:
            exponent_R = _row_steps(values_RC, dial)
            exponent_C = torch.zeros(values_RC.shape[1], dtype=torch.int64)
        units_RC = values_RC / step_sizes(exponent_R[:, None] + exponent_C)
        largest_R = units_RC.abs().amax(dim=1).round()
        if not largest_R.max() <= LARGEST_CODE:
            raise InputError(
                f"{name}: expected values up to {LARGEST_CODE} steps, found {largest_R.max():.0f};"
                " use float32 or a smaller dial"
            )
        stored = torch.cat([exponent_R.masked_fill(largest_R == 0, 0), exponent_C])
        return stored.numpy().astype("<i2").tobytes(), units_RC.reshape(-1)

    def read(self, stored: bytes, rows: int, columns: int, name: str) -> torch.Tensor:
        """steps_RC of stored exponents; one that is not positive and finite is an InputError."""
        wide = torch.from_numpy(np.frombuffer(stored, "<i2").astype(np.int64))
        exponent_R, exponent_C = wide.tensor_split([rows])
        return _positive(step_sizes(exponent_R[:, None] + exponent_C), name)


class Format(NamedTuple):
    """A weight format: the scale of its values, and the code of what is left.

    A code has encode(units (n,)) -> bytes, nearest, ties to even; its inverse decode, float64; the
    bits of a value; and `top`, to which a covering scale brings the largest value of a group.
    """

    code: Floats | SmallFloats | Integers | Steps
    scale: Scale | StepScale | None = None


EXPONENT = Scale("i1", None, _row_exponents, _power_of_two)
COVERING_ROW = Scale("<f2", None, _covering_scales, torch.Tensor.double)
COVERING_GROUP = Scale("<f2", GROUP, _covering_scales, torch.Tensor.double)
TERNARY_GROUP = Scale("<f2", GROUP, _ternary_scales, torch.Tensor.double)
DESCRIPTIONS = {
    "float32": Format(Floats(32, "<f4", FLOAT32_MAX)),
    "float16": Format(Floats(16, "<f2", FLOAT16_MAX)),
    "e4m3": Format(SmallFloats(8, "e4m3")),
    "e4m3-row": Format(SmallFloats(8, "e4m3"), EXPONENT),
    "e5m2": Format(SmallFloats(8, "e5m2")),
    "int8-row": Format(Integers(8, 127, 128), COVERING_ROW),
    "int6-row": Format(Integers(6, 31, 32), COVERING_ROW),
    "int4-group": Format(Integers(4, 7, 8), COVERING_GROUP),
    "e2m1-group": Format(SmallFloats(4, "e2m1", 6.0), COVERING_GROUP),
    "ternary-group": Format(Integers(0, 1, 1), TERNARY_GROUP),
    "uniform": Format(Steps(), StepScale()),
}


def _look_up(format: str) -> Format:
    """The description of a format; an unknown name is an InputError."""
    if format not in DESCRIPTIONS:
        raise InputError(f"unknown weight format {format!r}: expected one of {', '.join(FORMATS)}")
    return DESCRIPTIONS[format]


def check_values(values: torch.Tensor, format: str, name: str) -> torch.Tensor:
    """The values as float64 on the CPU; NaN, infinity and what a float format cannot hold are an
    InputError that names the tensor.
    """
    values = values.detach().to("cpu", torch.float64)
    finite = torch.isfinite(values)
    if not finite.all():
        where = tuple(torch.nonzero(~finite)[0].tolist())
        raise InputError(
            f"{name}: expected finite numbers, found {values[where]} at index {where}; the weights"
            " cannot be stored"
        )
    limit = _look_up(format).code.largest
    if values.abs().max() > limit:
        raise InputError(
            f"{name}: expected magnitudes up to {limit} ({format}), found {values.abs().max()};"
            " choose a wider format"
        )
    return values


def to_bytes(
    values: torch.Tensor,
    format: str,
    name: str = "tensor",
    dial: int | StepExponents = Quantization.dial,
) -> bytes:
    """A tensor of any shape as encoded_bytes(shape, format) bytes, scales before codes. Bad values:
    see check_values. dial: of the format uniform: what its steps follow from, or they themselves.
    """
    code, scale = _look_up(format)
    if values.numel() == 0:
        return b""
    values_RC = check_values(values, format, name).reshape(rows_and_columns(values.shape))
    stored, units = b"", values_RC.reshape(-1)
    if scale:
        top = dial if code.top is None else code.top
        stored, units = scale.divide(values_RC, top, name)
    return stored + code.encode(units)


def from_bytes(
    data: bytes, shape: tuple[int, ...], format: str, name: str = "tensor"
) -> torch.Tensor:
    """Inverse of to_bytes up to rounding: a float32 tensor. A wrong length, a bad scale or a value
    that is not finite is an InputError.
    """
    code, scale = _look_up(format)
    rows, columns = rows_and_columns(shape)
    if len(data) != encoded_bytes(shape, format):
        raise InputError(
            f"{name}: expected {encoded_bytes(shape, format)} bytes of {format}, found {len(data)};"
            " the data is damaged"
        )
    if not data:
        return torch.zeros(shape, dtype=torch.float32)
    head = scale.count_bytes(rows, columns) if scale else 0
    scales_RC = scale.read(data[:head], rows, columns, name) if scale else 1.0
    values_RC = code.decode(data[head:], rows * columns, name).reshape(rows, columns) * scales_RC
    if not (values_RC.abs() <= FLOAT32_MAX).all():
        raise InputError(
            f"{name}: expected finite float32 values, found others; the data is damaged"
        )
    return values_RC.to(torch.float32).reshape(shape)
