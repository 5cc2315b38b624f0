"""What `maskgolf report` does: finished runs side by side, and their training curves as a plot."""

import json
from pathlib import Path

from harness.display.figures import figure
from reference.recipe import InputError


def summaries(runs: tuple[Path, ...]) -> list[dict]:
    """Return the summary of each run directory, with its path under "run"; InputError where one is
    not finished.
    """
    if not runs:
        raise InputError(
            "report: expected at least one run directory, found none; name one, such as runs/demo"
        )
    results = []
    for run in runs:
        try:
            results.append(json.loads((run / "summary.json").read_text()) | {"run": str(run)})
        except OSError as error:
            raise InputError(
                f"{run}: expected a finished run, found no summary.json ({error.strerror}); train"
                " it to the end"
            ) from error
        except ValueError as error:
            raise InputError(
                f"{run / 'summary.json'}: expected JSON, found something else ({error}); restore"
                " the file"
            ) from error
    return results


def curve(run: Path) -> tuple[list[int], list[float]]:
    """Return (steps, training losses in nats per token) that a run logged."""
    try:
        entries = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    except (OSError, ValueError) as error:
        raise InputError(
            f"{run / 'metrics.jsonl'}: expected one JSON object per line, found none ({error});"
            " leave --plot out"
        ) from error
    points = [(entry["step"], entry["train_loss"]) for entry in entries if "train_loss" in entry]
    return [step for step, _ in points], [loss for _, loss in points]


def labels(runs: tuple[Path, ...]) -> list[str]:
    """Return what a legend calls each run: its path, and its training text and tokenizer where they
    are not those of all, for their losses do not rank.
    """
    texts = []
    for run in runs:
        try:
            known = json.loads((run / "recipe.json").read_text())
            text, tokenizer = (known[f"{name}_sha256"][:8] for name in ("training", "tokenizer"))
        except (OSError, ValueError, KeyError, TypeError):
            text = tokenizer = "unknown"
        texts.append(f" (text {text}, tokenizer {tokenizer})")
    return [
        f"{run}{text if len({*texts}) > 1 else ''}" for run, text in zip(runs, texts, strict=True)
    ]


def plot(runs: tuple[Path, ...], path: Path) -> None:
    """Write the training curves to an image."""
    curves = [curve(run) for run in runs]
    with figure(path) as axes:
        for label, (steps, losses) in zip(labels(runs), curves, strict=True):
            axes.plot(steps, losses, label=label, linewidth=1)
        axes.set(xlabel="step", ylabel="training loss, nats per token")
