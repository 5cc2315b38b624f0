"""Parity: bitwise. Token shards on disk: which there are, and what one holds; no torch is loaded to
find a path wrong.
"""

from pathlib import Path
from typing import NamedTuple

import numpy as np

from reference.recipe import InputError

SHARD_MAGIC = 20240520
SHARD_VERSION = 1
HEADER_WORDS = 256  # little-endian int32: magic, version, token count, zeros
HEADER_BYTES = 4 * HEADER_WORDS
TOKEN_BYTES = 2  # little-endian uint16


class Layout(NamedTuple):
    """The files of a data directory: sorted shards of both splits, and its tokenizer or None."""

    train: list[Path]
    validation: list[Path]
    tokenizer: Path | None


def read_shard(path: str | Path) -> np.memmap:
    """Return the tokens of a shard as a read-only uint16 memory map; InputError on anything but a
    well-formed shard.
    """
    path = Path(path)
    try:
        size = path.stat().st_size
        header = np.fromfile(path, "<i4", count=HEADER_WORDS)
    except OSError as error:
        raise InputError(
            f"shard {path}: expected a readable shard, found none ({error.strerror}); check --data"
        ) from None
    if len(header) < HEADER_WORDS:
        raise InputError(
            f"shard {path}: expected a header of {HEADER_BYTES} bytes, found a file of {size}"
            " bytes; it is cut short: fetch it again"
        )
    magic, version, count = (int(word) for word in header[:3])
    if magic != SHARD_MAGIC:
        raise InputError(
            f"shard {path}: expected magic {SHARD_MAGIC} in its {size} bytes, found {magic};"
            " this is not a token shard"
        )
    if version != SHARD_VERSION:
        raise InputError(
            f"shard {path}: expected version {SHARD_VERSION} in its {size} bytes, found {version}; "
            "build it again with `maskgolf data`"
        )
    expected = HEADER_BYTES + TOKEN_BYTES * count
    if count < 1:
        raise InputError(
            f"shard {path}: expected at least one token, found a count of {count} in {size} bytes;"
            " build it again"
        )
    if size != expected:
        what = (
            f"truncated by {expected - size}"
            if size < expected
            else f"followed by {size - expected} stray"
        )
        raise InputError(
            f"shard {path}: expected {expected} bytes ({count} tokens), found {size}: {what} bytes;"
            " fetch or build it again"
        )
    return np.memmap(path, "<u2", mode="r", offset=HEADER_BYTES, shape=(count,))


def _only(paths: list[Path], what: str, folder: Path, advice: str) -> Path:
    if len(paths) == 1:
        return paths[0]
    names = ", ".join(str(path.relative_to(folder)) for path in paths) or "none"
    raise InputError(f"data {folder}: expected {what}, found {names}; {advice}")


def find_layout(path: str | Path, tokenizer: str | Path | None = None) -> Layout:
    """Find shards (`*_train_*.bin`, `*_val_*.bin`) and tokenizer under PATH or PATH/datasets/NAME
    (the official layout).

    PATH may be the NAME directory itself. A tokenizer given by the caller wins; None is returned
    where there is none.
    """
    path = Path(path)
    if not path.is_dir():
        kind = "a file" if path.exists() else "nothing"
        raise InputError(
            f"data {path}: expected a directory of shards, found {kind}; "
            "pass the directory that holds datasets/ and tokenizers/"
        )
    shards = [*path.glob("*.bin")] or path.glob("datasets/*/*.bin")
    folders = sorted({shard.parent for shard in shards})
    folder = _only(
        folders,
        "one directory of *.bin shards, itself or in datasets/*/",
        path,
        "pass the one you mean",
    )
    train, validation = sorted(folder.glob("*_train_*.bin")), sorted(folder.glob("*_val_*.bin"))
    if not train and not validation:
        raise InputError(
            f"data {folder}: expected shards named *_train_*.bin or *_val_*.bin, found other *.bin"
            " files; rename them"
        )
    if tokenizer is not None:
        return Layout(train, validation, Path(tokenizer))
    root = folder.parent.parent if folder.parent.name == "datasets" else folder
    models = sorted([*root.glob("*.model"), *root.glob("tokenizers/*.model")])
    if models:
        tokenizer = _only(models, "one tokenizer *.model", root, "name it with --tokenizer")
    return Layout(train, validation, tokenizer)
