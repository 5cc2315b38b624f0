"""Numbers as people print them: rounded or cut, with thousands separated."""

import re
from decimal import Decimal
from statistics import fmean as mean
from statistics import pstdev, stdev

FEWEST, MOST = 4, 8  # digits after the point that comparisons of scores rest on
PRINTED = re.compile(
    r"(?<![\w.,])[-+]?\d{1,3}(?:,\d{3})+(?![\d,])|(?<![\w.])[-+]?\d+\.\d+|(?<![\w.,])\d++(?![\w.,]*\d)"
)


def digits(value: float) -> int:
    """Return how many digits after the point the shortest form of a number has."""
    return len(f"{Decimal(repr(value)):f}".partition(".")[2])


def tolerance(*values: float) -> float:
    """Return one unit in the last digit that all of these have, since people round as well as cut;
    zeros at the end may be missing.
    """
    return 1.01 * 10.0 ** -min(max(min(digits(value) for value in values), FEWEST), MOST)


def agree(a: float, b: float) -> bool:
    """Return whether two printed scores can be the same number."""
    return abs(a - b) <= tolerance(a, b)


def agree_mean(stated: float, values: list[float]) -> bool:
    """Return whether a printed number can be the mean of printed numbers."""
    half_a_unit = 0.5 * 10.0 ** -max(min(map(digits, values)), FEWEST)
    return abs(stated - mean(values)) <= tolerance(stated) + half_a_unit


def numbers_in(text: str) -> list[float]:
    """Return the numbers in a text, thousands separated or not."""
    return [float(printed.replace(",", "")) for printed in PRINTED.findall(text)]


def deviations(values: list[float]) -> tuple[float, float]:
    """Return the standard deviation with n - 1 (0 of one value) and with n in the denominator."""
    return stdev(values) if len(values) > 1 else 0.0, pstdev(values)
