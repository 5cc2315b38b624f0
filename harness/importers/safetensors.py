"""Reader of the safetensors format: eight bytes of header length, a JSON table of tensors, their
bytes end to end.
"""

import json
import math

import torch

from reference.recipe import InputError

MAX_HEADER = 1 << 22  # bytes; a golf model's table takes 10 KB
DTYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "F8_E4M3": torch.float8_e4m3fn,
    "F8_E5M2": torch.float8_e5m2,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}


def is_safetensors(data: bytes) -> bool:
    """Return whether a file looks like one: a plausible header length and an opening brace."""
    return data[8:9] == b"{" and int.from_bytes(data[:8], "little") < 1 << 40


def _once(pairs: list[tuple[str, object]]) -> dict:
    """Return the object of a JSON text whose names occur once each."""
    if len(dict(pairs)) < len(pairs):
        raise ValueError("a name that occurs twice")
    return dict(pairs)


def _extent(name: str, row: object, where: str) -> tuple[int, int, torch.dtype, tuple[int, ...]]:
    """Return begin, end, dtype and shape of one row of the table."""
    match row:
        case {
            "dtype": str(kind),
            "shape": [*shape],
            "data_offsets": [int(begin), int(end)],
            **rest,
        } if not rest and kind in DTYPES:
            dtype, sizes = DTYPES[kind], (begin, end, *shape)
            if (
                all(type(size) is int and size >= 0 for size in sizes)
                and end - begin == math.prod(shape) * dtype.itemsize
            ):
                return begin, end, dtype, tuple(shape)
    expected = f"dtype ({', '.join(DTYPES)}), shape, and data_offsets that fit them"
    raise InputError(
        f"{where}: {name:.200}: expected {expected}, found {row!r:.200}; the file is damaged"
    )


def read(data: bytes, where: str) -> dict[str, torch.Tensor]:
    """Return {name: tensor}; a table that does not cover the bytes exactly is an InputError."""
    size, body = int.from_bytes(data[:8], "little"), len(data) - 8
    if size > min(MAX_HEADER, body):
        raise InputError(
            f"{where}: expected a safetensors header of at most {min(MAX_HEADER, body):,} bytes, "
            f"found {size:,}; the file is cut off"
        )
    try:
        table = json.loads(data[8 : 8 + size], object_pairs_hook=_once)
    except (ValueError, RecursionError) as error:
        raise InputError(
            f"{where}: expected a JSON header, found {str(error)[:200]}; the file is damaged"
        ) from error
    rows = {
        name: _extent(name, row, where) for name, row in table.items() if name != "__metadata__"
    }
    covered = 0
    for name, (begin, end, _, _) in sorted(rows.items(), key=lambda item: item[1][:2]):
        if begin != covered:
            raise InputError(
                f"{where}: {name:.200}: expected its bytes to begin at {covered:,}, found"
                f" {begin:,}; the file is damaged"
            )
        covered = end
    if covered != body - size:
        raise InputError(
            f"{where}: expected {covered:,} bytes of tensors, found {body - size:,}; the file is"
            " cut off or damaged"
        )
    memory = bytearray(data[8 + size :])
    return {
        name: (
            torch.frombuffer(memory, dtype=dtype, count=math.prod(shape), offset=begin).reshape(
                shape
            )
            if end > begin
            else torch.empty(shape, dtype=dtype)
        )
        for name, (begin, end, dtype, shape) in rows.items()
    }
