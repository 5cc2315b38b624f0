"""MaskGolf from Python: the five functions do what their commands do, and their results show it."""

import inspect
import json
import subprocess
import sys
from dataclasses import fields
from pathlib import Path

import pytest

import maskgolf
from harness import api, cli, results
from harness.evaluation.estimate import Estimate
from reference.recipe import PRESETS, TINY, InputError

SCORED = {"estimator": "nelbo", "sequences": 3, "seed": 5}


@pytest.fixture(scope="module")
def score(run_directory):
    return maskgolf.score(run_directory, **SCORED)


@pytest.fixture(scope="module")
def model(run_directory):
    return maskgolf.load(run_directory)


def command(words, path: Path):
    """Return the exit code of a command and the JSON that it writes."""
    code = cli.main([*map(str, words), "--json", str(path)])
    return code, json.loads(path.read_text())


def timeless(value):
    """Return a JSON value without what no two calls share."""
    if isinstance(value, dict):
        return {k: timeless(v) for k, v in value.items() if k != "seconds"}
    return [timeless(v) for v in value] if isinstance(value, list) else value


def test_the_package_holds_five_names():
    assert maskgolf.__all__ == ["load", "parity", "sample", "score", "train"]
    for name in maskgolf.__all__:
        assert "Examples:" in inspect.getdoc(getattr(maskgolf, name))


def test_importing_loads_no_torch():
    code = "import sys, maskgolf; print(sorted({'torch', 'matplotlib'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


# train


def test_a_run_is_that_of_the_command(corpus, run_directory, tmp_path):
    """Same artifact, byte for byte, and the summary that the command wrote."""
    changes = {"model.vocab": 400, "training.iterations": 20, "training.checkpoint_every": 5}
    how = dict(out=tmp_path / "run", compiled=False, preflight=False)
    run = maskgolf.train("tiny", changes, data=corpus, **how)
    assert isinstance(run, results.Run)
    one, other = (path / "artifact.mgolf" for path in (run.path, run_directory))
    assert one.read_bytes() == other.read_bytes()
    assert run.json == json.loads((run.path / "summary.json").read_text())
    assert [kept.json for kept in run.scores] == run.json["scores"]
    assert f"{run.parameters:,} parameters" in repr(run) and "zlib" in run.table()
    axes = run.plot().axes[0]
    assert len(axes.lines[0].get_xdata()) > 1 and axes.get_xlabel() == "step"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (dict(recipe="huge"), "preset 'huge': expected one of golf"),
        (dict(changes={"model.depth": 3}), "model.depth: expected a field of the recipe"),
        (dict(changes={"model": 3}), "model: expected a field of the recipe"),
        (dict(changes={"model.layers": "3"}), "recipe.model.layers: expected int"),
        (dict(changes={"model.layers": 0}), "model.layers"),
        (dict(recipe=TINY, changes={"seed": 2}), "changes: expected a preset's name"),
        (dict(data="here", text="there"), "--data and --text: expected one of them"),
        (dict(device="tpu"), "--device tpu: expected cpu or cuda"),
    ],
)
def test_wrong_input_is_told_before_anything_is_made(arguments, message, tmp_path):
    with pytest.raises(InputError, match=message):
        maskgolf.train(**arguments, out=tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_recipe_is_a_preset_with_changes():
    assert api.recipe_of("golf") == PRESETS["golf"]
    changed = api.recipe_of("tiny", {"model.layers": 3, "seed": 8})
    assert (changed.model.layers, changed.seed) == (3, 8)
    assert TINY.model.layers != 3 and api.recipe_of("tiny") == TINY


# score


def test_a_score_is_that_of_the_command(run_directory, score, tmp_path):
    words = [word for name, value in SCORED.items() for word in (f"--{name}", value)]
    code, written = command(["eval", run_directory, *words], tmp_path / "score.json")
    assert code == 0 and timeless(written) == timeless(score.json)
    for known in fields(score):
        if known.name != "json":
            assert getattr(score, known.name) == score.json[known.name]


def test_a_score_shows_itself(score, run_directory):
    assert repr(score).startswith(f"<Score {run_directory}: {score.bpb:.4f} ±")
    assert "NELBO" in score.table() and "<pre>" in score._repr_html_()
    axes = score.plot().axes[0]
    [bar] = axes.containers
    assert bar.lines[0].get_xdata()[0] == score.bpb
    [segments] = bar.lines[2][0].get_segments()
    assert segments[:, 0] == pytest.approx(
        [score.bpb - score.stderr_sequences, score.bpb + score.stderr_sequences]
    )


def test_several_runs_are_tested_against_others(run_directory, tmp_path):
    """Named by directory, by file and by what load() returned: one model, no difference."""
    file = run_directory / "artifact.mgolf"
    source = maskgolf.score(run_directory, **SCORED)
    scores = maskgolf.score([run_directory, str(run_directory)], against=[run_directory], **SCORED)
    assert scores.mean == source.bpb and scores.std == 0 and len(scores.scores) == 2
    assert scores.welch["difference"] == 0 and len(scores.against) == 1
    assert scores.table().count("NELBO") == 3 and "of 2 runs" in repr(scores)
    assert len(scores.plot().axes[0].containers) == 3
    data = json.loads((run_directory / "recipe.json").read_text())["source"]["data"]
    assert maskgolf.score(file, data=data, **SCORED).bpb == source.bpb
    words = ["--estimator", "nelbo", "--sequences", 3, "--seed", 5]
    told = ["eval", run_directory, run_directory, "--against", run_directory, *words]
    code, written = command(told, tmp_path / "scores.json")
    assert code == 0 and timeless(written) == timeless(scores.json)


def test_every_option_of_an_estimate_is_taken(run_directory):
    """None is dropped on the way, and a wrong name is an error."""
    for known in fields(Estimate):
        options = {"estimator": "nelbo"} | {known.name: "wrong"}
        with pytest.raises((InputError, TypeError)):
            maskgolf.score(run_directory, **options)
    with pytest.raises(TypeError, match="draw"):
        maskgolf.score(run_directory, draw=3)


# load and sample


def test_a_model_is_read_from_its_artifact(model, run_directory):
    file = run_directory / "artifact.mgolf"
    assert model.artifact_bytes == file.stat().st_size
    assert (
        model.parameters == json.loads((run_directory / "summary.json").read_text())["parameters"]
    )
    assert model.decode(model.encode("if x is not None:")) == "if x is not None:"
    assert model.objective in repr(model) and "embedding" in model.table()
    bars = model.plot().axes[0].patches
    assert sum(bar.get_width() for bar in bars) == sum(row["stored"] for row in model.json)


def test_a_model_scores_and_samples_as_its_run_does(model, run_directory, score):
    assert maskgolf.score(model, **SCORED).bpb == score.bpb
    one, other = (maskgolf.sample(named, "The", seed=3) for named in (model, run_directory))
    assert one.texts == other.texts and one.json == other.json


def test_gaps_are_filled_and_watched(run_directory):
    """The given text is kept; after each pass there is one more token."""
    seen = []
    drawn = maskgolf.sample(
        run_directory,
        infill="if___",
        gap=2,
        seed=3,
        watch=lambda so_far: seen.append(so_far()[0]["parts"].count(None)),
    )
    assert drawn[0].startswith("if") and seen == [1, 0]
    assert [rank for rank in drawn.json[0]["reveal"] if rank is not None] == [0, 1]
    assert len(maskgolf.sample(run_directory, tokens=3).json[0]["ids"]) == 4
    with pytest.raises(InputError, match="--prompt: expected no --infill"):
        maskgolf.sample(run_directory, "The", infill="if___")


def test_samples_are_those_of_the_command(run_directory, tmp_path):
    options = dict(count=2, order="random", step=4, temperature=0.5, seed=3)
    drawn = maskgolf.sample(run_directory, "The", **options)
    words = [word for name, value in options.items() for word in (f"--{name}", value)]
    told = ["sample", run_directory, "--prompt", "The", *words]
    code, written = command(told, tmp_path / "samples.json")
    assert code == 0 and written == drawn.json
    assert len(drawn) == 2 and drawn[1] == drawn.json[1]["text"] and drawn[0] in drawn.table()
    assert repr(drawn).startswith(f"<Samples 2 of {run_directory}: ")


def test_samples_are_drawn_as_points_of_their_order(run_directory):
    """Given tokens have none."""
    drawn = maskgolf.sample(run_directory, "The", order="random", seed=3)
    [points] = [c for c in drawn.plot().axes[0].collections if len(c.get_offsets())]
    reveal, probabilities = drawn.json[0]["reveal"], drawn.json[0]["probabilities"]
    places = [place for place, turn in enumerate(reveal) if turn is not None]
    assert 0 < len(places) < len(reveal)
    assert points.get_offsets().tolist() == [[place, reveal[place]] for place in places]
    assert points.get_array().tolist() == [probabilities[place] for place in places]


# parity


def test_parity_is_that_of_the_command(tmp_path):
    rows = maskgolf.parity("masks")
    assert rows.passed and rows.json and {row["piece"] for row in rows.json} == {"masks"}
    code, written = command(["parity", "masks"], tmp_path / "rows.json")
    assert code == 0 and timeless(written) == timeless(rows.json)
    assert f"{len(rows.json)} of {len(rows.json)} rows agree" in repr(rows)
    assert "masks" in rows.table()


def test_a_red_row_is_counted_and_drawn():
    row = dict(piece="clip", level="algebra", dtype="float32", limit=0.5, passed=False)
    rows = results.Parity([row | {"error": 2.0}, row | {"error": None}], "cpu", False)
    assert "0 of 2 rows agree" in repr(rows)
    points = rows.plot().axes[0].collections[0].get_offsets()
    assert points[0, 0] == 4.0 and points[1, 0] == 1e3


def test_a_plot_without_matplotlib_says_what_to_install(score, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.backend_bases", None)
    with pytest.raises(InputError, match=r"install maskgolf\[plot\]"):
        score.plot()


def test_a_result_is_escaped_in_a_notebook(score, monkeypatch):
    monkeypatch.setattr(results.Score, "show", lambda self: print("<b>"))
    assert "<b>" not in score._repr_html_()
