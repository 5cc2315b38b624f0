"""Pieces clip, newton-schulz, muon, adam, ema and schedule."""

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
    Difference,
    Setting,
    array,
    representable,
    same,
    same_tensors,
    twice,
    unit_roundoff,
    within,
)
from harness.parity.suite import Compare, Piece
from reference.recipe import GOLF, Training

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
        found, found_norm = fast.adam.clip(setting.tensors(grads), limit)
        size = [within(setting, found_norm, np.array(norm), roundings * norm)]
        if setting.algorithm:
            return [*size, *same_tensors(found, exact)]
        return size + [
            within(setting, found[name], value, roundings * np.abs(value))
            for name, value in exact.items()
        ]

    return compare


def newton_schulz(seed: int, shape: list[int], scale: float, rank: int) -> Compare:
    """Orthogonalisation of a matrix of given rank (0: full)."""
    rng = np.random.default_rng(seed)
    matrix = (
        rng.standard_normal(shape)
        if not rank
        else rng.standard_normal((shape[0], rank)) @ rng.standard_normal((rank, shape[1]))
    )
    matrix = representable(scale * matrix)
    exact = reference.muon.newton_schulz(matrix, *SCHULZ)

    def compare(setting: Setting) -> list[Difference]:
        given = setting.tensor(matrix, setting.dtype)
        found = setting.run(lambda matrix: fast.muon.newton_schulz(matrix, *SCHULZ), given)
        return twice(setting, found, exact, lambda: plain.newton_schulz(given, OPTIMIZER, True))

    return compare


def muon(seed: int, shape: list[int], lr: float, momentum: float, still: bool = False) -> Compare:
    """One step on a stack of two matrices of one shape; still: the weights are 0, so that the
    update's own error shows.
    """
    weight, grad, buffer = (
        representable(np.random.default_rng([seed, i]).standard_normal((2, *shape)))
        for i in range(3)
    )
    weight = 0 * weight if still else weight
    exact, exact_buffer = (
        np.stack(both)
        for both in zip(
            *(
                reference.muon.muon_step(*each, lr, momentum, OPTIMIZER)
                for each in zip(weight, grad, buffer, strict=True)
            ),
            strict=True,
        )
    )
    bound = 3 * FLOAT32 * (momentum * np.abs(buffer) + np.abs(grad))

    def compare(setting: Setting) -> list[Difference]:
        def plain_step():
            settings = lr, momentum, OPTIMIZER, setting.dtype, True
            wide = (setting.tensor(value, torch.float64) for value in (weight, grad, buffer))
            return torch.stack(
                [plain.muon_step(*one, *settings)[0] for one in zip(*wide, strict=True)]
            )

        given = tuple(map(setting.tensor, (weight, grad, buffer)))
        numbers = torch.tensor([lr, momentum], dtype=torch.float64, device=setting.device)
        dtype = setting.dtype
        found = setting.run(
            lambda w, g, b, n: fast.muon.muon_step(w, g, b, n[0], n[1], OPTIMIZER, dtype),
            *given,
            numbers,
        )
        one = fast.muon.muon_step(*(value[0] for value in given), lr, momentum, OPTIMIZER, dtype)
        alone = (
            [*twice(setting, one[0], exact[0], lambda: plain_step()[0], setting.master)]
            if setting.algorithm
            else []
        )
        moved = twice(setting, found[0], exact, plain_step, setting.master)
        return [within(setting, found[1], exact_buffer, bound, setting.master), *moved, *alone]

    return compare


def adam(seed: int, shape: list[int], scale: float, step: int, lr: float) -> Compare:
    """One step from moments that fit the gradient's scale."""
    rng = np.random.default_rng(seed)
    weight, grad, first, root = (
        representable(size * rng.standard_normal(shape)) for size in (1.0, scale, scale, scale)
    )
    second = representable(root**2)
    exact = reference.adam.adam_step(weight, grad, first, second, step, lr, OPTIMIZER)
    beta1, beta2 = OPTIMIZER.adam_beta1, OPTIMIZER.adam_beta2
    size = beta1 * np.abs(first) + (1 - beta1) * np.abs(
        grad
    )  # the first moment may cancel: its error is relative to this
    root = np.sqrt(exact[2] / (1 - beta2**step))
    # Squares below 2**-126 lose their bits.
    lost = math.sqrt(2 * TINIEST / (1 - beta2**step)) / OPTIMIZER.adam_eps if scale < 1e-18 else 0.0
    update = lr * size / (1 - beta1**step) / (root + OPTIMIZER.adam_eps)
    moved = update * (14 * FLOAT32 + lost) + FLOAT32 * (np.abs(weight) + update)
    bounds = (moved, 3 * FLOAT32 * size + TINIEST, 4 * FLOAT32 * exact[2] + TINIEST)

    def compare(setting: Setting) -> list[Difference]:
        given = tuple(map(setting.tensor, (weight, grad, first, second)))
        numbers = torch.tensor([step, lr], dtype=torch.float64, device=setting.device)
        found = setting.run(
            lambda w, g, m, v, n: fast.adam.adam_step(w, g, m, v, n[0], n[1], OPTIMIZER),
            *given,
            numbers,
        )
        plainly = (
            fast.adam.adam_step(*given, step, lr, OPTIMIZER) if not setting.compiled else found
        )
        return [
            within(setting, half[i], exact[i], bounds[i])
            for half in (found, plainly)
            for i in range(3)
        ]

    return compare


def ema(seed: int, decay: float, shape: list[int], steps: int) -> Compare:
    """Updates by a walk of weights in the compute dtype; the shadow is float32, and each update
    costs it 3 roundings.
    """
    rng = np.random.default_rng(seed)
    shadow = exact = representable(rng.standard_normal(shape))
    weights = [representable(1 + 0.01 * rng.standard_normal(shape)) for _ in range(steps)]
    for weight in weights:
        exact = reference.ema.ema_update(exact, weight, decay)
    bound = (
        3
        * steps
        * FLOAT32
        * max(np.abs(shadow).max(), *(np.abs(weight).max() for weight in weights))
    )
    begins = [
        (step, left, start)
        for step in range(60)
        for left in (0, 1, 10, 45, 700)
        for start in (0.0, 0.1, 0.5, 0.95)
    ]

    def compare(setting: Setting) -> list[Difference]:
        found = setting.tensor(shadow)
        for number, weight in enumerate(weights):
            beta = (
                torch.tensor(decay, dtype=torch.float64, device=setting.device)
                if number % 2
                else decay
            )
            found = fast.ema.ema_update(found, setting.tensor(weight, setting.dtype), beta)
        starts = [
            np.array([half.ema_starts(*begin) for begin in begins])
            for half in (fast.ema, reference.ema)
        ]
        return [within(setting, found, exact, bound, setting.master), same(*starts)]

    return compare


def schedule(
    seed: int, iterations: int, warmdown: int, cap: float, pace: float, momentum_warmup: int = 500
) -> Compare:
    """A whole budget, step after step, with noisy step times and a stall: rate, momentum and what
    is left at every step.
    """
    training = Training(iterations=iterations, warmdown=warmdown, max_wallclock_seconds=cap)
    optimizer = replace(OPTIMIZER, momentum_warmup=momentum_warmup)
    durations = pace * (1 + 0.2 * np.random.default_rng(seed).random(iterations))
    durations[:2] *= 20  # the first steps warm up
    durations[iterations // 2 :][:1] *= 30

    def run(half) -> np.ndarray:
        elapsed, multiplier, out, recent = 0.0, 1.0, [], []
        for step in range(iterations):
            seconds = half.step_seconds(recent)
            remaining = half.remaining_steps(step, elapsed, seconds, training)
            multiplier = half.lr_multiplier(remaining, multiplier, training)
            out.append((seconds, remaining, multiplier, half.muon_momentum(step, optimizer)))
            recent = [*recent[-149:], float(durations[step])]
            elapsed += float(durations[step])
            if remaining == 1:
                break
        return np.array(out)

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
        [
            {"seed": seed, "scale": scale, "limit": limit}
            for seed, scale in enumerate((1e-6, 0.02, 1.0, 1e6))
            for limit in (0.0, 0.5, 1.0, 7.0)
        ],
        "(entries + 8) roundings of the norm",
        float32_only=True,
    ),
    Piece(
        "newton-schulz",
        newton_schulz,
        [
            *[
                {"seed": seed, "shape": shape, "scale": scale, "rank": 0}
                for seed, shape in enumerate(([1, 1], [1, 5], [5, 1], [4, 4], [3, 7], [7, 3]))
                for scale in (0.0, 1e-30, 1e-7, 1.0, 1e12)
            ],
            {"seed": 9, "shape": [6, 4], "scale": 1.0, "rank": 1},
            {"seed": 9, "shape": [5, 8], "scale": 1.0, "rank": 2},
            *[
                {"seed": 5, "shape": shape, "scale": 1.0, "rank": 0}
                for shape in ([64, 64], [32, 64], [128, 64])
            ],
        ],
        TWICE,
        compiles=1,
    ),
    Piece(
        "muon",
        muon,
        [
            *[
                {"seed": seed, "shape": shape, "lr": 0.02, "momentum": momentum}
                for seed, shape in enumerate(([1, 1], [4, 4], [3, 7], [7, 3], [8, 2]))
                for momentum in (0.0, 0.85, 0.95)
            ],
            {"seed": 7, "shape": [5, 6], "lr": 0.0, "momentum": 0.95},
            {"seed": 8, "shape": [128, 64], "lr": 0.02, "momentum": 0.95, "still": True},
        ],
        TWICE,
        compiles=1,
    ),
    Piece(
        "adam",
        adam,
        [
            *[
                {"seed": seed, "shape": [2, 5], "scale": scale, "step": step, "lr": 0.04}
                for seed, step in enumerate((1, 2, 10, 20_000))
                for scale in (0.0, 1e-20, 1e-8, 1.0, 1e6)
            ],
            {"seed": 7, "shape": [33], "scale": 1.0, "step": 3, "lr": 0.05},
        ],
        "moments 3 and 4 roundings, update 14 of its size, weight one",
        float32_only=True,
        compiles=1,
    ),
    Piece(
        "ema",
        ema,
        [
            {"seed": seed, "decay": decay, "shape": [3, 4], "steps": steps}
            for seed, steps in enumerate((1, 2, 300))
            for decay in (0.0, 0.9, 0.999)
        ],
        "3 roundings of float32 per update, whatever the dtype of the weights",
    ),
    Piece(
        "schedule",
        schedule,
        [
            {"seed": 0, "iterations": 1, "warmdown": 20, "cap": 0.0, "pace": 0.1},
            {
                "seed": 1,
                "iterations": 50,
                "warmdown": 20,
                "cap": 0.0,
                "pace": 0.1,
                "momentum_warmup": 10,
            },
            {
                "seed": 2,
                "iterations": 300,
                "warmdown": 40,
                "cap": 1e6,
                "pace": 0.1,
                "momentum_warmup": 0,
            },
            {
                "seed": 3,
                "iterations": 300,
                "warmdown": 40,
                "cap": 15.0,
                "pace": 0.1,
                "momentum_warmup": 1,
            },
            {"seed": 4, "iterations": 300, "warmdown": 500, "cap": 20.0, "pace": 0.1},
            {"seed": 5, "iterations": 200, "warmdown": 0, "cap": 5.0, "pace": 0.1},
            {"seed": 6, "iterations": 10, "warmdown": 3, "cap": 0.5, "pace": 1.0},
            {"seed": 7, "iterations": 600, "warmdown": 100, "cap": 66.0, "pace": 0.1},
        ],
        bitwise=True,
    ),
]
