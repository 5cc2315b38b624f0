"""How many bytes of text a token stands for: the denominator of bits per byte."""

from typing import NamedTuple

import numpy as np

from reference.recipe import InputError

SPACE = "\u2581"  # SentencePiece writes a space as this character
KINDS = ("normal", "byte", "control", "unknown", "unused")


class ByteTable(NamedTuple):
    """Per token: bytes without a leading space (int64), has a leading space (bool), is a control
    token (bool).
    """

    length_V: np.ndarray
    space_V: np.ndarray
    control_V: np.ndarray


def piece_length(piece, kind):
    """Return the UTF-8 bytes of one piece without its leading space; a further space inside the
    piece is one byte.
    """
    if kind not in KINDS:
        raise InputError(
            f"piece {piece!r}: expected a kind among {', '.join(KINDS)}, found {kind!r}; fix the"
            " tokenizer's table"
        )
    if kind == "byte":
        return 1
    if kind != "normal":
        return 0
    return len(piece.removeprefix(SPACE).replace(SPACE, " ").encode("utf-8"))


def byte_table(pieces, kinds):
    """Return the ByteTable of a vocabulary: pieces and kinds are lists of V strings.

    kinds: normal, byte, control, unknown, unused; the last three count as control tokens and stand
    for no bytes.
    """
    if len(pieces) != len(kinds):
        raise InputError(
            f"tokenizer table: expected one kind per piece, found {len(pieces)} pieces and"
            f" {len(kinds)} kinds; pass both in full"
        )
    length_V = [piece_length(piece, kind) for piece, kind in zip(pieces, kinds, strict=True)]
    space_V = [
        kind == "normal" and piece.startswith(SPACE)
        for piece, kind in zip(pieces, kinds, strict=True)
    ]
    control_V = [kind in ("control", "unknown", "unused") for kind in kinds]
    return ByteTable(
        np.array(length_V, np.int64), np.array(space_V, bool), np.array(control_V, bool)
    )


def token_bytes(ids, previous, table):
    """Return int64 bytes of each token, same shape as ids.

    previous: the token before each (-1: none, which acts like a control token); after a control
    token a leading space stands for nothing. Over a whole document the sum is the length of its
    decoded UTF-8 text.
    """
    ids, previous, vocab = (
        np.asarray(ids, np.int64),
        np.asarray(previous, np.int64),
        len(table.length_V),
    )
    if ids.shape != previous.shape:
        raise InputError(
            f"token_bytes: expected ids and previous of one shape, found {ids.shape} and"
            f" {previous.shape}; pass one previous per id"
        )
    if (
        np.any(ids < 0)
        or np.any(ids >= vocab)
        or np.any(previous < -1)
        or np.any(previous >= vocab)
    ):
        raise InputError(
            f"token_bytes: expected ids in 0..{vocab - 1} and previous in -1..{vocab - 1}, found"
            " others; use the data's tokenizer"
        )
    after_control = (previous == -1) | table.control_V[previous]
    return table.length_V[ids] + np.where(table.space_V[ids] & ~after_control, 1, 0)
