"""Where tokens come from: the embedded corpus, text files, or shards in the official layout."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated

import tyro

from reference.recipe import InputError


@dataclass(frozen=True)
class Source:
    """Where tokens come from; nothing given means the embedded corpus."""

    # Folder in the official layout (datasets/*/..._train_*.bin and ..._val_*.bin,
    # tokenizers/*.model).
    data: Annotated[Path | None, tyro.conf.arg(metavar="DIR")] = None
    # SentencePiece model, where the folder holds none or several; of text, also the embedded one,
    # in place of one that is trained on it.
    tokenizer: Annotated[Path | None, tyro.conf.arg(metavar="FILE")] = None
    # Text files (UTF-8, or .jsonl with a "text" field) to build shards from; a tenth of the
    # documents is held out.
    text: Annotated[tuple[Path, ...], tyro.conf.arg(metavar="FILE")] = ()

    def check(self) -> None:
        """Raise InputError where both data and text are named."""
        if self.data and self.text:
            raise InputError("--data and --text: expected one of them, found both; drop one")

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

    def or_described(self, described: dict) -> "Source":
        """Return this source if it names data or text, else the one that describe() wrote down,
        under the tokenizer of this one if it names one.
        """
        if self.data or self.text:
            return self
        recorded = Source.restore(described)
        return replace(recorded, tokenizer=self.tokenizer or recorded.tokenizer)

    @staticmethod
    def restore(described: dict) -> "Source":
        """Return the Source that describe() wrote down."""
        data, tokenizer = (
            Path(described[name]) if described.get(name) else None for name in ("data", "tokenizer")
        )
        return Source(data, tokenizer, tuple(Path(path) for path in described.get("text", ())))
