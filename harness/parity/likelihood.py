"""Pieces nelbo, nelbo-grid, causal, chain (one per order), evaluate and score, on models that are
random distributions.
"""

import math
from functools import partial
from typing import NamedTuple

import numpy as np

import fast.bytes
import fast.chain
import fast.data
import fast.evaluate
import fast.likelihood
import fast.orders
import fast.sizes
import reference.bytes
import reference.chain
import reference.likelihood
import reference.orders
import reference.sizes
from harness.parity.compare import ALGORITHM, Compare, Difference, Setting, relative, same
from harness.parity.suite import Piece, table

DRAWS = 5  # masks per window, or times of the grid, in a whole evaluation


class TableModel(NamedTuple):
    """A conditional distribution for every visible context, hidden positions holding id `vocab`;
    float32 values in both halves.
    """

    log_probs: np.ndarray  # ((vocab + 1)**length, length, vocab)
    powers: np.ndarray  # (length,): of vocab + 1, which number the contexts

    def reference(self, ids_BL: np.ndarray) -> np.ndarray:
        """log_probs for the reference."""
        return self.log_probs[ids_BL @ self.powers]

    def fast(self, setting: Setting):
        """log_probs for the fast half, in the setting's dtype."""
        log_probs, powers = setting.tensor(self.log_probs), setting.tensor(self.powers)
        return lambda ids_BL: log_probs[(ids_BL * powers).sum(dim=1)]


def table_model(seed: int, vocab: int, length: int, tied: bool = False) -> TableModel:
    """Return a random model; tied: the same distribution everywhere, so that every choice is a
    tie.
    """
    contexts = (vocab + 1) ** length
    shape = (1, 1, vocab) if tied else (contexts, length, vocab)
    logits = 1.5 * np.random.default_rng(seed).standard_normal(shape)
    log_probs = logits - np.log(np.exp(logits).sum(axis=-1, keepdims=True))
    every = np.broadcast_to(log_probs.astype(np.float32), (contexts, length, vocab))
    return TableModel(every.astype(np.float64), (vocab + 1) ** np.arange(length - 1, -1, -1))


def windows(seed: int, vocab: int, length: int, count: int) -> np.ndarray:
    """Return random sequences."""
    return np.random.default_rng([seed, 1]).integers(0, vocab, (count, length))


def nelbo(
    seed: int, vocab: int, length: int, count: int, draws: int, first_row: int, batch_rows: int
) -> Compare:
    """The pilot's plan and every draw of the estimate."""
    model, ids_NL = table_model(seed, vocab, length), windows(seed, vocab, length, count)
    plan = reference.likelihood.pilot(model.reference, ids_NL, vocab, 8, seed, first_row)
    exact = reference.likelihood.nelbo(model.reference, ids_NL, vocab, draws, plan, seed, first_row)
    rows = np.arange(first_row, first_row + 9)
    offsets = np.array([reference.sizes.offset(seed, int(row), 1) for row in rows])

    def compare(setting: Setting) -> list[Difference]:
        where = {"batch_rows": batch_rows, "device": setting.device}
        given = model.fast(setting), ids_NL, vocab
        pilot = fast.likelihood.pilot(*given, 8, seed, first_row, **where)
        nats_NK = fast.likelihood.nelbo(*given, draws, plan, seed, first_row, **where)
        return [
            same(fast.sizes.offset(seed, rows, 1), offsets),
            same(pilot.cumulative_2L, plan.cumulative_2L),
            relative(pilot.curve_2L, plan.curve_2L),
            relative(nats_NK, exact),
        ]

    return compare


def nelbo_grid(
    seed: int,
    vocab: int,
    length: int,
    count: int,
    points: int,
    epsilon: float,
    forced_below: float,
    first_row: int,
) -> Compare:
    """Every time of the published grid."""
    model, ids_NL = table_model(seed, vocab, length), windows(seed, vocab, length, count)
    given = ids_NL, vocab, points, epsilon, forced_below, seed, first_row
    exact = reference.likelihood.nelbo_grid(model.reference, *given)
    grid = partial(fast.likelihood.nelbo_grid, batch_rows=3)
    return lambda at: [relative(grid(model.fast(at), *given, device=at.device), exact)]


def causal(seed: int, vocab: int, length: int, previous: list[int]) -> Compare:
    """The one pass of an autoregressive model, with or without a token before the window."""
    model = table_model(seed, vocab, length)
    given = windows(seed, vocab, length, len(previous)), np.array(previous)
    exact = reference.likelihood.causal_nll(model.reference, *given)
    nll = partial(fast.likelihood.causal_nll, batch_rows=2)
    return lambda at: [same(nll(model.fast(at), *given, device=at.device), exact)]


def chain(
    order: str,
    seed: int,
    vocab: int,
    length: int,
    count: int,
    step: int,
    block: int,
    first_row: int,
    batch_rows: int,
    tied: bool = False,
) -> Compare:
    """What every token costs along an order: the same positions in the same order, so the same
    numbers bit for bit.
    """
    model, ids_NL = table_model(seed, vocab, length, tied), windows(seed, vocab, length, count)
    given = ids_NL, vocab, order, seed, step, block, first_row
    exact = reference.chain.chain(model.reference, *given)
    rows = np.arange(first_row, first_row + 5)
    priorities = reference.orders.priorities(order, seed, rows, 9, block)
    masked_BL = np.random.default_rng(seed).random((count, length)) < 0.6
    masked_BL[:, 0] = True
    log_probs_BLV = model.reference(np.where(masked_BL, vocab, ids_NL))
    window_priorities = reference.orders.priorities(order, seed, np.arange(count), length, block)
    arrays = log_probs_BLV, masked_BL, window_priorities
    chosen = [reference.orders.next_positions(order, *row, 1) for row in zip(*arrays, strict=True)]

    def compare(setting: Setting) -> list[Difference]:
        where = {"batch_rows": batch_rows, "device": setting.device}
        nats_NL = fast.chain.chain(model.fast(setting), *given, **where)
        drawn = fast.orders.priorities(order, seed, rows, 9, block, device=setting.device)
        following = fast.orders.next_positions(order, *map(setting.tensor, arrays), 1)
        return [same(nats_NL, exact), same(drawn, priorities), same(following, np.array(chosen))]

    return compare


def chain_cases(order: str) -> list[dict]:
    """Return models of one to five positions, one or several revealed per pass, ties, and rows that
    start anywhere.
    """
    return table(
        "seed vocab length count step block first_row batch_rows tied",
        (0, 2, 1, 2, 1, 2, 0, 64, False),
        (1, 3, 5, 5, 1, 2, 0, 2, False),
        (2, 3, 5, 4, 2, 2, 7, 64, False),
        (3, 3, 5, 3, 1, 2, 100, 3, True),
        (4, 4, 4, 9, 3, 3, 0, 4, False),
        (5, 2, 6, 9, 1, 2, 2, 5, False),
        order=order,
    )


def score(seed: int, count: int, draws: int) -> Compare:
    """The error bars and the result of windows of several lengths."""
    rng = np.random.default_rng(seed)
    nats_NK = rng.gamma(2, 3, (count, draws))
    tokens_N, bytes_N = rng.integers(1, 9, count), rng.integers(1, 30, count)
    variance_N = reference.likelihood.mask_variance(nats_NK)
    given = ("nelbo", None, nats_NK.mean(axis=1), variance_N, tokens_N, bytes_N, count * draws, 0.5)
    exact = reference.likelihood.summarize(*given)

    def compare(setting: Setting) -> list[Difference]:
        result = fast.likelihood.summarize(*given)
        pairs = [
            (np.array(a), np.array(b))
            for a, b in zip(result[2:], exact[2:], strict=True)
            if not (math.isnan(a) and math.isnan(b))
        ]
        return [
            relative(fast.likelihood.mask_variance(nats_NK), variance_N),
            *(relative(a, b) for a, b in pairs),
            same(result[0], exact[0]),
        ]

    return compare


def evaluate(
    estimator: str, order: str | None, seed: int, first_row: int, first_token: str
) -> Compare:
    """The score of a stream of two full windows, one more group and a shorter tail: nats, bytes,
    error bars, from the estimators' twins.
    """
    vocab, rng = 3, np.random.default_rng(seed)
    pieces, kinds = ["<s>", "\u2581ab", "c"], ["control", "normal", "normal"]
    groups = [
        (rng.integers(0, vocab, (count, length)), rng.integers(-1, vocab, count))
        for count, length in ((2, 5), (3, 5), (1, 2))
    ]
    models = {length: table_model(seed + length, vocab, length) for length in (5, 2)}
    byte_table = reference.bytes.byte_table(pieces, kinds)
    settings = {"seed": seed, "draws": DRAWS, "points": DRAWS, "step": 2, "block": 2}
    effort = fast.evaluate.Effort(estimator, order, **settings)
    estimate = reference.likelihood.METHODS[estimator]
    parts, row = [], first_row
    for ids_NL, previous_N in groups:
        log_probs = models[ids_NL.shape[1]].reference
        before_N = previous_N if first_token == "stream" else np.full(len(previous_N), -1)
        previous_NL = np.concatenate([before_N[:, None], ids_NL[:, :-1]], axis=1)
        counts_N = reference.bytes.token_bytes(ids_NL, previous_NL, byte_table).sum(axis=1)
        nats = estimate(log_probs, ids_NL, previous_N, vocab, effort, row)
        parts.append((*nats, np.full(*ids_NL.shape), counts_N))
        row += len(ids_NL)
    exact = reference.likelihood.summarize(
        estimator, order, *map(np.concatenate, zip(*parts, strict=True)), 0, 0.0
    )

    def compare(setting: Setting) -> list[Difference]:
        log_probs = {length: model.fast(setting) for length, model in models.items()}
        result = fast.evaluate.evaluate(
            lambda ids_BL: log_probs[ids_BL.shape[1]](ids_BL),
            [fast.data.Windows(*group) for group in groups],
            fast.bytes.byte_table(pieces, kinds),
            estimator,
            order,
            **settings,
            first_token=first_token,
            first_row=first_row,
            batch_rows=2,
            device=setting.device,
        )
        names = ("bpb", "stderr_masks", "stderr_sequences", "nats_per_token", "tokens", "bytes")
        pairs = [[np.array(getattr(half, name)) for half in (result, exact)] for name in names]
        return [relative(*pair) for pair in pairs]

    return compare


APART = "exact: gaps between scores exceed their rounding, or are 0"
STILL = f"{ALGORITHM}: float32 log-probabilities are summed in float64"
CHAINS = ("left-to-right", "random", "confidence", "block")
EVALUATED = [
    (estimator, order)
    for estimator in reference.likelihood.METHODS
    for order in (CHAINS if estimator == "chain" else (None, None))
]
PIECES = [
    Piece(
        "nelbo",
        nelbo,
        table(
            "seed vocab length count draws first_row batch_rows",
            (0, 2, 1, 1, 2, 0, 64),
            (1, 3, 4, 5, 3, 0, 2),
            (2, 3, 5, 4, 8, 7, 64),
            (3, 2, 6, 1, 5, 3, 1),
            *((seed, 3, 4, 7, 4, seed, 3) for seed in range(4, 10)),
        ),
        STILL,
        float32_only=True,
    ),
    Piece(
        "nelbo-grid",
        nelbo_grid,
        table(
            "seed vocab length count points epsilon forced_below first_row",
            (0, 2, 1, 1, 2, 0.001, 0.01, 0),
            (1, 3, 4, 5, 9, 0.001, 0.2, 0),
            *((seed, 3, 5, 4, 16, 0.01, 0.01 * seed, seed) for seed in range(2, 8)),
        ),
        STILL,
        float32_only=True,
    ),
    Piece(
        "causal",
        causal,
        table(
            "seed vocab length previous",
            (0, 3, 1, [-1, 0, 2]),
            (1, 3, 5, [-1, 1, 2, 0, 1]),
            (2, 3, 4, [2]),
        ),
        "exact: nothing is summed",
        bitwise=True,
        float32_only=True,
    ),
    *[
        Piece(f"chain-{order}", chain, chain_cases(order), APART, bitwise=True, float32_only=True)
        for order in reference.orders.ORDERS
    ],
    Piece(
        "evaluate",
        evaluate,
        table(
            "estimator order seed first_row first_token",
            *(
                (*estimate, seed, 3 * seed, ("stream", "control")[seed % 2])
                for seed, estimate in enumerate(EVALUATED)
            ),
        ),
        STILL,
        float32_only=True,
    ),
    Piece(
        "score",
        score,
        table("seed count draws", (0, 1, 2), (1, 2, 3), (2, 5, 4), (3, 9, 7), (4, 40, 16)),
    ),
]
