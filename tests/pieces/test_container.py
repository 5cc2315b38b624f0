"""The artifact file: the published bytes, read alike by both halves, and what was packed comes
back.
"""

import hashlib
import itertools
import json
import lzma
import zlib
from functools import partial
from pathlib import Path

import lz4.block
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import fast.codec
import fast.container
import fast.quantize
import reference.container
import reference.quantize
from harness.parity.storage import assemble
from reference.recipe import FORMATS as RECIPE_FORMATS
from reference.recipe import InputError
from tests.support.containers import (
    FORMATS,
    HALVES,
    HEADER,
    READABLE,
    SHARED,
    build_artifact,
    every_codec,
    halves,
    in_numpy,
    json_values,
    make_tensors,
    packed,
    parse_artifact,
    texts,
)


@pytest.mark.parametrize("codec", [*SHARED])
def test_what_is_written_is_the_published_layout_of_the_references_codes(codec):
    data = packed(codec)
    assert assemble(in_numpy(make_tensors()), FORMATS, HEADER, codec) == data
    header, tensors = reference.container.unpack(data)
    fast_header, fast_tensors = fast.container.unpack(data)
    assert header == fast_header and list(tensors) == list(fast_tensors) == sorted(FORMATS)
    for name, values in tensors.items():
        assert (
            values.dtype == np.float32 and values.tobytes() == fast_tensors[name].numpy().tobytes()
        )


@every_codec
def test_what_comes_back_is_what_the_formats_kept(codec):
    tensors = make_tensors()
    header, back = fast.container.unpack(packed(codec))
    assert (
        header["codec"] == codec
        and header["recipe"] == HEADER["recipe"]
        and header["tokenizer_sha256"] == HEADER["tokenizer_sha256"]
    )
    for name, values in tensors.items():
        data = reference.quantize.to_bytes(values.numpy(), FORMATS[name])
        np.testing.assert_array_equal(
            back[name].numpy(), reference.quantize.from_bytes(data, values.shape, FORMATS[name])
        )


@every_codec
def test_tensors_without_elements_come_back(codec):
    for tensors in (
        {"a": torch.zeros(0, 5)},
        {"a": torch.ones(3), "b": torch.zeros(0, 5), "c": torch.ones(2)},
    ):
        header, back = fast.container.unpack(
            fast.container.pack(tensors, dict.fromkeys(tensors, "float16"), {}, codec)
        )
        assert all(torch.equal(back[name], values) for name, values in tensors.items())


def test_the_layout_is_the_published_one():
    header, payload = parse_artifact(packed("zlib"))
    raw = zlib.decompress(payload)
    assert header["raw_bytes"] == len(raw) and header["payload_bytes"] == len(payload)
    assert header["sha256"] == hashlib.sha256(payload).hexdigest()
    assert [row["name"] for row in header["tensors"]] == sorted(FORMATS)
    for row in header["tensors"]:
        values = make_tensors()[row["name"]]
        assert tuple(row["shape"]) == tuple(values.shape) and row["format"] == FORMATS[row["name"]]
        assert raw[row["offset"] : row["offset"] + row["bytes"]] == fast.quantize.to_bytes(
            values, row["format"]
        )
    spelled = json.dumps(header, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()
    assert packed("zlib")[16 : 16 + len(spelled)] == spelled
    # The checksums are what this file's own helper computes
    assert build_artifact(header, payload) == packed("zlib")


def test_the_order_of_the_tensors_does_not_matter():
    pack, tensors = fast.container.pack, make_tensors()
    turned = dict(reversed(tensors.items())), FORMATS, dict(reversed(HEADER.items()))
    assert pack(tensors, FORMATS, HEADER) == pack(*turned)


@pytest.mark.parametrize(
    ("pack", "names"), [(assemble, SHARED), (fast.container.pack, fast.codec.CODECS)]
)
def test_best_is_the_smallest_and_is_named(pack, names):
    for size, seed in itertools.product((1, 50, 3000), (0, 1)):
        values = (
            torch.randn(size, generator=torch.Generator().manual_seed(seed)) * 0.02
            if seed
            else torch.zeros(size)
        )
        tensors = {"w": values.numpy() if pack is assemble else values}
        sizes = {
            name: len(parse_artifact(pack(tensors, {"w": "e4m3"}, {}, name))[1]) for name in names
        }
        header, payload = parse_artifact(pack(tensors, {"w": "e4m3"}, {}, "best"))
        assert len(payload) == min(sizes.values())
        assert header["codec"] == next(name for name, size in sizes.items() if size == len(payload))


@halves
@settings(max_examples=40)
@given(
    header=st.dictionaries(
        texts.filter(lambda key: key not in fast.container.OWN_FIELDS), json_values, max_size=4
    )
)
def test_the_callers_header_comes_back(half, header):
    data = fast.container.pack({"w": torch.ones(2)}, {"w": "float16"}, header, "none")
    back, _ = half.unpack(data)
    assert {key: back[key] for key in header} == header


def test_bad_arguments_of_pack_are_one_clear_error():
    one = {"w": torch.ones(2)}
    cyclic = []
    cyclic.append(cyclic)
    cases = [
        ({}, {}, {}, "zlib", "at least one tensor"),
        (one, {}, {}, "zlib", "w: expected a storage format"),
        (one, {"w": "int5"}, {}, "zlib", "unknown weight format 'int5'"),
        (one, {"w": "float16"}, {}, "brotli", "unknown codec 'brotli'"),
        (one, {"w": "float16"}, {"tensors": []}, "zlib", "tensors belong to the container"),
        (one, {"w": "float16"}, {"x": float("nan")}, "zlib", "header: expected plain JSON"),
        (one, {"w": "float16"}, {"x": b"bytes"}, "zlib", "header: expected plain JSON"),
        (one, {"w": "float16"}, {1: 2}, "zlib", "header: expected plain JSON"),
        (one, {"w": "float16"}, {"x": {"y", "z"}}, "zlib", "header: expected plain JSON"),
        (one, {"w": "float16"}, {"x": cyclic}, "zlib", "header: expected plain JSON"),
        (one, {"w": "float16"}, {"x": "\ud800"}, "zlib", "header: expected plain JSON"),
        (
            one,
            {"w": "float16"},
            {"x": "y" * (1 << 20)},
            "zlib",
            "header: expected at most 1048576 bytes",
        ),
        ({"": one["w"]}, {"": "float16"}, {}, "zlib", "each with a name"),
        (
            {"w": one["w"] * float("nan")},
            {"w": "float16"},
            {},
            "zlib",
            "w: expected finite numbers",
        ),
    ]
    for tensors, formats, header, codec, match in cases:
        with pytest.raises(InputError, match=match):
            fast.container.pack(tensors, formats, header, codec)


@pytest.mark.parametrize(
    "value",
    [{1: 2}, {10: 1, 9: 2}, [{"y": ({None: 2},)}], {"a": {True: 2}, "b": 1}, {1.5: 2}],
    ids=repr,
)
def test_keys_that_json_would_turn_into_strings_are_refused(value):
    with pytest.raises(
        InputError, match="header: expected plain JSON .*, found keys that are not strings"
    ):
        fast.container.canonical_json({"x": value})


def test_what_json_says_is_quoted_up_to_200_characters():
    long = type("T" * 300, (), {})()
    with pytest.raises(InputError) as refused:
        fast.container.canonical_json({"x": long})
    quoted = f"Object of type {'T' * 300}"[:200]
    assert str(refused.value).endswith(f", found {quoted}; store nothing else")


GOLDEN = Path(__file__).parent / "golden"  # a tensor in every format, under each codec
KNOWN = json.loads((GOLDEN / "tensors.json").read_text())
LZ4 = {"mode": "high_compression", "compression": 12, "store_size": False}
LIBRARIES = {  # of other people: one version may compress otherwise than another
    "zlib": partial(zlib.compress, level=9),
    "lzma": partial(lzma.compress, preset=6),
    "lz4": partial(lz4.block.compress, **LZ4),
}


@every_codec
def test_golden_files_are_read_to_the_tensors_that_are_known(codec):
    data = (GOLDEN / f"{codec}.mgolf").read_bytes()
    assert {row["format"] for row in KNOWN["tensors"].values()} == set(RECIPE_FORMATS)
    for half in HALVES if codec in READABLE else [fast.container]:
        header, tensors = half.unpack(data)
        assert {key: header[key] for key in KNOWN["header"]} == KNOWN["header"]
        assert list(tensors) == sorted(KNOWN["tensors"])
        for name, row in KNOWN["tensors"].items():
            stored = np.array(row["stored"], np.float32).reshape(row["shape"])
            assert np.asarray(tensors[name]).tobytes() == stored.tobytes()
            assert tuple(tensors[name].shape) == stored.shape


@every_codec
def test_golden_files_are_written_byte_for_byte(codec):
    data = (GOLDEN / f"{codec}.mgolf").read_bytes()
    tensors = {
        name: torch.tensor(row["values"]).reshape(row["shape"])
        for name, row in KNOWN["tensors"].items()
    }
    formats = {name: row["format"] for name, row in KNOWN["tensors"].items()}
    found = fast.container.pack(tensors, formats, KNOWN["header"], codec)
    raw, (_, payload) = (
        parse_artifact((GOLDEN / "none.mgolf").read_bytes())[1],
        parse_artifact(data),
    )
    if codec in LIBRARIES and LIBRARIES[codec](raw) != payload:
        pytest.skip(f"this machine's {codec} compresses otherwise than the one that wrote the file")
    assert found == data


def test_eight_axes_are_stored_and_nine_are_not():
    values = torch.ones(2, *[1] * 7)
    assert (
        fast.container.unpack(fast.container.pack({"w": values}, {"w": "float16"}, {}))[1][
            "w"
        ].shape
        == values.shape
    )
    with pytest.raises(InputError, match="up to 8 axis lengths"):
        fast.container.pack({"w": values[None]}, {"w": "float16"}, {})
