"""An artifact's weights in a safetensors file are those that it decodes to."""

import hashlib
import json
import re
from dataclasses import asdict

import pytest
import torch
from safetensors import safe_open

from fast import artifact
from harness import cli
from harness.display.report import exported


@pytest.fixture
def written(run_directory, tmp_path):
    out, described = tmp_path / "model.safetensors", tmp_path / "written.json"
    words = ["export", str(run_directory), "--out", str(out), "--json", str(described)]
    assert cli.main(words) == 0
    return out, json.loads(described.read_text())


def test_every_weight_is_there_to_the_bit(written, run_directory):
    header, params = artifact.read(run_directory / "artifact.mgolf")
    with safe_open(written[0], "pt") as file:
        assert set(file.keys()) == set(params)
        for name, value in params.items():
            assert torch.equal(file.get_tensor(name), value)
        metadata = json.loads(file.metadata()["maskgolf"])
    recipe = asdict(artifact.recipe_of(header))
    assert metadata["recipe"] == json.loads(json.dumps(recipe))
    assert metadata["tokenizer_sha256"] == header["tokenizer_sha256"]


def test_what_was_written_is_told(written, run_directory, capsys):
    out, told = written
    digest = hashlib.sha256((run_directory / "artifact.mgolf").read_bytes()).hexdigest()
    summary = json.loads((run_directory / "summary.json").read_text())
    assert told["artifact_sha256"] == digest and told["bytes"] == out.stat().st_size
    assert told["parameters"] == summary["parameters"] and told["dtype"] == "float32"
    exported(told)
    assert f"{told['parameters']:,} parameters" in capsys.readouterr().out


def test_an_artifact_file_exports_the_same(written, run_directory, tmp_path):
    again = tmp_path / "again.safetensors"
    words = ["export", str(run_directory / "artifact.mgolf"), "--out", str(again)]
    assert cli.main(words) == 0 and again.read_bytes() == written[0].read_bytes()


@pytest.mark.parametrize(
    ("run", "out", "message"),
    [
        ("nothing", "a.safetensors", "expected a run directory or an artifact file, found nothing"),
        (".", "a.safetensors", "expected a finished run"),
        (None, "none/a.safetensors", "--out .*expected a file to write, found no folder"),
        (None, ".", "--out .*expected a file to write, found a folder"),
    ],
)
def test_wrong_paths_are_told(run, out, message, run_directory, tmp_path, capsys):
    words = ["export", str(tmp_path / run if run else run_directory), "--out", str(tmp_path / out)]
    assert cli.main(words) == 2
    err = " ".join(capsys.readouterr().err.split())
    assert re.search(message, err)
