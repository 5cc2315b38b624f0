"""Parity: bitwise. The artifact of a run: weights quantised and packed, written so that no half
file is left, read back, and weighed.

What it weighs is code and container together, against the challenge's limit.
"""

from collections.abc import Callable
from dataclasses import asdict
from functools import partial
from pathlib import Path

import torch

from fast import allot, compensate, container, quantize, transformer
from fast import codec as codecs
from fast.bytes import Tokenizer
from fast.checkpoint import is_special, write_atomic
from fast.config import recipe_from_dict
from reference.recipe import DIALS, InputError, Recipe, StepExponents

LIMIT = 16_000_000  # bytes of code and container together, decimal (the challenge's rule)
HEAVIEST = 5  # tensors that an error about the size names
UNUSED = 0.001  # of a budget, at most, where a finer dial would use it
UNUSED_IN_TRAINING = 0.01  # the same of steps that training chooses: each trial takes its time
TRIALS = 30  # of dials, by which the budget is met
# Least mean dial with steps by the Fisher information, where each row's own is at least 0
COARSEST = -32
SHIFTS = (-64, 32)  # in eighths of an octave, of steps that training has chosen


def formats_of(shapes: dict[str, tuple[int, ...]], recipe: Recipe) -> dict[str, str]:
    """The storage format of every tensor under the recipe."""
    return {
        name: quantize.choose_format(name, tuple(shape), recipe.quantization)
        for name, shape in shapes.items()
    }


def steps_of(
    params: dict[str, torch.Tensor], formats: dict[str, str], squares: dict | None, dial: float
) -> dict:
    """What container.pack needs of each tensor in the format uniform: allot.step_exponents."""
    uniform = {name: params[name] for name in params if formats[name] == "uniform"}
    return allot.step_exponents(uniform, squares, dial)


def _stored(
    params: dict[str, torch.Tensor],
    formats: dict[str, str],
    recipe: Recipe,
    batch: Callable | None,
    exponents: dict[str, torch.Tensor] | None,
) -> tuple[Callable[[float], tuple[dict, dict]], float, tuple[float, float]]:
    """Return dial -> (values, what container.pack needs of each tensor in the format uniform), the
    dial that the recipe asks for, and the ends between which a budget chooses one. With exponents
    that training has chosen, a dial is how much finer than those the steps are.
    """
    wanted = recipe.quantization
    if batch is None and (wanted.compensate or wanted.fisher and exponents is None):
        raise InputError(
            "quantization.fisher: expected training text to take gradients on, found none; set it"
            " to 0"
        )
    back = feedback_of(params, batch, recipe) if wanted.compensate else {}
    if exponents is not None:
        steps_at, dial, ends = partial(trained_steps, params, exponents), 0.0, SHIFTS
    elif wanted.fisher or wanted.budget or wanted.aware_steps:
        squares = allot.squared_gradients(params, batch, recipe) if wanted.fisher else None
        steps_at, dial = partial(steps_of, params, formats, squares), wanted.dial
        ends = (COARSEST, DIALS[1]) if wanted.fisher else DIALS
    else:
        steps_at, dial, ends = partial(dict.fromkeys, params), wanted.dial, DIALS

    def stored(dial: float) -> tuple[dict, dict]:
        steps = steps_at(dial)
        return params | rounded_with(params, steps, back), steps

    return stored, dial, ends


def trained_steps(
    params: dict[str, torch.Tensor], exponents: dict[str, torch.Tensor], dial: float
) -> dict[str, StepExponents]:
    """What container.pack needs of each tensor in the format uniform: steps finer by so much of a
    dial than those of training, as in train.State.
    """
    named = transformer.unstack(exponents)
    rows = {name: quantize.rows_and_columns(params[name].shape)[0] for name in named}
    chosen = {
        name: StepExponents(*value.cpu().tensor_split([rows[name]]))
        for name, value in named.items()
    }
    return allot.shifted(params, chosen, dial)


def feedback_of(
    params: dict[str, torch.Tensor], batch: Callable, recipe: Recipe
) -> dict[str, torch.Tensor]:
    """What rounded_with() needs of each tensor in the format uniform: compensate.feedback."""
    moments = compensate.second_moments(params, batch, recipe)
    return {name: compensate.feedback(moment_CC) for name, moment_CC in moments.items()}


def rounded_with(
    params: dict[str, torch.Tensor], steps: dict, feedback: dict[str, torch.Tensor]
) -> dict[str, torch.Tensor]:
    """The tensors that have a feedback, as compensate.compensated rounds them."""
    return {
        name: compensate.compensated(params[name], steps[name], back_CC)
        for name, back_CC in feedback.items()
    }


def _fitted(
    size_at: Callable[[float], int],
    budget: int,
    dials: tuple[float, float],
    dial: float,
    bytes_per_dial: float,
    unused: float,
) -> float:
    """The dial at which an artifact is just within a budget, the finest one where all are. The
    search begins at `dial`, and at the bytes that one more dial adds where steps are fine.
    """
    within = beyond = None  # (dial, bytes) of the nearest trials
    stride, wanted = 1.0, (1 - unused / 2) * budget
    for trial in range(TRIALS):
        size = size_at(dial)
        if size <= budget:
            within = dial, size
            if dial == dials[1] or size >= (1 - unused) * budget:
                break
        else:
            beyond = dial, size
            if dial == dials[0]:
                raise InputError(
                    f"quantization.budget: expected an artifact of at most {budget:,} bytes, found"
                    f" {size:,} with the coarsest steps, {size - budget:,} over; choose a smaller"
                    " model"
                )
        if within and beyond:
            (coarse, least), (fine, most) = within, beyond
            # Bytes are nearly a straight line over the dial; halving helps where they are not
            share = (wanted - least) / (most - least) if trial % 3 < 2 else 0.5
            dial = coarse + (fine - coarse) * share
        else:
            moved = dial + stride * (wanted - size) / bytes_per_dial
            dial, stride = min(max(moved, dials[0]), dials[1]), 2 * stride
    return within[0]


def _packer(
    params: dict[str, torch.Tensor],
    recipe: Recipe,
    extra: dict,
    codec: str,
    batch: Callable | None,
    exponents: dict[str, torch.Tensor] | None = None,
    unused: float = UNUSED,
) -> tuple[Callable[[], bytes], dict]:
    """Return what makes the artifact of named weights, and what it needs of each tensor in the
    format uniform.
    """
    formats = formats_of({name: tuple(values.shape) for name, values in params.items()}, recipe)
    header = {**extra, "recipe": asdict(recipe)}
    stored, dial, ends = _stored(params, formats, recipe, batch, exponents)
    if budget := recipe.quantization.budget:
        # trials by one codec, since the others are slow and hardly ever smaller
        quick = "entropy" if codec == "best" and "entropy" in codecs.available() else codec

        def size_at(dial: float) -> int:
            values, steps = stored(dial)
            return len(container.pack(values, formats, header, quick, steps))

        weights = sum(params[name].numel() for name in params if formats[name] == "uniform")
        added = max(weights, 1) / 64  # bytes: an eighth of a bit each
        dial = _fitted(size_at, budget, ends, dial, added, unused)
    values, steps = stored(dial)
    return partial(container.pack, values, formats, header, codec, steps), steps


def choose_steps(
    params: dict[str, torch.Tensor], batch: Callable, recipe: Recipe, codec: str = "best"
) -> dict[str, torch.Tensor]:
    """Return {kind: exponents} of the matrices in the format uniform, stacked, as in
    quantize.rounded: the steps that write() stores these weights with, of a budget nearly.
    """
    named = transformer.unstack(params)
    _, steps = _packer(named, recipe, {}, codec, batch, unused=UNUSED_IN_TRAINING)
    return transformer.stack({name: torch.cat(parts) for name, parts in steps.items()})


def write(
    path: Path | str,
    params: dict[str, torch.Tensor],
    recipe: Recipe,
    extra: dict | None = None,
    codec: str = "best",
    batch: Callable | None = None,
    exponents: dict[str, torch.Tensor] | None = None,
) -> int:
    """Quantise, pack and write weights, named or stacked; returns the size in bytes. A
    full disk is an InputError and leaves no file. batch: of training, as in
    allot.squared_gradients, where the recipe asks for it. exponents: that training ended with,
    where it did, as in train.State.
    """
    packed, _ = _packer(transformer.unstack(params), recipe, extra or {}, codec, batch, exponents)
    data = packed()
    write_atomic(Path(path), data)
    return len(data)


def read(path: Path | str) -> tuple[dict, dict[str, torch.Tensor]]:
    """Header and float32 tensors of an artifact; whatever is wrong with the file is an InputError
    that names it.
    """
    most = container.PREFIX.size + container.MAX_HEADER + container.MAX_RAW
    try:
        size = Path(path).stat().st_size
        if size > most or is_special(Path(path)):
            found = f"{size:,}" if size > most else "no file"
            raise InputError(
                f"{path}: expected an artifact of at most {most:,} bytes, found {found}; name an"
                " artifact.mgolf"
            )
        data = Path(path).read_bytes()
    except OSError as error:
        raise InputError(
            f"{path}: expected a readable artifact, found none ({error.strerror}); name an"
            " artifact.mgolf"
        ) from error
    return container.unpack(data, str(path))


def recipe_of(header: dict, where: str = "artifact") -> Recipe:
    """The recipe in an artifact's header."""
    try:
        return recipe_from_dict(header.get("recipe"))
    except InputError as error:
        raise InputError(f"{where}: {error}") from error


def check_tokenizer(header: dict, tokenizer: Tokenizer) -> None:
    """Raise InputError unless the tokenizer is the one an artifact's header names."""
    expected = header.get("tokenizer_sha256")
    if expected and expected != tokenizer.sha256:
        raise InputError(
            f"{tokenizer.path}: expected the tokenizer the model was trained with (SHA-256"
            f" {expected[:12]}...), found {tokenizer.sha256[:12]}...; pass --data and --tokenizer"
            " of the training run"
        )


def size_report(header: dict, file_bytes: int, code: dict[str, int]) -> list[dict]:
    """Rows part, kind, format, bytes, stored: tensors heaviest first, then header and code. `bytes`
    is before the codec.

    `stored` adds up to file_bytes plus the code: a tensor's is its share of the compressed payload
    in proportion to its bytes.
    """
    rows, raw, payload = [], max(header["raw_bytes"], 1), header["payload_bytes"]
    for tensor in header["tensors"]:
        end = tensor["offset"] + tensor["bytes"]
        stored = payload * end // raw - payload * tensor["offset"] // raw
        rows.append(
            {
                "part": tensor["name"],
                "kind": "tensor",
                "format": tensor["format"],
                "bytes": tensor["bytes"],
                "stored": stored,
            }
        )
    rows.sort(key=lambda row: (-row["bytes"], row["part"]))
    head = file_bytes - payload
    rows.append(
        {"part": "header", "kind": "header", "format": "json", "bytes": head, "stored": head}
    )
    files = sorted(code.items(), key=lambda item: (-item[1], item[0]))
    return rows + [
        {"part": file, "kind": "code", "format": "python", "bytes": size, "stored": size}
        for file, size in files
    ]


def check_size(header: dict, file_bytes: int, code: dict[str, int], limit: int = LIMIT) -> int:
    """Code and container together, in bytes; over the limit is an InputError that says by how much
    and which tensors weigh most.
    """
    total = file_bytes + sum(code.values())
    if total > limit:
        heaviest = [
            row for row in size_report(header, file_bytes, code) if row["kind"] == "tensor"
        ][:HEAVIEST]
        named = ", ".join(f"{row['part']} {row['stored']:,} ({row['format']})" for row in heaviest)
        raise InputError(
            f"artifact: expected at most {limit:,} bytes, found {total:,} (container"
            f" {file_bytes:,}, code {total - file_bytes:,}), {total - limit:,} over; heaviest"
            f" tensors: {named}; choose a smaller quantization.format or a smaller model"
        )
    return total
