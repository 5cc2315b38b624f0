"""Whether a run may begin in a folder or go on there: said at once, and of what is there."""

import contextlib
import json
import shutil
import subprocess
import sys
from dataclasses import asdict, fields, is_dataclass, replace
from pathlib import Path

import pytest

from fast.config import CHECKPOINT, RESUMABLE
from harness import cli, runs
from harness.packaging.claim import Claim
from harness.packaging.pack import pack
from harness.records import run_directory as rules
from reference.recipe import TINY, InputError
from tests.support import packs
from tests.support.commands import TINY as FLAGS

RESUME = (True, "auto")
# A process in which torch cannot be imported
WITHOUT_TORCH = """
import sys

class Blocked:
    def find_spec(self, name, path=None, target=None):
        if name == "torch":
            raise ImportError("torch is loaded")

sys.meta_path.insert(0, Blocked())
from harness import cli
sys.exit(cli.main(sys.argv[1:]))
"""


def written(folder, *names, recipe=TINY):
    """Return a run's folder with some of its files."""
    (folder / "checkpoint").mkdir(parents=True)
    for name in names:
        (folder / name).write_text("something")
    (folder / "recipe.json").write_text(json.dumps({"recipe": asdict(recipe)}))
    return folder


def leaves(part, prefix=""):
    """Yield (name, value) of every field of a recipe."""
    for field in fields(part):
        value = getattr(part, field.name)
        if is_dataclass(value):
            yield from leaves(value, f"{prefix}{field.name}.")
        else:
            yield prefix + field.name, value


def changed(name, value):
    """Return TINY with another value of a field."""
    other = {bool: lambda: not value, str: lambda: value + "x", tuple: lambda: (*value[:-1], 9.0)}
    other = other.get(type(value), lambda: value + 1)()
    part, _, field = name.rpartition(".")
    if not part:
        return replace(TINY, **{name: other})
    return replace(TINY, **{part: replace(getattr(TINY, part), **{field: other})})


# the rules


@pytest.mark.parametrize("resume", RESUME)
@pytest.mark.parametrize(("name", "value"), leaves(TINY), ids=lambda part: str(part))
def test_a_run_goes_on_by_its_own_recipe(tmp_path, name, value, resume):
    """Any field but how often things are written makes it another run."""
    out, recipe = written(tmp_path, f"checkpoint/{CHECKPOINT}"), changed(name, value)
    assert recipe != TINY and rules.check(out, resume, False, TINY)
    if name in RESUMABLE:
        assert rules.check(out, resume, False, recipe)
    else:
        with pytest.raises(InputError, match=rf"--resume.*another recipe \({name}: .*, now "):
            rules.check(out, resume, False, recipe)


def test_auto_goes_on_where_there_is_a_checkpoint_and_begins_where_nothing_was_trained(tmp_path):
    begins = [tmp_path / "new", tmp_path / "empty", written(tmp_path / "killed", "train.log")]
    begins[1].mkdir()
    for out in begins:
        assert rules.check(out, "auto", False, TINY) is False
    trained = written(tmp_path / "trained", f"checkpoint/{CHECKPOINT}")
    assert rules.check(trained, "auto", False, TINY) is True
    finished = written(tmp_path / "finished", f"checkpoint/{CHECKPOINT}", "artifact.mgolf")
    assert rules.check(finished, "auto", False, TINY) is True


def test_auto_replaces_no_finished_run_and_no_other_files(tmp_path):
    for name in ("artifact.mgolf", "summary.json", "notes.txt"):
        out = written(tmp_path / name, name)
        with pytest.raises(InputError, match=f"auto: expected a checkpoint beside .*{name}"):
            rules.check(out, "auto", False, TINY)
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "chapter.tex").write_text("1")
    with pytest.raises(InputError, match="found other files"):
        rules.check(tmp_path / "thesis", "auto", False, TINY)


@pytest.mark.parametrize("resume", RESUME)
def test_resuming_and_replacing_exclude_each_other(tmp_path, resume):
    out = written(tmp_path, f"checkpoint/{CHECKPOINT}")
    with pytest.raises(InputError, match="expected no --overwrite beside it"):
        rules.check(out, resume, True, TINY)


@pytest.mark.parametrize("text", ["", "[]", "{", '{"recipe": 3}', '{"recipe": {}}'])
def test_a_damaged_recipe_is_one_message(tmp_path, text):
    out = written(tmp_path, f"checkpoint/{CHECKPOINT}")
    (out / "recipe.json").write_text(text)
    with pytest.raises(InputError, match="expected the JSON of a run"):
        rules.check(out, True, False, TINY)


# the command


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        ([], "a run is there"),
        (["--resume", "--seed", "9"], "another recipe (seed: "),
        (["--resume", "auto", "--overwrite"], "expected no --overwrite"),
        (["--training.iterations", "0"], "training.iterations must be at least 1"),
        (["--resume", "--data", "gone"], "data gone: expected a directory of shards"),
        (["--resume", "--text", "gone"], "gone: expected a readable file"),
        (
            ["--resume", "--tokenizer", "gone"],
            "tokenizer gone: expected a readable SentencePiece model",
        ),
    ],
    ids=["there", "recipe", "both", "range", "data", "text", "tokenizer"],
)
def test_what_can_be_known_at_once_is_said_before_torch_is_loaded(run_directory, flags, words):
    command = [sys.executable, "-c", WITHOUT_TORCH, "train", *FLAGS, "--out", run_directory, *flags]
    before = sorted(path.name for path in run_directory.iterdir())
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 2 and words in done.stderr and "Traceback" not in done.stderr
    assert sorted(path.name for path in run_directory.iterdir()) == before


def test_a_demo_replaces_runs_alone(tmp_path, capsys):
    (tmp_path / "notes.txt").write_text("mine")
    assert cli.main(["demo", "--out", str(tmp_path)]) == 2
    assert "found other files" in capsys.readouterr().err
    assert (tmp_path / "notes.txt").read_text() == "mine"


def test_a_run_that_went_on_with_other_logging_is_packed(seeds, corpus, tmp_path):
    """Beside another seed as well. The last session's recipe is the run's, but the data is where it
    was.
    """
    out = tmp_path / "run"
    shutil.copytree(seeds[1], out)
    often = "--training.log_every", "7", "--training.checkpoint_every", "3", "--seed", "2"
    packs.train(corpus, out, *often, "--resume", "auto")
    told, begun = (json.loads((run / "recipe.json").read_text()) for run in (out, seeds[1]))
    assert told["recipe"]["training"]["log_every"] == 7
    assert told | {"recipe": None} == begun | {"recipe": None}
    described = pack((seeds[0], out), tmp_path, Claim(**packs.WHO))
    assert described["seeds"] == [1, 2]
    log = (Path(described["folder"]) / "train_seed2.log").read_text()
    assert "resumed at step 12" in log


def test_a_directory_is_held_by_one_run_and_free_after_it(tmp_path):
    out = written(tmp_path / "runs", f"checkpoint/{CHECKPOINT}", "train.log")
    with contextlib.ExitStack() as first:
        assert runs.prepare(out, True, False, TINY, first) is True
        for resume in (True, False):
            with contextlib.ExitStack() as second:
                with pytest.raises(InputError, match="another process is training into it"):
                    runs.prepare(out, resume, not resume, TINY, second)
        assert (out / "train.log").exists()
    with contextlib.ExitStack() as afresh:
        assert runs.prepare(out, False, True, TINY, afresh) is False
        assert [path.name for path in out.iterdir()] == ["checkpoint"]


def test_a_directory_that_cannot_be_made_is_one_message(tmp_path):
    (tmp_path / "file").touch()
    with contextlib.ExitStack() as holding:
        with pytest.raises(InputError, match="cannot create the run directory .*; choose another"):
            runs.prepare(tmp_path / "file" / "runs", False, False, TINY, holding)
