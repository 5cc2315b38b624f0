"""Which score is asked for: the arguments of maskgolf eval, and which of them count.

None stands for an argument that is not given. One that is given and would not count is refused.
"""

from collections.abc import Iterable
from dataclasses import dataclass, fields, replace
from typing import Annotated, Literal

import tyro

from reference.recipe import (
    ESTIMATOR_OPTIONS,
    ORDER_OPTIONS,
    Estimator,
    InputError,
    Order,
    ScoreOptions,
    check_passes,
)

FIRST_ORDER = "left-to-right"  # of chain, where none is given
DEFAULTS = {"from_": 0, "first_token": "stream", "seed": 0, "batch_rows": 64}


def _number(default, **names):
    """Return the annotation of a whole number that has a default where it is not given."""
    return tyro.conf.arg(metavar="INT", help_behavior_hint=f"(default: {default})", **names)


def _choice(default: str):
    return tyro.conf.arg(help_behavior_hint=f"(default: {default})")


@dataclass(frozen=True)
class Estimate:
    """Which bits per byte: the estimator, its order and its effort."""

    # nelbo: unbiased, with an error bar. nelbo-grid: the published grid, biased upward. chain:
    # exact, one pass per token. causal: exact left to right in one pass, of a model that trained on
    # causal rows.
    estimator: Annotated[
        Literal[Estimator, "causal"] | None, _choice("the model's own, nelbo or causal")
    ] = None
    # Evaluation order of chain.
    order: Annotated[Order | None, _choice(FIRST_ORDER)] = None
    draws: Annotated[int | None, _number(ScoreOptions.draws)] = None  # nelbo: masks per window
    points: Annotated[int | None, _number(ScoreOptions.points)] = None  # nelbo-grid: times
    # chain: positions revealed per pass.
    step: Annotated[int | None, _number(ScoreOptions.step)] = None
    # chain along block: tokens per block.
    block: Annotated[int | None, _number(ScoreOptions.block)] = None
    # chain along left-to-right, right-to-left or random: estimate from this many drawn positions
    # per window, with an error bar.
    positions: Annotated[int | None, _number("all")] = None
    # chain left-to-right: mask tokens kept behind the queried position.
    trailing: Annotated[int | None, _number("to the end of the window")] = None
    # causal, chain left-to-right: start a window every so many tokens, a divisor of its length, and
    # score its last ones alone, so that every token but the first has more context.
    stride: Annotated[int | None, _number("windows side by side")] = None
    # First window, counted from 0.
    from_: Annotated[int | None, _number(DEFAULTS["from_"], name="from")] = None
    sequences: Annotated[int | None, _number("all")] = None  # how many windows
    # Token before each window's first token, which decides whether its leading space is a byte of
    # text: the true one of the stream, or as if it were a control token.
    first_token: Annotated[
        Literal["stream", "control"] | None, _choice(DEFAULTS["first_token"])
    ] = None
    # Of masks, drawn positions and random orders.
    seed: Annotated[int | None, _number(DEFAULTS["seed"])] = None
    # Windows per forward pass.
    batch_rows: Annotated[int | None, _number(DEFAULTS["batch_rows"])] = None

    def options(self) -> dict:
        """Return {name: value} of what is given and not read by every estimator."""
        names = [field.name for field in fields(ScoreOptions)][1:] + ["seed"]
        values = {name: getattr(self, name) for name in names}
        return {name: value for name, value in values.items() if value is not None}

    def filled(self) -> "Estimate":
        """Return the same with the DEFAULTS of what is not given."""
        missing = {name: value for name, value in DEFAULTS.items() if getattr(self, name) is None}
        return replace(self, **missing)

    def check(self) -> None:
        """Raise InputError for windows that no split has, and for an option that the estimator,
        where one is named, does not read.
        """
        for name, least in {"stride": 1, "from_": 0, "sequences": 1, "batch_rows": 1}.items():
            value = getattr(self, name)
            if value is not None and value < least:
                flag = name.strip("_").replace("_", "-")
                raise InputError(f"--{flag}: expected at least {least}, found {value}; raise it")
        numbers = self.step or 1, self.positions, self.trailing, self.stride
        check_passes(self.order or FIRST_ORDER, *numbers)
        if self.estimator:
            check_read(self, [self.estimator])


def read_by(estimate: Estimate, estimator: str) -> set[str]:
    """Return which options an estimator reads."""
    names = set(ESTIMATOR_OPTIONS.get(estimator, ()))
    if "order" in names:
        read = {"seed"} if estimate.positions is not None else set()
        read |= set(ORDER_OPTIONS.get(estimate.order or FIRST_ORDER, ()))
        return names - set().union(*ORDER_OPTIONS.values()) | read
    if estimator == "causal" and estimate.order == FIRST_ORDER:
        return names | {"order"}  # its only one
    return names


def check_read(estimate: Estimate, estimators: Iterable[str]) -> None:
    """Raise InputError for a given option that none of some estimators reads."""
    estimators = list(dict.fromkeys(estimators))
    for name, value in estimate.options().items():
        if any(name in read_by(estimate, estimator) for estimator in estimators):
            continue
        found = " and ".join(
            f"chain along {estimate.order or FIRST_ORDER}" if estimator == "chain" else estimator
            for estimator in estimators
        )
        raise InputError(
            f"--{name} {value}: expected {_readers(name)}, which reads it, found {found}; drop it"
        )


def _readers(name: str) -> str:
    orders = " or ".join(order for order, names in ORDER_OPTIONS.items() if name in names)
    readers = [
        f"chain --order {orders}" if orders and "order" in names else estimator
        for estimator, names in ESTIMATOR_OPTIONS.items()
        if name in names
    ]
    return f"--estimator {' or '.join(readers)}"
