"""Parity: algebra + rounding. The shadow is float32 whatever the live dtype: a bfloat16 shadow
would round (1 - decay) w away.

Bound: two products and a sum per update, so 3 unit roundoffs of max(|shadow|, |weight|) each step.
"""

import torch


def ema_update(shadow: torch.Tensor, weight: torch.Tensor, decay) -> torch.Tensor:
    """Return decay * shadow + (1 - decay) * weight; decay is a float or a 0-d tensor, 0 seeds the
    shadow from the weight.
    """
    return decay * shadow + (1 - decay) * weight.to(shadow.dtype)


def ema_starts(step: int, remaining: int, start: float) -> bool:
    """Return whether averaging has begun once `step` steps are done and `remaining` are left."""
    return step >= start * (step + remaining)
