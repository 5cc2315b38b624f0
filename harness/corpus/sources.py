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

SAMPLE = 2**20  # tokens of a split that tell it from others, beside their number


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
        absolute = {"data": self.data, "tokenizer": self.tokenizer}
        return {name: str(path.resolve()) if path else None for name, path in absolute.items()} | {
            "text": [str(path.resolve()) for path in self.text]
        }

    def flags(self) -> list[str]:
        """Return the flags of a command that mean this source."""
        named = [
            word
            for name, path in (("--data", self.data), ("--tokenizer", self.tokenizer))
            if path
            for word in (name, str(path))
        ]
        return named + (["--text", *map(str, self.text)] if self.text else [])

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
        """Return what tells this data from other data, wherever it lies: the tokenizer, and size
        and beginning of both splits.
        """
        splits = {"training": self.train, "validation": self.validation}
        return {"tokenizer_sha256": self.tokenizer.sha256} | {
            f"{name}_{what}": value
            for name, tokens in splits.items()
            for what, value in (
                ("tokens", len(tokens)),
                (
                    "sha256",
                    hashlib.sha256(tokens.read(0, min(len(tokens), SAMPLE)).tobytes()).hexdigest(),
                ),
            )
        }


def layout_of(source: Source, vocab: int) -> "Layout":
    """Return where the shards and the tokenizer of a source are, building them first where
    needed.
    """
    from fast import data
    from harness.corpus import prepare

    if source.data and source.text:
        raise InputError("--data and --text: expected one of them, found both; drop one")
    if source.text:
        return data.find_layout(prepare.from_text(source.text, None, vocab, source.tokenizer))
    if source.data:
        return data.find_layout(source.data, source.tokenizer)
    return data.find_layout(prepare.embedded(vocab=vocab))


def open_dataset(source: Source, vocab: int, length: int) -> Dataset:
    """Open (building it first where needed) the dataset; InputError if either split is shorter than
    one window.
    """
    from fast import bytes as byte_counts
    from fast import data

    layout = layout_of(source, vocab)
    train, validation = data.Tokens(layout.train), data.Tokens(layout.validation)
    for split, tokens in (("training", train), ("validation", validation)):
        if len(tokens) < length:
            raise InputError(
                f"{split} split: expected at least one window of {length:,} tokens, found"
                f" {len(tokens):,}; add text or lower --model.length"
            )
    return Dataset(
        train, validation, byte_counts.load_tokenizer(layout.tokenizer, expect_vocab=vocab)
    )
