"""What an evaluation knows so far, window by window: kept in a file, gone on with, merged with
other ranges, scored at any moment.

A window's numbers depend on the model, the settings, the data and its own row, and are stored to
the last digit: the score of merged files is the sum over the same windows that one run would add
up. Passes and seconds are those spent.
"""

import json
import math
from pathlib import Path

import numpy as np

from fast.checkpoint import write_atomic
from fast.evaluate import Effort, Part, total
from harness import paths
from reference.recipe import InputError, Plan

VERSION = 2
COLUMNS = ("row", "nats", "variance", "tokens", "bytes")


class Partial:
    """Windows scored so far under one set of settings (`header`, plain JSON); rows: {row: (nats,
    variance, tokens, bytes)}.
    """

    def __init__(self, header: dict, path: Path | None = None):
        """Start with nothing, or with what the file at path holds; InputError if it is no such file
        or was made with other settings.
        """
        self.header, self.path = json.loads(json.dumps(header)), path
        self.rows, self.plans, self.forwards, self.seconds = {}, {}, 0, 0.0
        if path and path.exists():
            self.absorb(read(path))

    def absorb(self, other: "Partial") -> None:
        """Take over the windows of another one with the same settings; InputError naming a setting
        or a window that stands in the way.
        """
        differing = [
            f"{name} {_short(self.header.get(name))}, found {_short(other.header.get(name))}"
            for name in self.header | other.header
            if self.header.get(name) != other.header.get(name)
            and name != "run"  # it may have moved: its artifact's SHA-256 says which it is
        ]
        if differing:
            raise InputError(
                f"{other.path}: expected {'; '.join(differing)}; name another file, or use the same"
                " settings"
            )
        both = sorted(self.rows.keys() & other.rows.keys())
        if both:
            raise InputError(
                f"{other.path}: expected windows of its own, found window {both[0]} again; merge"
                " disjoint ranges"
            )
        for length, plan in other.plans.items():
            if any(
                not np.array_equal(mine, theirs)
                for mine, theirs in zip(self.plans.setdefault(length, plan), plan, strict=True)
            ):
                raise InputError(
                    f"{other.path}: expected the plan of the other files, found another; score all"
                    " ranges on one machine"
                )
        self.rows |= other.rows
        self.forwards += other.forwards
        self.seconds += other.seconds

    def add(self, part: Part) -> None:
        """Take over what was just measured."""
        columns = (column.tolist() for column in part[:5])
        self.rows |= {row: tuple(rest) for row, *rest in zip(*columns, strict=True)}
        self.forwards += part.forwards

    def missing(self, first: int, stop: int) -> list[tuple[int, int]]:
        """Return the (first, stop) of each run of windows that is not there yet."""
        absent = [row for row in range(first, stop) if row not in self.rows]
        starts = [row for row in absent if row == first or row - 1 in self.rows]
        return [
            (start, next((row for row in range(start, stop) if row in self.rows), stop))
            for start in starts
        ]

    def save(self) -> None:
        """Write the file, whole or not at all; nothing without a path."""
        if self.path:
            plans = {
                str(length): [column.tolist() for column in plan]
                for length, plan in self.plans.items()
            }
            rows = [[row, *self.rows[row]] for row in sorted(self.rows)]
            state = {
                "version": VERSION,
                "header": self.header,
                "plans": plans,
                "columns": COLUMNS,
                "windows": rows,
            }
            state |= {"forwards": self.forwards, "seconds": self.seconds}
            write_atomic(self.path, (json.dumps(state) + "\n").encode())

    def _told(self) -> list[str]:
        """Return the settings that a score tells: those that move it and are not the usual ones."""
        names = "positions", "trailing", "stride"
        told = [name for name in names if self.header.get(name) is not None]
        told += ["step"] if self.header.get("step", 1) > 1 else []
        told += ["block"] if self.header["order"] == "block" else []
        told += ["points"] if self.header["estimator"] == "nelbo-grid" else []
        return [name for name in told if name in self.header]

    def score(self) -> dict:
        """Return the JSON object of the windows so far, with their count; a standard error that one
        window cannot have is null.
        """
        ordered = sorted(self.rows)
        columns = [
            np.array(column) for column in zip(*(self.rows[row] for row in ordered), strict=True)
        ]
        effort = Effort(self.header["estimator"], self.header["order"])
        result = total([Part(np.array(ordered), *columns, self.forwards)], effort, self.seconds)
        plain = {
            name: None if isinstance(value, float) and math.isnan(value) else value
            for name, value in result._asdict().items()
        }
        extra = {name: self.header[name] for name in self._told()}
        origin = {
            name: self.header.get(name)
            for name in ("run", "artifact_sha256", "tokenizer_sha256", "validation_sha256")
        }
        return plain | extra | {"windows": len(ordered)} | origin


def _short(value) -> str:
    """Return a setting as a message shows it: of a SHA-256 the first digits."""
    return repr(value[:8] if isinstance(value, str) and len(value) == 64 else value)


def read(path: Path) -> Partial:
    """Return what a file holds."""
    expected, advice = paths.PARTIAL
    try:
        state = json.loads(path.read_text())
        if state["version"] != VERSION:
            raise InputError(
                f"{path}: expected version {VERSION} of a partial evaluation, found"
                f" {state['version']}; score it again"
            )
        known = Partial(state["header"])
        known.path = path
        known.rows = {
            int(row): (float(nats), float(variance), int(tokens), int(size))
            for row, nats, variance, tokens, size in state["windows"]
        }
        known.plans = {
            int(length): Plan(np.array(counts, np.int64), np.array(curve, float))
            for length, (counts, curve) in state["plans"].items()
        }
        known.forwards = int(state["forwards"])
        known.seconds = float(state["seconds"])
    except InputError:
        raise
    except OSError as error:
        raise paths.unreadable(path, error, *paths.PARTIAL) from error
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputError(
            f"{path}: expected {expected}, found something else ({error}); {advice}"
        ) from error
    return known


def merge(paths: list[Path]) -> dict:
    """Return the score of all windows that the files hold, no window twice."""
    first = read(paths[0])
    for path in paths[1:]:
        first.absorb(read(path))
    if not first.rows:
        raise InputError(f"{paths[0]}: expected at least one window, found none; score some first")
    return first.score()
