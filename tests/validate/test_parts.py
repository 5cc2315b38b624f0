"""The parts that checks share, each alone: numbers, pickles, logs, sources, verdicts, and how far a
score may lie from a claim.
"""

import ast
import collections
import json
import pickle
import zlib
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest

from fast import data, evaluate
from fast.bytes import byte_table
from fast.data import write_shard
from fast.evaluate import Effort
from harness import validate
from harness.validate import (
    execution,
    model,
    numbers,
    pickles,
    rates,
    rescore,
    sandbox,
    source,
    training_log,
    verdict,
)
from harness.validate.checks import log as log_checks
from harness.validate.checks import safety
from harness.validate.checks.folder import json_fields, one_record, plain_files
from harness.validate.checks.validity import mixed_up
from harness.validate.submission import Options, Submission
from harness.validate.verdict import CannotTell, Finding
from reference.recipe import ESTIMATORS, TINY, InputError
from tests.support.strategies import random_params, tensors


@pytest.fixture
def folder(tmp_path):
    """Return a function that makes a submission of these files."""

    def make(files: dict[str, str | dict], **options) -> Submission:
        home = tmp_path / "2026-03-20_Mine"
        home.mkdir(exist_ok=True)
        for path, content in files.items():
            (home / path).parent.mkdir(parents=True, exist_ok=True)
            text = content if isinstance(content, str) else json.dumps(content)
            (home / path).write_text(text)
        return Submission(home, Options(**options))

    return make


# Verdicts


def test_faults_come_before_what_is_unseen_and_that_before_a_pass():
    unseen = ["one", "two", "three", "four"]
    assert verdict.judged(["a", False, "b", ""], "fine", unseen) == Finding("fail", "a; b")
    with pytest.raises(CannotTell, match="^one; two; three$"):
        verdict.judged([False], "fine", unseen)
    assert verdict.judged([], "fine") == Finding("pass", "fine")


def test_a_check_is_registered_with_its_file_and_its_docstring(monkeypatch):
    monkeypatch.setattr(verdict, "CHECKS", [])

    def asked(submission):
        """Two
        words.
        """

    asked.__module__ = "harness.validate.checks.bytes"
    assert verdict.check("name", "rules", "caught", "fix")(asked) is asked
    assert verdict.CHECKS == [
        verdict.Check("name", "bytes", "rules", asked, "Two words.", "caught", "fix")
    ]


def test_checks_come_by_group_in_the_order_of_their_definition():
    places = [validate.GROUPS.index(check.group) for check in validate.CHECKS]
    assert places == sorted(places) and set(places) == set(range(8))
    for group in validate.GROUPS:
        mine = [check for check in validate.CHECKS if check.group == group]
        assert mine == [check for check in verdict.CHECKS if check.group == group]
    assert validate.CHECKS[0].name == "required files"


def test_nothing_is_executed_and_ten_minutes_are_given_unless_asked(tmp_path):
    wanted = Options(None, None, False, 600.0)
    check = verdict.Check(
        "mine", "folder", "rules", lambda s: verdict.passed(f"{s.options == wanted}"), "", "", ""
    )
    [row] = validate.validate(tmp_path, checks=(check,))
    assert row["evidence"] == "True"


def test_evidence_of_the_longest_length_is_whole():
    assert validate.printable("a" * 1000) == "a" * 1000
    assert validate.printable("a" * 1001) == "a" * 999 + "…"


# Numbers


@pytest.mark.parametrize(
    ("values", "one_unit"),
    [
        ((1.2244, 1.2243657), 1e-4),
        ((1.22, 1.2244), 1e-4),  # zeros at the end may be missing: four digits at least
        ((1.22436571, 1.22436572), 1e-8),
        ((1.2243657123, 1.2243657124), 1e-8),  # eight at most
        ((1e-07,), 1e-7),
    ],
)
def test_numbers_agree_within_a_unit_of_their_last_digit(values, one_unit):
    assert numbers.tolerance(*values) == pytest.approx(1.01 * one_unit)


def test_a_mean_may_be_off_by_the_rounding_of_its_values_as_well():
    values = [1.2244, 1.2246]  # mean 1.2245: half a unit of these, one of what is stated
    for stated, fine in ((1.22456, True), (1.22457, False), (1.22444, True), (1.22443, False)):
        assert numbers.agree_mean(stated, values) is fine, stated


# Pickles


@pytest.mark.parametrize("protocol", range(6))
def test_a_safe_pickle_names_nothing_dangerous(protocol):
    """Names that are fetched from the memo are followed, and what is put there is what was read."""
    twice = [collections.OrderedDict(a=1), collections.Counter("b"), collections.OrderedDict(c=2)]
    data = pickle.dumps(twice, protocol)
    found = pickles.listed(data, "a")
    assert found.dangers == [] and found.error is None and found.calls and found.end == len(data)


def test_a_name_from_the_memo_is_the_one_that_was_put_there():
    safe = b"\x80\x04\x8c\x0bcollections\x94\x8c\x0bOrderedDict\x940h\x00h\x01\x93."
    assert pickles.listed(safe, "a").dangers == []
    swapped = b"\x80\x04\x8c\x02os\x94\x8c\x06system\x940h\x00h\x01\x93."
    assert pickles.listed(swapped, "a").dangers == ["a: STACK_GLOBAL os.system at byte 21"]
    alone = b"\x80\x04\x8c\x06system\x93."
    [danger] = pickles.listed(alone, "a").dangers
    assert "a name that is computed" in danger


@pytest.mark.parametrize(
    ("name", "data", "expected"),
    [
        ("a.txt", pickle.dumps({}, 2), True),
        ("a.txt", pickle.dumps({}, 0), False),
        ("a.pkl", pickle.dumps({}, 0), True),
        ("A.PKL", pickle.dumps({}, 0), True),
        ("a.txt", b"cos\nsystem\n(S'x'\ntR.", True),  # calls what it names, in any file
        ("a.pkl", b".", False),  # one opcode
        ("a.pkl", b"", False),
        ("a.pkl", b"plain words", False),
    ],
)
def test_what_is_a_pickle(name, data, expected):
    assert pickles.is_pickle(name, data) is expected


def test_a_list_of_opcodes_has_an_end():
    found = pickles.listed(b"]" + b"0]" * 50 + b".", "a", most=20)
    assert found.error == "ValueError: more than 20 opcodes"
    assert pickles.listed(b"N.", "a", most=2).error is None


# Scores


@pytest.mark.parametrize(
    ("named", "expected"),
    [
        ("", ("causal", None)),
        ("Causal", ("causal", None)),
        ("AR, one pass", ("causal", None)),
        ("autoregressive", ("causal", None)),
        ("nelbo", None),
        ("sliding window", None),
    ],
)
def test_estimators_of_a_causal_model_by_name(named, expected):
    effort = rescore.effort_of(named, ("causal",), 0.5)
    assert (effort and (effort.estimator, effort.order)) == expected
    assert not effort or effort.epsilon == 0.5


@pytest.mark.parametrize(
    ("named", "expected"),
    [
        ("causal", "causal"),
        ("AR, one pass", "causal"),
        ("nelbo", "nelbo"),
        ("chain left-to-right", "chain"),
        ("", None),
        ("sliding window", None),
    ],
)
def test_estimators_of_a_model_of_both_kinds_by_name(named, expected):
    effort = rescore.effort_of(named, (*ESTIMATORS, "causal"), 0.5)
    assert (effort and effort.estimator) == expected
    if expected == "causal":
        assert rescore.effort_of(named, ESTIMATORS, 0.5) is None


def test_estimators_are_named_in_any_case():
    effort = rescore.effort_of("Chain Left_To_Right", ESTIMATORS, 0.25)
    assert (effort.estimator, effort.order, effort.epsilon) == ("chain", "left-to-right", 0.25)
    assert rescore.effort_of("NELBO", ESTIMATORS, 0.5).order is None


@pytest.mark.parametrize(
    ("masks", "sequences", "stated", "windows", "spread"),
    [
        (0.003, 0.1, 0.004, 8, 2 * 0.005),  # other masks: two errors of the difference
        (0.003, 0.1, 0.003, 8, 0.0),  # the same masks
        (0.003, 0.1, 0.00302, 8, 0.0),
        (0.003, 0.1, None, 8, 2 * 0.003 * 2**0.5),
        (0.0, 0.1, None, 8, 0.0),  # an estimator without masks
        (0.003, 0.004, 0.003, 7, 4 * 0.005),  # some windows
        (0.003, 0.004, None, 7, 4 * 0.005),
        (0.0, 0.004, None, 7, 4 * 0.004),
    ],
)
def test_a_claim_may_lie_as_far_as_both_errors_allow(masks, sequences, stated, windows, spread):
    score = SimpleNamespace(stderr_masks=masks, stderr_sequences=sequences)
    measured = rescore.Measured(score, windows, 8)
    expected = spread + 0.5e-3 + 5e-4 * 1.225
    assert rescore.allowed(measured, 1.225, stated) == pytest.approx(expected, rel=1e-12)


def test_a_program_failed_by_its_own_fault_or_by_this_machine(folder):
    theirs = folder({"train_gpt.py": "pass\n"})
    ours = SimpleNamespace(ours=True, code=SimpleNamespace(entry="train_gpt.py"))

    def ran(code, err=""):
        return sandbox.Ran(code, 61.4, "", err, ())

    missing = "Traceback\nModuleNotFoundError: No module named '{}'\n".format
    assert execution.problem(theirs, ran(0, "warning")) is None
    with pytest.raises(CannotTell, match="^the package flash_attn.ops is not installed here$"):
        execution.problem(ours, ran(1, missing("flash_attn.ops")))
    assert execution.problem(ours, ran(1, missing("harness.runs"))).startswith(
        "exit code 1: Module"
    )
    assert execution.problem(ours, ran(None, "x\n")) == "stopped after 61 s, still running"
    assert execution.problem(ours, ran(3, "x\ny \n\n")) == "exit code 3: y"
    assert execution.problem(ours, ran(3)) == "exit code 3: no output"
    with pytest.raises(CannotTell, match="^train_gpt.py: exit code 3: y$"):
        execution.problem(theirs, ran(3, "y"))


def test_notes_that_are_no_pairs_are_passed_over(tmp_path):
    notes = tmp_path / "notes"
    assert sandbox._notes(notes) == ()
    notes.write_bytes(b'["write", "a"]\n{\n[1]\n["network", 2]\n\xff\n')
    assert sandbox._notes(notes) == (("write", "a"), ("network", "2"))
    (tmp_path / "link").symlink_to(notes)
    assert sandbox._notes(tmp_path / "link") == ()


def test_a_system_without_namespaces_is_told(monkeypatch):
    ask = sandbox.has_namespaces.__wrapped__
    for arguments, expected in ((["true"], True), (["false"], False), (["/no/program"], False)):
        monkeypatch.setattr(sandbox, "_fenced", lambda root, code, words=arguments: words)
        assert ask() is expected


def test_training_text_is_given_where_there_is_some(corpus, tmp_path):
    given = model.text(Submission(tmp_path, Options(corpus)))
    assert len(given.train) > 100 and given.ids(7, "train").tolist() == [
        int(each) for each in given.train.read(0, 7)
    ]
    assert len(given.ids(1 << 40)) == len(given.validation)
    alone = tmp_path / "alone"
    alone.mkdir()
    for path in (*given.validation.paths, given.tokenizer.path):
        (alone / path.name).write_bytes(path.read_bytes())
    assert model.text(Submission(tmp_path, Options(alone))).train is None


@pytest.mark.parametrize("pieces", [399, 401])
def test_a_tokenizer_of_another_size_does_not_fit(corpus, tmp_path, monkeypatch, pieces):
    opened = SimpleNamespace(recipe=SimpleNamespace(model=SimpleNamespace(vocab=pieces)))
    monkeypatch.setattr(model, "model", lambda submission: opened)
    with pytest.raises(CannotTell, match=f"the model has {pieces} pieces, .* given 400"):
        model.model_and_text(Submission(tmp_path, Options(corpus)))


# Sources


def test_the_script_that_runs():
    """train_gpt.py, else the largest that trains, else the largest; of the top folder."""

    def entry(**sizes):
        texts = {name.replace("__", "/") + ".py": b"x" * size for name, size in sizes.items()}
        return source.Code(texts, {}).entry

    assert entry(train_gpt=1, train_more=5, other=9) == "train_gpt.py"
    assert entry(train_a=2, train_b=5, other=9, sub__train=20) == "train_b.py"
    assert entry(a=2, b=5) == "b.py"
    assert entry(sub__train_gpt=3) is None


def test_a_file_beside_the_script_is_named_from_where_the_script_is():
    texts = {"sub/train.py": b"open('data/a.bin')\n", "train.py": b"open('data/b.bin')\n"}
    files = {**dict.fromkeys(texts, 1), "sub/data/a.bin": 1, "data/b.bin": 1, "data/a.bin": 1}
    code = source.Code(texts, files)
    mentioned = {name: code.mentioned(code.sources[name]) for name in texts}
    assert mentioned["train.py"] == {"data/b.bin"}
    assert mentioned["sub/train.py"] == {"sub/data/a.bin", "data/a.bin"}  # started from either


def test_after_code_that_is_not_read_the_rest_is_read():
    script = b"exec(input())\nexec('import helper')\nexec(open('c.py', 'r').read())\n"
    texts = {"train_gpt.py": script, "helper.py": b"A = 1\n", "c.py": b"import d\n", "d.py": b""}
    code = source.Code(texts, {name: len(text) for name, text in texts.items()})
    assert [where.split()[0] for where in code.unread] == ["train_gpt.py:1"]
    assert set(code.reached) == set(texts)


# Submissions and logs


def test_seeds_are_numbers(folder):
    claims = {"seed_results": {"seed_1": {"val_bpb": 1.2}, "2": 1.3, "mean": 1.25}}
    made = folder({"submission.json": claims})
    assert made.seed_claims == {"1": {"val_bpb": 1.2}, "2": {"val_bpb": 1.3}}
    assert made.seed_scores == {"1": 1.2, "2": 1.3} and not made.ours


def test_files_are_read_up_to_a_total(folder):
    made = folder({"a.txt": "x" * 6, "b.txt": "y" * 4, "c.txt": "z"})
    read = list(made._each(["a.txt", "b.txt", "c.txt"], made.text, 10))
    assert read == [("a.txt", "x" * 6), ("b.txt", "y" * 4)]
    assert made.strange[-1] == "c.txt: not read, more than 10 bytes of its kind"


def test_what_a_log_says_of_seeds_sizes_and_settings():
    def parsed(*lines, name="train.log"):
        return training_log.parse(name, "\n".join(lines))

    assert parsed("seed:7", name="train_seed3.log").seed == "7"
    assert parsed("seed:none", name="train_Seed-3.log").seed == "3"
    assert parsed("seed:none").seed is None
    log = parsed("lr:0.1", "LR:0.2", "Depth:4", "depth:4")
    assert log.settings == {"lr": "0.1", "depth": "4"} and log.varying == {"lr"}


def test_the_learning_rate_came_down_or_nobody_can_tell(folder):
    """By the code's schedule, where the log prints no rate."""
    schedule = "def rate(step, {0}):\n    return min(1.0, {0} / warmdown_iters)\n"
    done = "step:20/20 train_loss:3.0 train_time:9ms\nfinal_roundtrip val_loss:2.0 val_bpb:1.2\n"

    def told(code, log):
        made = folder({"train_gpt.py": code, "train.log": log})
        return validate.answer(
            next(check for check in validate.CHECKS if check.name == "warmdown"), made
        )

    assert told(schedule.format("left"), "warmdown_iters:5\n" + done).verdict == "pass"
    found = told(schedule.format("left"), "warmdown_iters:0\n" + done)
    assert found.verdict == "fail" and "never comes down" in found.evidence
    for code, log in (("x = 1\n", "warmdown_iters:5\n"), ("x = 1\n", "")):
        found = told(code, log + done)
        assert found.verdict == "cannot tell" and "no warmdown found" in found.evidence


@pytest.mark.parametrize(("seconds", "verdict_of"), [(600.4, "pass"), (600.6, "fail")])
def test_the_clock_may_end_with_the_step_that_was_under_way(folder, seconds, verdict_of):
    """Half a second at least."""
    line = f"step:9000/9000 train_loss:3.0 train_time:{1000 * seconds:.0f}ms\n"
    made = folder({"train.log": line, "submission.json": {"track": "10min_16mb"}})
    assert log_checks.time_limit(made).verdict == verdict_of


# Code that is not shown


def test_where_code_is_not_read_a_check_says_so(folder):
    """Each of those that would else pass for want of what they look for."""
    made = folder({"train_gpt.py": "exec(input())\n", "train.log": "seed:1\nval_bpb:1.2\n"})
    names = ("decimal megabytes", "loading weights", "readable code", "weight average")
    asked = [check for check in validate.CHECKS if check.name in names]
    assert len(asked) == len(names)
    for check in asked:
        assert validate.answer(check, made).verdict == "cannot tell", check.name


def test_no_script_is_no_readable_code(folder):
    made = folder({"README.md": "nothing\n"})
    with pytest.raises(CannotTell):
        safety.hidden_code(made)
    assert safety.hidden_code(folder({"train_gpt.py": "x = 1\n"})).verdict == "pass"


# Folders


def test_another_script_is_one_of_the_same_name_further_down(folder):
    claims = {"submission.json": {"val_bpb": 1.2}}
    assert one_record(folder({**claims, "sub/helper.py": "", "sub/a.py": ""})).verdict == "pass"
    found = one_record(folder({"sub/train_gpt.py": ""}))
    assert found == Finding("fail", "another script or record sub/train_gpt.py")


def test_a_field_of_blanks_is_no_text(folder):
    found = json_fields(folder({"submission.json": {"author": "  ", "val_bpb": 1.2}}))
    assert found.verdict == "fail" and "author is '  ', expected text" in found.evidence


@pytest.mark.parametrize(("causal", "filled"), [(False, 12), (True, 0)])
def test_a_pass_is_timed_on_ids_that_the_model_knows(causal, filled):
    """The mask id, which a causal model has none of; as many rows as fit, the second time counts."""
    given = []
    shape = replace(TINY.model, vocab=12, causal=causal)
    opened = model.Model(replace(TINY, model=shape), {}, None)
    assert 0 <= rescore.pass_seconds(opened, 5, given.append) < 1
    assert [tuple(ids_BL.shape) for ids_BL in given] == [(8, 5)] * 2
    assert all(int(ids_BL.min()) == int(ids_BL.max()) == filled for ids_BL in given)
    given.clear()
    rescore.pass_seconds(opened, 1 << 14, given.append)
    assert given[0].shape[0] == 2


def test_no_more_than_a_few_findings_are_quoted(folder):
    """Four secrets, three calls; the others are there to be found again."""
    key = "gh" + "p_" + "{}" * 36
    names = [f"{letter}.txt" for letter in "abcde"]
    found = safety.secrets(folder({name: key.format(*36 * name[0]) for name in names}))
    assert found.verdict == "fail"
    assert [name in found.evidence for name in names] == [True] * 4 + [False]
    code = "import pickle\n" + "".join(f"pickle.load(f{number})\n" for number in range(4))
    with pytest.raises(CannotTell, match=r"pickle.load\(f2\): it executes"):
        safety.loads(folder({"train_gpt.py": code}))


def test_the_scores_of_a_log_are_quoted(folder):
    log = "step:2/2 train_loss:3.0\nfinal_int8_zlib_roundtrip val_loss:2.0 val_bpb:1.25\n"
    found = log_checks.roundtrip(folder({"train.log": log}))
    assert found.verdict == "pass" and "train.log" in found.evidence and "1.25" in found.evidence


def test_what_only_measures_validation_text_does_not_train_on_it():
    """A loader's name makes the difference."""
    for code, taken in (
        ("train_tokens = count(args.val_files)\n", []),
        ("train_tokens = load_tokens(args.val_files)\n", ["args.val_files"]),
        ("train_tokens = load_tokens(args.train_files)\n", []),
    ):
        places = [
            place.partition("= ... ")[2].split(" (")[0] for place, _ in mixed_up(ast.parse(code))
        ]
        assert places == taken, code


def test_a_variable_of_the_environment_may_have_no_default():
    code = "bpb = loss / math.log(2) / float(os.environ.get('BYTES_PER_TOKEN'))\n"
    assert rates.constants(ast.parse(code))[0] == []


def test_files_beyond_the_most_are_said_once(folder, monkeypatch):
    monkeypatch.setattr("harness.validate.submission.MAX_FILES", 2)
    made = folder({f"{letter}.txt": "" for letter in "abcd"})
    assert list(made.files) == ["a.txt", "b.txt"] and not made.complete
    assert made.strange == ["c.txt: not looked at, more than 2 files"]


def test_the_parts_of_a_recipe_are_those_of_the_header(folder):
    """Of a header that says something else, none."""
    made = folder({})
    for header, expected in (
        ({"recipe": {"ema": {"start": 0.3}, "seed": 7}, "tensors": {}}, {"ema": {"start": 0.3}}),
        ({"recipe": [1], "tensors": {}}, {}),
        ({}, {}),
    ):
        made.__dict__.pop("recipe", None)
        made.__dict__["header"] = header
        assert made.recipe == expected


def test_a_decompressor_unpacks_its_first_argument():
    """Whatever follows it."""
    data = zlib.compress(b"import helper")
    script = b"import zlib\nexec(zlib.decompress(%r, 15))\n" % data
    code = source.Code({"train_gpt.py": script, "helper.py": b""}, {"helper.py": 0})
    assert set(code.reached) == {"train_gpt.py", "helper.py"} and not code.unread


def test_sizes_in_the_line_of_an_artifact_are_read():
    line = "  artifact: 5 bytes, code: 47642 bytes, budget: 15863489/16000000"
    log = training_log.parse("a.log", line + "\ncode: 3\nbudget: 4/17000000\n")
    assert log.sizes == [("total submission size", "budget", 15_863_489), ("code size", "", 47_642)]


def test_of_another_format_the_bytes_of_the_file_are_converted(folder, monkeypatch):
    asked = []

    def load(data, name):
        asked.append((data, name))
        raise InputError("planted")

    monkeypatch.setattr(model.convert, "load", load)
    made = folder({"final_model.pt": "weights"})
    with pytest.raises(CannotTell, match="^the artifact does not open: planted$"):
        model.model(made)
    assert asked == [(b"weights", "final_model.pt")]


def test_what_is_read_and_what_does_not_belong_is_told(folder):
    claims = {"submission.json": {"val_bpb": 1.2}, "train_gpt.py": "x = 1\n"}
    log = {"train.log": "step:2/2 train_loss:3.0\n"}
    found = plain_files(folder(claims | log))
    assert found == Finding(
        "pass", "2 sources and logs read, 3 regular files in 1 folders, no links"
    )
    records = [f"2026-03-1{day}_Old" for day in range(4)]
    found = one_record(folder({f"{name}/README.md": "" for name in records}))
    assert found.verdict == "fail"
    assert [name in found.evidence for name in records] == [True, True, True, False]


SHAPE = SimpleNamespace(
    recipe=SimpleNamespace(model=SimpleNamespace(length=8, vocab=5)),
    predictor=lambda estimator: estimator,
)
FOUR_PASSES = SimpleNamespace(estimator="nelbo", passes=lambda length: 4)


def test_each_estimator_is_measured_by_the_attention_that_it_reads(tmp_path):
    """Of one network with two kinds of attention: each score is that of maskgolf eval."""
    rng = np.random.default_rng(1)
    both = replace(TINY.model, vocab=5, mixing=1, shift=True, causal_share=0.5)
    recipe = replace(TINY, model=both)
    params = tensors(random_params(recipe.model, rng))
    opened = model.Model(recipe, params, None)
    write_shard(tmp_path / "val.bin", rng.integers(0, 5, 83).astype(np.uint16))
    table = byte_table(list("abcde"), ["normal"] * 5)
    text = data.Tokens([tmp_path / "val.bin"])
    given = SimpleNamespace(validation=text, tokenizer=SimpleNamespace(table=table))
    found = {}
    for estimator in ("causal", "chain"):
        effort = Effort(estimator, "left-to-right" if estimator == "chain" else None)
        found[estimator] = rescore.measure(opened, given, effort, 1e6).score.bpb
        predict = evaluate.predictor(params, recipe, estimator=estimator)
        windows = data.evaluation_windows(text, both.length, both.vocab)
        parts = list(evaluate.measure(predict, windows, table, effort))
        assert found[estimator] == pytest.approx(evaluate.total(parts, effort, 0).bpb, rel=1e-6)
    assert abs(found["causal"] - found["chain"]) > 1e-3


@pytest.mark.parametrize(
    ("seconds", "most", "expected"),
    [
        (9.0, None, (11, 4)),
        (0.1, None, (11, 2)),  # a spread needs two
        (99.0, None, (11, 11)),
        (99.0, 3, (3, 3)),
    ],
)
def test_as_many_windows_are_measured_as_time_allows(monkeypatch, seconds, most, expected):
    """Of 83 tokens in windows of 8: four passes of half a second for each."""
    asked = []

    def ranges(total, wanted):
        asked.append((total, wanted))
        raise InputError("planted")

    monkeypatch.setattr(rescore, "pass_seconds", lambda *_: 0.5)
    monkeypatch.setattr(rescore, "ranges", ranges)
    with pytest.raises(InputError):
        rescore.measure(SHAPE, SimpleNamespace(validation=range(83)), FOUR_PASSES, seconds, most)
    assert asked == [expected]


@pytest.mark.parametrize(("limit", "windows"), [(8, 2), (80, 5), (1e6, 10)])
def test_as_many_windows_are_scored_as_an_eighth_of_the_time_allows(monkeypatch, limit, windows):
    given = SimpleNamespace(validation=range(83), ids=lambda count: count)
    monkeypatch.setattr(execution, "ready", lambda submission: None)
    monkeypatch.setattr(execution, "model_and_text", lambda submission: (SHAPE, given))
    monkeypatch.setattr(execution, "default_effort", lambda recipe: FOUR_PASSES)
    monkeypatch.setattr(rescore, "pass_seconds", lambda *_: 0.5)
    asked = SimpleNamespace(ours=True, options=SimpleNamespace(time_limit=limit))
    assert execution.scored_ids.__wrapped__(asked) == 8 * windows
