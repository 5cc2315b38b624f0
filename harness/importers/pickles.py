"""The data in a pickle, by a reader that cannot call anything: names outside a short list are an
error that names the opcode.
"""

import pickletools
from typing import NamedTuple

from reference.recipe import InputError

MAX_PICKLE = 1 << 24  # bytes beside the tensors; the pickle of a golf model takes 10 KB
MARK = object()


class Global(NamedTuple):
    """A name that the pickle refers to, such as torch._utils._rebuild_tensor_v2."""

    name: str


class Storage(NamedTuple):
    """What torch.save writes in place of a tensor's memory: ("storage", type, key, device,
    elements).
    """

    fields: object


class Call(NamedTuple):
    """A call that the pickle asks for and that nobody made."""

    function: str
    arguments: tuple


MAPPING = "collections.OrderedDict"
TENSORS = (
    "torch._utils._rebuild_tensor_v2",
    "torch._utils._rebuild_tensor_v3",
    "torch._utils._rebuild_parameter",
)
STORAGES = {  # the types of storage, and the dtype of each
    "torch.DoubleStorage": "float64",
    "torch.FloatStorage": "float32",
    "torch.HalfStorage": "float16",
    "torch.BFloat16Storage": "bfloat16",
    "torch.LongStorage": "int64",
    "torch.IntStorage": "int32",
    "torch.ShortStorage": "int16",
    "torch.CharStorage": "int8",
    "torch.ByteStorage": "uint8",
    "torch.BoolStorage": "bool",
}
UNTYPED = "torch.storage.UntypedStorage"
DTYPES = (*STORAGES.values(), "float8_e4m3fn", "float8_e5m2")
KNOWN = {MAPPING, *TENSORS, *STORAGES, UNTYPED, *(f"torch.{name}" for name in DTYPES)}

PLAIN = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False}
VALUES = (
    "BININT",
    "BININT1",
    "BININT2",
    "LONG1",
    "BINFLOAT",
    "BINUNICODE",
    "SHORT_BINUNICODE",
    "BINUNICODE8",
    "BINBYTES",
    "SHORT_BINBYTES",
)
EMPTY = {"EMPTY_DICT": dict, "EMPTY_LIST": list, "EMPTY_TUPLE": tuple}
TUPLES = {"TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3}


def show(value: object) -> str:
    """Return a short text for an error: numbers and words as they are, of anything else only what
    it is.
    """
    return (
        repr(value)[:100]
        if isinstance(value, str | bytes | int | float | None)
        else type(value).__name__
    )


class Machine:
    """The stack and the memo of one pickle."""

    def __init__(self, where: str) -> None:
        """Start empty."""
        self.where, self.stack, self.memo = where, [], {}

    def refuse(self, found: str, at: int) -> InputError:
        """Return the error for something that weights do not need."""
        advice = (
            "nothing in it was run; a file like this can run code, so save the plain state_dict"
            " instead"
        )
        return InputError(
            f"{self.where}: expected a pickle of tensors and plain values, found {found} at byte"
            f" {at}; {advice}"
        )

    def since_mark(self) -> list:
        """Take everything above the last mark."""
        items = []
        while (item := self.stack.pop()) is not MARK:
            items.append(item)
        return items[::-1]

    def name(self, name: str, opcode: str, at: int) -> None:
        """Push a name that is known."""
        if name not in KNOWN:
            raise self.refuse(f"{opcode} {name:.200}", at)
        self.stack.append(Global(name))

    def reduce(self, at: int) -> None:
        """Push the call on the stack: an empty mapping as one, the rest unmade."""
        arguments, function = self.stack.pop(), self.stack.pop()
        if not isinstance(function, Global) or not isinstance(arguments, tuple):
            raise self.refuse(f"REDUCE of {type(function).__name__}", at)
        if function.name == MAPPING and arguments:
            raise self.refuse(f"REDUCE {MAPPING} of {len(arguments)} arguments", at)
        self.stack.append({} if function.name == MAPPING else Call(function.name, arguments))

    def collect(self, opcode: str, at: int) -> None:
        """Add what is on the stack to the dictionary or the list below it."""
        count = {"APPEND": 1, "SETITEM": 2}.get(opcode)
        items = [self.stack.pop() for _ in range(count)][::-1] if count else self.since_mark()
        if opcode.startswith("APPEND"):
            list.extend(self.stack[-1], items)
            return
        for key, value in zip(items[::2], items[1::2], strict=True):
            if not isinstance(
                key, str | int
            ):  # the hash of nested tuples takes as long as their author likes
                raise self.refuse(f"a {type(key).__name__} as a name", at)
            dict.update(self.stack[-1], {key: value})

    def step(self, opcode: str, value: object, at: int) -> None:
        """Do one opcode; one that weights do not need is an InputError."""
        stack = self.stack
        if opcode in VALUES or opcode in PLAIN:
            stack.append(PLAIN[opcode] if opcode in PLAIN else value)
        elif opcode in EMPTY:
            stack.append(EMPTY[opcode]())
        elif opcode == "MARK":
            stack.append(MARK)
        elif opcode == "TUPLE":
            stack.append(tuple(self.since_mark()))
        elif opcode in TUPLES:
            stack[-TUPLES[opcode] :] = [tuple(stack[-TUPLES[opcode] :])]
        elif opcode in ("BINPUT", "LONG_BINPUT", "MEMOIZE"):
            self.memo[len(self.memo) if value is None else value] = stack[-1]
        elif opcode in ("BINGET", "LONG_BINGET"):
            stack.append(self.memo[value])
        elif opcode == "GLOBAL":
            self.name(value.replace(" ", ".", 1), opcode, at)
        elif opcode == "STACK_GLOBAL":
            name, module = stack.pop(), stack.pop()
            self.name(f"{module}.{name}", opcode, at)
        elif opcode == "BINPERSID":
            stack.append(Storage(stack.pop()))
        elif opcode == "REDUCE":
            self.reduce(at)
        elif opcode == "BUILD":  # attributes of a mapping, such as a module's version numbers
            stack.pop()
        elif opcode in ("APPEND", "APPENDS", "SETITEM", "SETITEMS"):
            self.collect(opcode, at)
        elif opcode not in ("PROTO", "FRAME", "STOP"):
            raise self.refuse(f"the opcode {opcode}", at)


def read(data: bytes, where: str) -> object:
    """Return the value of a pickle, with a Call for each tensor. Names and opcodes that weights do
    not need are an InputError.
    """
    if len(data) > MAX_PICKLE:
        raise InputError(
            f"{where}: expected at most {MAX_PICKLE:,} bytes beside the tensors, found"
            f" {len(data):,}; save the weights alone"
        )
    machine = Machine(where)
    try:
        for opcode, value, at in pickletools.genops(data):
            machine.step(opcode.name, value, at)
        return machine.stack.pop()
    except InputError:
        raise
    except (
        ValueError,
        IndexError,
        KeyError,
        TypeError,
        AttributeError,
        OverflowError,
        UnicodeError,
    ) as error:
        found = str(error)[:200] or type(error).__name__
        raise InputError(
            f"{where}: expected a whole pickle, found {found}; the file is damaged"
        ) from error
