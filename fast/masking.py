"""Parity: bitwise for times, thresholds and masks; algebra + rounding for the loss (float32 sums of
at most B L V terms).
"""

import functools
import math
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F

from fast import philox
from reference.recipe import Recipe, Stream


def radical_inverse(index) -> np.ndarray:
    """Return the base-2 van der Corput value of each index below 2**32: its bits mirrored behind
    the point, float64 in [0, 1).
    """
    bits = np.atleast_1d(np.asarray(index, np.uint32))
    for shift, even in (
        (1, 0x55555555),
        (2, 0x33333333),
        (4, 0x0F0F0F0F),
        (8, 0x00FF00FF),
        (16, 0x0000FFFF),
    ):
        bits = ((bits >> np.uint32(shift)) & np.uint32(even)) | (
            (bits & np.uint32(even)) << np.uint32(shift)
        )
    return bits * 2.0**-32


def rotation(seed: int, step: int) -> float:
    """Return the one uniform that rotates the times of a whole optimizer step, float in [0, 1)."""
    return float(philox.uniforms(philox.words(seed, Stream.TIME, step, [0], 1))[0, 0])


@functools.lru_cache(maxsize=4)
def _grid(count: int) -> np.ndarray:
    place = np.empty(count)
    place[radical_inverse(np.arange(count)).argsort()] = np.arange(count)
    place /= count
    place.flags.writeable = False
    return place


def grid(rows, count: int) -> np.ndarray:
    """Return the points of some of `count` rows on the even grid 0, 1/count, ..., neighbours far
    apart; radical_inverse() where count is a power of two.
    """
    return _grid(count)[rows]


def times(seed: int, step: int, rows, epsilon: float, count: int | None = None) -> np.ndarray:
    """Return t_B in [epsilon, 1), float64 on the host: an even grid over any aligned power-of-two
    slice of rows, or, given their count, over all of them.
    """
    place_B = radical_inverse(rows) if count is None else grid(rows, count)
    return epsilon + (1 - epsilon) * np.modf(rotation(seed, step) + place_B)[0]


def thresholds(times_B) -> np.ndarray:
    """Return ceil(t * 2**24) as int64: the number of 24-bit draws that mask a position."""
    return np.ceil(np.ldexp(np.asarray(times_B), 24)).astype(np.int64)


def mask(
    seed: int, step, rows: torch.Tensor, length: int, thresholds_B: torch.Tensor
) -> torch.Tensor:
    """Return mask_BL on the device of rows; step may be a 0-d tensor, so that one compiled graph
    serves all steps.
    """
    draws_BL = philox.words(seed, Stream.MASK, step, rows, length) >> 8
    return draws_BL < thresholds_B[:, None]


def corrupt(ids_BL: torch.Tensor, mask_BL: torch.Tensor, mask_id: int) -> torch.Tensor:
    """Return ids_BL with the masked positions replaced by mask_id."""
    return ids_BL.masked_fill(mask_BL, mask_id)


def tokens_before(ids_BL: torch.Tensor, previous_B: torch.Tensor) -> torch.Tensor:
    """Return the token before each token (B, L); id 0 stands in where there is none (-1)."""
    return torch.cat([previous_B.clamp(min=0)[:, None], ids_BL[:, :-1]], dim=1)


def log_softmax(logits: torch.Tensor) -> torch.Tensor:
    """Return log p over the last axis in float32, or float64 for float64 logits."""
    return F.log_softmax(logits, dim=-1, dtype=torch.promote_types(logits.dtype, torch.float32))


def cross_entropy(logits_BLV: torch.Tensor, ids_BL: torch.Tensor) -> torch.Tensor:
    """Return -log p(id) at every position in nats, shape (B, L), float32 or better.

    The id is looked up by comparison: compiled, it needs no pass of its own, and its gradient adds
    nothing up.
    """
    chosen_BLV = ids_BL[..., None] == torch.arange(logits_BLV.shape[-1], device=ids_BL.device)
    return -log_softmax(logits_BLV).where(chosen_BLV, 0.0).sum(-1)


def weights(times_B, max_weight: float) -> np.ndarray:
    """Return the loss weight of each row: min(1 / t, max_weight)."""
    return np.minimum(np.reciprocal(np.asarray(times_B, np.float64)), max_weight)


def noise(
    recipe: Recipe, step: int, rows, device="cpu", count: int | None = None
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return (thresholds_B int64, weights_B float64) of a step's global rows: times are drawn on
    the host in float64. count: as in times().
    """
    times_B = times(recipe.seed, step, rows, recipe.diffusion.epsilon, count)
    drawn = thresholds(times_B), weights(times_B, recipe.diffusion.max_weight)
    thresholds_B, weights_B = (torch.from_numpy(values).to(device) for values in drawn)
    return thresholds_B, weights_B


def loss(
    logits_BLV: torch.Tensor, ids_BL: torch.Tensor, mask_BL: torch.Tensor, weights_B: torch.Tensor
) -> torch.Tensor:
    """Return the diffusion loss in nats per token: mean over rows of w_b (1 / L) sum over masked i
    of -log p(x_i | x_t).
    """
    nats_BL = cross_entropy(logits_BLV, ids_BL).where(mask_BL, 0.0)
    return (nats_BL.mean(dim=1) * weights_B.to(nats_BL.dtype)).mean()


def causal_loss(logits_BLV: torch.Tensor, ids_BL: torch.Tensor) -> torch.Tensor:
    """Return the autoregressive loss in nats per token: mean of -log p(x_i | x_<i)."""
    return cross_entropy(logits_BLV, ids_BL).mean()


class _Take(torch.autograd.Function):
    """Rows of x by position. No row is taken twice, so the gradient is a gather too: no sum whose
    order could vary.
    """

    @staticmethod
    def forward(ctx, x_Nd, position_C, slot_N, mask_N):
        ctx.save_for_backward(slot_N, mask_N)
        return x_Nd[position_C]

    @staticmethod
    def backward(ctx, grad_Cd):
        slot_N, mask_N = ctx.saved_tensors
        return (
            grad_Cd[slot_N.clamp(0, len(grad_Cd) - 1)].where(mask_N[:, None], 0.0),
            None,
            None,
            None,
        )


class MaskedPositions(NamedTuple):
    """The masked ones of N = B L positions, in order, in C slots; slots left over hold some
    position and count nothing.
    """

    position_C: torch.Tensor  # position in each slot
    filled_C: torch.Tensor  # whether the slot holds a masked position
    slot_N: torch.Tensor  # slot of each masked position
    mask_N: torch.Tensor

    def take(self, x_Nd: torch.Tensor) -> torch.Tensor:
        """Return (C, d): x at the positions of the slots."""
        return _Take.apply(x_Nd, self.position_C, self.slot_N, self.mask_N)


def capacity(rows: int, length: int) -> int:
    """Return how many slots hold the masked positions of consecutive rows all but surely (1e-12);
    at most all positions.

    Their mean differs from half of all by what the times' grid leaves open: half a row where it is
    even, else log2(rows) / 3 + 1 rows at most (van der Corput's discrepancy). Seven standard
    deviations, sqrt(rows length / 6) each, and up to a multiple of 128.
    """
    uneven = 0.5 if rows & (rows - 1) == 0 else math.log2(rows) / 3 + 1
    needed = (rows / 2 + uneven) * length + 7 * math.sqrt(rows * length / 6)
    return min(rows * length, 128 * math.ceil(needed / 128))


def masked_positions(mask_BL: torch.Tensor, capacity: int) -> MaskedPositions:
    """Return the first masked positions, as many as capacity; sizes depend on no value, so that it
    compiles.
    """
    mask_N = mask_BL.flatten()
    seen_N = mask_N.cumsum(0)
    number_C = torch.arange(1, capacity + 1, device=mask_N.device)
    position_C = torch.searchsorted(seen_N, number_C).clamp(max=len(seen_N) - 1)
    return MaskedPositions(position_C, number_C <= seen_N[-1], seen_N - 1, mask_N)


def masked_loss(
    logits_CV: torch.Tensor, ids_BL: torch.Tensor, masked: MaskedPositions, weights_B: torch.Tensor
) -> torch.Tensor:
    """Return loss() from the logits of the slots alone; NaN where there are more masked positions
    than slots.
    """
    nats_C = cross_entropy(logits_CV, ids_BL.flatten()[masked.position_C]).where(
        masked.filled_C, 0.0
    )
    weights_C = weights_B.to(nats_C.dtype)[masked.position_C // ids_BL.shape[1]]
    return ((nats_C * weights_C).sum() / ids_BL.numel()).where(
        masked.slot_N[-1] < len(nats_C), torch.nan
    )
