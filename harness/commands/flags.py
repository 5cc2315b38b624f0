"""What the flags of several commands share."""

from typing import Annotated

import tyro

from harness import run_directory
from reference.recipe import InputError, Recipe


def _resume(words: list[str]) -> run_directory.Resume:
    """Read --resume: true, false, auto, or nothing for true."""
    word = (words or ["true"])[0].lower()
    if word not in ("true", "false", "auto"):
        raise ValueError(f"expected true, false or auto, found {word}")
    return word if word == "auto" else word == "true"


Fields = tyro.conf.FlagConversionOff[Recipe]  # a boolean field takes its value: --model.causal true
Flat = tyro.conf.arg(name="")
Resume = Annotated[
    run_directory.Resume,
    tyro.constructors.PrimitiveConstructorSpec(
        nargs=(0, 1),
        metavar="[{true,false,auto}]",
        instance_from_str=_resume,
        is_instance=lambda value: value in (True, False, "auto"),
        str_from_instance=lambda value: [str(value).lower()],
    ),
]
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
