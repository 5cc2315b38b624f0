"""Parity: bitwise. Host arithmetic in Python floats: learning rate, momentum and budget."""

import math
import statistics
from collections.abc import Sequence

from reference.recipe import CAUSAL_STAGES, Optimizer, Recipe, Training

FEW = 5  # timed steps below which their median says little


def step_seconds(durations: Sequence[float]) -> float:
    """Return the expected seconds of a step: median of the last 100 durations, their minimum while
    fewer than FEW, 0 for none.
    """
    recent = durations[-100:]
    if len(recent) < FEW:
        return min(recent, default=0.0)
    return statistics.median(recent)


def remaining_steps(step: int, elapsed: float, seconds: float, training: Training) -> int:
    """Return how many steps are left, this one included, at least 1: by iterations or by the clock,
    whichever binds first.

    Before FEW steps are timed the clock says only whether this one is the last.
    """
    capped = training.max_wallclock_seconds > 0 and seconds > 0
    by_clock = (
        math.floor((training.max_wallclock_seconds - elapsed) / seconds) if capped else math.inf
    )
    if step < FEW and by_clock > 1:
        by_clock = math.inf
    return int(max(1, min(training.iterations - step, by_clock)))


def lr_multiplier(remaining: int, previous: float, training: Training) -> float:
    """Return the multiplier of every learning rate: 1, then linear to 1/warmdown at the last step,
    never above the previous one.
    """
    return min(previous, remaining / training.warmdown, 1.0) if training.warmdown > 0 else previous


def muon_momentum(step: int, optimizer: Optimizer) -> float:
    """Return mu at a step: linear from momentum_start to momentum over momentum_warmup steps."""
    if step >= optimizer.momentum_warmup:
        return optimizer.momentum
    fraction = step / optimizer.momentum_warmup
    return (1 - fraction) * optimizer.momentum_start + fraction * optimizer.momentum


def causal_share(step: int, recipe: Recipe) -> float:
    """Return the share of a step's rows that train causally: model.causal_share, moved by
    training.causal_drift from -drift in the first stage of the run to +drift in the last.
    """
    share, drift = recipe.model.causal_share, recipe.training.causal_drift
    stage = min(step * CAUSAL_STAGES // recipe.training.iterations, CAUSAL_STAGES - 1)
    return share + drift * (2 * stage / (CAUSAL_STAGES - 1) - 1)


def causal_stages(recipe: Recipe) -> list[int]:
    """Return the first step of each stage of the causal share; [0] where it never changes."""
    if not recipe.training.causal_drift:
        return [0]
    stages = range(CAUSAL_STAGES)
    return sorted({-(-stage * recipe.training.iterations // CAUSAL_STAGES) for stage in stages})
