"""Pieces clip, newton-schulz, muon, adam, ema and schedule."""

import itertools
import math
from dataclasses import replace

import numpy as np
import torch

import fast.adam
import fast.ema
import fast.muon
import fast.schedule
import reference.adam
import reference.ema
import reference.muon
import reference.schedule
from harness.parity import plain
from harness.parity.compare import (
    Compare,
    Difference,
    Setting,
    against_plain,
    array,
    representable,
    same,
    same_tensors,
    twice,
    unit_roundoff,
    within,
)
from harness.parity.suite import Piece, table
from reference.recipe import GOLF, Model, Recipe, Training

OPTIMIZER = GOLF.optimizer
SCHULZ = (OPTIMIZER.muon_steps, OPTIMIZER.muon_coefficients, OPTIMIZER.muon_eps)
FLOAT32 = unit_roundoff(torch.float32)
TINIEST = torch.finfo(torch.float32).tiny


def clip(seed: int, scale: float, limit: float) -> Compare:
    """The global norm and the gradients it scales, one of them empty."""
    rng = np.random.default_rng(seed)
    shapes = {"a": (3, 4), "b": (5,), "c": (0, 2), "d": (40, 9)}
    grads = {
        name: representable(scale * rng.standard_normal(shape)) for name, shape in shapes.items()
    }
    grads["b"] *= 3  # no tensor's own norm is a fixed part of the whole
    exact, norm = reference.adam.clip(grads, limit)
    roundings = (sum(value.size for value in grads.values()) + 8) * FLOAT32

    def compare(setting: Setting) -> list[Difference]:
        clipped, fast_norm = fast.adam.clip(setting.tensors(grads), limit)
        of_norm = within(setting, fast_norm, np.array(norm), roundings * norm)
        if setting.algorithm:
            return [of_norm, *same_tensors(clipped, exact)]
        bounds = {name: roundings * np.abs(value) for name, value in exact.items()}
        return [of_norm, *(within(setting, clipped[key], exact[key], bounds[key]) for key in exact)]

    return compare


def newton_schulz(seed: int, shape: list[int], scale: float, rank: int) -> Compare:
    """Orthogonalisation of a matrix of given rank (0: full)."""
    rng, (rows, columns) = np.random.default_rng(seed), shape
    if rank:
        matrix = rng.standard_normal((rows, rank)) @ rng.standard_normal((rank, columns))
    else:
        matrix = rng.standard_normal(shape)
    matrix = representable(scale * matrix)
    return against_plain(
        reference.muon.newton_schulz(matrix, *SCHULZ),
        lambda at: at.run(lambda x: fast.muon.newton_schulz(x, *SCHULZ), at.cast(matrix)),
        lambda at: plain.newton_schulz(at.cast(matrix), OPTIMIZER, True),
    )


def muon(seed: int, shape: list[int], lr: float, momentum: float, still: bool = False) -> Compare:
    """One step on a stack of two matrices of one shape; still: the weights are 0, so that the
    update's own error shows.
    """
    weight, grad, buffer = (
        representable(np.random.default_rng([seed, i]).standard_normal((2, *shape)))
        for i in range(3)
    )
    stacks = (0 * weight if still else weight), grad, buffer
    matrices = [
        reference.muon.muon_step(*one, lr, momentum, OPTIMIZER) for one in zip(*stacks, strict=True)
    ]
    exact, exact_buffer = map(np.stack, zip(*matrices, strict=True))
    bound = 3 * FLOAT32 * (momentum * np.abs(buffer) + np.abs(grad))

    def compare(setting: Setting) -> list[Difference]:
        def plainly() -> torch.Tensor:
            weights, grads, buffers = (setting.tensor(x, torch.float64) for x in stacks)
            singles = zip(weights, grads, momentum * buffers + grads, strict=True)
            settings = lr, momentum, OPTIMIZER, setting.dtype, True
            return torch.stack([plain.muon_weight(*one, *settings) for one in singles])

        def step(weight, grad, buffer, numbers):
            lr, momentum = numbers
            return fast.muon.muon_step(weight, grad, buffer, lr, momentum, OPTIMIZER, setting.dtype)

        given = tuple(map(setting.tensor, stacks))
        numbers = torch.tensor([lr, momentum], dtype=torch.float64, device=setting.device)
        moved, after = setting.run(step, *given, numbers)
        alone, _ = step(*(stack[0] for stack in given), (lr, momentum))
        return [
            within(setting, after, exact_buffer, bound, setting.master),
            *twice(setting, moved, exact, plainly, setting.master),
            *([within(setting, alone, exact[0], 0.0)] if setting.algorithm else []),
        ]

    return compare


def adam(seed: int, shape: list[int], scale: float, step: int, lr: float) -> Compare:
    """One step from moments that fit the gradient's scale."""
    rng = np.random.default_rng(seed)
    weight, grad, first, root = (
        representable(size * rng.standard_normal(shape)) for size in (1.0, scale, scale, scale)
    )
    given = weight, grad, first, representable(root**2)
    exact = reference.adam.adam_step(*given, step, lr, OPTIMIZER)
    beta1, beta2 = OPTIMIZER.adam_beta1, OPTIMIZER.adam_beta2
    # The first moment may cancel: its error is relative to the size of what was added.
    size = beta1 * np.abs(first) + (1 - beta1) * np.abs(grad)
    root = np.sqrt(exact[2] / (1 - beta2**step))
    # Squares below 2**-126 lose their bits.
    lost = math.sqrt(2 * TINIEST / (1 - beta2**step)) / OPTIMIZER.adam_eps if scale < 1e-18 else 0.0
    update = lr * size / (1 - beta1**step) / (root + OPTIMIZER.adam_eps)
    moved = update * (14 * FLOAT32 + lost) + FLOAT32 * (np.abs(weight) + update)
    bounds = (moved, 3 * FLOAT32 * size + TINIEST, 4 * FLOAT32 * exact[2] + TINIEST)

    def adam_step(weight, grad, first, second, numbers):
        step, lr = numbers
        return fast.adam.adam_step(weight, grad, first, second, step, lr, OPTIMIZER)

    def compare(setting: Setting) -> list[Difference]:
        tensors = tuple(map(setting.tensor, given))
        numbers = torch.tensor([step, lr], dtype=torch.float64, device=setting.device)
        results = [setting.run(adam_step, *tensors, numbers)]
        if not setting.compiled:
            results.append(adam_step(*tensors, (step, lr)))
        triples = itertools.chain(*(zip(new, exact, bounds, strict=True) for new in results))
        return [within(setting, *triple) for triple in triples]

    return compare


def ema(seed: int, decay: float, shape: list[int], steps: int) -> Compare:
    """Updates by a walk of weights in the compute dtype; the shadow is float32, and each update
    costs it 3 roundings.
    """
    rng = np.random.default_rng(seed)
    start = exact = representable(rng.standard_normal(shape))
    weights = [representable(1 + 0.01 * rng.standard_normal(shape)) for _ in range(steps)]
    for weight in weights:
        exact = reference.ema.ema_update(exact, weight, decay)
    bound = 3 * steps * FLOAT32 * max(np.abs(value).max() for value in (start, *weights))
    # Step, steps left, share of the budget.
    begins = list(itertools.product(range(60), (0, 1, 10, 45, 700), (0.0, 0.1, 0.5, 0.95)))

    def starts(half) -> np.ndarray:
        return np.array([half.ema_starts(*begin) for begin in begins])

    def compare(setting: Setting) -> list[Difference]:
        shadow = setting.tensor(start)
        decays = decay, torch.tensor(decay, dtype=torch.float64, device=setting.device)
        for number, weight in enumerate(weights):
            shadow = fast.ema.ema_update(shadow, setting.cast(weight), decays[number % 2])
        averaged = within(setting, shadow, exact, bound, setting.master)
        return [averaged, same(starts(fast.ema), starts(reference.ema))]

    return compare


def schedule(
    seed: int,
    iterations: int,
    warmdown: int,
    cap: float,
    pace: float,
    momentum_warmup: int,
    causal_drift: float,
) -> Compare:
    """A whole budget, step after step, with noisy step times and a stall: rate, momentum, the share
    of causal rows and what is left at every step.
    """
    training = Training(
        iterations=iterations,
        warmdown=warmdown,
        max_wallclock_seconds=cap,
        causal_drift=causal_drift,
    )
    recipe = Recipe(model=Model(causal_share=0.5), training=training)
    optimizer = replace(OPTIMIZER, momentum_warmup=momentum_warmup)
    durations = pace * (1 + 0.2 * np.random.default_rng(seed).random(iterations))
    durations[:2] *= 20  # the first steps warm up
    durations[iterations // 2 :][:1] *= 30

    def run(half) -> np.ndarray:
        elapsed, multiplier, numbers, recent = 0.0, 1.0, [], []
        for step in range(iterations):
            seconds = half.step_seconds(recent)
            remaining = half.remaining_steps(step, elapsed, seconds, training)
            multiplier = half.lr_multiplier(remaining, multiplier, training)
            momentum, share = half.muon_momentum(step, optimizer), half.causal_share(step, recipe)
            numbers.append((seconds, remaining, multiplier, momentum, share))
            recent = [*recent[-149:], float(durations[step])]
            elapsed += float(durations[step])
            if remaining == 1:
                break
        return np.array(numbers)

    expected = run(reference.schedule)
    return lambda setting: [same(array(run(fast.schedule)), expected)]


TWICE = (
    "2 x the rms error of the iteration with its products associated the other way, in the same"
    " dtype"
)
PIECES = [
    Piece(
        "clip",
        clip,
        table(
            "seed scale limit",
            *(
                (seed, scale, limit)
                for seed, scale in enumerate((1e-6, 0.02, 1.0, 1e6))
                for limit in (0.0, 0.5, 1.0, 7.0)
            ),
        ),
        "(entries + 8) roundings of the norm",
        float32_only=True,
    ),
    Piece(
        "newton-schulz",
        newton_schulz,
        table(
            "seed shape scale rank",
            *(
                (seed, shape, scale, 0)
                for seed, shape in enumerate(([1, 1], [1, 5], [5, 1], [4, 4], [3, 7], [7, 3]))
                for scale in (0.0, 1e-30, 1e-7, 1.0, 1e12)
            ),
            (9, [6, 4], 1.0, 1),
            (9, [5, 8], 1.0, 2),
            *((5, shape, 1.0, 0) for shape in ([64, 64], [32, 64], [128, 64])),
        ),
        TWICE,
        compiles=1,
    ),
    Piece(
        "muon",
        muon,
        table(
            "seed shape lr momentum still",
            *(
                (seed, shape, 0.02, momentum, False)
                for seed, shape in enumerate(([1, 1], [4, 4], [3, 7], [7, 3], [8, 2]))
                for momentum in (0.0, 0.85, 0.95)
            ),
            (7, [5, 6], 0.0, 0.95, False),
            (8, [128, 64], 0.02, 0.95, True),
        ),
        TWICE,
        compiles=1,
    ),
    Piece(
        "adam",
        adam,
        table(
            "seed shape scale step lr",
            *(
                (seed, [2, 5], scale, step, 0.04)
                for seed, step in enumerate((1, 2, 10, 20_000))
                for scale in (0.0, 1e-20, 1e-8, 1.0, 1e6)
            ),
            (7, [33], 1.0, 3, 0.05),
        ),
        "moments 3 and 4 roundings, update 14 of its size, weight one",
        float32_only=True,
        compiles=1,
    ),
    Piece(
        "ema",
        ema,
        table(
            "seed decay steps",
            *(
                (seed, decay, steps)
                for seed, steps in enumerate((1, 2, 300))
                for decay in (0.0, 0.9, 0.999)
            ),
            shape=[3, 4],
        ),
        "3 roundings of float32 per update, whatever the dtype of the weights",
    ),
    Piece(
        "schedule",
        schedule,
        table(
            "seed iterations warmdown cap pace momentum_warmup causal_drift",
            (0, 1, 20, 0.0, 0.1, 500, 0.0),
            (1, 50, 20, 0.0, 0.1, 10, 0.25),
            (2, 300, 40, 1e6, 0.1, 0, -0.5),
            (3, 300, 40, 15.0, 0.1, 1, 0.1),
            (4, 300, 500, 20.0, 0.1, 500, 0.5),
            (5, 200, 0, 5.0, 0.1, 500, 0.0),
            (6, 10, 3, 0.5, 1.0, 500, -0.1),
            (7, 600, 100, 66.0, 0.1, 500, 0.3),
        ),
        bitwise=True,
    ),
]
