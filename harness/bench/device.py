"""Everything worth knowing of one device, within a time budget.

What is most likely to fail comes first, then parity, the step by component, attention, Muon,
likelihoods, levers. A part that fails leaves the others their turn. Results are handed on row by
row, so that a run that is cut off has written what it knew.
"""

import gc
import signal
import tempfile
import time
from collections.abc import Callable
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cache, cached_property, partial
from pathlib import Path

import numpy as np
import torch

from fast import data, evaluate, likelihood
from harness.bench import attention, components, first, gate, levers, muon
from harness.bench.likelihood import speed
from harness.bench.measure import Jobs, as_rate, job, machine, noted, paired, seconds
from harness.display import report
from harness.errors import Stopped
from harness.runs import plan
from reference.recipe import GOLF, Recipe, check

BUDGET = 520.0  # seconds in all: a lease's command ends after 600


class OutOfTime(BaseException):
    """The budget is used up; no `except Exception` on the way, such as the compiler's, may
    hold it.
    """


@contextmanager
def deadline(remaining: float):
    """Raise OutOfTime in the main thread after this many seconds; an alarm that was set before is
    set again behind it.
    """

    def ring(number, frame):
        raise OutOfTime

    begun, before = time.monotonic(), signal.signal(signal.SIGALRM, ring)
    earlier, _ = signal.setitimer(signal.ITIMER_REAL, max(remaining, 1e-3))
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
        if earlier:
            signal.setitimer(signal.ITIMER_REAL, max(earlier - (time.monotonic() - begun), 1e-3))


@dataclass(frozen=True)
class Sizes:
    """What a run measures: the golf preset, or with --smoke a toy of every shape relation it
    has.
    """

    recipe: Recipe
    matrix: int  # side of the square product that measures the device's rate
    copy: int  # bytes of the copy that measures its bandwidth
    windows: int  # per pass of a likelihood
    draws: int  # masks per window


GOLF_SIZES = Sizes(GOLF, matrix=8192, copy=1 << 30, windows=64, draws=8)
TOY = replace(GOLF.model, layers=2, d=48, vocab=64, length=32)
SMOKE_SIZES = Sizes(
    check(
        replace(
            GOLF,
            preset="toy",
            model=TOY,
            training=replace(GOLF.training, tokens_per_step=256, micro_batch_tokens=64),
        )
    ),
    matrix=64,
    copy=1 << 16,
    windows=4,
    draws=2,
)


class Bench:
    """What the parts share, each made when it is first asked for."""

    def __init__(self, sizes: Sizes, device: str, compiled: bool, pairs: int, folder: Path):
        """Measure `sizes` on a device; folder holds the shard that batches are read from."""
        self.sizes, self.recipe = sizes, sizes.recipe
        self.device, self.compiled, self.pairs, self.folder = device, compiled, pairs, folder

    @cached_property
    def tokens(self) -> data.Tokens:
        """Return a stream of random tokens, some of them frequent as in text, long enough for two
        steps.
        """
        model, training = self.recipe.model, self.recipe.training
        draws = np.random.default_rng(0).random(2 * training.tokens_per_step + model.length)
        data.write_shard(self.folder / "shard.bin", (model.vocab * draws**3).astype(np.uint16))
        return data.Tokens([self.folder / "shard.bin"])

    def batch_of(self, recipe: Recipe) -> Callable:
        """Return batch(step, rows) of a recipe, read from the shard as in training."""
        model, training = recipe.model, recipe.training
        rows_in_all = training.tokens_per_step // model.length
        return lambda step, rows: data.batch(
            self.tokens, model.length, rows, step, recipe.seed, False, rows_in_all, model.vocab
        )

    @cached_property
    def production(self) -> components.Production:
        """Return the step that ships."""
        return components.Production(
            self.recipe, self.batch_of(self.recipe), self.device, self.compiled
        )

    @cached_property
    def plain(self) -> components.Plain:
        """Return the step written plainly."""
        return components.Plain(self.production)

    @cached_property
    def bandwidth(self) -> float:
        """Return the bytes per second of a copy, read and written counted."""
        source = torch.randint(0, 256, (self.sizes.copy,), dtype=torch.uint8, device=self.device)
        target = torch.empty_like(source)
        best = min(seconds(lambda: target.copy_(source), self.device) for _ in range(10))
        return 2 * self.sizes.copy / best

    @cached_property
    def products(self) -> float:
        """Return the floating-point operations per second of a large matrix product in the compute
        dtype, on random numbers.
        """
        side, dtype = self.sizes.matrix, getattr(torch, self.recipe.training.compute_dtype)
        a, b = (torch.randn(side, side, device=self.device, dtype=dtype) for _ in range(2))
        return 2 * side**3 / min(seconds(lambda: a @ b, self.device) for _ in range(10))


def beginnings(bench: Bench) -> Jobs:
    """What is most likely to fail, in the order of cost."""
    return first.jobs(bench, SMOKE_SIZES.recipe)


def parities(bench: Bench) -> Jobs:
    """Every piece against the specification, each a row."""
    return (job(parity_row(piece), checked, bench, piece) for piece in gate.names_of())


def parity_row(piece: str) -> str:
    """Return the name of the row of a piece."""
    return f"parity: {piece}"


def checked(name: str, bench: Bench, piece: str) -> dict:
    """Return the row of a piece: its note says that it agrees, or what does not."""
    dtypes = (bench.recipe.training.compute_dtype,)
    rows = gate.examined(piece, bench.device, bench.compiled, dtypes)
    red = gate.described(rows, bench.device, bench.compiled)
    return noted(name, f"failed: parity is red: {red}" if red else AGREES)


def step(bench: Bench) -> Jobs:
    """The training step by component, its peak memory, and the share of the device's own matrix
    rate that it reaches.
    """
    plainly, quick, recipe = bench.plain, bench.production, bench.recipe
    yield from components.of_step(plainly, quick, bench.pairs)
    yield from components.of_memory(plainly, quick, partial(peak, device=bench.device))
    flops = plan(recipe)["flops_per_token"] * recipe.training.tokens_per_step
    floor = flops / bench.products, quick.step, bench.pairs, bench.device
    yield job("training step: share of the matrix rate", components.against_floor, *floor)


def update(bench: Bench) -> Jobs:
    """The parts of the update, and how near clip and average come to the memory's floor."""
    return components.of_update(bench.production, bench.compiled, bench.pairs, bench.bandwidth)


def attentions(bench: Bench) -> Jobs:
    """Every attention kernel, at the preset's heads and at 6 query and 3 key/value heads."""
    both = bench.recipe.model, levers.other_heads(bench.recipe).model
    models = {f"{model.heads} x {model.d // model.heads}": model for model in both}
    training = bench.recipe.training
    rows = training.micro_batch_tokens // bench.recipe.model.length
    dtype = getattr(torch, training.compute_dtype)
    return attention.jobs(models, rows, bench.device, dtype, bench.pairs)


def optimizers(bench: Bench) -> Jobs:
    """Our Muon against torch.optim.Muon on the preset's matrices."""
    recipe, settings = bench.recipe, (bench.pairs, bench.device, bench.compiled)
    what = recipe.preset, recipe.model, recipe.optimizer
    yield job(muon.title(recipe.preset), muon.against_torch, *what, *settings)


def likelihoods(bench: Bench) -> Jobs:
    """Tokens per second of the NELBO's passes, compiled against eager, and of the chain rule
    against whole forward passes.
    """
    model, sizes = bench.recipe.model, bench.sizes
    group = data.evaluation_windows(bench.tokens, model.length, model.vocab, 0, sizes.windows)[0]
    eager, query = (
        evaluate.predictor(bench.production.params, bench.recipe, bench.device, compiled)
        for compiled in (False, bench.compiled)
    )
    effort = evaluate.Effort(draws=sizes.draws)
    settings = {"batch_rows": sizes.windows, "device": bench.device}
    fitted = evaluate.fit_plan(eager, group, model.vocab, effort, **settings)

    def passes(predict):
        likelihood.nelbo(predict, group.ids_NL, model.vocab, sizes.draws, fitted, 0, 0, **settings)

    def nelbo(name: str) -> dict:
        ways = partial(passes, eager), partial(passes, query)
        timed = paired(name, *ways, bench.pairs, bench.device)
        return as_rate(timed, sizes.windows * model.length * sizes.draws)

    def chain(name: str) -> dict:
        return speed(query, eager, group.ids_NL, model.vocab, bench.pairs, sizes.windows)[0]

    yield job("NELBO tokens/s: production / eager", nelbo)
    yield job("chain left-to-right / full forward passes", chain)


def changes(bench: Bench) -> Jobs:
    """Each lever alone: the gradients of a step under it against those of the production step."""
    base = components.flat(bench.production)
    limit = cache(lambda: components.limit(bench.plain, base))
    for lever in levers.LEVERS:
        yield job(
            f"lever: {lever.name}",
            lambda name, lever=lever: pulled(bench, lever, name, base, limit()),
        )


def pulled(bench: Bench, lever: levers.Lever, name: str, base: torch.Tensor, limit: float) -> dict:
    """Return the row of a lever. Its gradients may stray from production's by twice what the plain
    step's do: same sums, another order.
    """
    recipe = check(lever.recipe(bench.recipe))
    note = levers.absence(lever, bench.device)
    if not note and recipe == bench.recipe and not bench.compiled and lever.options:
        note = first.NOT_COMPILED
    if note:
        return noted(name, note, "ms")
    with levers.pulled(lever):
        try:
            batch = bench.batch_of(recipe)
            way = components.Production(recipe, batch, bench.device, bench.compiled, lever.context)
            strayed = components.distance(components.flat(way), base) if lever.same else 0.0
        except RuntimeError as error:
            if not attention.absence(error):
                raise
            return noted(name, attention.absence(error), "ms")
        if not strayed <= limit:
            note = f"failed: its gradients stray by {strayed:.3g}, limit {limit:.3g}"
            return noted(name, note, "ms")
        return paired(name, bench.production.gradients, way.gradients, bench.pairs, bench.device)


PARTS = {
    "first": beginnings,
    "parity": parities,
    "step": step,
    "update": update,
    "attention": attentions,
    "muon": optimizers,
    "likelihood": likelihoods,
    "levers": changes,
}
ALWAYS = ("first", "parity")  # whatever else is asked for
# The pieces whose parity the timings of a part rest on. Attention compares its kernels itself.
RESTS = {
    "step": gate.BEHIND["step"],
    "update": gate.OPTIMIZER,
    "muon": gate.BEHIND["muon"],
    "likelihood": (*gate.NETWORK, *gate.BEHIND["likelihood"]),
    "levers": gate.BEHIND["step"],
}
# Of the budget that a part may use before it counts as hanging; levers may use what is left.
SHARES = {
    "first": 0.2,
    "parity": 0.4,
    "step": 0.35,
    "update": 0.2,
    "attention": 0.2,
    "muon": 0.15,
    "likelihood": 0.25,
}
AGREES = "agrees with the specification"
SKIPPED = "skipped: the time budget is used up"
CUT_OFF = "failed: the time budget is used up; raise --budget"  # of parity


def peak(run: Callable, device: str) -> int | None:
    """Return the largest number of bytes that tensors held while run() ran; None on a CPU, which
    does not count.
    """
    if torch.device(device).type != "cuda":
        return None
    torch.cuda.synchronize(device)
    torch.cuda.reset_peak_memory_stats(device)
    run()
    torch.cuda.synchronize(device)
    return torch.cuda.max_memory_allocated(device)


class Record:
    """The rows so far, handed on after each. A timing whose parity is not green is no claim: it
    keeps its numbers and loses its ratio.
    """

    def __init__(self, device: str, on_row: Callable[[list[dict]], None]):
        """Start with nothing, the clock of the first row running."""
        self.rows, self.machine, self.on_row = [], machine(device), on_row
        self.begun = time.monotonic()

    def add(self, part: str, name: str, row: dict) -> None:
        """Add a row under a name; its seconds are those since the row before."""
        row, now = {"note": None} | row, time.monotonic()
        doubt = self.doubt(part) if row["ratio"] is not None else None
        if doubt:
            row |= {"ratio": None, "low": None, "high": None, "note": doubt}
        row |= {"name": name, "seconds": now - self.begun, "machine": self.machine}
        self.rows.append(row)
        self.begun = now
        self.on_row(self.rows)

    def doubt(self, part: str) -> str | None:
        """Return what is not proven of the code that a part times; None where all of it is."""
        notes = {row["name"]: row["note"] for row in self.rows}
        for piece in gate.names_of(RESTS[part]) if part in RESTS else ():
            note = notes.get(parity_row(piece))
            if note != AGREES:
                return f"unproven: parity of {piece} {'is red' if note else 'has no result'}"
        return None

    def stop(self, part: str, limit: float, budget_left: bool) -> None:
        """Say that the time of a part is up: that of the whole run, or its own, in seconds."""
        note = SKIPPED if part != "parity" else CUT_OFF
        if budget_left:
            note = f"failed: stopped after {limit:.0f} s"
        self.add(part, rest_of(part), noted(rest_of(part), note))


def run(
    part: str, bench: Bench, done: set[str], begin: Callable[[str], None], add: Callable
) -> None:
    """Run the jobs of a part but those done; begin(name) is called before each, add(name, row)
    after. What fails is a note.
    """
    try:
        for name, job in PARTS[part](bench):
            if name in done:
                continue
            begin(name)
            try:
                row = job()
            except Exception as error:
                row = failure(name, error)
            add(name, row)
    except Exception as error:
        add(rest_of(part), failure(rest_of(part), error))


def measured(
    name: str,
    parts: tuple[str, ...],
    ends: float,
    on_row: Callable[[list[dict]], None],
    finish: Callable[[str, float, Record], bool],
) -> list[dict]:
    """Return the rows of some parts on a device, ended by the monotonic time `ends`; on_row(rows)
    is called after each. finish(part, limit, record) measures a part and returns whether that many
    seconds sufficed.
    """
    record, budget = Record(name, on_row), ends - time.monotonic()
    try:
        for part in parts:
            limit = min(SHARES.get(part, 1.0) * budget, ends - time.monotonic())
            if limit <= 0 or not finish(part, limit, record):
                record.stop(part, limit, time.monotonic() < ends)
    except KeyboardInterrupt as stop:
        shown = partial(report.bench, record.rows)
        raise Stopped("interrupted; what was measured is shown", record.rows, shown) from stop
    return record.rows


def finished(bench: Bench, part: str, limit: float, record: Record) -> bool:
    """Measure a part in this process; return whether so many seconds sufficed."""
    try:
        with deadline(limit):
            run(part, bench, set(), lambda name: None, partial(record.add, part))
        return True
    except OutOfTime:
        return False
    finally:
        gc.collect()


def rest_of(part: str) -> str:
    """Return the name of the row of what is left of a part."""
    return f"{part}: the rest"


def failure(name: str, error: Exception) -> dict:
    """Return the row of a job that raised."""
    lines = str(error).splitlines() or [""]
    return noted(name, f"failed: {type(error).__name__}: {lines[0]}")


def failed(rows: list[dict]) -> list[dict]:
    """Return the rows whose measurement went wrong: not those that are not available here, nor
    those without time.
    """
    return [row for row in rows if (row["note"] or "").startswith("failed")]


def device(
    name: str,
    smoke: bool,
    compiled: bool,
    pairs: int,
    parts: tuple[str, ...] = (),
    budget: float = BUDGET,
    on_row: Callable[[list[dict]], None] = lambda rows: None,
    say: Callable[[str], None] = lambda text: None,
    separate: bool | None = None,
) -> list[dict]:
    """Return the rows of `bench device` on a device; parts: some of PARTS beside those of ALWAYS,
    none means all.

    The budget counts from here. separate: each part in a process of its own; None: on a GPU.
    """
    ends = time.monotonic() + budget
    chosen = tuple(part for part in PARTS if part in ALWAYS or not parts or part in parts)
    separate = torch.device(name).type == "cuda" if separate is None else separate
    with (
        tempfile.TemporaryDirectory(prefix="maskgolf-bench-") as folder,
        torch._dynamo.config.patch(recompile_limit=64),
    ):
        if separate:
            from harness.bench import apart

            settings = apart.Settings(name, smoke, compiled, pairs, folder)
            finish = partial(apart.finished, settings, say)
        else:
            sizes = SMOKE_SIZES if smoke else GOLF_SIZES
            finish = partial(finished, Bench(sizes, name, compiled, pairs, Path(folder)))
        return measured(name, chosen, ends, on_row, finish)
