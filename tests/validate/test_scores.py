"""The checks of the score with stand-ins for what is measured: what is compared with what, and how
far apart it may lie.
"""

import ast
import json
import math
from types import SimpleNamespace

import numpy as np
import pytest

from fast.bytes import byte_table as table_of
from harness.display.progress import silent
from harness.validate import byte_table, execution, rescore
from harness.validate.checks import score
from harness.validate.execution import Printed
from harness.validate.model import Text
from harness.validate.rescore import Measured
from harness.validate.submission import Options, Submission
from harness.validate.training_log import parse
from harness.validate.verdict import CannotTell, Finding
from tests.support.checks import registered
from tests.support.stand_ins import Split


@pytest.fixture
def made(tmp_path):
    """Return a function that makes a submission of claims and of logs by name; ours with a
    container.
    """

    def make(claims=None, ours=False, **logs: str) -> Submission:
        home = tmp_path / f"2026-03-20_{len(list(tmp_path.iterdir()))}"
        home.mkdir()
        (home / "submission.json").write_text(json.dumps(claims or {}))
        for name, text in logs.items():
            (home / f"{name}.log").write_text(text)
        if ours:
            (home / "a.mgolf").write_bytes(b"MASKGOLF")
        return Submission(home, Options())

    return make


STEP = "step:1/2 train_loss:3.0 train_time:1ms\n"


# What is claimed


def test_the_claim_of_a_seed_is_its_own(made):
    claims = {"val_bpb": 1.5, "seed_results": {"7": {"val_bpb": 1.25}, "8": {"val_bpb": 1.75}}}
    logs = {
        "a": "seed:7\n"
        + STEP
        + "stderr_masks:0.5 estimator:first\nstderr_masks:0.25 estimator:nelbo\n",
        "b": "seed:8\n" + STEP + "stderr_masks:0.125 estimator:chain\n",
    }
    assert score.claimed(made(claims, **logs), 7) == (1.25, 0.25, "nelbo")
    assert score.claimed(made(claims, **logs), 8) == (1.75, 0.125, "chain")
    assert score.claimed(made(claims | {"val_bpb_estimator": "mine"}, **logs), 7)[2] == "mine"
    assert score.claimed(made(claims | {"val_bpb_estimator": 3}, **logs), 7)[2] == "nelbo"
    with pytest.raises(
        CannotTell, match="^the artifact is of seed 9, the JSON has results of 7, 8$"
    ):
        score.claimed(made(claims, **logs), 9)


def test_the_only_claim_is_of_the_artifact(made):
    one = {"val_bpb": 1.5, "seed_results": {"7": {"val_bpb": 1.25}}}
    log = STEP + "stderr_masks:0.25 estimator:nelbo\n"
    assert score.claimed(made(one, a=log), 9) == (1.5, 0.25, "nelbo")
    assert score.claimed(made({"mean_val_bpb": 1.5}), 9) == (1.5, None, "")
    assert score.claimed(made(one, a=log, b=log), 9) == (1.5, None, "")  # whose log is not known
    zero = {"val_bpb": 1.5, "seed_results": {"7": {"val_bpb": 0.0}}}
    assert score.claimed(made(zero), 7)[0] == 0.0
    with pytest.raises(CannotTell, match="has no number val_bpb or mean_val_bpb"):
        score.claimed(made({"name": "a"}), 9)


# Measured again


@pytest.fixture
def measured(monkeypatch):
    """Return (function that plants what is measured and allowed, what was asked)."""
    recipe = SimpleNamespace(
        model=SimpleNamespace(length=8), seed=7, diffusion=SimpleNamespace(epsilon=0.5)
    )
    opened = SimpleNamespace(recipe=recipe, tokenizer_sha256="a" * 64)
    given = SimpleNamespace(tokenizer=SimpleNamespace(sha256="a" * 64))
    asked = []

    def plant(bpb, limit, tokens=40, total=80, **changes):
        result = SimpleNamespace(bpb=bpb, tokens=tokens, bytes=total, estimator="nelbo")

        def measure(*arguments, **keywords):
            asked.append(("measure", *arguments, *keywords.items()))
            return Measured(result, 5, 1_000)

        def allowed(*arguments):
            asked.append(("allowed", *arguments[1:]))
            return limit

        def effort_of(*arguments):
            asked.append(("effort", *arguments))
            return changes.get("effort", "effort")

        opened.tokenizer_sha256 = changes.get("tokenizer", "a" * 64)
        monkeypatch.setattr(score, "model_and_text", lambda submission: (opened, given))
        monkeypatch.setattr(score, "objective_of", lambda model: SimpleNamespace(estimators="how"))
        monkeypatch.setattr(score, "default_effort", lambda given: ("default", given))
        monkeypatch.setattr(rescore, "measure", measure)
        monkeypatch.setattr(rescore, "allowed", allowed)
        monkeypatch.setattr(rescore, "effort_of", effort_of)
        return opened, given

    return plant, asked


@pytest.mark.parametrize(
    ("theirs", "fault"),
    [
        (Printed(2.0, 1.5, 0.25, 40, 80), ""),
        (Printed(2.0, 1.75, 0.25, 40, 80), ""),
        (Printed(2.0, 1.25, 0.25, 40, 80), ""),
        (Printed(2.0, 1.76, 0.25, 40, 80), "it scores 1.760000 where 1.500000 ± 0.250000 is right"),
        (Printed(2.0, 1.24, 0.25, 40, 80), "it scores 1.240000 where 1.500000 ± 0.250000 is right"),
        (Printed(2.0, math.nan, 0.25, 40, 80), "it scores nan where 1.500000"),
        (
            Printed(2.0, 1.5, 0.25, 41, 80),
            "it counts 41 tokens and 80 bytes where there are 40 and",
        ),
        (
            Printed(2.0, 1.5, 0.25, 40, 81),
            "it counts 40 tokens and 81 bytes where there are 40 and",
        ),
    ],
)
def test_the_submissions_own_score_is_ours(theirs, fault, measured, monkeypatch):
    plant, asked = measured
    opened, given = plant(1.5, 0.25)
    monkeypatch.setattr(execution, "scored", lambda submission: "trial")
    monkeypatch.setattr(
        execution, "score_of", lambda submission, trial: theirs if trial == "trial" else None
    )
    monkeypatch.setattr(execution, "scored_ids", lambda submission: range(17))
    progress = silent()
    reply = registered(score.scores_itself)(
        SimpleNamespace(options=SimpleNamespace(progress=progress))
    )
    assert reply.verdict == ("fail" if fault else "pass") and reply.evidence.startswith(fault)
    effort = ("default", opened.recipe)
    assert asked[0] == ("measure", opened, given, effort, math.inf, 3, progress)
    assert asked[1][1:] == (theirs.bpb, 0.25) or math.isnan(theirs.bpb)
    if not fault:
        assert reply.evidence == (
            f"{theirs.bpb:.6f} by its code, 1.500000 by ours, on 40 tokens and 80 bytes"
        )


@pytest.mark.parametrize(
    ("bpb", "limit", "verdict"),
    [
        (1.5, 0.0, "pass"),
        (1.625, 0.0625, "fail"),
        (1.375, 0.0625, "fail"),
        (1.5625, 0.0625, "pass"),
        (1.5, 0.1, "pass"),
        (1.5, 0.101, None),
        (1.75, 0.2, "fail"),
    ],
)
def test_a_claim_is_measured_again(bpb, limit, verdict, measured, made):
    plant, asked = measured
    opened, given = plant(bpb, limit)
    log = STEP + "stderr_masks:0.25 estimator:nelbo\n"
    submission = made({"val_bpb": 1.5, "artifact_seed": 7}, a=log)
    apart = abs(bpb - 1.5)
    told = (
        f"claimed 1.5, scored {bpb:.6f} by nelbo on 5 of 1,000 windows, 40 tokens: {apart:.6f}"
        f" apart, {limit:.6f} allowed"
    )
    if verdict:
        assert registered(score.rescored)(submission) == Finding(verdict, told)
    else:
        with pytest.raises(CannotTell) as caught:
            registered(score.rescored)(submission)
        assert str(caught.value) == f"{told}; that is too wide to decide anything"
    assert asked == [
        ("effort", "nelbo", "how", 0.5),
        ("measure", opened, given, "effort", 150.0, ("progress", submission.options.progress)),
        ("allowed", 1.5, 0.25),
    ]


def test_another_artifact_is_not_measured(measured, made):
    plant, asked = measured
    plant(1.5, 0.1, tokenizer="b" * 64)
    assert registered(score.rescored)(made({"val_bpb": 1.5})) == Finding(
        "fail",
        f"the artifact was trained with the tokenizer of SHA-256 {'b' * 12}..., the one given is"
        f" {'a' * 12}...",
    )
    plant(1.5, 0.1)
    told = "the JSON says that the artifact is of seed 8, the artifact says seed 7"
    assert registered(score.rescored)(made({"val_bpb": 1.5, "artifact_seed": 8})) == Finding(
        "fail", told
    )
    assert asked == []
    plant(1.5, 0.1, tokenizer=None)
    assert registered(score.rescored)(made({"val_bpb": 1.5})).verdict == "pass"


def test_an_estimator_that_nobody_named_is_no_fault(measured, made):
    """But of a folder of ours it is the model's own."""
    plant, _ = measured
    plant(1.75, 0.1)
    with pytest.raises(CannotTell, match="allowed; the claim does not name its estimator$"):
        registered(score.rescored)(made({"val_bpb": 1.5}))
    assert registered(score.rescored)(made({"val_bpb": 1.5}, ours=True)).verdict == "fail"
    plant(1.5, 0.1, effort=None)
    with pytest.raises(CannotTell, match="^the claim names the estimator 'mine', which is none of"):
        registered(score.rescored)(made({"val_bpb": 1.5, "val_bpb_estimator": "mine"}))


@pytest.mark.parametrize("planned", [False, True])
@pytest.mark.parametrize(("length", "rows"), [(8, 5), (4_096, 1)])
def test_stretches_of_the_split_are_measured_with_one_plan(planned, length, rows, monkeypatch):
    """In batches that memory holds; progress counts windows over all stretches."""
    asked, updates = [], []

    def windows(*given):
        asked.append(given[1:])
        return [SimpleNamespace(ids_NL=np.zeros((given[-1], length)))]

    def fit_plan(*given, **settings):
        asked.append(("plan", given[2:], settings))
        return "plan"

    def measure(log_probs, groups, table, effort, **settings):
        settings.pop("on_progress")(3, 4)
        assert log_probs == effort.estimator
        asked.append(("measure", table, effort, settings))
        yield SimpleNamespace(rows_N=np.zeros(len(groups[0].ids_NL)))

    monkeypatch.setattr(rescore, "pass_seconds", lambda *_: 0.5)
    monkeypatch.setattr(rescore, "ranges", lambda total, wanted: [(0, 5), (9, 12)])
    monkeypatch.setattr(rescore, "BATCH_TOKENS", 4_096)
    monkeypatch.setattr(rescore.data, "evaluation_windows", windows)
    monkeypatch.setattr(rescore.evaluate, "fit_plan", fit_plan)
    monkeypatch.setattr(rescore.evaluate, "measure", measure)
    monkeypatch.setattr(rescore.evaluate, "total", lambda parts, effort, seconds: len(parts))
    estimator = "nelbo" if planned else "causal"
    effort = SimpleNamespace(estimator=estimator, passes=lambda length: 4)
    shape = SimpleNamespace(model=SimpleNamespace(length=length, vocab=7))
    opened = SimpleNamespace(recipe=shape, predictor=lambda estimator: estimator)
    given = SimpleNamespace(validation=range(20 * length), tokenizer=SimpleNamespace(table="table"))
    progress = SimpleNamespace(update=lambda *values: updates.append(values))
    reply = rescore.measure(opened, given, effort, 99.0, progress=progress)
    assert reply == Measured(2, 8, 20) and updates == [(0 + 5 * 3 / 4, 8), (5 + 3 * 3 / 4, 8)]
    plan = [(length, 7, 0, 20), ("plan", (7, effort), {"batch_rows": rows})] if planned else []
    shared = {"plans": {length: "plan"} if planned else {}, "batch_rows": rows}
    assert asked == [
        *plan,
        (length, 7, 0, 5),
        ("measure", "table", effort, {"first_row": 0} | shared),
        (length, 7, 9, 3),
        ("measure", "table", effort, {"first_row": 9} | shared),
    ]


# Tokens and bytes


def test_counts_are_those_that_are_printed(made):
    claims = {"validation_tokens": 90, "validation_bytes": 200.0}
    log = (
        STEP + "val_loader:a tokens:1,000\nval_loader:b tokens:7\ntokens:5 bytes:6\n"
        "x tokens:990 bytes:2,500\n"
    )
    reply = score.counts(made(claims, a=log, b=STEP, c=STEP + "val_tokens: 60\n"))
    assert reply == [
        score.Counts("the JSON", None, 90, 200),
        score.Counts("a.log", 1_000, 990, 2_500),
        score.Counts("c.log", 60, None, None),
    ]
    assert [row.about for row in reply] == [90, 990, 60]


@pytest.mark.parametrize(
    ("tokens", "whole", "same"),
    [
        (1_000, 1_000, True),
        (999, 1_000, True),
        (990, 1_000, True),
        (989, 1_000, False),
        (1_001, 1_000, False),
        (10_000_000 - 16_384, 10_000_000, True),
        (10_000_000 - 16_385, 10_000_000, False),
    ],
)
def test_an_evaluation_may_drop_a_window(tokens, whole, same):
    assert score.same_text(tokens, whole) is same


def test_bytes_are_counted_after_the_token_before(monkeypatch):
    """A leading space does not count after a control token, nor at the start."""
    tokenizer = SimpleNamespace(
        table=table_of(["<s>", "\u2581ab", "c"], ["control", "normal", "normal"]), vocab=3
    )
    ids = [1, 1, 0, 1, 2, 1] * 1_000_000
    monkeypatch.setattr(score, "text", lambda submission: Text(None, Split(ids[:6]), tokenizer))
    sizes = score.sizes.__wrapped__
    assert sizes(None) == (6, 2 + 3 + 0 + 2 + 1 + 3, 3)
    monkeypatch.setattr(score, "text", lambda submission: Text(None, Split(ids), tokenizer))
    assert sizes(None) == (6_000_000, 1_000_000 * 12 - 1, 3)  # in two reads
    monkeypatch.setattr(score, "MOST_TOKENS", 5_999_999)
    with pytest.raises(CannotTell, match="has 6,000,000 tokens, more than the 5,999,999 that are"):
        sizes(None)
    monkeypatch.setattr(score, "text", lambda submission: Text(None, Split([1, 3, 0]), tokenizer))
    with pytest.raises(CannotTell, match="holds id 3, the tokenizer given has 3 pieces$"):
        sizes(None)


def scored(tokens, total) -> str:
    return STEP + f"tokens:{tokens} bytes:{total}\n"


@pytest.mark.parametrize(
    ("log", "verdict", "told"),
    [
        (
            scored(2_000, 5_000),
            "pass",
            "2,000 tokens and 5,000 bytes in 1 places; the data given have",
        ),
        (scored(1_990, 4_000), "pass", "1,990 tokens and 4,000 bytes in 1 places"),
        (scored(2_000, 5_001), "fail", "a.log: 5,001 bytes for 2,000 tokens that hold 5,000"),
        (scored(2_001, 5_000), "fail", "a.log: 2,001 tokens, the data given have 2,000"),
        (scored(500, 5_000), "fail", "a.log: 500 tokens, the data given have 2,000"),
        (scored(8_000, 5_000), "fail", "a.log: 8,000 tokens, the data given have 2,000"),
        (scored(499, 5_000), "cannot tell", "they are about different texts"),
        (scored(8_001, 5_000), "cannot tell", "they are about different texts"),
        (STEP + "val_tokens:2,000\n", "pass", "2,000 tokens in 1 places"),
        (
            scored(62_021_845, 151_080_891),
            "pass",
            "62,021,845 tokens and 151,080,891 bytes in 1 pl",
        ),
        (scored(62_021_845, 151_080_890), "fail", "a.log: 151,080,890 bytes for 62,021,845 tokens"),
        (
            STEP + "val_tokens:2000\ntokens:1900 bytes:9\n",
            "fail",
            "a.log: the data have 2,000 tokens",
        ),
        (STEP + "val_tokens:2000\ntokens:2001 bytes:9\n", "fail", "a.log: the data have 2,000"),
        (
            STEP + "val_tokens:62021632\ntokens:62041632 bytes:9\n",
            "fail",
            "a.log: the data have 62,021,632 tokens, 62,041,632 were scored",
        ),
        (STEP, "cannot tell", "neither JSON nor log says how many tokens were scored"),
    ],
)
def test_tokens_and_bytes_are_those_of_the_text(log, verdict, told, made, monkeypatch):
    monkeypatch.setattr(score, "sizes", lambda submission: (2_000, 5_000, 400))
    if verdict == "cannot tell":
        with pytest.raises(CannotTell, match=told):
            registered(score.tokens_and_bytes)(made({}, a=log))
    else:
        reply = registered(score.tokens_and_bytes)(made({}, a=log))
        assert reply.verdict == verdict and reply.evidence.startswith(told)


# Bytes per token


def final(loss, bpb) -> str:
    return f"final_roundtrip val_loss:{loss} val_bpb:{bpb}\n"


def test_losses_stand_beside_their_bits_per_byte(made):
    claims = {
        "val_loss": 2.5,
        "val_bpb": 1.25,
        "seed_results": {"7": {"val_loss": 2, "val_bpb": 1.5}},
    }
    rows = list(score.pairs(made(claims, a=STEP + final("2.6250", "1.2500"))))
    assert [row.where for row in rows] == ["the JSON", "seed 7", "a.log final_roundtrip"]
    assert [(row.loss, row.bpb) for row in rows] == [(2.5, 1.25), (2.0, 1.5), (2.625, 1.25)]
    for row in rows:
        assert row.bytes_per_token == pytest.approx(row.loss / math.log(2) / row.bpb, rel=1e-15)
    assert [row.loose for row in rows] == pytest.approx(
        [0.05 / 2.5 + 0.005 / 1.25, 0.05 / 2 + 0.05 / 1.5, 5e-4 / 2.625 + 5e-5 / 1.25]
    )
    for loss, bpb in ((0, 1.25), (100, 1.25), (2.5, 0), (2.5, 100), (None, 1.25), ("2", 1.25)):
        assert not list(score.pairs(made({"val_loss": loss, "val_bpb": bpb})))
    assert list(score.pairs(made({"val_loss": 99.5, "val_bpb": 99.5})))


@pytest.mark.parametrize(
    ("per_token", "verdict"),
    [(2.5, "pass"), (2.5 * 1.0102, "pass"), (2.5 / 1.0102, "pass"), (2.53, "fail"), (2.47, "fail")],
)
def test_a_quotient_is_the_texts_bytes_per_token(per_token, verdict, made, monkeypatch):
    """Within a hundredth of a text so short, and rounding."""
    monkeypatch.setattr(score, "sizes", lambda submission: (2_000, 5_000, 1_024))
    loss = 1.25 * math.log(2) * per_token
    log = STEP + f"val_tokens:2000\n{final(f'{loss:.8f}', '1.25000000')}"
    reply = registered(score.byte_accounting)(made({}, a=log))
    assert reply.verdict == verdict
    told = (
        "5,000 bytes / 2,000 tokens = 2.50000 (the data given), a uniform predictor scores 4.0000"
    )
    assert told in reply.evidence
    if verdict == "fail":
        assert reply.evidence.startswith(
            f"a.log final_roundtrip: {loss:.6g} nats and 1.25 bits per byte imply {per_token:.5f}"
            " bytes per token; "
        )
    else:
        assert reply.evidence.startswith(
            f"1 pairs, such as: {loss:.6g} nats and 1.25 bits per byte imply {per_token:.5f}"
        )
        assert reply.evidence.endswith(f"here {10 / per_token:.4f}")


def test_what_a_quotient_is_about_must_be_known(made, monkeypatch):
    monkeypatch.setattr(score, "sizes", lambda submission: (2_000, 5_000, 1_024))
    pair = final("2.16608494", "1.25000000")
    with pytest.raises(
        CannotTell, match="^no log says over how many tokens, the data given have 2"
    ):
        registered(score.byte_accounting)(made({}, a=STEP + pair))
    with pytest.raises(
        CannotTell, match="^the claim is about 3,000 tokens, the data given have 2,"
    ):
        registered(score.byte_accounting)(made({}, a=STEP + f"val_tokens:3000\n{pair}"))
    with pytest.raises(CannotTell, match="^no final loss in nats per token stands beside its bits"):
        registered(score.byte_accounting)(made({"val_loss": 2.2, "val_bpb": 1.2}))


def whole(tokens: int, factor: float = 1.0) -> str:
    """A final line of so many tokens over `factor` times the bytes of the official text."""
    loss = 1.25 * math.log(2) * score.OFFICIAL_BYTES * factor / tokens
    return final(f"{loss:.8f}", "1.25000000")


@pytest.mark.parametrize("data", [True, False])
@pytest.mark.parametrize(
    ("factor", "verdict"),
    [
        (1.0, "pass"),
        (1 + 2.8e-4, "pass"),
        (1 - 9.8e-4, "pass"),  # a window of 32,768 tokens was cut off
        (1 + 3.2e-4, "fail"),
        (1 - 1.02e-3, "fail"),
        (1.041, "fail"),
        (3.9, "fail"),
        (4.1, "cannot tell"),
        (0.24, "cannot tell"),
    ],
)
def test_another_tokenizer_may_have_read_the_official_text(
    factor, verdict, data, made, monkeypatch
):
    """Other tokens that hold as many bytes, whether or not there are data to compare with."""

    def sizes(submission):
        if data:
            return 2_000, 5_000, 1_024
        raise CannotTell("no data were given")

    monkeypatch.setattr(score, "sizes", sizes)
    log = STEP + f"val_tokens:40000000\n{whole(40_000_000, factor)}"
    if verdict == "cannot tell":
        with pytest.raises(CannotTell, match="^the claim is about 40,000,000 tokens"):
            registered(score.byte_accounting)(made({}, a=log))
        return
    reply = registered(score.byte_accounting)(made({}, a=log))
    assert reply.verdict == verdict and "40,000,000 tokens" in reply.evidence
    if factor == 1.041:
        assert reply.evidence == (
            "a.log final_roundtrip: 40,000,000 tokens of 3.93188 bytes are 157.3 MB of text where"
            " the official split has 151.1 (+4.1 %)"
        )


@pytest.mark.parametrize(
    "stated",
    [
        "val_loader:shards pattern=a/fineweb_val_*.bin tokens:40000000",
        "val_tokens: 40000000",
        "  val tokens: 40,000,000",
        "Validation tokens = 40,000,000",
        "the validation split has 40,000,000 tokens",
        "Val:   40,000,000 tokens",
        "  fineweb_val_000000.bin: magic=OK version=1 ntokens=40,000,000 size=80.0MB",
        "slide:start chunks=9 chunk_tokens=32768 total_windows=625000 stride=64 lr=0.002",
    ],
)
def test_the_tokens_of_the_text_are_stated_in_many_ways(stated, made, monkeypatch):
    monkeypatch.setattr(score, "sizes", lambda submission: (2_000, 5_000, 1_024))
    log = f"{STEP}train_batch_tokens:524288 val_batch_tokens:65536\n{stated}\n"
    for factor, verdict in ((1.0, "pass"), (1.065, "fail")):
        folder = made({}, a=log + whole(40_000_000, factor))
        assert registered(score.byte_accounting)(folder).verdict == verdict


def test_where_no_tokens_are_stated_the_tokenizer_may_be_known(made, monkeypatch):
    """Of the official tokenizer the bytes per token are known; of any other one nothing is."""
    monkeypatch.setattr(score, "sizes", lambda submission: (2_000, 5_000, 1_024))
    official = STEP + "tokenizer_path=./data/tokenizers/fineweb_1024_bpe.model\n"
    for factor, verdict in ((1.0, "pass"), (1.063, "fail")):
        reply = registered(score.byte_accounting)(
            made({}, a=official + whole(score.OFFICIAL_TOKENS, factor))
        )
        assert reply.verdict == verdict
        assert "(the official set, whose tokenizer the log names)" in reply.evidence
    with pytest.raises(CannotTell, match="2.74642 bytes per token would make the official text 55"):
        registered(score.byte_accounting)(made({}, a=STEP + whole(55_010_125)))


def test_more_text_at_the_same_bytes_per_token_is_another_text(made, monkeypatch):
    """An older split had 3 % more tokens of the official tokenizer; nothing is wrong with its
    bytes.
    """
    monkeypatch.setattr(score, "sizes", lambda submission: (2_000, 5_000, 1_024))
    log = f"{STEP}val_loader: tokens:63779840\n{whole(63_779_840, 1.031)}"
    assert registered(score.byte_accounting)(made({}, a=log)).verdict == "fail"
    named = "tokenizer_path=fineweb_1024_bpe.model\n" + log
    with pytest.raises(CannotTell, match="at its bytes per token: another validation text"):
        registered(score.byte_accounting)(made({}, a=named))


def test_each_log_is_held_against_its_own_tokens(made, monkeypatch):
    """Two tokenizers in one folder; what the JSON says is of the log that it agrees with."""
    monkeypatch.setattr(score, "sizes", lambda submission: (2_000, 5_000, 1_024))
    logs = {
        name: f"{STEP}val_tokens:{tokens}\n{whole(tokens)}"
        for name, tokens in (("a", 40_000_000), ("b", 50_000_000))
    }
    nats = 1.25 * math.log(2) * score.OFFICIAL_BYTES / 50_000_000
    claims = {"val_loss": round(nats, 8), "val_bpb": 1.25000001}
    assert registered(score.byte_accounting)(made(claims, **logs)).verdict == "pass"
    lone = {"a": logs["a"], "c": STEP + whole(40_000_000)}  # the second states no tokens
    assert registered(score.byte_accounting)(made({}, **lone)).verdict == "pass"
    with pytest.raises(CannotTell, match="^no log says over how many tokens"):
        registered(score.byte_accounting)(made({}, a=logs["a"], c=STEP + whole(44_000_000)))
    swapped = {"a": logs["b"], "b": logs["a"].replace("val_tokens:40", "val_tokens:44")}
    reply = registered(score.byte_accounting)(made(claims, **swapped))
    assert reply.verdict == "fail" and reply.evidence.startswith(
        "b.log final_roundtrip: 44,000,000"
    )


def test_the_last_step_stands_for_a_final_score(made, monkeypatch):
    monkeypatch.setattr(score, "sizes", lambda submission: (2_000, 5_000, 1_024))
    nats = 1.25 * math.log(2) * score.OFFICIAL_BYTES / 40_000_000
    for factor, verdict in ((1.0, "pass"), (1.01, "fail")):
        line = f"step:2/2 val_loss:{nats * factor:.4f} val_bpb:1.2500 train_time:1ms\n"
        reply = registered(score.byte_accounting)(made({}, a=f"val_tokens:40000000\n{line}"))
        assert reply.verdict == verdict and "a.log step 2" in reply.evidence


def coded(*texts, unread=()):
    """Return a submission of sources, those that do not parse among them."""
    sources = [
        SimpleNamespace(label=f"{letter}.py", tree=text and ast.parse(text), error="odd")
        for letter, text in zip("abcdefgh", texts, strict=False)
    ]
    return SimpleNamespace(code=SimpleNamespace(required=sources, unread=list(unread)))


def test_bytes_are_counted_in_the_code():
    good, constant, plain = "bpb = log(x) / n_bytes\n", "bpb = log(x) / 3.5\n", "bpb = log(x) / n\n"
    assert registered(score.bytes_per_token)(coded(good, good, "x = 1\n")) == Finding(
        "pass", "bits per byte are computed from counted bytes in 2 places"
    )
    reply = registered(score.bytes_per_token)(coded(good, *[constant] * 6, None))
    assert reply.verdict == "fail"
    assert reply.evidence.split(": ", 1)[1].split(", ")[0] == "b.py: 3.5 in bpb (line 1)"
    assert reply.evidence.count("3.5 in bpb") == score.WORST
    for submission, told in (
        (coded(good, None), "not all code could be read: b.py: odd$"),
        (coded(good, unread=["c.py:3 exec"]), "not all code could be read: c.py:3 exec$"),
        (coded(good, plain), "for a byte-level model only: b.py: bpb .line 1.$"),
        (coded("x = 1\n"), "no expression was found that computes bits per byte$"),
    ):
        with pytest.raises(CannotTell, match=told):
            registered(score.bytes_per_token)(submission)


@pytest.mark.parametrize(
    ("sizes", "told"),
    [
        ([None, None], ""),
        ([400.0, None], ""),
        ([8_192.0, 400.0], ""),
        ([8_192.0], "vocabulary is 8,192, the tokenizer given has 400 pieces"),
        (
            [9_999.0, 8_192.0, None],
            "vocabulary is 8,192, 9,999, the tokenizer given has 400 pieces",
        ),
    ],
)
def test_a_text_of_another_vocabulary_does_not_fit(sizes, told, monkeypatch):
    """By what any of the logs prints; without logs, by the code."""
    given, asked = Text(None, None, SimpleNamespace(vocab=400)), []
    monkeypatch.setattr(score, "text", lambda submission: given)

    def setting(submission, log, name):
        asked.append((log.name, name))
        return sizes[len(asked) - 1]

    monkeypatch.setattr(score, "setting", setting)
    logs = tuple(SimpleNamespace(name=str(number)) for number in range(len(sizes)))
    if told:
        with pytest.raises(CannotTell, match=f"^the submission's {told}$"):
            score.fitting(SimpleNamespace(logs=logs))
    else:
        assert score.fitting(SimpleNamespace(logs=logs)) is given
    assert asked == [(log.name, "vocab_size") for log in logs]
    asked.clear()
    monkeypatch.setattr(score, "setting", lambda submission, log, name: asked.append(log.name))
    assert score.fitting(SimpleNamespace(logs=())) is given and asked == [""]


# The script's byte table


def test_byte_tables_are_judged_one_by_one(monkeypatch):
    said = {}

    def call(submission, builder, given):
        if said[builder] is None:
            raise CannotTell(f"{builder} is odd")
        return said[builder]

    def judge(name, verdict, given):
        return Finding(verdict, f"{name} {verdict}")

    def told(unseen=(), others=(), read=True, **verdicts):
        said.clear()
        said.update(verdicts)

        def require_read():
            if not read:
                raise CannotTell("unread")

        code = SimpleNamespace(required=[], unseen=list(unseen), require_read=require_read)
        monkeypatch.setattr(byte_table, "builders", lambda sources: list(verdicts))
        monkeypatch.setattr(byte_table, "other_ways", lambda sources, judged: list(others))
        try:
            return registered(score.script_table)(SimpleNamespace(code=code))
        except CannotTell as reason:
            return str(reason)

    monkeypatch.setattr(execution, "allowed", lambda submission: None)
    monkeypatch.setattr(score, "fitting", lambda submission: "given")
    monkeypatch.setattr(byte_table, "call", call)
    monkeypatch.setattr(byte_table, "judge", judge)
    nothing = f"no {byte_table.LUTS[0]} is called in the code that runs"
    assert told() == nothing
    assert told(unseen=["a", "b"]) == f"{nothing}; not all code could be read: a"
    assert told(a="pass", b="pass") == Finding("pass", "a pass; b pass")
    assert told(a="pass", b="fail", c=None) == Finding("fail", "b fail")
    assert told(a="pass", b=None, c=None) == "b is odd; c is odd"
    assert told(a="pass", read=False) == "unread"
    names = [f"f{number}" for number in range(9)]
    shown = ", ".join(names[: score.WORST])
    assert told(a="pass", others=names) == f"a pass; but {shown} may make the tables that count"
    assert told(a="pass", b="pass", c="pass", d="pass").verdict == "pass"
    assert told(**dict.fromkeys("abcde", "pass")) == (
        "the code that runs builds byte tables in 5 ways"
    )


# Seeds


def seeds(*values, **more):
    rows = {str(number): {"val_bpb": value} for number, value in enumerate(values, 1)}
    return {"val_bpb": sum(values) / len(values), "seed_results": rows} | more


@pytest.mark.parametrize(
    ("claims", "fault"),
    [
        (seeds(10.0, 20.0, 30.0), ""),
        (
            seeds(10.0, 20.0, 30.0, val_bpb=20.00016),
            "val_bpb 20.00016, the mean over 3 seeds is 20",
        ),
        (seeds(10.0, 20.0, 30.0, val_bpb_std=10.0), ""),
        (seeds(10.0, 20.0, 30.0, val_bpb_std=8.16496581), ""),
        (seeds(10.0, 20.0, 30.0, val_bpb_std=11.0), ""),  # a tenth off
        (
            seeds(10.0, 20.0, 30.0, val_bpb_std=11.01),
            "val_bpb_std 11.01, recomputed 10 (n - 1) or 8",
        ),
        (seeds(10.0, 20.0, 30.0, val_bpb_std=7.1), "val_bpb_std 7.1, recomputed"),
        (seeds(1.5, 1.5, val_bpb_std=0.0001), ""),  # a unit of the last digit
        (seeds(1.5, 1.5, val_bpb_std=0.0002), "val_bpb_std 0.0002, recomputed 0"),
        (seeds(1.5, val_bpb_std=0.5), ""),  # of one seed there is none
        (seeds(1.5, 2.5, seeds=[2, 1]), ""),
        (seeds(1.5, 2.5, seeds=["1", "2"]), ""),
        (seeds(1.5, 2.5, seeds=[1, 3]), "seeds 1, 3, results of 1, 2"),
        (seeds(1.5, 2.5, seeds="1 3"), ""),
    ],
)
def test_the_mean_and_deviation_of_seeds(claims, fault, made):
    reply = registered(score.mean_and_deviation)(made(claims))
    assert reply.verdict == ("fail" if fault else "pass") and reply.evidence.startswith(fault)


def test_the_mean_over_seeds_is_told(made):
    assert registered(score.mean_and_deviation)(
        made(seeds(10.0, 20.0, 30.0, val_bpb_std=9.5))
    ).evidence == ("3 seeds: mean 20, deviation 10; stated 20 and 9.5")
    assert (
        registered(score.mean_and_deviation)(made(seeds(1.5))).evidence
        == "1 seeds: mean 1.5; stated 1.5"
    )
    with pytest.raises(CannotTell, match="^the JSON has no scores by seed$"):
        registered(score.mean_and_deviation)(made({"val_bpb": 1.5}))


def test_in_a_folder_of_ours_no_seed_is_left_out(made):
    logs = {f"train_seed{seed}": STEP + final(2.5, 1.5) for seed in (1, 2, 3)}
    logs["train_seed4"] = STEP  # without a score
    reply = registered(score.mean_and_deviation)(made(seeds(1.5), ours=True, **logs))
    told = "the logs have scores of seed 2, 3 too, which the mean leaves out"
    assert reply == Finding("fail", told)
    assert registered(score.mean_and_deviation)(made(seeds(1.5), **logs)).verdict == "pass"


def curve(count, *lines, loss=3.0) -> str:
    steps = [
        f"step:{step}/9 train_loss:{loss + step / 8} train_time:{step}ms\n"
        for step in range(1, count + 1)
    ]
    return "".join([*steps, *lines])


def test_scores_of_seeds_are_in_their_logs(made):
    claims = seeds(1.25, 1.5)
    claims["seed_results"]["1"]["val_loss"] = 2.5
    logs = {
        "train_seed1": curve(6, final(2.5, 1.25)),
        "train_seed2": curve(6, final(2.6, 1.5), loss=4),
    }
    assert registered(score.seeds_in_logs)(made(claims, **logs)) == Finding(
        "pass", "2 of 2 seeds agree with their logs"
    )
    for name, value, told in (
        (
            "train_seed1",
            final(2.75, 1.25),
            "seed 1: the JSON's val_loss is 2.5, train_seed1.log has 2",
        ),
        (
            "train_seed2",
            final(2.5, 1.75),
            "seed 2: the JSON's val_bpb is 1.5, train_seed2.log has 1",
        ),
    ):
        reply = registered(score.seeds_in_logs)(
            made(claims, **{**logs, name: curve(6, value, loss=5)})
        )
        assert reply.verdict == "fail" and reply.evidence.startswith(told)
    with pytest.raises(CannotTell, match="^no log of seed 2 has a final score; 1 of 2 seeds agree"):
        registered(score.seeds_in_logs)(made(claims, **{**logs, "train_seed2": curve(6, loss=4)}))
    with pytest.raises(CannotTell, match="^no log says which seed it is of$"):
        registered(score.seeds_in_logs)(made(claims, train=curve(6)))
    with pytest.raises(CannotTell, match="^the JSON has no scores by seed$"):
        registered(score.seeds_in_logs)(made({"val_bpb": 1.5}, **logs))


def test_two_seeds_never_have_the_same_losses(made):
    """Five or more of them."""
    for count, verdict in ((5, "fail"), (4, "pass")):
        logs = {f"train_seed{seed}": curve(count, final(2.5, 1.5)) for seed in (1, 2)}
        reply = registered(score.seeds_in_logs)(made(seeds(1.5, 1.5), **logs))
        assert reply.verdict == verdict
    logs["train_seed1"] = logs["train_seed2"] = curve(5, final(2.5, 1.5))
    told = "train_seed2.log has the 5 training losses of train_seed1.log: two seeds never do"
    assert registered(score.seeds_in_logs)(made(seeds(1.5, 1.5), **logs)) == Finding("fail", told)


def test_one_name_stands_for_one_score(made):
    """In a folder of ours."""
    twice = curve(6, final(2.5, 1.5), "final_roundtrip_exact val_loss:2.5 val_bpb:1.75\n")
    reply = registered(score.seeds_in_logs)(made(seeds(1.5), ours=True, train_seed1=twice))
    told = "train_seed1.log prints two scores as final_roundtrip_exact, 1.5 and 1.75"
    assert reply == Finding("fail", told)
    assert registered(score.seeds_in_logs)(made(seeds(1.5), train_seed1=twice)).verdict == "pass"


# One configuration


def test_the_settings_of_a_recipe():
    log = parse("train_seed7.log", "seed:7\nlr:0.5\nepochs:7\ndepth:4\nhost_name:a\nwall:3.5s\n")
    log.settings |= {
        "odd": "a b",
        "experiment": "try_2",
        "log_every": "9",
        "out": "a_s7_seed-7_s71",
    }
    log.varying.add("depth")
    assert score.recipe(log) == {"lr": "0.5", "out": "a_s71"}


def test_runs_of_one_configuration(made):
    def log(lr=0.5, steps=9, more="") -> str:
        return f"lr:{lr}\n{more}step:1/{steps} train_loss:3.0 train_time:1ms\n"

    both = {"train_seed1": log(), "train_seed2": log()}
    reply = registered(score.one_configuration)(made(seeds(1.5, 1.5), **both))
    assert reply.verdict == "pass"
    assert reply.evidence == "seeds 1, 2: 1 settings alike (SHA-256 {}...)".format(
        score._digest(["lr=0.5"])
    )
    for other, told in (
        (log(lr=0.25), "lr: 0.5 (seed 1), 0.25 (seed 2)"),
        (log(steps=8), "steps: 9 (seed 1), 8 (seed 2)"),
    ):
        logs = {**both, "train_seed2": other}
        assert registered(score.one_configuration)(made(seeds(1.5, 1.5), **logs)) == Finding(
            "fail", told
        )
        with pytest.raises(
            CannotTell, match="^the JSON does not say which logs are its seeds; they"
        ):
            registered(score.one_configuration)(made({"val_bpb": 1.5}, **logs))
    assert registered(score.one_configuration)(made(seeds(1.5), train_seed1=log())) == Finding(
        "pass", "one seed, 1"
    )
    bare = {"train_seed1": STEP, "train_seed2": STEP}
    with pytest.raises(CannotTell, match="^the logs print neither settings nor code$"):
        registered(score.one_configuration)(made(seeds(1.5, 1.5), **bare))
    with pytest.raises(CannotTell, match="^no log says which seed it is of$"):
        registered(score.one_configuration)(made(seeds(1.5, 1.5), train=STEP))


def test_a_digest_is_of_all_lines():
    assert score._digest([]) == "e3b0c44298fc"  # the first of SHA-256 of nothing
    assert score._digest(["a", "b"]) == score._digest(["a\nb"]) != score._digest(["ab"])
