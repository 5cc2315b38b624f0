"""Two result files side by side: rows of any `maskgolf bench`, or what `make bench` wrote
(pytest-benchmark), matched by name.
"""

import itertools
import json
import math
from pathlib import Path

from harness.bench import results
from harness.bench.measure import row
from reference.recipe import InputError

NUMBERS = ("baseline", "candidate", "ratio", "low", "high")
OURS = ("fast", "compiled")  # the implementations that make bench compares with every other


def files(paths: tuple[Path, ...]) -> dict:
    """Return two files' machines and their rows side by side; rows that only one of them holds have
    null on the other side.
    """
    if len(paths) != 2:
        raise InputError(
            "bench compare: expected two result files, "
            f"found {len(paths)}; name two, as in maskgolf bench compare a.json b.json"
        )
    sides = [read(path) for path in paths]
    names = dict.fromkeys(name for side in sides for name in side)
    described = [
        {"file": str(path), "machine": _machines(side)}
        for path, side in zip(paths, sides, strict=True)
    ]
    return {
        "a": described[0],
        "b": described[1],
        "rows": [_matched(name, *(side.get(name) for side in sides)) for name in names],
    }


def read(path: Path) -> dict[str, dict]:
    """Return {name: row} of a result file; InputError for anything else."""

    def refused(problem: str) -> InputError:
        return InputError(
            f"{path}: expected the JSON of a maskgolf bench command or of make bench, found"
            f" {problem}; choose another file"
        )

    try:
        content = json.loads(results.read(path))
    except ValueError as error:  # neither UTF-8 nor JSON
        raise refused(f"something else ({str(error).splitlines()[0]})") from error
    if isinstance(content, dict) and "benchmarks" in content:
        try:
            content = _grouped(content)
        except (KeyError, TypeError, AttributeError, ZeroDivisionError) as error:
            raise refused(f"a pytest-benchmark file without {error}") from error
    if not isinstance(content, list) or not content:
        raise refused("no rows")
    rows = {}
    for number, entry in enumerate(content):
        problem = _problem(entry)
        if not problem and entry["name"] in rows:
            problem = "its name a second time"
        if problem:
            raise refused(f"{problem} in row {number}")
        rows[entry["name"]] = entry
    return rows


def _problem(entry) -> str | None:
    """Return what keeps a value from being a row, None for a row."""
    if not isinstance(entry, dict):
        return f"{type(entry).__name__} instead of an object"
    for name in ("name", "unit", "machine"):
        if not isinstance(entry.get(name), str):
            return f"no {name}"
    for name in (*NUMBERS, "pairs"):
        value = entry.get(name, "")
        number = isinstance(value, int | float) and not isinstance(value, bool)
        if value is not None and not (number and math.isfinite(value)):
            return f"no number for {name}"
    ratio, low, high = (entry[name] for name in ("ratio", "low", "high"))
    if ratio is not None and (low is None or high is None or not low <= ratio <= high):
        return f"a ratio of {ratio} outside {low} ... {high}"
    return None


def _grouped(content: dict) -> list[dict]:
    """Return rows "GROUP: OURS / OTHER" of a pytest-benchmark file: ratios of medians, the interval
    from the quartiles of both.
    """
    info, groups = content["machine_info"], {}
    machine = f"{info['cpu'].get('brand_raw') or info['machine']}, Python {info['python_version']}"
    machine += f", {info['torch']}" if "torch" in info else ""
    for entry in content["benchmarks"]:
        implementation = entry["params"]["implementation"]
        groups.setdefault(entry["group"], {})[implementation] = entry["stats"]
    return [
        _against(f"{group}: {name} / {other}", timed[other], timed[name]) | {"machine": machine}
        for group, timed in groups.items()
        for name, other in itertools.product(OURS, timed)
        if name in timed and other not in OURS
    ]


def _against(name: str, slow: dict, fast: dict) -> dict:
    """Return the row of two implementations, of their statistics in seconds."""
    medians = slow["median"], fast["median"]
    low, high = slow["q1"] / fast["q3"], slow["q3"] / fast["q1"]
    numbers = *(1e3 * median for median in medians), medians[0] / medians[1], low, high
    return row(name, *numbers, min(slow["rounds"], fast["rounds"]), "ms")


def _machines(rows: dict[str, dict]) -> str:
    return "; ".join(dict.fromkeys(entry["machine"] for entry in rows.values()))


def _time(entry: dict | None) -> float | None:
    """Return the time of a row that has one and no ratio."""
    alone = entry and entry["ratio"] is None and entry["unit"] == "ms"
    return entry["candidate"] if alone else None


def _matched(name: str, a: dict | None, b: dict | None) -> dict:
    """Return one name's numbers on both sides, how many times better b's ratio is, and whether the
    intervals overlap.

    Where neither side has a ratio but both have a time, as predictions do, change is how many times
    faster b's candidate is.
    """
    numbers = [side and {key: side[key] for key in (*NUMBERS, "pairs")} for side in (a, b)]
    change = overlap = None
    if a and b and a["ratio"] and b["ratio"] is not None:
        change = b["ratio"] / a["ratio"]
        overlap = a["low"] <= b["high"] and b["low"] <= a["high"]
    elif _time(a) and _time(b):
        change = _time(a) / _time(b)
    return {
        "name": name,
        "unit": (a or b)["unit"],
        "a": numbers[0],
        "b": numbers[1],
        "change": change,
        "overlap": overlap,
    }
