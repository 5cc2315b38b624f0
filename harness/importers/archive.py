"""Foreign files read and unpacked within bounds."""

import contextlib
import io
import lzma
import zlib
from pathlib import Path

from fast import container
from harness import bounded
from reference.recipe import InputError

MAX_BYTES = container.MAX_RAW  # of a file, and of what it unpacks to
LZMA_MEMORY = 1 << 28  # bytes the decoder may take; preset 9 needs 65 MB
XZ, ZSTD = (b"\xfd7zXZ\x00", b"\x5d\x00\x00"), b"\x28\xb5\x2f\xfd"


def read(path: Path) -> bytes:
    """Return the bytes of a file of at most MAX_BYTES."""
    return bounded.read(path, MAX_BYTES, "bytes of weights", "this is no model of a few MB")


def _zstandard(where: str):
    """Return zstd's bounded reader: data -> what it unpacks to, at most MAX_BYTES + 1."""
    with contextlib.suppress(ImportError):
        from compression import zstd  # Python 3.14

        return lambda data: zstd.ZstdDecompressor().decompress(data, MAX_BYTES + 1)
    with contextlib.suppress(ImportError):
        import zstandard

        return lambda data: (
            zstandard.ZstdDecompressor(max_window_size=LZMA_MEMORY)
            .stream_reader(io.BytesIO(data))
            .read(MAX_BYTES + 1)
        )
    raise InputError(
        f"{where}: expected a reader for zstd, found none in this Python; pip install zstandard"
    )


def decompress(data: bytes, where: str) -> tuple[bytes, str]:
    """Return (content, zlib | lzma | zstd | none), the codec told by the first bytes; over
    MAX_BYTES or cut off is an InputError.
    """
    if len(data) > 1 and data[0] & 15 == 8 and int.from_bytes(data[:2], "big") % 31 == 0:
        codec, machine = "zlib", zlib.decompressobj()
    elif data.startswith(XZ):
        codec, machine = "lzma", lzma.LZMADecompressor(memlimit=LZMA_MEMORY)
    elif data.startswith(ZSTD):
        codec, machine = "zstd", None
    else:
        return data, "none"
    reader = None if machine else _zstandard(where)
    unpack = machine.decompress if machine else lambda data, _: reader(data)
    try:
        content = unpack(data, MAX_BYTES + 1)
    except Exception as error:  # each codec has an error of its own
        raise InputError(
            f"{where}: expected {codec} data, found something else ({str(error)[:200]}); the file"
            " is damaged"
        ) from error
    if len(content) > MAX_BYTES:
        raise InputError(
            f"{where}: expected at most {MAX_BYTES:,} bytes after {codec}, found more; this is no"
            " model of a few MB"
        )
    if machine and not machine.eof:
        raise InputError(
            f"{where}: expected the end of the {codec} data, found {len(content):,} bytes and no"
            " end; the file is cut off"
        )
    return content, codec
