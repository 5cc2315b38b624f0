"""What every benchmark shares: the machine in words, the shape of a row, paired timing."""

import os
import platform
import statistics
import subprocess
import time
from collections.abc import Callable, Iterator
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import torch

Jobs = Iterator[tuple[str, Callable[[], dict]]]  # names and what measures their rows


def machine(device: str) -> str:
    """Return the machine in words: processor or GPU with its driver, cores in use, torch,
    Python.
    """
    if device == "cpu":
        name = processor()
    else:
        name = f"{torch.cuda.get_device_name(device)}, driver {driver()}, CUDA {torch.version.cuda}"
    return (
        f"{name}, {torch.get_num_threads()} of {os.cpu_count()} cores, torch {torch.__version__},"
        f" Python {platform.python_version()}"
    )


def processor() -> str:
    """Return the processor's name as Linux gives it, elsewhere what Python knows of it."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    named = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(named, "") or platform.processor() or platform.machine()


def driver() -> str:
    """Return the version of the NVIDIA driver, as its own tool says."""
    command = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    try:
        output = subprocess.run(command, capture_output=True, text=True, timeout=20).stdout
    except (OSError, subprocess.TimeoutExpired):
        output = ""
    return next(iter(output.split()), "unknown")


def facts(device: str) -> str:
    """Return what decides whether code runs on a device: its kind, its memory, the versions of what
    compiles and runs there.
    """
    try:
        triton = version("triton")
    except PackageNotFoundError:
        triton = "not installed"
    if torch.device(device).type != "cuda":
        return f"{machine(device)}, Triton {triton}"
    gpu = torch.cuda.get_device_properties(device)
    kind = f"capability {gpu.major}.{gpu.minor}, {gpu.total_memory / 2**30:.1f} GiB"
    cudnn = torch.backends.cudnn.version()
    return f"{machine(device)}, {kind}, cuDNN {cudnn}, Triton {triton}"


def alive(device: str) -> bool:
    """Return whether a device still computes: after an illegal access nothing runs in the same
    process.
    """
    try:
        return int(torch.ones(1, device=device).add(1).item()) == 2
    except RuntimeError:
        return False


def row(
    name: str,
    baseline: float | None = None,
    candidate: float | None = None,
    ratio: float | None = None,
    low: float | None = None,
    high: float | None = None,
    pairs: int = 0,
    unit: str = "",
) -> dict:
    """Return one row of SPEC section 13: ratio, how many times better the candidate is; low, high,
    its interval; None: not measured.
    """
    return dict(
        name=name,
        baseline=baseline,
        candidate=candidate,
        ratio=ratio,
        low=low,
        high=high,
        pairs=pairs,
        unit=unit,
    )


def number(name: str, value: float, unit: str) -> dict:
    """Return the row of one measured number."""
    return row(name, candidate=value, pairs=1, unit=unit)


def noted(name: str, note: str, unit: str = "") -> dict:
    """Return the row of what is no number, or was not measured."""
    return row(name, unit=unit) | {"note": note}


def job(name: str, measure: Callable, *arguments) -> tuple[str, Callable[[], dict]]:
    """Return (name, job) of measure(name, *arguments)."""
    return name, partial(measure, name, *arguments)


def compiler(compiled: bool) -> Callable:
    """Return what makes a function one compiled graph, or leaves it as it is."""
    return partial(torch.compile, dynamic=False, fullgraph=True) if compiled else lambda run: run


def waiting(device: str) -> Callable:
    """Return the function that waits until a device has done what it was given."""
    return (lambda: None) if device == "cpu" else torch.cuda.synchronize


def seconds(run: Callable, device: str = "cpu") -> float:
    """Return the seconds that run() takes, the device's queue drained before and after."""
    wait = waiting(device)
    wait()
    begun = time.perf_counter()
    run()
    wait()
    return time.perf_counter() - begun


def turns(pairs: int, *clocks: Callable[[], float]) -> list[tuple[float, ...]]:
    """Return the seconds that clocks tell in turns, A B A B, after a first turn that warms up."""
    return [tuple(clock() for clock in clocks) for _ in range(1 + pairs)][1:]


def compared(name: str, timed: list[tuple[float, float]]) -> dict:
    """Return the row of pairs of seconds, baseline first: medians in ms, the median ratio of a
    pair, the least and the largest.
    """
    ratios = [slow / quick for slow, quick in timed]
    middle = [1e3 * statistics.median(side) for side in zip(*timed, strict=True)]
    return row(name, *middle, statistics.median(ratios), min(ratios), max(ratios), len(timed), "ms")


def paired(
    name: str, baseline: Callable, candidate: Callable, pairs: int, device: str = "cpu"
) -> dict:
    """Return the row of two ways timed in turns."""
    clocks = partial(seconds, baseline, device), partial(seconds, candidate, device)
    return compared(name, turns(pairs, *clocks))


def as_rate(timed: dict, tokens: float) -> dict:
    """Return a row of milliseconds as tokens per second."""
    rates = {side: 1e3 * tokens / timed[side] for side in ("baseline", "candidate")}
    return timed | {"unit": "tokens/s"} | rates


def on_machine(rows: list[dict], device: str) -> list[dict]:
    """Return rows with the machine that they were measured on."""
    return [one | {"machine": machine(device)} for one in rows]
