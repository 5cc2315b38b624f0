"""Checks of the training logs: it ran to its end, in time, averaged and cooled down, and what
shipped was scored from the file.
"""

import ast
import math
import re

from harness.validate.finding import CannotTell, Check, Explain, Finding, failed, judged, passed
from harness.validate.folder import track_of
from harness.validate.numbers import agree, agree_mean
from harness.validate.submission import Submission, number
from harness.validate.trainlog import Log

CAP = 600.0  # seconds of training in the 10-minute track, and of evaluation
BEFORE = re.compile(
    r"pre[-_ ]?quant|unquantized|(?<![a-z])(live|raw|fp32|before)(?![a-z])", re.IGNORECASE
)  # a score of weights that do not ship
# of its peak: above it the last learning rate is not near zero (floors of 0.1 are used on purpose)
COOL = 0.25
SCHEDULE = re.compile(r"warmdown|cooldown")
AVERAGES = re.compile(r"(?<![a-z])(ema|shadow|swa|averaged?)(?![a-z])", re.IGNORECASE)


def logs_of(submission: Submission) -> list[Log]:
    """Return the logs of the submission's seeds, or the only logs there are."""
    found = list(submission.seed_logs.values()) or list(submission.logs)
    if not found:
        raise CannotTell("there is no training log")
    return found


def shipped(log: Log) -> list:
    """Return the final scores that are of the file, not of weights before quantisation."""
    return [final for final in log.finals if not BEFORE.search(final.label)]


def traceback(submission: Submission) -> Finding:
    """No log ends in an error."""
    logs = submission.logs or logs_of(submission)
    faults = [f"{log.name}: {log.traces[0][:120]}" for log in logs if log.traces]
    return judged(
        faults[:3],
        f"no traceback in {len(logs)} logs, {sum(len(log.body) for log in logs):,} lines",
    )


def finite(submission: Submission) -> Finding:
    """Every loss and score is a finite number."""
    faults, count = [], 0
    for log in submission.logs or logs_of(submission):
        values = [
            (f"step {point.step}", value)
            for point in log.points
            for value in (point.train_loss, point.val_loss, point.val_bpb)
            if value is not None
        ]
        values += [
            (final.label, value)
            for final in log.finals
            for value in (final.val_loss, final.val_bpb)
            if value is not None
        ]
        count += len(values)
        bad = [f"{place} {value}" for place, value in values if not math.isfinite(value)]
        if bad:
            faults.append(
                f"{log.name}: {bad[0]} and {len(bad) - 1} more"
                if len(bad) > 1
                else f"{log.name}: {bad[0]}"
            )
    return judged(faults[:3], f"{count:,} losses and scores, all finite")


def roundtrip(submission: Submission) -> Finding:
    """Every seed's log has a score of the file that was written and read back."""
    faults, shown = [], []
    for log in logs_of(submission):
        if not shipped(log):
            what = (
                f"only {log.finals[-1].label!r}"
                if log.finals
                else "only scores of steps"
                if log.points
                else "no score"
            )
            faults.append(f"{log.name}: no score after quantisation, {what}")
        else:
            final = shipped(log)[-1]
            shown.append(f"{log.name} {final.label[:40]!r} {final.val_bpb:.6g}")
    return judged(faults[:3], "; ".join(shown[:4]))


def time_limit(submission: Submission) -> Finding:
    """Training and evaluation took at most ten minutes each where the track says so, and the JSON's
    seconds are the log's.
    """
    times = {
        log.name: log.training_milliseconds / 1000
        for log in logs_of(submission)
        if log.training_milliseconds is not None
    }
    if not times:
        raise CannotTell("no log prints a training clock")
    faults = []
    steps = {log.name: max(log.last_step or 1, 1) for log in logs_of(submission)}
    for name, seconds in times.items():
        slack = max(seconds / steps[name], 0.5)  # the clock is looked at between steps
        if track_of(submission) == "10min_16mb" and seconds > CAP + slack:
            faults.append(
                f"{name}: trained {seconds:.1f} s, the track allows {CAP:.0f} s (and the step that"
                f" was under way, {slack:.2f} s)"
            )
    evaluated = [
        (log.name, final)
        for log in logs_of(submission)
        for final in log.finals
        if (final.milliseconds or 0) > 1000 * CAP
    ]
    if track_of(submission) == "10min_16mb":
        faults += [
            f"{name}: {final.label[:40]!r} took {final.milliseconds / 1000:.1f} s, the track allows"
            f" {CAP:.0f} s"
            for name, final in evaluated
        ]
    try:
        claimed = submission.claim("wallclock_seconds")
        sums = [*times.values(), sum(times.values()), sum(times.values()) / len(times)]
        rounded = claimed == CAP and all(
            0.9 * CAP <= seconds <= CAP for seconds in times.values()
        )  # the limit given as the time
        if not rounded and not any(
            abs(claimed - seconds) <= 1 + 0.01 * seconds for seconds in sums
        ):
            faults.append(
                f"the JSON says {claimed:.1f} s, the logs"
                f" {', '.join(f'{seconds:.1f}' for seconds in times.values())}"
            )
    except CannotTell:
        pass
    for seed, fields in submission.seed_claims.items() if submission.seeds_claimed else ():
        claimed, log = number(fields.get("wallclock_seconds")), submission.seed_logs.get(seed)
        seconds = times.get(log.name) if log else None
        if (
            claimed is not None
            and seconds is not None
            and abs(claimed - seconds) > 1 + 0.01 * seconds
        ):
            faults.append(f"the JSON says {claimed:.1f} s of seed {seed}, {log.name} {seconds:.1f}")
    return judged(
        faults[:3],
        f"track {track_of(submission)}:"
        f" {', '.join(f'{seconds:.1f} s' for seconds in times.values())}",
    )


def _steps_claimed(submission: Submission) -> dict[str, float]:
    """Return the steps that the JSON states: of the run under "", of seeds under the seed."""
    found = {}
    try:
        for name in ("train_steps", "step_stop", "steps"):
            value = number(submission.claims.get(name))
            if value is not None:
                found.setdefault("", value)
        for seed, fields in submission.seed_claims.items():
            value = next(
                (number(fields[name]) for name in ("train_steps", "steps") if name in fields), None
            )
            if value is not None:
                found[seed] = value
    except CannotTell:
        pass
    return found


def configured(submission: Submission) -> list[tuple[str, float]]:
    """Return the settings in the artifact's recipe that a log of ours prints."""
    names = {
        "training": ("iterations", "warmdown", "tokens_per_step"),
        "model": ("layers", "d", "heads", "kv_heads", "vocab", "length"),
    }
    held = [
        (name, submission.recipe.get(part, {}).get(name)) for part in names for name in names[part]
    ]
    return [(name, value) for name, each in held if (value := _plain_number(each)) is not None]


def as_configured(submission: Submission) -> Finding:
    """Parameters and steps in the logs are those of the JSON and of the artifact, and no step is
    beyond the last.
    """
    faults, logs = [], logs_of(submission)
    lasts = {log.name: log.last_step for log in logs if log.last_step is not None}
    if not lasts:
        raise CannotTell("no log prints steps")
    for log in logs:
        if (
            log.last_step is not None
            and log.total_steps is not None
            and log.last_step > log.total_steps
        ):
            faults.append(f"{log.name}: step {log.last_step:,} of {log.total_steps:,}")
    for seed, claimed in _steps_claimed(submission).items():
        log = submission.seed_logs.get(seed)
        known = [log.last_step] if log else list(lasts.values()) if not seed else []
        allowed = [step for step in known if step is not None]
        allowed += [sum(allowed), sum(allowed) / len(allowed)] if allowed and not seed else []
        if allowed and not any(abs(claimed - step) < 1 for step in allowed):
            faults.append(
                f"the JSON says {claimed:,.0f} steps{f' of seed {seed}' if seed else ''}, the log"
                f" {allowed[0]:,.0f}"
            )
    for name, held in configured(submission):
        for log in logs:
            printed = _plain_number(log.settings.get(name)) if name not in log.varying else None
            if printed is not None and printed != held:
                faults.append(
                    f"{log.name}: {name} {printed:g}, the artifact's recipe says {held:g}"
                )
    counts = {log.parameters for log in logs if log.parameters}
    if len(counts) > 1 and submission.seeds_claimed:
        faults.append(
            f"the logs print {', '.join(f'{count:,}' for count in sorted(counts))} parameters"
        )
    for name in ("model_params", "parameters"):
        claimed = number(submission.claims.get(name)) if submission.json_found else None
        if claimed is not None and counts and claimed not in counts:
            faults.append(f"the JSON says {claimed:,.0f} parameters, the log {max(counts):,}")
    elements = submission.container_elements
    if elements and counts and counts != {elements}:
        faults.append(f"the artifact holds {elements:,} parameters, the log says {max(counts):,}")
    held = (
        f", {elements:,} parameters in the artifact"
        if elements
        else f", {max(counts):,} parameters"
        if counts
        else ""
    )
    totals = sorted({log.total_steps for log in logs if log.total_steps is not None})
    planned = f" of {', '.join(f'{total:,}' for total in totals[:6])}" if totals else ""
    return judged(
        faults[:4],
        f"last steps {', '.join(f'{step:,}' for step in list(lasts.values())[:6])}{planned}{held}",
    )


def default_of(submission: Submission, *names: str) -> float | None:
    """Return the number that the running code gives a setting where nothing overrides it."""
    for source in submission.code.running:
        for node in source.nodes:
            target = (
                node.target
                if isinstance(node, ast.AnnAssign)
                else node.targets[0]
                if isinstance(node, ast.Assign)
                else None
            )
            if (
                isinstance(target, ast.Name)
                and target.id.lower() in names
                and node.value is not None
            ):
                constants = [
                    part.value for part in ast.walk(node.value) if isinstance(part, ast.Constant)
                ]
                numbers = [value for value in map(_plain_number, constants) if value is not None]
                if numbers:
                    return numbers[-1]
    return None


def _plain_number(value: object) -> float | None:
    try:
        return (
            number(float(value))
            if isinstance(value, int | float | str) and not isinstance(value, bool)
            else None
        )
    except (ValueError, OverflowError):
        return None


def setting(submission: Submission, log: Log, *names: str) -> float | None:
    """Return a setting as the log prints it, else as the artifact's recipe has it, else the code's
    default.
    """
    for name in names:
        printed = _plain_number(log.settings.get(name))
        if printed is not None:
            return printed
    for name in names:
        held = _plain_number(
            submission.recipe.get("training", {}).get(
                {"warmdown_iters": "warmdown"}.get(name, name)
            )
        )
        if held is not None:
            return held
    return default_of(submission, *names)


def ended(submission: Submission, log: Log) -> tuple[bool, str]:
    """Return whether a run reached its steps or its clock, and how that is known."""
    last, total, spent = (
        log.last_step or 0,
        log.total_steps or 0,
        (log.training_milliseconds or 0) / 1000,
    )
    cap = setting(submission, log, "max_wallclock_seconds")
    if last >= total > 0:
        return True, f"step {last:,} of {total:,}"
    if log.stop and "wallclock" in log.stop.lower():
        return True, f"stopped by its clock at step {last:,} of {total:,}, {spent:.1f} s"
    if cap and spent >= 0.95 * cap:
        return True, f"its clock of {cap:.0f} s ran out at step {last:,} of {total:,}"
    return (
        False,
        (
            f"stopped at step {last:,} of {total:,} after {spent:.1f}"
            f" s{f' of {cap:.0f} s' if cap else ''}"
        ),
    )


def _words(node: ast.AST) -> set[str]:
    """Return the names, attributes and arguments in code."""
    return {
        getattr(part, "id", None) or getattr(part, "attr", None) or getattr(part, "arg", None) or ""
        for part in ast.walk(node)
        if isinstance(part, ast.Name | ast.Attribute | ast.arg)
    }


def clock_schedule(submission: Submission) -> bool | None:
    """Return whether the code's warmdown looks at the clock; None where no warmdown is found
    in it.
    """
    found = None
    for source in submission.code.running:
        lines = source.text.splitlines()
        for node in source.nodes:
            named = isinstance(node, ast.FunctionDef | ast.Lambda) and SCHEDULE.search(
                "\n".join(lines[node.lineno - 1 : node.end_lineno])
            )
            words = _words(node) if named else set()
            if len(words) < 60 and any(SCHEDULE.search(word) for word in words):
                clock = any(
                    re.search(
                        r"elapsed|wallclock|_ms$|seconds|(^|_)frac(tion)?$|progress|remaining", word
                    )
                    for word in words
                )
                found = bool(found) or clock
    return found


def warmdown(submission: Submission) -> Finding:
    """The learning rate came down: the last one printed is near zero, or the schedule got to its
    end.
    """
    faults, shown, unknown, by_clock = [], [], [], clock_schedule(submission)
    for log in logs_of(submission):
        rates = [point.rate for point in log.points if point.rate is not None]
        done, how = ended(submission, log)
        length = setting(
            submission,
            log,
            "warmdown_iters",
            "warmdown_steps",
            "warmdown",
            "warmdown_frac",
            "warmdown_fraction",
            "cooldown_frac",
            "warmdown_ratio",
        )
        if log.last_rate is not None:
            (shown if log.last_rate <= COOL else faults).append(
                f"{log.name}: last learning rate {log.last_rate:.3%} of its peak, {how}"
            )
        elif not log.points:
            unknown.append(f"{log.name} prints no steps")
        elif rates and max(rates) > 0:
            peak, last = max(rates), rates[-1]
            (shown if last <= COOL * peak else faults).append(
                f"{log.name}: last learning rate {last:.3g}, {last / peak:.1%} of its peak"
            )
        elif (
            not done
            and by_clock
            and log.finals
            and "max_wallclock_seconds" not in log.settings
            and not submission.recipe
        ):
            unknown.append(
                f"{log.name}: {how}; its warmdown looks at the clock, and the log does not print"
                " the cap"
            )
        elif not done:
            faults.append(f"{log.name}: {how}; the warmdown did not end")
        elif length == 0:
            faults.append(f"{log.name}: warmdown 0, the learning rate never comes down")
        elif length is None or by_clock is None:
            unknown.append(
                f"{log.name}: {how}, no learning rate is printed and no warmdown found in the code"
            )
        elif not by_clock and (log.last_step or 0) < (log.total_steps or 0):
            faults.append(
                f"{log.name}: the warmdown counts towards step {log.total_steps:,}, the run ended"
                f" at {log.last_step:,}"
            )
        else:
            shown.append(f"{log.name}: warmdown {length:g}, {how}")
    if unknown and not faults:
        raise CannotTell("; ".join(unknown[:3]))
    return judged(faults[:3], "; ".join(shown[:3]))


def half_averages(submission: Submission) -> list[str]:
    """Return where the code keeps an average of weights in fewer than 32 bits."""
    found = []
    for source in submission.code.running:
        for node in source.nodes:
            if not isinstance(node, ast.Assign | ast.AnnAssign) or node.value is None:
                continue
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            names = [
                part.id if isinstance(part, ast.Name) else part.attr
                for target in targets
                for part in ast.walk(target)
                if isinstance(part, ast.Name | ast.Attribute)
            ]
            if not any(re.search(r"(^|_)(ema|shadow)(_|$)", name.lower()) for name in names):
                continue
            attributes = [
                part.attr for part in ast.walk(node.value) if isinstance(part, ast.Attribute)
            ]
            if (
                any(attribute in ("bfloat16", "half", "float16") for attribute in attributes)
                and "float" not in attributes
                and "float32" not in attributes
            ):
                found.append(f"{source.label}:{node.lineno}: {ast.unparse(node)[:90]}")
    return found


def _uses_average(submission: Submission) -> bool:
    names = (
        (
            part.id
            if isinstance(part, ast.Name)
            else part.attr
            if isinstance(part, ast.Attribute)
            else ""
        )
        for source in submission.code.running
        for part in source.nodes
    )
    return any(re.search(r"(^|_)ema(_|$)|ema_state|shadow", name.lower()) for name in names)


def average(submission: Submission) -> Finding:
    """The exponential moving average is kept in float32, started before the end, and moved."""
    halves = half_averages(submission)
    if halves:
        return failed(
            "an average in 16 bits cannot take up changes of 0.4 % of a weight:"
            f" {'; '.join(halves[:2])}"
        )
    logs = logs_of(submission)
    lines = {
        log.name: [
            line.strip()
            for line in log.body
            if AVERAGES.search(line) and not re.match(r"\s*\w+:\s*\S+$", line)
        ]
        for log in logs
    }
    decay = next(
        (_plain_number(log.settings["ema_decay"]) for log in logs if "ema_decay" in log.settings),
        None,
    )
    if any(log.average for log in logs):
        return _stated_average(logs)
    if not _uses_average(submission) and not any(lines.values()):
        submission.code.require_read()
        return passed("no moving average in code or logs")
    missing = [name for name, said in lines.items() if not said]
    if missing:
        raise CannotTell(f"the code has a moving average, {missing[0]} says nothing about it")
    shown = next(iter(lines.values()))[-1][:80]
    return passed(
        f"not kept in 16 bits by the code{f', decay {decay:g}' if decay else ''}; the log says"
        f" {shown!r}"
    )


def _stated_average(logs: list[Log]) -> Finding:
    """Judge the line that a log of ours closes with: when the average started, in what precision,
    how far it moved.
    """
    faults, shown = [], []
    for log in logs:
        said, last = log.average, log.last_step or 0
        started = int(said["started_step"]) if said.get("started_step", "").isdecimal() else None
        start, live = (_plain_number(said.get(name)) for name in ("from_start", "from_live"))
        if not said:
            faults.append(f"{log.name}: no line about the average")
        elif started is None or started >= last:
            faults.append(
                f"{log.name}: the average started"
                f" {f'at step {started:,} of {last:,}' if started else 'never'}: the live weights"
                " ship"
            )
        elif said.get("dtype") != "float32":
            faults.append(
                f"{log.name}: the average is kept in {said.get('dtype')}, expected float32"
            )
        elif not start:
            faults.append(f"{log.name}: the average did not move from the first weights")
        else:
            moved = f", {start:.3g} from the first weights" + (
                f", {live:.3g} from the last" if live is not None else ""
            )
            shown.append(
                f"{log.name}: from step {started:,}, {last - started:,} updates in float32, decay"
                f" {said.get('decay')}{moved}"
            )
    return judged(faults[:3], "; ".join(shown[:3]))


def _by_label(submission: Submission) -> dict[str, list[float]]:
    """Return the final scores by what they are called, one of each log: the one with most
    digits.
    """
    labels: dict[str, list[float]] = {}
    for log in logs_of(submission):
        finals = sorted(shipped(log), key=lambda final: final.digits)
        for label, value in {
            re.sub(r"_exact\b", "", final.label): final.val_bpb for final in finals
        }.items():
            labels.setdefault(label, []).append(value)
    return labels


def score_in_log(submission: Submission) -> Finding:
    """The JSON's val_bpb is a final score that a log prints, or the mean of its seeds' final
    scores.
    """
    claim, logs = submission.claim("val_bpb", "mean_val_bpb"), submission.logs
    if not any(log.finals or log.points for log in logs):
        raise CannotTell("no log prints a score")
    for log in logs:
        hit = next((final for final in reversed(shipped(log)) if agree(final.val_bpb, claim)), None)
        if hit:
            return passed(f"{claim:.8g} in {log.name}: {hit.label[:60]!r} {hit.val_bpb:.8g}")
    for label, values in _by_label(submission).items():
        if len(values) > 1 and agree_mean(claim, values):
            return passed(f"{claim:.8g} is the mean of {len(values)} logs' {label[:60]!r}")
    seeds = [
        found
        for fields in submission.seed_claims.values()
        if (found := number(fields.get("val_bpb"))) is not None
    ]
    printed = [final.val_bpb for log in logs for final in shipped(log)]
    if (
        len(seeds) > 1
        and agree_mean(claim, seeds)
        and all(any(agree(seed, value) for value in printed) for seed in seeds)
    ):
        return passed(
            f"{claim:.8g} is the mean of {len(seeds)} seeds' scores, each of which a log prints"
        )
    early = next(
        (
            f"step {point.step}"
            for log in logs
            for point in log.points
            if point.val_bpb is not None and agree(point.val_bpb, claim)
        ),
        None,
    )
    early = early or next(
        (
            repr(final.label[:60])
            for log in logs
            for final in log.finals
            if agree(final.val_bpb, claim)
        ),
        None,
    )
    if early:
        return failed(
            f"{claim:.8g} is the score of {early}, before quantisation: not of what ships"
        )
    finals = [final.val_bpb for log in logs for final in shipped(log)]
    if not finals:
        raise CannotTell(f"the logs print no final score to compare {claim:.8g} with")
    return failed(
        f"the JSON says {claim:.8g}, no log does; the nearest is"
        f" {min(finals, key=lambda value: abs(value - claim)):.8g}"
    )


def bits_and_nats(submission: Submission) -> Finding:
    """val_loss and val_bpb stand for the same bytes per token in the JSON as in the logs."""
    loss, bits = (
        submission.claim("val_loss", "mean_val_loss"),
        submission.claim("val_bpb", "mean_val_bpb"),
    )
    if bits <= 0 or loss <= 0:
        raise CannotTell(f"val_loss {loss:g}, val_bpb {bits:g}")
    claimed = loss / (math.log(2) * bits)
    error = (0.6 * 10.0**-4 / bits + 0.6 * 10.0**-4 / loss) * claimed * 2
    pairs = [
        (final.label, final.val_loss / (math.log(2) * final.val_bpb))
        for log in submission.logs
        for final in shipped(log)
        if final.val_loss
        and final.val_bpb > 0
        and math.isfinite(final.val_loss)
        and math.isfinite(final.val_bpb)
    ]
    faults = (
        []
        if 0.98 <= claimed <= 16
        else [f"{claimed:.4f} bytes per token: a token stands for at least one byte"]
    )
    if pairs and not any(abs(ratio - claimed) <= max(error, 2e-3 * ratio) for _, ratio in pairs):
        faults.append(
            f"the JSON's {loss:g} nats and {bits:g} bits are {claimed:.4f} bytes per token, the"
            f" logs' {pairs[-1][1]:.4f}"
        )
    return judged(
        faults,
        f"{claimed:.4f} bytes per token in the"
        f" JSON{f', {pairs[-1][1]:.4f} in the logs' if pairs else ''}",
    )


CHECKS = (
    Check(
        "no traceback",
        "log",
        traceback,
        Explain(
            "No log holds a Python traceback, a CUDA error or a killed worker.",
            "Logs that end in an out-of-memory error, with the score of an earlier attempt in the"
            " JSON.",
            "Repeat the run; submit the log of the run that is scored.",
        ),
    ),
    Check(
        "finite losses",
        "log",
        finite,
        Explain(
            "Every loss and score that the logs print is a finite number.",
            "Runs whose loss became NaN after the last validation, and whose artifact was written"
            " all the same.",
            "Lower the learning rate or clip; maskgolf train stops at the first such step.",
        ),
    ),
    Check(
        "roundtrip score",
        "log",
        roundtrip,
        Explain(
            "Every seed's log has a score after training ended: of the model as read back from the"
            " quantised, compressed file.",
            "Folders that claim the score of the weights before quantisation, which nobody can"
            " download.",
            "Score the file: maskgolf eval RUN; maskgolf pack writes the line.",
        ),
    ),
    Check(
        "training time",
        "log",
        time_limit,
        Explain(
            "In the 10-minute track every log's training clock stops at 600 s and the step that was"
            " under way, and no evaluation takes longer than 600 s; the JSON's wallclock_seconds is"
            " the logs'.",
            "Runs of 12 minutes in the record track, and seconds copied from another run.",
            "Set training.max_wallclock_seconds to 600, or choose the non-record track.",
        ),
    ),
    Check(
        "parameters and steps",
        "log",
        as_configured,
        Explain(
            "Parameters and last steps in the logs are those of the JSON and of the artifact, whose"
            " recipe has the steps, batch, warmdown and sizes that the logs print.",
            "JSONs that state the steps of another seed, and logs of a model that is not the one in"
            " the artifact.",
            "Write the JSON from the logs, as maskgolf pack does.",
        ),
    ),
    Check(
        "warmdown",
        "log",
        warmdown,
        Explain(
            "The last learning rate printed is at most a quarter of its peak; where none is"
            " printed, the run reached the end of its schedule: its last step, or its clock where"
            " the code's warmdown follows the clock.",
            "Schedules that counted down to step 20,000 in runs that the clock stopped at 4,000:"
            " the rate never came down.",
            "Let the warmdown follow the clock (maskgolf's does), or set iterations to what fits.",
        ),
    ),
    Check(
        "weight average",
        "log",
        average,
        Explain(
            "The moving average of the weights is kept in float32, and the log says that it started"
            " before the last step.",
            "Averages in bfloat16, which a decay of 0.999 cannot move, and averages that started"
            " after the clock had stopped the run.",
            "Keep the shadow in float32; start it by the schedule (--ema.start), not at a step that"
            " is never reached.",
        ),
    ),
    Check(
        "score in log",
        "log",
        score_in_log,
        Explain(
            "The JSON's val_bpb is a final score that a log prints, or the mean of the seeds' final"
            " scores.",
            "JSONs with the score before quantisation, of another experiment, or with two digits"
            " exchanged.",
            "Copy the score from the log's last line.",
        ),
    ),
    Check(
        "bits and nats",
        "log",
        bits_and_nats,
        Explain(
            "val_loss in nats per token and val_bpb give the same number of bytes per token in the"
            " JSON as in the logs, and at least one.",
            "val_bpb filed under val_loss, and byte counts that changed between the log and the"
            " claim.",
            "Take both numbers from one line of the log.",
        ),
    ),
)
