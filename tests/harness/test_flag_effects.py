"""Flags that change numbers or files change them as they must, seen from the outside on finished
runs of a tiny model. That each flag arrives where it is used: test_flags.py.
"""

import json
import shutil
from collections.abc import Callable
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path

import numpy as np
import pytest
import torch

import fast.train
from fast import artifact, data, evaluate, transformer
from fast.bytes import load_tokenizer
from fast.data import find_layout
from fast.distributed import World
from fast.ship import log, submission
from harness import cli, runs, validate
from harness.compression import compress
from harness.compression.compressors import baselines
from harness.corpus import prepare
from harness.corpus.dataset import open_dataset
from harness.corpus.shards import raw_text
from harness.corpus.sources import Source
from harness.evaluation import scoring
from harness.evaluation.estimate import Estimate
from harness.packaging import bundle, claim, readme
from harness.packaging.pack import technique_of
from harness.validate import CHECKS, rescore
from harness.validate.submission import Options
from reference.recipe import TINY, InputError
from tests.harness.test_flags import CLAIM, CLAIM_WORDS, Reached, another, parsed, reached
from tests.support import observed, published
from tests.support.commands import UNSCORED, refused
from tests.support.observed import BASE

LENGTH = 8  # tokens per window of the tiny preset
TEXT = "Two tokens wait. The cat, the hat and the bat sat: if not, while so, else for it.\n" * 40


def answer(tmp_path: Path, *words) -> dict | list:
    """Return the JSON of a command that must succeed."""
    path = tmp_path / "answer.json"
    assert cli.main([*map(str, words), "--json", str(path)]) == 0
    return json.loads(path.read_text())


@pytest.fixture(scope="module")
def home(tmp_path_factory) -> Path:
    """Return a folder for this file's text and corpora."""
    folder = tmp_path_factory.mktemp("flags")
    (folder / "text.txt").write_text(TEXT)
    return folder


@pytest.fixture(scope="module")
def tokenizer(corpus) -> Path:
    """Return the tokenizer of the corpus."""
    return find_layout(corpus).tokenizer


@pytest.fixture(scope="module")
def twin(home, tokenizer) -> Path:
    """Return other text under the corpus's tokenizer."""
    built = prepare.from_text([home / "text.txt"], home / "twin", 400, tokenizer)
    find_layout(built).tokenizer.unlink()  # so that it must be named
    return built


@pytest.fixture(scope="module")
def stranger(home) -> Path:
    """Return another tokenizer of as many pieces."""
    from pydoc_data.topics import topics

    path = home / "stranger.model"
    path.write_bytes(prepare.train_tokenizer([topics["import"], topics["function"]], 400))
    return path


# eval


@pytest.fixture(scope="module")
def score(run_directory, tmp_path_factory) -> Callable[..., dict]:
    """Return a function of words that scores the tiny run, each words once."""
    folder, known = tmp_path_factory.mktemp("scores"), {}

    def scored(*words) -> dict:
        words = tuple(map(str, words))
        if words not in known:
            run = ("eval", run_directory, "--no-compiled")
            known[words] = answer(folder, *run, *words)
        return known[words]

    return scored


def nats(result: dict) -> float:
    """Return the total of a score."""
    return result["nats_per_token"] * result["tokens"]


NINE = ("--sequences", "9")
CHAIN = ("--estimator", "chain", *NINE)
GRID = ("--estimator", "nelbo-grid", "--points", "6", *NINE)
PILOT = 16  # passes over the windows of the plan at few draws, at least


@dataclass(frozen=True)
class Effect:
    """A field of Estimate, a base and what is said beside it: how(before, after) is true."""

    field: str
    base: tuple[str, ...]
    more: tuple[str, ...]
    how: Callable[[dict, dict], bool]


def moved(before: dict, after: dict) -> bool:
    """Return whether the text is the same and its cost is not."""
    kept = [(result["tokens"], result["bytes"]) for result in (before, after)]
    return kept[0] == kept[1] and before["nats_per_token"] != after["nats_per_token"]


def passes(count: int) -> Callable[[dict, dict], bool]:
    """Return whether the cost moved and 9 windows took so many passes each."""
    return lambda before, after: moved(before, after) and after["forwards"] == 9 * count


EFFECTS = [
    Effect("estimator", NINE, ("--estimator", "chain"), lambda a, b: b["estimator"] == "chain"),
    Effect("estimator", NINE, ("--estimator", "nelbo-grid", "--points", "5"), passes(5)),
    *(
        Effect(
            "order",
            CHAIN,
            ("--order", order),
            lambda a, b, order=order: b["order"] == order and moved(a, b),
        )
        for order in ("right-to-left", "random", "confidence", "entropy", "margin", "block")
        if order != "block"
    ),
    Effect(
        "order",
        CHAIN,
        ("--order", "block", "--block", "3"),
        lambda a, b: b["order"] == "block" and moved(a, b),
    ),
    Effect(
        "draws",
        (*NINE, "--draws", "4"),
        ("--draws", "32"),
        lambda a, b: (
            moved(a, b)
            and b["forwards"] - a["forwards"] >= 9 * 28
            and b["stderr_masks"] < a["stderr_masks"]
        ),
    ),
    Effect("points", GRID, ("--points", "7"), passes(7)),
    Effect("step", CHAIN, ("--step", "3"), passes(3)),
    Effect("block", (*CHAIN, "--order", "block", "--block", "2"), ("--block", "3"), passes(8)),
    Effect(
        "positions",
        CHAIN,
        ("--positions", "3"),
        lambda a, b: b["positions"] == 3 and b["stderr_masks"] > 0 and passes(3)(a, b),
    ),
    Effect("trailing", CHAIN, ("--trailing", "2"), passes(8)),
    Effect(
        "stride",
        CHAIN,
        ("--stride", "2"),
        lambda a, b: b["stride"] == 2 and "stride" not in a and passes(8)(a, b),
    ),
    Effect("seed", NINE, ("--seed", "5"), moved),
    Effect("seed", GRID, ("--seed", "5"), moved),
    Effect("seed", (*CHAIN, "--order", "random"), ("--seed", "5"), moved),
    Effect("seed", (*CHAIN, "--positions", "3"), ("--seed", "5"), moved),
    Effect("from_", CHAIN, ("--from", "2"), lambda a, b: b["windows"] == 9 and not moved(a, b)),
    Effect("sequences", CHAIN, ("--sequences", "4"), lambda a, b: b["tokens"] == 4 * LENGTH),
    Effect("sequences", NINE, ("--sequences", "4"), lambda a, b: b["tokens"] == 4 * LENGTH),
    *(
        Effect(
            "first_token",
            base,
            ("--first-token", "control"),
            lambda a, b: nats(a) == nats(b) and b["bytes"] < a["bytes"],
        )
        for base in (NINE, CHAIN)
    ),
    *(
        Effect(
            "batch_rows",
            base,
            ("--batch-rows", "2"),
            # Sums of other shapes: float32 at other last bits
            lambda a, b: b["forwards"] == a["forwards"] and abs(nats(b) / nats(a) - 1) < 1e-5,
        )
        for base in (NINE, GRID, CHAIN)
    ),
]


def with_more(base: tuple[str, ...], more: tuple[str, ...]) -> tuple[str, ...]:
    """Return words with flags added, those that both name once."""
    kept = [pair for pair in zip(base[::2], base[1::2], strict=True) if pair[0] not in more[::2]]
    return (*(word for pair in kept for word in pair), *more)


def test_every_field_of_the_estimate_has_an_effect():
    assert {field.name for field in fields(Estimate)} == {effect.field for effect in EFFECTS}


@pytest.mark.parametrize(
    "effect", EFFECTS, ids=lambda effect: " ".join((*effect.base[1::2], *effect.more))
)
def test_a_flag_of_eval_changes_the_score(effect, score):
    before, after = score(*effect.base), score(*with_more(effect.base, effect.more))
    assert effect.how(before, after), (before, after)


@pytest.mark.parametrize("base", [NINE, CHAIN], ids=["nelbo", "chain"])
def test_ranges_of_windows_add_up(base, score):
    """--from and --sequences cut the split; a window costs what it costs in any range, but for the
    last bits of passes of other shapes.
    """
    whole = score(*base)
    parts = [
        score(*with_more(base, ("--from", first, "--sequences", count)))
        for first, count in (("0", "4"), ("4", "5"))
    ]
    assert sum(part["bytes"] for part in parts) == whole["bytes"]
    assert abs(sum(map(nats, parts)) / nats(whole) - 1) < 1e-5


def test_data_and_tokenizer_of_eval(score, twin, tokenizer, stranger, run_directory, capsys):
    own = score(*NINE)
    other = score(*NINE, "--data", twin, "--tokenizer", tokenizer)
    assert other["validation_sha256"] != own["validation_sha256"]
    assert nats(other) != nats(own)
    words = ("eval", run_directory, "--no-compiled", *NINE)
    assert "expected the tokenizer" in refused(capsys, *words, "--tokenizer", stranger)
    assert "tokenizer" in refused(capsys, *words, "--data", twin)


def test_text_of_eval(score, home, tokenizer, monkeypatch):
    monkeypatch.setenv("MASKGOLF_CACHE", str(home / "cache"))
    own = score(*NINE)
    text = score(*NINE, "--text", home / "text.txt", "--tokenizer", tokenizer)
    assert text["validation_sha256"] != own["validation_sha256"]


def test_partial_and_merge_of_eval(score, tmp_path):
    first, second = tmp_path / "a.json", tmp_path / "b.json"
    score(*CHAIN[:2], "--sequences", "4", "--partial", first)
    part = score(*CHAIN[:2], "--from", "4", "--sequences", "5", "--partial", second)
    assert part["windows"] == 5 and first.exists() and second.exists()
    merged = answer(tmp_path, "eval", "--merge", first, second)
    assert merged["windows"] == 9 and merged["bytes"] == score(*CHAIN)["bytes"]
    gone_on = score(*CHAIN, "--partial", first)
    assert gone_on["bpb"] == merged["bpb"]


@pytest.mark.parametrize(
    ("base", "more"),
    [
        (NINE, ("--draws", "8")),
        (NINE, ("--seed", "5")),
        (NINE, ("--first-token", "control")),
        (GRID, ("--points", "7")),
        (CHAIN, ("--order", "confidence")),
        (CHAIN, ("--step", "2")),
        (CHAIN, ("--positions", "3")),
        (CHAIN, ("--trailing", "2")),
        (CHAIN, ("--stride", "2")),
        ((*CHAIN, "--order", "block", "--block", "2"), ("--block", "3")),
    ],
    ids=lambda words: " ".join(words),
)
def test_a_partial_file_knows_its_settings(base, more, run_directory, tmp_path, capsys, score):
    path = tmp_path / "partial.json"
    base = with_more(base, ("--sequences", "2"))
    run = ("eval", run_directory, "--no-compiled")
    assert cli.main([*map(str, run), *base, "--partial", str(path)]) == 0
    name = more[0].strip("-").replace("-", "_")
    assert name in refused(capsys, *run, *with_more(base, more), "--partial", path)


# eval of several runs


@pytest.fixture(scope="module")
def compare(seeds, tmp_path_factory) -> Callable[..., dict]:
    """Return a function of words that compares two runs, each words once."""
    folder, known = tmp_path_factory.mktemp("compared"), {}

    def compared(*words) -> dict:
        words = tuple(map(str, words))
        if words not in known:
            command = ("eval", *seeds, "--no-compiled", "--compare")
            known[words] = answer(folder, *command, *words)
        return known[words]

    return compared


COMPARED = [
    (NINE, ("--order", "confidence")),
    (NINE, ("--step", "3")),
    (NINE, ("--stride", "2")),
    ((*NINE, "--order", "block", "--block", "2"), ("--block", "3")),
    ((*NINE, "--order", "random"), ("--seed", "5")),
    (NINE, ("--from", "2")),
    (NINE, ("--sequences", "4")),
    (NINE, ("--first-token", "control")),
]


@pytest.mark.parametrize(("base", "more"), COMPARED, ids=lambda words: " ".join(words))
def test_a_flag_of_compare_changes_both_scores(base, more, compare):
    one, other = compare(*base)["whole"], compare(*with_more(base, more))["whole"]
    assert one["a"] != other["a"] and one["b"] != other["b"]


def test_compare_counts_what_eval_counts(compare, seeds, tmp_path):
    """The same windows, orders and bytes as the score of each run alone."""
    for words in ((), ("--first-token", "control"), ("--from", "3"), ("--order", "margin")) + (
        ("--from", "3", "--stride", "2"),
    ):
        words = with_more(NINE, words)
        whole = compare(*words)
        for name, run in zip("ab", seeds, strict=True):
            alone = answer(tmp_path, "eval", run, "--no-compiled", "--estimator", "chain", *words)
            assert whole["whole"][name] == pytest.approx(alone["bpb"], rel=1e-6)
            assert (whole["tokens"], whole["bytes"]) == (alone["tokens"], alone["bytes"])


def test_batch_rows_data_and_plot_of_compare(compare, twin, tokenizer, tmp_path):
    whole = compare(*NINE)["whole"]
    small = compare(*NINE, "--batch-rows", "2")["whole"]
    assert small["a"] == pytest.approx(whole["a"], rel=1e-5)
    other = compare(*NINE, "--data", twin, "--tokenizer", tokenizer)["whole"]
    assert other["a"] != whole["a"]
    image = tmp_path / "p.png"
    compare(*NINE, "--plot", image)
    assert image.read_bytes().startswith(b"\x89PNG")


def test_against_makes_two_sets(seeds, tmp_path):
    words = ("eval", seeds[0], "--no-compiled", "--estimator", "chain", *NINE)
    alone = answer(tmp_path, *words)
    both = answer(tmp_path, *words, "--against", seeds[1])
    assert "bpb" in alone and "bpb" not in both
    other = answer(tmp_path, *words[:1], seeds[1], *words[2:])
    assert [one["bpb"] for one in both["scores"]] == [alone["bpb"]]
    assert [one["bpb"] for one in both["against"]["scores"]] == [other["bpb"]] != [alone["bpb"]]


@pytest.mark.parametrize("rows", [3, 64])
def test_batch_rows_reach_every_pass(rows, run_directory, seeds, monkeypatch):
    """The result tells nothing of them, so the functions that make passes are asked."""
    words = ("--no-compiled", *NINE, "--batch-rows", rows)
    most = min(rows, 9)
    one = ("eval", run_directory, *words)
    assert reached(monkeypatch, one, "fast.evaluate.split_plan")["settings"]["batch_rows"] == most
    grid = (*one, "--estimator", "nelbo-grid")
    assert reached(monkeypatch, grid, "fast.evaluate.measure")["batch_rows"] == most
    two = ("eval", *seeds, "--compare", *words)
    assert reached(monkeypatch, two, "fast.evaluate.token_nats")["settings"]["batch_rows"] == rows


# Scores from a fresh process


def test_a_fresh_score_asks_for_all_that_it_is_given(run_directory, corpus, tokenizer, monkeypatch):
    def stop(command, **settings):
        raise Reached(command)

    monkeypatch.setattr(scoring, "run_without_interrupts", stop)
    source = Source(corpus, tokenizer)
    with pytest.raises(Reached) as caught:
        scoring.score_fresh(run_directory, "chain", "margin", 5, "cpu:0", False, source)
    command = caught.value.args[0]
    found = parsed(command[command.index("eval") :])
    assert found.runs == (run_directory,) and found.json == "-" and found.source == source
    asked = replace(Estimate(), estimator="chain", order="margin", sequences=5)
    assert (found.estimate, found.device) == (asked, "cpu:0")
    with pytest.raises(Reached) as caught:
        scoring.score_fresh(run_directory, "nelbo", None, None, "cuda", True)
    command = caught.value.args[0]
    assert "--no-compiled" not in command
    found = parsed(command[command.index("eval") :])
    assert found.estimate == replace(Estimate(), estimator="nelbo") and found.device == "cuda"


# train


def test_a_run_is_what_its_recipe_makes(corpus, tmp_path, monkeypatch):
    """Data, training loop, validation, callbacks, artifact and scores all follow the recipe that
    runs.run() is given: they are what the pieces make of it (tests/pieces/test_fields.py).
    """
    recipe = replace(
        BASE,
        model=replace(BASE.model, vocab=400),
        training=replace(BASE.training, compute_dtype="float32", repeatable=True),
    )
    scored, whole = [], runs.train

    def score_fresh(*given):
        scored.append(given)
        return UNSCORED

    def train(*given, **named):
        assert not torch.is_deterministic_algorithms_warn_only_enabled()
        return whole(*given, **named)

    monkeypatch.setattr(runs, "score_fresh", score_fresh)
    monkeypatch.setattr(runs, "train", train)
    asked = (("chain", "margin"), ("nelbo-grid", None))
    settings = {"device": "cpu", "compiled": False, "scoring": asked, "sequences": 5}
    out = tmp_path / "run"
    summary = runs.run(recipe, Source(corpus), out, **settings)
    assert [given[1:6] for given in scored] == [
        ("chain", "margin", 5, "cpu", False),
        ("nelbo-grid", None, 5, "cpu", False),
    ]
    described = json.loads((out / "recipe.json").read_text())
    assert json.loads(json.dumps(asdict(recipe))) == described["recipe"]

    dataset = open_dataset(Source(corpus), 400, recipe.model.length)
    batch = data.batches(dataset.train, recipe)
    state, losses = fast.train.train(batch, recipe, clock=lambda: 0.0)
    extra = {"tokenizer_sha256": dataset.tokenizer.sha256}
    artifact.write(tmp_path / "expected.mgolf", state.shadow, recipe, extra)
    assert (out / "artifact.mgolf").read_bytes() == (tmp_path / "expected.mgolf").read_bytes()
    lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    assert {x["step"]: x["train_loss"] for x in lines if "train_loss" in x} == {
        step: losses[step - 1] for step in (1, 2, 4)
    }
    validate = evaluate.validator(recipe, dataset.validation, dataset.tokenizer.table)
    assert lines[-1]["val_bpb"] == validate(state).bpb and lines[-1]["step"] == 4
    assert summary["final_lr_multiplier"] == 0.5 and summary["ema_started_step"] == 2
    scored_ids = dataset.validation.read(0, 5 * recipe.model.length)
    text = raw_text(scored_ids, dataset.tokenizer)
    assert summary["baselines"] == baselines(text, 400, len(scored_ids))
    assert summary["parameters"] == sum(
        int(np.prod(shape)) for shape in transformer.shapes(recipe.model).values()
    )


# sample


@pytest.fixture(scope="module")
def opinionated(tokenizer, tmp_path_factory) -> Path:
    """Return an artifact whose every token depends on those around it: weights at random, large."""
    recipe = replace(TINY, model=replace(TINY.model, vocab=400))
    weights = {k: torch.from_numpy(w).float() for k, w in observed.weights(recipe.model).items()}
    weights["embedding"] *= 4
    path = tmp_path_factory.mktemp("opinionated") / "artifact.mgolf"
    artifact.write(path, weights, recipe, {"tokenizer_sha256": load_tokenizer(tokenizer).sha256})
    return path


@pytest.fixture(scope="module")
def draw(opinionated, tokenizer, tmp_path_factory) -> Callable[..., list]:
    """Return a function of words that draws text from such a model."""
    folder = tmp_path_factory.mktemp("drawn")
    words = ("sample", opinionated, "--tokenizer", tokenizer)
    return lambda *more: answer(folder, *words, *more)


def ids(samples: list[dict]) -> list[list[int]]:
    """Return the tokens of each sample."""
    return [sample["ids"] for sample in samples]


@pytest.mark.parametrize(
    ("base", "more"),
    [
        ((), ("--seed", "3")),
        ((), ("--order", "right-to-left")),
        ((), ("--temperature", "4")),
        (("--order", "confidence"), ("--step", "3")),
        (("--order", "block", "--block", "2"), ("--block", "4")),
        ((), ("--prompt", "if")),
        (("--prompt", "if"), ("--tokens", "2")),
        ((), ("--infill", "a____b")),
        (("--infill", "a____b"), ("--gap", "2")),
        (("--infill", "a____b"), ("--order", "confidence")),
        (("--infill", "a____b", "--order", "confidence"), ("--step", "3")),
        (("--infill", "a____b"), ("--temperature", "0")),
        (("--infill", "a____b"), ("--seed", "3")),
    ],
    ids=lambda words: " ".join(words),
)
def test_a_flag_of_sample_changes_the_text(base, more, draw):
    one, other = draw("--count", "9", *base), draw("--count", "9", *with_more(base, more))
    assert len(one) == len(other) == 9
    assert ids(one) != ids(other)


def test_what_sample_promises_of_its_flags(draw, stranger, run_directory, capsys):
    """More samples leave the first as they are; a temperature of 0 draws nothing at random."""
    assert ids(draw("--count", "3"))[:2] == ids(draw("--count", "2"))
    coldest = [ids(draw("--temperature", "0", "--seed", seed)) for seed in (1, 2)]
    assert coldest[0] == coldest[1]
    assert all(one["text"].startswith("if") for one in draw("--prompt", "if", "--count", "2"))
    for sizes, more in (([3, 3], ()), ([2, 2], ("--gap", "2")), ([1, 1], ("--gap", "1"))):
        [one] = draw("--infill", "___i___", *more)
        drawn = [rank is not None for rank in one["reveal"]]
        assert drawn == [False] + [True] * sizes[0] + [False] + [True] * sizes[1]
        assert one["text"] == "".join(one["parts"]) and one["parts"][1 + sizes[0]] == "i"
    [one] = draw("--infill", "i_____")
    assert one["reveal"] == [None, None, 0, 1, 2, 3, 4]
    assert [len(one["ids"]) for one in draw("--tokens", "3", "--count", "2")] == [4, 4]
    words = ("sample", run_directory, "--tokenizer", stranger)
    assert "expected the tokenizer" in refused(capsys, *words)


# compress and decompress


def test_flags_of_compress(run_directory, home, tokenizer, stranger, tmp_path, capsys, monkeypatch):
    file = tmp_path / "notes.txt"
    file.write_text(TEXT[:120])
    out = tmp_path / "out.mgz"
    words = ("compress", file, "--run", run_directory)
    default = answer(tmp_path, *words)
    assert default["out"] == f"{file}.mgz" and Path(default["out"]).exists()
    named = answer(tmp_path, *words, "--out", out)
    assert named["out"] == str(out) and out.read_bytes() == Path(default["out"]).read_bytes()
    other = answer(tmp_path, *words, "--out", out, "--order", "confidence")
    assert other["order"] == "confidence"
    assert other["chain_rule_bits"] != default["chain_rule_bits"]
    back = ("decompress", out, "--run", run_directory)
    restored = answer(tmp_path, *back, "--out", tmp_path / "restored")
    assert restored["order"] == "confidence"
    assert (tmp_path / "restored").read_bytes() == file.read_bytes()
    answer(tmp_path, *back)
    assert (tmp_path / "out").read_bytes() == file.read_bytes()
    for command in ((*words, "--out", out), (*back, "--out", tmp_path / "again")):
        answer(tmp_path, *command, "--tokenizer", tokenizer)
        assert "expected the tokenizer" in refused(capsys, *command, "--tokenizer", stranger)

    def damaged(*given):
        raise InputError("planted: damaged")

    monkeypatch.setattr(compress, "unpack", damaged)
    answer(tmp_path, *words, "--out", out)
    before = out.read_bytes()
    verified = (*words, "--out", out, "--order", "confidence", "--verify")
    assert "planted" in refused(capsys, *verified) and out.read_bytes() == before


# data


def test_flags_of_data(home, tokenizer, stranger, twin, tmp_path, capsys):
    out, text = tmp_path / "built", home / "text.txt"
    built = answer(tmp_path, "data", "build", text, "--out", out, "--vocab", "300")
    assert built["path"] == str(out) and max(s["max_id"] for s in built["shards"]) < 300
    layout = find_layout(out)
    assert load_tokenizer(layout.tokenizer).vocab == 300
    words = ("data", "build", text, "--vocab", "400", "--out")
    given = answer(tmp_path, *words, tmp_path / "given", "--tokenizer", stranger)
    assert find_layout(tmp_path / "given").tokenizer.read_bytes() == stranger.read_bytes()
    assert [s["tokens"] for s in given["shards"]] != [s["tokens"] for s in built["shards"]]
    bare, told = (
        answer(tmp_path, "data", "list", twin, *words) for words in ((), ("--tokenizer", tokenizer))
    )
    assert bare["shards"][0]["bytes"] is None and bare["tokenizer"] is None
    assert told["shards"][0]["bytes"] > 0 and told["tokenizer"] == str(tokenizer)
    shard = next(twin.rglob("*_val_*.bin"))
    one = answer(tmp_path, "data", "list", shard, "--tokenizer", tokenizer)
    assert one["shards"][0]["text"] in TEXT


def test_a_tokenizer_of_the_embedded_text(tmp_path, stranger, monkeypatch):
    """--tokenizer without --data or --text is not dropped: the text that ships with Python is
    tokens of it.
    """
    monkeypatch.setenv("MASKGOLF_CACHE", str(tmp_path))
    small = replace(BASE.model, vocab=400)
    dataset = open_dataset(Source(tokenizer=stranger), small.vocab, small.length)
    assert dataset.tokenizer.path.read_bytes() == stranger.read_bytes()


# import


@pytest.mark.parametrize(
    ("words", "changed"),
    [
        (("--length", "20"), {"length": 20}),
        (("--vocab", "64"), {"vocab": 64, "causal": False}),
        (("--vocab", "65"), {"vocab": 65, "causal": True}),
        (("--causal", "true"), {"vocab": 65, "causal": True}),
        (("--causal", "false"), {"vocab": 64, "causal": False}),
        (("--rope-base", "500"), {"rope_base": 500.0}),
        (("--rope-frequencies", "bfloat16"), {"rope_frequencies": "bfloat16"}),
        (("--softcap", "15"), {"softcap": 15.0}),
        (("--compute-dtype", "float32"), {"compute_dtype": "float32"}),
    ],
    ids=lambda words: " ".join(words),
)
def test_a_flag_of_import_is_in_the_recipe(words, changed, tmp_path):
    state = published.Published(64, 2, 16, 2, 1, 2, causal=False).state_dict()
    (tmp_path / "weights.pt").write_bytes(published.saved(state))
    out = tmp_path / "out.mgolf"
    found = answer(tmp_path, "import", tmp_path / "weights.pt", "-o", out, *words)
    plain = answer(tmp_path, "import", tmp_path / "weights.pt", "-o", tmp_path / "plain.mgolf")
    dtype = {"compute_dtype": found["compute_dtype"]}
    expected = plain["model"] | {"compute_dtype": plain["compute_dtype"]} | changed
    assert found["model"] | dtype == expected
    recipe = artifact.recipe_of(artifact.read(out)[0])
    assert asdict(recipe.model) == found["model"]
    assert recipe.training.compute_dtype == found["compute_dtype"]


# report and parity


def test_plot_of_report_draws_the_runs(run_directory, seeds, tmp_path):
    answer(tmp_path, "report", run_directory)
    for name, run in (("a", run_directory), ("b", seeds[0])):
        answer(tmp_path, "report", run, "--plot", tmp_path / f"{name}.svg")
    one, other = (tmp_path / f"{name}.svg" for name in "ab")
    assert one.stat().st_size > 1000 and one.read_text() != other.read_text()


def test_flags_of_parity(tmp_path, monkeypatch):
    rows = answer(tmp_path, "parity", "adam", "ema", "--dtype", "float16", "--device", "cpu:0")
    assert {row["piece"] for row in rows} == {"adam", "ema"}
    assert {row["device"] for row in rows} == {"cpu:0"}
    small = ("parity", "masks", "--dtype", "bfloat16")
    assert reached(monkeypatch, small, "harness.parity.examine")["dtypes"] == (torch.bfloat16,)
    assert reached(monkeypatch, small, "harness.parity.examine")["compiled"] is False
    compiled = reached(monkeypatch, (*small, "--compiled"), "harness.parity.examine")
    assert compiled["compiled"] is True


# pack


@pytest.fixture(scope="module")
def packed_by_flags(seeds, tmp_path_factory) -> Path:
    """Return the folder of one run, packed with every claim of its own."""
    out = tmp_path_factory.mktemp("by flags")
    result = answer(out, "pack", seeds[0], "--out", out / "records", *CLAIM_WORDS)
    assert Path(result["folder"]).parent == out / "records"
    return Path(result["folder"])


def test_claims_of_pack_are_in_the_folder(packed_by_flags):
    described = json.loads((packed_by_flags / "submission.json").read_text())
    names = {"technique": "technique_summary"}
    for name, value in asdict(CLAIM).items():
        assert described[names.get(name, name)] == value, name
    assert packed_by_flags.name == "2026-02-03_My_name"
    text = (packed_by_flags / "README.md").read_text()
    for name in ("name", "blurb", "technique", "hardware"):
        assert getattr(CLAIM, name) in text or name == "technique", name


def test_track_of_pack_holds_the_clock(seeds, tmp_path, capsys, monkeypatch):
    monkeypatch.setitem(claim.TRACKS, "10min_16mb", 1e-6)
    words = ("pack", seeds[0], "--out", tmp_path / "out", *CLAIM_WORDS)
    assert "10min_16mb" in refused(capsys, *words)
    assert reached(
        monkeypatch, (*words, "--track", "non_record_16mb"), "harness.packaging.pack._write"
    )


def test_source_and_device_of_pack(seeds, corpus, tokenizer, tmp_path, capsys, monkeypatch):
    """They say where the data is now, and where a run that scored a part is scored again."""
    moved = Path(shutil.copytree(seeds[0], tmp_path / "moved"))
    described = json.loads((moved / "recipe.json").read_text())
    described["source"]["data"] = str(tmp_path / "gone")
    (moved / "recipe.json").write_text(json.dumps(described))
    summary = json.loads((moved / "summary.json").read_text())
    (moved / "summary.json").write_text(json.dumps(summary | {"scores": []}))
    words = ("pack", moved, "--out", tmp_path / "out", *CLAIM_WORDS, "--device", "cpu:0")
    assert "gone" in refused(capsys, *words)
    given = reached(
        monkeypatch, (*words, "--data", corpus), "harness.evaluation.scoring.score_fresh"
    )
    assert (given["run"], given["device"], given["sequences"]) == (moved, "cpu:0", None)
    assert given["source"] == Source(corpus)


def test_tokenizer_of_pack_is_read(seeds, stranger, tokenizer, tmp_path, capsys, monkeypatch):
    """Without --data too: it is that of the run's own data."""
    words = ("pack", seeds[0], "--out", tmp_path / "out", *CLAIM_WORDS, "--tokenizer")
    assert "expected the tokenizer" in refused(capsys, *words, stranger)
    assert reached(monkeypatch, (*words, tokenizer), "harness.packaging.pack._write")


# validate


def test_options_of_validate_reach_its_checks(packed, corpus, tokenizer, monkeypatch):
    words = ("validate", packed, "--data", corpus, "--tokenizer", tokenizer)
    more = ("--run", "--time-limit", "12.5")
    given = reached(monkeypatch, (*words, *more), "harness.validate.Submission")
    assert [*given.values()] == [packed, Options(corpus, tokenizer, True, 12.5)]
    given = reached(monkeypatch, words, "harness.validate.Submission")
    assert [*given.values()] == [packed, Options(corpus, tokenizer, False, 600.0)]


def test_explain_of_validate(tmp_path):
    names = [check.name for check in CHECKS[:2]]
    told = [answer(tmp_path, "validate", "--explain", name) for name in names]
    assert [one["check"] for one in told] == names and told[0]["what"] != told[1]["what"]


def test_data_and_tokenizer_of_validate_are_what_is_scored(packed, corpus, twin, tokenizer):
    check = [check for check in CHECKS if check.name == "rescored"]

    def verdict(data, tokenizer=None) -> str:
        [row] = validate.validate(packed, data, tokenizer, checks=check)
        return row["verdict"]

    assert verdict(None) == verdict(twin) == "cannot tell"
    assert verdict(corpus) == "pass" and verdict(twin, tokenizer) == "fail"


def test_time_limit_of_validate_is_that_of_the_score(packed, corpus, monkeypatch):
    check = [check for check in CHECKS if check.name == "rescored"]
    asked = []

    def measure(opened, given, effort, seconds, **named):
        asked.append(seconds)
        raise InputError("planted")

    monkeypatch.setattr(rescore, "measure", measure)
    for limit in (20.0, 600.0):
        validate.validate(packed, corpus, time_limit=limit, checks=check)
    assert asked[1] == 30 * asked[0]


# Devices and the compiler: the numbers tell nothing of them


def test_device_and_compiled_reach_the_predictor(
    run_directory, seeds, corpus, tokenizer, tmp_path, monkeypatch
):
    where = "fast.evaluate.predictor"
    for words in (("eval", run_directory), ("eval", *seeds, "--compare")):
        for flag, compiled in (("--compiled", True), ("--no-compiled", False)):
            given = reached(monkeypatch, (*words, "--device", "cpu:0", flag), where)
            assert (given["device"], given["compiled"]) == ("cpu:0", compiled)
    file = tmp_path / "file.txt"
    file.write_text(TEXT[:60])
    answer(tmp_path, "compress", file, "--run", run_directory)
    for words in (
        ("sample", run_directory),
        ("compress", file, "--run", run_directory, "--out", tmp_path / "out"),
        ("decompress", f"{file}.mgz", "--run", run_directory, "--out", tmp_path / "out"),
    ):
        assert reached(monkeypatch, (*words, "--device", "cpu:0"), where)["device"] == "cpu:0"


@pytest.mark.parametrize("compiled", [True, False])
def test_device_compiled_and_preflight_reach_the_run(compiled, corpus, tmp_path, monkeypatch):
    words = ("train", "--preset", "tiny", "--model.vocab", "400", "--data", corpus, "--device")
    words = (*words, "cpu:0", "--compiled" if compiled else "--no-compiled", "--seed", "5")
    recipe = replace(TINY, seed=5, model=replace(TINY.model, vocab=400))
    new = ("--out", tmp_path / "new")
    given = reached(monkeypatch, (*words, *new), "harness.parity.preflight")
    assert [*given.values()][:3] == [recipe, "cpu:0", compiled]
    words = (*words, "--no-preflight")
    given = reached(monkeypatch, (*words, *new), "harness.runs.Stepper")
    assert [*given.values()][:3] == [recipe, "cpu:0", compiled]


# The script of a submission


def test_settings_of_the_script_change_its_run(corpus, tokenizer, twin, tmp_path, monkeypatch):
    """SEED, ITERATIONS, MAX_WALLCLOCK_SECONDS, DATA_PATH, TOKENIZER_PATH and RUN_ID."""
    recipe = replace(BASE, model=replace(BASE.model, vocab=400))
    settings = {
        "SEED": "99",
        "ITERATIONS": "5",
        "MAX_WALLCLOCK_SECONDS": "12.5",
        "DATA_PATH": str(twin),
        "TOKENIZER_PATH": str(tokenizer),
        "RUN_ID": "mine",
    }
    monkeypatch.chdir(tmp_path)
    for name, value in settings.items():
        monkeypatch.setenv(name, value)
    made, tokens, pieces, train_log, called = submission.begin(recipe, World())
    training = replace(recipe.training, iterations=5, max_wallclock_seconds=12.5)
    assert made == replace(recipe, seed=99, training=training)
    assert [one.training for one in called] == [training] * 2
    assert tokens.paths == find_layout(twin).train and pieces.path == tokenizer
    assert train_log.path == Path("logs/mine.txt") and (tmp_path / train_log.path).exists()


def test_the_script_holds_every_field_of_the_recipe():
    recipe, values = another(TINY)[0], {}
    exec(bundle.packed_source(recipe, "lzma"), values)
    assert values["RECIPE"] == recipe and values["CODEC"] == "lzma"


def test_the_script_trains_by_the_recipe(monkeypatch):
    recipe = replace(BASE, training=replace(BASE.training, repeatable=True))

    def train(batch, made, state, stepper, callbacks, world, choose):
        assert not torch.is_deterministic_algorithms_warn_only_enabled()
        assert made == stepper.recipe == recipe and callbacks == ["called"]
        initial = fast.train.initial_state(recipe).params
        assert all(torch.equal(state.params[name], initial[name]) for name in initial)
        read, expected = (one(1, range(2)) for one in (batch, data.batches(tokens, recipe)))
        assert np.array_equal(read.ids_NL, expected.ids_NL)
        raise Reached

    tokens = observed.stream()
    monkeypatch.setattr(submission, "train", train)
    with pytest.raises(Reached):
        submission.train_model(recipe, tokens, ["called"], World())


def test_log_and_readme_tell_the_fields_by_their_names():
    recipe, _ = another(TINY)
    model, training, stored = recipe.model, recipe.training, recipe.quantization
    lines = " ".join(log.opening_lines(recipe, "a machine", "2.0", 1, 2)).split()
    told = dict(word.split(":") for word in lines if ":" in word)
    for part, names in {
        model: ("layers", "d", "heads", "kv_heads", "vocab", "length", "causal"),
        training: ("iterations", "max_wallclock_seconds", "warmdown", "tokens_per_step"),
        recipe: ("seed",),
    }.items():
        assert {name: told[name] for name in names} == {
            name: f"{getattr(part, name)}".removesuffix(".0") for name in names
        }
    how = readme._how(recipe)
    for phrase in (
        f"{model.layers} layers of width {model.d}, {model.heads} query heads on {model.kv_heads}",
        f"MLP {model.mlp}x, rows of {model.length} tokens, vocabulary {model.vocab},",
        f"Muon (lr {recipe.optimizer.muon_lr:g})",
        f"{training.tokens_per_step:,} tokens per step, {training.iterations:,} steps",
        f"or {training.max_wallclock_seconds:g} s",
        f"the last {training.warmdown:,} steps",
        f"(decay {recipe.ema.decay:g}) that starts after {recipe.ema.start:.0%}",
        f"Weights above {stored.threshold:,} elements are stored as {stored.format}, the rest as"
        f" {stored.small_format},",
    ):
        assert phrase in how, phrase
    technique = technique_of(recipe)
    for phrase in (
        f"{model.layers}x{model.d} ",
        f"{model.heads} heads on {model.kv_heads} ",
        f"EMA {recipe.ema.decay} + {stored.format} weights",
    ):
        assert phrase in technique, phrase
    state = fast.train.initial_state(BASE)
    state.step = 3
    assert any(f"decay:{BASE.ema.decay} " in line for line in log.closing_lines(state, BASE))
    assert any("step:3/4" in line for line in log.closing_lines(state, BASE))
