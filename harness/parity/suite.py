"""Pieces, rows and how they are run: every input of a piece goes through the reference once and
through the fast half at every level.
"""

import math
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, fields, is_dataclass

import torch

from harness.parity.compare import Compare, Difference, Setting

TRIES = 40  # attempts at a smaller breaking input
SECONDS = 5.0  # ... and how long they may take


@dataclass(frozen=True)
class Piece:
    """A piece of the recipe with the inputs on which its halves are compared.

    prepare(**case) asks the reference and returns compare(setting), which asks the fast half; a
    case is plain Python, so that it prints.
    """

    name: str
    prepare: Callable[..., Compare]
    cases: list[dict]
    # How the limit of production dtypes is derived; empty: the algorithm alone is compared.
    bound: str = ""
    bitwise: bool = False
    float32_only: bool = False  # never runs in the compute dtype
    numbers_only: bool = False  # has one dtype, so nothing to run in float64
    compiles: int = 0  # of the last inputs: how many go through torch.compile where asked for


def table(names: str, *rows: tuple, **shared) -> list[dict]:
    """Return one case per row of values under the same names; shared ones stand in every case."""
    return [dict(zip(names.split(), row, strict=True)) | shared for row in rows]


@dataclass(frozen=True)
class Row:
    """One line of the result: the worst of all inputs (SPEC section 13); margin is limit / error,
    null where one of them is 0.
    """

    piece: str
    level: str
    kind: str
    dtype: str
    device: str
    error: float | None
    limit: float
    passed: bool
    inputs: int
    margin: float | None
    bound: str
    seconds: float
    reproduction: str | None

    def words(self) -> str:
        """Return in words which row this is, its error and its limit."""
        wrong = "not finite, or an exception"
        error = wrong if self.error is None else f"error {self.error:.3g}"
        return f"{self.piece} ({self.level}, {self.dtype}: {error}, limit {self.limit:.3g})"

    def plain(self) -> dict:
        """Return the JSON object."""
        return {"class" if name == "kind" else name: value for name, value in asdict(self).items()}


@dataclass
class Check:
    """A piece at one level and setting, as it is gone through."""

    level: str
    setting: Setting
    results: list[tuple[Difference, dict, str]] = field(default_factory=list)  # with case and note
    seconds: float = 0.0


def settings_of(
    piece: Piece, device: str, dtypes: tuple[torch.dtype, ...], compiled: bool
) -> list[tuple[str, Setting]]:
    """Return (level, setting) of everything that a piece is checked at."""
    dtypes = (torch.float32,) if piece.float32_only else dtypes
    levels = [] if piece.numbers_only else [("algorithm", Setting(device))]
    if piece.bound:
        levels += [("numbers", Setting(device, dtype)) for dtype in dtypes]
    if compiled and piece.compiles:
        exact = piece.bitwise and not piece.bound
        dtypes = (torch.float64,) if exact else dtypes
        levels += [("compiled", Setting(device, dtype, True)) for dtype in dtypes]
    return levels


def worst_of(differences) -> Difference | None:
    """Return the difference that is the most of its limit, None where there is none."""
    return max(differences, key=lambda difference: difference.ratio, default=None)


def measure(compare: Compare, setting: Setting) -> tuple[Difference | None, str]:
    """Return the worst difference of one input, None where there was nothing to compare, and what
    went wrong if the fast half raised.
    """
    try:
        return worst_of(compare(setting)), ""
    except Exception as error:  # whatever the fast half raises on a valid input is a finding
        message = str(error).splitlines()[0] if str(error) else ""
        return Difference(math.inf, 0.0), f"{type(error).__name__}: {message}"


def examine(
    piece: Piece,
    device="cpu",
    dtypes=(torch.float32,),
    compiled=False,
    levels=None,
    shrink=True,
    hurry=False,
) -> list[Row]:
    """Return the rows of a piece; levels None means all; hurry stops at the first input that breaks
    it.
    """
    settings = settings_of(piece, device, dtypes, compiled)
    checks = [Check(*pair) for pair in settings if levels is None or pair[0] in levels]
    if compiled:
        torch.compiler.reset()
    for number, case in enumerate(piece.cases):
        last = number >= len(piece.cases) - piece.compiles
        begun, compare = time.perf_counter(), None
        for check in checks:
            if check.level == "compiled" and not last:
                continue
            compare = compare or piece.prepare(**case)
            difference, note = measure(compare, check.setting)
            if difference is not None:
                check.results.append((difference, case, note))
            check.seconds += time.perf_counter() - begun
            begun = time.perf_counter()
        if hurry and any(check.results and check.results[-1][0].ratio > 1 for check in checks):
            break
    return [_row(piece, check, shrink) for check in checks]


def _row(piece: Piece, check: Check, shrink: bool) -> Row:
    setting, results = check.setting, check.results
    worst = worst_of(difference for difference, _, _ in results) or Difference(0.0, 0.0)
    passed, text = bool(results) and worst.ratio <= 1, None
    if not passed and results:
        broken = [(case, note) for difference, case, note in results if difference.ratio > 1]
        case, note = min(broken, key=lambda pair: len(literal(pair[0])))
        text = reproduction(piece, setting, smaller(piece, setting, case) if shrink else case, note)
    exact = piece.bitwise and not (piece.bound and worst.limit)
    kind = "bitwise" if exact else "algebra" if setting.algorithm else "rounding"
    bound = "exact" if exact else "1e-9 of the largest entry" if setting.algorithm else piece.bound
    error = worst.error if math.isfinite(worst.error) else None
    margin = worst.limit / error if error and worst.limit else None
    return Row(
        piece.name,
        check.level,
        kind,
        setting.dtype_name,
        setting.device,
        error,
        worst.limit,
        passed,
        len(results),
        margin,
        bound,
        check.seconds,
        text,
    )


def literal(value) -> str:
    """Return Python source of a plain value; a dataclass shows the fields that differ from their
    defaults.
    """
    if isinstance(value, float) and not math.isfinite(value):
        return f'float("{value}")'
    if isinstance(value, dict):
        items = (f"{literal(key)}: {literal(item)}" for key, item in value.items())
        return "{" + ", ".join(items) + "}"
    if isinstance(value, list):
        return f"[{', '.join(map(literal, value))}]"
    if isinstance(value, tuple):
        return f"({', '.join(map(literal, value))}{',' * (len(value) == 1)})"
    if is_dataclass(value):
        given = {field.name: getattr(value, field.name) for field in fields(value)}
        shown = [field.name for field in fields(value) if given[field.name] != field.default]
        return f"{type(value).__name__}({', '.join(f'{k}={literal(given[k])}' for k in shown)})"
    return repr(value)


def reproduction(piece: Piece, setting: Setting, case: dict, note: str) -> str:
    """Return source that shows the mismatch, to be pasted into a test."""
    where = {"dtype": setting.dtype_name, "device": setting.device, "compiled": setting.compiled}
    defaults = {"dtype": "float64", "device": "cpu", "compiled": False}
    given = {name: value for name, value in where.items() if value != defaults[name]} | case
    arguments = [repr(piece.name), *(f"{name}={literal(value)}" for name, value in given.items())]
    call = f"reproduce({', '.join(arguments)})"
    lines = ["from harness.parity import reproduce"]
    lines += ["from reference.recipe import Model"] if "Model(" in call else []
    return "\n".join([*lines, call, *([f"# {note}"] if note else [])])


def smaller(piece: Piece, setting: Setting, case: dict) -> dict:
    """Return a case that still breaks the piece, with lists cut and integers lowered for as long as
    that works.
    """
    deadline, candidates = time.monotonic() + SECONDS, _candidates(case)
    for _ in range(TRIES):
        candidate = next(candidates, None)
        if candidate is None or time.monotonic() > deadline:
            break
        if _breaks(piece, setting, candidate):
            case, candidates = candidate, _candidates(candidate)
    return case


def _candidates(case: dict):
    for name, value in case.items():
        if isinstance(value, list) and len(value) > 1:
            yield case | {name: value[: len(value) // 2]}
            yield case | {name: value[len(value) // 2 :]}
        elif isinstance(value, int) and not isinstance(value, bool) and value > 1:
            yield from (case | {name: less} for less in dict.fromkeys((0, 1, value // 2)))


def _breaks(piece: Piece, setting: Setting, case: dict) -> bool:
    try:
        differences = piece.prepare(**case)(setting)
    # the reference refuses this input, or the fast half raises on it: keep to what is surely the
    # same fault
    except Exception:
        return False
    return any(difference.ratio > 1 for difference in differences)
