"""Parity: bitwise. Philox4x32-10 in int64 arithmetic, which every torch backend has and Inductor
fuses into the masking kernel; no product overflows, which compiled C++ leaves undefined.
"""

import torch

MULTIPLIERS = (0xD2511F53, 0xCD9E8D57)
WEYL = (0x9E3779B9, 0xBB67AE85)
LOW = 0xFFFFFFFF


def _high_low(multiplier, value):
    """Return the two 32-bit halves of multiplier * value, from products with 16 bits of the
    multiplier.
    """
    bottom = (multiplier & 0xFFFF) * value
    top = (multiplier >> 16) * value + (bottom >> 16)
    return top >> 16, (top & 0xFFFF) << 16 | bottom & 0xFFFF


def _rounds(c0, c1, c2, c3, k0, k1):
    # Inductor folds products of an arange into int32 index arithmetic, where large ones do not fit;
    # it does not look through ^.
    c0, c2 = c0 ^ 0, c2 ^ 0
    for _ in range(10):
        high0, low0 = _high_low(MULTIPLIERS[0], c0)
        high1, low1 = _high_low(MULTIPLIERS[1], c2)
        c0, c1, c2, c3 = high1 ^ c1 ^ k0, low1, high0 ^ c3 ^ k1, low0
        k0, k1 = (k0 + WEYL[0]) & LOW, (k1 + WEYL[1]) & LOW
    return c0, c1, c2, c3


def philox4x32(counter: torch.Tensor, key: torch.Tensor) -> torch.Tensor:
    """Return the 10-round Philox block of each counter.

    counter: (..., 4), key: (..., 2), int64 holding unsigned 32-bit values; returns (..., 4) int64.
    """
    return torch.stack(
        torch.broadcast_tensors(*_rounds(*counter.unbind(-1), *key.unbind(-1))), dim=-1
    )


def words(seed: int, stream: int, step, rows, columns: int, device=None) -> torch.Tensor:
    """Return the 32-bit draws of some rows: int64 (len(rows), columns).

    step may be an int or a 0-d int64 tensor (one compiled graph then serves all steps); rows are
    global row indices.
    """
    rows = torch.as_tensor(rows, dtype=torch.int64, device=device)
    step = torch.as_tensor(step, dtype=torch.int64, device=rows.device)
    blocks = -(-columns // 4)
    block = torch.arange(blocks, dtype=torch.int64, device=rows.device)
    lanes = _rounds(
        block[None, :], rows[:, None], step, int(stream), seed & LOW, (seed >> 32) & LOW
    )
    return torch.stack(torch.broadcast_tensors(*lanes), dim=-1).reshape(len(rows), 4 * blocks)[
        :, :columns
    ]


def uniforms(words: torch.Tensor) -> torch.Tensor:
    """Return float64 in [0, 1): the top 24 bits of each word times 2**-24."""
    return (words >> 8).to(torch.float64) * 2.0**-24
