"""What stands in a window before anything is drawn: a prompt, or a text with gaps, as tokens."""

from itertools import pairwise
from typing import NamedTuple

import numpy as np
import torch

from fast.bytes import Tokenizer
from harness.compression import byte_tokens
from harness.sampling import gaps
from reference.recipe import InputError


class Template(NamedTuple):
    """A window before anything is drawn: the ids up to its last gap or given token, the id V in
    gaps; and the positions whose token must begin with a space.
    """

    ids: np.ndarray
    spaced: list[int]


def encode(parts: list[str | int], tokenizer: Tokenizer, flag: str) -> Template:
    """Return the tokens of given texts and gaps (int: so many), behind <s>. What is given comes
    back byte for byte whatever fills the gaps, control tokens aside; InputError where no pieces
    spell it.

    A single space before a gap is left to its first token: most words are pieces with a space.
    """
    start, table = tokenizer.processor.bos_id(), tokenizer.table
    stand_in = int(np.flatnonzero(~table.control_V)[0])  # for what is drawn
    writer, hidden, spaced = byte_tokens.Writer(tokenizer), [], []
    writer.ids += [start] if start >= 0 else []
    for part, following in pairwise([*parts, ""]):
        if isinstance(part, int):
            hidden += range(len(writer.ids), len(writer.ids) + part)
            writer.ids += [stand_in] * part
            continue
        # Without its space it must not be the first token: behind <s> a piece's space is no text.
        word = part[-2:-1] or ("gap" if hidden else " ")
        owed = part.endswith(" ") and not word.isspace() and isinstance(following, int)
        owed = owed and bool(table.space_V.any())
        writer.add_text(part[:-1] if owed else part)
        spaced += [len(writer.ids)] if owed else []
    if writer.raw:
        raise InputError(
            f"{flag}: expected text that the tokenizer's pieces spell, found"
            f" {bytes(writer.raw[0][1]).decode(errors='replace')!r}, which none does; leave it out,"
            " or take a model whose tokenizer has byte pieces"
        )
    ids = np.array(writer.ids, np.int64)
    ids[hidden] = tokenizer.vocab
    return Template(ids, spaced)


def begin(
    prompt: str,
    infill: str | None,
    gap: int | None,
    tokens: int | None,
    length: int,
    pieces: Tokenizer,
) -> tuple[Template, int]:
    """Return what stands in every window of some length, and where drawing ends; InputError where
    it does not fit.
    """
    if infill is not None:
        parts = gaps.split(infill, gap)
        begun = encode(parts, pieces, "--infill")
        if len(begun.ids) > length:
            raise InputError(
                f"--infill: expected at most {length - 1} tokens, found {len(begun.ids) - 1},"
                f" {sum(part for part in parts if isinstance(part, int))} of them in gaps; shorten"
                " the text, or its gaps by --gap"
            )
        return begun, len(begun.ids)
    begun = encode([prompt], pieces, "--prompt")
    left = length - len(begun.ids)
    if length < 2:
        raise InputError(
            f"sample: expected a model that reads at least 2 tokens, found model.length {length};"
            " train one with longer windows"
        )
    if left < 1:
        raise InputError(
            f"--prompt: expected fewer than {length - 1} tokens, found {len(begun.ids) - 1};"
            " shorten it"
        )
    if tokens is not None and tokens > left:
        raise InputError(
            f"--tokens: expected at most {left}, as the model reads {length} with the prompt, found"
            f" {tokens}; lower it"
        )
    return begun, length if tokens is None else len(begun.ids) + tokens


def allowed(begun: Template, length: int, tokenizer: Tokenizer) -> torch.Tensor:
    """Return allowed_LV: no control tokens, and where a space is owed tokens that begin with
    one.
    """
    allowed_LV = np.tile(~tokenizer.table.control_V, (length, 1))
    allowed_LV[begun.spaced] &= tokenizer.table.space_V
    return torch.from_numpy(allowed_LV)
