"""Foreign files opened within bounds: what compresses them, the zip of torch.save, and the tensors
in it.
"""

import contextlib
import io
import lzma
import math
import zipfile
import zlib
from pathlib import Path

import torch

from fast import container
from harness import bounded
from harness.importers import pickles
from reference.recipe import InputError

MAX_BYTES = container.MAX_RAW  # of a file, and of what it unpacks to
LZMA_MEMORY = 1 << 28  # bytes the decoder may take; preset 9 needs 65 MB
BROKEN = (
    zipfile.BadZipFile,
    KeyError,
    ValueError,
    NotImplementedError,
    EOFError,
    OSError,
)  # what zipfile raises for a damaged file
ZIP, XZ, ZSTD = b"PK\x03\x04", (b"\xfd7zXZ\x00", b"\x5d\x00\x00"), b"\x28\xb5\x2f\xfd"


def read(path: Path) -> bytes:
    """Return the bytes of a file of at most MAX_BYTES."""
    return bounded.read(path, MAX_BYTES, "bytes of weights", "this is no model of a few MB")


def _zstandard(where: str):
    """Return zstd's bounded reader: data -> what it unpacks to, at most MAX_BYTES + 1."""
    with contextlib.suppress(ImportError):
        from compression import zstd  # Python 3.14

        return lambda data: zstd.ZstdDecompressor().decompress(data, MAX_BYTES + 1)
    with contextlib.suppress(ImportError):
        import zstandard

        return lambda data: (
            zstandard.ZstdDecompressor(max_window_size=LZMA_MEMORY)
            .stream_reader(io.BytesIO(data))
            .read(MAX_BYTES + 1)
        )
    raise InputError(
        f"{where}: expected a reader for zstd, found none in this Python; pip install zstandard"
    )


def decompress(data: bytes, where: str) -> tuple[bytes, str]:
    """Return (content, zlib | lzma | zstd | none), the codec told by the first bytes; over
    MAX_BYTES or cut off is an InputError.
    """
    if len(data) > 1 and data[0] & 15 == 8 and int.from_bytes(data[:2], "big") % 31 == 0:
        codec, machine = "zlib", zlib.decompressobj()
    elif data.startswith(XZ):
        codec, machine = "lzma", lzma.LZMADecompressor(memlimit=LZMA_MEMORY)
    elif data.startswith(ZSTD):
        codec, machine = "zstd", None
    else:
        return data, "none"
    reader = None if machine else _zstandard(where)
    unpack = machine.decompress if machine else lambda data, _: reader(data)
    try:
        content = unpack(data, MAX_BYTES + 1)
    except Exception as error:  # each codec has an error of its own
        raise InputError(
            f"{where}: expected {codec} data, found something else ({str(error)[:200]}); the file"
            " is damaged"
        ) from error
    if len(content) > MAX_BYTES:
        raise InputError(
            f"{where}: expected at most {MAX_BYTES:,} bytes after {codec}, found more; this is no"
            " model of a few MB"
        )
    if machine and not machine.eof:
        raise InputError(
            f"{where}: expected the end of the {codec} data, found {len(content):,} bytes and no"
            " end; the file is cut off"
        )
    return content, codec


class Torch:
    """What torch.save wrote: the value of its pickle, and the memory that its tensors refer to."""

    def __init__(self, data: bytes, where: str) -> None:
        """Open the zip; every size is checked before anything of it is read."""
        self.where = where
        try:
            self.zip = zipfile.ZipFile(io.BytesIO(data))
            self.files = {info.filename: info for info in self.zip.infolist()}
        except BROKEN as error:
            raise self.damaged("the zip of torch.save", error) from error
        total = sum(info.file_size for info in self.files.values())
        packed = [
            name
            for name, info in self.files.items()
            if info.compress_type != zipfile.ZIP_STORED or info.flag_bits & 1
        ]
        if total > len(data) or packed:
            raise self.damaged(
                f"plainly stored files of {len(data):,} bytes at most",
                f"{total:,} bytes, {len(packed)} packed files",
            )
        found = [name for name in self.files if name.rpartition("/")[2] == "data.pkl"]
        if len(found) != 1:
            raise self.damaged("one data.pkl, as torch.save writes", f"{len(found)}")
        self.folder = found[0].removesuffix("data.pkl")
        order = self.file("byteorder") if self.folder + "byteorder" in self.files else b"little"
        if order != b"little":
            raise InputError(
                f"{where}: expected little-endian tensors, found {order[:20]!r}; save it again on"
                " another machine"
            )
        self.value = pickles.read(self.file("data.pkl"), where)

    def damaged(self, expected: str, found: object) -> InputError:
        """Return the error for a zip that torch.save does not write."""
        return InputError(
            f"{self.where}: expected {expected}, found {str(found)[:200]}; the file is damaged"
        )

    def file(self, name: str) -> bytes:
        """Return one file of the zip."""
        try:
            return self.zip.read(self.folder + name)
        except BROKEN as error:
            raise self.damaged(f"the file {name:.100} in the zip", error) from error

    def memory(self, storage: object, dtype: torch.dtype | None, name: str) -> torch.Tensor:
        """Return the flat tensor that a Storage refers to; its declared size must be its file's."""
        match storage:
            case pickles.Storage(("storage", pickles.Global(kind), str(key), str(), int(count))):
                pass
            case _:
                raise self.damaged(f"{name}: a tensor's storage", pickles.show(storage))
        dtype = dtype or getattr(torch, pickles.STORAGES.get(kind, ""), None)
        if dtype is None:
            raise self.damaged(f"{name}: a storage of numbers", kind)
        data = self.file(f"data/{key}")
        declared = count * (1 if kind == pickles.UNTYPED else dtype.itemsize)
        if declared != len(data) or declared % dtype.itemsize:
            raise self.damaged(
                f"{name}: {declared:,} bytes in its storage {key:.50}", f"{len(data):,}"
            )
        return (
            torch.frombuffer(bytearray(data), dtype=dtype) if data else torch.empty(0, dtype=dtype)
        )

    def tensor(self, node: object, name: str) -> torch.Tensor:
        """Return the tensor that a Call describes; InputError where there is none or it reaches
        outside its storage.
        """
        dtype = None
        match node:
            case pickles.Call("torch._utils._rebuild_parameter", (inner, *_)):
                node = inner
        match node:
            case pickles.Call(
                "torch._utils._rebuild_tensor_v2",
                (storage, int(offset), tuple(shape), tuple(stride), *_),
            ):
                pass
            case pickles.Call(
                "torch._utils._rebuild_tensor_v3",
                (storage, int(offset), tuple(shape), tuple(stride), _, _, pickles.Global(kind), *_),
            ):
                dtype = getattr(torch, kind.rpartition(".")[2], None)
            case _:
                raise InputError(
                    f"{self.where}: {name}: expected a tensor, found {type(node).__name__}; save"
                    " tensors under plain names"
                )
        if not all(type(size) is int and size >= 0 for size in (offset, *shape, *stride)) or len(
            shape
        ) != len(stride):
            raise self.damaged(f"{name}: a shape, its strides and an offset", "others")
        flat, count = (
            self.memory(storage, dtype if isinstance(dtype, torch.dtype) else None, name),
            math.prod(shape),
        )
        last = offset + sum((size - 1) * step for size, step in zip(shape, stride, strict=True))
        if count and (last >= len(flat) or count > len(flat)):
            found = f"shape {shape}, strides {stride}, offset {offset}"
            raise self.damaged(
                f"{name}: a tensor inside its storage of {len(flat):,} elements", found
            )
        return (
            torch.as_strided(flat, shape, stride, offset).contiguous()
            if count
            else torch.empty(shape, dtype=flat.dtype)
        )
