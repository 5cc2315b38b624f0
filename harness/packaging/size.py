"""What a submission weighs: the code that ships, and the artifact as far as it is known before
training.
"""

import functools
import math
from dataclasses import asdict, replace

import numpy as np
import torch

from fast import container, quantize
from fast.artifact import formats_of
from harness.packaging import bundle
from reference.recipe import DIALS, InputError, Recipe, check

SAMPLE = 2**16  # elements that stand for a tensor in an estimate
CODEC = "entropy"  # of weights that are stored anew within a budget
# Text whose gradients set the steps of those; a few windows where they are longer
FISHER_TOKENS, FISHER_WINDOWS = 2**16, 16


@functools.cache
def _script_bytes(recipe: Recipe, codec: str) -> int:
    return len(bundle.build(recipe, codec).encode())


def code_bytes(recipe: Recipe, codec: str = "entropy") -> dict[str, int]:
    """Bytes of every file that ships as code: the one script that maskgolf pack makes of fast/ and
    the recipe.
    """
    return {bundle.SCRIPT: _script_bytes(recipe, codec)}


def within(recipe: Recipe, budget: int) -> Recipe:
    """Return the recipe whose weights are stored in the format uniform, such that code and artifact
    take so many bytes; InputError where the code alone takes as many.
    """
    windows = max(FISHER_WINDOWS, FISHER_TOKENS // recipe.model.length)
    fisher = recipe.quantization.fisher or windows
    kept = replace(recipe.quantization, format="uniform", fisher=fisher, budget=budget)
    code = sum(code_bytes(replace(recipe, quantization=kept), CODEC).values())
    if code >= budget:
        raise InputError(
            f"--budget: expected more bytes than the code alone takes, {code:,}, found {budget:,};"
            " the challenge allows 16,000,000"
        )
    # A smaller number has no more digits, and makes the code no longer
    return check(replace(recipe, quantization=replace(kept, budget=budget - code)))


def bound(recipe: Recipe, shapes: dict[str, tuple[int, ...]], extra: dict | None = None) -> int:
    """Upper bound on the container's bytes before training: weights without compression, and the
    header that describes them.
    """
    table = container.tensor_table(shapes, formats_of(shapes, recipe))
    raw = sum(row["bytes"] for row in table)
    longest = {
        "codec": "entropy",
        "sha256": "0" * 64,
        "raw_bytes": raw,
        "payload_bytes": raw,
        "tensors": table,
    }
    return (
        container.PREFIX.size
        + len(container.seal({**(extra or {}), "recipe": asdict(recipe), **longest}))
        + raw
    )


def estimate(recipe: Recipe, shapes: dict[str, tuple[int, ...]]) -> int:
    """Container bytes to expect after training: weights as Gaussian with standard deviation
    1/sqrt(columns), stored at the entropy of their bytes (of their integers: the format uniform),
    and the header. A sample of at most 2**16 elements stands for each tensor. A budget is met if
    some dial can.
    """
    budget, dial = recipe.quantization.budget, recipe.quantization.dial
    if budget:
        at = (replace(recipe.quantization, budget=0, dial=dial) for dial in DIALS)
        least, most = (estimate(replace(recipe, quantization=kept), shapes) for kept in at)
        return min(max(budget, least), most)
    formats, total, known = formats_of(shapes, recipe), 0.0, {}
    for name, shape in shapes.items():
        key = (tuple(shape[-1:]), formats[name])
        if math.prod(shape) and key not in known:
            columns = shape[-1]
            sample = np.random.default_rng(0).normal(
                0, columns**-0.5, (max(1, SAMPLE // columns), columns)
            )
            data = quantize.to_bytes(torch.from_numpy(sample).float(), formats[name], name, dial)
            symbols = np.frombuffer(
                data, "<u2" if quantize.integer_columns(shape, formats[name]) else "u1"
            )
            counts = np.bincount(symbols)
            share = counts[counts > 0] / len(symbols)
            known[key] = float(-(share * np.log2(share)).sum()) / (8 * symbols.itemsize)
        total += quantize.encoded_bytes(tuple(shape), formats[name]) * known.get(key, 0.0)
    raw = sum(quantize.encoded_bytes(tuple(shape), formats[name]) for name, shape in shapes.items())
    return round(total) + bound(recipe, shapes) - raw
