"""Two result files side by side: rows of any `maskgolf bench`, or what `make bench` wrote
(pytest-benchmark), matched by name.
"""

import itertools
import json
import math
from pathlib import Path

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

    def refuse(found: str) -> InputError:
        return InputError(
            f"{path}: expected the JSON of a maskgolf bench command or of make bench, found"
            f" {found}; choose another file"
        )

    try:
        content = json.loads(path.read_text())
    except OSError as error:
        raise InputError(
            f"{path}: cannot be read ({error.strerror}); name a file that maskgolf bench --json"
            " wrote"
        ) from error
    except ValueError as error:  # neither UTF-8 nor JSON
        raise refuse(f"something else ({str(error).splitlines()[0]})") from error
    if isinstance(content, dict) and "benchmarks" in content:
        try:
            content = _grouped(content)
        except (KeyError, TypeError, AttributeError, ZeroDivisionError) as error:
            raise refuse(f"a pytest-benchmark file without {error}") from error
    if not isinstance(content, list) or not content:
        raise refuse("no rows")
    rows = {}
    for place, each in enumerate(content):
        problem = _problem(each) or ("its name a second time" if each["name"] in rows else None)
        if problem:
            raise refuse(f"{problem} in row {place}")
        rows[each["name"]] = each
    return rows


def _problem(each) -> str | None:
    """Return what keeps a value from being a row, None for a row."""
    wanted = {"name": str, "unit": str, "machine": str}
    if not isinstance(each, dict):
        return f"{type(each).__name__} instead of an object"
    for name, kind in wanted.items():
        if not isinstance(each.get(name), kind):
            return f"no {name}"
    for name in (*NUMBERS, "pairs"):
        value = each.get(name, "")
        if value is not None and (
            isinstance(value, bool)
            or not isinstance(value, int | float)
            or not math.isfinite(value)
        ):
            return f"no number for {name}"
    if each["ratio"] is not None and (
        each["low"] is None
        or each["high"] is None
        or not each["low"] <= each["ratio"] <= each["high"]
    ):
        return f"a ratio of {each['ratio']} outside {each['low']} ... {each['high']}"
    return None


def _grouped(content: dict) -> list[dict]:
    """Return rows "GROUP: OURS / OTHER" of a pytest-benchmark file: ratios of medians, the interval
    from the quartiles of both.
    """
    info, groups = content["machine_info"], {}
    processor = info["cpu"].get("brand_raw") or info["machine"]
    machine = (
        f"{processor}, Python"
        f" {info['python_version']}{', ' + info['torch'] if 'torch' in info else ''}"
    )
    for each in content["benchmarks"]:
        groups.setdefault(each["group"], {})[each["params"]["implementation"]] = each["stats"]
    rows = []
    for group, found in groups.items():
        for name, other in itertools.product(OURS, found):
            if other in OURS or name not in found:
                continue
            fast, slow = found[name], found[other]
            middle, low, high = (
                slow["median"] / fast["median"],
                slow["q1"] / fast["q3"],
                slow["q3"] / fast["q1"],
            )
            numbers = (
                1e3 * slow["median"],
                1e3 * fast["median"],
                middle,
                low,
                high,
                min(slow["rounds"], fast["rounds"]),
                "ms",
            )
            rows.append(row(f"{group}: {name} / {other}", *numbers) | {"machine": machine})
    return rows


def _machines(rows: dict[str, dict]) -> str:
    return "; ".join(dict.fromkeys(each["machine"] for each in rows.values()))


def _faster(a: dict | None, b: dict | None) -> float | None:
    """Return how many times less time b's candidate takes where both sides have times and no ratio,
    else None.
    """
    both = [
        each
        for each in (a, b)
        if each and each["ratio"] is None and each["unit"] == "ms" and each["candidate"]
    ]
    return a["candidate"] / b["candidate"] if len(both) == 2 else None


def _matched(name: str, a: dict | None, b: dict | None) -> dict:
    """Return one name's numbers on both sides, how many times better b's ratio is, and whether the
    intervals overlap.

    Where neither side has a ratio but both have a time, as predictions do, change is how many times
    faster b's candidate is.
    """
    kept = [each and {key: each[key] for key in (*NUMBERS, "pairs")} for each in (a, b)]
    known = a and b and a["ratio"] and b["ratio"] is not None
    change = b["ratio"] / a["ratio"] if known else _faster(a, b)
    return {
        "name": name,
        "unit": (a or b)["unit"],
        "a": kept[0],
        "b": kept[1],
        "change": change,
        "overlap": a["low"] <= b["high"] and b["low"] <= a["high"] if known else None,
    }
