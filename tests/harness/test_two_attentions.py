"""A model that is trained by both objectives, from the command line: each way of scoring it says
which attention it used.
"""

import json

import pytest

from harness import cli
from tests.support.commands import TINY, refused

INPUTS = "--model.mixing 2 --model.shift true --model.causal_share 0.5".split()


@pytest.fixture(scope="module")
def run(corpus, tmp_path_factory):
    """Return a run of a tiny model."""
    out = tmp_path_factory.mktemp("dual") / "run"
    assert cli.main(["train", *TINY, *INPUTS, "--data", str(corpus), "--out", str(out)]) == 0
    return out


def scored(path, *arguments) -> dict:
    """Return what eval says."""
    given = "eval", *arguments, "--no-compiled", "--json", path
    assert cli.main([str(argument) for argument in given]) == 0
    return json.loads(path.read_text())


def test_a_summary_holds_the_bound_and_the_one_pass(run):
    scores = json.loads((run / "summary.json").read_text())["scores"]
    assert [score["estimator"] for score in scores] == ["nelbo", "causal"]
    assert scores[1]["order"] == "left-to-right" and scores[1]["stderr_masks"] == 0
    assert scores[1]["forwards"] == scores[1]["windows"]


def test_each_estimator_reads_its_own_attention(run, tmp_path):
    """One pass or one per token, along one order; every other order takes the masked network."""
    some, file = (run, "--sequences", "9"), tmp_path / "score.json"
    causal = scored(file, *some, "--estimator", "causal")
    again = scored(file, *some, "--estimator", "causal", "--order", "left-to-right")
    masked = scored(file, *some, "--estimator", "chain", "--order", "left-to-right")
    assert causal["bpb"] == again["bpb"] != masked["bpb"]
    assert (causal["forwards"], masked["forwards"]) == (9, 9 * 8)
    assert causal["bpb"] == pytest.approx(masked["bpb"], rel=0.2)  # both predict the same text


def test_two_runs_are_compared_by_the_pass_of_each(run, run_directory, tmp_path):
    file = tmp_path / "compared.json"
    compared = scored(file, run, run_directory, "--compare")
    score = scored(file, run, "--estimator", "causal")
    assert compared["whole"]["a"] == pytest.approx(score["bpb"], rel=1e-6)
    assert compared["runs"]["a"]["method"] == "causal attention, one pass"
    assert compared["runs"]["b"]["method"] == "chain rule, left-to-right"
    # with a shift the mask token stands in front
    assert not any(compared["runs"][name]["looks_before"] for name in ("a", "b"))
    along = scored(file, run, run_directory, "--compare", "--order", "random")
    assert along["runs"]["a"]["method"] == "chain rule, random, seed 0"


def test_a_model_without_the_pass_says_so(run, run_directory, capsys):
    message = refused(capsys, "eval", run_directory, "--estimator", "causal")
    assert "--estimator causal: expected nelbo" in message
    message = refused(capsys, "eval", run, "--estimator", "causal", "--order", "random")
    assert "order" in message


def test_text_is_drawn_and_coded(run, tmp_path, capsys):
    draw = ["sample", str(run), "--seed", "4", "--count", "2", "--json", "-"]
    assert cli.main(draw) == 0
    drawn = json.loads(capsys.readouterr().out)
    assert len({tuple(sample["ids"]) for sample in drawn}) == 2
    text = tmp_path / "text"
    text.write_bytes(b"if a condition holds, the statement is executed" * 9)
    for order in ("left-to-right", "confidence"):
        packed, back = tmp_path / f"{order}.mgz", tmp_path / "back"
        coded = ["--run", str(run), "--order", order, "-o", str(packed)]
        assert cli.main(["compress", str(text), *coded]) == 0
        assert cli.main(["decompress", str(packed), "--run", str(run), "-o", str(back)]) == 0
        assert back.read_bytes() == text.read_bytes()
