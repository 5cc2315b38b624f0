"""The study: every cell is trained by its own recipe, once; what decides never sees the validation
split; tables compare like with like.
"""

import json
from dataclasses import replace

import numpy as np
import pytest
from rich.console import Console

from fast.data import Tokens, find_layout
from harness import cli
from reference.recipe import TINY
from tests.scripts import study
from tests.scripts.study import GROUPS, VARIANTS

ALL = list(study.cells(list(GROUPS), [], list(study.SEEDS)))
SCORES = {"choice": 3.0, "validation": 2.0}


def read(table) -> str:
    """Return a table as it is printed."""
    console = Console(width=160)
    with console.capture() as captured:
        console.print(table)
    return captured.get()


def test_every_cell_is_another_recipe():
    assert len({cell.key("text") for cell in ALL}) == len(ALL)
    assert ALL[0].key("text") != ALL[0].key("other text")
    assert {name for group in GROUPS.values() for name in group.variants} <= set(VARIANTS)


def test_options_train_by_the_recipe_of_the_cell(monkeypatch, tmp_path):
    """As the command line reads them; nothing is trained, so that nothing is shown."""
    trained = []
    monkeypatch.setattr("harness.runs.run", lambda recipe, *given, **named: trained.append(recipe))
    for cell in ALL[:: len(ALL) // 20]:
        assert cli.main(["train", *cell.flags(), "--out", str(tmp_path / "run")]) == 0
        assert trained.pop() == cell.recipe()


def test_what_is_held_out_is_the_end_of_the_training_text(embedded_layout, tmp_path, monkeypatch):
    monkeypatch.setattr(study, "HELD_OUT", 20_000)
    layout = find_layout(study.hold_out(embedded_layout, tmp_path))
    parts = [Tokens(paths) for paths in (layout.train, layout.validation, embedded_layout.train)]
    kept, held, whole = (stream.read(0, len(stream)) for stream in parts)
    assert np.array_equal(np.concatenate([kept, held]), whole)
    assert held[0] == study.BOUNDARY
    first, *_ = np.flatnonzero(held[1:] == study.BOUNDARY)
    assert len(held) - (first + 1) < 20_000 <= len(held)
    assert layout.tokenizer.read_bytes() == embedded_layout.tokenizer.read_bytes()


@pytest.fixture
def commands(monkeypatch, tmp_path, embedded_cache):
    """Answer commands instead of running them; return the list of what was asked."""
    monkeypatch.setenv("MASKGOLF_CACHE", str(embedded_cache))
    monkeypatch.setattr(study, "BASE", replace(TINY, preset="demo"))
    asked = []

    def harness(command, *words, threads):
        words = list(map(str, words))
        asked.append([command, *words])
        data = words[words.index("--data") + 1] if "--data" in words else "choice"
        split = "choice" if "choice" in data else "validation"
        bpb = SCORES[split] + len(asked) / 1000
        if command == "eval":
            asked_for = words[words.index("--estimator") + 1]
            return {"bpb": bpb, "estimator": asked_for, "run": words[0]}
        run = tmp_path / "out" / words[words.index("--out") + 1]
        run.mkdir(parents=True)
        given = dict(zip(words, words[1:], strict=False))
        causal = given.get("--model.causal") == "true"
        share = float(given.get("--model.causal_share", study.DEMO.model.causal_share))
        known = [] if causal else ["nelbo"]
        known += ["causal"] if causal or share else []
        return {
            "parameters": 7,
            "steps": 8,
            "seconds": 9.0,
            "artifact_bytes": 10,
            "hardware": "none",
            "pytorch_version": "2",
            "scores": [{"estimator": name, "bpb": bpb, "run": str(run)} for name in known],
        }

    monkeypatch.setattr(study, "harness", harness)
    return asked


def run(tmp_path, *words) -> int:
    """Run the study on three variants, with folders of its own."""
    places = "--out", str(tmp_path / "out"), "--results", str(tmp_path / "study.json")
    variants = "--variants", "golf", "causal 1/2", "AR, mixing"
    return study.main(["demo", *places, *variants, "--seeds", "1", "2", *words])


def test_a_cell_is_trained_once_and_scored_once(commands, tmp_path, capsys):
    assert run(tmp_path) == 0
    trained = [words for words in commands if words[0] == "train"]
    assert len(trained) == 6
    assert all("choice" in words[words.index("--data") + 1] for words in trained)
    assert all("--data" not in words for words in commands if words[0] == "eval")
    kept = json.loads((tmp_path / "study.json").read_text())
    assert {(numbers["variant"], numbers["seed"]) for numbers in kept.values()} == {
        (variant, seed) for variant in ("golf", "causal 1/2", "AR, mixing") for seed in (1, 2)
    }
    estimators = {numbers["variant"]: sorted(numbers["choice"]) for numbers in kept.values()}
    assert estimators == {
        "golf": ["chain", "nelbo"],
        "causal 1/2": ["causal", "chain", "nelbo"],
        "AR, mixing": ["causal"],
    }
    asked = len(commands)
    assert run(tmp_path) == 0
    assert len(commands) == asked


def test_a_report_scores_the_validation_split_of_what_was_chosen_by(commands, tmp_path, capsys):
    run(tmp_path)
    asked = len(commands)
    assert run(tmp_path, "--report") == 0
    added = commands[asked:]
    assert {words[0] for words in added} == {"eval"}
    assert all("choice" not in words[words.index("--data") + 1] for words in added)
    kept = json.loads((tmp_path / "study.json").read_text()).values()
    for numbers in kept:
        assert numbers["validation"].keys() == numbers["choice"].keys()
        assert all(2 < score["bpb"] < 3 for score in numbers["validation"].values())
        assert all(3 < score["bpb"] < 4 for score in numbers["choice"].values())
    assert "validation split" in capsys.readouterr().out
    assert str(tmp_path) not in (tmp_path / "study.json").read_text()
    asked = len(commands)
    run(tmp_path, "--report")
    assert len(commands) == asked


def numbers(variant: str, seed: int, **scores: float) -> dict:
    """Return the numbers of a cell."""
    scores = {name: {"bpb": value} for name, value in scores.items()}
    return {"group": "demo", "variant": variant, "seed": seed, "choice": scores}


def test_differences_are_paired_by_seed():
    """Of the seeds that both have; the error is that of the differences, not of the values."""
    known = [
        *(numbers("golf", seed, nelbo=3 + seed / 10) for seed in (1, 2, 3)),
        *(numbers("AR, mixing", seed, causal=2 + seed / 10) for seed in (1, 2, 3)),
        numbers("causal 3/4", 1, nelbo=2.6, causal=2.15, chain=2.4),
        numbers("causal 3/4", 2, nelbo=2.8, causal=2.25, chain=2.5),
    ]
    [line] = [
        line for line in read(study.table("demo", known, "choice")).splitlines() if "3/4" in line
    ]
    cells = [cell.strip() for cell in line.split("│")[1:-1]]
    assert cells == [
        "causal 3/4",
        "2",
        "2.700 ± 0.100",
        "-0.450 ± 0.050",
        "2.450 ± 0.050",
        "2.200 ± 0.050",
        "0.050 ± 0.000",
    ]


def test_a_share_is_on_the_frontier_by_the_seeds_that_have_both_scores():
    known = [
        numbers("causal 1/2", 1, nelbo=2.7, causal=2.3),
        numbers("causal 1/2", 2, nelbo=2.9, causal=2.1),
        numbers("causal 1/2", 3, nelbo=9.0),
        numbers("mixing, shift", 1, nelbo=2.6, chain=2.5),
        numbers("golf", 1, nelbo=3.0, chain=2.9),
    ]
    assert study.frontier(known, "choice", "causal") == [("1/2", 2.2, 2.8)]
    assert study.frontier(known, "choice", "chain") == [("0", 2.5, 2.6)]


def test_the_frontier_is_drawn(tmp_path):
    pytest.importorskip("matplotlib")
    known = [
        numbers(variant, 1, nelbo=2.7 + place / 10, causal=2.5 - place / 10, chain=2.5)
        for place, variant in enumerate(study.SHARES)
    ]
    known += [numbers("golf", 1, nelbo=3.0), numbers("AR, mixing", 1, causal=2.1)]
    study.plot({"demo": known}, "choice", tmp_path / "one.svg")
    study.plot({"demo": known[:2]}, "choice", tmp_path / "other.svg")
    one, other = ((tmp_path / name).read_text() for name in ("one.svg", "other.svg"))
    assert one.startswith("<?xml") and one != other
    three = {group: known for group in ("demo", "double", "wide")}
    study.plot(three, "choice", tmp_path / "three.svg")  # the fourth panel is left out
    drawn = (tmp_path / "three.svg").read_text()
    assert drawn.count('id="matplotlib.axis_') == 2 * 3
