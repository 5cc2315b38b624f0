"""What a page computes with an artifact, on a few windows of the text that it was scored on: bits
per byte by the tokens known before, the order in which confidence reveals a sentence, weights
against the values that they are stored as.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

from fast import artifact, chain, data, evaluate, likelihood, orders, quantize, transformer
from fast.bytes import Tokenizer
from fast.objective import objective_of
from fast.train import restore
from harness.corpus.dataset import Dataset
from harness.corpus.shards import piece_texts
from harness.corpus.sources import Source
from harness.evaluation import paired, scoring
from reference.recipe import InputError, Recipe

WINDOWS = 24  # of the validation split, evenly spread
ROWS = 8  # windows per forward pass
PER_SPAN = 2  # positions that stand for the others of a span
SENTENCE = (12, 32)  # tokens, least and most
SEARCHED = 2**13  # tokens of the split in which a sentence is looked for
# FLOPs of all forward passes; one core of a small machine takes 10 s at 8e10
WORK = {"cpu": 8e10, "cuda": 8e13}
MOST_WORK = 10  # times as much, where a single window takes it
FEW = 300  # values that all rows of a tensor are stored as: more are told row by row
CAUSAL, MASKED, ANY = "causal, tokens before", "masked, tokens before", "masked, random tokens"


class Opened(NamedTuple):
    """An artifact and the text that its run was scored on."""

    header: dict
    params: dict
    recipe: Recipe
    dataset: Dataset
    device: str


class Span(NamedTuple):
    """Bits per byte of tokens before which first ... last tokens are known; the error is over
    windows.
    """

    first: int
    last: int
    bits_per_byte: float | None
    error: float | None


@dataclass(frozen=True)
class Positions:
    """Bits per byte by the number of known tokens: a curve for each kind of attention. difference:
    of MASKED less CAUSAL over the same tokens, with its paired standard error. shift: in front of a
    window both see the mask token.
    """

    windows: int
    curves: dict[str, list[Span]]
    difference: tuple[float | None, float | None] | None
    shift: bool


@dataclass(frozen=True)
class Reveal:
    """The confidence order on a sentence of n tokens. order_L: the pass that reveals each token;
    confidence_LL: in each pass (row) the largest probability of each hidden position, NaN where it
    is known; probability_L: what the token had when it was revealed; bits: of the sentence.
    """

    tokens: list[str]
    order_L: np.ndarray
    confidence_LL: np.ndarray
    probability_L: np.ndarray
    bits: float
    bytes: int


@dataclass(frozen=True)
class Grid:
    """Weights of one tensor, or of one of its rows, and the values that the artifact holds instead;
    weights is None without a checkpoint.
    """

    tensor: str
    row: int | None
    format: str
    weights: np.ndarray | None
    stored: np.ndarray


def opened(run: Path, score: dict, device: str) -> Opened:
    """Return an artifact with the text of a score; InputError where one of them is not there."""
    file, params, recipe, dataset = scoring.opened(run, Source())
    known = dataset.identity(("validation",))["validation_sha256"]
    if score.get("validation_sha256", known) != known:
        raise InputError("the text is no longer the one that was scored")
    header, _ = artifact.read(file)
    params = {name: value.to(device) for name, value in params.items()}
    return Opened(header, params, recipe, dataset, device)


def _spans(length: int) -> list[tuple[int, int, list[int]]]:
    """Return (first, last, positions that stand for them), counted from 0."""
    spans = []
    for first, last in ((a - 1, b - 1) for a, b in paired.buckets(length)):
        even = np.linspace(first, last, min(PER_SPAN, last - first + 1) + 2)[1:-1]
        chosen = even if last - first + 1 > PER_SPAN else np.arange(first, last + 1)
        spans.append((first, last, np.unique(chosen.round().astype(int)).tolist()))
    return spans


def windows_for(made: Opened, passes: int) -> int:
    """Return how many windows of so many forward passes each are measured; InputError where a
    single one takes too long.
    """
    model = made.recipe.model
    weights = sum(value.numel() for value in made.params.values())
    work = 2 * passes * model.length * (weights + model.layers * model.length * model.d)
    budget = WORK[torch.device(made.device).type]
    if work > MOST_WORK * budget:
        raise InputError(
            f"a model of {weights:,} parameters takes too long on this device; --device cuda is"
            " quicker"
        )
    full = data.count_windows(made.dataset.validation, model.length)
    return max(1, min(WINDOWS, full, int(budget / work)))


def _windows(made: Opened, count: int) -> data.Windows:
    model, split = made.recipe.model, made.dataset.validation
    rows = np.linspace(0, data.count_windows(split, model.length) - 1, count).round().astype(int)
    parts = [data.evaluation_windows(split, model.length, model.vocab, row, 1)[0] for row in rows]
    return data.Windows(*(np.concatenate(column) for column in zip(*parts, strict=True)))


def _random_known(made: Opened, predict, ids_NL: np.ndarray, known: int):
    """Return (nats_NL, hidden_NL): `known` random tokens of each window are known, the others are
    hidden and cost nats.
    """
    count, length = ids_NL.shape
    rows = np.arange(count)
    priority_NL = orders.priorities("random", made.recipe.seed, rows, length, 1)
    hidden_NL = priority_NL.argsort(dim=1).argsort(dim=1) >= known

    def cost(ids_BL, indices, passed):
        masked_BL = hidden_NL[indices].to(ids_BL.device)
        passed()
        return likelihood.nll(predict, ids_BL, masked_BL, made.recipe.model.vocab)

    nats_NL = likelihood.in_batches(cost, ids_NL, length, min(ROWS, count), made.device)
    return nats_NL, hidden_NL.numpy()


def positions(made: Opened, show) -> Positions:
    """Return bits per byte by the number of tokens known before, of every kind of attention that
    the model has. show(done, total) follows the forward passes.
    """
    model, objective = made.recipe.model, objective_of(made.recipe.model)
    spans = _spans(model.length)
    asked = [position for *_, chosen in spans for position in chosen]
    masked, causal = objective.mask_token, "causal" in objective.estimators
    count = windows_for(made, masked * (len(asked) + len(spans)) + causal)
    group = _windows(made, count)
    bytes_NL = evaluate.bytes_of(group, made.dataset.tokenizer.table)
    total, curves = masked * (len(asked) + len(spans)) + causal, {}
    costs, done = {}, 0
    settings = {"batch_rows": ROWS, "device": made.device}
    if causal:
        looks_back = evaluate.predictor(made.params, made.recipe, made.device, estimator="causal")
        given = group.ids_NL, group.previous_N
        costs[CAUSAL] = likelihood.causal_nll(looks_back, *given, **settings)
        done += 1
    if masked:
        predict = evaluate.predictor(made.params, made.recipe, made.device)
        costs[MASKED] = np.zeros(group.ids_NL.shape)
        for position in asked:
            show(done, total)
            first_N = np.full(count, position)
            one_N1 = chain.continuation(predict, group.ids_NL, model.vocab, first_N, 1, **settings)
            costs[MASKED][:, position] = one_N1[:, 0]
            done += 1
    for name, nats_NL in costs.items():
        curves[name] = [
            _span(first, last, nats_NL[:, chosen], bytes_NL[:, chosen])
            for first, last, chosen in spans
        ]
    difference = None
    if masked and causal:
        apart_N = (costs[MASKED] - costs[CAUSAL])[:, asked].sum(axis=1) / np.log(2)
        difference = paired.ratio(apart_N, bytes_NL[:, asked].sum(axis=1))
    if masked:
        curves[ANY] = []
        for first, last, chosen in spans:
            show(done, total)
            known = chosen[len(chosen) // 2]
            nats_NL, hidden_NL = _random_known(made, predict, group.ids_NL, known)
            curves[ANY].append(_span(first, last, nats_NL, bytes_NL * hidden_NL))
            done += 1
    return Positions(count, curves, difference, model.shift)


def _span(first: int, last: int, nats_NK: np.ndarray, bytes_NK: np.ndarray) -> Span:
    bits_N = nats_NK.sum(axis=1) / np.log(2)
    return Span(first, last, *paired.ratio(bits_N, bytes_NK.sum(axis=1)))


def token_texts(ids, tokenizer: Tokenizer) -> list[str]:
    """Return what tokens stand for, a line's end as a sign."""
    spaced, _ = piece_texts(tokenizer)
    return [spaced[i].decode("utf-8", errors="replace").replace("\n", "⏎") for i in ids]


def sentence(texts: list[str], most: int) -> tuple[int, int]:
    """Return (first, behind the last) token of a sentence of words in a text: the first one that is
    neither short nor long, else as many tokens as it may have.
    """
    for start, text in enumerate(texts):
        before = texts[start - 1].rstrip() if start else ""
        if not text.strip()[:1].isupper() or (before and not before.endswith((".", "⏎"))):
            continue
        for stop in range(start + 1, min(start + most, len(texts)) + 1):
            after = texts[stop] if stop < len(texts) else "⏎"
            if not texts[stop - 1].endswith(".") or after[:1] not in " ⏎":
                continue
            whole = "".join(texts[start:stop])
            words = sum(letter.isalpha() or letter in " ,.'" for letter in whole)
            if stop - start >= SENTENCE[0] and words > 0.97 * len(whole):
                return start, stop
            break
    return 0, min(most, len(texts))


def reveal(made: Opened) -> Reveal:
    """Return the order in which confidence reveals a sentence of the validation split, all of its
    tokens hidden at first.
    """
    model, objective = made.recipe.model, objective_of(made.recipe.model)
    if not objective.mask_token:
        raise InputError(f"a {objective.name} model reads from left to right alone")
    split, tokenizer = made.dataset.validation, made.dataset.tokenizer
    ids = split.read(0, min(len(split), SEARCHED), model.vocab)
    first, stop = sentence(token_texts(ids, tokenizer), min(SENTENCE[1], model.length))
    group = data.Windows(ids[None, first:stop], ids[first - 1 : first] if first else np.full(1, -1))
    ids_1L = torch.as_tensor(group.ids_NL).to(made.device)
    predict, length = evaluate.predictor(made.params, made.recipe, made.device), stop - first
    current_1L, priority_1L = torch.full_like(ids_1L, model.vocab), torch.zeros_like(ids_1L)
    confidence_LL = np.full((length, length), np.nan)
    order_L, probability_L = np.zeros(length, int), np.zeros(length)
    for step in range(length):
        log_probs_LV = predict(current_1L)[0]
        masked_1L = current_1L == model.vocab
        hidden_L = masked_1L[0].cpu().numpy()
        likely_L = log_probs_LV.amax(dim=-1).exp().double().cpu().numpy()
        confidence_LL[step] = np.where(hidden_L, likely_L, np.nan)
        chosen = orders.next_positions(
            "confidence", log_probs_LV[None], masked_1L, priority_1L, 1
        ).item()
        order_L[chosen] = step
        probability_L[chosen] = log_probs_LV[chosen, ids_1L[0, chosen]].double().exp().item()
        current_1L[0, chosen] = ids_1L[0, chosen]
    texts = token_texts(group.ids_NL[0], tokenizer)
    size = int(evaluate.bytes_of(group, tokenizer.table).sum())
    bits = float(-np.log2(probability_L).sum())
    return Reveal(texts, order_L, confidence_LL, probability_L, bits, size)


def grid(run: Path, made: Opened) -> Grid:
    """Return the weights of the largest matrix of a block against what the artifact stores; of one
    row, that of the most values, where rows have steps of their own.
    """
    wanted = made.recipe.quantization.format
    named = [part for part in made.header["tensors"] if part["format"] == wanted]
    named = [part for part in named if part["name"].startswith("blocks.")] or named
    if not named:
        raise InputError(f"no tensor of this model is stored as {wanted}")
    name = max(named, key=lambda part: part["bytes"])["name"]
    stored = made.params[name].cpu().numpy()
    state = restore(run, made.recipe)
    weights = None if state is None else transformer.unstack(state.shadow)[name].numpy()
    row = None
    if len(np.unique(stored)) > FEW:
        rows, columns = quantize.rows_and_columns(stored.shape)
        row = int(np.argmax([len(np.unique(x)) for x in stored.reshape(rows, columns)]))
        stored = stored.reshape(rows, columns)[row]
        weights = None if weights is None else weights.reshape(rows, columns)[row]
    flat = None if weights is None else weights.reshape(-1)
    return Grid(name, row, wanted, flat, stored.reshape(-1))
