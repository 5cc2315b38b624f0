"""Masked diffusion with an absorbing state and alpha_t = 1 - t: times, corruption, loss (Sahoo et
al. 2024, MDLM).
"""

import numpy as np

from reference import philox
from reference.recipe import Stream


def radical_inverse(index):
    """Return the base-2 van der Corput value of each index: its bits mirrored behind the point,
    float64 in [0, 1).
    """
    place = np.arange(32)
    bits = np.atleast_1d(index)[:, None].astype(np.int64) >> place & 1
    return (bits * 2.0 ** -(place + 1)).sum(axis=1)


def rotation(seed, step):
    """Return the one uniform that rotates the times of a whole optimizer step, float in [0, 1)."""
    return float(philox.uniforms(philox.words(seed, Stream.TIME, step, [0], 1))[0, 0])


def grid(rows, count):
    """Return the points of some of `count` rows on the even grid 0, 1/count, ...: in the order of
    their van der Corput values, so that neighbours lie far apart.
    """
    by_value = np.argsort(radical_inverse(np.arange(count)))
    return np.argsort(by_value)[rows] / count


def times(seed, step, rows, epsilon, count=None):
    """Return t_B in [epsilon, 1): epsilon + (1 - epsilon) frac(u + vdc(row)), float64.

    Low-discrepancy times: a power-of-two batch is an even grid with one random offset (Kingma et
    al. 2021, VDM, appendix I.1). count: how many rows there are, any number; then grid(row) stands
    for vdc(row), which is the same for a power of two.
    """
    place_B = radical_inverse(rows) if count is None else grid(rows, count)
    return epsilon + (1 - epsilon) * ((rotation(seed, step) + place_B) % 1.0)


def thresholds(times_B):
    """Return ceil(t * 2**24) as int64: the number of 24-bit draws that mask a position."""
    return np.ceil(np.asarray(times_B) * 2.0**24).astype(np.int64)


def mask(seed, step, rows, length, thresholds_B):
    """Return mask_BL, True where the top 24 bits of the position's draw lie below its row's
    threshold.
    """
    draws_BL = philox.words(seed, Stream.MASK, step, rows, length) >> 8
    return draws_BL < np.asarray(thresholds_B)[:, None]


def corrupt(ids_BL, mask_BL, mask_id):
    """Return ids_BL with the masked positions replaced by mask_id."""
    return np.where(mask_BL, mask_id, ids_BL)


def tokens_before(ids_BL, previous_B):
    """Return the token before each token (B, L); id 0 stands in where there is none (-1)."""
    return np.maximum(np.concatenate([previous_B[:, None], ids_BL[:, :-1]], axis=1), 0)


def log_softmax(logits):
    """Return log p over the last axis; complex logits pass, the shift looks at real parts only."""
    shifted = logits - logits.real.max(axis=-1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True))


def cross_entropy(logits_BLV, ids_BL):
    """Return -log p(id) at every position in nats, shape (B, L)."""
    return -np.take_along_axis(log_softmax(logits_BLV), ids_BL[..., None], axis=-1)[..., 0]


def weights(times_B, max_weight):
    """Return the loss weight of each row: min(1 / t, max_weight)."""
    return np.minimum(1 / np.asarray(times_B), max_weight)


def loss(logits_BLV, ids_BL, mask_BL, weights_B):
    """Return the diffusion loss: mean over rows of w_b (1 / L) sum over masked i of -log p(x_i |
    x_t), nats per token.

    MDLM equation 10 in continuous time. Unmasked positions cost nothing; the divisor is L, not the
    masked count.
    """
    per_row_B = (
        np.where(mask_BL, cross_entropy(logits_BLV, ids_BL), 0).sum(axis=1) / ids_BL.shape[1]
    )
    return (weights_B * per_row_B).mean()


def causal_loss(logits_BLV, ids_BL):
    """Return the autoregressive loss: mean over rows and positions of -log p(x_i | x_<i), nats per
    token.
    """
    return cross_entropy(logits_BLV, ids_BL).mean()
