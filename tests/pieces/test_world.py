"""One rank of several, without the others: how a step is split, what torchrun sets, who prints an
error.
"""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from fast import distributed
from fast.distributed import World
from harness import cli, ranks
from harness.errors import code_and_message
from reference.recipe import InputError


@given(st.integers(1, 64), st.integers(1, 5), st.integers(0, 9))
def test_branches_cut_a_step_at_powers_of_two(micro_batches, micro_rows, start):
    """Two parts of whole micro-batches; a power of two is cut in halves, so that every rank's rows
    are a subtree.
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
    with pytest.raises(InputError, match="as it is"), distributed.fail_on_all_ranks(world):
        raise InputError("as it is")
    assert not torch.distributed.is_initialized()


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ({}, (0, 1, 0)),
        ({"RANK": "0", "WORLD_SIZE": "1", "LOCAL_RANK": "0"}, (0, 1, 0)),
        ({"RANK": "5", "WORLD_SIZE": "1", "LOCAL_RANK": "3"}, (0, 1, 0)),
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


@pytest.mark.parametrize(
    "arguments",
    [["train", "--preset", "huge"], ["train", "--no-such-flag"], ["train", "--device", "tpu"]],
    ids=" ".join,
)
def test_errors_in_the_arguments_are_printed_by_rank_0_alone(arguments, monkeypatch, capsys):
    """All ranks fail alike before they are connected; the others wait while rank 0 prints the
    error.
    """
    printed, waited = {}, []
    monkeypatch.setattr("time.sleep", waited.append)
    monkeypatch.setenv("WORLD_SIZE", "2")
    for rank in ("0", "1"):
        monkeypatch.setenv("RANK", rank)
        try:
            code = cli.main(arguments)
        except SystemExit as end:
            code = end.code
        assert code == 2
        printed[rank] = capsys.readouterr().err
    assert (
        printed["0"].count(arguments[-1]) >= 1
        and printed["1"] == ""
        and waited == [ranks.UNTIL_ENDED]
    )


def test_a_lost_rank_is_named_without_the_line_of_another_program():
    """What gloo says when a connection breaks, and the exit code it becomes."""
    with pytest.raises(distributed.PeerLost) as caught, distributed._connected():
        raise RuntimeError(
            "[/src/gloo/transport/tcp/pair.cc:537] Read error [127.0.0.1]:4: Connection reset by"
            " peer\nmore"
        )
    message = (
        "another rank is gone (Read error [127.0.0.1]:4: Connection reset by peer); go on from the"
        " last checkpoint with --resume"
    )
    assert code_and_message(caught.value) == (1, message)
