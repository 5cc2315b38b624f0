"""Pieces, rows and how they are run: every input of a piece goes through the reference once and
through the fast half at every level.
"""

import math
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, fields, is_dataclass

import torch

from harness.parity.compare import Difference, Setting

TRIES = 40  # attempts at a smaller breaking input
SECONDS = 5.0  # ... and how long they may take

Compare = Callable[[Setting], list[Difference]]


@dataclass(frozen=True)
class Piece:
    """A piece of the recipe with the inputs on which its halves are compared.

    prepare(**case) asks the reference and returns compare(setting), which asks the fast half; a
    case is plain Python, so that it prints.
    """

    name: str
    prepare: Callable[..., Compare]
    cases: list[dict]
    bound: str = (
        ""  # how the limit of production dtypes is derived; empty: the algorithm alone is compared
    )
    bitwise: bool = False
    float32_only: bool = False  # never runs in the compute dtype
    numbers_only: bool = False  # has one dtype, so nothing to run in float64
    compiles: int = 0  # of the last inputs: how many go through torch.compile where asked for


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

    def plain(self) -> dict:
        """Return the JSON object."""
        return {"class" if name == "kind" else name: value for name, value in asdict(self).items()}


def settings_of(
    piece: Piece, device: str, dtypes: tuple[torch.dtype, ...], compiled: bool
) -> dict[str, list[Setting]]:
    """Return the settings of each level that a piece is checked at."""
    dtypes = (torch.float32,) if piece.float32_only else dtypes
    levels = {} if piece.numbers_only else {"algorithm": [Setting(device)]}
    if piece.bound:
        levels["numbers"] = [Setting(device, dtype) for dtype in dtypes]
    if compiled and piece.compiles:
        exact = piece.bitwise and not piece.bound
        levels["compiled"] = [
            Setting(device, dtype, True) for dtype in ((torch.float64,) if exact else dtypes)
        ]
    return levels


def measure(compare: Compare, setting: Setting) -> tuple[Difference | None, str]:
    """Return the worst difference of one input, None where there was nothing to compare, and what
    went wrong if the fast half raised.
    """
    try:
        return max(compare(setting), key=lambda difference: difference.ratio, default=None), ""
    except Exception as error:  # whatever the fast half raises on a valid input is a finding
        return (
            Difference(math.inf, 0.0),
            f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}",
        )


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
    chosen = {
        level: found
        for level, found in settings_of(piece, device, dtypes, compiled).items()
        if levels is None or level in levels
    }
    slots = [(level, setting) for level, found in chosen.items() for setting in found]
    results = {slot: [] for slot in slots}
    seconds = dict.fromkeys(slots, 0.0)
    if compiled:
        torch.compiler.reset()
    for number, case in enumerate(piece.cases):
        wanted = [
            slot
            for slot in slots
            if slot[0] != "compiled" or number >= len(piece.cases) - piece.compiles
        ]
        begun = time.perf_counter()
        compare = piece.prepare(**case) if wanted else None
        for slot in wanted:
            difference, note = measure(compare, slot[1])
            if difference is not None:
                results[slot].append((difference, case, note))
            seconds[slot] += time.perf_counter() - begun
            begun = time.perf_counter()
        if hurry and any(found and found[-1][0].ratio > 1 for found in results.values()):
            break
    return [
        _row(piece, level, setting, results[level, setting], seconds[level, setting], shrink)
        for level, setting in slots
    ]


def _row(
    piece: Piece, level: str, setting: Setting, results: list, seconds: float, shrink: bool
) -> Row:
    worst = max(
        (difference for difference, _, _ in results),
        key=lambda difference: difference.ratio,
        default=Difference(0.0, 0.0),
    )
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
        level,
        kind,
        setting.dtype_name,
        setting.device,
        error,
        worst.limit,
        passed,
        len(results),
        margin,
        bound,
        seconds,
        text,
    )


def literal(value) -> str:
    """Return Python source of a plain value; a dataclass shows the fields that differ from their
    defaults.
    """
    if isinstance(value, float) and not math.isfinite(value):
        return f'float("{value}")'
    if isinstance(value, dict):
        return (
            "{" + ", ".join(f"{literal(key)}: {literal(item)}" for key, item in value.items()) + "}"
        )
    if isinstance(value, list | tuple):
        inner = ", ".join(map(literal, value))
        return (
            f"[{inner}]"
            if isinstance(value, list)
            else f"({inner},)"
            if len(value) == 1
            else f"({inner})"
        )
    if is_dataclass(value):
        shown = [f for f in fields(value) if getattr(value, f.name) != f.default]
        inner = ", ".join(f"{f.name}={literal(getattr(value, f.name))}" for f in shown)
        return f"{type(value).__name__}({inner})"
    return repr(value)


def reproduction(piece: Piece, setting: Setting, case: dict, note: str) -> str:
    """Return source that shows the mismatch, to be pasted into a test."""
    where = {"dtype": setting.dtype_name, "device": setting.device, "compiled": setting.compiled}
    defaults = {"dtype": "float64", "device": "cpu", "compiled": False}
    given = {name: value for name, value in where.items() if value != defaults[name]} | case
    arguments = [repr(piece.name), *(f"{name}={literal(value)}" for name, value in given.items())]
    call = f"reproduce({', '.join(arguments)})"
    lines = [
        "from harness.parity import reproduce",
        *(["from reference.recipe import Model"] if "Model(" in call else []),
        call,
    ]
    return "\n".join(lines + ([f"# {note}"] if note else []))


def smaller(piece: Piece, setting: Setting, case: dict) -> dict:
    """Return a case that still breaks the piece, with lists cut and integers lowered for as long as
    that works.
    """
    deadline, tries = time.monotonic() + SECONDS, 0
    progress = True
    while progress:
        progress = False
        for candidate in _candidates(case):
            tries += 1
            if tries > TRIES or time.monotonic() > deadline:
                return case
            if _breaks(piece, setting, candidate):
                case, progress = candidate, True
                break
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
        compare = piece.prepare(**case)
        differences = compare(setting)
    # the reference refuses this input, or the fast half raises on it: keep to what is surely the
    # same fault
    except Exception:
        return False
    return any(difference.ratio > 1 for difference in differences)
