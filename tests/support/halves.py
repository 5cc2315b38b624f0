"""Tests that run once for each half: its modules, its form of a small model, and how close two
float64 sums of the same terms come.
"""

import importlib
from types import ModuleType

import pytest

EXACT = {"rtol": 1e-12, "atol": 1e-12}  # sums of at most a few hundred float64 terms of order 1
halves = pytest.mark.parametrize("half", ["reference", "fast"])


def of(half: str, name: str) -> ModuleType:
    """The module of one half."""
    return importlib.import_module(f"{half}.{name}")


def log_probs(model, half: str):
    """The callable of one half."""
    return model.numpy if half == "reference" else model.torch
