"""Parity: bitwise (zlib and lzma give the reference's bytes). Lossless codecs for the payload of an
artifact.

A codec is a pair compress(raw, boundaries) -> bytes and decompress(data, raw_bytes, boundaries) ->
bytes, where boundaries are the ends of the tensors in raw. A decoder makes at most raw_bytes + 1
bytes and raises InputError unless it makes exactly raw_bytes.
"""

import lzma
import zlib
from collections.abc import Callable
from importlib import import_module
from types import ModuleType
from typing import NamedTuple

import numpy as np

from reference.recipe import LZMA_MEMORY, InputError

STRIDES = (1, 2, 4)  # an entropy model per byte position in elements of one, two or four bytes
# counts are scaled to about this sum: all sums are exact in float32, so that every machine builds
# the same model
TOTAL = 1 << 18
PIECE = 1 << 22  # symbols coded at a time, which bounds the memory for their int32 form


class Codec(NamedTuple):
    """One codec, and the package it needs beyond the standard library."""

    compress: Callable[[bytes, list[int]], bytes]
    decompress: Callable[[bytes, int, list[int]], bytes]
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


def decompress_zlib(data: bytes, raw_bytes: int, boundaries: list[int]) -> bytes:
    """Inverse of zlib.compress."""
    return read_stream(zlib.decompressobj(), data, raw_bytes, "zlib")


def decompress_lzma(data: bytes, raw_bytes: int, boundaries: list[int]) -> bytes:
    """Inverse of lzma.compress."""
    return read_stream(
        lzma.LZMADecompressor(lzma.FORMAT_XZ, memlimit=LZMA_MEMORY), data, raw_bytes, "lzma"
    )


def compress_lz4(raw: bytes, boundaries: list[int]) -> bytes:
    """lz4 block at the highest level: large, and the fastest to open."""
    return require("lz4.block", "lz4").compress(
        raw, mode="high_compression", compression=12, store_size=False
    )


def decompress_lz4(data: bytes, raw_bytes: int, boundaries: list[int]) -> bytes:
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
    """One-byte codes (256,) of the scaled counts, nearest below; a symbol that occurs keeps at
    least weight 1.
    """
    scaled = np.where(counts > 0, np.maximum(counts * TOTAL // max(int(counts.sum()), 1), 1), 0)
    return (np.searchsorted(WEIGHTS, scaled, side="right") - 1).astype(np.uint8)


def table_bytes(codes: np.ndarray) -> bytes:
    """A table as a bitmap of the symbols that occur and the codes of those."""
    return np.packbits(codes > 0).tobytes() + codes[codes > 0].tobytes()


def model_of(codes: np.ndarray) -> object:
    """The entropy model over the symbols that occur; None where only one does, which costs
    nothing.
    """
    weights = WEIGHTS[codes[codes > 0]]
    if len(weights) == 1:
        return None
    return require("constriction", "entropy").stream.model.Categorical(
        weights.astype(np.float32), perfect=False
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


def compress_entropy(raw: bytes, boundaries: list[int]) -> bytes:
    """Asymmetric numeral systems (Duda 2013) over byte statistics: stride and tables (or plain
    bytes) of each tensor, then the words.
    """
    constriction = require("constriction", "entropy")
    pieces = np.split(np.frombuffer(raw, np.uint8), boundaries[:-1])
    head, jobs = [], []
    for piece in pieces:
        stride, tables = choose_stride(piece)
        head.append(
            bytes([stride]) + (b"".join(map(table_bytes, tables)) if stride else piece.tobytes())
        )
        jobs += [(piece[phase::stride], table) for phase, table in enumerate(tables)]
    coder = constriction.stream.stack.AnsCoder()
    for symbols, table in reversed(jobs):  # the coder is a stack: what goes in last comes out first
        model, rank = model_of(table), np.cumsum(table > 0) - 1
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

    def table(self) -> np.ndarray:
        """The next table, as one-byte codes (256,)."""
        present = np.unpackbits(self.take(32)).astype(bool)
        codes = np.zeros(256, np.uint8)
        codes[present] = self.take(int(present.sum()))
        if not present.any() or (codes[present] == 0).any() or WEIGHTS[codes].sum() > 2 * TOTAL:
            raise damaged("entropy", "a table of counts", "one that no encoder writes")
        return codes


def decompress_entropy(data: bytes, raw_bytes: int, boundaries: list[int]) -> bytes:
    """Inverse of compress_entropy."""
    constriction = require("constriction", "entropy")
    raw, reader, jobs = np.empty(raw_bytes, np.uint8), Reader(data), []
    for piece in np.split(raw, boundaries[:-1]):  # views of raw
        stride = int(reader.take(1)[0])
        if stride == 0:
            piece[:] = reader.take(len(piece))
        elif stride not in STRIDES or stride > len(piece):
            raise damaged("entropy", f"a stride of {STRIDES}", stride)
        jobs += [(piece[phase::stride], reader.table()) for phase in range(stride)]
    words = data[reader.place :]
    try:
        if len(words) % 4:
            raise ValueError(f"{len(words)} bytes of code words")
        coder = constriction.stream.stack.AnsCoder(np.frombuffer(words, "<u4").astype(np.uint32))
    except ValueError as error:
        raise damaged("entropy", "whole code words", error) from error
    for symbols, table in jobs:
        model, present = model_of(table), np.flatnonzero(table).astype(np.uint8)
        for start in range(0, len(symbols), PIECE):
            part = symbols[start : start + PIECE]
            part[:] = present[0] if model is None else present[coder.decode(model, len(part))]
    if not coder.is_empty():
        raise damaged("entropy", "no code words left", "some")
    return raw.tobytes()


CODECS = {
    "none": Codec(
        lambda raw, boundaries: bytes(raw),
        lambda data, raw_bytes, boundaries: exactly(data, raw_bytes, True, "none"),
    ),
    "zlib": Codec(lambda raw, boundaries: zlib.compress(raw, 9), decompress_zlib),
    "lzma": Codec(lambda raw, boundaries: lzma.compress(raw, preset=6), decompress_lzma),
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


def compress(raw: bytes, boundaries: list[int], codec: str = "best") -> tuple[bytes, str]:
    """Compressed bytes and the codec that made them: the one asked for, or the smallest of all
    available ("best"; ties go to the first).
    """
    names = available() if codec == "best" else [codec]
    results = [(get_codec(name).compress(raw, boundaries), name) for name in names]
    return min(results, key=lambda pair: len(pair[0]))


def decompress(data: bytes, raw_bytes: int, boundaries: list[int], codec: str) -> bytes:
    """Inverse of compress."""
    return get_codec(codec).decompress(data, raw_bytes, boundaries)
