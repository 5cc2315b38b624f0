"""Any bytes as tokens and raw spans, and back exactly: the tokenizer's own tokens where they spell
the text, single pieces elsewhere.

raw_text alone defines the bytes of tokens: a leading space counts unless the token before is a
control token or there is none.
"""

import re
from typing import NamedTuple

import numpy as np

from fast.bytes import Tokenizer
from harness.corpus.prepare import encode as tokenize
from harness.corpus.shards import piece_texts, raw_text
from reference.recipe import InputError

LONGEST = 2**20  # characters given to the tokenizer at a time, which bounds its memory
# Not text, and stored without the model: at least 32 bytes, a quarter of them invalid UTF-8, each
# of those within 16 characters of the next.
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
        self.tokenizer, self.processor = tokenizer, tokenizer.processor
        # Of tokens with the same bytes the last wins: a normal piece before a byte piece, among
        # those the lowest id.
        order = sorted(
            range(tokenizer.vocab), key=lambda token: (not self.processor.is_byte(token), -token)
        )
        self.spellings = [
            {texts[token]: token for token in order if texts[token]}
            for texts in piece_texts(tokenizer)
        ]
        self.longest = max(map(len, self.spellings[0]), default=0)
        self.ids: list[int] = []
        self.raw: list[tuple[int, bytearray]] = []

    def _previous(self) -> int:
        return self.ids[-1] if self.ids else -1

    def _after_control(self) -> bool:
        return not self.ids or bool(self.tokenizer.table.control_V[self.ids[-1]])

    def add(self, text: str) -> None:
        """Add text in which surrogates stand for invalid bytes."""
        for index, part in enumerate(INVALID.split(text)):
            if index % 2:
                self.add_bytes(part.encode("utf-8", "surrogateescape"))
            elif part:
                self.add_text(part)

    def add_text(self, text: str) -> None:
        """Add valid text as the tokenizer writes it; a part that it alters is halved at white
        space, down to single words, which go by add_bytes.
        """
        waiting = [text]
        while waiting:
            part = waiting.pop()
            if self._add_tokens(part):
                continue
            middle = len(part) // 2
            gaps = [gap.start() for gap in re.finditer(r"\s", part) if gap.start()]
            if gaps or len(part) > LONGEST:
                cut = min(gaps, key=lambda gap: abs(gap - middle), default=middle)
                waiting += [part[cut:], part[:cut]]
            else:
                self.add_bytes(part.encode())

    def _add_tokens(self, part: str) -> bool:
        """Add the tokenizer's tokens of a text and return True, if they spell it."""
        if len(part) > LONGEST:
            return False
        encode = self.processor.encode
        candidates = [tokenize(part, self.tokenizer) if self._after_control() else encode(part)]
        # A tokenizer may strip a space from the front, or add one: behind a full stop neither.
        if part.startswith(" "):
            candidates.append(encode("." + part)[len(encode(".")) :])
        for ids in candidates:
            if raw_text(ids, self.tokenizer, self._previous()) == part.encode():
                self.ids += ids
                return True
        return False

    def add_bytes(self, data: bytes) -> None:
        """Add bytes as the longest pieces that spell them; a byte that none spells goes raw."""
        start = 0
        while start < len(data):
            spellings = self.spellings[self._after_control()]
            for stop in range(min(start + self.longest, len(data)), start, -1):
                token = spellings.get(data[start:stop])
                if token is not None:
                    self.ids.append(token)
                    break
            else:
                stop = start + 1
                self.add_raw(data[start:stop])
            start = stop

    def add_raw(self, data: bytes) -> None:
        """Add bytes that are stored without the model."""
        if not self.raw or self.raw[-1][0] != len(self.ids):
            self.raw.append((len(self.ids), bytearray()))
        self.raw[-1][1].extend(data)


def encode(data: bytes, tokenizer: Tokenizer) -> Content:
    """Return the Content of any bytes; checked by decoding it."""
    writer, start = Writer(tokenizer), 0
    text = data.decode("utf-8", "surrogateescape")
    for region in REGION.finditer(text):
        part = region[0].encode("utf-8", "surrogateescape")
        invalid = sum(map(len, INVALID.findall(region[0])))
        if len(part) >= FOREIGN_BYTES and FOREIGN_SHARE * invalid >= len(part):
            writer.add(text[start : region.start()])
            writer.add_raw(part)
            start = region.end()
    writer.add(text[start:])
    raw = [(before, bytes(part)) for before, part in writer.raw]
    content = Content(np.array(writer.ids, np.int64), raw)
    if decode(content, tokenizer) != data:
        raise InputError(
            f"tokenizer {tokenizer.path}: expected pieces that spell what was encoded, found"
            " others; use another tokenizer"
        )
    return content


def decode(content: Content, tokenizer: Tokenizer) -> bytes:
    """Return the bytes of the tokens and raw spans."""
    ids, parts, start, previous = content.ids, [], 0, -1
    for before, raw in [*content.raw, (len(content.ids), b"")]:
        parts += [raw_text(ids[start:before], tokenizer, previous), raw]
        start, previous = before, ids[before - 1] if before else -1
    return b"".join(parts)
