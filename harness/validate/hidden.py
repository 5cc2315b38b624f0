"""Validation text hidden in an artifact or in code: long exact matches, as text or as token ids,
against what training text matches.

Anchors are blocks of 16 bytes cut from the text end to end, so that hidden text holds every anchor
within it, wherever it begins. What was encrypted or stored in a coding of its own is not found.
"""

import ast
import base64
import binascii
import bz2
import lzma
import re
import zlib
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

BLOCK = 16  # bytes of an anchor
LEAST_KINDS = 6  # different bytes in an anchor: fewer are runs and rulers, which match anywhere
LEAST_RUN = 4  # anchors end to end: 64 bytes of text, 32 tokens
MOST_HITS = 100_000  # blocks followed in one layer
MOST_BYTES = 1 << 28  # of one decoded layer
MOST_LAYERS = 4096  # decoded layers of one file
MOST_DEPTH = 4
LEAST_STRING = 48  # characters of a string worth decoding
LEAST_LIST = 16  # integers in a row that may be token ids
MOST_TEXT = 1 << 26  # bytes of a layer that is read as text
BASE64 = re.compile(rb"[A-Za-z0-9+/]{64,}={0,2}")
ODD = np.uint64(0x9E3779B97F4A7C15), np.uint64(0xC2B2AE3D27D4EB4F)


class Run(NamedTuple):
    """The longest stretch of a text that lies in a layer, in anchors end to end; where it begins in
    both, in bytes.
    """

    anchors: int
    at: int
    source: int


def _mix(low: np.ndarray, high: np.ndarray) -> np.ndarray:
    with np.errstate(over="ignore"):
        mixed = (low * ODD[0]) ^ ((high + ODD[1]) * ODD[1])
        return mixed ^ (mixed >> np.uint64(29))


def _keys(layer: bytes) -> np.ndarray:
    """Return the key of the block at every offset."""
    keys = np.empty(max(len(layer) - BLOCK + 1, 0), np.uint64)
    for phase in range(min(8, len(keys))):
        words = np.frombuffer(layer, "<u8", (len(layer) - phase) // 8, phase)
        keys[phase::8] = _mix(words[:-1], words[1:])
    return keys


class Anchors:
    """The anchors of a text, ready to be looked up; those that other text (training data) holds as
    well say nothing and are left out.
    """

    def __init__(self, text: bytes, other: bytes = b""):
        """Cut the text into blocks; keep those that are neither monotonous nor, at any offset, in
        the other text.
        """
        blocks = len(text) // BLOCK
        bytes_NB = np.sort(np.frombuffer(text, np.uint8, blocks * BLOCK).reshape(-1, BLOCK), axis=1)
        kinds_N = 1 + (bytes_NB[:, 1:] != bytes_NB[:, :-1]).sum(axis=1)
        halves_N2 = np.frombuffer(text, "<u8", blocks * 2).reshape(-1, 2)
        self.every = _mix(halves_N2[:, 0], halves_N2[:, 1])  # by number
        self._index(np.flatnonzero(kinds_N >= LEAST_KINDS))
        if other:
            common = np.unique(self.every[self._find(_keys(other))[1]])
            self._index(np.sort(self.numbers[~np.isin(self.keys, common)]))

    def _index(self, kept: np.ndarray) -> None:
        self.numbers = kept[np.argsort(self.every[kept], kind="stable")]
        self.keys = self.every[self.numbers]
        self.shift = np.uint64(64 - min(max(len(kept).bit_length() + 3, 8), 27))
        self.sieve = np.zeros(1 << (64 - int(self.shift)), bool)
        self.sieve[self.keys >> self.shift] = True
        self.own = np.zeros(len(self.every), bool)
        self.own[kept] = True

    def _find(self, keys: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return the offsets whose block is an anchor, and the anchors' numbers."""
        maybe = np.flatnonzero(self.sieve[keys >> self.shift])
        place = np.searchsorted(self.keys, keys[maybe])
        inside = place < len(self.keys)
        maybe, place = maybe[inside], place[inside]
        same = self.keys[place] == keys[maybe]
        return maybe[same], self.numbers[place[same]]

    def longest(self, layer: bytes) -> Run:
        """Return the longest stretch of the text inside a layer, at any offset; it begins and goes
        on with blocks of its own.
        """
        keys, best = _keys(layer), Run(0, 0, 0)
        offsets, numbers = self._find(keys)
        for offset, number in zip(
            offsets[:MOST_HITS].tolist(), numbers[:MOST_HITS].tolist(), strict=True
        ):
            if (
                best.anchors
                and best.at < offset < best.at + BLOCK * best.anchors
                and (offset - best.at) % BLOCK == 0
            ):
                continue  # inside the stretch already measured
            count = 1
            while (
                offset + BLOCK * count < len(keys)
                and number + count < len(self.own)
                and self.own[number + count]
            ):
                if keys[offset + BLOCK * count] != self.every[number + count]:
                    break
                count += 1
            if count > best.anchors:
                best = Run(count, offset, number * BLOCK)
        return best


def _unpacked(data: bytes) -> bytes | None:
    """Return what a zlib, lzma, bz2 or raw deflate stream at the start of the data holds, at most
    MOST_BYTES of it.
    """
    makers = []
    if data[:1] == b"\x78":
        makers.append(zlib.decompressobj)
    if data[:2] == b"\x1f\x8b":
        makers.append(lambda: zlib.decompressobj(31))
    if data[:3] == b"BZh":
        makers.append(bz2.BZ2Decompressor)
    if data[:6] == b"\xfd7zXZ\x00" or data[:3] == b"\x5d\x00\x00":
        makers.append(lambda: lzma.LZMADecompressor(lzma.FORMAT_AUTO, memlimit=1 << 28))
    for make in makers:
        try:
            found = make().decompress(data, MOST_BYTES)
        except (zlib.error, lzma.LZMAError, OSError, EOFError, ValueError):
            continue
        if len(found) >= BLOCK:
            return found
    return None


def _decoded(text: bytes) -> Iterator[bytes]:
    """Yield the readings of a string as base64, base85 or hexadecimal."""
    compact = re.sub(rb"\s+", b"", text)
    for decode in (
        lambda data: base64.b64decode(data, validate=True),
        base64.b85decode,
        base64.a85decode,
        binascii.unhexlify,
    ):
        try:
            found = decode(compact)
        except (ValueError, binascii.Error):
            continue
        if len(found) >= BLOCK:
            yield found


def layers(name: str, data: bytes) -> Iterator[tuple[str, bytes]]:
    """Yield (where, bytes): the data, what it unpacks to, and for Python every long string and list
    of integers, decoded, layer by layer.
    """
    waiting, given, room = [(name, data, 0)], 0, 2 * MOST_BYTES
    while waiting and given < MOST_LAYERS:
        where, layer, depth = waiting.pop(0)
        given, room = given + 1, room - len(layer)
        if len(layer) < LEAST_RUN * BLOCK or room < 0:
            continue
        yield where, layer
        if depth < MOST_DEPTH:
            inner = _unpacked(layer)
            if inner is not None:
                waiting.append((f"{where}, unpacked", inner, depth + 1))
            if (name.endswith(".py") and depth == 0) or (depth and b"import " in layer[:4096]):
                waiting += [
                    (f"{where}, {kind}", value, depth + 1) for kind, value in literals(layer)
                ]
            elif len(layer) < MOST_TEXT:
                whole = [layer] if depth else []
                waiting += [
                    (f"{where}, decoded", value, depth + 1)
                    for piece in (*whole, *BASE64.findall(layer))
                    for value in _decoded(piece)
                ]


def literals(source: bytes) -> list[tuple[str, bytes]]:
    """Return the long strings of a program and its long lists of integers as uint16, longest
    first.
    """
    found = []
    try:
        tree = ast.parse(source)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return found
    for node in ast.walk(tree):
        if (
            isinstance(node, ast.Constant)
            and isinstance(node.value, str | bytes)
            and len(node.value) >= LEAST_STRING
        ):
            value = (
                node.value
                if isinstance(node.value, bytes)
                else node.value.encode("utf-8", "surrogatepass")
            )
            found.append((f"line {node.lineno}", value))
        elif isinstance(node, ast.List | ast.Tuple | ast.Set):
            values = [item.value if isinstance(item, ast.Constant) else None for item in node.elts]
            if len(values) >= LEAST_LIST and all(
                type(value) is int and 0 <= value < 65_536 for value in values
            ):
                found.append((f"line {node.lineno}", np.array(values, "<u2").tobytes()))
            elif (
                all(isinstance(value, str) for value in values)
                and sum(map(len, values)) >= LEAST_STRING
            ):
                found.append(
                    (f"line {node.lineno}", "".join(values).encode("utf-8", "surrogatepass"))
                )
    return sorted(found, key=lambda item: -len(item[1]))


def spellings(layer: bytes) -> Iterator[bytes]:
    """Yield a layer as ids may be stored in it: 16 bits little-endian, then big-endian, 32 bits, 64
    bits and one byte each.
    """
    yield layer
    for phase in range(min(2, len(layer) - 1)):
        little = np.frombuffer(layer, "<u2", (len(layer) - phase) // 2, phase)
        for words, widths in ((little, (2, 4)), (little.byteswap(), (1, 2, 4))):
            yield from (words[start::width].tobytes() for width in widths for start in range(width))
