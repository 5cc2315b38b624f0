"""Which device computes: one that is supported, and that this machine has."""

from reference.recipe import InputError


def check_name(name: str) -> None:
    """Raise InputError unless it is a kind of device that is supported, there or not; loads no
    torch.
    """
    kind = name.partition(":")[0]
    if kind not in ("cpu", "cuda"):
        raise InputError(
            f"--device {name}: expected cpu or cuda, found {kind or 'nothing'}; choose one of these"
        )


def check_device(name: str) -> str:
    """Return the device's name; InputError where this machine does not have it."""
    check_name(name)
    import torch

    try:
        torch.empty(0, device=name)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise InputError(
            f"--device {name}: expected a device of this machine, found none ({reason}); use"
            " --device cpu"
        ) from error
    return name
