"""bench step and bench muon: the plain side computes the same, a side that does not is refused, rows keep their frozen shape."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch

import fast.muon
import fast.train
import reference.train
from harness import cli
from harness.bench import gate, muon, plain, step
from harness.failures import CheckFailed
from reference.recipe import TINY
from tests.compare import assert_same_algorithm
from tests.test_bench import FIELDS
from tests.test_commands import refused

EXACT = replace(TINY, training=replace(TINY.training, compute_dtype="float64"), optimizer=replace(TINY.optimizer, muon_dtype="float64"))


@pytest.mark.parametrize("averaging", [True, False])
def test_the_plain_step_is_the_reference(averaging):
    """Three float64 steps in two micro-batches, clipped and not, against the reference's."""
    recipe, batch = replace(EXACT, optimizer=replace(EXACT.optimizer, clip=0.3)), step.windows(EXACT)
    state = reference.train.initial_state(recipe)
    plainly = plain.PlainStep(recipe, fast.train.initial_state(recipe, dtype=torch.float64), dtype=torch.float64)
    # Initial weights of the fast half are rounded to float32.
    plainly.params = {name: torch.from_numpy(value.copy()).requires_grad_() for name, value in state.params.items()}
    plainly.shadow = {name: torch.from_numpy(value.copy()) for name, value in state.shadow.items()}
    rows = np.arange(recipe.training.tokens_per_step // recipe.model.length)
    for at in range(3):
        state, loss, _ = reference.train.train_step(state, batch(at, rows), 0.5, averaging, recipe)
        assert_same_algorithm(plainly(batch, 0.5, averaging), np.array(loss))
    for group in fast.train.GROUPS:
        for name, value in getattr(state, group).items():
            assert_same_algorithm(getattr(plainly, group)[name].detach(), value)


@pytest.fixture
def ungated(monkeypatch):
    """The parity gate has tests of its own and takes seconds."""
    asked = []
    monkeypatch.setattr(gate, "require", lambda pieces, *_: asked.append(pieces))
    return asked


def test_step_prints_its_rows(ungated, capsys):
    """After the gate; every ratio lies in its interval."""
    assert cli.main(["bench", "step", "--preset", "tiny", "--tokens", "48", "--pairs", "3", "--no-compiled", "--json", "-"]) == 0
    rows = json.loads(capsys.readouterr().out)
    assert ungated == [gate.BEHIND["step"]] and all(set(row) == FIELDS for row in rows)
    assert [row["name"].split(":")[0] for row in rows] == [
        "step", "forward and backward", "update", "Newton-Schulz", "EMA and clip / a copy of the same bytes",
    ]  # fmt: skip
    assert all(row["low"] <= row["ratio"] <= row["high"] and row["unit"] == "ms" and row["pairs"] == 3 for row in rows)


def test_muon_prints_its_rows(ungated, capsys, monkeypatch):
    """One row for each set of shapes, after the gate."""
    monkeypatch.setattr(muon, "PRESETS", muon.PRESETS | {"demo": TINY, "golf": replace(TINY, model=replace(TINY.model, d=16))})
    assert cli.main(["bench", "muon", "--pairs", "2", "--no-compiled", "--json", "-"]) == 0
    rows = json.loads(capsys.readouterr().out)
    assert ungated == [gate.BEHIND["muon"]] and all(set(row) == FIELDS for row in rows)
    assert [row["name"] for row in rows] == [f"muon, {preset} shapes: ours / torch.optim.Muon" for preset in ("demo", "golf")]


def test_sides_that_differ_are_not_timed(monkeypatch):
    """The momentum left out of one side: both benchmarks refuse."""
    right = fast.muon.muon_steps

    def wrong(weights, grads, buffers, *rest):
        return right(weights, grads, [0 * buffer for buffer in buffers], *rest)

    monkeypatch.setattr(fast.muon, "muon_steps", wrong)
    monkeypatch.setattr(muon, "muon_steps", wrong)
    with pytest.raises(CheckFailed, match="nothing is timed while the two sides differ: params"):
        step.step(TINY, 1, "cpu", compiled=False)
    with pytest.raises(CheckFailed, match="nothing is timed while the two sides differ: tiny"):
        muon.muon(1, "cpu", False, {"tiny": TINY.model})


def test_tokens_that_are_no_rows_are_refused(ungated, capsys):
    assert "expected a multiple of the row length 8, found 20" in refused(capsys, "bench", "step", "--preset", "tiny", "--tokens", "20")
