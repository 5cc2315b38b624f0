"""Parity: algebra + rounding. The training step (twin of reference/train.py) and the loop that
ships: compiled, resumable, clock-bound.

Bound: 50 steps of `tiny` in float64 agree with the reference to 1e-9; production dtypes inherit the
bounds of their pieces.
"""

import ctypes
import math
import os
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

from fast import adam, checkpoint, distributed, ema, muon, quantize, schedule, transformer
from fast.distributed import World
from fast.errors import TrainingError
from fast.objective import objective_of
from reference.recipe import Recipe, Training

GROUPS = ("params", "buffers", "first", "second", "shadow")


@dataclass
class State:
    """What a run carries from step to step: tensors by kind (blocks stacked) and its place in the
    budget.
    """

    params: dict[str, torch.Tensor]
    buffers: dict[str, torch.Tensor]  # Muon momentum
    first: dict[str, torch.Tensor]  # Adam moments
    second: dict[str, torch.Tensor]
    shadow: dict[str, torch.Tensor]  # EMA, float32
    step: int = 0  # steps done
    elapsed: float = 0.0  # seconds on the training clock
    multiplier: float = 1.0  # last learning-rate multiplier
    ema_started_step: int | None = None
    durations: list[float] = field(default_factory=list)  # seconds of the last steps
    finished: bool = False  # the budget is used up
    # int64 exponents of the steps that gradients are taken at from now on, as in quantize.rounded
    exponents: dict[str, torch.Tensor] | None = None

    def tensors(self) -> dict[str, dict[str, torch.Tensor]]:
        """Return the groups of tensors by name."""
        return {group: getattr(self, group) for group in GROUPS}

    def progress(self) -> dict:
        """Return the values a checkpoint keeps beside the groups of tensors."""
        return {
            "step": self.step,
            "elapsed": self.elapsed,
            "multiplier": self.multiplier,
            "ema_started_step": self.ema_started_step,
            "durations": self.durations,
            "finished": self.finished,
            "exponents": self.exponents,
        }

    def stored(self) -> dict[str, torch.Tensor]:
        """Return the weights that gradients are taken at: as they would be stored, once exponents
        are chosen.
        """
        if self.exponents is None:
            return self.params
        with torch.no_grad():
            values = quantize.rounded(self.params, self.exponents)
        return {name: value.detach().requires_grad_() for name, value in values.items()}


class StepReport(NamedTuple):
    """What a step came to."""

    loss: float
    norm: float  # of the gradients, before the clip
    remaining: int  # steps still to do


def restore(folder: Path, recipe: Recipe, device="cpu") -> State | None:
    """Return the state of the checkpoint in a run directory, None where there is none."""
    loaded = checkpoint.load(Path(folder) / "checkpoint", recipe, device)
    if loaded is None:
        return None
    tensors, progress = loaded
    tensors["params"] = {name: value.requires_grad_() for name, value in tensors["params"].items()}
    return State(**tensors, **progress)


def is_matrix(name: str) -> bool:
    """Return whether Muon trains this parameter: the 2-D matrices inside blocks, stacked or not."""
    return name.rpartition(".")[2] in transformer.MATRICES


def initial_state(recipe: Recipe, device="cpu", dtype=torch.float32) -> State:
    """Return the state before the first step; dtype other than float32 is for parity."""
    named = transformer.initialize(recipe.model, recipe.seed)
    params = {name: value.to(device, dtype) for name, value in transformer.stack(named).items()}
    zeros = {name: torch.zeros_like(value) for name, value in params.items()}
    return State(
        params={name: value.requires_grad_() for name, value in params.items()},
        buffers={name: value for name, value in zeros.items() if is_matrix(name)},
        first={name: value for name, value in zeros.items() if not is_matrix(name)},
        second={name: value.clone() for name, value in zeros.items() if not is_matrix(name)},
        shadow={name: value.detach().clone() for name, value in params.items()},
    )


def batch_loss(
    params: dict[str, torch.Tensor],
    windows: tuple[torch.Tensor, torch.Tensor],
    step,
    rows,
    recipe: Recipe,
    noise=None,
    dtype=None,
    table=None,
    capacity=None,
):
    """Return the loss of windows (ids_BL, previous_B) in nats per token; rows are their global row
    indices.

    dtype is that of the activations. noise, capacity: as in the loss of the objective.
    """
    model = recipe.model
    network = partial(transformer.forward, params, model=model, dtype=dtype, table=table)
    return objective_of(model).loss(network, *windows, step, rows, recipe, noise, capacity)


def _updated(tensors: dict, grads: dict, multiplier, momentum, count, decay, recipe: Recipe):
    """Return (groups of new tensors, norm). The numbers may be 0-d tensors, so that one graph
    serves every step.
    """
    optimizer = recipe.optimizer
    muon_dtype = (
        torch.float64
        if grads["embedding"].dtype == torch.float64
        else getattr(torch, optimizer.muon_dtype)
    )
    grads, norm = adam.clip(grads, optimizer.clip)
    params, buffers = tensors["params"], tensors["buffers"]
    moved = muon.muon_steps(
        [params[name] for name in buffers],
        [grads[name] for name in buffers],
        list(buffers.values()),
        multiplier * optimizer.muon_lr,
        momentum,
        optimizer,
        muon_dtype,
    )
    new = {group: {} for group in GROUPS}
    new["params"], new["buffers"] = (dict(zip(buffers, values, strict=True)) for values in moved)
    for name in tensors["first"]:
        lr = multiplier * (optimizer.embedding_lr if name == "embedding" else optimizer.vector_lr)
        new["params"][name], new["first"][name], new["second"][name] = adam.adam_step(
            params[name],
            grads[name],
            tensors["first"][name],
            tensors["second"][name],
            count,
            lr,
            optimizer,
        )
    for name in params:
        new["shadow"][name] = ema.ema_update(tensors["shadow"][name], new["params"][name], decay)
    return new, norm


def _update_(
    tensors: dict, grads: dict, loss: torch.Tensor, controls: torch.Tensor, recipe: Recipe
) -> torch.Tensor:
    """Update every tensor in place unless loss or gradient norm is not finite; return (loss, norm,
    applied) as one tensor.
    """
    multiplier, momentum, count, decay = controls.unbind()
    new, norm = _updated(tensors, grads, multiplier, momentum, count, decay, recipe)
    applied = torch.isfinite(norm) & torch.isfinite(loss)
    for group, members in new.items():
        for name, value in members.items():
            tensors[group][name].copy_(torch.where(applied, value, tensors[group][name]))
    return torch.stack([loss.double(), norm.double(), applied.double()])


def controls(state: State, multiplier: float, averaging: bool, recipe: Recipe) -> list[float]:
    """Return what changes from step to step: multiplier, momentum, Adam's count, the shadow's decay
    (0 seeds it from the weights).
    """
    return [
        multiplier,
        schedule.muon_momentum(state.step, recipe.optimizer),
        state.step + 1,
        recipe.ema.decay if averaging else 0.0,
    ]


def apply_gradients(
    state: State, grads: dict[str, torch.Tensor], multiplier: float, averaging: bool, recipe: Recipe
):
    """Return (state, norm) after clip, Muon, Adam and EMA; averaging False keeps the shadow at the
    live weights.
    """
    with torch.no_grad():
        new, norm = _updated(
            state.tensors(), grads, *controls(state, multiplier, averaging, recipe), recipe
        )
    return State(**new, step=state.step + 1, exponents=state.exponents), norm


def train_step(
    state: State,
    windows: tuple[torch.Tensor, torch.Tensor],
    multiplier: float,
    averaging: bool,
    recipe: Recipe,
):
    """Return (state, loss, gradient norm) after one step on the windows (ids_BL, previous_B) of the
    global batch, written plainly: no accumulation.
    """
    params = {name: value.detach().requires_grad_() for name, value in state.stored().items()}
    loss = batch_loss(params, windows, state.step, torch.arange(len(windows[0])), recipe)
    grads = dict(
        zip(
            params,
            torch.autograd.grad(loss, list(params.values()), materialize_grads=True),
            strict=True,
        )
    )
    state, norm = apply_gradients(state, grads, multiplier, averaging, recipe)
    return state, loss.detach(), norm


@contextmanager
def deterministic(repeatable: bool = False):
    """Hold torch to algorithms that repeat to the last bit: compiled, the embedding's gradient is
    otherwise summed in any order.

    Compile inside it. On a CPU a step then repeats. On a GPU the backward pass of attention still
    adds up in any order, unless repeatable: an operation without an algorithm that repeats is then
    an error, and attention runs by a kernel that has one. New memory is not filled first, which
    torch does by default to catch reads of it: a pass over every buffer.
    """
    before = (
        torch.are_deterministic_algorithms_enabled(),
        torch.is_deterministic_algorithms_warn_only_enabled(),
    )
    filled = torch.utils.deterministic.fill_uninitialized_memory
    if repeatable:
        # Without it cuBLAS is such an operation
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.use_deterministic_algorithms(True, warn_only=not repeatable)
    torch.utils.deterministic.fill_uninitialized_memory = False
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before[0], warn_only=before[1])
        torch.utils.deterministic.fill_uninitialized_memory = filled


AUTOTUNED = {  # options of Inductor
    "deterministic": False,  # let it time kernels, which deterministic() turns off
    "max_autotune_gemm": True,
    "max_autotune_gemm_backends": "ATEN,TRITON",
    "triton.enable_persistent_tma_matmul": True,
    "epilogue_fusion_first": True,  # what follows a product joins it rather than the sum behind it
}

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # of <malloc.h>
# The largest values that mallopt takes on 64 bits
KEPT_BYTES, LARGEST_KEPT_BLOCK = (2**31 - 1, 2**25)


def compiler_options(training: Training, device: torch.device) -> dict:
    """Return Inductor's options for the loss and its gradients: on a GPU, products timed with and
    without what follows them, once.

    The update has none: every rank must compute the same weights, which timings that differ would
    not promise.
    """
    return AUTOTUNED if device.type == "cuda" and not training.repeatable else {}


def keep_freed_memory() -> None:
    """Have the C library keep the memory that a step frees for the next one, where it is glibc: for
    the whole process.

    It otherwise returns the gradients to the system, which hands the next step cleared pages one by
    one.
    """
    if mallopt := sys.platform == "linux" and getattr(ctypes.CDLL(None), "mallopt", None):
        for parameter, value in (
            (M_TRIM_THRESHOLD, KEPT_BYTES),
            (M_MMAP_THRESHOLD, LARGEST_KEPT_BLOCK),
        ):
            mallopt(parameter, value)


class Stepper:
    """The production step: micro-batches and ranks add up, the update is in place on each of them,
    both compiled once per shape.
    """

    def __init__(
        self, recipe: Recipe, device="cpu", compiled: bool = True, world: World | None = None
    ):
        """Prepare the share of one rank; InputError where the step's rows cannot be shared
        evenly.
        """
        self.recipe, self.device, self.world = recipe, torch.device(device), world or World()
        if self.device.type == "cpu":
            keep_freed_memory()
        model, training = recipe.model, recipe.training
        self.rows, self.micro_rows = distributed.share(recipe, self.world)
        whole = training.tokens_per_step // model.length
        dtype = getattr(torch, training.compute_dtype)
        table = transformer.table_for(model, model.length, dtype, self.device)

        def loss(params, windows, step, rows, noise, capacity):
            of_rows = batch_loss(params, windows, step, rows, recipe, noise, dtype, table, capacity)
            return of_rows * (len(rows) / whole)

        def update(tensors, grads, loss, controls):
            return _update_(tensors, grads, loss, controls, recipe)

        if compiled:
            # Rows of two kinds are counted anew in every stage: one more graph each
            torch._dynamo.config.recompile_limit = max(torch._dynamo.config.recompile_limit, 64)

        def ready(function, options):
            return (
                torch.compile(function, dynamic=False, fullgraph=True, options=options)
                if compiled
                else function
            )

        self._loss, self._update = (
            ready(loss, compiler_options(training, self.device)),
            torch.no_grad()(ready(update, {})),
        )
        self._prepared = {}

    def gradients(
        self, params: dict[str, torch.Tensor], batch: Callable, step: int
    ) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        """Return (loss, gradients) of one global batch, summed over micro-batches and ranks."""
        loss, *grads = distributed.sum_over_ranks(
            self._sums(params, batch, step, self.rows), self.world
        )
        return loss, dict(zip(params, grads, strict=True))

    def _sums(self, params, batch: Callable, step: int, rows: range) -> list[torch.Tensor]:
        """Return [loss, *gradients] of some rows, the micro-batches added as a tree."""
        if len(rows) > self.micro_rows:
            left, right = (
                self._sums(params, batch, step, part)
                for part in distributed.branches(rows, self.micro_rows)
            )
            return torch._foreach_add(left, right)
        loss = self._loss(params, *self.inputs(batch, step, rows))
        # One layer has no skips to use
        return [
            loss.detach(),
            *torch.autograd.grad(loss, list(params.values()), materialize_grads=True),
        ]

    def inputs(self, batch: Callable, step: int, rows: range) -> tuple:
        """Return what the loss of a micro-batch takes beside the weights, on the device: windows,
        step, rows, noise, capacity.
        """
        prepared = self._prepared.pop((batch, step, rows), None)
        return self._inputs(batch, step, rows) if prepared is None else prepared

    def prepare(self, batch: Callable, step: int) -> None:
        """Read, draw and send the inputs of a step's micro-batches while the device is busy with
        the step before.
        """
        self._prepared = {
            (batch, step, rows): self._inputs(batch, step, rows) for rows in self._micro_batches()
        }

    def _micro_batches(self) -> list[range]:
        """Return the rows of each micro-batch of this rank."""
        count = self.micro_rows
        return [self.rows[first : first + count] for first in range(0, len(self.rows), count)]

    def _inputs(self, batch: Callable, step: int, rows: range) -> tuple:
        indices, objective = np.array(rows), objective_of(self.recipe.model)
        windows = tuple(self._sent(torch.as_tensor(part)) for part in batch(step, indices))
        noise, rows_B = objective.noise(self.recipe, step, indices), torch.from_numpy(indices)
        capacity = objective.capacity(step, rows_B, noise, self.recipe)
        return (
            windows,
            self._sent(torch.tensor(step)),
            self._sent(rows_B),
            tuple(self._sent(values) for values in noise),
            capacity,
        )

    def _sent(self, tensor: torch.Tensor) -> torch.Tensor:
        """Return a tensor of the host on the device, without waiting for what a GPU does now."""
        return (
            tensor.pin_memory().to(self.device, non_blocking=True)
            if self.device.type == "cuda"
            else tensor.to(self.device)
        )

    def __call__(
        self, state: State, batch: Callable, multiplier: float, averaging: bool
    ) -> torch.Tensor:
        """Advance state in place by one step; return the tensor (loss, gradient norm, applied)
        without waiting for it.
        """
        return self.update(
            state, *self.gradients(state.stored(), batch, state.step), multiplier, averaging
        )

    def update(
        self,
        state: State,
        loss: torch.Tensor,
        grads: dict[str, torch.Tensor],
        multiplier: float,
        averaging: bool,
    ) -> torch.Tensor:
        """Do what is left of a step once its gradients are known; return what the step returns."""
        values = self._sent(
            torch.tensor(controls(state, multiplier, averaging, self.recipe), dtype=torch.float64)
        )
        report = self._update(state.tensors(), grads, loss, values)
        state.step += 1
        return report

    def warm_up(self, state: State, batch: Callable) -> None:
        """Compile on a copy of the state, so that the training clock starts with the first real
        step.
        """
        copies = {
            group: {name: value.detach().clone() for name, value in members.items()}
            for group, members in state.tensors().items()
        }
        copies["params"] = {
            name: value.requires_grad_() for name, value in copies["params"].items()
        }
        for step, rows in self._shapes(state.step):
            self._sums(copies["params"], batch, step, rows)
        # Ranks do not compile equally fast, and a sum over them does not wait long
        distributed.wait(self.world)
        self(State(**copies, step=state.step), batch, 1.0, False)

    def _shapes(self, step: int) -> list[tuple[int, range]]:
        """Return a micro-batch (step, rows) for each shape of inputs that is to come from a step
        on.
        """
        objective, examples = objective_of(self.recipe.model), {}
        later = [first for first in schedule.causal_stages(self.recipe) if first > step]
        for coming in (step, *later):
            for rows in self._micro_batches():
                noise = objective.noise(self.recipe, coming, np.array(rows))
                examples.setdefault(tuple(values.shape for values in noise), (coming, rows))
        return list(examples.values())

    def culprit(self, state: State, batch: Callable, step: int) -> str:
        """Return what is not finite at a step whose update was withheld: the loss or the first
        tensor with a bad gradient.
        """
        loss, grads = self.gradients(state.stored(), batch, step)
        bad = [name for name, grad in grads.items() if not torch.isfinite(grad).all()]
        if not math.isfinite(loss):
            return f"loss ({float(loss)})"
        return f"gradient of {bad[0]}" if bad else "norm of all gradients together"


def train(
    batch: Callable,
    recipe: Recipe,
    state: State | None = None,
    stepper: Stepper | None = None,
    callbacks: Sequence[Callable[[State, StepReport], float | None]] = (),
    clock=time.perf_counter,
    world: World | None = None,
    *,
    choose: Callable[[dict, Callable, Recipe], dict] | None = None,
) -> tuple[State, list[float]]:
    """Return (state, losses) of a run, from `state` on (default: from the start) to the end of its
    budget, which rank 0's clock decides.

    batch(step, rows) returns the windows (ids_BL, previous_B) of some global rows. callbacks are
    called in order after every step; the seconds that they return are off the training clock.
    choose(shadow, batch, recipe) returns the exponents of the last quantization.aware_steps steps:
    artifact.choose_steps.
    """
    state, world = state or initial_state(recipe), world or World()
    stepper = stepper or Stepper(recipe, state.params["embedding"].device, False, world)
    losses = []
    begun = clock() - state.elapsed
    while not state.finished:
        seconds = schedule.step_seconds(state.durations)
        remaining = distributed.decide(
            schedule.remaining_steps(state.step, clock() - begun, seconds, recipe.training), world
        )
        state.multiplier = schedule.lr_multiplier(remaining, state.multiplier, recipe.training)
        if state.exponents is None and remaining <= recipe.quantization.aware_steps:
            made = distributed.made_by_rank_0(lambda: choose(state.shadow, batch, recipe), world)
            device = state.params["embedding"].device
            state.exponents = {name: value.to(device) for name, value in made.items()}
        result = stepper(state, batch, state.multiplier, state.ema_started_step is not None)
        if remaining > 1:
            stepper.prepare(batch, state.step)
        loss, norm, applied = result.tolist()
        now = clock() - begun
        if not applied:
            state.step -= 1
            raise TrainingError(
                f"step {state.step + 1}: {stepper.culprit(state, batch, state.step)} is not finite;"
                " weights are as before it"
            )
        if state.ema_started_step is None and ema.ema_starts(
            state.step, remaining - 1, recipe.ema.start
        ):
            state.ema_started_step = state.step
        state.durations = [*state.durations[-99:], now - state.elapsed]
        state.elapsed = now
        state.finished = remaining == 1
        losses.append(loss)
        report = StepReport(loss, norm, remaining - 1)
        begun += sum(callback(state, report) or 0.0 for callback in callbacks)
    return state, losses
