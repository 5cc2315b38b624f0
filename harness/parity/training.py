"""Pieces step (one production step, micro-batches and all) and trajectory (a whole run of 50
steps).
"""

from dataclasses import replace
from itertools import chain

import numpy as np
import torch

import fast.train
import reference.schedule
import reference.train
from fast.data import windows_of
from harness.parity import plain
from harness.parity.compare import (
    ALGORITHM,
    Compare,
    Difference,
    Setting,
    array,
    joined,
    relative,
    representable,
    rms,
    same,
    same_tensors,
    twice,
    unit_roundoff,
)
from harness.parity.network import SMALL, random_params
from harness.parity.suite import Piece, table
from reference.recipe import TINY, Model, Recipe, check

ROWS = 4
RUNS = 6  # plain runs, whose largest error is the yardstick of a trajectory


def recipe_of(seed: int, model: Model, dtype: torch.dtype = torch.float64, **training) -> Recipe:
    """Return TINY with another model, ROWS rows in two micro-batches, and the compute dtype of a
    setting.
    """
    name = str(dtype).removeprefix("torch.")
    tokens = {
        "tokens_per_step": ROWS * model.length,
        "micro_batch_tokens": ROWS * model.length // 2,
    }
    optimizer = replace(TINY.optimizer, muon_dtype=name)
    training = replace(TINY.training, compute_dtype=name, **tokens, **training)
    return check(replace(TINY, seed=seed, model=model, optimizer=optimizer, training=training))


def fast_state(state: reference.train.State, setting: Setting) -> fast.train.State:
    """Return a reference state as the fast half carries it."""
    groups = {
        group: fast.transformer.stack(setting.tensors(getattr(state, group)))
        for group in fast.train.GROUPS
    }
    for value in groups["params"].values():
        value.requires_grad_()
    return fast.train.State(**groups, step=state.step)


def plain_step(recipe: Recipe, state, device: str) -> plain.PlainStep:
    """Return the plain step from a state, a batch in one pass, its sums in another order."""
    whole = replace(recipe.training, micro_batch_tokens=recipe.training.tokens_per_step)
    return plain.PlainStep(replace(recipe, training=whole), state, device, other_order=True)


def state_within(model: Model, seed: int, at: int, rng) -> reference.train.State:
    """Return a random state of the reference, as from the middle of a run."""
    params, groups = random_params(model, seed), {}
    for group in fast.train.GROUPS[1:]:
        groups[group] = {
            name: representable(0.1 * rng.standard_normal(value.shape))
            for name, value in params.items()
        }
    groups["second"] = {name: representable(value**2) for name, value in groups["second"].items()}
    for group in ("buffers", "first", "second"):
        groups[group] = {
            name: value
            for name, value in groups[group].items()
            if reference.train.is_matrix(name) == (group == "buffers")
        }
    return reference.train.State(params, **groups, step=at)


def moved(params: dict, before: dict) -> np.ndarray:
    """Return by how much weights have moved, as one vector."""
    return joined({name: array(params[name]) - before[name] for name in before})


def step(seed: int, model: Model, at: int, multiplier: float, averaging: bool) -> Compare:
    """One step from the middle of a run: every weight, buffer, moment and the shadow after it, by
    the plain and the production step.
    """
    recipe, rng = recipe_of(seed, model), np.random.default_rng(seed)
    before = state_within(model, seed, at, rng)
    windows = windows_of(rng.integers(0, model.vocab, (ROWS, model.length + 1)))
    given = multiplier, averaging
    after, *report = reference.train.train_step(before, windows, *given, recipe)

    def batch(step, rows):
        return windows.take(rows)

    def differences(state: fast.train.State, fast_report, setting: Setting) -> list[Difference]:
        groups = state.tensors()
        if setting.algorithm:
            return [
                relative(fast_report, np.array(report)),
                same(np.array(state.step), np.array(after.step)),
                *chain.from_iterable(
                    same_tensors(fast.transformer.unstack(members), getattr(after, group))
                    for group, members in groups.items()
                ),
            ]
        tensors = chain.from_iterable(members.values() for members in groups.values())
        if any(value.dtype != setting.master for value in tensors):
            return [Difference(float("inf"), 0.0)]

        def plainly() -> np.ndarray:
            way = plain_step(recipe_of(seed, model, setting.dtype), before, setting.device)
            way(batch, *given)
            return moved(way.params, before.params)

        changes = torch.from_numpy(moved(fast.transformer.unstack(state.params), before.params))
        exact = moved(after.params, before.params)
        return twice(setting, changes, exact, plainly, torch.float64)

    def compare(setting: Setting) -> list[Difference]:
        own, state = recipe_of(seed, model, setting.dtype), fast_state(before, setting)
        stepper = fast.train.Stepper(own, setting.device, setting.compiled)
        production = differences(state, stepper(state, batch, *given)[:2], setting)
        if not setting.algorithm:
            return production
        state, tensors = fast_state(before, setting), tuple(map(setting.tensor, windows))
        state, *fast_report = fast.train.train_step(state, tensors, *given, own)
        return production + differences(state, torch.stack(fast_report), setting)

    return compare


def trajectory(
    seed: int, model: Model, iterations: int, warmdown: int, causal_drift: float
) -> Compare:
    """A whole run from the initial weights: the loss of every step, the final weights and the final
    shadow.
    """
    schedule = {"iterations": iterations, "warmdown": warmdown, "causal_drift": causal_drift}
    recipe = recipe_of(seed, model, **schedule)
    ids = np.random.default_rng(seed).integers(0, model.vocab, (iterations, ROWS, model.length + 1))
    ids[:, :, 2::2] = ids[:, :, 1:-1:2]  # something to learn: tokens come in pairs

    def batch(step, rows):
        return windows_of(ids[step][np.asarray(rows)])

    start = reference.train.initial_state(recipe)
    final, losses = reference.train.train(batch, recipe)
    exact = np.array(losses), joined(final.params), joined(final.shadow)

    def compare(setting: Setting) -> list[Difference]:
        own = recipe_of(seed, model, setting.dtype, **schedule)
        # The fast half rounds its initial weights to float32: for the algorithm both start from the
        # reference's.
        begun = (
            fast_state(start, setting)
            if setting.algorithm
            else fast.train.initial_state(own, setting.device)
        )
        state, fast_losses = fast.train.train(batch, own, begun)
        params, shadow = (
            fast.transformer.unstack(state.params),
            fast.transformer.unstack(state.shadow),
        )
        if setting.algorithm:
            weights = same_tensors(params, final.params) + same_tensors(shadow, final.shadow)
            return [relative(np.array(fast_losses), exact[0]), *weights]
        results = np.array(fast_losses), joined(params), joined(shadow)
        runs = [plain_run(own, batch, number, setting) for number in range(RUNS)]

        def error(run: tuple, i: int) -> float:
            return rms(run[i] - exact[i]) / rms(exact[i])

        limits = [2 * max(error(run, i) for run in runs) for i in range(3)]
        return [Difference(error(results, i), limits[i]) for i in range(3)]

    return compare


def plain_run(
    recipe: Recipe, batch, number: int, setting: Setting
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return (losses, weights, shadow) of the run in plain code, from initial weights that are
    nudged by one unit roundoff of the dtype.
    """
    start, rng = reference.train.initial_state(recipe), np.random.default_rng(number)
    u, losses, multiplier, averaging = unit_roundoff(setting.dtype), [], 1.0, False
    nudged = {
        name: value * (1 + u * rng.choice([-1, 1], value.shape))
        for name, value in start.params.items()
    }
    way = plain_step(recipe, start._replace(params=nudged, shadow=nudged), setting.device)
    for at in range(recipe.training.iterations):
        remaining = reference.schedule.remaining_steps(at, 0.0, 0.0, recipe.training)
        multiplier = reference.schedule.lr_multiplier(remaining, multiplier, recipe.training)
        losses.append(float(way(batch, multiplier, averaging)))
        averaging = averaging or reference.train.ema.ema_starts(
            way.count, remaining - 1, recipe.ema.start
        )
    return np.array(losses), joined(way.params), joined(way.shadow)


PIECES = [
    Piece(
        "step",
        step,
        table(
            "seed model at multiplier averaging",
            (0, replace(SMALL, layers=1), 0, 1.0, False),
            (1, replace(SMALL, d=8, causal=True), 600, 0.25, True),
            (2, replace(SMALL, d=8, mlp=2), 7, 1.0, True),
            (3, replace(SMALL, d=8, mixing=2, shift=True, causal_share=0.5), 7, 1.0, True),
        ),
        "2 x the rms error of a plain step in the same dtype, its sums in another order",
        compiles=1,
    ),
    Piece(
        "trajectory",
        trajectory,
        table(
            "seed model iterations warmdown causal_drift",
            (0, SMALL, 50, 20, 0.0),
            (1, replace(SMALL, mixing=2, shift=True, causal_share=0.5), 12, 6, 0.5),
        ),
        f"2 x the largest rms error of {RUNS} plain runs in the same dtype; float64: {ALGORITHM}",
    ),
]
