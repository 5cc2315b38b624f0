"""What a training log says, in the challenge's shapes and their many variants: steps, losses,
times, final scores, sizes, settings.
"""

import re
from dataclasses import dataclass, field
from functools import cached_property

LONGEST = 2_000  # characters of a line that are looked at
MOST_LINES = 2_000_000
# possessive: a crafted line must not take quadratic time
NUMBER = r"[-+]?(?:\d[\d,]*+(?:\.\d*+)?(?:[eE][-+]?\d++)?|\.\d++|nan|inf)"
STAMP = re.compile(
    r"^\[?\d{4}-\d\d-\d\d[T"
    r" ][\d:.,]+Z?\]?\s*(?:-\s*)?(?:\[?(?:INFO|DEBUG|WARNING|ERROR)\]?[\s:-]*)?"
)  # of a logging library
STEP = re.compile(r"^\s*(?:\[\S+\]\s*)?(?:step\s*[:= ]\s*)?(\d{1,12})/(\d{1,12})\b(.*)$")
LOSS = re.compile(rf"(?:^|[\s\]])(?:train_)?(?:loss|fitness)\s*[:=]\s*({NUMBER})", re.IGNORECASE)
VAL_LOSS = re.compile(rf"\bval_loss\s*[:=]\s*({NUMBER})", re.IGNORECASE)
VAL_BPB = re.compile(rf"\bval_(?:var_)?bpb\s*[:=]\s*({NUMBER})", re.IGNORECASE)
TIME = re.compile(rf"\b(?:train_time|t|time|elapsed)\s*[:=]\s*({NUMBER})\s*(ms|m|s)\b")
EVALUATION = re.compile(rf"\beval_time\s*[:=]\s*({NUMBER})\s*(ms|s)\b")
RATE = re.compile(
    rf"\b(lr|lr_scale|lr_mul|lr_multiplier|lrmul|lr_mult)\s*[:=]\s*({NUMBER})", re.IGNORECASE
)
FINAL_RATE = re.compile(rf"^final_lr_multiplier:({NUMBER})\s*$")
SIZE = re.compile(
    r"^\s*(code size|serialized model|total submission"
    r" size|artifact_bytes)([^:]*):\s*([\d,]+)(?:\s*bytes)?",
    re.IGNORECASE,
)
BUDGET = re.compile(r"\bbudget:\s*(\d+)/16000000\b")
CODE_BYTES = re.compile(r"\bcode:\s*(\d+)\b")
PARAMETERS = re.compile(
    r"\b(?:model_params|params|parameters|total_params)\s*[:=]\s*([\d,]+)", re.IGNORECASE
)
STOP = re.compile(r"stopping_early|stopped by", re.IGNORECASE)
SETTING = re.compile(r"\b([A-Za-z_]\w*+)\s*[:=]\s*([^\s,;]+)")
RULE = re.compile(r"^\s*={50,}\s*$")
CODE_LINE = re.compile(r"^\s*(?:import|from|def|class|return|elif|self\.)\b")
TRACE = re.compile(
    r"Traceback \(most recent call last\)|ChildFailedError|OutOfMemoryError|CUDA error|Segmentation"
    r" fault|\bcore dumped\b"
    r"|CUDA out of memory|\bSignal \d+ \(SIG[A-Z]+\)|^\s*Killed\s*$|^\s*KeyboardInterrupt\b"
)


@dataclass(frozen=True)
class Point:
    """One step line."""

    step: int
    total: int
    train_loss: float | None
    val_loss: float | None
    val_bpb: float | None
    milliseconds: float | None
    rate: float | None  # learning rate or its multiplier, as printed


@dataclass(frozen=True)
class Final:
    """A score that is no step's: of the file read back, with a sliding window, and so on."""

    label: str
    val_loss: float | None
    val_bpb: float
    digits: int  # printed after the point of val_bpb
    milliseconds: float | None  # that the evaluation took


@dataclass
class Log:
    """What one log file says; lists are in the file's order."""

    name: str
    points: list[Point] = field(default_factory=list)
    finals: list[Final] = field(default_factory=list)
    code: list[str] = field(default_factory=list)  # source code that the run printed
    body: list[str] = field(default_factory=list)  # the other lines
    settings: dict[str, str] = field(default_factory=dict)  # printed before the first step
    varying: set[str] = field(
        default_factory=set
    )  # names in settings that were printed again with another value
    sizes: list[tuple[str, str, int]] = field(
        default_factory=list
    )  # (code size | serialized model | ..., its label, bytes)
    parameters: int | None = None
    stop: str | None = None  # the line that says why training ended early
    stop_milliseconds: float | None = None
    traces: list[str] = field(default_factory=list)
    last_rate: float | None = None  # the last learning rate over its peak, where the log says so
    average: dict[str, str] = field(
        default_factory=dict
    )  # what the log says of the moving average at the end

    @cached_property
    def seed(self) -> str | None:
        """The seed that the log or its name states."""
        printed = self.settings.get("seed", "")
        found = re.search(r"seed[_-]?(\d+)", self.name, re.IGNORECASE)
        return printed if printed.isdigit() else found[1] if found else None

    @property
    def last_step(self) -> int | None:
        """The last step that the log shows."""
        return max((point.step for point in self.points), default=None)

    @property
    def total_steps(self) -> int | None:
        """The steps that were configured."""
        return self.points[-1].total if self.points else None

    @property
    def training_milliseconds(self) -> float | None:
        """The training clock at the end."""
        times = [point.milliseconds for point in self.points if point.milliseconds is not None]
        return (
            self.stop_milliseconds
            if self.stop_milliseconds is not None
            else max(times, default=None)
        )

    @property
    def final(self) -> Final | None:
        """The last final score; of two that agree the one with more digits."""
        if not self.finals:
            return None
        last = self.finals[-1]
        same = [
            final
            for final in self.finals[-3:]
            if abs(final.val_bpb - last.val_bpb) <= 0.51 * 10.0 ** -min(final.digits, last.digits)
        ]
        return max(same, key=lambda final: final.digits, default=last)


def value(text: str) -> float:
    """Return a printed number, thousands separated or not."""
    return float(text.replace(",", ""))


def milliseconds(line: str) -> float | None:
    """Return the training clock of a line."""
    found = TIME.search(line)
    return value(found[1]) * {"ms": 1.0, "s": 1e3, "m": 6e4}[found[2]] if found else None


def is_code(lines: list[str]) -> bool:
    """Return whether these lines are Python source rather than output."""
    return sum(bool(CODE_LINE.match(line)) for line in lines) >= 10


def _point(line: str) -> Point | None:
    found = STEP.match(line)
    if not found:
        return None
    rest = found[3]
    loss, val_loss, val_bpb, rate = (
        pattern.search(rest) for pattern in (LOSS, VAL_LOSS, VAL_BPB, RATE)
    )
    if not (loss or val_loss):
        return None
    numbers = [value(match[1]) if match else None for match in (loss, val_loss, val_bpb)]
    return Point(
        int(found[1]), int(found[2]), *numbers, milliseconds(rest), value(rate[2]) if rate else None
    )


def _final(line: str) -> Final | None:
    bpb, loss = VAL_BPB.search(line), VAL_LOSS.search(line)
    if not bpb:
        return None
    clock = EVALUATION.search(line)
    took = value(clock[1]) * (1e3 if clock[2] == "s" else 1.0) if clock else None
    label = line[: min(bpb.start(), loss.start() if loss else bpb.start())].strip(" :=\t")
    return Final(
        label or "score",
        value(loss[1]) if loss else None,
        value(bpb[1]),
        len(bpb[1].partition(".")[2]),
        took,
    )


def _sizes(line: str, log: Log) -> None:
    found = SIZE.match(line)
    if found:
        log.sizes.append((found[1].lower(), found[2].strip(), int(value(found[3]))))
    budget, code = BUDGET.search(line), CODE_BYTES.search(line)
    if budget:
        log.sizes.append(("total submission size", "budget", int(budget[1])))
    if code and line.lstrip().startswith("artifact:"):
        log.sizes.append(("code size", "", int(code[1])))


def _read(line: str, log: Log) -> None:
    """Add what one line of output says."""
    if TRACE.search(line):
        log.traces.append(line.strip())
    point = _point(line)
    if point:
        log.points.append(point)
        return
    if STOP.search(line) and log.stop is None:
        log.stop, log.stop_milliseconds = line.strip(), milliseconds(line)
        return
    rate = FINAL_RATE.match(line)
    if rate:
        log.last_rate = value(rate[1])
    if line.startswith("ema started_step:"):
        log.average = dict(SETTING.findall(line))
    final = _final(line)
    if final and not line.lstrip().startswith(("eval:", "val_bpb:enabled")):
        log.finals.append(final)
    _sizes(line, log)
    parameters = PARAMETERS.search(line)
    if parameters and log.parameters is None:
        log.parameters = int(value(parameters[1]))
    if not log.points and "=" * 8 not in line:
        for name, text in SETTING.findall(line):
            if log.settings.setdefault(name.lower(), text) != text:
                log.varying.add(name.lower())


def parse(name: str, text: str) -> Log:
    """Return what a log says; anything that is no number where one is expected is passed over."""
    log, segment = Log(name), []
    segments = [segment]
    for line in text.splitlines()[:MOST_LINES]:
        if RULE.match(line[:LONGEST]):
            segment = []
            segments.append(segment)
        else:
            segment.append(line)
    for segment in segments:
        if is_code(segment):
            log.code += segment
        else:
            log.body += [STAMP.sub("", line[:LONGEST], count=1) for line in segment]
    for line in log.body:
        _read(line, log)
    return log
