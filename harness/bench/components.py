"""A training step cut into its parts, the production way and the plain way, timed in turns."""

from collections.abc import Callable, Iterator
from functools import partial

import numpy as np
import torch

from fast import adam, ema, muon, train
from harness.bench.measure import compared, paired, row, seconds
from harness.parity import plain
from reference.recipe import Recipe

MIB = 2**20
BFLOAT16 = 2.0**-8  # unit roundoff
REPEATS = 10  # of a short piece per timing
RATE = (
    1e-6  # multiplier of the learning rates: the weights stay what they are over hundreds of steps
)


class Production:
    """The step that ships: compiled where asked for, sums in a fixed order."""

    def __init__(
        self,
        recipe: Recipe,
        batch: Callable,
        device: str,
        compiled: bool,
        context: Callable = train.deterministic,
    ):
        """Take batch(step, rows), which gives the windows of some global rows; compile and run
        inside context().
        """
        self.recipe, self.batch, self.device, self.context = recipe, batch, device, context
        self.stepper, self.state = (
            train.Stepper(recipe, device, compiled),
            train.initial_state(recipe, device),
        )
        rng = np.random.default_rng(0)
        for (
            name,
            value,
        ) in (
            self.state.params.items()
        ):  # initial projections are 0, and zeros run faster than weights do
            if name in ("o", "down"):
                value.data += (
                    torch.from_numpy(rng.standard_normal(value.shape, np.float32)).to(device)
                    / value.shape[-1] ** 0.5
                )

    def data(self) -> list[tuple]:
        """Return the inputs of every micro-batch of a step, on the device."""
        rows, each = self.stepper.rows, self.stepper.micro_rows
        return [
            self.stepper.inputs(self.batch, 0, rows[first : first + each])
            for first in range(0, len(rows), each)
        ]

    def forward(self, micro: tuple) -> torch.Tensor:
        """Return the loss of one micro-batch, its graph kept."""
        with self.context():
            return self.stepper._loss(self.state.params, *micro)

    def backward(self, loss: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Return the gradients of a loss."""
        with self.context():
            return torch.autograd.grad(
                loss, list(self.state.params.values()), materialize_grads=True
            )

    def gradients(self) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        """Return (loss, gradients) of a whole batch, its data read as well."""
        with self.context():
            return self.stepper.gradients(self.state.params, self.batch, 0)

    def update(self, loss: torch.Tensor, grads: dict[str, torch.Tensor]) -> None:
        """Clip, Muon, Adam and the average, in place."""
        with self.context():
            self.stepper.update(self.state, loss, grads, RATE, True)

    def step(self) -> None:
        """One whole step."""
        self.update(*self.gradients())


class Plain:
    """The same step written plainly, cut the same way."""

    def __init__(self, quick: Production):
        """Start from the state of a production step, on a copy."""
        self.recipe, self.batch = quick.recipe, quick.batch
        self.plainly = plain.PlainStep(quick.recipe, quick.state, quick.device)

    def forward(self, micro: tuple) -> torch.Tensor:
        """Return the loss of one micro-batch, its graph kept."""
        ids_BS, step, rows, drawn, _ = micro
        return self.plainly.loss(ids_BS, step, rows, drawn)

    def backward(self, loss: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Return the gradients of a loss."""
        return torch.autograd.grad(loss, list(self.plainly.params.values()), materialize_grads=True)

    def gradients(self) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        """Return (loss, gradients) of a whole batch, its data read as well."""
        return self.plainly.gradients(self.batch, 0)

    def update(self, loss: torch.Tensor, grads: dict[str, torch.Tensor]) -> None:
        """Clip, Muon, Adam and the average, in place."""
        self.plainly.update(grads, RATE, True)

    def step(self) -> None:
        """One whole step."""
        self.update(*self.gradients())


def flat(way: "Production | Plain") -> torch.Tensor:
    """Return the gradients of a batch as one vector, ordered by the names of single tensors."""
    _, grads = way.gradients()
    separate = grads if isinstance(way, Plain) else plain.unstacked(grads)
    return torch.cat([separate[name].flatten() for name in sorted(separate)])


def distance(found: torch.Tensor, expected: torch.Tensor) -> float:
    """Return the norm of the difference over that of what is expected."""
    return float((found - expected).norm() / expected.norm())


def as_rate(found: dict, tokens: int) -> dict:
    """Return a row of milliseconds as tokens per second."""
    return (
        found
        | {"unit": "tokens/s"}
        | {side: 1e3 * tokens / found[side] for side in ("baseline", "candidate")}
    )


def of_step(
    plainly: Plain, quick: Production, pairs: int
) -> Iterator[tuple[str, Callable[[], dict]]]:
    """Yield (name, job) per part of a step, production against plain: the whole of it, data,
    forward, backward, update.
    """
    device, tokens = quick.device, quick.recipe.training.tokens_per_step

    def whole():
        return as_rate(
            paired(
                "training tokens/s: production / plain", plainly.step, quick.step, pairs, device
            ),
            tokens,
        )

    yield "training tokens/s: production / plain", whole
    yield (
        "a step / its data and noise",
        lambda: paired("a step / its data and noise", quick.step, quick.data, pairs, device),
    )
    micro = quick.data()[0]
    yield (
        "forward, one micro-batch",
        lambda: paired(
            "forward, one micro-batch",
            lambda: plainly.forward(micro),
            lambda: quick.forward(micro),
            pairs,
            device,
        ),
    )

    def backward():
        timed = []
        for _ in range(1 + pairs):
            losses = [(way, way.forward(micro)) for way in (plainly, quick)]
            timed.append(
                tuple(seconds(partial(way.backward, loss), device) for way, loss in losses)
            )
        return compared("backward, one micro-batch", timed[1:])

    yield "backward, one micro-batch", backward
    loss, grads = quick.gradients()
    separate = {name: value.clone() for name, value in plain.unstacked(grads).items()}
    yield (
        "update",
        lambda: paired(
            "update",
            lambda: plainly.update(loss, separate),
            lambda: quick.update(loss, grads),
            pairs,
            device,
        ),
    )


def of_update(
    quick: Production, compiled: bool, pairs: int, bandwidth: float
) -> Iterator[tuple[str, Callable[[], dict]]]:
    """Yield (name, job) per part of the update, production against one tensor at a time, and clip
    and average against the memory floor.

    bandwidth: bytes per second of a copy, read and written counted.
    """
    recipe, device, state = quick.recipe, quick.device, quick.state
    _, grads = quick.gradients()
    optimizer = recipe.optimizer
    stacks = [
        value.to(getattr(torch, optimizer.muon_dtype))
        for name, value in grads.items()
        if train.is_matrix(name)
    ]
    weights = {name: value.detach() for name, value in state.params.items()}
    count = torch.tensor(5.0, dtype=torch.float64, device=device)

    settings = optimizer.muon_steps, optimizer.muon_coefficients, optimizer.muon_eps

    def schulz():
        return muon.orthogonalize(stacks, optimizer)

    def schulz_apart():
        return [plain.newton_schulz(matrix, *settings) for stack in stacks for matrix in stack]

    def moments():
        vectors = [
            (weights[name], grads[name], state.first[name], state.second[name])
            for name in state.first
        ]
        return [adam.adam_step(*vector, count, 1e-3, optimizer) for vector in vectors]

    def clipped():
        return list(adam.clip(grads, optimizer.clip)[0].values())

    def average():
        return [
            ema.ema_update(state.shadow[name], weight, recipe.ema.decay)
            for name, weight in weights.items()
        ]

    ready = (
        partial(torch.compile, dynamic=False, fullgraph=True)
        if compiled
        else (lambda function: function)
    )
    ways = {
        name: (repeated(slow), repeated(ready(together)))
        for name, slow, together in (
            ("Newton-Schulz", schulz_apart, schulz),
            ("Adam", moments, moments),
            ("clip", clipped, clipped),
            ("EMA", average, average),
        )
    }
    for name, (slow, fast) in ways.items():
        yield (
            f"{name}: production / plain",
            partial(paired, f"{name}: production / plain", slow, fast, pairs, device),
        )
    traffic = 3 * sum(value.numel() * value.element_size() for value in grads.values())
    for name in (
        "clip",
        "EMA",
    ):  # clip reads twice and writes once, the average reads two and writes one
        floor = REPEATS * traffic / bandwidth
        title = f"{name}: share of the memory floor"
        yield title, partial(against_floor, title, floor, ways[name][1], pairs, device)


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
    timed = [(floor, seconds(run, device)) for _ in range(1 + pairs)][1:]
    return compared(name, timed)


def of_memory(
    plainly: Plain, quick: Production, peak: Callable[[Callable], int | None]
) -> Iterator[tuple[str, Callable[[], dict]]]:
    """Yield the job that compares the peak memory of a step; peak(run) returns bytes, None where
    the device does not count.
    """

    def job():
        name = "peak memory of a step: production / plain"
        found = [peak(way.step) for way in (plainly, quick)]
        if None in found:
            return row(name, None, None, None, None, None, 0, "MiB") | {
                "note": "not available: this device does not count its memory"
            }
        ratio = found[0] / found[1]
        return row(name, found[0] / MIB, found[1] / MIB, ratio, ratio, ratio, 1, "MiB")

    yield "peak memory of a step: production / plain", job
