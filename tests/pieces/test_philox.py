"""Philox4x32-10: Random123's vectors, one word for one coordinate in both halves, no word used
twice.
"""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import fast.philox
import reference.philox
from reference.recipe import Stream
from tests.support.strategies import seeds

VECTORS = [  # Random123 1.14, kat_vectors: philox4x32 10
    ((0, 0, 0, 0), (0, 0), (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8)),
    ((0xFFFFFFFF,) * 4, (0xFFFFFFFF,) * 2, (0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD)),
    (
        (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344),
        (0xA4093822, 0x299F31D0),
        (0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1),
    ),
]
u32 = st.integers(0, 2**32 - 1)
streams = st.sampled_from(list(Stream))
row_lists = st.lists(st.integers(0, 2**31), min_size=1, max_size=6)
steps = st.integers(0, 2**31)
columns = st.integers(1, 70)


@pytest.mark.parametrize(("counter", "key", "output"), VECTORS)
def test_random123_vectors(counter, key, output):
    assert tuple(reference.philox.philox4x32(counter, key)) == output
    assert (
        tuple(fast.philox.philox4x32(torch.tensor(counter), torch.tensor(key)).tolist()) == output
    )


@given(st.lists(st.tuples(u32, u32, u32, u32), min_size=1, max_size=5), st.tuples(u32, u32))
def test_blocks_are_equal(counters, key):
    expected = reference.philox.philox4x32(counters, np.tile(key, (len(counters), 1)))
    found = fast.philox.philox4x32(torch.tensor(counters), torch.tensor(key))
    np.testing.assert_array_equal(found.numpy(), expected)
    keys = np.array([[key[0], key[1] ^ place] for place in range(len(counters))])
    found = fast.philox.philox4x32(torch.tensor(counters), torch.from_numpy(keys))
    np.testing.assert_array_equal(found.numpy(), reference.philox.philox4x32(counters, keys))


@given(st.tuples(u32, u32, u32, u32), st.tuples(u32, u32))
def test_blocks_by_python_integers(counter, key):
    """The rounds once more, in integers that cannot overflow."""
    (c0, c1, c2, c3), (k0, k1) = counter, key
    for _ in range(10):
        one, two = 0xD2511F53 * c0, 0xCD9E8D57 * c2
        c0, c1, c2, c3 = two // 2**32 ^ c1 ^ k0, two % 2**32, one // 2**32 ^ c3 ^ k1, one % 2**32
        k0, k1 = (k0 + 0x9E3779B9) % 2**32, (k1 + 0xBB67AE85) % 2**32
    assert tuple(reference.philox.philox4x32(counter, key)) == (c0, c1, c2, c3)


@given(seeds, streams, steps, row_lists, columns)
def test_words_are_equal(seed, stream, step, rows, columns):
    expected = reference.philox.words(seed, stream, step, rows, columns)
    assert expected.dtype == np.uint32 and expected.shape == (len(rows), columns)
    for rows_given, step_given in (
        (rows, step),
        (torch.tensor(rows), torch.tensor(step)),
        (np.array(rows), step),
    ):
        found = fast.philox.words(seed, stream, step_given, rows_given, columns)
        assert found.dtype == torch.int64
        np.testing.assert_array_equal(found.numpy(), expected)


@pytest.mark.parametrize("narrow", [torch.int32, torch.uint8])
def test_narrow_integers_draw_the_same_words(narrow):
    """The rounds multiply in 64 bits whatever type the coordinates come in."""
    rows, step = torch.tensor([0, 3, 200], dtype=narrow), torch.tensor(250, dtype=narrow)
    expected = reference.philox.words(1337, Stream.MASK, 250, [0, 3, 200], 9)
    for rows_given, step_given in ((rows, 250), ([0, 3, 200], step), (rows.numpy(), step)):
        np.testing.assert_array_equal(
            fast.philox.words(1337, Stream.MASK, step_given, rows_given, 9).numpy(), expected
        )


def test_words_lie_on_the_device_asked_for_or_that_of_the_rows():
    """The meta device computes shapes and devices alone, and refuses operands from two devices."""
    on_rows = fast.philox.words(
        1337,
        Stream.MASK,
        torch.tensor(3, device="meta"),
        torch.zeros(2, dtype=torch.int64, device="meta"),
        5,
    )
    asked = fast.philox.words(1337, Stream.MASK, 3, [0, 1], 5, device="meta")
    for found in (on_rows, asked):
        assert (found.device.type, found.shape, found.dtype) == ("meta", (2, 5), torch.int64)


@given(seeds, streams, steps, st.integers(0, 2**31), columns)
def test_word_is_the_block_at_its_coordinates(seed, stream, step, row, columns):
    found = reference.philox.words(seed, stream, step, [row], columns)[0]
    column = columns - 1
    block = reference.philox.philox4x32(
        [column // 4, row, step, int(stream)], [seed % 2**32, seed // 2**32]
    )
    assert found[column] == block[column % 4]


@given(seeds, streams, steps, st.data())
def test_any_rows_draw_what_the_whole_batch_draws(seed, stream, step, data):
    whole = reference.philox.words(seed, stream, step, np.arange(16), 9)
    some = data.draw(st.lists(st.integers(0, 15), min_size=1, max_size=8))
    fewer = data.draw(st.integers(1, 9))
    np.testing.assert_array_equal(
        reference.philox.words(seed, stream, step, some, fewer), whole[some, :fewer]
    )
    np.testing.assert_array_equal(
        fast.philox.words(seed, stream, step, some, fewer).numpy(), whole[some, :fewer]
    )


@given(st.lists(u32, min_size=1, max_size=9))
def test_uniforms_are_the_top_24_bits(words):
    expected = [(word // 256) / 2**24 for word in words]
    assert reference.philox.uniforms(np.array(words, np.uint32)).tolist() == expected
    found = fast.philox.uniforms(torch.tensor(words))
    assert found.dtype == torch.float64 and found.tolist() == expected


def test_uniforms_at_the_ends():
    ends = np.array([0, 255, 256, 2**32 - 1], np.uint32)
    assert reference.philox.uniforms(ends).tolist() == [0.0, 0.0, 2.0**-24, 1 - 2.0**-24]


@given(seeds)
@settings(max_examples=20)
def test_no_block_serves_two_coordinates(seed):
    """Counters differ, and a keyed Philox is a bijection of counters: no 128-bit block may come
    twice.
    """
    blocks = [
        tuple(reference.philox.words(seed, stream, step, [row], 8)[0][lane : lane + 4].tolist())
        for stream in Stream
        for step in (0, 1, 2)
        for row in (0, 1, 5)
        for lane in (0, 4)
    ]
    assert len(set(blocks)) == len(blocks) == 7 * 3 * 3 * 2


def test_seeds_differ_in_both_halves_of_the_key():
    draws = {
        tuple(fast.philox.words(seed, 0, 0, [0], 4)[0].tolist())
        for seed in (0, 1, 2**32, 2**32 + 1, 2**63)
    }
    assert len(draws) == 5


@pytest.mark.parametrize("stream", list(Stream))
def test_uniformity(stream):
    """64 bins of 2**18 draws: chi-square with 63 degrees of freedom stays within mean + 6 standard
    deviations (fixed seed).
    """
    u = reference.philox.uniforms(reference.philox.words(1337, stream, 3, np.arange(256), 1024))
    counts = np.bincount((u.ravel() * 64).astype(int), minlength=64)
    expected = u.size / 64
    assert ((counts - expected) ** 2 / expected).sum() < 63 + 6 * np.sqrt(2 * 63)
    lag = np.corrcoef(u[:, :-1].ravel(), u[:, 1:].ravel())[0, 1]
    assert abs(lag) < 6 / np.sqrt(u.size)


@given(st.sampled_from(fast.philox.MULTIPLIERS), u32)
def test_no_product_overflows(multiplier, value):
    """Compiled C++ leaves open what a signed overflow gives; NumPy's scalars raise."""
    with np.errstate(over="raise"):
        high, low = fast.philox._high_low(multiplier, np.int64(value))
    assert (int(high) << 32) + int(low) == multiplier * value


@pytest.mark.slow
def test_a_single_block_compiles_to_the_same_words():
    """One row of one block is computed by scalar code, all others by vectors."""
    compiled = torch.compile(fast.philox.words, dynamic=False, fullgraph=True)
    rows = torch.tensor([5])
    given = 2**40 + 3, Stream.MASK, torch.tensor(7), rows, 4
    assert torch.equal(compiled(*given), fast.philox.words(*given))
