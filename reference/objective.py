"""Objectives: what the network sees of a window, its attention, its loss and how a text is scored.

The only file of this half that asks which objective a model has. To add one: a class here and in
fast/objective.py, and a line in objective_of().
"""

from typing import Any, NamedTuple

import numpy as np

from reference import masking, schedule
from reference.recipe import ESTIMATORS


class View(NamedTuple):
    """Some windows as an objective trains on them."""

    chosen_B: Any  # which of the windows
    inputs_BL: Any  # what the network is given
    asked_BL: Any  # the tokens that it is asked for
    weights_B: Any  # the weight of each window
    looks_back: bool  # attention does


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

    def before(self, before_BL, model):
        """Return what the network is given where attention looks back, from the token before each
        one.
        """
        return before_BL

    def loss(self, network, ids_BL, previous_B, step, rows, recipe):
        """Return the loss of windows in nats per token; rows are their global row indices."""
        total = 0
        for view in self.views(ids_BL, previous_B, step, rows, recipe):
            logits_BLV, ids = network(view.inputs_BL, causal=view.looks_back), ids_BL[view.chosen_B]
            if view.looks_back:
                loss = masking.causal_loss(logits_BLV, ids)
            else:
                loss = masking.loss(logits_BLV, ids, view.asked_BL, view.weights_B)
            total += len(ids) / len(ids_BL) * loss
        return total


class MaskedDiffusion(Objective):
    """Hidden tokens are predicted from all the others (Sahoo et al. 2024, MDLM)."""

    def shown(self, ids_BL, model):
        """Return what the network is given for ids, of which hidden ones are id V: the ids, or with
        model.shift the id before each one, V in front of the first.
        """
        if not model.shift:
            return ids_BL
        return np.concatenate([np.full((len(ids_BL), 1), model.vocab), ids_BL[:, :-1]], axis=1)

    def times(self, step, rows, recipe):
        """Return the times of some global rows."""
        return masking.times(recipe.seed, step, rows, recipe.diffusion.epsilon)

    def mask(self, step, rows, thresholds_B, recipe):
        """Return mask_BL: the tokens that training hides."""
        return masking.mask(recipe.seed, step, rows, recipe.model.length, thresholds_B)

    def masked_view(self, ids_BL, step, rows, recipe, chosen_B):
        """Return the View of masked windows."""
        times_B = self.times(step, rows, recipe)
        mask_BL = self.mask(step, rows, masking.thresholds(times_B), recipe)
        corrupted_BL = masking.corrupt(ids_BL, mask_BL, recipe.model.vocab)
        inputs_BL = self.shown(corrupted_BL, recipe.model)
        weights_B = masking.weights(times_B, recipe.diffusion.max_weight)
        return View(chosen_B, inputs_BL, mask_BL, weights_B, looks_back=False)

    def views(self, ids_BL, previous_B, step, rows, recipe):
        """Return the Views of windows: one, of all of them."""
        return [self.masked_view(ids_BL, step, rows, recipe, np.ones(len(rows), bool))]


def causal_view(inputs_BL, chosen_B):
    """Return the View of windows that are asked for every token."""
    return View(chosen_B, inputs_BL, np.ones(inputs_BL.shape, bool), np.ones(len(inputs_BL)), True)


class Autoregression(Objective):
    """Every token is predicted from those before it."""

    mask_token = False
    is_causal = True
    estimator = "causal"
    estimators = ("causal",)

    def views(self, ids_BL, previous_B, step, rows, recipe):
        """Return the Views of windows: one, of all of them."""
        before_BL = masking.tokens_before(ids_BL, previous_B)
        return [causal_view(self.before(before_BL, recipe.model), np.ones(len(rows), bool))]


class DualObjective(MaskedDiffusion):
    """Some rows of a batch train as masked diffusion, the others as autoregression: one network,
    two attentions.
    """

    estimators = (*ESTIMATORS, "causal")

    def before(self, before_BL, model):
        """Return what the network is given where attention looks back, from the token before each
        one: with model.shift V stands in front, as for masked windows.
        """
        if not model.shift:
            return before_BL
        front_B1 = np.full((len(before_BL), 1), model.vocab)
        return np.concatenate([front_B1, before_BL[:, 1:]], axis=1)

    def causal_rows(self, step, rows, recipe):
        """Return which global rows of a step train causally: spread evenly over the batch."""
        rows, share = np.asarray(rows), schedule.causal_share(step, recipe)
        return np.floor((rows + 1) * share) > np.floor(rows * share)

    def times(self, step, rows, recipe):
        """Return the times of some masked rows: an even grid over all masked rows of the batch."""
        share, count = schedule.causal_share(step, recipe), global_rows(recipe)
        own = np.asarray(rows) - np.floor(np.asarray(rows) * share).astype(int)
        masked = count - int(np.floor(count * share))
        return masking.times(recipe.seed, step, own, recipe.diffusion.epsilon, masked)

    def views(self, ids_BL, previous_B, step, rows, recipe):
        """Return the Views of windows: of the masked ones, of the causal ones, where there are."""
        causal_B = self.causal_rows(step, rows, recipe)
        masked_B, rows = ~causal_B, np.asarray(rows)
        before_BL = masking.tokens_before(ids_BL, previous_B)[causal_B]
        views = (
            self.masked_view(ids_BL[masked_B], step, rows[masked_B], recipe, masked_B),
            causal_view(self.before(before_BL, recipe.model), causal_B),
        )
        return [view for view in views if view.chosen_B.any()]


def global_rows(recipe):
    """Return how many windows a step trains on."""
    return recipe.training.tokens_per_step // recipe.model.length


def objective_of(model):
    """Return the objective of a model."""
    if model.causal:
        return Autoregression()
    return DualObjective() if model.causal_share else MaskedDiffusion()
