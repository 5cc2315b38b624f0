"""Parity: bitwise (under the codecs that both halves have). The artifact file; nothing in it can
execute.

Magic, version, header length, canonical JSON header, payload. The header holds the caller's fields
beside the tensor table, the codec, the sizes, and SHA-256 sums of the payload and of itself.
Everything is declared, capped and checked before a tensor is made.
"""

import hashlib
import json
import struct
from math import prod

import torch

from fast import codec as codecs
from fast import quantize
from reference.recipe import (
    MAGIC,
    MAX_AXES,
    MAX_ELEMENTS,
    MAX_HEADER,
    MAX_RAW,
    OWN_FIELDS,
    VERSION,
    InputError,
)

PREFIX = struct.Struct("<8sII")  # magic, version, header bytes


def canonical_json(value: object) -> bytes:
    """The one UTF-8 spelling of a JSON value: sorted keys, no spaces. What JSON cannot say (NaN,
    other types and keys) is an InputError.
    """
    try:
        text = json.dumps(
            value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False
        )
        if not has_string_keys(value):
            raise ValueError("keys that are not strings")
        return text.encode("utf-8")
    except (TypeError, ValueError, RecursionError) as error:
        found = str(error)[:200]
        raise InputError(
            f"header: expected plain JSON (string keys, finite numbers), found {found}; store"
            " nothing else"
        ) from error


def has_string_keys(value: object) -> bool:
    """Whether every key of every object inside a JSON value is a string: json would spell 1, None
    and True as strings.
    """
    if isinstance(value, dict):
        return all(isinstance(key, str) for key in value) and all(
            map(has_string_keys, value.values())
        )
    return all(map(has_string_keys, value)) if isinstance(value, list | tuple) else True


def tensor_table(shapes: dict[str, tuple[int, ...]], formats: dict[str, str]) -> list[dict]:
    """Rows name, shape, format, offset, bytes for the tensors in order of their names, laid end to
    end.
    """
    table, offset = [], 0
    for name in sorted(shapes):
        if name not in formats:
            raise InputError(f"{name}: expected a storage format for every tensor, found none")
        size = quantize.encoded_bytes(shapes[name], formats[name])
        table.append(
            {
                "name": name,
                "shape": list(map(int, shapes[name])),
                "format": formats[name],
                "offset": offset,
                "bytes": size,
            }
        )
        offset += size
    return table


def seal(header: dict) -> bytes:
    """Canonical JSON of the header with the SHA-256 of its other fields added, so that a flipped
    bit shows anywhere.
    """
    rest = {key: value for key, value in header.items() if key != "header_sha256"}
    return canonical_json(
        {**rest, "header_sha256": hashlib.sha256(canonical_json(rest)).hexdigest()}
    )


def boundaries(table: list[dict]) -> list[int]:
    """Where each tensor ends in the uncompressed payload."""
    return [row["offset"] + row["bytes"] for row in table]


def columns(table: list[dict]) -> list[int]:
    """Of each tensor the columns of its integers, where its format has them, else 0."""
    return [quantize.integer_columns(row["shape"], row["format"]) for row in table]


def pack(
    tensors: dict[str, torch.Tensor],
    formats: dict[str, str],
    header: dict,
    codec: str = "best",
    dials: dict[str, int] | None = None,
) -> bytes:
    """A container of the tensors (name -> tensor) in the named formats, with the caller's header
    fields. Same input, same bytes. dials: of tensors in the format uniform, where not the default.
    """
    if not tensors or not all(isinstance(name, str) and name for name in tensors):
        raise InputError("container: expected at least one tensor, each with a name")
    taken = sorted(set(header) & set(OWN_FIELDS))
    if taken:
        raise InputError(
            f"header: the fields {', '.join(taken)} belong to the container; rename them"
        )
    table = tensor_table({name: tuple(values.shape) for name, values in tensors.items()}, formats)
    check_table(table, sum(row["bytes"] for row in table))
    dials = dict.fromkeys(tensors, quantize.Quantization.dial) | (dials or {})
    raw = b"".join(
        quantize.to_bytes(tensors[row["name"]], row["format"], row["name"], dials[row["name"]])
        for row in table
    )
    payload, name = codecs.compress(raw, boundaries(table), codec, columns(table))
    own = {
        "codec": name,
        "raw_bytes": len(raw),
        "payload_bytes": len(payload),
        "sha256": hashlib.sha256(payload).hexdigest(),
    }
    sealed = seal({**header, **own, "tensors": table})
    if len(sealed) > MAX_HEADER:
        raise InputError(
            f"header: expected at most {MAX_HEADER} bytes, found {len(sealed)}; store less beside"
            " the weights"
        )
    return PREFIX.pack(MAGIC, VERSION, len(sealed)) + sealed + payload


def read_header(data: bytes) -> tuple[dict, bytes]:
    """Header and stored payload of a container, after the checks that need no tensor: prefix, caps,
    canonical JSON, both sums.
    """
    if len(data) < PREFIX.size or data[: len(MAGIC)] != MAGIC:
        raise InputError(
            f"expected a MaskGolf artifact, found {len(data)} bytes starting {bytes(data[:8])!r};"
            " name an artifact.mgolf"
        )
    _, version, size = PREFIX.unpack(data[: PREFIX.size])
    if version != VERSION:
        raise InputError(
            f"expected container version {VERSION}, found {version}; it was written by another"
            " release or is damaged"
        )
    most = min(MAX_HEADER, len(data) - PREFIX.size)
    if size > most:
        raise InputError(
            f"expected a header of at most {most} bytes, found {size}; the file is cut off or"
            " damaged"
        )
    text = data[PREFIX.size : PREFIX.size + size]
    try:
        header = json.loads(text.decode("utf-8"))
    except (ValueError, RecursionError) as error:
        raise InputError(
            f"header: expected JSON, found {str(error)[:200]}; the file is damaged"
        ) from error
    if not isinstance(header, dict) or any(field not in header for field in OWN_FIELDS):
        raise InputError(
            f"header: expected an object with the fields {', '.join(OWN_FIELDS)}; the file is"
            " damaged"
        )
    if seal(header) != text:
        raise InputError(
            "header: expected canonical JSON that matches its own SHA-256, found another; the file"
            " is damaged"
        )
    payload = data[PREFIX.size + size :]
    if not is_count(header["payload_bytes"], len(payload)) or header["payload_bytes"] != len(
        payload
    ):
        expected = f"{header['payload_bytes']!r:.200}"
        raise InputError(
            f"payload: expected {expected} bytes, found {len(payload)}; the file is cut off or"
            " damaged"
        )
    if header["sha256"] != hashlib.sha256(payload).hexdigest():
        raise InputError(
            "payload: expected the SHA-256 that the header names, found another; the file is"
            " damaged"
        )
    return header, payload


def is_count(value: object, most: int) -> bool:
    """Whether a JSON value is an integer in 0..most (true and false are not)."""
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= most


def check_table(table: object, raw_bytes: object) -> None:
    """Names ascending, shapes and formats known and capped, end to end, raw_bytes in all; else an
    InputError names the row.
    """
    if not isinstance(table, list) or not table or not is_count(raw_bytes, MAX_RAW):
        raise InputError(
            f"tensor table: expected a list of tensors of at most {MAX_RAW} bytes, found"
            f" {raw_bytes!r:.200}"
        )
    offset, elements, last = 0, 0, ""
    for number, row in enumerate(table):
        if not isinstance(row, dict) or set(row) != {"name", "shape", "format", "offset", "bytes"}:
            raise InputError(
                f"tensor {number}: expected name, shape, format, offset and bytes; the file is"
                " damaged"
            )
        name, shape, format = row["name"], row["shape"], row["format"]
        if not isinstance(name, str) or name <= last:
            raise InputError(
                f"tensor {number}: expected names in ascending order, each once, found"
                f" {name!r:.200} after {last!r:.200}"
            )
        if (
            not isinstance(shape, list)
            or len(shape) > MAX_AXES
            or not all(is_count(size, MAX_ELEMENTS) for size in shape)
        ):
            raise InputError(
                f"tensor {name!r:.200}: expected up to {MAX_AXES} axis lengths, found"
                f" {shape!r:.200}"
            )
        if not isinstance(format, str):
            raise InputError(f"tensor {name!r:.200}: expected a format name, found {format!r:.200}")
        size = quantize.encoded_bytes(shape, format)
        if (
            not is_count(row["offset"], MAX_RAW)
            or not is_count(row["bytes"], MAX_RAW)
            or (row["offset"], row["bytes"]) != (offset, size)
        ):
            raise InputError(
                f"tensor {name!r:.200}: expected {size} bytes at offset {offset}, found"
                f" {row['bytes']!r:.200} at {row['offset']!r:.200}"
            )
        offset, elements, last = (
            offset + size,
            elements + prod(max(length, 1) for length in shape),
            name,
        )
    if offset != raw_bytes or elements > MAX_ELEMENTS:
        raise InputError(
            f"tensor table: expected {raw_bytes} bytes and at most {MAX_ELEMENTS} weights, found"
            f" {offset} and {elements}"
        )


def decompress_payload(header: dict, payload: bytes) -> bytes:
    """The bytes of all tensors, end to end; a table or a codec that no artifact has is an
    InputError.
    """
    table, codec = header["tensors"], header["codec"]
    check_table(table, header["raw_bytes"])
    if not isinstance(codec, str):
        raise InputError(f"codec: expected a name, found {codec!r:.200}")
    return codecs.decompress(payload, header["raw_bytes"], boundaries(table), codec, columns(table))


def unpack(data: bytes, where: str = "container") -> tuple[dict, dict[str, torch.Tensor]]:
    """Inverse of pack: the whole header, and float32 tensors by name. Anything malformed is an
    InputError that starts with `where`.
    """
    try:
        header, payload = read_header(data)
        raw, tensors = decompress_payload(header, payload), {}
        for row in header["tensors"]:
            piece = raw[row["offset"] : row["offset"] + row["bytes"]]
            tensors[row["name"]] = quantize.from_bytes(
                piece, tuple(row["shape"]), row["format"], row["name"]
            )
        return header, tensors
    except InputError as error:
        raise InputError(f"{where}: {error}") from error
