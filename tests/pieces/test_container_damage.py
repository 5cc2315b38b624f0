"""Damaged, foreign and forged artifacts: one clear error each, and no memory spent on them."""

import hashlib
import io
import itertools
import json
import pickle
import struct
import tracemalloc
import zipfile
import zlib

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import fast.container
import reference.codec
import reference.quantize
from reference.recipe import InputError
from tests.support.containers import (
    FORMATS,
    HALVES,
    assert_refused,
    build_artifact,
    every_codec,
    halves,
    json_values,
    packed,
    parse_artifact,
)


def peak_while_refused(half, data: bytes, match: str) -> int:
    """Largest number of bytes that Python held for the refusal."""
    tracemalloc.start()
    try:
        with pytest.raises(InputError, match=match if half is fast.container else None):
            half.unpack(data)
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


@every_codec
def test_every_truncation_is_refused(codec):
    data = packed(codec)
    for length in range(len(data)):
        with pytest.raises(InputError):
            fast.container.unpack(data[:length])
        if codec == "zlib":
            assert_refused(data[:length])
    assert_refused(data + b"\0")


@halves
def test_every_flipped_bit_is_refused(half):
    data = fast.container.pack({"w": torch.ones(3)}, {"w": "float16"}, {"a": 1}, "zlib")
    half.unpack(data)
    for place, bit in itertools.product(range(len(data)), range(8)):
        changed = bytearray(data)
        changed[place] ^= 1 << bit
        with pytest.raises(InputError):
            half.unpack(bytes(changed))


def test_foreign_files_are_refused():
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w") as file:
        file.writestr("a", "b")
    for foreign in (
        b"",
        b"M",
        b"MASKGOLF",
        archive.getvalue(),
        pickle.dumps({"a": 1}),
        b"\0" * 100,
        b"#!/bin/sh\n",
        bytes(range(256)),
    ):
        assert_refused(foreign)
    assert_refused(b"", "expected a MaskGolf artifact, found 0 bytes")


def test_other_versions_and_absurd_header_lengths_are_refused():
    data = packed()
    for version in (0, 2, 1 << 31):
        assert_refused(
            data[:8] + struct.pack("<I", version) + data[12:],
            f"expected container version 1, found {version}",
        )
    for size in (0, 1, 1 << 20, (1 << 20) + 1, (1 << 32) - 1):
        assert_refused(data[:12] + struct.pack("<I", size) + data[16:])
    long = b" " * ((1 << 20) + 1)
    assert_refused(
        data[:12] + struct.pack("<I", len(long)) + long, "header of at most 1048576 bytes"
    )


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"{}",
        b"[]",
        b"null",
        b"3",
        b"\xff\xfe",
        b"{",
        b"{'a': 1}",
        b'{"a": NaN}',
        b'{"a":1e999}',
        b"[" * 100_000,
        b'{"a":' * 50_000,
        b"1" * 5000,
        b'{"codec":"none","codec":"none"}',
        b'"\\ud800"',
    ],
)
def test_headers_that_are_not_our_json_are_refused(text):
    assert_refused(struct.pack("<8sII", b"MASKGOLF", 1, len(text)) + text, "header: expected")


@pytest.mark.parametrize("value", ["NaN", "1e999", "-Infinity"])
def test_numbers_that_json_does_not_have_are_refused(value):
    data = packed().replace(b"2.5", value.encode())
    size = struct.unpack("<I", data[12:16])[0] + len(value) - 3
    assert_refused(data[:12] + struct.pack("<I", size) + data[16:], "header: expected plain JSON")


def test_another_spelling_of_the_header_is_refused():
    header, payload = parse_artifact(packed())
    for options in (
        {"indent": 1},
        {"separators": (", ", ": "), "sort_keys": True},
        {"separators": (",", ":")},
    ):
        text = json.dumps(dict(reversed(header.items())), **options).encode()
        assert_refused(
            struct.pack("<8sII", b"MASKGOLF", 1, len(text)) + text + payload, "canonical JSON"
        )


def edited(edit) -> bytes:
    """The file after `edit(header)`, with right checksums."""
    header, payload = parse_artifact(packed())
    edit(header)
    return build_artifact(header, payload)


@pytest.mark.parametrize(
    "field, value, match",
    [
        ("codec", "rot13", "unknown codec 'rot13'"),
        ("codec", 3, "codec: expected a name"),
        ("codec", ["zlib"], "codec: expected a name"),
        ("raw_bytes", 1 << 40, "at most 268435456 bytes"),
        ("raw_bytes", -1, "found -1"),
        ("raw_bytes", True, "found True"),
        ("raw_bytes", 99, "99 bytes"),
        ("raw_bytes", None, "found None"),
        ("raw_bytes", 1.5, "found 1.5"),
        ("tensors", [], "tensor table"),
        ("tensors", {}, "tensor table"),
        ("tensors", [3], "tensor 0: expected name"),
        ("tensors", None, "tensor table"),
        ("tensors", "x" * 10_000, "tensor table"),
    ],
)
def test_header_fields_of_the_wrong_kind_are_refused(field, value, match):
    assert_refused(edited(lambda header: header.update({field: value})), match)


@pytest.mark.parametrize("field", ["codec", "raw_bytes", "tensors"])
def test_missing_header_fields_are_refused(field):
    assert_refused(
        edited(lambda header: header.pop(field)), "header: expected an object with the fields"
    )


@pytest.mark.parametrize("length", [*range(17), 100, 1000])
def test_a_header_one_byte_longer_than_the_file_is_refused_for_its_length(length):
    assert_refused(
        struct.pack("<8sII", b"MASKGOLF", 1, length + 1) + b" " * length,
        f"at most {length} bytes, found {length + 1};",
    )


@pytest.mark.parametrize("size", [True, 1.5, "9", None, -1, [], 1 << 70, "as a float"])
def test_wrong_payload_sizes_and_sums_are_refused(size):
    header, payload = parse_artifact(packed())
    size = float(len(payload)) if size == "as a float" else size
    assert_refused(
        build_artifact({**header, "payload_bytes": size}, payload, sums=False),
        "header: expected canonical",
    )
    sealed = {
        key: value
        for key, value in {**header, "payload_bytes": size}.items()
        if key != "header_sha256"
    }
    spelled = json.dumps(sealed, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()
    sealed["header_sha256"] = hashlib.sha256(spelled).hexdigest()
    assert_refused(build_artifact(sealed, payload, sums=False), "payload: expected .* bytes")


@pytest.mark.parametrize(
    "key, value",
    [
        ("name", "aaa"),
        ("name", 3),
        ("name", ""),
        ("name", "zzz"),
        ("shape", "x"),
        ("shape", [4, -6]),
        ("shape", [24.0]),
        ("shape", [True, 24]),
        ("shape", [0]),
        ("shape", [4, 7]),
        ("shape", [1] * 9),
        ("shape", [1 << 40]),
        ("shape", [1 << 27, 1 << 27, 1 << 27]),
        ("shape", None),
        ("shape", [[4, 6]]),
        ("format", "int5"),
        ("format", 3),
        ("format", "float32"),
        ("format", None),
        ("offset", 0),
        ("offset", 17),
        ("offset", -16),
        ("offset", 16.0),
        ("offset", "16"),
        ("bytes", 23),
        ("bytes", 25),
        ("bytes", -24),
        ("bytes", 1 << 50),
        ("bytes", None),
        ("bytes", True),
    ],
)
def test_rows_of_the_tensor_table_that_do_not_fit_are_refused(key, value):
    assert parse_artifact(packed())[0]["tensors"][1] == {
        "name": "blocks.0.q",
        "shape": [4, 6],
        "format": "e4m3",
        "offset": 16,
        "bytes": 24,
    }
    assert_refused(edited(lambda header: header["tensors"][1].update({key: value})))
    assert_refused(
        edited(lambda header: header["tensors"][1].pop(key)), "tensor 1: expected name, shape"
    )


def test_duplicated_missing_and_swapped_tensors_are_refused():
    assert_refused(
        edited(lambda header: header["tensors"].insert(1, header["tensors"][0])),
        "ascending order, each once",
    )
    assert_refused(edited(lambda header: header["tensors"].pop()), "tensor table: expected")
    assert_refused(edited(lambda header: header["tensors"].pop(0)), "expected 24 bytes at offset 0")
    assert_refused(edited(lambda header: header["tensors"].reverse()))
    assert_refused(
        edited(lambda header: header["tensors"][0].update(surplus=1)), "tensor 0: expected name"
    )


@halves
def test_too_many_weights_are_refused_before_they_are_made(half):
    """Two tensors that are inside every cap alone, 2^28 weights together: refused before the
    payload is read.
    """
    size = reference.quantize.encoded_bytes((1 << 27,), "ternary-group")
    rows = [
        {
            "name": n,
            "shape": [1 << 27],
            "format": "ternary-group",
            "offset": i * size,
            "bytes": size,
        }
        for i, n in enumerate("wx")
    ]
    data = build_artifact(
        {"codec": "zlib", "raw_bytes": 2 * size, "tensors": rows}, zlib.compress(b"\0" * 1000)
    )
    assert peak_while_refused(half, data, "at most 134217728 weights") < 1 << 20


def test_axes_beside_a_zero_are_capped_too():
    rows = [{"name": "w", "shape": [0] + [1 << 27] * 7, "format": "e4m3", "offset": 0, "bytes": 0}]
    assert_refused(
        build_artifact({"codec": "none", "raw_bytes": 0, "tensors": rows}, b""),
        "at most 134217728 weights",
    )


@halves
@pytest.mark.parametrize("codec", ["zlib", "lzma"])
def test_a_decompression_bomb_is_not_inflated(half, codec):
    """A payload that would grow to 64 MB where 24 bytes are declared stops at the declared size."""
    bomb = reference.codec.compress(bytes(1 << 26), [1 << 26], codec)[0]
    rows = [{"name": "w", "shape": [24], "format": "e4m3", "offset": 0, "bytes": 24}]
    data = build_artifact({"codec": codec, "raw_bytes": 24, "tensors": rows}, bomb)
    # The dictionary of lzma preset 6 takes 8 MB
    assert peak_while_refused(half, data, "payload: expected 24 bytes") < 10 << 20


@every_codec
@settings(max_examples=60)
@given(data=st.data())
def test_damaged_payloads_with_right_checksums_are_refused_or_read(codec, data):
    """Whoever writes the checksums can write any payload: the decoder may then give other weights,
    but no other kind of error.
    """
    header, payload = parse_artifact(packed(codec))
    kind = data.draw(st.sampled_from(["flip", "cut", "grow", "replace"]))
    place = data.draw(st.integers(0, len(payload) - 1))
    if kind == "flip":
        changed = bytearray(payload)
        changed[place] ^= data.draw(st.integers(1, 255))
    elif kind == "cut":
        changed = payload[:place]
    elif kind == "grow":
        changed = payload + data.draw(st.binary(min_size=1, max_size=9))
    else:
        changed = data.draw(st.binary(max_size=300))
    try:
        _, tensors = fast.container.unpack(build_artifact(header, bytes(changed)))
        assert kind in ("flip", "replace") and set(tensors) == set(FORMATS)
    except InputError:
        assert bytes(changed) != payload


@settings(max_examples=100)
@given(data=st.data())
def test_any_header_is_read_or_refused(data):
    """One value somewhere in the header is replaced by any JSON value."""
    header, payload = parse_artifact(packed("none"))
    value = data.draw(json_values)
    key = data.draw(st.sampled_from(["codec", "raw_bytes", "tensors", "row", "cell"]))
    if key == "row":
        header["tensors"][data.draw(st.integers(0, 3))] = value
    elif key == "cell":
        row = header["tensors"][data.draw(st.integers(0, 3))]
        row[data.draw(st.sampled_from(sorted(row)))] = value
    else:
        header[key] = value
    outcomes = []
    for half in HALVES:
        try:
            outcomes.append(sorted(half.unpack(build_artifact(header, payload))[1]))
        except InputError as error:
            outcomes.append(str(error))
    assert type(outcomes[0]) is type(outcomes[1])


@given(data=st.binary(max_size=200))
def test_any_bytes_after_the_magic_are_refused(data):
    assert_refused(b"MASKGOLF" + data)
    assert_refused(struct.pack("<8sII", b"MASKGOLF", 1, len(data) // 2) + data)
