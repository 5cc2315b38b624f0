"""A run of three ranks, as threads of this process, and who of them prints an error."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from fast import distributed, train
from fast.data import windows_of
from fast.distributed import World
from fast.errors import Interrupted, PeerFailed, PeerLost, TrainingError
from harness import ranks
from reference.recipe import TINY, InputError
from tests.pieces.test_ranks import Threads
from tests.support.compare import ALGORITHM, relative_error

EXACT = replace(
    TINY,
    training=replace(
        TINY.training,
        iterations=5,
        warmdown=3,
        tokens_per_step=96,  # 12 rows: 4 on each of 3 ranks, in micro-batches of 2
        micro_batch_tokens=16,
        compute_dtype="float64",
    ),
    ema=replace(TINY.ema, start=0.3),
)


def batch(step, rows):
    """Return windows that depend on step and row alone."""
    drawn = [np.random.default_rng([step, int(row)]).integers(0, 12, 9) for row in rows]
    return windows_of(np.stack(drawn))


@pytest.mark.parametrize("size", [3, 6])
def test_three_ranks_train_the_run_of_one(size, monkeypatch):
    """The sum has another tree, so float64 up to its order; every rank ends with the same bits."""

    def run(world):
        state = train.initial_state(EXACT, dtype=torch.float64)
        state, losses = train.train(batch, EXACT, state, world=world)
        return losses, {
            f"{group}.{name}": value.detach()
            for group, members in state.tensors().items()
            for name, value in members.items()
        }

    losses, tensors = run(World())
    joined = Threads(size)
    monkeypatch.setattr(distributed, "dist", joined)
    found = joined.run(run)
    for other_losses, others in found:
        assert other_losses == found[0][0]
        assert relative_error(np.array(other_losses), np.array(losses)) <= ALGORITHM
        for name, value in tensors.items():
            assert torch.equal(others[name], found[0][1][name]), name
            floor = 1e-6 * max(float(one.abs().max()) for one in tensors.values())
            assert relative_error(others[name], value, floor) <= ALGORITHM, name


@pytest.mark.parametrize("values", [(False, True, True), (True, False, False)])
def test_rank_0_says_for_all_whether_a_run_goes_on(values, monkeypatch):
    """It alone has looked into the run's directory."""
    joined = Threads(3)
    monkeypatch.setattr(distributed, "dist", joined)
    found = joined.run(lambda world: distributed.from_rank_0(values[world.rank], world))
    assert found == [values[0]] * 3
    assert distributed.from_rank_0(values[1], World()) is values[1]


SHARED = [PeerFailed(1), PeerLost("gone"), Interrupted("asked"), TrainingError("nan")]


@pytest.mark.parametrize("connected", [False, True])
def test_who_prints_an_error_that_all_ranks_share(connected, monkeypatch):
    """Rank 0 prints whatever it meets; another rank only what it alone has met, once they are
    connected.
    """
    monkeypatch.setattr(ranks, "_is_connected", lambda: connected)
    monkeypatch.setenv("WORLD_SIZE", "3")
    for rank in (0, 1, 2):
        monkeypatch.setenv("RANK", str(rank))
        for error in SHARED:
            assert ranks.is_printed_by_another(error) == (rank > 0)
        own = ranks.is_printed_by_another(InputError("mine"))
        assert own == (rank > 0 and not connected)
