"""Several seeds of one recipe: mean and standard deviation, and Welch's t-test of two such sets
(Welch 1947).
"""

import math
import statistics

from mpmath import betainc


def spread(values: list[float]) -> dict:
    """Return n, mean and standard deviation (n - 1 in the divisor; null for one value)."""
    return {
        "n": len(values),
        "mean": statistics.fmean(values),
        "std": statistics.stdev(values) if len(values) > 1 else None,
    }


def welch(one: list[float], other: list[float]) -> dict:
    """Return difference of the means, its standard error, t, degrees of freedom
    (Welch-Satterthwaite) and the two-sided p-value.

    The error and t and what follows are null where a set has one value or neither varies: nothing
    is known of the noise.
    """
    difference = statistics.fmean(one) - statistics.fmean(other)
    unknown = {
        "difference": difference,
        "stderr": None,
        "t": None,
        "degrees_of_freedom": None,
        "p": None,
    }
    if min(len(one), len(other)) < 2:
        return unknown
    a, b = (statistics.variance(values) / len(values) for values in (one, other))
    if a + b == 0:
        return unknown
    t = difference / math.sqrt(a + b)
    freedom = (a + b) ** 2 / (a**2 / (len(one) - 1) + b**2 / (len(other) - 1))
    p = float(
        betainc(freedom / 2, 0.5, 0, freedom / (freedom + t * t), regularized=True)
    )  # of |T| > |t| for Student's T
    return {
        "difference": difference,
        "stderr": math.sqrt(a + b),
        "t": t,
        "degrees_of_freedom": freedom,
        "p": p,
    }


def sets(scores: list[dict], first: int) -> dict:
    """Return the scores of one set of runs (the first `first`) and, if there are more, of the set
    it is held against, with the test.
    """
    own, other = scores[:first], scores[first:]
    bits = [[score["bpb"] for score in part] for part in (own, other)]
    result = {"scores": own} | spread(bits[0]) | {"against": None, "welch": None}
    if other:
        result |= {"against": {"scores": other} | spread(bits[1]), "welch": welch(*bits)}
    return result
