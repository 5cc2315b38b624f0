"""Tables for people: what the JSON says, on stdout."""

import os
import re
import shlex
import shutil
import sys
from collections.abc import Container, Iterable
from itertools import compress
from pathlib import Path

from rich.console import Console
from rich.padding import Padding
from rich.segment import Segment, Segments
from rich.table import Table
from rich.text import Text

from fast.artifact import LIMIT
from fast.objective import objective_of
from harness.display import tables
from harness.display.filling import filled, is_terminal, legend
from reference.recipe import ROPE_FREQUENCIES, Model

# A pipe has no width, unless COLUMNS gives it one. No `:name:` in a text becomes an emoji.
KNOWN_WIDTH = sys.stdout.isatty() or "COLUMNS" in os.environ
console = Console(width=None if KNOWN_WIDTH else 140, emoji=False)
SCORE_OPTIONS = ("points", "step", "block", "positions", "trailing")  # that a score tells
WIDE = 110  # columns of a terminal that a table of many columns needs
BITS_COLUMNS = ("bits/byte", "± masks", "± sequences")


def _print_table(
    title: str,
    columns: Iterable[str],
    rows: Iterable[Iterable[str | Text] | None],
    spare: Container[str] = (),
) -> None:
    """Print a table of cells that are shown as they are; None in place of a row is a line. Where
    the terminal is narrow, the spare columns are left to --json.
    """
    names = list(columns)
    kept = [console.width >= WIDE or name not in spare for name in names]
    cells = [row if row is None else list(compress(row, kept)) for row in rows]
    tables.show(console, title, list(compress(names, kept)), cells)


def _print_line(text: str, soft_wrap: bool = False) -> None:
    console.print(text, highlight=False, markup=False, soft_wrap=soft_wrap)


def _bits(value: float | None) -> str:
    return "-" if value is None else f"{value:.4f}"


def _short(value: float | None, digits: int = 3) -> str:
    return "-" if value is None else f"{value:.{digits}g}"


def method_of(estimator: str, order: str | None, stride: int | None) -> str:
    """Return what causal or chain is, in words."""
    if estimator == "causal":
        passes = "one pass" if stride is None else f"a window every {stride} tokens"
        return f"causal attention, {passes}"
    slides = "" if stride is None else f", a window every {stride} tokens"
    return f"chain rule, {order}{slides}"


def estimator_of(score: dict) -> str:
    """Return the estimator of a score and its effort, in words."""
    extra = "".join(f", {score[key]} {key}" for key in SCORE_OPTIONS if key in score)
    exact = method_of(score["estimator"], score["order"], score.get("stride"))
    names = {
        "nelbo": "NELBO (mean over all orders)",
        "nelbo-grid": f"NELBO by grid (biased upward){extra}",
        "chain": f"{exact}{extra}",
        "causal": exact,
    }
    return names.get(score["estimator"], score["estimator"])


def _score_cells(score: dict) -> tuple[str, ...]:
    """Return the estimator and the cells of BITS_COLUMNS."""
    bits = ("bpb", "stderr_masks", "stderr_sequences")
    return estimator_of(score), *(_bits(score[key]) for key in bits)


def scores(results: list[dict]) -> None:
    """Print one row per scored artifact."""
    rows = (
        (
            score["run"],
            *_score_cells(score),
            f"{score['nats_per_token']:.4f}",
            f"{score['tokens']:,}",
            f"{score['bytes']:,}",
            f"{score['forwards'] / score['tokens']:.2f}",
            f"{score['seconds']:.1f}",
        )
        for score in results
    )
    columns = ("nats/token", "tokens", "bytes", "passes/token", "seconds")
    _print_table(
        "Bits per byte, scored from the file",
        ("run", "estimator", *BITS_COLUMNS, *columns),
        rows,
    )


def _print_set(result: dict) -> None:
    scores(result["scores"])
    deviation = "" if result["std"] is None else f", standard deviation {result['std']:.4f}"
    _print_line(f"{result['n']} runs: mean {result['mean']:.4f} bits/byte{deviation}")


def sets(result: dict) -> None:
    """Print several runs with their mean and standard deviation, and Welch's test where they are
    held against other runs.
    """
    _print_set(result)
    if not result["against"]:
        return
    _print_set(result["against"])
    test = result["welch"]
    error, verdict = "", "too few runs to test"
    if test["p"] is not None:
        error = f" ± {test['stderr']:.4f}"
        verdict = (
            f"t = {test['t']:.2f}, {test['degrees_of_freedom']:.1f} degrees of freedom,"
            f" p = {test['p']:.3g}"
        )
    _print_line(
        f"difference of the means {test['difference']:+.4f}{error} bits/byte; Welch's t-test:"
        f" {verdict}"
    )


def comparison(result: dict) -> None:
    """Print two artifacts side by side: over all positions, then by position in the window."""
    for name in ("a", "b"):
        run = result["runs"][name]
        _print_line(f"{name}: {run['run']} ({run['method']})")
    entries = {"all": result["whole"]}
    for entry in result["positions"]:
        first, last = entry["first"], entry["last"]
        entries[f"{first}" if first == last else f"{first} to {last}"] = entry
    keys = [key for name in ("a", "b", "difference") for key in (name, f"{name}_stderr")]
    _print_table(
        f"Bits per byte on {result['tokens']:,} tokens, {result['bytes']:,} bytes; ± over windows,"
        " the difference paired",
        ("positions", "a", "±", "b", "±", "a - b", "±"),
        ((positions, *(_bits(entry[key]) for key in keys)) for positions, entry in entries.items()),
    )
    looking = [name for name in ("a", "b") if result["runs"][name]["looks_before"]]
    if len(looking) == 1:
        _print_line(f"At position 1 {looking[0]} alone sees what stands before the window.")


def _print_quantities(title: str, values: dict[str, str]) -> None:
    _print_table(title, ("quantity", "value"), values.items())


def plan(result: dict) -> None:
    """Print what a run would be."""
    _print_quantities(
        f"Recipe {result['preset']}",
        {
            name.replace("_", " "): f"{value:,}" if isinstance(value, int) else str(value)
            for name, value in result.items()
        },
    )


def kinds(sizes: list[dict]) -> dict[str, list[dict]]:
    """Return {kind: sizes} of an artifact's parts: the tensors of one kind in all blocks together,
    and all code.
    """
    parts = {}
    for size in sizes:
        name = re.sub(r"^blocks\.\d+", "blocks.*", size["part"])
        parts.setdefault("code" if size["kind"] == "code" else name, []).append(size)
    return parts


def _print_sizes(title: str, sizes: list[dict]) -> None:
    rows = (
        (
            name,
            ", ".join(dict.fromkeys(size["format"] for size in members)),
            *(f"{sum(size[key] for size in members):,}" for key in ("bytes", "stored")),
        )
        for name, members in kinds(sizes).items()
    )
    _print_table(title, ("part", "format", "bytes", "stored"), rows)


def sizes(rows: list[dict]) -> None:
    """Print the bytes of every part of an artifact (rows of fast.artifact.size_report)."""
    total = sum(row["stored"] for row in rows)
    _print_sizes(f"Artifact: {total:,} of {LIMIT:,} bytes", rows)


def summary(result: dict, out: Path, sizes: list[dict]) -> None:
    """Print a finished run: its scores beside the compressors on the same text, then the artifact's
    sizes (rows of fast.artifact.size_report).
    """
    names = {"zlib": "zlib 9", "bz2": "bz2 9", "lzma": "lzma 9", "uniform": "uniform predictor"}
    scored = [(*_score_cells(score), f"{score['bytes']:,} bytes") for score in result["scores"]]
    baselines = [
        (names[name], _bits(bits), "", "", "the same text")
        for name, bits in result["baselines"].items()
    ]
    _print_table(
        "Bits per byte on the validation split, lower is better",
        ("method", *BITS_COLUMNS, "text"),
        scored + baselines,
    )
    total = result["artifact_bytes"] + result["code_bytes"]
    _print_sizes(f"Artifact: {total:,} of {LIMIT:,} bytes, codec {result['codec']}", sizes)
    _print_line(
        f"{result['parameters']:,} parameters, {result['steps']} steps in"
        f" {result['seconds']:.0f} s, {result['tokens_per_second']:,.0f} tokens/s; files in {out}"
    )


def _quantity(value) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{count:,} {kind}" for kind, count in value.items())
    return {int: "{:,}", float: "{:,.2f}"}.get(type(value), "{}").format(value)


def compression(result: dict) -> None:
    """Print the sizes and the cost of a compressed or restored file."""
    names = (
        "file out order bytes_in bytes_out bits_per_byte chain_rule_bits tokens chunks raw_bytes"
        " seconds"
    )
    _print_quantities(
        "Bytes in, the same bytes out",
        {
            name.replace("_", " "): _quantity(result[name])
            for name in names.split()
            if result.get(name) is not None
        },
    )


def imported(result: dict) -> None:
    """Print the model in another project's weight file, and the formats of its weights."""
    model = result["model"]
    kind = objective_of(Model(**model)).name
    taken = model["rope_frequencies"]
    other = next(choice for choice in ROPE_FREQUENCIES if choice != taken)
    _print_quantities(
        f"{result['file']} as {result['out']}",
        {
            "layout": result["layout"],
            "model": f"{kind}, vocabulary {model['vocab']:,}",
            "shape": f"{model['layers']} layers, width {model['d']}, {model['heads']} heads,"
            f" {model['kv_heads']} key/value heads, MLP {model['mlp']}x",
            "assumed": f"length {model['length']}, RoPE base {model['rope_base']:g}, softcap"
            f" {model['softcap']:g}, {result['compute_dtype']}",
            "RoPE frequencies": f"{taken} ({result['rope_frequencies_told_by']}); the angles of"
            f" {other} ones differ by up to {result['rope_angle_difference']:.2g} radians, and a"
            " model scores best by those of its training: --rope-frequencies",
            "weights kept unchanged": _quantity(result["formats"]),
            "bytes": f"{result['bytes_in']:,} in, {result['bytes_out']:,} out",
        },
    )


def text_of(score: dict) -> str:
    """Return what a score was computed on: of one text, one part and one tokenizer it is the
    same.
    """
    size = ", ".join(f"{score[name]:,} {name}" for name in ("tokens", "bytes") if name in score)
    text, tokenizer = (
        (score.get(name) or "unknown")[:8] for name in ("validation_sha256", "tokenizer_sha256")
    )
    return f"{size} of text {text}, tokenizer {tokenizer}"


def overview(summaries: list[dict]) -> None:
    """Print one row per score of each finished run: a table for each text, in it the runs by one
    estimator together, for only their scores rank.
    """
    texts = {}
    for result in summaries:
        run = (
            result["run"],
            f"{result['parameters']:,}",
            f"{result['steps']:,}",
            f"{result['tokens_per_second']:,.0f}",
            f"{result['artifact_bytes'] + result['code_bytes']:,}",
        )
        for score in result["scores"]:
            estimator, *bits = _score_cells(score)
            estimators = texts.setdefault(text_of(score), {})
            estimators.setdefault(estimator, []).append((*run, estimator, *bits))
    columns = ("run", "parameters", "steps", "tokens/s", "artifact + code", "estimator")
    for text, estimators in texts.items():
        rows = [row for together in estimators.values() for row in (*together, None)]
        _print_table(f"Finished runs on {text}", (*columns, *BITS_COLUMNS), rows[:-1])
    if len(texts) > 1:
        _print_line(
            "Each table is of another text, another part of it or another tokenizer: bits/byte do"
            " not rank runs of different tables."
        )
    if any(len(estimators) > 1 for estimators in texts.values()):
        _print_line("Bits/byte rank runs by one estimator, between two lines of a table, only.")


def page(path: Path | None) -> None:
    """Print where the page of a run is, or how to have one."""
    said = f"in figures: {path}, for a browser"
    missing = "in figures: install maskgolf[plot], then maskgolf report RUN -o report.html"
    _print_line(missing if path is None else said, soft_wrap=True)


def next_command(*arguments: str) -> None:
    """Print what to type next, with maskgolf spelled as it was to get here."""
    called, found = Path(sys.argv[0]), shutil.which("maskgolf")
    if called.name != "maskgolf":
        spelled = "python -m harness"
    elif found and called.resolve() == Path(found).resolve():
        spelled = "maskgolf"
    else:
        spelled = str(called)
    _print_line(f"next: {spelled} {shlex.join(arguments)}", soft_wrap=True)


def samples(drawn: list[dict]) -> None:
    """Print each sample under a rule: coloured on a terminal, elsewhere the text as it is."""
    for sample in drawn:
        console.rule(f"sample {sample['row']}")
        if is_terminal(console):
            console.print(filled(sample))
        else:
            console.print(Segments([Segment(sample["text"] + "\n")]), end="", soft_wrap=True)
    if is_terminal(console) and console.color_system and not console.no_color:
        console.print(legend())


def _ratio_cells(row: dict | None, predicted: bool = False) -> tuple[str, str]:
    """Return a ratio and its interval, or the time alone where it is a prediction."""
    if predicted:
        return f"{_short(row['candidate'], 4)} ms", "-"
    if row is None or row["ratio"] is None:
        return "-", "-"
    return _short(row["ratio"]), f"{_short(row['low'])} to {_short(row['high'])}"


def bench(rows: list[dict]) -> None:
    """Print one line per comparison, with the note of what was not measured."""
    _print_table(
        f"Benchmarks on {rows[0]['machine']}",
        ("comparison", "baseline", "candidate", "ratio", "interval", "pairs", "unit"),
        (
            (
                row["name"],
                _short(row["baseline"], 4),
                _short(row["candidate"], 4),
                *_ratio_cells(row),
                str(row["pairs"]),
                row["unit"],
            )
            for row in rows
        ),
    )
    for row in rows:
        if row.get("note"):
            _print_line(f"{row['name']}: {row['note']}", soft_wrap=True)


def formats(rows: list[dict]) -> None:
    """Print one line per way to store weights: its size, and the damage above float32 weights."""
    known = {row["format"]: row["bytes"] for row in rows}
    cells = [
        {
            "format": row["format"],
            "dial": _short(row["dial"]),
            "codec": row["codec"],
            "bytes": f"{row['bytes']:,}",
            "vs e4m3": f"{row['bytes'] / known['e4m3'] - 1:+.1%}",
            "bits/weight": f"{row['bits_per_parameter']:.2f}",
            "BPB": _bits(row["bpb"]),
            "damage": _bits(row["damage"]) + (f" ± {row['stderr']:.4f}" if row["stderr"] else ""),
            "s": f"{row['seconds_to_store']:.1f}, {row['seconds_to_open']:.1f}",
        }
        for row in rows
    ]
    columns = {name: name for name in cells[0]}
    if console.width < WIDE:
        columns["bits/weight"] = "bits"
        for row in cells:
            row["format"] = row["format"].replace(", ", ",\n")
    first = rows[0]
    _print_line(
        f"Weight formats, {first['windows']} windows, {first['estimator']}, on {first['machine']}"
    )
    _print_table(
        "Bits are per weight, damage is BPB above float32 weights",
        columns.values(),
        (row.values() for row in cells),
        spare=("codec", "s"),
    )


def bench_pair(both: dict) -> None:
    """Print two result files side by side: the ratio in each, or its predicted time, and how many
    times better it is in b.
    """
    for name in ("a", "b"):
        _print_line(f"{name}: {both[name]['file']} ({both[name]['machine']})", soft_wrap=True)
    rows = []
    for row in both["rows"]:
        predicted = row["change"] is not None and row["overlap"] is None
        a, b = (_ratio_cells(row[name], predicted) for name in ("a", "b"))
        overlap = {True: "overlap", False: "apart", None: "-"}[row["overlap"]]
        rows.append((row["name"], *a, *b, _short(row["change"]), overlap))
    _print_table(
        "Ratios side by side",
        ("comparison", "a", "interval", "b", "interval", "b / a", "intervals"),
        rows,
    )


def shards(described: dict) -> None:
    """Print what each shard holds."""
    rows = []
    for shard in described["shards"]:
        size = shard["bytes"]
        rows.append(
            (
                Path(shard["file"]).name,
                shard["split"] or "-",
                f"{shard['tokens']:,}",
                f"{shard['documents']:,}",
                "-" if size is None else f"{size:,}",
                "-" if size is None else f"{size / shard['tokens']:.3f}",
                repr(shard["text"])[:40],
            )
        )
    _print_table(
        f"{described['path']} (tokenizer: {described['tokenizer'] or 'none found'})",
        ("shard", "split", "tokens", "documents", "bytes", "bytes/token", "begins"),
        rows,
    )


def parity(rows: list[dict]) -> None:
    """Print one line per piece and level, the derivation of the limits, and the inputs that break a
    piece.
    """
    cells = []
    bounds = {}
    for row in rows:
        if row["class"] == "rounding":
            bounds.setdefault(row["bound"], {})[row["piece"]] = True
        error = "not finite" if row["error"] is None else f"{row['error']:.2g}"
        cells.append(
            (
                *(row[name] for name in ("piece", "level", "class", "dtype")),
                error if row["error"] != 0 else "0",
                f"{row['limit']:.2g}",
                f"{row['margin']:.3g}" if row["margin"] else "-",
                str(row["inputs"]),
                "yes" if row["passed"] else Text("NO", "bold red"),
            )
        )
    _print_table(
        f"Parity with the specification on {rows[0]['device']}",
        "piece,level,class,dtype,worst error,limit,margin,inputs,passed".split(","),
        cells,
        spare=("class",),
    )
    for bound, pieces in bounds.items():
        _print_line(f"limit of {', '.join(pieces)}: {bound}")
    red = [row for row in rows if not row["passed"]]
    for row in red:
        _print_line(f"\n{row['piece']}, {row['level']}, {row['dtype']}:")
        _print_line(row["reproduction"] or "no input was compared", soft_wrap=True)
    seconds = sum(row["seconds"] for row in rows)
    _print_line(f"\n{len(rows)} rows, {len(red)} red, {seconds:.1f} s")


def _print_listed(rows: Iterable[tuple[str, str | Text]]) -> None:
    """Print names, each with a text beside it that is broken over lines."""
    table = Table.grid(padding=(0, 2, 0, 0))
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    for name, text in rows:
        table.add_row(Text(name), Text(text))
    console.print(Padding(table, (0, 0, 0, 2), expand=False), width=_text_width())


def _print_text(text: str, style: str = "", indent: int = 0) -> None:
    """Print text that is broken over lines, all of them indented."""
    shown = Text(text, style, overflow="fold")
    console.print(Padding(shown, (0, 0, 0, indent), expand=False), width=_text_width())


def _text_width() -> int | None:
    """Return the columns for sentences: all there are, 80 where nobody says how many."""
    return None if KNOWN_WIDTH else 80


def validation(
    summary, severities: dict[str, str], folder: Path, passes: bool, strict: bool
) -> None:
    """Print a Summary of harness.validate.summary: the worst failure in a sentence, what failed by
    severity, what is missing for the rest, the number of passes; passes: list these too.
    severities: what each one means.
    """
    warned = [] if strict else ["paperwork"]
    worst = next(iter(summary.failures), None)
    style = "green" if worst is None else "yellow" if worst in warned else "bold red"
    _print_text(summary.headline, style)
    for severity, rows in summary.failures.items():
        title = f"{severity.capitalize()}: {severities[severity]}"
        title += " (warnings: exit status 1 with --strict alone)" if severity in warned else ""
        console.print()
        _print_text(title, "yellow" if severity in warned else "bold red")
        _print_listed((row["check"], row["evidence"]) for row in rows)
    if summary.missing:
        console.print()
        _print_text("Cannot tell", "yellow")
    for what, checks in summary.missing:
        _print_text(what, indent=2)
        names = (f"{name} ({rest})" if rest else name for name, rest in checks.items())
        _print_text(", ".join(names), "dim", indent=4)
    if passes and summary.passes:
        console.print()
        _print_text("Passed", "green")
        _print_listed((row["check"], row["evidence"]) for row in summary.passes)
    counts = {
        "passed" + ("" if passes else " (--all lists them)"): len(summary.passes),
        "failed": sum(map(len, summary.failures.values())),
        "cannot tell": sum(len(one.checks) for one in summary.missing),
    }
    console.print()
    _print_text(
        f"{str(folder)!a}: {', '.join(f'{count} {what}' for what, count in counts.items())};"
        " maskgolf validate --explain CHECK says more"
    )


def explanation(check: dict, meaning: str) -> None:
    """Print what a check looks at, what its failure means, what it has caught, how to fix it."""
    console.print(f"{check['check']} ({check['group']})", highlight=False, style="bold")
    _print_line(f"What it looks at: {check['what']}")
    _print_line(f"Severity: {check['severity']}, {meaning}")
    _print_line(f"What it has caught: {check['caught']}")
    _print_line(f"How to fix it: {check['fix']}")


def exported(written: dict) -> None:
    """Print what an export wrote."""
    _print_line(
        f"{written['file']}: {written['parameters']:,} parameters in {written['tensors']} tensors,"
        f" {written['dtype']}, {written['bytes']:,} bytes"
    )


def packed(described: dict) -> None:
    """Print a packed submission: its seeds, sizes and folder."""
    _print_table(
        described["name"],
        ("seed", *BITS_COLUMNS, "steps", "seconds", "bytes"),
        (
            (
                seed,
                *(_bits(result[key]) for key in ("val_bpb", "stderr_masks", "stderr_sequences")),
                f"{result['train_steps']:,}",
                f"{result['wallclock_seconds']:.1f}",
                f"{result['bytes_total']:,}",
            )
            for seed, result in described["seed_results"].items()
        ),
    )
    _print_line(
        f"mean {described['val_bpb']:.4f} bits/byte ({described['val_bpb_estimator']}), code"
        f" {described['bytes_code']:,} + model {described['bytes_model']:,} ="
        f" {described['bytes_total']:,} bytes"
    )
    _print_line(f"written: {described['folder']}", soft_wrap=True)
