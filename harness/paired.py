"""Two artifacts on the same windows: bits per byte each, the paired difference, and both by
position in the window.
"""

import hashlib
import math
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np

from fast import data, evaluate
from fast.bytes import token_bytes
from fast.evaluate import Effort
from fast.objective import objective_of
from harness.corpus.sources import Source
from harness.overview import check_image, figure
from harness.progress import bar
from harness.scoring import Estimate, effort_of, opened
from reference.recipe import InputError


class TokenCosts(NamedTuple):
    """Cost in bits and size in bytes of every token of some windows, one pair of (N, L) arrays per
    window length, and what they mean.
    """

    run: str
    method: str
    bits: list[np.ndarray]
    bytes: list[np.ndarray]
    tokenizer: str
    text: str = ""  # SHA-256 of the ids


def per_token(
    run: Path, source: Source, estimate: Estimate, device: str, compiled: bool
) -> TokenCosts:
    """Return the exact cost of every token: one pass of a causal model, the chain rule along
    estimate.order of a diffusion model.
    """
    _, params, recipe, dataset = opened(run, source)
    model, objective = recipe.model, objective_of(recipe.model)
    predict = evaluate.predictor(params, recipe, device, compiled)
    windows = data.evaluation_windows(
        dataset.validation, model.length, model.vocab, estimate.from_, estimate.sequences
    )
    chosen = estimate.order or "left-to-right"
    order = chosen if objective.exact == "chain" else None
    walk = {"step": estimate.step, "block": estimate.block, "seed": estimate.seed}
    effort = Effort(objective.exact, order, **walk)
    method = f"chain rule, {order}" if order else "autoregressive, one pass"
    bits, sizes, row, done = [], [], estimate.from_, 0
    total = sum(len(group.ids_NL) * effort.passes(group.ids_NL.shape[1]) for group in windows)
    with bar(f"{run}: {method}", "passes") as progress:

        def on_pass(count):
            nonlocal done
            done += count
            progress.update(done, total)

        settings = {"batch_rows": estimate.batch_rows, "device": device, "on_pass": on_pass}
        for group in windows:
            nats_NL = evaluate.token_nats(predict, group, model.vocab, effort, row, **settings)
            bits.append(nats_NL / math.log(2))
            table = dataset.tokenizer.table
            sizes.append(token_bytes(group.ids_NL, group.before_NL(), table))
            row += len(group.ids_NL)
    text = hashlib.sha256(b"".join(group.ids_NL.tobytes() for group in windows)).hexdigest()
    return TokenCosts(str(run), method, bits, sizes, dataset.tokenizer.sha256, text)


def ratio(bits_N: np.ndarray, bytes_N: np.ndarray) -> tuple[float | None, float | None]:
    """Return (sum of bits / sum of bytes, its standard error over windows by the ratio estimator,
    Cochran 1977, eq. 6.13).
    """
    count, total = len(bits_N), bytes_N.sum()
    if not total:
        return None, None
    value = bits_N.sum() / total
    spread = np.square(bits_N - value * bytes_N).sum()
    return float(value), (
        float(math.sqrt(spread * count / (count - 1)) / total) if count > 1 else None
    )


def buckets(length: int) -> list[tuple[int, int]]:
    """Return [(first, last)] positions, counted from 1: 1, 2, 3-4, 5-8, ... up to length."""
    last = [2**k for k in range(length.bit_length()) if 2**k < length] + [length]
    return list(zip([1] + [end + 1 for end in last[:-1]], last, strict=True))


def difference(a: TokenCosts, b: TokenCosts) -> dict:
    """Return both scores, the paired difference a - b and the same by position, each with its
    standard error over windows.
    """
    if a.tokenizer != b.tokenizer or [bits.shape for bits in a.bits] != [
        bits.shape for bits in b.bits
    ]:
        raise InputError(
            f"--compare: expected two artifacts of one tokenizer and window length, found {a.run}"
            f" with windows {[bits.shape for bits in a.bits]} and {b.run} with"
            f" {[bits.shape for bits in b.bits]}; train both on the same data and model.length"
        )
    if a.text != b.text:
        raise InputError(
            f"--compare: expected two artifacts on one text, found {a.run} and {b.run} on texts of"
            " their own; name one with --data"
        )

    def paired(first: int, last: int) -> dict:
        span = slice(first - 1, last)
        one, other, size = (
            np.concatenate([part[:, span].sum(axis=1) for part in parts])
            for parts in (a.bits, b.bits, a.bytes)
        )
        entry = {"first": first, "last": last}
        for name, bits_N in (("a", one), ("b", other), ("difference", one - other)):
            entry[name], entry[f"{name}_stderr"] = ratio(bits_N, size)
        return entry

    length = max(bits.shape[1] for bits in a.bits)
    named = {"a": {"run": a.run, "method": a.method}, "b": {"run": b.run, "method": b.method}}
    tokens, size = sum(bits.size for bits in a.bits), int(sum(part.sum() for part in a.bytes))
    positions = [paired(*ends) for ends in buckets(length)]
    return {
        "runs": named,
        "tokens": tokens,
        "bytes": size,
        "whole": paired(1, length),
        "positions": positions,
    }


def plot(result: dict, path: Path) -> None:
    """Write bits per byte by position of both artifacts to an image (matplotlib, the plot
    extra).
    """
    with figure(path) as axes:
        last = [entry["last"] for entry in result["positions"]]
        for name in ("a", "b"):
            shown = result["runs"][name]
            errors = [entry[f"{name}_stderr"] or 0 for entry in result["positions"]]
            values = [
                math.nan if entry[name] is None else entry[name] for entry in result["positions"]
            ]
            axes.errorbar(
                last, values, errors, label=f"{shown['run']} ({shown['method']})", capsize=2
            )
        axes.set_xscale("log", base=2)
        axes.set(xlabel="last position of the span", ylabel="bits per byte")


def runs(
    paths,
    source: Source,
    estimate: Estimate,
    device: str,
    compiled: bool,
    asked: bool,
    image: Path | None,
) -> dict:
    """Return the comparison of exactly two runs, drawn to an image where one is named."""
    if not asked:
        raise InputError(
            "--plot: expected --compare as well, found none; add it, or use maskgolf report --plot"
            " for training curves"
        )
    if len(paths) != 2:
        raise InputError(f"--compare: expected two runs, found {len(paths)}; name two")
    alone = [
        f"--{name}" for name in ("positions", "trailing") if getattr(estimate, name) is not None
    ]
    if alone or estimate.estimator == "nelbo-grid":
        found = alone[0] if alone else f"--estimator {estimate.estimator}"
        raise InputError(
            f"--compare: expected no estimate but the exact cost of every token, found {found} as"
            " well; drop it"
        )
    effort_of(replace(estimate, estimator="chain"))
    if image:
        check_image(image)
    one, other = (per_token(path, source, estimate, device, compiled) for path in paths)
    result = difference(one, other)
    if image:
        plot(result, image)
    return result
