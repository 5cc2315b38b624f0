"""One pass over every file of a submission for its safety: pickles, bombs, machine code, keys.
Nothing is loaded or run.
"""

import re
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from typing import TYPE_CHECKING

from harness.validate.finding import CannotTell
from harness.validate.pickles import Bomb, contents, is_pickle, listed, pickles_in

if TYPE_CHECKING:
    from harness.validate.submission import Submission

MAX_TOTAL = 1 << 30  # bytes read in one pass
MACHINE_CODE = {
    b"\x7fELF": "an ELF binary",
    b"MZ": "a Windows binary",
    b"\xfe\xed\xfa\xce": "a Mach-O binary",
    b"\xcf\xfa\xed\xfe": "a Mach-O binary",
    b"\xca\xfe\xba\xbe": "a Mach-O or Java binary",
    b"\x00asm": "WebAssembly",
    b"!<arch>\n": "a static library",
}
BINARY_SUFFIXES = (
    ".so",
    ".dll",
    ".dylib",
    ".exe",
    ".pyd",
    ".pyc",
    ".cubin",
    ".wasm",
    ".jar",
    ".class",
    ".o",
    ".a",
)
KNOWN = (b"MASKGOLF", b"\x93NUMPY")
# binary files that hold no weights: images, documents, fonts, text in UTF-16, token shards
HARMLESS = (
    b"\x89PNG",
    b"\xff\xd8\xff",
    b"GIF8",
    b"%PDF",
    b"RIFF",
    b"wOF",
    b"\xff\xfe",
    b"\xfe\xff",
    b"\x00\x00\x00\x01Bud1",
    b"\x00\x00\x01\x00",
    (20240520).to_bytes(4, "little"),
)
OBJECTS = re.compile(rb"['\"][|<>=]?(O\d*|object\w*)['\"]")  # in the header of an array
KEYS = (
    b"AKIA",
    b"ghp_",
    b"gho_",
    b"ghs_",
    b"ghu_",
    b"ghr_",
    b"github_pat_",
    b"hf_",
    b"sk-",
    b"AIza",
    b"xox",
    b"PRIVATE KEY",
)  # every secret holds one
SECRETS = re.compile(
    rb"(?<![A-Za-z0-9])(?:(?P<aws>AKIA[0-9A-Z]{16})|(?P<github>gh[pousr]_[A-Za-z0-9]{36}|github_pat_\w{60,200})"
    rb"|(?P<huggingface>hf_[A-Za-z]{34})"
    rb"|(?P<openai>sk-(?:proj-|ant-)?[A-Za-z0-9_-]{20,200}T3BlbkFJ[A-Za-z0-9_-]{20,200}|sk-ant-[A-Za-z0-9_-]{60,200})"
    rb"|(?P<google>AIza[0-9A-Za-z_-]{35})"
    rb"|(?P<slack>xox[baprs]-[0-9A-Za-z-]{20,200}))(?![A-Za-z0-9])|(?P<key>-----BEGIN [A-Z"
    rb" ]{0,20}PRIVATE KEY-----)"
)


@dataclass
class Scan:
    """What the pass found."""

    files: int = 0
    size: int = 0
    pickles: list[str] = field(default_factory=list)
    dangers: list[str] = field(default_factory=list)  # globals that no weights need
    opcodes: int = 0
    bombs: list[str] = field(default_factory=list)
    packed: list[str] = field(default_factory=list)  # archives and compressed streams
    escapes: list[str] = field(default_factory=list)  # archive members that would land outside
    machine_code: list[str] = field(default_factory=list)
    secrets: list[str] = field(default_factory=list)
    unread: list[str] = field(default_factory=list)


def scan(submission: "Submission") -> Scan:
    """Return what all files hold; a file too large to read is named in unread."""
    found = Scan()
    for name, size in submission.files.items():
        if found.size + size > MAX_TOTAL:
            found.unread.append(f"{name} and what follows: more than {MAX_TOTAL:,} bytes in all")
            break
        try:
            data = submission.read(name)
        except CannotTell as reason:
            found.unread.append(str(reason))
            continue
        found.files, found.size = found.files + 1, found.size + len(data)
        try:
            for part in contents(name, data, found.unread):
                _look(part.where, part.data, part.where == name, found)
        except Bomb as bomb:
            found.bombs.append(str(bomb))
        if (name in submission.artifacts or _binary(data)) and not _recognised(data, found, name):
            found.unread.append(f"{name} is in a format that is not known here")
    return found


def _binary(data: bytes) -> bool:
    """Return whether bytes are no text, and nothing that is known to hold none of our business."""
    pieces = b"<unk>" in data[:64] and data[:1] == b"\n"  # a SentencePiece model
    return b"\0" in data[: 1 << 16] and not data.startswith(HARMLESS) and not pieces


def _recognised(data: bytes, found: Scan, name: str) -> bool:
    safetensors = (
        len(data) > 9 and int.from_bytes(data[:8], "little") < len(data) and data[8:9] == b"{"
    )
    seen = any(
        entry.startswith(name)
        for entry in (
            *found.pickles,
            *found.packed,
            *found.bombs,
            *found.machine_code,
            *found.unread,
        )
    )
    return seen or safetensors or data.startswith(KNOWN) or not data


def _look(where: str, data: bytes, top: bool, found: Scan) -> None:
    """Add what one file, or one part of a packed file, is."""
    inner = where.removesuffix("[unpacked]")
    if not top and where != inner or data[:2] == b"PK":
        found.packed.append(inner)
    member = where.partition("/")[2] if not top else ""
    if ".." in PurePosixPath(member).parts or "//" in where or "\\" in member:
        found.escapes.append(where)
    kind = next((kind for magic, kind in MACHINE_CODE.items() if data.startswith(magic)), None)
    if kind == "a Windows binary" and (len(data) < 64 or b"PE\0\0" not in data[:4096]):
        kind = None
    if kind or PurePosixPath(inner).suffix.lower() in BINARY_SUFFIXES:
        found.machine_code.append(f"{where} ({kind or 'by its name'}, {len(data):,} bytes)")
    if is_pickle(where, data):
        found.pickles.append(where)
        for start, piece in pickles_in(data):
            result = listed(piece, f"{where}{f' at {start:,}' if start else ''}")
            found.dangers += result.dangers
            found.opcodes += result.opcodes
            if result.error:
                found.unread.append(
                    f"{where}: the opcodes cannot be listed to their end ({result.error})"
                )
    header = (
        data[: 12 + int.from_bytes(data[8 : 10 if data[6:7] == b"\x01" else 12], "little")]
        if data.startswith(b"\x93NUMPY")
        else b""
    )
    if OBJECTS.search(header):
        start = data.find(b"\x80", len(header) - 2)
        result = listed(data[start:] if start > 0 else b"", where)
        found.pickles.append(where)
        found.dangers += result.dangers or [f"{where}: an array of Python objects"]
    secret = SECRETS.search(data) if any(key in data for key in KEYS) else None
    if secret:
        line = data.count(b"\n", 0, secret.start()) + 1
        found.secrets.append(
            f"{where}:{line}: looks like a {secret.lastgroup}"
            f" {'' if secret.lastgroup == 'key' else 'key'}".rstrip()
        )
