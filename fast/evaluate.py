"""Parity: algebra, by the estimators it calls. One score from a model and the windows of a
stream.
"""

import itertools
import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch

from fast import chain, likelihood, masking, orders, transformer
from fast.bytes import ByteTable, token_bytes
from fast.data import Tokens, Windows, evaluation_count, evaluation_windows
from fast.likelihood import LogProbs
from fast.objective import objective_of
from fast.row_predictor import RowPredictor
from reference.recipe import (
    InputError,
    Plan,
    Recipe,
    Score,
    ScoreOptions,
    check_passes,
    check_stride,
)

FIRST_TOKENS = ("stream", "control")
PLAN_WINDOWS = 256  # of the split: what nelbo's plan is fitted to
VALIDATION_WINDOWS = 64  # of the in-training validation, scored by nelbo


@dataclass(frozen=True)
class Effort(ScoreOptions):
    """Which estimate, and how much of it."""

    estimator: str = "nelbo"  # of METHODS
    seed: int = 0
    epsilon: float = 0.001  # nelbo-grid: smallest time
    forced_below: float = 0.01  # nelbo-grid: position 0 is hidden at times below

    def check(self, length: int | None = None) -> None:
        """Raise InputError for an unknown name, a number out of range or options that do not go
        together, nor with windows of a length.
        """
        if self.estimator not in METHODS:
            raise InputError(
                f"unknown estimator {self.estimator!r}: expected one of {', '.join(METHODS)};"
                " choose one of these"
            )
        ordered = METHODS[self.estimator].ordered
        if ordered:
            orders.check_order(self.order)
        elif self.order is not None:
            raise InputError(
                f"estimator {self.estimator!r}: expected no order, found {self.order!r}; drop it,"
                " or use --estimator chain"
            )
        for name, least in {
            "draws": 2,
            "points": 2,
            "step": 1,
            "block": 1,
            "positions": 2,
            "trailing": 0,
            "stride": 1,
        }.items():
            value = getattr(self, name)
            if value is not None and value < least:
                raise InputError(
                    f"evaluation: expected {name} of at least {least}, found {value}; raise it"
                )
        if not 0 <= self.seed < 2**64:
            raise InputError(
                f"evaluation: expected a seed of 0 ... 2**64 - 1, found {self.seed}; choose one of"
                " these"
            )
        if not 0 < self.epsilon < 1:
            raise InputError(
                f"evaluation: expected epsilon between 0 and 1, found {self.epsilon}; 0.001 is"
                " usual"
            )
        given = [name for name in ("positions", "trailing") if getattr(self, name) is not None]
        if given and not ordered:
            raise InputError(
                f"estimator {self.estimator!r}: expected no --{given[0]}, found one; drop it, or"
                " use --estimator chain"
            )
        if self.stride is not None and not METHODS[self.estimator].slides:
            raise InputError(
                f"estimator {self.estimator!r}: expected no --stride, found one; drop it, or use"
                " --estimator causal or chain"
            )
        order = self.order if ordered else "left-to-right"
        check_passes(order, self.step, self.positions, self.trailing, self.stride)
        if length is not None:
            check_stride(self.stride, length)
        if self.positions is not None:
            chain.check_fixed(self.order)

    def passes(self, length: int) -> int:
        """Return how many forward passes one window takes, the pilot's aside."""
        return METHODS[self.estimator].passes(self, length)


class Part(NamedTuple):
    """What is known of some windows: totals in nats, how far other masks would move them, and the
    forward passes that took.
    """

    rows_N: np.ndarray
    nats_N: np.ndarray
    variance_N: np.ndarray
    tokens_N: np.ndarray
    bytes_N: np.ndarray
    forwards: int


def bytes_of(windows: Windows, table: ByteTable, first_token: str = "stream") -> np.ndarray:
    """Return bytes_NL of text of each token; first_token "control" treats the token before every
    window, not the first alone, as a control token.
    """
    if first_token == "control":
        windows = windows._replace(previous_N=np.full(len(windows.ids_NL), -1))
    return token_bytes(windows.ids_NL, windows.before_NL(), table)


def window_bytes(windows: Windows, table: ByteTable, first_token: str = "stream") -> np.ndarray:
    """Return bytes_N of text in each window; first_token as in bytes_of."""
    return bytes_of(windows, table, first_token).sum(axis=1)


def pilot_passes(windows: int, draws: int) -> int:
    """Return the pilot's passes per fold: together one in sixteen of the estimate's own, within 16
    ... 512.
    """
    return min(max(windows * draws // 16, 16), 512) // 2


def evaluate(
    log_probs: LogProbs,
    windows: list[Windows],
    table: ByteTable,
    estimator: str = "nelbo",
    order: str | None = None,
    *,
    first_token: str = "stream",
    first_row: int = 0,
    batch_rows: int = 64,
    device=None,
    on_progress: Callable[[int, int], None] | None = None,
    **effort,
) -> Score:
    """Return the Score of all windows (groups of one length each; rows count on from first_row,
    group after group).

    effort: the other fields of Effort. on_progress(done, total) counts forward passes of single
    windows, as `forwards` does.
    """
    started = time.perf_counter()
    chosen = Effort(estimator, order, **effort)
    settings = {
        "first_token": first_token,
        "first_row": first_row,
        "batch_rows": batch_rows,
        "device": device,
    }
    parts = list(measure(log_probs, windows, table, chosen, **settings, on_progress=on_progress))
    return total(parts, chosen, time.perf_counter() - started)


def total(parts: list[Part], effort: Effort, seconds: float) -> Score:
    """Return the Score of all windows measured so far."""
    columns = [np.concatenate(column) for column in list(zip(*parts, strict=True))[1:5]]
    if not columns[-1].sum():
        raise InputError(
            "evaluation: expected windows that hold text, found control tokens only (0 bytes);"
            " choose other windows"
        )
    named = "left-to-right" if effort.estimator == "causal" else effort.order
    return likelihood.summarize(
        effort.estimator, named, *columns, sum(part.forwards for part in parts), seconds
    )


def measure(
    log_probs: LogProbs,
    windows: list[Windows],
    table: ByteTable,
    effort: Effort,
    *,
    first_token: str = "stream",
    first_row: int = 0,
    batch_rows: int = 64,
    device=None,
    plans: dict[int, Plan] | None = None,
    filled: int | None = None,
    on_progress: Callable[[int, int], None] | None = None,
) -> Iterator[Part]:
    """Yield one Part per batch of windows. A window's numbers depend on its row and the plan alone,
    so parts of any ranges add up.

    plans: {window length: the plan of nelbo}; one that is missing is fitted to the group's own
    windows, counted in a Part without windows, and added to plans. filled: the length whose batches
    are filled up to batch_rows however few its windows are, so that ranges scored apart agree to
    the last bit.
    """
    effort.check()
    method = METHODS[effort.estimator]
    if first_token not in FIRST_TOKENS:
        raise InputError(
            f"unknown first_token {first_token!r}: expected one of {', '.join(FIRST_TOKENS)};"
            " choose one of these"
        )
    if batch_rows < 1:
        raise InputError(
            f"evaluation: expected batch_rows of at least 1, found {batch_rows}; raise it"
        )
    windows = [group for group in windows if len(group.ids_NL)]
    plans = {} if plans is None else plans
    if not windows:
        raise InputError(
            "evaluation: expected at least one window, found none; choose a longer text or more"
            " sequences"
        )
    fitting = [method.planned and group.ids_NL.shape[1] not in plans for group in windows]
    pilots = [_pilot_total(group, effort) for group in itertools.compress(windows, fitting)]
    passes = [len(group.ids_NL) * effort.passes(group.ids_NL.shape[1]) for group in windows]
    expected, done = sum(pilots + passes), 0

    def on_pass(count: int) -> None:
        nonlocal done
        done += count
        if on_progress:
            on_progress(done, expected)

    vocab, settings = len(table.length_V), {"batch_rows": batch_rows, "device": device}
    for group, fits in zip(windows, fitting, strict=True):
        count, length = group.ids_NL.shape
        plan = plans.get(length)
        if fits:
            plan = fit_plan(log_probs, group, vocab, effort, first_row, **settings, on_pass=on_pass)
            plans.setdefault(length, plan)
            yield Part(*(np.zeros(0, np.int64),) * 5, _pilot_total(group, effort))
        bytes_N = window_bytes(group, table, first_token)
        size = batch_rows if length == filled else min(batch_rows, count)
        if method.ordered and isinstance(log_probs, RowPredictor):
            size = min(size, log_probs.most_rows(length))
        for start in range(0, count, size):
            kept = min(size, count - start)
            batch = group.take(np.minimum(np.arange(start, start + size), count - 1))
            once = {
                "batch_rows": size,
                "device": device,
                "on_pass": lambda _, kept=kept: on_pass(kept),
            }
            with np.errstate(invalid="ignore"):  # what is not finite is refused on the next line
                nats_N, variance_N = method.estimate(
                    log_probs, batch, vocab, effort, plan, first_row + start, once
                )
            _check_finite(nats_N[:kept])
            yield Part(
                first_row + np.arange(start, start + kept),
                nats_N[:kept],
                variance_N[:kept],
                np.full(kept, length),
                bytes_N[start : start + kept],
                kept * effort.passes(length),
            )
        first_row += count


def fit_plan(
    log_probs: LogProbs, group: Windows, vocab: int, effort: Effort, first_row: int = 0, **settings
) -> Plan:
    """Return the plan of nelbo fitted to a group of windows."""
    passes = pilot_passes(len(group.ids_NL), effort.draws)
    return likelihood.pilot(
        log_probs, group.ids_NL, vocab, passes, effort.seed, first_row, **settings
    )


def split_plan(
    log_probs: LogProbs, tokens: Tokens, length: int, vocab: int, effort: Effort, **settings
) -> tuple[Plan, int]:
    """Return (plan, passes) of nelbo for a split: fitted to its first windows, so that all its
    ranges share one plan and add up.
    """
    count = min(PLAN_WINDOWS, evaluation_count(tokens, length))
    group = evaluation_windows(tokens, length, vocab, 0, count)[0]
    return fit_plan(log_probs, group, vocab, effort, **settings), _pilot_total(group, effort)


def default_effort(recipe: Recipe) -> Effort:
    """Return the Effort that a recipe is scored by unless another is asked for."""
    objective = objective_of(recipe.model)
    estimator = objective.estimator
    order = objective.orders[0] if METHODS[estimator].ordered else None
    return Effort(estimator, order, epsilon=recipe.diffusion.epsilon)


def validated(tokens: Tokens, length: int) -> tuple[int, int]:
    """Return how many windows validation during training scores, the split's first, and how many
    the split has.
    """
    windows = evaluation_count(tokens, length)
    return min(VALIDATION_WINDOWS, windows), windows


def validator(
    recipe: Recipe, tokens: Tokens, table: ByteTable, device="cpu"
) -> Callable[..., Score]:
    """Return validate(state): the score of the averaged weights on the first windows of the
    validation split, as training logs it.
    """
    length, vocab = recipe.model.length, recipe.model.vocab
    count, _ = validated(tokens, length)
    windows = evaluation_windows(tokens, length, vocab, 0, count)
    effort = default_effort(recipe)
    how = effort.estimator, effort.order

    def validate(state) -> Score:
        predict = predictor(state.shadow, recipe, device)
        return evaluate(predict, windows, table, *how, seed=recipe.seed, device=device)

    return validate


def _pilot_total(group: Windows, effort: Effort) -> int:
    return 2 * pilot_passes(len(group.ids_NL), effort.draws)


class Method(NamedTuple):
    """An estimator. estimate(log_probs, group, vocab, effort, plan, first_row, settings) returns
    (nats_N, variance_N): the totals of windows and how far other masks would move them.
    """

    passes: Callable[[Effort, int], int]  # forward passes of one window of a length
    estimate: Callable[..., tuple[np.ndarray, np.ndarray]]
    planned: bool = False  # draws by the plan that a pilot fits
    ordered: bool = False  # goes along an order, row by row; takes positions and trailing too
    slides: bool = False  # takes a stride


def _nelbo(log_probs, group, vocab, effort, plan, first_row, settings):
    numbers = effort.draws, plan, effort.seed, first_row
    nats_NK = likelihood.nelbo(log_probs, group.ids_NL, vocab, *numbers, **settings)
    return nats_NK.mean(axis=1), likelihood.mask_variance(nats_NK)


def _nelbo_grid(log_probs, group, vocab, effort, plan, first_row, settings):
    grid = effort.points, effort.epsilon, effort.forced_below, effort.seed, first_row
    nats_NK = likelihood.nelbo_grid(log_probs, group.ids_NL, vocab, *grid, **settings)
    return nats_NK.mean(axis=1), likelihood.mask_variance(nats_NK)


def _chain(log_probs, group, vocab, effort, plan, first_row, settings):
    length = group.ids_NL.shape[1]
    if effort.positions is None or effort.positions >= length:
        return _exact(log_probs, group, vocab, effort, plan, first_row, settings)
    numbers = effort.order, effort.seed, effort.positions, first_row
    nats_NK = chain.sampled(log_probs, group.ids_NL, vocab, *numbers, **settings)
    return nats_NK.sum(axis=1), chain.sampled_variance(nats_NK, length)


def _chain_passes(effort: Effort, length: int) -> int:
    if effort.step > 1:
        return math.ceil(length / effort.step)
    return min(effort.positions or length, length)


def _causal_passes(effort: Effort, length: int) -> int:
    return math.ceil(length / (effort.stride or length))


def _exact(log_probs, group, vocab, effort, plan, first_row, settings):
    nats_NL = token_nats(log_probs, group, vocab, effort, first_row, **settings)
    return nats_NL.sum(axis=1), np.zeros(len(nats_NL))


METHODS = {
    "nelbo": Method(lambda effort, length: effort.draws, _nelbo, planned=True),
    "nelbo-grid": Method(lambda effort, length: effort.points, _nelbo_grid),
    "chain": Method(_chain_passes, _chain, ordered=True, slides=True),
    "causal": Method(_causal_passes, _exact, slides=True),
}


def token_nats(
    log_probs: LogProbs, group: Windows, vocab: int, effort: Effort, first_row: int = 0, **settings
) -> np.ndarray:
    """Return nats_NL, the exact cost of every token, by an estimator that knows it: causal or
    chain. Under a stride the group is Continued.
    """
    if effort.stride is not None:

        def cost(ids_NW, previous_N, first_N, count):
            if effort.estimator == "chain":
                given = ids_NW, vocab, first_N, count
                return chain.continuation(log_probs, *given, **settings)
            nats_NW = likelihood.causal_nll(log_probs, ids_NW, previous_N, **settings)
            return np.take_along_axis(nats_NW, first_N[:, None] + np.arange(count), axis=1)

        return likelihood.sliding(cost, group.ids_NL, group.context_NC, effort.stride)
    if effort.estimator == "causal":
        return likelihood.causal_nll(log_probs, group.ids_NL, group.previous_N, **settings)
    if effort.trailing is not None:
        return chain.trailing(log_probs, group.ids_NL, vocab, effort.trailing, **settings)
    how = effort.order, effort.seed, effort.step, effort.block
    return chain.chain(log_probs, group.ids_NL, vocab, *how, first_row, **settings)


def _check_finite(nats_N):
    bad = nats_N[~np.isfinite(nats_N)]
    if len(bad):
        problem = f"expected finite losses, found {len(bad)} such as {bad[0]}"
        raise InputError(
            f"evaluation: {problem}; the model gives nan, or probability 0 to a token of the text:"
            " check its weights"
        )


def predictor(
    params: dict[str, torch.Tensor],
    recipe: Recipe,
    device="cpu",
    compiled: bool = False,
    estimator: str | None = None,
) -> RowPredictor | LogProbs:
    """Return log_probs(ids_BL) -> (B, L, V) of a model, weights named or stacked: activations
    in the recipe's compute dtype, log-softmax in float32 or better.

    Where the objective allows it, it is a RowPredictor, which answers for single rows as well.
    estimator "causal": attention looks back and ids are the tokens before those that are asked
    for, as always of a causal model.
    """
    dtype = getattr(torch, recipe.training.compute_dtype)
    objective = objective_of(recipe.model)
    causal = objective.is_causal or estimator == "causal"
    if objective.single_rows and not causal:
        return RowPredictor(params, recipe.model, dtype, device, compiled)
    with torch.no_grad():
        weights = transformer.prepare(
            {name: value.detach().to(device) for name, value in params.items()}, recipe.model, dtype
        )

    model = recipe.model
    table = transformer.table_for(model, model.length, dtype, device)

    def log_probs(ids_BL: torch.Tensor) -> torch.Tensor:
        given_BL = (objective.before if causal else objective.shown)(ids_BL, model)
        logits_BLV = transformer.forward(weights, given_BL, model, dtype, table, causal=causal)
        return masking.log_softmax(logits_BLV)

    # One graph per window length: the last window of a stream is shorter, and short enough to run
    # as it is.
    fast_path = torch.compile(log_probs, dynamic=False) if compiled else log_probs
    return torch.no_grad()(
        lambda ids_BL: (fast_path if ids_BL.shape[1] == recipe.model.length else log_probs)(ids_BL)
    )
