"""The records of metrics.jsonl in TensorBoard and in Weights & Biases."""

import json
import sys
from types import SimpleNamespace

import pytest

from harness import cli
from harness.records import run_directory, trackers, tracking
from harness.records.tracking import Tracking
from reference.recipe import TINY as TINY_RECIPE
from reference.recipe import InputError
from tests.support.commands import TINY

RECORDS = [
    {"step": 1, "train_loss": 5.0, "grad_norm": 0.5},
    {"step": 10, "train_loss": 4.0, "grad_norm": 0.25},
    {"step": 10, "val_bpb": 2.5, "stderr_sequences": None},
]


def events(folder) -> dict:
    """Return {name: [(step, value)]} of the event files in a folder."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    known = EventAccumulator(str(folder))
    known.Reload()
    return {
        name: [(event.step, event.value) for event in known.Scalars(name)]
        for name in known.Tags()["scalars"]
    }


@pytest.fixture
def wandb(monkeypatch):
    """Stand in for the package: what runs it began, and what each was told."""
    begun = []

    def init(**settings):
        run = SimpleNamespace(id=settings["id"] or f"run{len(begun)}", told=[], finished=False)
        run.settings, run.log = settings, run.told.append
        run.finish = lambda: setattr(run, "finished", True)
        begun.append(run)
        return run

    monkeypatch.setitem(sys.modules, "wandb", SimpleNamespace(init=init))
    return begun


def record(out, asked: Tracking, records, step=0):
    with trackers.opened(asked, out, {"seed": 3}, step) as opened:
        metrics = trackers.TrackedMetrics(out / "metrics.jsonl", opened)
        for fields in records:
            metrics.record(**fields)


def test_the_file_is_the_same_with_and_without_trackers(tmp_path, wandb):
    for name, asked in (("a", None), ("b", Tracking()), ("c", Tracking(True, "project"))):
        (tmp_path / name).mkdir()
        record(tmp_path / name, asked, RECORDS)
        lines = (tmp_path / name / "metrics.jsonl").read_text().splitlines()
        assert [json.loads(line) for line in lines] == RECORDS
    assert sorted(path.name for path in (tmp_path / "b").iterdir()) == ["metrics.jsonl"]


def test_events_hold_every_number(tmp_path):
    record(tmp_path, Tracking(tensorboard=True), RECORDS)
    assert events(tmp_path / tracking.FOLDER) == {
        "train_loss": [(1, 5.0), (10, 4.0)],
        "grad_norm": [(1, 0.5), (10, 0.25)],
        "val_bpb": [(10, 2.5)],
    }


def test_a_run_that_goes_on_replaces_what_came_after_its_checkpoint(tmp_path):
    record(tmp_path, Tracking(tensorboard=True), RECORDS)
    again = [{"step": 10, "train_loss": 3.0, "grad_norm": 0.125}]
    record(tmp_path, Tracking(tensorboard=True), again, step=5)
    assert events(tmp_path / tracking.FOLDER)["train_loss"] == [(1, 5.0), (10, 3.0)]


def test_a_project_gets_the_recipe_and_every_record(tmp_path, wandb):
    record(tmp_path, Tracking(wandb="golf"), RECORDS)
    [run] = wandb
    assert run.settings["project"] == "golf" and run.settings["config"] == {"seed": 3}
    assert run.settings["name"] == tmp_path.name and run.settings["resume"] is None
    assert run.told == [*RECORDS[:2], {"step": 10, "val_bpb": 2.5}] and run.finished


def test_a_run_that_goes_on_is_one_run_of_the_project(tmp_path, wandb):
    for _ in range(2):
        record(tmp_path, Tracking(wandb="golf"), RECORDS)
    first, second = wandb
    assert second.id == first.id and second.settings["resume"] == "allow"


def test_trackers_are_closed_however_a_run_ends(tmp_path, wandb):
    with pytest.raises(KeyboardInterrupt):
        with trackers.opened(Tracking(wandb="golf"), tmp_path, {}, 0):
            raise KeyboardInterrupt
    assert wandb[0].finished


@pytest.mark.parametrize(
    ("asked", "package"),
    [(Tracking(tensorboard=True), "tensorboard"), (Tracking(wandb="p"), "wandb")],
)
def test_a_missing_package_is_named(asked, package, monkeypatch):
    monkeypatch.setattr(tracking, "find_spec", lambda name: None)
    with pytest.raises(InputError, match=rf"--{package}: .* install maskgolf\[{package}\]"):
        asked.check()
    Tracking().check()


def test_a_missing_package_is_told_before_a_run_begins(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(tracking, "find_spec", lambda name: None)
    out = tmp_path / "run"
    assert cli.main(["train", *TINY, "--out", str(out), "--tensorboard"]) == 2
    assert "maskgolf[tensorboard]" in capsys.readouterr().err and not out.exists()


def test_a_run_is_tracked(corpus, tmp_path, wandb, monkeypatch):
    """From the command to the trackers, and no other artifact."""
    monkeypatch.setattr(tracking, "find_spec", lambda name: "there")
    out = tmp_path / "run"
    words = ["--data", str(corpus), "--out", str(out), "--tensorboard", "--wandb", "golf"]
    assert cli.main(["train", *TINY, *words]) == 0
    lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    losses = [(line["step"], line["train_loss"]) for line in lines if "train_loss" in line]
    assert events(out / tracking.FOLDER)["train_loss"] == pytest.approx(losses, rel=1e-6)
    [run] = wandb
    assert [told["step"] for told in run.told] == [line["step"] for line in lines]
    assert run.settings["config"]["preset"] == "tiny"


def test_a_tracked_run_that_was_killed_early_begins_again(tmp_path, wandb):
    """Its trackers' files are no sign of a finished run."""
    record(tmp_path, Tracking(True, "golf"), RECORDS)
    (tmp_path / "recipe.json").write_text("{}")
    assert run_directory.check(tmp_path, "auto", False, TINY_RECIPE) is False
    (tmp_path / "summary.json").write_text("{}")
    with pytest.raises(InputError, match="pass --overwrite"):
        run_directory.check(tmp_path, "auto", False, TINY_RECIPE)
