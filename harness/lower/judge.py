"""What fails a lowered path, one line per failure."""

from collections.abc import Iterable

from harness.lower import counts
from harness.lower.inductor import Launch
from harness.lower.ptx import Kernel
from harness.lower.trace import Trace

ALLOWED = {  # library calls that are neither a product nor attention, and why they may stay
    "aten.scatter_reduce_": "the gradient of the loss's gather, with one index per row: no sum",
    "aten.scatter_": "reveals tokens of a window, a few bytes per row; not in training",
    "aten.index_put_": "writes the costs of one drawn place, without adding; not in training",
    "aten.sort": "orders positions of a window too long for Inductor's sorts; not in training",
}


def base_of(name: str) -> str:
    """Return aten.NAME of an operator's full name."""
    return ".".join(name.removeprefix("torch.ops.").split(".")[:2])


def refusal(launch: Launch) -> str | None:
    """Return in a line why a launch must not be there, None where it may."""
    if launch.kind != "fallback":
        return None
    if launch.rows:
        return f"{launch.phase}: {launch.name} adds {launch.rows:,} rows, equal ones one by one"
    if base_of(launch.name) not in ALLOWED:
        return f"{launch.phase}: {launch.name} is a fallback without a reason in ALLOWED"
    return None


def of_trace(trace: Trace) -> list[str]:
    """Return the failures of a trace: graph breaks, no graph at all, indices beyond int32.

    Serial operations are judged as launches, where it is known what Inductor makes of them.
    """
    wide = [
        f"{graph.phase}: {line}"
        for graph in trace.graphs
        for line in counts.wide_indices(graph.module)
    ]
    missing = [] if trace.graphs or trace.problems else [f"{trace.name}: nothing was traced"]
    phases = [graph.phase for graph in trace.graphs]
    split = [
        f"{phase}: {phases.count(phase)} graphs instead of one"
        for phase in dict.fromkeys(phases)
        if phases.count(phase) > 1
    ]
    return [*trace.problems, *missing, *split, *wide]


def of_launches(launches: Iterable[Launch]) -> list[str]:
    """Return the failures of launches, without repetition."""
    return list(dict.fromkeys(line for line in map(refusal, launches) if line))


def of_kernels(kernels: Iterable[Kernel]) -> list[str]:
    """Return the failures of compiled kernels: errors and spills."""
    errors = {kernel: f"does not compile: {kernel.error}" for kernel in kernels if kernel.error}
    spills = {
        kernel: f"spills {kernel.spilled} bytes per thread" for kernel in kernels if kernel.spilled
    }
    failures = [*errors.items(), *spills.items()]
    return [f"{kernel.phase}: {kernel.name} {problem}" for kernel, problem in failures]
