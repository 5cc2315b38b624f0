"""Parity: bitwise (zlib and lzma give the reference's bytes). Lossless codecs for the payload of an
artifact.

A codec is a pair compress(raw, sections) -> bytes and decompress(data, raw_bytes, sections) ->
bytes, where the Sections say where tensors end in raw. A decoder makes at most raw_bytes + 1 bytes
and raises InputError unless it makes exactly raw_bytes.
"""

import lzma
import zlib
from collections.abc import Callable
from importlib import import_module
from types import ModuleType
from typing import NamedTuple

import numpy as np

from fast.spread import CLASSES, by_class, classes_of, ends_of, grid_of, reach_of
from reference.recipe import LZMA_MEMORY, InputError

STRIDES = (1, 2, 4)  # an entropy model per byte position in elements of one, two or four bytes
# counts are scaled to about this sum: all sums are exact in float32, so that every machine builds
# the same model
TOTAL = 1 << 18
PIECE = 1 << 22  # symbols coded at a time, which bounds the memory for their int32 form
# Stands where a stride would: the tensor's integers are coded by the spread of rows and columns
BY_SPREAD = 3


class Sections(NamedTuple):
    """Where each tensor ends in the raw bytes; and, where it holds integers (the format uniform: an
    int16 for each row, for each column and for each value), how many columns it has, else 0.
    """

    ends: list[int]
    columns: list[int] | None = None

    def split(self, raw: np.ndarray) -> list[tuple[np.ndarray, int]]:
        """(bytes, columns) of each tensor, as views."""
        columns = self.columns or [0] * len(self.ends)
        return list(zip(np.split(raw, self.ends[:-1]), columns, strict=True))


class Codec(NamedTuple):
    """One codec, and the package it needs beyond the standard library."""

    compress: Callable[[bytes, Sections], bytes]
    decompress: Callable[[bytes, int, Sections], bytes]
    package: str = ""


def require(package: str, codec: str) -> ModuleType:
    """The module, or an InputError that says what to install."""
    try:
        return import_module(package)
    except ImportError as error:
        name = package.split(".")[0]
        raise InputError(
            f"codec {codec}: expected the package {name}, found none; pip install {name}"
        ) from error


def damaged(codec: str, expected: object, found: object) -> InputError:
    """The error of every decoder."""
    return InputError(f"payload: expected {expected} ({codec}), found {found}; the file is damaged")


def exactly(raw: bytes, raw_bytes: int, complete: bool, codec: str) -> bytes:
    """The decoded bytes, if they are as many as declared and used up the input."""
    if len(raw) != raw_bytes or not complete:
        raise damaged(codec, f"{raw_bytes} bytes", f"{len(raw)} or bytes left over")
    return raw


def read_stream(decoder: object, data: bytes, raw_bytes: int, codec: str) -> bytes:
    """Decode with a decompressor object of the standard library."""
    try:
        raw = decoder.decompress(data, raw_bytes + 1)
    except (zlib.error, lzma.LZMAError, EOFError) as error:
        raise damaged(codec, f"{raw_bytes} bytes", error) from error
    return exactly(raw, raw_bytes, decoder.eof and not decoder.unused_data, codec)


def decompress_zlib(data: bytes, raw_bytes: int, sections: Sections) -> bytes:
    """Inverse of zlib.compress."""
    return read_stream(zlib.decompressobj(), data, raw_bytes, "zlib")


def decompress_lzma(data: bytes, raw_bytes: int, sections: Sections) -> bytes:
    """Inverse of lzma.compress."""
    return read_stream(
        lzma.LZMADecompressor(lzma.FORMAT_XZ, memlimit=LZMA_MEMORY), data, raw_bytes, "lzma"
    )


def compress_lz4(raw: bytes, sections: Sections) -> bytes:
    """lz4 block at the highest level: large, and the fastest to open."""
    return require("lz4.block", "lz4").compress(
        raw, mode="high_compression", compression=12, store_size=False
    )


def decompress_lz4(data: bytes, raw_bytes: int, sections: Sections) -> bytes:
    """Inverse of compress_lz4."""
    block = require("lz4.block", "lz4")
    try:
        raw = block.decompress(data, uncompressed_size=raw_bytes)
    except (block.LZ4BlockError, ValueError, OverflowError) as error:
        raise damaged("lz4", f"{raw_bytes} bytes", error) from error
    return exactly(raw, raw_bytes, True, "lz4")


def weight_of(code: np.ndarray) -> np.ndarray:
    """Weight of a one-byte code: 0 to 15 as they are, then (16 + low bits) 2^(high bits - 1):
    within 3 % of any count up to 507,904.
    """
    code = code.astype(np.int64)
    return np.where(code < 16, code, (16 + code % 16) << np.maximum(code // 16 - 1, 0))


WEIGHTS = weight_of(np.arange(256))


def table_of(counts: np.ndarray) -> np.ndarray:
    """One-byte codes of the scaled counts, nearest below; a symbol that occurs keeps at least
    weight 1.
    """
    scaled = np.where(counts > 0, np.maximum(counts * TOTAL // max(int(counts.sum()), 1), 1), 0)
    return (np.searchsorted(WEIGHTS, scaled, side="right") - 1).astype(np.uint8)


def table_bytes(codes: np.ndarray) -> bytes:
    """A table as a bitmap of the symbols that occur and the codes of those."""
    return np.packbits(codes > 0).tobytes() + codes[codes > 0].tobytes()


def model_of(weights: np.ndarray) -> object:
    """The entropy model over the symbols that occur, by their weights; None where only one does,
    which costs nothing.
    """
    used = weights[weights > 0]
    if len(used) == 1:
        return None
    return require("constriction", "entropy").stream.model.Categorical(
        used.astype(np.float32), perfect=False
    )


def bits_of(counts: np.ndarray, codes: np.ndarray) -> float:
    """Expected size in bits of the symbols and their table."""
    weights = WEIGHTS[codes].astype(np.float64)
    used = counts > 0
    return float((counts[used] * np.log2(weights.sum() / weights[used])).sum()) + 8 * len(
        table_bytes(codes)
    )


def choose_stride(piece: np.ndarray) -> tuple[int, list[np.ndarray]]:
    """Stride and tables with the smallest expected size for one tensor; stride 0 and no table where
    plain bytes are smaller.
    """
    best, choice = 8.0 * len(piece), (0, [])
    for stride in STRIDES:
        if stride > len(piece):
            break
        counts = [np.bincount(piece[phase::stride], minlength=256) for phase in range(stride)]
        tables = [table_of(count) for count in counts]
        size = sum(bits_of(count, table) for count, table in zip(counts, tables, strict=True))
        if size < best:
            best, choice = size, (stride, tables)
    return choice


def magnitude_table(sizes: np.ndarray, reach: int) -> np.ndarray:
    """One-byte codes of the counts of 0, 1 and -1, 2 and -2, to reach, and of all beyond."""
    return table_of(np.bincount(np.minimum(sizes, reach + 1), minlength=reach + 2))


def mirrored(table: np.ndarray) -> np.ndarray:
    """Weights of the symbols of integers by a table of magnitudes: k and -k have half of their
    count. Symbols are -reach to reach, then one for all that lie beyond.
    """
    weights = WEIGHTS[table]
    either = weights[1:-1]
    return np.concatenate([either[::-1], 2 * weights[:1], either, 2 * weights[-1:]])


def _encode_bytes(piece: np.ndarray) -> tuple[bytes, list]:
    """(head, [(symbols, weights)]) of some bytes: stride and tables, or the bytes as they are."""
    stride, tables = choose_stride(piece)
    head = bytes([stride]) + (b"".join(map(table_bytes, tables)) if stride else piece.tobytes())
    return head, [(piece[phase::stride], WEIGHTS[table]) for phase, table in enumerate(tables)]


def _encode_class(integers: np.ndarray) -> tuple[bytes, np.ndarray, np.ndarray]:
    """(head, symbols, weights) of the integers of a class: in the head the reach, the table, and
    the integers beyond.
    """
    wide = integers.astype(np.int64)
    sizes = np.abs(wide)
    reach = reach_of(sizes)
    table, large = magnitude_table(sizes, reach), sizes > reach
    counts = reach.to_bytes(2, "little") + int(large.sum()).to_bytes(4, "little")
    head = counts + table_bytes(table) + integers[large].astype("<i2").tobytes()
    return head, np.where(large, 2 * reach + 1, wide + reach), mirrored(table)


def compress_entropy(raw: bytes, sections: Sections) -> bytes:
    """Asymmetric numeral systems (Duda 2013): stride and tables (or plain bytes) of each tensor,
    then the words.

    Bytes are coded by their counts in their tensor. Integers are coded by their counts among all
    of like spread, by row and column, whatever their tensor. Behind the heads of the tensors stand
    those of all exponents, of the classes of all rows and of all columns, as bytes; then the tables
    of the classes, each with the integers that are too large for it.
    """
    constriction = require("constriction", "entropy")
    head, jobs, grids = [], [], []
    for piece, columns in sections.split(np.frombuffer(raw, np.uint8)):
        if columns and len(piece):
            grids.append(grid_of(piece, columns))
            grids[-1].class_R[:], grids[-1].class_C[:] = classes_of(grids[-1].integers_RC)
            head.append(bytes([BY_SPREAD]))
        else:
            start, pairs = _encode_bytes(piece)
            head.append(start)
            jobs += pairs
    for parts in list(zip(*grids, strict=True))[:3]:
        start, pairs = _encode_bytes(np.concatenate(parts))
        head.append(start)
        jobs += pairs
    order, starts = by_class(grids)
    ordered = np.concatenate(
        [np.empty(0, "<i2"), *(grid.integers_RC.reshape(-1) for grid in grids)]
    )
    parts = np.split(ordered[order], starts)[:CLASSES]
    if grids:
        used = [kind > 0 and len(part) > 0 for kind, part in enumerate(parts)]
        head.append(np.packbits(used).tobytes())
    for kind, integers in enumerate(parts):
        if kind and len(integers):
            start, symbols, weights = _encode_class(integers)
            head.append(start)
            jobs.append((symbols, weights))
    coder = constriction.stream.stack.AnsCoder()
    for symbols, weights in reversed(jobs):  # the coder is a stack: last in, first out
        model, rank = model_of(weights), np.cumsum(weights > 0) - 1
        for start in reversed(range(0, len(symbols), PIECE)):
            if model is not None:
                coder.encode_reverse(rank[symbols[start : start + PIECE]].astype(np.int32), model)
    return b"".join(head) + coder.get_compressed().astype("<u4").tobytes()


class Reader:
    """Takes bytes from the front of the payload; too few left is an InputError."""

    def __init__(self, data: bytes) -> None:
        self.data, self.place = data, 0

    def take(self, count: int) -> np.ndarray:
        """The next `count` bytes."""
        if count > len(self.data) - self.place:
            raise damaged("entropy", f"{count} bytes more", len(self.data) - self.place)
        self.place += count
        return np.frombuffer(self.data, np.uint8, count, self.place - count)

    def number(self, size: int) -> int:
        """The next number, of so many bytes."""
        return int.from_bytes(self.take(size).tobytes(), "little")

    def table(self, symbols: int = 256) -> np.ndarray:
        """The next table, as one-byte codes of so many symbols."""
        present = np.unpackbits(self.take(-(-symbols // 8)), count=symbols).astype(bool)
        codes = np.zeros(symbols, np.uint8)
        codes[present] = self.take(int(present.sum()))
        if not present.any() or (codes[present] == 0).any() or WEIGHTS[codes].sum() > 2 * TOTAL:
            raise damaged("entropy", "a table of counts", "one that no encoder writes")
        return codes

    def bytes_jobs(self, piece: np.ndarray) -> list[tuple[np.ndarray, np.ndarray]]:
        """Inverse of the head of _encode_bytes: fills plain bytes in, returns (where symbols go,
        weights) of coded ones.
        """
        stride = int(self.take(1)[0])
        if stride == 0:
            piece[:] = self.take(len(piece))
        elif stride not in STRIDES or stride > len(piece):
            raise damaged("entropy", f"a stride of {STRIDES}", stride)
        return [(piece[phase::stride], WEIGHTS[self.table()]) for phase in range(stride)]

    def coder(self) -> object:
        """The decoder of all that is left: the code words."""
        words, stream = self.data[self.place :], require("constriction", "entropy").stream
        try:
            if len(words) % 4:
                raise ValueError(f"{len(words)} bytes of code words")
            return stream.stack.AnsCoder(np.frombuffer(words, "<u4").astype(np.uint32))
        except ValueError as error:
            raise damaged("entropy", "whole code words", error) from error


def _decode(coder: object, out: np.ndarray, weights: np.ndarray) -> None:
    """Fill symbols in."""
    model, present = model_of(weights), np.flatnonzero(weights).astype(out.dtype)
    for start in range(0, len(out), PIECE):
        part = out[start : start + PIECE]
        part[:] = present[0] if model is None else present[coder.decode(model, len(part))]


def _decode_class(coder: object, out: np.ndarray, reach: int, table, beyond) -> None:
    """Fill the integers of a class in; `beyond` are those without a symbol."""
    symbols = np.empty(len(out), np.int32)
    _decode(coder, symbols, mirrored(table))
    large = symbols > 2 * reach
    if large.sum() != len(beyond):
        raise damaged("entropy", f"{large.sum()} large integers", len(beyond))
    out[:] = symbols - reach
    out[large] = beyond


def decompress_entropy(data: bytes, raw_bytes: int, sections: Sections) -> bytes:
    """Inverse of compress_entropy."""
    raw, reader, jobs, grids = np.empty(raw_bytes, np.uint8), Reader(data), [], []
    for piece, columns in sections.split(raw):  # views of raw
        if not (columns and len(piece)):
            jobs += reader.bytes_jobs(piece)
        elif reader.take(1)[0] == BY_SPREAD:
            grids.append(grid_of(piece, columns))
        else:
            raise damaged("entropy", "integers", "bytes")
    fields = list(zip(*grids, strict=True))[:3]
    streams = [np.empty(sum(map(len, parts)), np.uint8) for parts in fields]
    for stream in streams:
        jobs += reader.bytes_jobs(stream)
    present = np.unpackbits(reader.take(CLASSES // 8)) if grids else np.zeros(0)
    classes = []
    for kind in np.flatnonzero(present).tolist():
        reach, count = reader.number(2), reader.number(4)
        classes.append((kind, reach, reader.table(reach + 2), reader.take(2 * count).view("<i2")))
    coder = reader.coder()
    for symbols, weights in jobs:
        _decode(coder, symbols, weights)
    for parts, stream in zip(fields, streams, strict=True):
        for part, found in zip(parts, np.split(stream, ends_of(parts)), strict=True):
            part[:] = found
    order, ends = by_class(grids)
    if (np.flatnonzero(np.diff(ends)) + 1).tolist() != [kind for kind, *_ in classes]:
        raise damaged("entropy", "a table for every class of integers", "others")
    ordered, integers = np.zeros(len(order), np.int16), np.empty(len(order), np.int16)
    for kind, *described in classes:
        _decode_class(coder, ordered[ends[kind - 1] : ends[kind]], *described)
    integers[order] = ordered
    parts = [grid.integers_RC for grid in grids]
    for part, found in zip(parts, np.split(integers, ends_of(parts)), strict=False):
        part[:] = found.reshape(part.shape)
    if not coder.is_empty():
        raise damaged("entropy", "no code words left", "some")
    return raw.tobytes()


CODECS = {
    "none": Codec(
        lambda raw, sections: bytes(raw),
        lambda data, raw_bytes, sections: exactly(data, raw_bytes, True, "none"),
    ),
    "zlib": Codec(lambda raw, sections: zlib.compress(raw, 9), decompress_zlib),
    "lzma": Codec(lambda raw, sections: lzma.compress(raw, preset=6), decompress_lzma),
    "lz4": Codec(compress_lz4, decompress_lz4, "lz4.block"),
    "entropy": Codec(compress_entropy, decompress_entropy, "constriction"),
}


def available() -> list[str]:
    """Codecs whose package is installed, in the fixed order that decides ties."""
    names = []
    for name, codec in CODECS.items():
        try:
            if codec.package:
                require(codec.package, name)
            names.append(name)
        except InputError:
            continue
    return names


def get_codec(codec: str) -> Codec:
    """A codec by name; an unknown one is an InputError."""
    if codec not in CODECS:
        raise InputError(
            f"unknown codec {codec!r:.200}: expected one of {', '.join(CODECS)} or best"
        )
    return CODECS[codec]


def compress(
    raw: bytes, boundaries: list[int], codec: str = "best", columns: list[int] | None = None
) -> tuple[bytes, str]:
    """Compressed bytes and the codec that made them: the one asked for, or the smallest of all
    available ("best"; ties go to the first). boundaries, columns: as in Sections.
    """
    sections = Sections(boundaries, columns)
    names = available() if codec == "best" else [codec]
    results = [(get_codec(name).compress(raw, sections), name) for name in names]
    return min(results, key=lambda pair: len(pair[0]))


def decompress(
    data: bytes, raw_bytes: int, boundaries: list[int], codec: str, columns: list[int] | None = None
) -> bytes:
    """Inverse of compress."""
    return get_codec(codec).decompress(data, raw_bytes, Sections(boundaries, columns))
