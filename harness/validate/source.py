"""A submission's Python, read and never run: syntax trees, what they import or exec, source hidden
in compressed strings.
"""

import ast
import base64
import binascii
import bz2
import lzma
import re
import warnings
import zlib
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import PurePosixPath
from types import UnionType

from harness import bounded
from harness.validate import fstrings
from harness.validate.verdict import CannotTell
from reference.recipe import InputError

NO_SCRIPT = "there is no Python script"
MAX_PAYLOAD = 1 << 24  # bytes that a hidden source may unpack to
MAX_SOURCES = 200
MAX_LAYERS = 4  # of compression around one source
MAX_DEPTH = 30  # of an expression whose value is read off
EXECUTE = {
    f"{module}{name}" for module in ("", "builtins.", "__builtins__.") for name in ("exec", "eval")
}
# Which argument is the file
FILE_RUN = {
    "runpy.run_path": 0,
    "importlib.machinery.SourceFileLoader": 1,
    "importlib.util.spec_from_file_location": 1,
}
IMPORT = ("__import__", "import_module", "importlib.import_module")
FUNCTIONS = ast.FunctionDef | ast.AsyncFunctionDef


@dataclass(frozen=True, eq=False)
class Source:
    """One Python text: its label (file, or file[exec 1] for what is hidden in it), its tree, or the
    error that kept it from parsing.
    """

    label: str
    text: str
    tree: ast.Module | None
    error: str | None

    @property
    def file(self) -> str:
        """The file that it is or is hidden in."""
        return self.label.partition("[")[0]

    @cached_property
    def nodes(self) -> tuple[ast.AST, ...]:
        """All nodes of the tree, none where it does not parse."""
        return tuple(ast.walk(self.tree)) if self.tree else ()

    def of(self, *kinds: type) -> list:
        """Return the nodes of some kinds."""
        return [node for node in self.nodes if isinstance(node, kinds)]

    @cached_property
    def names(self) -> dict[str, str]:
        """What each imported name stands for: {"L": "lzma", "b85": "base64.b85decode"}."""
        return aliases(self.nodes)

    @cached_property
    def calls(self) -> list[tuple[ast.Call, str]]:
        """Every call with the full name of what is called."""
        return [(node, full_name(node.func, self.names)) for node in self.of(ast.Call)]

    @cached_property
    def assignments(self) -> list[tuple[list[ast.expr], ast.expr]]:
        """Every assignment: its targets and its value."""
        return [
            (node.targets if isinstance(node, ast.Assign) else [node.target], node.value)
            for node in self.of(ast.Assign, ast.AnnAssign)
            if node.value is not None
        ]


class Unknown(Exception):
    """An expression whose value cannot be read off."""


@lru_cache(maxsize=16)
def parse(label: str, data: bytes) -> Source:
    """Return a source; whatever is wrong with it is its error. The same bytes are parsed once."""
    text, tree, problem = data.decode("utf-8", "replace"), None, None
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            tree = fstrings.parse(data)
    except SyntaxError as error:
        problem = error.msg + (f" at line {error.lineno}" if error.lineno else "")
    except (ValueError, RecursionError, MemoryError, OverflowError, LookupError) as error:
        problem = type(error).__name__
    return Source(label, text, tree, problem)


def dotted(node: ast.AST) -> str:
    """Return the dotted name of an expression, "" for anything else."""
    parts = []
    while isinstance(node, ast.Attribute):
        parts.append(node.attr)
        node = node.value
    return ".".join([node.id, *reversed(parts)]) if isinstance(node, ast.Name) else ""


def last_name(node: ast.AST) -> str:
    """Return the last part of a dotted name, "" for anything else."""
    return getattr(node, "attr", None) or getattr(node, "id", "")


@lru_cache(maxsize=2_048)
def within(scope: ast.AST, left_out: type | UnionType = FUNCTIONS) -> tuple[ast.AST, ...]:
    """Return the nodes of a function or module, those of functions inside it left out."""
    waiting, nodes = [scope], []
    while waiting:
        for node in ast.iter_child_nodes(waiting.pop()):
            if not isinstance(node, left_out):
                nodes.append(node)
                waiting.append(node)
    return tuple(nodes)


def aliases(nodes: Iterable[ast.AST]) -> dict[str, str]:
    """Return what each name that these nodes import stands for."""
    meaning = {}
    for node in nodes:
        if isinstance(node, ast.Import):
            for alias in node.names:
                name = alias.asname or alias.name.partition(".")[0]
                meaning[name] = alias.name if alias.asname else name
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            for alias in node.names:
                meaning[alias.asname or alias.name] = f"{node.module}.{alias.name}"
    return meaning


def full_name(node: ast.AST, names: dict[str, str]) -> str:
    """Return the dotted name of an expression with imports resolved."""
    inner = node.value if isinstance(node, ast.Attribute) else None
    if isinstance(inner, ast.Call) and dotted(inner.func) in IMPORT:
        module = inner.args[0] if inner.args else None
        return f"{module.value}.{node.attr}" if isinstance(module, ast.Constant) else ""
    head, dot, tail = dotted(node).partition(".")
    return names.get(head, head) + dot + tail


def words(node: ast.AST) -> set[str]:
    """Return the names, attributes and arguments in code."""
    fields = {ast.Name: "id", ast.Attribute: "attr", ast.arg: "arg"}
    parts = ast.walk(node)
    return {getattr(part, fields[type(part)]) for part in parts if type(part) in fields}


def strings(node: ast.AST) -> list[str]:
    """Return the strings in code."""
    constants = [part.value for part in ast.walk(node) if isinstance(part, ast.Constant)]
    return [value for value in constants if isinstance(value, str)]


def _lzma(data: bytes, options: dict) -> bytes:
    filters = options.get("filters")
    if not isinstance(filters, list):
        machine = lzma.LZMADecompressor()
    else:
        smaller = [{**entry, "dict_size": 1 << 24} for entry in filters]
        machine = lzma.LZMADecompressor(format=lzma.FORMAT_RAW, filters=smaller)
    return bounded.decompress(machine, data, MAX_PAYLOAD)


def _zlib(data: bytes, options: dict) -> bytes:
    machine = zlib.decompressobj(options.get("wbits", zlib.MAX_WBITS))
    return bounded.decompress(machine, data, MAX_PAYLOAD)


def _brotli(data: bytes, options: dict) -> bytes:
    try:
        import brotli

        unpacked = brotli.Decompressor().process(data, output_buffer_limit=MAX_PAYLOAD + 1)
    except (ImportError, TypeError) as error:  # before 1.2 its output has no limit
        raise Unknown("brotli.decompress: it takes brotli 1.2, which is not installed") from error
    except brotli.error as error:
        raise ValueError(str(error)) from error
    return bounded.within(unpacked, MAX_PAYLOAD)


DECODERS = {
    "brotli.decompress": _brotli,
    "lzma.decompress": _lzma,
    "zlib.decompress": _zlib,
    "gzip.decompress": lambda data, options: _zlib(data, {"wbits": zlib.MAX_WBITS | 16}),
    "bz2.decompress": lambda data, options: bounded.decompress(
        bz2.BZ2Decompressor(), data, MAX_PAYLOAD
    ),
}
ARGUMENTS = {  # of decoders, behind the data
    "lzma.decompress": ("format", "memlimit", "filters"),
    "zlib.decompress": ("wbits",),
}
PLAIN = {
    "base64.standard_b64decode": base64.b64decode,
    "base64.urlsafe_b64decode": base64.b64decode,
    "base64.b64decode": base64.b64decode,
    "base64.b85decode": base64.b85decode,
    "base64.a85decode": base64.a85decode,
    "base64.b32decode": base64.b32decode,
    "base64.b16decode": base64.b16decode,
    "binascii.unhexlify": binascii.unhexlify,
    "binascii.a2b_base64": binascii.a2b_base64,
    "bytes.fromhex": lambda data: bytes.fromhex(data.decode()),
}
CONSTANTS = {
    f"lzma.{name}": value
    for name, value in vars(lzma).items()
    if name.startswith(("FORMAT_", "FILTER_", "PRESET_"))
} | {"zlib.MAX_WBITS": zlib.MAX_WBITS}
SPOILT = (
    *(lzma.LZMAError, zlib.error, OSError, EOFError, ValueError, TypeError, KeyError),
    *(AttributeError, MemoryError, RecursionError),
)


class Reader:
    """Reads off the value of an expression made of literals, module-level constants, decoders and
    files of the folder.
    """

    def __init__(self, source: Source, texts: dict[str, bytes]):
        """texts: path -> bytes of the folder's Python files."""
        self.source, self.texts = source, texts
        assigned = [
            (node.targets[0].id, node.value)
            for node in source.tree.body
            if isinstance(node, ast.Assign)
            and len(node.targets) == 1
            and isinstance(node.targets[0], ast.Name)
        ]
        times = Counter(name for name, _ in assigned)
        self.assigned = {name: value for name, value in assigned if times[name] == 1}

    def value(self, node: ast.AST, depth: int = 0):
        """Return the value of an expression; Unknown where it cannot be read off."""
        if depth > MAX_DEPTH:
            raise Unknown("an expression nested too deeply")
        match node:
            case ast.Constant():
                return node.value
            case ast.List() | ast.Tuple():
                return [self.value(element, depth + 1) for element in node.elts]
            case ast.Dict() if None not in node.keys:
                keys = [self.value(key, depth + 1) for key in node.keys]
                members = [self.value(member, depth + 1) for member in node.values]
                return dict(zip(keys, members, strict=True))
            case ast.BinOp(op=ast.Add()):
                return self.value(node.left, depth + 1) + self.value(node.right, depth + 1)
            case ast.BinOp(op=ast.BitOr()):
                return self.value(node.left, depth + 1) | self.value(node.right, depth + 1)
            case ast.UnaryOp(op=ast.USub()):
                return -self.value(node.operand, depth + 1)
            case ast.Name() if node.id in self.assigned:
                return self.value(self.assigned[node.id], depth + 1)
            case ast.Name(id="__file__"):
                return self.source.file
            case ast.Call():
                return self._call(node, depth + 1)
        name = full_name(node, self.source.names)
        if name in CONSTANTS:
            return CONSTANTS[name]
        raise Unknown(ast.unparse(node)[:60])

    def _call(self, node: ast.Call, depth: int):
        name = full_name(node.func, self.source.names)
        inner = node.func.value if isinstance(node.func, ast.Attribute) else None
        method = node.func.attr if inner else ""
        if name in (DECODERS | PLAIN) and node.args:
            data = self.value(node.args[0], depth)
            data = data.encode() if isinstance(data, str) else data
            named = zip(ARGUMENTS.get(name, ()), node.args[1:], strict=False)
            given = dict(named) | {key.arg: key.value for key in node.keywords if key.arg}
            options = {key: self.value(value, depth) for key, value in given.items()}
            return PLAIN[name](data) if name in PLAIN else DECODERS[name](data, options)
        if name == "compile" and node.args:
            return self.value(node.args[0], depth)
        if name in ("open", "io.open", "pathlib.Path") and node.args:
            return self._file(str(self.value(node.args[0], depth)))
        if method in ("read", "read_text", "read_bytes"):
            return self.value(inner, depth)
        if method in ("decode", "encode", "strip"):
            value = self.value(inner, depth)
            return value.decode("utf-8", "replace") if isinstance(value, bytes) else value
        if method in ("replace", "join"):
            arguments = node.args[: 2 if method == "replace" else 1]
            values = [self.value(argument, depth) for argument in arguments]
            return getattr(self.value(inner, depth), method)(*values)
        raise Unknown(ast.unparse(node.func)[:60])

    def _file(self, name: str) -> bytes:
        path = PurePosixPath(name)
        for known in (str(path), str(PurePosixPath(self.source.file).parent / path), path.name):
            if known in self.texts:
                return self.texts[known]
        raise Unknown(f"file {name[:60]}")


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
        if source.tree is None:
            return
        executed = [call for call, name in source.calls if name in EXECUTE and call.args]
        if layers >= MAX_LAYERS or len(self.sources) >= MAX_SOURCES:
            self.unread += [f"{source.label}:{call.lineno} too many sources" for call in executed]
            return
        reader = Reader(source, self.texts)
        self.unread += self._roundabout(source)
        for i, call in enumerate(executed):
            try:
                value = reader.value(call.args[0])
            except (Unknown, InputError, *SPOILT) as error:
                reason = error if isinstance(error, Unknown) else type(error).__name__
                self.unread.append(f"{source.label}:{call.lineno} {reason}")
                continue
            data = value.encode("utf-8", "replace") if isinstance(value, str) else value
            if isinstance(data, bytes) and data not in self.texts.values():
                label = f"{source.file}[exec {len(self.sources)}.{i}]"
                self._add(parse(label, data), layers + 1)

    def _roundabout(self, source: Source) -> Iterator[str]:
        """Yield where exec or eval is taken up under another name, and files run as code that are
        no Python of the folder.
        """
        called = {id(call.func) for call, _ in source.calls}
        names = source.of(ast.Name)
        defined = {
            *(node.name for node in source.of(FUNCTIONS)),
            *(node.arg for node in source.of(ast.arg)),
            *(node.id for node in names if isinstance(node.ctx, ast.Store)),
        }
        for node in names:
            if node.id in {"exec", "eval"} - defined and id(node) not in called:
                yield f"{source.label}:{node.lineno} {node.id} under another name"
        here = {PurePosixPath(path).name for path in self.texts}
        for call, name in source.calls:
            builtin = len(call.args) > 1 and dotted(call.args[0]) in ("builtins", "__builtins__")
            if name == "getattr" and builtin:
                yield f"{source.label}:{call.lineno} {ast.unparse(call)[:60]}"
            if len(call.args) > FILE_RUN.get(name, len(call.args)):
                argument = call.args[FILE_RUN[name]]
                if not here & {PurePosixPath(word).name for word in strings(argument)}:
                    yield f"{source.label}:{call.lineno} file {ast.unparse(argument)[:60]}"

    @cached_property
    def entry(self) -> str | None:
        """The script that trains: train_gpt.py, else the largest train*.py, else the largest .py of
        the top folder.
        """
        top = [name for name in self.texts if "/" not in name]
        trains = [name for name in top if name.startswith("train")]
        named = ["train_gpt.py"] if "train_gpt.py" in top else trains or top
        return max(named, key=lambda name: len(self.texts[name]), default=None)

    def mentioned(self, source: Source) -> set[str]:
        """Files of the folder that a source imports, or names in a string."""
        here, modules = PurePosixPath(source.file).parent, set()
        for node in source.of(ast.Import, ast.ImportFrom):
            of = node.module if isinstance(node, ast.ImportFrom) else None
            modules |= {f"{of}.{alias.name}" if of else alias.name for alias in node.names}
            modules |= {of or ""} if isinstance(node, ast.ImportFrom) else set()
        stems = [module.replace(".", "/") for module in modules]
        places = [place for stem in stems for place in (str(here / stem), stem)]
        paths = {f"{place}{end}" for place in places for end in (".py", "/__init__.py")}
        short = [word for word in strings(source.tree) if len(word) < 300] if source.tree else []
        names = {part for word in short for part in PurePosixPath(word).parts}
        below = "" if str(here) == "." else f"{here}/"
        return (paths & self.texts.keys()) | {
            path
            for path in self.files
            if re.search(r"\.\w{1,5}$", path)
            and names.issuperset(path.removeprefix(below).split("/"))  # each part is named
        }

    @cached_property
    def reached(self) -> dict[str, int]:
        """Files that the entry script is made of: itself, what it imports, execs or names, and so
        on. Path -> bytes.
        """
        reached, queue = {}, [self.entry] if self.entry else []
        while queue:
            name = queue.pop()
            if name not in reached:
                reached[name] = self.files.get(name, len(self.texts.get(name, b"")))
                hidden = [source for source in self.sources.values() if source.file == name]
                queue += [other for source in hidden for other in sorted(self.mentioned(source))]
        return reached

    @cached_property
    def running(self) -> list[Source]:
        """The sources that run: those in the reached files."""
        sources = self.sources.values()
        return [source for name in self.reached for source in sources if source.file == name]

    @cached_property
    def required(self) -> list[Source]:
        """The sources that run, or all of them; CannotTell where there are none."""
        if not self.sources:
            raise CannotTell(NO_SCRIPT)
        return self.running or list(self.sources.values())

    @cached_property
    def unseen(self) -> list[str]:
        """What runs and could not be read: sources that do not parse here, exec'd text that is not
        in the folder.
        """
        return [
            f"{source.label} does not parse here ({source.error})"
            for source in self.running
            if source.tree is None
        ] + [
            f"{where} is executed unread"
            for where in self.unread
            if where.startswith(tuple(self.reached))
        ]

    def require_read(self) -> None:
        """Raise CannotTell unless all that runs could be read: nothing else may be judged by what
        is absent.
        """
        if self.entry is None:
            raise CannotTell(NO_SCRIPT)
        if not self.texts[self.entry].strip():
            raise CannotTell(f"{self.entry} is empty")
        if self.unseen:
            raise CannotTell("; ".join(self.unseen[:2]))
