"""MaskGolf from Python: the five functions behind the commands of their names.

A run is named by its directory, by an artifact file, or by what train() or load() returned. Wrong
input is an InputError whose message says what was expected. torch is imported by the first call.
"""

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict
from pathlib import Path

from fast.config import flatten, recipe_from_dict
from harness import devices
from harness.corpus.sources import Source
from harness.evaluation.estimate import Estimate
from harness.pieces import select
from harness.records import run_directory
from harness.records.tracking import Tracking
from harness.results import Model, Parity, Run, Samples, Score, Scores
from reference.recipe import PRESETS, InputError, Order, Recipe

Named = str | Path | Run | Model


def _path(run: Named) -> Path:
    return run.path if isinstance(run, Run | Model) else Path(run)


def _source(data, tokenizer, text) -> Source:
    files = (text,) if isinstance(text, str | Path) else text
    return Source(data and Path(data), tokenizer and Path(tokenizer), tuple(map(Path, files)))


def recipe_of(preset: str = "demo", changes: Mapping | None = None) -> Recipe:
    """Return a preset's recipe with some fields changed: {"model.d": 160}. InputError for a preset
    or a field that there is not, and for a recipe that cannot be trained.
    """
    if preset not in PRESETS:
        raise InputError(
            f"preset {preset!r}: expected one of {', '.join(PRESETS)}; choose one of these"
        )
    fields = asdict(PRESETS[preset])
    known = flatten(fields)
    for name, value in (changes or {}).items():
        if name not in known:
            raise InputError(
                f"{name}: expected a field of the recipe such as model.d, found none of that name"
            )
        *parts, last = name.split(".")
        part = fields
        for outer in parts:
            part = part[outer]
        part[last] = value
    return recipe_from_dict(fields)


def train(
    recipe: str | Recipe = "demo",
    changes: Mapping | None = None,
    *,
    data: str | Path | None = None,
    tokenizer: str | Path | None = None,
    text: str | Path | Iterable[str | Path] = (),
    out: str | Path | None = None,
    resume: run_directory.Resume = False,
    overwrite: bool = False,
    device: str = "cpu",
    compiled: bool = True,
    preflight: bool = True,
    scoring: Iterable[tuple[str, str | None]] | None = None,
    sequences: int | None = None,
    tensorboard: bool = False,
    wandb: str | None = None,
) -> Run | None:
    """Train a model, write its artifact and score it from the file.

    recipe: a preset's name, with `changes` of some fields by name, or a Recipe. data: a folder of
    shards; text: files; neither: the embedded corpus. out: the run directory, runs/PRESET unless
    it is named. scoring: (estimator, order) pairs, on the first `sequences` windows. tensorboard,
    wandb: as harness.records.tracking.Tracking says. Under torchrun ranks above 0 return None.

    Examples:
        >>> run = maskgolf.train("tiny", {"training.iterations": 20}, out="runs/mine")
    """
    if isinstance(recipe, str):
        recipe = recipe_of(recipe, changes)
    elif changes:
        raise InputError("changes: expected a preset's name beside them, found a Recipe; drop them")
    out = Path("runs") / recipe.preset if out is None else Path(out)
    source = _source(data, tokenizer, text)
    source.check()
    tracking = Tracking(tensorboard, wandb)
    tracking.check()
    device = devices.check_device(device)
    from harness import runs

    summary = runs.run(
        recipe,
        source,
        out,
        resume,
        overwrite,
        device,
        compiled,
        preflight,
        runs.SCORING[:2] if scoring is None else tuple(scoring),
        sequences,
        tracking,
    )
    return None if summary is None else _run(summary, out)


def _run(summary: dict, path: Path) -> Run:
    scores = tuple(Score.of(score) for score in summary["scores"])
    return Run.of(summary, path=path, scores=scores)


def load(run: Named, *, tokenizer: str | Path | None = None, device: str = "cpu") -> Model:
    """Read a model from its artifact. tokenizer: that of the run's data unless it is named.

    Examples:
        >>> model = maskgolf.load("runs/demo")
        >>> model.plot().savefig("bytes.png")
    """
    device = devices.check_device(device)
    from fast import transformer
    from harness import runs
    from harness.compression import compress
    from harness.evaluation.scoring import locate

    path = _path(run)
    predictor = compress.load(path, tokenizer and Path(tokenizer), device)
    shapes = transformer.shapes(predictor.recipe.model)
    return Model(
        json=runs.sizes(path),
        path=path,
        parameters=sum(map(math.prod, shapes.values())),
        artifact_bytes=locate(path)[0].stat().st_size,
        predictor=predictor,
        tokenizer=tokenizer and Path(tokenizer),
    )


def score(
    run: Named | Iterable[Named],
    *,
    against: Iterable[Named] = (),
    data: str | Path | None = None,
    tokenizer: str | Path | None = None,
    text: str | Path | Iterable[str | Path] = (),
    device: str = "cpu",
    compiled: bool | None = None,
    partial: str | Path | None = None,
    **estimate,
) -> Score | Scores:
    """Score a run in bits per byte, from its artifact; several runs: with mean and standard
    deviation, and Welch's t-test where there are runs `against` them.

    data, tokenizer, text: the run's own unless one is named. estimate: fields of
    harness.evaluation.estimate.Estimate (estimator, order, draws, sequences, seed ...). partial: a
    file that keeps every window's numbers, to go on from. compiled None decides by the work.

    Examples:
        >>> score = maskgolf.score("runs/demo", estimator="causal", sequences=16)
        >>> print(score.bpb, score.stderr_sequences)
    """
    one = isinstance(run, Named)
    runs = [_path(each) for each in ([run] if one else run)]
    others = [_path(each) for each in against]
    source, asked = _source(data, tokenizer, text), Estimate(**estimate)
    source.check()
    device = devices.check_device(device)
    from harness.evaluation import scoring, stats

    settings = source, asked, device, compiled, partial and Path(partial)
    scores = scoring.every((*runs, *others), *settings)
    if one and not others:
        return Score.of(scores[0])
    result = stats.sets(scores, len(runs))
    known = tuple(Score.of(each) for each in scores)
    return Scores.of(result, scores=known[: len(runs)], against=known[len(runs) :])


def sample(
    run: Named,
    prompt: str = "",
    *,
    infill: str | None = None,
    gap: int | None = None,
    tokens: int | None = None,
    count: int = 1,
    order: Order = "left-to-right",
    step: int = 1,
    block: int = 32,
    temperature: float = 1.0,
    seed: int = 0,
    tokenizer: str | Path | None = None,
    device: str = "cpu",
    watch: Callable | None = None,
) -> Samples:
    """Draw `count` texts from a model along an evaluation order, `step` positions per pass. The
    same seed draws the same. temperature 0 takes the most probable token.

    infill: a text to keep, whose gaps of three underscores or more are filled in by as many tokens,
    or by `gap` each. tokens: as many behind the prompt. watch: called after each pass with a
    function that returns what json will hold, so far.

    Examples:
        >>> print(maskgolf.sample("runs/demo", "The class", temperature=0.8)[0])
        >>> print(maskgolf.sample("runs/demo", infill="The ___ is ______ executed.")[0])
    """
    device = devices.check_device(device)
    from harness.sampling import samples

    path, tokenizer = _path(run), tokenizer or getattr(run, "tokenizer", None)
    settings = prompt, count, order, step, block, temperature, seed, device
    gaps_and_end = {"infill": infill, "gap": gap, "tokens": tokens}
    drawn = samples.sample(
        path, tokenizer and Path(tokenizer), *settings, **gaps_and_end, watch=watch
    )
    return Samples(json=drawn, path=path, texts=tuple(each["text"] for each in drawn))


def parity(
    pieces: Iterable[str] = (),
    *,
    device: str = "cpu",
    dtypes: Iterable[str] | None = None,
    compiled: bool = False,
) -> Parity:
    """Compare the fast half with the specification. pieces: names as maskgolf parity takes them;
    none means all. dtypes: those of the presets unless they are named.

    Examples:
        >>> assert maskgolf.parity(["masks", "attention"]).passed
    """
    names = (pieces,) if isinstance(pieces, str) else tuple(pieces)
    select(names)
    device = devices.check_device(device)
    from harness import parity as comparison
    from harness.display.progress import bar

    with bar("parity", "pieces") as progress:
        rows = comparison.parity(
            names,
            device,
            comparison.PRODUCTION if dtypes is None else tuple(dtypes),
            compiled,
            lambda done, total, new: progress.update(done, total, new[0].piece),
        )
    plain = [row.plain() for row in rows]
    return Parity(json=plain, device=device, passed=all(row.passed for row in rows))
