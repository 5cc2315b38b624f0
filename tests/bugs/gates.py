"""Bugs in what decides whether something happens: on the wrong condition, off by one, or never."""

from tests.bugs import Bug
from tests.bugs.edits import always, argument, call, left, name, operator, whole

SHIP = "tests/pieces/test_ship.py::"
LOOP = "tests/pieces/test_loop.py::"


def unless_resumed(run, recipe, source, out, resume, overwrite, device, compiled, preflight, *rest):
    """A run that is not checked where it goes on."""
    given = recipe, source, out, resume, overwrite, device, compiled
    return run(*given, None if resume else preflight, *rest)


def unless_overwritten(run, recipe, source, out, resume, overwrite, *rest):
    """A run that is told to overwrite what there is."""
    return run(recipe, source, out, resume, not resume, *rest)


BUGS = [
    Bug(
        "preflight-not-on-resuming",
        "harness.runs.run",
        whole(by=unless_resumed),
        "the machine may be another than the one that began",
        ("tests/harness/test_beginning.py::test_a_run_is_checked_before_anything_is_touched",),
    ),
    Bug(
        "preflight-always-eager",
        "harness.runs.run",
        call("_check_parity", by=argument(2, always(False))),
        "what is checked is not what runs",
        ("tests/harness/test_beginning.py::test_a_run_is_checked_before_anything_is_touched",),
    ),
    Bug(
        "preflight-behind-the-overwriting",
        "harness.runs.run",
        call("_check_parity", by=lambda check, *given: None),
        "a red preflight has cost a run",
        ("tests/harness/test_beginning.py::test_a_run_is_checked_before_anything_is_touched",),
    ),
    Bug(
        "preflight-of-the-reference-machine",
        "harness.runs._check_parity",
        call("preflight", by=argument(1, always("cpu"))),
        "the device of the run is never looked at",
        ("tests/harness/test_beginning.py::test_a_preflight_is_that_of_the_run",),
    ),
    Bug(
        "preflight-in-float32",
        "harness.parity._chosen",
        name("compute_dtype", by=always("float32")),
        "the dtype of the masters",
        ("tests/harness/test_beginning.py::test_a_preflight_is_that_of_the_run",),
    ),
    Bug(
        "preflight-compiles-nothing",
        "harness.parity.preflight",
        call(
            "examine",
            by=lambda examine, piece, device, dtypes, compiled: examine(piece, device, dtypes),
        ),
        "the eager rows are green",
        ("tests/harness/test_beginning.py::test_a_preflight_is_that_of_the_run",),
    ),
    Bug(
        "data-of-the-resumed-unchecked",
        "harness.runs.run",
        call("_check_data", by=always(None), nth=1),
        "goes on, on other text",
        ("tests/harness/test_beginning.py::test_a_run_is_checked_before_anything_is_touched",),
    ),
    Bug(
        "overwritten-unasked",
        "harness.runs.run",
        whole(by=unless_overwritten),
        "the run of last week",
        ("tests/harness/test_beginning.py::test_a_run_is_checked_before_anything_is_touched",),
    ),
    Bug(
        "run-of-another-overwritten",
        "harness.records.run_directory.check",
        operator("not x", by=always(False), nth=2),
        "an existing run is an existing folder",
        ("tests/harness/test_beginning.py::test_a_folder_is_emptied_where_asked_alone",),
    ),
    Bug(
        "foreign-files-swept-away",
        "harness.records.run_directory.check",
        operator("-", by=always(set()), nth=1),
        "only an existing recipe.json is looked for",
        ("tests/harness/test_beginning.py::test_a_folder_is_emptied_where_asked_alone",),
    ),
    Bug(
        "repeatable-ignored",
        "harness.runs._train",
        call("deterministic", by=lambda deterministic, repeatable: deterministic()),
        "the field is in the recipe, the mode has a default",
        ("tests/harness/test_beginning.py::test_a_run_repeats_where_its_recipe_says_so",),
    ),
    Bug(
        "program-not-repeatable",
        "fast.ship.submission.train_model",
        call("deterministic", by=lambda deterministic, repeatable: deterministic()),
        "the same in the program that ships",
        (SHIP + "test_a_program_trains_as_its_recipe_says",),
    ),
    Bug(
        "every-rank-writes-a-log",
        "fast.ship.submission.begin",
        name("rank", by=always(0)),
        "eight processes, one file",
        (SHIP + "test_only_rank_0_has_a_log_and_callbacks",),
    ),
    Bug(
        "every-rank-writes-the-artifact",
        "fast.ship.submission.run",
        operator("==", nth=1, by=always(True)),
        "the last one wins",
        (SHIP + "test_only_rank_0_has_a_log_and_callbacks",),
    ),
    Bug(
        "program-never-weighed",
        "fast.ship.submission.score_file",
        call("check_size", by=always(None)),
        "the limit is checked by whoever packs",
        (SHIP + "test_an_artifact_is_scored_on_the_validation_split_and_weighed",),
    ),
    Bug(
        "first-step-due",
        "fast.callbacks.is_due",
        operator("%", by=lambda step, every: (step - 1) % every),
        "steps counted from 0",
        ("tests/pieces/test_callbacks.py::test_the_last_step_is_due_whatever_the_number",),
    ),
    Bug(
        "last-step-not-due",
        "fast.callbacks.is_due",
        name("finished", by=always(False)),
        "the end is a multiple, in the presets",
        ("tests/pieces/test_callbacks.py::test_the_last_step_is_due_whatever_the_number",),
    ),
    Bug(
        "never-is-always",
        "fast.callbacks.is_due",
        operator("and", to="or"),
        "0 means never, and divides nothing",
        ("tests/pieces/test_callbacks.py::test_the_last_step_is_due_whatever_the_number",),
    ),
    Bug(
        "average-a-step-late",
        "fast.train.train",
        operator("-", nth=4, by=left),
        "remaining counts the step just done",
        ("tests/pieces/test_train.py::test_shadow_is_seeded_at_its_moment",),
    ),
    Bug(
        "clock-without-the-first-callback",
        "fast.train.train",
        call("sum", by=lambda sum, seconds: [*seconds][0]),
        "one callback of a list",
        (LOOP + "test_seconds_of_all_callbacks_are_off_the_clock",),
    ),
    Bug(
        "durations-of-the-whole-run",
        "fast.train.train",
        operator("-", nth=5, by=left),
        "elapsed for the time of the step: the median grows and grows",
        (LOOP + "test_durations_are_those_of_the_last_hundred_steps",),
    ),
    Bug(
        "durations-without-end",
        "fast.train.train",
        operator("[]", nth=3, by=left),
        "a checkpoint that grows with the run",
        (LOOP + "test_durations_are_those_of_the_last_hundred_steps",),
    ),
    Bug(
        "durations-of-a-few-steps",
        "fast.train.train",
        operator("[]", nth=3, by=lambda durations, _: durations[-9:]),
        "as good a median, until a stall",
        (LOOP + "test_durations_are_those_of_the_last_hundred_steps",),
    ),
    Bug(
        "resumed-clock-from-zero",
        "fast.train.train",
        operator("-", nth=1, by=left),
        "every resumption is another budget",
        ("tests/pieces/test_loop.py::test_a_resumed_run_has_the_time_that_is_left",),
    ),
    Bug(
        "finished-a-step-early",
        "fast.train.train",
        operator("==", by=lambda remaining, one: remaining <= 2),
        "the last step is lost",
        ("tests/pieces/test_schedule.py::test_a_finished_run_takes_no_more_steps",),
    ),
    Bug(
        "fails-over-the-limit-alone",
        "fast.artifact.check_size",
        operator(">", by=lambda total, limit: total > limit + 1),
        "off by one at the limit",
        (
            "tests/pieces/test_artifact.py::test_over_the_limit_says_by_how_much_and_which_tensors_weigh_most",
        ),
    ),
]
