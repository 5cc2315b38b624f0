"""Benchmark of the training step: production against the same step written in other ways, whole and
by component.

The baselines are `plain` (eager) and `public` (compiled as public scripts compile it). Production
runs held to sums in a fixed order, as it ships; the baselines do not.
"""

from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial

import numpy as np
import torch

from fast import adam, ema, evaluate, likelihood, masking, train, transformer
from fast.data import windows_of
from harness.bench import public
from harness.bench.components import Production, orthogonalizations
from harness.bench.gate import hold
from harness.bench.measure import on_machine, paired
from harness.parity import plain
from reference.recipe import GOLF, InputError, Recipe, check

CHECKED_TOKENS = 4096  # per pass in float64, whose activations take four times the memory
# Adam's first step is the sign of the gradient, which rounding turns over where it is near 0.
WARM_STEPS = 2
BASELINES = ("plain", "public")
PARTS = ("step", "forward-backward", "update", "newton-schulz", "average", "evaluation")
# Parts of which the update is a part, or that are one of it.
UPDATING = {"step", "update", "newton-schulz", "average"}
TIMES = {"production": 2, "public": 4}  # the baseline adds rows of one id up in no fixed order
Ways = dict[str, plain.PlainStep | public.PublicStep]


def with_tokens(recipe: Recipe, tokens: int) -> Recipe:
    """Return the recipe with another global batch (0: its own); InputError where that is no whole
    number of rows.
    """
    if not tokens:
        return recipe
    length = recipe.model.length
    if tokens < 0 or tokens % length:
        raise InputError(
            f"--tokens: expected a multiple of the row length {length}, found {tokens}; choose one"
        )
    micro = min(tokens, recipe.training.micro_batch_tokens)
    training = replace(recipe.training, tokens_per_step=tokens, micro_batch_tokens=micro)
    return check(replace(recipe, training=training))


def as_public(recipe: Recipe) -> Recipe:
    """Return the recipe with golf's objective and inputs, the ones that public scripts have."""
    plainly = {name: getattr(GOLF.model, name) for name in ("mixing", "shift", "causal_share")}
    training = replace(recipe.training, causal_drift=0.0)
    return replace(recipe, model=replace(recipe.model, **plainly), training=training)


def windows(recipe: Recipe) -> Callable:
    """Return batch(step, rows) of random ids, the same at every step."""
    model = recipe.model
    shape = recipe.training.tokens_per_step // model.length, model.length + 1
    windows = windows_of(np.random.default_rng(recipe.seed).integers(0, model.vocab, shape))
    return lambda step, rows: windows.take(rows)


def step(
    recipe: Recipe,
    pairs: int,
    device: str,
    compiled: bool,
    against: tuple[str, ...] = BASELINES,
    only: tuple[str, ...] = (),
) -> list[dict]:
    """Return the rows of `bench step`; CheckFailed where the sides do not compute the same. only:
    some of PARTS, none means all. Against public scripts the recipe is taken as_public.
    """
    recipe = as_public(recipe) if "public" in against else recipe
    parts = only or PARTS
    updating = bool(UPDATING & set(parts))
    quick = Production(recipe, windows(recipe), device, compiled, rate=1.0)
    for _ in range(WARM_STEPS if updating else 0):
        quick.advance(averaging=False)
    makers = {"plain": plain.PlainStep, "public": partial(public.PublicStep, compiled=compiled)}
    ways = {name: makers[name](recipe, quick.state, device) for name in against}
    scored = list(evaluation(quick, ways, pairs)) if "evaluation" in parts else []
    if updating or "forward-backward" in parts:
        agree(quick, ways, updating)
    rows = [
        row for part, timed in TIMED.items() if part in parts for row in timed(quick, ways, pairs)
    ]
    return on_machine(rows + scored, device)


def agree(quick: Production, ways: Ways, updating: bool) -> None:
    """Hold every side to float64: in every tensor after one step, or in the gradients of a batch
    where no update is timed.
    """
    recipe, at = quick.recipe, quick.state.step
    tokens = min(recipe.training.micro_batch_tokens, max(CHECKED_TOKENS, recipe.model.length))
    passes = replace(recipe, training=replace(recipe.training, micro_batch_tokens=tokens))
    exact = plain.PlainStep(passes, quick.state, quick.device, torch.float64)
    plainly = ways.get("plain") or plain.PlainStep(recipe, quick.state, quick.device)

    def of(way) -> dict[str, dict]:
        if not updating:
            return {"gradients": way.gradients(quick.batch, at)[1]}
        way(quick.batch, 1.0, True)
        return {f"{group} after one step": getattr(way, group) for group in train.GROUPS}

    limits, wanted = of(plainly), of(exact)
    sides = {"public": of(ways["public"])} if "public" in ways else {}
    if updating:
        quick.advance()
        ours = quick.state.tensors().values()
    else:
        ours = [quick.gradients(at)[1]]
    sides = {"production": dict(zip(wanted, map(transformer.unstack, ours), strict=True))} | sides
    for what in wanted:
        for side, found in sides.items():
            hold("step", side, what, found[what], limits[what], wanted[what], TIMES[side])


def whole(quick: Production, ways: Ways, pairs: int) -> Iterator[dict]:
    """Yield the row of the whole step against each baseline."""
    for name, way in ways.items():
        baseline = partial(way, quick.batch, 1.0, True)
        yield paired(f"step: production / {name}", baseline, quick.advance, pairs, quick.device)


def forward_backward(quick: Production, ways: Ways, pairs: int) -> Iterator[dict]:
    """Yield the row of loss and gradients of a batch against each baseline."""
    for name, way in ways.items():
        sides = partial(way.gradients, quick.batch, 1), partial(quick.gradients, 1)
        yield paired(f"forward and backward: production / {name}", *sides, pairs, quick.device)


def update(quick: Production, ways: Ways, pairs: int) -> Iterator[dict]:
    """Yield the row of clip, Muon, Adam and average against each baseline, gradients its own."""
    loss, grads = quick.gradients(1)
    for name, way in ways.items():
        separate = {key: grad.clone() for key, grad in transformer.unstack(grads).items()}
        sides = partial(way.update, separate, 1.0, True), partial(quick.update, loss, grads)
        yield paired(f"update: production / {name}", *sides, pairs, quick.device)


def newton_schulz(quick: Production, ways: Ways, pairs: int) -> Iterator[dict]:
    """Yield the row of the stacked iteration against one matrix at a time, eagerly."""
    if "plain" in ways:
        one_by_one, stacked = orthogonalizations(quick.recipe, quick.gradients(1)[1])
        sides = one_by_one, quick.held(stacked)
        yield paired("Newton-Schulz: stacked / one matrix at a time", *sides, pairs, quick.device)


def average(quick: Production, ways: Ways, pairs: int) -> Iterator[dict]:
    """Yield the row of clip and average against a copy that moves the same bytes."""
    if "plain" not in ways:
        return
    recipe, state, device = quick.recipe, quick.state, quick.device
    decay = torch.tensor(recipe.ema.decay, dtype=torch.float64, device=device)

    def average_(grads, shadow, params, decay):
        clipped, _ = adam.clip(grads, recipe.optimizer.clip)
        for name, weight in params.items():
            grads[name].copy_(clipped[name])
            shadow[name].copy_(ema.ema_update(shadow[name], weight, decay))

    grads = {name: grad.clone() for name, grad in quick.gradients(1)[1].items()}
    # The clip reads the gradients twice and writes them once, the average reads two tensors and
    # writes one: together six times their bytes.
    source = torch.ones(3 * sum(grad.numel() for grad in grads.values()), device=device)
    copy = partial(torch.empty_like(source).copy_, source)
    ours = partial(torch.no_grad()(quick.held(average_)), grads, state.shadow, state.params, decay)
    yield paired("EMA and clip / a copy of the same bytes", copy, ours, pairs, device)


@torch.no_grad()
def evaluation(quick: Production, ways: Ways, pairs: int) -> Iterator[dict]:
    """Yield the row of the losses of a micro-batch, some positions hidden, without gradients, where
    the public step is a baseline; every side has the state's weights.
    """
    if "public" not in ways:
        return
    recipe, device = quick.recipe, quick.device
    model, dtype = recipe.model, getattr(torch, recipe.training.compute_dtype)
    rows = np.arange(recipe.training.micro_batch_tokens // model.length)
    ids_BL = torch.as_tensor(quick.batch(0, rows).ids_NL).to(device)
    thresholds_B, _ = masking.noise(recipe, 0, rows, device)
    rows_B = torch.from_numpy(rows).to(device)
    mask_BL = masking.mask(recipe.seed, 0, rows_B, model.length, thresholds_B)
    params = transformer.unstack(quick.params)
    query = evaluate.predictor(params, recipe, device, quick.compiled)
    few = max(CHECKED_TOKENS // model.length, 1)

    def plainly(weights, dtype):
        hidden_BL = ids_BL[:few].masked_fill(mask_BL[:few], model.vocab)
        logits_BLV = transformer.forward(weights, hidden_BL, model, dtype)
        return {"nats": masking.cross_entropy(logits_BLV, ids_BL[:few]).where(mask_BL[:few], 0.0)}

    ours = partial(likelihood.nll, query, ids_BL, mask_BL, model.vocab)
    theirs = partial(ways["public"].nats, ids_BL, mask_BL)
    limit = plainly(params, dtype)
    exact = plainly({name: value.double() for name, value in params.items()}, torch.float64)
    for side, run in (("production", ours), ("public", theirs)):
        hold("step", side, "token losses", {"nats": run()[:few]}, limit, exact, TIMES[side])
    yield paired("evaluation: production / public", theirs, ours, pairs, device)


TIMED = {
    "step": whole,
    "forward-backward": forward_backward,
    "update": update,
    "newton-schulz": newton_schulz,
    "average": average,
}
