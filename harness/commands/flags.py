"""What the flags of several commands share."""

from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Annotated

import tyro

from harness import devices, paths
from harness.records import run_directory
from reference.recipe import Recipe


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


def given(command, *aside: str) -> dict[str, str]:
    """Return {field: flag and value} of what is not as by default in a command and in the parts it
    is made of. aside: fields to leave out.
    """
    found = {}
    for known in fields(command):
        value = getattr(command, known.name)
        if is_dataclass(value):
            found |= given(value, *aside)
        elif known.name not in aside and value != known.default:
            words = value if isinstance(value, tuple) else (value,) * (value is not True)
            flag = f"--{known.name.strip('_').replace('_', '-')}"
            found[known.name] = " ".join(map(str, (flag, *words)))
    return found


def check(command) -> None:
    """Raise InputError for what is wrong with the flags that several commands have, whichever this
    one has; loads no torch.
    """
    if hasattr(command, "check"):
        command.check()  # first what does not go together, then the paths
    if getattr(command, "json", None) not in (None, "-"):
        paths.check_output("--json", Path(command.json))
    if getattr(command, "partial", None):
        paths.check_output("--partial", command.partial)
    if getattr(command, "plot", None):
        from harness.display.figures import check_image

        check_image(command.plot)
    if getattr(command, "device", None):
        devices.check_name(command.device)
    if hasattr(command, "source"):
        check_source(command.source)
    elif getattr(command, "tokenizer", None):
        check_tokenizer(command.tokenizer)


def check_source(source) -> None:
    """Raise InputError for a path of a Source that is wrong."""
    from fast.shards import find_layout
    from harness.corpus.documents import TEXT

    source.check()
    for path in source.text:
        paths.check_readable(path, *TEXT)
    if source.data:
        check_tokenizer(find_layout(source.data, source.tokenizer).tokenizer)
    elif source.tokenizer:
        check_tokenizer(source.tokenizer)


def check_tokenizer(path: Path | None) -> None:
    """Raise InputError unless the file is a SentencePiece model."""
    from fast.bytes import load_tokenizer

    load_tokenizer(path)
