"""Objectives: what the network sees of a window, its attention, its loss and how a text is scored.

The only file of this half that asks which objective a model has. To add one: a class here and in
fast/objective.py, and a line in objective_of().
"""

import numpy as np

from reference import masking
from reference.recipe import ESTIMATORS


class Objective:
    """What objectives have in common. A network is a function (ids_BL, causal=None) ->
    logits_BLV.
    """

    mask_token = True  # hidden tokens show as id V, the last row of the embedding
    is_causal = False  # attention looks back only
    estimator = "nelbo"  # of its score
    estimators = ESTIMATORS  # all that may score it

    def shown(self, ids_BL, model):
        """Return what the network is given for ids, of which hidden ones are id V."""
        return ids_BL


class MaskedDiffusion(Objective):
    """Hidden tokens are predicted from all the others (Sahoo et al. 2024, MDLM)."""

    def mask(self, step, rows, thresholds_B, recipe):
        """Return mask_BL: the tokens that training hides."""
        return masking.mask(recipe.seed, step, rows, recipe.model.length, thresholds_B)

    def view(self, ids_BL, previous_B, step, rows, recipe):
        """Return (inputs_BL, asked_BL, weights_B): what the network is given, the tokens that it is
        asked for, the weight of each row.
        """
        times_B = masking.times(recipe.seed, step, rows, recipe.diffusion.epsilon)
        mask_BL = self.mask(step, rows, masking.thresholds(times_B), recipe)
        corrupted_BL = masking.corrupt(ids_BL, mask_BL, recipe.model.vocab)
        weights_B = masking.weights(times_B, recipe.diffusion.max_weight)
        return self.shown(corrupted_BL, recipe.model), mask_BL, weights_B

    def loss(self, network, ids_BL, previous_B, step, rows, recipe):
        """Return the loss of windows in nats per token; rows are their global row indices."""
        inputs_BL, asked_BL, weights_B = self.view(ids_BL, previous_B, step, rows, recipe)
        return masking.loss(network(inputs_BL), ids_BL, asked_BL, weights_B)


class Autoregression(Objective):
    """Every token is predicted from those before it."""

    mask_token = False
    is_causal = True
    estimator = "causal"
    estimators = ("causal",)

    def view(self, ids_BL, previous_B, step, rows, recipe):
        """Return (inputs_BL, asked_BL, weights_B): the tokens before, all of them, 1."""
        before_BL = masking.tokens_before(ids_BL, previous_B)
        inputs_BL = self.shown(before_BL, recipe.model)
        return inputs_BL, np.ones(ids_BL.shape, bool), np.ones(len(ids_BL))

    def loss(self, network, ids_BL, previous_B, step, rows, recipe):
        """Return the loss of windows in nats per token."""
        inputs_BL, _, _ = self.view(ids_BL, previous_B, step, rows, recipe)
        return masking.causal_loss(network(inputs_BL), ids_BL)


def objective_of(model):
    """Return the objective of a model."""
    return Autoregression() if model.causal else MaskedDiffusion()
