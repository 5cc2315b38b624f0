"""Shards, layouts, batches and evaluation windows: against plain slices of one array, and every
malformed input.
"""

import contextlib
import os
import resource
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import reference.philox
from fast.data import (
    HEADER_BYTES,
    Tokens,
    Windows,
    batch,
    count_windows,
    evaluation_count,
    evaluation_windows,
    find_layout,
    permutation,
    read_shard,
    window_index,
    write_shard,
)
from reference.recipe import InputError, Stream


class Memory:
    """The part of Tokens that batches use, over one array: no files, so that hypothesis can make
    thousands.
    """

    paths = (Path("memory/made.bin"),)

    def __init__(self, ids):
        self.ids = np.asarray(ids, np.int64)

    def __len__(self):
        return len(self.ids)

    def read(self, start, stop, vocab=None):
        return self.ids[start:stop].copy()


def test_shard_bytes_are_the_published_format(tmp_path):
    write_shard(tmp_path / "a.bin", [1, 2, 65535])
    data = (tmp_path / "a.bin").read_bytes()
    header = (
        (20240520).to_bytes(4, "little")
        + (1).to_bytes(4, "little")
        + (3).to_bytes(4, "little")
        + bytes(4 * 253)
    )
    assert data == header + b"\x01\x00\x02\x00\xff\xff"
    assert read_shard(tmp_path / "a.bin").tolist() == [1, 2, 65535]
    assert [path.name for path in tmp_path.iterdir()] == ["a.bin"]


def test_official_shards_are_well_formed(layout):
    for path in (*layout.train, *layout.validation):
        tokens = read_shard(path)
        assert tokens.dtype == np.uint16 and tokens[0] == 1
        assert path.stat().st_size == HEADER_BYTES + 2 * len(tokens)
        assert not tokens.flags.writeable


@given(
    st.lists(st.lists(st.integers(0, 65535), min_size=1, max_size=7), min_size=1, max_size=4),
    st.data(),
)
def test_read_is_a_slice_of_the_concatenation(tmp_path_factory, shards, data):
    folder = tmp_path_factory.mktemp("shards")
    for index, ids in enumerate(shards):
        write_shard(folder / f"x_train_{index:06d}.bin", ids)
    tokens = Tokens(find_layout(folder).train)
    joined = [token for ids in shards for token in ids]
    start = data.draw(st.integers(0, len(joined)))
    stop = data.draw(st.integers(start, len(joined)))
    read = tokens.read(start, stop)
    assert (
        len(tokens) == len(joined)
        and read.dtype == np.int64
        and read.tolist() == joined[start:stop]
    )
    for position in range(len(joined)):
        path, offset = tokens.locate(position)
        assert read_shard(path)[offset] == joined[position]


@given(
    length=st.integers(1, 5),
    extra=st.integers(0, 40),
    rows=st.integers(1, 6),
    step=st.integers(0, 40),
    shuffle=st.booleans(),
    seed=st.integers(0, 2**64 - 1),
)
def test_batch_is_a_pure_function_of_step_and_row(length, extra, rows, step, shuffle, seed):
    ids = np.arange(length + extra) + 100
    tokens, windows = Memory(ids), (length + extra) // length
    found = batch(tokens, length, list(range(rows)), step, seed, shuffle, rows)
    assert found.ids_NL.shape == (rows, length) and found.previous_N.shape == (rows,)
    assert found.ids_NL.dtype == found.previous_N.dtype == np.int64
    padded = np.append(-1, ids)
    for row in range(rows):
        epoch, index = divmod(step * rows + row, windows)
        if shuffle:
            words = reference.philox.words(seed, Stream.DATA, epoch, [0], windows)[0].tolist()
            index = sorted(range(windows), key=lambda window: (words[window], window))[index]
        window = padded[index * length : (index + 1) * length + 1].tolist()
        assert [found.previous_N[row], *found.ids_NL[row]] == window
        # One row alone, as a rank or a micro-batch asks for it.
        alone = batch(tokens, length, [row], step, seed, shuffle, rows)
        assert [alone.previous_N[0], *alone.ids_NL[0]] == window


@given(
    windows=st.integers(1, 50),
    rows=st.integers(1, 9),
    seed=st.integers(0, 2**64 - 1),
    shuffle=st.booleans(),
)
def test_an_epoch_visits_every_window_once(windows, rows, seed, shuffle):
    visits = [
        window_index(g // rows, g % rows, rows, windows, seed, shuffle) for g in range(2 * windows)
    ]
    assert sorted(visits[:windows]) == sorted(visits[windows:]) == list(range(windows))


def test_epochs_and_seeds_shuffle_differently():
    orders = {tuple(permutation(seed, epoch, 20)) for seed in (0, 1, 2**63) for epoch in (0, 1)}
    assert len(orders) == 6
    assert tuple(range(20)) not in orders


@given(length=st.integers(1, 6), extra=st.integers(0, 40), data=st.data())
def test_evaluation_covers_every_token_once_with_its_true_previous(length, extra, data):
    ids = np.arange(length + extra) % 50
    tokens, padded = Memory(ids), np.append(-1, ids)
    groups = evaluation_windows(tokens, length, 50)
    assert np.concatenate([group.ids_NL.ravel() for group in groups]).tolist() == ids.tolist()
    assert [group.ids_NL.shape[1] for group in groups] == [length] + [len(ids) % length] * (
        len(ids) % length > 0
    )
    rows = [
        (row, previous)
        for group in groups
        for row, previous in zip(group.ids_NL, group.previous_N, strict=True)
    ]
    assert [previous for _, previous in rows] == padded[: len(ids) : length].tolist()
    first = data.draw(st.integers(0, len(rows) - 1))
    count = data.draw(st.integers(1, len(rows) - first))
    part = evaluation_windows(tokens, length, 50, first, count)
    part_rows = [
        (row, previous)
        for group in part
        for row, previous in zip(group.ids_NL, group.previous_N, strict=True)
    ]
    assert [(row.tolist(), int(previous)) for row, previous in part_rows] == [
        (row.tolist(), int(previous)) for row, previous in rows[first : first + count]
    ]
    assert all(group.ids_NL.dtype == group.previous_N.dtype == np.int64 for group in groups + part)
    assert evaluation_count(tokens, length) == len(rows)


@given(length=st.integers(1, 6), extra=st.integers(0, 40), data=st.data())
def test_context_of_a_row_is_the_row_before_it(length, extra, data):
    """In any range, and beside the same windows; of the split's first there is none."""
    tokens = Memory(np.arange(length + extra))
    total = evaluation_count(tokens, length)
    first = data.draw(st.integers(0, total - 1))
    window_range = first, data.draw(st.integers(1, total - first))
    plain = evaluation_windows(tokens, length, None, *window_range)
    groups = evaluation_windows(tokens, length, None, *window_range, continued=True)
    row = first
    for group, same in zip(groups, plain, strict=True):
        assert np.array_equal(group.ids_NL, same.ids_NL)
        assert np.array_equal(group.previous_N, same.previous_N)
        expected = np.arange((row - 1) * length, (row + len(group.ids_NL) - 1) * length)
        assert np.array_equal(group.context_NC, expected.clip(min=-1).reshape(-1, length))
        row += len(group.ids_NL)


def test_evaluation_crosses_shard_borders(stream):
    tokens = stream([5, 6, 7], [8], [9, 10, 11, 12])
    full, tail = evaluation_windows(tokens, 3, 13)
    assert full.ids_NL.tolist() == [[5, 6, 7], [8, 9, 10]] and full.previous_N.tolist() == [-1, 7]
    assert tail.ids_NL.tolist() == [[11, 12]] and tail.previous_N.tolist() == [10]


@pytest.mark.parametrize(
    "first, count", [(3, None), (-1, None), (0, 0), (9, 1), (0, 4), (1, 3), (-1, 2), (0, -1)]
)
def test_windows_outside_the_data_are_input_errors(first, count):
    with pytest.raises(InputError, match=r"expected windows inside 0\.\.3"):
        evaluation_windows(Memory(range(7)), 3, 13, first, count)


def test_data_shorter_than_one_window_is_an_input_error(stream, tmp_path):
    tokens = stream([1, 2], [3])
    assert count_windows(tokens, 3) == 1
    for use in (
        lambda: batch(tokens, 4, [0], 0, 0, False, 1),
        lambda: evaluation_windows(tokens, 4, 10),
    ):
        with pytest.raises(
            InputError, match=rf"{tmp_path}.*one window of 4 tokens, found 3 tokens in 2 shards"
        ):
            use()


def test_a_token_beyond_the_vocabulary_is_named_by_shard_position_and_id(stream):
    tokens = stream([1, 2, 3], [4, 99, 6, 7])
    message = r"made_train_000001.bin: expected token ids below 50, found 99 at token 1"
    with pytest.raises(InputError, match=message):
        evaluation_windows(tokens, 2, 50)
    with pytest.raises(InputError, match=message):
        batch(tokens, 2, [0], 2, 0, False, 1, vocab=50)
    found = batch(tokens, 2, [0], 1, 0, False, 1, vocab=50)
    assert (found.ids_NL.tolist(), found.previous_N.tolist()) == ([[3, 4]], [2])
    assert evaluation_windows(tokens, 2, 100)[0].ids_NL.max() == 99


def header(magic=20240520, version=1, count=2):
    words = np.zeros(256, "<i4")
    words[:3] = magic, version, count
    return words.tobytes()


@pytest.mark.parametrize(
    "data, message",
    [
        (b"", "header of 1024 bytes, found a file of 0 bytes"),
        (header()[:1000], "header of 1024 bytes, found a file of 1000 bytes"),
        (
            header(magic=20240521) + bytes(4),
            "expected magic 20240520 in its 1028 bytes, found 20240521",
        ),
        (header(version=2) + bytes(4), "expected version 1 in its 1028 bytes, found 2"),
        (header(count=0), "at least one token, found a count of 0 in 1024 bytes"),
        (header(count=-1), "at least one token, found a count of -1 in 1024 bytes"),
        (
            header() + bytes(3),
            r"expected 1028 bytes \(2 tokens\), found 1027: truncated by 1 bytes",
        ),
        (header(), r"expected 1028 bytes \(2 tokens\), found 1024: truncated by 4 bytes"),
        (
            header() + bytes(6),
            r"expected 1028 bytes \(2 tokens\), found 1030: followed by 2 stray bytes",
        ),
    ],
)
def test_malformed_shards_name_the_file_and_the_byte_counts(tmp_path, data, message):
    path = tmp_path / "bad_train_000000.bin"
    path.write_bytes(data)
    with pytest.raises(InputError, match=f"bad_train_000000.bin: .*{message}"):
        read_shard(path)
    with pytest.raises(InputError, match=message):
        Tokens([path])


def test_every_truncation_of_a_shard_is_caught(tmp_path):
    path = tmp_path / "a.bin"
    write_shard(path, range(10))
    data = path.read_bytes()
    for size in range(len(data)):
        path.write_bytes(data[:size])
        with pytest.raises(InputError, match=f"{size}"):
            read_shard(path)


def test_missing_shards_and_directories(tmp_path):
    with pytest.raises(InputError, match="gone.bin.*No such file"):
        read_shard(tmp_path / "gone.bin")
    with pytest.raises(InputError, match="expected a readable shard"):
        read_shard(tmp_path)
    with pytest.raises(InputError, match="at least one shard, found none"):
        Tokens([])


@pytest.mark.parametrize("tokens", [[], [-1], [65536], [[1]]])
def test_unwritable_tokens_are_input_errors(tmp_path, tokens):
    with pytest.raises(InputError, match="nothing was written"):
        write_shard(tmp_path / "a.bin", tokens)
    assert list(tmp_path.iterdir()) == []


@contextlib.contextmanager
def file_size_limit(size):
    """Let every write beyond `size` bytes of a file fail, as on a full disk."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_full_disk_leaves_the_old_shard_and_nothing_else(tmp_path):
    path = tmp_path / "a.bin"
    write_shard(path, [7])
    with (
        file_size_limit(1500),
        pytest.raises(InputError, match="a.bin: cannot write 3,024 bytes.*free space"),
    ):
        write_shard(path, range(1000))
    assert read_shard(path).tolist() == [7]
    assert [entry.name for entry in tmp_path.iterdir()] == ["a.bin"]


def test_an_output_directory_that_is_a_file(tmp_path):
    (tmp_path / "out").write_text("mine")
    with pytest.raises(InputError, match="choose another place"):
        write_shard(tmp_path / "out" / "a.bin", [1])
    assert (tmp_path / "out").read_text() == "mine"


def make_layout(root, name="set", tokenizers=("one.model",)):
    home = root / "datasets" / name
    write_shard(home / "x_train_000001.bin", [3, 4])
    write_shard(home / "x_train_000000.bin", [1, 2])
    write_shard(home / "x_val_000000.bin", [5])
    (root / "tokenizers").mkdir(exist_ok=True)
    for tokenizer in tokenizers:
        (root / "tokenizers" / tokenizer).write_bytes(b"")
    return home


def test_layout_from_the_root_or_from_the_dataset_itself(tmp_path):
    home = make_layout(tmp_path)
    for path in (tmp_path, home):
        layout = find_layout(path)
        assert [shard.name for shard in layout.train] == [
            "x_train_000000.bin",
            "x_train_000001.bin",
        ]
        assert [shard.name for shard in layout.validation] == ["x_val_000000.bin"]
        assert layout.tokenizer == tmp_path / "tokenizers" / "one.model"
    assert Tokens(layout.train).read(0, 4).tolist() == [1, 2, 3, 4]
    assert Tokens(layout.validation).read(0, 1).tolist() == [5]


def test_flat_layout_and_no_tokenizer(tmp_path):
    write_shard(tmp_path / "x_val_000000.bin", [5])
    assert find_layout(tmp_path).tokenizer is None
    (tmp_path / "y.model").write_bytes(b"")
    assert find_layout(tmp_path).tokenizer == tmp_path / "y.model"
    assert find_layout(tmp_path).train == []


def test_ambiguous_layouts_name_the_candidates(tmp_path):
    make_layout(tmp_path, "first")
    second = make_layout(tmp_path, "second", tokenizers=("one.model", "two.model"))
    with pytest.raises(
        InputError, match="found datasets/first, datasets/second; pass the one you mean"
    ):
        find_layout(tmp_path)
    with pytest.raises(
        InputError,
        match="found tokenizers/one.model, tokenizers/two.model; name it with --tokenizer",
    ):
        find_layout(second)
    assert find_layout(second, tmp_path / "mine.model").tokenizer == tmp_path / "mine.model"


def test_layouts_that_are_none(tmp_path):
    for path, message in (
        (tmp_path, "found none"),
        (tmp_path / "gone", "found nothing"),
        (tmp_path / "file", "found a file"),
    ):
        (tmp_path / "file").write_text("x")
        with pytest.raises(InputError, match=message):
            find_layout(path)
    os.rename(tmp_path / "file", tmp_path / "other.bin")
    with pytest.raises(InputError, match="rename them"):
        find_layout(tmp_path)


def test_before_each_token_of_a_window_is_the_one_before():
    """The first one's is the stream's."""
    windows = Windows(np.array([[1, 2, 3, 4], [5, 6, 7, 8]]), np.array([-1, 4]))
    assert windows.before_NL().tolist() == [[-1, 1, 2, 3], [4, 5, 6, 7]]
    assert Windows(np.array([[1]]), np.array([9])).before_NL().tolist() == [[9]]
