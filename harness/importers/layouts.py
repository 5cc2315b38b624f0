"""The published layouts of quantised weights, read back to the numbers that their scripts compute
with.
"""

import math
from collections.abc import Callable

import torch

from fast import fp8
from harness.importers.torch_file import MAX_SIZES, show
from reference.recipe import InputError

OFFICIAL = "int8_clean_per_row_v1"
# Modes whose models normalise before their projections, which the tensors do not show
NORMED = ("int2", "ternary")


class Entry:
    """One quantised tensor of a file: its fields by name, each checked as it is taken."""

    def __init__(self, where: str, name: str, fields: object) -> None:
        """Keep the fields; InputError where they are no mapping."""
        if not isinstance(fields, dict):
            raise InputError(
                f"{where}: {name}: expected the fields of a quantised tensor, found"
                f" {type(fields).__name__}"
            )
        self.where, self.name, self.fields = where, name, fields

    def wrong(self, expected: str, found: object) -> InputError:
        """Return the error for a field that is not as its layout says."""
        return InputError(
            f"{self.where}: {self.name}: expected {expected}, found {found}; the file is"
            " damaged or of another layout"
        )

    def tensor(self, field: str, *dtypes: torch.dtype) -> torch.Tensor:
        """Return a tensor of one of the dtypes."""
        if field not in self.fields:
            raise self.wrong(f"the field {field}", ", ".join(map(str, self.fields))[:200])
        values = tensor(self.where, f"{self.name}.{field}", self.fields[field])
        if values.dtype not in dtypes:
            raise self.wrong(
                f"{field} of {' or '.join(str(dtype) for dtype in dtypes)}", values.dtype
            )
        return values

    def number(self, field: str, least: int, most: int) -> int:
        """Return an integer within a range."""
        value = self.fields.get(field)
        if type(value) is not int or not least <= value <= most:
            raise self.wrong(f"{field} in {least} ... {most}", show(value))
        return value

    def shape(self, count: int) -> tuple[int, ...]:
        """Return the declared shape, which must hold `count` elements."""
        shape = self.fields.get("shape")
        if (
            not isinstance(shape, list)
            or len(shape) > MAX_SIZES
            or not all(type(size) is int and 0 <= size <= count for size in shape)
            or math.prod(shape) != count
        ):
            raise self.wrong(f"a shape of {count:,} elements", show(shape))
        return tuple(shape)

    def dtype(self) -> torch.dtype:
        """Return the dtype that the entry names."""
        return getattr(torch, self.word("dtype", "float32", "bfloat16", "float16"))

    def word(self, field: str, *words: str) -> str:
        """Return a string that is one of the words."""
        value = self.fields.get(field)
        if value not in words:
            raise self.wrong(f"{field} {' or '.join(words)}", show(value))
        return value


def tensor(where: str, name: str, value: object) -> torch.Tensor:
    """Return a value that must be a tensor."""
    if not isinstance(value, torch.Tensor):
        raise InputError(
            f"{where}: {name}: expected a tensor, found {type(value).__name__}; save tensors under"
            " plain names"
        )
    return value


FLOATS = (torch.float32, torch.float16, torch.bfloat16)


def scaled(entry: Entry, codes: torch.Tensor, scale: torch.Tensor, per_row: bool) -> torch.Tensor:
    """Return codes times a scale per row or for the whole tensor, as float32."""
    expected = codes.shape[:1] if per_row else ()
    if scale.shape != expected and (per_row or scale.numel() != 1):
        raise entry.wrong(
            f"a scale of shape {tuple(expected)} for {tuple(codes.shape)}", tuple(scale.shape)
        )
    factor = scale.float().reshape(-1, *[1] * (codes.dim() - 1)) if per_row else float(scale.item())
    return codes.float() * factor


def int8(entry: Entry) -> torch.Tensor:
    """Return q times scale, per row or per tensor."""
    per_row = entry.word("scheme", "per_row", "per_tensor") == "per_row"
    return scaled(entry, entry.tensor("q", torch.int8), entry.tensor("scale", *FLOATS), per_row)


def float8(entry: Entry) -> torch.Tensor:
    """Return the values of e4m3 or e5m2 codes (a cascade stores e5m2), times a scale where there is
    one.
    """
    kind = entry.word("fmt", "e4m3", "e5m2", "e4m3->e5m2")[-4:]
    dtype = torch.float8_e4m3fn if kind == "e4m3" else torch.float8_e5m2
    codes = entry.tensor("data", dtype, torch.uint8)
    values = fp8.decode(codes.view(torch.uint8), kind).reshape(entry.shape(codes.numel()))
    if "scale" not in entry.fields:
        return values
    scale = entry.tensor("scale", *FLOATS)
    return scaled(entry, values, scale, per_row=scale.dim() == 1 and scale.numel() != 1)


def grouped(
    entry: Entry, decode: Callable[[torch.Tensor], torch.Tensor], divisor: float
) -> torch.Tensor:
    """Return two four-bit codes a byte, low half first, decoded and scaled by group over the
    flattened tensor.
    """
    packed, scales = entry.tensor("packed", torch.uint8), entry.tensor("scales", *FLOATS).float()
    size = entry.number("group_size", 1, 1 << 20)
    pad = entry.number("pad", 0, size - 1)
    if packed.numel() * 2 != scales.numel() * size:
        raise entry.wrong(
            f"{packed.numel() * 2:,} codes in groups of {size}", f"{scales.numel():,} scales"
        )
    codes = torch.stack([packed & 15, packed >> 4], dim=-1).reshape(-1, size)
    values = (decode(codes) * (scales / divisor).reshape(-1, 1)).reshape(-1)
    kept = values.numel() - pad
    return values[:kept].reshape(entry.shape(kept))


def int4(entry: Entry) -> torch.Tensor:
    """Return signed four-bit integers over 7, times the largest magnitude of their group."""
    return grouped(entry, lambda codes: ((codes.to(torch.int16) + 8) % 16 - 8).float(), 7.0)


def e2m1(entry: Entry) -> torch.Tensor:
    """Return four-bit floats times the scale of their group."""
    return grouped(entry, lambda codes: fp8.decode(codes, "e2m1"), 1.0)


MODES = {
    "int8": int8,
    "fp8": float8,
    "fp8_e5m2": float8,
    "fp8_cascade": float8,
    "int4": int4,
    "e2m1": e2m1,
}


def sections(where: str, value: dict, *names: str) -> list[dict]:
    """Return mappings inside a file's value; InputError where one is none."""
    for name in names:
        mapping = value.get(name)
        if not isinstance(mapping, dict) or not all(isinstance(key, str) for key in mapping):
            raise InputError(
                f"{where}: expected a mapping {name} of names, found {type(mapping).__name__}; the"
                " file is of another layout"
            )
    return [value[name] for name in names]


def passed_through(where: str, quantised: dict, rest: dict) -> dict[str, torch.Tensor]:
    """Return the tensors that are stored as they are; InputError for one that is there twice."""
    both = sorted(set(quantised) & set(rest))
    if both:
        raise InputError(
            f"{where}: expected each tensor once, found some quantised and plain:"
            f" {', '.join(both):.400}; the file is damaged"
        )
    return {name: tensor(where, name, kept) for name, kept in rest.items()}


def modal(where: str, value: dict) -> dict[str, torch.Tensor]:
    """Return the tensors of a __quant_mode__ file as its script uses them: rounded to bfloat16, in
    float32 here.
    """
    mode = value["__quant_mode__"]
    if not isinstance(mode, str) or mode not in MODES:
        reason = "; its script must say how to read it"
        if mode in NORMED:
            reason = ": its models normalise before their projections"
        raise InputError(
            f"{where}: expected a __quant_mode__ of {', '.join(MODES)}, found {show(mode)}{reason}"
        )
    quantised, rest = sections(where, value, "entries", "passthrough")
    values = passed_through(where, quantised, rest)
    values |= {name: MODES[mode](Entry(where, name, fields)) for name, fields in quantised.items()}
    return {
        name: value.bfloat16().float() if value.is_floating_point() else value
        for name, value in values.items()
    }


def official(where: str, value: dict) -> dict[str, torch.Tensor]:
    """Return the tensors of the challenge's int8 layout: rows times their scales, in the dtype that
    each one names.
    """
    if value["__quant_format__"] != OFFICIAL:
        raise InputError(
            f"{where}: expected the __quant_format__ {OFFICIAL}, found"
            f" {show(value['__quant_format__'])}; its script must say how to read it"
        )
    value = {"passthrough_orig_dtypes": {}} | value
    quantised, scales, dtypes, rest, originals = sections(
        where, value, "quantized", "scales", "dtypes", "passthrough", "passthrough_orig_dtypes"
    )
    state = passed_through(where, quantised, rest)
    odd = sorted(quantised.keys() ^ scales.keys() | quantised.keys() ^ dtypes.keys())
    if odd:
        raise InputError(
            f"{where}: expected codes, scale and dtype of each tensor, found some without:"
            f" {', '.join(odd):.400}"
        )
    for name, codes in quantised.items():
        entry = Entry(where, name, {"q": codes, "scale": scales[name], "dtype": dtypes[name]})
        scale = entry.tensor("scale", *FLOATS)
        values = scaled(entry, entry.tensor("q", torch.int8), scale, per_row=scale.dim() > 0)
        state[name] = values.to(entry.dtype()).float()
    for name in state.keys() & originals.keys() - quantised.keys():
        state[name] = state[name].to(Entry(where, name, {"dtype": originals[name]}).dtype()).float()
    return state


def tensors(where: str, value: object) -> tuple[dict[str, torch.Tensor], str]:
    """Return ({name: tensor}, layout) of what torch.save wrote: a quantised layout or a plain
    state_dict.
    """
    if not isinstance(value, dict) or not value:
        raise InputError(
            f"{where}: expected a state_dict or a quantised layout, "
            f"found {type(value).__name__}; save model.state_dict()"
        )
    if "__quant_mode__" in value:
        return modal(where, value), f"__quant_mode__ {value['__quant_mode__']}"
    if "__quant_format__" in value:
        return official(where, value), f"__quant_format__ {value['__quant_format__']}"
    names = [name if isinstance(name, str) else repr(name) for name in value]
    return {
        name: tensor(where, name, node) for name, node in zip(names, value.values(), strict=True)
    }, "state_dict"
