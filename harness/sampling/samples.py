"""What `maskgolf sample` does: text drawn from an artifact, alone, after a prompt, or in the gaps
of a given text.
"""

import codecs
from collections.abc import Callable
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch

from fast import masking
from fast import sample as drawing
from fast.bytes import Tokenizer
from fast.chain import by_rows
from fast.likelihood import LogProbs
from fast.next_predictor import NextPredictor
from fast.objective import Objective, objective_of
from harness.compression import compress
from harness.corpus import shards
from harness.sampling import gaps, templates
from reference.recipe import InputError

# Called with a function that returns the samples so far, as sample() does; hidden parts are None.
Watch = Callable[[Callable[[], list[dict]]], None]
# Multiply-adds of a square matrix in a pass, below which one thread draws the text: several gain
# little, and on a busy machine they wait for each other at every operation.
SHARED = 2**24


class Restricted:
    """Conditionals of a model over the tokens that may stand at each position, normalised anew."""

    def __init__(self, log_probs: LogProbs, allowed_LV: torch.Tensor):
        self.ask, self.allowed_LV = by_rows(log_probs), allowed_LV

    def rows(self, ids_BL: torch.Tensor, rows_BR: torch.Tensor) -> torch.Tensor:
        """Return log_probs_BRV at some positions."""
        log_probs_BRV = self.ask.rows(ids_BL, rows_BR)
        return masking.log_softmax(log_probs_BRV.masked_fill(~self.allowed_LV[rows_BR], -torch.inf))


@contextmanager
def _threads(device: str, width: int, tokens: int):
    """Within, torch uses one thread where a pass over so many tokens is small."""
    before = torch.get_num_threads()
    try:
        if torch.device(device).type == "cpu" and tokens * width**2 < SHARED:
            torch.set_num_threads(1)
        yield
    finally:
        torch.set_num_threads(before)


def _check(objective: Objective, order: str, step: int, infill: str | None) -> None:
    """Raise InputError where a model does not draw as it is asked to."""
    if infill is not None and not objective.mask_token:
        raise InputError(
            f"--infill: expected a model trained on masked text, found a {objective.name} one,"
            " which knows only what stands before; use --prompt, or train one with"
            " --model.causal false"
        )
    objective.check_order(order)
    if step > 1 and not objective.mask_token:
        raise InputError(
            f"--step {step}: expected 1, as a {objective.name} model draws a token only behind all"
            " others; drop it"
        )


def texts(ids: list[int], drawn: list[bool], tokenizer: Tokenizer, hidden: int) -> list[str | None]:
    """Return the text of each token, None where it is hidden; a character of several byte pieces
    goes with the last one. What is given and what is drawn are decoded apart.
    """
    spaced, bare = shards.piece_texts(tokenizer)
    control_V, after_control = tokenizer.table.control_V, True
    decoder, parts = codecs.getincrementaldecoder("utf-8")("replace"), []
    for i, token in enumerate(ids):
        if i and (token == hidden or drawn[i] != drawn[i - 1]) and parts[-1] is not None:
            parts[-1] += decoder.decode(b"", final=True)
        if token == hidden:
            parts.append(None)
            after_control = False
            continue
        parts.append(decoder.decode((bare if after_control else spaced)[token]))
        after_control = bool(control_V[token])
    if parts and parts[-1] is not None:
        parts[-1] += decoder.decode(b"", final=True)
    return parts


def _described(drawn: drawing.Drawn, stop: int, tokenizer: Tokenizer, given: np.ndarray) -> list:
    """Return one dict per window: row, text, and of each token id, piece, part of the text,
    probability and place in the order of draws.
    """
    samples, hidden, processor = [], tokenizer.vocab, tokenizer.processor
    is_drawn = (~given).tolist()
    columns = (tensor[:, :stop].tolist() for tensor in (drawn.ids_BL, drawn.log_p_BL.exp()))
    ranks = drawn.rank_BL[:, :stop].tolist()
    for row, (ids, p, rank) in enumerate(zip(*columns, ranks, strict=True)):
        parts = texts(ids, is_drawn, tokenizer, hidden)
        samples.append(
            {
                "row": row,
                "text": "".join(part for part in parts if part is not None),
                "ids": ids,
                "pieces": [processor.id_to_piece(i) if i != hidden else None for i in ids],
                "parts": parts,
                "probabilities": [p[i] if rank[i] >= 0 else None for i in range(stop)],
                "reveal": [place if place >= 0 else None for place in rank],
            }
        )
    return samples


def sample(
    run: Path,
    tokenizer: Path | None,
    prompt: str,
    count: int,
    order: str,
    step: int,
    block: int,
    temperature: float,
    seed: int,
    device: str,
    infill: str | None = None,
    gap: int | None = None,
    tokens: int | None = None,
    watch: Watch | None = None,
) -> list[dict]:
    """Return `count` texts, each opened by <s> and the prompt, or given around the gaps of infill.

    Each is row (of the random draws), text, and per token: ids, pieces, parts (of the text),
    probabilities (given what was revealed before the pass and, in gaps, that it is text) and
    reveal (place among the draws), both None for what was given; and the settings of the draws.
    """
    for name, value, least in (
        ("count", count, 1),
        ("step", step, 1),
        ("block", block, 1),
        ("temperature", temperature, 0),
        ("tokens", 1 if tokens is None else tokens, 1),
    ):
        if not value >= least:
            raise InputError(f"--{name}: expected at least {least}, found {value}; raise it")
    if not 0 <= seed < 2**64:
        raise InputError(f"--seed: expected 0 ... 2**64 - 1, found {seed}; choose one of these")
    gaps.check(prompt, infill, gap, tokens)
    model = compress.load(run, tokenizer, device)
    shape, pieces = model.recipe.model, model.tokenizer
    _check(objective_of(shape), order, step, infill)
    begun, stop = templates.begin(prompt, infill, gap, tokens, shape.length, pieces)
    ids_BL = torch.full((count, shape.length), shape.vocab)
    ids_BL[:, : len(begun.ids)] = torch.from_numpy(begun.ids)
    given = (ids_BL[0, :stop] != shape.vocab).numpy()
    if infill is not None:
        allowed_LV = templates.allowed(begun, shape.length, pieces).to(device)
        predict = Restricted(model.log_probs, allowed_LV)
    else:
        predict = model.along(order) if step == 1 else model.log_probs

    def on_pass(so_far: drawing.Drawn) -> None:
        watch(lambda: _described(so_far, stop, pieces, given))

    tokens_of_a_pass = count * (1 if isinstance(predict, NextPredictor) else shape.length)
    with _threads(device, shape.d, tokens_of_a_pass):
        drawn = drawing.fill(
            predict,
            ids_BL.to(device),
            shape.vocab,
            order,
            seed,
            step,
            block,
            temperature,
            stop=stop,
            on_pass=on_pass if watch else None,
        )
    if drawn.log_p_BL.isnan().any():
        raise InputError("model: expected finite probabilities, found nan; check its weights")
    settings = {"order": order, "step": step, "temperature": temperature, "seed": seed}
    settings |= {"block": block} if order == "block" else {}
    return [described | settings for described in _described(drawn, stop, pieces, given)]
