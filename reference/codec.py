"""Lossless codecs for the payload of an artifact: those of the standard library, which the fast
half has byte for byte, and the entropy codec, which is read alone.
"""

import lzma
import zlib

from reference import entropy
from reference.recipe import LZMA_MEMORY, InputError

CODECS = ("none", "zlib", "lzma")  # "best" tries them in this order; of equals the first wins


def _compress_one(raw: bytes, codec: str) -> bytes:
    """The bytes under one codec: as they are, zlib level 9, or lzma preset 6 (xz). An unknown codec
    is an InputError.
    """
    if codec not in CODECS:
        raise InputError(
            f"unknown codec {codec!r:.200}: expected one of {', '.join(CODECS)} or best"
        )
    if codec == "zlib":
        return zlib.compress(raw, 9)
    return lzma.compress(raw, preset=6) if codec == "lzma" else bytes(raw)


def compress(raw: bytes, boundaries: list[int], codec: str = "best") -> tuple[bytes, str]:
    """Compressed bytes and the codec that made them; "best" is the smallest. boundaries: ends of
    the tensors (no codec here needs them).
    """
    names = CODECS if codec == "best" else (codec,)
    return min(((_compress_one(raw, name), name) for name in names), key=lambda pair: len(pair[0]))


def decompress(
    data: bytes, raw_bytes: int, boundaries: list[int], codec: str, columns: list[int] | None = None
) -> bytes:
    """Inverse of compress; makes at most raw_bytes + 1 bytes. Anything but exactly raw_bytes is an
    InputError. columns: as in entropy.decompress, which the others do not need.
    """
    if codec == "entropy":
        return entropy.decompress(data, boundaries, columns or [0] * len(boundaries))
    if codec not in CODECS:
        known = ", ".join((*CODECS, "entropy"))
        raise InputError(f"unknown codec {codec!r:.200}: expected one of {known}")
    raw, complete = bytes(data), True
    if codec != "none":
        decoder = (
            zlib.decompressobj()
            if codec == "zlib"
            else lzma.LZMADecompressor(lzma.FORMAT_XZ, memlimit=LZMA_MEMORY)
        )
        try:
            raw = decoder.decompress(data, raw_bytes + 1)
        except (zlib.error, lzma.LZMAError, EOFError) as error:
            raise InputError(
                f"payload: expected {raw_bytes} bytes ({codec}), found {error}; the file is damaged"
            ) from error
        complete = decoder.eof and not decoder.unused_data
    if len(raw) != raw_bytes or not complete:
        raise InputError(
            f"payload: expected {raw_bytes} bytes ({codec}), found {len(raw)} or bytes left over;"
            " the file is damaged"
        )
    return raw
