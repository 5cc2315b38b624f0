"""Tables for people: what the JSON says, on stdout."""

import sys
from pathlib import Path

from rich.console import Console
from rich.markup import escape
from rich.table import Table

console = Console(width=None if sys.stdout.isatty() else 140)  # a pipe has no width of its own


def _table(title: str, *columns: str) -> Table:
    table = Table(title=title, title_justify="left", title_style="bold")
    for i, column in enumerate(columns):
        table.add_column(column, justify="left" if i == 0 else "right")
    return table


def _bits(value: float | None) -> str:
    return "-" if value is None else f"{value:.4f}"


def _name(score: dict) -> str:
    names = {
        "nelbo": "NELBO (mean over all orders)",
        "nelbo-grid": "NELBO by grid (biased upward)",
        "causal": "autoregressive, one pass",
    }
    extra = "".join(f", {score[key]} {key}" for key in ("positions", "trailing") if key in score)
    return names.get(score["estimator"]) or f"chain rule, {score['order']}{extra}"


def _score_row(score: dict) -> tuple[str, ...]:
    per_token = score["forwards"] / score["tokens"]
    return (
        _name(score),
        _bits(score["bpb"]),
        _bits(score["stderr_masks"]),
        _bits(score["stderr_sequences"]),
        f"{score['nats_per_token']:.4f}",
        f"{score['tokens']:,}",
        f"{score['bytes']:,}",
        f"{per_token:.2f}",
        f"{score['seconds']:.1f}",
    )


SCORE_COLUMNS = (
    "estimator",
    "bits/byte",
    "± masks",
    "± sequences",
    "nats/token",
    "tokens",
    "bytes",
    "passes/token",
    "seconds",
)


def scores(results: list[dict]) -> None:
    """Print one row per scored artifact."""
    table = _table("Bits per byte, scored from the file", "run", *SCORE_COLUMNS)
    for score in results:
        table.add_row(score["run"], *_score_row(score))
    console.print(table)


def _grouped(rows: list[dict]) -> dict[str, list[dict]]:
    """Return size rows by name, the blocks' tensors of one kind together."""
    groups = {}
    for row in rows:
        parts = row["part"].split(".")
        name = (
            f"blocks.*.{parts[-1]}"
            if parts[0] == "blocks"
            else row["part"]
            if row["kind"] != "code"
            else "code"
        )
        groups.setdefault(name, []).append(row)
    return groups


def _spread(found: dict) -> str:
    deviation = "" if found["std"] is None else f", standard deviation {found['std']:.4f}"
    return f"{found['n']} runs: mean {found['mean']:.4f} bits/byte{deviation}"


def sets(result: dict) -> None:
    """Print several runs with their mean and standard deviation, and the test against another
    set.
    """
    scores(result["scores"])
    console.print(_spread(result), highlight=False)
    if result["against"]:
        scores(result["against"]["scores"])
        console.print(_spread(result["against"]), highlight=False)
        test = result["welch"]
        known = test["p"] is not None
        verdict, error = "too few runs to test", ""
        if known:
            verdict = (
                f"t = {test['t']:.2f}, {test['degrees_of_freedom']:.1f} degrees of freedom, p ="
                f" {test['p']:.3g}"
            )
            error = f" ± {test['stderr']:.4f}"
        console.print(
            f"difference of the means {test['difference']:+.4f}{error} bits/byte; Welch's t-test:"
            f" {verdict}",
            highlight=False,
        )


def comparison(result: dict) -> None:
    """Print two artifacts side by side: the whole window, then by position."""
    for name in ("a", "b"):
        console.print(
            f"{name}: {result['runs'][name]['run']} ({result['runs'][name]['method']})",
            highlight=False,
        )
    title = (
        f"Bits per byte on {result['tokens']:,} tokens, {result['bytes']:,} bytes; ± over windows,"
        " the difference paired"
    )
    table = _table(title, "positions", "a", "±", "b", "±", "a - b", "±")
    for entry in [result["whole"] | {"name": "all"}, *result["positions"]]:
        ends = (
            f"{entry['first']}"
            if entry["first"] == entry["last"]
            else f"{entry['first']} to {entry['last']}"
        )
        columns = [
            _bits(entry[key])
            for name in ("a", "b", "difference")
            for key in (name, f"{name}_stderr")
        ]
        table.add_row(entry.get("name", ends), *columns)
    console.print(table)
    note = (
        "A diffusion model sees nothing before position 1; an autoregressive one sees the token"
        " before the window."
    )
    console.print(note, highlight=False)


def plan(result: dict) -> None:
    """Print what a run would be."""
    table = _table(f"Recipe {result['preset']}", "quantity", "value")
    for name, value in result.items():
        table.add_row(
            name.replace("_", " "), f"{value:,}" if isinstance(value, int) else str(value)
        )
    console.print(table)


def summary(result: dict, out: Path) -> None:
    """Print a finished run: its scores beside the compressors on the same text, then the artifact's
    size broken down.
    """
    from fast import artifact
    from harness.packaging import size

    table = _table(
        "Bits per byte on the validation split, lower is better",
        "method",
        "bits/byte",
        "± masks",
        "± sequences",
        "text",
    )
    for score in result["scores"]:
        row = _score_row(score)
        table.add_row(*row[:4], f"{score['bytes']:,} bytes")
    names = {"zlib": "zlib 9", "bz2": "bz2 9", "lzma": "lzma 9", "uniform": "uniform predictor"}
    for name, bits in result["baselines"].items():
        table.add_row(names[name], _bits(bits), "", "", "the same text")
    console.print(table)
    file = out / "artifact.mgolf"
    header, _ = artifact.read(file)
    total = (
        f"{result['artifact_bytes'] + result['code_bytes']:,} of {artifact.LIMIT:,} bytes, codec"
        f" {result['codec']}"
    )
    sizes = _table(f"Artifact: {total}", "part", "format", "bytes", "stored")
    code = size.code_bytes(artifact.recipe_of(header), header["codec"])
    rows = artifact.size_report(header, file.stat().st_size, code)
    for kind in dict.fromkeys(row["kind"] for row in rows):
        for name, parts in _grouped([row for row in rows if row["kind"] == kind]).items():
            formats = ", ".join(dict.fromkeys(part["format"] or "" for part in parts))
            sizes.add_row(
                name,
                formats,
                *(f"{sum(part[column] for part in parts):,}" for column in ("bytes", "stored")),
            )
    console.print(sizes)
    steps = (
        f"{result['steps']} steps in {result['seconds']:.0f} s, {result['tokens_per_second']:,.0f}"
        " tokens/s"
    )
    console.print(f"{result['parameters']:,} parameters, {steps}; files in {out}", highlight=False)


def compression(result: dict) -> None:
    """Print what compressing or restoring a file took."""
    table = _table("Bytes in, the same bytes out", "quantity", "value")
    for name in (
        "file",
        "out",
        "order",
        "bytes_in",
        "bytes_out",
        "bits_per_byte",
        "chain_rule_bits",
        "tokens",
        "chunks",
        "raw_bytes",
        "seconds",
    ):
        value = result.get(name)
        if value is not None:
            text = (
                ", ".join(f"{count:,} {kind}" for kind, count in value.items())
                if isinstance(value, dict)
                else str(value)
            )
            number = {int: "{:,}", float: "{:,.2f}"}.get(type(value))
            table.add_row(name.replace("_", " "), number.format(value) if number else text)
    console.print(table)


def imported(result: dict) -> None:
    """Print what was found in a weight file of another project and how it is kept."""
    table = _table(f"{result['file']} as {result['out']}", "quantity", "value")
    model = result["model"]
    kind = "causal" if model["causal"] else "masked diffusion"
    heads = f"{model['heads']} heads, {model['kv_heads']} key/value heads"
    shape = f"{model['layers']} layers, width {model['d']}, {heads}, MLP {model['mlp']}x"
    assumed = (
        f"length {model['length']}, RoPE base {model['rope_base']:g}, softcap {model['softcap']:g},"
        f" {result['compute_dtype']}"
    )
    kept = ", ".join(f"{count:,} {name}" for name, count in result["formats"].items())
    rows = {
        "layout": result["layout"],
        "model": f"{kind}, vocabulary {model['vocab']:,}",
        "shape": shape,
        "assumed": assumed,
        "weights kept unchanged": kept,
        "bytes": f"{result['bytes_in']:,} in, {result['bytes_out']:,} out",
    }
    for name, value in rows.items():
        table.add_row(name, value)
    console.print(table)


def overview(found: list[dict]) -> None:
    """Print one row per score of each finished run."""
    columns = (
        "run",
        "parameters",
        "steps",
        "tokens/s",
        "artifact + code",
        "estimator",
        "bits/byte",
        "± masks",
        "± sequences",
    )
    table = _table("Finished runs", *columns)
    for result in found:
        head = [
            result["run"],
            f"{result['parameters']:,}",
            f"{result['steps']:,}",
            f"{result['tokens_per_second']:,.0f}",
        ]
        head.append(f"{result['artifact_bytes'] + result['code_bytes']:,}")
        for score in result["scores"]:
            table.add_row(*head, *_score_row(score)[:4])
            head = [""] * len(head)
    console.print(table)


def samples(drawn: list[dict]) -> None:
    """Print each sample under a rule."""
    for sample in drawn:
        console.rule(f"sample {sample['row']}")
        console.print(sample["text"], markup=False, highlight=False)


def _short(value: float | None, digits: int = 3) -> str:
    return "-" if value is None else f"{value:.{digits}g}"


def _ratio(row: dict | None) -> tuple[str, str]:
    """Return a ratio and its interval."""
    known = row is not None and row["ratio"] is not None
    return (
        (_short(row["ratio"]), f"{_short(row['low'])} to {_short(row['high'])}")
        if known
        else ("-", "-")
    )


def bench(rows: list[dict]) -> None:
    """Print one line per comparison, with the note of what was not measured."""
    table = _table(
        f"Benchmarks on {rows[0]['machine']}",
        "comparison",
        "baseline",
        "candidate",
        "ratio",
        "interval",
        "pairs",
        "unit",
    )
    for row in rows:
        values = (_short(row["baseline"], 4), _short(row["candidate"], 4), *_ratio(row))
        table.add_row(row["name"], *values, str(row["pairs"]), row["unit"])
    console.print(table)
    for row in rows:
        if row.get("note"):
            console.print(
                f"{row['name']}: {row['note']}", highlight=False, markup=False, soft_wrap=True
            )


def _side(row: dict | None, predicted: bool) -> tuple[str, str]:
    """Return a ratio and its interval; the time alone where a comparison is one of predicted
    times.
    """
    return (f"{_short(row['candidate'], 4)} ms", "-") if predicted else _ratio(row)


def bench_pair(both: dict) -> None:
    """Print two result files side by side: the ratio in each, or its predicted time, and how many
    times better it is in b.
    """
    for name in ("a", "b"):
        console.print(
            f"{name}: {both[name]['file']} ({both[name]['machine']})",
            highlight=False,
            markup=False,
            soft_wrap=True,
        )
    table = _table(
        "Ratios side by side", "comparison", "a", "interval", "b", "interval", "b / a", "intervals"
    )
    for row in both["rows"]:
        apart = {True: "overlap", False: "apart", None: "-"}[row["overlap"]]
        predicted = row["change"] is not None and row["overlap"] is None
        sides = (cell for name in ("a", "b") for cell in _side(row[name], predicted))
        table.add_row(row["name"], *sides, _short(row["change"]), apart)
    console.print(table)


def shards(described: dict) -> None:
    """Print what each shard holds."""
    title = f"{described['path']} (tokenizer: {described['tokenizer'] or 'none found'})"
    table = _table(title, "shard", "split", "tokens", "documents", "bytes", "bytes/token", "begins")
    for shard in described["shards"]:
        size = shard.get("bytes")
        table.add_row(
            Path(shard["file"]).name,
            shard["split"] or "-",
            f"{shard['tokens']:,}",
            f"{shard['documents']:,}",
            f"{size:,}" if size is not None else "-",
            f"{size / shard['tokens']:.3f}" if size is not None else "-",
            repr(shard.get("text", ""))[:40],
        )
    console.print(table)


def parity(rows: list[dict]) -> None:
    """Print one line per piece and level, the derivation of the limits, and the inputs that break a
    piece.
    """
    columns = (
        "piece",
        "level",
        "class",
        "dtype",
        "worst error",
        "limit",
        "margin",
        "inputs",
        "passed",
    )
    table = _table(f"Parity with the specification on {rows[0]['device']}", *columns)
    for row in rows:
        error = (
            "not finite" if row["error"] is None else f"{row['error']:.2g}" if row["error"] else "0"
        )
        margin = f"{row['margin']:.3g}" if row["margin"] else "-"
        verdict = "yes" if row["passed"] else "[bold red]NO[/]"
        which = (row["piece"], row["level"], row["class"], row["dtype"])
        table.add_row(*which, error, f"{row['limit']:.2g}", margin, str(row["inputs"]), verdict)
    console.print(table)
    for bound in dict.fromkeys(row["bound"] for row in rows if row["class"] == "rounding"):
        pieces = ", ".join(
            dict.fromkeys(
                row["piece"] for row in rows if row["bound"] == bound and row["class"] == "rounding"
            )
        )
        console.print(f"limit of {pieces}: {bound}", highlight=False, markup=False)
    red = [row for row in rows if not row["passed"]]
    for row in red:
        console.print(
            f"\n{row['piece']}, {row['level']}, {row['dtype']}:", highlight=False, markup=False
        )
        console.print(
            row["reproduction"] or "no input was compared",
            highlight=False,
            markup=False,
            soft_wrap=True,
        )
    seconds = sum(row["seconds"] for row in rows)
    console.print(
        f"\n{len(rows)} rows, {len(red)} red, {seconds:.1f} s", highlight=False, markup=False
    )


VERDICT_STYLES = {"pass": "green", "fail": "bold red", "cannot tell": "yellow"}


def validation(rows: list[dict], folder: Path) -> None:
    """Print one line per check, and how many of each verdict."""
    table = Table(
        title=escape(f"Checks of {str(folder)!a}"), title_justify="left", title_style="bold"
    )
    for column in ("check", "verdict", "evidence"):
        table.add_column(column, overflow="fold")
    for row in rows:
        table.add_row(
            escape(row["check"]),
            f"[{VERDICT_STYLES[row['verdict']]}]{row['verdict']}[/]",
            escape(row["evidence"]),
        )
    console.print(table)
    counts = [
        f"{sum(row['verdict'] == verdict for row in rows)} {verdict}" for verdict in VERDICT_STYLES
    ]
    console.print(
        f"{len(rows)} checks: {', '.join(counts)}; maskgolf validate --explain CHECK says more",
        highlight=False,
    )


def explanation(found: dict) -> None:
    """Print what a check is, what it has caught, how to fix it."""
    console.print(f"{found['check']} ({found['group']})", highlight=False, style="bold")
    for title, name in (
        ("What it looks at", "what"),
        ("What it has caught", "caught"),
        ("How to fix it", "fix"),
    ):
        console.print(f"{title}: {found[name]}", highlight=False, markup=False)


def packed(described: dict) -> None:
    """Print a packed submission: its seeds, sizes and folder."""
    table = _table(
        described["name"],
        "seed",
        "bits/byte",
        "± masks",
        "± sequences",
        "steps",
        "seconds",
        "bytes",
    )
    for seed, one in described["seed_results"].items():
        spread = "-" if one["stderr_sequences"] is None else f"{one['stderr_sequences']:.4f}"
        scored = (f"{one['val_bpb']:.4f}", f"{one['stderr_masks']:.4f}", spread)
        table.add_row(
            seed,
            *scored,
            f"{one['train_steps']:,}",
            f"{one['wallclock_seconds']:.1f}",
            f"{one['bytes_total']:,}",
        )
    console.print(table)
    sizes = (
        f"code {described['bytes_code']:,} + model {described['bytes_model']:,} ="
        f" {described['bytes_total']:,} bytes"
    )
    console.print(
        f"mean {described['val_bpb']:.4f} bits/byte ({described['val_bpb_estimator']}), {sizes}",
        highlight=False,
        markup=False,
    )
    console.print(f"written: {described['folder']}", highlight=False, markup=False, soft_wrap=True)
