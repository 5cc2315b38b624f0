"""Benchmark of weight formats on a trained run: the bytes of its artifact, and what rounding costs
in bits per byte, both on the same windows: a rate-distortion curve.
"""

import math
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np

from fast import allot, artifact, container, data, evaluate, likelihood, transformer
from fast.objective import objective_of
from fast.train import restore
from harness.bench.measure import on_machine
from harness.corpus.sources import Source
from harness.display.figures import figure
from harness.display.progress import bar
from harness.evaluation import scoring
from harness.evaluation.scoring import Estimate, Job
from reference.recipe import FORMATS, InputError

EXACT = "float32"  # what the others are compared with
STEPS = (36, 32, 28, 26, 24, 22, 20, 18, 16, 12, 8)  # dials of the format uniform
COARSE = (4, 0, -8)  # and mean dials by the Fisher information, where no row's own is below 0
FINER = (-8, 0, 8)  # dials than the steps that training took gradients at
AWARE = "uniform, as trained"
PLAIN, ALLOTTED, COMPENSATED = "uniform", "uniform, fisher", "uniform, fisher, compensate"


class Way(NamedTuple):
    """One way to store weights."""

    name: str
    format: str
    dial: int | None = None


class Measured(NamedTuple):
    """What is known of the matrices: squared gradients on training text, the feedback of rounding,
    the steps of training where it took gradients at rounded weights (train.State.exponents).
    """

    squares: dict | None = None
    feedback: dict | None = None
    exponents: dict | None = None


def ways(fisher: int, aware: bool) -> list[Way]:
    """Return every format, the format uniform by its dials, with steps by the Fisher information as
    well where that is wanted, rounded to nearest and with compensation. aware: also by steps finer
    by some dials than those of training.
    """
    ways = [Way(name, name) for name in (EXACT, *FORMATS) if name != PLAIN]
    ways += [Way(PLAIN, PLAIN, dial) for dial in STEPS]
    for name in (ALLOTTED, COMPENSATED) if fisher else ():
        ways += [Way(name, PLAIN, dial) for dial in (*STEPS, *COARSE)]
    if aware:
        ways += [Way(AWARE, PLAIN, dial) for dial in FINER]
    return list(dict.fromkeys(ways))


def packed(params: dict, job: Job, way: Way, measured: Measured) -> bytes:
    """Return the artifact of float32 weights stored in one way, by the smallest codec."""
    kept = replace(job.recipe.quantization, format=way.format, fisher=0, budget=0)
    recipe = replace(job.recipe, quantization=kept)
    shapes = {name: tuple(value.shape) for name, value in params.items()}
    formats, dials = artifact.formats_of(shapes, recipe), None
    if way.name == AWARE:
        dials = artifact.trained_steps(params, measured.exponents, way.dial)
    elif way.dial is not None:
        by = None if way.name == PLAIN else measured.squares
        dials = artifact.steps_of(params, formats, by, way.dial)
        if way.name == COMPENSATED:
            params = params | artifact.rounded_with(params, dials, measured.feedback)
    return container.pack(params, formats, {}, "best", dials)


class Scorer:
    """Scores weights on the windows of a job: by one causal pass where the model has it, else by
    the NELBO with the same masks for all.
    """

    def __init__(self, job: Job, device: str) -> None:
        self.job, self.device, self.plans = job, device, {}
        exact = "causal" in objective_of(job.recipe.model).estimators
        self.effort = replace(job.effort, estimator="causal" if exact else "nelbo", order=None)

    def __call__(self, params: dict) -> tuple[np.ndarray, np.ndarray]:
        """Return (bits_N, bytes_N) of the windows."""
        job, model, name = self.job, self.job.recipe.model, self.effort.estimator
        predict = evaluate.predictor(params, job.recipe, self.device, estimator=name)
        stream = job.dataset.validation, model.length, model.vocab
        if evaluate.METHODS[name].planned and not self.plans:
            plan, _ = evaluate.split_plan(predict, *stream, self.effort, device=self.device)
            self.plans[model.length] = plan
        windows = data.evaluation_windows(*stream, job.first, job.stop - job.first)
        settings = {"first_row": job.first, "device": self.device, "plans": self.plans}
        table = job.dataset.tokenizer.table
        parts = evaluate.measure(predict, windows, table, self.effort, **settings)
        known = [part for part in parts if len(part.rows_N)]
        nats_N = np.concatenate([part.nats_N for part in known])
        return nats_N / math.log(2), np.concatenate([part.bytes_N for part in known])


def formats(run: Path, sequences: int | None, fisher: int, device: str) -> list[dict]:
    """Return a row for each way to store a run's averaged weights, exact ones first.

    sequences: windows of the validation split, from its start. fisher: windows of training text
    whose squared gradients set the steps; 0: none. A run of quantisation-aware training is also
    stored by its own steps; `dial` is then how much finer than these. Nothing is compiled: each row
    has other weights.
    """
    [job] = scoring.prepare([run], Source(), Estimate(sequences=sequences))
    state = restore(run, job.recipe)
    if state is None:
        raise InputError(
            f"{run}: expected the weights of a checkpoint, found none; name the run directory that"
            " training left"
        )
    params = transformer.unstack(state.shadow)
    with bar("bench formats", "formats") as progress:
        rows = list(_rows(params, job, fisher, state.exponents, device, progress))
    return on_machine(rows, device)


def _rows(params, job: Job, fisher: int, exponents, device: str, progress) -> Iterator[dict]:
    scored, measured = Scorer(job, device), Measured(exponents=exponents)
    chosen = ways(fisher, exponents is not None)
    if fisher:
        progress.say(f"gradients of {fisher} windows")
        kept = replace(job.recipe.quantization, format=PLAIN, fisher=fisher)
        recipe = replace(job.recipe, quantization=kept)
        at = {name: value.to(device) for name, value in params.items()}
        known = at, data.batches(job.dataset.train, recipe), recipe
        squares, feedback = allot.squared_gradients(*known), artifact.feedback_of(*known)
        measured = Measured(squares, feedback, exponents)
    exact_N, weights = None, sum(value.numel() for value in params.values())
    for done, way in enumerate(chosen, 1):
        progress.update(done, len(chosen), way.name)
        begun = time.perf_counter()
        stored = packed(params, job, way, measured)
        between = time.perf_counter()
        header, read = container.unpack(stored)
        ended = time.perf_counter()
        bits_N, bytes_N = scored({name: value.to(device) for name, value in read.items()})
        exact_N = bits_N if exact_N is None else exact_N
        damage, error = likelihood.ratio(bits_N - exact_N, bytes_N)
        yield {
            "format": way.name,
            "dial": way.dial,
            "codec": header["codec"],
            "bytes": len(stored),
            "bits_per_parameter": 8 * len(stored) / weights,
            "estimator": scored.effort.estimator,
            "windows": len(bits_N),
            "bpb": float(bits_N.sum() / bytes_N.sum()),
            "damage": float(damage),
            "stderr": None if math.isnan(error) else float(error),
            "seconds_to_store": between - begun,
            "seconds_to_open": ended - between,
        }


def plot(rows: list[dict], path: Path) -> None:
    """Draw bytes against damage, of all that does any, to an image (matplotlib, the plot extra)."""
    with figure(path) as axes:
        for name in (PLAIN, ALLOTTED, COMPENSATED, AWARE, None):
            shown = [
                row
                for row in rows
                if row["damage"] > 0
                and row["format"] != EXACT
                and (row["format"] == name if name else row["dial"] is None)
            ]
            if not shown:
                continue
            x, y, error = ([row[of] or 0 for row in shown] for of in ("bytes", "damage", "stderr"))
            style = "o" if name is None else "o-"
            label = name or "other formats"
            axes.errorbar(x, y, error, fmt=style, markersize=4, capsize=2, label=label)
            for index, row in enumerate(shown if name is None else ()):
                axes.annotate(
                    row["format"],
                    (row["bytes"], row["damage"]),
                    textcoords="offset points",
                    xytext=(5, (4, -11)[index % 2]),
                    fontsize=8,
                )
        axes.set_xscale("log")
        axes.set_yscale("log")
        axes.set(xlabel="bytes of the artifact", ylabel="bits per byte above float32 weights")
