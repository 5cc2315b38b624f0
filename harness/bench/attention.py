"""Attention kernels side by side: forward and backward at the shapes of a model, keys and values
copied per query head or grouped.
"""

import warnings
from collections.abc import Callable
from contextlib import nullcontext
from functools import partial

import torch
import torch.nn.functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel

from fast import transformer
from harness.bench.measure import Jobs, job, noted, paired
from harness.parity.compare import Difference, rms, unit_roundoff
from reference.recipe import Model

KERNELS = {
    "flash": SDPBackend.FLASH_ATTENTION,
    "cudnn": SDPBackend.CUDNN_ATTENTION,
    "efficient": SDPBackend.EFFICIENT_ATTENTION,
    "math": SDPBackend.MATH,
}
# Query and key/value heads that keep the shape of every matrix of golf: 6 x 96 = 8 x 72.
OTHER_HEADS = (6, 3)
ABSENT = (  # how torch says that a kernel is not available
    "No available kernel",
    "No viable backend",
    "cuDNN Frontend error",
    "No execution plans support",
)
CHECKED = 2  # rows whose output and gradients are compared before anything is timed
Inputs = tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]


def only(kernel: str | None):
    """Return the context in which attention runs by one kernel of KERNELS; None leaves torch its
    choice.
    """
    return sdpa_kernel(KERNELS[kernel]) if kernel else nullcontext()


def absence(error: RuntimeError) -> str | None:
    """Return in a line why a kernel is not to be had here; None for an error of another kind."""
    if isinstance(error, torch.OutOfMemoryError):
        return "not available: out of memory"
    return next((f"not available: {words}" for words in ABSENT if words in str(error)), None)


def same_matrices(model: Model, other: Model) -> bool:
    """Return whether two models have matrices of the same shapes; the gains, one per query head,
    may differ.
    """
    ours, theirs = transformer.shapes(model), transformer.shapes(other)
    return all(theirs.get(name) == ours[name] for name in ours if not name.endswith("query_gain"))


def attend(
    q_BHLh: torch.Tensor,
    k_BGLh: torch.Tensor,
    v_BGLh: torch.Tensor,
    kernel: str | None = None,
    grouped: bool = False,
) -> torch.Tensor:
    """Return softmax(q k' / sqrt(h)) v, every key/value head serving H / G query heads; grouped
    leaves the sharing to the kernel.
    """
    if not grouped:
        k_BGLh, v_BGLh = copied(q_BHLh, k_BGLh, v_BGLh)
    with only(kernel), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the exception says that a kernel is not available
        return F.scaled_dot_product_attention(q_BHLh, k_BGLh, v_BGLh, enable_gqa=grouped)


def copied(q_BHLh: torch.Tensor, *tensors: torch.Tensor) -> list[torch.Tensor]:
    """Return key/value heads copied for each of their query heads."""
    return [x.repeat_interleave(q_BHLh.shape[1] // x.shape[1], dim=1) for x in tensors]


def formula(q_BHLh: torch.Tensor, k_BGLh: torch.Tensor, v_BGLh: torch.Tensor) -> torch.Tensor:
    """Return attention as the formula says, eagerly."""
    k_BHLh, v_BHLh = copied(q_BHLh, k_BGLh, v_BGLh)
    return torch.softmax(q_BHLh @ k_BHLh.mT / q_BHLh.shape[-1] ** 0.5, dim=-1) @ v_BHLh


def inputs(model: Model, rows: int, device: str, dtype: torch.dtype) -> Inputs:
    """Return random q, k, v that want gradients, and the gradient of the output."""
    width, generator = model.d // model.heads, torch.Generator().manual_seed(0)

    def draw(heads: int) -> torch.Tensor:
        return torch.randn(rows, heads, model.length, width, generator=generator).to(device, dtype)

    leaves = [draw(heads).requires_grad_() for heads in (model.heads, *[model.kv_heads] * 2)]
    return *leaves, draw(model.heads)


def both_ways(run: Callable, given: Inputs) -> tuple[torch.Tensor, ...]:
    """Return the output of run(q, k, v) and the gradients of q, k and v."""
    *leaves, upstream = given
    y = run(*leaves)
    return y, *torch.autograd.grad(y, leaves, upstream)


def excess(given: Inputs, run: Callable) -> float:
    """Return the largest rms error of output and gradients over its limit: twice that of the
    formula run eagerly in the same dtype.
    """
    few = [x[:CHECKED].detach().requires_grad_(x.requires_grad) for x in given]
    wide = [x.detach().double().requires_grad_(x.requires_grad) for x in few]
    results = both_ways(run, few), both_ways(formula, few), both_ways(formula, wide)
    ratios = []
    for value, rough, exact in zip(*results, strict=True):
        limit = 2 * max(rms(rough.double() - exact), unit_roundoff(value.dtype) * rms(exact))
        ratios.append(Difference(rms(value.double() - exact), limit).ratio)
    return max(ratios)


def trouble(given: Inputs, kernel: str | None, grouped: bool = False) -> str | None:
    """Return in a line why a kernel is not timed: not available, or wrong; None where it is
    right.
    """
    try:
        error = excess(given, lambda *tensors: attend(*tensors, kernel, grouped))
    except RuntimeError as problem:
        if not absence(problem):
            raise
        return absence(problem)
    return None if error <= 1 else f"failed: its error is {error:.3g} times the limit"


def compared(
    name: str,
    given: Inputs,
    baseline: Callable,
    kernel: str | None,
    grouped: bool,
    pairs: int,
    device: str,
) -> dict:
    """Return the row of one kernel against the baseline; its note says where the kernel is not
    available or wrong.
    """
    note = trouble(given, kernel, grouped)
    if note:
        return noted(name, note, "ms")
    return paired(name, baseline, timed(given, kernel, grouped), pairs, device)


def timed(given: Inputs, kernel: str | None = None, grouped: bool = False) -> Callable:
    """Return what is timed: forward and backward by one kernel."""
    return partial(both_ways, lambda *tensors: attend(*tensors, kernel, grouped), given)


def jobs(models: dict[str, Model], rows: int, device: str, dtype: torch.dtype, pairs: int) -> Jobs:
    """Yield (name, job) per comparison: within each model against torch's choice on copied heads,
    then that choice across the models.
    """
    drawn = {label: inputs(model, rows, device, dtype) for label, model in models.items()}
    for label, given in drawn.items():
        for kernel in (None, *KERNELS):
            for grouped in (False, True) if kernel else (True,):
                way = f"{kernel or 'default'}{', grouped' if grouped else ''}"
                name = f"attention {label}: {way} / default"
                yield job(name, compared, given, timed(given), kernel, grouped, pairs, device)
    first, *others = drawn
    for label in others:
        ways = drawn[label], timed(drawn[first]), None, False
        yield job(f"attention {label} / {first}", compared, *ways, pairs, device)
