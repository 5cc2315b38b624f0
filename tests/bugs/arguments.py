"""Bugs between a flag or a parameter and the function it is meant for: accepted and dropped, or
handed to its neighbour.
"""

from tests.bugs import Bug
from tests.bugs.edits import always, argument, call, constant, name, without

COMMANDS = "tests/harness/test_passing.py::test_what_a_command_is_given_arrives"
LIBRARY = "tests/harness/test_passing.py::test_"
SUMMARY = "tests/validate/test_summary.py::test_"


def first_arguments(count: int):
    """A function that makes the call with its first arguments alone."""
    return lambda original, *given, **_: original(*given[:count])


def swapped(one: int, other: int):
    """A function that makes the call with two of its arguments in each other's place."""

    def call_swapped(original, *given, **named):
        given = list(given)
        given[one], given[other] = given[other], given[one]
        return original(*given, **named)

    return call_swapped


BUGS = [
    Bug(
        "resume-dropped",
        "harness.api.train",
        call("run", by=argument(3, always(False))),
        "a run of hours begins again from the start",
        (f"{COMMANDS}[train]",),
    ),
    Bug(
        "resume-and-overwrite-swapped",
        "harness.api.train",
        call("run", by=swapped(3, 4)),
        "two booleans side by side",
        (f"{COMMANDS}[train]",),
    ),
    Bug(
        "compiled-flag-dropped",
        "harness.api.train",
        call("run", by=argument(6, always(True))),
        "--no-compiled compiles all the same",
        (f"{COMMANDS}[train]",),
    ),
    Bug(
        "preflight-flag-dropped",
        "harness.api.train",
        call("run", by=first_arguments(7)),
        "the check that every run begins with is off by default",
        (f"{COMMANDS}[train]",),
    ),
    Bug(
        "demo-trains-what-it-likes",
        "harness.commands.demo.Demo.run",
        call("train", by=without("compiled")),
        "a keyword that has a default is missed by nobody",
        (f"{COMMANDS}[demo]",),
    ),
    Bug(
        "demo-scores-the-whole-split",
        "harness.commands.demo.Demo.run",
        call("train", by=without("sequences")),
        "chain rules over all of the text: the demo takes an hour",
        (f"{COMMANDS}[demo]",),
    ),
    Bug(
        "temperature-dropped",
        "harness.api.sample",
        call("sample", by=argument(7, always(1.0))),
        "samples look as they always do",
        (f"{COMMANDS}[sample]",),
    ),
    Bug(
        "step-and-block-swapped",
        "harness.api.sample",
        call("sample", by=swapped(5, 6)),
        "integers in a row, passed by position",
        (f"{COMMANDS}[sample]",),
    ),
    Bug(
        "verify-dropped",
        "harness.commands.compress.Compress.run",
        call("compress", by=first_arguments(6)),
        "the file is written unchecked: nothing shows until it is needed",
        (f"{COMMANDS}[compress]",),
    ),
    Bug(
        "coded-order-dropped",
        "harness.commands.compress.Compress.run",
        name("order", by=always("left-to-right")),
        "the file restores whatever the order",
        (f"{COMMANDS}[compress]",),
    ),
    Bug(
        "tokenizer-for-restoring-dropped",
        "harness.commands.decompress.Decompress.run",
        name("tokenizer", by=always(None)),
        "found beside the run's data wherever it was tried",
        (f"{COMMANDS}[decompress]",),
    ),
    Bug(
        "source-of-the-packed-dropped",
        "harness.commands.pack.Pack.run",
        name("source", by=always(None)),
        "the data still lies where the run found it",
        (f"{COMMANDS}[pack]",),
    ),
    Bug(
        "claim-of-a-few-fields",
        "harness.commands.pack.Pack.run",
        call("fields", by=lambda fields, kind: fields(kind)[:-1]),
        "the track has a default",
        (f"{COMMANDS}[pack]",),
    ),
    Bug(
        "tokenizer-trained-though-one-is-named",
        "harness.commands.data.Build.run",
        call("from_text", by=first_arguments(3)),
        "the shards are readable, by another tokenizer",
        (f"{COMMANDS}[data build]",),
    ),
    Bug(
        "vocabulary-of-the-build-dropped",
        "harness.commands.data.Build.run",
        name("vocab", by=always(1024)),
        "the default is what most people want",
        (f"{COMMANDS}[data build]",),
    ),
    Bug(
        "one-shard-whatever-is-asked",
        "harness.commands.data.Fineweb.run",
        call("fetch_fineweb", by=first_arguments(1)),
        "the first shard trains just as well",
        (f"{COMMANDS}[data fineweb]",),
    ),
    Bug(
        "listed-without-the-tokenizer",
        "harness.commands.data.List.run",
        call("_described", by=first_arguments(1)),
        "the table shows dashes where it cannot count",
        (f"{COMMANDS}[data list]",),
    ),
    Bug(
        "assumptions-dropped",
        "harness.commands.import_.Import.run",
        call("convert", by=first_arguments(2)),
        "a model of another window length scores, worse",
        (f"{COMMANDS}[import]",),
    ),
    Bug(
        "parity-never-compiled",
        "harness.commands.parity.Parity.run",
        name("compiled", by=always(False)),
        "all rows are green, of another program",
        (f"{COMMANDS}[parity]",),
    ),
    Bug(
        "parity-in-the-default-dtypes",
        "harness.commands.parity.Parity.run",
        name("dtype", nth=1, by=always(None)),
        "float16 is asked for and never computed",
        (f"{COMMANDS}[parity]",),
    ),
    Bug(
        "plot-of-nothing-asked",
        "harness.commands.report.Report.run",
        call("plot", by=lambda plot, runs, path: plot(runs[:1], path)),
        "the curve of one run of several",
        (f"{COMMANDS}[report]",),
    ),
    Bug(
        "time-limit-dropped",
        "harness.commands.validate.Validate.run",
        call("validate", nth=1, by=first_arguments(4)),
        "ten minutes are enough for what was tried",
        (f"{COMMANDS}[validate]",),
    ),
    Bug(
        "nothing-is-executed",
        "harness.commands.validate.Validate.run",
        name("run_", by=always(False)),
        "checks that did not run do not fail",
        (f"{COMMANDS}[validate]",),
    ),
    Bug(
        "strict-dropped",
        "harness.commands.validate.Validate.run",
        name("strict", nth=2, by=always(False)),
        "a warning that was asked to be an error",
        (f"{SUMMARY}score_and_rules_decide_the_exit_status_and_paperwork_if_asked",),
    ),
    Bug(
        "paperwork-counts-as-failure",
        "harness.validate.verdict.is_sound",
        constant("score", to="paperwork"),
        "a verdict that is nearly always fail is not read, and a wrong score is none",
        (f"{SUMMARY}score_and_rules_decide_the_exit_status_and_paperwork_if_asked",),
    ),
    Bug(
        "any-reason-is-missing-alone",
        "harness.validate.summary.missing",
        call("split", by=lambda split, *given: [split("\0")[0]]),
        "one missing artifact in ten rows",
        (f"{SUMMARY}a_missing_thing_is_named_once_with_all_that_wait_for_it",),
    ),
    Bug(
        "passes-always-listed",
        "harness.display.report.validation",
        name("passes", nth=2, by=always(True)),
        "what matters scrolls away",
        (f"{SUMMARY}passes_are_counted_and_listed_if_asked",),
    ),
    Bug(
        "gate-of-an-eager-benchmark",
        "harness.commands.bench.Bench.run",
        call("require", by=first_arguments(2)),
        "what is timed is compiled, what is compared is not",
        (f"{COMMANDS}[bench likelihood]",),
    ),
    Bug(
        "samples-of-one-seed",
        "harness.sampling.samples.sample",
        call("fill", by=argument(4, always(0))),
        "the seed of the command is that of the default",
        (f"{LIBRARY}a_sample_is_drawn_as_asked",),
    ),
    Bug(
        "one-position-per-pass",
        "harness.sampling.samples.sample",
        call("fill", by=argument(5, always(1))),
        "slower, and better text",
        (f"{LIBRARY}a_sample_is_drawn_as_asked",),
    ),
    Bug(
        "text-cut-by-another-tokenizer",
        "harness.corpus.dataset.layout_of",
        call("from_text", by=first_arguments(3)),
        "--tokenizer counts for --data and not for --text",
        (f"{LIBRARY}text_is_built_as_asked",),
    ),
    Bug(
        "holdout-of-the-default",
        "harness.corpus.prepare.from_text",
        call("split_documents", by=first_arguments(2)),
        "a tenth is what everybody asks for",
        ("tests/harness/test_corpus.py::test_cache_is_keyed_by_text_vocabulary_and_tokenizer",),
    ),
    Bug(
        "first-file-alone",
        "harness.corpus.prepare.from_text",
        call("read_documents", by=argument(0, lambda files: files[:1])),
        "one file is what the tests had",
        (f"{LIBRARY}every_file_is_read_and_split_as_asked",),
    ),
    Bug(
        "order-of-the-fresh-score-dropped",
        "harness.evaluation.scoring.score_fresh",
        constant("--order", "--estimator"),
        "left to right is the default",
        (f"{LIBRARY}a_fresh_process_is_asked_for_the_same_score",),
    ),
    Bug(
        "windows-of-the-fresh-score-dropped",
        "harness.evaluation.scoring.score_fresh",
        call("str", nth=2, by=always("1")),
        "the text of the baselines is another than that of the score",
        (f"{LIBRARY}a_fresh_process_is_asked_for_the_same_score",),
    ),
    Bug(
        "data-of-the-fresh-score-dropped",
        "harness.evaluation.scoring.score_fresh",
        call("flags", by=always([])),
        "the subprocess finds the run's own data, on this machine",
        (f"{LIBRARY}a_fresh_process_is_asked_for_the_same_score",),
    ),
    Bug(
        "tokenizer-not-among-the-flags",
        "harness.corpus.sources.Source.flags",
        constant("--tokenizer", "--data"),
        "the folder holds one tokenizer, usually",
        (f"{LIBRARY}a_source_survives_flags_and_files",),
    ),
    Bug(
        "one-text-of-several-restored",
        "harness.corpus.sources.Source.restore",
        call("Path", nth=-1, by=lambda path, text: path(text).parent),
        "the text of a run is read again on resuming",
        (f"{LIBRARY}a_source_survives_flags_and_files",),
    ),
    Bug(
        "device-of-the-coder-dropped",
        "harness.compression.compress.load",
        call("predictor", by=first_arguments(4)),
        "compresses on the processor, whatever --device says",
        (f"{LIBRARY}a_coder_runs_where_asked",),
    ),
    Bug(
        "gate-without-the-compiler",
        "harness.bench.gate.require",
        call("examined", by=argument(2, always(False))),
        "what is timed is compiled, what is checked is not",
        (f"{LIBRARY}the_gate_checks_what_is_timed",),
    ),
    Bug(
        "gate-in-other-dtypes",
        "harness.bench.gate.require",
        call("examined", by=argument(3, always(("float32",)))),
        "the numbers of bfloat16 are never compared",
        (f"{LIBRARY}the_gate_checks_what_is_timed",),
    ),
]
