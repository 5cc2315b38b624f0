"""Pickles, listed opcode by opcode and never loaded."""

import io
import pickletools
import re
from collections.abc import Iterator
from typing import NamedTuple

MAX_PICKLE = 1 << 26  # bytes of a pickle that are listed: names and shapes, the weights lie beside
MAX_OPCODES = 5_000_000
MOST_BEFORE_CALL = 100_000  # opcodes looked at in files of any name
MOST_PICKLES = 16  # one after the other in a file
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
PLAIN = re.compile(r"[A-Za-z_][\w.]* [A-Za-z_][\w.]*")  # a module and a name
PROTOCOL = re.compile(rb"\x80[\0-\5].", re.DOTALL)  # how pickles of protocol 2 and later begin
CALLING = ("REDUCE", "OBJ", "NEWOBJ", "NEWOBJ_EX")
PICKLE_SUFFIXES = tuple(".pkl .pickle .joblib .pt .pth .ckpt .bin .p .dill [unpacked]".split())


class Listed(NamedTuple):
    """What the opcodes of a pickle say: dangerous globals with opcode and offset, how many opcodes,
    whether something that it names is called, where it ends, why the list stopped short.
    """

    dangers: list[str]
    opcodes: int
    calls: bool
    end: int
    error: str | None


def listed(data: bytes, where: str, most: int = MAX_OPCODES) -> Listed:
    """Return what a pickle would import, without importing anything. Strings on the stack are
    followed as far as STACK_GLOBAL needs.
    """
    dangers, strings, memo = [], [], {}
    count = end = 0
    marked = named = calls = False
    error = None
    try:
        for opcode, argument, position in pickletools.genops(io.BytesIO(data[:MAX_PICKLE])):
            name, count, end = opcode.name, count + 1, position + 1
            if count > most:
                raise ValueError(f"more than {most:,} opcodes")
            names = name in ("GLOBAL", "INST")
            plain = names and PLAIN.fullmatch(str(argument)) is not None
            marked |= name == "MARK"
            named |= name == "STACK_GLOBAL" or (name == "GLOBAL" and plain)
            calls |= (named and name in CALLING) or (marked and plain and name == "INST")
            target = _imported(name, argument, strings)
            if target and not SAFE.fullmatch(target):
                dangers.append(f"{where}: {name} {target} at byte {position}")
            if name in ("MEMOIZE", "PUT", "BINPUT", "LONG_BINPUT"):
                memo[len(memo) if argument is None else argument] = (strings or [None])[-1]
            elif name not in ("PROTO", "FRAME", "MARK", "STOP"):
                is_text = "UNICODE" in name or "STRING" in name
                fetched = memo.get(argument) if "GET" in name else None
                strings.append(argument if is_text else fetched)  # None: no text
            del strings[:-64]
    except Exception as reason:  # pickletools raises whatever the bytes provoke
        error = f"{type(reason).__name__}: {str(reason)[:80]}"
    return Listed(dangers, count, calls, end, error)


def _imported(name: str, argument: object, strings: list[str | None]) -> str | None:
    """Return what an opcode imports, given the texts on the stack; None for other opcodes."""
    if name == "STACK_GLOBAL":
        known = len(strings) > 1 and None not in strings[-2:]
        return ".".join(strings[-2:]) if known else "a name that is computed"
    imports = name in ("GLOBAL", "INST") or name.startswith("EXT")
    return str(argument).replace(" ", ".", 1) if imports else None


def is_pickle(name: str, data: bytes) -> bool:
    """Return whether bytes are a pickle: by the first bytes of protocol 2 and later, by opcodes
    that end well in a file of weights, or that call what they name: no text does that by accident.
    """
    if PROTOCOL.match(data):
        return True
    weights = name.lower().endswith(PICKLE_SUFFIXES)
    result = listed(data, name, MAX_OPCODES if weights else MOST_BEFORE_CALL)
    return result.calls or (weights and result.error is None and result.opcodes > 1)


def pickles_in(data: bytes, where: str) -> Iterator[Listed]:
    """Yield the pickles that follow one another (torch.save's old format has five)."""
    start = 0
    for _ in range(MOST_PICKLES):
        result = listed(data[start:], f"{where} at {start:,}" if start else where)
        yield result
        start += result.end
        if result.error or not PROTOCOL.match(data, start):
            return
