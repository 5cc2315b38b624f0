"""What a run ships and what pack writes of it: every number is the one it is called, from runs
whose numbers all differ.
"""

import json
import math
import re
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from fast import artifact
from fast.ship import log
from fast.train import State, initial_state
from harness import runs
from harness.corpus.sources import Source
from harness.packaging import pack
from harness.packaging.pack import Run
from reference.recipe import TINY, InputError
from tests.support.commands import UNSCORED

TRAINING = ("log_every", "checkpoint_every", "validate_every")  # may differ between sessions


def a_state(number: int) -> State:
    """Return the end of a run: average and live weights far apart, plain values by number."""
    state = initial_state(replace(TINY, seed=number))
    for group, offset in (("params", 30.0), ("shadow", number)):
        members = getattr(state, group)
        moved = {name: value.detach() + offset for name, value in members.items()}
        setattr(state, group, moved)
    state.step, state.elapsed, state.multiplier = 10 + number, 100.0 + number, 0.25 / number
    state.ema_started_step, state.finished = 3 + number, True
    return state


def a_score(number: float, **fields) -> dict:
    """Return a score as eval gives it, no two numbers alike."""
    score = {
        "estimator": "nelbo",
        "order": None,
        "bpb": 2.0 + number / 8,
        "stderr_masks": 0.01 * number,
        "stderr_sequences": 0.02 * number,
        "nats_per_token": 3.0 + number / 8,
        "tokens": 700,
        "bytes": 1900,
        "forwards": 41,
        "seconds": 50.0 + number,
    }
    return score | fields


def a_run(seed: int, folder: Path = Path("run"), **training) -> Run:
    """Return a run by hand: seed is also the number that its values are made of."""
    recipe = replace(TINY, seed=seed, training=replace(TINY.training, **training))
    state = a_state(seed)
    summary = {
        "steps": state.step,
        "seconds": state.elapsed,
        "parameters": 4000 + seed,
        "final_lr_multiplier": state.multiplier,
        "ema_started_step": state.ema_started_step,
        "scores": [a_score(seed)],
        "hardware": f"device {seed}",
        "pytorch_version": f"2.{seed}",
    }
    header = {"codec": "entropy", "tokenizer_sha256": f"tokenizer {seed}"}
    lines = [f"step:{state.step}/50 train_loss:1.5 of {seed}"]
    data = bytes(900 + seed)
    return Run(folder, recipe, Source(), (9000, 700), header, data, summary, state, lines)


def test_the_json_takes_each_number_from_its_own_place():
    """Means over the seeds; steps, seconds, sizes and versions of the run whose artifact ships."""
    given = [a_run(3), a_run(5), a_run(7)]
    scores = [a_score(3), a_score(5, bytes=1, tokens=2), a_score(7)]
    described = pack.submission(given, scores, 5000, {"author": "me"})
    results = described.pop("seed_results")
    assert described == {
        "author": "me",
        "val_bpb": 2.625,
        "val_bpb_std": pytest.approx(0.25, rel=1e-12),
        "val_bpb_estimator": "nelbo",
        "val_loss": 3.625,
        "bytes_total": 5903,
        "bytes_code": 5000,
        "bytes_model": 903,
        "seeds": [3, 5, 7],
        "artifact_seed": 3,
        "pytorch_version": "2.3",
        "train_steps": 13,
        "wallclock_seconds": 103.0,
        "parameters": 4003,
        "validation_tokens": 700,
        "validation_bytes": 1900,
        "tokenizer_sha256": "tokenizer 3",
    }
    assert list(results) == ["3", "5", "7"]
    for seed, result in results.items():
        number = int(seed)
        assert result == {
            "val_bpb": 2.0 + number / 8,
            "val_loss": 3.0 + number / 8,
            "stderr_masks": 0.01 * number,
            "stderr_sequences": 0.02 * number,
            "train_steps": 10 + number,
            "wallclock_seconds": 100.0 + number,
            "bytes_model": 900 + number,
            "bytes_total": 5900 + number,
        }


def test_one_seed_has_no_deviation():
    assert pack.submission([a_run(3)], [a_score(3)], 1, {})["val_bpb_std"] is None


def test_the_log_takes_each_number_from_its_own_place():
    """Settings before the run's own lines; average, clock, sizes and the score after them."""
    lines = pack.log_text(a_run(3), a_score(3), 5000).splitlines()
    assert lines[0] == "Running PyTorch 2.3 on device 3"
    assert lines[1].startswith(
        "model_params:4003 layers:2 d:8 heads:4 kv_heads:2 vocab:12 length:8"
    )
    assert lines[2] == "iterations:50 max_wallclock_seconds:0 warmdown:20 tokens_per_step:32"
    assert lines[3:6] == ["val_tokens:700", "seed:3", "step:13/50 train_loss:1.5 of 3"]
    assert lines[6] == "stopping_early: wallclock_cap train_time:103000ms step:13/50"
    params = initial_state(replace(TINY, seed=3)).params
    start = torch.cat([value.detach().ravel() for value in params.values()])
    from_start = 3 / start.double().square().mean().sqrt()  # the shadow is 3 away everywhere
    from_live = 27 / (start.double() + 30).square().mean().sqrt()
    found = re.fullmatch(
        r"ema started_step:6 decay:0.9 dtype:float32 from_start:(\S+) from_live:(\S+)", lines[7]
    )
    assert [float(text) for text in found.groups()] == pytest.approx(
        [float(from_start), float(from_live)], abs=1e-5
    )
    assert lines[8] == f"final_lr_multiplier:{0.25 / 3:.8f}"
    assert lines[9] == f"steps:13 train_time:103000ms step_avg:{103000 / 13:.2f}ms"
    assert lines[10:] == [
        "Code size: 5000 bytes",
        "Serialized model e4m3+entropy: 903 bytes",
        "Total submission size e4m3+entropy: 5903 bytes",
        "final_e4m3_entropy_roundtrip val_loss:3.3750 val_bpb:2.3750 eval_time:53000ms",
        (
            "final_e4m3_entropy_roundtrip_exact val_loss:3.37500000 val_bpb:2.37500000"
            " stderr_masks:0.03000000 stderr_sequences:0.06000000 tokens:700 bytes:1900"
            " estimator:nelbo"
        ),
    ]
    unknown = pack.log_text(a_run(3), a_score(3, stderr_sequences=None), 5000)
    assert "stderr_masks:0.03000000 stderr_sequences:nan" in unknown


@pytest.mark.parametrize(("causal", "wanted"), [(False, "nelbo"), (True, "causal")])
@pytest.mark.parametrize("kept", ["whole", "part", "of training tokens", "another's", "none"])
def test_the_score_is_of_the_whole_split_by_the_models_own_estimator(
    monkeypatch, causal, wanted, kept
):
    """From the summary where that holds it, else afresh, by the same estimator."""
    asked, run = [], a_run(3, Path("somewhere"))
    run = replace(
        run,
        recipe=replace(run.recipe, model=replace(run.recipe.model, causal=causal)),
        source=Source(data=Path("elsewhere")),
    )
    known = {
        "whole": [a_score(9, estimator="chain"), a_score(3, estimator=wanted)],
        "part": [a_score(3, estimator=wanted, tokens=699)],
        "of training tokens": [a_score(3, estimator=wanted, tokens=9000)],
        "another's": [a_score(3, estimator="chain")],
        "none": [],
    }[kept]
    run = replace(run, summary=run.summary | {"scores": known})

    def score(*arguments):
        asked.append(arguments)
        return "afresh"

    monkeypatch.setattr(pack.scoring, "score_fresh", score)
    found = pack.whole_score(run, "cuda")
    if kept == "whole":
        assert found == known[1] and not asked
    else:
        assert found == "afresh"
        assert asked == [(Path("somewhere"), wanted, None, None, "cuda", True, run.source)]


@pytest.mark.parametrize("name", TRAINING)
def test_seeds_may_differ_in_how_often_they_write(name):
    one = replace(a_run(3), header={})
    other = replace(a_run(5, **{name: 17}), header={})
    pack.check_alike([one, other])
    pack.check_alike([other, one])


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"header": {"tokenizer_sha256": "x"}}, "tokenizer_sha256: None, now x"),
        ({"tokens": (9001, 700)}, r"tokens: \(9000, 700\), now \(9001, 700\)"),
        ({"tokens": (9000, 701)}, r"tokens: \(9000, 700\), now \(9000, 701\)"),
        ({"recipe": replace(TINY, seed=7, preset="demo")}, "preset: tiny, now demo"),
        ({"recipe": replace(TINY, seed=3)}, "expected a seed of its own, found 3 again"),
    ],
)
def test_seeds_must_not_differ_in_anything_else(changed, said):
    """Of the third run too."""
    alike = [replace(a_run(seed, Path(str(seed))), header={}) for seed in (3, 5, 7)]
    pack.check_alike(alike)
    alike[2] = replace(alike[2], **changed)
    with pytest.raises(InputError, match=rf"^7: .*{said}"):
        pack.check_alike(alike)


class Split:
    """Tokens of a split, counted up from a first one."""

    def __init__(self, first: int, count: int):
        self.ids = (first + np.arange(count)) % 12

    def __len__(self):
        return len(self.ids)

    def read(self, start, stop):
        """Return some of them."""
        return self.ids[start:stop]


@pytest.mark.parametrize(("sequences", "asked", "read"), [(None, None, 44), (2, 2, 16)])
def test_a_run_ships_its_average_and_says_what_came_of_it(
    tmp_path, monkeypatch, sequences, asked, read
):
    """The tensors of the file are the shadow to the last bit where the format keeps them; the
    summary's numbers are the run's; the text compressed is the validation's.
    """
    exact = replace(TINY.quantization, format="float32", small_format="float32")
    recipe, state, texts, scored = replace(TINY, quantization=exact), a_state(4), [], []
    tokenizer = SimpleNamespace(sha256="of the tokenizer", vocab=12)
    data = SimpleNamespace(train=Split(5, 88), validation=Split(0, 44), tokenizer=tokenizer)

    def score(*arguments):
        scored.append(arguments)
        return UNSCORED | {"estimator": arguments[1], "order": arguments[2]}

    monkeypatch.setattr(runs, "score_fresh", score)
    monkeypatch.setattr(runs, "raw_text", lambda ids, tokenizer: list(ids))
    monkeypatch.setattr(runs, "baselines", lambda *given: texts.append(given) or {"zlib": 1.5})
    pairs = [("nelbo", None), ("chain", "entropy")]
    summary = runs._ship(recipe, data, tmp_path, state, pairs, sequences, "cpu", False)
    header, params = artifact.read(tmp_path / "artifact.mgolf")
    rows, shadow, live = (
        params.items(),
        *map(artifact.transformer.unstack, (state.shadow, state.params)),
    )
    assert {name for name, _ in rows} == set(shadow)
    for name, value in rows:
        assert torch.equal(value, shadow[name].float()) and not torch.allclose(value, live[name])
    assert header["tokenizer_sha256"] == "of the tokenizer"
    assert artifact.recipe_of(header) == recipe
    code = sum(runs.size.code_bytes(recipe, header["codec"]).values())
    assert summary == {
        "preset": "tiny",
        "parameters": sum(value.numel() for value in shadow.values()),
        "steps": 14,
        "seconds": 104.0,
        "tokens_per_second": 14 * 32 / 104.0,
        "final_lr_multiplier": 0.0625,
        "ema_started_step": 7,
        "artifact_bytes": (tmp_path / "artifact.mgolf").stat().st_size,
        "code_bytes": code,
        "codec": header["codec"],
        "scores": [
            UNSCORED | {"estimator": "nelbo", "order": None},
            UNSCORED | {"estimator": "chain", "order": "entropy"},
        ],
        "baselines": {"zlib": 1.5},
        "hardware": log.hardware("cpu", 1),
        "pytorch_version": torch.__version__,
    }
    assert code != summary["artifact_bytes"] and not math.isclose(summary["seconds"], 14)
    assert json.loads((tmp_path / "summary.json").read_text()) == summary
    assert scored == [(tmp_path, *pair, asked, "cpu", False) for pair in pairs]
    assert texts == [([*data.validation.ids[:read]], 12, read)]
