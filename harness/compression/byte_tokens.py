"""Any bytes as tokens and raw spans, and back exactly. The tokenizer speaks where its pieces spell
the text; elsewhere pieces that do.

Bytes of tokens are defined by piece_texts alone: a leading space counts unless the token before is
a control token or there is none.
"""

import re
from typing import NamedTuple

import numpy as np

from fast.bytes import Tokenizer
from harness.corpus import prepare
from harness.corpus.shards import piece_texts
from reference.recipe import InputError

LONGEST = 2**20  # characters given to the tokenizer at a time, which bounds its memory
# What is no text: 32 bytes or more, a quarter of them invalid UTF-8, one within 16 characters of
# the next. The model is not asked about it.
FOREIGN_BYTES, FOREIGN_SHARE = 32, 4
INVALID = re.compile("([\udc80-\udcff]+)")  # as surrogateescape shows them
REGION = re.compile("[\udc80-\udcff](?:.{0,15}[\udc80-\udcff])*", re.DOTALL)


class Content(NamedTuple):
    """Token ids (int64), and raw spans as (tokens before the span, bytes), in order."""

    ids: np.ndarray
    raw: list[tuple[int, bytes]]


class Writer:
    """Collects tokens and raw spans whose bytes are exactly those added."""

    def __init__(self, tokenizer: Tokenizer):
        self.tokenizer, self.processor, self.control_V = (
            tokenizer,
            tokenizer.processor,
            tokenizer.table.control_V,
        )
        self.spaced, self.bare = piece_texts(tokenizer)
        order = sorted(
            range(tokenizer.vocab), key=lambda token: (not self.processor.is_byte(token), -token)
        )
        # The last of equals stays: a normal piece before a byte piece, the lowest id among those.
        self.spellings = [
            {texts[token]: token for token in order if texts[token]}
            for texts in (self.spaced, self.bare)
        ]
        self.longest = max(map(len, [b"", *self.spellings[0]]))
        self.ids: list[int] = []
        self.raw: list[tuple[int, bytearray]] = []

    def _after_control(self) -> bool:
        return not self.ids or bool(self.control_V[self.ids[-1]])

    def _spell(self, ids: list[int]) -> bytes:
        parts, after_control = [], self._after_control()
        for token in ids:
            parts.append((self.bare if after_control else self.spaced)[token])
            after_control = self.control_V[token]
        return b"".join(parts)

    def add(self, text: str) -> None:
        """Add text in which surrogates stand for invalid bytes."""
        for index, part in enumerate(INVALID.split(text)):
            if index % 2:
                self.add_bytes(part.encode("utf-8", "surrogateescape"))
            elif part:
                self.add_text(part)

    def add_text(self, text: str) -> None:
        """Add valid text as the tokenizer would write it, halved at white space until what it
        alters is a word.
        """
        waiting = [text]
        while waiting:
            part = waiting.pop()
            if self._take(part):
                continue
            middle = len(part) // 2
            gaps = (place.start() for place in re.finditer(r"\s", part) if place.start())
            cut = min(gaps, key=lambda place: abs(place - middle), default=0) or (
                middle if len(part) > LONGEST else 0
            )
            if cut:
                waiting += [part[cut:], part[:cut]]
            else:
                self.add_bytes(part.encode())

    def _take(self, part: str) -> bool:
        if len(part) > LONGEST:
            return False
        candidates = (
            [prepare.encode(part, self.tokenizer)]
            if self._after_control()
            else [self.processor.encode(part)]
        )
        # A tokenizer may strip a space from the front, or add one: behind a full stop neither.
        if part.startswith(" "):
            candidates.append(self.processor.encode("." + part)[len(self.processor.encode(".")) :])
        for ids in candidates:
            if self._spell(ids) == part.encode():
                self.ids += ids
                return True
        return False

    def add_bytes(self, data: bytes) -> None:
        """Add bytes as the longest pieces that spell them; a byte that none spells goes raw."""
        place = 0
        while place < len(data):
            known = self.spellings[self._after_control()]
            for size in range(min(self.longest, len(data) - place), 0, -1):
                token = known.get(data[place : place + size])
                if token is not None:
                    self.ids.append(token)
                    break
            else:
                size = 1
                self.add_raw(data[place : place + 1])
            place += size

    def add_raw(self, data: bytes) -> None:
        """Add bytes that the model is not asked about."""
        if not self.raw or self.raw[-1][0] != len(self.ids):
            self.raw.append((len(self.ids), bytearray()))
        self.raw[-1][1].extend(data)


def encode(data: bytes, tokenizer: Tokenizer) -> Content:
    """Return data as Content that decode() turns back into the same bytes; checked before it
    returns.
    """
    writer = Writer(tokenizer)
    text, place = data.decode("utf-8", "surrogateescape"), 0
    for region in REGION.finditer(text):
        part = region[0].encode("utf-8", "surrogateescape")
        if len(part) >= FOREIGN_BYTES and FOREIGN_SHARE * sum(
            map(len, INVALID.findall(region[0]))
        ) >= len(part):
            writer.add(text[place : region.start()])
            writer.add_raw(part)
            place = region.end()
    writer.add(text[place:])
    content = Content(
        np.array(writer.ids, np.int64), [(before, bytes(part)) for before, part in writer.raw]
    )
    if decode(content, tokenizer) != data:
        raise InputError(
            f"tokenizer {tokenizer.path}: expected pieces that spell what was encoded, found"
            " others; use another tokenizer"
        )
    return content


def decode(content: Content, tokenizer: Tokenizer) -> bytes:
    """Return the bytes that the tokens and raw spans stand for."""
    spaced, bare = piece_texts(tokenizer)
    control_V = tokenizer.table.control_V
    ids = content.ids.tolist()
    parts, after_control, done = [], True, 0
    for before, raw in [*content.raw, (len(ids), b"")]:
        for token in ids[done:before]:
            parts.append((bare if after_control else spaced)[token])
            after_control = control_V[token]
        parts.append(raw)
        done = before
    return b"".join(parts)
