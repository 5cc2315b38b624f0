"""Parity: bitwise. Small floats by integer arithmetic on the bits of the input, no library cast
decides a rounding.
"""

from typing import NamedTuple

import torch

from reference.recipe import InputError


class FloatLayout(NamedTuple):
    """Bit fields of a small float: 1 sign bit, then exponent, then mantissa."""

    exponent: int  # bits
    mantissa: int  # bits
    bias: int
    largest: float  # finite


KINDS = {
    "e4m3": FloatLayout(4, 3, 7, 448.0),
    "e5m2": FloatLayout(5, 2, 15, 57344.0),
    "e2m1": FloatLayout(2, 1, 1, 6.0),
}


def _layout(kind: str) -> FloatLayout:
    """Bit fields of a kind; an unknown kind is an InputError."""
    if kind not in KINDS:
        raise InputError(f"unknown small float {kind!r}: expected one of {', '.join(KINDS)}")
    return KINDS[kind]


def decode(codes: torch.Tensor, kind: str = "e4m3", check: bool = True) -> torch.Tensor:
    """Codes (any shape, uint8) to float32 values; a code beyond the kind's bits is an InputError
    (check=False: those bits are ignored).
    """
    bits = _layout(kind)
    width = bits.exponent + bits.mantissa
    if check and codes.numel() and int(codes.max()) >= 2 << width:
        found = int(codes.max())
        raise InputError(
            f"{kind} codes: expected 0 to {(2 << width) - 1}, found {found}; the data is damaged or"
            " of another kind"
        )
    codes = codes.to(torch.int32)
    exponent = (codes >> bits.mantissa) & ((1 << bits.exponent) - 1)
    mantissa = codes & ((1 << bits.mantissa) - 1)
    normal = (((exponent + (127 - bits.bias)) << 23) | (mantissa << (23 - bits.mantissa))).view(
        torch.float32
    )
    subnormal = mantissa.to(torch.float32) * 2.0 ** (1 - bits.bias - bits.mantissa)
    values = torch.where(exponent == 0, subnormal, normal)
    if kind == "e4m3":
        values = torch.where((codes & 0x7F) == 0x7F, float("nan"), values)
    if kind == "e5m2":
        # Not the default dtype
        special = torch.where(mantissa == 0, float("inf"), float("nan")).to(torch.float32)
        values = torch.where(exponent == 31, special, values)
    return torch.where(((codes >> width) & 1) == 1, -values, values)


def encode(values: torch.Tensor, kind: str = "e4m3", check: bool = True) -> torch.Tensor:
    """Values (float16, bfloat16, float32 or float64) to uint8 codes: nearest, ties to even,
    saturating; NaN is an InputError.

    check=False drops the look for NaN, which waits for the device and breaks a compiled graph; the
    code of a NaN is then unspecified.
    """
    bits = _layout(kind)
    if check and torch.isnan(values).any():
        raise InputError(
            f"{kind} encoding: expected numbers, found NaN; look for the step where the values"
            " stopped being finite"
        )
    if values.dtype == torch.float64:
        integer, fraction, bias = torch.int64, 52, 1023
    else:
        # Exact for the 16-bit types
        values, integer, fraction, bias = (values.to(torch.float32), torch.int32, 23, 127)
    sign = (values.view(integer) < 0).to(torch.uint8)
    magnitude = values.abs().clamp(max=bits.largest)
    # Below the smallest normal the codes count subnormal steps, and the first normal continues the
    # count.
    smallest = 2.0 ** (1 - bits.bias)
    subnormal = torch.round(
        magnitude.clamp(max=smallest) * 2.0 ** (bits.bias + bits.mantissa - 1)
    ).to(integer)
    # Above it the top bits of the input, rounded half to even, are the code up to the difference of
    # the biases; a carry moves the exponent.
    dropped = fraction - bits.mantissa
    pattern = magnitude.view(integer)
    rounded = (pattern + ((1 << (dropped - 1)) - 1) + ((pattern >> dropped) & 1)) >> dropped
    normal = rounded - ((bias - bits.bias) << bits.mantissa)
    codes = torch.where(magnitude < smallest, subnormal, normal).to(torch.uint8)
    return codes | (sign << (bits.exponent + bits.mantissa))
