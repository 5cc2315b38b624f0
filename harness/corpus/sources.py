"""Where tokens come from: the embedded corpus, text files, or shards in the official layout. All
end as shards and a tokenizer.
"""

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import tyro

from reference.recipe import InputError

if TYPE_CHECKING:  # torch takes seconds to import; the command line should not
    from fast.bytes import Tokenizer
    from fast.data import Layout, Tokens

SAMPLE = 2**20  # tokens of a split that are hashed to identify it


@dataclass(frozen=True)
class Source:
    """Where tokens come from; nothing given means the embedded corpus."""

    data: Annotated[Path | None, tyro.conf.arg(metavar="DIR")] = None
    """Folder in the official layout (datasets/*/..._train_*.bin and ..._val_*.bin,
    tokenizers/*.model).
    """
    tokenizer: Annotated[Path | None, tyro.conf.arg(metavar="FILE")] = None
    """SentencePiece model, where the folder holds none or several."""
    text: Annotated[tuple[Path, ...], tyro.conf.arg(metavar="FILE")] = ()
    """Text files (UTF-8, or .jsonl with a "text" field) to build shards from; a tenth of the
    documents is held out.
    """

    def describe(self) -> dict:
        """Return the plain, absolute form that recipe.json keeps."""
        return {
            "data": self.data and str(self.data.resolve()),
            "tokenizer": self.tokenizer and str(self.tokenizer.resolve()),
            "text": [str(path.resolve()) for path in self.text],
        }

    def flags(self) -> list[str]:
        """Return the flags of a command that mean this source."""
        paths = {"--data": [self.data], "--tokenizer": [self.tokenizer], "--text": self.text}
        flags = []
        for flag, values in paths.items():
            flags += [flag, *map(str, values)] if any(values) else []
        return flags

    @staticmethod
    def restore(described: dict) -> "Source":
        """Return the Source that describe() wrote down."""
        data, tokenizer = (
            Path(described[name]) if described.get(name) else None for name in ("data", "tokenizer")
        )
        return Source(data, tokenizer, tuple(Path(path) for path in described.get("text", ())))


@dataclass(frozen=True)
class Dataset:
    """Opened tokens of both splits and the tokenizer that made them."""

    train: "Tokens"
    validation: "Tokens"
    tokenizer: "Tokenizer"

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


def layout_of(source: Source, vocab: int) -> "Layout":
    """Return the shards and the tokenizer of a source, which are built where they are not yet."""
    from fast.data import find_layout
    from harness.corpus import prepare

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
    from fast.bytes import load_tokenizer
    from fast.data import Tokens

    layout = layout_of(source, vocab)
    train, validation = Tokens(layout.train), Tokens(layout.validation)
    for split, tokens in (("training", train), ("validation", validation)):
        if len(tokens) < length:
            raise InputError(
                f"{split} split: expected at least one window of {length:,} tokens, found"
                f" {len(tokens):,}; add text or lower --model.length"
            )
    return Dataset(train, validation, load_tokenizer(layout.tokenizer, expect_vocab=vocab))
