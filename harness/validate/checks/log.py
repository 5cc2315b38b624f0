"""Checks of the training logs: it ran to its end, in time, averaged and cooled down, and what
shipped was scored from the file.
"""

import ast
import math
import re

from harness.validate.numbers import agree, agree_mean
from harness.validate.source import words
from harness.validate.submission import Submission, number, numbers
from harness.validate.training_log import Final, Log
from harness.validate.verdict import CannotTell, Finding, check, failed, judged, passed

CAP = 600.0  # seconds of training in the 10-minute track, and of evaluation
BEFORE = re.compile(
    r"pre[-_ ]?quant|unquantized|(?<![a-z])(live|raw|fp32|before)(?![a-z])", re.IGNORECASE
)  # a score of weights that do not ship
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
RECIPE = dict.fromkeys(("iterations", "warmdown", "tokens_per_step"), "training") | dict.fromkeys(
    ("layers", "d", "heads", "kv_heads", "vocab", "length"), "model"
)  # what a log of ours prints, and the part of the recipe that holds it


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
    caught="Runs whose loss became NaN after the last validation, and whose artifact was written"
    " all the same.",
    fix="Lower the learning rate or clip; maskgolf train stops at the first such step.",
)
def finite(submission: Submission) -> Finding:
    """Every loss and score that the logs print is a finite number."""
    faults, count = [], 0
    for log in submission.logs or submission.required_logs:
        losses = list(log.losses)
        bad = [f"{where} {value}" for where, value in losses if not math.isfinite(value)]
        more = f" and {len(bad) - 1} more" if len(bad) > 1 else ""
        faults += [f"{log.name}: {bad[0]}{more}"] if bad else []
        count += len(losses)
    return judged(faults[:3], f"{count:,} losses and scores, all finite")


@check(
    "roundtrip score",
    caught="Folders that claim the score of the weights before quantisation, which nobody can"
    " download.",
    fix="Score the file: maskgolf eval RUN; maskgolf pack writes the line.",
)
def roundtrip(submission: Submission) -> Finding:
    """Every seed's log has a score after training ended: of the model as read back from the
    quantised, compressed file.
    """
    faults, shown = [], []
    for log in submission.required_logs:
        finals = shipped(log)
        if finals:
            shown.append(f"{log.name} {finals[-1].label[:40]!r} {finals[-1].val_bpb:.6g}")
            continue
        what = "only scores of steps" if log.points else "no score"
        what = f"only {log.finals[-1].label!r}" if log.finals else what
        faults.append(f"{log.name}: no score after quantisation, {what}")
    return judged(faults[:3], "; ".join(shown[:4]))


def _same_time(claimed: float, seconds: float) -> bool:
    return abs(claimed - seconds) <= 1 + 0.01 * seconds


@check(
    "training time",
    caught="Runs of 12 minutes in the record track, and seconds copied from another run.",
    fix="Set training.max_wallclock_seconds to 600, or choose the non-record track.",
)
def time_limit(submission: Submission) -> Finding:
    """In the 10-minute track every log's training clock stops at 600 s and the step that was under
    way, and no evaluation takes longer than 600 s; the JSON's wallclock_seconds is the logs'.
    """
    logs, faults = submission.required_logs, []
    times = {log.name: log.training_milliseconds for log in logs}
    times = {name: ms / 1000 for name, ms in times.items() if ms is not None}
    if not times:
        raise CannotTell("no log prints a training clock")
    limited = submission.track == "10min_16mb"
    for log in logs if limited else ():
        seconds = times.get(log.name, 0.0)
        slack = max(seconds / max(log.last_step or 1, 1), 0.5)  # the clock is read between steps
        if seconds > CAP + slack:
            faults.append(
                f"{log.name}: trained {seconds:.1f} s, the track allows {CAP:.0f} s (and the step"
                f" that was under way, {slack:.2f} s)"
            )
        faults += [
            f"{log.name}: {final.label[:40]!r} took {final.milliseconds / 1000:.1f} s, the track"
            f" allows {CAP:.0f} s"
            for final in log.finals
            if (final.milliseconds or 0) > 1000 * CAP
        ]
    values, claimed = list(times.values()), submission.stated("wallclock_seconds")
    shown = ", ".join(f"{seconds:.1f}" for seconds in values)
    if claimed is not None:
        possible = [*values, sum(values), sum(values) / len(values)]
        # the limit may be given as the time
        rounded = claimed == CAP and all(0.9 * CAP <= seconds <= CAP for seconds in values)
        if not rounded and not any(_same_time(claimed, seconds) for seconds in possible):
            faults.append(f"the JSON says {claimed:.1f} s, the logs {shown}")
    for seed, claimed in numbers(submission.seed_claims, "wallclock_seconds").items():
        name = submission.seed_logs[seed].name if seed in submission.seed_logs else ""
        if name in times and not _same_time(claimed, times[name]):
            faults.append(f"the JSON says {claimed:.1f} s of seed {seed}, {name} {times[name]:.1f}")
    return judged(faults[:3], f"track {submission.track}: {shown} s")


def _wrong_steps(submission: Submission, logs: list[Log]) -> list[str]:
    """Return where steps are beyond the last, or other than the JSON says."""
    faults = [
        f"{log.name}: step {log.last_step:,} of {log.total_steps:,}"
        for log in logs
        if log.points and log.last_step > log.total_steps
    ]
    lasts = [log.last_step for log in logs if log.points]
    claims = numbers({"": submission.claims}, "train_steps", "step_stop", "steps")
    claims |= numbers(submission.seed_claims, "train_steps", "steps")
    for seed, claimed in claims.items():
        log = submission.seed_logs.get(seed)
        allowed = [log.last_step] if log and log.points else []
        if not seed and lasts:
            allowed = [*lasts, sum(lasts), sum(lasts) / len(lasts)]
        if allowed and not any(abs(claimed - step) < 1 for step in allowed):
            of = f" of seed {seed}" if seed else ""
            faults.append(f"the JSON says {claimed:,.0f} steps{of}, the log {allowed[0]:,.0f}")
    return faults


def _wrong_parameters(submission: Submission, claims: dict, counts: set[int]) -> list[str]:
    """Return where logs, JSON and artifact have other numbers of parameters."""
    faults, elements = [], submission.container_elements
    if len(counts) > 1 and submission.seed_claims:
        several = ", ".join(f"{count:,}" for count in sorted(counts))
        faults.append(f"the logs print {several} parameters")
    for name in ("model_params", "parameters"):
        claimed = number(claims.get(name))
        if claimed is not None and counts and claimed not in counts:
            faults.append(f"the JSON says {claimed:,.0f} parameters, the log {max(counts):,}")
    if elements and counts and counts != {elements}:
        faults.append(f"the artifact holds {elements:,} parameters, the log says {max(counts):,}")
    return faults


@check(
    "parameters and steps",
    caught="JSONs that state the steps of another seed, and logs of a model that is not the one in"
    " the artifact.",
    fix="Write the JSON from the logs, as maskgolf pack does.",
)
def as_configured(submission: Submission) -> Finding:
    """Parameters and last steps in the logs are those of the JSON and of the artifact, whose recipe
    has the steps, batch, warmdown and sizes that the logs print.
    """
    logs = submission.required_logs
    lasts = [log.last_step for log in logs if log.points]
    if not lasts:
        raise CannotTell("no log prints steps")
    claims = submission.json[0] if submission.jsons else {}  # one that does not read says nothing
    faults = _wrong_steps(submission, logs)
    for name, part in RECIPE.items():
        held = plain_number(submission.recipe.get(part, {}).get(name))
        for log in logs:
            printed = plain_number(log.settings.get(name)) if name not in log.varying else None
            if None not in (held, printed) and printed != held:
                faults.append(
                    f"{log.name}: {name} {printed:g}, the artifact's recipe says {held:g}"
                )
    counts = {log.parameters for log in logs if log.parameters}
    faults += _wrong_parameters(submission, claims, counts)
    totals = sorted({log.total_steps for log in logs if log.points})
    planned = f" of {', '.join(f'{total:,}' for total in totals[:6])}"
    held = f", {max(counts):,} parameters" if counts else ""
    if submission.container_elements:
        held = f", {submission.container_elements:,} parameters in the artifact"
    shown = ", ".join(f"{step:,}" for step in lasts[:6])
    return judged(faults[:4], f"last steps {shown}{planned}{held}")


def default_of(submission: Submission, *names: str) -> float | None:
    """Return the number that the running code gives a setting where nothing overrides it."""
    for source in submission.code.running:
        for targets, value in source.assignments:
            if isinstance(targets[0], ast.Name) and targets[0].id.lower() in names:
                parts = [part for part in ast.walk(value) if isinstance(part, ast.Constant)]
                values = [plain_number(part.value) for part in parts]
                values = [number for number in values if number is not None]
                if values:
                    return values[-1]
    return None


def setting(submission: Submission, log: Log, *names: str) -> float | None:
    """Return a setting as the log prints it, else as the artifact's recipe has it, else the code's
    default.
    """
    recipe = submission.recipe.get("training", {})
    held = {**recipe, "warmdown_iters": recipe.get("warmdown")}
    for source in (log.settings, held):
        for name in names:
            value = plain_number(source.get(name))
            if value is not None:
                return value
    return default_of(submission, *names)


def ended(submission: Submission, log: Log) -> tuple[bool, str]:
    """Return whether a run reached its steps or its clock, and how that is known."""
    last, total = log.last_step or 0, log.total_steps or 0
    spent = (log.training_milliseconds or 0) / 1000
    cap = setting(submission, log, "max_wallclock_seconds")
    if last >= total > 0:
        return True, f"step {last:,} of {total:,}"
    if log.stop and "wallclock" in log.stop.lower():
        return True, f"stopped by its clock at step {last:,} of {total:,}, {spent:.1f} s"
    if cap and spent >= 0.95 * cap:
        return True, f"its clock of {cap:.0f} s ran out at step {last:,} of {total:,}"
    limit = f" of {cap:.0f} s" if cap else ""
    return False, f"stopped at step {last:,} of {total:,} after {spent:.1f} s{limit}"


def clock_schedule(submission: Submission) -> bool | None:
    """Return whether the code's warmdown looks at the clock; None where no warmdown is found
    in it.
    """
    by_clock = None
    for source in submission.code.running:
        lines = source.text.splitlines()
        for node in source.of(ast.FunctionDef, ast.Lambda):
            if not SCHEDULE.search("\n".join(lines[node.lineno - 1 : node.end_lineno])):
                continue
            names = words(node)
            if len(names) < MOST_WORDS and any(SCHEDULE.search(name) for name in names):
                by_clock = bool(by_clock) or any(CLOCK.search(name) for name in names)
    return by_clock


def _cooled(submission: Submission, log: Log, by_clock: bool | None) -> tuple[bool | None, str]:
    """Return whether the learning rate of a run came down, and how that is known."""
    rates = [point.rate for point in log.points if point.rate is not None]
    done, how = ended(submission, log)
    length = setting(submission, log, *WARMDOWN)
    if log.last_rate is not None:
        return log.last_rate <= COOL, f"last learning rate {log.last_rate:.3%} of its peak, {how}"
    if not log.points:
        return None, "no steps are printed"
    if rates and max(rates) > 0:
        peak, last = max(rates), rates[-1]
        return last <= COOL * peak, f"last learning rate {last:.3g}, {last / peak:.1%} of its peak"
    capped = "max_wallclock_seconds" in log.settings or submission.recipe
    if not done and by_clock and log.finals and not capped:
        said = "its warmdown looks at the clock, and the log does not print the cap"
        return None, f"{how}; {said}"
    if not done:
        return False, f"{how}; the warmdown did not end"
    if length == 0:
        return False, "warmdown 0, the learning rate never comes down"
    if length is None or by_clock is None:
        return None, f"{how}, no learning rate is printed and no warmdown found in the code"
    if not by_clock and log.last_step < log.total_steps:
        total, last = log.total_steps, log.last_step
        return False, f"the warmdown counts towards step {total:,}, the run ended at {last:,}"
    return True, f"warmdown {length:g}, {how}"


@check(
    "warmdown",
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
    places = []
    for source in submission.code.running:
        for targets, value in source.assignments:
            kept = any(KEPT_AVERAGE.search(name) for target in targets for name in words(target))
            parts = [part for part in ast.walk(value) if isinstance(part, ast.Attribute)]
            types = {part.attr for part in parts}
            if kept and types & HALVES and not types & {"float", "float32"}:
                assigned = f"{ast.unparse(targets[0])} = {ast.unparse(value)}"
                places.append(f"{source.label}:{value.lineno}: {assigned[:90]}")
    return places


@check(
    "weight average",
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
        return failed(
            "an average in 16 bits cannot take up changes of 0.4 % of a weight:"
            f" {'; '.join(halves[:2])}"
        )
    logs = submission.required_logs
    if any(log.average for log in logs):
        return _stated_average(logs)
    said = {
        log.name: [
            line.strip()
            for line in log.body
            if AVERAGES.search(line) and not re.match(r"\s*\w+:\s*\S+$", line)
        ]
        for log in logs
    }
    trees = [source.tree for source in submission.code.running if source.tree]
    names = {name for tree in trees for name in words(tree)}
    if not any(map(AVERAGE.search, names)) and not any(said.values()):
        submission.code.require_read()
        return passed("no moving average in code or logs")
    silent = [name for name, lines in said.items() if not lines]
    if silent:
        raise CannotTell(f"the code has a moving average, {silent[0]} says nothing about it")
    shown = next(iter(said.values()))[-1][:80]
    return passed(f"not kept in 16 bits by the code; the log says {shown!r}")


def _average_fault(log: Log) -> str | None:
    """Return what is wrong with the average by the line that a log of ours closes with."""
    said, last = log.average, log.last_step or 0
    started = said.get("started_step", "")
    if not said:
        return "no line about the average"
    if not started.isdecimal() or int(started) >= last:
        when = f"at step {int(started):,} of {last:,}" if started.isdecimal() else "never"
        return f"the average started {when}: the live weights ship"
    if said.get("dtype") != "float32":
        return f"the average is kept in {said.get('dtype')}, expected float32"
    moved = plain_number(said.get("from_start"))
    return None if moved else "the average did not move from the first weights"


def _stated_average(logs: list[Log]) -> Finding:
    """Judge what logs of ours say: when the average started, in what precision, how far it
    moved.
    """
    faults = [f"{log.name}: {fault}" for log in logs if (fault := _average_fault(log))]
    shown = [
        f"{log.name}: from step {log.average['started_step']} in float32, decay"
        f" {log.average.get('decay')}, {log.average['from_start']} from the first weights"
        for log in logs
        if not faults
    ]
    return judged(faults[:3], "; ".join(shown[:3]))


def _mean_of(submission: Submission, claim: float) -> str | None:
    """Return which scores a claim is the mean of, None where it is no mean."""
    labels: dict[str, list[float]] = {}  # the final scores by what they are called, one of each log
    for log in submission.required_logs:
        finals = sorted(shipped(log), key=lambda final: final.digits)  # the one with most digits
        scores = {re.sub(r"_exact\b", "", final.label): final.val_bpb for final in finals}
        for label, value in scores.items():
            labels.setdefault(label, []).append(value)
    for label, values in labels.items():
        if len(values) > 1 and agree_mean(claim, values):
            return f"{len(values)} logs' {label[:60]!r}"
    seeds = list(submission.seed_scores.values())
    printed = [final.val_bpb for log in submission.logs for final in shipped(log)]
    logged = all(any(agree(seed, value) for value in printed) for seed in seeds)
    if len(seeds) > 1 and logged and agree_mean(claim, seeds):
        return f"{len(seeds)} seeds' scores, each of which a log prints"
    return None


@check(
    "score in log",
    caught="JSONs with the score before quantisation, of another experiment, or with two digits"
    " exchanged.",
    fix="Copy the score from the log's last line.",
)
def score_in_log(submission: Submission) -> Finding:
    """The JSON's val_bpb is a final score that a log prints, or the mean of the seeds' final
    scores.
    """
    claim, logs = submission.claim("val_bpb", "mean_val_bpb"), submission.logs
    if not logs:
        raise CannotTell("no log prints a score")
    finals = [(log.name, final) for log in logs for final in reversed(shipped(log))]
    for name, final in finals:
        if agree(final.val_bpb, claim):
            return passed(f"{claim:.8g} in {name}: {final.label[:60]!r} {final.val_bpb:.8g}")
    mean = _mean_of(submission, claim)
    if mean:
        return passed(f"{claim:.8g} is the mean of {mean}")
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
