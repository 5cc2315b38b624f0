"""A run directory: never overwritten unasked, resumed to the same artifact, whole after a failure."""

import json
import resource
import shutil
import signal
import time
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch

from fast import artifact, data, evaluate, quantize, transformer
from fast.data import write_shard
from fast.errors import TrainingError
from fast.train import restore
from harness import cli, parity, runs
from harness.corpus.dataset import open_dataset
from harness.corpus.sources import Source
from harness.validate import training_log
from reference.recipe import InputError
from tests.support.commands import TINY, UNSCORED, refused, start


def test_output_directory_is_never_clobbered(run_directory, corpus, tmp_path, capsys):
    """A file, foreign files, or a run that is there are errors; a finished run resumes to the same
    artifact.
    """
    (tmp_path / "file").write_text("precious")
    assert "found a file" in refused(
        capsys, "train", *TINY, "--data", corpus, "--out", tmp_path / "file"
    )
    assert (tmp_path / "file").read_text() == "precious"
    assert "other files" in refused(capsys, "train", *TINY, "--data", corpus, "--out", tmp_path)
    artifact = (run_directory / "artifact.mgolf").read_bytes()
    assert "--resume" in refused(capsys, "train", *TINY, "--data", corpus, "--out", run_directory)
    assert "expected a checkpoint" in refused(
        capsys, "train", *TINY, "--data", corpus, "--out", tmp_path / "new", "--resume"
    )
    changed = refused(
        capsys, "train", *TINY, "--seed", "5", "--data", corpus, "--out", run_directory, "--resume"
    )
    assert "seed: 1337, now 5" in changed
    assert (
        cli.main(["train", *TINY, "--data", str(corpus), "--out", str(run_directory), "--resume"])
        == 0
    )
    assert (run_directory / "artifact.mgolf").read_bytes() == artifact


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.slow
def test_interrupted_run_resumes_to_the_same_artifact(number, run_directory, corpus, tmp_path):
    """Ctrl-C and SIGTERM leave a checkpoint and a message; the resumed run ships the very bytes of
    the uninterrupted one.
    """
    out = tmp_path / "run"
    # The clock must not decide when the signal lands: wait for the first logged step, long before
    # the last.
    slow = ["--training.iterations", "20", "--training.log_every", "1"]
    process = start("train", *TINY, *slow, "--data", corpus, "--out", out)
    log = out / "train.log"
    deadline = time.monotonic() + 120
    while (
        not (log.exists() and log.read_text().count("step:"))
        and time.monotonic() < deadline
        and process.poll() is None
    ):
        time.sleep(0.002)
    process.send_signal(number)
    _, errors = process.communicate(timeout=120)
    if process.returncode == 0:  # the run was faster than the signal
        assert (out / "artifact.mgolf").read_bytes() == (
            run_directory / "artifact.mgolf"
        ).read_bytes()
        return
    assert process.returncode == 128 + number, errors
    assert "--resume" in errors and "Traceback" not in errors
    assert cli.main(["train", *TINY, "--data", str(corpus), "--out", str(out), "--resume"]) == 0
    assert (out / "artifact.mgolf").read_bytes() == (run_directory / "artifact.mgolf").read_bytes()
    steps = [
        json.loads(line)["step"]
        for line in (out / "metrics.jsonl").read_text().splitlines()
        if "train_loss" in line
    ]
    assert steps == list(range(1, 21))


def test_preflight_refuses_to_train_on_a_mismatch(corpus, tmp_path, capsys, monkeypatch):
    """A planted bug in the fast half stops the run with the piece's name, exit 1, before a run
    directory exists.
    """
    from fast import ema

    monkeypatch.setattr(parity, "PIECES", {name: parity.PIECES[name] for name in ("rope", "ema")})
    options = [option for option in TINY if option != "--no-preflight"]

    def narrow(shadow, weight, decay):
        return (decay * shadow.bfloat16() + (1 - decay) * weight.bfloat16()).float()

    monkeypatch.setattr(ema, "ema_update", narrow)
    assert "ema" in refused(
        capsys, "train", *options, "--data", corpus, "--out", tmp_path / "run", code=1
    )
    assert not (tmp_path / "run").exists()


def test_full_disk_is_one_message_and_leaves_no_part(corpus, tmp_path):
    """A file-size limit stands in for a full disk: the checkpoint cannot be written, and what is
    there is whole.
    """
    out = tmp_path / "run"
    small = partial(resource.setrlimit, resource.RLIMIT_FSIZE, (20_000, 20_000))
    process = start("train", *TINY, "--data", corpus, "--out", out, preexec_fn=small)
    _, errors = process.communicate(timeout=120)
    assert process.returncode == 2, errors
    assert "latest.pt" in errors and "free space" in errors and "Traceback" not in errors
    assert not list(out.rglob("*.tmp")) and not (out / "checkpoint" / "latest.pt").exists()


def test_resume_on_other_data_is_refused(run_directory, corpus, tmp_path, capsys):
    """The same recipe on other text is another run; the same text elsewhere is not."""
    moved, other = tmp_path / "moved", tmp_path / "other"
    for folder in (moved, other):
        shutil.copytree(corpus, folder)
    shard = next(other.rglob("*_train_*.bin"))
    tokens = np.fromfile(shard, "<u2")[512:]
    write_shard(shard, tokens[::-1])
    before = (run_directory / "recipe.json").read_bytes()
    assert "training_sha256" in refused(
        capsys, "train", *TINY, "--data", other, "--out", run_directory, "--resume"
    )
    assert (run_directory / "recipe.json").read_bytes() == before
    assert (
        cli.main(["train", *TINY, "--data", str(moved), "--out", str(run_directory), "--resume"])
        == 0
    )


def test_causal_baseline_trains_and_scores(corpus, scores_made_apart, tmp_path):
    """--model.causal gives the autoregressive baseline, scored by its one exact pass in a process of
    its own.
    """
    out = tmp_path / "run"
    assert (
        cli.main(
            ["train", *TINY, "--model.causal", "true", "--data", str(corpus), "--out", str(out)]
        )
        == 0
    )
    summary = json.loads((out / "summary.json").read_text())
    assert [score["estimator"] for score in summary["scores"]] == ["causal"]
    # No mask row
    assert summary["scores"][0]["stderr_masks"] == 0 and summary["parameters"] == 4184 - 8


@pytest.mark.parametrize("options", [(), ("--quantization.fisher", "4")])
def test_a_run_is_stored_by_the_steps_that_its_training_chose(options, corpus, tmp_path):
    stored = "--quantization.format", "uniform", "--quantization.threshold", "64"
    aware = *stored, "--quantization.dial", "8", "--quantization.aware_steps", "2", *options
    out = tmp_path / "run"
    command = ["train", *TINY, *aware, "--data", str(corpus), "--out", str(out)]
    assert cli.main(command) == 0
    header, params = artifact.read(out / "artifact.mgolf")
    recipe = artifact.recipe_of(header)
    state = restore(out, recipe)
    assert recipe.quantization.aware_steps == 2 and len(state.exponents) > 2
    wanted = transformer.stack(params)
    for name, value in quantize.rounded(state.shadow, state.exponents).items():
        assert name not in state.exponents or torch.equal(wanted[name], value), name
        assert (wanted[name] != state.shadow[name]).any() or name not in state.exponents


def test_validation_scores_the_shadow_on_the_validation_text(run_directory, corpus):
    """What training logged at its end: not the live weights, the training text, another seed or
    other windows.
    """
    recipe = artifact.recipe_of(artifact.read(run_directory / "artifact.mgolf")[0])
    state, dataset = restore(run_directory, recipe), open_dataset(Source(data=corpus), 400, 8)
    lines = (run_directory / "metrics.jsonl").read_text().splitlines()
    logged = [entry["val_bpb"] for entry in map(json.loads, lines) if "val_bpb" in entry]

    def scored(changed=recipe, tokens=dataset.validation, weights=state.shadow):
        table = dataset.tokenizer.table
        return evaluate.validator(changed, tokens, table)(replace(state, shadow=weights)).bpb

    assert logged == [scored()]
    others = (
        scored(weights=state.params),
        scored(tokens=dataset.train),
        scored(replace(recipe, seed=recipe.seed + 1)),
    )
    assert len({*logged, *others}) == 4
    windows = data.evaluation_windows(dataset.validation, 8, 400, 0, evaluate.VALIDATION_WINDOWS)
    predict = evaluate.predictor(state.shadow, recipe)
    table, seed = dataset.tokenizer.table, recipe.seed
    assert evaluate.evaluate(predict, windows, table, seed=seed).bpb == logged[0]


@pytest.mark.parametrize(("asked", "told"), [(None, None), (5, 5), (10**6, "all")])
def test_a_demo_is_scored_on_at_most_what_the_split_holds(
    asked, told, run_directory, corpus, tmp_path, monkeypatch
):
    """The windows of a summary are an upper limit; those of eval are not."""
    recipe = artifact.recipe_of(artifact.read(run_directory / "artifact.mgolf")[0])
    dataset, given = open_dataset(Source(data=corpus), 400, 8), []
    monkeypatch.setattr(runs, "score_fresh", lambda *arguments: given.append(arguments) or {})
    state = restore(run_directory, recipe)
    runs._ship(recipe, dataset, tmp_path, state, [("nelbo", None)], asked, "cpu", False)
    windows = data.evaluation_count(dataset.validation, 8)
    assert given[0][3] == {"all": windows}.get(told, told)


def content(folder) -> dict:
    """Return the bytes of every file in a folder."""
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("command", ["train", "demo", "--resume", "--resume auto"])
@pytest.mark.parametrize("compiled", [False, True])
def test_parity_is_checked_of_what_will_run_before_anything_is_written(
    command, compiled, run_directory, corpus, tmp_path, capsys, monkeypatch
):
    """The run's recipe and device, compiled where the run is, for a run that goes on as well."""
    asked, out = [], tmp_path / "new"

    def refuse(recipe, device, compiled, say):
        asked.append((recipe.training.compute_dtype, recipe.seed, device, compiled))
        raise TrainingError("not alike")

    monkeypatch.setattr(runs.parity, "preflight", refuse)
    flags = [flag for flag in TINY if flag not in ("--no-compiled", "--no-preflight")]
    flags += [] if compiled else ["--no-compiled"]
    if command.startswith("--resume"):
        out, expected = run_directory, ("float32", 1337)
        flags = ["train", *flags, *command.split()]
    else:
        expected = ("bfloat16", 5)
        flags = [command, *flags, "--training.compute_dtype", "bfloat16", "--seed", "5"]
    before = content(out)
    assert "not alike" in refused(capsys, *flags, "--data", corpus, "--out", out, code=1)
    assert asked == [(*expected, "cpu", compiled)]
    assert content(out) == before and out.exists() == bool(before)


@pytest.mark.parametrize("command", ["train", "demo"])
def test_no_preflight_checks_nothing(command, corpus, tmp_path, capsys, monkeypatch):
    def stop(*arguments):
        raise TrainingError("as far as this")

    monkeypatch.setattr(runs.parity, "preflight", lambda *_: pytest.fail("checked"))
    monkeypatch.setattr(runs, "prepare", stop)
    flags = [command, *TINY, "--data", corpus, "--out", tmp_path / "new"]
    assert "as far as this" in refused(capsys, *flags, code=1)


@pytest.mark.parametrize("resume", [False, "auto"])
def test_a_run_that_another_process_finished_meanwhile_is_kept(
    resume, run_directory, corpus, tmp_path, monkeypatch
):
    """While parity is checked nothing holds the folder: what is there is asked again once it is
    held.
    """
    out = tmp_path / "run"
    recipe = artifact.recipe_of(artifact.read(run_directory / "artifact.mgolf")[0])
    monkeypatch.setattr(
        runs, "_check_parity", lambda *_: shutil.copytree(run_directory, out) and []
    )
    monkeypatch.setattr(runs, "score_fresh", lambda *_: UNSCORED)

    def run():
        return runs.run(recipe, Source(data=corpus), out, resume, compiled=False, preflight=True)

    if resume:
        assert run()["steps"] == 20
        assert "resumed at step 20" in (out / "train.log").read_text()
    else:
        with pytest.raises(InputError, match="a run is there"):
            run()
    for name in ("artifact.mgolf", "checkpoint/latest.pt"):
        assert (out / name).read_bytes() == (run_directory / name).read_bytes()


def test_scores_of_steps_say_what_they_are_of(run_directory, corpus, capfd, tmp_path):
    """Once in the log, with every score in metrics.jsonl, and on screen; a run that goes on says it
    on screen alone.
    """
    windows = data.evaluation_count(open_dataset(Source(data=corpus), 400, 8).validation, 8)
    said = f"val_loss and val_bpb of a step are on the first 64 of {windows} windows"
    assert windows > 64
    lines = (run_directory / "train.log").read_text().splitlines()
    assert lines[0] == f"{said} of the validation split"
    assert sum("windows" in line for line in lines) == 1
    records = map(json.loads, (run_directory / "metrics.jsonl").read_text().splitlines())
    assert [record["tokens"] for record in records if "val_bpb" in record] == [64 * 8]
    parsed = training_log.parse("train.log", "\n".join(lines))
    assert not parsed.finals and len(parsed.points) == 20 + 1  # losses, and the last score
    assert not parsed.settings.keys() & {"val_loss", "val_bpb"} and parsed.stop is None
    out = shutil.copytree(run_directory, tmp_path / "run")
    capfd.readouterr()
    assert cli.main(["train", *TINY, "--data", str(corpus), "--out", str(out), "--resume"]) == 0
    assert capfd.readouterr().err.count(said) == 1
    assert (out / "train.log").read_text().count(said) == 1


IDENTITY = {  # of hand-made data, every value another
    "tokenizer_sha256": "a",
    "training_tokens": 10,
    "training_sha256": "b",
    "validation_tokens": 20,
    "validation_sha256": "c",
}


@pytest.mark.parametrize("name", IDENTITY)
@pytest.mark.parametrize("missing", [False, True])
def test_each_part_of_the_data_is_compared_on_resume(name, missing, tmp_path):
    """A value that is another, and one that recipe.json lacks."""
    begun = IDENTITY | {name: 0}
    if missing:
        del begun[name]
    path = tmp_path / "recipe.json"
    path.write_text(json.dumps({"recipe": {"model": {}}} | IDENTITY))
    runs._check_data(tmp_path, IDENTITY)
    path.write_text(json.dumps({"recipe": {"model": {}}} | begun))
    with pytest.raises(InputError, match=rf"other data \({name}: .*, now {IDENTITY[name]}\)"):
        runs._check_data(tmp_path, IDENTITY)
