"""Parity: algebra + rounding, by the losses it calls. Objectives (twin of reference/objective.py):
what the network sees of a window, its attention, its loss, how a text is scored, what it is called.

The only file of this half that asks which objective a model has.
"""

from collections.abc import Callable

import torch

from fast import masking
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
    attended = 1.0  # share of the window that a position attends to, on average
    single_rows = False  # a RowPredictor computes its network
    estimator = "nelbo"  # of its score
    estimators = ESTIMATORS  # all that may score it
    exact = "chain"  # the one of them that gives the cost of every token
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
    attended = 0.5
    estimator = "causal"
    estimators = ("causal",)
    exact = "causal"
    orders = ("left-to-right",)

    def loss(
        self, network: Network, ids_BL, previous_B, step, rows, recipe, noise=None, capacity=None
    ) -> torch.Tensor:
        """Return the loss of windows in nats per token."""
        before_BL = masking.tokens_before(ids_BL, previous_B)
        return masking.causal_loss(network(self.shown(before_BL, recipe.model)), ids_BL)


def objective_of(model: Model) -> Objective:
    """Return the objective of a model."""
    return Autoregression() if model.causal else MaskedDiffusion()
