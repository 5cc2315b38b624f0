"""What torch.save wrote, read without calling anything that the file names.

torch.load(weights_only=True) is no substitute for strangers' files: 500 bytes of nested tuples as a
key keep it busy for ever, and it reads neither protocol 4 nor 5.
"""

import io
import math
import pickle
import pickletools
import zipfile

import torch

from reference.recipe import InputError

MAX_PICKLE = 1 << 24  # bytes beside the tensors; the pickle of a golf model takes 10 KB
MAX_SIZES = 2 * 64 + 1  # torch's most axes, their strides, an offset
ZIP = b"PK\x03\x04"
OPCODES = (
    "PROTO FRAME STOP MARK NONE NEWTRUE NEWFALSE BININT BININT1 BININT2 LONG1 BINFLOAT BINUNICODE"
    " SHORT_BINUNICODE BINUNICODE8 BINBYTES SHORT_BINBYTES EMPTY_DICT EMPTY_LIST BINPUT LONG_BINPUT"
    " MEMOIZE BINGET LONG_BINGET GLOBAL STACK_GLOBAL BINPERSID REDUCE APPEND APPENDS SETITEM"
    " SETITEMS"
).split()
STORAGES = {  # the types of storage, and the dtype of each
    "DoubleStorage": torch.float64,
    "FloatStorage": torch.float32,
    "HalfStorage": torch.float16,
    "BFloat16Storage": torch.bfloat16,
    "LongStorage": torch.int64,
    "IntStorage": torch.int32,
    "ShortStorage": torch.int16,
    "CharStorage": torch.int8,
    "ByteStorage": torch.uint8,
    "BoolStorage": torch.bool,
}
DTYPES = (*STORAGES.values(), torch.float8_e4m3fn, torch.float8_e5m2)
NAMES = {f"torch.{name}": dtype for name, dtype in STORAGES.items()}
NAMES |= {str(dtype): dtype for dtype in DTYPES}
NAMES |= {"torch.storage.UntypedStorage": torch.uint8, "collections.OrderedDict": dict}
BROKEN = (  # what zipfile raises for a damaged file
    zipfile.BadZipFile,
    KeyError,
    ValueError,
    NotImplementedError,
    RuntimeError,
    EOFError,
    OSError,
)


def damaged(where: str, expected: str, found: object) -> InputError:
    """Return the error for a zip that torch.save does not write."""
    return InputError(
        f"{where}: expected {expected}, found {str(found)[:200]}; the file is damaged"
    )


def show(value: object) -> str:
    """Return a short text for an error: numbers and words as they are, of anything else only what
    it is.
    """
    plain = str | bytes | int | float | None
    return repr(value)[:100] if isinstance(value, plain) else type(value).__name__


def _list_of(count: int):
    def make(reader) -> None:
        reader.stack[-count:] = [reader.stack[-count:]]

    return make


class Opcodes(dict):
    """What each opcode does; one that weights do not need is an error with its name."""

    def __missing__(self, code: int):
        opcode = pickletools.code2op.get(chr(code))
        raise ValueError(f"the opcode {opcode.name if opcode else code}")


class Reader(pickle._Unpickler):
    """Python's own unpickler, written in Python, with few opcodes and few names. Tuples become
    lists, which no mapping takes as a key: the hash of nested tuples takes as long as their author
    likes.
    """

    dispatch = Opcodes(
        {
            code: pickle._Unpickler.dispatch[code]
            for code in (getattr(pickle, name)[0] for name in OPCODES)
        }
    )
    dispatch |= {getattr(pickle, f"TUPLE{count}")[0]: _list_of(count) for count in (1, 2, 3)}
    dispatch[pickle.EMPTY_TUPLE[0]] = lambda reader: reader.append([])
    dispatch[pickle.TUPLE[0]] = pickle._Unpickler.load_list
    dispatch[pickle.BUILD[0]] = lambda reader: reader.stack.pop()  # such as version numbers

    def __init__(self, data: bytes, file=None) -> None:
        """Read a pickle whose tensors lie in an opened zip: file(name) -> bytes."""
        super().__init__(io.BytesIO(data))
        self.file, self.storages = file, {}

    def find_class(self, module: str, name: str) -> object:
        """Return what stands for a name of the file."""
        known = NAMES | {
            "torch._utils._rebuild_tensor_v2": self.tensor,
            "torch._utils._rebuild_tensor_v3": self.tensor,
            "torch._utils._rebuild_parameter": self.parameter,
        }
        if f"{module}.{name}" not in known:
            raise ValueError(f"GLOBAL {module}.{name}"[:200])
        return known[f"{module}.{name}"]

    def persistent_load(self, fields: object) -> torch.Tensor:
        """Return the flat tensor of a storage; its declared size must be its file's."""
        _, dtype, key, _, count = fields
        if key not in self.storages:
            data = bytearray(self.file(f"data/{key}"))
            if count * dtype.itemsize != len(data):
                raise ValueError(f"a storage of {count:,} elements in {len(data):,} bytes")
            self.storages[key] = (
                torch.frombuffer(data, dtype=dtype) if data else torch.empty(0, dtype=dtype)
            )
        return self.storages[key]

    def tensor(self, flat, offset, shape, stride, requires_grad, hooks, *newer) -> torch.Tensor:
        """Return a view of a storage; ValueError where it reaches outside."""
        flat = flat.view(newer[0]) if newer and isinstance(newer[0], torch.dtype) else flat
        if not (isinstance(shape, tuple | list) and isinstance(stride, tuple | list)):
            raise ValueError(f"a shape of type {type(shape).__name__} that no tensor has")
        sizes = (offset, *shape, *stride)
        if len(sizes) > MAX_SIZES or not all(type(n) is int and 0 <= n < 1 << 63 for n in sizes):
            raise ValueError(f"a shape of type {type(shape).__name__} that no tensor has")
        last = offset + sum((size - 1) * step for size, step in zip(shape, stride, strict=True))
        count = math.prod(shape)
        if count and (last >= len(flat) or count > len(flat)):
            raise ValueError(f"shape {shape}, strides {stride}, offset {offset} in {len(flat):,}")
        return flat.as_strided(shape, stride, offset) if count else flat.new_empty(shape)

    def parameter(self, tensor: torch.Tensor, *_) -> torch.Tensor:
        """Return the tensor of a parameter."""
        return tensor[...]


def unpickle(data: bytes, where: str, file=None) -> object:
    """Return the value of a pickle; InputError for a name or an opcode that weights do not need."""
    if len(data) > MAX_PICKLE:
        raise InputError(
            f"{where}: expected at most {MAX_PICKLE:,} bytes beside the tensors, found"
            f" {len(data):,}; save the weights alone"
        )
    reader = Reader(data, file)
    try:
        return reader.load()
    except InputError:
        raise
    except Exception as error:  # whatever a damaged pickle comes to
        stacks = [*getattr(reader, "metastack", ()), getattr(reader, "stack", ())]
        names = [value for stack in stacks for value in stack if isinstance(value, str)]
        raise InputError(
            f"{where}: {''.join(f'{name:.100}: ' for name in names[-1:])}expected a pickle of"
            f" tensors and plain values, found {show(str(error))[1:-1]}; nothing in it was run; a"
            " file like this can run code, so save the plain state_dict instead"
        ) from error


def read(data: bytes, where: str) -> object:
    """Return the value of torch.save's zip; every size is checked before anything of it is read."""

    def file(name: str) -> bytes:
        try:
            return zipped.read(folder + name)
        except BROKEN as error:
            raise damaged(where, f"the file {name:.100} in the zip", error) from error

    try:
        zipped = zipfile.ZipFile(io.BytesIO(data))
    except BROKEN as error:
        raise damaged(where, "the zip of torch.save", error) from error
    files = zipped.infolist()
    total = sum(info.file_size for info in files)
    packed = [info for info in files if info.compress_type != zipfile.ZIP_STORED]
    if total > len(data) or packed:
        plain = f"plainly stored files of {len(data):,} bytes at most"
        raise damaged(where, plain, f"{total:,} bytes, {len(packed)} packed files")
    names = [name for name in zipped.namelist() if name.rpartition("/")[2] == "data.pkl"]
    if len(names) != 1:
        raise damaged(where, "one data.pkl, as torch.save writes", len(names))
    folder = names[0].removesuffix("data.pkl")
    order = file("byteorder") if folder + "byteorder" in zipped.namelist() else b"little"
    if order != b"little":
        raise InputError(
            f"{where}: expected little-endian tensors, found {order[:20]!r}; save it again on"
            " another machine"
        )
    return unpickle(file("data.pkl"), where, file)
