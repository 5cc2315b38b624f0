"""Benchmark of the training step: production against the same step written in other ways, whole and
by component.

The baselines are `plain` (eager) and `public` (compiled as public scripts compile it). Production
runs held to sums in a fixed order, as it ships; the baselines do not.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import cached_property, partial

import numpy as np
import torch

from fast import adam, ema, evaluate, likelihood, masking, muon, train, transformer
from harness.bench import components, public
from harness.bench.measure import machine, paired
from harness.errors import CheckFailed
from harness.parity import plain
from reference.recipe import InputError, Recipe, check

CHECKED_TOKENS = 4096  # per pass in float64, whose activations take four times the room
WARM_STEPS = (
    2  # Adam's first step is the sign of the gradient, which rounding turns over where it is near 0
)
BASELINES = ("plain", "public")
PARTS = ("step", "forward-backward", "update", "newton-schulz", "average", "evaluation")
UPDATING = {
    "step",
    "update",
    "newton-schulz",
    "average",
}  # parts of which the update is a part, or that are one of it


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
    return check(
        replace(
            recipe,
            training=replace(recipe.training, tokens_per_step=tokens, micro_batch_tokens=micro),
        )
    )


def windows(recipe: Recipe) -> Callable:
    """Return batch(step, rows) of random ids, the same at every step."""
    rows = recipe.training.tokens_per_step // recipe.model.length
    ids_BS = np.random.default_rng(recipe.seed).integers(
        0, recipe.model.vocab, (rows, recipe.model.length + 1)
    )
    return lambda step, rows: ids_BS[rows]


@dataclass
class Sides:
    """Production and the baselines, from one state: output projections are not zero, since zeros
    run faster than weights do.
    """

    recipe: Recipe
    pairs: int
    device: str
    compiled: bool
    against: tuple[str, ...]

    def __post_init__(self):
        """Make production."""
        self.batch = windows(self.recipe)
        self.production = components.Production(self.recipe, self.batch, self.device, self.compiled)
        self.state, self.stepper = self.production.state, self.production.stepper

    @cached_property
    def baselines(self) -> dict[str, plain.PlainStep | public.PublicStep]:
        """Return the baselines asked for, on copies of the state that production has when they are
        first asked for.
        """
        made = {
            "plain": lambda: plain.PlainStep(self.recipe, self.state, self.device),
            "public": lambda: public.PublicStep(
                self.recipe, self.state, self.device, self.compiled
            ),
        }
        return {name: made[name]() for name in self.against}

    def in_order(self, run: Callable) -> Callable:
        """Return a function that runs held to sums in a fixed order, as production compiles and
        runs.
        """

        def held(*arguments):
            with train.deterministic():
                return run(*arguments)

        return held

    def advance(self, averaging: bool = True) -> None:
        """Take one step of production."""
        self.in_order(self.stepper)(self.state, self.batch, 1.0, averaging)

    def gradients(self) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        """Return production's (loss, gradients) of a batch."""
        return self.in_order(self.stepper.gradients)(self.state.params, self.batch, self.state.step)

    def timed(self, name: str, baseline: Callable, candidate: Callable) -> dict:
        """Return the row of a baseline and production timed in turns."""
        return paired(name, baseline, candidate, self.pairs, self.device)

    def of(self, name: str) -> plain.PlainStep | public.PublicStep | None:
        """Return a baseline, None where it was not asked for."""
        return self.baselines.get(name)


def step(
    recipe: Recipe,
    pairs: int,
    device: str,
    compiled: bool,
    against: tuple[str, ...] = BASELINES,
    only: tuple[str, ...] = (),
) -> list[dict]:
    """Return the rows of `bench step`; CheckFailed where the sides do not compute the same. only:
    some of PARTS, none means all.
    """
    parts = only or PARTS
    sides = Sides(recipe, pairs, device, compiled, against)
    updating = UPDATING & set(parts)
    for _ in range(WARM_STEPS if updating else 0):
        sides.advance(averaging=False)
    scored = list(evaluation(sides)) if "evaluation" in parts and "public" in against else []
    if updating:
        agree_on_a_step(sides)
    elif "forward-backward" in parts:
        agree_on_gradients(sides)
    rows = [each for part, rows_of in ROWS.items() if part in parts for each in rows_of(sides)]
    return [{**row, "machine": machine(device)} for row in rows + scored]


def exact_step(sides: Sides) -> plain.PlainStep:
    """Return the plain step in float64, in passes that fit."""
    training, length = sides.recipe.training, sides.recipe.model.length
    passes = replace(
        training, micro_batch_tokens=min(training.micro_batch_tokens, max(CHECKED_TOKENS, length))
    )
    return plain.PlainStep(
        replace(sides.recipe, training=passes), sides.state, sides.device, torch.float64
    )


def yardstick(sides: Sides) -> plain.PlainStep:
    """Return the plain step whose error is the measure of the others': the baseline, where it is
    one.
    """
    return sides.of("plain") or plain.PlainStep(sides.recipe, sides.state, sides.device)


TIMES = {"production": 2, "public": 4}  # the baseline adds rows of one id up in no fixed order


def hold(side: str, what: str, found: dict, plainly: dict, exact: dict) -> None:
    """Raise CheckFailed unless the tensors of a side lie near the float64 ones: at most TIMES as
    far as the plain ones do.
    """
    error, limit = (
        sum(
            (each[name].detach().double() - value.detach()).square().sum()
            for name, value in exact.items()
        )
        ** 0.5
        for each in (found, plainly)
    )
    if not error <= TIMES[side] * limit:
        raise CheckFailed(
            "bench step: nothing is timed while the two sides differ: "
            f"{what} of {side} lie {error:.3g} from float64, the plain step's {limit:.3g}, "
            f"expected at most {TIMES[side]} times that; see maskgolf parity step"
        )


def agree_on_a_step(sides: Sides) -> None:
    """Advance every side by one step and hold them together."""
    exact, plainly, publicly = exact_step(sides), yardstick(sides), sides.of("public")
    for one in (plainly, publicly, exact):
        if one:
            one(sides.batch, 1.0, True)
    sides.advance()
    for group in train.GROUPS:
        found = {"production": plain.unstacked(getattr(sides.state, group))} | (
            {"public": getattr(publicly, group)} if publicly else {}
        )
        for side, tensors in found.items():
            hold(
                side,
                f"{group} after one step",
                tensors,
                getattr(plainly, group),
                getattr(exact, group),
            )


def agree_on_gradients(sides: Sides) -> None:
    """Hold the gradients of a batch together on every side, where the update is not timed."""
    at = sides.state.step
    ways = {"exact": exact_step(sides), "plain": yardstick(sides)} | (
        {"public": sides.of("public")} if sides.of("public") else {}
    )
    found = {name: way.gradients(sides.batch, at) for name, way in ways.items()}
    loss, grads = sides.gradients()
    found["production"] = loss, plain.unstacked(grads)
    exact, plainly = found.pop("exact")[1], found.pop("plain")[1]
    for side, (_, own) in found.items():
        hold(side, "gradients", own, plainly, exact)


def whole(sides: Sides) -> Iterator[dict]:
    """Yield the row of the whole step against each baseline."""
    for name, way in sides.baselines.items():
        yield sides.timed(
            f"step: production / {name}", partial(way, sides.batch, 1.0, True), sides.advance
        )


def forward_backward(sides: Sides) -> Iterator[dict]:
    """Yield the row of loss and gradients of a batch against each baseline."""
    for name, way in sides.baselines.items():
        yield sides.timed(
            f"forward and backward: production / {name}",
            partial(way.gradients, sides.batch, 1),
            sides.gradients,
        )


def update(sides: Sides) -> Iterator[dict]:
    """Yield the row of clip, Muon, Adam and average against each baseline, gradients its own."""
    loss, grads = sides.gradients()
    ours = partial(sides.in_order(sides.stepper.update), sides.state, loss, grads, 1.0, True)
    for name, way in sides.baselines.items():
        separate = {key: grad.clone() for key, grad in plain.unstacked(grads).items()}
        yield sides.timed(
            f"update: production / {name}", partial(way.update, separate, 1.0, True), ours
        )


def newton_schulz(sides: Sides) -> Iterator[dict]:
    """Yield the row of the stacked iteration against one matrix at a time, eagerly."""
    if "plain" not in sides.against:
        return
    optimizer, compile = sides.recipe.optimizer, _compiler(sides.compiled)
    dtype = getattr(torch, optimizer.muon_dtype)
    settings = optimizer.muon_steps, optimizer.muon_coefficients, optimizer.muon_eps
    _, grads = sides.gradients()
    stacks = [grad.to(dtype) for name, grad in grads.items() if train.is_matrix(name)]
    matrices = [matrix for stack in stacks for matrix in stack.unbind(0)]
    orthogonalize = sides.in_order(compile(lambda stacks: muon.orthogonalize(stacks, optimizer)))
    yield sides.timed(
        "Newton-Schulz: stacked / one matrix at a time",
        lambda: [plain.newton_schulz(matrix, *settings) for matrix in matrices],
        partial(orthogonalize, stacks),
    )


def average(sides: Sides) -> Iterator[dict]:
    """Yield the row of clip and average against a copy that moves the same bytes."""
    if "plain" not in sides.against:
        return
    recipe, state, compile = sides.recipe, sides.state, _compiler(sides.compiled)
    decay = torch.tensor(recipe.ema.decay, dtype=torch.float64, device=sides.device)

    def average_(grads, shadow, params, decay):
        clipped, _ = adam.clip(grads, recipe.optimizer.clip)
        for name, weight in params.items():
            grads[name].copy_(clipped[name])
            shadow[name].copy_(ema.ema_update(shadow[name], weight, decay))

    average_ = sides.in_order(torch.no_grad()(compile(average_)))
    _, grads = sides.gradients()
    own = {name: grad.clone() for name, grad in grads.items()}
    # The clip reads the gradients twice and writes them once, the average reads two tensors and
    # writes one: together six times their bytes.
    source = torch.ones(3 * sum(grad.numel() for grad in grads.values()), device=sides.device)
    target = torch.empty_like(source)
    ours = partial(average_, own, state.shadow, state.params, decay)
    yield sides.timed(
        "EMA and clip / a copy of the same bytes", partial(target.copy_, source), ours
    )


@torch.no_grad()
def evaluation(sides: Sides) -> Iterator[dict]:
    """Yield the row of the losses of a micro-batch, some positions hidden, without gradients; every
    side has the state's weights.
    """
    recipe, device, publicly = sides.recipe, sides.device, sides.of("public")
    model, dtype = recipe.model, getattr(torch, recipe.training.compute_dtype)
    rows = np.arange(recipe.training.micro_batch_tokens // model.length)
    ids_BL = torch.as_tensor(sides.batch(0, rows))[:, 1:].to(device)
    thresholds_B, _ = train.noise(recipe, 0, rows, device)
    mask_BL = masking.mask(
        recipe.seed, 0, torch.from_numpy(rows).to(device), model.length, thresholds_B
    )
    params = transformer.unstack(sides.state.params)
    query = evaluate.predictor(params, recipe, device, sides.compiled)
    few = max(CHECKED_TOKENS // model.length, 1)

    def plainly(weights, dtype):
        logits_BLV = transformer.forward(
            weights, ids_BL[:few].masked_fill(mask_BL[:few], model.vocab), model, dtype
        )
        return {"nats": masking.cross_entropy(logits_BLV, ids_BL[:few]).where(mask_BL[:few], 0.0)}

    ours = partial(likelihood.nll, query, ids_BL, mask_BL, model.vocab)
    theirs = partial(publicly.nats, ids_BL, mask_BL)
    exact = plainly({name: value.double() for name, value in params.items()}, torch.float64)
    for side, run in (("production", ours), ("public", theirs)):
        hold(side, "token losses", {"nats": run()[:few]}, plainly(params, dtype), exact)
    yield sides.timed("evaluation: production / public", theirs, ours)


def _compiler(compiled: bool) -> Callable:
    return (
        partial(torch.compile, dynamic=False, fullgraph=True)
        if compiled
        else (lambda function: function)
    )


ROWS = {
    "step": whole,
    "forward-backward": forward_backward,
    "update": update,
    "newton-schulz": newton_schulz,
    "average": average,
}
