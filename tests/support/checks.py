"""The checks of validate as validate asks them."""

from collections.abc import Callable

from harness.validate import CHECKS


def registered(function: Callable) -> Callable:
    """Return a check's function; an error where it is not among the checks, once, or says nothing
    of itself.
    """
    [check] = [check for check in CHECKS if check.run is function]
    assert all((check.name, check.what, check.caught, check.fix))
    return check.run
