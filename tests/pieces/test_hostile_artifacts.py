"""Strangers' artifacts: every format under every codec, flipped, cut off, with absurd numbers,
overlapping tensors and bombs. Both readers refuse them by InputError alone, in little time and
memory, and never give other weights than the original ones.

What bounds memory: an honest file takes some multiple of its own size, and a decoder sets aside no
more than the table declares, which the caps bound.
"""

import functools
import json
import struct
import time
import tracemalloc
import zlib

import numpy as np
import pytest
import torch

import fast.container
from reference.recipe import FORMATS, MAX_ELEMENTS, MAX_RAW, InputError
from tests.support.containers import (
    HALVES,
    READABLE,
    build_artifact,
    every_codec,
    halves,
    with_own_sum,
)
from tests.support.containers import parse_artifact as parsed

SEED = 0
POSITIONS = 10_000  # flipped at random, in all codecs and both halves together
TRACED = 25  # of so many files one is read again to measure its memory
SECONDS = 0.5  # of CPU, for one of these files: an undamaged one takes a hundredth of that
EXTREMES = (2**63 - 1, 2**63, 2**64 - 1, 2**64, -1, -(2**63), 2**31 - 1, 2**32 - 1)
LZMA_DECODER = 10 << 20  # bytes: the dictionary of preset 6 takes 8 MB, the rest is the decoder's


def weights() -> dict[str, torch.Tensor]:
    """One small tensor per format, named after it."""
    draw = torch.Generator().manual_seed(SEED)
    return {f"{format}-weight": torch.randn(3, 64, generator=draw) for format in FORMATS}


@functools.cache
def honest(codec: str) -> bytes:
    """The artifact of those weights: every format under one codec."""
    tensors = weights()
    formats = {name: name.removesuffix("-weight") for name in tensors}
    return fast.container.pack(tensors, formats, {"recipe": {"preset": "x"}}, codec)


def readers(codec: str) -> list:
    """The halves that read a codec."""
    return [half for half in HALVES if half is fast.container or codec in READABLE]


def outcome(half, data: bytes) -> dict[str, bytes] | None:
    """Return the bytes of all tensors by name, None where the file is refused; any other error, and
    more CPU time than SECONDS, fails the test.
    """
    begin = time.process_time()
    try:
        tensors = half.unpack(data)[1]
    except InputError as error:
        assert type(error) is InputError and "\n" not in str(error)
        tensors = None
    assert time.process_time() - begin < SECONDS
    if tensors is None:
        return None
    return {name: np.asarray(values).tobytes() for name, values in tensors.items()}


class Peak:
    """Within it, the bytes that Python and NumPy held at most."""

    def __enter__(self):
        tracemalloc.start()
        return self

    def __exit__(self, *_):
        self.bytes = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()


def budget(half, codec: str) -> int:
    """Return what reading a file may take: twice what the undamaged one takes, which is read, and a
    megabyte of messages and caches.
    """
    half.unpack(honest(codec))  # imports and caches first
    with Peak() as peak:
        half.unpack(honest(codec))
    return 2 * peak.bytes + (1 << 20)


def sealed(header: dict, payload: bytes) -> bytes:
    """A file whose header says what it likes and has the right sum of itself."""
    return build_artifact(with_own_sum(header), payload, sums=False)


def all_refused(half, codec: str, files) -> int:
    """Return how many files there were; each is refused, every TRACED-th within the budget of
    memory: a traced read takes three times as long.
    """
    most, files = budget(half, codec), list(files)
    for data in files:
        assert outcome(half, data) is None, data[:100]
    with Peak() as peak:
        for data in files[::TRACED]:
            outcome(half, data)
    assert peak.bytes < most
    return len(files)


def head_of(data: bytes) -> int:
    """Return where the payload begins."""
    return 16 + struct.unpack("<I", data[12:16])[0]


def flipped(data: bytes, place: int, mask: int) -> bytes:
    """The file with some bits of one byte changed."""
    return data[:place] + bytes([data[place] ^ mask]) + data[place + 1 :]


@every_codec
def test_every_format_is_in_the_file_and_both_readers_agree(codec):
    _, tensors = fast.container.unpack(honest(codec))
    assert {name.removesuffix("-weight") for name in tensors} == set(FORMATS)
    read = [outcome(half, honest(codec)) for half in readers(codec)]
    assert all(values == read[0] for values in read) and len(read[0]) == len(FORMATS)


@every_codec
def test_a_flip_in_any_byte_of_the_header_is_refused(codec):
    """Some bits of every byte, and every bit of the prefix."""
    data, rng = honest(codec), np.random.default_rng(SEED)
    masks = rng.integers(1, 256, head_of(data)).tolist()
    files = [flipped(data, place, mask) for place, mask in enumerate(masks)]
    files += [flipped(data, place, 1 << bit) for place in range(16) for bit in range(8)]
    for half in readers(codec):
        assert all_refused(half, codec, files) == head_of(data) + 128


@every_codec
def test_random_flips_anywhere_are_refused(codec):
    data, rng = honest(codec), np.random.default_rng(SEED)
    each = -(-POSITIONS // sum(len(readers(name)) for name in fast.codec.CODECS))
    for half in readers(codec):
        places, masks = rng.integers(0, len(data), each), rng.integers(1, 256, each)
        files = (flipped(data, *spot) for spot in zip(places.tolist(), masks.tolist(), strict=True))
        assert all_refused(half, codec, files) == each


@every_codec
def test_a_file_cut_off_anywhere_is_refused(codec):
    """At every length up to the payload, at a sample of lengths in it, and one byte too many."""
    data, rng = honest(codec), np.random.default_rng(SEED)
    begin = head_of(data)
    ends = [*range(begin + 1), len(data) - 1, *rng.integers(begin, len(data), 100).tolist()]
    files = [*(data[:end] for end in ends), data + b"\0", data + data]
    for half in readers(codec):
        assert all_refused(half, codec, files) == begin + 104


@every_codec
def test_a_payload_cut_off_under_right_sums_is_refused(codec):
    """Whoever writes the sums can cut the payload too: the codec must miss what is not there."""
    header, payload = parsed(honest(codec))
    lengths = np.random.default_rng(SEED).integers(0, len(payload), 40).tolist()
    files = [build_artifact(header, payload[:end]) for end in (0, len(payload) - 1, *lengths)]
    files.append(build_artifact(header, payload + b"\0"))
    for half in readers(codec):
        assert all_refused(half, codec, files) == 43


@every_codec
def test_forged_payloads_under_right_sums_are_read_alike_or_refused(codec):
    """Flips and runs of set bits, which are the largest counts that a codec's own header can name:
    the file is another one then, and both readers must take it for the same one.
    """
    header, payload = parsed(honest(codec))
    rng = np.random.default_rng(SEED)
    most = {half: budget(half, codec) for half in readers(codec)}
    # A decoder of lzma sets its dictionary aside, whatever comes of it
    extra = LZMA_DECODER if codec == "lzma" else 0
    for number, place in enumerate(rng.integers(0, len(payload), 60).tolist()):
        run = b"\xff" * (1, 2, 4, 8)[number % 4]
        forged = payload[:place] + run + payload[place + len(run) :]
        if number % 2:
            forged = flipped(payload, place, int(rng.integers(1, 256)))
        read = []
        for half, limit in most.items():
            with Peak() as peak:
                read.append(outcome(half, build_artifact(header, forged)))
            assert peak.bytes < limit + extra
        assert all(values == read[0] for values in read)


def numbers_of(header: dict) -> list[tuple]:
    """Return the path of every number in a header that its reader goes by."""
    rows = [
        ("tensors", number, *field)
        for number in range(len(header["tensors"]))
        for field in (("offset",), ("bytes",), ("shape", 0), ("shape", 1))
    ]
    return [("raw_bytes",), ("payload_bytes",), *rows]


def with_number(header: dict, path: tuple, value: int) -> dict:
    """A copy of the header with another number at a path."""
    copy = json.loads(json.dumps(header))
    place = copy
    for key in path[:-1]:
        place = place[key]
    place[path[-1]] = value
    return copy


@every_codec
def test_absurd_numbers_in_the_header_are_refused(codec):
    """Each of its lengths, counts, offsets and axes, under a right sum."""
    header, payload = parsed(honest(codec))
    numbers = numbers_of(header)
    files = [
        sealed(with_number(header, path, value), payload) for path in numbers for value in EXTREMES
    ]
    assert len(numbers) == 2 + 4 * len(FORMATS)
    for half in readers(codec):
        assert all_refused(half, codec, files) == len(EXTREMES) * len(numbers)


@halves
def test_absurd_lengths_in_the_prefix_are_refused(half):
    data = honest("none")
    sizes = (0, 1, 2**31 - 1, 2**31, 2**32 - 1)
    files = [data[:12] + struct.pack("<I", size) + data[16:] for size in sizes]
    files += [data[:8] + struct.pack("<I", size) + data[12:] for size in (0, *sizes[2:])]
    assert all_refused(half, "none", files) == 9


@halves
def test_overlapping_and_outlying_tensors_are_refused(half):
    """One tensor at the place of another, partly over it, apart from it, behind the end: with the
    number of bytes in all left as it is, and made that of the table.
    """
    header, payload = parsed(honest("none"))
    rows, raw = header["tensors"], header["raw_bytes"]
    files = []
    for number, row in enumerate(rows):
        other = rows[number - 1]
        places = {other["offset"], row["offset"] - 1, row["offset"] + 1, raw - 1, raw, raw + 1}
        for place in sorted(places - {row["offset"]}):
            moved = with_number(header, ("tensors", number, "offset"), place)
            files.append(sealed(moved, payload))
            ends = (entry["offset"] + entry["bytes"] for entry in moved["tensors"])
            files.append(sealed({**moved, "raw_bytes": max(ends)}, payload))
    assert all_refused(half, "none", files) > 8 * len(rows)


def declared(codec: str, count: int, payload: bytes) -> bytes:
    """A file of one tensor of `count` bytes."""
    row = {"name": "w", "shape": [count], "format": "e4m3", "offset": 0, "bytes": count}
    return build_artifact({"codec": codec, "raw_bytes": count, "tensors": [row]}, payload)


def inflating(codec: str, size: int) -> bytes:
    """A small payload that stands for `size` zeros."""
    return fast.codec.compress(bytes(size), [size], codec)[0]


@every_codec
@pytest.mark.parametrize("count", [24, 1 << 12])
def test_a_bomb_is_not_inflated(codec, count):
    """16 MB in a few bytes, where a few kilobytes are declared."""
    if codec == "none":
        bomb = bytes(1 << 16)
    else:
        bomb = inflating(codec, 1 << 24)
        assert len(bomb) < 1 << 17
    if codec == "entropy":  # its payload does not say how much it is; the table alone does
        bomb += b"\1\0\0\0"
    data = declared(codec, count, bomb)
    most = (LZMA_DECODER if codec == "lzma" else 1 << 20) + 4 * len(bomb)
    for half in readers(codec):
        with Peak() as peak:
            assert outcome(half, data) is None
        assert peak.bytes < most


@every_codec
def test_memory_follows_what_the_table_declares(codec):
    """A megabyte of zeros in a few bytes is an honest artifact: its reader takes a small multiple
    of it (bytes, a rank of 8 bytes each, tensors of float32), and no time to speak of.
    """
    count = 1 << 20
    data = declared(codec, count, inflating(codec, count))
    for half in readers(codec):
        with Peak() as peak:
            assert len(outcome(half, data)["w"]) == 4 * count
        assert peak.bytes < 40 * count + LZMA_DECODER


@halves
@pytest.mark.parametrize("codec", READABLE)
def test_what_exceeds_the_caps_is_refused_before_it_is_decoded(half, codec):
    """A table that declares one weight or a few bytes too many, no axis of it too long, over an
    empty payload and a bomb.
    """
    few = MAX_ELEMENTS // 3 + 1
    assert 3 * few == MAX_ELEMENTS + 1
    shapes = ([3, few], "e4m3", 3 * few), ([MAX_RAW // 4 + 1], "float32", MAX_RAW + 4)
    for payload in (b"", inflating(codec, 1 << 12), zlib.compress(bytes(1 << 20))):
        for shape, format, size in shapes:
            row = {"name": "w", "shape": shape, "format": format, "offset": 0, "bytes": size}
            fields = {"codec": codec, "raw_bytes": size, "tensors": [row]}
            with Peak() as peak:
                assert outcome(half, build_artifact(fields, payload)) is None
            assert peak.bytes < 1 << 20
