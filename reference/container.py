"""Reads the artifact file: magic, version, header length, canonical JSON header, payload. Nothing
in it can execute.

The header holds the caller's fields beside the tensor table, the codec, the sizes, and SHA-256 sums
of the payload and of itself.
"""

import hashlib
import json
import struct
from math import prod

import numpy as np

from reference import codec as codecs
from reference import quantize
from reference.recipe import MAGIC, MAX_AXES, MAX_ELEMENTS, MAX_HEADER, MAX_RAW, VERSION, InputError

PREFIX = struct.Struct("<8sII")  # magic, version, header bytes


def canonical_json(value: object) -> bytes:
    """The one UTF-8 spelling of a JSON value: sorted keys, no spaces."""
    return json.dumps(
        value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False
    ).encode("utf-8")


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


def expect(condition, rule):
    """Raise InputError unless the condition holds."""
    if not condition:
        raise InputError(f"expected {rule}, found another; the file is damaged or not an artifact")


def check_table(table, raw_bytes):
    """Raise InputError unless the table follows from its names, shapes and formats: in order of the
    names, laid end to end, within the caps.
    """
    names = [row["name"] for row in table]
    expect(
        names and all(isinstance(name, str) and name for name in names),
        "at least one tensor, each with a name",
    )
    expect(names == sorted(set(names)), "names in ascending order, each once")
    again, offset = [], 0
    for row in table:
        shape, format = row["shape"], row["format"]
        expect(
            len(shape) <= MAX_AXES and all(0 <= n <= MAX_ELEMENTS for n in shape),
            f"at most {MAX_AXES} axes and a legal length",
        )
        shape, size = list(map(int, shape)), quantize.encoded_bytes(shape, format)
        again.append({**row, "shape": shape, "offset": offset, "bytes": size})
        expect(set(row) == {"name", "shape", "format", "offset", "bytes"}, "five fields a tensor")
        offset += size
    expect(
        sum(prod(max(n, 1) for n in row["shape"]) for row in table) <= MAX_ELEMENTS,
        f"at most {MAX_ELEMENTS} weights",
    )
    # As JSON, because Python holds 1, 1.0 and True for the same.
    expect(
        canonical_json(table) == canonical_json(again),
        "the tensor table that these shapes and formats give",
    )
    expect(
        offset <= MAX_RAW and canonical_json(raw_bytes) == canonical_json(offset),
        f"the tensors' bytes in all, at most {MAX_RAW}",
    )


def read(data):
    """Return (header, stored payload): a file is a container if every byte outside the caller's
    fields follows from the rest.
    """
    expect(len(data) >= PREFIX.size, "a prefix of 16 bytes")
    magic, version, size = PREFIX.unpack(data[: PREFIX.size])
    expect((magic, version) == (MAGIC, VERSION), f"{MAGIC!r} and version {VERSION}")
    expect(
        size <= min(MAX_HEADER, len(data) - PREFIX.size),
        f"a header within the file and within {MAX_HEADER} bytes",
    )
    text, payload = data[PREFIX.size : PREFIX.size + size], data[PREFIX.size + size :]
    header = json.loads(text.decode("utf-8"))
    expect(seal(header) == text, "the canonical JSON of the header, its own SHA-256 in it")
    sums = {"payload_bytes": len(payload), "sha256": hashlib.sha256(payload).hexdigest()}
    expect(
        canonical_json({field: header[field] for field in sums}) == canonical_json(sums),
        "the payload that the header describes",
    )
    check_table(header["tensors"], header["raw_bytes"])
    return header, payload


def unpack(data: bytes, where: str = "container") -> tuple[dict, dict[str, np.ndarray]]:
    """The whole header, and float32 arrays by name. Anything malformed is an InputError that starts
    with `where`.
    """
    try:
        header, payload = read(data)
        table = header["tensors"]
        raw = codecs.decompress(
            payload, header["raw_bytes"], boundaries(table), header["codec"], columns(table)
        )
        tensors = {}
        for row in header["tensors"]:
            piece = raw[row["offset"] : row["offset"] + row["bytes"]]
            tensors[row["name"]] = quantize.from_bytes(
                piece, tuple(row["shape"]), row["format"], row["name"]
            )
        return header, tensors
    except InputError as error:
        raise InputError(f"{where}: {error}") from error
    except (
        AttributeError,
        KeyError,
        RecursionError,
        TypeError,
        ValueError,
    ) as error:  # a header of other types than ours
        raise InputError(
            f"{where}: expected a header of our own fields, found {type(error).__name__} in"
            " reading it"
        ) from error
