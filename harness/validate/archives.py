"""Archives and compressed streams, unpacked within limits."""

import io
import tarfile
import zipfile
from collections.abc import Iterator

from harness import bounded

MAX_UNPACKED = 1 << 29  # bytes that one file may unpack to: 134 million parameters in float32
MAX_RATIO = 1_000  # bytes out for one byte in, beyond MIN_BOMB
MIN_BOMB = 1 << 25  # bytes; a smaller result harms nobody whatever its ratio
MAX_MEMBERS = 10_000
# of zip: the others unpack more than a member announces, however little is read of them
BOUNDED = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)
MAX_NESTED = 4  # compressed streams and archives inside one another


class Bomb(Exception):
    """A stream that unpacks to more than anybody should unpack."""


def contents(name: str, data: bytes, unread: list[str]) -> Iterator[tuple[str, bytes]]:
    """Yield (where, bytes) of a file and what is packed in it, at every depth; Bomb where that is
    too much or too deep. What does not open is named in `unread`.
    """
    yield name, data
    members, left, levels = 0, MAX_UNPACKED, [_packed(name, data, unread)]
    while levels:
        where, part = next(levels[-1], (None, b""))
        if where is None:
            levels.pop()
            continue
        members, left = members + 1, left - len(part)
        if len(levels) > MAX_NESTED or members > MAX_MEMBERS or left < 0:
            raise Bomb(
                f"{where}: everything packed in one file is more than {MAX_NESTED} levels,"
                f" {MAX_MEMBERS:,} members or {MAX_UNPACKED:,} bytes"
            )
        yield where, part
        levels.append(_packed(where, part, unread))


def _packed(name: str, data: bytes, unread: list[str]) -> Iterator[tuple[str, bytes]]:
    """Yield what lies packed in a file, one level deep."""
    try:
        if data.startswith((b"PK\x03\x04", b"PK\x05\x06")):
            yield from _zip_members(name, data, unread)
        elif bounded.decompressor(data) is not None:
            yield from _stream(name, data)
        elif _is_tar(data):
            yield from _tar_members(name, data)
        elif data.startswith(b"\x28\xb5\x2f\xfd"):
            unread.append(f"{name} is a zstd stream, which is not unpacked here")
    except Bomb:
        raise
    except Exception as error:  # zipfile and tarfile raise whatever the bytes provoke
        unread.append(f"{name} does not open as an archive ({type(error).__name__})")


def _is_tar(data: bytes) -> bool:
    """Return whether bytes are a tar archive; tarfile.is_tarfile would unpack compressed ones."""
    try:
        with tarfile.open(fileobj=io.BytesIO(data), mode="r:"):
            return True
    except tarfile.TarError:
        return False


def _limit(name: str, packed: int, unpacked: int) -> None:
    """Raise Bomb where so many bytes become too many."""
    if unpacked > MAX_UNPACKED or unpacked > max(MIN_BOMB, MAX_RATIO * packed):
        raise Bomb(f"{name}: {packed:,} bytes unpack to {unpacked:,} or more")


def _stream(name: str, data: bytes) -> Iterator[tuple[str, bytes]]:
    unpacked = bytearray()
    for chunk in bounded.unpacked(data):
        unpacked += chunk
        _limit(name, len(data), len(unpacked))
    if unpacked:
        yield f"{name}[unpacked]", bytes(unpacked)


def _zip_members(name: str, data: bytes, unread: list[str]) -> Iterator[tuple[str, bytes]]:
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        members = archive.infolist()
        _limit(name, len(data), sum(member.file_size for member in members))
        if len(members) > MAX_MEMBERS:
            raise Bomb(f"{name}: {len(members):,} members, more than {MAX_MEMBERS:,}")
        for member in members:
            where = f"{name}/{member.filename}"
            if member.compress_type not in BOUNDED:
                unread.append(f"{where} is of a method that unpacks without a limit")
                continue
            try:
                with archive.open(member) as file:
                    yield where, file.read(member.file_size)  # no more than is announced
            except Exception as error:  # damaged, encrypted, or of an unknown method
                unread.append(f"{where} does not open ({type(error).__name__})")


def _tar_members(name: str, data: bytes) -> Iterator[tuple[str, bytes]]:
    """Yield the files of a tar archive; of a link, the place that it leads to."""
    with tarfile.open(fileobj=io.BytesIO(data), mode="r:") as archive:
        for member in archive:
            if member.issym() or member.islnk():
                yield f"{name}/{member.linkname}", b""
            file = archive.extractfile(member) if member.isreg() else io.BytesIO()
            yield f"{name}/{member.name}", file.read(MAX_UNPACKED + 1)
