"""What the flags of several commands share."""

from typing import Annotated

import tyro

from reference.recipe import InputError, Recipe

Fields = tyro.conf.FlagConversionOff[Recipe]  # a boolean field takes its value: --model.causal true
Flat = tyro.conf.arg(name="")
Json = Annotated[str | None, tyro.conf.arg(metavar="PATH")]


def check_device(name: str) -> str:
    """Return the device's name; InputError where this machine does not have it."""
    import torch

    if name.partition(":")[0] not in ("cpu", "cuda"):
        raise InputError(
            f"--device {name}: expected cpu or cuda, found another; choose one of these"
        )
    try:
        torch.empty(0, device=name)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise InputError(
            f"--device {name}: expected a device of this machine, found none ({reason}); use"
            " --device cpu"
        ) from error
    return name
