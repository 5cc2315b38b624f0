"""Parity: bitwise. Bytes of text per token, and the SentencePiece model they come from; counted on
the host.
"""

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import sentencepiece

from reference.recipe import InputError

SPACE = "\u2581"
CONTROL_KINDS = frozenset({"control", "unknown", "unused"})


class ByteTable(NamedTuple):
    """Per token: bytes without a leading space (int64), has a leading space (bool), is a control
    token (bool).
    """

    length_V: np.ndarray
    space_V: np.ndarray
    control_V: np.ndarray


@dataclass(frozen=True, eq=False)  # hashed by identity
class Tokenizer:
    """A SentencePiece model, its byte table, and its file with the file's SHA-256."""

    processor: sentencepiece.SentencePieceProcessor
    vocab: int
    table: ByteTable
    sha256: str
    path: Path


def byte_table(pieces: list[str], kinds: list[str]) -> ByteTable:
    """Return the ByteTable of a vocabulary of V pieces and kinds (normal, byte, control, unknown,
    unused).
    """
    if len(pieces) != len(kinds):
        raise InputError(
            f"tokenizer table: expected one kind per piece, found {len(pieces)} pieces and"
            f" {len(kinds)} kinds; pass both in full"
        )
    length_V = np.zeros(len(pieces), np.int64)
    space_V, control_V = np.zeros(len(pieces), bool), np.zeros(len(pieces), bool)
    for token, (piece, kind) in enumerate(zip(pieces, kinds, strict=True)):
        if kind == "normal":
            # Every space character decodes to one byte, though U+2581 itself takes three.
            spaces = piece.count(SPACE)
            space_V[token] = piece[:1] == SPACE
            length_V[token] = len(piece.encode()) - 2 * spaces - space_V[token]
        elif kind == "byte":
            length_V[token] = 1
        elif kind in CONTROL_KINDS:
            control_V[token] = True
        else:
            raise InputError(
                f"piece {piece!r}: expected a kind among normal, byte, control, unknown, unused,"
                f" found {kind!r}; fix the tokenizer's table"
            )
    return ByteTable(length_V, space_V, control_V)


def token_bytes(ids, previous, table: ByteTable) -> np.ndarray:
    """Return int64 bytes of each token, same shape as ids; previous -1 means none and acts like a
    control token.
    """
    ids, previous = np.asarray(ids, np.int64), np.asarray(previous, np.int64)
    vocab = len(table.length_V)
    if ids.shape != previous.shape:
        raise InputError(
            f"token_bytes: expected ids and previous of one shape, found {ids.shape} and"
            f" {previous.shape}; pass one previous per id"
        )
    if ids.size and not (
        ids.min() >= 0 and ids.max() < vocab and previous.min() >= -1 and previous.max() < vocab
    ):
        raise InputError(
            f"token_bytes: expected ids in 0..{vocab - 1} and previous in -1..{vocab - 1}, found"
            " others; use the data's tokenizer"
        )
    # Index -1 of the appended table is "no previous token".
    spaces_follow = np.append(~table.control_V, False)
    return table.length_V[ids] + (table.space_V[ids] & spaces_follow[previous])


def _kind(processor: sentencepiece.SentencePieceProcessor, token: int) -> str:
    tests = (
        ("byte", processor.is_byte),
        ("control", processor.is_control),
        ("unknown", processor.is_unknown),
        ("unused", processor.is_unused),
    )
    return next((kind for kind, test in tests if test(token)), "normal")


def load_tokenizer(path: str | Path | None, expect_vocab: int | None = None) -> Tokenizer:
    """Load a SentencePiece model; InputError when it is missing, not a model, or of another size
    than expect_vocab.
    """
    if path is None:
        raise InputError(
            "tokenizer: expected a *.model file beside the data or in tokenizers/, found none; name"
            " one with --tokenizer"
        )
    path = Path(path)
    try:
        data = path.read_bytes()
    except OSError as error:
        raise InputError(
            f"tokenizer {path}: expected a readable SentencePiece model, found none"
            f" ({error.strerror}); check --tokenizer"
        ) from None
    processor = sentencepiece.SentencePieceProcessor()
    try:
        # An empty file parses as an empty message, and asking such a processor for its size only
        # logs an error.
        vocab = processor.vocab_size() if data and processor.LoadFromSerializedProto(data) else 0
    except (RuntimeError, OSError):
        vocab = 0
    if vocab == 0:
        raise InputError(
            f"tokenizer {path}: expected a SentencePiece model, found {len(data)} bytes of"
            " something else; check --tokenizer"
        )
    if expect_vocab is not None and vocab != expect_vocab:
        raise InputError(
            f"tokenizer {path}: expected {expect_vocab} pieces (the recipe's vocabulary), found"
            f" {vocab}; pass the tokenizer that belongs to the data, or set --model.vocab {vocab}"
        )
    pieces = [processor.id_to_piece(token) for token in range(vocab)]
    table = byte_table(pieces, [_kind(processor, token) for token in range(vocab)])
    return Tokenizer(processor, vocab, table, hashlib.sha256(data).hexdigest(), path)
