"""What a training log says, in the challenge's shapes and their many variants: steps, losses,
times, final scores, sizes, settings.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property
from itertools import groupby, takewhile

LONGEST = 2_000  # characters of a line that are looked at
MOST_LINES = 2_000_000
# possessive: a crafted line must not take quadratic time
NUMBER = r"[-+]?(?:\d[\d,]*+(?:\.\d*+)?(?:[eE][-+]?\d++)?|\.\d++|nan|inf)"
# Of a logging library
STAMP = re.compile(
    r"^\[?\d{4}-\d\d-\d\d[T"
    r" ][\d:.,]+Z?\]?\s*(?:-\s*)?(?:\[?(?:INFO|DEBUG|WARNING|ERROR)\]?[\s:-]*)?"
)
STEP = re.compile(r"^\s*(?:\[\S+\]\s*)?(?:step\s*[:= ]\s*)?(\d{1,12})/(\d{1,12})\b(.*)$")
LOSS = re.compile(rf"(?:^|[\s\]])(?:train_)?(?:loss|fitness)\s*[:=]\s*({NUMBER})", re.IGNORECASE)
VAL_LOSS = re.compile(rf"\bval_loss\s*[:=]\s*({NUMBER})", re.IGNORECASE)
VAL_BPB = re.compile(rf"\bval_(?:var_)?bpb\s*[:=]\s*({NUMBER})", re.IGNORECASE)
TIME = re.compile(rf"\b(?:train_time|t|time|elapsed)\s*[:=]\s*({NUMBER})\s*(ms|m|s)\b")
EVALUATION = re.compile(rf"\beval_time\s*[:=]\s*({NUMBER})\s*(ms|s)\b")
MILLISECONDS = {"ms": 1.0, "s": 1e3, "m": 6e4}
RATE = re.compile(
    rf"\b(?:lr|lr_scale|lr_mul|lr_multiplier|lrmul|lr_mult)\s*[:=]\s*({NUMBER})", re.IGNORECASE
)
FINAL_RATE = re.compile(rf"^final_lr_multiplier:({NUMBER})\s*$")
SIZE = re.compile(
    r"^\s*(code size|serialized model|total submission"
    r" size|artifact_bytes)([^:]*):\s*(\d[\d,]*)(?:\s*bytes)?",
    re.IGNORECASE,
)
BUDGET = re.compile(r"\bbudget:\s*(\d+)/16000000\b")
CODE_BYTES = re.compile(r"^\s*artifact:.*?\bcode:\s*(\d+)\b")
PARAMETERS = re.compile(
    r"\b(?:model_params|params|parameters|total_params)\s*[:=]\s*(\d[\d,]*)", re.IGNORECASE
)
STOP = re.compile(r"stopping_early|stopped by", re.IGNORECASE)
SETTING = re.compile(r"\b([A-Za-z_]\w*+)\s*[:=]\s*([^\s,;]+)")
# The Python of a run: as it says itself, else by the folder of its packages
PYTHONS = (
    re.compile(
        r"(?:^|\brunning |-> )\W{0,4}python(?:[ _]?version)?\W{1,4}3\.(\d{1,3})\.\d",
        re.IGNORECASE,
    ),
    re.compile(r"\blib/python3\.(\d{1,3})/"),
)
NO_FINAL = ("eval:", "val_bpb:enabled")
RULE = re.compile(r"^\s*={50,}\s*$")
CODE_LINE = re.compile(r"^\s*(?:import|from|def|class|return|elif|self\.)\b")
LEAST_CODE = 10  # such lines between two rules: source that the run printed
LISTED = re.compile(r"^\s*+(?:[\w.]++:(?:\s.*)?|[\w ]++:\s*)?$")  # name and value, a title, nothing
# How a library begins the lines of a warning, with or without a rank
WARNING = re.compile(
    r"^(?:\[?rank\d+\]?:\s*)?(?:\[\d{4}-\d\d-\d\d[T ][\d:.,]+Z?\]\s*)?"
    r"(?:[WI]\d{4}\s\d\d:\d\d:\d\d|[\w.]{1,99}: \[(?:WARNING|INFO|DEBUG)\]\s)"
)
IGNORED = re.compile(r"^(?:\[?rank\d+\]?:\s*)?Exception ignored (?:in|on|while)\b")
STOPPED = re.compile(
    r"\bReceived (?:\d+|Signals\.\w+) death signal\b"
)  # torchrun was stopped from outside
NAMELESS = "score"  # of a line that begins with the number
TRACEBACK = "Traceback (most recent call last)"
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
    varying: set[str] = field(default_factory=set)  # settings printed again with another value
    sizes: list[tuple[str, str, int]] = field(default_factory=list)  # kind as SIZE, label, bytes
    parameters: int | None = None
    stop: str | None = None  # the line that says why training ended early
    stop_milliseconds: float | None = None
    # errors: what may have ended the run; of a log without final scores warnings too
    traces: list[str] = field(default_factory=list)
    last_rate: float | None = None  # the last learning rate over its peak, where the log says so
    average: dict[str, str] = field(default_factory=dict)  # of the weights, at the end

    @cached_property
    def seed(self) -> str | None:
        """The seed that the log or its name states."""
        printed = self.settings.get("seed", "")
        named = re.search(r"seed[_-]?(\d+)", self.name, re.IGNORECASE)
        return printed if printed.isdigit() else named[1] if named else None

    @cached_property
    def pythons(self) -> set[tuple[int, int]]:
        """The versions of Python that the run says it ran on."""
        shown: set[str] = set()
        for pattern in PYTHONS:
            shown = shown or {match[1] for line in self.body if (match := pattern.search(line))}
        return {(3, int(minor)) for minor in shown}

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
        last = max(times, default=None)
        return last if self.stop_milliseconds is None else self.stop_milliseconds

    def sizes_of(self, kind: str) -> list[int]:
        """Return the bytes printed of a kind."""
        return [size for name, _, size in self.sizes if name == kind]

    @property
    def losses(self) -> list[tuple[str, float]]:
        """(where, number) of every loss and score."""
        values = [
            (f"step {point.step}", value)
            for point in self.points
            for value in (point.train_loss, point.val_loss, point.val_bpb)
        ]
        values += [
            (final.label, value)
            for final in self.finals
            for value in (final.val_loss, final.val_bpb)
        ]
        return [(where, value) for where, value in values if value is not None]


def printed(pattern: re.Pattern, line: str) -> float | None:
    """Return the number that a pattern finds in a line, thousands separated or not; a time with a
    unit in milliseconds.
    """
    match = pattern.search(line)
    if not match:
        return None
    unit = match[2] if pattern.groups > 1 else "ms"
    return float(match[1].replace(",", "")) * MILLISECONDS[unit]


def is_code(lines: list[str]) -> bool:
    """Return whether these lines are Python source rather than output."""
    return sum(bool(CODE_LINE.match(line)) for line in lines) >= LEAST_CODE


def _point(line: str) -> Point | None:
    match = STEP.match(line)
    rest = match[3] if match else ""
    numbers = [printed(pattern, rest) for pattern in (LOSS, VAL_LOSS, VAL_BPB, TIME, RATE)]
    no_loss = numbers[:2] == [None, None]
    return None if no_loss else Point(int(match[1]), int(match[2]), *numbers)


def _final(line: str) -> Final | None:
    bpb, loss = VAL_BPB.search(line), VAL_LOSS.search(line)
    if not bpb or line.lstrip().startswith(NO_FINAL):
        return None
    start = min(match.start() for match in (bpb, loss) if match)
    label = line[:start].strip(" :=\t") or NAMELESS
    digits = len(bpb[1].partition(".")[2])
    scores = printed(VAL_LOSS, line), printed(VAL_BPB, line)
    return Final(label, *scores, digits, printed(EVALUATION, line))


def _read(line: str, log: Log) -> None:
    """Add what one line of output says."""
    if point := _point(line):
        log.points.append(point)
        return
    if STOP.search(line) and log.stop is None:
        log.stop, log.stop_milliseconds = line.strip(), printed(TIME, line)
        return
    if FINAL_RATE.match(line):
        log.last_rate = printed(FINAL_RATE, line)
    if line.startswith("ema started_step:"):
        log.average = dict(SETTING.findall(line))
    if final := _final(line):
        log.finals.append(final)
    if size := SIZE.match(line):
        log.sizes.append((size[1].lower(), size[2].strip(), int(size[3].replace(",", ""))))
    for kind, label, pattern in (
        ("total submission size", "budget", BUDGET),
        ("code size", "", CODE_BYTES),
    ):
        if number := pattern.search(line):
            log.sizes.append((kind, label, int(number[1])))
    if log.parameters is None and (number := PARAMETERS.search(line)):
        log.parameters = int(number[1].replace(",", ""))
    if not log.points and "=" * 8 not in line:
        for name, text in SETTING.findall(line):
            if log.settings.setdefault(name.lower(), text) != text:
                log.varying.add(name.lower())


def _errors(lines: list[str]) -> Iterator[tuple[str, bool]]:
    """Yield (line, whether it may have ended the run) of what tells of an error. A warning did not,
    nor a traceback that Python announces as ignored; of several ranks the announcements may come
    first. None is awaited after a step or a score. What failed before the first step began again.
    What was stopped from outside once it had printed its scores, and printed none later, had ended.
    """
    announced, inside, ended = 0, False, len(lines)
    scored = [at for at, line in enumerate(lines) if _final(line)]
    stopped = [at for at, line in enumerate(lines) if STOPPED.search(line)]
    if scored and stopped and scored[-1] < stopped[0]:
        ended = stopped[0]
    first = next((at for at, line in enumerate(lines) if STEP.match(line)), -1)
    for at, line in enumerate(lines):
        if STEP.match(line) or VAL_BPB.search(line):
            announced, inside = 0, False
        if IGNORED.match(line):
            announced += 1
        elif WARNING.match(line):
            if TRACE.search(line):
                yield line.strip(), False
        else:
            if TRACEBACK in line:
                inside = announced > 0
                announced -= inside
            if TRACE.search(line):
                yield line.strip(), first < at < ended and not inside
            inside = inside and (TRACEBACK in line or line.startswith(" "))


def parse(name: str, text: str) -> Log:
    """Return what a log says; anything that is no number where one is expected is passed over."""
    log, lines = Log(name), text.splitlines()[:MOST_LINES]
    for ruled, group in groupby(lines, lambda line: bool(RULE.match(line[:LONGEST]))):
        segment = [] if ruled else list(group)
        output = [line[:LONGEST] for line in segment]
        if is_code(segment):  # settings may be printed above it
            output = list(takewhile(LISTED.match, output))
            log.code += segment[len(output) :]
        log.body += [STAMP.sub("", line, count=1) for line in output]
    for line in log.body:
        _read(line, log)
    errors = list(_errors(log.body))
    log.traces = [line for line, ends in errors if ends or not log.finals]
    return log
