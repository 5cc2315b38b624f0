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
    (Welch-Satterthwaite) and the two-sided p-value: all null but the difference where a set has one
    value or neither varies, which says nothing of the noise.
    """
    difference = statistics.fmean(one) - statistics.fmean(other)
    result = dict.fromkeys(("difference", "stderr", "t", "degrees_of_freedom", "p"))
    result["difference"] = difference
    if min(len(one), len(other)) < 2:
        return result
    a, b = (statistics.variance(values) / len(values) for values in (one, other))
    if a + b == 0:
        return result
    t = difference / math.sqrt(a + b)
    freedom = (a + b) ** 2 / (a**2 / (len(one) - 1) + b**2 / (len(other) - 1))
    # The probability of |T| > |t| for Student's T.
    p = float(betainc(freedom / 2, 0.5, 0, freedom / (freedom + t * t), regularized=True))
    return result | {"stderr": math.sqrt(a + b), "t": t, "degrees_of_freedom": freedom, "p": p}


def sets(scores: list[dict], first: int) -> dict:
    """Return the first `first` scores with their mean and standard deviation and, if there are
    more, the same of those under "against", with the test of the two sets.
    """
    bits = [score["bpb"] for score in scores]
    result = {"scores": scores[:first]} | spread(bits[:first]) | {"against": None, "welch": None}
    if scores[first:]:
        result["against"] = {"scores": scores[first:]} | spread(bits[first:])
        result["welch"] = welch(bits[:first], bits[first:])
    return result
