"""`maskgolf train` under torchrun: killed, stopped and resumed to the run of one process."""

import json
import os
import re
import signal
import subprocess
import time
from pathlib import Path

import pytest
import torch

from harness import cli, runs
from tests.scripts import soak
from tests.support.commands import TINY, UNSCORED, torchrun

# Of a tiny model, long enough to be stopped twice.
RUN = [
    *TINY,
    "--training.iterations",
    "60",
    "--training.micro_batch_tokens",
    "8",
]


def ranks_of(process: subprocess.Popen) -> dict[int, int]:
    """Return {rank: process id} of what torchrun has started."""
    processes = {}
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            if (
                int(re.search(r"^PPid:\s*(\d+)", (folder / "status").read_text(), re.M)[1])
                != process.pid
            ):
                continue
            environment = dict(
                item.split("=", 1)
                for item in (folder / "environ").read_text().split("\0")
                if "=" in item
            )
        except (OSError, TypeError):
            continue  # it has ended
        if "LOCAL_RANK" in environment:
            processes[int(environment["RANK"])] = int(folder.name)
    return processes


def wait_for(log: Path, pattern: str, process: subprocess.Popen) -> None:
    """Wait until a run's log holds a pattern."""
    deadline = time.monotonic() + 120
    while not re.search(pattern, log.read_text() if log.exists() else ""):
        assert process.poll() is None and time.monotonic() < deadline, process.communicate()[1]
        time.sleep(0.002)


def messages(errors: str) -> list[str]:
    """Return the command's own messages among what torchrun prints."""
    return [line for line in errors.splitlines() if line.startswith("maskgolf: ")]


@pytest.fixture(scope="module")
def uninterrupted(corpus, tmp_path_factory) -> Path:
    """Return a finished run of one process; nobody asks for its score."""
    out = tmp_path_factory.mktemp("runs") / "alone"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(runs, "score_fresh", lambda *_: UNSCORED)
        assert cli.main(["train", *RUN, "--data", str(corpus), "--out", str(out)]) == 0
    return out


@pytest.mark.slow
def test_two_ranks_are_killed_stopped_and_resumed_to_the_run_of_one_process(
    uninterrupted, corpus, tmp_path
):
    """SIGKILL to rank 0 ends the other rank and torchrun within a minute; SIGTERM to torchrun
    leaves a checkpoint where both stop.
    """
    out = tmp_path / "run"
    command = ["harness", "train", *RUN, "--data", corpus, "--out", out]

    process = torchrun(2, *command)
    wait_for(out / "train.log", "step:7/", process)
    numbers = ranks_of(process)
    os.kill(numbers[0], signal.SIGKILL)
    _, errors = process.communicate(timeout=60)
    assert process.returncode != 0 and "SIGKILL" in errors and not messages(errors)
    assert not any(Path(f"/proc/{number}").exists() for number in numbers.values())

    process = torchrun(2, *command, "--resume")
    # The killed run may have logged any step
    wait_for(out / "train.log", r"resumed at step \d+\nstep:\d+/", process)
    process.send_signal(signal.SIGTERM)
    _, errors = process.communicate(timeout=60)
    printed = messages(errors)
    assert process.returncode != 0 and len(printed) == 1, errors
    step = int(
        re.fullmatch(
            r"maskgolf: stopped by SIGTERM at step (\d+); the checkpoint is written, go on with"
            r" --resume",
            printed[0],
        )[1]
    )
    assert (
        f"step:{step}/60 stopped by SIGTERM: checkpoint written" in (out / "train.log").read_text()
    )
    assert (
        torch.load(out / "checkpoint" / "latest.pt", weights_only=True)["progress"]["step"] == step
    )

    process = torchrun(2, *command, "--resume", "--json", "-")
    shown, errors = process.communicate(timeout=120)
    assert process.returncode == 0, errors
    assert json.loads(shown)["steps"] == 60  # one summary, not two
    assert soak.differences(out, uninterrupted) == []


def test_bad_input_is_one_message(corpus, tmp_path):
    """Three rows for two ranks: an error that both make."""
    _, errors = torchrun(
        2,
        "harness",
        "train",
        *TINY,
        "--training.tokens_per_step",
        "24",
        "--training.micro_batch_tokens",
        "8",
        "--data",
        corpus,
        "--out",
        tmp_path / "run",
    ).communicate(timeout=120)
    assert [line.split(",")[0] for line in messages(errors)] == [
        "maskgolf: 3 rows per step: expected a multiple of the 2 ranks"
    ], errors
    assert not (tmp_path / "run").exists()
