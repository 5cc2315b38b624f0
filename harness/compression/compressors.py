"""What general compressors and the uniform predictor need for the same text: the baselines of every
score.
"""

import bz2
import lzma
import math
import zlib

from reference.recipe import InputError


def baselines(text: bytes, vocab: int, tokens: int) -> dict[str, float]:
    """Return bits per byte of the text under zlib 9, bz2 9, lzma 9, and under a uniform guess for
    each of its tokens.
    """
    if not text:
        raise InputError(
            "baselines: expected text to compress, found 0 bytes; evaluate at least one window that"
            " holds text"
        )
    compressed = {
        "zlib": zlib.compress(text, 9),
        "bz2": bz2.compress(text, 9),
        "lzma": lzma.compress(text, preset=9),
    }
    scores = {name: 8 * len(data) / len(text) for name, data in compressed.items()}
    return {**scores, "uniform": tokens * math.log2(vocab) / len(text)}
