"""Files read, and streams unpacked, within a limit."""

import bz2
import lzma
import os
import zlib
from collections.abc import Iterator
from pathlib import Path

from harness import paths
from reference.recipe import InputError

CHUNK = 1 << 20  # bytes unpacked at once
MOST_STREAMS = 1_000  # one after the other: each copies what follows it
MOST_MEMORY = 1 << 29  # bytes that an lzma stream may ask for
XZ = b"\xfd7zXZ\x00"
# an lzma file has no magic number: its usual properties, and the sizes of its dictionary
LZMA = tuple(b"\x5d" + (1 << bits).to_bytes(4, "little") for bits in range(16, 27))


def read(path: Path, most: int, what: str, advice: str) -> bytes:
    """Return the bytes of a file; one larger than `most`, or that cannot be read, is an InputError.
    what: "bytes", "bytes of weights".
    """
    try:
        with open(path, "rb") as file:
            size = os.fstat(file.fileno()).st_size
            data = file.read(most + 1) if size <= most else b""  # a device has no size, and no end
        if max(size, len(data)) > most:
            raise InputError(
                f"{path}: expected at most {most:,} {what}, found"
                f" {f'{size:,}' if size > most else 'more'}; {advice}"
            )
        return data
    except OSError as error:
        raise paths.unreadable(path, error) from error


def decompress(machine, data: bytes, most: int) -> bytes:
    """Return what a decompressor object of the standard library makes of data; InputError beyond
    `most` bytes.
    """
    return within(machine.decompress(data, most + 1), most)


def within(unpacked: bytes, most: int) -> bytes:
    """Return what was unpacked; InputError beyond `most` bytes."""
    if len(unpacked) > most:
        raise InputError(f"expected at most {most:,} bytes unpacked, found more")
    return unpacked


def decompressor(data: bytes):
    """Return an object that unpacks this stream; None where it is none of zlib, gzip, bz2, xz,
    lzma.
    """
    if data.startswith(b"\x1f\x8b"):
        return zlib.decompressobj(zlib.MAX_WBITS | 16)
    if data.startswith(b"BZh"):
        return bz2.BZ2Decompressor()
    if data.startswith((XZ, *LZMA)):
        return lzma.LZMADecompressor(memlimit=MOST_MEMORY)
    deflate = len(data) > 2 and data[0] & 0x0F == 8 and data[0] >> 4 <= 7
    return zlib.decompressobj() if deflate and (data[0] << 8 | data[1]) % 31 == 0 else None


def unpacked(data: bytes) -> Iterator[bytes]:
    """Yield, a mebibyte at a time, what a compressed stream holds and the streams that follow it;
    damage ends it, too many streams are an InputError.
    """
    streams = 0
    while (machine := decompressor(data)) is not None:
        streams += 1
        if streams > MOST_STREAMS:
            raise InputError(f"expected at most {MOST_STREAMS:,} compressed streams, found more")
        pending, position = b"", 0
        while not machine.eof:
            if not pending and position < len(data):
                pending, position = data[position : position + CHUNK], position + CHUNK
            try:
                chunk = machine.decompress(pending, CHUNK)
            except (OSError, EOFError, zlib.error, lzma.LZMAError, ValueError):
                return
            yield chunk
            pending = getattr(machine, "unconsumed_tail", b"")
            waiting = bool(pending) or not getattr(machine, "needs_input", True)
            if not chunk and not waiting and position >= len(data):
                return
        data = machine.unused_data + data[position:]
