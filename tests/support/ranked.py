"""What tests/pieces/test_distributed.py runs under torchrun: every scenario on every rank, one file
of results for each.

torchrun --standalone --nproc_per_node=2 -m tests.support.ranked FOLDER
"""

import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from fast import artifact, distributed, errors, masking, train
from fast.callbacks import StopOnRequest
from fast.data import windows_of
from reference.recipe import TINY, InputError

SHORT = replace(
    TINY,
    training=replace(
        TINY.training, iterations=6, warmdown=4, tokens_per_step=64, micro_batch_tokens=8
    ),
    ema=replace(TINY.ema, start=0.3),  # seeded after the second step
    optimizer=replace(TINY.optimizer, momentum_warmup=4),
)
AWARE = replace(
    SHORT,
    quantization=replace(
        SHORT.quantization, format="uniform", threshold=16, fisher=4, dial=8, aware_steps=4
    ),
)
STOPPING = 3  # the step in which one rank is asked to stop
SECONDS = (0.5, 0.3, 0.8, 0.1)  # of a step by each rank's clock


def training(recipe=SHORT, **fields):
    """Return the recipe with other training fields."""
    return replace(recipe, training=replace(recipe.training, **fields))


def exact(**fields):
    """Return the recipe in float64, with other training fields."""
    return training(compute_dtype="float64", **fields)


def batch(step, rows):
    """Return windows that depend on step and row alone."""
    drawn = [np.random.default_rng([step, int(row)]).integers(0, 12, 9) for row in rows]
    return windows_of(np.stack(drawn))


def trained(recipe, world, dtype=torch.float32, choose=None):
    """Return (losses, tensors by group) of a whole run."""
    state, losses = train.train(
        batch, recipe, train.initial_state(recipe, dtype=dtype), world=world, choose=choose
    )
    return losses, {
        group: {name: value.detach() for name, value in members.items()}
        for group, members in state.tensors().items()
    }


def aware(world):
    """Return trained() of a run whose last steps are taken at rounded weights: only rank 0 chooses
    how.
    """
    assert AWARE.quantization.aware_steps < AWARE.training.iterations

    def choose(*given):
        assert world.rank == 0
        return artifact.choose_steps(*given)

    return trained(AWARE, world, choose=choose)


def unchosen(world) -> str | None:
    """Return the error of a run whose rounding rank 0 cannot choose."""

    def choose(*_):
        raise InputError("no steps")

    try:
        trained(AWARE, world, choose=choose)
    except (errors.PeerFailed, InputError) as error:
        return f"{type(error).__name__}: {error}"


def masks(world) -> list[tuple[int, list[int], torch.Tensor]]:
    """Return (step, rows, mask) of every micro-batch that this rank takes in a run."""
    seen, plain = [], masking.mask

    def watch(seed, step, rows, length, thresholds_B):
        mask_BL = plain(seed, step, rows, length, thresholds_B)
        seen.append((int(step), rows.tolist(), mask_BL))
        return mask_BL

    masking.mask = watch
    try:
        trained(SHORT, world)
    finally:
        masking.mask = plain
    return seen


def spoiled(world) -> tuple[str, int, bool]:
    """Return (message, step, whether the weights are those of the step before) where only the last
    row's micro-batch is not finite.
    """
    state, stepper = train.initial_state(SHORT), train.Stepper(SHORT, compiled=False, world=world)
    plain, before = stepper._loss, {}

    def loss(params, windows, step, rows, *drawn):
        result = plain(params, windows, step, rows, *drawn)
        if step == 2:
            before.update({name: value.detach().clone() for name, value in params.items()})
        return (
            result + (params["up"] * 0).sum().sqrt() if step == 2 and 7 in rows.tolist() else result
        )

    stepper._loss = loss
    try:
        train.train(batch, SHORT, state, stepper, world=world)
    except train.TrainingError as error:
        return (
            str(error),
            state.step,
            all(torch.equal(value, before[name]) for name, value in state.params.items()),
        )
    return "", state.step, False


def clocked(world) -> tuple[int, float]:
    """Return (steps, last multiplier) of a run bound by a clock that goes at another speed on each
    rank.
    """

    class Stepper(train.Stepper):
        now = 0.0

        def __call__(self, *args):
            self.now += SECONDS[world.rank]
            return super().__call__(*args)

    recipe = training(max_wallclock_seconds=10.0, iterations=1000, warmdown=10)
    stepper = Stepper(recipe, compiled=False, world=world)
    state, _ = train.train(batch, recipe, None, stepper, clock=lambda: stepper.now, world=world)
    return state.step, state.multiplier


def stopped(world) -> str:
    """Return why a run ends of which the last rank alone is asked to stop."""

    def ask_the_last_rank(state, report):
        if state.step == STOPPING and world.rank == world.size - 1:
            import signal

            signal.raise_signal(signal.SIGTERM)

    try:
        with distributed.stop_on_all_ranks(world) as stop:
            callbacks = [ask_the_last_rank, StopOnRequest(stop)]
            train.train(batch, SHORT, callbacks=callbacks, world=world)
    except errors.Interrupted as error:
        return str(error)
    return "went on"


def failed(world) -> str:
    """Return the error of each rank where the last one alone fails."""
    try:
        with distributed.fail_on_all_ranks(world):
            if world.rank == world.size - 1:
                raise InputError("a fault of this rank")
    except (InputError, distributed.PeerFailed) as error:
        return f"{type(error).__name__}: {error}"
    return ""


def uneven(world) -> list[str]:
    """Return the messages about steps that cannot be split evenly."""
    messages = []
    for recipe in (
        training(tokens_per_step=40),
        training(tokens_per_step=96, micro_batch_tokens=32),
    ):
        try:
            distributed.share(recipe, world)
            messages.append("")
        except InputError as error:
            messages.append(str(error))
    return messages


def connections() -> list[str]:
    """Return the names of this process's threads that serve a process group."""
    names = [path.read_text().strip() for path in Path("/proc/self/task").glob("*/comm")]
    return sorted(name for name in names if "gloo" in name)


def results(world) -> dict:
    """Return what every scenario gives on this rank."""
    return {
        "alone": not torch.distributed.is_initialized(),
        "float32": trained(SHORT, world),
        "bfloat16": trained(training(compute_dtype="bfloat16"), world),
        "pairs": trained(training(micro_batch_tokens=16), world),
        "exact": {
            rows: trained(exact(micro_batch_tokens=8 * rows), world, torch.float64)
            for rows in (1, 4, 8)
        },
        "aware": aware(world),
        "unchosen": unchosen(world),
        "odd": trained(exact(tokens_per_step=96), world, torch.float64),
        "masks": masks(world),
        "spoiled": spoiled(world),
        "clocked": clocked(world),
        "stopped": stopped(world),
        "failed": failed(world),
        "uneven": uneven(world),
        "taken from rank 0": [
            distributed.from_rank_0(world.rank == 0, world),
            distributed.from_rank_0(world.rank > 0, world),
            distributed.from_rank_0(world.rank == 0 or "auto", world),
        ],
    }


if __name__ == "__main__":
    here = distributed.join()
    import torch._dynamo  # as the first compiled step does

    found = results(here)
    joined = connections()
    distributed.leave()
    found["connections"] = joined, connections()
    torch.save(found, Path(sys.argv[1]) / f"{here.rank}.pt")
