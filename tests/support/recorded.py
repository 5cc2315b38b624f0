"""Functions that write down what they are called with, by the names of their parameters."""

import functools
import inspect
import pkgutil
from collections.abc import Callable


def record(monkeypatch, where: str, result=None) -> list[dict]:
    """Put in the place of the function at a dotted path one that returns `result`, or what a
    function `result` of the same arguments returns; return the list of what it will be given.
    """
    function, calls = pkgutil.resolve_name(where), []

    @functools.wraps(function)
    def recorder(*given, **named):
        bound = inspect.signature(function).bind(*given, **named)
        bound.apply_defaults()
        calls.append(dict(bound.arguments))
        return result(*given, **named) if isinstance(result, Callable) else result

    monkeypatch.setattr(where, recorder)
    return calls
