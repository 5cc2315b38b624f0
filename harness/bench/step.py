"""Benchmark of the training step: production against the same step written plainly, whole and by component."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import torch

from fast import adam, ema, muon, train
from harness.bench import plain
from harness.bench.measure import machine, paired
from harness.failures import CheckFailed
from reference.recipe import InputError, Recipe, check

CHECKED_TOKENS = 4096  # per pass of the float64 step, whose activations take four times the room
WARM_STEPS = 2  # from the initial weights, where output projections are zero and their neighbours have no gradient


def with_tokens(recipe: Recipe, tokens: int) -> Recipe:
    """Return the recipe with another global batch (0: its own); InputError where that is no whole number of rows."""
    if not tokens:
        return recipe
    length = recipe.model.length
    if tokens < 0 or tokens % length:
        raise InputError(f"--tokens: expected a multiple of the row length {length}, found {tokens}; choose one")
    micro = min(tokens, recipe.training.micro_batch_tokens)
    return check(replace(recipe, training=replace(recipe.training, tokens_per_step=tokens, micro_batch_tokens=micro)))


def windows(recipe: Recipe) -> Callable:
    """Return batch(step, rows) of random ids, the same at every step."""
    rows = recipe.training.tokens_per_step // recipe.model.length
    ids_BS = np.random.default_rng(recipe.seed).integers(0, recipe.model.vocab, (rows, recipe.model.length + 1))
    return lambda step, rows: ids_BS[rows]


def step(recipe: Recipe, pairs: int, device: str, compiled: bool) -> list[dict]:
    """Return the rows of `bench step`; CheckFailed where the two steps do not compute the same."""
    batch = windows(recipe)
    with train.deterministic():
        state, stepper = train.initial_state(recipe, device), train.Stepper(recipe, device, compiled)
        for _ in range(WARM_STEPS):
            stepper(state, batch, 1.0, False)
        plainly = plain.PlainStep(recipe, state, device)
        agree(recipe, state, stepper, plainly, batch, device)
        rows = [
            paired("step: production / plain", lambda: plainly(batch, 1.0, True), lambda: stepper(state, batch, 1.0, True), pairs, device),
            *components(recipe, state, stepper, plainly, batch, pairs, device, compiled),
        ]
    return [{**row, "machine": machine(device)} for row in rows]


def agree(recipe: Recipe, state: train.State, stepper: train.Stepper, plainly: plain.PlainStep, batch: Callable, device: str) -> None:
    """Advance both by one step and hold them together: against float64, production errs at most twice as much as the plain step."""
    passes = replace(recipe.training, micro_batch_tokens=min(recipe.training.micro_batch_tokens, max(CHECKED_TOKENS, recipe.model.length)))
    exactly = plain.PlainStep(replace(recipe, training=passes), state, device, torch.float64)
    stepper(state, batch, 1.0, True)
    plainly(batch, 1.0, True)
    exactly(batch, 1.0, True)
    for group in train.GROUPS:
        wanted, found = getattr(exactly, group), plain.unstacked(getattr(state, group))
        error, limit = (
            sum((each[name].detach().double() - value.detach()).square().sum() for name, value in wanted.items()) ** 0.5
            for each in (found, getattr(plainly, group))
        )
        if not error <= 2 * limit:
            raise CheckFailed(
                f"bench step: nothing is timed while the two sides differ: {group} after one step lie {error:.3g} from float64, "
                f"the plain step's {limit:.3g}, expected at most twice that; see maskgolf parity step"
            )


def components(recipe, state, stepper, plainly, batch, pairs: int, device: str, compiled: bool) -> list[dict]:
    """Return the rows of the step's parts, each side on its own state."""
    compile = (lambda f: torch.compile(f, dynamic=False, fullgraph=True)) if compiled else (lambda f: f)
    optimizer = recipe.optimizer
    loss, grads = stepper.gradients(state.params, batch, state.step)
    separate = {name: grad.clone() for name, grad in plain.unstacked(grads).items()}
    dtype = getattr(torch, optimizer.muon_dtype)
    stacks = [grad.to(dtype) for name, grad in grads.items() if train.is_matrix(name)]
    matrices = [grad.to(dtype) for name, grad in separate.items() if train.is_matrix(name)]
    orthogonalize = compile(lambda stacks: muon.orthogonalize(stacks, optimizer))
    decay = torch.tensor(recipe.ema.decay, dtype=torch.float64, device=device)

    def average_(grads, shadow, params, decay):
        clipped, _ = adam.clip(grads, optimizer.clip)
        for name, weight in params.items():
            grads[name].copy_(clipped[name])
            shadow[name].copy_(ema.ema_update(shadow[name], weight, decay))

    average_ = torch.no_grad()(compile(average_))
    own = {name: grad.clone() for name, grad in grads.items()}
    # The clip reads the gradients twice and writes them once, the average reads two tensors and writes one: together six times their bytes.
    source = torch.ones(3 * sum(grad.numel() for grad in grads.values()), device=device)
    target = torch.empty_like(source)
    return [
        paired("forward and backward: production / plain", lambda: plainly.gradients(batch, 1),
               lambda: stepper.gradients(state.params, batch, 1), pairs, device),
        paired("update: production / plain", lambda: plainly.update(separate, 1.0, True),
               lambda: stepper.update(state, loss, grads, 1.0, True), pairs, device),
        paired("Newton-Schulz: stacked / one matrix at a time", lambda: [plain.newton_schulz(matrix, optimizer) for matrix in matrices],
               lambda: orthogonalize(stacks), pairs, device),
        paired("EMA and clip / a copy of the same bytes", lambda: target.copy_(source),
               lambda: average_(own, state.shadow, state.params, decay), pairs, device),
    ]  # fmt: skip
