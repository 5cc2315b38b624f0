"""The shards and the tokenizer of a source, built where needed, and opened."""

import hashlib
from dataclasses import dataclass

from fast.bytes import Tokenizer, load_tokenizer
from fast.data import Layout, Tokens, find_layout
from harness.corpus import prepare
from harness.corpus.sources import Source
from reference.recipe import InputError

SAMPLE = 2**20  # tokens of a split that are hashed to identify it


@dataclass(frozen=True)
class Dataset:
    """Opened tokens of both splits and the tokenizer that made them."""

    train: Tokens
    validation: Tokens
    tokenizer: Tokenizer

    def identity(self) -> dict:
        """Return what tells this data from other data, wherever it is stored: the tokenizer's
        SHA-256, and of both splits the number of tokens and the SHA-256 of the first ones.
        """
        identity = {"tokenizer_sha256": self.tokenizer.sha256}
        for name, tokens in (("training", self.train), ("validation", self.validation)):
            first = tokens.read(0, min(len(tokens), SAMPLE)).tobytes()
            identity[f"{name}_tokens"] = len(tokens)
            identity[f"{name}_sha256"] = hashlib.sha256(first).hexdigest()
        return identity


def layout_of(source: Source, vocab: int) -> Layout:
    """Return the shards and the tokenizer of a source, which are built where they are not yet."""
    if source.data and source.text:
        raise InputError("--data and --text: expected one of them, found both; drop one")
    if source.text:
        return find_layout(prepare.from_text(source.text, None, vocab, source.tokenizer))
    if source.data:
        return find_layout(source.data, source.tokenizer)
    return find_layout(prepare.embedded(vocab=vocab))


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
