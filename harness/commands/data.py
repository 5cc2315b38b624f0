"""The sub-commands of maskgolf data."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from fast.shards import find_layout, read_shard
from harness import paths
from harness.commands.flags import Json
from harness.corpus.documents import TEXT


def _described(path: Path, tokenizer: Path | None = None):
    """Return what a shard or a data folder holds."""
    if path.is_dir():
        find_layout(path, tokenizer)
    else:
        read_shard(path)
    from harness.corpus import shards
    from harness.display import report

    described = shards.describe(path, tokenizer)
    return described, lambda: report.shards(described)


@dataclass(frozen=True)
class Build:
    """Build shards and a tokenizer from text files.

    Example: maskgolf data build notes.txt more.jsonl --out corpus --vocab 1024
    """

    files: tyro.conf.Positional[Annotated[tuple[Path, ...], tyro.conf.arg(metavar="FILE")]]
    """UTF-8 text files, or .jsonl with a "text" field per line."""
    out: Annotated[Path, tyro.conf.arg(metavar="DIR", aliases=["-o"])]
    """Folder to build, in the official layout."""
    vocab: int = 1024
    """Pieces of the tokenizer that is trained."""
    tokenizer: Annotated[Path | None, tyro.conf.arg(metavar="FILE")] = None
    """Use this SentencePiece model instead of training one."""
    json: Json = None
    """Write what was built to PATH, - for stdout."""

    def run(self):
        """Return the description of the built folder."""
        for path in self.files:
            paths.check_readable(path, *TEXT)
        from harness.corpus import prepare

        prepare.from_text(self.files, self.out, self.vocab, self.tokenizer)
        return _described(self.out)


@dataclass(frozen=True)
class List:
    """List what a shard or a data folder holds.

    Example: maskgolf data list ../shared/fineweb
    """

    path: tyro.conf.Positional[Annotated[Path, tyro.conf.arg(metavar="PATH")]]
    """A shard (.bin) or a folder in the official layout."""
    tokenizer: Annotated[Path | None, tyro.conf.arg(metavar="FILE")] = None
    """SentencePiece model, where the folder holds none or several."""
    json: Json = None
    """Write the description to PATH, - for stdout."""

    def run(self):
        """Return the description."""
        return _described(self.path, self.tokenizer)


@dataclass(frozen=True)
class Fineweb:
    """Download the challenge's FineWeb shards and tokenizer (needs the fineweb extra and a
    network).

    Example: maskgolf data fineweb --out fineweb --train-shards 1
    """

    out: Annotated[Path, tyro.conf.arg(metavar="DIR", aliases=["-o"])] = Path("fineweb")
    """Where the official layout goes."""
    train_shards: int = 1
    """Training shards of 100 M tokens; the validation split always comes whole."""
    json: Json = None
    """Write the description to PATH, - for stdout."""

    def run(self):
        """Return the description of what was fetched."""
        from harness.corpus import fineweb

        fineweb.fetch_fineweb(self.out, self.train_shards)
        return _described(self.out)


@dataclass(frozen=True)
class Data:
    """Build shards from text, list what a shard holds, fetch FineWeb.

    Example: maskgolf data list ../shared/fineweb
    """

    action: (
        Annotated[Build, tyro.conf.subcommand("build")]
        | Annotated[List, tyro.conf.subcommand("list")]
        | Annotated[Fineweb, tyro.conf.subcommand("fineweb")]
    )

    @property
    def json(self) -> str | None:
        """Return where the JSON goes."""
        return self.action.json

    @property
    def tokenizer(self) -> Path | None:
        """Return the tokenizer that is named."""
        return getattr(self.action, "tokenizer", None)

    def run(self):
        """Return what the action returns."""
        return self.action.run()
