"""The flags of eval: one that is given counts, or is refused before anything is scored."""

import json
import subprocess
import sys
from dataclasses import fields, replace

import numpy as np
import pytest
import torch

import reference.bytes
from fast import artifact, transformer
from fast.bytes import byte_table, load_tokenizer
from fast.data import Continued, Tokens, evaluation_windows, find_layout
from fast.evaluate import METHODS, Effort, evaluate, predictor
from harness import cli
from harness.bench import gate
from harness.commands.eval import Eval
from harness.corpus.sources import Source
from harness.evaluation import scoring
from harness.evaluation.estimate import Estimate, read_by
from harness.evaluation.scoring import effort_of
from reference.recipe import GOLF, ORDERS, TINY, InputError, ScoreOptions
from tests.support.commands import refused

GIVEN = {  # each flag with a value, many of them the default: given all the same
    "--estimator": ["chain"],
    "--order": ["random"],
    "--draws": ["16"],
    "--points": ["256"],
    "--step": ["1"],
    "--block": ["32"],
    "--positions": ["4"],
    "--trailing": ["0"],
    "--stride": ["4"],
    "--from": ["0"],
    "--sequences": ["4"],
    "--first-token": ["stream"],
    "--seed": ["0"],
    "--batch-rows": ["64"],
    "--data": ["folder"],
    "--tokenizer": ["t.model"],
    "--text": ["t.txt"],
    "--device": ["cpu"],
    "--compiled": [],
    "--no-compiled": [],
    "--partial": ["p.json"],
    "--compare": [],
    "--against": ["other"],
    "--plot": ["p.png"],
}
COMPARED = ["a", "b", "--compare"]
UNCOMPARED = "--estimator --draws --points --positions --trailing --partial --against".split()
UNREAD = {  # options that the estimator named does not read, whatever the model
    "nelbo": "--order --points --step --block --positions --trailing --stride",
    "nelbo-grid": "--order --draws --step --block --positions --trailing --stride",
    "chain": "--draws --points --block --seed",
    "chain --order random": "--draws --points --block --stride",
    "chain --order block": "--draws --points --seed --stride",
    "chain --order confidence": "--draws --points --block --seed --stride",
    "chain --positions 4": "--draws --points --block --stride",
    "causal": "--order --draws --points --step --block --positions --trailing --seed",
}
CASES = {
    **{
        f"--merge f.json {flag}": ["--merge", "f.json", flag, *value]
        for flag, value in GIVEN.items()
    },
    "RUN --merge": ["a", "--merge", "f.json"],
    **{f"--compare {flag}": [*COMPARED, flag, *GIVEN[flag]] for flag in UNCOMPARED},
    "--trailing --order": ["a", "--order", "random", "--trailing", "3", "expected order left"],
    "--trailing --step": ["a", "--trailing", "3", "--step", "2", "found --step 2 as well"],
    "--positions --step": ["a", "--positions", "3", "--step", "2", "found --step 2 as well"],
    "--positions --trailing": ["a", "--positions", "3", "--trailing", "2", "--trailing 2 as well"],
    "--stride --order": [
        "a",
        "--order",
        "random",
        "--stride",
        "4",
        "--stride: expected order left",
    ],
    "--stride --step": ["a", "--stride", "4", "--step", "2", "found --stride 4 as well"],
    "--stride --trailing": ["a", "--stride", "4", "--trailing", "2", "found --stride 4 as well"],
    "--stride 0": ["a", "--stride", "0", "--stride: expected at least 1, found 0"],
    "one RUN --compare": ["a", "--compare", "two runs"],
    "no RUN --compare": ["--compare", "two runs"],
    "--plot": ["a", "b", "--plot", "p.png"],
    "no RUN": ["at least one run"],
    "no RUN --against": ["--against", "a", "b", "before --against"],
    "two RUN --partial": ["a", "b", "--partial", "p.json"],
    "--against --partial": ["a", "--against", "b", "--partial", "p.json"],
    "both": ["a", "--no-compiled", "--compiled"],
    "--from -1": ["a", "--from", "-1", "--from: expected at least 0, found -1"],
    "--sequences 0": ["a", "--sequences", "0", "--sequences: expected at least 1, found 0"],
    "--sequences -3": ["a", "--sequences", "-3", "--sequences: expected at least 1, found -3"],
    "--batch-rows 0": ["a", "--batch-rows", "0", "--batch-rows: expected at least 1, found 0"],
    **{
        f"--estimator {how} {flag}": ["a", "--estimator", *how.split(), flag, *GIVEN[flag]]
        for how, flags in UNREAD.items()
        for flag in flags.split()
    },
}
PROGRAM = """
import contextlib, io, json, sys
from harness import cli
results = {}
for case, arguments in json.load(sys.stdin).items():
    said = io.StringIO()
    with contextlib.redirect_stderr(said):
        code = cli.main(["eval", *arguments])
    results[case] = code, said.getvalue(), "torch" in sys.modules
print(json.dumps(results))
"""


def told(case: str) -> tuple[list[str], str]:
    """Return the arguments of a case, and what its message must hold: the words behind them, or
    else the last flag.
    """
    arguments = CASES[case]
    if " " in arguments[-1]:
        return arguments[:-1], arguments[-1]
    return arguments, [word for word in arguments if word.startswith("--")][-1]


@pytest.fixture(scope="module")
def answers() -> dict:
    """Return {case: (exit code, stderr, is torch imported)}, from a fresh process."""
    given = json.dumps({case: told(case)[0] for case in CASES})
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM], input=given, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.mark.parametrize("case", CASES, ids=str)
def test_what_would_be_ignored_is_one_message_before_torch_is_loaded(case, answers):
    code, said, loaded = answers[case]
    assert code == 2 and not loaded and said.count("maskgolf: ") == 1 and "Traceback" not in said
    assert told(case)[1] in said


def test_the_table_holds_every_flag():
    names = {field.name for part in (Eval, Estimate, Source) for field in fields(part)}
    names -= {"runs", "estimate", "source", "merge", "json"}
    assert {f"--{name.strip('_').replace('_', '-')}" for name in names} == set(GIVEN) | {
        "--estimator"
    }


OPTIONS = {  # two values each; None is what is given to none
    "draws": (2, 3),
    "points": (4, 5),
    "step": (1, 2),
    "block": (1, 3),
    "positions": (None, 3),
    "trailing": (None, 0),
    "stride": (None, 2),
    "seed": (0, 1),
    "order": ("left-to-right", "right-to-left"),
}
WAYS = [
    *((name, None, None) for name in METHODS if name != "chain"),
    *(("chain", order, None) for order in ORDERS),
    ("chain", "right-to-left", 2),
]


@pytest.mark.parametrize("way", WAYS, ids=str)
@pytest.mark.parametrize("name", [name for name in OPTIONS if name != "order"])
def test_an_option_is_read_where_another_value_gives_another_score(way, name):
    """The table of what each estimator and order reads, against what it computes."""
    estimator, order, positions = way
    if name == "positions" and positions:
        return
    ids_NL, context_NC = np.random.default_rng(0).integers(0, 3, (2, 3, 4))
    group = Continued(ids_NL, context_NC[:, -1], context_NC)
    effort = Effort(estimator, order, draws=2, points=4, positions=positions)
    scores = set()
    for value in OPTIONS[name]:
        try:
            given = {**vars(effort), name: value, "batch_rows": 3}
            scores.add(evaluate(irregular, [group], TABLE, **given).bpb)
        except InputError:
            return  # refused by Effort.check()
    read = read_by(Estimate(estimator, order, positions=positions), estimator)
    assert (name in read) is (len(scores) == 2)


TABLE = byte_table(["a", "bc", "d"], ["normal"] * 3)


def irregular(ids_BL):
    """Return log-probabilities that differ from place to place and from context to context."""
    length = ids_BL.shape[1]
    places_L = torch.arange(1, length + 1, dtype=torch.float64)
    context_B = (ids_BL * places_L.sqrt()).sum(dim=1) + length
    waves_BLV = context_B[:, None, None] * places_L[:, None] * torch.tensor([1.0, 1.7, 2.9])
    return (2 * waves_BLV.sin()).log_softmax(dim=-1)


def test_options_of_the_command_are_those_of_a_score():
    names = [field.name for field in fields(ScoreOptions)]
    assert [field.name for field in fields(Estimate)][: len(names)] == names
    assert all(value is None for value in vars(Estimate()).values())
    assert effort_of(Estimate()) == Effort()  # what is not given is the default


@pytest.mark.parametrize(
    ("given", "causal", "said"),
    [
        (
            {"estimator": "chain", "stride": 48},
            False,
            "divisor of the window length 1024, found 48",
        ),
        ({"estimator": "chain", "stride": 2048}, False, "choose one of 1, 2, 4, .* 512, 1024$"),
        ({"stride": 6}, True, "--stride: expected a divisor"),
        ({"estimator": "nelbo"}, True, "--estimator nelbo: expected causal"),
        ({"estimator": "chain"}, True, "--estimator chain: expected causal"),
        ({"estimator": "nelbo-grid"}, True, "--estimator nelbo-grid: expected causal"),
        ({"order": "confidence"}, True, "--order confidence: expected left-to-right"),
        ({"estimator": "causal"}, False, "--estimator causal: expected nelbo"),
        ({"order": "random"}, False, "expected no order, found 'random'"),
    ],
)
def test_an_estimator_or_order_that_the_model_lacks_is_refused(given, causal, said):
    recipe = replace(GOLF, model=replace(GOLF.model, causal=causal))
    with pytest.raises(InputError, match=said):
        effort_of(Estimate(**given), recipe)


def test_the_estimator_is_the_models_own_where_none_is_named():
    causal = replace(GOLF, model=replace(GOLF.model, causal=True))
    assert effort_of(Estimate()).estimator == "nelbo"
    for given in ({}, {"estimator": "causal"}, {"order": "left-to-right"}):
        effort = effort_of(Estimate(**given), causal)
        assert (effort.estimator, effort.order) == ("causal", None)
    exact = effort_of(Estimate(order="random", seed=3), exact=True)
    assert (exact.estimator, exact.order, exact.seed) == ("chain", "random", 3)
    assert effort_of(Estimate(order="random"), causal, exact=True).order is None


# a model, texts and tokenizers that need no training


def untrained(file, tokenizer_sha256: str, **changes):
    """Write an artifact of untrained weights of a tiny model with 400 pieces."""
    recipe = replace(TINY, model=replace(TINY.model, **{"vocab": 400, **changes}))
    params = transformer.initialize(recipe.model, 5)
    artifact.write(file, params, recipe, {"tokenizer_sha256": tokenizer_sha256})
    return file


@pytest.fixture
def unscored(monkeypatch):
    """Fail where anything is about to be scored."""

    def prepared(*arguments, **keywords):
        raise AssertionError("a forward pass is prepared")

    monkeypatch.setattr(scoring.evaluate, "predictor", prepared)


@pytest.fixture(scope="module")
def header(run_directory) -> dict:
    return artifact.read(run_directory / "artifact.mgolf")[0]


@pytest.fixture(scope="module")
def causal(corpus, header, tmp_path_factory):
    """Return an autoregressive artifact."""
    file = tmp_path_factory.mktemp("causal") / "causal.mgolf"
    return untrained(file, header["tokenizer_sha256"], causal=True)


@pytest.fixture(scope="module")
def windows(run_directory) -> int:
    """Return how many windows the validation split holds."""
    [job] = scoring.prepare([run_directory], Source(), Estimate())
    return job.total


def test_options_that_the_models_own_estimator_does_not_read(
    run_directory, causal, corpus, unscored, capsys
):
    """Refused where no run reads them, before anything is scored."""
    for option in (
        *(["--points", "8"], ["--step", "2"], ["--block", "4"], ["--trailing", "0"]),
        ["--stride", "4"],
    ):
        assert option[0] in refused(capsys, "eval", run_directory, *option)
    for option in (["--draws", "8"], ["--seed", "1"], ["--positions", "4"]):
        assert option[0] in refused(capsys, "eval", causal, "--data", corpus, *option)
    both = ["eval", causal, causal, "--data", corpus, "--compare"]
    for option in (["--order", "random"], ["--step", "2"], ["--seed", "1"]):
        assert option[0] in refused(capsys, *both, *option)
    file = causal.parent / "none.mgolf"
    file.write_bytes(causal.read_bytes())
    assert "--tokenizer" in refused(capsys, "eval", file, "--tokenizer", corpus / "any.model")


@pytest.mark.parametrize(
    ("options", "before"), [([], (True, False)), (["--stride", "4"], (True, True))]
)
def test_a_comparison_says_who_sees_what_stands_before_the_window(
    options, before, run_directory, causal, corpus, tmp_path, capsys
):
    words = ["eval", causal, run_directory, "--data", corpus, "--compare", "--no-compiled"]
    words += ["--sequences", 3, "--json", tmp_path / "a.json", *options]
    assert cli.main(list(map(str, words))) == 0
    runs = json.loads((tmp_path / "a.json").read_text())["runs"]
    assert tuple(runs[name]["looks_before"] for name in ("a", "b")) == before
    assert ("At position 1 a alone sees" in capsys.readouterr().out) == (before == (True, False))


def test_a_range_beyond_the_split_is_refused_with_what_there_is(
    run_directory, windows, unscored, capsys, tmp_path
):
    beyond = (
        (["--from", windows], f"at most {windows - 1}"),
        (["--sequences", windows + 1], f"at most {windows}"),
        (["--from", 2, "--sequences", windows - 1], f"at most {windows - 2}"),
    )
    ways = ([], [run_directory, "--compare"], ["--partial", tmp_path / "p.json"])
    for option, said in beyond:
        for way in (*ways, ["--against", run_directory]):
            message = refused(capsys, "eval", run_directory, *way, *option)
            assert option[0] in message or option[2] in message
            assert said in message and f"{windows} windows" in message


def test_a_benchmark_asks_for_windows_that_there_are(run_directory, windows, monkeypatch, capsys):
    monkeypatch.setattr(gate, "require", lambda *_: None)
    arguments = ["bench", "likelihood", run_directory, "--no-compiled", "--windows"]
    said = refused(capsys, *arguments, windows)  # the last one is short
    assert f"found {windows - 1}; lower --windows" in said


def test_runs_that_cannot_be_compared_are_told_apart_before_anything_is_scored(
    run_directory, corpus, header, unscored, capsys, tmp_path
):
    """Another window length, another tokenizer: the message says what differs."""
    sha = header["tokenizer_sha256"]
    longer = untrained(tmp_path / "longer.mgolf", sha, length=16)
    message = refused(capsys, "eval", run_directory, longer, "--data", corpus, "--compare")
    assert "window length 8 and 16" in message and "tokenizer 0" not in message
    # Four windows of 8 and of 16 tokens are not the same text
    for way in ([run_directory, longer], [run_directory, run_directory, "--against", longer]):
        message = refused(capsys, "eval", *way, "--data", corpus, "--sequences", 4)
        assert "tokens 0 to 32 and tokens 0 to 64" in message

    text = tmp_path / "a.txt"
    text.write_text("The quick brown fox jumps over the lazy dog, again and again. " * 80)
    out = ["--out", str(tmp_path / "other"), "--vocab", "300"]
    assert cli.main(["data", "build", str(text), *out]) == 0
    capsys.readouterr()
    tokenizer = next((tmp_path / "other").rglob("*.model"))
    other_sha = scoring.hashlib.sha256(tokenizer.read_bytes()).hexdigest()
    run = tmp_path / "run"
    run.mkdir()
    untrained(run / "artifact.mgolf", other_sha, vocab=300)
    source = Source(data=tmp_path / "other").describe()
    (run / "recipe.json").write_text(json.dumps({"source": source}))
    message = refused(capsys, "eval", run_directory, run, "--compare")
    assert f"tokenizer {sha[:8]} and {other_sha[:8]}" in message
    message = refused(capsys, "eval", run_directory, "--against", run)
    assert f"tokenizer {sha[:8]} and {other_sha[:8]}" in message and "bytes of text" in message


def test_the_same_text_may_be_other_tokens(run_directory, corpus, tmp_path, capsys):
    """Two tokenizers of one text: bits per byte of both have a mean, and no token by token
    difference.
    """
    texts = corpus.parent / "a.txt"
    out = ["--out", str(tmp_path / "fine"), "--vocab", "350"]
    assert cli.main(["data", "build", str(texts), *out]) == 0
    tokenizer = next((tmp_path / "fine").rglob("*.model"))
    run = tmp_path / "run"
    run.mkdir()
    sha = scoring.hashlib.sha256(tokenizer.read_bytes()).hexdigest()
    untrained(run / "artifact.mgolf", sha, vocab=350)
    source = Source(data=tmp_path / "fine").describe()
    (run / "recipe.json").write_text(json.dumps({"source": source}))
    jobs = scoring.prepare([run_directory, run], Source(), Estimate())
    assert jobs[0].total != jobs[1].total
    assert scoring.scored_bytes(jobs[0], "stream") == scoring.scored_bytes(jobs[1], "stream")
    assert "tokenizer" in refused(capsys, "eval", run_directory, run, "--compare")


@pytest.mark.parametrize("way", ["score", "compare"])
def test_first_token_control_is_said_of_every_window(way, run_directory, causal, corpus, capsys):
    """Bytes against the reference's, where treating the first window alone so gives others."""
    layout = find_layout(corpus)
    table = load_tokenizer(layout.tokenizer).table
    [group] = evaluation_windows(Tokens(layout.validation), 8, 400, 3, 20)

    def counted(previous_N):
        before_NL = np.concatenate([previous_N[:, None], group.ids_NL[:, :-1]], axis=1)
        exact = reference.bytes.ByteTable(*table)
        return int(reference.bytes.token_bytes(group.ids_NL, before_NL, exact).sum())

    first_alone = np.where(np.arange(20) == 0, -1, group.previous_N)
    expected = {"stream": counted(group.previous_N), "control": counted(np.full(20, -1))}
    assert expected["control"] < counted(first_alone)
    for first_token, size in expected.items():
        common = ["--from", "3", "--sequences", "20", "--data", str(corpus), "--json", "-"]
        common += ["--first-token", first_token, "--no-compiled"]
        runs = [str(causal), str(causal), "--compare"] if way == "compare" else [str(causal)]
        assert cli.main(["eval", *runs, *common]) == 0
        assert json.loads(capsys.readouterr().out)["bytes"] == size


# the compiler


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_the_compiler_runs_where_the_work_is_worth_it(device, run_directory):
    """Layers times width times tokens times passes, of all windows that are asked for."""
    [job] = scoring.prepare([run_directory], Source(), Estimate("chain"))
    model = job.recipe.model
    of_one = model.layers * model.d * model.length * model.length
    least = int(np.ceil(scoring.COMPILING[device].least / of_one))
    assert scoring.compiles(job, device, least) and not scoring.compiles(job, device, least - 1)
    [cheaper] = scoring.prepare([run_directory], Source(), Estimate("chain", step=8))
    assert not scoring.compiles(cheaper, device, least)


@pytest.mark.parametrize(
    ("flags", "least", "compiled"),
    [
        ([], 1.0, True),
        ([], 1e30, False),
        (["--compiled"], 1e30, True),
        (["--no-compiled"], 1.0, False),
    ],
)
@pytest.mark.parametrize("way", ["score", "compare"])
def test_the_compiler_is_forced_or_chosen_and_told(
    way, flags, least, compiled, causal, corpus, monkeypatch, capsys
):
    seen = []

    def plain(params, recipe, device, compiled, estimator):
        seen.append(compiled)
        return predictor(params, recipe, device, False, estimator)

    monkeypatch.setattr(scoring.evaluate, "predictor", plain)
    monkeypatch.setitem(scoring.COMPILING, "cpu", scoring.Compiling(least, 30.0))
    runs = [str(causal), str(causal), "--compare"] if way == "compare" else [str(causal)]
    common = ["--sequences", "2", "--data", str(corpus), "--json", "-"]
    assert cli.main(["eval", *runs, *common, *flags]) == 0
    assert seen == [compiled] * len(seen) and seen
    assert ("compiling" in capsys.readouterr().err) is compiled


def test_a_partial_file_holds_what_changes_the_bits(
    causal, corpus, windows, tmp_path, monkeypatch, capsys
):
    """Ranges of one split decide alike whether they compile; compiled and other passes, and passes
    of other shapes, do not mix.
    """
    file, source = tmp_path / "p.json", Source(data=corpus)
    scoring.score(causal, source, Estimate(sequences=2), compiled=False, partial=file)
    common = ["--data", corpus, "--sequences", 3, "--partial", file]
    message = refused(capsys, "eval", causal, *common, "--compiled")
    assert "expected compiled True, found False" in message
    message = refused(capsys, "eval", causal, *common, "--no-compiled", "--batch-rows", 7)
    assert "expected batch_rows 7, found 64" in message
    counts = []
    monkeypatch.setattr(scoring, "compiles", lambda job, device, count: bool(counts.append(count)))
    scoring.score(causal, source, Estimate(sequences=3), partial=file)
    scoring.score(causal, source, Estimate(sequences=3))
    assert counts == [windows, 3]


@pytest.mark.parametrize("compiled", [True, False])
@pytest.mark.parametrize("estimator", [None, "chain"])
def test_a_fresh_score_leaves_to_eval_what_is_not_said(compiled, estimator, monkeypatch):
    """A model's own estimator, and the compiler where it pays."""
    commands = []

    def run(command):
        commands.append(command)
        return subprocess.CompletedProcess(command, 0, "{}")

    monkeypatch.setattr(scoring, "run_without_interrupts", run)
    scoring.score_fresh("run", estimator, None, 5, "cpu", compiled)
    [command] = commands
    assert ("--no-compiled" in command) is not compiled and "--compiled" not in command
    assert ("--estimator" in command) is bool(estimator)
    assert command[command.index("--sequences") + 1] == "5"


@pytest.mark.parametrize("first_token", ["stream", "control"])
def test_a_score_is_what_its_estimator_gives(first_token, run_directory):
    """Every field of the JSON against the fast half on the same windows: nats are not bits, masks
    not sequences, tokens not bytes.
    """
    given = Estimate(first_token=first_token, seed=3)
    [job] = scoring.prepare([run_directory], Source(), given)
    stream = job.dataset.validation, 8, 400
    predict = predictor(job.params, job.recipe)
    score = evaluate(
        predict,
        evaluation_windows(*stream),
        job.dataset.tokenizer.table,
        seed=3,
        first_token=first_token,
    )
    found = scoring.score(run_directory, Source(), given, compiled=False)
    expected = score._asdict() | {"seconds": found["seconds"]}
    assert {name: found[name] for name in expected} == pytest.approx(expected, rel=1e-12)
    numbers = [value for name, value in expected.items() if name not in ("estimator", "order")]
    assert len({f"{value:.5g}" for value in numbers[:4]}) == 4
    assert found["tokens"] == len(stream[0]) and found["windows"] == job.total
