"""Counter-based random numbers: Philox4x32-10 (Salmon et al. 2011, "Parallel random numbers: as
easy as 1, 2, 3", section 4.3).
"""

from functools import lru_cache

import numpy as np

MULTIPLIERS = (0xD2511F53, 0xCD9E8D57)
WEYL = (0x9E3779B9, 0xBB67AE85)  # added to the key after each round
LOW = np.uint64(0xFFFFFFFF)


def philox4x32(counter, key):
    """Return the 10-round Philox block of each counter.

    counter: (..., 4), key: (..., 2), both unsigned 32-bit; returns (..., 4) uint32.
    """
    c0, c1, c2, c3 = np.moveaxis(np.asarray(counter, np.uint64), -1, 0)
    k0, k1 = np.moveaxis(np.asarray(key, np.uint64), -1, 0)
    for _ in range(10):
        product0 = np.uint64(MULTIPLIERS[0]) * c0
        product1 = np.uint64(MULTIPLIERS[1]) * c2
        c0, c1, c2, c3 = (
            (product1 >> np.uint64(32)) ^ c1 ^ k0,
            product1 & LOW,
            (product0 >> np.uint64(32)) ^ c3 ^ k1,
            product0 & LOW,
        )
        k0, k1 = (k0 + np.uint64(WEYL[0])) & LOW, (k1 + np.uint64(WEYL[1])) & LOW
    return np.stack(np.broadcast_arrays(c0, c1, c2, c3), axis=-1).astype(np.uint32)


def words(seed, stream, step, rows, columns):
    """Return the 32-bit draws of some rows: uint32 (len(rows), columns).

    Word at column c is lane c % 4 of the block with counter (c // 4, row, step, stream) and key
    (seed low, seed high). rows are global row indices, so a rank or a micro-batch draws what the
    whole batch would.
    """
    return _words(seed, int(stream), int(step), tuple(map(int, rows)), columns)


@lru_cache(maxsize=2)  # the derivatives of a loss ask for the same times and mask at every weight
def _words(seed, stream, step, rows, columns):
    rows, blocks = np.array(rows, np.int64), -(-columns // 4)
    counter = np.zeros((len(rows), blocks, 4), np.uint64)
    counter[..., 0] = np.arange(blocks)
    counter[..., 1] = rows[:, None]
    counter[..., 2] = step
    counter[..., 3] = stream
    key = np.array([seed & 0xFFFFFFFF, (seed >> 32) & 0xFFFFFFFF], np.uint64)
    drawn = philox4x32(counter, key).reshape(len(rows), 4 * blocks)[:, :columns]
    drawn.flags.writeable = False
    return drawn


def uniforms(words):
    """Return float64 in [0, 1): the top 24 bits of each word times 2**-24."""
    return (np.asarray(words, np.uint32) >> 8) * 2.0**-24
