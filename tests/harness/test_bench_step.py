"""bench step and bench muon: the baselines compute the same, a side that does not is refused, rows
keep their frozen shape.
"""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch

import fast.muon
import fast.train
import fast.transformer
import reference.masking
import reference.train
import reference.transformer
from harness import cli
from harness.bench import gate, muon, public, step
from harness.errors import CheckFailed
from harness.parity import plain
from reference.recipe import TINY
from tests.harness.test_bench import FIELDS
from tests.support.commands import refused
from tests.support.compare import assert_same_algorithm

EXACT = replace(
    TINY,
    training=replace(TINY.training, compute_dtype="float64"),
    optimizer=replace(TINY.optimizer, muon_dtype="float64"),
)


def plainly(recipe, state):
    """Return the plain step in float64 from a state of the reference."""
    way = plain.PlainStep(
        recipe, fast.train.initial_state(recipe, dtype=torch.float64), dtype=torch.float64
    )
    return started(way, state)


def yardstick(recipe, state):
    """Return what parity measures rounding by: the plain step with its sums in another order."""
    return plain.PlainStep(recipe, state, dtype=torch.float64, other_order=True)


def publicly(recipe, state):
    """Return the public step in float64, nothing compiled, from a state of the reference."""
    quick = fast.train.initial_state(recipe, dtype=torch.float64)
    return started(public.PublicStep(recipe, quick, compiled=False, dtype=torch.float64), state)


def started(way, state):
    """Return a baseline with the weights of the reference: the fast half rounds initial weights to
    float32.
    """
    for name, value in state.params.items():
        way.params[name].data.copy_(torch.from_numpy(value.copy()))
        way.shadow[name].copy_(torch.from_numpy(value.copy()))
    return way


@pytest.mark.parametrize("baseline", [plainly, yardstick, publicly])
@pytest.mark.parametrize(("clip", "averaging"), [(0.3, True), (0.3, False), (100.0, True)])
def test_the_baselines_are_the_reference(baseline, clip, averaging):
    """Three float64 steps in two micro-batches, clipped and not, against the reference's."""
    recipe, batch = (
        replace(EXACT, optimizer=replace(EXACT.optimizer, clip=clip)),
        step.windows(EXACT),
    )
    state = reference.train.initial_state(recipe)
    way = baseline(recipe, state)
    rows = np.arange(recipe.training.tokens_per_step // recipe.model.length)
    norms = []
    for at in range(3):
        state, loss, norm = reference.train.train_step(
            state, batch(at, rows), 0.5, averaging, recipe
        )
        assert_same_algorithm(way(batch, 0.5, averaging), np.array(loss))
        norms.append(norm > clip)
    assert any(norms) == (clip < 1)
    for group in fast.train.GROUPS:
        for name, value in getattr(state, group).items():
            assert_same_algorithm(getattr(way, group)[name].detach(), value)


def test_the_public_losses_are_the_reference():
    """Of every token given those that are not hidden, float64; output projections are not zero."""
    model = EXACT.model
    named = {name: value.double() for name, value in fast.transformer.initialize(model, 0).items()}
    generator = torch.Generator().manual_seed(0)
    named = {
        name: value + 0.1 * torch.randn(value.shape, generator=generator)
        for name, value in named.items()
    }
    ids_BL = torch.randint(0, model.vocab, (3, model.length), generator=generator)
    mask_BL = torch.rand(ids_BL.shape, generator=generator) < 0.5
    network = public.Network(EXACT, named, torch.float64)
    weights = {name: value.numpy() for name, value in named.items()}
    logits_BLV = reference.transformer.forward(
        weights, ids_BL.masked_fill(mask_BL, model.vocab).numpy(), model
    )
    wanted = np.where(mask_BL, reference.masking.cross_entropy(logits_BLV, ids_BL.numpy()), 0.0)
    assert_same_algorithm(network.nats(ids_BL, mask_BL).detach(), wanted)


@pytest.mark.slow
def test_the_public_step_compiles_whole():
    """Model with loss is one graph without breaks, orthogonalisation one per shape; compiled, it
    computes what it does eagerly.
    """
    state, batch = fast.train.initial_state(TINY), step.windows(TINY)
    ways = [public.PublicStep(TINY, state, compiled=compiled) for compiled in (True, False)]
    losses = [[float(way(batch, 1.0, True)) for _ in range(2)] for way in ways]
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)


@pytest.fixture
def ungated(monkeypatch):
    """The parity gate has tests of its own and takes seconds."""
    asked = []
    monkeypatch.setattr(gate, "require", lambda pieces, *_: asked.append(pieces))
    return asked


ROWS = [
    "step: production / plain",
    "step: production / public",
    "forward and backward: production / plain",
    "forward and backward: production / public",
    "update: production / plain",
    "update: production / public",
    "Newton-Schulz: stacked / one matrix at a time",
    "EMA and clip / a copy of the same bytes",
    "evaluation: production / public",
]
TOY = ("--preset", "tiny", "--tokens", "256", "--pairs", "3", "--no-compiled", "--json", "-")


def test_step_prints_its_rows(ungated, capsys):
    """After the gate; every ratio lies in its interval."""
    assert cli.main(["bench", "step", *TOY]) == 0
    rows = json.loads(capsys.readouterr().out)
    assert ungated == [gate.BEHIND["step"]] and all(set(row) == FIELDS for row in rows)
    assert [row["name"] for row in rows] == ROWS
    assert all(
        row["low"] <= row["ratio"] <= row["high"] and row["unit"] == "ms" and row["pairs"] == 3
        for row in rows
    )


@pytest.mark.parametrize(
    ("options", "wanted"),
    [
        (("--against", "public"), [name for name in ROWS if name.endswith("public")]),
        (("--against", "plain"), [name for name in ROWS if not name.endswith("public")]),
        (("--only", "forward-backward", "evaluation", "--against", "public"), [ROWS[3], ROWS[8]]),
        (("--only", "update"), ROWS[4:6]),
    ],
)
def test_options_choose_the_rows(ungated, capsys, options, wanted):
    assert cli.main(["bench", "step", *TOY, *options]) == 0
    assert [row["name"] for row in json.loads(capsys.readouterr().out)] == wanted


def test_without_the_update_no_step_is_taken(monkeypatch):
    """Muon at the shapes of golf takes a CPU far longer than loss and gradients of a row do."""
    monkeypatch.setattr(fast.train.Stepper, "update", lambda *arguments: pytest.fail("updated"))
    monkeypatch.setattr(public.PublicStep, "update", lambda *arguments: pytest.fail("updated"))
    monkeypatch.setattr(plain.PlainStep, "update", lambda *arguments: pytest.fail("updated"))
    rows = step.step(TINY, 1, "cpu", False, only=("forward-backward", "evaluation"))
    assert [row["name"] for row in rows] == [*ROWS[2:4], ROWS[8]]


@pytest.mark.parametrize("against", ["plain", "public"])
def test_a_model_of_two_objectives_is_timed(against):
    """Against public scripts by golf's objective and inputs, which they have: step() fails where
    the sides do not compute the same.
    """
    given = {"mixing": 1, "shift": True, "causal_share": 0.5}
    both = replace(TINY, model=replace(TINY.model, **given))
    [row] = step.step(both, 1, "cpu", False, (against,), ("forward-backward",))
    assert row["ratio"] > 0
    assert step.as_public(both) == TINY


def test_baselines_run_as_public_scripts_do(monkeypatch):
    """Production is held to sums in a fixed order wherever it is timed, the baselines nowhere."""
    seen = set()

    def noted(side, right):
        def run(*arguments):
            seen.add((side, torch.are_deterministic_algorithms_enabled()))
            return right(*arguments)

        return run

    for owner in (fast.train.Stepper, plain.PlainStep, public.PublicStep):
        for name in ("gradients", "update"):
            monkeypatch.setattr(owner, name, noted(owner.__name__, getattr(owner, name)))
    step.step(TINY, 1, "cpu", False)
    assert seen == {("Stepper", True), ("PlainStep", False), ("PublicStep", False)}


def test_muon_prints_its_rows(ungated, capsys, monkeypatch):
    """One row for each set of shapes, after the gate."""
    monkeypatch.setattr(
        muon,
        "PRESETS",
        muon.PRESETS | {"demo": TINY, "golf": replace(TINY, model=replace(TINY.model, d=16))},
    )
    assert cli.main(["bench", "muon", "--pairs", "2", "--no-compiled", "--json", "-"]) == 0
    rows = json.loads(capsys.readouterr().out)
    assert ungated == [gate.BEHIND["muon"]] and all(set(row) == FIELDS for row in rows)
    assert [row["name"] for row in rows] == [
        f"muon, {preset} shapes: ours / torch.optim.Muon" for preset in ("demo", "golf")
    ]


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


def test_a_muon_of_torch_that_differs_is_not_timed(monkeypatch):
    """The peer is held to a plain step too: one that leaves the weights alone is refused."""
    monkeypatch.setattr(torch.optim.Muon, "step", lambda self: None)
    with pytest.raises(CheckFailed, match="two sides differ: tiny weights of torch lie"):
        muon.muon(1, "cpu", False, {"tiny": TINY.model})


def test_a_public_step_that_differs_is_not_timed(monkeypatch):
    """Another rotation of the heads: refused whether a step, gradients or losses are compared."""
    monkeypatch.setattr(public, "rotated", lambda x, cos, sin: x)
    for part, what in (
        ("update", "after one step"),
        ("forward-backward", "gradients"),
        ("evaluation", "token losses"),
    ):
        with pytest.raises(CheckFailed, match=f"while the two sides differ: .*{what} of public"):
            step.step(TINY, 1, "cpu", False, ("public",), (part,))


def test_production_that_differs_is_not_timed(monkeypatch):
    """A loss of one per cent too much changes the gradients, a skipped token loss the
    evaluation.
    """
    right, losses = fast.train.Stepper.gradients, step.likelihood.nll

    def wrong(*arguments):
        loss, grads = right(*arguments)
        return loss, {name: 1.01 * grad for name, grad in grads.items()}

    monkeypatch.setattr(fast.train.Stepper, "gradients", wrong)
    with pytest.raises(CheckFailed, match="gradients of production"):
        step.step(TINY, 1, "cpu", False, ("public",), ("forward-backward",))
    monkeypatch.setattr(step.likelihood, "nll", lambda *arguments: 1.01 * losses(*arguments))
    with pytest.raises(CheckFailed, match="token losses of production"):
        step.step(TINY, 1, "cpu", False, ("public",), ("evaluation",))


def test_tokens_that_are_no_rows_are_refused(ungated, capsys):
    assert "expected a multiple of the row length 8, found 20" in refused(
        capsys, "bench", "step", "--preset", "tiny", "--tokens", "20"
    )
