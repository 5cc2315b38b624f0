"""The pieces timed side by side: reference, fast and peers of other authors, on the same inputs,
checked before they are timed.

make bench times them; make test runs every body once. Groups share inputs; `implementation` names
who computes.
"""

from collections.abc import Callable

import torch


def implementations(*names: str):
    """Return the parametrisation of a group: who computes."""
    import pytest

    return pytest.mark.parametrize("implementation", names)


def compiled(benchmark, function: Callable) -> Callable:
    """Return the function through torch.compile, as production runs it; as it is where nothing is
    timed, since compiling takes long.
    """
    return (
        function if benchmark.disabled else torch.compile(function, dynamic=False, fullgraph=True)
    )
