"""Questions to a scorer that a code length must answer right: is every distribution normalised, is
anything known before it is revealed?

A scorer maps windows ids_NL to Scored. Any log_probs(ids_BL) -> (B, L, V) can be asked, so that a
model that cheats can be planted.
"""

import math
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch

from fast import chain, likelihood
from fast.data import Windows
from fast.likelihood import LogProbs

UNIT = 2.0**-24  # relative rounding of float32
# float32 sums of terms within the softcap of 30 that end up 64 units apart
NATS_LIMIT = 64 * UNIT * 30


class Mass(NamedTuple):
    """The distribution whose probabilities sum up worst: |log of the sum|, the rounding allowed,
    how many were looked at.
    """

    error: float
    limit: float
    distributions: int


class Scored(NamedTuple):
    """Windows scored: when each position was revealed, what its token was charged, and the
    distribution the charge was read from.
    """

    place_NL: np.ndarray
    nats_NL: np.ndarray
    rows_NLV: np.ndarray


class Foresight(NamedTuple):
    """What changed when only hidden tokens did: places in the order, the largest log-probability;
    how many distributions were compared.

    not_once: windows in which a position was charged twice or never. misread: the largest gap
    between a charge and its distribution.
    """

    moved: int
    nats: float
    compared: int
    not_once: int
    misread: float


Scorer = Callable[[np.ndarray], Scored]


def masked_contexts(
    ids_NL: np.ndarray, vocab: int, seed: int = 0
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return (contexts_BL, hidden_BL): each window with one token hidden, with all hidden, and with
    a random number hidden.
    """
    draw = np.random.default_rng(seed)
    count, length = ids_NL.shape
    sizes = np.concatenate(
        [np.ones(count, int), np.full(count, length), draw.integers(1, length + 1, count)]
    )
    rank_BL = draw.random((3 * count, length)).argsort(axis=1).argsort(axis=1)
    hidden_BL = rank_BL < sizes[:, None]
    return torch.from_numpy(np.where(hidden_BL, vocab, np.tile(ids_NL, (3, 1)))), torch.from_numpy(
        hidden_BL
    )


@torch.no_grad()
def mass(log_probs: LogProbs, contexts_BL: torch.Tensor, asked_BL: torch.Tensor) -> Mass:
    """Return how far from 1 the asked distributions sum. Limit: each log-probability is rounded in
    float32, in proportion to its size.
    """
    rows_PV = log_probs(contexts_BL)[asked_BL].double()
    total_P = rows_PV.logsumexp(dim=-1).abs()
    finite_PV = rows_PV.masked_fill(~rows_PV.isfinite(), 0.0)
    size = max(1.0, float(finite_PV.abs().max()))
    worst = float(total_P.max()) if not total_P.isnan().any() else math.nan
    return Mass(worst, 8 * UNIT * size, len(rows_PV))


class Recorder:
    """A log_probs that keeps what it was asked and what it answered."""

    def __init__(self, log_probs: LogProbs, vocab: int):
        """Wrap log_probs."""
        self.log_probs, self.vocab, self.hidden, self.answers = log_probs, vocab, [], []

    def __call__(self, ids_BL: torch.Tensor) -> torch.Tensor:
        """Answer as the model does."""
        self.hidden.append((ids_BL == self.vocab).cpu().numpy())
        self.answers.append(self.log_probs(ids_BL))
        return self.answers[-1]

    def read(self) -> tuple[np.ndarray, np.ndarray]:
        """Return (place_BL, rows_BLV): a position is charged by the last pass that sees it hidden,
        from that pass's answer.
        """
        place_BL = np.sum(self.hidden, axis=0) - 1
        answers_PBLV = torch.stack(self.answers).double().cpu().numpy()
        return (
            place_BL,
            np.take_along_axis(answers_PBLV, place_BL[None, :, :, None].clip(0), axis=0)[0],
        )


def chain_scorer(
    log_probs: LogProbs, vocab: int, order: str, block: int = 8, seed: int = 0
) -> Scorer:
    """Return our chain rule along an order as a scorer."""

    def score(ids_NL: np.ndarray) -> Scored:
        recorder = Recorder(log_probs, vocab)
        nats_NL = chain.chain(
            recorder, ids_NL, vocab, order, seed, 1, block, batch_rows=len(ids_NL)
        )
        place_NL, rows_NLV = recorder.read()
        return Scored(place_NL, nats_NL, rows_NLV)

    return score


def causal_scorer(log_probs: LogProbs) -> Scorer:
    """Return the one pass of an autoregressive model as a scorer."""

    def score(ids_NL: np.ndarray) -> Scored:
        recorder = Recorder(log_probs, -1)
        nats_NL = likelihood.causal_nll(
            recorder, ids_NL, np.full(len(ids_NL), -1), batch_rows=len(ids_NL)
        )
        place_NL = np.broadcast_to(np.arange(ids_NL.shape[1]), ids_NL.shape).copy()
        return Scored(place_NL, nats_NL, recorder.answers[0].double().cpu().numpy())

    return score


def _apart(one: np.ndarray, other: np.ndarray) -> float:
    """Return the largest difference; equal infinities do not differ, nan is infinitely far from
    everything.
    """
    with np.errstate(invalid="ignore"):
        gap = np.where(one == other, 0.0, np.abs(one - other))
    return math.inf if np.isnan(gap).any() else float(gap.max(initial=0.0))


def foresight(
    scorer: Scorer, ids_NL: np.ndarray, other_NL: np.ndarray, cuts: tuple[int, ...]
) -> Foresight:
    """Return what changes when every token from place `cut` on is replaced by another, over all
    cuts.

    Up to the cut nothing may, neither places nor distributions: the position at the cut is chosen,
    and its distribution made, before its own token is known.
    """
    place_NL, nats_NL, rows_NLV = scorer(ids_NL)
    moved, worst, compared = 0, 0.0, 0
    for cut in cuts:
        other = scorer(np.where(place_NL < cut, ids_NL, other_NL))
        known_NL = place_NL <= cut
        moved += int((other.place_NL != place_NL)[known_NL].sum())
        worst = max(
            worst,
            _apart(rows_NLV[known_NL], other.rows_NLV[known_NL]),
            _apart(nats_NL[place_NL < cut], other.nats_NL[place_NL < cut]),
        )
        compared += int(known_NL.sum())
    wrong = int((np.sort(place_NL, axis=1) != np.arange(place_NL.shape[1])).any(axis=1).sum())
    read_NL = -np.take_along_axis(rows_NLV, ids_NL[..., None], axis=-1)[..., 0]
    return Foresight(moved, worst, compared, wrong, _apart(nats_NL, read_NL))


def look_ahead(scorers: dict[str, Scorer], ids_NL: np.ndarray, vocab: int) -> dict:
    """Return {order: Foresight} of scorers by the name of their order, all hidden tokens replaced."""
    length = ids_NL.shape[1]
    cuts = tuple(sorted({1, length // 4, length // 2, length - 1} - {0}))
    moved_NL = (ids_NL + np.random.default_rng(1).integers(1, vocab, ids_NL.shape)) % vocab
    return {order: foresight(scorer, ids_NL, moved_NL, cuts) for order, scorer in scorers.items()}


def changed_charges(found: dict[str, Foresight]) -> list[str]:
    """Return the orders along which a charge depends on what is hidden, or is not its
    distribution's.
    """
    return [
        f"{order}: {name} {nats:.3g}"
        for order, foreseen in found.items()
        for name, nats in (("still hidden", foreseen.nats), ("off", foreseen.misread))
        if not nats <= NATS_LIMIT
    ]


def moved_orders(found: dict[str, Foresight]) -> list[str]:
    """Return the orders that depend on what is hidden."""
    return [order for order, foreseen in found.items() if foreseen.moved]


def charged_twice_or_never(found: dict[str, Foresight]) -> list[str]:
    """Return the orders along which a position is not charged exactly once."""
    return [order for order, foreseen in found.items() if foreseen.not_once]


def uncovered(groups: list[Windows], stream: np.ndarray) -> int:
    """Return how many tokens of a stream the windows miss, repeat or alter; a wrong token before a
    window counts as well.
    """
    scored, before = [np.zeros(0, np.int64)], [np.zeros(0, np.int64)]
    for group in groups:
        scored.append(group.ids_NL.reshape(-1))
        before.append(group.previous_N)
    scored, before = np.concatenate(scored), np.concatenate(before)
    lengths = [group.ids_NL.shape[1] for group in groups for _ in group.ids_NL]
    starts = np.cumsum([0, *lengths])[:-1]
    if len(scored) != len(stream):
        return abs(len(scored) - len(stream))
    true = np.where(starts > 0, stream[starts - 1], -1)
    return int((scored != stream).sum() + (before != true).sum())
