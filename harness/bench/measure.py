"""What every benchmark shares: the machine in words, the shape of a row, paired timing."""

import os
import platform
import statistics
import time
from collections.abc import Callable


def machine(device: str) -> str:
    """Return the machine in words: processor, cores in use, torch."""
    import torch

    name = torch.cuda.get_device_name(device) if device != "cpu" else platform.processor() or platform.machine()
    return f"{name}, {torch.get_num_threads()} of {os.cpu_count()} cores, torch {torch.__version__}"


def row(name: str, baseline: float, candidate: float, ratio: float, low: float, high: float, pairs: int, unit: str) -> dict:
    """Return one row of SPEC section 13: ratio says how many times better the candidate is, low and high its interval."""
    measured = {"baseline": baseline, "candidate": candidate, "ratio": ratio, "low": low, "high": high}
    return {"name": name, **measured, "pairs": pairs, "unit": unit}


def seconds(run: Callable, device: str = "cpu") -> float:
    """Return the seconds that run() takes, the device's queue drained before and after."""
    import torch

    wait = (lambda: None) if device == "cpu" else torch.cuda.synchronize
    wait()
    begun = time.perf_counter()
    run()
    wait()
    return time.perf_counter() - begun


def paired(name: str, baseline: Callable, candidate: Callable, pairs: int, device: str = "cpu", warm: int = 1) -> dict:
    """Return the row of two ways timed in turns, A B A B: medians in ms, the median ratio of a pair, the least and the largest."""
    timed = [(seconds(baseline, device), seconds(candidate, device)) for _ in range(warm + pairs)][warm:]
    ratios = [slow / quick for slow, quick in timed]
    middle = [1e3 * statistics.median(side) for side in zip(*timed, strict=True)]
    return row(name, *middle, statistics.median(ratios), min(ratios), max(ratios), pairs, "ms")
