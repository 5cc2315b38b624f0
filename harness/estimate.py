"""Which score is asked for: the arguments of maskgolf eval."""

from dataclasses import dataclass
from typing import Annotated, Literal

import tyro

from reference.recipe import ScoreOptions


@dataclass(frozen=True)
class Estimate(ScoreOptions):
    """Which bits per byte: the estimator, its order and its effort."""

    from_: Annotated[int, tyro.conf.arg(name="from")] = 0  # first window
    sequences: int | None = None  # how many windows (default: all)
    # Token before the first window's first token: the true one, or treated as a control token.
    first_token: Literal["stream", "control"] = "stream"
    seed: int = 0  # of masks and random orders
    batch_rows: int = 64  # windows per forward pass
