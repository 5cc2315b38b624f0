"""Parity: algebra + rounding, by the losses it calls. Objectives (twin of reference/objective.py):
what the network sees of a window, its attention, its loss, how a text is scored, what it is called.

The only file of this half that asks which objective a model has.
"""

import functools
import math
from collections.abc import Callable

import numpy as np
import torch

from fast import masking, schedule
from reference.recipe import ESTIMATORS, ORDERS, InputError, Model, Recipe

# (ids_BL, pick=None, causal=None) -> logits_BLV, or (C, V) of the positions picked
Network = Callable[..., torch.Tensor]
Noise = tuple[torch.Tensor, ...]  # what a step draws for each of its rows


class Objective:
    """What objectives have in common. They have no state: a compiled step may hold one."""

    name: str
    title: str  # in a list of techniques
    description: str  # in a sentence or two
    mask_token = True  # hidden tokens show as id V, the last row of the embedding
    is_causal = False  # attention looks back only
    single_rows = False  # a RowPredictor computes its network
    estimator = "nelbo"  # of its score
    estimators = ESTIMATORS  # all that may score it
    orders = ORDERS  # in which it draws and codes tokens

    def noise(self, recipe: Recipe, step: int, rows, device="cpu") -> Noise:
        """Return what a step draws for some global rows, on the host."""
        return ()

    def capacity(self, step: int, rows: torch.Tensor, noise: Noise, recipe: Recipe) -> int | None:
        """Return into how many slots the positions that the loss reads are gathered, None where the
        head sees all.
        """
        return None

    def shown(self, ids_BL: torch.Tensor, model: Model) -> torch.Tensor:
        """Return what the network is given for ids, of which hidden ones are id V."""
        return ids_BL

    def before(self, before_BL: torch.Tensor, model: Model) -> torch.Tensor:
        """Return what the network is given where attention looks back, from the token before each
        one.
        """
        return before_BL

    def attended(self, model: Model) -> float:
        """Return the share of the window that a position attends to in training, on average."""
        return 0.5 if self.is_causal else 1.0

    def exact(self, order: str) -> str:
        """Return the estimator that gives the cost of every token along an order, in fewest
        passes.
        """
        looks_back = order == "left-to-right" and "causal" in self.estimators
        return "causal" if looks_back or self.is_causal else "chain"

    def check_order(self, order: str) -> None:
        """Raise InputError unless it draws and codes tokens in this order."""
        if order not in self.orders:
            raise InputError(
                f"--order {order}: expected {', '.join(self.orders)}, as a {self.name} model has no"
                " other; drop it"
            )


class MaskedDiffusion(Objective):
    """Hidden tokens are predicted from all the others (Sahoo et al. 2024, MDLM)."""

    name = "masked diffusion"
    title = "Masked diffusion (MDLM)"
    description = (
        "A masked-diffusion language model: a bidirectional transformer without time conditioning,"
        " trained by the continuous-time loss with low-discrepancy times (Sahoo et al. 2024)."
    )
    single_rows = True

    def shown(self, ids_BL: torch.Tensor, model: Model) -> torch.Tensor:
        """Return what the network is given for ids, of which hidden ones are id V: the ids, or with
        model.shift the id before each one, V in front of the first.
        """
        if not model.shift:
            return ids_BL
        return torch.cat([torch.full_like(ids_BL[:, :1], model.vocab), ids_BL[:, :-1]], dim=1)

    def noise(self, recipe: Recipe, step: int, rows, device="cpu") -> Noise:
        """Return (thresholds_B, weights_B)."""
        return masking.noise(recipe, step, rows, device)

    def mask(self, step, rows: torch.Tensor, thresholds_B: torch.Tensor, recipe: Recipe):
        """Return mask_BL: the tokens that training hides."""
        return masking.mask(recipe.seed, step, rows, recipe.model.length, thresholds_B)

    def capacity(self, step: int, rows: torch.Tensor, noise: Noise, recipe: Recipe) -> int | None:
        """Return how many slots hold the masked positions of some rows, None (the head sees all)
        where they are more, counted exactly.
        """
        length = recipe.model.length
        slots = masking.capacity(len(rows), length)
        if slots == len(rows) * length:
            return None
        return slots if self.mask(step, rows, noise[0], recipe).sum() <= slots else None

    def view(self, ids_BL, previous_B, step, rows, recipe, noise=None):
        """Return (inputs_BL, asked_BL, weights_B): what the network is given, the tokens that it is
        asked for, the weight of each row. noise: as in loss().
        """
        thresholds_B, weights_B = noise or self.noise(recipe, step, rows, ids_BL.device)
        rows_B = torch.as_tensor(rows, device=ids_BL.device)
        mask_BL = self.mask(step, rows_B, thresholds_B, recipe)
        corrupted_BL = masking.corrupt(ids_BL, mask_BL, recipe.model.vocab)
        return self.shown(corrupted_BL, recipe.model), mask_BL, weights_B

    def loss(
        self, network: Network, ids_BL, previous_B, step, rows, recipe, noise=None, capacity=None
    ) -> torch.Tensor:
        """Return the loss of windows in nats per token; rows are their global row indices.

        noise: noise() of the same rows, passed where step and rows are tensors. capacity: the head
        sees masked positions alone, gathered into so many slots (NaN where they are more).
        """
        inputs_BL, asked_BL, weights_B = self.view(ids_BL, previous_B, step, rows, recipe, noise)
        if capacity is None:
            return masking.loss(network(inputs_BL), ids_BL, asked_BL, weights_B)
        masked = masking.masked_positions(asked_BL, capacity)
        return masking.masked_loss(network(inputs_BL, pick=masked.take), ids_BL, masked, weights_B)


class Autoregression(Objective):
    """Every token is predicted from those before it."""

    name = "causal"
    title = "Autoregressive"
    description = "An autoregressive transformer with a causal mask."
    mask_token = False
    is_causal = True
    estimator = "causal"
    estimators = ("causal",)
    orders = ("left-to-right",)

    def loss(
        self, network: Network, ids_BL, previous_B, step, rows, recipe, noise=None, capacity=None
    ) -> torch.Tensor:
        """Return the loss of windows in nats per token."""
        before_BL = masking.tokens_before(ids_BL, previous_B)
        return masking.causal_loss(network(self.before(before_BL, recipe.model)), ids_BL)


class DualObjective(MaskedDiffusion):
    """Some rows of a batch train as masked diffusion, the others as autoregression: one network,
    two attentions.
    """

    name = "masked diffusion and causal"
    title = "Masked diffusion and autoregression in one network"
    description = (
        "One transformer trained by two objectives: masked diffusion with bidirectional attention"
        " (Sahoo et al. 2024) and, on a share of the rows, the next token with causal attention."
    )
    estimators = (*ESTIMATORS, "causal")

    def attended(self, model: Model) -> float:
        """Return the share of the window that a position attends to in training, on average."""
        return 1 - model.causal_share / 2

    def before(self, before_BL: torch.Tensor, model: Model) -> torch.Tensor:
        """Return what the network is given where attention looks back, from the token before each
        one: with model.shift V stands in front, as for masked windows.
        """
        if not model.shift:
            return before_BL
        return torch.cat([torch.full_like(before_BL[:, :1], model.vocab), before_BL[:, 1:]], dim=1)

    def noise(self, recipe: Recipe, step: int, rows, device="cpu") -> Noise:
        """Return (thresholds_M, weights_M, masked_M, causal_C): of the masked rows, an even grid of
        times over all those of the batch; and which of the rows are masked, and causal. The causal
        ones are spread evenly over the batch.
        """
        rows, share = np.asarray(rows), schedule.causal_share(step, recipe)
        before_B = np.floor(rows * share).astype(np.int64)  # causal rows before each
        causal_B = np.floor((rows + 1) * share) > before_B
        count = recipe.training.tokens_per_step // recipe.model.length
        own_M, masked = (rows - before_B)[~causal_B], count - math.floor(count * share)
        drawn = masking.noise(recipe, step, own_M, device, masked)
        split = (np.flatnonzero(which_B) for which_B in (~causal_B, causal_B))
        return *drawn, *(torch.from_numpy(places).to(device) for places in split)

    def capacity(self, step: int, rows: torch.Tensor, noise: Noise, recipe: Recipe) -> int | None:
        """Return how many slots hold the masked positions of the masked ones of some rows."""
        masked_M = noise[2]
        if not len(masked_M):
            return None
        return MaskedDiffusion.capacity(self, step, rows[masked_M], noise, recipe)

    def loss(
        self, network: Network, ids_BL, previous_B, step, rows, recipe, noise=None, capacity=None
    ) -> torch.Tensor:
        """Return the loss of windows in nats per token; noise, capacity: of the same rows."""
        noise = noise or self.noise(recipe, step, rows, ids_BL.device)
        rows_B, (*drawn, masked_M, causal_C) = torch.as_tensor(rows, device=ids_BL.device), noise
        total = 0.0
        if len(masked_M):
            given = ids_BL[masked_M], previous_B[masked_M], step, rows_B[masked_M], recipe
            looks_around = functools.partial(network, causal=False)
            total = len(masked_M) * MaskedDiffusion.loss(
                self, looks_around, *given, drawn, capacity
            )
        if len(causal_C):
            ids_CL = ids_BL[causal_C]
            before_CL = masking.tokens_before(ids_CL, previous_B[causal_C])
            logits_CLV = network(self.before(before_CL, recipe.model), causal=True)
            total = total + len(causal_C) * masking.causal_loss(logits_CLV, ids_CL)
        return total / len(ids_BL)


def objective_of(model: Model) -> Objective:
    """Return the objective of a model."""
    if model.causal:
        return Autoregression()
    return DualObjective() if model.causal_share else MaskedDiffusion()
