"""Pieces step (one production step, micro-batches and all) and trajectory (a whole run of 50
steps).
"""

from dataclasses import replace

import numpy as np
import torch

import fast.train
import fast.transformer
import reference.schedule
import reference.train
from harness.parity import plain
from harness.parity.compare import (
    ALGORITHM,
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
from harness.parity.suite import Compare, Piece
from reference.recipe import TINY, Model, Recipe, check

GROUPS = ("params", "buffers", "first", "second", "shadow")
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


def fast_state(state: reference.train.State, model: Model, setting: Setting) -> fast.train.State:
    """Return a reference state as the fast half carries it."""
    groups = {}
    for group in GROUPS:
        named = setting.tensors(getattr(state, group))
        missing = {
            name: value
            for name, value in setting.tensors(state.params).items()
            if name not in named
        }
        stacked = fast.transformer.stack(named | missing, model)
        groups[group] = {
            name: value
            for name, value in stacked.items()
            if name in named or f"blocks.0.{name}" in named
        }
    groups["params"] = {name: value.requires_grad_() for name, value in groups["params"].items()}
    return fast.train.State(**groups, step=state.step)


def plain_step(recipe: Recipe, state, device: str) -> plain.PlainStep:
    """Return the plain step from a state, a batch in one pass, its sums in another order."""
    whole = replace(recipe.training, micro_batch_tokens=recipe.training.tokens_per_step)
    return plain.PlainStep(replace(recipe, training=whole), state, device, other_order=True)


def step(seed: int, model: Model, at: int, multiplier: float, averaging: bool) -> Compare:
    """One step from the middle of a run: every weight, buffer, moment and the shadow after it, by
    the plain and the production step.
    """
    recipe, rng = recipe_of(seed, model), np.random.default_rng(seed)
    params, moments = random_params(model, seed), {}
    for group in ("buffers", "first", "second", "shadow"):
        moments[group] = {
            name: representable(0.1 * rng.standard_normal(value.shape))
            for name, value in params.items()
        }
    moments["second"] = {name: representable(value**2) for name, value in moments["second"].items()}
    for group in ("buffers", "first", "second"):
        own = (group == "buffers", moments[group].items())
        moments[group] = {
            name: value for name, value in own[1] if reference.train.is_matrix(name) == own[0]
        }
    before = reference.train.State(params, **moments, step=at)
    ids_BS = rng.integers(0, model.vocab, (ROWS, model.length + 1))
    after, loss, norm = reference.train.train_step(before, ids_BS, multiplier, averaging, recipe)
    moved = joined({name: value - params[name] for name, value in after.params.items()})

    def plain_numbers(setting: Setting) -> np.ndarray:
        way = plain_step(recipe_of(seed, model, setting.dtype), before, setting.device)
        way(lambda step, rows: ids_BS[rows], multiplier, averaging)
        return joined({name: array(value) - params[name] for name, value in way.params.items()})

    def differences(state: fast.train.State, report, setting: Setting) -> list[Difference]:
        if setting.algorithm:
            groups = [
                same_tensors(plain.unstacked(getattr(state, group)), getattr(after, group))
                for group in GROUPS
            ]
            return [
                relative(array(report), np.array([loss, norm])),
                same(np.array(state.step), np.array(after.step)),
                *sum(groups, []),
            ]
        found = plain.unstacked(state.params)
        if any(
            value.dtype != setting.master
            for group in GROUPS
            for value in getattr(state, group).values()
        ):
            return [Difference(float("inf"), 0.0)]
        whole = torch.from_numpy(
            joined({name: array(value) - params[name] for name, value in found.items()})
        )
        return twice(setting, whole, moved, lambda: plain_numbers(setting), torch.float64)

    def compare(setting: Setting) -> list[Difference]:
        own = recipe_of(seed, model, setting.dtype)
        state = fast_state(before, model, setting)
        stepper = fast.train.Stepper(own, setting.device, setting.compiled)
        report = stepper(state, lambda step, rows: ids_BS[rows], multiplier, averaging)
        out = differences(state, report[:2], setting)
        if setting.algorithm:
            plainly, *report = fast.train.train_step(
                fast_state(before, model, setting),
                setting.tensor(ids_BS),
                multiplier,
                averaging,
                own,
            )
            out += differences(plainly, torch.stack(report), setting)
        return out

    return compare


def trajectory(seed: int, model: Model, iterations: int, warmdown: int) -> Compare:
    """A whole run from the initial weights: the loss of every step, the final weights and the final
    shadow.
    """
    schedule = {"iterations": iterations, "warmdown": warmdown}
    recipe = recipe_of(seed, model, **schedule)
    ids = np.random.default_rng(seed).integers(0, model.vocab, (iterations, ROWS, model.length + 1))
    ids[:, :, 2::2] = ids[:, :, 1:-1:2]  # something to learn: tokens come in pairs

    def batch(step, rows):
        return ids[step][np.asarray(rows)]

    start = reference.train.initial_state(recipe)
    final, losses = reference.train.train(batch, recipe)
    exact = {"losses": np.array(losses), "params": final.params, "shadow": final.shadow}

    def compare(setting: Setting) -> list[Difference]:
        own = recipe_of(seed, model, setting.dtype, **schedule)
        # The fast half rounds its initial weights to float32: for the algorithm both start from the
        # reference's.
        begun = (
            fast_state(start, model, setting)
            if setting.algorithm
            else fast.train.initial_state(own, setting.device)
        )
        state, found_losses = fast.train.train(batch, own, begun)
        params, shadow = plain.unstacked(state.params), plain.unstacked(state.shadow)
        if setting.algorithm:
            losses = relative(np.array(found_losses), exact["losses"])
            return [
                losses,
                *same_tensors(params, exact["params"]),
                *same_tensors(shadow, exact["shadow"]),
            ]
        found = (np.array(found_losses), joined(params), joined(shadow))
        wanted = (exact["losses"], joined(exact["params"]), joined(exact["shadow"]))
        runs = [plain_run(own, batch, number, setting) for number in range(RUNS)]
        limits = [
            2 * max(rms(run[i] - wanted[i]) for run in runs) / rms(wanted[i]) for i in range(3)
        ]
        return [Difference(rms(found[i] - wanted[i]) / rms(wanted[i]), limits[i]) for i in range(3)]

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
    start = start._replace(params=nudged, shadow=nudged)
    way = plain_step(recipe, start, setting.device)
    for at in range(recipe.training.iterations):
        remaining = reference.schedule.remaining_steps(at, 0.0, 0.0, recipe.training)
        multiplier = reference.schedule.lr_multiplier(remaining, multiplier, recipe.training)
        losses.append(float(way(batch, multiplier, averaging)))
        averaging = averaging or reference.train.ema.ema_starts(
            way.count, remaining - 1, recipe.ema.start
        )
    return np.array(losses), joined(way.params), joined(way.shadow)


STEPS = [
    {"seed": 0, "model": replace(SMALL, layers=1), "at": 0, "multiplier": 1.0, "averaging": False},
    {
        "seed": 1,
        "model": replace(SMALL, d=8, causal=True),
        "at": 600,
        "multiplier": 0.25,
        "averaging": True,
    },
    {"seed": 2, "model": replace(SMALL, d=8, mlp=2), "at": 7, "multiplier": 1.0, "averaging": True},
]
PIECES = [
    Piece(
        "step",
        step,
        STEPS,
        "2 x the rms error of a plain step in the same dtype, its sums in another order",
        compiles=1,
    ),
    Piece(
        "trajectory",
        trajectory,
        [{"seed": 0, "model": SMALL, "iterations": 50, "warmdown": 20}],
        f"2 x the largest rms error of {RUNS} plain runs in the same dtype; float64: {ALGORITHM}",
    ),
]
