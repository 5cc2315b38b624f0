"""Checks over seeds: mean and deviation are those of the seeds, each seed's numbers are its log's,
all are of one configuration.
"""

import hashlib
import re

from harness.validate.finding import CannotTell, Check, Explain, Finding, judged, passed
from harness.validate.log import shipped
from harness.validate.numbers import agree, agree_mean, deviations, mean, tolerance
from harness.validate.submission import Submission, number
from harness.validate.trainlog import Log

# relative: people compute a deviation from rounded scores, and three of them say little about it
ROUGH = 0.1
LEAST_CURVE = 5  # training losses that two runs do not have in common by chance
PLAIN = re.compile(r"[-+.\w]+")
NOT_RECIPE = re.compile(
    r"seed|run_?id|path$|(^|_)dirs?$|files?$|^log$|_log$|time|^date$|^host|^port$|^pid$|uuid|gpu|device|memory|^reserved$|^effective$"
    r"|mib$|^(local_)?rank$|^steps?$|_step$(?<!per_step)|step_avg|loss$|bpb|url|commit|size$(?<!batch_size)(?<!vocab_size)|bytes$|version"
    r"|elapsed|duration|degradation"
)
MEASURED = re.compile(
    r"[-+]?[\d.]+(ms|s|sec|min|m|h|MB|MiB|GB|GiB|%)"
)  # a value that a run measures: a time, memory


def _scores(submission: Submission) -> dict[str, float]:
    found = {seed: number(fields.get("val_bpb")) for seed, fields in submission.seed_claims.items()}
    return {seed: value for seed, value in found.items() if value is not None}


def mean_and_deviation(submission: Submission) -> Finding:
    """val_bpb is the mean of seed_results, val_bpb_std their deviation, seeds their names."""
    scores = _scores(submission)
    if not scores:
        raise CannotTell("the JSON has no scores by seed")
    claim, values, faults = submission.claim("val_bpb", "mean_val_bpb"), list(scores.values()), []
    center, (sample, population) = mean(values), deviations(values)
    if not agree_mean(claim, values):
        faults.append(f"val_bpb {claim:.8g}, the mean over {len(values)} seeds is {center:.8g}")
    std = number(submission.claims.get("val_bpb_std"))
    if (
        std is not None
        and len(values) > 1
        and min(abs(std - sample), abs(std - population)) > max(tolerance(std), ROUGH * sample)
    ):
        faults.append(
            f"val_bpb_std {std:.6g}, recomputed {sample:.6g} (n - 1) or {population:.6g} (n)"
        )
    listed = submission.claims.get("seeds")
    if isinstance(listed, list) and sorted(map(str, listed)) != sorted(submission.seed_claims):
        faults.append(
            f"seeds {', '.join(map(str, listed))}, results of {', '.join(submission.seed_claims)}"
        )
    left_out = sorted(
        {log.seed for log in submission.logs if log.seed and shipped(log)}
        - set(submission.seed_claims)
    )
    if submission.ours and left_out:  # elsewhere it may be of another experiment
        faults.append(
            f"the logs have scores of seed {', '.join(left_out)} too, which the mean leaves out"
        )
    spread = f", deviation {sample:.6g}" if len(values) > 1 else ""
    return judged(
        faults,
        f"{len(values)} seeds: mean {center:.8g}{spread}; stated"
        f" {claim:.8g}{f' and {std:.6g}' if std is not None else ''}",
    )


def seeds_in_logs(submission: Submission) -> Finding:
    """Each seed's val_bpb is a final score of that seed's log."""
    scores = _scores(submission)
    if not scores:
        raise CannotTell("the JSON has no scores by seed")
    logs = submission.seed_logs
    if not logs:
        raise CannotTell("no log says which seed it is of")
    faults, missing, found = [], [], 0
    for seed, claim in scores.items():
        if seed not in logs:
            missing.append(seed)
            continue
        finals = [final.val_bpb for final in shipped(logs[seed])]
        if any(agree(value, claim) for value in finals):
            found += 1
        elif finals:
            faults.append(
                f"seed {seed}: the JSON says {claim:.8g}, {logs[seed].name}"
                f" {min(finals, key=lambda value: abs(value - claim)):.8g}"
            )
        else:
            missing.append(seed)
    for seed, fields in submission.seed_claims.items():
        loss, losses = (
            number(fields.get("val_loss")),
            (
                [final.val_loss for final in shipped(logs[seed]) if final.val_loss]
                if seed in logs
                else []
            ),
        )
        if loss is not None and losses and not any(agree(loss, each) for each in losses):
            faults.append(
                f"seed {seed}: the JSON's val_loss is {loss:.8g}, {logs[seed].name} has"
                f" {losses[-1]:.8g}"
            )
    for log in (
        logs.values() if submission.ours else ()
    ):  # elsewhere one name may stand for scores on the way
        named: dict[str, float] = {}
        for final in shipped(log):
            first = named.setdefault(re.sub(r"_exact\b", "", final.label), final.val_bpb)
            if not agree(first, final.val_bpb):
                faults.append(
                    f"{log.name} prints two scores as {final.label}, {first:.8g} and"
                    f" {final.val_bpb:.8g}"
                )
    seen: dict[tuple, str] = {}
    for log in logs.values():
        curve = tuple(
            (point.step, point.train_loss) for point in log.points if point.train_loss is not None
        )
        if len(curve) >= LEAST_CURVE and curve in seen:
            faults.append(
                f"{log.name} has the {len(curve)} training losses of {seen[curve]}: two seeds"
                " never do"
            )
        seen.setdefault(curve, log.name)
    if missing and not faults:
        raise CannotTell(
            f"no log of seed {', '.join(missing)} has a final score; {found} of {len(scores)} seeds"
            " agree with theirs"
        )
    return judged(faults, f"{found} of {len(scores)} seeds agree with their logs")


def recipe(log: Log) -> dict[str, str]:
    """Return the settings that a log prints, without what differs between runs of one recipe."""
    settings = {
        name: value
        for name, value in log.settings.items()
        if name not in log.varying and not NOT_RECIPE.search(name)
    }
    return {
        name: value
        for name, value in settings.items()
        if value != log.seed and PLAIN.fullmatch(value) and not MEASURED.fullmatch(value)
    }


def one_configuration(submission: Submission) -> Finding:
    """All seeds' logs print the same settings, the same code and the same number of steps to go."""
    logs = submission.seed_logs
    if not logs:
        raise CannotTell("no log says which seed it is of")
    if len(logs) == 1:
        return passed(f"one seed, {next(iter(logs))}")
    recipes = {seed: recipe(log) for seed, log in logs.items()}
    common = set.intersection(*(set(found) for found in recipes.values()))
    faults = []
    for name in sorted(common):
        values = {seed: found[name] for seed, found in recipes.items()}
        if len(set(values.values())) > 1:
            several = [f"{value} (seed {seed})" for seed, value in list(values.items())[:4]]
            faults.append(f"{name}: {', '.join(several)}")
    codes = {
        seed: (
            hashlib.sha256("\n".join(line.rstrip() for line in log.code).encode()).hexdigest()[:12]
        )
        for seed, log in logs.items()
        if log.code
    }
    if len(set(codes.values())) > 1:
        faults.append(
            "the logs print different code:"
            f" {', '.join(f'{digest} (seed {seed})' for seed, digest in codes.items())}"
        )
    totals = {seed: log.total_steps for seed, log in logs.items() if log.total_steps}
    if len(set(totals.values())) > 1:
        faults.append(
            f"steps: {', '.join(f'{total:,} (seed {seed})' for seed, total in totals.items())}"
        )
    if faults and not submission.seeds_claimed:
        raise CannotTell(
            f"the JSON does not say which logs are its seeds; they differ: {'; '.join(faults[:3])}"
        )
    if not common and not codes and not faults:
        raise CannotTell("the logs print neither settings nor code")
    digest = hashlib.sha256(
        "\n".join(
            f"{name}={next(iter(recipes.values()))[name]}" for name in sorted(common)
        ).encode()
    ).hexdigest()[:12]
    same_code = f", code {next(iter(codes.values()))}" if codes else ""
    return judged(
        faults[:5],
        f"seeds {', '.join(logs)}: {len(common)} settings alike (SHA-256 {digest}...){same_code}",
    )


CHECKS = (
    Check(
        "mean over seeds",
        "score",
        mean_and_deviation,
        Explain(
            "val_bpb is the mean of seed_results, val_bpb_std their standard deviation (over n - 1"
            " or n), and seeds names them. In a folder of ours every log that has a score is of one"
            " of them.",
            "The best seed given as the mean, a bad seed left out, and deviations of another"
            " table.",
            "Recompute from seed_results, as maskgolf pack does.",
        ),
    ),
    Check(
        "seeds in logs",
        "score",
        seeds_in_logs,
        Explain(
            "Each seed's val_bpb and val_loss are final scores in the log of that seed, and no two"
            " logs have the same training losses.",
            "Tables with two seeds exchanged, and seeds that were never run: one run's log under"
            " another seed.",
            "Submit train_seedN.log of every seed in seed_results.",
        ),
    ),
    Check(
        "one configuration",
        "score",
        one_configuration,
        Explain(
            "The logs of all seeds print the same settings, the same code (where they print it) and"
            " the same number of steps.",
            "Three seeds of which one ran with another learning rate or an older script: their mean"
            " is of no recipe.",
            "Repeat the odd seed with the configuration of the others.",
        ),
    ),
)
