"""Codecs: lossless, close to the entropy, the same bytes tomorrow, and one clear error for what no
encoder writes.
"""

import hashlib
import itertools
import lzma
import math
import struct
import sys
import zlib

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import fast.codec
import fast.container
import fast.quantize
import fast.spread
import reference.codec
from reference.recipe import InputError
from tests.support.containers import READABLE, SHARED, every_codec, packed, parse_artifact
from tests.support.halves import halves, of

GOLDEN_ENTROPY = "ebdba3cddf1c75095cafb8b884a0515a87a43bea72919dc7b218f1b7c55d4965"


@every_codec
@settings(max_examples=40)
@given(
    pieces=st.lists(
        st.binary(min_size=1, max_size=300) | st.integers(1, 2000).map(lambda n: b"\x07" * n),
        min_size=1,
        max_size=5,
    )
)
def test_codecs_are_lossless(codec, pieces):
    raw, ends = b"".join(pieces), list(itertools.accumulate(map(len, pieces)))
    data, name = fast.codec.compress(raw, ends, codec)
    assert name == codec and fast.codec.decompress(data, len(raw), ends, codec) == raw
    assert fast.codec.compress(raw, ends, codec)[0] == data
    if codec in SHARED:
        assert reference.codec.compress(raw, ends, codec) == (data, codec)
    if codec in READABLE:
        assert reference.codec.decompress(data, len(raw), ends, codec) == raw
    for wrong in {max(len(raw) - 1, 1), len(raw) + 1} - {len(raw)}:
        try:
            decoded = fast.codec.decompress(data, wrong, [wrong], codec)
        except InputError:
            continue
        # Only the boundaries know how long a run of one symbol is
        assert codec == "entropy" and len(decoded) == wrong


def empirical_entropy(raw: bytes) -> float:
    """Bytes that an ideal coder with one byte distribution needs."""
    counts = np.bincount(np.frombuffer(raw, np.uint8), minlength=256)
    used = counts[counts > 0]
    return float((used * np.log2(len(raw) / used)).sum() / 8)


@pytest.mark.parametrize("format", ["e4m3", "int8-row", "int4-group", "float16"])
def test_the_entropy_coder_reaches_the_empirical_entropy(format):
    """Within 0.5 % of the entropy over each tensor's own byte statistics, tables included."""
    draw = torch.Generator().manual_seed(3)
    pieces = [
        fast.quantize.to_bytes(torch.randn(400, 576, generator=draw) * size, format)
        for size in (0.02, 0.3)
    ]
    ends = [len(pieces[0]), len(pieces[0]) + len(pieces[1])]
    data, _ = fast.codec.compress(b"".join(pieces), ends, "entropy")
    assert fast.codec.decompress(data, ends[-1], ends, "entropy") == b"".join(pieces)
    assert len(data) <= 1.005 * sum(map(empirical_entropy, pieces))
    # The two bytes of float16 have statistics of their own, which beats one distribution.
    if format != "float16":
        assert len(data) >= 0.995 * sum(map(empirical_entropy, pieces))


def test_the_entropy_coder_finds_the_bytes_that_differ_in_kind():
    """Elements of two and four bytes are coded with statistics of each position, random bytes as
    they are.
    """
    draw = np.random.default_rng(3)
    for width in (2, 4):
        columns = [
            draw.integers(8 * place, 8 * place + 2 ** (1 + place), 200_000).astype(np.uint8)
            for place in range(width)
        ]
        raw = np.stack(columns, axis=1).tobytes()
        data, _ = fast.codec.compress(raw, [len(raw)], "entropy")
        assert data[0] == width and len(data) <= 1.005 * sum(
            empirical_entropy(column.tobytes()) for column in columns
        )
    noise = draw.bytes(10_000)
    assert fast.codec.compress(noise, [10_000], "entropy")[0] == b"\0" + noise


def test_the_expected_size_is_that_of_the_symbols_and_their_table():
    counts = np.zeros(256, np.int64)
    counts[[3, 200, 255]] = 40, 20, 20
    codes = fast.codec.table_of(counts)
    assert fast.codec.bits_of(counts, codes) == 40 * 1 + 40 * 2 + 8 * (32 + 3)
    assert fast.codec.bits_of(counts[::-1], codes[::-1]) == 40 * 1 + 40 * 2 + 8 * (32 + 3)


def test_a_stride_may_be_as_long_as_its_tensor():
    one_symbol = b"\x10" + bytes(31) + b"\x07"
    assert fast.codec.decompress(b"\1" + one_symbol, 1, [1], "entropy") == b"\3"
    assert fast.codec.decompress(b"\2" + 2 * one_symbol, 2, [2], "entropy") == b"\3\3"
    with pytest.raises(InputError, match="a stride of"):
        fast.codec.decompress(b"\2" + 2 * one_symbol, 1, [1], "entropy")


@halves
def test_an_xz_stream_that_asks_for_much_memory_is_refused(half):
    """The dictionary size in the block header says how much a decoder sets aside: 8 MB as written,
    128 MB in the altered copy.
    """
    raw = bytes(range(100))
    data = bytearray(lzma.compress(raw, preset=6))
    # Header of 12 bytes, no flags, LZMA2, one byte of properties, 2 << 22
    assert data[12:17] == b"\x02\x00\x21\x01\x16"
    codec = of(half, "codec")
    assert codec.decompress(bytes(data), 100, [100], "lzma") == raw
    data[16] = 0x1E  # 2 << 26
    data[20:24] = struct.pack("<I", zlib.crc32(data[12:20]))
    assert lzma.decompress(data) == raw
    with pytest.raises(InputError, match=r"payload: expected 100 bytes \(lzma\)"):
        codec.decompress(bytes(data), 100, [100], "lzma")


def test_the_table_of_counts_stays_near_the_counts():
    counts = np.array([0, 1, 2, 15, 16, 17, 1000, 123_456, 10**6] + [0] * 247)
    weights = fast.codec.WEIGHTS[fast.codec.table_of(counts)].astype(np.float64)
    assert (np.diff(fast.codec.WEIGHTS) > 0).all() and fast.codec.WEIGHTS[0] == 0
    assert ((weights > 0) == (counts > 0)).all()
    common = counts * fast.codec.TOTAL / counts.sum() >= 16
    ratio = weights[common] / (counts[common] * fast.codec.TOTAL / counts.sum())
    assert (ratio <= 1).all() and (
        ratio > 1 - 2 / 16
    ).all()  # a step of the code is 1/16, a rounded-down count at most as much again


def test_the_entropy_coder_may_split_long_tensors(monkeypatch):
    raw = bytes(np.random.default_rng(0).integers(0, 9, 1000).astype(np.uint8))
    whole = fast.codec.compress(raw, [1000], "entropy")[0]
    monkeypatch.setattr(fast.codec, "PIECE", 64)
    assert fast.codec.compress(raw, [1000], "entropy")[0] == whole
    assert fast.codec.decompress(whole, 1000, [1000], "entropy") == raw


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\x03",
        b"\x08",
        b"\x01",
        b"\x01" + bytes(32),
        b"\x01" + b"\x80" + bytes(31),
        b"\x01" + b"\x80" + bytes(32),
        b"\x01" + b"\xff" * 288,
        b"\x00" + bytes(5),
        b"\x00" + bytes(10) + b"\1",
        b"\x00" + bytes(10) + bytes(4),
        b"\x00" + bytes(10) + b"\1\0\0\0",
    ],
)
def test_entropy_data_that_no_encoder_writes_is_refused(data):
    with pytest.raises(InputError, match=r"payload: expected .*\(entropy\)"):
        fast.codec.decompress(data, 10, [10], "entropy")


@settings(max_examples=200)
@given(
    data=st.binary(max_size=400),
    raw_bytes=st.integers(1, 50),
    codec=st.sampled_from(list(fast.codec.CODECS)),
)
def test_any_bytes_decode_to_the_declared_size_or_are_refused(data, raw_bytes, codec):
    try:
        assert len(fast.codec.decompress(data, raw_bytes, [raw_bytes], codec)) == raw_bytes
    except InputError:
        assert codec != "none" or len(data) != raw_bytes


# integers by the spread of their rows and columns


def grid(integers_RC: np.ndarray) -> bytes:
    """Return the raw bytes of a tensor of integers: an exponent for each row, one for each column,
    then they.
    """
    exponents = np.arange(sum(integers_RC.shape))
    return exponents.astype("<i2").tobytes() + integers_RC.astype("<i2").tobytes()


def round_trip(tensors: list[np.ndarray], others: tuple[bytes, ...] = ()) -> bytes:
    """Return the code of tensors of integers with others in front and behind, which came back."""
    pieces = [*others, *map(grid, tensors), *others]
    raw, ends = b"".join(pieces), list(itertools.accumulate(map(len, pieces)))
    columns = [tensor.shape[1] for tensor in tensors]
    columns = [0] * len(others) + columns + [0] * len(others)
    data, name = fast.codec.compress(raw, ends, "entropy", columns)
    assert name == "entropy"
    for codec in (fast.codec, reference.codec):
        assert codec.decompress(data, len(raw), ends, "entropy", columns) == raw
    return data


@settings(max_examples=60)
@given(
    shapes=st.lists(st.tuples(st.integers(1, 6), st.integers(1, 9)), min_size=1, max_size=3),
    sizes=st.lists(st.sampled_from([0.0, 0.2, 3.0, 300.0, 2.0**15]), min_size=1, max_size=4),
    seed=st.integers(0, 2**32),
)
def test_integers_of_any_size_come_back(shapes, sizes, seed):
    """Rows and columns of zeros, of small and large integers, and one far beyond the rest."""
    rng, tensors = np.random.default_rng(seed), []
    for rows, columns in shapes:
        spread_RC = np.minimum.outer(rng.choice(sizes, rows), rng.choice(sizes, columns))
        integers_RC = np.rint(rng.standard_normal((rows, columns)) * spread_RC)
        integers_RC[rng.integers(rows), rng.integers(columns)] = rng.choice(
            [0, -(2**15), 2**15 - 1]
        )
        tensors.append(integers_RC.clip(-(2**15), 2**15 - 1))
    round_trip(tensors, (b"other bytes", b"\7" * 100))


def gaussian_bits(deviations: np.ndarray) -> float:
    """Return the cross-entropy in bits of rounded Gaussian numbers under their own distributions."""
    edges = np.arange(-20_000, 20_001) - 0.5
    total = 0.0
    for deviation, count in zip(*np.unique(deviations, return_counts=True), strict=True):
        below = np.array([math.erf(edge / deviation / math.sqrt(2)) for edge in edges])
        chances = np.diff(below) / 2
        used = chances[chances > 0]
        total -= count * float((used * np.log2(used)).sum())
    return total


@pytest.mark.parametrize("across", ["columns", "rows", "both"])
def test_integers_take_what_the_spread_of_row_and_column_takes(across):
    """Within half a percent of the cross-entropy under the very distribution of each integer,
    tables and classes included; and by far less than by the counts of their bytes.
    """
    rng, octaves = np.random.default_rng(5), np.arange(0, 6)
    spread_R, spread_C = np.ones(9000), np.ones(240)
    if across != "columns":
        spread_R = 2.0 ** np.repeat(octaves / 2, 1500)
    if across != "rows":
        spread_C = 2.0 ** np.repeat(octaves / 2, 40)
    deviations_RC = 2 * np.outer(spread_R, spread_C)
    integers_RC = np.rint(rng.standard_normal((9000, 240)) * deviations_RC)
    data = round_trip([integers_RC])
    exponents = 1.5 * sum(integers_RC.shape)  # bytes: they all differ
    assert 8 * (len(data) - exponents) <= 1.005 * gaussian_bits(deviations_RC)
    raw = grid(integers_RC)
    assert len(data) < 0.92 * len(fast.codec.compress(raw, [len(raw)], "entropy")[0])


def test_integers_of_like_spread_share_a_table_across_tensors():
    rng = np.random.default_rng(6)
    one, other = (np.rint(rng.standard_normal((64, 64)) * 20) for _ in range(2))
    together = len(round_trip([one, other]))
    apart = len(round_trip([one])) + len(round_trip([other]))
    assert together < apart - 40


@given(
    value=st.integers(1, 2**15 - 1),
    rows=st.integers(1, 5000),
    used=st.floats(0, 1),
    other=st.booleans(),
)
def test_a_class_is_a_quarter_of_an_octave(value, rows, used, other):
    """By the root mean square of what a row holds where columns do; the first and the last class
    hold what lies beyond them too.
    """
    row_C = np.zeros((1, rows), np.int16)
    row_C[0, : max(1, int(rows * used))] = -value if other else value
    [kind], classes_C = fast.spread.classes_of(row_C)
    quarters = 4 * math.log2(value) + 9  # of an octave, from a quarter of 1 on
    assert 1 <= kind < fast.spread.CLASSES
    assert kind == 1 or kind <= quarters + 0.5 + 1e-9
    assert kind == fast.spread.CLASSES - 1 or quarters - 0.5 - 1e-9 < kind
    assert ((classes_C == 0) == (row_C[0] == 0)).all()


def test_rows_and_columns_of_zeros_take_no_symbols():
    for kinds in fast.spread.classes_of(np.zeros((9, 3), np.int16)):
        assert not kinds.any()
    spread = np.rint(np.random.default_rng(2).standard_normal((2000, 8)) * 5)
    more = np.concatenate([spread, np.zeros((2000, 8))])
    wider = np.concatenate([spread, np.zeros((2000, 8))], axis=1)
    exponents = 1.5 * 2000  # bytes; the classes of rows take some 500
    assert len(round_trip([more])) < len(round_trip([spread])) + exponents + 600
    assert len(round_trip([wider])) < len(round_trip([spread])) + 100


@given(
    common=st.lists(st.integers(0, 30), min_size=1, max_size=200),
    rare=st.lists(st.integers(0, 2**15), max_size=5),
)
def test_what_lies_beyond_the_table_is_what_would_make_it_longer(common, rare):
    """A symbol that occurs takes a byte in the table, any up to it a bit, an integer beyond it
    two bytes.
    """
    sizes = np.array(common + rare)

    def bits(reach: int) -> int:
        inside = sizes[sizes <= reach]
        return reach + 8 * len(np.unique(inside)) + 16 * (len(sizes) - len(inside))

    reach = fast.spread.reach_of(sizes)
    assert bits(reach) == min(map(bits, {0, *sizes.tolist()}))


@pytest.mark.parametrize(
    "position, value, message",
    [
        (0, 1, "integers"),
        (0, 0, "integers"),
        (1, 9, "a stride of"),
        (-1, None, "whole code words"),
    ],
)
def test_integers_that_no_encoder_writes_are_refused(position, value, message):
    integers_RC = np.rint(np.random.default_rng(7).standard_normal((50, 8)) * 9)
    data, raw = bytearray(round_trip([integers_RC])), grid(integers_RC)
    if value is None:
        del data[position]
    else:
        data[position] = value
    for codec in (fast.codec, reference.codec):
        with pytest.raises(InputError, match=rf"payload: expected {message}.*\(entropy\)"):
            codec.decompress(bytes(data), len(raw), [len(raw)], "entropy", [8])


@settings(max_examples=300, deadline=None)
@given(data=st.data())
def test_any_damage_to_coded_integers_gives_the_declared_size_or_is_refused(data):
    integers_RC = np.rint(np.random.default_rng(8).standard_normal((20, 6)) * 9)
    integers_RC[3, 2] = 900
    whole, raw = round_trip([integers_RC]), grid(integers_RC)
    damaged = bytearray(whole)
    for _ in range(data.draw(st.integers(1, 3))):
        damaged[data.draw(st.integers(0, len(whole) - 1))] = data.draw(st.integers(0, 255))
    cut = data.draw(st.integers(0, len(whole)))
    for found in (bytes(damaged), whole[:cut]):
        made = []
        for codec in (fast.codec, reference.codec):
            try:
                made.append(codec.decompress(found, len(raw), [len(raw)], "entropy", [6]))
            except InputError:
                made.append(None)
        assert made[0] == made[1] and (made[0] is None or len(made[0]) == len(raw))


def test_a_missing_package_is_named_and_best_does_without(monkeypatch):
    data = packed("entropy")
    for name in ("lz4", "lz4.block", "constriction"):
        monkeypatch.setitem(sys.modules, name, None)
    assert fast.codec.available() == list(SHARED)
    with pytest.raises(
        InputError, match="codec lz4: expected the package lz4, found none; pip install lz4"
    ):
        packed("lz4")
    with pytest.raises(InputError, match="pip install constriction"):
        packed("entropy")
    with pytest.raises(
        InputError, match="a.mgolf: codec entropy: expected the package constriction"
    ):
        fast.container.unpack(data, "a.mgolf")
    assert parse_artifact(packed("best"))[0]["codec"] in SHARED
    monkeypatch.undo()
    monkeypatch.setitem(sys.modules, "lz4.block", None)
    assert fast.codec.available() == [*SHARED, "entropy"]


def test_the_entropy_format_stays_what_it_is():
    """An artifact written today must open tomorrow: one plain tensor, one of stride 1, one of
    stride 2, to the byte.
    """
    pieces = [
        bytes(range(9)),
        bytes(i * i % 7 for i in range(400)),
        bytes((i * i % 3) + 100 * (i % 2) for i in range(600)),
    ]
    raw, ends = b"".join(pieces), list(itertools.accumulate(map(len, pieces)))
    data, _ = fast.codec.compress(raw, ends, "entropy")
    assert hashlib.sha256(data).hexdigest() == GOLDEN_ENTROPY
    assert fast.codec.decompress(data, len(raw), ends, "entropy") == raw
