"""Parity (SPEC section 12): the fast half against the specification, piece by piece, on any device;
what `maskgolf parity` runs.
"""

from collections.abc import Callable
from dataclasses import replace

import torch

from fast.errors import TrainingError
from fast.objective import objective_of
from harness import pieces
from harness.parity import (
    allot,
    chain,
    likelihood,
    network,
    optimizer,
    randomness,
    storage,
    training,
)
from harness.parity.compare import Setting
from harness.parity.suite import Piece, Row, examine, literal, worst_of
from reference.recipe import Recipe

MODULES = (randomness, network, optimizer, storage, allot, likelihood, chain, training)
PIECES = {piece.name: piece for module in MODULES for piece in module.PIECES}
PRODUCTION = ("float32", "bfloat16")  # compute dtypes of the presets
# What the preflight also runs through torch.compile: the draws and one training step.
COMPILED = ("masks", "step")
# What the preflight leaves out: 50 steps of the reference take longer than it may.
LONG = ("trajectory",)
# What a run computes in its muon_dtype, which may be another than its compute dtype.
MUON = ("newton-schulz", "muon")


def select(names: tuple[str, ...] | list[str]) -> list[Piece]:
    """Return the pieces that harness.pieces selects."""
    return [PIECES[name] for name in pieces.select(names)]


def parity(
    names=(),
    device: str = "cpu",
    dtypes=PRODUCTION,
    compiled: bool = False,
    on_piece: Callable | None = None,
) -> list[Row]:
    """Return the rows of the named pieces (none: all); on_piece(done, total, rows) is called after
    each.
    """
    chosen, rows = select(names), []
    for done, piece in enumerate(chosen, 1):
        new = examine(piece, device, tuple(getattr(torch, dtype) for dtype in dtypes), compiled)
        rows += new
        if on_piece:
            on_piece(done, len(chosen), new)
    return rows


def reproduce(
    piece: str, dtype: str = "float64", device: str = "cpu", compiled: bool = False, **case
) -> None:
    """Raise AssertionError unless the halves agree on one input of a piece: what a red row prints,
    to be pasted into a test.
    """
    setting = Setting(device, getattr(torch, dtype), compiled)
    worst = worst_of(PIECES[piece].prepare(**case)(setting))
    assert worst.ratio <= 1, (
        f"{piece} ({dtype}, {device}): error {worst.error:.3g} > limit {worst.limit:.3g} on"
        f" {literal(case)}"
    )


def _chosen(piece: Piece, recipe: Recipe) -> tuple[Piece, tuple[torch.dtype, ...]]:
    """Return a piece and the dtypes that a run needs it in: the last inputs, which are compiled, of
    the run's objective; Newton-Schulz also in a dtype of its own.
    """
    training, optimizer = recipe.training, recipe.optimizer
    trained = objective_of(recipe.model).name
    names = [training.compute_dtype]
    if piece.name in MUON:
        names += [optimizer.muon_dtype]
    cases = piece.cases
    if all("model" in case for case in cases):
        cases = sorted(cases, key=lambda case: objective_of(case["model"]).name == trained)
    dtypes = tuple(getattr(torch, name) for name in dict.fromkeys(names))
    return replace(piece, cases=cases), dtypes


def preflight(recipe: Recipe, device: str, compiled: bool, say: Callable[[str], None]) -> list[Row]:
    """Check the pieces on the run's device and in its dtypes before the first step; TrainingError
    names the rows that are red.

    Every piece but the 50-step trajectory runs at both levels, in seconds. With compiled=True the
    draws of the masks and one whole training step (loss, gradients, update) of a tiny model with
    the run's objective also run through torch.compile, as the run's own step will. Models are
    small: the run's own shape would take the reference hours.
    """
    every = [piece for piece in PIECES.values() if piece.name not in LONG]
    rows = []
    for piece in every:
        chosen, dtypes = _chosen(piece, recipe)
        rows += examine(chosen, device, dtypes, compiled and piece.name in COMPILED)
    red = [row for row in rows if not row.passed]
    if red:
        raise TrainingError(
            f"preflight on {device}: {', '.join(row.words() for row in red)}; see maskgolf parity"
            f" {red[0].piece} --device {device}, or pass --no-preflight"
        )
    say(
        f"preflight on {device}: {len(rows)} rows of {len(every)} pieces agree with the"
        " specification"
    )
    return rows
