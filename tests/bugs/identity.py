"""Bugs in what tells one run, one text or one file from another."""

from tests.bugs import Bug
from tests.bugs.edits import always, argument, call, constant, name, operator

DATASET = "tests/harness/test_beginning.py::test_a_dataset_is_told_by_both_of_its_splits"


def training_alone(items):
    """What tells the training split from another."""
    return [(name, value) for name, value in items() if "validation" not in name]


BUGS = [
    Bug(
        "hash-of-the-wrong-split",
        "harness.corpus.dataset.Dataset.identity",
        name("validation", to="train"),
        "two values, one of them twice",
        (DATASET,),
    ),
    Bug(
        "hash-of-the-first-words",
        "harness.corpus.dataset.sha256_of",
        call("read", by=lambda read, start, stop: read(start, min(stop, start + 6))),
        "documents begin alike",
        (DATASET,),
    ),
    Bug(
        "length-not-in-the-identity",
        "harness.corpus.dataset.Dataset.identity",
        call("len", by=always(0)),
        "the first tokens are the same where text was added",
        (DATASET,),
    ),
    Bug(
        "validation-exempt-on-resuming",
        "harness.runs._check_data",
        call("items", by=training_alone),
        "nothing trains on it",
        (
            "tests/harness/test_beginning.py::test_other_data_of_either_split_is_refused_on_resuming",
        ),
    ),
    Bug(
        "differences-left-out",
        "harness.runs._check_data",
        operator("!=", by=always(False)),
        "read and never compared",
        (
            "tests/harness/test_beginning.py::test_other_data_of_either_split_is_refused_on_resuming",
        ),
    ),
    Bug(
        "budget-changed-on-resuming",
        "fast.config.changes",
        name("RESUMABLE", by=lambda names: names | {"training.iterations", "training.warmdown"}),
        "a run that was to end is made longer: its warmdown is another",
        ("tests/harness/test_beginning.py::test_a_run_goes_on_under_its_own_recipe_alone",),
    ),
    Bug(
        "data-seed-exempt-on-resuming",
        "fast.config.changes",
        name("RESUMABLE", by=lambda names: names | {"training.shuffle", "diffusion.epsilon"}),
        "windows come in another order from here on",
        ("tests/harness/test_beginning.py::test_a_run_goes_on_under_its_own_recipe_alone",),
    ),
    Bug(
        "artifact-of-no-tokenizer",
        "fast.ship.submission.run",
        constant("tokenizer_sha256", "tokenizer"),
        "an artifact without the hash is taken with any tokenizer",
        ("tests/pieces/test_ship.py::test_a_program_ships_by_its_codec_and_names_its_tokenizer",),
    ),
    Bug(
        "artifact-of-the-run-without-tokenizer",
        "harness.runs._ship",
        constant("tokenizer_sha256", "tokenizer"),
        "the same in a run directory",
        ("tests/harness/test_beginning.py::test_a_run_ships_its_average_under_its_tokenizer",),
    ),
    Bug(
        "tokenizer-of-the-scored-unchecked",
        "fast.ship.submission.score_file",
        call("check_tokenizer", by=always(None)),
        "bytes of another vocabulary of the same size",
        (
            "tests/pieces/test_ship.py::test_an_artifact_is_scored_on_the_validation_split_and_weighed",
        ),
    ),
    Bug(
        "runs-of-two-texts-packed",
        "harness.packaging.pack.check_alike",
        name("tokens", by=always(0)),
        "one recipe, two corpora",
        ("tests/harness/test_submission.py::test_runs_differ_in_their_seed_alone",),
    ),
    Bug(
        "runs-of-two-tokenizers-packed",
        "harness.packaging.pack.check_alike",
        call("get", by=always(None)),
        "one recipe, two vocabularies of one size",
        ("tests/harness/test_submission.py::test_runs_differ_in_their_seed_alone",),
    ),
    Bug(
        "third-run-unchecked",
        "harness.packaging.pack.check_alike",
        operator("[]", nth=3, by=lambda runs, index: runs[1:2]),
        "two seeds are what the tests had",
        ("tests/harness/test_submission.py::test_runs_differ_in_their_seed_alone",),
    ),
    Bug(
        "seed-of-one-run-twice",
        "harness.packaging.pack.check_alike",
        call("add", by=always(None)),
        "only the first seed is remembered",
        ("tests/harness/test_submission.py::test_runs_differ_in_their_seed_alone",),
    ),
    Bug(
        "tokenizer-printed-as-the-artifact",
        "harness.compression.compress.Predictor.fingerprint",
        call(
            "fingerprint_of",
            by=lambda make, artifact, tokenizer, machine: make(artifact, artifact, machine),
        ),
        "two hashes side by side",
        ("tests/harness/test_compress.py::test_a_fingerprint_is_of_three_things",),
    ),
    Bug(
        "machine-without-its-dtype",
        "harness.compression.compress.Predictor.machine",
        call("describe_machine", by=argument(1, always("float32"))),
        "float64 models decode to noise",
        ("tests/harness/test_compress.py::test_a_fingerprint_is_of_three_things",),
    ),
    Bug(
        "hash-of-the-header",
        "harness.compression.compress.load",
        call("sha256", by=lambda sha256, data: sha256(data[:64])),
        "artifacts of one recipe begin alike",
        ("tests/harness/test_compress.py::test_a_model_is_known_by_every_byte_of_its_file",),
    ),
    Bug(
        "import-of-an-unpacked-file",
        "harness.importers.convert.convert",
        call("sha256", by=lambda sha256, data: sha256(data[:-1])),
        "the origin is that of other bytes",
        ("tests/harness/test_importers.py::test_an_import_says_which_file_it_read",),
    ),
    Bug(
        "built-from-other-text",
        "harness.corpus.prepare._is_built",
        operator("==", by=always(True)),
        "a folder that is there is taken",
        ("tests/harness/test_corpus.py::test_a_corpus_is_built_anew_for_other_text",),
    ),
    Bug(
        "corpus-known-by-its-training-text",
        "harness.corpus.prepare._key",
        name("validation", to="train", nth=2),
        "held-out documents change, the folder stays",
        ("tests/harness/test_corpus.py::test_a_corpus_is_built_anew_for_other_text",),
    ),
]
