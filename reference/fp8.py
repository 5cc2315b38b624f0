"""Small floats as tables: every code is decoded from its bits, and encoding picks the nearest
entry.
"""

from typing import NamedTuple

import numpy as np

from reference.recipe import InputError


class FloatLayout(NamedTuple):
    """Bit fields of a small float: 1 sign bit, then exponent, then mantissa."""

    exponent: int  # bits
    mantissa: int  # bits
    bias: int
    has_inf: bool  # an all-ones exponent means infinity (mantissa 0) or NaN
    has_nan: bool  # without infinities, only the all-ones code is NaN


KINDS = {
    "e4m3": FloatLayout(4, 3, 7, has_inf=False, has_nan=True),
    "e5m2": FloatLayout(5, 2, 15, has_inf=True, has_nan=True),
    "e2m1": FloatLayout(2, 1, 1, has_inf=False, has_nan=False),
}


def _layout(kind: str) -> FloatLayout:
    """Bit fields of a kind; an unknown kind is an InputError."""
    if kind not in KINDS:
        raise InputError(f"unknown small float {kind!r}: expected one of {', '.join(KINDS)}")
    return KINDS[kind]


def _decode_one(code: int, kind: str) -> float:
    """Value of one code, from its bits: (-1)^s 2^(e - bias) 1.m, or (-1)^s 2^(1 - bias) 0.m when e
    = 0 (OCP OFP8 1.0, table 1).
    """
    bits = _layout(kind)
    top = (1 << bits.exponent) - 1
    sign = -1.0 if code >> (bits.exponent + bits.mantissa) else 1.0
    exponent = (code >> bits.mantissa) & top
    mantissa = code & ((1 << bits.mantissa) - 1)
    if exponent == top and bits.has_inf:
        return sign * np.inf if mantissa == 0 else np.nan
    if exponent == top and bits.has_nan and mantissa == (1 << bits.mantissa) - 1:
        return np.nan
    fraction = mantissa / (1 << bits.mantissa)
    if exponent == 0:
        return sign * 2.0 ** (1 - bits.bias) * fraction
    return sign * 2.0 ** (exponent - bits.bias) * (1 + fraction)


def decode(codes: np.ndarray, kind: str = "e4m3") -> np.ndarray:
    """Codes (any shape, uint8) to float64 values; a code beyond the kind's bits (e2m1 has 4) is an
    InputError.
    """
    bits = _layout(kind)
    codes = np.asarray(codes)
    count = 2 << (bits.exponent + bits.mantissa)
    if codes.size and (codes.min() < 0 or codes.max() >= count):
        found = f"{codes.min()} to {codes.max()}"
        raise InputError(
            f"{kind} codes: expected 0 to {count - 1}, found {found}; the data is damaged or of"
            " another kind"
        )
    table = np.array([_decode_one(code, kind) for code in range(count)])
    return table[codes.astype(np.int64)]


def encode(values: np.ndarray, kind: str = "e4m3") -> np.ndarray:
    """Values (any shape) to uint8 codes: nearest entry of the table of finite codes, ties to the
    even code, saturating.

    Beyond the midpoint of two neighbours the upper one is nearer; infinities saturate; the sign of
    zero is kept; NaN is an InputError.
    """
    bits = _layout(kind)
    values = np.asarray(values, np.float64)
    if np.isnan(values).any():
        raise InputError(
            f"{kind} encoding: expected numbers, found NaN; look for the step where the values"
            " stopped being finite"
        )
    positive = np.array(
        [_decode_one(code, kind) for code in range(1 << (bits.exponent + bits.mantissa))]
    )
    positive = positive[np.isfinite(positive)]
    midpoints = (positive[:-1] + positive[1:]) / 2
    below = np.searchsorted(midpoints, np.abs(values), side="left")
    # Differs from below at a tie only
    above = np.searchsorted(midpoints, np.abs(values), side="right")
    nearest = np.where(below % 2 == 0, below, above)
    return (
        nearest + (np.signbit(values).astype(np.int64) << (bits.exponent + bits.mantissa))
    ).astype(np.uint8)
