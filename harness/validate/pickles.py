"""Pickles, listed opcode by opcode and never loaded; archives and compressed streams, unpacked
within limits.
"""

import bz2
import io
import lzma
import pickletools
import re
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Iterator
from typing import NamedTuple

MAX_UNPACKED = (
    1 << 29
)  # bytes that one stream may unpack to: float32 weights of 134 million parameters
MAX_RATIO = 1_000  # bytes out for one byte in, beyond MIN_BOMB
MIN_BOMB = 1 << 25  # bytes; a smaller result harms nobody whatever its ratio
MAX_MEMBERS = 10_000
MAX_PICKLE = (
    1 << 26
)  # bytes of a pickle that are listed: names and shapes, the weights lie beside it
MAX_OPCODES = 5_000_000
MAX_NESTED = 4  # compressed streams and archives inside one another
CHUNK = 1 << 20
SAFE = re.compile(
    r"torch\._utils\._rebuild_(tensor(_v2|_v3)?|parameter(_with_state)?|qtensor|sparse_tensor|device_tensor_from_numpy|wrapper_subclass)"
    r"|torch\._tensor\._rebuild_from_type_v2|torch\.(serialization\._get_layout|nn\.parameter\.(Parameter|Buffer)|Tensor|Size|device|dtype)"
    r"|torch\.(storage\.)?(Untyped|Typed|Float|Double|Half|BFloat16|Int|Long|Short|Char|Byte|Bool)Storage"
    r"|torch\.(storage\.)?(Complex(Float|Double)|QU?Int8|QInt32)Storage"
    r"|torch\.(float(16|32|64)?|bfloat16|half|double|u?int(8|16|32|64)?|long|short|bool|uint8|float8_\w+|complex\d+|strided)"
    r"|collections\.(OrderedDict|Counter|defaultdict)"
    r"|numpy(\.(_core|core)\.(multiarray|numeric))?\.(_reconstruct|_frombuffer|ndarray|dtype|scalar)"
    r"|numpy\.dtypes\.\w+DType|numpy\.(float|u?int)(8|16|32|64)|_codecs\.encode"
    r"|(builtins|__builtin__)\.(set|frozenset|bytearray|complex|slice|range|list|dict|tuple|int|float|str|bytes|bool)"
)
CALLING = ("REDUCE", "OBJ", "NEWOBJ", "NEWOBJ_EX")
MOST_BEFORE_CALL = 100_000  # opcodes looked at in files of any name
PICKLE_SUFFIXES = (
    ".pkl",
    ".pickle",
    ".joblib",
    ".pt",
    ".pth",
    ".ckpt",
    ".bin",
    ".p",
    ".dill",
    "[unpacked]",
)


class Listed(NamedTuple):
    """What the opcodes of a pickle name and call: dangerous globals with opcode and offset, the
    number of opcodes, why it stopped short.
    """

    dangers: list[str]
    opcodes: int
    error: str | None


class Bomb(Exception):
    """A stream that unpacks to more than anybody should unpack."""


def listed(data: bytes, where: str) -> Listed:
    """Return what a pickle would import, without importing anything. Strings on the stack are
    followed as far as STACK_GLOBAL needs.
    """
    dangers, strings, memo, count = [], [], {}, 0
    try:
        for opcode, argument, position in pickletools.genops(io.BytesIO(data)):
            count += 1
            if count > MAX_OPCODES:
                return Listed(dangers, count, f"more than {MAX_OPCODES:,} opcodes")
            name = opcode.name
            if name in ("GLOBAL", "INST"):
                found = str(argument).replace(" ", ".", 1)
            elif name == "STACK_GLOBAL":
                found = (
                    ".".join(strings[-2:])
                    if len(strings) >= 2 and None not in strings[-2:]
                    else "a name that is computed"
                )
            else:
                if name.startswith("EXT"):
                    dangers.append(f"{where}: {name} {argument} at byte {position}")
                _follow(name, argument, strings, memo)
                continue
            if not SAFE.fullmatch(found):
                dangers.append(f"{where}: {name} {found} at byte {position}")
            strings.append(None)
    except Exception as error:  # pickletools raises whatever the bytes provoke
        return Listed(dangers, count, f"{type(error).__name__}: {str(error)[:80]}")
    return Listed(dangers, count, None)


def _follow(name: str, argument: object, strings: list, memo: dict) -> None:
    """Keep the texts that STACK_GLOBAL may take, memo included; what is no text is None."""
    if name == "MEMOIZE":
        memo[len(memo)] = strings[-1] if strings else None
    elif name in ("PUT", "BINPUT", "LONG_BINPUT"):
        memo[argument] = strings[-1] if strings else None
    elif name in ("GET", "BINGET", "LONG_BINGET"):
        strings.append(memo.get(argument))
    elif isinstance(argument, str) and ("UNICODE" in name or "STRING" in name):
        strings.append(argument)
    elif name not in ("PROTO", "FRAME", "MARK", "STOP"):
        strings.append(None)
    del strings[:-64]


def is_pickle(name: str, data: bytes) -> bool:
    """Return whether bytes are a pickle: by the first bytes of protocol 2 and later, by opcodes
    that end well in a file of weights, or that call.
    """
    if len(data) > 2 and data[0] == 0x80 and data[1] <= 5:
        return True
    if name.lower().endswith(PICKLE_SUFFIXES) and data:
        found = listed(data[:MAX_PICKLE], name)
        if found.error is None and found.opcodes > 1:
            return True
    return calls(data[:MAX_PICKLE])


def calls(data: bytes) -> bool:
    """Return whether bytes, read as a pickle of any protocol, call something that they name: no
    text does that by accident.
    """
    named = marked = False
    try:
        for count, (opcode, argument, _) in enumerate(pickletools.genops(io.BytesIO(data))):
            plain = bool(re.fullmatch(r"[A-Za-z_][\w.]* [A-Za-z_][\w.]*", str(argument)))
            marked |= opcode.name == "MARK"
            named |= opcode.name == "STACK_GLOBAL" or (opcode.name == "GLOBAL" and plain)
            if (opcode.name == "INST" and marked and plain) or (named and opcode.name in CALLING):
                return True
            if count > MOST_BEFORE_CALL:
                return False
    except Exception:  # text, or whatever else is no pickle
        return False
    return False


def pickles_in(data: bytes) -> Iterator[tuple[int, bytes]]:
    """Yield the pickles that follow one another (torch.save's old format has five) with their
    offsets.
    """
    start = 0
    for _ in range(16):
        if not (len(data) > start + 2 and data[start] == 0x80 and data[start + 1] <= 5) and start:
            return
        piece = data[start : start + MAX_PICKLE]
        yield start, piece
        try:
            last = 0
            for count, (_, _, position) in enumerate(pickletools.genops(io.BytesIO(piece))):
                last = position
                if count > MAX_OPCODES:
                    return
        except Exception:  # the listing of this piece has said why
            return
        start += last + 1


def decompressor(data: bytes):
    """Return an object that unpacks this stream, None where it is none of zlib, gzip, bz2, xz,
    lzma.
    """
    if data[:2] == b"\x1f\x8b":
        return zlib.decompressobj(zlib.MAX_WBITS | 16)
    if data[:3] == b"BZh":
        return bz2.BZ2Decompressor()
    if data[:6] == b"\xfd7zXZ\x00" or (
        data[:1] == b"\x5d"
        and data[1:5]
        in (b"\x00\x00\x80\x00", b"\x00\x00\x00\x01", b"\x00\x00\x00\x04", b"\x00\x00\x10\x00")
    ):
        return lzma.LZMADecompressor(memlimit=MAX_UNPACKED)
    if (
        len(data) > 2
        and data[0] & 0x0F == 8
        and data[0] >> 4 <= 7
        and struct.unpack(">H", data[:2])[0] % 31 == 0
    ):
        return zlib.decompressobj()
    return None


def unpacked(data: bytes, where: str, keep: int = MAX_PICKLE) -> tuple[bytes, int]:
    """Return (the first `keep` bytes, how many there are) of a compressed stream; Bomb where there
    are too many.
    """
    stream, kept, total = decompressor(data), bytearray(), 0
    pending, fed = b"", 0
    while True:
        if not pending and fed < len(data):
            pending, fed = data[fed : fed + CHUNK], fed + CHUNK
        try:
            out = stream.decompress(pending, CHUNK)
        except (OSError, EOFError, zlib.error, lzma.LZMAError, ValueError):
            break
        pending = getattr(stream, "unconsumed_tail", b"")
        total += len(out)
        kept += out[: max(0, keep - len(kept))]
        if total > MAX_UNPACKED or (total > MIN_BOMB and total > MAX_RATIO * len(data)):
            raise Bomb(f"{where}: {len(data):,} bytes unpack to more than {total:,}")
        waiting = not getattr(stream, "needs_input", True)
        if (
            stream.eof and decompressor(stream.unused_data + data[fed:]) is not None
        ):  # another stream follows, which readers join on
            data, fed, pending = stream.unused_data + data[fed:], 0, b""
            stream = decompressor(data)
        elif stream.eof or (not out and not pending and not waiting and fed >= len(data)):
            break
    return bytes(kept), total


class Contents(NamedTuple):
    """A file, or something packed in one: where it is, its first bytes, its size."""

    where: str
    data: bytes
    size: int


def contents(
    name: str, data: bytes, unread: list[str], nested: int = 0, room: list[int] | None = None
) -> Iterator[Contents]:
    """Yield a file and what is packed in it; Bomb where that is too much or too deep. What does not
    open goes to unread.

    room: the bytes that all of it together, at every depth, may still unpack to.
    """
    room = [MAX_UNPACKED] if room is None else room
    yield Contents(name, data, len(data))
    if data[:4] in (b"PK\x03\x04", b"PK\x05\x06"):
        packed = _members(name, data, unread)
    elif decompressor(data) is not None:
        inner, total = unpacked(data, name)
        room[0] -= total - len(inner)  # what was unpacked and not kept
        packed = iter([(f"{name}[unpacked]", inner)]) if inner else iter(())
    elif data[257:262] == b"ustar" or name.lower().removesuffix("[unpacked]").endswith(
        (".tar", ".tar.gz", ".tgz", ".tar.xz", ".tar.bz2")
    ):
        packed = _tar_members(name, data, unread)
    else:
        if data[:4] == b"\x28\xb5\x2f\xfd":
            unread.append(f"{name} is a zstd stream, which is not unpacked here")
        return
    for where, inner in packed:
        if nested >= MAX_NESTED:
            raise Bomb(f"{where}: packed more than {MAX_NESTED} times")
        room[0] -= len(inner)
        if room[0] < 0:
            raise Bomb(
                f"{where}: everything packed in one file unpacks to more than {MAX_UNPACKED:,}"
                " bytes"
            )
        yield from contents(where, inner, unread, nested + 1, room)


def _members(name: str, data: bytes, unread: list[str]) -> Iterator[tuple[str, bytes]]:
    try:
        archive = zipfile.ZipFile(io.BytesIO(data))
    except Exception as error:  # zipfile raises whatever the bytes provoke
        unread.append(f"{name} does not open as a zip archive ({type(error).__name__})")
        return
    with archive:
        members = archive.infolist()
        total = sum(member.file_size for member in members)
        if (
            len(members) > MAX_MEMBERS
            or total > MAX_UNPACKED
            or (total > MIN_BOMB and total > MAX_RATIO * len(data))
        ):
            raise Bomb(
                f"{name}: {len(data):,} bytes hold {len(members):,} members of {total:,} bytes"
            )
        for member in members:
            try:
                with archive.open(member) as file:
                    head = file.read(min(member.file_size, MAX_PICKLE))
            except Exception as error:  # damaged, encrypted, or of an unknown method
                unread.append(f"{name}/{member.filename} does not open ({type(error).__name__})")
                continue
            yield f"{name}/{member.filename}", head


def _tar_members(name: str, data: bytes, unread: list[str]) -> Iterator[tuple[str, bytes]]:
    """Yield the files of a tar archive; of a link, the place that it leads to."""
    try:
        with tarfile.open(fileobj=io.BytesIO(data), mode="r:") as archive:
            for count, member in enumerate(archive):
                if count >= MAX_MEMBERS:
                    raise Bomb(f"{name}: more than {MAX_MEMBERS:,} members")
                if member.issym() or member.islnk():
                    yield f"{name}/{member.linkname}", b""
                file = archive.extractfile(member) if member.isreg() else None
                yield (
                    f"{name}/{member.name}",
                    file.read(min(member.size, MAX_PICKLE)) if file else b"",
                )
    except Bomb:
        raise
    except Exception as error:  # tarfile raises whatever the bytes provoke
        unread.append(f"{name} does not open as a tar archive ({type(error).__name__})")
