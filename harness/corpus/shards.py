"""What shards hold: counts, bytes of text, and the text itself. The core of `maskgolf data`."""

import functools
from pathlib import Path

import numpy as np

from fast.bytes import SPACE, Tokenizer, load_tokenizer, token_bytes
from fast.data import Tokens, find_layout
from harness.corpus.prepare import START

CHUNK = 2**20  # tokens counted at a time, which bounds the memory for a shard of 100 million
PREVIEW = 80  # characters


@functools.lru_cache(maxsize=4)
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
    ids = np.asarray(ids, np.int64)
    before = np.append(previous, ids)[:-1]
    after_control = (before < 0) | tokenizer.table.control_V[before]
    spaced, bare = piece_texts(tokenizer)
    return b"".join(
        [
            (bare if after else spaced)[token]
            for token, after in zip(ids.tolist(), after_control.tolist(), strict=True)
        ]
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
        Tokens([path])
        tokenizer = tokenizer or find_layout(path.parent).tokenizer
    model = load_tokenizer(tokenizer) if tokenizer else None
    shards = []
    for split, paths in splits.items():
        previous = -1
        for file in paths:
            tokens = Tokens([file])
            counts = _count(tokens, model, previous)
            shards.append({"file": str(file), "split": split, **counts})
            previous = int(tokens.shards[0][-1])
    return {"path": str(path), "tokenizer": str(tokenizer) if tokenizer else None, "shards": shards}


def _count(tokens: Tokens, model: Tokenizer | None, previous: int) -> dict:
    (ids,) = tokens.shards
    start = model.processor.bos_id() if model else START
    counts = {
        "tokens": len(ids),
        "documents": int(np.count_nonzero(ids == start)),
        "max_id": int(ids.max()),
        "bytes": None,
        "unknown": None,
        "text": None,
    }
    if model is None:
        return counts
    total = 0
    for begin in range(0, len(ids), CHUNK):
        part = tokens.read(begin, min(begin + CHUNK, len(ids)), model.vocab)
        total += int(token_bytes(part, np.append(previous, part[:-1]), model.table).sum())
        previous = part[-1]
    text = raw_text(ids[: 8 * PREVIEW], model).decode("utf-8", errors="replace")[:PREVIEW]
    unknown = int(np.count_nonzero(ids == model.processor.unk_id()))
    return counts | {"bytes": total, "unknown": unknown, "text": text}
