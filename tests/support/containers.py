"""One small artifact; its header and payload, parsed and built by the published layout,
not by the code under test.
"""

import hashlib
import json
import struct

import numpy as np
import pytest
import torch
from hypothesis import strategies as st

import fast.codec
import fast.container
import reference.codec
import reference.container
from reference.recipe import InputError

HALVES = [reference.container, fast.container]
halves = pytest.mark.parametrize("half", HALVES, ids=["reference", "fast"])
SHARED = reference.codec.CODECS
READABLE = (*SHARED, "entropy")  # by the reference too
every_codec = pytest.mark.parametrize("codec", list(fast.codec.CODECS))
FORMATS = {
    "blocks.0.q": "e4m3",
    "blocks.0.mix": "float16",
    "embedding": "int6-row",
    "skip": "float32",
}
HEADER = {"recipe": {"preset": "tiny", "rates": [0.1, 2.5]}, "tokenizer_sha256": "ab" * 32}

texts = st.text(st.characters(codec="utf-8"), max_size=9)
json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | texts,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3),
    max_leaves=6,
)


def make_tensors(seed: int = 0) -> dict[str, torch.Tensor]:
    """A few weights of different shapes."""
    draw = torch.Generator().manual_seed(seed)
    shapes = {"skip": (2,), "embedding": (5, 13), "blocks.0.q": (4, 6), "blocks.0.mix": (2, 4)}
    return {name: torch.randn(shape, generator=draw) for name, shape in shapes.items()}


def in_numpy(tensors: dict[str, torch.Tensor]) -> dict[str, np.ndarray]:
    """The same weights for the reference."""
    return {name: values.numpy() for name, values in tensors.items()}


def packed(codec: str = "zlib") -> bytes:
    """The artifact of those weights."""
    return fast.container.pack(make_tensors(), FORMATS, HEADER, codec)


def parse_artifact(data: bytes) -> tuple[dict, bytes]:
    """Header and payload of a file."""
    magic, version, size = struct.unpack("<8sII", data[:16])
    assert (magic, version) == (b"MASKGOLF", 1)
    return json.loads(data[16 : 16 + size]), data[16 + size :]


def build_artifact(header: object, payload: bytes, sums: bool = True) -> bytes:
    """A file with this header and payload; `sums` makes both checksums and the payload size right,
    so that later checks are reached.
    """
    if sums:
        sums_of = {"sha256": hashlib.sha256(payload).hexdigest(), "payload_bytes": len(payload)}
        header = with_own_sum(header | sums_of)
    text = spelled(header)
    return struct.pack("<8sII", b"MASKGOLF", 1, len(text)) + text + payload


def spelled(header: object) -> bytes:
    """A header as its file spells it."""
    return json.dumps(header, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()


def with_own_sum(header: dict) -> dict:
    """A header with the checksum of itself made right, whatever else it says."""
    rest = {key: value for key, value in header.items() if key != "header_sha256"}
    return rest | {"header_sha256": hashlib.sha256(spelled(rest)).hexdigest()}


def assert_refused(data: bytes, match: str | None = None) -> None:
    """Both halves raise InputError, with one line that starts with the file's name; `match` is what
    the fast one says.
    """
    for half in HALVES:
        with pytest.raises(InputError, match=match if half is fast.container else None) as caught:
            half.unpack(data, where="runs/x.mgolf")
        message = str(caught.value)
        assert type(caught.value) is InputError
        assert (
            message.startswith("runs/x.mgolf: ") and "\n" not in message and len(message) < 1000
        ), message
