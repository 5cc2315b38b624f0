"""One pass over every file of a submission for its safety: pickles, bombs, machine code, keys.
Nothing is loaded or run.
"""

import re
from dataclasses import dataclass, field
from pathlib import PurePosixPath

from harness.validate.archives import Bomb, contents
from harness.validate.pickles import is_pickle, listed, pickles_in
from harness.validate.verdict import CannotTell

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
BINARY_SUFFIXES = tuple(".so .dll .dylib .exe .pyd .pyc .cubin .wasm .jar .class .o .a".split())
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
# Every secret holds one
KEYS = b"AKIA ghp_ gho_ ghs_ ghu_ ghr_ github_pat_ hf_ sk- AIza xox".split() + [b"PRIVATE KEY"]
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
    """What the files of a submission hold, by kind of finding."""

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

    def file(self, name: str, data: bytes, weights: bool) -> None:
        """Add what one file is and holds."""
        self.files, self.size = self.files + 1, self.size + len(data)
        try:
            for where, part in contents(name, data, self.unread):
                self._part(where, part, where == name)
        except Bomb as bomb:
            self.bombs.append(str(bomb))
        seen = (*self.pickles, *self.packed, *self.bombs, *self.machine_code, *self.unread)
        known = not data or data.startswith(KNOWN) or _is_safetensors(data)
        known = known or any(entry.startswith(name) for entry in seen)
        if (weights or _is_binary(data)) and not known:
            self.unread.append(f"{name} is in a format that is not known here")

    def _part(self, where: str, data: bytes, top: bool) -> None:
        """Add what one file, or one part of a packed file, is."""
        inner = where.removesuffix("[unpacked]")
        if (not top and where != inner) or data[:2] == b"PK":
            self.packed.append(inner)
        member = "" if top else where.partition("/")[2]
        if ".." in PurePosixPath(member).parts or "//" in where or "\\" in member:
            self.escapes.append(where)
        kind = next((kind for magic, kind in MACHINE_CODE.items() if data.startswith(magic)), None)
        if kind == "a Windows binary" and (len(data) < 64 or b"PE\0\0" not in data[:4096]):
            kind = None
        if kind or PurePosixPath(inner).suffix.lower() in BINARY_SUFFIXES:
            self.machine_code.append(f"{where} ({kind or 'by its name'}, {len(data):,} bytes)")
        self._pickles(where, data)
        secret = SECRETS.search(data) if any(key in data for key in KEYS) else None
        if secret:
            line = data.count(b"\n", 0, secret.start()) + 1
            kind = "key" if secret.lastgroup == "key" else f"{secret.lastgroup} key"
            self.secrets.append(f"{where}:{line}: looks like a {kind}")

    def _pickles(self, where: str, data: bytes) -> None:
        """Add the pickles of a part, and the one in an array of Python objects."""
        if is_pickle(where, data):
            self.pickles.append(where)
            for result in pickles_in(data, where):
                self.dangers += result.dangers
                self.opcodes += result.opcodes
                if result.error:
                    problem = f"the opcodes cannot be listed to their end ({result.error})"
                    self.unread.append(f"{where}: {problem}")
        size = int.from_bytes(data[8 : 10 if data[6:7] == b"\x01" else 12], "little")
        header = data[: 12 + size] if data.startswith(b"\x93NUMPY") else b""
        if OBJECTS.search(header):
            start = data.find(b"\x80", len(header) - 2)
            dangers = listed(data[start:], where).dangers if start > 0 else []
            self.pickles.append(where)
            self.dangers += dangers or [f"{where}: an array of Python objects"]


def _is_binary(data: bytes) -> bool:
    """Return whether bytes are no text, and nothing that is known to hold no weights."""
    pieces = b"<unk>" in data[:64] and data[:1] == b"\n"  # a SentencePiece model
    return b"\0" in data[: 1 << 16] and not data.startswith(HARMLESS) and not pieces


def _is_safetensors(data: bytes) -> bool:
    return len(data) > 9 and int.from_bytes(data[:8], "little") < len(data) and data[8:9] == b"{"


def scan(submission) -> Scan:
    """Return what all files hold; a file too large to read is named in unread."""
    result = Scan()
    for name, size in submission.files.items():
        if result.size + size > MAX_TOTAL:
            result.unread.append(f"{name} and what follows: more than {MAX_TOTAL:,} bytes in all")
            break
        try:
            result.file(name, submission.read(name), name in submission.artifacts)
        except CannotTell as reason:
            result.unread.append(str(reason))
    return result
