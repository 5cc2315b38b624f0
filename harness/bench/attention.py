"""Attention kernels side by side: forward and backward at the shapes of a model, keys and values
copied per query head or grouped.
"""

import warnings
from collections.abc import Callable, Iterator
from contextlib import nullcontext

import torch
import torch.nn.functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel

from fast import transformer
from harness.bench.measure import paired, row
from harness.parity.compare import rms, unit_roundoff
from reference.recipe import Model

KERNELS = {
    "flash": SDPBackend.FLASH_ATTENTION,
    "cudnn": SDPBackend.CUDNN_ATTENTION,
    "efficient": SDPBackend.EFFICIENT_ATTENTION,
    "math": SDPBackend.MATH,
}
# Query and key/value heads that keep the shape of every matrix of golf: 6 x 96 = 8 x 72.
OTHER_HEADS = (6, 3)
ABSENT = (
    "No available kernel",
    "No viable backend",
    "cuDNN Frontend error",
    "No execution plans support",
)  # how torch says so
CHECKED = 2  # rows whose output and gradients are compared before anything is timed


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
    return all(
        theirs.get(name) == shape for name, shape in ours.items() if not name.endswith("query_gain")
    )


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
        k_BGLh, v_BGLh = (
            x.repeat_interleave(q_BHLh.shape[1] // x.shape[1], dim=1) for x in (k_BGLh, v_BGLh)
        )
    with only(kernel), warnings.catch_warnings():
        warnings.simplefilter(
            "ignore"
        )  # why a kernel is not available: the exception says that it is not
        return F.scaled_dot_product_attention(q_BHLh, k_BGLh, v_BGLh, enable_gqa=grouped)


def inputs(model: Model, rows: int, device: str, dtype: torch.dtype) -> tuple[torch.Tensor, ...]:
    """Return random q, k, v that want gradients, and the gradient of the output."""
    width, generator = model.d // model.heads, torch.Generator().manual_seed(0)

    def draw(heads: int) -> torch.Tensor:
        return torch.randn(rows, heads, model.length, width, generator=generator).to(device, dtype)

    q, k, v = (
        draw(heads).requires_grad_() for heads in (model.heads, model.kv_heads, model.kv_heads)
    )
    return q, k, v, draw(model.heads)


def both_ways(
    given: tuple[torch.Tensor, ...], kernel: str | None, grouped: bool
) -> tuple[torch.Tensor, ...]:
    """Return the output and the gradients of q, k and v."""
    q, k, v, upstream = given
    y = attend(q, k, v, kernel, grouped)
    return y, *torch.autograd.grad(y, (q, k, v), upstream)


def _eager(given: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...]:
    q, k, v, upstream = given
    k_BHLh, v_BHLh = (x.repeat_interleave(q.shape[1] // x.shape[1], dim=1) for x in (k, v))
    y = torch.softmax(q @ k_BHLh.mT / q.shape[-1] ** 0.5, dim=-1) @ v_BHLh
    return y, *torch.autograd.grad(y, (q, k, v), upstream)


def excess(given: tuple[torch.Tensor, ...], kernel: str | None, grouped: bool) -> float:
    """Return the largest rms error of output and gradients over its limit: twice that of the
    formula run eagerly in the same dtype.
    """
    few = tuple(x[:CHECKED].detach().requires_grad_(x.requires_grad) for x in given)
    wide = tuple(x.detach().double().requires_grad_(x.requires_grad) for x in few)
    worst = 0.0
    for found, plain, exact in zip(
        both_ways(few, kernel, grouped), _eager(few), _eager(wide), strict=True
    ):
        limit = 2 * max(rms(plain.double() - exact), unit_roundoff(found.dtype) * rms(exact))
        worst = max(worst, rms(found.double() - exact) / limit)
    return worst


def compared(
    name: str,
    given: tuple,
    baseline: Callable,
    kernel: str | None,
    grouped: bool,
    pairs: int,
    device: str,
) -> dict:
    """Return the row of one kernel against the baseline; its note says where the kernel is not
    available or wrong.
    """
    nothing = row(name, None, None, None, None, None, 0, "ms")
    try:
        error = excess(given, kernel, grouped)
    except RuntimeError as problem:
        if not absence(problem):
            raise
        return nothing | {"note": absence(problem)}
    if not error <= 1:
        return nothing | {"note": f"failed: its error is {error:.3g} times the limit"}
    return paired(name, baseline, lambda: both_ways(given, kernel, grouped), pairs, device)


def jobs(
    models: dict[str, Model], rows: int, device: str, dtype: torch.dtype, pairs: int
) -> Iterator[tuple[str, Callable[[], dict]]]:
    """Yield (name, job) per comparison: within each model against torch's choice on copied heads,
    then that choice across the models.
    """
    for label, model in models.items():
        given = inputs(model, rows, device, dtype)
        for kernel in (None, *KERNELS):
            for grouped in (False, True):
                if kernel or grouped:
                    name = (
                        f"attention {label}: {kernel or 'default'}{', grouped' if grouped else ''}"
                        " / default"
                    )
                    yield (
                        name,
                        lambda g=given, k=kernel, s=grouped, n=name: compared(
                            n, g, lambda: both_ways(g, None, False), k, s, pairs, device
                        ),
                    )
    (first, one), *others = models.items()
    for label, other in others:
        name, base = f"attention {label} / {first}", inputs(one, rows, device, dtype)
        given = inputs(other, rows, device, dtype)
        yield (
            name,
            lambda g=given, b=base, n=name: compared(
                n, g, lambda: both_ways(b, None, False), None, False, pairs, device
            ),
        )
