"""Several processes under torchrun: the same bits at any number of ranks, one decision for all, and
no rank that outlives another.
"""

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from fast import artifact, distributed, masking, transformer
from fast.distributed import World
from fast.train import GROUPS, noise
from harness import cli, ranks, runs
from harness.errors import code_and_message
from reference.recipe import InputError
from tests.scripts import soak
from tests.support import ranked
from tests.support.commands import TINY
from tests.support.compare import ALGORITHM, relative_error

SIZES = (1, 2, 4)
RUN = [
    *TINY,
    "--training.iterations",
    "60",
    "--training.micro_batch_tokens",
    "8",
]  # of a tiny model: long enough to be stopped twice


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


@pytest.fixture(scope="module")
def worlds(tmp_path_factory) -> dict[int, list[dict]]:
    """Return {size: results of each rank} of every scenario in tests/support/ranked.py: this
    process alone, others under torchrun.
    """
    folders = {size: tmp_path_factory.mktemp(f"world{size}") for size in SIZES[1:]}
    running = {
        size: torchrun(size, "tests.support.ranked", folder) for size, folder in folders.items()
    }
    found = {1: [ranked.results(World())]}
    for size, process in running.items():
        errors = process.communicate(timeout=280)[1]
        assert process.returncode == 0, errors
        found[size] = [
            torch.load(folders[size] / f"{rank}.pt", weights_only=True) for rank in range(size)
        ]
    return found


def assert_same_bits(found, expected):
    """Losses and every tensor of two runs are equal to the last bit."""
    assert found[0] == expected[0]
    for group in GROUPS:
        assert list(found[1][group]) == list(expected[1][group])
        for name, value in expected[1][group].items():
            assert torch.equal(found[1][group][name], value), f"{group}.{name}"


def assert_same_up_to_order(found, expected):
    """Losses and every tensor of two float64 runs agree as two halves of the project do."""
    assert relative_error(np.array(found[0]), np.array(expected[0])) <= ALGORITHM
    for group in GROUPS:
        floor = max(float(value.abs().max()) for value in expected[1][group].values())
        for name, value in expected[1][group].items():
            assert relative_error(found[1][group][name], value, 1e-6 * floor) <= ALGORITHM, (
                f"{group}.{name}"
            )


# the same run at any size


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("scenario", ["float32", "bfloat16", "pairs"])
def test_losses_and_weights_are_the_same_bits_at_any_size(worlds, size, scenario):
    """With micro-batches of one size, powers of two: one row at 1, 2 and 4 ranks, two rows with 4,
    2 and 1 of them on each.
    """
    for found in worlds[size]:
        assert_same_bits(found[scenario], worlds[1][0][scenario])
    assert len(set(worlds[1][0][scenario][0])) == 6


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("scenario", ["float32", "exact"])
def test_the_artifact_is_the_same_bytes(worlds, size, scenario, tmp_path):
    """In production dtype, and in float64 where micro-batches of 1 and of 8 rows differ in the last
    bits, which no format keeps.
    """
    runs = {"one": worlds[1][0][scenario], "other": worlds[size][-1][scenario]}
    if scenario == "exact":
        runs = {"one": runs["one"][8], "other": runs["other"][1]}
    for name, (_, tensors) in runs.items():
        artifact.write(tmp_path / name, transformer.unstack(tensors["shadow"]), ranked.SHORT)
    assert (tmp_path / "one").read_bytes() == (tmp_path / "other").read_bytes()


@pytest.mark.parametrize("size", SIZES)
def test_micro_batches_of_any_size_are_one_run_up_to_summation_order(worlds, size):
    """1, 4 or 8 rows at a time, in float64; all on one rank, or as many as a rank has."""
    expected = worlds[1][0]["exact"][8]
    for found in worlds[size]:
        for rows in (1, 4, 8):
            assert_same_up_to_order(found["exact"][rows], expected)


@pytest.mark.parametrize("size", SIZES)
def test_a_number_of_micro_batches_that_is_no_power_of_two(worlds, size):
    """12 rows: the tree is cut elsewhere, the sum is the same but for its order, and all ranks hold
    the same bits.
    """
    for found in worlds[size]:
        assert_same_up_to_order(found["odd"], worlds[1][0]["odd"])
        assert_same_bits(found["odd"], worlds[size][0]["odd"])


@pytest.mark.parametrize("size", SIZES)
def test_masks_are_the_same_bits_and_every_row_is_drawn_once(worlds, size):
    drawn = [each for results in worlds[size] for each in results["masks"]]
    seen = {
        (step, row): mask_L
        for step, rows, mask_BL in drawn
        for row, mask_L in zip(rows, mask_BL, strict=True)
    }
    assert sum(len(rows) for _, rows, _ in drawn) == len(seen) == 6 * 8
    for step in range(6):
        thresholds_B, _ = noise(ranked.SHORT, step, np.arange(8))
        mask_BL = masking.mask(
            ranked.SHORT.seed, step, torch.arange(8), ranked.SHORT.model.length, thresholds_B
        )
        assert all(torch.equal(seen[step, row], mask_BL[row]) for row in range(8))


@pytest.mark.parametrize("size", SIZES)
def test_a_rank_takes_an_aligned_slice_whose_times_are_an_even_grid(worlds, size):
    for rank, results in enumerate(worlds[size]):
        rows = sorted({row for _, rows, _ in results["masks"] for row in rows})
        assert rows == list(range(8 // size * rank, 8 // size * (rank + 1)))
        steps = np.diff(np.sort(masking.times(ranked.SHORT.seed, 0, rows, 0.0)))
        assert np.allclose(steps, size / 8, rtol=0, atol=2**-50)


def test_one_process_uses_no_process_group(worlds):
    assert {size: results[0]["alone"] for size, results in worlds.items()} == {
        1: True,
        2: False,
        4: False,
    }


@pytest.mark.parametrize("size", SIZES[1:])
def test_no_connection_outlives_leave(worlds, size):
    """A thread that still serves one while the interpreter ends aborts the process, after a run in
    which nothing went wrong.
    """
    for joined, left in (result["connections"] for result in worlds[size]):
        assert joined and not left


# one decision


@pytest.mark.parametrize("size", SIZES)
def test_a_gradient_that_one_rank_sees_is_named_by_all(worlds, size):
    """The last row's gradient alone is not finite: all ranks withhold the same update and say the
    same.
    """
    expected = ("step 3: gradient of up is not finite; weights are as before it", 2, True)
    assert [results["spoiled"] for results in worlds[size]] == [expected] * size


@pytest.mark.parametrize("size", SIZES)
def test_the_budget_is_that_of_the_clock_of_rank_0(worlds, size):
    """Other ranks' clocks go faster or slower: 10 s are 20 steps of half a second for all of
    them.
    """
    assert [results["clocked"] for results in worlds[size]] == [(20, 1 / 10)] * size


@pytest.mark.parametrize("size", SIZES)
def test_a_signal_to_one_rank_stops_all_at_one_step(worlds, size):
    """A process alone stops after the step in which it is asked; several agree before the next one
    and stop after it.
    """
    step = ranked.STOPPING + (size > 1)
    assert [results["stopped"] for results in worlds[size]] == [f"SIGTERM at step {step}"] * size


@pytest.mark.parametrize("size", SIZES)
def test_an_error_of_one_rank_is_raised_by_all_and_told_by_one(worlds, size):
    said = [results["failed"] for results in worlds[size]]
    assert said == [f"PeerFailed: rank {size - 1} has failed"] * (size - 1) + [
        "InputError: a fault of its own"
    ]


def test_steps_that_cannot_be_shared_evenly_are_refused(worlds):
    """5 rows for 2 or 4 ranks; 6 rows on each of 2 ranks in micro-batches of 4."""
    assert worlds[1][0]["uneven"] == ["", ""]
    for size in (2, 4):
        assert worlds[size][0]["uneven"][0].startswith(
            f"5 rows per step: expected a multiple of the {size} ranks"
        )
    assert worlds[2][1]["uneven"][1].startswith(
        "6 rows on each of 2 ranks: expected a multiple of the 4 rows of a micro-batch"
    )


# pieces that need no second process


@given(st.integers(1, 64), st.integers(1, 5), st.integers(0, 9))
def test_branches_cut_a_step_at_powers_of_two(micro_batches, micro_rows, start):
    """Both parts are there and whole; a tree of a power of two is cut in halves, so that ranks only
    cut branches off it.
    """
    rows = range(start, start + (micro_batches + 1) * micro_rows)
    left, right = distributed.branches(rows, micro_rows)
    assert [*left, *right] == [*rows] and len(left) >= len(right) > 0
    assert len(left) % micro_rows == 0 and (len(left) // micro_rows).bit_count() == 1
    if (micro_batches + 1).bit_count() == 1:
        assert len(left) == len(right)


def test_a_process_alone_exchanges_nothing():
    world, tensors = World(), [torch.ones(2)]
    assert (
        distributed.sum_over_ranks(tensors, world) is tensors and distributed.decide(7, world) == 7
    )
    distributed.wait(world)
    with pytest.raises(InputError, match="as it is"), distributed.fail_together(world):
        raise InputError("as it is")
    assert not torch.distributed.is_initialized()


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ({}, (0, 1, 0)),
        ({"RANK": "0", "WORLD_SIZE": "1", "LOCAL_RANK": "0"}, (0, 1, 0)),
        ({"RANK": "5", "WORLD_SIZE": "8", "LOCAL_RANK": "1"}, (5, 8, 1)),
    ],
)
def test_what_torchrun_tells(monkeypatch, values, expected):
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK"):
        monkeypatch.delenv(name, raising=False)
    for name, value in values.items():
        monkeypatch.setenv(name, value)
    assert distributed.environment() == expected


def test_a_world_that_cannot_meet_is_one_message(monkeypatch):
    """Ranks without the address that torchrun gives them, and numbers that are none."""
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.delenv("MASTER_ADDR", raising=False)
    with pytest.raises(
        InputError, match="rank 0 of 2: cannot reach the others .*; start with torchrun"
    ):
        distributed.join()
    monkeypatch.setenv("WORLD_SIZE", "two")
    with pytest.raises(InputError, match="expected the numbers that torchrun sets"):
        distributed.join()


@pytest.mark.parametrize("rank", ["2", "-1"])
def test_a_rank_outside_the_world_is_one_message_at_once(monkeypatch, rank):
    """It would wait for an hour for ranks that never come; and it has no rank 0 to speak for it."""
    for name, value in {
        "RANK": rank,
        "WORLD_SIZE": "2",
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": "1",
    }.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(
        InputError, match=f"RANK: expected one of 0 ... 1, as WORLD_SIZE is 2, found {rank}"
    ):
        distributed.environment()
    assert ranks.rank() == 0


# the command


def ranks_of(process: subprocess.Popen) -> dict[int, int]:
    """Return {rank: process id} of what torchrun has started."""
    found = {}
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
            found[int(environment["RANK"])] = int(folder.name)
    return found


def wait_for(log: Path, said: str, process: subprocess.Popen) -> None:
    """Wait until a run's log holds a pattern."""
    deadline = time.monotonic() + 120
    while not re.search(said, log.read_text() if log.exists() else ""):
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
        patch.setattr(runs, "score_fresh", lambda *_: [])
        assert cli.main(["train", *RUN, "--data", str(corpus), "--out", str(out)]) == 0
    return out


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
    wait_for(
        out / "train.log", r"resumed at step \d+\nstep:\d+/", process
    )  # the killed run may have logged any step
    process.send_signal(signal.SIGTERM)
    _, errors = process.communicate(timeout=60)
    said = messages(errors)
    assert process.returncode != 0 and len(said) == 1, errors
    step = int(
        re.fullmatch(
            r"maskgolf: stopped by SIGTERM at step (\d+); the checkpoint is written, go on with"
            r" --resume",
            said[0],
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


@pytest.mark.parametrize(
    "arguments",
    [["train", "--preset", "huge"], ["train", "--no-such-flag"], ["train", "--device", "tpu"]],
    ids=" ".join,
)
def test_what_the_arguments_cause_is_said_by_rank_0_alone(arguments, monkeypatch, capsys):
    """Before the ranks have met each of them makes the same error; the others leave rank 0 the time
    to say it.
    """
    said, waited = {}, []
    monkeypatch.setattr("time.sleep", waited.append)
    monkeypatch.setenv("WORLD_SIZE", "2")
    for rank in ("0", "1"):
        monkeypatch.setenv("RANK", rank)
        try:
            code = cli.main(arguments)
        except SystemExit as end:
            code = end.code
        assert code == 2
        said[rank] = capsys.readouterr().err
    assert said["0"].count(arguments[-1]) >= 1 and said["1"] == "" and waited == [ranks.UNTIL_ENDED]


def test_a_lost_rank_is_named_without_the_line_of_another_program():
    """What gloo says when a connection breaks, and the exit code it becomes."""
    with pytest.raises(distributed.PeerLost) as caught, distributed._connected():
        raise RuntimeError(
            "[/src/gloo/transport/tcp/pair.cc:537] Read error [127.0.0.1]:4: Connection reset by"
            " peer\nmore"
        )
    said = (
        "another rank is gone (Read error [127.0.0.1]:4: Connection reset by peer); go on from the"
        " last checkpoint with --resume"
    )
    assert code_and_message(caught.value) == (1, said)
