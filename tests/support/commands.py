"""Commands for tests: a small corpus, a finished run, and a command that must be refused."""

import contextlib
import io
import os
import subprocess
import sys
from pathlib import Path

import pytest

from harness import cli
from harness.evaluation import scoring

TINY_MODEL = ["--preset", "tiny", "--model.vocab", "400", "--no-compiled", "--no-preflight"]
TINY = [*TINY_MODEL, "--training.iterations", "20", "--training.checkpoint_every", "5"]


UNSCORED = {  # in place of a score, which takes longer than training a tiny model
    "run": "a run",
    "nats_per_token": None,
    "tokens": 0,
    "forwards": 0,
    "seconds": 0.0,
    "estimator": "nelbo",
    "order": None,
    "bpb": None,
    "stderr_masks": None,
    "stderr_sequences": None,
    "bytes": 0,
}


RUN_APART = scoring.run_without_interrupts
EVAL = [sys.executable, "-m", "harness", "eval"]


def run_here(command: list[str]) -> subprocess.CompletedProcess:
    """Return the end and the stdout of `maskgolf eval`, run in this process by the same arguments; of
    any other command in its own.
    """
    if command[: len(EVAL)] != EVAL:
        return RUN_APART(command)
    output, errors = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(output), contextlib.redirect_stderr(errors):
        code = cli.main(command[3:])
    os.write(2, errors.getvalue().encode())  # where a process of its own prints
    return subprocess.CompletedProcess(command, code, output.getvalue())


@pytest.fixture(scope="session", autouse=True)
def scores_made_here():
    """Scores of artifacts are made in this process, which has loaded torch: a fresh one takes longer
    for that than for most of these scores. scores_made_apart has them made as they ship.
    """
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(scoring, "run_without_interrupts", run_here)
        yield


@pytest.fixture
def scores_made_apart(monkeypatch):
    """Scores of artifacts are made in fresh processes."""
    monkeypatch.setattr(scoring, "run_without_interrupts", RUN_APART)


@pytest.fixture(scope="session")
def corpus(embedded_cache, tmp_path_factory) -> Path:
    """Return a small corpus in the official layout with a 400-piece tokenizer, short enough to
    score in a second.
    """
    from pydoc_data.topics import topics

    folder = tmp_path_factory.mktemp("text")
    (folder / "a.txt").write_text(
        topics["if"]
        + topics["for"]
        + topics["while"]
        + topics["try"]
        + topics["with"]
        + topics["class"]
    )
    options = ("--out", str(folder / "corpus"), "--vocab", "400", "--json", str(folder / "j"))
    assert cli.main(["data", "build", str(folder / "a.txt"), *options]) == 0
    return folder / "corpus"


@pytest.fixture(scope="session")
def run_directory(corpus, tmp_path_factory) -> Path:
    """Return a finished run of a tiny model."""
    out = tmp_path_factory.mktemp("runs") / "tiny"
    assert cli.main(["train", *TINY, "--data", str(corpus), "--out", str(out)]) == 0
    return out


def refused(capsys, *arguments, code=2) -> str:
    """Return the one message of a command that must fail with `code` and without a traceback."""
    assert cli.main([str(argument) for argument in arguments]) == code
    captured = capsys.readouterr()
    lines = [line for line in captured.err.splitlines() if line.startswith("maskgolf: ")]
    assert len(lines) == 1 and "Traceback" not in captured.err
    return lines[0]


def start(*arguments, **keywords) -> subprocess.Popen:
    """Start a command in a process of its own."""
    command = [sys.executable, "-m", "harness", *map(str, arguments)]
    return subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **keywords
    )


def torchrun(size: int, *arguments) -> subprocess.Popen:
    """Start a module on `size` ranks."""
    command = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--standalone",
        f"--nproc_per_node={size}",
        "-m",
        *map(str, arguments),
    ]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
