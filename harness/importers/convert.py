"""Runs from elsewhere: the challenge's weight files read without running anything, as a recipe and
our tensors.
"""

import hashlib
import math
from dataclasses import asdict
from pathlib import Path

import torch

from fast import container, quantize, transformer
from fast.checkpoint import write_atomic
from fast.codec import available
from harness.importers import archive, layouts, naming, safetensors, torch_file
from harness.importers.assume import Assume
from reference.recipe import ROPE_FREQUENCIES, InputError, Model, Recipe

# Bytes before compression up to which every codec is tried; zlib and lzma take minutes above
MOST_SEARCHED = 1 << 25


def state_of(data: bytes, where: str) -> tuple[dict[str, torch.Tensor], str]:
    """Return ({name: tensor}, layout) of a weight file's bytes; InputError says what is wrong with
    them.
    """
    content, codec = archive.decompress(data, where)
    packed = f", {codec}" if codec != "none" else ""
    if content.startswith(torch_file.ZIP):
        state, layout = layouts.tensors(where, torch_file.read(content, where))
        return state, layout + packed
    if safetensors.is_safetensors(content):
        return safetensors.read(content, where), "safetensors" + packed
    found = f"{len(content):,} bytes starting {content[:8]!r}"
    if content.startswith(b"\x80"):
        torch_file.unpickle(content, where)
        found = "a bare pickle"
    expected = "torch.save's zip or safetensors, plain or in zlib, lzma or zstd"
    raise InputError(
        f"{where}: expected {expected}, found {found}; save model.state_dict() with torch 1.6 or"
        " newer"
    )


def load(
    data: bytes,
    where: str,
    assume: Assume = Assume(),  # noqa: B008
) -> tuple[Recipe, dict[str, torch.Tensor], str, str]:
    """Return (recipe, float32 tensors under our names, layout, what tells RoPE's frequencies) of
    the bytes of a weight file; nothing in it is ever run.
    """
    state, layout = state_of(data, where)
    recipe, params, told_by = naming.adopt(state, layout, assume, where)
    return recipe, params, layout, told_by


def angle_difference(model: Model) -> float:
    """Return by how many radians the choices of RoPE's frequencies differ at most, in a window."""
    given = model.d // model.heads, model.rope_base
    exact, rounded = (transformer.inverse_frequencies(*given, kind) for kind in ROPE_FREQUENCIES)
    return (model.length - 1) * float((exact - rounded).abs().max())


def exact_format(values: torch.Tensor, name: str) -> str:
    """Return the smallest storage format that gives the values back unchanged; float32 always
    does.
    """
    shape = tuple(values.shape)
    for format in sorted(
        quantize.FORMATS, key=lambda format: quantize.encoded_bytes(shape, format)
    ):
        # A few rows rule most formats out
        pieces = (values[:8], values) if len(shape) > 1 else (values,)
        if all(_keeps(piece, format, name) for piece in pieces):
            return format
    return "float32"


def _keeps(values: torch.Tensor, format: str, name: str) -> bool:
    try:
        return torch.equal(
            quantize.from_bytes(
                quantize.to_bytes(values, format, name), tuple(values.shape), format, name
            ),
            values,
        )
    except InputError:  # out of the format's range
        return False


def convert(path: Path, out: Path, assume: Assume = Assume()) -> dict:  # noqa: B008
    """Write a weight file as an artifact whose tensors are the same numbers; return what was found
    in it.
    """
    data = archive.read(Path(path))
    if Path(out).exists() and Path(out).samefile(path):
        raise InputError(
            f"{out}: expected another file than the one that is read; choose another name for the"
            " artifact"
        )
    recipe, params, layout, told_by = load(data, str(path), assume)
    formats = {name: exact_format(values, name) for name, values in params.items()}
    origin = {"file": Path(path).name, "sha256": hashlib.sha256(data).hexdigest(), "layout": layout}
    raw = sum(
        quantize.encoded_bytes(tuple(values.shape), formats[name])
        for name, values in params.items()
    )
    codec = "entropy" if raw > MOST_SEARCHED and "entropy" in available() else "best"
    packed = container.pack(params, formats, {"imported": origin, "recipe": asdict(recipe)}, codec)
    write_atomic(Path(out), packed)
    stored = {
        format: sum(math.prod(params[name].shape) for name in params if formats[name] == format)
        for format in sorted(set(formats.values()))
    }
    return {
        "file": str(path),
        "out": str(out),
        "layout": layout,
        "parameters": sum(value.numel() for value in params.values()),
        "model": asdict(recipe.model),
        "compute_dtype": recipe.training.compute_dtype,
        "rope_frequencies_told_by": told_by,
        "rope_angle_difference": angle_difference(recipe.model),
        "formats": stored,
        "bytes_in": len(data),
        "bytes_out": len(packed),
    }
