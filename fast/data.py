"""Parity: bitwise. Token shards read as one stream, and batches as a pure function of (step, global
row).
"""

import bisect
import functools
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from fast.checkpoint import write_atomic
from fast.philox import words
from fast.shards import HEADER_BYTES as HEADER_BYTES
from fast.shards import HEADER_WORDS, SHARD_MAGIC, SHARD_VERSION, read_shard
from fast.shards import Layout as Layout
from fast.shards import find_layout as find_layout
from reference.recipe import InputError, Recipe, Stream


class Windows(NamedTuple):
    """Windows of one length, and the true token before each (-1: the stream starts there)."""

    ids_NL: np.ndarray
    previous_N: np.ndarray

    def take(self, rows) -> "Windows":
        """Return some of the windows."""
        return type(self)(*(column[rows] for column in self))

    def before_NL(self) -> np.ndarray:
        """Return the token before each token (-1 where there is none)."""
        return np.concatenate([self.previous_N[:, None], self.ids_NL[:, :-1]], axis=1)


class Continued(NamedTuple):
    """Windows that may be read on from the C tokens before each (-1: before the stream)."""

    ids_NL: np.ndarray
    previous_N: np.ndarray
    context_NC: np.ndarray
    take = Windows.take
    before_NL = Windows.before_NL


def windows_of(ids_NS: np.ndarray) -> Windows:
    """Return windows from runs of L + 1 tokens, the first of which is the one before."""
    return Windows(*map(np.ascontiguousarray, (ids_NS[:, 1:], ids_NS[:, 0])))


def write_shard(path: str | Path, tokens) -> None:
    """Write tokens (1-D, 0..65535) as one shard, atomically."""
    tokens = np.asarray(tokens)
    if tokens.ndim != 1 or tokens.size == 0 or tokens.min() < 0 or tokens.max() > 0xFFFF:
        raise InputError(
            f"shard {path}: expected a flat, non-empty list of token ids in 0..65535, found shape"
            f" {tokens.shape}; nothing was written"
        )
    header = np.zeros(HEADER_WORDS, "<i4")
    header[:3] = SHARD_MAGIC, SHARD_VERSION, tokens.size
    write_atomic(Path(path), header.tobytes() + tokens.astype("<u2").tobytes())


class Tokens:
    """A list of shards read as one stream of tokens."""

    def __init__(self, paths: Sequence[str | Path]):
        """Map every shard; InputError when there is none or one is malformed."""
        self.paths = [Path(path) for path in paths]
        if not self.paths:
            raise InputError("data: expected at least one shard, found none; check --data")
        self.shards = [read_shard(path) for path in self.paths]
        self.ends = np.cumsum([len(shard) for shard in self.shards]).tolist()

    def __len__(self) -> int:
        """Return the number of tokens in the stream."""
        return self.ends[-1]

    def locate(self, position: int) -> tuple[Path, int]:
        """Return the shard that holds a position of the stream, and the position inside that
        shard.
        """
        shard = bisect.bisect_right(self.ends, position)
        return self.paths[shard], position - (self.ends[shard] - len(self.shards[shard]))

    def read(self, start: int, stop: int, vocab: int | None = None) -> np.ndarray:
        """Return tokens start..stop of the stream as int64, across shard borders; InputError where
        one is not below vocab.
        """
        if not 0 <= start <= stop <= len(self):
            raise InputError(
                f"data {self.paths[0].parent}: expected a range inside 0..{len(self)}, found"
                f" {start}..{stop}; ask for tokens that exist"
            )
        parts = []
        for shard, end in zip(self.shards, self.ends, strict=True):
            begin = end - len(shard)
            if start < end and stop > begin:
                parts.append(shard[max(start - begin, 0) : stop - begin])
        ids = np.concatenate(parts).astype(np.int64) if parts else np.zeros(0, np.int64)
        if vocab is not None and ids.size and ids.max() >= vocab:
            first = int(np.argmax(ids >= vocab))
            path, offset = self.locate(start + first)
            raise InputError(
                f"shard {path}: expected token ids below {vocab}, found {ids[first]} at token"
                f" {offset}; use the tokenizer that made the data"
            )
        return ids


def count_windows(tokens: Tokens, length: int) -> int:
    """Return how many full windows the stream holds; InputError when it is shorter than one."""
    if length < 1 or len(tokens) < length:
        raise InputError(
            f"data {tokens.paths[0].parent}: expected at least one window of {length} tokens, found"
            f" {len(tokens)} tokens in {len(tokens.paths)} shards; add text or set a smaller"
            " --model.length"
        )
    return len(tokens) // length


@functools.lru_cache(maxsize=2)  # a batch may lie across the border of two epochs
def permutation(seed: int, epoch: int, windows: int) -> np.ndarray:
    """Return the order of the windows in one epoch: the stable argsort of that epoch's Philox
    words.
    """
    order = np.argsort(words(seed, Stream.DATA, epoch, [0], windows)[0].numpy(), kind="stable")
    order.flags.writeable = False
    return order


def window_index(step: int, row: int, rows: int, windows: int, seed: int, shuffle: bool) -> int:
    """Return the window that global row `row` of step `step` trains on."""
    epoch, index = divmod(step * rows + row, windows)
    return int(permutation(seed, epoch, windows)[index]) if shuffle else index


def batch(
    tokens: Tokens,
    length: int,
    rows: Sequence[int],
    step: int,
    seed: int,
    shuffle: bool,
    global_rows: int,
    vocab: int | None = None,
) -> Windows:
    """Return the windows (int64) of some rows.

    rows are global row indices of a batch of global_rows; training drops the remainder of the
    stream.
    """
    windows = count_windows(tokens, length)
    ids_NS = np.full((len(rows), length + 1), -1, np.int64)
    for local, row in enumerate(rows):
        start = length * window_index(step, int(row), global_rows, windows, seed, shuffle)
        before = max(start - 1, 0)
        read = tokens.read(before, start + length, vocab)
        ids_NS[local, length + 1 - len(read) :] = read
    return windows_of(ids_NS)


def batches(tokens: Tokens, recipe: Recipe) -> Callable:
    """Return batch(step, rows) for train(): the windows of some global rows under the recipe."""
    model, training = recipe.model, recipe.training
    global_rows = training.tokens_per_step // model.length
    settings = recipe.seed, training.shuffle, global_rows, model.vocab
    return lambda step, rows: batch(tokens, model.length, rows, step, *settings)


def evaluation_count(tokens: Tokens, length: int) -> int:
    """Return how many windows cover every token once, the shorter tail among them; InputError when
    the stream is shorter than one window.
    """
    return count_windows(tokens, length) + (len(tokens) % length > 0)


def evaluation_windows(
    tokens: Tokens,
    length: int,
    vocab: int | None,
    first: int = 0,
    count: int | None = None,
    continued: bool = False,
) -> list[Windows] | list[Continued]:
    """Return windows first..first+count (all from first on) that cover every token once: the full
    ones, then the shorter tail if any; InputError where there are fewer. continued: with the
    `length` tokens before each.
    """
    full, total = count_windows(tokens, length), evaluation_count(tokens, length)
    stop = total if count is None else first + count
    if not 0 <= first < stop <= total:
        raise InputError(
            f"data {tokens.paths[0].parent}: expected windows inside 0..{total}, found first"
            f" {first}, count {count}; ask for fewer, as there are {total} windows"
        )
    begin, end = first * length, min(stop * length, len(tokens))
    ids = tokens.read(begin, end, vocab)
    before = tokens.read(begin - 1, begin) if begin else np.array([-1])
    previous = np.concatenate([before, ids[length - 1 : -1 : length]])
    rows = min(stop, full) - first
    groups = [Windows(ids[: rows * length].reshape(rows, length), previous[:rows])] if rows else []
    if stop > full:
        groups.append(Windows(ids[rows * length :].reshape(1, -1), previous[rows:]))
    if continued:
        earlier = tokens.read(begin - length, begin, vocab) if begin else np.full(length, -1)
        text = np.concatenate([earlier, ids])[: len(previous) * length].reshape(-1, length)
        contexts = [part for part in (text[:rows], text[rows:]) if len(part)]
        return [Continued(*group, part) for group, part in zip(groups, contexts, strict=True)]
    return groups
