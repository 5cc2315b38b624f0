"""Bugs in what saves passes or rows, in drawing text, and in where tensors are."""

import numpy as np

from tests.bugs import Bug
from tests.bugs.edits import (
    always,
    argument,
    call,
    first,
    giving,
    left,
    operator,
    pair,
    receiver,
    right,
    without,
)

SLIDING = "tests/pieces/test_sliding.py"
ELSEWHERE = "tests/pieces/test_device.py::test_every_estimate_is_made_there"


def mixed(x, asked):
    """What a pair of terms adds up to: without the second where rows are asked for."""
    if not isinstance(x, tuple):
        return x
    return sum(x) if asked is None else x[0]


BUGS = [
    Bug(
        "query-rotated-as-the-first-rows",
        "fast.row_predictor.RowPredictor._attend",
        operator("[]", by=lambda table, index: table[:, None, : index[1].shape[1]], nth=3),
        "a queried row keeps its own position",
        ("query", "chain-queried"),
    ),
    Bug(
        "query-sees-one-token-more",
        "fast.row_predictor.RowPredictor.rows",
        operator("<", to="<=", nth=1),
        "off by one: a token that does not exist takes attention",
        ("query",),
    ),
    Bug(
        "query-heads-dealt-round",
        "fast.row_predictor.RowPredictor._attend",
        call(
            "reshape",
            nth=1,
            by=lambda reshape, rows, groups, *sizes: (
                reshape.__self__.unflatten(1, (-1, groups)).transpose(1, 2).flatten(2, 3)
            ),
        ),
        "heads of a group stand behind one another, not groups of a head",
        ("query", "chain-queried"),
    ),
    Bug(
        "query-first-gain-forgotten",
        "fast.row_predictor.RowPredictor._attend",
        operator("*", by=left),
        "the tables hold queries before their gain",
        ("query", "chain-queried"),
    ),
    Bug(
        "query-table-without-its-mix",
        "fast.row_predictor.tables",
        operator("+", by=left),
        "at the first block x and x0 are one, but both coefficients are trained",
        ("query", "chain-queried"),
    ),
    Bug(
        "query-last-row-unmixed",
        "fast.row_predictor.RowPredictor.rows",
        (
            operator("+", by=pair, nth=3),
            call(
                "_project",
                by=lambda project, x, prefix, asked: project(mixed(x, asked), prefix, asked),
            ),
            call("take_rows", by=lambda take, x, asked: take(mixed(x, asked), asked)),
        ),
        "the short cut of the last block leaves out a term",
        ("query", "chain-queried"),
    ),
    Bug(
        "query-normed-twice",
        "fast.row_predictor.RowPredictor._project",
        call("rmsnorm", by=lambda norm, x, eps: norm(norm(x, eps), eps), nth=1),
        "harmless but for eps and rounding: only float64 shows it",
        ("query",),
    ),
    Bug(
        "chain-fixed-never-reveals",
        "fast.chain._reveal",
        call("scatter_", by=receiver, nth=2),
        "every token is predicted from nothing",
        ("chain-queried",),
    ),
    Bug(
        "chain-fixed-place-shifted",
        "fast.chain._fixed_pass",
        operator("*", by=left),
        "with several positions per pass the passes overlap",
        ("chain-queried",),
    ),
    Bug(
        "chain-adaptive-asks-revealed-rows",
        "fast.chain._adaptive_pass",
        call("sort", by=giving(descending=False)),
        "masked rows that are not asked for can never be chosen",
        ("chain-queried",),
    ),
    Bug(
        "chain-adaptive-row-for-place",
        "fast.chain._adaptive_pass",
        call("gather", by=lambda gather, dim, places: places, nth=3),
        "a position in the window is not a place among the asked rows",
        ("chain-queried",),
    ),
    Bug(
        "chain-adaptive-charges-twice",
        "fast.chain._reveal",
        call("where", by=lambda where, masked, cost, paid: cost),
        "the last pass chooses more than is masked",
        ("chain-queried",),
    ),
    Bug(
        "bucket-too-small",
        "fast.chain._bucket",
        operator("//", by=lambda negative, size: -(-negative // size), nth=2),
        "rounded down: the rows that wait longest are forgotten",
        ("chain-queried",),
    ),
    Bug(
        "positions-shown-their-target",
        "fast.chain._sampled_pass",
        operator(">=", to=">"),
        "peeking: the asked token stands in its own context",
        ("chain-positions",),
    ),
    Bug(
        "positions-weighed-by-size",
        "fast.chain.draw_positions",
        operator("/", by=lambda grid, share: np.round(grid / share)),
        "the shares of a draw's 2**24 values are not quite equal",
        ("chain-positions",),
    ),
    Bug(
        "positions-all-windows-alike",
        "fast.chain.draw_positions",
        call("words", by=argument(3, lambda rows: rows * 0)),
        "one draw for all windows: its luck does not average out",
        ("chain-positions",),
    ),
    Bug(
        "positions-first-row-forgotten",
        "fast.chain.sampled",
        operator("+", by=right),
        "two parts of a stream share their positions",
        ("chain-positions",),
    ),
    Bug(
        "positions-spread-never-shrinks",
        "fast.chain.sampled_variance",
        operator("/", by=always(1.0)),
        "all positions drawn leave no doubt",
        ("chain-positions",),
    ),
    Bug(
        "trailing-one-mask-fewer",
        "fast.chain._trailing_pass",
        operator("+", by=lambda behind, masks: behind + masks - int(masks > 0), nth=2),
        "off by one, unseen at 0 masks",
        ("chain-trailing",),
    ),
    Bug(
        "continuation-shown-its-first-token",
        "fast.chain.continuation",
        operator("<", to="<="),
        "peeking: the first of the charged tokens stands in its own context",
        ("chain-sliding", f"{SLIDING}::test_a_continuation_is_shown_all_that_stands_before_it"),
    ),
    Bug(
        "continuation-without-context",
        "fast.chain.continuation",
        call("where", by=lambda where, known, ids, current: current),
        "what slid in stays hidden: less context than side by side",
        ("chain-sliding", f"{SLIDING}::test_a_continuation_is_shown_all_that_stands_before_it"),
    ),
    Bug(
        "sample-temperature-upside-down",
        "fast.sample.draw",
        operator("/", to="*"),
        "right at temperature 1",
        ("sample",),
    ),
    Bug(
        "sample-same-luck-everywhere",
        "fast.sample.gumbel",
        call("words", by=argument(2, lambda position: position * 0)),
        "every position draws with the same numbers",
        ("sample",),
    ),
    Bug(
        "sample-unfinished",
        "fast.sample.fill",
        call("range", by=lambda range, start, stop, step: range(start, stop - stop % step, step)),
        "the last pass reveals fewer",
        ("sample",),
    ),
    Bug(
        "sample-behind-the-stop",
        "fast.sample._pass",
        operator("&", by=left),
        "as many are drawn, the best of all hidden ones",
        ("sample",),
    ),
    Bug(
        "sample-rank-of-the-pass",
        "fast.sample._Draws.reveal_",
        call(
            "arange", nth=-1, by=lambda arange, first, stop, **where: arange(stop - first, **where)
        ),
        "every pass counts from 0",
        ("sample",),
    ),
    Bug(
        "chain-index-on-the-host",
        "fast.chain._fixed_pass",
        call("arange", by=without("device")),
        "right on a CPU; elsewhere positions and tokens are on two devices",
        (ELSEWHERE,),
    ),
    Bug(
        "pilot-sizes-on-the-host",
        "fast.likelihood.pilot",
        call("to", by=receiver),
        "right on a CPU; elsewhere sizes and words are on two devices",
        (ELSEWHERE,),
    ),
    Bug(
        "next-token-unrotated",
        "fast.next_predictor.NextPredictor._attend",
        call("rope", by=first),
        "a cache that forgets at which position a key stands",
        ("next",),
    ),
    Bug(
        "next-token-neighbours-oldest-first",
        "fast.next_predictor.NextPredictor.next",
        call("cat", by=lambda cat, parts, dim: cat(parts[::-1], dim=dim)),
        "a queue turned round",
        ("next",),
    ),
    Bug(
        "next-token-of-the-window-before",
        "fast.next_predictor.NextPredictor.begin",
        call("Past", by=lambda past, keys, values, last: past(keys, values, last + 1)),
        "a past that does not begin empty",
        ("next",),
    ),
]
