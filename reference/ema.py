"""Exponential moving average of the weights (Polyak & Juditsky 1992; Tarvainen & Valpola 2017)."""


def ema_update(shadow, weight, decay):
    """Return decay * shadow + (1 - decay) * weight."""
    return decay * shadow + (1 - decay) * weight


def ema_starts(step, remaining, start):
    """Return whether averaging has begun once `step` steps are done and `remaining` are left: step
    >= start of the budget.

    The shadow is seeded from the live weights at the first such step.
    """
    return step >= start * (step + remaining)
