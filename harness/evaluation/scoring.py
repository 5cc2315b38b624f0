"""Score an artifact from its file: what `maskgolf eval` prints and what a summary quotes. Live
weights never come here.
"""

import hashlib
import json
import signal
import subprocess
import sys
import time
from dataclasses import asdict
from pathlib import Path
from typing import NamedTuple

import torch

from fast import artifact, data, evaluate
from fast.errors import TrainingError
from fast.evaluate import METHODS, Effort
from fast.objective import objective_of
from harness import paths
from harness.corpus.dataset import Dataset, open_dataset
from harness.corpus.sources import Source
from harness.display import report
from harness.display.progress import bar
from harness.errors import Stopped
from harness.evaluation.estimate import FIRST_ORDER, Estimate, check_read, read_by
from harness.evaluation.partial import Partial
from reference.recipe import GOLF, InputError, Recipe

SAVE_EVERY = 10.0  # seconds between writes of a partial file
COUNTED = 2**10  # windows whose bytes are counted at a time


class Compiling(NamedTuple):
    """When a kind of device compiles the passes of an evaluation."""

    least: float  # work: layers times width times tokens of all passes
    seconds: float  # that the compiler takes


# A compiled pass reads and writes fewer activations, layers times width of them per token. On one
# core of an EPYC it saves 31 microseconds per 1,000 of them at `demo` (float32, NELBO), 18 along
# left-to-right, 9 at `golf` (bfloat16), and the compiler takes 18 to 51 s: 15 microseconds meet
# 30 s at 2e9. Two cores are taken to save half as much. Of a GPU it is an estimate, from the memory
# bandwidth of an H100.
COMPILING = {"cpu": Compiling(4e9, 30.0), "cuda": Compiling(1.5e12, 60.0)}


def locate(run: Path) -> tuple[Path, dict]:
    """Return (artifact file, source description) of a run directory or an artifact file; InputError
    if neither.
    """
    file, described = paths.run_or_artifact(run)
    if described is None:
        return file, {}
    try:
        return file, json.loads(described.read_text())["source"]
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(
            f"{described}: expected the JSON of a run, found something else ({error}); restore"
            " the file"
        ) from error


def opened(run: Path, source: Source) -> tuple[Path, dict, Recipe, Dataset]:
    """Return (artifact file, tensors, recipe, dataset) of a run or an artifact; the data is the
    run's own where source names none.
    """
    file, described = locate(run)
    if source.tokenizer and not (source.data or source.text or any(described.values())):
        raise InputError(
            f"--tokenizer {source.tokenizer}: expected --data or --text as well, found neither, and"
            f" {run} names no data of its own; add one, or drop it"
        )
    header, params = artifact.read(file)
    recipe = artifact.recipe_of(header, str(file))
    source = source.or_described(described)
    dataset = open_dataset(source, recipe.model.vocab, recipe.model.length)
    artifact.check_tokenizer(header, dataset.tokenizer)
    return file, params, recipe, dataset


class Job(NamedTuple):
    """A run to be scored, as it is read before anything is computed."""

    run: Path
    file: Path
    params: dict
    recipe: Recipe
    dataset: Dataset
    identity: dict  # of the tokenizer and the validation split
    effort: Effort
    first: int  # window
    stop: int  # window behind the last one
    total: int  # windows of the split


def prepare(runs, source: Source, estimate: Estimate, exact: bool = False) -> list[Job]:
    """Return the jobs of some runs; InputError for what cannot be scored, for an option that no run
    reads and for runs on several texts. exact: by the cost of every token.
    """
    estimate.check()
    jobs = [_job(run, source, estimate, exact) for run in runs]
    check_read(estimate, [job.effort.estimator for job in jobs])
    for job in jobs[1:]:
        _check_one_text(jobs[0], job, estimate.filled().first_token, exact)
    return jobs


def _job(run: Path, source: Source, estimate: Estimate, exact: bool) -> Job:
    file, params, recipe, dataset = opened(run, source)
    total = data.evaluation_count(dataset.validation, recipe.model.length)
    first = estimate.filled().from_
    if first >= total:
        raise InputError(
            f"--from {first}: expected at most {total - 1}, as the validation split of {run} has"
            f" {total} windows (the first is 0); lower it"
        )
    count = total - first if estimate.sequences is None else estimate.sequences
    if first + count > total:
        raise InputError(
            f"--sequences {count}: expected at most {total - first}, as the validation split of"
            f" {run} has {total} windows{f' and --from is {first}' if first else ''}; lower it, or"
            " leave it out to score all"
        )
    effort, identity = effort_of(estimate, recipe, exact), dataset.identity(("validation",))
    place = first, first + count, total
    return Job(run, file, params, recipe, dataset, identity, effort, *place)


def score(
    run: Path,
    source: Source,
    estimate: Estimate,
    device: str = "cpu",
    compiled: bool | None = None,
    partial: Path | None = None,
) -> dict:
    """Return the JSON object of one score (SPEC section 13), read from the artifact file;
    stderr_sequences null for one window.

    compiled: None decides by the work (`compiles`). partial: a file that keeps what is known, from
    earlier calls too; the score covers all its windows. Ctrl-C raises Stopped with the score so
    far.
    """
    [job] = prepare([run], source, estimate)
    return scored(job, estimate, device, compiled, partial)


def scored(
    job: Job, estimate: Estimate, device: str, compiled: bool | None, partial: Path | None = None
) -> dict:
    """Return the score of a job; the arguments as in score()."""
    estimate = estimate.filled()
    if compiled is None:
        compiled = compiles(job, device, job.total if partial else job.stop - job.first)
    settings = {
        "first_token": estimate.first_token,
        "batch_rows": estimate.batch_rows,
        "device": torch.device(device).type,
        "compiled": compiled,
    }
    known = Partial(_identity(job) | settings, partial)
    how = device, compiled, job.effort.estimator
    predict = evaluate.predictor(job.params, job.recipe, *how)
    try:
        _measure(known, predict, job, estimate, device)
    except KeyboardInterrupt:
        if not known.rows:
            raise
        kept = (
            f"; go on with --partial {partial}" if partial else "; --partial FILE would keep them"
        )
        asked = job.stop - job.first
        so_far = known.score()
        message = f"stopped: {len(known.rows)} windows are scored, {asked} were asked for{kept}"
        raise Stopped(message, so_far, lambda: report.scores([so_far])) from None
    return known.score()


def compiles(job: Job, device: str, windows: int) -> bool:
    """Return whether the compiler saves more time on some windows of a job than it takes: by their
    number, the passes of each and the model's shape alone, whatever is known already.
    """
    model = job.recipe.model
    tokens = windows * model.length * job.effort.passes(model.length)
    return model.layers * model.d * tokens >= COMPILING[torch.device(device).type].least


def compiling(device: str) -> str:
    """Return the line that says what the first passes wait for."""
    seconds = COMPILING[torch.device(device).type].seconds
    return (
        f"compiling the forward pass: about {seconds:.0f} s, unless the compiler's cache holds it;"
        " --no-compiled does without"
    )


def score_fresh(
    run: Path,
    estimator: str | None,
    order: str | None,
    sequences: int | None,
    device: str,
    compiled: bool,
    source: Source | None = None,
) -> dict:
    """Return the score of a run's artifact from a fresh process: nothing but the file can reach it.
    estimator None: the model's own. compiled: where the work is worth it. source: other data than
    the run's own.
    """
    command = [sys.executable, "-m", "harness", "eval", str(run), "--json", "-"]
    command += ["--device", device]
    command += ["--estimator", estimator] if estimator else []
    command += ["--order", order] if order else []
    command += ["--sequences", str(sequences)] if sequences else []
    command += [] if compiled else ["--no-compiled"]
    command += source.flags() if source else []
    done = run_without_interrupts(command)
    if done.returncode:
        raise TrainingError(
            f"scoring {run} by {estimator or 'its own estimator'} failed with exit code"
            f" {done.returncode}; the message is above"
        )
    return json.loads(done.stdout)


def run_without_interrupts(command: list[str]) -> subprocess.CompletedProcess:
    """Return the end and the stdout of a process that Ctrl-C does not reach: this one answers it,
    and ends that one.
    """
    process, before = None, signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
        output, _ = process.communicate()
        return subprocess.CompletedProcess(command, process.returncode, output)
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
        if process and process.poll() is None:
            process.kill()
            process.wait()


def every(
    runs,
    source: Source,
    estimate: Estimate,
    device: str,
    compiled: bool | None,
    partial: Path | None,
) -> list[dict]:
    """Return the scores of several runs; Ctrl-C raises Stopped with those that are there, the last
    one so far.
    """
    scores = []
    for job in prepare(runs, source, estimate):
        try:
            scores.append(scored(job, estimate, device, compiled, partial))
        except KeyboardInterrupt as stop:
            so_far = [*scores, stop.result] if isinstance(stop, Stopped) else scores
            if not so_far:
                raise
            result = so_far if len(runs) > 1 else so_far[0]
            raise Stopped(
                str(stop) or "stopped", result, lambda known=so_far: report.scores(known)
            ) from None
    return scores


def scored_bytes(job: Job, first_token: str) -> int:
    """Return how many bytes of text the windows of a job hold."""
    model, total = job.recipe.model, 0
    for begin in range(job.first, job.stop, COUNTED):
        count = min(COUNTED, job.stop - begin)
        stream = job.dataset.validation, model.length, model.vocab
        for group in data.evaluation_windows(*stream, begin, count):
            table = job.dataset.tokenizer.table
            total += int(evaluate.window_bytes(group, table, first_token).sum())
    return total


def _check_one_text(one: Job, other: Job, first_token: str, exact: bool) -> None:
    """Raise InputError where two jobs are of different text: no mean, no test, no difference holds
    between them. exact: token by token, so that the tokenizers and windows must agree too.
    """

    def described(job: Job) -> dict:
        length = job.recipe.model.length
        last = min(job.stop * length, len(job.dataset.validation))
        return {
            "tokenizer": job.identity["tokenizer_sha256"][:8],
            "window length": length,
            "text": f"of {job.identity['validation_tokens']:,} tokens, SHA-256"
            f" {job.identity['validation_sha256'][:8]}",
            "scored part": f"tokens {job.first * length:,} to {last:,}",
        }

    first, second = described(one), described(other)
    differing = [name for name in first if first[name] != second[name]]
    if not differing or not exact and differing == ["window length"] and first_token == "stream":
        return
    if not exact and ("tokenizer" in differing or differing == ["window length"]):
        # The same text may well be other tokens: its bytes tell. Where every window begins behind
        # a control token, they depend on the window length.
        sizes = [scored_bytes(job, first_token) for job in (one, other)]
        if sizes[0] == sizes[1]:
            return
        for described_, size in zip((first, second), sizes, strict=True):
            described_["bytes of text"] = f"{size:,}"
        differing.append("bytes of text")
    found = "; ".join(f"{name} {first[name]} and {second[name]}" for name in differing)
    what = "one text, tokenizer and window length" if exact else "one text"
    raise InputError(
        f"{'--compare' if exact else 'eval'}: expected runs on {what}, found {one.run} and"
        f" {other.run} with {found}; name one text with --data, and leave --from and --sequences"
        " out where the windows differ in length"
    )


def effort_of(estimate: Estimate, recipe: Recipe = GOLF, exact: bool = False) -> Effort:
    """Return the Effort that an Estimate means for a model, of the options that its estimator
    reads; InputError for what the model lacks, does not go together or is out of range. exact: by
    the estimator that gives the cost of every token along the order.
    """
    objective, order = objective_of(recipe.model), estimate.order
    exactly = objective.exact(order or FIRST_ORDER)
    estimator = estimate.estimator or (exactly if exact else objective.estimator)
    if estimator not in objective.estimators:
        raise InputError(
            f"--estimator {estimator}: expected {', '.join(objective.estimators)}, as a"
            f" {objective.name} model has no other; drop it"
        )
    ordered = METHODS[estimator].ordered
    if ordered:
        order = order or FIRST_ORDER
    elif exact:
        order = None
    if order:
        objective.check_order(order)
    if estimator == "causal" and order == FIRST_ORDER:
        order = None  # its only one
    read = read_by(estimate, estimator) - {"order"}
    options = {name: value for name, value in estimate.options().items() if name in read}
    effort = Effort(estimator, order, **options, epsilon=recipe.diffusion.epsilon)
    effort.check(recipe.model.length)
    return effort


def _identity(job: Job) -> dict:
    """Return which windows of which text a model is scored on and how, as a partial file keeps
    it.
    """
    model = {
        "run": str(job.run),
        "artifact_sha256": hashlib.sha256(job.file.read_bytes()).hexdigest(),
        "length": job.recipe.model.length,
    }
    return model | job.identity | asdict(job.effort)


def _measure(known: Partial, predict, job: Job, estimate: Estimate, device: str) -> None:
    """Add to `known` every window of a job that it lacks, saving now and then. nelbo's plan comes
    from the first windows of the split, whatever the range, so that ranges scored apart add up.
    """
    dataset, model, effort = job.dataset, job.recipe.model, job.effort
    stream = dataset.validation, model.length, model.vocab
    first = data.evaluation_windows(*stream, job.first, job.stop - job.first)
    # What is added up with other ranges is computed in passes of one shape, which decides the last
    # bits.
    rows = estimate.batch_rows
    if not known.path:
        rows = min(rows, max(len(group.ids_NL) for group in first))
    settings = {"batch_rows": rows, "device": device}
    begun, saved = time.perf_counter() - known.seconds, time.monotonic()
    with bar(f"{effort.estimator} {effort.order or ''}".strip(), "passes") as progress:
        try:
            if known.header["compiled"] and known.missing(job.first, job.stop):
                progress.say(compiling(device))
            if METHODS[effort.estimator].planned and model.length not in known.plans:
                plan, passes = evaluate.split_plan(predict, *stream, effort, **settings)
                known.plans[model.length] = plan
                known.forwards += passes
            settings |= {
                "first_token": estimate.first_token,
                "plans": known.plans,
                "filled": model.length if known.path else None,
                "on_progress": progress.update,
            }
            for begin, end in known.missing(job.first, job.stop):
                continued = effort.stride is not None
                windows = data.evaluation_windows(*stream, begin, end - begin, continued)
                text = predict, windows, dataset.tokenizer.table
                for part in evaluate.measure(*text, effort, first_row=begin, **settings):
                    known.add(part)
                    if time.monotonic() - saved > SAVE_EVERY:
                        known.seconds, saved = time.perf_counter() - begun, time.monotonic()
                        known.save()
        finally:
            known.seconds = time.perf_counter() - begun
            if known.rows:
                known.save()
