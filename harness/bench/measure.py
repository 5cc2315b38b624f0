"""What every benchmark shares: the machine in words, the shape of a row, paired timing."""

import os
import platform
import statistics
import subprocess
import time
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path


def machine(device: str) -> str:
    """Return the machine in words: processor or GPU with its driver, cores in use, torch,
    Python.
    """
    import torch

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
        said = subprocess.run(command, capture_output=True, text=True, timeout=20).stdout.split()
    except (OSError, subprocess.TimeoutExpired):
        said = []
    return said[0] if said else "unknown"


def facts(device: str) -> str:
    """Return what decides whether code runs on a device: its kind, its memory, the versions of what
    compiles and runs there.
    """
    import torch

    try:
        triton = version("triton")
    except PackageNotFoundError:
        triton = "not installed"
    if torch.device(device).type != "cuda":
        return f"{machine(device)}, Triton {triton}"
    found = torch.cuda.get_device_properties(device)
    kind = f"capability {found.major}.{found.minor}, {found.total_memory / 2**30:.1f} GiB"
    cudnn = torch.backends.cudnn.version()
    return f"{machine(device)}, {kind}, cuDNN {cudnn}, Triton {triton}"


def alive(device: str) -> bool:
    """Return whether a device still computes: after an illegal access nothing runs in the same
    process.
    """
    import torch

    try:
        return int(torch.ones(1, device=device).add(1).item()) == 2
    except RuntimeError:
        return False


def row(
    name: str,
    baseline: float | None,
    candidate: float | None,
    ratio: float | None,
    low: float | None,
    high: float | None,
    pairs: int,
    unit: str,
) -> dict:
    """Return one row of SPEC section 13: ratio, how many times better the candidate is; low, high,
    its interval; None: not measured.
    """
    measured = {
        "baseline": baseline,
        "candidate": candidate,
        "ratio": ratio,
        "low": low,
        "high": high,
    }
    return {"name": name, **measured, "pairs": pairs, "unit": unit}


def waiting(device: str) -> Callable:
    """Return the function that waits until a device has done what it was given."""
    import torch

    return (lambda: None) if device == "cpu" else torch.cuda.synchronize


def seconds(run: Callable, device: str = "cpu") -> float:
    """Return the seconds that run() takes, the device's queue drained before and after."""
    wait = waiting(device)
    wait()
    begun = time.perf_counter()
    run()
    wait()
    return time.perf_counter() - begun


def compared(name: str, timed: list[tuple[float, float]]) -> dict:
    """Return the row of pairs of seconds, baseline first: medians in ms, the median ratio of a
    pair, the least and the largest.
    """
    ratios = [slow / quick for slow, quick in timed]
    middle = [1e3 * statistics.median(side) for side in zip(*timed, strict=True)]
    return row(name, *middle, statistics.median(ratios), min(ratios), max(ratios), len(timed), "ms")


def paired(
    name: str,
    baseline: Callable,
    candidate: Callable,
    pairs: int,
    device: str = "cpu",
    warm: int = 1,
) -> dict:
    """Return the row of two ways timed in turns, A B A B."""
    timed = [(seconds(baseline, device), seconds(candidate, device)) for _ in range(warm + pairs)][
        warm:
    ]
    return compared(name, timed)
