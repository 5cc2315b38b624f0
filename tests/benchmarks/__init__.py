"""The pieces timed side by side: reference, fast and peers of other authors, on the same inputs,
checked before they are timed.

make bench times them; make test runs every body once. Groups share inputs; `implementation` names
who computes. What `maskgolf bench` measures too comes from harness/bench.
"""

from collections.abc import Callable

import pytest

from harness.bench.measure import compiler


def implementations(*names: str):
    """Return the parametrisation of a group: who computes."""
    return pytest.mark.parametrize("implementation", names)


def compiled(benchmark, function: Callable) -> Callable:
    """Return the function through torch.compile, as production runs it; as it is where nothing is
    timed, since compiling takes long.
    """
    return compiler(not benchmark.disabled)(function)
