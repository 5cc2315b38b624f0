"""How two halves are compared (SPEC section 12): where a check runs, an error and its limit."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from itertools import zip_longest
from typing import NamedTuple

import numpy as np
import torch

# float64 against float64, relative to the largest entry: far above rounding, far below a wrong
# coefficient
ALGORITHM = 1e-9
ENOUGH = 256  # entries from which on a root mean square of rounding errors says something
# Of a plain run's error, what a result of its dtype has at least: it has half of it or more, and
# one in the next wider dtype, from bfloat16 or float16 to float32, has 2**-13 of it or less.
LEAST = 2**-5


class Difference(NamedTuple):
    """One comparison: it holds while error <= limit."""

    error: float
    limit: float

    @property
    def ratio(self) -> float:
        """Return error / limit; infinite for any error where none is allowed."""
        if math.isnan(self.error):
            return math.inf
        return self.error / self.limit if self.limit else (math.inf if self.error else 0.0)


@dataclass(frozen=True)
class Setting:
    """Where the fast half runs: float64 checks the algorithm, any other dtype the numbers."""

    device: str = "cpu"
    dtype: torch.dtype = torch.float64
    compiled: bool = False

    @property
    def algorithm(self) -> bool:
        """Return whether this setting compares algorithms."""
        return self.dtype == torch.float64

    @property
    def master(self) -> torch.dtype:
        """Return the dtype of weights, optimizer states and whatever is "float32 or better"."""
        return torch.promote_types(self.dtype, torch.float32)

    @property
    def last(self) -> float:
        """Return the relative error of a last rounding to the dtype, 0 where it is float32."""
        return 0.0 if self.dtype == torch.float32 else unit_roundoff(self.dtype)

    @property
    def dtype_name(self) -> str:
        """Return the dtype as a recipe spells it."""
        return str(self.dtype).removeprefix("torch.")

    def tensor(self, values, dtype: torch.dtype | None = None) -> torch.Tensor:
        """Return an array on the device; floats in dtype (default: that of the masters), integers
        and booleans as they are.
        """
        # A copy: the training step works in place.
        tensor = torch.tensor(np.asarray(values), device=self.device)
        return tensor.to(dtype or self.master) if tensor.is_floating_point() else tensor

    def cast(self, values) -> torch.Tensor:
        """Return an array on the device, floats in the compute dtype."""
        return self.tensor(values, self.dtype)

    def tensors(self, values: dict, dtype: torch.dtype | None = None) -> dict[str, torch.Tensor]:
        """Return a dict of arrays as tensors."""
        return {name: self.tensor(value, dtype) for name, value in values.items()}

    def leaves(self, values: dict) -> dict[str, torch.Tensor]:
        """Return a dict of arrays as weights that want gradients."""
        return {name: leaf.requires_grad_() for name, leaf in self.tensors(values).items()}

    def run(self, function: Callable, *arguments):
        """Call a function, compiled as one graph where the setting says so."""
        if self.compiled:
            function = torch.compile(function, dynamic=False, fullgraph=True)
        return function(*arguments)


Compare = Callable[[Setting], list[Difference]]


def unit_roundoff(dtype: torch.dtype) -> float:
    """Return the largest relative error of rounding to nearest: 2**-53, 2**-24, 2**-8."""
    return torch.finfo(dtype).eps / 2


def representable(values: np.ndarray) -> np.ndarray:
    """Return float64 values rounded to bfloat16, so that float32 and float64 hold them too: all
    levels start from the same input.
    """
    return torch.from_numpy(np.asarray(values, np.float64)).to(torch.bfloat16).double().numpy()


def held(values: np.ndarray, dtype: torch.dtype) -> np.ndarray:
    """Return which float64 values a dtype holds exactly (float16 has fewer small ones than
    bfloat16).
    """
    return torch.from_numpy(np.asarray(values, np.float64)).to(dtype).double().numpy() == values


def array(value) -> np.ndarray:
    """Return a tensor or array as a NumPy array, floats as float64."""
    if isinstance(value, torch.Tensor):
        value = value.detach().cpu()
        value = (value.double() if value.is_floating_point() else value).numpy()
    return np.asarray(value)


def same(actual, expected) -> Difference:
    """Return how many entries differ; none may. nan equals nan; bytes and text compare by position,
    their lengths too.
    """
    if isinstance(expected, bytes | str):
        wrong = sum(a != b for a, b in zip_longest(actual, expected))
        return Difference(float(wrong), 0.0)
    actual, expected = array(actual), np.asarray(expected)
    if actual.shape != expected.shape:
        return Difference(math.inf, 0.0)
    equal = (actual == expected) | ((actual != actual) & (expected != expected))
    return Difference(float(np.size(equal) - np.count_nonzero(equal)), 0.0)


def relative(actual, expected, limit: float = ALGORITHM, floor: float = 0.0) -> Difference:
    """Return the largest deviation over the largest expected entry (at least floor)."""
    actual, expected = array(actual), np.asarray(expected)
    if actual.shape != expected.shape or not np.isfinite(actual).all():
        return Difference(math.inf, limit)
    deviation = np.abs(actual - expected).max(initial=0.0)
    scale = max(np.abs(expected).max(initial=0.0), floor)
    return Difference(float(deviation / scale) if scale else float(deviation), limit)


def within(
    setting: Setting,
    actual: torch.Tensor,
    expected: np.ndarray,
    bound: np.ndarray,
    dtype: torch.dtype | None = None,
) -> Difference:
    """Float64: the same algorithm. Otherwise every entry deviates by at most its bound; dtype is
    what the result must have.
    """
    wanted = torch.float64 if setting.algorithm else dtype or setting.dtype
    if actual.dtype != wanted:
        return Difference(math.inf, ALGORITHM)
    if setting.algorithm:
        return relative(actual, expected)
    actual, expected = array(actual), np.asarray(expected)
    if actual.shape != expected.shape or not np.isfinite(actual).all():
        return Difference(math.inf, 0.0)
    if not actual.size:
        return Difference(0.0, 0.0)
    deviation, bound = np.abs(actual - expected), np.broadcast_to(bound, expected.shape)
    worst = np.argmax(np.where(deviation > 0, deviation / np.maximum(bound, 1e-300), 0.0))
    scale = np.abs(expected).max() or 1.0
    return Difference(*(float(values.flat[worst] / scale) for values in (deviation, bound)))


def rms(value) -> float:
    """Return the root mean square of all entries."""
    return float(np.sqrt(np.mean(np.square(array(value)))))


def twice(
    setting: Setting,
    actual,
    expected: np.ndarray,
    plain: Callable,
    dtype: torch.dtype | None = None,
) -> list[Difference]:
    """Float64: the same algorithm. Otherwise the rms error is at most twice that of plain(), a run
    in the same dtype in another order, and LEAST of it or more: less is another dtype.

    Plain errors below one unit roundoff of the result count as one, above. Results of fewer than
    ENOUGH entries are left to the float64 check.
    """
    wanted = torch.float64 if setting.algorithm else dtype or setting.dtype
    if actual.dtype != wanted:
        return [Difference(math.inf, ALGORITHM)]
    if setting.algorithm:
        return [relative(actual, expected)]
    if expected.size < ENOUGH:
        return []
    scale = rms(expected)
    rough = rms(array(plain()) - expected) / scale
    limit = 2 * max(rough, unit_roundoff(wanted))
    error = rms(array(actual) - expected) / scale if actual.shape == expected.shape else math.inf
    both = Difference(error, limit), Difference(LEAST * rough, error)
    return [max(both, key=lambda difference: difference.ratio)]


def against_plain(
    exact: np.ndarray, run: Callable, plainly: Callable, masters: bool = False
) -> Compare:
    """Return the comparison of run(setting) with what is exact, held to the rms error of
    plainly(setting); masters: the result is float32 or better.
    """
    return lambda at: twice(
        at, run(at), exact, lambda: plainly(at), at.master if masters else at.dtype
    )


def same_tensors(actual: dict, expected: dict) -> list[Difference]:
    """Compare dicts of float64 tensors name by name.

    Where terms as large as the whole cancel (the gradient of q when all keys are alike), rounding
    of the whole is left: 1e-15 of it passes.
    """
    if list(actual) != list(expected) or any(
        value.dtype != torch.float64 for value in actual.values()
    ):
        return [Difference(math.inf, ALGORITHM)]
    floor = 1e-6 * max((np.abs(value).max(initial=0.0) for value in expected.values()), default=0.0)
    return [relative(actual[name], expected[name], floor=floor) for name in expected]


def joined(values: dict) -> np.ndarray:
    """Return all entries of a dict of tensors or arrays as one vector."""
    return np.concatenate([array(value).ravel() for value in values.values()])
