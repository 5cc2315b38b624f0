"""Parity: bitwise. Weights as bytes: every operation on values is one correctly rounded float64
operation, in a stated order.
"""

from math import prod

import numpy as np
import torch

from fast import fp8
from reference.recipe import InputError, Quantization

INTEGERS = {
    "int8-row": (8, 127),
    "int6-row": (6, 31),
    "int4-group": (4, 7),
}  # bits of a code, largest integer
FLOATS = {
    "float32": ("<f4", float(np.finfo(np.float32).max)),
    "float16": ("<f2", 65504.0),
}  # little-endian type, largest value
FORMATS = (
    "float32",
    "float16",
    "e4m3",
    "e4m3-row",
    "e5m2",
    "int8-row",
    "int6-row",
    "int4-group",
    "e2m1-group",
    "ternary-group",
)
CONTROL = (
    "query_gain",
    "mix",
    "attn_scale",
    "mlp_scale",
    "skip",
)  # last name component of tensors that steer others
GROUP = 64  # neighbours along a row that share a scale
SMALLEST_SCALE = 2.0**-24  # smallest positive float16


def _look_up(format: str) -> str:
    """The format itself; an unknown name is an InputError."""
    if format not in FORMATS:
        raise InputError(f"unknown weight format {format!r}: expected one of {', '.join(FORMATS)}")
    return format


def rows_and_columns(shape: tuple[int, ...]) -> tuple[int, int]:
    """A tensor as rows along its last axis; a vector or a scalar is one row."""
    return (prod(shape[:-1]), shape[-1]) if shape else (1, 1)


def _scale_bytes(rows: int, columns: int, format: str) -> int:
    """Bytes before the codes: one int8 exponent a row, or one float16 scale a row or group."""
    if format == "e4m3-row":
        return rows
    if format.endswith("-row"):
        return 2 * rows
    return 2 * rows * -(-columns // GROUP) if format.endswith("-group") else 0


def encoded_bytes(shape: tuple[int, ...], format: str) -> int:
    """Exact size in bytes of a tensor of this shape in this format."""
    rows, columns = rows_and_columns(shape)
    count = rows * columns
    bits = {"float32": 32, "float16": 16, "int6-row": 6, "int4-group": 4, "e2m1-group": 4}.get(
        _look_up(format), 8
    )
    if count == 0:
        return 0
    codes = -(-count // 5) if format == "ternary-group" else -(-count * bits // 8)
    return _scale_bytes(rows, columns, format) + codes


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


def _row_exponents(values_RC: torch.Tensor) -> torch.Tensor:
    """Smallest k in -128..119 with max <= 464 * 2^k, from the bits: max = f 2^e with f in [0.5, 1),
    and 464 = 0.90625 * 2^9.
    """
    fraction_R, exponent_R = torch.frexp(values_RC.abs().amax(dim=1))
    smallest_R = exponent_R - 9 + (fraction_R > 0.90625).to(exponent_R.dtype)
    return torch.where(fraction_R == 0, -128, smallest_R).clamp(-128, 119)


def _covering_scales(groups_RGW: torch.Tensor, top: int, name: str) -> torch.Tensor:
    """Smallest positive float16 s with s * top >= max of the group, as float64: the nearest float16
    to max / top, or the next one up.
    """
    largest_RG = groups_RGW.abs().amax(dim=-1)
    if largest_RG.max() > 65504.0 * top:
        limit = f"{65504.0 * top} (a float16 scale)"
        raise InputError(
            f"{name}: expected values up to {limit}, found {largest_RG.max()}; use float32 or"
            " e4m3-row"
        )
    near_RG = (largest_RG / top).to(torch.float16)
    short_RG = near_RG.double() * top < largest_RG
    next_RG = (near_RG.view(torch.int16) + short_RG.to(torch.int16)).view(torch.float16)
    return next_RG.double().clamp(min=SMALLEST_SCALE)


def _ternary_scales(groups_RGW: torch.Tensor, name: str) -> torch.Tensor:
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
    if scale.max() > 65504.0:
        raise InputError(
            f"{name}: expected a group scale up to 65504 (float16), found {scale.max()}; use"
            " float32 or e4m3-row"
        )
    rounded = (
        scale.numpy().astype(np.float16).astype(np.float64)
    )  # torch goes through float32 and rounds twice
    return torch.from_numpy(rounded).clamp(min=SMALLEST_SCALE)


def pack_codes(codes: torch.Tensor, bits: int) -> bytes:
    """Unsigned codes (n,) as one little-endian stream of bits (8, 6 or 4 each), or five base-3
    digits a byte when bits is 0.
    """
    if bits == 8:
        return codes.to(torch.uint8).numpy().tobytes()
    together = {6: 4, 4: 2, 0: 5}[bits]
    words = torch.nn.functional.pad(codes.to(torch.int32), (0, -len(codes) % together)).reshape(
        -1, together
    )
    factors = [3**i if bits == 0 else 1 << (bits * i) for i in range(together)]
    words = (words * torch.tensor(factors, dtype=torch.int32)).sum(dim=1, dtype=torch.int32)
    if bits == 6:
        words = torch.stack([words & 255, (words >> 8) & 255, words >> 16], dim=1).reshape(-1)
    used = -(-len(codes) // 5) if bits == 0 else -(-len(codes) * bits // 8)
    return words[:used].to(torch.uint8).numpy().tobytes()


def unpack_codes(data: bytes, bits: int, count: int, name: str) -> torch.Tensor:
    """Inverse of pack_codes: `count` codes as int32; a ternary byte above 242 is an InputError."""
    packed = torch.from_numpy(np.frombuffer(data, np.uint8).astype(np.int32))
    if bits == 8:
        return packed
    if bits == 0:
        if packed.max() >= 3**5:
            raise InputError(
                f"{name}: expected ternary bytes up to 242, found {packed.max()}; the data is"
                " damaged"
            )
        return torch.stack([packed // 3**i % 3 for i in range(5)], dim=1).reshape(-1)[:count]
    if bits == 6:
        bytes_N3 = torch.nn.functional.pad(packed, (0, -len(packed) % 3)).reshape(-1, 3)
        packed = bytes_N3[:, 0] | (bytes_N3[:, 1] << 8) | (bytes_N3[:, 2] << 16)
    together = {6: 4, 4: 2}[bits]
    return torch.stack(
        [(packed >> (bits * i)) & ((1 << bits) - 1) for i in range(together)], dim=1
    ).reshape(-1)[:count]


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
    limit = FLOATS[format][1] if format in FLOATS else float("inf")
    if values.abs().max() > limit:
        raise InputError(
            f"{name}: expected magnitudes up to {limit} ({format}), found {values.abs().max()};"
            " choose a wider format"
        )
    return values


def to_bytes(values: torch.Tensor, format: str, name: str = "tensor") -> bytes:
    """A tensor of any shape as encoded_bytes(shape, format) bytes, scales before codes. Bad values:
    see check_values.
    """
    _look_up(format)
    rows, columns = rows_and_columns(values.shape)
    if values.numel() == 0:
        return b""
    values_RC = check_values(values, format, name).reshape(rows, columns)
    if format in FLOATS:
        return values_RC.numpy().astype(FLOATS[format][0]).tobytes()
    if format in ("e4m3", "e5m2"):
        return fp8.encode(values_RC, format).numpy().tobytes()
    if format == "e4m3-row":
        exponents_R = _row_exponents(values_RC)
        units_RC = values_RC * _power_of_two(-exponents_R)[:, None]
        return (
            exponents_R.to(torch.int8).numpy().tobytes()
            + fp8.encode(units_RC, "e4m3").numpy().tobytes()
        )
    width = GROUP if format.endswith("-group") else columns
    groups_RGW = torch.nn.functional.pad(values_RC, (0, -columns % width)).reshape(rows, -1, width)
    if format == "ternary-group":
        scales_RG = _ternary_scales(groups_RGW, name)
    else:
        scales_RG = _covering_scales(
            groups_RGW, 6 if format == "e2m1-group" else INTEGERS[format][1], name
        )
    head = scales_RG.numpy().astype("<f2").tobytes()
    units = (groups_RGW / scales_RG[:, :, None]).reshape(rows, -1)[:, :columns].reshape(-1)
    if format == "e2m1-group":
        return head + pack_codes(fp8.encode(units, "e2m1"), 4)
    bits, top = INTEGERS.get(format, (0, 1))
    offset = 1 << (bits - 1) if bits else 1
    return head + pack_codes(units.round().clamp(-top, top) + offset, bits)


def _unscaled(codes: bytes, count: int, format: str, name: str) -> torch.Tensor:
    """The codes of a tensor, without their scales, as float64 values (count,)."""
    if format in FLOATS:
        values = np.frombuffer(codes, FLOATS[format][0])
        # NumPy warns where it casts a signalling NaN; infinity stands for every value that
        # from_bytes refuses.
        return torch.from_numpy(np.where(np.isfinite(values), values, np.inf).astype(np.float64))
    if format in ("e4m3", "e4m3-row", "e5m2"):
        return fp8.decode(unpack_codes(codes, 8, count, name), format[:4]).double()
    if format == "e2m1-group":
        return fp8.decode(unpack_codes(codes, 4, count, name), "e2m1").double()
    bits = INTEGERS.get(format, (0, 1))[0]
    return unpack_codes(codes, bits, count, name).double() - (1 << (bits - 1) if bits else 1)


def from_bytes(
    data: bytes, shape: tuple[int, ...], format: str, name: str = "tensor"
) -> torch.Tensor:
    """Inverse of to_bytes up to rounding: a float32 tensor. A wrong length, a bad scale or a value
    that is not finite is an InputError.
    """
    rows, columns = rows_and_columns(shape)
    if len(data) != encoded_bytes(shape, format):
        raise InputError(
            f"{name}: expected {encoded_bytes(shape, format)} bytes of {format}, found {len(data)};"
            " the data is damaged"
        )
    if not data:
        return torch.zeros(shape, dtype=torch.float32)
    head = _scale_bytes(rows, columns, format)
    scales_RG = torch.ones(rows, 1, dtype=torch.float64)
    if format == "e4m3-row":
        scales_RG = _power_of_two(
            torch.from_numpy(np.frombuffer(data[:head], np.int8).astype(np.int64))
        )[:, None]
    elif head:
        scales_RG = torch.from_numpy(np.frombuffer(data[:head], "<f2").astype(np.float64)).reshape(
            rows, -1
        )
        if not (torch.isfinite(scales_RG) & (scales_RG > 0)).all():
            raise InputError(
                f"{name}: expected positive finite scales, found others; the data is damaged"
            )
    scales_RC = scales_RG.repeat_interleave(GROUP if format.endswith("-group") else columns, dim=1)[
        :, :columns
    ]
    values_RC = (
        _unscaled(data[head:], rows * columns, format, name).reshape(rows, columns) * scales_RC
    )
    if not (values_RC.abs() <= FLOATS["float32"][1]).all():
        raise InputError(
            f"{name}: expected finite float32 values, found others; the data is damaged"
        )
    return values_RC.to(torch.float32).reshape(shape)
