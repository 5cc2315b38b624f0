"""Single changes to the production step, each alone: compiler options, attention kernels, other
batch or head counts.
"""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import replace
from typing import NamedTuple
from unittest import mock

import torch
from torch._functorch import config as functorch_config
from torch._inductor import config as inductor_config
from torch._inductor.compile_fx import compile_fx

from fast import masking, train
from fast.train import deterministic
from harness.bench import attention
from reference.recipe import Recipe


def _micro_batch(factor: float) -> Callable[[Recipe], Recipe]:
    def change(recipe: Recipe) -> Recipe:
        tokens = int(factor * recipe.training.micro_batch_tokens)
        return replace(recipe, training=replace(recipe.training, micro_batch_tokens=tokens))

    return change


def other_heads(recipe: Recipe) -> Recipe:
    """Return the recipe with 6 query and 3 key/value heads."""
    heads, kv_heads = attention.OTHER_HEADS
    return replace(recipe, model=replace(recipe.model, heads=heads, kv_heads=kv_heads))


class Lever(NamedTuple):
    """One change: of the recipe, of the compiler's options, or of the context in which
    components.Production compiles and runs the step.
    """

    name: str
    recipe: Callable[[Recipe], Recipe] = lambda recipe: recipe
    options: dict = {}
    context: Callable = deterministic
    same: bool = True  # the gradients are those of the production step, up to rounding
    only_on: str = ""  # the kind of device that has it; empty: any


def _kernel(name: str) -> Callable:
    @contextmanager
    def context():
        with deterministic(), attention.only(name):
            yield

    return context


@contextmanager
def _deterministic_attention():
    """Flash, whose backward repeats to the last bit only where algorithms that do not are errors,
    not warnings.
    """
    with deterministic(repeatable=True), attention.only("flash"):
        yield


@contextmanager
def _graphs():
    """Copy what a graph returns before it runs again, into the same memory."""
    sums = train.Stepper._sums

    def kept(*arguments):
        torch.compiler.cudagraph_mark_step_begin()
        return [value.clone() for value in sums(*arguments)]

    with deterministic(), mock.patch.object(train.Stepper, "_sums", kept):
        yield


@contextmanager
def _whole_head():
    with (
        deterministic(),
        mock.patch.object(masking, "capacity", lambda rows, length: rows * length),
    ):
        yield


LEVERS = (  # what compiles fastest comes first: the budget may end before the last
    Lever("mix-order reduction off", options={"triton.mix_order_reduction": False}),
    Lever("sums in any order", context=nullcontext),
    Lever("flash attention", context=_kernel("flash")),
    Lever("cudnn attention", context=_kernel("cudnn")),
    Lever("deterministic attention", context=_deterministic_attention),
    Lever("CUDA graphs", options={"triton.cudagraphs": True}, context=_graphs, only_on="cuda"),
    Lever("logits at every position", context=_whole_head),
    Lever("6 query and 3 key/value heads", recipe=other_heads, same=False),
    Lever("micro-batches of half the tokens", recipe=_micro_batch(0.5)),
    Lever("micro-batches of twice the tokens", recipe=_micro_batch(2)),
    Lever("coordinate descent tuning", options={"coordinate_descent_tuning": True}),
    Lever("products by the library alone", options={"max_autotune_gemm": False}, only_on="cuda"),
    Lever("max-autotune", options={"max_autotune": True}),
)


def absence(lever: Lever, device: str) -> str | None:
    """Return in a line why a lever is not to be had on a device with this torch, None where it
    is.
    """
    known = inductor_config.get_config_copy()
    missing = [option for option in lever.options if option not in known]
    if lever.only_on and torch.device(device).type != lever.only_on:
        return f"not available: only on {lever.only_on}"
    if missing:
        return f"not available: torch {torch.__version__} has no option {missing[0]}"
    return None


@contextmanager
def pulled(lever: Lever) -> Iterator[None]:
    """Compile under a lever's options. Graphs of the unchanged step are not taken for its own:
    every use is another backend to Dynamo, and what AOTAutograd keeps on disk, which does not know
    the attention kernel, is not asked.
    """
    compile = torch.compile

    def backend(graph, examples, options=None):  # options: production's own, where it has some
        return compile_fx(graph, examples, config_patches={**(options or {}), **lever.options})

    with ExitStack() as stack:
        stack.enter_context(
            mock.patch.object(
                torch,
                "compile",
                lambda *given, **settings: compile(*given, backend=backend, **settings),
            )
        )
        stack.enter_context(functorch_config.patch(enable_autograd_cache=False))
        yield
