"""Score an artifact from its file: what `maskgolf eval` prints and what a summary quotes. Live
weights never come here.
"""

import hashlib
import json
import subprocess
import sys
import time
from dataclasses import asdict, fields
from pathlib import Path

from fast import artifact, data, evaluate
from fast.errors import TrainingError
from fast.evaluate import METHODS, Effort
from fast.objective import objective_of
from harness import report
from harness.corpus.dataset import Dataset, open_dataset
from harness.corpus.sources import Source
from harness.errors import Stopped
from harness.estimate import Estimate
from harness.partial import Partial, merge
from harness.progress import bar
from reference.recipe import GOLF, InputError, Recipe, ScoreOptions

SAVE_EVERY = 10.0  # seconds between writes of a partial file


def locate(run: Path) -> tuple[Path, dict]:
    """Return (artifact file, source description) of a run directory or an artifact file; InputError
    if neither.
    """
    if run.is_dir():
        described, file = run / "recipe.json", run / "artifact.mgolf"
        if not described.exists() or not file.exists():
            missing = file.name if described.exists() else described.name
            raise InputError(
                f"{run}: expected a finished run, "
                f"found no {missing}; train it to the end (maskgolf train --resume --out {run})"
            )
        try:
            return file, json.loads(described.read_text())["source"]
        except (ValueError, KeyError, TypeError) as error:
            raise InputError(
                f"{described}: expected the JSON of a run, found something else ({error}); restore"
                " the file"
            ) from error
    if not run.exists():
        raise InputError(
            f"{run}: expected a run directory or an artifact file, found nothing; check the path"
        )
    return run, {}


def opened(run: Path, source: Source) -> tuple[Path, dict, Recipe, Dataset]:
    """Return (artifact file, tensors, recipe, dataset) of a run or an artifact; the data is the
    run's own where source names none.
    """
    file, described = locate(run)
    header, params = artifact.read(file)
    recipe = artifact.recipe_of(header, str(file))
    if not (source.data or source.text):
        source = Source.restore(
            described | ({"tokenizer": source.tokenizer} if source.tokenizer else {})
        )
    dataset = open_dataset(source, recipe.model.vocab, recipe.model.length)
    artifact.check_tokenizer(header, dataset.tokenizer)
    return file, params, recipe, dataset


def score(
    run: Path,
    source: Source,
    estimate: Estimate,
    device: str = "cpu",
    compiled: bool = True,
    partial: Path | None = None,
) -> dict:
    """Return the JSON object of one score (SPEC section 13), read from the artifact file;
    stderr_sequences null for one window.

    partial: a file that keeps what is known, from earlier calls too; the score covers all its
    windows. Ctrl-C raises Stopped with the score so far.
    """
    file, params, recipe, dataset = opened(run, source)
    effort, length = effort_of(estimate, recipe), recipe.model.length
    known = Partial(_identity(run, file, dataset, length, estimate, effort), partial)
    predict = evaluate.predictor(params, recipe, device, compiled)
    stop = -(-len(dataset.validation) // length)
    if estimate.sequences:
        stop = min(stop, estimate.from_ + estimate.sequences)
    try:
        _measure(known, predict, dataset, recipe.model, effort, estimate, stop, device)
    except KeyboardInterrupt:
        if not known.rows:
            raise
        kept = (
            f"; go on with --partial {partial}" if partial else "; --partial FILE would keep them"
        )
        asked = stop - estimate.from_
        so_far = known.score()
        message = f"stopped: {len(known.rows)} windows are scored, {asked} were asked for{kept}"
        raise Stopped(message, so_far, lambda: report.scores([so_far])) from None
    return known.score()


def score_fresh(
    run: Path,
    estimator: str,
    order: str | None,
    sequences: int | None,
    device: str,
    compiled: bool,
    source: Source | None = None,
) -> dict:
    """Return the score of a run's artifact from a fresh process: nothing but the file can reach it.
    source: other data than the run's own.
    """
    command = [sys.executable, "-m", "harness", "eval", str(run), "--json", "-"]
    command += ["--estimator", estimator, "--device", device]
    command += ["--order", order] if order else []
    command += ["--sequences", str(sequences)] if sequences else []
    if device.startswith("cpu") or not compiled:  # there the compiler takes longer than it saves
        command.append("--no-compiled")
    command += source.flags() if source else []
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True)
    if done.returncode:
        raise TrainingError(
            f"scoring {run} by {estimator} failed with exit code {done.returncode}; the message"
            " is above"
        )
    return json.loads(done.stdout)


def every(
    runs, source: Source, estimate: Estimate, device: str, compiled: bool, partial: Path | None
) -> list[dict]:
    """Return the scores of several runs; Ctrl-C raises Stopped with those that are there, the last
    one so far.
    """
    if not runs:
        raise InputError(
            "eval: expected at least one run directory or artifact file, found none; name one, such"
            " as runs/demo"
        )
    if partial and len(runs) > 1:
        raise InputError(
            f"--partial {partial}: expected one run, found {len(runs)}; score them one by one"
        )
    scores = []
    for run in runs:
        try:
            scores.append(score(run, source, estimate, device, compiled, partial))
        except KeyboardInterrupt as stop:
            so_far = [*scores, stop.result] if isinstance(stop, Stopped) else scores
            if not so_far:
                raise
            result = so_far if len(runs) > 1 else so_far[0]
            raise Stopped(
                str(stop) or "stopped", result, lambda known=so_far: report.scores(known)
            ) from None
        _check_one_text(scores[0], scores[-1])
    return scores


def _check_one_text(first: dict, other: dict) -> None:
    """Raise InputError where two scores of one tokenizer are of different text: no mean, no test
    holds between them.
    """
    if first["tokenizer_sha256"] != other["tokenizer_sha256"]:
        return  # the same text may well be other tokens
    one, two = (
        [score[name] for name in ("validation_sha256", "tokens", "bytes")]
        for score in (first, other)
    )
    if one != two:
        raise InputError(
            f"eval: expected runs on one text, found {first['run']} scored on {one[1]:,} tokens and"
            f" {other['run']} on {two[1]:,} tokens of another; name one text with --data, and leave"
            " --from and --sequences out where the windows differ in length"
        )


def merged(files, runs=(), partial: Path | None = None) -> dict:
    """Return the score of all windows in several partial files."""
    if runs or partial:
        raise InputError(
            "--merge: expected partial files alone, found"
            f" {runs[0] if runs else f'--partial {partial}'} as well; drop it"
        )
    return merge(list(files))


def effort_of(estimate: Estimate, recipe: Recipe = GOLF):
    """Return the Effort that an Estimate means for a model; InputError for what does not go
    together or is out of range.
    """
    if estimate.batch_rows < 1:
        raise InputError(
            f"--batch-rows: expected at least 1, found {estimate.batch_rows}; raise it"
        )
    objective, estimator, order = objective_of(recipe.model), estimate.estimator, estimate.order
    if estimator not in objective.estimators:
        estimator = objective.estimator
    if METHODS[estimator].ordered:
        order = order or "left-to-right"
    elif estimator == "causal" and order == "left-to-right":
        order = None  # its only order
    options = {field.name: getattr(estimate, field.name) for field in fields(ScoreOptions)}
    options |= {"estimator": estimator, "order": order}
    effort = Effort(**options, seed=estimate.seed, epsilon=recipe.diffusion.epsilon)
    effort.check()
    return effort


def _identity(run, file, dataset, length, estimate, effort) -> dict:
    """Return what a window's numbers depend on, as a partial file keeps it."""
    known = dataset.identity()
    data = {
        name: known[name] for name in ("tokenizer_sha256", "validation_tokens", "validation_sha256")
    }
    model = {
        "run": str(run),
        "artifact_sha256": hashlib.sha256(file.read_bytes()).hexdigest(),
        "length": length,
    }
    return model | data | asdict(effort) | {"first_token": estimate.first_token}


def _measure(known, predict, dataset, model, effort, estimate, stop, device) -> None:
    """Add to `known` every window from estimate.from_ to stop that it lacks, saving now and then.
    nelbo's plan comes from the first windows of the split, whatever the range, so that ranges
    scored apart add up.
    """
    stream = dataset.validation, model.length, model.vocab
    first = data.evaluation_windows(*stream, estimate.from_, estimate.sequences)  # refuses none
    # What is added up with other ranges is computed in passes of one shape, which decides the last
    # bits.
    rows = estimate.batch_rows
    if not known.path:
        rows = min(rows, max(len(group.ids_NL) for group in first))
    settings = {"batch_rows": rows, "device": device}
    begun, saved = time.perf_counter() - known.seconds, time.monotonic()
    with bar(f"{effort.estimator} {effort.order or ''}".strip(), "passes") as progress:
        try:
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
            for begin, end in known.missing(estimate.from_, stop):
                windows = data.evaluation_windows(*stream, begin, end - begin)
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
