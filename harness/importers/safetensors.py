"""safetensors, read by its own library."""

import json

import torch
from safetensors import SafetensorError
from safetensors.torch import load

from reference.recipe import InputError


def is_safetensors(data: bytes) -> bool:
    """Return whether a file looks like one: a plausible header length and an opening brace."""
    return data[8:9] == b"{" and int.from_bytes(data[:8], "little") < 1 << 40


def _once(pairs: list[tuple[str, object]]) -> None:
    """Refuse an object with a name that occurs twice: the library keeps the last of them."""
    if len(dict(pairs)) < len(pairs):
        raise ValueError("a name that occurs twice")


def read(data: bytes, where: str) -> dict[str, torch.Tensor]:
    """Return {name: tensor}; a table that does not cover the bytes exactly is an InputError."""
    try:
        state = load(data)
        json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")], object_pairs_hook=_once)
        return state
    except (SafetensorError, KeyError, ValueError) as error:
        raise InputError(
            f"{where}: expected a whole safetensors file, found another ({str(error)[:400]}); the"
            " file is damaged"
        ) from error
