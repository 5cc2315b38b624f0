"""From finished runs to a submission's numbers, without training: three runs of which no number is
another's.
"""

import json
import statistics
from dataclasses import replace
from pathlib import Path

import pytest

from fast import artifact
from fast.ship import log
from fast.train import initial_state
from harness.corpus.sources import Source
from harness.packaging import pack, readme, size
from harness.packaging.claim import Claim
from reference.recipe import TINY, InputError
from tests.support.recorded import record

TOKENS = 4001, 701  # of the training and the validation split
HEADER = {"codec": "zlib", "tokenizer_sha256": "ab" * 32, "raw_bytes": 1, "payload_bytes": 1}


def run(seed: int, **fields) -> pack.Run:
    """Return a finished run whose numbers follow from its seed."""
    recipe = replace(TINY, seed=seed)
    state = initial_state(recipe)
    state.step, state.elapsed, state.finished = 100 + seed, 20.0 + seed, True
    summary = {
        "steps": state.step,
        "seconds": state.elapsed,
        "parameters": 1000 + seed,
        "final_lr_multiplier": 0.5 / seed,
        "ema_started_step": 10 + seed,
        "scores": [],
        "hardware": f"machine {seed}",
        "pytorch_version": f"2.{seed}.0+cpu",
    }
    known = dict(
        folder=Path(f"/runs/{seed}"),
        recipe=recipe,
        source=Source(Path(f"/data/{seed}")),
        tokens=TOKENS,
        header={"tensors": [], **HEADER},
        data=bytes(10_000 + seed),
        summary=summary,
        state=state,
        lines=[f"a line of run {seed}"],
    )
    return pack.Run(**known | fields)


def score(seed: int, **fields) -> dict:
    """Return the score of a run, its numbers too from the seed."""
    return {
        "estimator": "nelbo",
        "order": None,
        "bpb": 1.0 + seed**2 / 100,
        "stderr_masks": 0.001 * seed,
        "stderr_sequences": 0.01 * seed,
        "nats_per_token": 2.0 + seed / 10,
        "tokens": 701,
        "bytes": 1900,
        "forwards": 16,
        "seconds": 2.0,
    } | fields


SEEDS = 3, 1, 7
RUNS, SCORES = [run(seed) for seed in SEEDS], [score(seed) for seed in SEEDS]


def test_every_number_is_that_of_its_run():
    """Means and the sample deviation over three; sizes, steps and seconds each seed's own, and at
    the top those of the first, whose artifact ships.
    """
    found = pack.submission(RUNS, SCORES, 555, {"claimed": "so"})
    results = {
        str(seed): {
            "val_bpb": 1.0 + seed**2 / 100,
            "val_loss": 2.0 + seed / 10,
            "stderr_masks": 0.001 * seed,
            "stderr_sequences": 0.01 * seed,
            "train_steps": 100 + seed,
            "wallclock_seconds": 20.0 + seed,
            "bytes_model": 10_000 + seed,
            "bytes_total": 10_555 + seed,
        }
        for seed in SEEDS
    }
    assert found == {
        "claimed": "so",
        "val_bpb": pytest.approx((1.09 + 1.01 + 1.49) / 3, rel=1e-15),
        "val_bpb_std": pytest.approx(statistics.stdev([1.09, 1.01, 1.49]), rel=1e-12),
        "val_bpb_estimator": "nelbo",
        "val_loss": pytest.approx((2.3 + 2.1 + 2.7) / 3, rel=1e-15),
        "bytes_total": 10_558,
        "bytes_code": 555,
        "bytes_model": 10_003,
        "seeds": [3, 1, 7],
        "seed_results": results,
        "artifact_seed": 3,
        "pytorch_version": "2.3.0+cpu",
        "train_steps": 103,
        "wallclock_seconds": 23.0,
        "parameters": 1003,
        "validation_tokens": 701,
        "validation_bytes": 1900,
        "tokenizer_sha256": "ab" * 32,
    }
    assert pack.submission(RUNS[1:2], SCORES[1:2], 555, {})["val_bpb_std"] is None


CHANGES = {
    "seed": (dict(recipe=replace(TINY, seed=1)), "expected a seed of its own, found 1 again"),
    "recipe": (
        dict(recipe=replace(TINY, seed=7, ema=replace(TINY.ema, decay=0.8))),
        "ema.decay: 0.9, now 0.8",
    ),
    "training text": (dict(tokens=(4002, 701)), "tokens: (4001, 701), now (4002, 701)"),
    "validation text": (dict(tokens=(4001, 702)), "tokens: (4001, 701), now (4001, 702)"),
    "tokenizer": (dict(header=HEADER | {"tokenizer_sha256": "cd" * 32}), "tokenizer_sha256: abab"),
}


@pytest.mark.parametrize("what", CHANGES)
def test_runs_differ_in_their_seed_alone(what):
    """The third of three runs is the odd one; its seed is that of the second."""
    pack.check_alike(RUNS)
    fields, said = CHANGES[what]
    with pytest.raises(InputError) as caught:
        pack.check_alike([*RUNS[:2], run(7, **fields)])
    assert str(caught.value).startswith("/runs/7: ") and said in str(caught.value)


def test_every_run_is_held_to_the_budget(monkeypatch):
    """Time, where the track has a cap, and size, code included."""
    weighed = record(monkeypatch, "fast.artifact.check_size")
    assert pack._check_budgets(RUNS, "é" * 50, "10min_16mb") == 100
    assert [(one["file_bytes"], one["code"]) for one in weighed] == [
        (10_000 + seed, {"train_gpt.py": 100}) for seed in SEEDS
    ]
    slow = run(7, summary=RUNS[2].summary | {"seconds": 600.5})
    assert pack._check_budgets([*RUNS[:2], slow], "", "non_record_16mb") == 0
    with pytest.raises(InputError, match="/runs/7: expected at most 600 s .* found 600.5"):
        pack._check_budgets([*RUNS[:2], slow], "", "10min_16mb")


def test_a_run_over_the_size_is_named():
    heavy = run(7, data=bytes(artifact.LIMIT - 5), header={"tensors": [], **HEADER})
    assert pack._check_budgets([RUNS[0], heavy], "12345", "non_record_16mb") == 5
    with pytest.raises(InputError, match="/runs/7: artifact: expected at most 16,000,000 bytes"):
        pack._check_budgets([RUNS[0], heavy], "123456", "non_record_16mb")


def test_the_score_of_the_whole_split_is_taken_or_made(monkeypatch):
    """Not that of a part, of another estimator, or of as many tokens as the training split has."""
    fresh = record(monkeypatch, "harness.evaluation.scoring.score_fresh", "a fresh score")
    whole = score(3, bpb=1.5)
    others = [score(3, tokens=256), score(3, estimator="chain"), score(3, tokens=TOKENS[0])]
    with_whole = run(3, summary=RUNS[0].summary | {"scores": [*others, whole]})
    assert pack.whole_score(with_whole, "cuda:3") is whole and not fresh
    without = run(3, summary=RUNS[0].summary | {"scores": others})
    assert pack.whole_score(without, "cuda:3") == "a fresh score"
    assert fresh == [
        dict(
            run=Path("/runs/3"),
            estimator="nelbo",
            order=None,
            sequences=None,
            device="cuda:3",
            compiled=True,
            source=Source(Path("/data/3")),
        )
    ]


def test_a_folder_holds_what_its_runs_were(monkeypatch, tmp_path):
    """The first run's artifact, recipe, codec and machine; a log of each run with its own lines and
    score, and the size of the code in all of them.
    """
    read = dict(zip(("one", "two", "three"), RUNS, strict=True))
    opened = record(monkeypatch, "harness.packaging.pack.read", lambda path, _: read[path.name])
    built = record(monkeypatch, "harness.packaging.bundle.build", "the code")
    scored = record(
        monkeypatch, "harness.packaging.pack.whole_score", lambda run, _: score(run.recipe.seed)
    )
    compared = record(monkeypatch, "harness.packaging.pack.check_alike")
    weighed = record(monkeypatch, "harness.packaging.pack._check_budgets", pack._check_budgets)
    claim = Claim("Three runs", "A. Person", "me", "2026-01-02")
    source = Source(tmp_path)
    found = pack.pack(tuple(map(Path, read)), tmp_path / "out", claim, "cuda:3", source)
    folder = Path(found.pop("folder"))
    assert found == json.loads((folder / "submission.json").read_text())
    assert [(str(one["folder"]), one["source"]) for one in opened] == [
        (name, source) for name in read
    ]
    assert [one["device"] for one in scored] == ["cuda:3"] * 3
    assert built == [dict(recipe=RUNS[0].recipe, codec="zlib")]
    assert (folder / "train_gpt.py").read_text() == "the code"
    assert (folder / "final_model.mgolf").read_bytes() == RUNS[0].data
    assert compared == [dict(runs=RUNS)]
    assert weighed == [dict(runs=RUNS, code="the code", track="non_record_16mb")]
    assert found["hardware"] == "machine 3"
    assert found["technique_summary"] == pack.technique_of(RUNS[0].recipe)
    assert found["bytes_total"] == 10_003 + len("the code")
    assert "torch==2.3.0\n" in (folder / "requirements.txt").read_text()
    for one in RUNS:
        seed, text = one.recipe.seed, (folder / f"train_seed{one.recipe.seed}.log").read_text()
        assert text.startswith(f"Running PyTorch 2.{seed}.0+cpu on machine {seed}\n")
        assert f"model_params:{1000 + seed} " in text and f"\nseed:{seed}\n" in text
        assert f"\nval_tokens:701\nseed:{seed}\na line of run {seed}\n" in text
        lines = [*log.size_lines("e4m3+zlib", 10_000 + seed, 8)]
        assert "\n".join([*log.closing_lines(one.state, one.recipe), *lines]) in text
        exact = f"val_loss:{2 + seed / 10:.8f} val_bpb:{1 + seed**2 / 100:.8f}"
        assert exact in text.splitlines()[-1]
    told = (folder / "README.md").read_text()
    assert "`train_seed3.log`, `train_seed1.log`, `train_seed7.log`," in told
    deviation = statistics.stdev([1.09, 1.01, 1.49])
    assert f"Mean val_bpb **1.1967**, standard deviation over the seeds {deviation:.4f}." in told
    assert "701 tokens that stand for 1,900 bytes of text" in told
    assert "not the challenge's full one (62,021,845 tokens)" in told
    assert "10,011 of 16,000,000 bytes: code 8, model 10,003." in told
    assert (
        f"{TINY.training.tokens_per_step:,} tokens per step, {TINY.training.iterations:,} steps"
        in told
    )
    for seed in SEEDS:
        shown = [seed, f"{1 + seed**2 / 100:.4f}", f"{0.001 * seed:.4f}", f"{0.01 * seed:.4f}"]
        shown += [f"{2 + seed / 10:.4f}", 100 + seed, f"{20 + seed:.1f}", f"{10_008 + seed:,}"]
        assert f"| {' | '.join(map(str, shown))} |" in told


def test_a_readme_of_one_seed_on_the_whole_split():
    """No deviation, no spread over sequences, and no word on another split."""
    one = score(3, tokens=readme.FULL_SPLIT, stderr_sequences=None)
    claim = Claim("A run", "A. Person", "me", "2026-01-02").fields("a technique", "a machine")
    text = readme.text(pack.submission(RUNS[:1], [one], 8, claim), TINY, ["a.log"])
    assert "Mean val_bpb **1.0900**, one seed, no deviation." in text
    assert "| 3 | 1.0900 | 0.0030 | - | 2.3000 |" in text
    assert "62,021,845 tokens that stand for" in text and "not the challenge's" not in text


def test_a_log_without_an_error_over_sequences_says_so():
    text = pack.log_text(RUNS[0], score(3, stderr_sequences=None), 8)
    assert "stderr_masks:0.00300000 stderr_sequences:nan" in text.splitlines()[-1]


def test_code_is_weighed_with_its_codec(monkeypatch):
    recipe = replace(TINY, seed=123_456)
    built = record(monkeypatch, "harness.packaging.bundle.build", lambda recipe, codec: codec)
    for codec in ("zlib", "entropy"):
        assert size.code_bytes(recipe, codec) == {"train_gpt.py": len(codec)}
    assert all(one["recipe"] is recipe for one in built)
