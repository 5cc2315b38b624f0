"""What interrupts a run, and the run that goes on from its last checkpoint: it ends as the
uninterrupted one, bit for bit.

kill -9 (twenty times in `make soak`), a full disk, a loss that is not finite.
"""

import contextlib
import random
import shutil

import pytest
import torch

import fast.masking
import fast.train
from fast import checkpoint
from harness import cli, runs
from tests.scripts import soak
from tests.support.commands import UNSCORED

STEPS = 40


@pytest.fixture(scope="module")
def arguments(corpus) -> list[str]:
    """Return what is trained, and on what."""
    return [*soak.options(STEPS), "--data", str(corpus)]


@pytest.fixture(scope="module", autouse=True)
def unscored():
    """Leave out the score of the artifact, which takes longer than the run."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(runs, "score_fresh", lambda *_: UNSCORED)
        yield


@pytest.fixture(scope="module")
def alone(arguments, unscored, tmp_path_factory):
    """Return the finished run that nobody has touched."""
    out = tmp_path_factory.mktemp("runs") / "alone"
    assert cli.main(["train", *arguments, "--out", str(out)]) == 0
    return out


@pytest.mark.slow
def test_three_kills_do_not_change_a_bit(arguments, alone, tmp_path):
    """A checkpoint is written at every step, so that some of the kills of many test runs hit one;
    two ranks are killed in `make soak`.
    """
    hits = soak.killed_and_resumed(
        arguments, tmp_path / "killed", 3, random.Random(), STEPS, sizes=(1,)
    )
    assert len(hits) == 3
    assert soak.differences(tmp_path / "killed", alone) == []


def test_what_differs_between_two_runs_is_named(alone, tmp_path):
    """The comparison sees one changed bit in any of the things that it compares."""
    one, other = (shutil.copytree(alone, tmp_path / name) for name in ("one", "other"))
    assert soak.differences(one, other) == []
    content = torch.load(other / "checkpoint" / "latest.pt", weights_only=True)
    content["tensors"]["first"]["mix"].view(torch.int32)[0, 0, 0] ^= 1
    content["progress"]["step"] += 1
    torch.save(content, other / "checkpoint" / "latest.pt")
    log = other / "metrics.jsonl"
    log.write_text(log.read_text().replace('"step": 2,', '"step": 7,'))
    (other / "artifact.mgolf").write_bytes(b"")
    (one / "checkpoint" / ".latest.pt.tmp").write_bytes(b"")
    assert soak.differences(one, other) == [
        "first.mix",
        "step",
        "losses",
        "artifact",
        "litter .latest.pt.tmp",
    ]


def test_a_disk_that_fills_up_keeps_the_checkpoint_before(
    arguments, alone, tmp_path, monkeypatch, capsys
):
    """The kernel's own ENOSPC: from step 30 on the temporary file is /dev/full. One message; with
    space the run goes on from step 29.
    """
    out, save = tmp_path / "run", checkpoint.save

    def fill(folder, tensors, progress, recipe):
        if progress["step"] == 30:
            (folder / ".latest.pt.tmp").symlink_to("/dev/full")
        save(folder, tensors, progress, recipe)

    with monkeypatch.context() as patch:
        patch.setattr(checkpoint, "save", fill)
        assert cli.main(["train", *arguments, "--out", str(out)]) == 2
    said = [line for line in capsys.readouterr().err.splitlines() if line.startswith("maskgolf: ")]
    assert (
        len(said) == 1
        and "latest.pt: cannot write" in said[0]
        and "No space left on device; free space" in said[0]
    )
    assert [path.name for path in (out / "checkpoint").iterdir()] == ["latest.pt"]
    assert torch.load(out / "checkpoint" / "latest.pt", weights_only=True)["progress"]["step"] == 29
    assert cli.main(["train", *arguments, "--out", str(out), "--resume"]) == 0
    assert soak.differences(out, alone) == []


def test_a_loss_that_is_not_finite_keeps_the_checkpoint_before(
    arguments, alone, tmp_path, monkeypatch, capsys
):
    """One message with step and tensor, in the log as well; where the cause is gone, the run goes
    on from the step before.
    """
    out, noise = tmp_path / "run", fast.masking.noise

    def spoiled(recipe, step, rows, device="cpu"):
        thresholds_B, weights_B = noise(recipe, step, rows, device)
        return thresholds_B, weights_B * float("nan") if step == 30 else weights_B

    with monkeypatch.context() as patch:
        patch.setattr(fast.masking, "noise", spoiled)
        assert cli.main(["train", *arguments, "--out", str(out)]) == 1
    said = [line for line in capsys.readouterr().err.splitlines() if line.startswith("maskgolf: ")]
    assert said == ["maskgolf: step 31: loss (nan) is not finite; weights are as before it"]
    last = (out / "train.log").read_text().splitlines()[-1]
    assert last.endswith(
        "step 31: loss (nan) is not finite; weights are as before it; the last checkpoint is kept"
    )
    assert torch.load(out / "checkpoint" / "latest.pt", weights_only=True)["progress"]["step"] == 30
    assert cli.main(["train", *arguments, "--out", str(out), "--resume"]) == 0
    assert soak.differences(out, alone) == []


def test_lines_cut_by_a_kill_are_dropped(arguments, alone, tmp_path):
    """A line of train.log or metrics.jsonl that a kill has cut off does not run into the next
    one.
    """
    out = shutil.copytree(alone, tmp_path / "run")
    for name in ("train.log", "metrics.jsonl"):
        with open(out / name, "a") as file:
            file.write('{"step": 6')
    assert cli.main(["train", *arguments, "--out", str(out), "--resume"]) == 0
    assert (out / "train.log").read_text() == (
        alone / "train.log"
    ).read_text() + f"resumed at step {STEPS}\n"
    assert soak.differences(out, alone) == []


def test_what_cannot_be_resumed_is_one_message(arguments, alone, tmp_path, capsys):
    """A run is continued or replaced, not both; a damaged record of it is named and kept."""
    out = shutil.copytree(alone, tmp_path / "run")
    assert cli.main(["train", *arguments, "--out", str(out), "--resume", "--overwrite"]) == 2
    assert (
        "expected no --overwrite beside it" in capsys.readouterr().err
        and soak.differences(out, alone) == []
    )
    lines = (out / "metrics.jsonl").read_text().splitlines(keepends=True)
    for damage in ("no JSON\n", "[1]\n", "{}\n"):
        (out / "metrics.jsonl").write_text("".join([lines[0], damage, *lines[1:]]))
        assert cli.main(["train", *arguments, "--out", str(out), "--resume"]) == 2
        assert (
            "metrics.jsonl: expected a JSON object with its step on every line"
            in capsys.readouterr().err
        )
        assert damage in (out / "metrics.jsonl").read_text()


def test_a_run_that_was_killed_before_it_began_is_begun_again(arguments, alone, tmp_path):
    """Between the making of the folders and the writing of recipe.json; what is not a run's is
    never touched.
    """
    out = tmp_path / "run"
    (out / "checkpoint").mkdir(parents=True)
    (out / ".recipe.json.tmp").write_text("{")
    assert cli.main(["train", *arguments, "--out", str(out)]) == 0
    assert soak.differences(out, alone) == [] and not (out / ".recipe.json.tmp").exists()


def test_two_runs_do_not_train_into_one_directory(arguments, alone, tmp_path, capsys):
    """The processes of a torchrun that was itself killed go on alone: nobody writes beside them,
    and nothing of theirs is replaced.
    """
    out = shutil.copytree(alone, tmp_path / "run")
    with contextlib.ExitStack() as holding:
        runs.hold(out, holding)
        for way in ("--resume", "--overwrite"):
            assert cli.main(["train", *arguments, "--out", str(out), way]) == 2
            assert "another process is training into it" in capsys.readouterr().err
        assert soak.differences(out, alone) == []
    assert cli.main(["train", *arguments, "--out", str(out), "--resume"]) == 0
