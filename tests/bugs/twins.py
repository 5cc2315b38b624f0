"""Bugs that take the wrong one of a pair: training for validation text, one run for all, nats for
bits, a rank's own number for that of all.
"""

from tests.bugs import Bug
from tests.bugs.edits import always, call, constant, left, name, operator, right, whole

SHIP = "tests/pieces/test_ship.py::"
CALLBACKS = "tests/pieces/test_callbacks.py::test_lines_and_records_hold_the_numbers_of_their_names"


def per_token(compress, file, *given):
    """Bits of a compressed file over its tokens."""
    result = compress(file, *given)
    return result | {"bits_per_byte": 8 * result["bytes_out"] / max(result["tokens"], 1)}


def every_run_as_the_first(submission, runs, *given):
    """The description in which every seed has the steps of the first."""
    described = submission(runs, *given)
    for result in described["seed_results"].values():
        result["train_steps"] = described["train_steps"]
    return described


BUGS = [
    Bug(
        "validated-on-training-text",
        "harness.runs._train",
        name("validation", to="train", nth=1),
        "the curve looks better and better",
        ("tests/harness/test_beginning.py::test_a_run_is_validated_on_the_validation_split",),
    ),
    Bug(
        "program-validates-on-training-text",
        "fast.ship.submission.begin",
        name("validation", to="train"),
        "the same, in the program that ships",
        (SHIP + "test_what_a_program_begins_with",),
    ),
    Bug(
        "program-trains-on-validation-text",
        "fast.ship.submission.begin",
        name("train", to="validation"),
        "nothing could look better",
        (SHIP + "test_what_a_program_begins_with",),
    ),
    Bug(
        "program-scores-training-text",
        "fast.ship.submission.score_file",
        name("validation", to="train"),
        "the score of a memory",
        (SHIP + "test_an_artifact_is_scored_on_the_validation_split_and_weighed",),
    ),
    Bug(
        "validated-by-live-weights",
        "fast.evaluate.validator",
        name("shadow", to="params"),
        "what is logged is not what ships",
        ("tests/pieces/test_loop.py::test_validation_scores_the_average_of_its_own_windows",),
    ),
    Bug(
        "validated-under-one-seed",
        "fast.evaluate.validator",
        call(
            "evaluate", by=lambda evaluate, *given, **named: evaluate(*given, **named | {"seed": 0})
        ),
        "masks of another run: the numbers differ in the fourth place",
        ("tests/pieces/test_loop.py::test_validation_scores_the_average_of_its_own_windows",),
    ),
    Bug(
        "loss-and-norm-swapped",
        "fast.callbacks.RecordLoss.__call__",
        (name("loss", to="norm"), name("norm", to="loss")),
        "two floats of about 1",
        (CALLBACKS,),
    ),
    Bug(
        "bar-never-full",
        "fast.callbacks.ShowProgress.__call__",
        name("remaining", by=lambda remaining: remaining + 1),
        "the bar never fills",
        (
            "tests/pieces/test_callbacks.py::test_lines_and_records_come_as_often_as_the_recipe_says",
        ),
    ),
    Bug(
        "rate-of-the-whole-run",
        "fast.callbacks.tokens_per_second",
        operator("[]", by=lambda durations, index: durations[0]),
        "the first step for the last: a run that slows down does not show it",
        (CALLBACKS,),
    ),
    Bug(
        "tokens-of-a-micro-batch",
        "fast.callbacks.tokens_per_second",
        name("tokens_per_step", to="micro_batch_tokens"),
        "one micro-batch is all there is in the small presets",
        (CALLBACKS,),
    ),
    Bug(
        "error-bars-swapped",
        "fast.callbacks.Validate.__call__",
        (name("stderr_masks", to="stderr_sequences"), name("stderr_sequences", to="stderr_masks")),
        "two small numbers, one far smaller",
        (CALLBACKS,),
    ),
    Bug(
        "bits-under-the-name-of-nats",
        "fast.callbacks.Validate.__call__",
        name("nats_per_token", to="bpb"),
        "both are losses",
        (CALLBACKS,),
    ),
    Bug(
        "clock-of-the-last-step",
        "fast.callbacks.clock_text",
        name("elapsed", by=lambda elapsed: elapsed % 1),
        "seconds without their minutes",
        (CALLBACKS,),
    ),
    Bug(
        "gpu-of-the-rank",
        "fast.distributed.join",
        call("environment", by=lambda environment: (*environment()[:2], environment()[0])),
        "on one node the rank is the local rank",
        ("tests/pieces/test_ranks.py::test_a_rank_takes_the_gpu_of_its_place_on_the_machine",),
    ),
    Bug(
        "budget-of-the-slowest-rank",
        "fast.distributed.decide",
        operator("==", nth=2, by=always(True)),
        "ranks agree all the same, on another number",
        ("tests/pieces/test_ranks.py::test_rank_0_decides_on_the_steps_and_any_rank_on_a_signal",),
    ),
    Bug(
        "every-rank-looks-for-a-checkpoint",
        "fast.distributed.from_rank_0",
        operator("==", nth=2, by=always(True)),
        "the folder that rank 0 is about to fill",
        ("tests/pieces/test_three_ranks.py::test_rank_0_says_for_all_whether_a_run_goes_on",),
    ),
    Bug(
        "source-of-the-last-session",
        "harness.runs._describe",
        call("begun", by=lambda begun, out: {**begun(out), "source": {}}),
        "where the data is now, for where it was when the run began",
        ("tests/harness/test_beginning.py::test_what_is_written_of_a_run",),
    ),
    Bug(
        "own-signal-for-the-agreed-one",
        "fast.distributed.stop_on_all_ranks",
        name("agreed_signal", to="received_signal"),
        "one rank leaves a step before the others, which wait for it",
        ("tests/pieces/test_ranks.py::test_a_stop_is_agreed_upon_before_it_is_obeyed",),
    ),
    Bug(
        "last-failed-rank-speaks",
        "fast.distributed.fail_on_all_ranks",
        (name("MIN", to="MAX"), operator("is", by=lambda error, none: False)),
        "ranks that are well count as the last to fail",
        ("tests/pieces/test_ranks.py::test_the_lowest_rank_that_fails_raises_its_error",),
    ),
    Bug(
        "model-without-its-code",
        "fast.ship.log.size_lines",
        whole(by=lambda lines, label, model, code: lines(label, model, 0)),
        "the limit is on both together",
        (SHIP + "test_the_log_of_a_run_line_by_line",),
    ),
    Bug(
        "errors-of-the-score-swapped",
        "fast.ship.log.score_lines",
        whole(
            by=lambda lines, label, score: lines(
                label,
                score._replace(
                    stderr_masks=score.stderr_sequences, stderr_sequences=score.stderr_masks
                ),
            )
        ),
        "f-strings side by side",
        (SHIP + "test_the_log_of_a_run_line_by_line",),
    ),
    Bug(
        "distances-swapped",
        "fast.ship.log.closing_lines",
        (name("shadow", to="params"), name("params", nth=2, to="shadow")),
        "the average and the live weights lie close together",
        (SHIP + "test_the_log_of_a_run_line_by_line",),
    ),
    Bug(
        "distance-over-the-wrong-one",
        "fast.ship.log.distance",
        whole(by=lambda distance, one, other: distance(other, one)),
        "a relative distance is not symmetric",
        (SHIP + "test_the_log_of_a_run_line_by_line",),
    ),
    Bug(
        "steps-of-the-first-run-for-all",
        "harness.packaging.pack.submission",
        whole(by=every_run_as_the_first),
        "clock-bound runs differ by a few steps",
        ("tests/harness/test_submission.py::test_every_number_is_that_of_its_run",),
    ),
    Bug(
        "deviation-of-the-population",
        "harness.packaging.pack.submission",
        call("stdev", to="pstdev"),
        "divided by n: smaller by a fifth at three seeds",
        ("tests/harness/test_submission.py::test_every_number_is_that_of_its_run",),
    ),
    Bug(
        "bytes-of-the-last-run",
        "harness.packaging.pack.submission",
        operator("[]", nth=1, by=lambda runs, index: runs[-1]),
        "the artifact that ships is the first run's",
        ("tests/harness/test_submission.py::test_every_number_is_that_of_its_run",),
    ),
    Bug(
        "mean-loss-in-bits",
        "harness.packaging.pack.submission",
        constant("nats_per_token", "bpb", nth=2),
        "val_loss and val_bpb mixed up",
        ("tests/harness/test_submission.py::test_every_number_is_that_of_its_run",),
    ),
    Bug(
        "error-bars-of-a-seed-swapped",
        "harness.packaging.pack.submission",
        (constant("stderr_masks", "stderr_sequences", nth=2),),
        "copied from the line above",
        ("tests/harness/test_submission.py::test_every_number_is_that_of_its_run",),
    ),
    Bug(
        "code-not-counted-for-a-seed",
        "harness.packaging.pack.submission",
        operator("+", nth=1, by=right),
        "bytes_total is that of the model",
        ("tests/harness/test_submission.py::test_every_number_is_that_of_its_run",),
    ),
    Bug(
        "every-log-is-that-of-the-first",
        "harness.packaging.pack.pack",
        call("log_text", by=lambda log_text, run, score, code: log_text(run, score, 0)),
        "the size of the code is not known there",
        ("tests/harness/test_submission.py::test_a_folder_holds_what_its_runs_were",),
    ),
    Bug(
        "technique-for-hardware",
        "harness.packaging.pack.pack",
        call("fields", by=lambda fields, technique, hardware: fields(hardware, technique)),
        "two strings in a row",
        ("tests/harness/test_submission.py::test_a_folder_holds_what_its_runs_were",),
    ),
    Bug(
        "codec-of-the-default",
        "harness.packaging.pack.pack",
        call("build", by=lambda build, recipe, codec: build(recipe)),
        "the program that trains again compresses otherwise",
        ("tests/harness/test_submission.py::test_a_folder_holds_what_its_runs_were",),
    ),
    Bug(
        "time-of-one-run-for-all",
        "harness.packaging.pack._check_budgets",
        operator("[]", nth=1, by=always(0.0)),
        "the first run kept within the time",
        ("tests/harness/test_submission.py::test_every_run_is_held_to_the_budget",),
    ),
    Bug(
        "score-of-a-part-for-the-whole",
        "harness.packaging.pack.whole_score",
        operator("[]", nth=4, by=lambda tokens, index: tokens[0]),
        "tokens of the training split for those of the validation split",
        ("tests/harness/test_submission.py::test_the_score_of_the_whole_split_is_taken_or_made",),
    ),
    Bug(
        "bits-per-token",
        "harness.compression.compress.compress",
        whole(by=per_token),
        "per token or per byte, a factor of three that flatters nobody",
        ("tests/harness/test_compress.py::test_compress_counts_bytes_and_verifies_where_asked",),
    ),
    Bug(
        "bytes-before-and-after-swapped",
        "harness.importers.convert.convert",
        (constant("bytes_in", "bytes_was"), constant("bytes_out", "bytes_in")),
        "two sizes of one file",
        ("tests/harness/test_importers.py::test_an_import_says_which_file_it_read",),
    ),
    Bug(
        "speed-up-turned-over",
        "harness.bench.measure.paired",
        call("compared", by=lambda row, name, timed: row(name, [pair[::-1] for pair in timed])),
        "which side is the baseline",
        ("tests/harness/test_measure.py::test_pairs_are_timed_baseline_first",),
    ),
    Bug(
        "mean-for-median",
        "harness.bench.measure.compared",
        call("median", nth=2, to="fmean"),
        "one stall moves the ratio",
        ("tests/harness/test_measure.py::test_pairs_are_timed_baseline_first",),
    ),
    Bug(
        "warm-up-is-timed",
        "harness.bench.measure.turns",
        operator("[]", by=left),
        "the first turn compiles",
        ("tests/harness/test_measure.py::test_pairs_are_timed_baseline_first",),
    ),
    Bug(
        "rate-of-everything-from-the-start",
        "harness.display.progress.Bar.update",
        operator("-", nth=2, by=left),
        "a resumed run seems to have done all of it since",
        (
            "tests/harness/test_measure.py::test_the_time_left_is_that_at_the_rate_since_the_bar_began",
        ),
    ),
    Bug(
        "every-rank-prints",
        "harness.ranks.is_printed_by_another",
        operator(">", by=always(False)),
        "eight times the same message",
        ("tests/pieces/test_three_ranks.py::test_who_prints_an_error_that_all_ranks_share",),
    ),
    Bug(
        "splits-listed-under-each-others-names",
        "harness.corpus.shards.describe",
        (name("train", to="validation"), name("validation", to="train")),
        "a dict of two",
        ("tests/harness/test_corpus.py::test_build_report_describes_every_shard",),
    ),
]
