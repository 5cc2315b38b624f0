"""The study of objectives and inputs: which of them makes the better model at equal steps, tokens
and size? `python -m tests.scripts.study [GROUP…]` trains what is missing, `--report` scores all of
it on the validation split, and both print the tables; hours on a few cores, and it may be stopped
at any time.

What to choose is read off a split of the training text: its last documents, which no cell trains
on. The validation split is scored by --report alone, once the choice is made. A cell is one variant
in one group with one seed; its numbers are kept in the results file under a hash of its recipe and
of its text, so that another recipe is another cell. Runs are kept beside the choice split in --out.
"""

import argparse
import hashlib
import json
import os
import shutil
import statistics
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace
from functools import reduce
from pathlib import Path
from threading import Lock

import numpy as np
from rich.console import Console
from rich.table import Table

from fast.checkpoint import write_atomic
from fast.config import flatten
from fast.data import Layout, Tokens, find_layout, write_shard
from harness.corpus import prepare
from reference.recipe import DEMO, GOLF, Recipe, check

ROOT = Path(__file__).parents[2]
RESULTS = ROOT / "tests" / "benchmarks" / "study.json"
BOUNDARY = 1  # the token in front of every document
HELD_OUT = 60_000  # tokens of training text to choose by, at least
CHAIN_WINDOWS = 64  # scored one position per pass, which takes a pass per token
DRAWS = 4  # masks per window of a NELBO on the validation split: seeds differ by far more
SEEDS = (1, 2, 3)

# The recipe that a cell changes, in full where a preset may come to differ.
BASE = replace(
    DEMO,
    model=replace(DEMO.model, layers=4, d=128, length=128, mixing=0, shift=False, causal_share=0.0),
    quantization=replace(GOLF.quantization, threshold=4096),
    training=replace(
        DEMO.training,
        iterations=450,
        warmdown=150,
        tokens_per_step=4096,
        micro_batch_tokens=4096,
        causal_drift=0.0,
    ),
)
INPUTS = {"model.mixing": 2, "model.shift": True}
VARIANTS = {
    "golf": {},
    "mixing": {"model.mixing": 2},
    "mixing, shift": INPUTS,
    "causal 1/4": INPUTS | {"model.causal_share": 0.25},
    "causal 1/2": INPUTS | {"model.causal_share": 0.5},
    "causal 3/4": INPUTS | {"model.causal_share": 0.75},
    "causal 7/8": INPUTS | {"model.causal_share": 0.875},
    "causal 1/2, no shift": {"model.mixing": 2, "model.causal_share": 0.5},
    "causal 3/4, rising": INPUTS | {"model.causal_share": 0.75, "training.causal_drift": 0.2},
    "causal 3/4, falling": INPUTS | {"model.causal_share": 0.75, "training.causal_drift": -0.2},
    "AR": {"model.causal": True},
    "AR, mixing": {"model.causal": True, "model.mixing": 2},
}
LEVERS = {
    "": {},
    "Muon 0.04": {"optimizer.muon_lr": 0.04},
    "900 steps of 2,048": {
        "training.iterations": 900,
        "training.warmdown": 300,
        "training.tokens_per_step": 2048,
        "training.micro_batch_tokens": 2048,
    },
    "length 256": {"model.length": 256},
    "Adam 0.04": {"optimizer.embedding_lr": 0.04, "optimizer.vector_lr": 0.04},
}
VARIANTS |= {
    f"{name}, {lever}": VARIANTS[name] | changes
    for lever, changes in LEVERS.items()
    if lever
    for name in ("causal 3/4", "AR, mixing")
}
MAIN = ("golf", "causal 1/2", "causal 3/4", "causal 7/8", "AR, mixing")
SHARES = {  # of causal rows, by variant
    "mixing, shift": "0",
    "causal 1/4": "1/4",
    "causal 1/2": "1/2",
    "causal 3/4": "3/4",
    "causal 7/8": "7/8",
}
MASKED, LOOKING_BACK = "golf", "AR, mixing"  # what others are compared with


@dataclass(frozen=True)
class Group:
    """Cells of one shape and length of training."""

    title: str
    variants: tuple[str, ...]
    changes: dict[str, object]


def longer(times: int) -> dict[str, object]:
    """Return the changes that make a run some times as long."""
    return {"training.iterations": 450 * times, "training.warmdown": 150 * times}


DEFAULTS = flatten(asdict(Recipe()))
GROUPS = {
    "demo": Group("demo's shape, 450 steps", tuple(VARIANTS), {}),
    "double": Group("demo's shape, 900 steps", MAIN, longer(2)),
    "quadruple": Group("demo's shape, 1,800 steps", MAIN, longer(4)),
    "wide": Group("width 192, 450 steps", MAIN, {"model.d": 192}),
    "bound": Group("width 32, 3,600 steps", MAIN, {"model.d": 32, **longer(8)}),
}


@dataclass(frozen=True)
class Cell:
    """One model to train."""

    group: str
    variant: str
    seed: int

    def recipe(self) -> Recipe:
        """Return what it trains by."""
        recipe = replace(BASE, seed=self.seed)
        for name, value in (VARIANTS[self.variant] | GROUPS[self.group].changes).items():
            part, _, field = name.partition(".")
            changed = replace(getattr(recipe, part), **{field: value})
            recipe = replace(recipe, **{part: changed})
        return check(recipe)

    def flags(self) -> list[str]:
        """Return the options of `maskgolf train` that make this of its preset."""
        recipe, words = self.recipe(), ["--preset", DEMO.preset, "--seed", str(self.seed)]
        for part, values in asdict(recipe).items():
            for field, value in values.items() if isinstance(values, dict) else ():
                if value != reduce(getattr, (part, field), DEMO):
                    said = str(value).lower() if isinstance(value, bool) else str(value)
                    words += [f"--{part}.{field}", said]
        return words

    def key(self, corpus: str) -> str:
        """Return the name of its numbers: a hash of its text and of all in its recipe that is not
        as in Recipe(). A field that is added, and off there, changes no name.
        """
        fields = flatten(asdict(self.recipe()))
        own = {name: value for name, value in fields.items() if value != DEFAULTS[name]}
        described = json.dumps([own, corpus], sort_keys=True)
        return hashlib.sha256(described.encode()).hexdigest()[:16]


def cells(groups: list[str], variants: list[str], seeds: list[int]) -> Iterator[Cell]:
    """Yield the cells asked for: every variant of a group with one seed before the next."""
    for name in groups:
        for seed in seeds:
            for variant in GROUPS[name].variants:
                if not variants or variant in variants:
                    yield Cell(name, variant, seed)


def hold_out(layout: Layout, out: Path) -> Path:
    """Write and return a data folder whose validation split is the last documents of the training
    split of another one, of at least HELD_OUT tokens, and whose training split is what is left.
    """
    stream = Tokens(layout.train)
    ids = stream.read(0, len(stream)).astype(np.uint16)
    starts = np.flatnonzero(ids == BOUNDARY)
    cut = int(starts[starts <= len(ids) - min(HELD_OUT, len(ids) // 4)][-1])
    for folder in ("datasets/choice", "tokenizers"):
        (out / folder).mkdir(parents=True, exist_ok=True)
    for name, part in (("train", ids[:cut]), ("val", ids[cut:])):
        write_shard(out / "datasets" / "choice" / f"choice_{name}_000000.bin", part)
    shutil.copy(layout.tokenizer, out / "tokenizers")
    return out


def text_of(layout: Layout) -> str:
    """Return a hash of both splits and the tokenizer of a data folder."""
    digest = hashlib.sha256()
    for path in (*layout.train, *layout.validation, layout.tokenizer):
        digest.update(hashlib.sha256(path.read_bytes()).digest())
    return digest.hexdigest()


def harness(*words, threads: int) -> dict:
    """Return what a command prints as JSON, run in a process of its own; its end is this one's
    where it fails.
    """
    command = [sys.executable, "-m", "harness", *map(str, words), "--json", "-"]
    environment = os.environ | {"OMP_NUM_THREADS": str(threads)}
    done = subprocess.run(command, env=environment, cwd=ROOT, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"{' '.join(command)} ended with {done.returncode}\n{done.stderr[-3000:]}")
    return json.loads(done.stdout)


def left_to_right(run: Path, *words, threads: int) -> dict:
    """Return the score of a run by its masked network, one position per pass."""
    how = "--estimator", "chain", "--order", "left-to-right", "--sequences", CHAIN_WINDOWS
    return harness("eval", run, *how, *words, threads=threads)


def without_paths(scores: dict) -> dict:
    """Return scores less where their runs lie."""
    return {
        name: {field: value for field, value in score.items() if field != "run"}
        for name, score in scores.items()
    }


def train(cell: Cell, data: Path, run: Path, threads: int) -> dict:
    """Train a cell and return its numbers by the choice split."""
    where = "--data", data, "--out", run, "--resume", "auto", "--no-preflight"
    summary = harness("train", *cell.flags(), *where, threads=threads)
    scores = {score["estimator"]: score for score in summary["scores"]}
    if not cell.recipe().model.causal:
        scores["chain"] = left_to_right(run, threads=threads)
    kept = ("parameters", "steps", "seconds", "artifact_bytes", "hardware", "pytorch_version")
    numbers = {name: summary[name] for name in kept}
    return asdict(cell) | numbers | {"choice": without_paths(scores)}


def validate(cell: Cell, data: Path, run: Path, threads: int) -> dict:
    """Return the scores of a trained cell on the validation split."""
    source, model, scores = ("--data", data), cell.recipe().model, {}
    if not model.causal:
        how = "--estimator", "nelbo", "--draws", DRAWS
        scores["nelbo"] = harness("eval", run, *how, *source, threads=threads)
        scores["chain"] = left_to_right(run, *source, threads=threads)
    if model.causal or model.causal_share:
        scores["causal"] = harness("eval", run, "--estimator", "causal", *source, threads=threads)
    return without_paths(scores)


class Results:
    """The numbers of finished cells, in a file that is whole at any time."""

    def __init__(self, path: Path) -> None:
        self.path, self.lock = path, Lock()
        self.known = json.loads(path.read_text()) if path.exists() else {}

    def keep(self, key: str, numbers: dict) -> None:
        """Add to the numbers of a cell, on disk too."""
        with self.lock:
            self.known[key] = self.known.get(key, {}) | numbers
            write_atomic(self.path, (json.dumps(self.known, indent=1) + "\n").encode())


def complete(
    chosen: list[Cell], data: Path, out: Path, results: Results, report: bool, jobs: int
) -> None:
    """Train and score what is missing of some cells, `jobs` at a time."""
    text = text_of(find_layout(data))
    choice = hold_out(find_layout(data), out / "choice" / text[:16])
    threads = max(1, (os.cpu_count() or 1) // jobs)

    def work(cell: Cell) -> None:
        key = cell.key(text)
        run, known = out / key, results.known.get(key, {})
        name = f"{cell.group}: {cell.variant}, seed {cell.seed}"
        if "choice" not in known or (report and not run.exists()):
            print(f"train {name}", flush=True)
            results.keep(key, {"text": text} | train(cell, choice, run, threads))
        if report and "validation" not in known:
            print(f"score {name}", flush=True)
            results.keep(key, {"validation": validate(cell, data, run, threads)})

    with ThreadPoolExecutor(jobs) as pool:
        for _ in pool.map(work, chosen):
            pass


def spread(values: list[float]) -> str:
    """Return a mean and, of several, its standard error."""
    mean = statistics.fmean(values)
    if len(values) < 2:
        return f"{mean:.3f}"
    return f"{mean:.3f} ± {statistics.stdev(values) / len(values) ** 0.5:.3f}"


def values_of(known: list[dict], split: str, variant: str, estimator: str) -> dict[int, float]:
    """Return {seed: bits per byte} of a variant by one estimator."""
    return {
        numbers["seed"]: numbers[split][estimator]["bpb"]
        for numbers in known
        if numbers["variant"] == variant and estimator in numbers.get(split, {})
    }


def difference(ones: dict[int, float], others: dict[int, float]) -> str:
    """Return the mean difference over the seeds that both have, with its standard error."""
    shared = sorted(ones.keys() & others.keys())
    return spread([ones[seed] - others[seed] for seed in shared]) if shared else ""


def table(group: str, known: list[dict], split: str) -> Table:
    """Return what is known of a group on a split, means over seeds with their standard errors."""
    shown = Table(title=f"{GROUPS[group].title}: {split} split, bits per byte")
    for head in (
        "variant",
        "seeds",
        "NELBO",
        f"less {MASKED}'s",
        f"left to right, masked ({CHAIN_WINDOWS})",
        "left to right, causal",
        f"less that of {LOOKING_BACK}",
    ):
        shown.add_column(head, justify="left" if head == "variant" else "right")
    best = {"nelbo": MASKED, "causal": LOOKING_BACK}
    bases = {name: values_of(known, split, base, name) for name, base in best.items()}
    for variant in GROUPS[group].variants:
        columns = {
            name: values_of(known, split, variant, name) for name in ("nelbo", "chain", "causal")
        }
        seeds = max(map(len, columns.values()))
        if seeds:
            nelbo, chain, causal = (
                spread(list(values.values())) if values else "" for values in columns.values()
            )
            apart = {name: difference(columns[name], bases[name]) for name in best}
            shown.add_row(
                variant, str(seeds), nelbo, apart["nelbo"], chain, causal, apart["causal"]
            )
    return shown


def frontier(members: list[dict], split: str, by: str) -> list[tuple[str, float, float]]:
    """Return (share, left to right, NELBO) for every share of causal rows that has both, means over
    seeds in bits per byte. by: the estimator from left to right, causal or chain.
    """
    points = []
    for variant, share in SHARES.items():
        scores = [values_of(members, split, variant, name) for name in (by, "nelbo")]
        seeds = scores[0].keys() & scores[1].keys()
        if seeds:
            means = [statistics.fmean(values[seed] for seed in seeds) for values in scores]
            points.append((share, *means))
    return points


def plot(known: dict[str, list[dict]], split: str, path: Path) -> None:
    """Draw the frontier: NELBO against left to right by the share of causal rows, a panel for each
    group that has some (matplotlib, the plot extra).
    """
    from matplotlib.figure import Figure

    drawn = {
        group: members for group, members in known.items() if frontier(members, split, "chain")
    }
    columns = min(2, len(drawn)) or 1
    rows = max(1, -(-len(drawn) // columns))
    figure = Figure(figsize=(5 * columns, 3.8 * rows + 0.8), layout="constrained")
    panels = figure.subplots(rows, columns, squeeze=False).flat
    for (group, members), axes in zip(drawn.items(), panels, strict=False):
        for by, label, style in (
            ("causal", "one causal pass", "o-"),
            ("chain", f"masked network, {CHAIN_WINDOWS} windows", "s--"),
        ):
            points = frontier(members, split, by)
            if points:
                axes.plot(*zip(*(point[1:] for point in points), strict=True), style, label=label)
            for share, x, y in points:
                axes.annotate(share, (x, y), textcoords="offset points", xytext=(5, 5), fontsize=8)
        for variant, name, label, draw in (
            (LOOKING_BACK, "causal", "autoregression, one pass", axes.axvline),
            (MASKED, "nelbo", "golf's objective, NELBO", axes.axhline),
        ):
            values = list(values_of(members, split, variant, name).values())
            if values:
                color = {"causal": "black", "nelbo": "gray"}[name]
                draw(statistics.fmean(values), color=color, ls=":", lw=1.2, label=label)
        axes.margins(0.12)
        axes.set(title=GROUPS[group].title, xlabel="left to right", ylabel="NELBO")
    for axes in list(panels):
        axes.axis("off")
    if drawn:
        figure.legend(
            *figure.axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=2
        )
    figure.suptitle(f"Bits per byte, {split} split; by the share of rows that train causally")
    figure.savefig(path, dpi=130)


def main(arguments: list[str] | None = None) -> int:
    """Complete the cells asked for and print the tables; return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("groups", nargs="*", metavar="GROUP", help=f"of {', '.join(GROUPS)}")
    parser.add_argument("--variants", nargs="+", default=[], choices=VARIANTS, metavar="VARIANT")
    parser.add_argument("--seeds", nargs="+", type=int, default=list(SEEDS))
    parser.add_argument("--data", type=Path, help="data folder; default: the embedded text")
    parser.add_argument("--out", type=Path, default=ROOT / "runs" / "study")
    parser.add_argument("--results", type=Path, default=RESULTS)
    parser.add_argument("--jobs", type=int, default=1, help="cells at a time, sharing the cores")
    parser.add_argument("--report", action="store_true", help="score the validation split too")
    parser.add_argument("--only-print", action="store_true", help="train and score nothing")
    parser.add_argument("--plot", type=Path, help="draw the frontier to an image")
    options = parser.parse_args(arguments)
    unknown = [group for group in options.groups if group not in GROUPS]
    if unknown or options.jobs < 1:
        parser.error(f"expected some of {', '.join(GROUPS)} and at least one job, found {options}")
    groups, results = options.groups or list(GROUPS), Results(options.results)
    data = options.data or prepare.embedded()
    chosen = list(cells(groups, options.variants, options.seeds))
    if not options.only_print:
        complete(chosen, data, options.out, results, options.report, options.jobs)
    text, known = text_of(find_layout(data)), {}
    for group in groups:
        keys = [cell.key(text) for cell in cells([group], options.variants, options.seeds)]
        known[group] = [results.known[key] for key in keys if key in results.known]
    split = "validation" if options.report else "choice"
    for group, members in known.items():
        if members:
            Console(width=140).print(table(group, members, split))
    if options.plot:
        plot(known, split, options.plot)
    return 0


if __name__ == "__main__":
    sys.exit(main())
