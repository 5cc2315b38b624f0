"""Which score is asked for: the arguments of maskgolf eval."""

from dataclasses import dataclass
from typing import Annotated, Literal

import tyro

from reference.recipe import Order


@dataclass(frozen=True)
class Estimate:
    """Which bits per byte: the estimator, its order and its effort."""

    estimator: Literal["nelbo", "nelbo-grid", "chain"] = "nelbo"
    """nelbo: unbiased, with an error bar. nelbo-grid: the published grid, biased upward. chain:
    exact, one pass per token.
    A causal model is always scored by its one exact pass."""
    order: Order | None = None
    """Evaluation order of chain (default left-to-right)."""
    draws: int = 16  # nelbo: masks per window
    points: int = 256  # nelbo-grid: times
    step: int = 1  # chain: positions revealed per pass
    block: int = 32  # chain along block: tokens per block
    positions: int | None = None
    """chain along left-to-right, right-to-left or random: estimate from this many drawn
    positions per window, with an error bar.
    """
    trailing: int | None = None
    """chain left-to-right: mask tokens kept behind the queried position (default: to the end
    of the window).
    """
    from_: Annotated[int, tyro.conf.arg(name="from")] = 0  # first window
    sequences: int | None = None  # how many windows (default: all)
    first_token: Literal["stream", "control"] = "stream"
    """Token before the first window's first token: the true one, or treated as a control token."""
    seed: int = 0  # of masks and random orders
    batch_rows: int = 64  # windows per forward pass
