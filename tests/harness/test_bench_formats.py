"""bench formats: every format's artifact, its size and its damage on the same windows."""

import json
import shutil
from dataclasses import replace

import numpy as np
import pytest

from fast import artifact, container, transformer
from fast.train import restore
from harness import cli
from harness.bench import formats
from harness.corpus.sources import Source
from harness.evaluation import scoring
from reference.recipe import FORMATS
from tests.support.commands import TINY, refused

GIVEN = (formats.ALLOTTED, formats.COMPENSATED)
OPTIONS = ("--sequences", "6", "--fisher", "4")


@pytest.fixture(scope="module")
def measured(run_directory, tmp_path_factory) -> tuple[list[dict], object]:
    """The rows of a trained run, and where their plot lies."""
    folder = tmp_path_factory.mktemp("formats")
    words = ["bench", "formats", str(run_directory), *OPTIONS]
    assert cli.main([*words, "--json", str(folder / "j"), "--plot", str(folder / "p.png")]) == 0
    return json.loads((folder / "j").read_text()), folder / "p.png"


def test_every_format_has_a_row_and_uniform_one_for_each_dial(measured):
    rows, plotted = measured
    assert {row["format"] for row in rows} == {*FORMATS, *GIVEN}
    for name, more in ((formats.PLAIN, ()), *((name, formats.COARSE) for name in GIVEN)):
        dials = [row["dial"] for row in rows if row["format"] == name]
        assert dials == [*formats.STEPS, *more]
    assert rows[0]["format"] == "float32" and rows[0]["damage"] == rows[0]["stderr"] == 0
    assert plotted.read_bytes()[:4] == b"\x89PNG"


def test_a_row_is_what_its_artifact_weighs_and_scores(measured, run_directory, tmp_path):
    """A run whose artifact is stored in that format has the same size, less its header, and score."""
    rows, _ = measured
    [row] = [row for row in rows if row["format"] == "int4-group"]
    header, _ = artifact.read(run_directory / "artifact.mgolf")
    recipe = artifact.recipe_of(header)
    params = transformer.unstack(restore(run_directory, recipe).shadow)
    copy = shutil.copytree(run_directory, tmp_path / "copy")
    stored = replace(recipe, quantization=replace(recipe.quantization, format="int4-group"))
    artifact.write(
        copy / "artifact.mgolf", params, stored, {"tokenizer_sha256": header["tokenizer_sha256"]}
    )
    again, _ = artifact.read(copy / "artifact.mgolf")
    assert again["codec"] == row["codec"]
    parts = {name: value.float() for name, value in params.items()}
    shapes = {name: tuple(value.shape) for name, value in parts.items()}
    bare = container.pack(parts, artifact.formats_of(shapes, stored), {}, "best")
    assert row["bytes"] == len(bare)
    assert row["bits_per_parameter"] == 8 * len(bare) / sum(v.numel() for v in parts.values())
    estimate = scoring.Estimate(estimator=row["estimator"], sequences=6)
    score = scoring.score(copy, Source(), estimate, compiled=False)
    float32 = rows[0]["bpb"]
    if row["estimator"] == "causal":  # a plan of the NELBO is fitted to the weights it scores
        assert row["bpb"] == pytest.approx(score["bpb"], rel=1e-6)
    assert row["damage"] == pytest.approx(row["bpb"] - float32, abs=1e-9)


def test_finer_steps_take_more_bytes(measured):
    rows, _ = measured
    for name in (formats.PLAIN, *GIVEN):
        sizes = [row["bytes"] for row in rows if row["format"] == name]
        # Of so small a model two neighbours may be the other way round
        assert sizes[0] > sizes[3] > sizes[6] > sizes[9]


def test_without_gradients_there_is_one_curve(run_directory, capsys):
    words = ["bench", "formats", str(run_directory), "--sequences", "2", "--fisher", "0"]
    assert cli.main(words) == 0
    shown = capsys.readouterr().out
    assert "uniform" in shown and "fisher" not in shown


def test_a_masked_model_is_scored_with_the_same_masks(measured):
    """So that float16 weights, all but equal, do all but no damage."""
    rows, _ = measured
    [row] = [row for row in rows if row["format"] == "float16"]
    assert rows[0]["estimator"] in ("nelbo", "causal")
    assert abs(row["damage"]) < 1e-3 and np.isfinite(row["stderr"])


def test_a_run_that_trained_at_rounded_weights_is_stored_by_its_own_steps(corpus, tmp_path, capsys):
    run, stored = tmp_path / "run", ("format uniform", "threshold 64", "dial 12", "aware_steps 2")
    options = [word for field in stored for word in f"--quantization.{field}".split()]
    options += ["--model.causal", "true"]  # the estimate of a NELBO is fitted to the weights
    assert cli.main(["train", *TINY, *options, "--data", str(corpus), "--out", str(run)]) == 0
    words = ["bench", "formats", str(run), "--sequences", "6", "--fisher", "0", "--json", "-"]
    capsys.readouterr()
    assert cli.main(words) == 0
    rows = json.loads(capsys.readouterr().out)
    own = [row for row in rows if row["format"] == formats.AWARE]
    assert [row["dial"] for row in own] == list(formats.FINER)
    assert own[0]["bytes"] < own[1]["bytes"] < own[2]["bytes"]
    score = scoring.score(run, Source(), scoring.Estimate(estimator="causal", sequences=6))
    assert own[1]["bpb"] == pytest.approx(score["bpb"], rel=1e-6)


def test_weights_of_no_checkpoint_are_refused(run_directory, capsys, tmp_path):
    copy = shutil.copytree(run_directory, tmp_path / "copy")
    shutil.rmtree(copy / "checkpoint")
    message = refused(capsys, "bench", "formats", copy, *OPTIONS)
    assert "expected the weights of a checkpoint, found none" in message
