"""Two artifacts on the same windows: bits per byte each, the paired difference, and both by
position in the window.
"""

import hashlib
import math
from pathlib import Path
from typing import NamedTuple

import numpy as np

from fast import data, evaluate, likelihood
from harness.corpus.sources import Source
from harness.display.figures import figure
from harness.display.progress import bar
from harness.display.report import method_of
from harness.evaluation.scoring import Estimate, Job, compiles, compiling, prepare
from reference.recipe import ORDER_OPTIONS, InputError


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
    looks_before: bool = False  # the first token of a window is predicted from what is before it


def per_token(job: Job, estimate: Estimate, device: str, compiled: bool | None) -> TokenCosts:
    """Return the exact cost of every token: one pass of a causal model, the chain rule along
    estimate.order of a diffusion model.
    """
    estimate, model, effort = estimate.filled(), job.recipe.model, job.effort
    if compiled is None:
        compiled = compiles(job, device, job.stop - job.first)
    predict = evaluate.predictor(job.params, job.recipe, device, compiled, effort.estimator)
    stream = job.dataset.validation, model.length, model.vocab, job.first, job.stop - job.first
    windows = data.evaluation_windows(*stream, effort.stride is not None)
    read = ("block", "seed") if effort.estimator == "chain" else ()
    read = [name for name in read if name in ORDER_OPTIONS.get(effort.order, ())]
    method = method_of(effort.estimator, effort.order, effort.stride)
    read += ["step"] if effort.estimator == "chain" and effort.step != 1 else []
    method += "".join(f", {name} {getattr(effort, name)}" for name in read)
    bits, sizes, row, done = [], [], job.first, 0
    total = sum(len(group.ids_NL) * effort.passes(group.ids_NL.shape[1]) for group in windows)
    with bar(f"{job.run}: {method}", "passes") as progress:
        if compiled:
            progress.say(compiling(device))

        def on_pass(count):
            nonlocal done
            done += count
            progress.update(done, total)

        settings = {"batch_rows": estimate.batch_rows, "device": device, "on_pass": on_pass}
        for group in windows:
            nats_NL = evaluate.token_nats(predict, group, model.vocab, effort, row, **settings)
            bits.append(nats_NL / math.log(2))
            table = job.dataset.tokenizer.table
            sizes.append(evaluate.bytes_of(group, table, estimate.first_token))
            row += len(group.ids_NL)
    text = hashlib.sha256(b"".join(group.ids_NL.tobytes() for group in windows)).hexdigest()
    before = effort.stride is not None or (effort.estimator == "causal" and not model.shift)
    sha256 = job.dataset.tokenizer.sha256
    return TokenCosts(str(job.run), method, bits, sizes, sha256, text, before)


def ratio(bits_N: np.ndarray, bytes_N: np.ndarray) -> tuple[float | None, float | None]:
    """Return likelihood.ratio of bits to bytes, null where there are no bytes, or one window has no
    standard error.
    """
    if not bytes_N.sum():
        return None, None
    value, error = likelihood.ratio(bits_N, bytes_N)
    return value, None if math.isnan(error) else error


def buckets(length: int) -> list[tuple[int, int]]:
    """Return [(first, last)] positions, counted from 1: 1, 2, 3-4, 5-8, ... up to length."""
    last = [2**k for k in range(length.bit_length()) if 2**k < length] + [length]
    return list(zip([1] + [end + 1 for end in last[:-1]], last, strict=True))


def difference(a: TokenCosts, b: TokenCosts) -> dict:
    """Return both scores, the paired difference a - b and the same by position, each with its
    standard error over windows.
    """
    one, other = (
        {
            "tokenizer": costs.tokenizer[:8],
            "windows": ", ".join(" of ".join(map(str, bits.shape)) for bits in costs.bits),
            "text": costs.text[:8],
        }
        for costs in (a, b)
    )
    differing = [
        f"{name} {one[name]} and {other[name]}" for name in one if one[name] != other[name]
    ]
    if differing:
        raise InputError(
            "--compare: expected two artifacts of one tokenizer, one window length and one text,"
            f" found {a.run} and {b.run} with {'; '.join(differing)}; train both on the same data"
            " and model.length"
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
    named = {
        name: {"run": one.run, "method": one.method, "looks_before": one.looks_before}
        for name, one in (("a", a), ("b", b))
    }
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
    compiled: bool | None,
    image: Path | None = None,
) -> dict:
    """Return the comparison of two runs, drawn to an image where one is named."""
    jobs = prepare(paths, source, estimate, exact=True)
    one, other = (per_token(job, estimate, device, compiled) for job in jobs)
    result = difference(one, other)
    if image:
        plot(result, image)
    return result
