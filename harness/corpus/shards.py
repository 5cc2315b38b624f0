"""What shards hold: counts, bytes of text, and the text itself. The core of `maskgolf data`."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from fast.bytes import SPACE, Tokenizer, load_tokenizer, token_bytes
from fast.data import find_layout, read_shard
from harness.corpus import prepare
from harness.corpus.documents import HOLDOUT
from reference.recipe import InputError

CHUNK = (
    2**20
)  # tokens counted at a time: a shard of 100 million tokens need not fit in memory as int64
PREVIEW = 80  # characters


def piece_texts(tokenizer: Tokenizer) -> tuple[list[bytes], list[bytes]]:
    """Return the bytes of every token as it follows text (leading space counted), and as it follows
    a control token or nothing.
    """
    table, processor = tokenizer.table, tokenizer.processor
    spaced = []
    for token in range(tokenizer.vocab):
        piece = processor.id_to_piece(token)
        if table.control_V[token]:
            spaced.append(b"")
        elif processor.is_byte(token):
            spaced.append(bytes([int(piece[3:5], 16)]))
        else:
            spaced.append(piece.replace(SPACE, " ").encode())
    return spaced, [
        text[1:] if space else text for text, space in zip(spaced, table.space_V, strict=True)
    ]


def raw_text(ids: np.ndarray, tokenizer: Tokenizer, previous: int = -1) -> bytes:
    """Return the UTF-8 bytes that ids stand for; its length is the sum of token_bytes. previous:
    the token before ids[0].
    """
    ids, control_V = np.asarray(ids, np.int64), tokenizer.table.control_V
    spaced, bare = piece_texts(tokenizer)
    before = np.append(previous, ids[:-1])
    after_control = (before < 0) | control_V[before]
    both = spaced + bare
    return (
        b"".join([both[index] for index in (ids + tokenizer.vocab * after_control).tolist()])
        if ids.size
        else b""
    )


def describe(path: str | Path, tokenizer: str | Path | None = None) -> dict:
    """Describe a data directory or a single shard.

    Returns path, tokenizer and shards: file, split, tokens, documents, max_id, and with a tokenizer
    bytes, unknown, text.
    """
    path = Path(path)
    if path.is_dir():
        layout = find_layout(path, tokenizer)
        splits = {"train": layout.train, "val": layout.validation}
        tokenizer = layout.tokenizer
    else:
        splits = {None: [path]}
        read_shard(path)
        tokenizer = tokenizer or find_layout(path.parent).tokenizer
    model = load_tokenizer(tokenizer) if tokenizer else None
    shards = []
    for split, paths in splits.items():
        previous = -1
        for shard in paths:
            ids = read_shard(shard)
            shards.append(
                {"file": str(shard), "split": split, **_count(shard, ids, model, previous)}
            )
            previous = int(ids[-1])
    return {"path": str(path), "tokenizer": str(tokenizer) if tokenizer else None, "shards": shards}


def _count(shard: Path, ids: np.ndarray, model: Tokenizer | None, previous: int) -> dict:
    max_id = int(ids.max())
    if model is not None and max_id >= model.vocab:
        position = int(np.argmax(ids >= model.vocab))
        found = f"{ids[position]} at token {position}"
        raise InputError(
            f"shard {shard}: expected token ids below {model.vocab}, found {found}; use the"
            " tokenizer that made the data"
        )
    start = model.processor.bos_id() if model is not None else prepare.START
    counts = {
        "tokens": len(ids),
        "documents": int(np.count_nonzero(ids == start)),
        "max_id": max_id,
    }
    if model is None:
        return {**counts, "bytes": None, "unknown": None, "text": None}
    total = 0
    for begin in range(0, len(ids), CHUNK):
        part = np.append(previous, ids[begin : begin + CHUNK].astype(np.int64))
        total += int(token_bytes(part[1:], part[:-1], model.table).sum())
        previous = int(part[-1])
    text = raw_text(ids[: 8 * PREVIEW], model).decode("utf-8", errors="replace")[:PREVIEW]
    return {
        **counts,
        "bytes": total,
        "unknown": int(np.count_nonzero(ids == model.processor.unk_id())),
        "text": text,
    }


def build(
    files: Sequence[str | Path],
    out: str | Path,
    vocab: int = 1024,
    tokenizer: str | Path | None = None,
    holdout: int = HOLDOUT,
) -> dict:
    """Build shards (and, without a tokenizer, a tokenizer) from text files into out, and describe
    the result.
    """
    return describe(prepare.from_text(files, out, vocab, tokenizer, holdout))
