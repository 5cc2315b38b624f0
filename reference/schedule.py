"""Learning rate, momentum and budget: one rule for runs that end by step count, by the clock, or
nearly at once by both.
"""

import math
import statistics

from reference.recipe import CAUSAL_STAGES

FEW = 5  # timed steps below which their median says little


def step_seconds(durations):
    """Return the expected seconds of a step from the durations so far: the median of the last 100,
    robust to a stall.

    Of fewer than FEW the minimum is taken. None yet: 0.
    """
    recent = list(durations)[-100:]
    if not recent:
        return 0.0
    return min(recent) if len(recent) < FEW else statistics.median(recent)


def remaining_steps(step, elapsed, seconds, training):
    """Return how many steps are left, this one included, at least 1: the smaller of the iterations
    left and what the clock allows.

    step counts from 0, elapsed and seconds (of one step) are seconds. Before FEW steps are timed
    the clock says only whether this one is the last, so that a slow start cannot set off the
    warmdown, which never recovers. One last step is owed, so a run can outlast its cap.
    """
    left = training.iterations - step
    if training.max_wallclock_seconds > 0 and seconds > 0:
        by_clock = math.floor((training.max_wallclock_seconds - elapsed) / seconds)
        if step >= FEW or by_clock <= 1:
            left = min(left, by_clock)
    return max(1, left)


def lr_multiplier(remaining, previous, training):
    """Return the multiplier of every learning rate: 1, then linear to 1/warmdown at the last step,
    never above the previous one.
    """
    if training.warmdown <= 0:
        return previous
    return min(previous, remaining / training.warmdown, 1.0)


def muon_momentum(step, optimizer):
    """Return mu at a step: linear from momentum_start to momentum over momentum_warmup steps."""
    fraction = min(step / optimizer.momentum_warmup, 1.0) if optimizer.momentum_warmup > 0 else 1.0
    return (1 - fraction) * optimizer.momentum_start + fraction * optimizer.momentum


def causal_share(step, recipe):
    """Return the share of a step's rows that train causally: model.causal_share, moved by
    training.causal_drift from -drift in the first stage of the run to +drift in the last.
    """
    stage = min(CAUSAL_STAGES * step // recipe.training.iterations, CAUSAL_STAGES - 1)
    place = 2 * stage / (CAUSAL_STAGES - 1) - 1  # from -1 to 1
    return recipe.model.causal_share + place * recipe.training.causal_drift
