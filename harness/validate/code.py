"""A submission's Python, read and never run: syntax trees, what they import or exec, source hidden
in compressed strings.
"""

import ast
import base64
import binascii
import bz2
import gzip
import lzma
import re
import warnings
import zlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import PurePosixPath

from harness.validate.finding import CannotTell

MAX_PAYLOAD = 1 << 24  # bytes that a hidden source may unpack to
MAX_SOURCES = 200
MAX_LAYERS = 4  # of compression around one source
ENTRIES = ("train_gpt.py",)
EXECUTE = (
    "exec",
    "eval",
    "builtins.exec",
    "builtins.eval",
    "__builtins__.exec",
    "__builtins__.eval",
)
FILE_RUN = {
    "runpy.run_path": 0,
    "importlib.machinery.SourceFileLoader": 1,
    "importlib.util.spec_from_file_location": 1,
}  # which argument is the file


@dataclass(frozen=True, eq=False)
class Source:
    """One Python text: its label (file, or file[exec 1] for what is hidden in it), its tree, or the
    error that kept it from parsing.
    """

    label: str
    text: str
    tree: ast.Module | None
    error: str | None

    @cached_property
    def nodes(self) -> tuple[ast.AST, ...]:
        """All nodes of the tree, none where it does not parse."""
        return tuple(ast.walk(self.tree)) if self.tree else ()

    @cached_property
    def names(self) -> dict[str, str]:
        """What each imported name stands for: {"L": "lzma", "b85": "base64.b85decode"}."""
        return aliases(self.nodes)

    def calls(self) -> Iterator[tuple[ast.Call, str]]:
        """Yield every call with the full name of what is called."""
        for node in self.nodes:
            if isinstance(node, ast.Call):
                yield node, full_name(node.func, self.names)


class Unknown(Exception):
    """An expression whose value cannot be read off."""


@lru_cache(maxsize=16)
def parse(label: str, data: bytes) -> Source:
    """Return a source; whatever is wrong with it is its error. The same bytes are parsed once."""
    text = data.decode("utf-8", "replace")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return Source(label, text, ast.parse(data), None)
    except (
        SyntaxError,
        ValueError,
        RecursionError,
        MemoryError,
        OverflowError,
        LookupError,
    ) as error:
        line = f" at line {error.lineno}" if isinstance(error, SyntaxError) and error.lineno else ""
        return Source(
            label, text, None, f"{getattr(error, 'msg', None) or type(error).__name__}{line}"
        )


def dotted(node: ast.AST) -> str:
    """Return the dotted name of an expression, "" for anything else."""
    parts = []
    while isinstance(node, ast.Attribute):
        parts.append(node.attr)
        node = node.value
    return ".".join([node.id, *reversed(parts)]) if isinstance(node, ast.Name) else ""


def aliases(nodes: Iterable[ast.AST]) -> dict[str, str]:
    """Return what each name that these nodes import stands for."""
    found = {}
    for node in nodes:
        if isinstance(node, ast.Import):
            for alias in node.names:
                found[alias.asname or alias.name.partition(".")[0]] = (
                    alias.name if alias.asname else alias.name.partition(".")[0]
                )
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            found |= {
                alias.asname or alias.name: f"{node.module}.{alias.name}" for alias in node.names
            }
    return found


def full_name(node: ast.AST, names: dict[str, str]) -> str:
    """Return the dotted name of an expression with imports resolved."""
    if (
        isinstance(node, ast.Attribute)
        and isinstance(node.value, ast.Call)
        and dotted(node.value.func) in ("__import__", "importlib.import_module")
    ):
        argument = node.value.args[0] if node.value.args else None
        return f"{argument.value}.{node.attr}" if isinstance(argument, ast.Constant) else ""
    head, dot, tail = dotted(node).partition(".")
    return names.get(head, head) + dot + tail


def bounded(decompressor, data: bytes) -> bytes:
    """Return what a decompressor object makes of the data, at most MAX_PAYLOAD bytes."""
    result = decompressor.decompress(data, MAX_PAYLOAD + 1)
    if len(result) > MAX_PAYLOAD:
        raise Unknown(f"a string that unpacks to more than {MAX_PAYLOAD:,} bytes")
    return result


def _lzma(data: bytes, options: dict) -> bytes:
    filters = options.get("filters")
    if not isinstance(filters, list):
        return bounded(lzma.LZMADecompressor(), data)
    return bounded(
        lzma.LZMADecompressor(
            format=lzma.FORMAT_RAW, filters=[{**entry, "dict_size": 1 << 24} for entry in filters]
        ),
        data,
    )


DECODERS = {
    "lzma.decompress": _lzma,
    "zlib.decompress": lambda data, options: bounded(
        zlib.decompressobj(options.get("wbits", zlib.MAX_WBITS)), data
    ),
    "gzip.decompress": lambda data, options: bounded(zlib.decompressobj(zlib.MAX_WBITS | 16), data),
    "bz2.decompress": lambda data, options: bounded(bz2.BZ2Decompressor(), data),
    "base64.b64decode": lambda data, options: base64.b64decode(data),
    "base64.standard_b64decode": lambda data, options: base64.b64decode(data),
    "base64.urlsafe_b64decode": lambda data, options: base64.urlsafe_b64decode(data),
    "base64.b85decode": lambda data, options: base64.b85decode(data),
    "base64.a85decode": lambda data, options: base64.a85decode(data),
    "base64.b32decode": lambda data, options: base64.b32decode(data),
    "base64.b16decode": lambda data, options: base64.b16decode(data),
    "binascii.unhexlify": lambda data, options: binascii.unhexlify(data),
    "binascii.a2b_base64": lambda data, options: binascii.a2b_base64(data),
    "bytes.fromhex": lambda data, options: bytes.fromhex(
        data.decode() if isinstance(data, bytes) else data
    ),
}
CONSTANTS = {
    "lzma.FORMAT_RAW": lzma.FORMAT_RAW,
    "lzma.FILTER_LZMA2": lzma.FILTER_LZMA2,
    "lzma.FILTER_LZMA1": lzma.FILTER_LZMA1,
    "lzma.FILTER_DELTA": lzma.FILTER_DELTA,
    "lzma.FORMAT_XZ": lzma.FORMAT_XZ,
    "lzma.FORMAT_AUTO": lzma.FORMAT_AUTO,
    "lzma.FORMAT_ALONE": lzma.FORMAT_ALONE,
    "zlib.MAX_WBITS": zlib.MAX_WBITS,
}
SPOILT = (
    lzma.LZMAError,
    zlib.error,
    gzip.BadGzipFile,
    OSError,
    EOFError,
    ValueError,
    binascii.Error,
    TypeError,
    KeyError,
    AttributeError,
    MemoryError,
)


class Reader:
    """Reads off the value of an expression made of literals, module-level constants, decoders and
    files of the folder.
    """

    def __init__(self, source: Source, texts: dict[str, bytes]):
        """texts: path -> bytes of the folder's Python files."""
        self.names, self.label, self.texts = source.names, source.label.partition("[")[0], texts
        self.assigned: dict[str, ast.AST] = {}
        for node in source.tree.body:
            if (
                isinstance(node, ast.Assign)
                and len(node.targets) == 1
                and isinstance(node.targets[0], ast.Name)
            ):
                name = node.targets[0].id
                self.assigned[name] = (
                    ast.Name("") if name in self.assigned else node.value
                )  # assigned twice: unknown

    def value(self, node: ast.AST, depth: int = 0):
        """Return the value of an expression; Unknown where it cannot be read off."""
        if depth > 30:
            raise Unknown("an expression nested too deeply")
        if isinstance(node, ast.Constant):
            return node.value
        if isinstance(node, ast.List | ast.Tuple):
            return [self.value(element, depth + 1) for element in node.elts]
        if isinstance(node, ast.Dict) and None not in node.keys:
            return {
                self.value(key, depth + 1): self.value(member, depth + 1)
                for key, member in zip(node.keys, node.values, strict=True)
            }
        if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add):
            return self.value(node.left, depth + 1) + self.value(node.right, depth + 1)
        if isinstance(node, ast.Name) and node.id in self.assigned:
            return self.value(self.assigned[node.id], depth + 1)
        if isinstance(node, ast.Name) and node.id == "__file__":
            return self.label
        if isinstance(node, ast.Call):
            return self._call(node, depth + 1)
        name = full_name(node, self.names)
        if name in CONSTANTS:
            return CONSTANTS[name]
        raise Unknown(ast.unparse(node)[:60])

    def _call(self, node: ast.Call, depth: int):
        name = full_name(node.func, self.names)
        method = node.func.attr if isinstance(node.func, ast.Attribute) else ""
        if name in DECODERS and node.args:
            data = self.value(node.args[0], depth)
            options = {
                keyword.arg: self.value(keyword.value, depth)
                for keyword in node.keywords
                if keyword.arg
            }
            return DECODERS[name](
                data.encode() if isinstance(data, str) and name != "bytes.fromhex" else data,
                options,
            )
        if name == "compile" and node.args:
            return self.value(node.args[0], depth)
        if name in ("open", "io.open", "pathlib.Path") and node.args:
            return self._file(self.value(node.args[0], depth))
        if method in ("read", "read_text", "read_bytes"):
            return self.value(node.func.value, depth)
        if method in ("decode", "encode", "strip"):
            inner = self.value(node.func.value, depth)
            return inner.decode("utf-8", "replace") if isinstance(inner, bytes) else inner
        if method in ("replace", "join"):
            inner = self.value(node.func.value, depth)
            arguments = [self.value(argument, depth) for argument in node.args]
            return (
                inner.replace(*arguments[:2]) if method == "replace" else inner.join(*arguments[:1])
            )
        raise Unknown(ast.unparse(node.func)[:60])

    def _file(self, name: object) -> bytes:
        path = PurePosixPath(str(name))
        for known in (str(path), str(PurePosixPath(self.label).parent / path), path.name):
            if known in self.texts:
                return self.texts[known]
        raise Unknown(f"file {str(name)[:60]}")


class Code:
    """All Python of a folder, and what hangs together with the script that runs."""

    def __init__(self, texts: dict[str, bytes], files: dict[str, int]):
        """texts: path -> source bytes of each .py file; files: path -> bytes of every file."""
        self.texts, self.files = texts, files
        self.unread: list[str] = []  # exec'd expressions whose text could not be read off
        self.sources: dict[str, Source] = {}
        for label, data in sorted(texts.items()):
            self._add(parse(label, data), 0)

    def _add(self, source: Source, layers: int) -> None:
        self.sources[source.label] = source
        if source.tree is None or layers >= MAX_LAYERS or len(self.sources) >= MAX_SOURCES:
            return
        reader, file = Reader(source, self.texts), source.label.partition("[")[0]
        executed = [call for call, name in source.calls() if name in EXECUTE and call.args]
        self.unread += self._roundabout(source)
        for i, call in enumerate(executed):
            try:
                value = reader.value(call.args[0])
            except (Unknown, RecursionError, *SPOILT) as error:
                self.unread.append(
                    f"{source.label}:{call.lineno}"
                    f" {error if isinstance(error, Unknown) else type(error).__name__}"
                )
                continue
            data = value.encode("utf-8", "replace") if isinstance(value, str) else value
            if isinstance(data, bytes) and data not in self.texts.values():
                self._add(parse(f"{file}[exec {len(self.sources)}.{i}]", data), layers + 1)

    def _roundabout(self, source: Source) -> list[str]:
        """Return where exec or eval is taken up under another name, and files run as code that are
        no Python of the folder.
        """
        called = {id(call.func) for call, _ in source.calls()}
        own = {
            node.name
            for node in source.nodes
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        }
        own |= {node.arg for node in source.nodes if isinstance(node, ast.arg)}
        own |= {
            node.id
            for node in source.nodes
            if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)
        }
        found = [
            f"{source.label}:{node.lineno} {node.id} under another name"
            for node in source.nodes
            if isinstance(node, ast.Name)
            and node.id in ("exec", "eval")
            and id(node) not in called
            and node.id not in own
        ]
        for call, name in source.calls():
            if (
                name == "getattr"
                and len(call.args) > 1
                and dotted(call.args[0]) in ("builtins", "__builtins__")
            ):
                found.append(f"{source.label}:{call.lineno} {ast.unparse(call)[:60]}")
            if name in FILE_RUN and len(call.args) > FILE_RUN[name]:
                argument = call.args[FILE_RUN[name]]
                words = [
                    part.value
                    for part in ast.walk(argument)
                    if isinstance(part, ast.Constant) and isinstance(part.value, str)
                ]
                if not {PurePosixPath(word).name for word in words} & {
                    PurePosixPath(path).name for path in self.texts
                }:
                    found.append(f"{source.label}:{call.lineno} file {ast.unparse(argument)[:60]}")
        return found

    @cached_property
    def entry(self) -> str | None:
        """The script that trains: train_gpt.py, else the one train*.py, else the largest .py of the
        top folder.
        """
        top = [name for name in self.texts if "/" not in name]
        named = (
            [name for name in ENTRIES if name in top]
            or [name for name in top if name.startswith("train")]
            or top
        )
        return max(named, key=lambda name: len(self.texts[name]), default=None)

    def of(self, file: str) -> list[Source]:
        """The sources in a file: its text and what is hidden in it."""
        return [source for label, source in self.sources.items() if label.partition("[")[0] == file]

    def mentioned(self, source: Source) -> set[str]:
        """Files of the folder that a source imports, or names in a string."""
        found = set()
        here = PurePosixPath(source.label.partition("[")[0]).parent
        modules, strings = set(), set()
        for node in source.nodes:
            if isinstance(node, ast.Import):
                modules |= {alias.name for alias in node.names}
            elif isinstance(node, ast.ImportFrom):
                modules |= {node.module or ""} | {
                    f"{node.module}.{alias.name}" if node.module else alias.name
                    for alias in node.names
                }
            elif (
                isinstance(node, ast.Constant)
                and isinstance(node.value, str)
                and len(node.value) < 300
            ):
                strings.add(node.value)
        for module in modules:
            stem = module.replace(".", "/")
            for place in (str(here / stem), stem):
                found |= {
                    path for path in (f"{place}.py", f"{place}/__init__.py") if path in self.texts
                }
        names = {part for string in strings for part in PurePosixPath(string).parts}
        return found | {
            path
            for path in self.files
            if re.search(r"\.\w{1,5}$", path) and names.issuperset(self.below(path, here))
        }

    @staticmethod
    def below(path: str, folder: PurePosixPath) -> tuple[str, ...]:
        """Return the parts of a path from a folder on, of the whole path where it is not in the
        folder: code must name each to reach it.
        """
        whole = PurePosixPath(path)
        return (whole.relative_to(folder) if whole.is_relative_to(folder) else whole).parts

    @cached_property
    def reached(self) -> dict[str, int]:
        """Files that the entry script is made of: itself, what it imports, execs or names, and so
        on. Path -> bytes.
        """
        found, queue = {}, [self.entry] if self.entry else []
        while queue:
            name = queue.pop()
            if name in found:
                continue
            found[name] = self.files.get(name, len(self.texts.get(name, b"")))
            queue += [other for source in self.of(name) for other in self.mentioned(source)]
        return found

    @cached_property
    def running(self) -> list[Source]:
        """The sources that run: those in the reached files."""
        return [source for name in self.reached if name in self.texts for source in self.of(name)]

    @cached_property
    def unseen(self) -> list[str]:
        """What runs and could not be read: sources that do not parse here, exec'd text that is not
        in the folder.
        """
        broken = [
            f"{source.label} does not parse here ({source.error})"
            for source in self.running
            if source.tree is None
        ]
        files = tuple(self.reached)
        return broken + [
            f"{where} is executed unread" for where in self.unread if where.startswith(files)
        ]

    def require_read(self) -> None:
        """Raise CannotTell unless all that runs could be read: nothing else may be judged by what
        is absent.
        """
        if self.entry is None or not self.texts[self.entry].strip():
            raise CannotTell(
                "there is no script to read" if self.entry is None else f"{self.entry} is empty"
            )
        if self.unseen:
            raise CannotTell("; ".join(self.unseen[:2]))
