"""How two halves are compared (SPEC section 12)."""

import numpy as np
import torch
from torch.utils._python_dispatch import TorchDispatchMode

# float64 against float64, relative to the largest entry: far above rounding, far below a wrong
# coefficient
ALGORITHM = 1e-9


def unit_roundoff(dtype: torch.dtype) -> float:
    """Return the largest relative error of rounding to nearest: 2**-53, 2**-24, 2**-8."""
    return torch.finfo(dtype).eps / 2


def array(value) -> np.ndarray:
    """Return a tensor or array as a NumPy array, floats as float64."""
    if isinstance(value, torch.Tensor):
        value = value.detach().cpu()
        value = (value.double() if value.is_floating_point() else value).numpy()
    return np.asarray(value)


def relative_error(found, expected, floor: float = 0.0) -> float:
    """Return the largest deviation over the largest expected entry (at least floor); 0 for empty
    arrays, infinite where not finite.
    """
    found, expected = array(found), array(expected)
    assert found.shape == expected.shape, f"shape {found.shape}, expected {expected.shape}"
    if not found.size:
        return 0.0
    if not np.isfinite(found).all():
        return np.inf
    deviation, scale = np.abs(found - expected).max(), max(np.abs(expected).max(), floor)
    return float(deviation / scale) if scale else float(deviation)


def assert_same_algorithm(found, expected, label: str = "", floor: float = 0.0) -> None:
    """The fast result is float64 and agrees with the reference to ALGORITHM."""
    assert found.dtype == torch.float64, (
        f"{label}: computed in {found.dtype}, so this is no check of the algorithm"
    )
    error = relative_error(found, expected, floor)
    assert error <= ALGORITHM, f"{label}: relative error {error:.3g} > {ALGORITHM}"


def assert_same_tensors(found: dict, expected: dict) -> None:
    """Every tensor of a dict agrees in float64, in the same order of names.

    Where terms as large as the whole cancel (the gradient of q when all keys are alike), rounding
    of the whole is left: 1e-15 of it passes.
    """
    assert list(found) == list(expected)
    floor = 1e-6 * max(
        (np.abs(array(value)).max(initial=0.0) for value in expected.values()), default=0.0
    )
    for name in expected:
        assert_same_algorithm(found[name], expected[name], name, floor)


class OnlyStableSorts(TorchDispatchMode):
    """Within this context a sort that is free to reorder ties is an error; `seen` counts the
    others.
    """

    seen = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        """Let every operation through but an unstable sort."""
        if "sort" in func.name():
            assert (kwargs or {}).get("stable") or True in args[1:2], (
                f"{func.name()} without stable=True"
            )
            self.seen += 1
        return func(*args, **(kwargs or {}))


def rms(value) -> float:
    """Return the root mean square of all entries."""
    return float(np.sqrt(np.mean(array(value) ** 2)))
