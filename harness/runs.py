"""A run directory: prepare it, train into it, ship the artifact, score it from the file, write
summary.json.
"""

import contextlib
import fcntl
import json
import math
import os
import shutil
from dataclasses import asdict
from pathlib import Path

import torch

from fast import artifact, data, distributed, evaluate, transformer
from fast.callbacks import StopOnRequest, TrainLog, run_callbacks, validation_text
from fast.checkpoint import write_atomic
from fast.distributed import World
from fast.errors import PeerLost, TrainingError
from fast.objective import objective_of
from fast.ship import log
from fast.train import State, Stepper, deterministic, initial_state, restore, train
from harness import parity
from harness.compression.compressors import baselines
from harness.corpus.dataset import Dataset, open_dataset
from harness.corpus.shards import raw_text
from harness.corpus.sources import Source
from harness.display.progress import bar
from harness.evaluation.scoring import locate, score_fresh
from harness.packaging import size
from harness.records import run_directory
from harness.records.trackers import TrackedMetrics, opened
from harness.records.tracking import Tracking
from reference.recipe import InputError, Recipe, check

# What a demo prints
SCORING = (("nelbo", None), ("causal", None), ("chain", "left-to-right"))
# the demo scores no more than this, and compresses the same text: exact chain rules take a pass per
# token
DEMO_WINDOWS = 128


def hold(out: Path, holding: contextlib.ExitStack) -> None:
    """Keep a run directory to this process while `holding` lasts; InputError where another, say an
    orphan of torchrun, trains into it.
    """
    folder = os.open(out, os.O_RDONLY)
    holding.callback(os.close, folder)
    try:
        fcntl.flock(folder, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise InputError(
            f"--out {out}: another process is training into it; end that one first, or choose"
            " another --out"
        ) from None


def prepare(
    out: Path,
    resume: run_directory.Resume,
    overwrite: bool,
    recipe: Recipe,
    holding: contextlib.ExitStack,
) -> bool:
    """Make out an empty run directory, or keep it for a run that goes on, and hold it; return
    whether the run goes on.

    Decided while it is held (run_directory.check): another process may have finished a run there
    since the same was asked at the start.
    """
    try:
        out.mkdir(parents=True, exist_ok=True)
        hold(out, holding)
        if run_directory.check(out, resume, overwrite, recipe):
            return True
        for path in out.iterdir():
            shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()
        (out / "checkpoint").mkdir()
        return False
    except OSError as error:
        raise InputError(
            f"--out {out}: cannot create the run directory ({error.strerror}); choose another --out"
        ) from error


def plan(recipe: Recipe) -> dict:
    """Return what a run would be: parameters, FLOPs per token (6 per multiply-add of the forward
    pass), artifact estimate.
    """
    model, shapes = check(recipe).model, transformer.shapes(recipe.model)
    sizes = {name: math.prod(shape) for name, shape in shapes.items()}
    matrices = sum(
        size for name, size in sizes.items() if name.rpartition(".")[2] in transformer.MATRICES
    )
    attended = objective_of(model).attended(model) * model.length
    attention = int(2 * model.layers * attended * model.d)  # q k' and p v, per token
    products = matrices + model.vocab * model.d + attention
    code = sum(size.code_bytes(recipe).values())
    return {
        "preset": recipe.preset,
        "parameters": sum(sizes.values()),
        "tokens_per_step": recipe.training.tokens_per_step,
        "iterations": recipe.training.iterations,
        "flops_per_token": 6 * products,
        "flops_per_token_forward": 2 * products,
        "artifact_bytes_estimate": size.estimate(recipe, shapes) + code,
        "artifact_bytes_bound": size.bound(recipe, shapes) + code,
        "code_bytes": code,
        "limit": artifact.LIMIT,
    }


def _train(
    recipe: Recipe,
    dataset: Dataset,
    out: Path,
    state: State,
    resumed: bool,
    world: World,
    compiled: bool,
    tracking: Tracking | None = None,
) -> State:
    batch = data.batches(dataset.train, recipe)
    validate = evaluate.validator(recipe, dataset.validation, dataset.tokenizer.table, world.device)

    with (
        deterministic(recipe.training.repeatable),
        distributed.stop_on_all_ranks(world) as stop,
        bar(f"train {recipe.preset}", "steps", world.rank > 0) as progress,
        opened(None if world.rank else tracking, out, asdict(recipe), state.step) as trackers,
    ):
        train_log = TrainLog(out / "train.log", progress.say)
        metrics = TrackedMetrics(out / "metrics.jsonl", trackers)
        if resumed and world.rank == 0:
            train_log.resume()
            metrics.resume(state.step)
            train_log.line(f"resumed at step {state.step}")
        part = validation_text(*evaluate.validated(dataset.validation, recipe.model.length))
        if resumed:
            progress.say(part)
        elif world.rank == 0:
            train_log.line(part)
        callbacks = (
            [StopOnRequest(stop)]
            if world.rank
            else run_callbacks(out, recipe, train_log, metrics, validate, stop, progress.update)
        )
        if state.finished:
            return state
        stepper = Stepper(recipe, world.device, compiled, world)
        if compiled:
            progress.say(
                "compiling the training step (the first time takes about a minute on two cores)"
            )
            stepper.warm_up(state, batch)
        try:
            state, _ = train(
                batch, recipe, state, stepper, callbacks, world=world, choose=artifact.choose_steps
            )
        except (TrainingError, PeerLost) as error:
            if world.rank == 0:
                train_log.line(f"stopped: {error}; the last checkpoint is kept")
            raise
        if state.ema_started_step is None and world.rank == 0:
            train_log.line("ema never started: the live weights ship")
        return state


def run(
    recipe: Recipe,
    source: Source,
    out: Path,
    resume: run_directory.Resume = False,
    overwrite=False,
    device="cpu",
    compiled=True,
    preflight=False,
    scoring=SCORING[:2],
    sequences=None,
    tracking: Tracking | None = None,
) -> dict | None:
    """Train, ship and score one run, on the first `sequences` windows of the validation split;
    return its summary (SPEC section 13).

    resume: go on from the checkpoint in `out`; "auto" begins where there is none. preflight: check
    parity on the device, compiled where the run is, before anything is written. tracking: where
    the records go beside metrics.jsonl.
    Under torchrun every rank trains, rank 0 does the rest and returns the summary, the others None.
    """
    world, dataset = distributed.join(device), None
    with contextlib.ExitStack() as holding:
        with distributed.fail_on_all_ranks(world):
            plan(recipe)
            distributed.share(recipe, world)
            if world.rank == 0:
                goes_on = run_directory.check(out, resume, overwrite, recipe)
                dataset = open_dataset(source, recipe.model.vocab, recipe.model.length)
                identity = dataset.identity()
                if goes_on:
                    _check_data(out, identity)
                rows = _check_parity(recipe, world.device, compiled) if preflight else []
                resume = prepare(out, resume, overwrite, recipe, holding)
                if resume:
                    _check_data(out, identity)
                _describe(out, recipe, source, identity, resume)
                if preflight:
                    _write_parity(out, rows)
        resume = distributed.from_rank_0(resume, world)
        with distributed.fail_on_all_ranks(world):
            dataset = dataset or open_dataset(source, recipe.model.vocab, recipe.model.length)
            state = (
                restore(out, recipe, world.device)
                if resume
                else initial_state(recipe, world.device)
            )
        known = objective_of(recipe.model).estimators
        scoring = [pair for pair in scoring if pair[0] in known] or [(None, None)]  # its own
        state = _train(recipe, dataset, out, state, resume, world, compiled, tracking)
        distributed.leave()
        if world.rank > 0:
            return None
        return _ship(recipe, dataset, out, state, scoring, sequences, world.device, compiled)


def _describe(out: Path, recipe: Recipe, source: Source, identity: dict, resume: bool) -> None:
    """Write recipe.json: the recipe of this session, and where the data was when the run began."""
    began = run_directory.begun(out) if resume else {"source": source.describe()}
    described = began | {"recipe": asdict(recipe)} | identity
    write_atomic(out / "recipe.json", (json.dumps(described, indent=2) + "\n").encode())


def _check_data(out: Path, identity: dict) -> None:
    """Raise InputError where a run to resume began with other data than this."""
    path, begun = out / "recipe.json", run_directory.begun(out)
    changed = [
        f"{name}: {begun.get(name)}, now {value}"
        for name, value in identity.items()
        if value != begun.get(name)
    ]
    if changed:
        raise InputError(
            f"--resume: {path} began with other data ({'; '.join(changed)}); pass the same --data,"
            " --tokenizer or --text"
        )


def _check_parity(recipe: Recipe, device: str, compiled: bool) -> list:
    with bar("preflight", "pieces") as progress:
        progress.say("preflight: parity with the specification on this device")
        return parity.preflight(recipe, device, compiled, progress.say)


def _write_parity(out: Path, rows: list) -> None:
    """Write parity.json: the rows of this session's preflight, as maskgolf parity --json does."""
    text = json.dumps([row.plain() for row in rows], indent=2, allow_nan=False) + "\n"
    write_atomic(out / "parity.json", text.encode())


def _ship(
    recipe: Recipe,
    dataset: Dataset,
    out: Path,
    state: State,
    scoring,
    sequences: int | None,
    device: str,
    compiled: bool,
) -> dict:
    """Write the artifact of a finished run, score it from the file, write and return the
    summary.
    """
    file = out / "artifact.mgolf"
    artifact.write(
        file,
        state.shadow,
        recipe,
        {"tokenizer_sha256": dataset.tokenizer.sha256},
        batch=data.batches(dataset.train, recipe),
        exponents=state.exponents,
    )
    header, params = artifact.read(file)
    code = size.code_bytes(recipe, header["codec"])
    artifact.check_size(header, file.stat().st_size, code)
    if sequences:  # at most
        sequences = min(sequences, data.evaluation_count(dataset.validation, recipe.model.length))
    summary = {
        "preset": recipe.preset,
        "parameters": sum(value.numel() for value in params.values()),
        "steps": state.step,
        "seconds": state.elapsed,
        "tokens_per_second": state.step * recipe.training.tokens_per_step / state.elapsed,
        "final_lr_multiplier": state.multiplier,
        "ema_started_step": state.ema_started_step,
        "artifact_bytes": file.stat().st_size,
        "code_bytes": sum(code.values()),
        "codec": header["codec"],
        "scores": [
            score_fresh(out, estimator, order, sequences, device, compiled)
            for estimator, order in scoring
        ],
        "baselines": _baselines(dataset, recipe.model.length, sequences),
        "hardware": log.hardware(device, distributed.environment()[1]),
        "pytorch_version": torch.__version__,
    }
    write_atomic(out / "summary.json", (json.dumps(summary, indent=2) + "\n").encode())
    return summary


def sizes(run: Path) -> list[dict]:
    """Return the size of every part of the artifact, of a finished run or a file, and of its code:
    rows of artifact.size_report.
    """
    file, _ = locate(run)
    header, _ = artifact.read(file)
    code = size.code_bytes(artifact.recipe_of(header), header["codec"])
    return artifact.size_report(header, file.stat().st_size, code)


def _baselines(dataset: Dataset, length: int, sequences: int | None) -> dict[str, float]:
    tokens = len(dataset.validation)
    ids = dataset.validation.read(0, min(tokens, sequences * length) if sequences else tokens)
    return baselines(raw_text(ids, dataset.tokenizer), dataset.tokenizer.vocab, len(ids))
