"""What production runs, traced with fake tensors into ATen graphs: no GPU, no CUDA build.

Production itself says what it runs. It prepares its inputs on the CPU from random tokens, which is
cheap at any size; they are replaced by fake tensors of the same shapes, and torch.compile hands its
graphs over instead of compiling them. Weights and activations never exist.
"""

import contextlib
import dataclasses
import inspect
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from unittest import mock

import numpy as np
import torch
from torch._dynamo.utils import counters
from torch._inductor import compile_fx
from torch._subclasses.fake_tensor import (
    DataDependentOutputException,
    DynamicOutputShapeException,
    FakeTensorMode,
)

from fast import chain, data, evaluate, orders, sample, train, transformer
from fast.objective import objective_of
from fast.row_predictor import RowPredictor
from harness.lower import attention
from reference.recipe import Recipe

WINDOWS = inspect.signature(evaluate.evaluate).parameters["batch_rows"].default  # per pass
POSITIONS = 8  # drawn per window by the sampled chain; no pass depends on it but for a column
SEED = 0
BREAKS = (  # Dynamo's, and what code outside it meets when it asks a fake tensor for its value
    torch._dynamo.exc.TorchDynamoException,
    DataDependentOutputException,
    DynamicOutputShapeException,
)


class Traced(Exception):
    """The pass that was wanted is traced; whoever asked for it need not go on."""


@dataclass(frozen=True)
class Graph:
    """One ATen graph as AOTAutograd hands it to Inductor."""

    phase: str  # what production does in it
    module: torch.fx.GraphModule
    inputs: list  # fake tensors on the CPU
    keywords: dict  # of Inductor's inner compiler
    options: dict = dataclasses.field(default_factory=dict)  # of Inductor, as production sets them


@dataclass
class Trace:
    """What was traced of one phase."""

    name: str
    graphs: list[Graph]
    problems: list[str]  # what went wrong, one line each; empty in a sound trace


def faked(value, mode: FakeTensorMode):
    """Return tensors, alone or in tuples, lists, dicts and dataclasses, as fake ones."""
    if isinstance(value, torch.Tensor):
        with mode:
            fake = torch.empty_strided(value.shape, value.stride(), dtype=value.dtype)
        return fake.requires_grad_(value.requires_grad)
    if isinstance(value, dict):
        return {name: faked(item, mode) for name, item in value.items()}
    if isinstance(value, tuple | list):
        inner = [faked(item, mode) for item in value]
        return type(value)(*inner) if hasattr(value, "_fields") else type(value)(inner)
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        fields = (field.name for field in dataclasses.fields(value) if field.init)
        return replace(value, **{name: faked(getattr(value, name), mode) for name in fields})
    return value


def phase_of(keywords: dict, name: str) -> str:
    """Return the phase of a graph: of a loss that is differentiated, the second one is backward."""
    return "backward" if keywords.get("is_backward") else name


@contextlib.contextmanager
def captured(name: str, kernel: str) -> Iterator[tuple[FakeTensorMode, Trace]]:
    """Within it, torch.compile traces what it is given; yields the tensors' mode and the Trace.

    What production asks of the device is answered as on a GPU; attention is CUDA's, `kernel` the
    one that is chosen for half precision. Exceptions of Dynamo and graph breaks become problems
    of the trace.
    """
    trace, mode, compiled = Trace(name, [], []), FakeTensorMode(), torch.compile

    def inner(options, module, inputs, **keywords):
        phase = phase_of(keywords, name)
        trace.graphs.append(Graph(phase, module, list(inputs), keywords, options))

        def run(arguments):
            return torch.fx.Interpreter(module).run(*arguments)

        run._boxed_call = True
        return run

    def backend(module, inputs, options=None):
        return compile_fx.compile_fx(module, inputs, inner_compile=partial(inner, options or {}))

    on_gpu = partial(train.compiler_options, device=torch.device("cuda"))
    attend = attention.operator(kernel)
    torch._dynamo.reset()
    counters.clear()
    with contextlib.ExitStack() as stack:
        patch = mock.patch.object
        stack.enter_context(patch(torch, "compile", partial(compiled, backend=backend)))
        stack.enter_context(patch(train, "compiler_options", lambda training, _: on_gpu(training)))
        stack.enter_context(patch(transformer, "_written_for_gpus", lambda _: True))
        stack.enter_context(patch(torch.nn.functional, "scaled_dot_product_attention", attend))
        stack.enter_context(train.deterministic())
        try:
            yield mode, trace
        except Traced:
            pass
        except BREAKS as error:
            trace.problems.append(f"{name}: graph break: {first_line(error)}")
        breaks = counters["graph_break"]
        trace.problems += [f"{name}: graph break: {first_line(reason)}" for reason in breaks]
    torch._dynamo.reset()


def first_line(error) -> str:
    """Return the first line of a message that says anything."""
    lines = (line.strip() for line in str(error).splitlines())
    return next((line for line in lines if line), type(error).__name__)


def windows(recipe: Recipe, rows: int, extra: int = 0) -> np.ndarray:
    """Return random ids, int64 (rows, L + extra)."""
    shape = (rows, recipe.model.length + extra)
    return np.random.default_rng(SEED).integers(0, recipe.model.vocab, shape)


def training(recipe: Recipe, kernel: str) -> list[Trace]:
    """Return the traces of a training step: a micro-batch forward and backward, and the update."""

    def batch(step, rows):
        return data.windows_of(windows(recipe, len(rows), 1))

    with captured("forward", kernel) as (mode, passes):
        with mode:
            stepper = train.Stepper(recipe, "cpu")
            state = train.initial_state(recipe)
        rows = stepper.rows[: stepper.micro_rows]
        given = faked(stepper.inputs(batch, 0, rows), mode)
        stepper.inputs = lambda *_: given
        with mode:
            loss, *grads = stepper._sums(state.params, batch, 0, rows)
    if passes.problems:
        return [passes]
    grads = dict(zip(state.params, grads, strict=True))
    with captured("update", kernel) as (_, update):
        with mode:
            train.Stepper(recipe, "cpu").update(state, loss, grads, 1.0, True)
    return [passes, update]


class FirstPass(RowPredictor):
    """A RowPredictor whose first pass is traced; then it leaves the loop that asked for it."""

    mode = None

    def most_rows(self, length: int) -> int:
        """Return how many windows a GPU takes at once: any number."""
        return 2**31

    def run(self, function: Callable, length: int, *settings) -> Callable:
        """Return the compiled pass, which raises Traced."""
        compiled, mode = super().run(function, length, *settings), self.mode

        def traced(*tensors):
            given = faked(tensors, mode)
            with mode:
                compiled(*given)
            raise Traced

        return traced


def _weights(recipe: Recipe) -> dict[str, torch.Tensor]:
    return train.initial_state(recipe).shadow


def _query(recipe: Recipe, mode: FakeTensorMode) -> FirstPass:
    dtype = getattr(torch, recipe.training.compute_dtype)
    with mode:
        query = FirstPass(_weights(recipe), recipe.model, dtype, "cpu", compiled=True)
    query.mode = mode
    return query


def _causal(recipe: Recipe, mode: FakeTensorMode) -> None:
    recipe = replace(recipe, model=replace(recipe.model, causal=True))
    ids_BL = faked(torch.from_numpy(windows(recipe, WINDOWS)), mode)
    with mode:
        evaluate.predictor(_weights(recipe), recipe, "cpu", compiled=True)(ids_BL)


def _sampling(recipe: Recipe, mode: FakeTensorMode) -> None:
    known = objective_of(recipe.model).orders
    order = "confidence" if "confidence" in known else known[0]
    vocab, length = recipe.model.vocab, recipe.model.length
    rows_B = torch.arange(WINDOWS)
    priority_BL = orders.priorities(order, SEED, rows_B, length, 32)
    given = faked((torch.full((WINDOWS, length), vocab), rows_B, priority_BL), mode)
    with mode, torch.no_grad():
        ask = chain.by_rows(evaluate.predictor(_weights(recipe), recipe, "cpu"))

        def one_pass(ids_BL, rows_B, priority_BL):
            draws = sample._Draws(ids_BL, rows_B, vocab, SEED, 1.0)
            sample._pass(ask, draws, priority_BL, vocab, length, order, 0, length, 1)
            return draws.so_far

        torch.compile(one_pass, dynamic=False, fullgraph=True)(*given)


def _chain(query: FirstPass, ids_NL: np.ndarray, vocab: int, order: str) -> None:
    chain.chain(query, ids_NL, vocab, order, SEED, 1, 32)


def _sampled(query: FirstPass, ids_NL: np.ndarray, vocab: int) -> None:
    positions = min(POSITIONS, ids_NL.shape[1])
    chain.sampled(query, ids_NL, vocab, "random", SEED, positions)


MASKED = {  # of a masked-diffusion model alone: what asks for its passes
    "nelbo": lambda query, ids_NL, vocab: query(torch.from_numpy(ids_NL)),
    "chain fixed": partial(_chain, order="random"),
    "chain adaptive": partial(_chain, order="confidence"),
    "chain sampled": _sampled,
    "chain trailing": lambda query, ids_NL, vocab: chain.trailing(
        query, ids_NL, vocab, ids_NL.shape[1] // 8
    ),
}


def _masked(recipe: Recipe, mode: FakeTensorMode, ask: Callable) -> None:
    ask(_query(recipe, mode), windows(recipe, WINDOWS), recipe.model.vocab)


PASSES = {name: partial(_masked, ask=ask) for name, ask in MASKED.items()}
PASSES |= {"causal": _causal, "sampling": _sampling}
PHASES = ("training", *PASSES)  # what can be asked for


def traces(recipe: Recipe, kernel: str = "cudnn", phases=PHASES) -> Iterator[Trace]:
    """Yield the traces of what production runs at a recipe, of some of PHASES.

    Training is one phase to ask for and gives three graphs: forward, backward and update. In
    sampling, the choice of the positions and the draw are traced together with the network; in
    production they run uncompiled behind it.
    """
    if "training" in phases:
        yield from training(recipe, kernel)
    for name, function in PASSES.items():
        if name in phases and (name not in MASKED or objective_of(recipe.model).single_rows):
            with captured(name, kernel) as (mode, trace):
                function(recipe, mode)
            yield trace
