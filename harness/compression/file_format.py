"""The file that `maskgolf compress` writes: a fingerprint of what it depends on, sizes, raw spans,
code words, and a checksum over all of it.

magic, then FIXED, then varints: bytes of text, tokens, bytes of the raw part (and, where there is
one, its codec and stored size); the raw part; the code words; CRC-32 of everything before. Numbers
are little-endian, varints carry seven bits per byte, lowest first.
"""

import lzma
import struct
import zlib
from typing import NamedTuple

from harness.compression.coder import ORDERS
from harness.compression.fingerprint import Fingerprint
from reference.recipe import InputError

MAGIC = b"mgz\x02"  # the last byte is the version
FIXED = struct.Struct("<BBB4s4s3s3s4s8s")
MAX_BYTES = 2**27  # of text, which bounds every allocation
STORED, LZMA = 0, 1
FILTERS = [{"id": lzma.FILTER_LZMA2, "preset": 6}]


class Stream(NamedTuple):
    """The parts of a compressed file."""

    order: str
    rows: int
    threads: int
    fingerprint: Fingerprint
    digest: bytes  # first 8 bytes of the text's SHA-256
    size: int  # bytes of text
    tokens: int
    raw: list[tuple[int, bytes]]
    words: bytes


def _varint(value: int) -> bytes:
    out = bytearray()
    while value > 127:
        out.append(value & 127 | 128)
        value >>= 7
    return bytes([*out, value])


class _Reader:
    """Reads fields one after the other; a malformed one is an InputError."""

    def __init__(self, data: bytes, where: str):
        self.data, self.offset, self.where = data, 0, where

    def damaged(self, expected: object, found: object) -> InputError:
        return InputError(f"{self.where}: expected {expected}, found {found}; the file is damaged")

    def take(self, count: int) -> bytes:
        if count > len(self.data) - self.offset:
            raise self.damaged(f"{count} bytes more", len(self.data) - self.offset)
        self.offset += count
        return self.data[self.offset - count : self.offset]

    def varint(self, most: int, what: str) -> int:
        value = shift = 0
        while True:
            byte = self.take(1)[0]
            value |= (byte & 127) << shift
            shift += 7
            if value > most or shift > 63:
                raise self.damaged(f"at most {most:,} {what}", "more")
            if byte < 128:
                return value


def pack_raw(raw: list[tuple[int, bytes]]) -> bytes:
    """Return the raw part: (tokens since the last span, length) of each span, then the bytes of
    all; as it is or under lzma, the smaller.
    """
    if not raw:
        return _varint(0)
    plain, last = bytearray(_varint(len(raw))), 0  # grows in place: there may be millions of spans
    for before, part in raw:
        plain += _varint(before - last) + _varint(len(part))
        last = before
    plain += b"".join(part for _, part in raw)
    coded = {STORED: bytes(plain), LZMA: lzma.compress(plain, lzma.FORMAT_RAW, filters=FILTERS)}
    codec = min(coded, key=lambda codec: len(coded[codec]))
    return _varint(len(plain)) + bytes([codec]) + _varint(len(coded[codec])) + coded[codec]


def _unpack_raw(reader: _Reader, size: int, tokens: int) -> list[tuple[int, bytes]]:
    # A span of n bytes takes n + 2, and at most one more for every 64 tokens before it or bytes in
    # it.
    plain_bytes = reader.varint(4 * size + 64, "bytes of raw spans")
    if not plain_bytes:
        return []
    codec = reader.take(1)[0]
    stored = reader.take(reader.varint(2 * plain_bytes + 64, "bytes of stored raw spans"))
    if codec == LZMA:
        decoder = lzma.LZMADecompressor(lzma.FORMAT_RAW, filters=FILTERS)
        try:
            plain = decoder.decompress(stored, plain_bytes + 1)
        except (lzma.LZMAError, EOFError) as error:
            raise reader.damaged("raw spans under lzma", error) from error
        complete = decoder.eof and not decoder.unused_data
    else:
        plain, complete = stored, codec == STORED
    if len(plain) != plain_bytes or not complete:
        raise reader.damaged(f"{plain_bytes} bytes of raw spans", f"{len(plain)}, codec {codec}")
    spans = _Reader(plain, reader.where)
    count = spans.varint(size, "raw spans")
    table = [(spans.varint(tokens, "tokens"), spans.varint(size, "bytes")) for _ in range(count)]
    raw, before = [], 0
    for gap, length in table:
        before += gap
        raw.append((before, spans.take(length)))
    if spans.offset != plain_bytes or before > tokens or not all(part for _, part in raw):
        raise reader.damaged("raw spans within the text", "others")
    return raw


def pack(stream: Stream) -> bytes:
    """Return the bytes of a file."""
    order = ORDERS.index(stream.order)
    body = MAGIC + FIXED.pack(
        order, stream.rows, stream.threads, *stream.fingerprint, stream.digest
    )
    body += _varint(stream.size) + _varint(stream.tokens) + pack_raw(stream.raw) + stream.words
    return body + struct.pack("<I", zlib.crc32(body))


def unpack(data: bytes, where: str) -> Stream:
    """Return the parts of a file; one that pack() did not write is an InputError."""
    reader = _Reader(data[:-4], where)
    if data[:3] != MAGIC[:3]:
        raise InputError(
            f"{where}: expected a file made by maskgolf compress, found {data[:4]!r} at its start;"
            " name a .mgz file"
        )
    if data[3:4] != MAGIC[3:]:
        raise InputError(
            f"{where}: expected format version {MAGIC[3]}, found {data[3:4].hex() or 'the end'};"
            " use the release that made it"
        )
    if len(data) < 8 or zlib.crc32(data[:-4]) != int.from_bytes(data[-4:], "little"):
        raise reader.damaged("a file whose checksum fits", "another")
    reader.take(len(MAGIC))
    order, rows, threads, *prints, digest = FIXED.unpack(reader.take(FIXED.size))
    if order >= len(ORDERS) or not rows or not threads:
        raise reader.damaged("an order, rows and threads", (order, rows, threads))
    size = reader.varint(MAX_BYTES, "bytes of text")
    tokens = reader.varint(2 * size + 16, "tokens")
    raw = _unpack_raw(reader, size, tokens)
    words = reader.take(len(reader.data) - reader.offset)
    if len(words) % 4:
        raise reader.damaged("whole code words of 4 bytes", f"{len(words)} bytes")
    return Stream(
        ORDERS[order], rows, threads, Fingerprint(*prints), digest, size, tokens, raw, words
    )
