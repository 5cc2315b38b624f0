"""Documents to training data: a SentencePiece model and token shards in the official layout, cached
by content.
"""

import hashlib
import io
import json
import os
import re
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import sentencepiece

from fast.bytes import SPACE, Tokenizer, load_tokenizer
from fast.data import find_layout, write_shard
from harness.corpus.documents import (
    HOLDOUT,
    Corpus,
    embedded_corpus,
    read_documents,
    split_documents,
)
from reference.recipe import InputError

PAD, START, END, UNKNOWN = 0, 1, 2, 3
MANIFEST = "manifest.json"
# Lossless: decode(encode(text)) == text, indentation and line ends included.
TRAINER = {
    "model_type": "bpe",
    "byte_fallback": True,
    "normalization_rule_name": "identity",
    "remove_extra_whitespaces": False,
    "add_dummy_prefix": False,
    "allow_whitespace_only_pieces": True,
    "character_coverage": 0.9999,
    "pad_id": PAD,
    "bos_id": START,
    "eos_id": END,
    "unk_id": UNKNOWN,
    "num_threads": 1,
    "max_sentence_length": 2**30,
    "minloglevel": 2,
}


def default_cache() -> Path:
    """Return the directory of built corpora: $MASKGOLF_CACHE, $XDG_CACHE_HOME/maskgolf or
    ~/.cache/maskgolf.
    """
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(os.environ.get("MASKGOLF_CACHE") or Path(base) / "maskgolf")


def train_tokenizer(documents: Sequence[str], vocab: int) -> bytes:
    """Return a serialized SentencePiece BPE model of `vocab` pieces; the same documents give the
    same bytes.
    """
    # SentencePiece skips a sentence that contains U+2585, its mark for unknown text.
    sentences = (part for document in documents for part in document.split("\u2585") if part)
    model = io.BytesIO()
    try:
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=sentences, model_writer=model, vocab_size=vocab, **TRAINER
        )
    except RuntimeError as error:
        message = f"{len(documents)} documents with {sum(map(len, documents))} characters"
        if limit := re.search(r"too high .*<= (\d+)", str(error)):
            fix = (
                f"at most {limit[1]} pieces can be learned from them: add text, or set"
                f" --model.vocab {limit[1]}"
            )
        elif limit := re.search(r"required_chars\. \d+ vs (\d+)", str(error)):
            fix = (
                f"their characters alone need {limit[1]} pieces: set --model.vocab {limit[1]} or"
                " more"
            )
        else:
            fix = f"SentencePiece says: {error}"
        raise InputError(
            f"tokenizer: expected to learn {vocab} pieces from {message}, found that impossible;"
            f" {fix}"
        ) from None
    return model.getvalue()


def encode(text: str, tokenizer: Tokenizer) -> list[int]:
    """Return the ids of one document, without <s>; lossless for a tokenizer that we trained.

    Two things are written as byte pieces there: a space that opens the document (after <s> a
    leading space stands for nothing) and U+2581, which SentencePiece would decode as a space.
    """
    processor = tokenizer.processor
    plain = processor.encode(text)
    opens_with_space = text.startswith(" ") and processor.decode(plain).startswith(" ")
    byte_ids = [processor.piece_to_id(f"<0x{byte:02X}>") for byte in (0x20, *SPACE.encode())]
    if (
        not (opens_with_space or SPACE in text)
        or not all(map(processor.is_byte, byte_ids))
        or _adds_prefix(processor)
    ):
        return plain
    ids = byte_ids[:1] if opens_with_space else []
    for index, part in enumerate((text[1:] if opens_with_space else text).split(SPACE)):
        ids += (byte_ids[1:] if index else []) + processor.encode(part)
    return ids


def _adds_prefix(processor: sentencepiece.SentencePieceProcessor) -> bool:
    return processor.id_to_piece(processor.encode("a")[0]).startswith(SPACE)


def encode_documents(documents: Sequence[str], tokenizer: Tokenizer) -> np.ndarray:
    """Return one stream of ids: every document opens with <s>."""
    if tokenizer.vocab > 2**16:
        raise InputError(
            f"tokenizer {tokenizer.path}: expected at most 65536 pieces (shards are uint16), found"
            f" {tokenizer.vocab}; use a smaller one"
        )
    start = tokenizer.processor.bos_id()
    if start < 0:
        raise InputError(
            f"tokenizer {tokenizer.path}: expected a start token (<s>), found none; train it with a"
            " bos_id"
        )
    return np.concatenate(
        [np.array([start, *encode(document, tokenizer)], np.uint16) for document in documents]
    )


def _key(corpus: Corpus, vocab: int, model: bytes | None) -> str:
    """Return the hash of everything that decides the built files."""
    settings = [
        corpus.name,
        vocab,
        TRAINER,
        sentencepiece.__version__,
        hashlib.sha256(model).hexdigest() if model else None,
    ]
    counts = [len(corpus.train), len(corpus.validation)]
    digest = hashlib.sha256(json.dumps([settings, *counts]).encode())
    for document in (*corpus.train, *corpus.validation):
        data = document.encode()
        digest.update(len(data).to_bytes(8, "little") + data)
    return digest.hexdigest()


def _write(corpus: Corpus, vocab: int, model: bytes | None, key: str, folder: Path) -> None:
    path = folder / "tokenizers" / f"{corpus.name}_{vocab}_bpe.model"
    path.parent.mkdir()
    path.write_bytes(model or train_tokenizer(corpus.train, vocab))
    tokenizer = load_tokenizer(path, expect_vocab=vocab)
    shards = folder / "datasets" / f"{corpus.name}_sp{vocab}"
    for split, documents in (("train", corpus.train), ("val", corpus.validation)):
        ids = encode_documents(documents, tokenizer)
        write_shard(shards / f"{corpus.name}_{split}_000000.bin", ids)
    manifest = {
        "key": key,
        "name": corpus.name,
        "vocab": vocab,
        "tokenizer_sha256": tokenizer.sha256,
        "sentencepiece": sentencepiece.__version__,
        "train_documents": len(corpus.train),
        "validation_documents": len(corpus.validation),
    }
    (folder / MANIFEST).write_text(json.dumps(manifest, indent=1) + "\n", encoding="utf-8")


def _is_built(folder: Path, key: str) -> bool:
    try:
        manifest = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
        return manifest["key"] == key and all(find_layout(folder))
    except (OSError, ValueError, KeyError, TypeError):
        return False


def build(
    corpus: Corpus,
    out_dir: str | Path | None,
    vocab: int,
    tokenizer: str | Path | None = None,
    cache_dir: str | Path | None = None,
) -> Path:
    """Build a corpus, complete or not at all, and return its directory: out_dir, or one in the
    cache. Where it was built from the same text it is not built again.

    tokenizer: an existing SentencePiece model; without one, a model of `vocab` pieces is trained on
    the training split.
    """
    model = None
    if tokenizer is not None:
        model = load_tokenizer(tokenizer, expect_vocab=vocab).path.read_bytes()
    key = _key(corpus, vocab, model)
    if out_dir is None:
        out_dir = Path(cache_dir or default_cache()) / f"{corpus.name}-{key[:16]}"
    out_dir = Path(out_dir)
    if _is_built(out_dir, key):
        return out_dir
    if out_dir.exists() and (not out_dir.is_dir() or any(out_dir.iterdir())):
        content = "other files" if out_dir.is_dir() else "a file"
        raise InputError(
            f"output {out_dir}: expected a new or empty directory, found {content}; choose another"
            " or remove it"
        )
    try:
        out_dir.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(
            dir=out_dir.parent, prefix=f".{out_dir.name}.", ignore_cleanup_errors=True
        ) as temporary:
            os.chmod(temporary, 0o755)
            _write(corpus, vocab, model, key, Path(temporary))
            os.replace(temporary, out_dir)
    except OSError as error:
        # Another process may have built the same corpus first.
        if not _is_built(out_dir, key):
            raise InputError(
                f"output {out_dir}: expected to write shards there, found: {error.strerror}; "
                "free space or choose another"
            ) from None
    return out_dir


def embedded(
    cache_dir: str | Path | None = None, vocab: int = 1024, tokenizer: str | Path | None = None
) -> Path:
    """Return the directory of the built embedded corpus; only the first call builds it. tokenizer:
    as in build().
    """
    return build(embedded_corpus(), None, vocab, tokenizer, cache_dir)


def from_text(
    files: Sequence[str | Path],
    out_dir: str | Path | None = None,
    vocab: int = 1024,
    tokenizer: str | Path | None = None,
    holdout: int = HOLDOUT,
) -> Path:
    """Return the directory of the corpus built from UTF-8 files (see read_documents): out_dir or,
    without one, in the cache.
    """
    return build(split_documents("text", read_documents(files), holdout), out_dir, vocab, tokenizer)
