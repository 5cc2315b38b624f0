"""Which score is asked for: the arguments of maskgolf eval."""

from dataclasses import dataclass
from typing import Annotated, Literal

import tyro

from reference.recipe import Order


@dataclass(frozen=True)
class Estimate:
    """Which bits per byte: the estimator, its order and its effort."""

    # nelbo: unbiased, with an error bar. nelbo-grid: the published grid, biased upward. chain:
    # exact, one pass per token. A causal model is always scored by its one exact pass.
    estimator: Literal["nelbo", "nelbo-grid", "chain"] = "nelbo"
    # Evaluation order of chain (default left-to-right).
    order: Order | None = None
    draws: int = 16  # nelbo: masks per window
    points: int = 256  # nelbo-grid: times
    step: int = 1  # chain: positions revealed per pass
    block: int = 32  # chain along block: tokens per block
    # chain along left-to-right, right-to-left or random: estimate from this many drawn positions
    # per window, with an error bar.
    positions: int | None = None
    # chain left-to-right: mask tokens kept behind the queried position (default: to the end of the
    # window).
    trailing: int | None = None
    from_: Annotated[int, tyro.conf.arg(name="from")] = 0  # first window
    sequences: int | None = None  # how many windows (default: all)
    # Token before the first window's first token: the true one, or treated as a control token.
    first_token: Literal["stream", "control"] = "stream"
    seed: int = 0  # of masks and random orders
    batch_rows: int = 64  # windows per forward pass
