"""Parity: bitwise. One training step on several processes under torchrun: sums, decisions and
failures that all ranks share.

A sum is a binary tree over the global batch, and each rank computes one of its subtrees: the same
bits at any number of ranks, where that and the number of micro-batches are powers of two.
"""

import atexit
import contextlib
import importlib
import os
import re
import signal
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta

import torch
import torch.distributed as dist

from fast.errors import PeerFailed, PeerLost
from reference.recipe import InputError, Recipe

# Of gloo, while another rank validates or compiles; a dead rank is noticed at once.
GLOO_TIMEOUT = timedelta(hours=1)
NCCL_TIMEOUT = timedelta(seconds=45)  # the only sign of a dead rank


@dataclass
class World:
    """This process among those that train one model; the default is a single process, which does
    not use torch.distributed.
    """

    rank: int = 0
    size: int = 1
    device: str = "cpu"
    # For gradients: NCCL on GPUs, None for the gloo group that everything else uses.
    gradient_group: "dist.ProcessGroup | None" = None
    received_signal: int = 0  # that asked this process to stop
    agreed_signal: int = 0  # on which all ranks stop at the same step


def environment() -> tuple[int, int, int]:
    """Return (rank, size, local rank) as torchrun sets them; (0, 1, 0) without it."""
    try:
        rank, size, local = (
            int(os.environ.get(name, default))
            for name, default in (("RANK", 0), ("WORLD_SIZE", 1), ("LOCAL_RANK", 0))
        )
    except ValueError as error:
        raise InputError(
            f"RANK, WORLD_SIZE, LOCAL_RANK: expected the numbers that torchrun sets ({error});"
            " start with torchrun"
        ) from None
    if size > 1 and not 0 <= rank < size:
        raise InputError(
            f"RANK: expected one of 0 ... {size - 1}, as WORLD_SIZE is {size}, found {rank}; start"
            " with torchrun"
        )
    return (rank, size, local) if size > 1 else (0, 1, 0)


def join(device: str = "cpu") -> World:
    """Return the world of this process once every rank is there; `cuda` becomes the GPU of the
    local rank.
    """
    rank, size, local = environment()
    if size == 1:
        return World(device=device)
    # Its functions keep a reference to the group that exists at import, which leave() cannot close.
    importlib.import_module("torch.distributed.nn")
    try:
        dist.init_process_group("gloo", timeout=GLOO_TIMEOUT)
    except (RuntimeError, ValueError) as error:
        raise InputError(
            f"rank {rank} of {size}: cannot reach the others ({_first_line(error)}); start with"
            " torchrun"
        ) from error
    atexit.register(leave)
    world = World(rank, size, device)
    with fail_on_all_ranks(world):
        if device.startswith("cuda"):
            gpus = torch.cuda.device_count()
            if device != "cuda" or local >= gpus:
                raise InputError(
                    f"--device {device}: expected cuda and a GPU for each of the processes, found"
                    f" {gpus}; lower --nproc_per_node"
                )
            world.device = f"cuda:{local}"
            torch.cuda.set_device(world.device)
    if device == "cuda":
        world.gradient_group = dist.new_group(backend="nccl", timeout=NCCL_TIMEOUT)
    return world


def leave() -> None:
    """Close the connections and end their threads, which would abort the process at its exit."""
    if dist.is_initialized():
        dist.destroy_process_group()


def share(recipe: Recipe, world: World) -> tuple[range, int]:
    """Return (the global rows of this rank, rows of its micro-batches); InputError where a step
    cannot be split evenly.
    """
    length, training = recipe.model.length, recipe.training
    rows = training.tokens_per_step // length
    if rows % world.size:
        raise InputError(
            f"{rows} rows per step: expected a multiple of the {world.size} ranks, so that each has"
            " the same share; change --nproc_per_node or training.tokens_per_step"
        )
    rank_rows = rows // world.size
    micro_rows = min(rank_rows, max(1, training.micro_batch_tokens // length))
    if rank_rows % micro_rows:
        raise InputError(
            f"{rank_rows} rows on each of {world.size} ranks: expected a multiple of the"
            f" {micro_rows} rows of a micro-batch; change --nproc_per_node or"
            " training.micro_batch_tokens"
        )
    return range(world.rank * rank_rows, (world.rank + 1) * rank_rows), micro_rows


def branches(rows: range, micro_rows: int) -> tuple[range, range]:
    """Split the rows of more than one micro-batch into the two subtrees of the sum: the first has
    the largest power of two of micro-batches that leaves a second.
    """
    half = 1 << ((len(rows) // micro_rows - 1).bit_length() - 1)
    return rows[: half * micro_rows], rows[half * micro_rows :]


def sum_over_ranks(tensors: list[torch.Tensor], world: World) -> list[torch.Tensor]:
    """Return the sums of tensors over all ranks, neighbours first, in one exchange per dtype."""
    if world.size == 1:
        return tensors
    summed = list(tensors)
    for dtype in dict.fromkeys(tensor.dtype for tensor in tensors):
        indices = [index for index, tensor in enumerate(tensors) if tensor.dtype == dtype]
        flat = _sum_flat(torch.cat([tensors[index].reshape(-1) for index in indices]), world)
        parts = flat.split([tensors[index].numel() for index in indices])
        for index, part in zip(indices, parts, strict=True):
            summed[index] = part.view(tensors[index].shape)
    return summed


def _sum_flat(flat: torch.Tensor, world: World) -> torch.Tensor:
    """Sum a flat tensor: every rank adds up one slice of it and sends the result to all others, in
    a fixed order, which all_reduce does not guarantee.
    """
    padded = torch.nn.functional.pad(flat, (0, -len(flat) % world.size))
    received = torch.empty_like(padded)
    with _connected():
        dist.all_to_all_single(received, padded, group=world.gradient_group)
        slices = list(received.chunk(world.size))
        while len(slices) > 1:
            odd = slices[-1:] if len(slices) % 2 else []
            slices = [
                one + other for one, other in zip(slices[0::2], slices[1::2], strict=False)
            ] + odd
        dist.all_gather(list(padded.chunk(world.size)), slices[0], group=world.gradient_group)
    return padded[: len(flat)]


def decide(remaining: int, world: World) -> int:
    """Return rank 0's number of remaining steps on every rank, and agree on a signal to stop. Waits
    while rank 0 validates or saves.
    """
    if world.size == 1:
        return remaining
    values = [remaining if world.rank == 0 else 0, world.received_signal]
    remaining, world.agreed_signal = _reduce(values, dist.ReduceOp.MAX)
    return remaining


def from_rank_0(value: bool, world: World) -> bool:
    """Return rank 0's value on every rank."""
    if world.size == 1:
        return value
    return bool(_reduce([int(value) if world.rank == 0 else 0], dist.ReduceOp.MAX)[0])


def made_by_rank_0(make: Callable[[], dict], world: World) -> dict[str, torch.Tensor]:
    """Return on every rank the tensors that rank 0 makes, on the CPU; its error is one on all
    ranks. Making them must not communicate.
    """
    made = {}
    with fail_on_all_ranks(world):
        if world.rank == 0:
            made = {name: value.cpu() for name, value in make().items()}
    if world.size > 1:
        shared = [made]
        with _connected():
            dist.broadcast_object_list(shared)
        [made] = shared
    return made


def _reduce(values: list[int], operation) -> list[int]:
    tensor = torch.tensor(values)
    with _connected():
        dist.all_reduce(tensor, op=operation)
    return tensor.tolist()


def wait(world: World) -> None:
    """Wait until all ranks call this, however long one of them compiles."""
    if world.size > 1:
        with _connected():
            dist.barrier()


def wait_for_exit(rank: int) -> None:
    """Wait until another rank has ended, but no longer than NCCL_TIMEOUT."""
    with contextlib.suppress(RuntimeError):
        dist.irecv(torch.empty(1), rank).wait(NCCL_TIMEOUT)


@contextlib.contextmanager
def fail_on_all_ranks(world: World):
    """Fail on all ranks if the block fails on any: the lowest failed rank raises its error, every
    other one PeerFailed. The block must not communicate.
    """
    error = None
    try:
        yield
    except Exception as caught:
        if world.size == 1:
            raise
        error = caught
    if world.size > 1:
        (failed,) = _reduce([world.size if error is None else world.rank], dist.ReduceOp.MIN)
        if failed == world.rank:
            raise error
        if failed < world.size:
            raise PeerFailed(failed) from error


@contextlib.contextmanager
def stop_on_all_ranks(world: World):
    """Yield a function that returns the name of the signal on which to stop (SIGINT, SIGTERM), or
    None; handlers are restored after.

    Several ranks return it at the same step, the one after decide().
    """

    def receive(number, frame):
        world.received_signal = number

    def stop() -> str | None:
        number = world.received_signal if world.size == 1 else world.agreed_signal
        return signal.Signals(number).name if number else None

    before = {number: signal.signal(number, receive) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextlib.contextmanager
def _connected():
    try:
        yield
    except RuntimeError as error:
        raise PeerLost(
            f"another rank is gone ({_first_line(error)}); go on from the last checkpoint with"
            " --resume"
        ) from error


def _first_line(error: Exception) -> str:
    """Return the first line of an error's message, without the position in C++ code before it."""
    return re.sub(r"^\[\S+\] ", "", str(error).partition("\n")[0])
