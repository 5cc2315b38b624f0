"""What surrounds an execution, with a box that runs nothing: what the program is given, how its
answer is read, and what the checks make of it.
"""

import json
import shutil
import subprocess
import sys
import tokenize
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from fast import container
from harness.display.progress import silent
from harness.validate import byte_table, execution, rescore, sandbox
from harness.validate.checks import runs, validity
from harness.validate.execution import Printed, Trial
from harness.validate.model import Text
from harness.validate.sandbox import Ran
from harness.validate.submission import Options, Submission
from harness.validate.verdict import CannotTell, Finding
from tests.support.checks import registered
from tests.support.stand_ins import Split

LINE = "val_loss:2.5 val_bpb:1.25 stderr_masks:0.5 x tokens:40 bytes:80"


def ran(code=0, out="", err="", notes=(), seconds=61.26) -> Ran:
    return Ran(code, seconds, out, err, notes)


# What a program prints


def test_the_last_score_with_its_counts_is_read():
    assert execution.printed(LINE) == Printed(2.5, 1.25, 0.5, 40, 80)
    assert execution.printed(f"{LINE}\nval_loss:3 val_bpb:2 tokens:7 bytes:9\n") == Printed(
        3.0, 2.0, None, 7, 9
    )
    for text in ("", "val_loss:3 val_bpb:2", "val_loss:x val_bpb:2 tokens:7 bytes:9"):
        assert execution.printed(text) is None


def test_the_last_line_is_one_that_says_something():
    assert execution.last_line("a\n b \n\n  \n") == "b"
    assert execution.last_line("a\nb\nc") == "c"
    assert execution.last_line(" \n") == "no output"


def test_a_score_is_that_of_a_program_that_ended_well():
    ours = SimpleNamespace(ours=True, code=SimpleNamespace(entry="train_gpt.py"))
    good = Printed(2.5, 1.25, None, 4, 8)
    assert execution.score_of(ours, Trial(ran(), good)) == good
    for trial, reason in (
        (Trial(ran(3, "", "x\nbroken\n"), good), "exit code 3: broken"),
        (Trial(ran(0, "one\ntwo\n"), None), "two"),
        (Trial(ran(0), None), "no output"),
    ):
        with pytest.raises(CannotTell, match=f"^its own code printed no score: {reason}$"):
            execution.score_of(ours, trial)


# What may be executed


@pytest.mark.parametrize(
    ("ours", "texts", "device", "fine"),
    [
        (False, ["x = 1", "y.to('cuda')"], False, False),
        (False, ["x = 1", "y.to('cuda')"], True, True),
        (False, ["x = 1", "y = 2"], False, True),
        (True, ["y.to('cuda')"], False, True),  # ours takes the device that is there
    ],
)
def test_code_for_another_device_is_not_executed(ours, texts, device, fine, monkeypatch):
    monkeypatch.setattr(sandbox, "has_namespaces", lambda: True)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: device)
    sources = [SimpleNamespace(text=text) for text in texts]
    made = SimpleNamespace(
        ours=ours,
        options=Options(run=True),
        code=SimpleNamespace(entry="train_gpt.py", required=sources),
    )
    if fine:
        execution.ready(made)
    else:
        with pytest.raises(CannotTell, match="^train_gpt.py needs a CUDA device"):
            execution.ready(made)
    made.code.entry = None
    with pytest.raises(CannotTell, match="^there is no Python script$"):
        execution.ready(made)
    made.options = Options(run=False)
    with pytest.raises(CannotTell, match="^nothing is executed without --run$"):
        execution.ready(made)


# What the program is given


def tokens_of(path) -> list[int]:
    """Return the tokens of a shard."""
    return np.frombuffer(path.read_bytes()[1024:], "<u2").tolist()


class Boxes:
    """Stands in for sandbox.Box: keeps what was asked of the last one, and what its folder held
    then; `write` is left in the folder by the program.
    """

    def __init__(self, home, printed=""):
        self.home, self.printed, self.count = home, printed, 0
        self.write, self.link = None, False

    def __call__(self, submission):
        self.count += 1
        self.root = self.home / f"box{self.count}"
        self.folder = self.root / "folder"
        (self.root / "data").mkdir(parents=True)
        self.folder.mkdir()
        (self.folder / "final_model.mgolf").write_bytes(b"packed")
        return self

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.left = True

    def run(self, arguments, seconds, variables):
        self.arguments, self.seconds, self.variables = arguments, seconds, variables
        self.held = {path.name: path.read_bytes() for path in self.folder.iterdir()}
        made = self.folder / execution.WRITTEN
        if self.link:
            made.symlink_to(self.home / "elsewhere")
        elif self.write is not None:
            made.write_bytes(self.write)
        return ran(0, self.printed)


@pytest.fixture
def boxed(tmp_path, monkeypatch):
    """Return (submission, boxes): a model of 8 tokens a window and 24 a step, 100 tokens of
    validation and 90 of training text, nine seconds.
    """
    boxes = Boxes(tmp_path, "step:1/2 train_loss:3.5 x\nstep:2/2 x train_loss:3.25 x\n" + LINE)
    (tmp_path / "elsewhere").write_bytes(b"not its own")
    (tmp_path / "pieces").write_bytes(b"tokenizer")
    shape = SimpleNamespace(length=8, vocab=5)
    recipe = SimpleNamespace(model=shape, training=SimpleNamespace(tokens_per_step=24))
    opened = SimpleNamespace(recipe=recipe)
    tokenizer = SimpleNamespace(path=tmp_path / "pieces", vocab=7)
    given = Text(Split(np.arange(500, 590)), Split(np.arange(100)), tokenizer)
    monkeypatch.setattr(execution, "Box", boxes)
    monkeypatch.setattr(execution, "ready", lambda submission: None)
    monkeypatch.setattr(execution, "model", lambda submission: opened)
    monkeypatch.setattr(execution, "text", lambda submission: given)
    monkeypatch.setattr(execution, "model_and_text", lambda submission: (opened, given))
    monkeypatch.setattr(rescore, "pass_seconds", lambda opened, length: 0.01 * length / 8)
    code = SimpleNamespace(entry="train_gpt.py", required=[])
    options = SimpleNamespace(time_limit=9.0, progress=silent())
    made = SimpleNamespace(ours=True, artifact="final_model.mgolf", code=code, options=options)
    return made, boxes


@pytest.mark.parametrize("artifact", [None, b"another"])
def test_a_program_scores_the_ids_and_the_artifact_that_it_is_given(artifact, boxed):
    made, boxes = boxed
    trial = execution._score(made, np.arange(16), artifact)
    assert trial == Trial(ran(0, boxes.printed), Printed(2.5, 1.25, 0.5, 40, 80))
    assert boxes.arguments == ["train_gpt.py", "--score", "final_model.mgolf"]
    assert boxes.seconds == 3.0 and boxes.left
    assert boxes.held == {"final_model.mgolf": artifact or b"packed"}
    data = boxes.root / "data"
    assert boxes.variables == {
        "DATA_PATH": str(data),
        "DATA_DIR": str(data),
        "TOKENIZER_PATH": str(data / "tokenizer.model"),
        "RUN_ID": "validate",
    }
    assert tokens_of(data / "fineweb_val_000000.bin") == list(range(16))
    assert tokens_of(data / "fineweb_train_000000.bin") == list(range(500, 549))  # of two steps
    assert (data / "tokenizer.model").read_bytes() == b"tokenizer"


def test_without_training_text_the_validation_ids_stand_for_it(boxed, tmp_path):
    _, given = execution.model_and_text(None)
    (tmp_path / "box" / "data").mkdir(parents=True)
    box = SimpleNamespace(root=tmp_path / "box")
    execution.view(box, given._replace(train=None), np.arange(16), 49)
    assert tokens_of(tmp_path / "box" / "data" / "fineweb_train_000000.bin") == list(range(16))


def test_two_steps_of_our_script_are_trained(boxed):
    made, boxes = boxed
    boxes.write = b"new"
    trial = execution.trained.__wrapped__(made)
    assert trial.losses == (("1", "3.5"), ("2", "3.25")) and trial.artifact == b"new"
    assert trial.printed == Printed(2.5, 1.25, 0.5, 40, 80)
    assert boxes.arguments == ["train_gpt.py"] and boxes.seconds == 3.0
    assert boxes.held == {}  # not the artifact of before
    names = ("ITERATIONS", "MAX_WALLCLOCK_SECONDS", "SEED", "VOCAB_SIZE")
    assert [boxes.variables[name] for name in names] == ["2", "0", "1337", "5"]
    data = boxes.root / "data"
    assert boxes.variables["DATA_PATH"] == str(data)
    assert tokens_of(data / "fineweb_val_000000.bin") == list(range(96))
    assert tokens_of(data / "fineweb_train_000000.bin") == list(range(500, 549))


@pytest.mark.parametrize("link", [False, True])
def test_an_artifact_that_is_not_written_is_none(link, boxed):
    made, boxes = boxed
    boxes.link = link
    assert execution.trained_again(made).artifact is None


def test_other_validation_text_is_the_same_in_another_order(boxed):
    made, boxes = boxed
    given = []
    for trained in (execution.trained.__wrapped__, execution.trained_again):
        trained(made)
        given.append(tokens_of(boxes.root / "data" / "fineweb_val_000000.bin"))
    execution.trained_blind.__wrapped__(made)
    blind = tokens_of(boxes.root / "data" / "fineweb_val_000000.bin")
    assert given == [list(range(96))] * 2
    assert blind != given[0] and sorted(blind) == given[0]
    assert tokens_of(boxes.root / "data" / "fineweb_train_000000.bin") == list(range(500, 549))


def test_training_that_takes_a_quarter_of_the_time_does_not_begin(boxed, monkeypatch):
    """Two steps of three windows, each three passes long: 18 passes."""
    made, boxes = boxed
    monkeypatch.setattr(rescore, "pass_seconds", lambda opened, length: 0.125)  # 2.25 s
    execution.trained_again(made)
    made.options.time_limit = 8.9
    with pytest.raises(CannotTell, match="^2 training steps would take about 0 minutes"):
        execution.trained_again(made)
    made.options.time_limit = 3000.0
    monkeypatch.setattr(rescore, "pass_seconds", lambda opened, length: 50.0)
    with pytest.raises(CannotTell, match="would take about 15 minutes on this machine; raise --t"):
        execution.trained_again(made)
    assert boxes.count == 1


def test_a_script_of_somebody_else_is_given_a_million_tokens_a_step(boxed, monkeypatch):
    made, boxes = boxed
    made.ours = False
    monkeypatch.setattr(rescore, "pass_seconds", lambda *_: pytest.fail("its model is not known"))
    asked = []
    given = execution.text(None)

    def ids(text, count, split="validation"):
        asked.append((count, split))
        return np.arange(3)

    monkeypatch.setattr(Text, "ids", ids)
    execution.trained_again(made)
    assert asked == [(2 * 1024, "validation"), (2 * (1 << 20) + 1, "train")]
    assert boxes.variables["VOCAB_SIZE"] == "7"
    asked.clear()
    longer = given._replace(validation=Split(np.arange(70 * 1024)))
    monkeypatch.setattr(execution, "text", lambda submission: longer)
    execution.trained_again(made)
    assert asked[0] == (64 * 1024, "validation")  # no more than 64 windows


@pytest.mark.parametrize(("count", "windows"), [(80, 10), (255, 31), (2_055, 256), (9_999, 256)])
def test_no_more_than_256_windows_are_scored(count, windows, boxed, monkeypatch):
    made, _ = boxed
    _, given = execution.model_and_text(made)
    opened = execution.model(made)
    longer = given._replace(validation=Split(np.arange(count)))
    monkeypatch.setattr(execution, "model_and_text", lambda submission: (opened, longer))
    monkeypatch.setattr(
        execution, "default_effort", lambda recipe: SimpleNamespace(passes=lambda length: 4)
    )
    made.options.time_limit = 1e9
    assert execution.scored_ids.__wrapped__(made).tolist() == list(range(8 * windows))
    made.ours = False
    with pytest.raises(CannotTell, match="^maskgolf pack did not write it"):
        execution.scored_ids.__wrapped__(made)


def test_a_blank_artifact_is_like_the_real_one_but_for_zeros(monkeypatch):
    weights = {"a": torch.arange(6.0).reshape(2, 3), "b": torch.ones(4, dtype=torch.float16)}
    fields, formats = {"recipe": {"seed": 7}, "note": "mine"}, {"a": "float32", "b": "float16"}
    data, asked, read = container.pack(weights, formats, fields, "lzma"), [], []
    made = SimpleNamespace(artifact="a.mgolf", read=lambda name: read.append(name) or data)
    monkeypatch.setattr(execution, "scored_ids", lambda submission: "ids")
    monkeypatch.setattr(execution, "_score", lambda *arguments: asked.append(arguments))
    execution.scored_blank.__wrapped__(made)
    [(submission, ids, blank)] = asked
    assert submission is made and ids == "ids" and read == ["a.mgolf"]
    header, zeros = container.unpack(blank)
    real, read_back = container.unpack(data)
    assert {name: (value.shape, value.dtype) for name, value in zeros.items()} == {
        name: (value.shape, value.dtype) for name, value in read_back.items()
    }
    assert not any(value.any() for value in zeros.values())
    assert {row["name"]: row["format"] for row in header["tensors"]} == formats
    assert header["codec"] == "lzma" and fields.items() <= header.items()
    assert header.keys() == real.keys()


def test_noise_is_uniform_over_the_vocabulary_and_never_the_same(boxed, monkeypatch):
    asked = []
    monkeypatch.setattr(execution, "scored_ids", lambda submission: np.zeros(400, np.int64))
    monkeypatch.setattr(execution, "_score", lambda submission, ids: asked.append(ids))
    for _ in range(2):
        execution.scored_noise.__wrapped__(boxed[0])
    assert [len(ids) for ids in asked] == [400, 400] and (asked[0] != asked[1]).any()
    assert all(set(ids.tolist()) == set(range(5)) for ids in asked)  # missed with 5 * 0.8^400


def test_the_artifact_is_scored_on_the_ids_that_were_chosen(boxed, monkeypatch):
    monkeypatch.setattr(execution, "scored_ids", lambda submission: np.arange(24))
    trial = execution.scored.__wrapped__(boxed[0])
    assert trial.printed.loss == 2.5
    assert tokens_of(boxed[1].root / "data" / "fineweb_val_000000.bin") == list(range(24))
    assert boxed[1].held == {"final_model.mgolf": b"packed"}


# What took place


def test_executions_are_those_that_took_place(monkeypatch):
    ready = (("ready", "3.11"),)
    seen, blind = ran(0, notes=()), ran(1, notes=ready)

    def refuse(reason):
        def execute(submission):
            raise CannotTell(reason)

        return execute

    def plant(*made):
        for name, trial in zip(("scored", "trained", "trained_blind"), made, strict=True):
            execute = (
                refuse(trial) if isinstance(trial, str) else lambda _, one=trial: Trial(one, 0)
            )
            monkeypatch.setattr(execution, name, execute)

    plant(seen, "no time", blind)
    assert execution.executions(None) == [seen, blind]
    plant(seen, seen, "no time")
    with pytest.raises(CannotTell, match="^the observer did not load in the program$"):
        execution.executions(None)
    plant("no data", "no time", "no data")
    with pytest.raises(CannotTell, match="^no data; no time$"):
        execution.executions(None)


@pytest.mark.parametrize(
    ("check", "kind", "what"),
    [
        (runs.no_network, "network", "reached for the network"),
        (runs.no_writes_outside, "write", "wrote outside its folder"),
    ],
)
def test_what_executions_tried_is_told(check, kind, what, monkeypatch):
    made, other = [], {"network": "write", "write": "network"}[kind]
    monkeypatch.setattr(execution, "executions", lambda submission: made)
    made[:] = [ran(0, notes=((other, "a"), ("ready", "b")))] * 3
    assert check(None) == Finding("pass", f"nothing {what} in 3 executions")
    made[1:] = [ran(1, "", "some\nmistake\n")]
    for ending in (ran(1, "", "some\nmistake\n"), ran(None)):
        made[1:] = [ending]
        with pytest.raises(CannotTell, match=f"^nothing {what} in what was .* to its end$"):
            check(None)
    notes = tuple((kind, letter) for letter in "abcabcdef")
    made[:] = [ran(1, notes=notes[:2]), ran(0, notes=((other, "x"), *notes[1:]))]
    assert check(None) == Finding("fail", f"it {what}: a, b, c, d, e")


def test_a_write_that_the_kernel_refused_unseen_is_told(monkeypatch):
    """By the program's last line; a network that is not there has no such line."""
    error = "OSError: [Errno 30] Read-only file system: '/a'"
    made = [ran(0), ran(1, "", f"Traceback\n{error}\n\n")]
    monkeypatch.setattr(execution, "executions", lambda submission: made)
    assert runs.no_writes_outside(None) == Finding("fail", f"it wrote outside its folder: {error}")
    with pytest.raises(CannotTell, match="did not run to its end"):
        runs.no_network(None)


# Running, training, validity


OURS = SimpleNamespace(
    ours=True,
    code=SimpleNamespace(entry="train_gpt.py", required=[]),
    options=Options(run=True),
    files={},
    readme="",
    own_logs=(),
)
THEIRS = SimpleNamespace(**{**vars(OURS), "ours": False})
SCORED = Printed(2.5, 1.25, None, 4_000, 8_000)


def test_a_script_runs_alone_that_prints_its_score(monkeypatch):
    for trial, expected in (
        (Trial(ran(), SCORED), Finding("pass", "scored 4,000 tokens in 61.3 s")),
        (Trial(ran(2, err="e\n"), SCORED), Finding("fail", "train_gpt.py --score: exit code 2: e")),
    ):
        monkeypatch.setattr(execution, "scored", lambda submission, trial=trial: trial)
        assert registered(runs.runs_alone)(OURS) == expected
    monkeypatch.setattr(execution, "scored", lambda _: Trial(ran(0, "done\n"), None))
    reply = registered(runs.runs_alone)(OURS)
    assert reply.verdict == "fail" and reply.evidence == (
        "train_gpt.py --score: no line with val_loss, val_bpb, tokens and bytes: done"
    )


STEPS = (("1", "3.5"), ("2", "3.25"))


@pytest.mark.parametrize(
    ("submission", "trial", "expected"),
    [
        (OURS, Trial(ran(), SCORED, STEPS, b"a"), "2 steps in 61.3 s, training losses 3.5, 3.25"),
        (OURS, Trial(ran(), SCORED, (), b"a"), "2 steps in 61.3 s, training losses not printed"),
        (THEIRS, Trial(ran(), None, STEPS), "2 steps in 61.3 s, training losses 3.5, 3.25"),
        (
            OURS,
            Trial(ran(), SCORED, STEPS),
            "2 steps of train_gpt.py: it wrote no final_model.mgolf",
        ),
        (OURS, Trial(ran(), SCORED, STEPS, b""), "2 steps of train_gpt.py: it wrote no final_m"),
        (OURS, Trial(ran(), None, STEPS, b"a"), "2 steps of train_gpt.py: it printed no score of"),
        (OURS, Trial(ran(9), SCORED, STEPS, b"a"), "2 steps of train_gpt.py: exit code 9"),
    ],
)
def test_a_script_trains_that_writes_and_prints(submission, trial, expected, monkeypatch):
    monkeypatch.setattr(execution, "trained", lambda submission: trial)
    reply = registered(runs.trains)(submission)
    assert reply.evidence.startswith(expected)
    assert reply.verdict == ("fail" if "of train_gpt.py" in expected else "pass")


def test_training_that_other_validation_text_changes_is_told(monkeypatch):
    def plant(*made):
        names = ("trained", "trained_blind", "trained_again")
        for name, trial in zip(names, made, strict=True):
            monkeypatch.setattr(execution, name, lambda submission, trial=trial: trial)

    first, other = Trial(ran(), None, STEPS, b"a"), Trial(ran(), None, STEPS, b"b")
    slower = Trial(ran(), None, (*STEPS[:1], ("2", "3.5")), b"b")
    plant(first, first, other)
    reply = registered(validity.training_data)(OURS)
    assert reply.verdict == "pass" and "2 steps with other" in reply.evidence
    assert "the same 2 losses and the same artifact" in reply.evidence
    for last, what in ((other, "another artifact"), (slower, "other training losses")):
        plant(first, last, first)
        expected = f"other validation text gives {what} after 2 steps"
        assert registered(validity.training_data)(OURS) == Finding("fail", expected)
        plant(first, last, last)
        with pytest.raises(CannotTell, match="^training does not repeat on this machine"):
            registered(validity.training_data)(OURS)
    for nothing in (Trial(ran(), None, (), b"a"), Trial(ran(), None, STEPS, None)):
        plant(nothing, nothing, nothing)
        with pytest.raises(CannotTell, match="^training printed no losses or wrote no artifact"):
            registered(validity.training_data)(OURS)
    plant(first, Trial(ran(1, err="why\n"), None, STEPS, b"a"), first)
    with pytest.raises(CannotTell, match="^training did not run to its end: exit code 1: why$"):
        registered(validity.training_data)(OURS)


UNIFORM = float(np.log(5))


@pytest.fixture
def scored_as(monkeypatch):
    """Return a function that lets both executions print a score; the model has five pieces, and
    4,000 tokens were asked for.
    """
    shape = SimpleNamespace(recipe=SimpleNamespace(model=SimpleNamespace(vocab=5)))
    monkeypatch.setattr(validity, "model", lambda submission: shape)
    monkeypatch.setattr(execution, "scored_ids", lambda submission: range(4_000))

    def plant(loss, bpb=None, stderr=None, tokens=4_000, total=6_000):
        implied = loss * tokens / np.log(2) / max(total, 1)
        trial = Trial(ran(), Printed(loss, implied * (bpb or 1.0), stderr, tokens, total))
        monkeypatch.setattr(execution, "scored_blank", lambda submission: trial)
        monkeypatch.setattr(execution, "scored_noise", lambda submission: trial)

    return plant


@pytest.mark.parametrize(
    ("score", "fault"),
    [
        ({"loss": UNIFORM * (1 + 0.9e-5)}, ""),
        ({"loss": UNIFORM * (1 - 0.9e-5)}, ""),
        ({"loss": UNIFORM * (1 + 1.1e-5)}, "a blank artifact costs 1.609456 nats per token, log V"),
        ({"loss": UNIFORM * (1 - 1.1e-5)}, "a blank artifact costs 1.609420 nats per token, log V"),
        ({"loss": float("nan")}, "a blank artifact costs nan nats per token"),
        ({"loss": UNIFORM, "tokens": 3_999}, "3,999 tokens were scored of 4,000"),
        ({"loss": UNIFORM, "tokens": 4_001}, "4,001 tokens were scored of 4,000"),
        ({"loss": UNIFORM, "bpb": 1 + 0.9e-4}, ""),
        ({"loss": UNIFORM, "bpb": 1 - 0.9e-4}, ""),
        ({"loss": UNIFORM, "bpb": 1 + 1.1e-4}, "1.548122 bits per byte where its own counts give"),
        ({"loss": UNIFORM, "bpb": 1 - 1.1e-4}, "1.547782 bits per byte where its own"),
        ({"loss": UNIFORM, "total": 0}, ""),
    ],
)
def test_a_blank_artifact_costs_the_logarithm_of_the_vocabulary(score, fault, scored_as):
    scored_as(**score)
    reply = validity.normalised(OURS)
    if fault:
        assert reply.verdict == "fail" and reply.evidence.startswith(fault)
    else:
        told = "a blank artifact costs log V = 1.609438 nats for each of 4,000 tokens"
        assert reply == Finding("pass", told)


@pytest.mark.parametrize(
    ("below", "stderr", "verdict"),
    [
        (0.0, None, "pass"),
        (29.9 / 4_000, None, "pass"),
        (30.1 / 4_000, None, "fail"),
        (30.1 / 4_000, 0.001, "pass"),
        (29.9 / 4_000 + 4 * 0.001 * np.log(2) * 1.5, 0.001, "pass"),
        (30.1 / 4_000 + 4 * 0.001 * np.log(2) * 1.5, 0.001, "fail"),
        (float("nan"), None, "fail"),
    ],
)
def test_noise_costs_no_less_than_luck_and_masks_explain(below, stderr, verdict, scored_as):
    scored_as(UNIFORM - below, stderr=stderr)
    reply = validity.no_peeking(OURS)
    assert reply.verdict == verdict
    assert reply.evidence.startswith(f"random tokens cost {UNIFORM - below:.4f} nats each, no code")
    spread = 4 * (stderr or 0.0) * np.log(2) * 1.5
    assert reply.evidence.endswith(f"has less than {UNIFORM - 30 / 4_000 - spread:.4f}")


def test_an_error_bar_that_is_too_wide_decides_nothing(scored_as):
    """A tenth of the logarithm: 0.161 nats per token."""
    scored_as(UNIFORM, stderr=0.0386)
    assert validity.no_peeking(OURS).verdict == "pass"
    scored_as(UNIFORM, stderr=0.0388)
    with pytest.raises(CannotTell, match="^the error bar of its score is 0.16 nats per token$"):
        validity.no_peeking(OURS)


def test_no_tokens_are_divided_by_one(scored_as):
    scored_as(UNIFORM, stderr=0.01, tokens=0, total=2)
    assert validity.no_peeking(OURS).verdict == "pass"


# Byte tables


class Script(Boxes):
    """A box in which a script's function leaves tables, or does something else."""

    def __call__(self, submission):
        super().__call__(submission)
        (self.root / "tmp").mkdir()
        return self

    def run(self, arguments, seconds):
        self.arguments, self.seconds = arguments, seconds
        self.script = (self.root / "tmp" / "script.py").read_text()
        out = self.root / "tmp" / "tables.json"
        if self.link:
            out.symlink_to(self.home / "pieces")
        elif self.write is not None:
            out.write_bytes(self.write)
        return self.ending


@pytest.fixture
def built(tmp_path, monkeypatch):
    """Return (function that calls a builder, box): a script in a folder below, two pieces."""
    box = Script(tmp_path)
    box.write, box.ending = b"[[1, 2, 9], [0, 1, 0], [1, 0, 0]]", ran()
    (tmp_path / "pieces").write_bytes(box.write)
    monkeypatch.setattr(byte_table, "Box", box)
    source = SimpleNamespace(text="é = 1", file="sub/a.py", label="sub/a.py")
    builder = byte_table.Builder(SimpleNamespace(name="luts"), source)
    given = SimpleNamespace(tokenizer=SimpleNamespace(path=tmp_path / "pieces", vocab=2))

    def call(limit=30.0):
        made = SimpleNamespace(options=SimpleNamespace(time_limit=limit))
        return byte_table.call(made, builder, given)

    return call, box


@pytest.mark.parametrize(("limit", "seconds"), [(30.0, 10.0), (360.0, 120.0), (1e4, 120.0)])
def test_a_builder_is_called_alone_beside_its_script(limit, seconds, built):
    call, box = built
    tables = call(limit)
    assert [table.tolist() for table in tables] == [[1, 2], [False, True], [True, False]]
    caller, script, name, tokenizer, folder, out = box.arguments
    assert caller == str(box.root / "tmp" / "caller.py") and name == "luts"
    assert "def main" in open(caller).read() and box.script == "é = 1"
    assert (script, out) == tuple(str(box.root / "tmp" / n) for n in ("script.py", "tables.json"))
    assert tokenizer == str(box.root / "data" / "tokenizer.model")
    assert open(tokenizer, "rb").read() == box.write and folder == str(box.folder / "sub")
    assert box.seconds == seconds


@pytest.mark.parametrize(
    ("ending", "told"),
    [
        (ran(notes=(("write", "a"), ("network", "b"))), "was refused: b, a$"),
        (ran(1, notes=(("network", "b"),)), "was refused: b$"),
        (ran(None), "called alone, did not end in 10 s$"),
        (ran(1, err="x\ny\n"), "called alone, failed: y$"),
    ],
)
def test_a_builder_that_does_not_end_well_is_not_judged(ending, told, built):
    call, box = built
    box.ending = ending
    with pytest.raises(CannotTell, match=told):
        call()


def test_tables_that_cannot_be_read_are_none(built, monkeypatch):
    call, box = built
    monkeypatch.setattr(byte_table, "MOST_OUT", len(box.write))
    call()
    monkeypatch.setattr(byte_table, "MOST_OUT", len(box.write) - 1)
    with pytest.raises(CannotTell, match="left no tables to read$"):
        call()
    monkeypatch.setattr(byte_table, "MOST_OUT", 1 << 26)
    box.link = True
    with pytest.raises(CannotTell, match="left no tables to read$"):
        call()
    box.link, box.write = False, None
    with pytest.raises(CannotTell, match="left no tables to read$"):
        call()


# Versions of Python


def stream(*tokens):
    """Return tokens as a Python of 3.12 reads them, one a line."""
    kinds = {
        "start": 1001,
        "middle": 1002,
        "end": 1003,
        "string": tokenize.STRING,
        "name": tokenize.NAME,
    }
    kinds |= {"comment": tokenize.COMMENT, "break": tokenize.NL}
    return [
        tokenize.TokenInfo(kinds[kind], text, (line, 0), (line, 1), "")
        for line, (kind, text) in enumerate(tokens, 1)
    ]


@pytest.mark.parametrize(
    ("tokens", "line"),
    [
        ([("start", 'f"'), ("string", '"x"'), ("end", '"')], 2),
        ([("start", 'f"'), ("string", "'x'"), ("end", '"')], None),
        ([("start", 'f"'), ("string", "b'x'"), ("string", 'Rb"x"'), ("end", '"')], 3),
        ([("start", 'f"'), ("start", "f'"), ("end", "'"), ("end", '"')], None),
        ([("start", 'f"'), ("start", 'rf"'), ("end", '"'), ("end", '"')], 2),
        ([("start", 'f"'), ("end", '"'), ("start", 'f"'), ("end", '"')], None),
        ([("start", "f'"), ("start", 'f"'), ("string", "'x'"), ("end", '"'), ("end", "'")], 3),
        ([("start", "f'''"), ("start", "f'''"), ("end", "'''"), ("end", "'''")], 2),
        ([("start", "f'''"), ("string", "'x'"), ("string", '"x"'), ("end", "'''")], None),
        ([("start", "f'''"), ("start", "f'"), ("end", "'"), ("end", "'''")], None),
        ([("start", 'f"'), ("string", "'\\n'"), ("end", '"')], 2),
        ([("string", "'\\n'"), ("start", 'f"'), ("end", '"'), ("string", '"\\n"')], None),
        ([("start", 'f"'), ("middle", "\\n"), ("end", '"')], None),
        ([("start", "f'''"), ("comment", "# a"), ("end", "'''")], 2),
        ([("comment", "# a"), ("break", "\n"), ("start", 'f"'), ("end", '"')], None),
        ([("start", "f'''"), ("break", "\n"), ("end", "'''")], None),
        ([("start", 'f"'), ("name", "x"), ("break", "\n"), ("end", '"')], 3),
        ([("start", "f'''"), ("start", 'f"'), ("break", "\n"), ("end", '"'), ("end", "'''")], 3),
        ([("start", 'f"'), ("end", '"'), ("break", "\n"), ("comment", "#")], None),
        (
            [("start", "f'''"), ("start", 'f"'), ("end", '"'), ("comment", "#"), ("end", "'''")],
            4,
        ),
        ([], None),
    ],
)
def test_strings_that_only_the_newest_python_reads(tokens, line, monkeypatch):
    """Its own tokens by hand, whatever Python this is."""
    monkeypatch.setattr(tokenize, "FSTRING_START", 1001, raising=False)
    monkeypatch.setattr(tokenize, "FSTRING_END", 1003, raising=False)
    monkeypatch.setattr(tokenize, "generate_tokens", lambda readline: iter(stream(*tokens)))
    assert runs.nested_quotes("") == line


@pytest.mark.parametrize("error", [tokenize.TokenError, SyntaxError])
def test_a_text_that_breaks_off_has_no_newer_strings(error, monkeypatch):
    def broken(readline):
        yield from stream(("start", 'f"'))
        raise error("planted")

    monkeypatch.setattr(tokenize, "FSTRING_START", 1001, raising=False)
    monkeypatch.setattr(tokenize, "FSTRING_END", 1003, raising=False)
    monkeypatch.setattr(tokenize, "generate_tokens", broken)
    assert runs.nested_quotes("") is None


@pytest.mark.parametrize(
    ("here", "version", "line", "told"),
    [
        ((3, 12), (3, 11), 4, "line 4: an f-string with its own quotes"),
        ((3, 12), (3, 11), None, None),
        ((3, 13), (3, 10), 1, "line 1: an f-string"),
        ((3, 12), (3, 12), 4, None),
        ((3, 11), (3, 11), 4, None),  # older ones refuse it themselves
        ((3, 11), (3, 10), 4, None),
    ],
)
def test_newer_strings_are_looked_for_where_this_python_reads_them(
    here, version, line, told, monkeypatch
):
    monkeypatch.setattr(runs.sys, "version_info", (*here, 0, "final", 0))
    monkeypatch.setattr(runs, "nested_quotes", lambda text: line)
    problem = runs.syntax_error(b"x = 1\n", version)
    assert problem.startswith(told) if told else problem is None


def test_what_is_no_python_is_told_with_its_kind():
    assert runs.syntax_error(b"x = 1\n\ndef f(:\n", (3, 12)).startswith("line 3: ")
    assert runs.syntax_error(b"x = '\0'\n", (3, 12)) is not None
    assert runs.syntax_error(b"\xff", (3, 12)) is not None
    deep = runs.syntax_error(b"(" * 3 + b"-" * 200_000 + b"1)))", (3, 12))
    assert deep is not None


@pytest.mark.parametrize(
    ("newest", "problems", "expected"),
    [
        ((3, 12), {}, Finding("pass", "2 sources parse on 3.10, 3.11, 3.12")),
        ((3, 12), {("x = 1", (3, 11)): "why"}, Finding("fail", "a.py does not parse on 3.11: why")),
        (
            (3, 11),
            {("x = 1", (3, 12)): "why", ("y = 2", (3, 11)): "how"},
            Finding("fail", "b.py[exec 1] does not parse on 3.11: how"),
        ),
        ((3, 11), {("y = 2", (3, 12)): "how", ("x = 1", (3, 12)): "why"}, "a.py why"),
        ((3, 10), {("y = 2", (3, 11)): "how"}, r"b.py\[exec 1\] how"),
    ],
)
def test_a_version_that_this_python_cannot_read_for_is_not_judged(
    newest, problems, expected, monkeypatch
):
    """A whole file is read as its bytes, what is hidden in one as its text."""
    info = SimpleNamespace(minor=newest[1])

    class Version(tuple):
        minor = info.minor

    monkeypatch.setattr(runs.sys, "version_info", Version((*newest, 0)))
    monkeypatch.setattr(
        runs, "syntax_error", lambda data, version: problems.get((data.decode(), version))
    )
    sources = [
        SimpleNamespace(label="a.py", file="a.py", text="not this"),
        SimpleNamespace(label="b.py[exec 1]", file="b.py", text="y = 2"),
    ]
    texts = {"a.py": b"x = 1", "b.py": b"exec(...)"}
    code = SimpleNamespace(required=sources, texts=texts)
    made = SimpleNamespace(code=code, own_logs=[], ours=False)
    if isinstance(expected, Finding):
        assert registered(runs.versions)(made) == expected
    else:
        here = f"^this Python 3.{newest[1]} cannot read for a newer one: {expected}$"
        with pytest.raises(CannotTell, match=here):
            registered(runs.versions)(made)


# The box itself, without the kernel's fence


@pytest.fixture
def unfenced(tmp_path, monkeypatch):
    """Return a function that runs code in a box as an ordinary process."""
    monkeypatch.setattr(sandbox, "_fenced", lambda root, arguments: [sys.executable, *arguments])
    told = []
    progress = SimpleNamespace(title="mine", say=told.append)
    home = tmp_path / "folder"
    (home / "sub").mkdir(parents=True)
    (home / "sub" / "a.txt").write_text("inside")

    def run(code, seconds=60.0, variables=None):
        (home / "main.py").write_text(code)
        with sandbox.Box(Submission(home, Options(progress=progress))) as box:
            result = box.run(["main.py"], seconds, variables)
        assert not box.root.exists()
        return result, told

    return run


def test_a_program_has_a_copy_of_the_folder_and_a_few_variables(unfenced, monkeypatch):
    monkeypatch.setenv("SECRET_TOKEN", "hunter2")
    monkeypatch.setenv("LC_ALL", "C")
    monkeypatch.delenv("CUDA_HOME", raising=False)
    code = (
        "import json, os, sys\nroot = os.path.dirname(os.getcwd())\n"
        "print(json.dumps({k: v.replace(root, '') for k, v in os.environ.items()}))\n"
        "print(os.path.basename(os.getcwd()), open('sub/a.txt').read(), sys.stdin.read() == '',"
        " os.getsid(0) == os.getpid(), sorted(os.listdir(root)))\n"
        "print('fault', file=sys.stderr)\nsys.exit(3)\n"
    )
    reply, told = unfenced(code, variables={"RUN_ID": "a"})
    assert reply.code == 3 and reply.err == "fault\n" and 0 < reply.seconds < 60
    variables, rest = reply.out.splitlines()
    variables = json.loads(variables)
    expected = {
        "HOME": "/home",
        "PYTHONPATH": "/observer",
        "TMPDIR": "/tmp",
        "TORCHINDUCTOR_CACHE_DIR": "/tmp",
        "TRITON_CACHE_DIR": "/tmp",
        "PYTHONDONTWRITEBYTECODE": "1",
        "PYTHONUNBUFFERED": "1",
        "RUN_ID": "a",
        "LC_ALL": "C",
    }
    assert {name: variables.get(name) for name in expected} == expected
    assert variables.keys() - expected.keys() <= {*sandbox.PASSED_ON, "LC_CTYPE"}
    folders = ["data", "folder", "home", "observer", "shm", "tmp"]
    assert rest == f"folder inside True True {folders}"
    assert [kind for kind, _ in reply.notes] == ["ready"]
    assert told == ["mine: executes the submission's code in a box, at most 60 s"]


def test_no_variables_beside_those_of_the_box_are_needed(unfenced):
    assert unfenced("print('a')\n")[0].out == "a\n"


def test_a_program_is_stopped_in_time_and_its_end_is_kept(unfenced):
    reply, _ = unfenced("import time\nprint('a' * 30_000, 'b')\ntime.sleep(60)\n", seconds=2.0)
    assert reply.code is None and 2.0 <= reply.seconds < 30
    assert reply.out == "a" * (20_000 - 3) + " b\n" and reply.err == ""


def test_a_box_is_removed_whatever_is_left_of_it(tmp_path):
    (tmp_path / "a.txt").write_text("a")
    with sandbox.Box(Submission(tmp_path)) as box:
        shutil.rmtree(box.root)
    assert not box.root.exists()


@pytest.mark.parametrize("error", [OSError("planted"), subprocess.TimeoutExpired("sh", 60)])
def test_a_system_that_does_not_answer_has_no_namespaces(error, monkeypatch):
    asked = []

    def run(command, **options):
        asked.append((sandbox.Path(command[command.index("enter") + 1]), options["timeout"]))
        raise error

    monkeypatch.setattr(sandbox.subprocess, "run", run)
    assert sandbox.has_namespaces.__wrapped__() is False
    [(root, timeout)] = asked
    assert not root.exists() and timeout == 60


def test_a_system_is_asked_once(monkeypatch):
    asked = []

    def run(command, **options):
        root = sandbox.Path(command[command.index("enter") + 1])
        asked.append(sorted(path.name for path in root.iterdir()))
        shutil.rmtree(root)
        return SimpleNamespace(returncode=0)

    monkeypatch.setattr(sandbox.subprocess, "run", run)
    sandbox.has_namespaces.cache_clear()
    assert [sandbox.has_namespaces(), sandbox.has_namespaces()] == [True, True]
    assert asked == [["folder", "shm"]]
    sandbox.has_namespaces.cache_clear()


@pytest.mark.parametrize("code", [1, -9])
def test_a_fence_that_does_not_hold_is_none(code, monkeypatch):
    monkeypatch.setattr(
        sandbox.subprocess, "run", lambda *_, **__: SimpleNamespace(returncode=code)
    )
    assert sandbox.has_namespaces.__wrapped__() is False
