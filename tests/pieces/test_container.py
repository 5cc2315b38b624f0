"""The artifact file: same bytes from both halves, and what was packed comes back."""

import hashlib
import itertools
import json
import zlib

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
from reference.recipe import InputError
from tests.support.containers import (
    FORMATS,
    HEADER,
    SHARED,
    every_codec,
    halves,
    in_numpy,
    json_values,
    make_tensors,
    packed,
    put_together,
    taken_apart,
    texts,
)


@pytest.mark.parametrize("codec", [*SHARED])
def test_both_halves_write_the_same_bytes(codec):
    data = packed(codec)
    assert reference.container.pack(in_numpy(make_tensors()), FORMATS, HEADER, codec) == data
    assert fast.container.pack(make_tensors(), FORMATS, HEADER, codec) == data
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
    header, payload = taken_apart(packed("zlib"))
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
    assert put_together(header, payload) == packed(
        "zlib"
    )  # the checksums are what this file's own helper computes


@halves
def test_the_order_of_the_tensors_does_not_matter(half):
    tensors = make_tensors() if half is fast.container else in_numpy(make_tensors())
    turned = dict(reversed(tensors.items()))
    assert half.pack(tensors, FORMATS, HEADER) == half.pack(
        turned, FORMATS, dict(reversed(HEADER.items()))
    )


@halves
def test_best_is_the_smallest_and_is_named(half):
    for size, seed in itertools.product((1, 50, 3000), (0, 1)):
        values = (
            torch.randn(size, generator=torch.Generator().manual_seed(seed)) * 0.02
            if seed
            else torch.zeros(size)
        )
        tensors = {"w": values if half is fast.container else values.numpy()}
        names = fast.codec.CODECS if half is fast.container else SHARED
        sizes = {
            name: len(taken_apart(half.pack(tensors, {"w": "e4m3"}, {}, name))[1]) for name in names
        }
        header, payload = taken_apart(half.pack(tensors, {"w": "e4m3"}, {}))
        assert len(payload) == min(sizes.values())
        assert header["codec"] == next(name for name, size in sizes.items() if size == len(payload))


@halves
@settings(max_examples=40)
@given(
    header=st.dictionaries(
        texts.filter(lambda key: key not in reference.container.OWN_FIELDS), json_values, max_size=4
    )
)
def test_the_callers_header_comes_back(half, header):
    values = np.ones(2, np.float32)
    data = half.pack(
        {"w": torch.from_numpy(values) if half is fast.container else values},
        {"w": "float16"},
        header,
        "none",
    )
    back, _ = half.unpack(data)
    assert {key: back[key] for key in header} == header


@halves
def test_bad_arguments_of_pack_are_one_clear_error(half):
    one = {"w": torch.ones(2) if half is fast.container else np.ones(2)}
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
        with pytest.raises(InputError, match=match if half is fast.container else None):
            half.pack(tensors, formats, header, codec)


@halves
@pytest.mark.parametrize(
    "value",
    [{1: 2}, {10: 1, 9: 2}, [{"y": ({None: 2},)}], {"a": {True: 2}, "b": 1}, {1.5: 2}],
    ids=repr,
)
def test_keys_that_json_would_turn_into_strings_are_refused(half, value):
    with pytest.raises(
        InputError, match="header: expected plain JSON .*, found keys that are not strings"
    ):
        half.canonical_json({"x": value})


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
