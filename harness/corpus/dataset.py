"""The shards and the tokenizer of a source, built where needed, and opened."""

import hashlib
from dataclasses import dataclass

import numpy as np

from fast.bytes import Tokenizer, load_tokenizer
from fast.data import Layout, Tokens, find_layout
from harness.corpus import prepare
from harness.corpus.sources import Source
from reference.recipe import InputError

BLOCK = 2**16  # tokens that are hashed at once
BLOCKS = 2**10  # of a split, at most: the whole of what an official validation split holds


def sha256_of(tokens: Tokens) -> str:
    """Return the SHA-256 of a split as 16-bit words, wherever its shards are cut.

    Of a split of more than BLOCKS * BLOCK tokens, every other block or more is left out: BLOCKS of
    them are hashed, evenly spaced, the first and the last among them.
    """
    count = -(-len(tokens) // BLOCK)
    digest = hashlib.sha256()
    for block in np.unique(np.linspace(0, count - 1, min(count, BLOCKS)).round().astype(int)):
        start = int(block) * BLOCK
        ids = tokens.read(start, min(start + BLOCK, len(tokens)))
        digest.update(ids.astype("<u2").tobytes())
    return digest.hexdigest()


@dataclass(frozen=True)
class Dataset:
    """Opened tokens of both splits and the tokenizer that made them."""

    train: Tokens
    validation: Tokens
    tokenizer: Tokenizer

    def identity(self, splits: tuple[str, ...] = ("training", "validation")) -> dict:
        """Return what tells this data from other data, wherever it is stored: the tokenizer's
        SHA-256, and of the splits the number of tokens and their SHA-256 (sha256_of).
        """
        identity = {"tokenizer_sha256": self.tokenizer.sha256}
        for name, tokens in (("training", self.train), ("validation", self.validation)):
            if name in splits:
                identity[f"{name}_tokens"] = len(tokens)
                identity[f"{name}_sha256"] = sha256_of(tokens)
        return identity


def layout_of(source: Source, vocab: int) -> Layout:
    """Return the shards and the tokenizer of a source, which are built where they are not yet."""
    source.check()
    if source.text:
        return find_layout(prepare.from_text(source.text, None, vocab, source.tokenizer))
    if source.data:
        return find_layout(source.data, source.tokenizer)
    return find_layout(prepare.embedded(None, vocab, source.tokenizer))


def open_dataset(source: Source, vocab: int, length: int) -> Dataset:
    """Return the opened dataset of a source; InputError if either split is shorter than one
    window.
    """
    layout = layout_of(source, vocab)
    train, validation = Tokens(layout.train), Tokens(layout.validation)
    for split, tokens in (("training", train), ("validation", validation)):
        if len(tokens) < length:
            raise InputError(
                f"{split} split: expected at least one window of {length:,} tokens, found"
                f" {len(tokens):,}; add text or lower --model.length"
            )
    return Dataset(train, validation, load_tokenizer(layout.tokenizer, expect_vocab=vocab))
