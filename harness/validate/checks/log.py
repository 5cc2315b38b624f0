"""Checks of the training logs: it ran to its end, in time, averaged and cooled down, and what
shipped was scored from the file.
"""

import ast
import math
import re
from collections.abc import Callable
from contextlib import suppress

from harness.validate.modules import needed
from harness.validate.numbers import agree, agree_mean
from harness.validate.source import words
from harness.validate.submission import Submission, number, numbers
from harness.validate.training_log import NAMELESS, Final, Log
from harness.validate.verdict import CannotTell, Finding, check, failed, judged, passed, require

CAP = 600.0  # seconds of training in the 10-minute track, and of evaluation
# A score of weights that do not ship
BEFORE = re.compile(
    r"pre[-_ ]?quant|unquantized|(?<![a-z])(live|raw|fp32|before)(?![a-z])", re.IGNORECASE
)
# of its peak: above it the last learning rate is not near zero (floors of 0.1 are used on purpose)
COOL = 0.25
SCHEDULE = re.compile(r"warmdown|cooldown")
CLOCK = re.compile(r"elapsed|wallclock|_ms$|seconds|(^|_)frac(tion)?$|progress|remaining")
MOST_WORDS = 60  # in a function that is a schedule and no more
WARMDOWN = (
    "warmdown_iters warmdown_steps warmdown warmdown_frac warmdown_fraction cooldown_frac"
    " warmdown_ratio"
).split()
AVERAGES = re.compile(r"(?<![a-z])(ema|shadow|swa|averaged?)(?![a-z])", re.IGNORECASE)
AVERAGE = re.compile(r"(^|_)ema(_|$)|ema_state|shadow", re.IGNORECASE)
KEPT_AVERAGE = re.compile(r"(^|_)(ema|shadow)(_|$)", re.IGNORECASE)
HALVES = {"bfloat16", "half", "float16"}
# What a log of ours prints, and the part of the recipe that holds it
RECIPE = dict.fromkeys(("iterations", "warmdown", "tokens_per_step"), "training") | dict.fromkeys(
    ("layers", "d", "heads", "kv_heads", "vocab", "length"), "model"
)
ASSIGNED = re.compile(r"\b([A-Z][A-Z0-9_]{2,})=[\"']?([^\s\"'`\\;,)]+)")
TABLED = re.compile(  # a row of a README: a variable and its value, perhaps words about them
    r"^\|[ *`]*([A-Z][A-Z0-9]*_[A-Z0-9_]+)[ *`]*\|[ *`]*([^\s|*`]+)[ *`]*\|"
    r"(?:[^|\n]*[a-z]{3}[^|\n]*\|)*\s*$",
    re.MULTILINE,
)
WORD = re.compile(r"[a-z]{3,}")
CODE = tuple(".py .sh .c .cc .cpp .cu .cuh .h .hpp .rs .go .ipynb .toml .yaml .yml".split())
THOUSANDS = re.compile(r"(?<=\d),(?=\d{3}(,|$))")
SWITCHED = {"true": "1", "false": "0"}


def shipped(log: Log) -> list[Final]:
    """Return the final scores that are of the file, not of weights before quantisation."""
    return [final for final in log.finals if not BEFORE.search(final.label)]


def plain_number(value: object) -> float | None:
    """Return a number as JSON, code or a log writes it, None for anything else."""
    try:
        return number(float(value)) if isinstance(value, str) else number(value)
    except (ValueError, OverflowError):
        return None


@check(
    "no traceback",
    "score",
    caught="Logs that end in an out-of-memory error, with the score of an earlier attempt in the"
    " JSON.",
    fix="Repeat the run; submit the log of the run that is scored.",
)
def traceback(submission: Submission) -> Finding:
    """No log holds a Python traceback, a CUDA error or a killed worker."""
    logs = submission.logs or submission.required_logs
    faults = [f"{log.name}: {log.traces[0][:120]}" for log in logs if log.traces]
    lines = sum(len(log.body) for log in logs)
    return judged(faults[:3], f"no traceback in {len(logs)} logs, {lines:,} lines")


@check(
    "finite losses",
    "score",
    caught="Runs whose loss became NaN after the last validation, and whose artifact was written"
    " all the same.",
    fix="Lower the learning rate or clip; maskgolf train stops at the first such step.",
)
def finite(submission: Submission) -> Finding:
    """Every loss and score that the logs print is a finite number."""
    logs = submission.logs or submission.required_logs
    losses = [
        (f"{log.name}: {where} {value}", value) for log in logs for where, value in log.losses
    ]
    faults = [where for where, value in losses if not math.isfinite(value)]
    return judged(faults[:3], f"{len(losses):,} losses and scores, all finite")


@check(
    "roundtrip score",
    "score",
    caught="Folders that claim the score of the weights before quantisation, which nobody can"
    " download.",
    fix="Score the file: maskgolf eval RUN; maskgolf pack writes the line.",
)
def roundtrip(submission: Submission) -> Finding:
    """Every seed's log has a score after training ended: of the model as read back from the
    quantised, compressed file.
    """
    logs = submission.required_logs
    faults = [
        f"{log.name}: none of {len(log.points)} steps and {len(log.finals)} scores is after"
        " quantisation"
        for log in logs
        if not shipped(log)
    ]
    finals = [(log.name, shipped(log)[-1]) for log in logs if shipped(log)]
    shown = [f"{name} {final.label[:40]!r} {final.val_bpb:.6g}" for name, final in finals]
    return judged(faults[:3], "; ".join(shown[:4]))


def _misstated(
    submission: Submission,
    names: tuple[str, ...],
    printed: dict[str, float],
    tolerance: Callable[[float], float],
    *also: float,
) -> list[str]:
    """Return where these fields of the JSON are another number than the logs print (by the log's
    name): in all, a log's, the sum, the mean or one of `also`; of a seed, its log's.
    """
    values = list(printed.values())
    possible = {"": [*values, sum(values), sum(values) / len(values), *also]}
    for seed, log in submission.seed_logs.items():
        possible |= {seed: [printed[log.name]]} if log.name in printed else {}
    claims = numbers({"": submission.claims, **submission.seed_claims}, *names)
    return [
        f"the JSON says {names[0]} {claimed:,.1f}{f' of seed {seed}' if seed else ''}, the log"
        f" {possible[seed][0]:,.1f}"
        for seed, claimed in claims.items()
        if seed in possible
        and not any(abs(claimed - value) <= tolerance(value) for value in possible[seed])
    ]


def training_seconds(submission: Submission) -> dict[str, float]:
    """Return the training clock at the end of every log that prints one, by the log's name."""
    clocks = {log.name: log.training_milliseconds for log in submission.own_logs}
    return {name: clock / 1000 for name, clock in clocks.items() if clock is not None}


@check(
    "training time",
    "rules",
    caught="Runs of 12 minutes in the record track.",
    fix="Set training.max_wallclock_seconds to 600, or choose the non-record track.",
)
def time_limit(submission: Submission) -> Finding:
    """In the 10-minute track every log's training clock stops at 600 s and the step that was under
    way, and no evaluation takes longer than 600 s.
    """
    logs, times = submission.required_logs, training_seconds(submission)
    if not times:
        raise CannotTell("no log prints a training clock")
    steps = {log.name: log.last_step or 1 for log in logs}
    spans = [  # the clock is read between steps
        (name, "training", seconds, max(seconds / steps[name], 0.5))
        for name, seconds in times.items()
    ]
    spans += [
        (log.name, repr(final.label[:40]), (final.milliseconds or 0) / 1000, 0.0)
        for log in logs
        for final in log.finals
    ]
    faults = [
        f"{name}: {what} took {seconds:.1f} s, the track allows {CAP:.0f} s + {slack:.2f} s"
        for name, what, seconds, slack in spans
        if submission.track == "10min_16mb" and seconds > CAP + slack
    ]
    shown = ", ".join(f"{seconds:.1f}" for seconds in times.values())
    return judged(faults[:3], f"track {submission.track}: {shown} s")


@check(
    "parameters and steps",
    "score",
    caught="Logs of a model that is not the one in the artifact, and logs of two models.",
    fix="Submit the logs of the run that the artifact is of.",
)
def as_configured(submission: Submission) -> Finding:
    """The logs' parameters are those of the artifact, whose recipe has the steps, batch, warmdown
    and sizes that the logs print; no log goes on beyond its steps, and all are of one model.
    """
    logs, elements = submission.required_logs, submission.container_elements
    lasts = {log.name: log.last_step for log in logs if log.points}
    if not lasts:
        raise CannotTell("no log prints steps")
    faults = [
        f"{log.name}: step {log.last_step:,} of {log.total_steps:,}"
        for log in logs
        if log.points and log.last_step > log.total_steps
    ]
    for name, part in RECIPE.items():
        held = plain_number(submission.recipe.get(part, {}).get(name))
        values = {
            log.name: plain_number(log.settings.get(name))
            for log in logs
            if name not in log.varying
        }
        faults += [
            f"{log}: {name} {printed:g}, the artifact's recipe says {held:g}"
            for log, printed in values.items()
            if None not in (held, printed) and printed != held
        ]
    counts = {log.parameters for log in logs if log.parameters}
    shown = ", ".join(f"{count:,}" for count in sorted(counts))
    if len(counts) > 1 and submission.seed_claims:
        faults.append(f"the logs print {shown} parameters")
    if elements and counts - {elements}:
        faults.append(f"the artifact holds {elements:,} parameters, the log says {shown}")
    totals = sorted({log.total_steps for log in logs if log.points})
    steps = [", ".join(f"{step:,}" for step in some[:6]) for some in ([*lasts.values()], totals)]
    held = f", {shown} parameters" if counts else ""
    held = f", {elements:,} parameters in the artifact" if elements else held
    return judged(faults[:4], f"last steps {steps[0]} of {steps[1]}{held}")


@check(
    "JSON counts",
    "paperwork",
    caught="JSONs that state the steps of another seed, seconds copied from another run, and"
    " parameters of another model.",
    fix="Write the JSON from the logs, as maskgolf pack does.",
)
def json_counts(submission: Submission) -> Finding:
    """train_steps, wallclock_seconds and parameters of the JSON, in all and of each seed, are those
    that the logs print.
    """
    logs, times = submission.required_logs, training_seconds(submission)
    lasts = {log.name: log.last_step for log in logs if log.points}
    counts = {log.parameters for log in logs if log.parameters}
    steps = ("train_steps", "step_stop", "steps")
    faults = _misstated(submission, steps, lasts, lambda _: 0.99) if lasts else []
    # the limit may be given as the time
    limit = [CAP] if all(0.9 * CAP <= seconds <= CAP for seconds in times.values()) else []
    close = lambda seconds: 1 + 0.01 * seconds  # noqa: E731
    faults += _misstated(submission, ("wallclock_seconds",), times, close, *limit) if times else []
    others = {submission.stated("model_params"), submission.stated("parameters")} - {None, *counts}
    shown = ", ".join(f"{count:,}" for count in sorted(counts))
    if counts and others:
        faults.append(f"the JSON says {max(others):,.0f} parameters, the log {shown}")
    require(lasts or times or counts, "no log prints steps, a training clock or parameters")
    rows = {"": submission.claims, **submission.seed_claims}
    names = (*steps, "wallclock_seconds", "model_params", "parameters")
    stated = numbers(rows, *names)
    said = "as the logs print them" if stated else "are not stated in the JSON"
    return judged(faults[:4], f"steps, seconds and parameters {said}")


def setting(submission: Submission, log: Log, *names: str) -> float | None:
    """Return a setting as the log prints it, else as the artifact's recipe has it, else the code's
    default.
    """
    defaults = [
        value
        for source in submission.code.running
        for targets, value in source.assignments
        if isinstance(targets[0], ast.Name) and targets[0].id.lower() in names
    ]
    parts = [part for value in defaults for part in reversed([*ast.walk(value)])]
    held = [log.settings, submission.recipe.get("training", {})]
    values = [source.get(name) for source in held for name in names]
    values += [part.value for part in parts if isinstance(part, ast.Constant)]
    numbers = (plain_number(value) for value in values)
    return next((value for value in numbers if value is not None), None)


def variables(submission: Submission) -> dict[str, str | None]:
    """Return the variables of the environment that logs print, or the README and shell scripts
    assign, or the README lists in a table, by their names in lower case; None where they differ.
    """
    known: dict[str, str | None] = {}
    scripts = [name for name in submission.files if name.endswith(".sh")]
    texts = [submission.readme, *(submission.text(name) for name in scripts)]
    assigned = [match for text in texts for match in ASSIGNED.findall(text)]
    assigned += [
        (name, THOUSANDS.sub("", value)) for name, value in TABLED.findall(submission.readme)
    ]
    printed = [row for log in submission.own_logs for row in log.settings.items()]
    for rows in (assigned, printed):
        told: dict[str, set[str]] = {}
        for name, value in rows:
            told.setdefault(name.lower(), set()).add(SWITCHED.get(value.lower(), value))
        # a README that switches something off may speak of a baseline
        known |= {
            name: None if len(some) > 1 or (rows is assigned and some == {"0"}) else min(some)
            for name, some in told.items()
        }
    return known


def ended(submission: Submission, log: Log) -> tuple[bool, str]:
    """Return whether a run reached its steps or its clock, and how that is known."""
    last, total = log.last_step or 0, log.total_steps or 0
    spent = (log.training_milliseconds or 0) / 1000
    cap = setting(submission, log, "max_wallclock_seconds")
    by_clock = "wallclock" in (log.stop or "").lower() or bool(cap and spent >= 0.95 * cap)
    limit = f" of {cap:.0f} s" if cap else ""
    return last >= total > 0 or by_clock, f"step {last:,} of {total:,}, {spent:.1f} s{limit}"


def clock_schedule(submission: Submission) -> bool | None:
    """Return whether the code's warmdown looks at the clock; None where no warmdown is found
    in it.
    """
    functions = [
        words(node)
        for source in submission.code.running
        if SCHEDULE.search(source.text)
        for node in source.of(ast.FunctionDef, ast.Lambda)
    ]
    schedules = [
        names for names in functions if len(names) < MOST_WORDS and any(map(SCHEDULE.search, names))
    ]
    by_clock = any(CLOCK.search(name) for names in schedules for name in names)
    return by_clock if schedules else None


def _cooled(submission: Submission, log: Log, by_clock: bool | None) -> tuple[bool | None, str]:
    """Return whether the learning rate of a run came down, and how that is known."""
    rates = [point.rate for point in log.points if point.rate is not None]
    done, how = ended(submission, log)
    length, share = setting(submission, log, *WARMDOWN), log.last_rate
    if share is None and rates and max(rates) > 0:
        share = rates[-1] / max(rates)
    if share is not None:
        return share <= COOL, f"last learning rate {share:.3%} of its peak, {how}"
    if not log.points:
        return None, "no steps are printed"
    if not done:
        capped = "max_wallclock_seconds" in log.settings or submission.recipe
        if by_clock and log.finals and not capped:
            return None, f"{how}; its warmdown looks at the clock, the log does not print the cap"
        return False, f"stopped at {how}; the warmdown did not end"
    if length == 0:
        return False, "warmdown 0, the learning rate never comes down"
    if length is None or by_clock is None:
        return None, f"{how}, no learning rate is printed and no warmdown found in the code"
    follows = "the clock" if by_clock else "the steps"
    return by_clock or log.last_step >= log.total_steps, f"warmdown {length:g} by {follows}, {how}"


@check(
    "warmdown",
    "paperwork",
    caught="Schedules that counted down to step 20,000 in runs that the clock stopped at 4,000: the"
    " rate never came down.",
    fix="Let the warmdown follow the clock (maskgolf's does), or set iterations to what fits.",
)
def warmdown(submission: Submission) -> Finding:
    """The last learning rate printed is at most a quarter of its peak; where none is printed, the
    run reached the end of its schedule: its last step, or its clock where the code's warmdown
    follows the clock.
    """
    by_clock, reasons = clock_schedule(submission), {True: [], False: [], None: []}
    for log in submission.required_logs:
        cooled, how = _cooled(submission, log, by_clock)
        reasons[cooled].append(f"{log.name}: {how}")
    if reasons[None] and not reasons[False]:
        raise CannotTell("; ".join(reasons[None][:3]))
    return judged(reasons[False][:3], "; ".join(reasons[True][:3]))


def half_averages(submission: Submission) -> list[str]:
    """Return where the code keeps an average of weights in fewer than 32 bits."""
    averages = [
        (source.label, targets[0], value)
        for source in submission.code.running
        for targets, value in source.assignments
        if any(KEPT_AVERAGE.search(name) for target in targets for name in words(target))
    ]
    return [
        f"{label}:{value.lineno}: {f'{ast.unparse(target)} = {ast.unparse(value)}'[:90]}"
        for label, target, value in averages
        if (types := {part.attr for part in ast.walk(value) if isinstance(part, ast.Attribute)})
        & HALVES
        and not types & {"float", "float32"}
    ]


@check(
    "weight average",
    "paperwork",
    caught="Averages in bfloat16, which a decay of 0.999 cannot move, and averages that started"
    " after the clock had stopped the run.",
    fix="Keep the shadow in float32; start it by the schedule (--ema.start), not at a step that is"
    " never reached.",
)
def average(submission: Submission) -> Finding:
    """The moving average of the weights is kept in float32, and the log says that it started before
    the last step.
    """
    halves = half_averages(submission)
    if halves:
        what = "an average in 16 bits cannot take up changes of 0.4 % of a weight"
        return failed(f"{what}: {'; '.join(halves[:2])}")
    logs = submission.required_logs
    if any(log.average for log in logs):
        faults = [f"{log.name}: {fault}" for log in logs if (fault := _average_fault(log))]
        shown = [
            f"{log.name}: from step {log.average.get('started_step')} in float32, decay"
            f" {log.average.get('decay')}, {log.average.get('from_start')} from the first weights"
            for log in logs
        ]
        return judged(faults[:3], "; ".join(shown[:3]))
    said = {
        log.name: [
            line.strip()
            for line in log.body
            if AVERAGES.search(line) and not re.match(r"\s*\w+:\s*\S+$", line)
        ]
        for log in logs
    }
    trees = [source.tree for source in submission.code.running if source.tree]
    in_code = any(AVERAGE.search(name) for tree in trees for name in words(tree))
    if not in_code and not any(said.values()):
        submission.code.require_read()
        return passed("no moving average in code or logs")
    silent = [name for name, lines in said.items() if not lines]
    if silent:
        raise CannotTell(f"the code has a moving average, {silent[0]} says nothing about it")
    shown = next(iter(said.values()))[-1][:80]
    return passed(f"not kept in 16 bits by the code; the log says {shown!r}")


def _average_fault(log: Log) -> str | None:
    """Return what is wrong with the average by the line that a log of ours closes with."""
    started, last = log.average.get("started_step", "never"), log.last_step or 0
    if not started.isdecimal() or int(started) >= last:
        return f"the average started at step {started} of {last:,}: the live weights ship"
    if log.average.get("dtype") != "float32":
        return f"the average is kept in {log.average.get('dtype')}, expected float32"
    moved = plain_number(log.average.get("from_start"))
    return None if moved else "the average did not move from the first weights"


def unprinted(submission: Submission, log: Log, final: Final) -> str:
    """Return what is wrong where a word by which a log calls a final score is in no code of the
    folder, nor among the settings of the log. "" where the code may have printed it, or where not
    all code is here.
    """
    with suppress(CannotTell):
        submission.code.require_read()
        texts = [source.text for source in submission.code.sources.values()]
        texts += [submission.text(name) for name in submission.files if name.endswith(CODE)]
        here = " ".join((*texts, *map(str, log.settings.values()))).lower()
        label = "" if final.label == NAMELESS else final.label.lower()
        absent = [word for word in WORD.findall(label) if word not in here]
        modules = needed(submission) if absent else None
        if modules and not modules.missing and not modules.mentioned:
            return (
                f"no code here has the word {absent[0]!r} of {final.label[:60]!r}, the score in"
                f" {log.name}: other code has printed it"
            )
    return ""


def _mean_of(submission: Submission, claim: float) -> str | None:
    """Return which scores a claim is the mean of, None where it is no mean."""
    labels: dict[str, list[float]] = {}  # the final scores by what they are called, one of each log
    for log in submission.required_logs:
        finals = sorted(shipped(log), key=lambda final: final.digits)  # the one with most digits
        scores = {re.sub(r"_exact\b", "", final.label): final.val_bpb for final in finals}
        for label, value in scores.items():
            labels.setdefault(f"the logs' {label!r}", []).append(value)
    seeds = list(submission.seed_scores.values())
    printed = [final.val_bpb for log in submission.logs for final in shipped(log)]
    if all(any(agree(seed, value) for value in printed) for seed in seeds):
        labels["the seeds' scores, each of which a log prints"] = seeds
    means = (
        f"{len(values)} of {label:.80}"
        for label, values in labels.items()
        if len(values) > 1 and agree_mean(claim, values)
    )
    return next(means, None)


@check(
    "score in log",
    "score",
    caught="JSONs with the score before quantisation, of another experiment, or with two digits"
    " exchanged; the public script beside a log of other code, with a score of 0.027.",
    fix="Copy the score from the log's last line, and put the code that printed it in the folder.",
)
def score_in_log(submission: Submission) -> Finding:
    """The JSON's val_bpb is a final score that a log prints, or the mean of the seeds' final
    scores, and code of the folder can have printed it.
    """
    claim = submission.claim("val_bpb", "mean_val_bpb")
    logs = submission.logs or submission.required_logs
    finals = [(log, final) for log in logs for final in reversed(shipped(log))]
    for log, final in finals:
        if agree(final.val_bpb, claim):
            good = f"{claim:.8g} in {log.name}: {final.label[:60]!r} {final.val_bpb:.8g}"
            return judged([unprinted(submission, log, final)], good)
    mean = _mean_of(submission, claim)
    if mean:
        last = [(log, shipped(log)[-1]) for log in submission.own_logs if shipped(log)]
        faults = [unprinted(submission, *row) for row in last]
        return judged(faults[:1], f"{claim:.8g} is the mean of {mean}")
    early = [
        (f"step {point.step}", point.val_bpb)
        for log in logs
        for point in log.points
        if point.val_bpb is not None
    ]
    early += [(repr(final.label[:60]), final.val_bpb) for log in logs for final in log.finals]
    for where, value in early:
        if agree(value, claim):
            return failed(
                f"{claim:.8g} is the score of {where}, before quantisation: not of what ships"
            )
    if not finals:
        raise CannotTell(f"the logs print no final score to compare {claim:.8g} with")
    nearest = min((final.val_bpb for _, final in finals), key=lambda value: abs(value - claim))
    return failed(f"the JSON says {claim:.8g}, no log does; the nearest is {nearest:.8g}")


@check(
    "bits and nats",
    "score",
    caught="val_bpb filed under val_loss, and byte counts that changed between the log and the"
    " claim.",
    fix="Take both numbers from one line of the log.",
)
def bits_and_nats(submission: Submission) -> Finding:
    """val_loss in nats per token and val_bpb give the same number of bytes per token in the JSON as
    in the logs, and at least one.
    """
    loss = submission.claim("val_loss", "mean_val_loss")
    bits = submission.claim("val_bpb", "mean_val_bpb")
    if bits <= 0 or loss <= 0:
        raise CannotTell(f"val_loss {loss:g}, val_bpb {bits:g}")
    claimed = loss / (math.log(2) * bits)
    error = (0.6 * 10.0**-4 / bits + 0.6 * 10.0**-4 / loss) * claimed * 2
    finals = [final for log in submission.logs for final in shipped(log)]
    ratios = [
        final.val_loss / (math.log(2) * final.val_bpb)
        for final in finals
        if final.val_loss and final.val_bpb > 0 and math.isfinite(final.val_loss * final.val_bpb)
    ]
    faults = []
    if not 0.98 <= claimed <= 16:
        faults.append(f"{claimed:.4f} bytes per token: a token stands for at least one byte")
    if ratios and not any(abs(ratio - claimed) <= max(error, 2e-3 * ratio) for ratio in ratios):
        faults.append(
            f"the JSON's {loss:g} nats and {bits:g} bits are {claimed:.4f} bytes per token, the"
            f" logs' {ratios[-1]:.4f}"
        )
    logged = f", {ratios[-1]:.4f} in the logs" if ratios else ""
    return judged(faults, f"{claimed:.4f} bytes per token in the JSON{logged}")
