"""The figures of a page: each is drawn from plain numbers, and keeps them as a table."""

import math
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from harness.display import report
from harness.page import svg
from harness.page.computed import ANY, CAUSAL, MASKED, Grid, Positions, Reveal
from harness.page.contents import Finished, Group
from harness.page.html import Html

COMPRESSORS = {"zlib": "zlib -9", "bz2": "bz2 -9", "lzma": "lzma -9", "uniform": "uniform guess"}
CURVES = {  # of metrics.jsonl: title, unit, how to read it
    "train_loss": (
        "Training loss",
        "nats per token",
        "Of single batches, as logged: the objective that is trained, not a score.",
    ),
    "lr_multiplier": (
        "Learning rate",
        "multiplier",
        "What the schedule multiplies every rate of the recipe by; it should end near 0.",
    ),
    "grad_norm": ("Gradient norm", "norm", "Of the whole gradient, before it is clipped."),
    "tokens_per_second": (
        "Speed",
        "tokens per second",
        "Of single steps, on all devices together.",
    ),
}
ROW, BESIDE = 0.34, 0.17  # inches: of a row, of each further run in it
MOST_ROWS = 400  # of a curve's table: longer ones keep every so manieth record


@dataclass(frozen=True)
class Figure:
    """A drawing with its title, a sentence on how to read it, and its numbers as a table."""

    title: str
    svg: Html
    caption: str
    columns: tuple[str, ...]
    rows: list[tuple]


def bits(value: float | None) -> str | None:
    """Return bits per byte as tables show them."""
    return None if value is None else f"{value:.4f}"


def short(value: float | None) -> str | None:
    """Return a number in four digits."""
    return None if value is None else f"{value:,.0f}" if abs(value) >= 1e4 else f"{value:.4g}"


def _thousands(axis) -> None:
    axis.set_major_formatter(lambda value, _: f"{value:,.10g}")


def scores(group: Group, name: str) -> Figure:
    """Return bits per byte by estimator and order, with error bars over windows, beside general
    compressors on the same text.
    """
    methods = {}
    for index, run in enumerate(group.runs):
        for score in run.summary["scores"]:
            if score.get("bpb") is not None:
                methods.setdefault(report.estimator_of(score), []).append((index, score))
    rows = [
        (method, group.runs[index].name)
        + tuple(bits(score[key]) for key in ("bpb", "stderr_masks", "stderr_sequences"))
        for method, together in methods.items()
        for index, score in together
    ]
    rows += [
        (COMPRESSORS[key], "same text", bits(x), None, None) for key, x in group.baselines.items()
    ]
    alt = "Bits per byte by method: " + ", ".join(f"{row[0]} {row[2]}" for row in rows)
    places, height = _rows([len(x) for x in methods.values()], list(methods), group.baselines)
    with svg.drawing(name, alt, (svg.WIDE[0], 0.6 + height)) as drawn:
        for method, together in methods.items():
            for nth, (index, score) in enumerate(together):
                offset = BESIDE * ((len(together) - 1) / 2 - nth)
                error = max(score.get("stderr_sequences") or 0, score.get("stderr_masks") or 0)
                drawn.axes.errorbar(
                    score["bpb"],
                    places[method] + offset,
                    xerr=error,
                    fmt=svg.marker(index),
                    color=svg.color(index),
                    capsize=3,
                )
                _label(drawn.axes, score["bpb"] + error, places[method] + offset, score["bpb"])
        for key, value in group.baselines.items():
            place = places[COMPRESSORS[key]]
            drawn.axes.plot(value, place, "|", color=svg.MUTED, markersize=13, markeredgewidth=2.5)
            _label(drawn.axes, value, place, value)
        drawn.axes.set_yticks(list(places.values()), [_wrapped(method) for method in places])
        drawn.axes.set_ylim(-height, 0)
        drawn.axes.grid(axis="y", visible=False)
        drawn.axes.margins(x=0.18)
        drawn.axes.set_xlabel("bits per byte, lower is better")
    return Figure(
        "Estimators and orders",
        drawn.svg,
        "Each row is a code length of the same text, so lower is better; the bars are one standard"
        " error over windows, that is how far another slice of such text would move it.",
        ("method", "run", "bits/byte", "± masks", "± windows"),
        rows,
    )


def _rows(runs: list[int], methods: list[str], baselines: dict) -> tuple[dict[str, float], float]:
    """Return (middle of each row, height of all), in inches from the top."""
    heights = {
        method: max(ROW * (1 + 0.4 * ("\n" in _wrapped(method))), BESIDE * (count + 1))
        for method, count in zip(methods, runs, strict=True)
    }
    heights |= {COMPRESSORS[key]: 0.8 * ROW for key in baselines}
    places, top = {}, 0.0
    for method, height in heights.items():
        places[method] = -(top + height / 2)
        top += height
    return places, top


def _label(axes, x: float, y: float, value: float) -> None:
    away = {"textcoords": "offset points", "xytext": (7, 0), "va": "center", "fontsize": 11}
    axes.annotate(f"{value:.3f}", (x, y), **away)


def _wrapped(method: str) -> str:
    for mark in (" (", ", "):
        if mark in method and len(method) > 16:
            return method.replace(mark, f"{mark.rstrip(' (')}\n{'(' if '(' in mark else ''}", 1)
    return method


def curve(group: Group, key: str, name: str) -> Figure | None:
    """Return what the runs logged under a key, over their steps; None where none did."""
    title, unit, meaning = CURVES[key]
    points = [
        [(entry["step"], entry[key]) for entry in run.records if entry.get(key) is not None]
        for run in group.runs
    ]
    if not any(points):
        return None
    ends = [
        f"{run.name} {known[-1][1]:.4g}"
        for run, known in zip(group.runs, points, strict=True)
        if known
    ]
    with svg.drawing(name, f"{title} over steps, at the end: {', '.join(ends)}") as drawn:
        for index, known in enumerate(points):
            if known:
                drawn.axes.plot(
                    *zip(*known, strict=True),
                    color=svg.color(index),
                    linestyle=svg.dashes(index),
                    marker=svg.marker(index) if len(known) == 1 else None,
                )
        drawn.axes.set(xlabel="step", ylabel=unit)
        if key in ("lr_multiplier", "tokens_per_second"):
            drawn.axes.set_ylim(bottom=0)
        _thousands(drawn.axes.xaxis)
        _thousands(drawn.axes.yaxis)
    return Figure(title, drawn.svg, meaning, ("step", *group.labels()), _by_step(points))


def _by_step(points: list[list[tuple[int, float]]]) -> list[tuple]:
    columns = [dict(known) for known in points]
    steps = sorted({step for known in columns for step in known})
    every = -(-len(steps) // MOST_ROWS)
    kept = [*steps[:-1:every], steps[-1]]
    return [(f"{step:,}", *(short(known.get(step)) for known in columns)) for step in kept]


def positions(measured: Positions, run: Finished, name: str) -> Figure:
    """Return bits per byte by the number of tokens known before."""
    spans = next(iter(measured.curves.values()))
    ticks = [_span_text(span) for span in spans]
    last = ", ".join(
        f"{kind} {x[-1].bits_per_byte:.3f}"
        for kind, x in measured.curves.items()
        if x[-1].bits_per_byte
    )
    with svg.drawing(
        name, f"Bits per byte by known tokens; with {ticks[-1]} known: {last}"
    ) as drawn:
        for index, kind in enumerate(x for x in (CAUSAL, MASKED, ANY) if x in measured.curves):
            known = measured.curves[kind]
            values = [
                math.nan if span.bits_per_byte is None else span.bits_per_byte for span in known
            ]
            drawn.axes.errorbar(
                np.arange(len(known)) + 0.08 * (index - 1),
                values,
                [span.error or 0 for span in known],
                label=kind,
                color=svg.color(index),
                marker=svg.marker(index),
                linestyle=svg.DASHES[index],
                capsize=2,
                elinewidth=1,
            )
        drawn.axes.set_xticks(range(len(ticks)), ticks)
        if len(ticks) > 7:
            crowded = {"labelrotation": 45 * (len(ticks) > 9), "labelsize": 10}
            drawn.axes.tick_params(axis="x", **crowded)
        drawn.axes.set(xlabel="tokens known before", ylabel="bits per byte")
        drawn.axes.set_ylim(bottom=0)
        drawn.axes.legend(loc="lower left", fontsize=11)
    return Figure(
        "Bits per byte by what is known",
        drawn.svg,
        _ways(measured, run),
        ("tokens known", *(f"{kind}{x}" for kind in measured.curves for x in ("", " ±"))),
        [
            (tick, *(bits(x) for known in measured.curves.values() for x in known[i][2:]))
            for i, tick in enumerate(ticks)
        ],
    )


def _ways(measured: Positions, run: Finished) -> str:
    front = "it sees the one in front, the masked network sees none"
    if measured.shift:
        front = "both networks see the mask token"
    meant = {
        CAUSAL: f"attention that looks back (before the first token of a window {front})",
        MASKED: "the masked network with the tokens before known and all later ones hidden",
        ANY: "the masked network with as many random tokens known",
    }
    said = "; ".join(meant[kind] for kind in meant if kind in measured.curves)
    told = f"{measured.windows} windows of {run.name}: {said}."
    told += " Bars are one standard error over windows."
    if measured.difference is None:
        return told
    value, error = measured.difference
    sign = f"{value:+.3f}" + (f" ± {error:.3f}" if error is not None else "")
    return f"{told} Masked less causal on the same tokens: {sign}."


def _span_text(span) -> str:
    return f"{span.first}" if span.first == span.last else f"{span.first}–{span.last}"


def reveal(shown: Reveal, name: str) -> Figure:
    """Return the confidence at every hidden position, pass by pass."""
    length = len(shown.tokens)
    by_pass = np.argsort(shown.order_L)
    said = " ".join(shown.tokens[i].strip() or "space" for i in by_pass[:5])
    with svg.drawing(
        name, f"Confidence by pass and position; revealed first: {said}", (svg.WIDE[0], 4.6)
    ) as drawn:
        drawn.axes.grid(visible=False)
        image = drawn.axes.imshow(
            shown.confidence_LL,
            cmap="cividis",
            norm=_root(),
            aspect="auto",
            interpolation="nearest",
            extent=(-0.5, length - 0.5, length + 0.5, 0.5),
        )
        drawn.axes.plot(
            by_pass,
            1 + np.arange(length),
            "o",
            markersize=4.5,
            color="#d55e00",
            markeredgecolor="white",
            markeredgewidth=0.6,
        )
        drawn.axes.set_xticks(
            range(length), [_sign(text) for text in shown.tokens], rotation=90, fontsize=10
        )
        drawn.axes.set(ylabel="pass")
        bar = drawn.axes.figure.colorbar(image, ax=drawn.axes, shrink=0.7, pad=0.02)
        bar.set_label("largest probability")
        bar.outline.set_visible(False)
    return Figure(
        "Confidence, pass by pass",
        drawn.svg,
        "A row is a pass of the network, a column a position; the colour is the largest probability"
        " there. The dot is the position that is revealed: the surest of those still hidden. From"
        " then on it is blank.",
        ("token", "position", "revealed in pass", "confidence", "probability of the token"),
        [
            (
                _sign(shown.tokens[i]),
                str(i + 1),
                str(step + 1),
                f"{shown.confidence_LL[step, i]:.3f}",
                f"{shown.probability_L[i]:.3f}",
            )
            for step, i in enumerate(by_pass)
        ],
    )


def _root():
    from matplotlib.colors import PowerNorm

    return PowerNorm(0.5, 0, 1)  # small probabilities are told apart


def _sign(text: str) -> str:
    return text.strip().replace("$", r"\$") or text.replace(" ", "␣") or "·"


def sizes(parts: list[dict], name: str) -> Figure:
    """Return the stored bytes of the parts of an artifact and its code, coloured by format; parts:
    rows of fast.artifact.size_report, of all blocks together.
    """
    total = sum(part["stored"] for part in parts)
    formats = list(dict.fromkeys(part["format"] for part in parts))
    alt = "Stored bytes by part: " + ", ".join(f"{x['part']} {x['stored']:,}" for x in parts[:5])
    shown = [part for part in parts if part["stored"] >= 0.004 * total] or parts
    rest = sum(part["stored"] for part in parts) - sum(part["stored"] for part in shown)
    height = 1.0 + 0.3 * (len(shown) + bool(rest))
    with svg.drawing(name, alt, (svg.WIDE[0], height)) as drawn:
        for index, kind in enumerate(formats):
            places = [-i for i, part in enumerate(shown) if part["format"] == kind]
            widths = [part["stored"] for part in shown if part["format"] == kind]
            if widths:
                drawn.axes.barh(places, widths, 0.7, color=svg.color(index), label=kind)
        labels = [part["part"] for part in shown]
        if rest:
            drawn.axes.barh(-len(shown), rest, 0.7, color=svg.MUTED)
            labels.append(f"{len(parts) - len(shown)} smaller parts")
        drawn.axes.set_yticks([-i for i in range(len(labels))], labels)
        drawn.axes.grid(axis="y", visible=False)
        drawn.axes.set_xlabel("bytes as stored")
        drawn.axes.xaxis.set_major_locator(_few_ticks())
        _thousands(drawn.axes.xaxis)
        drawn.axes.legend(loc="lower right", fontsize=11)
    return Figure(
        "Bytes by tensor and format",
        drawn.svg,
        "What each part takes of the file, after the codec: a tensor's share is in proportion to"
        " its bytes before it. The same kind of tensor of all blocks is one bar.",
        ("part", "format", "bytes", "stored", "share"),
        [
            (
                x["part"],
                x["format"],
                f"{x['bytes']:,}",
                f"{x['stored']:,}",
                f"{x['stored'] / total:.1%}",
            )
            for x in parts
        ],
    )


def _few_ticks():
    from matplotlib.ticker import MaxNLocator

    return MaxNLocator(5)


def grid(known: Grid, name: str) -> Figure:
    """Return the histogram of a tensor's weights, with the values that they are stored as."""
    exact = known.stored if known.weights is None else known.weights
    values, counts = np.unique(known.stored, return_counts=True)
    most = float(np.quantile(np.abs(exact), 0.998)) or 1.0
    edges = np.linspace(-most, most, 82)
    heights, _ = np.histogram(exact, edges)
    where = known.tensor if known.row is None else f"row {known.row} of {known.tensor}"
    alt = f"Histogram of {len(exact):,} weights of {where}; {len(values)} stored values"
    inside = values[np.abs(values) <= most]
    with svg.drawing(name, alt) as drawn:
        drawn.axes.stairs(heights, edges, fill=True, color=svg.color(0), alpha=0.55)
        low = -0.06 * heights.max()
        drawn.axes.vlines(inside, low, 0, color=svg.color(1), linewidth=1)
        drawn.axes.set_xlim(-most, most)
        drawn.axes.set_ylim(1.4 * low, 1.05 * heights.max())
        drawn.axes.set(xlabel="weight", ylabel="weights")
        drawn.axes.set_yticks([tick for tick in drawn.axes.get_yticks() if tick >= 0])
        drawn.axes.set_ylim(1.4 * low, 1.05 * heights.max())
        _thousands(drawn.axes.yaxis)
    return Figure(
        "Weights against their grid",
        drawn.svg,
        f"{where}: {len(exact):,} weights (bars) and the {len(values)} values that {known.format}"
        f" stores them as (ticks below). {_rounding(known)}",
        ("stored value", "weights"),
        [(f"{value:.6g}", f"{count:,}") for value, count in zip(values, counts, strict=True)],
    )


def _rounding(known: Grid) -> str:
    if known.weights is None:
        return "The directory holds no checkpoint, so the bars are of the stored values too."
    moved = np.sqrt(np.square(known.stored.astype(float) - known.weights).mean())
    size = np.sqrt(np.square(known.weights.astype(float)).mean())
    return f"Rounding moves them by {moved / size:.2%} of their root mean square."


def by_kind(parts: Iterable[dict]) -> list[dict]:
    """Return rows of size_report in which the same tensor of all blocks is one, and all code."""
    merged = []
    for name, members in report.kinds(list(parts)).items():
        for kind in dict.fromkeys(part["format"] for part in members):
            together = [part for part in members if part["format"] == kind]
            sums = {key: sum(part[key] for part in together) for key in ("bytes", "stored")}
            merged.append({"part": name, "format": kind} | sums)
    return sorted(merged, key=lambda part: -part["stored"])
