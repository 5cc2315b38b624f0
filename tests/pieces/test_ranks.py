"""Several ranks as threads of one process, joined by a stand-in for torch.distributed: what they
exchange, agree on, and how each of them fails.
"""

import signal
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest
import torch
import torch.distributed as dist

from fast import distributed
from fast.distributed import World
from reference.recipe import TINY, InputError

PATIENCE = 20.0  # seconds for a rank that another one waits for


class Threads:
    """The functions of torch.distributed that fast/distributed.py calls, among threads; `calls`
    holds (rank, name, group) of every one.
    """

    ReduceOp = dist.ReduceOp

    def __init__(self, size: int) -> None:
        self.size, self.calls = size, []
        self.sent, self.gate = [None] * size, threading.Barrier(size)
        self.thread = threading.local()

    def run(self, function) -> list:
        """Return what a function of a world gives on every rank, or the error that it raises."""

        def rank(number: int):
            self.thread.rank = number
            try:
                return function(World(number, self.size))
            except Exception as error:
                return error

        with ThreadPoolExecutor(self.size) as pool:
            return list(pool.map(rank, range(self.size)))

    def _exchange(self, name: str, value, group=None) -> list:
        """Return what each rank gave, once all have."""
        self.calls.append((self.thread.rank, name, group))
        self.sent[self.thread.rank] = value
        self.gate.wait(PATIENCE)
        values = list(self.sent)
        self.gate.wait(PATIENCE)
        return values

    def all_to_all_single(self, output, tensor, group=None):
        """Chunk i of every rank's tensor goes to rank i."""
        parts = [one.chunk(self.size) for one in self._exchange("all_to_all", tensor, group)]
        assert all(len(part) == len(parts[0][0]) for chunks in parts for part in chunks)
        output.copy_(torch.cat([chunks[self.thread.rank] for chunks in parts]))
        self._exchange("copied", None)

    def all_gather(self, outputs, tensor, group=None):
        """Every rank's tensor goes to all."""
        tensors = self._exchange("all_gather", tensor, group)
        for output, one in zip(outputs, tensors, strict=True):
            output.copy_(one)
        self._exchange("copied", None)

    def all_reduce(self, tensor, op):
        """The same of every rank's tensor."""
        stacked = torch.stack([one.clone() for one in self._exchange("all_reduce", tensor)])
        self._exchange("copied", None)
        reduce = {dist.ReduceOp.MAX: torch.amax, dist.ReduceOp.MIN: torch.amin}[op]
        tensor.copy_(reduce(stacked, 0))

    def barrier(self):
        """Every rank is here."""
        self._exchange("barrier", None)


@pytest.fixture
def threads(monkeypatch):
    """Return a function that joins so many ranks."""

    def join(size: int) -> Threads:
        joined = Threads(size)
        monkeypatch.setattr(distributed, "dist", joined)
        return joined

    return join


# Sums


def tree(values: list[torch.Tensor]) -> torch.Tensor:
    """Return the sum of neighbours, then of neighbours among the sums; one that is left over goes
    on alone.
    """
    while len(values) > 1:
        pairs = [values[i] + values[i + 1] for i in range(0, len(values) - 1, 2)]
        values = pairs + ([values[-1]] if len(values) % 2 else [])
    return values[0]


def tensors_of(rank: int) -> list[torch.Tensor]:
    """Return tensors of several dtypes and shapes whose sum depends on its order."""
    draw = torch.Generator().manual_seed(rank)
    return [
        torch.randn(3, 5, generator=draw) * 10.0**rank,
        torch.randn(7, generator=draw).bfloat16(),
        torch.randn((), generator=draw, dtype=torch.float64),
        torch.randn(2, 1, 2, generator=draw),
    ]


@pytest.mark.parametrize("size", [2, 3, 4, 5, 7])
def test_sums_are_a_tree_of_neighbours_on_every_rank(threads, size):
    """Bit for bit, whatever the tensors' number of elements is to the number of ranks."""
    every = [tensors_of(rank) for rank in range(size)]
    before = [[tensor.clone() for tensor in tensors] for tensors in every]
    results = threads(size).run(lambda world: distributed.sum_over_ranks(every[world.rank], world))
    expected = [tree(list(column)) for column in zip(*before, strict=True)]
    for sums in results:
        for value, wanted in zip(sums, expected, strict=True):
            assert value.dtype == wanted.dtype and torch.equal(value, wanted)
    for tensors, kept in zip(every, before, strict=True):
        assert all(map(torch.equal, tensors, kept))  # what was given is as it was


def test_there_is_one_exchange_for_each_dtype_and_it_is_the_gradients_own(threads):
    joined = threads(2)

    def summed(world):
        world.gradient_group = "gpus"
        distributed.sum_over_ranks(tensors_of(0), world)
        distributed.decide(1, world)

    joined.run(summed)
    mine = [(name, group) for rank, name, group in joined.calls if rank == 1 and name != "copied"]
    assert mine == [("all_to_all", "gpus"), ("all_gather", "gpus")] * 3 + [("all_reduce", None)]


# One decision


def test_rank_0_decides_on_the_steps_and_any_rank_on_a_signal(threads):
    def decided(world, received=(0, signal.SIGTERM, 0)):
        world.received_signal = received[world.rank]
        return distributed.decide((5, 9, 2)[world.rank], world), world.agreed_signal

    agreed = threads(3).run(decided)
    assert agreed == [(5, signal.SIGTERM)] * 3
    assert {type(value) for values in agreed for value in values} == {int}
    assert threads(3).run(lambda world: decided(world, (0, 0, 0))) == [(5, 0)] * 3


def test_ranks_wait_for_each_other(threads):
    joined, arrived = threads(3), []

    def late(world):
        if world.rank == 2:
            threading.Event().wait(0.1)
        arrived.append(world.rank)
        distributed.wait(world)
        return len(arrived)

    assert joined.run(late) == [3, 3, 3]


@pytest.mark.parametrize("failing", [(), (0,), (2,), (1, 2), (0, 1, 2)])
def test_the_lowest_rank_that_fails_raises_its_error(threads, failing):
    def block(world):
        with distributed.fail_on_all_ranks(world):
            if world.rank in failing:
                raise InputError(f"of rank {world.rank}")
        return "went on"

    results = threads(3).run(block)
    if not failing:
        assert results == ["went on"] * 3
        return
    for rank, error in enumerate(results):
        if rank == failing[0]:
            assert type(error) is InputError and str(error) == f"of rank {rank}"
        else:
            assert type(error) is distributed.PeerFailed and error.rank == failing[0]
            assert (error.__cause__ is not None) == (rank in failing)


def test_a_stop_is_agreed_upon_before_it_is_obeyed():
    """One process obeys at once; of several each waits until decide() has told all."""
    before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    for number in (signal.SIGINT, signal.SIGTERM):
        for world, expected in ((World(), number.name), (World(0, 2), None)):
            with distributed.stop_on_all_ranks(world) as stop:
                assert stop() is None
                signal.raise_signal(number)
                assert stop() == expected and world.received_signal == number
                world.agreed_signal = signal.SIGINT
                assert stop() == ("SIGINT" if world.size > 1 else number.name)
        assert [signal.getsignal(each) for each in (signal.SIGINT, signal.SIGTERM)] == before


def test_handlers_are_restored_after_an_error():
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(InputError), distributed.stop_on_all_ranks(World()):
        raise InputError("inside")
    assert signal.getsignal(signal.SIGTERM) is before


EXCHANGES = {
    "sum": lambda world: distributed.sum_over_ranks([torch.ones(2)], world),
    "decide": lambda world: distributed.decide(1, world),
    "wait": distributed.wait,
}


@pytest.mark.parametrize("exchange", EXCHANGES)
def test_a_rank_that_is_gone_is_one_message(monkeypatch, exchange):
    class Gone(Threads):
        def _exchange(self, *arguments):
            raise RuntimeError("[pair.cc:5] Connection closed\nby peer")

    monkeypatch.setattr(distributed, "dist", Gone(2))
    for error in distributed.dist.run(EXCHANGES[exchange]):
        assert type(error) is distributed.PeerLost
        assert "another rank is gone (Connection closed); go on" in str(error)


def test_a_silent_rank_waits_for_another_ones_end(monkeypatch):
    """For its connection to break, at most as long as a dead GPU is waited for."""
    asked = []

    class Work:
        def wait(self, limit):
            asked.append(limit)
            raise RuntimeError("connection closed")

    def irecv(tensor, rank):
        asked.append(rank)
        return Work()

    monkeypatch.setattr(dist, "irecv", irecv)
    distributed.wait_for_exit(3)
    assert asked == [3, distributed.NCCL_TIMEOUT]


# How a world begins and ends


@pytest.fixture
def joining(monkeypatch):
    """Return (function that sets what torchrun sets, what torch was asked for): two GPUs here, and
    every other rank is fine.
    """
    asked = []
    monkeypatch.setattr(dist, "init_process_group", lambda *a, **k: asked.append(("init", a, k)))
    monkeypatch.setattr(dist, "new_group", lambda **k: asked.append(("group", k)) or "gpus")
    monkeypatch.setattr(dist, "all_reduce", lambda tensor, op: None)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "set_device", lambda name: asked.append(("device", name)))
    monkeypatch.setattr(distributed.atexit, "register", lambda leave: asked.append(leave))

    def set_environment(rank: int, size: int, local: int) -> None:
        for name, value in (("RANK", rank), ("WORLD_SIZE", size), ("LOCAL_RANK", local)):
            monkeypatch.setenv(name, str(value))

    return set_environment, asked


def test_a_rank_joins_the_others(joining):
    set_environment, asked = joining
    set_environment(5, 8, 1)
    assert distributed.join() == World(5, 8, "cpu", None)
    assert asked == [("init", ("gloo",), {"timeout": distributed.GLOO_TIMEOUT}), distributed.leave]


@pytest.mark.parametrize("local", [0, 1])
def test_a_rank_takes_the_gpu_of_its_place_on_the_machine(joining, local):
    set_environment, asked = joining
    set_environment(4 + local, 8, local)
    assert distributed.join("cuda") == World(4 + local, 8, f"cuda:{local}", "gpus")
    nccl = {"backend": "nccl", "timeout": distributed.NCCL_TIMEOUT}
    assert asked[2:] == [("device", f"cuda:{local}"), ("group", nccl)]


@pytest.mark.parametrize(("device", "local"), [("cuda", 2), ("cuda", 3), ("cuda:0", 0)])
def test_a_gpu_that_is_not_there_or_not_its_own_is_refused(joining, device, local):
    set_environment, asked = joining
    set_environment(0, 4, local)
    message = f"--device {device}: expected cuda and a GPU for each of the processes, found 2"
    with pytest.raises(InputError, match=message):
        distributed.join(device)
    assert len(asked) == 2  # no device is taken, no group made


@pytest.mark.parametrize("values", [(0, 1, 0), (3, 1, 2)])
def test_a_process_alone_joins_nobody(joining, values):
    set_environment, asked = joining
    set_environment(*values)
    assert distributed.join("cuda") == World(0, 1, "cuda") and asked == []


def test_leave_closes_what_was_joined(monkeypatch):
    closed = []
    monkeypatch.setattr(dist, "destroy_process_group", lambda: closed.append(True))
    distributed.leave()
    assert closed == []
    monkeypatch.setattr(dist, "is_initialized", lambda: True)
    distributed.leave()
    assert closed == [True]


def test_a_dead_rank_is_noticed_before_a_command_gives_up():
    """Gloo waits while another rank compiles or validates; NCCL less than a minute."""
    assert distributed.GLOO_TIMEOUT.total_seconds() == 3600
    assert distributed.NCCL_TIMEOUT.total_seconds() == 45


# Shares


def shared(rows: int, micro_batch_rows: int, rank: int, size: int):
    """Return the share of a rank, of so many rows and rows of a micro-batch as configured."""
    length = TINY.model.length
    training = replace(
        TINY.training,
        tokens_per_step=rows * length + length // 2,
        micro_batch_tokens=micro_batch_rows * length,
    )
    return distributed.share(replace(TINY, training=training), World(rank, size))


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ((12, 2, 0, 3), (range(4), 2)),
        ((12, 2, 2, 3), (range(8, 12), 2)),
        ((12, 99, 1, 3), (range(4, 8), 4)),  # no more than the rank has
        ((12, 0, 1, 3), (range(4, 8), 1)),  # a micro-batch shorter than a window
        ((5, 5, 0, 1), (range(5), 5)),
    ],
)
def test_a_rank_has_its_slice_of_the_rows(arguments, expected):
    assert shared(*arguments) == expected


def test_rows_that_cannot_be_shared_are_refused():
    with pytest.raises(InputError, match="^5 rows per step: expected a multiple of the 2 ranks"):
        shared(5, 1, 0, 2)
    with pytest.raises(InputError, match="^6 rows on each of 2 ranks: .* the 4 rows of a micro"):
        shared(12, 4, 0, 2)
