"""A submission folder from finished runs of one configuration: README, JSON, train_gpt.py, logs,
requirements, the artifact.
"""

import json
import math
import os
import statistics
import tempfile
from dataclasses import asdict, dataclass, replace
from importlib.metadata import version
from pathlib import Path

from fast import artifact, data
from fast.config import changes, recipe_from_dict
from fast.objective import objective_of
from fast.ship import log
from fast.train import State, restore
from harness import paths
from harness.corpus.dataset import open_dataset
from harness.corpus.sources import Source
from harness.evaluation import scoring
from harness.packaging import bundle, model_card, readme, size
from harness.packaging.claim import TRACKS, Claim
from harness.records.overview import summaries
from reference.recipe import OWN_FIELDS, InputError, Recipe, Score

PACKAGES = ("torch", "numpy", "sentencepiece", "lz4", "constriction")  # what train_gpt.py imports
MODEL = "final_model.mgolf"
NEEDED = (  # fields of a summary
    "steps",
    "seconds",
    "parameters",
    "final_lr_multiplier",
    "ema_started_step",
    "scores",
    "hardware",
    "pytorch_version",
)


@dataclass(frozen=True)
class Run:
    """A finished run, read from its directory."""

    folder: Path
    recipe: Recipe
    source: Source  # of its tokens
    tokens: tuple[int, int]  # of the training and the validation split
    header: dict  # of the artifact
    data: bytes  # the artifact
    summary: dict
    state: State  # of the last checkpoint
    lines: list[str]  # of train.log
    stored: Path | None = None  # the artifact, where it is not the one in the folder


def read(folder: Path, source: Source) -> Run:
    """Return a run whose data is where it was, or in `source`; InputError unless it is finished and
    its files belong together.
    """
    paths.check_run_directory(folder)
    [summary] = summaries((folder,))
    file, described = scoring.locate(folder)
    try:
        recipe = recipe_from_dict(json.loads((folder / "recipe.json").read_text())["recipe"])
        lines = (folder / "train.log").read_text().splitlines()
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(
            f"{folder}: expected recipe.json and train.log of a run, found others ({error});"
            " restore them"
        ) from error
    header, _ = artifact.read(file)
    changed = changes(asdict(recipe), asdict(artifact.recipe_of(header, str(file))))
    if changed:
        raise InputError(
            f"{file}: expected the recipe of recipe.json, "
            f"found another ({'; '.join(changed)}); restore the run's own artifact"
        )
    missing = [name for name in NEEDED if name not in summary]
    if missing:
        raise InputError(
            f"{folder / 'summary.json'}: expected the field {missing[0]}, found none; another"
            " release wrote it: train again"
        )
    state = restore(folder, recipe)
    if state is None or not state.finished:
        raise InputError(
            f"{folder}: expected the checkpoint of the last step, "
            f"found {'an earlier one' if state else 'none'}; restore checkpoint/"
        )
    source = source.or_described(described)
    dataset = open_dataset(source, recipe.model.vocab, recipe.model.length)
    artifact.check_tokenizer(header, dataset.tokenizer)
    tokens = len(dataset.train), len(dataset.validation)
    return Run(folder, recipe, source, tokens, header, file.read_bytes(), summary, state, lines)


def check_alike(runs: list[Run]) -> None:
    """Raise InputError unless the runs differ in their seeds and in nothing else."""

    def configuration(run: Run) -> dict:
        return asdict(replace(run.recipe, seed=0)) | {
            "tokenizer_sha256": run.header.get("tokenizer_sha256"),
            "training and validation tokens": run.tokens,
        }

    first, seen = runs[0], {runs[0].recipe.seed}
    for other in runs[1:]:
        if other.recipe.seed in seen:
            raise InputError(
                f"{other.folder}: expected a seed of its own, found {other.recipe.seed} again; pass"
                " each seed once"
            )
        seen.add(other.recipe.seed)
        changed = changes(configuration(first), configuration(other))
        if changed:
            raise InputError(
                f"{other.folder}: expected the configuration of {first.folder}, "
                f"found another ({'; '.join(changed)}); pack them apart"
            )


def stored_anew(run: Run, budget: int, device: str, folder: Path) -> Run:
    """Return a run whose averaged weights are stored in `folder` such that code and artifact take
    just so many bytes.
    """
    recipe, file = size.within(run.recipe, budget), folder / f"{run.recipe.seed}.mgolf"
    dataset = open_dataset(run.source, recipe.model.vocab, recipe.model.length)
    kept = {name: value for name, value in run.header.items() if name not in OWN_FIELDS}
    shadow = {name: value.to(device) for name, value in run.state.shadow.items()}
    batch = data.batches(dataset.train, recipe)
    try:
        artifact.write(file, shadow, recipe, kept, size.CODEC, batch, run.state.exponents)
    except InputError as error:
        left = recipe.quantization.budget
        raise InputError(
            f"{run.folder}: --budget {budget:,} leaves {left:,} bytes beside the code; {error}"
        ) from error
    header, _ = artifact.read(file)
    return replace(run, recipe=recipe, header=header, data=file.read_bytes(), stored=file)


def whole_score(run: Run, device: str) -> dict:
    """Return a run's score of the whole validation split: from its summary, or, where that holds a
    part or is of other bytes, afresh from the artifact.
    """
    wanted = objective_of(run.recipe.model).estimator
    if run.stored:
        return scoring.score_fresh(run.stored, wanted, None, None, device, True, run.source)
    known = [
        score
        for score in run.summary["scores"]
        if score["estimator"] == wanted and score["tokens"] == run.tokens[1]
    ]
    return (
        known[0]
        if known
        else scoring.score_fresh(run.folder, wanted, None, None, device, True, run.source)
    )


def log_text(run: Run, score: dict, code_bytes: int) -> str:
    """Return the log of a run with what train_gpt.py says before and after the steps."""
    label, summary = f"{run.recipe.quantization.format}+{run.header['codec']}", run.summary
    known = [summary[name] for name in ("hardware", "pytorch_version", "parameters")]
    numbers = {name: score[name] for name in Score._fields}
    if numbers["stderr_sequences"] is None:
        numbers["stderr_sequences"] = math.nan
    lines = [
        *log.opening_lines(run.recipe, *known, score["tokens"]),
        *run.lines,
        *log.closing_lines(run.state, run.recipe),
        *log.size_lines(label, len(run.data), code_bytes),
        *log.score_lines(label, Score(**numbers)),
    ]
    return "\n".join(lines) + "\n"


def requirements(torch_version: str) -> str:
    """Return the packages of train_gpt.py, pinned: torch as it trained, the others as they are
    installed here.
    """
    pins = {name: version(name) for name in PACKAGES} | {"torch": torch_version}
    return "".join(f"{name}=={pin.partition('+')[0]}\n" for name, pin in pins.items())


def technique_of(recipe: Recipe) -> str:
    """Return the technique in one line."""
    model, kind = recipe.model, objective_of(recipe.model).title
    return (
        f"{kind} + {model.layers}x{model.d} U-Net transformer, {model.heads} heads on"
        f" {model.kv_heads} + Muon and Adam + float32 EMA {recipe.ema.decay} +"
        f" {recipe.quantization.format} weights + entropy coding"
    )


def submission(runs: list[Run], scores: list[dict], code_bytes: int, claimed: dict) -> dict:
    """Return submission.json: means over the seeds, sizes as they lie in the folder; steps and
    seconds are those of the artifact's run.
    """
    first, bpbs = runs[0], [score["bpb"] for score in scores]
    results = {
        str(run.recipe.seed): {
            "val_bpb": score["bpb"],
            "val_loss": score["nats_per_token"],
            "stderr_masks": score["stderr_masks"],
            "stderr_sequences": score["stderr_sequences"],
            "train_steps": run.summary["steps"],
            "wallclock_seconds": run.summary["seconds"],
            "bytes_model": len(run.data),
            "bytes_total": code_bytes + len(run.data),
        }
        for run, score in zip(runs, scores, strict=True)
    }
    return claimed | {
        "val_bpb": statistics.fmean(bpbs),
        "val_bpb_std": statistics.stdev(bpbs) if len(bpbs) > 1 else None,
        "val_bpb_estimator": scores[0]["estimator"],
        "val_loss": statistics.fmean(score["nats_per_token"] for score in scores),
        "bytes_total": code_bytes + len(first.data),
        "bytes_code": code_bytes,
        "bytes_model": len(first.data),
        "seeds": [run.recipe.seed for run in runs],
        "seed_results": results,
        "artifact_seed": first.recipe.seed,
        "pytorch_version": first.summary["pytorch_version"],
        "train_steps": first.summary["steps"],
        "wallclock_seconds": first.summary["seconds"],
        "parameters": first.summary["parameters"],
        "validation_tokens": scores[0]["tokens"],
        "validation_bytes": scores[0]["bytes"],
        "tokenizer_sha256": first.header.get("tokenizer_sha256"),
    }


def _check_budgets(runs: list[Run], code: str, track: str) -> int:
    """Return the bytes of the code; InputError where a run is over the size or the track's time."""
    size = len(code.encode())
    for run in runs:
        try:
            artifact.check_size(run.header, len(run.data), {bundle.SCRIPT: size})
        except InputError as error:
            raise InputError(f"{run.folder}: {error}") from error
        seconds, cap = run.summary["seconds"], TRACKS[track]
        if cap and seconds > cap:
            limit = f"at most {cap:g} s of training on track {track}"
            raise InputError(
                f"{run.folder}: expected {limit}, found {seconds:.1f}; choose --track"
                " non_record_16mb"
            )
    return size


def _write(target: Path, files: dict[str, bytes]) -> None:
    """Write a folder whole or not at all."""
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=target.parent, prefix=f".{target.name}.") as beside:
            folder = Path(beside) / target.name
            folder.mkdir()
            for name, data in files.items():
                (folder / name).write_bytes(data)
            os.rename(folder, target)
    except OSError as error:
        raise InputError(
            f"{target}: cannot write the folder ({error.strerror}); free space or choose another"
            " --out"
        ) from error


def pack(
    folders: tuple[Path, ...],
    out: Path,
    claim: Claim,
    device: str = "cpu",
    source: Source | None = None,
    budget: int | None = None,
) -> dict:
    """Write the folder of some runs' submission below `out`; return submission.json and, under
    "folder", where it lies.

    The first run's artifact ships. Scores are of the whole validation split, from the artifact
    files; source: where the data is now. budget: bytes of code and artifact that the averaged
    weights are stored anew for.
    """
    if not folders:
        raise InputError(
            "pack: expected at least one run directory, found none; name one, such as runs/demo"
        )
    claim.check()
    target = out / claim.folder()
    if target.exists():
        raise InputError(
            f"{target}: expected nothing, found a folder; choose another --name, --date or --out,"
            " or remove it"
        )
    runs = [read(Path(folder), source or Source()) for folder in folders]
    check_alike(runs)
    with tempfile.TemporaryDirectory() as beside:
        if budget is not None:
            runs = [stored_anew(run, budget, device, Path(beside)) for run in runs]
        code = bundle.build(runs[0].recipe, runs[0].header["codec"])
        code_bytes = _check_budgets(runs, code, claim.track)
        scores = [whole_score(run, device) for run in runs]
    first = runs[0]
    claimed = claim.fields(technique_of(first.recipe), first.summary["hardware"])
    described = submission(runs, scores, code_bytes, claimed)
    logs = {
        f"train_seed{run.recipe.seed}.log": log_text(run, score, code_bytes)
        for run, score in zip(runs, scores, strict=True)
    }
    texts = {
        "README.md": readme.text(described, first.recipe, list(logs)),
        model_card.CARD: model_card.text(described, first.recipe, first.tokens[0]),
        "submission.json": json.dumps(described, indent=2, allow_nan=False) + "\n",
        bundle.SCRIPT: code,
        "requirements.txt": requirements(described["pytorch_version"]),
        **logs,
    }
    _write(target, {name: text.encode() for name, text in texts.items()} | {MODEL: first.data})
    return described | {"folder": str(target)}
