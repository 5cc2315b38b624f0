"""To add an objective: a class and a line of objective_of() in each half, and the recipe's field."""

import json
import math

from tests.support.commands import TINY
from tests.support.scratch import Copy

FIELD = "    suffix: bool = False  # a window is masked from a drawn point to its end\n"
CHOICE = "    if model.suffix:\n        return Suffix()\n"
SUFFIX = '''

class Suffix(MaskedDiffusion):
    """The last tokens of a window are hidden, as many as a share t of it."""

    name = "suffix diffusion"
    estimator = "chain"
    estimators = ("chain",)

    def mask(self, step, rows, thresholds_B, recipe):
        length = recipe.model.length
        hidden_B = -(-thresholds_B * length >> 24)
        return {arange} >= length - hidden_B[:, None]
'''
LOSSES = """
from dataclasses import replace
import numpy as np
import torch
import fast.train, reference.train
from fast.data import windows_of
from reference.recipe import TINY

recipe = replace(TINY, model=replace(TINY.model, suffix=True))
rng, rows = np.random.default_rng(0), np.arange(4)
weights = reference.train.initial_state(recipe).params
weights = {name: value + rng.normal(0, 0.3, value.shape) for name, value in weights.items()}
tensors = {name: torch.from_numpy(value) for name, value in weights.items()}
windows = windows_of(rng.integers(0, recipe.model.vocab, (4, recipe.model.length + 1)))
given = tuple(map(torch.from_numpy, windows))
masked = reference.train.batch_loss(weights, windows, 3, rows, TINY)
exact = reference.train.batch_loss(weights, windows, 3, rows, recipe)
found = fast.train.batch_loss(tensors, given, 3, rows, recipe)
objective = fast.objective.objective_of(recipe.model)
mask = objective.mask(3, torch.from_numpy(rows), objective.noise(recipe, 3, rows)[0], recipe)
assert abs(float(found) / exact - 1) < 1e-12 and exact != masked
assert (mask.diff(dim=1) >= 0).all() and mask[:, -1].all() and 4 < mask.sum() < mask.numel()
"""


def test_an_objective_trains_scores_and_agrees_in_both_halves(tmp_path, corpus):
    copy = Copy(tmp_path)
    fields = "causal: bool = False  # autoregressive baseline: causal mask, no mask token"
    copy.insert("reference/recipe.py", fields, FIELD)
    for half, arange in (("reference", "np.arange(length)"), ("fast", "torch.arange(length)")):
        file = f"{half}/objective.py"
        copy.insert(file, '"""Return the objective of a model."""', CHOICE)
        copy.append(file, SUFFIX.format(arange=arange))

    ran = copy.run("-c", LOSSES)
    assert ran.returncode == 0, ran.stderr

    told = (*TINY, "--model.suffix", "true", "--data", corpus, "--out", "run", "--json", "s.json")
    ran = copy.run("-m", "harness", "train", *told)
    assert ran.returncode == 0, ran.stderr
    lines = (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()
    losses = [entry["train_loss"] for entry in map(json.loads, lines) if "train_loss" in entry]
    [score] = json.loads((tmp_path / "s.json").read_text())["scores"]
    assert len(losses) == 20 and all(map(math.isfinite, losses))
    assert (score["estimator"], score["order"]) == ("chain", "left-to-right")
    assert 0 < score["bpb"] < 20
