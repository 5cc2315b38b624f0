"""What looks like a fault and is none, in folders built small; beside each a neighbour that has the
fault and must fail.
"""

import base64
import json

import pytest

from harness.validate import CHECKS, answer, rates, training_log
from harness.validate.checks import bytes as sizes
from harness.validate.source import parse
from harness.validate.submission import Submission
from harness.validate.verdict import Finding

STEPS = "step:5/10 train_loss:3.1 train_time:50ms\nstep:10/10 train_loss:3.0 train_time:99ms\n"
FINAL = "final_roundtrip val_loss:2.0600 val_bpb:1.2200\n"


@pytest.fixture
def ask(tmp_path):
    """Return a function that asks one check about a folder of these files and no others."""

    def asked(name: str, files: dict[str, str | dict]) -> Finding:
        home = tmp_path / f"2026-03-20_Mine{len(list(tmp_path.iterdir()))}"
        home.mkdir()
        for path, content in files.items():
            (home / path).write_text(content if isinstance(content, str) else json.dumps(content))
        return answer(next(check for check in CHECKS if check.name == name), Submission(home))

    return asked


# Python versions

GROUPS = (
    "def quiet(f):\n    try:\n        f()\n    except* ValueError:\n        pass\n"  # from 3.11 on
)
QUOTES = 'def say(x):\n    return f"{x["a"]}"\n'  # from 3.12 on
BROKEN = "def say(:\n    pass\n"


@pytest.mark.parametrize(
    ("line", "verdict"),
    [
        ("Running Python 3.11.9 (main, Jan  1 2026, 00:00:00) [GCC]", "pass"),
        ("python -> Python 3.11.9, torch=2.9", "pass"),
        ("Python version: 3.11.9", "pass"),
        ("  File /usr/lib/python3.11/site-packages/a.py:1: UserWarning: b", "pass"),
        ("Running Python 3.10.12 (main)", "fail"),
        ("/usr/lib/python3.10/site-packages/a.py:1: UserWarning: b", "fail"),
        # what it says of itself before what lies in a folder
        ("Running Python 3.11.9\n/usr/lib/python3.10/site-packages/a.py:1: UserWarning", "pass"),
        ("Running Python 3.11.9\nRunning Python 3.10.12", "fail"),
        ("needs Python 3.11.0 or newer", "fail"),
        ("", "fail"),
    ],
)
def test_code_must_parse_on_the_python_that_it_ran_on(line, verdict, ask):
    log = f"{line}\n{STEPS}{FINAL}"
    reply = ask("Python versions", {"train_gpt.py": GROUPS, "train.log": log})
    assert reply.verdict == verdict, reply
    if verdict == "pass":
        told = "1 sources parse on 3.11, on which the logs say that it ran"
        assert reply.evidence == told
    else:
        assert "train_gpt.py does not parse on 3.10: line" in reply.evidence


@pytest.mark.parametrize(
    ("script", "more", "verdict"),
    [
        (GROUPS, 0, "cannot tell"),
        (QUOTES, 0, "cannot tell"),
        (GROUPS, 1, "fail"),
        (QUOTES, 1, "fail"),
        (BROKEN, 0, "fail"),
    ],
)
def test_code_whose_bytes_a_log_prints_ran_on_some_python(script, more, verdict, ask):
    log = f"{STEPS}Code size: {len(script) + more} bytes\n{FINAL}"
    reply = ask("Python versions", {"train_gpt.py": script, "train.log": log})
    assert reply.verdict == verdict, reply
    ran = "the logs print the bytes of this code, so that it ran, but not on which Python"
    assert reply.evidence.endswith(ran) == (verdict == "cannot tell")


@pytest.mark.parametrize(("more", "verdict"), [(0, "cannot tell"), (1, "fail")])
def test_code_may_be_packed_after_the_run_that_prints_its_bytes(more, verdict, ask):
    script = f"exec({GROUPS!r})\n"
    log = f"{STEPS}Code size: {len(GROUPS) + more} bytes\n{FINAL}"
    reply = ask("Python versions", {"train_gpt.py": script, "train.log": log})
    assert reply.verdict == verdict and "train_gpt.py[exec" in reply.evidence, reply


def test_bytes_of_all_code_are_those_of_each_file(ask):
    """Printed as one size, or of the script alone."""
    script = "import helper\n"
    for size, verdict in ((len(script) + len(GROUPS), "cannot tell"), (len(script), "fail")):
        files = {"train_gpt.py": script, "helper.py": GROUPS}
        log = f"{STEPS}Code size: {size} bytes\n{FINAL}"
        assert ask("Python versions", {**files, "train.log": log}).verdict == verdict


def test_a_packed_folder_parses_on_all_of_them(ask):
    log = f"Running Python 3.11.9\n{STEPS}Code size: {len(GROUPS)} bytes\n{FINAL}"
    files = {"train_gpt.py": GROUPS, "train.log": log, "final_model.mgolf": "x"}
    assert ask("Python versions", files).verdict == "fail"


# Tracebacks

BEGINS = "Traceback (most recent call last):"
REAL = f'{BEGINS}\n  File "a.py", line 1, in main\nRuntimeError: no\n'
RECORD = f"W0102 03:04:05.678000 99 pkg/cache.py:7] [0/0] {BEGINS}\n"
OLDER = f"[2026-01-02 03:04:05,678] pkg.frame: [WARNING] {BEGINS}\n"
SAID = "Exception ignored in: <function Cache.__del__ at 0x7f00>\n"
BLOCK = f'{BEGINS}\n  File "a.py", line 1, in __del__\nOutOfMemoryError: no\n'


@pytest.mark.parametrize(
    ("lines", "fine"),
    [
        ("", True),
        (RECORD, True),
        (f"[rank3]:{RECORD}", True),
        (f"[rank3]: {RECORD}", True),
        (OLDER, True),
        (f"[rank0]:{OLDER}", True),
        (SAID + BLOCK, True),
        (SAID + SAID + BLOCK + BLOCK, True),
        (SAID + f"[rank3]:{RECORD}" + BLOCK, True),
        (REAL, False),
        (f"[rank3]: {REAL}", False),
        (RECORD.replace("W0102", "E0102"), False),
        (OLDER.replace("WARNING", "ERROR"), False),
        (RECORD + REAL, False),
        (SAID + BLOCK + BLOCK, False),
        (SAID + BLOCK + "Killed\n", False),
        (SAID + STEPS + REAL, False),
        (SAID + FINAL + REAL, False),
        (SAID + BLOCK + "CUDA error: no\n", False),
    ],
)
def test_warnings_and_what_python_ignores_end_no_run(lines, fine, ask):
    """In a log with a final score; a run that ended without one failed, whatever it says last."""
    for log in (STEPS + lines + FINAL, STEPS + FINAL + lines):
        reply = ask("no traceback", {"train.log": log})
        assert reply.verdict == ("pass" if fine else "fail"), reply
    if lines:
        assert ask("no traceback", {"train.log": STEPS + lines}).verdict == "fail"


def test_what_failed_before_the_first_step_began_again(ask):
    """In a log that has steps and goes on to its score."""
    for log, verdict in (
        (REAL + STEPS + FINAL, "pass"),
        (REAL + STEPS, "fail"),
        (REAL + FINAL, "fail"),
        (STEPS + REAL + STEPS + FINAL, "fail"),
    ):
        assert ask("no traceback", {"train.log": log}).verdict == verdict, log


@pytest.mark.parametrize("signal", ["15", "Signals.SIGTERM"])
def test_a_run_that_is_stopped_after_its_scores_had_ended(signal, ask):
    """By a signal from outside; not by a worker that failed, nor before another score."""
    stop = f"W0102 03:04:05.6 9 api.py:725] Received {signal} death signal, shutting down workers\n"
    for log, verdict in (
        (STEPS + FINAL + stop + REAL, "pass"),
        (STEPS + stop + REAL + FINAL, "fail"),
        (STEPS + FINAL + stop + REAL + FINAL, "fail"),
        (STEPS + FINAL + REAL + stop, "fail"),
        (STEPS + stop + REAL, "fail"),
    ):
        assert ask("no traceback", {"train.log": log}).verdict == verdict, log


# The code that printed a score

CLAIM = {"name": "a", "val_bpb": 1.22}
HIDDEN = "import base64\nexec(base64.b64decode({!r}))\n"
PRINTS = 'print(f"final_{kind}roundtrip val_loss:{loss}")\n'


@pytest.mark.parametrize(
    ("files", "verdict"),
    [
        ({"train_gpt.py": PRINTS}, "pass"),
        ({"train_gpt.py": HIDDEN.format(base64.b64encode(PRINTS.encode()))}, "pass"),
        ({"train_gpt.py": "import scores\n", "scores.py": PRINTS}, "pass"),
        ({"train_gpt.py": "import ctypes\n", "score.c": PRINTS}, "pass"),
        ({"train_gpt.py": "import elsewhere\nprint('final')\n"}, "pass"),  # it may print more
        ({"train_gpt.py": "exec(open(path).read())\nprint('final')\n"}, "pass"),
        ({"train_gpt.py": "print('final', args.name)\n"}, "fail"),
        ({"train_gpt.py": HIDDEN.format(base64.b64encode(b"print('final')"))}, "fail"),
        ({"train_gpt.py": "import torch\nprint('roundtrips')\n"}, "fail"),
    ],
)
@pytest.mark.parametrize("mean", [False, True])
def test_code_of_the_folder_can_have_printed_the_score(mean, files, verdict, ask):
    """All words by which the log calls the score are in the code, where all code is here."""
    logs = {"train_seed1.log": f"seed:1\n{STEPS}{FINAL}"}
    if mean:
        logs["train_seed1.log"] = logs["train_seed1.log"].replace("1.2200", "1.2100")
        logs["train_seed2.log"] = f"seed:2\n{STEPS}{FINAL.replace('1.2200', '1.2300')}"
    reply = ask("score in log", {"submission.json": CLAIM, **files, **logs})
    assert reply.verdict == verdict, reply
    assert ("no code here has the word" in reply.evidence) == (verdict == "fail")


def test_a_word_of_a_score_may_be_a_setting_of_its_run(ask):
    log = "name:roundtrip_of_mine\n" + STEPS + FINAL
    script = "print('final', args.name)\n"
    files = {"submission.json": CLAIM, "train_gpt.py": script, "train.log": log}
    assert ask("score in log", files).verdict == "pass"


def test_a_score_may_have_no_name(ask):
    files = {"submission.json": CLAIM, "train_gpt.py": "print(bpb)\n"}
    assert ask("score in log", {**files, "eval.log": "val_bpb=1.2200\n"}).verdict == "pass"


# Sizes

RAW = "model_params:20000000\nSerialized model: {} bytes\nCode size: 1000 bytes\n"
TOTAL = "Total submission size: {} bytes\n"


@pytest.mark.parametrize(
    ("claims", "model", "total", "more", "verdict"),
    [
        ({"bytes_total": 15_900_000}, 80_000_000, 80_001_000, "", "cannot tell"),
        ({"bytes_total": 15_900_000}, 40_000_000, 40_000_000, "", "cannot tell"),
        ({"bytes_model": 15_900_000}, 80_000_000, 80_001_000, "", "cannot tell"),
        ({}, 80_000_000, 80_001_000, "Serialized model int8: 900 bytes\n", "cannot tell"),
        ({}, 80_000_000, 80_001_000, TOTAL.format(901), "cannot tell"),
        # what ships
        ({}, 80_000_000, 80_001_000, "", "fail"),
        ({"bytes_total": 15_900_000}, 80_000_000, 17_001_000, "", "fail"),
        ({"bytes_total": 15_900_000}, 20_000_000, 20_001_000, "", "fail"),
        (
            {"bytes_total": 15_900_000},
            80_000_000,
            80_001_000,
            "Total submission size int8+zlib: 16000001 bytes\n",
            "fail",
        ),
        ({"bytes_total": 16_000_001}, 80_000_000, 80_001_000, "", "fail"),
    ],
)
def test_the_model_as_it_was_trained_is_no_artifact(claims, model, total, more, verdict, ask):
    log = STEPS + RAW.format(model) + TOTAL.format(total) + more + FINAL
    files = {"submission.json": {"val_bpb": 1.22, **claims}, "train_gpt.py": "import torch\n"}
    reply = ask("size limit", {**files, "train.log": log})
    assert reply.verdict == verdict, reply


def test_the_json_is_not_held_against_the_model_as_it_was_trained(ask):
    log = STEPS + RAW.format(80_000_000) + TOTAL.format(80_001_000) + "{}" + FINAL
    files = {"submission.json": {"val_bpb": 1.22, "bytes_total": 15_900_000}}
    files["train_gpt.py"] = "#" * 1000
    assert ask("log bytes", {**files, "train.log": log.format("")}).verdict == "pass"
    packed = "Total submission size int8+zlib: 15900007 bytes\n"
    assert ask("log bytes", {**files, "train.log": log.format(packed)}).verdict == "fail"


def sized(size: int, bpb: float, seed: str = "") -> str:
    final = f"final_roundtrip val_loss:2.06 val_bpb:{bpb:.4f}\n"
    return f"{seed}{STEPS}Total submission size int8+zlib: {size} bytes\n{final}"


@pytest.mark.parametrize("seed", ["", "seed:7\n"])
@pytest.mark.parametrize(
    ("claim", "verdict"), [(1.22, "cannot tell"), (1.21, "fail"), (1.5, "cannot tell")]
)
def test_a_log_that_is_named_as_over_the_limit_is_another_runs(claim, verdict, seed, ask):
    """Unless it shows the score."""
    logs = {
        "a_overcap.log": sized(16_100_000, 1.21, seed),
        "b.log": sized(15_900_000, 1.22, seed),
        "c.log": sized(15_950_000, 1.23, seed),
    }
    if seed and claim == 1.5:
        logs = dict(list(logs.items())[:1])
    files = {"submission.json": {"val_bpb": claim}, "train_gpt.py": "import torch\n", **logs}
    assert ask("size limit", files).verdict == verdict


def test_the_log_that_is_weighed_is_the_scores(tmp_path):
    """Of logs without a seed the first that shows it, else the first."""
    (tmp_path / "submission.json").write_text('{"val_bpb": 1.22}')
    for name, bpb in (("a", 1.25), ("b", 1.22), ("c", 1.22)):
        (tmp_path / f"{name}.log").write_text(sized(16_100_000, bpb))
    assert [log.name for log in sizes.weighed(Submission(tmp_path))] == ["b.log"]
    (tmp_path / "submission.json").write_text('{"val_bpb": 1.29}')
    assert [log.name for log in sizes.weighed(Submission(tmp_path))] == ["a.log"]


def test_of_several_logs_of_a_seed_the_one_with_the_score_is_read(tmp_path):
    """Where the JSON names no seeds too."""
    for name, bpb in (("a", 1.25), ("b", 1.22), ("c", 1.23), ("d", 1.23000005)):
        (tmp_path / f"{name}.log").write_text(sized(1, bpb, "seed:7\n"))
    for claims, name in (
        ({"val_bpb": 1.22}, "b.log"),
        ({"val_bpb": 1.29}, "a.log"),
        ({"val_bpb": 1.22, "seed_results": {"7": {"val_bpb": 1.23}}}, "c.log"),
        ({"val_bpb": 1.22, "seed_results": {"7": {}}}, "a.log"),
        ({"val_bpb": 1.22, "seed_results": {"7": {"log": "logs/c.log", "val_bpb": 1.22}}}, "c.log"),
        ({"val_bpb": 1.23, "seed_results": {"7": {"val_bpb": 1.23000001}}}, "c.log"),
    ):
        (tmp_path / "submission.json").write_text(json.dumps(claims))
        assert Submission(tmp_path).seed_logs["7"].name == name


# One configuration

CODE = "import torch\n" + "".join(f"def f{i}(x):\n    return x\n" for i in range(9))
BOTH = {"val_bpb": 1.22, "seed_results": {"1": {"val_bpb": 1.22}, "2": {"val_bpb": 1.22}}}


def listed(seed: int, code: str, rule: str = "=" * 80) -> str:
    settings = f"Hyperparameters:\n  seed: {seed}\n  logfile: logs/{seed}.txt\n  depth: 4\n"
    return f"{rule}\n{settings}{code}{rule}\n{STEPS}{FINAL}"


@pytest.mark.parametrize(
    ("names", "verdict"),
    [
        (("experiment:try_2_8gpu", "experiment:try_2_seed14_8gpu"), "pass"),
        (("out:try_s7_8gpu", "out:try_s14_8gpu"), "pass"),
        (("train_log_every:100", "train_log_every:500"), "pass"),
        (("activation:relu", "activation:gelu"), "fail"),
        (("width:s7", "width:s8"), "fail"),
    ],
)
def test_what_a_run_is_called_is_no_setting(names, verdict, ask):
    logs, rows = {}, {}
    for seed, bpb, name in ((7, 1.5, names[0]), (14, 1.6, names[1])):
        logs[f"train_seed{seed}.log"] = sized(1, bpb, f"seed:{seed}\nlr:1\n{name}\n")
        rows[str(seed)] = {"val_bpb": bpb}
    claims = {"val_bpb": 1.55, "seed_results": rows}
    finding = ask("one configuration", logs | {"submission.json": claims})
    assert finding.verdict == verdict, finding


def test_settings_above_the_code_are_no_code(ask):
    for other, verdict in ((CODE, "pass"), (CODE.replace("f8", "g8"), "fail")):
        logs = {"train_seed1.log": listed(1, CODE), "train_seed2.log": listed(2, other)}
        reply = ask("one configuration", {"submission.json": BOTH, **logs})
        assert reply.verdict == verdict, reply
    log = training_log.parse("train.log", listed(7, CODE))
    assert log.code == CODE.splitlines()
    assert log.seed == "7" and log.settings["depth"] == "4"


@pytest.mark.parametrize(
    ("name", "before", "after", "verdict"),
    [
        ("ttt_on", "", "final_ttt val_loss:2.06 val_bpb:1.2150\n", "pass"),
        ("ttt_on", "", "final_other val_loss:2.06 val_bpb:1.2150\n", "fail"),
        ("ttt_on", "final_ttt val_loss:2.06 val_bpb:1.2150\n", "", "fail"),
        ("final_on", "", "final_ttt val_loss:2.06 val_bpb:1.2150\n", "fail"),
        ("lr", "", "final_ttt val_loss:2.06 val_bpb:1.2150\n", "fail"),
    ],
)
def test_settings_of_a_score_that_nobody_claims_do_not_count(name, before, after, verdict, ask):
    def log(value, *more) -> str:
        return f"{name}:{value}\ndepth:4\n{STEPS}" + "".join(more)

    files = {"submission.json": BOTH, "train_seed1.log": log(0, FINAL)}
    files["train_seed2.log"] = log(1, before, FINAL, after)
    assert ask("one configuration", files).verdict == verdict
    files["train_seed1.log"] = log(0, FINAL.replace("1.22", "1.29"))  # not the score claimed
    assert ask("one configuration", files).verdict == "fail"


# Loss and score of different objectives

EVALUATE = """
def evaluate(net, text, lengths):
    loss_sum, bits_sum, count, byte_count = 0.0, 0.0, 0, 0
    for batch in text:
        loss, bits = net.both(batch)
        loss_sum += loss.double() * batch.numel()
        bits_sum += SUMMED
        count += batch.numel()
        byte_count += lengths[batch].sum()
    loss = loss_sum / count
    return float(loss.item()), float(RATE)
"""
OWN = EVALUATE.replace("SUMMED", "bits.sum()").replace("RATE", "bits_sum / byte_count")
SAME = EVALUATE.replace("SUMMED", "loss.double() * 1.4427 * batch.numel()").replace(
    "RATE", "bits_sum / byte_count"
)
TURNED = EVALUATE.replace("SUMMED", "bits.sum()").replace(
    "RATE", "loss / math.log(2) * count / byte_count"
)


@pytest.mark.parametrize(
    ("script", "verdict"),
    [
        (OWN, "cannot tell"),
        (SAME, "fail"),
        (TURNED, "fail"),
        (OWN + TURNED.replace("evaluate", "other"), "fail"),
        ("import torch\n", "fail"),
        (BROKEN, "fail"),
    ],
)
def test_a_loss_of_another_objective_has_no_bytes_per_token(script, verdict, ask):
    log = f"val_tokens:62021845\n{STEPS}final_roundtrip val_loss:2.5001 val_bpb:1.2203\n"
    reply = ask("byte accounting", {"train_gpt.py": script, "train.log": log})
    assert reply.verdict == verdict, reply
    if verdict == "cannot tell":
        told = "the loss is of another objective than the score, train_gpt.py:11"
        assert reply.evidence == f"{told}: each is made of sums of its own"


def test_where_loss_and_score_agree_their_sums_are_not_asked_for(ask):
    log = f"val_tokens:62021845\n{STEPS}final_roundtrip val_loss:2.5001 val_bpb:1.4807\n"
    assert ask("byte accounting", {"train_gpt.py": OWN, "train.log": log}).verdict == "pass"


@pytest.mark.parametrize(
    ("expression", "names"),
    [
        ("a / b", ["a"]),
        ("a * b + c - -d", ["a", "b", "c", "d"]),
        ("a[b]", ["a"]),
        ("float(a.sum().item())", ["a"]),
        ("a.to(b) if c else d", ["a", "d"]),
        ("f(a)", []),
        ("a.score(b)", []),
        ("math.fsum(a)", []),
        ("self.a", ["a"]),
        ("x", ["x", "a", "y", "c"]),
    ],
)
def test_what_an_expression_is_proportional_to(expression, names):
    known = rates.assignments(parse("a.py", b"x = a / b\nx += y\ny = c\n").tree)
    node = parse("b.py", f"({expression})".encode()).tree.body[0].value
    assert list(rates.numerators(node, known)) == names


def test_a_name_that_is_made_of_itself_is_followed_to_an_end():
    known = rates.assignments(parse("a.py", b"x = x * x\n").tree)
    node = parse("b.py", b"x").tree.body[0].value
    assert set(rates.numerators(node, known)) == {"x"}


def test_only_a_mean_loss_beside_bits_per_byte_is_a_pair():
    for returned, pair in (
        ("a / n, bits / byte_count", ([2], False)),
        ("bits / n, bits / byte_count", ([], True)),
        ("a, bits / byte_count", ([], False)),
        ("a / n, bits / m", ([], False)),
        ("a / n", ([], False)),
        ("a / n, bits.numpy().tobytes()", ([], False)),
        ("n, byte_count", ([], False)),
    ):
        tree = parse(
            "a.py", f"def f(a, n, m, bits, byte_count):\n    return {returned}\n".encode()
        ).tree
        assert rates.two_objectives(tree) == pair, returned
