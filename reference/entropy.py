"""Reads the codec entropy: symbols in a stack of bits (asymmetric numeral systems, Duda 2013), by
tables of their counts.

Bytes are coded by their counts in their tensor. Integers (of the format uniform) are coded by their
counts among all of like spread: each row and each column of a tensor has a class, and they add up
to the class of an integer.
"""

from bisect import bisect_right

import numpy as np

from reference.recipe import InputError

STRIDES = (1, 2, 4)  # a table for each byte of elements of one, two or four bytes; 0: plain bytes
BY_SPREAD = 3  # stands where a stride would
CLASSES = 64
ALIKE = 32  # the class of a column like the others
PRECISION = 24  # bits of a probability
WORD = 32  # bits that the stack grows by


def expect(condition, rule):
    """Raise InputError unless the condition holds."""
    if not condition:
        raise InputError(f"payload: expected {rule} (entropy), found others; the file is damaged")


class Reader:
    """Takes numbers and tables from the front of the data."""

    def __init__(self, data):
        self.data, self.place = data, 0

    def take(self, count):
        """Return the next `count` bytes."""
        expect(self.place + count <= len(self.data), "more bytes")
        self.place += count
        return np.frombuffer(self.data, np.uint8, count, self.place - count)

    def number(self, size):
        """Return the next number of `size` bytes, little-endian."""
        return int.from_bytes(self.take(size).tobytes(), "little")

    def weights(self, symbols=256):
        """Return the weights of so many symbols: a bitmap of those that occur, then a byte for each
        of them: up to 15 as it is, then (16 + low four bits) 2^(high four bits - 1).
        """
        present = np.unpackbits(self.take(-(-symbols // 8)), count=symbols).astype(bool)
        codes = self.take(int(present.sum())).astype(np.int64)
        expect(len(codes) and (codes > 0).all(), "counts of what occurs")
        weights = np.zeros(symbols, np.int64)
        large = (16 + codes % 16) << np.maximum(codes // 16 - 1, 0)
        weights[present] = np.where(codes < 16, codes, large)
        expect(weights.sum() <= 2**19, "counts of at most 2^19 in all")
        return weights


class Stack:
    """The coded symbols, the next one on top."""

    def __init__(self, data):
        expect(len(data) % 4 == 0, "whole code words")
        self.words, self.state = np.frombuffer(data, "<u4").tolist(), 0
        expect(not self.words or self.words[-1] > 0, "a last word above zero")
        while self.words and self.state < 1 << WORD:
            self.state = self.state << WORD | self.words.pop()

    def pop(self, weights, count):
        """Return the next symbols of one table. A symbol owns the codes from its edge to the next
        one: those of 2^PRECISION in proportion to its weight, rounded down in float32, and one.
        """
        used = np.flatnonzero(weights)
        if len(used) == 1:
            return np.full(count, used[0])
        kept = weights[used].astype(np.float32)
        scale = np.float32(2**PRECISION - len(kept)) / kept.sum()
        below = np.concatenate([[0], np.cumsum(kept[:-1], dtype=np.float32)]).astype(np.float32)
        edges = [*((below * scale).astype(np.int64) + np.arange(len(kept))).tolist(), 2**PRECISION]
        ranks = np.empty(count, np.int64)
        for i in range(count):
            code = self.state % 2**PRECISION
            k = ranks[i] = bisect_right(edges, code) - 1
            size = edges[k + 1] - edges[k]
            self.state = (self.state >> PRECISION) * size + code - edges[k]
            if self.state < 1 << WORD and self.words:
                self.state = self.state << WORD | self.words.pop()
        return used[ranks]


def class_of(class_R, class_C):
    """Return the class of each integer (R, C): 0 in a row or a column of zeros."""
    sums_RC = np.add.outer(class_R.astype(np.int64), class_C.astype(np.int64)) - ALIKE
    kind_RC = np.clip(sums_RC, 1, CLASSES - 1)
    return kind_RC * np.logical_and.outer(class_R > 0, class_C > 0)


def read_bytes(reader, count):
    """Return (bytes, jobs) of some bytes: plain, or to be filled in; a job is (where, weights)."""
    out, stride = np.zeros(count, np.uint8), reader.number(1)
    if stride == 0:
        out[:] = reader.take(count)
        return out, []
    expect(stride in STRIDES and stride <= count, f"a stride of {STRIDES}")
    return out, [(out[phase::stride], reader.weights()) for phase in range(stride)]


def read_class(reader):
    """Return (reach, weights, integers beyond) of a class. Symbols are -reach to reach, then one
    for all integers beyond, which follow as they are; k and -k have half of their count each.
    """
    reach, large = reader.number(2), reader.number(4)
    weights = reader.weights(reach + 2)
    zero, either, beyond = weights[:1], weights[1:-1], weights[-1:]
    mirrored = np.concatenate([either[::-1], 2 * zero, either, 2 * beyond])
    return reach, mirrored, reader.take(2 * large).view("<i2")


def integers_of(kinds, described, stack):
    """Return the integers of all tensors, end to end: of each class those in order."""
    integers = np.zeros(len(kinds), "<i2")
    expect(sorted(set(kinds.tolist()) - {0}) == sorted(described), "a table for every class")
    for kind, (reach, weights, beyond) in sorted(described.items()):
        symbols = stack.pop(weights, int((kinds == kind).sum()))
        large = symbols > 2 * reach
        expect(large.sum() == len(beyond), "as many large integers as the symbols say")
        found = symbols - reach
        found[large] = beyond
        integers[kinds == kind] = found
    return integers


def read_grids(reader, grids):
    """Return (streams, jobs, described) of tensors of integers: bytes of all exponents, classes of
    all rows and of all columns, to be filled in; {class: what read_class returns}.
    """
    streams, jobs = [], []
    rows, widths = (sum(grid[i] for grid in grids) for i in (1, 2))
    for size in (2 * (rows + widths), rows, widths):
        stream, more = read_bytes(reader, size)
        streams.append(stream)
        jobs += more
    present = np.unpackbits(reader.take(CLASSES // 8))
    return streams, jobs, {k: read_class(reader) for k in np.flatnonzero(present).tolist()}


def fill(pieces, grids, streams, described, stack):
    """Put the tensors of integers where they belong: exponents, then integers."""
    heads, kinds = [], []
    for _, rows, width in grids:
        sizes = 2 * (rows + width), rows, width
        head, class_R, class_C = (part[:n] for part, n in zip(streams, sizes, strict=True))
        streams = [part[n:] for part, n in zip(streams, sizes, strict=True)]
        heads.append(head)
        kinds.append(class_of(class_R, class_C).ravel())
    integers = integers_of(np.concatenate(kinds), described, stack)
    for (place, rows, width), head in zip(grids, heads, strict=True):
        own, integers = integers[: rows * width], integers[rows * width :]
        pieces[place] = np.concatenate([head, own.view(np.uint8)])


def decompress(data, boundaries, columns):
    """Return the raw bytes of tensors that end at the boundaries; columns: of each one that holds
    integers, an int16 for each row, each column and each value, else 0.
    """
    reader, pieces, jobs, grids = Reader(data), [], [], []
    for size, width in zip(np.diff([0, *boundaries]).tolist(), columns, strict=True):
        piece, more = None, []
        if width and size:
            expect(reader.number(1) == BY_SPREAD, "integers")
            grids.append((len(pieces), (size - 2 * width) // (2 * width + 2), width))
        else:
            piece, more = read_bytes(reader, size)
        pieces.append(piece)
        jobs += more
    streams, more, described = read_grids(reader, grids) if grids else ([], [], {})
    stack = Stack(data[reader.place :])
    for where, weights in jobs + more:
        where[:] = stack.pop(weights, len(where))
    if grids:
        fill(pieces, grids, streams, described, stack)
    expect(stack.state == 0 and not stack.words, "no code words left")
    return b"".join(piece.tobytes() for piece in pieces)
