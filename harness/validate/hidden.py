"""Validation text hidden in an artifact or in code: long exact matches, as text or as token ids,
against what training text matches.

Anchors are blocks of 16 bytes cut from the text end to end, so that hidden text holds every anchor
within it, wherever it begins. What was encrypted or stored in a coding of its own is not found.
"""

import ast
import base64
import binascii
import re
from collections.abc import Iterator
from functools import partial
from typing import NamedTuple

import numpy as np

from harness.validate.archives import Bomb, contents
from harness.validate.source import parse

BLOCK = 16  # bytes of an anchor
LEAST_KINDS = 6  # different bytes in an anchor: fewer are runs and rulers, which match anywhere
LEAST_RUN = 4  # anchors end to end: 64 bytes of text, 32 tokens
MOST_HITS = 100_000  # blocks followed in one layer
MOST_TEXT = 1 << 26  # bytes of a layer that is read as text
MOST_BYTES = 1 << 29  # of all layers of one file
MOST_LAYERS = 4096  # decoded layers of one file
MOST_DEPTH = 4
LEAST_STRING = 48  # characters of a string worth decoding
LEAST_LIST = 16  # integers in a row that may be token ids
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
                and keys[offset + BLOCK * count] == self.every[number + count]
            ):
                count += 1
            if count > best.anchors:
                best = Run(count, offset, number * BLOCK)
        return best


def _decoded(text: bytes) -> Iterator[bytes]:
    """Yield the readings of a string as base64, base85 or hexadecimal."""
    compact = re.sub(rb"\s+", b"", text)
    validated = partial(base64.b64decode, validate=True)
    for decode in (validated, base64.b85decode, base64.a85decode, binascii.unhexlify):
        try:
            yield decode(compact)
        except ValueError:
            continue


def layers(name: str, data: bytes) -> Iterator[tuple[str, bytes]]:
    """Yield (where, bytes): the data, what is packed in it, and for Python every long string and
    list of integers, decoded, layer by layer.
    """
    waiting, number, left = [(name, data, 0)], 0, MOST_BYTES
    while waiting:
        path, packed, depth = waiting.pop(0)
        for where, layer in _unpacked(path, packed):
            number += 1
            if number > MOST_LAYERS:
                return
            if not LEAST_RUN * BLOCK <= len(layer) <= left:
                continue
            left -= len(layer)
            yield where, layer
            if depth == MOST_DEPTH:
                continue
            if name.endswith(".py") if depth == 0 else b"import " in layer[:4096]:
                inner = literals(layer)
            elif len(layer) < MOST_TEXT:
                pieces = [layer] * (depth > 0) + BASE64.findall(layer)
                inner = (("decoded", text) for piece in pieces for text in _decoded(piece))
            else:
                inner = ()
            waiting += [(f"{where}, {kind}", value, depth + 1) for kind, value in inner]


def _unpacked(name: str, data: bytes) -> Iterator[tuple[str, bytes]]:
    try:
        yield from contents(name, data, [])
    except Bomb:  # another check names it
        return


def literals(source: bytes) -> list[tuple[str, bytes]]:
    """Return the long strings of a program and its long lists of integers as uint16, longest
    first.
    """
    values = []
    for node in parse("", source).nodes:
        value = b""
        if isinstance(node, ast.Constant):
            value = _encoded([node.value])
        elif isinstance(node, ast.List | ast.Tuple | ast.Set):
            items = [item.value if isinstance(item, ast.Constant) else None for item in node.elts]
            ids = all(type(item) is int and 0 <= item < 65_536 for item in items)
            if ids and len(items) >= LEAST_LIST:
                value = np.array(items, "<u2").tobytes()
            else:
                value = _encoded(items)
        if value:
            values.append((f"line {node.lineno}", value))
    return sorted(values, key=lambda item: -len(item[1]))


def _encoded(items: list) -> bytes:
    """Return texts or bytes put together, b"" where they are neither or too short."""
    if not all(isinstance(item, str | bytes) for item in items):
        return b""
    texts = [i if isinstance(i, bytes) else i.encode("utf-8", "surrogatepass") for i in items]
    return b"".join(texts) if sum(map(len, texts)) >= LEAST_STRING else b""


def spellings(layer: bytes) -> Iterator[bytes]:
    """Yield a layer as ids may be stored in it: 16 bits little-endian, then big-endian, 32 bits, 64
    bits and one byte each.
    """
    yield layer
    for phase in range(min(2, len(layer) - 1)):
        little = np.frombuffer(layer, "<u2", (len(layer) - phase) // 2, phase)
        for words, widths in ((little, (2, 4)), (little.byteswap(), (1, 2, 4))):
            yield from (words[start::width].tobytes() for width in widths for start in range(width))
