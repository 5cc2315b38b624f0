"""The parts of a page in words: headline, runs, figures, parity, recipe and environment."""

from dataclasses import dataclass, field
from statistics import mean, stdev

from fast.artifact import LIMIT
from fast.config import flatten
from harness.display import report
from harness.page import charts, svg
from harness.page.charts import COMPRESSORS, Figure, bits
from harness.page.computed import Reveal
from harness.page.contents import Finished, Group
from harness.page.html import Html, details, join, table, tag

MEANING = (
    "Bits per byte: how many bits the model needs on average to write down a byte of text that it"
    " has not seen. Lower is better."
)


@dataclass
class Drawn:
    """The figures of a group by where they stand, and why others are not there."""

    scores: Figure | None = None
    curves: list[Figure] = field(default_factory=list)
    positions: Figure | None = None
    reveal: Figure | None = None
    revealed: Reveal | None = None
    sizes: Figure | None = None
    grid: Figure | None = None
    missing: list[str] = field(default_factory=list)


def figure(drawn: Figure | None, *above) -> Html | None:
    """Return a figure with its title, how to read it, and its numbers as a table."""
    if drawn is None:
        return None
    numbers = details("Numbers", table(drawn.columns, drawn.rows))
    caption = tag("figcaption", drawn.caption)
    return tag("figure", tag("h4", drawn.title), *above, drawn.svg, caption, numbers)


def _compressor(group: Group) -> tuple[str, float] | None:
    """Return the general compressor of the fewest bits per byte."""
    known = {name: value for name, value in group.baselines.items() if name != "uniform"}
    best = min(known, key=known.get, default=None)
    return None if best is None else (COMPRESSORS[best], known[best])


def _against(group: Group) -> tuple[str, str] | None:
    """Return (how much, than what) in words: the best score against the best compressor."""
    best, other = group.best.best, _compressor(group)
    if not best or not other:
        return None
    share = best["bpb"] / other[1] - 1
    return f"{abs(share):.0%} {'fewer' if share < 0 else 'more'} bits", f"than {other[0]}"


def _error(score: dict) -> float | None:
    return score.get("stderr_sequences") or score.get("stderr_masks")


def _bits_and_error(score: dict) -> str:
    error = _error(score)
    return f"{score['bpb']:.3f}" + (f" ± {error:.3f}" if error else "")


def lead(group: Group) -> Html:
    """Return the result of a group in a sentence."""
    run = group.best
    size = f"{run.summary['parameters']:,} parameters in {run.bytes:,} bytes, code included"
    several = f"Of {len(group.runs)} runs on one text the best, " if len(group.runs) > 1 else ""
    name = tag("b", run.name)
    if not run.best:
        return tag("p", several, name, f" holds {size}. It is not scored.", class_="lead")
    number = tag("b", f"{_bits_and_error(run.best)} bits per byte")
    against = _against(group)
    compared = f": {against[0]} {against[1]}, the best general compressor" if against else ""
    return tag(
        "p",
        *(several, name, f"{',' if several else ''} holds {size}, and codes unseen text at "),
        *(number, f"{compared} on the same {run.best['bytes']:,} bytes." if compared else "."),
        class_="lead",
    )


def cards(group: Group) -> Html:
    """Return the best run's numbers, large."""
    run, shown = group.best, []
    if run.best:
        error = _error(run.best)
        unit = f"bits per byte{f' ± {error:.3f}' if error else ''}"
        shown.append((f"{run.best['bpb']:.3f}", unit, report.estimator_of(run.best)))
        against = _against(group)
        if against:
            much, unit = against[0].split(" ", 1)
            shown.append((much, unit, f"{against[1]} on the same text"))
    shown.append(
        (f"{run.bytes:,}", "bytes", f"code included, {run.bytes / LIMIT:.1%} of {LIMIT:,}")
    )
    summary = run.summary
    speed = f"{summary['steps']:,} steps at {summary['tokens_per_second']:,.0f} tokens/s"
    shown.append((duration(summary["seconds"]), "of training", speed))
    return tag(
        "div",
        *(
            tag(
                "div",
                tag("b", big),
                tag("span", unit, class_="unit"),
                tag("span", said),
                class_="card",
            )
            for big, unit, said in shown
        ),
        class_="cards",
    )


def duration(seconds: float) -> str:
    """Return a time in the largest fitting unit."""
    if seconds < 120:
        return f"{seconds:.0f} s" if seconds >= 10 else f"{seconds:.1f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"


def seeds(group: Group) -> Html | None:
    """Return the mean over runs that differ in their seed alone, None where others differ too."""
    recipes = [run.described.get("recipe", {}) | {"seed": None} for run in group.runs]
    scored = [run.best for run in group.runs if run.best]
    if len(scored) < 2 or len(scored) < len(recipes) or any(x != recipes[0] for x in recipes):
        return None
    if len({report.estimator_of(score) for score in scored}) > 1:
        return None
    values = [score["bpb"] for score in scored]
    return tag(
        "p",
        f"The {len(values)} runs differ in their seed alone: mean {mean(values):.4f} bits per byte,"
        f" standard deviation {stdev(values):.4f}, by {report.estimator_of(scored[0])}.",
    )


def runs(group: Group) -> Html | None:
    """Return a table of several runs, a block for each estimator: only within one do they rank."""
    if len(group.runs) < 2:
        return None
    tables = {}
    for run in group.runs:
        for score in run.summary["scores"]:
            tables.setdefault(report.estimator_of(score), []).append((run, score))
    columns = ("run", "bits/byte", "± windows", "bytes", "steps", "time")
    return tag(
        "section",
        tag("h3", "Runs on this text"),
        seeds(group),
        legend(group),
        *(table(columns, _ranked(pairs), method) for method, pairs in tables.items()),
    )


def _ranked(pairs: list[tuple[Finished, dict]]) -> list[tuple]:
    """Return the rows of runs by one estimator, the fewest bits first, those without last."""
    ordered = sorted(pairs, key=lambda pair: (pair[1]["bpb"] is None, pair[1]["bpb"] or 0.0))
    return [
        (
            run.name,
            *(bits(score.get(key)) for key in ("bpb", "stderr_sequences")),
            f"{run.bytes:,}",
            f"{run.summary['steps']:,}",
            duration(run.summary["seconds"]),
        )
        for run, score in ordered
    ]


def legend(group: Group) -> Html | None:
    """Return which line is which run, None for a single one."""
    if len(group.runs) < 2:
        return None
    entries = []
    for index, label in enumerate(group.labels()):
        dashes = {"-": None, "--": "6 3", ":": "2 3", "-.": "6 3 2 3"}[svg.dashes(index)]
        stroke = svg.THEMED[svg.color(index)]
        line = tag(
            "path", d="M0 5H28", style=f"stroke:{stroke}", stroke_width=3, stroke_dasharray=dashes
        )
        sample = tag("svg", line, viewBox="0 0 28 10", aria_hidden="true")
        entries.append(tag("li", sample, label))
    return tag("ul", *entries, class_="legend")


def training(group: Group, drawn: Drawn) -> Html:
    """Return the curves of all runs of a group."""
    others = len({run.trained_on for run in group.runs}) > 1
    warning = "The runs were trained on different texts or tokenizers: their losses do not rank."
    return tag(
        "section",
        tag("h3", "Training"),
        tag("p", warning, class_="warning") if others else None,
        legend(group),
        tag("div", *map(figure, drawn.curves), class_="figures"),
    )


def tokens(shown: Reveal) -> Html:
    """Return the sentence, each token on a colour that says how early it is revealed."""
    last = max(len(shown.tokens) - 1, 1)
    marked = [
        tag(
            "span",
            text,
            tag("sub", str(step + 1)),
            class_="token",
            style=f"--early:{1 - step / last:.3f}",
            title=f"pass {step + 1}, confidence {shown.confidence_LL[step, i]:.2f}",
        )
        for i, (text, step) in enumerate(zip(shown.tokens, shown.order_L.tolist(), strict=True))
    ]
    return tag("p", *marked, class_="sentence")


def inside(group: Group, drawn: Drawn) -> Html:
    """Return what the best run's artifact shows."""
    name = group.best.name
    revealed = None
    if drawn.revealed:
        shown = drawn.revealed
        cost = (
            f"{shown.bits:.1f} bits, {shown.bits / shown.bytes:.3f} a byte" if shown.bytes else ""
        )
        said = (
            "All tokens are hidden at first. In each pass the network reveals the one position that"
            " it is surest of, and the true token stands there from then on: the number is the"
            f" pass, a deeper colour is earlier. Along this order the sentence costs {cost}."
        )
        revealed = tag(
            "figure",
            tag("h4", "The order in which confidence reveals a sentence"),
            tokens(shown),
            tag("figcaption", said),
        )
    figures = [figure(shown) for shown in (drawn.reveal, drawn.sizes, drawn.grid)]
    return tag(
        "section",
        tag(
            "h3",
            f"Inside the model{f': {name}, the best of these runs' if len(group.runs) > 1 else ''}",
        ),
        tag("div", revealed, *figures, class_="figures"),
        *(tag("p", f"Left out: {why}", class_="note") for why in drawn.missing),
    )


def parity(group: Group) -> Html:
    """Return the rows of the best run's preflight: the fast half against the specification."""
    rows, name = group.best.parity, group.best.name
    title = tag("h3", "Parity with the specification")
    if not rows:
        why = (
            f"{name} holds no parity.json: it began without the check before its first step."
            " maskgolf parity runs it."
        )
        return tag("section", title, tag("p", f"Left out: {why}", class_="note"))
    red = [row for row in rows if not row["passed"]]
    pieces, device = len({row["piece"] for row in rows}), rows[0]["device"]
    verdict = (
        tag("span", f"{len(red)} of {len(rows)} comparisons differ", class_="bad")
        if red
        else tag("span", f"all {len(rows)} comparisons agree", class_="good")
    )
    said = tag(
        "p",
        f"Before the first step {pieces} pieces of the recipe ran twice on {device}, as written for"
        " reading and as written for training: ",
        verdict,
        " within limits that follow from the dtype.",
    )
    cells = [
        (
            row["piece"],
            row["level"],
            row["dtype"],
            "not finite" if row["error"] is None else f"{row['error']:.2g}",
            f"{row['limit']:.2g}",
            f"{row['margin']:.3g}" if row["margin"] else None,
            f"{row['inputs']:,}",
            tag("span", "yes", class_="good") if row["passed"] else tag("span", "NO", class_="bad"),
        )
        for row in sorted(rows, key=lambda row: row["passed"])
    ]
    columns = "piece,level,dtype,worst error,limit,margin,inputs,agrees".split(",")
    return tag(
        "section", title, said, details("The parity table", table(columns, cells), opened=bool(red))
    )


def _shown(value) -> str:
    if value is None or value == "" or value == []:
        return "–"
    if isinstance(value, list):
        return ", ".join(map(_shown, value))
    if isinstance(value, bool) or not isinstance(value, int | float):
        return str(value)
    return f"{value:,}" if isinstance(value, int) else f"{value:.10g}"


def environment(run: Finished) -> dict[str, str]:
    """Return what a run computed on and with, and its data."""
    summary, described = run.summary, run.described
    return {
        "hardware": _shown(summary.get("hardware")),
        "PyTorch": _shown(summary.get("pytorch_version")),
        "preset": _shown(summary.get("preset")),
        "parameters": _shown(summary.get("parameters")),
        "averaging began at step": _shown(summary.get("ema_started_step")),
        "last rate multiplier": charts.short(summary.get("final_lr_multiplier")) or "–",
        "codec": _shown(summary.get("codec")),
        "training tokens": _shown(described.get("training_tokens")),
        "validation tokens": _shown(described.get("validation_tokens")),
        "training text": _shown((described.get("training_sha256") or "")[:16]),
        "validation text": _shown((described.get("validation_sha256") or "")[:16]),
        "tokenizer": _shown((described.get("tokenizer_sha256") or "")[:16]),
        "artifact": _shown(((run.best or {}).get("artifact_sha256") or "")[:16]),
    }


def recipe(group: Group) -> Html:
    """Return every field of the recipes, those first that differ between runs."""
    names = [run.name for run in group.runs]
    known = [flatten(run.described.get("recipe", {})) for run in group.runs]
    fields = list(dict.fromkeys(key for one in known for key in one))
    rows = [(key, *(_shown(one.get(key)) for one in known)) for key in fields]
    differing = [row for row in rows if len({*row[1:]}) > 1]
    about = [environment(run) for run in group.runs]
    surroundings = [(key, *(one[key] for one in about)) for key in about[0]]
    described = rows or [("recipe", *("recipe.json cannot be read" for _ in names))]
    return tag(
        "section",
        tag("h3", "Recipe and environment"),
        table(("", *names), surroundings, kind="words"),
        table(("fields that differ", *names), differing) if differing else None,
        details("Every field of the recipe", table(("field", *names), described)),
    )


def group_section(group: Group, drawn: Drawn, heading: Html | None) -> Html:
    """Return all of a group."""
    text = f"Scored on {group.text}; ± is one standard error over windows."
    return tag(
        "section",
        heading,
        lead(group),
        cards(group),
        tag("p", f"{MEANING} {text}", class_="note"),
        runs(group),
        tag("h3", "Scores"),
        tag("div", figure(drawn.scores), figure(drawn.positions), class_="figures"),
        training(group, drawn),
        inside(group, drawn),
        parity(group),
        recipe(group),
    )


def whole(groups: list[Group], drawn: list[Drawn], style: Html) -> Html:
    """Return the page."""
    names = [run.name for group in groups for run in group.runs]
    several, parts = len(groups) > 1, []
    for index, (group, figures) in enumerate(zip(groups, drawn, strict=True), 1):
        heading = tag("h2", f"Text {index} of {len(groups)}: {group.text}") if several else None
        parts.append(group_section(group, figures, heading))
    apart = (
        f"These runs were scored on {len(groups)} different texts, parts of a text or tokenizers."
        " Their bits per byte do not rank across them: each has its own part of this page."
    )
    head = tag(
        "head",
        tag("meta", charset="utf-8"),
        tag("meta", name="viewport", content="width=device-width, initial-scale=1"),
        tag("title", f"MaskGolf: {', '.join(names)}"),
        Html('<link rel="icon" href="data:,">'),
        tag("style", style),
    )
    body = tag(
        "main",
        tag("h1", f"MaskGolf report: {', '.join(names)}"),
        tag("p", apart, class_="warning") if several else None,
        *parts,
    )
    return join(
        [Html("<!doctype html>\n"), tag("html", head, tag("body", body), lang="en"), Html("\n")]
    )
