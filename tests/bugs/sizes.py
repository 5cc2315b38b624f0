"""Bugs that only lopsided sizes show: three ranks, sets of unlike size, more than two epochs, parts
that do not divide the whole.
"""

from tests.bugs import Bug
from tests.bugs.edits import always, call, first, left, operator, whole

RANKS = "tests/pieces/test_ranks.py::"
BATCHES = "tests/pieces/test_loop.py::test_batches_of_a_recipe_over_several_epochs_and_shards"


def pooled(welch, one, other):
    """Welch's test with Student's degrees of freedom."""
    result = welch(one, other)
    return result | {"degrees_of_freedom": len(one) + len(other) - 2}


BUGS = [
    Bug(
        "odd-rank-vanishes",
        "fast.distributed._sum_flat",
        operator("+", nth=2, by=left),
        "pairs of ranks: at 1, 2 and 4 nobody is left over",
        (RANKS + "test_sums_are_a_tree_of_neighbours_on_every_rank",),
    ),
    Bug(
        "slices-for-powers-of-two",
        "fast.distributed._sum_flat",
        operator("%", nth=1, by=lambda length, size: length % (size & -size)),
        "a number of ranks that divides nothing",
        (RANKS + "test_sums_are_a_tree_of_neighbours_on_every_rank",),
    ),
    Bug(
        "padding-handed-on",
        "fast.distributed._sum_flat",
        operator("[]", nth=-1, by=left),
        "zeros behind the last tensor, which split() refuses or takes",
        (RANKS + "test_sums_are_a_tree_of_neighbours_on_every_rank",),
    ),
    Bug(
        "rows-left-over-are-dropped",
        "fast.distributed.share",
        operator("%", nth=1, by=always(0)),
        "11 rows on 3 ranks train on 9",
        (RANKS + "test_rows_that_cannot_be_shared_are_refused",),
    ),
    Bug(
        "micro-batch-cut-short",
        "fast.distributed.share",
        operator("%", nth=2, by=always(0)),
        "the last micro-batch is smaller and counts as much",
        (RANKS + "test_rows_that_cannot_be_shared_are_refused",),
    ),
    Bug(
        "micro-batch-of-another-rank",
        "fast.distributed.share",
        operator("*", nth=2, by=lambda rank, rows: (rank + 1) * rows - 1 + (rank == 0)),
        "rows overlap by one",
        (RANKS + "test_a_rank_has_its_slice_of_the_rows",),
    ),
    Bug(
        "three-ranks-train-apart",
        "fast.train.Stepper.gradients",
        call(
            "sum_over_ranks",
            by=lambda total, tensors, world: tensors if world.size % 2 else total(tensors, world),
        ),
        "odd worlds are not supported, and nobody says so",
        ("tests/pieces/test_three_ranks.py::test_three_ranks_train_the_run_of_one",),
    ),
    Bug(
        "third-rank-scores-nothing",
        "fast.ship.submission.score_tokens",
        operator("*", nth=3, by=lambda rank, share: min(rank, 1) * share),
        "two ranks share the windows, and the others score them again",
        ("tests/pieces/test_ship.py::test_ranks_share_a_score_whatever_their_number",),
    ),
    Bug(
        "share-of-whole-batches-alone",
        "fast.ship.submission.score_tokens",
        operator("//", by=lambda a, b: -((-a) // b)),
        "windows of the last, incomplete batch are nobody's",
        ("tests/pieces/test_ship.py::test_ranks_share_a_score_whatever_their_number",),
    ),
    Bug(
        "two-epochs-for-ever",
        "fast.data.window_index",
        call("permutation", by=lambda order, seed, epoch, windows: order(seed, epoch % 2, windows)),
        "the third epoch is the first again",
        (BATCHES,),
    ),
    Bug(
        "epoch-begins-a-step",
        "fast.data.window_index",
        whole(
            by=lambda index, step, row, rows, windows, *given: index(
                step, min(row, windows - 1), rows, windows, *given
            )
        ),
        "more rows than windows",
        (BATCHES,),
    ),
    Bug(
        "remainder-of-the-rows-forgotten",
        "fast.data.window_index",
        operator("*", by=lambda step, rows: step * max(rows - 1, 1)),
        "the first row of a step is the last of the one before",
        (BATCHES,),
    ),
    Bug(
        "students-degrees-of-freedom",
        "harness.evaluation.stats.welch",
        whole(by=pooled),
        "the same at sets of one size and one spread",
        ("tests/harness/test_paired.py::test_welch_matches_published_values",),
    ),
    Bug(
        "last-batch-of-the-coder-filled-up",
        "harness.compression.coder.batches",
        call("min", by=first),
        "windows that are a multiple of the rows",
        ("tests/harness/test_compress.py::test_batches_cover_every_window_once",),
    ),
    Bug(
        "first-micro-batch-prepared-alone",
        "fast.train.Stepper.prepare",
        call("_micro_batches", by=lambda micro_batches: micro_batches()[:1]),
        "the batch is one micro-batch, in the small presets",
        ("tests/pieces/test_loop.py::test_all_micro_batches_of_a_rank_are_prepared",),
    ),
]
