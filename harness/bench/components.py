"""A training step cut into its parts, the production way and the plain way, timed in turns."""

from collections.abc import Callable
from contextlib import nullcontext
from functools import partial

import numpy as np
import torch

from fast import adam, ema, muon, train, transformer
from harness.bench.measure import (
    Jobs,
    as_rate,
    compared,
    compiler,
    job,
    noted,
    paired,
    row,
    seconds,
    turns,
)
from harness.parity import plain
from reference.recipe import Recipe

MIB = 2**20
BFLOAT16 = 2.0**-8  # unit roundoff
REPEATS = 10  # of a short piece per timing
# Multiplier of the learning rates: the weights stay what they are over hundreds of steps.
RATE = 1e-6


class Side:
    """One way to take a step; a subclass has params, gradients(), update(loss, grads)."""

    context = staticmethod(nullcontext)  # in which it is compiled and run
    params: dict[str, torch.Tensor]

    def backward(self, loss: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Return the gradients of a loss, zeros where a weight is not used."""
        with self.context():
            return torch.autograd.grad(loss, list(self.params.values()), materialize_grads=True)

    def step(self) -> None:
        """One whole step, the data always that of the first."""
        self.update(*self.gradients())


class Production(Side):
    """The step that ships: compiled where asked for, sums in a fixed order."""

    def __init__(
        self,
        recipe: Recipe,
        batch: Callable,
        device: str,
        compiled: bool,
        context: Callable = train.deterministic,
        rate: float = RATE,
    ):
        """Take batch(step, rows), which gives the windows of some global rows; compile and run
        inside context(). rate: multiplier of the learning rates.
        """
        self.recipe, self.batch, self.device = recipe, batch, device
        self.compiled, self.context, self.rate = compiled, context, rate
        self.stepper = train.Stepper(recipe, device, compiled)
        self.state = train.initial_state(recipe, device)
        self.params = self.state.params
        rng = np.random.default_rng(0)
        for name, value in self.params.items():
            if name in ("o", "down"):  # initially 0, and zeros run faster than weights do
                drawn = torch.from_numpy(rng.standard_normal(value.shape, np.float32))
                value.data += drawn.to(device) / value.shape[-1] ** 0.5

    def held(self, run: Callable) -> Callable:
        """Return a function that is compiled and run as the step is."""
        run = compiler(self.compiled)(run)

        def inside(*arguments):
            with self.context():
                return run(*arguments)

        return inside

    def data(self) -> list[tuple]:
        """Return the inputs of every micro-batch of a step, on the device."""
        rows, count = self.stepper.rows, self.stepper.micro_rows
        parts = [rows[first : first + count] for first in range(0, len(rows), count)]
        return [self.stepper.inputs(self.batch, 0, part) for part in parts]

    def forward(self, micro: tuple) -> torch.Tensor:
        """Return the loss of one micro-batch, its graph kept."""
        with self.context():
            return self.stepper._loss(self.params, *micro)

    def gradients(self, step: int = 0) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        """Return (loss, gradients) of the whole batch of a step, its data read as well."""
        with self.context():
            return self.stepper.gradients(self.params, self.batch, step)

    def update(self, loss: torch.Tensor, grads: dict[str, torch.Tensor]) -> None:
        """Clip, Muon, Adam and the average, in place."""
        with self.context():
            self.stepper.update(self.state, loss, grads, self.rate, True)

    def advance(self, averaging: bool = True) -> None:
        """Take the step of a run that the state has come to."""
        with self.context():
            self.stepper(self.state, self.batch, self.rate, averaging)


class Plain(Side):
    """The same step written plainly, cut the same way."""

    def __init__(self, quick: Production):
        """Start from the state of a production step, on a copy."""
        self.batch = quick.batch
        self.plainly = plain.PlainStep(quick.recipe, quick.state, quick.device)
        self.params = self.plainly.params

    def forward(self, micro: tuple) -> torch.Tensor:
        """Return the loss of one micro-batch, its graph kept."""
        return self.plainly.loss(*micro[:4])

    def gradients(self, step: int = 0) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        """Return (loss, gradients) of a whole batch, its data read as well."""
        return self.plainly.gradients(self.batch, step)

    def update(self, loss: torch.Tensor, grads: dict[str, torch.Tensor]) -> None:
        """Clip, Muon, Adam and the average, in place."""
        self.plainly.update(grads, RATE, True)


def flat(way: Side) -> torch.Tensor:
    """Return the gradients of a batch as one vector, ordered by the names of single tensors."""
    separate = transformer.unstack(way.gradients()[1])
    return torch.cat([separate[name].flatten() for name in sorted(separate)])


def distance(found: torch.Tensor, expected: torch.Tensor) -> float:
    """Return the norm of the difference over that of what is expected."""
    return float((found - expected).norm() / expected.norm())


def limit(plainly: Plain, expected: torch.Tensor) -> float:
    """Return how far gradients may lie from those of production: twice as far as the plain
    step's, whose sums have another order.
    """
    return 2 * max(distance(flat(plainly), expected), BFLOAT16)


def of_step(plainly: Plain, quick: Production, pairs: int) -> Jobs:
    """Yield (name, job) per part of a step, production against plain: the whole of it, data,
    forward, backward, update.
    """
    timing = pairs, quick.device

    def whole(name: str) -> dict:
        timed = paired(name, plainly.step, quick.step, *timing)
        return as_rate(timed, quick.recipe.training.tokens_per_step)

    yield job("training tokens/s: production / plain", whole)
    yield job("a step / its data and noise", paired, quick.step, quick.data, *timing)
    micro = quick.data()[0]
    forwards = [partial(way.forward, micro) for way in (plainly, quick)]
    yield job("forward, one micro-batch", paired, *forwards, *timing)

    def clock(way: Side) -> float:
        return seconds(partial(way.backward, way.forward(micro)), quick.device)

    def backward(name: str) -> dict:
        return compared(name, turns(pairs, partial(clock, plainly), partial(clock, quick)))

    yield job("backward, one micro-batch", backward)
    loss, grads = quick.gradients()
    separate = {name: value.clone() for name, value in transformer.unstack(grads).items()}
    updates = partial(plainly.update, loss, separate), partial(quick.update, loss, grads)
    yield job("update", paired, *updates, *timing)


def orthogonalizations(recipe: Recipe, grads: dict) -> tuple[Callable, Callable]:
    """Return Newton-Schulz on the matrices of stacked gradients in the dtype of a recipe, one
    matrix at a time, and stacked as in production.
    """
    optimizer = recipe.optimizer
    dtype = getattr(torch, optimizer.muon_dtype)
    stacks = [grad.to(dtype) for name, grad in grads.items() if train.is_matrix(name)]
    matrices = [matrix for stack in stacks for matrix in stack.unbind(0)]
    return (
        lambda: [plain.newton_schulz(matrix, optimizer) for matrix in matrices],
        lambda: muon.orthogonalize(stacks, optimizer),
    )


def of_update(quick: Production, compiled: bool, pairs: int, bandwidth: float) -> Jobs:
    """Yield (name, job) per part of the update, production against one tensor at a time, and clip
    and average against the memory floor.

    bandwidth: bytes per second of a copy, read and written counted.
    """
    optimizer, state, timing = quick.recipe.optimizer, quick.state, (pairs, quick.device)
    _, grads = quick.gradients()
    weights = {name: value.detach() for name, value in state.params.items()}
    count = torch.tensor(5.0, dtype=torch.float64, device=quick.device)

    def moments():
        groups = weights, grads, state.first, state.second
        vectors = ([group[name] for group in groups] for name in state.first)
        return [adam.adam_step(*vector, count, 1e-3, optimizer) for vector in vectors]

    def clipped():
        return list(adam.clip(grads, optimizer.clip)[0].values())

    def average():
        decay = quick.recipe.ema.decay
        return [ema.ema_update(state.shadow[name], weights[name], decay) for name in weights]

    ways = {
        "Newton-Schulz": orthogonalizations(quick.recipe, grads),
        "Adam": (moments, moments),
        "clip": (clipped, clipped),
        "EMA": (average, average),
    }
    ways = {
        name: (repeated(slow), repeated(compiler(compiled)(together)))
        for name, (slow, together) in ways.items()
    }
    for name, both in ways.items():
        yield job(f"{name}: production / plain", paired, *both, *timing)
    # Clip reads the gradients twice and writes them once, the average reads two and writes one.
    traffic = 3 * sum(value.numel() * value.element_size() for value in grads.values())
    for name in ("clip", "EMA"):
        floor = REPEATS * traffic / bandwidth
        yield job(
            f"{name}: share of the memory floor", against_floor, floor, ways[name][1], *timing
        )


def repeated(run: Callable) -> Callable:
    """Return run REPEATS times over, without gradients: on a GPU the launch of one then hides
    behind the work of another.
    """

    @torch.no_grad()
    def many():
        for _ in range(REPEATS):
            run()

    return many


def against_floor(name: str, floor: float, run: Callable, pairs: int, device: str) -> dict:
    """Return the row of what is timed against the seconds below which it cannot get: ratio 1 is
    perfect.
    """
    return compared(name, turns(pairs, lambda: floor, partial(seconds, run, device)))


def of_memory(plainly: Plain, quick: Production, peak: Callable[[Callable], int | None]) -> Jobs:
    """Yield the job that compares the peak memory of a step; peak(run) returns bytes, None where
    the device does not count.
    """

    def compare(name: str) -> dict:
        slow, fast = (peak(way.step) for way in (plainly, quick))
        if slow is None or fast is None:
            return noted(name, "not available: this device does not count its memory", "MiB")
        return row(name, slow / MIB, fast / MIB, *[slow / fast] * 3, 1, "MiB")

    yield job("peak memory of a step: production / plain", compare)
