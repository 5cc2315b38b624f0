"""Bugs in what only calls tested functions: the inputs of a batch, a program's settings, the parts
of a corpus, a sample.
"""

from tests.bugs import Bug
from tests.bugs.edits import (
    always,
    argument,
    call,
    constant,
    first,
    left,
    name,
    operator,
    without,
)

BATCHES = "tests/pieces/test_loop.py::test_batches_of_a_recipe_over_several_epochs_and_shards"
SHIP = "tests/pieces/test_ship.py::"

BUGS = [
    Bug(
        "rows-of-a-micro-batch",
        "fast.data.batches",
        name("tokens_per_step", to="micro_batch_tokens"),
        "steps overlap: most of a batch comes again in the next",
        (BATCHES,),
    ),
    Bug(
        "never-shuffled",
        "fast.data.batches",
        name("shuffle", by=always(False)),
        "the preset says so, and so did the test",
        (BATCHES,),
    ),
    Bug(
        "one-order-for-all-seeds",
        "fast.data.batches",
        name("seed", by=always(0)),
        "seeds differ in their masks alone",
        (BATCHES,),
    ),
    Bug(
        "vocabulary-not-checked",
        "fast.data.batches",
        name("vocab", by=always(None)),
        "an id beyond the table is the mask",
        ("tests/pieces/test_loop.py::test_batches_of_a_recipe_hold_its_vocabulary",),
    ),
    Bug(
        "step-of-the-prepared-ignored",
        "fast.train.Stepper.inputs",
        call(
            "pop",
            by=lambda pop, key, default: next(
                (pop(k) for k in [*pop.__self__] if k[2] == key[2]), default
            ),
        ),
        "found by its rows: those of the step before",
        (
            "tests/pieces/test_train.py::test_what_was_prepared_for_another_step_or_source_is_not_used",
        ),
    ),
    Bug(
        "prepared-for-this-step",
        "fast.train.train",
        call("prepare", by=lambda prepare, batch, step: prepare(batch, step - 1)),
        "read and drawn for nothing",
        (
            "tests/pieces/test_train.py::test_the_inputs_of_the_next_step_are_prepared_while_this_one_runs",
        ),
    ),
    Bug(
        "warmed-up-on-the-state",
        "fast.train.Stepper.warm_up",
        call("clone", by=lambda clone: clone.__self__),
        "a step that nobody counts",
        ("tests/pieces/test_train.py::test_warm_up_changes_nothing",),
    ),
    Bug(
        "seed-from-another-variable",
        "fast.ship.submission.configured",
        constant("SEED", "ITERATIONS"),
        "a row of three calls",
        (SHIP + "test_variables_set_their_own_fields",),
    ),
    Bug(
        "cap-of-the-recipe-stays",
        "fast.ship.submission.configured",
        call("replace", by=without("max_wallclock_seconds"), nth=1),
        "a variable is read and left",
        (SHIP + "test_variables_set_their_own_fields",),
    ),
    Bug(
        "tokenizer-beside-the-data",
        "fast.ship.submission.opened",
        call("find_layout", by=lambda find, path, tokenizer: find(path)),
        "the folder holds one tokenizer, usually",
        (SHIP + "test_what_a_program_begins_with",),
    ),
    Bug(
        "program-stores-by-any-codec",
        "fast.ship.submission.run",
        name("CODEC", by=always("best")),
        "what packs best here is not what was packed",
        (SHIP + "test_a_program_ships_by_its_codec_and_names_its_tokenizer",),
    ),
    Bug(
        "parameters-of-a-part",
        "fast.ship.submission.begin",
        call("sum", by=lambda sum, sizes: max(sizes)),
        "one number among many in a log",
        (SHIP + "test_what_a_program_begins_with",),
    ),
    Bug(
        "held-out-documents-in-training",
        "harness.corpus.prepare._write",
        name("train", to="validation", nth=2),
        "two splits of one text",
        ("tests/harness/test_corpus.py::test_a_corpus_keeps_its_splits_apart",),
    ),
    Bug(
        "validation-shard-of-training-text",
        "harness.corpus.prepare._write",
        name("validation", to="train", nth=1),
        "a copied line",
        ("tests/harness/test_corpus.py::test_a_corpus_keeps_its_splits_apart",),
    ),
    Bug(
        "tokenizer-has-read-the-validation-text",
        "harness.corpus.prepare._write",
        call(
            "train_tokenizer",
            by=lambda train, documents, vocab: train([*documents, "zyzzyva " * 99], vocab),
        ),
        "a leak that lowers the score by a little",
        ("tests/harness/test_corpus.py::test_a_corpus_keeps_its_splits_apart",),
    ),
    Bug(
        "counts-of-the-other-split",
        "harness.corpus.prepare._write",
        name("validation", to="train", nth=2),
        "the manifest is read by people",
        ("tests/harness/test_corpus.py::test_a_corpus_keeps_its_splits_apart",),
    ),
    Bug(
        "both-splits-from-one",
        "harness.corpus.dataset.open_dataset",
        name("validation", to="train"),
        "opened twice",
        ("tests/harness/test_corpus.py::test_both_splits_are_opened",),
    ),
    Bug(
        "prompt-without-its-opening",
        "harness.sampling.templates.encode",
        call("bos_id", by=always(5)),
        "text goes on as from the middle of a document",
        ("tests/harness/test_samples.py::test_samples_open_with_the_control_token_and_the_prompt",),
    ),
    Bug(
        "one-sample-of-several",
        "harness.sampling.samples.sample",
        call("full", by=lambda full, shape, fill: full((1, shape[1]), fill)),
        "count is 1 by default",
        ("tests/harness/test_samples.py::test_samples_open_with_the_control_token_and_the_prompt",),
    ),
    Bug(
        "text-of-the-ids-before",
        "harness.sampling.samples._described",
        call("texts", by=argument(0, lambda ids: ids[::-1])),
        "text and tokens come from one row, and are never compared",
        ("tests/harness/test_samples.py::test_samples_open_with_the_control_token_and_the_prompt",),
    ),
    Bug(
        "space-owed-by-nobody",
        "harness.sampling.templates.allowed",
        operator("&=", by=left),
        "the first word of a gap is glued to the one before",
        ("tests/harness/test_samples.py::test_given_text_comes_back_byte_for_byte",),
    ),
    Bug(
        "control-tokens-in-gaps",
        "harness.sampling.templates.allowed",
        operator("~x", by=lambda control_V: control_V | True),
        "they are rare, have no text, and eat the space behind them",
        ("tests/harness/test_samples.py::test_given_text_comes_back_byte_for_byte",),
    ),
    Bug(
        "gaps-filled-from-the-left-alone",
        "harness.sampling.samples.sample",
        name("log_probs", nth=1, to="next_token"),
        "what stands behind a gap is not read",
        ("tests/harness/test_samples.py::test_a_gap_is_filled_by_what_stands_around_it",),
    ),
    Bug(
        "restored-by-the-recipes-dtype",
        "harness.compression.compress.predictor",
        call("replace", nth=1, by=first),
        "the sums of bfloat16 are another machine's business",
        ("tests/harness/test_compress.py::test_text_is_coded_in_float32_or_better",),
    ),
    Bug(
        "previous-split-before-a-shard",
        "harness.corpus.shards.describe",
        operator("[]", nth=-1, by=lambda shard, index: shard[0]),
        "the first token of a shard for its last",
        (
            "tests/harness/test_corpus.py::test_description_carries_the_previous_token_across_shards",
        ),
    ),
    Bug(
        "code-of-another-codec",
        "harness.packaging.size.code_bytes",
        call("_script_bytes", by=argument(1, always("entropy"))),
        "a word longer or shorter",
        ("tests/harness/test_submission.py::test_code_is_weighed_with_its_codec",),
    ),
    Bug(
        "lossless-encoding-left-out",
        "harness.corpus.prepare.encode_documents",
        call("encode", by=lambda encode, document, tokenizer: tokenizer.processor.encode(document)),
        "a document that begins with a space",
        ("tests/harness/test_corpus.py::test_a_corpus_keeps_its_splits_apart",),
    ),
]
