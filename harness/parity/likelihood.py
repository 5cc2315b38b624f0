"""Pieces nelbo, nelbo-grid, causal, chain (one per order), evaluate and score, on models that are a
table of random distributions.
"""

import math
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
from harness.parity.compare import ALGORITHM, Difference, Setting, relative, same
from harness.parity.suite import Compare, Piece

DRAWS = 5  # masks per window, or times of the grid, in a whole evaluation


class Table(NamedTuple):
    """A conditional distribution for every visible context, hidden positions holding id `vocab`;
    float32 values in both halves.
    """

    log_probs: np.ndarray  # ((vocab + 1)**length, length, vocab)
    place: np.ndarray

    def reference(self, ids_BL: np.ndarray) -> np.ndarray:
        """log_probs for the reference."""
        return self.log_probs[ids_BL @ self.place]

    def fast(self, setting: Setting):
        """log_probs for the fast half, in the setting's dtype."""
        table, place = setting.tensor(self.log_probs), setting.tensor(self.place)
        return lambda ids_BL: table[(ids_BL * place).sum(dim=1)]


def table(seed: int, vocab: int, length: int, tied: bool = False) -> Table:
    """Return a random table; tied: the same distribution everywhere, so that every choice is
    a tie.
    """
    contexts = (vocab + 1) ** length
    logits = 1.5 * np.random.default_rng(seed).standard_normal(
        (1 if tied else contexts, 1 if tied else length, vocab)
    )
    log_probs = (
        (logits - np.log(np.exp(logits).sum(axis=-1, keepdims=True)))
        .astype(np.float32)
        .astype(np.float64)
    )
    return Table(
        np.array(np.broadcast_to(log_probs, (contexts, length, vocab))),
        (vocab + 1) ** np.arange(length - 1, -1, -1),
    )


def windows(seed: int, vocab: int, length: int, count: int) -> np.ndarray:
    """Return random sequences."""
    return np.random.default_rng([seed, 1]).integers(0, vocab, (count, length))


def nelbo(
    seed: int, vocab: int, length: int, count: int, draws: int, first_row: int, batch_rows: int
) -> Compare:
    """The pilot's plan and every draw of the estimate."""
    model, ids_NL = table(seed, vocab, length), windows(seed, vocab, length, count)
    plan = reference.likelihood.pilot(model.reference, ids_NL, vocab, 8, seed, first_row)
    exact = reference.likelihood.nelbo(model.reference, ids_NL, vocab, draws, plan, seed, first_row)
    offsets = np.array(
        [reference.sizes.offset(seed, row, 1) for row in range(first_row, first_row + 9)]
    )

    def compare(setting: Setting) -> list[Difference]:
        log_probs, where = model.fast(setting), {"batch_rows": batch_rows, "device": setting.device}
        own = fast.likelihood.pilot(log_probs, ids_NL, vocab, 8, seed, first_row, **where)
        found = fast.likelihood.nelbo(
            log_probs, ids_NL, vocab, draws, plan, seed, first_row, **where
        )
        return [
            same(fast.sizes.offset(seed, np.arange(first_row, first_row + 9), 1), offsets),
            same(own.cumulative_2L, plan.cumulative_2L),
            relative(own.curve_2L, plan.curve_2L),
            relative(found, exact),
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
    model, ids_NL = table(seed, vocab, length), windows(seed, vocab, length, count)
    given = (points, epsilon, forced_below, seed, first_row)
    exact = reference.likelihood.nelbo_grid(model.reference, ids_NL, vocab, *given)

    def compare(setting: Setting) -> list[Difference]:
        found = fast.likelihood.nelbo_grid(
            model.fast(setting), ids_NL, vocab, *given, batch_rows=3, device=setting.device
        )
        return [relative(found, exact)]

    return compare


def causal(seed: int, vocab: int, length: int, previous: list[int]) -> Compare:
    """The one pass of an autoregressive model, with or without a token before the window."""
    model, ids_NL = table(seed, vocab, length), windows(seed, vocab, length, len(previous))
    exact = reference.likelihood.causal_nll(model.reference, ids_NL, np.array(previous))

    def compare(setting: Setting) -> list[Difference]:
        found = fast.likelihood.causal_nll(
            model.fast(setting), ids_NL, np.array(previous), batch_rows=2, device=setting.device
        )
        return [same(found, exact)]

    return compare


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
    model, ids_NL = table(seed, vocab, length, tied), windows(seed, vocab, length, count)
    exact = reference.chain.chain(
        model.reference, ids_NL, vocab, order, seed, step, block, first_row
    )
    rows = np.arange(first_row, first_row + 5)
    priorities = reference.orders.priorities(order, seed, rows, 9, block)
    masked_BL = np.random.default_rng(seed).random((count, length)) < 0.6
    masked_BL[:, 0] = True
    log_probs_BLV = model.reference(np.where(masked_BL, vocab, ids_NL))
    own_BL = reference.orders.priorities(order, seed, np.arange(count), length, block)
    chosen = np.array(
        [
            reference.orders.next_positions(order, *row, 1)
            for row in zip(log_probs_BLV, masked_BL, own_BL, strict=True)
        ]
    )

    def compare(setting: Setting) -> list[Difference]:
        found = fast.chain.chain(
            model.fast(setting),
            ids_NL,
            vocab,
            order,
            seed,
            step,
            block,
            first_row,
            batch_rows=batch_rows,
            device=setting.device,
        )
        fast_priorities = fast.orders.priorities(order, seed, rows, 9, block, device=setting.device)
        given = setting.tensor(log_probs_BLV), setting.tensor(masked_BL), setting.tensor(own_BL)
        return [
            same(found, exact),
            same(fast_priorities, priorities),
            same(fast.orders.next_positions(order, *given, 1), chosen),
        ]

    return compare


def chain_cases(order: str) -> list[dict]:
    """Return models of one to five positions, one or several revealed per pass, ties, and rows that
    start anywhere.
    """
    shared = {"order": order, "block": 2}
    return [
        shared
        | {
            "seed": 0,
            "vocab": 2,
            "length": 1,
            "count": 2,
            "step": 1,
            "first_row": 0,
            "batch_rows": 64,
        },
        shared
        | {
            "seed": 1,
            "vocab": 3,
            "length": 5,
            "count": 5,
            "step": 1,
            "first_row": 0,
            "batch_rows": 2,
        },
        shared
        | {
            "seed": 2,
            "vocab": 3,
            "length": 5,
            "count": 4,
            "step": 2,
            "first_row": 7,
            "batch_rows": 64,
        },
        shared
        | {
            "seed": 3,
            "vocab": 3,
            "length": 5,
            "count": 3,
            "step": 1,
            "first_row": 100,
            "batch_rows": 3,
            "tied": True,
        },
        shared
        | {
            "seed": 4,
            "vocab": 4,
            "length": 4,
            "count": 9,
            "step": 3,
            "first_row": 0,
            "batch_rows": 4,
            "block": 3,
        },
        shared
        | {
            "seed": 5,
            "vocab": 2,
            "length": 6,
            "count": 9,
            "step": 1,
            "first_row": 2,
            "batch_rows": 5,
        },
    ]


def score(seed: int, count: int, draws: int) -> Compare:
    """The error bars and the result of windows of several lengths."""
    rng = np.random.default_rng(seed)
    nats_NK, tokens_N, bytes_N = (
        rng.gamma(2, 3, (count, draws)),
        rng.integers(1, 9, count),
        rng.integers(1, 30, count),
    )
    variance_N = reference.likelihood.mask_variance(nats_NK)
    given = ("nelbo", None, nats_NK.mean(axis=1), variance_N, tokens_N, bytes_N, count * draws, 0.5)
    exact = reference.likelihood.summarize(*given)

    def compare(setting: Setting) -> list[Difference]:
        found = fast.likelihood.summarize(*given)
        pairs = [
            (np.array(a), np.array(b))
            for a, b in zip(found[2:], exact[2:], strict=True)
            if not (math.isnan(a) and math.isnan(b))
        ]
        return [
            relative(fast.likelihood.mask_variance(nats_NK), variance_N),
            *(relative(a, b) for a, b in pairs),
            same(found[0], exact[0]),
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
    models = {length: table(seed + length, vocab, length) for length in (5, 2)}
    byte_table = reference.bytes.byte_table(pieces, kinds)
    parts, row = [], first_row
    for ids_NL, previous_N in groups:
        parts.append(
            _reference_part(
                estimator,
                order,
                models[ids_NL.shape[1]].reference,
                ids_NL,
                previous_N,
                vocab,
                seed,
                row,
            )
        )
        before_N = previous_N if first_token == "stream" else np.full(len(previous_N), -1)
        previous_NL = np.concatenate([before_N[:, None], ids_NL[:, :-1]], axis=1)
        parts[-1] += (
            np.full(*ids_NL.shape),
            reference.bytes.token_bytes(ids_NL, previous_NL, byte_table).sum(axis=1),
        )
        row += len(ids_NL)
    exact = reference.likelihood.summarize(
        estimator, order, *(np.concatenate(column) for column in zip(*parts, strict=True)), 0, 0.0
    )

    def compare(setting: Setting) -> list[Difference]:
        log_probs = {length: model.fast(setting) for length, model in models.items()}
        windows = [fast.data.Windows(*group) for group in groups]
        found = fast.evaluate.evaluate(
            lambda ids_BL: log_probs[ids_BL.shape[1]](ids_BL),
            windows,
            fast.bytes.byte_table(pieces, kinds),
            estimator,
            order,
            seed=seed,
            draws=DRAWS,
            points=DRAWS,
            step=2,
            block=2,
            first_token=first_token,
            first_row=first_row,
            batch_rows=2,
            device=setting.device,
        )
        names = ("bpb", "stderr_masks", "stderr_sequences", "nats_per_token", "tokens", "bytes")
        return [
            relative(np.array(getattr(found, name)), np.array(getattr(exact, name)))
            for name in names
        ]

    return compare


def _reference_part(
    estimator: str,
    order: str | None,
    log_probs,
    ids_NL,
    previous_N,
    vocab: int,
    seed: int,
    row: int,
) -> tuple:
    """Return (nats_N, variance_N) of one group by the reference, with the settings that evaluate()
    is given.
    """
    still_N = np.zeros(len(ids_NL))
    if estimator == "chain":
        return (
            reference.chain.chain(log_probs, ids_NL, vocab, order, seed, 2, 2, row).sum(axis=1),
            still_N,
        )
    if estimator == "causal":
        return reference.likelihood.causal_nll(log_probs, ids_NL, previous_N).sum(axis=1), still_N
    if estimator == "nelbo":
        plan = reference.likelihood.pilot(log_probs, ids_NL, vocab, 8, seed, row)
        nats_NK = reference.likelihood.nelbo(log_probs, ids_NL, vocab, DRAWS, plan, seed, row)
    else:
        nats_NK = reference.likelihood.nelbo_grid(
            log_probs, ids_NL, vocab, DRAWS, 0.001, 0.01, seed, row
        )
    return nats_NK.mean(axis=1), reference.likelihood.mask_variance(nats_NK)


APART = "exact: gaps between scores exceed their rounding, or are 0"
STILL = f"{ALGORITHM}: float32 log-probabilities are summed in float64"
PIECES = [
    Piece(
        "nelbo",
        nelbo,
        [
            {
                "seed": 0,
                "vocab": 2,
                "length": 1,
                "count": 1,
                "draws": 2,
                "first_row": 0,
                "batch_rows": 64,
            },
            {
                "seed": 1,
                "vocab": 3,
                "length": 4,
                "count": 5,
                "draws": 3,
                "first_row": 0,
                "batch_rows": 2,
            },
            {
                "seed": 2,
                "vocab": 3,
                "length": 5,
                "count": 4,
                "draws": 8,
                "first_row": 7,
                "batch_rows": 64,
            },
            {
                "seed": 3,
                "vocab": 2,
                "length": 6,
                "count": 1,
                "draws": 5,
                "first_row": 3,
                "batch_rows": 1,
            },
            *[
                {
                    "seed": seed,
                    "vocab": 3,
                    "length": 4,
                    "count": 7,
                    "draws": 4,
                    "first_row": seed,
                    "batch_rows": 3,
                }
                for seed in range(4, 10)
            ],
        ],
        STILL,
        float32_only=True,
    ),
    Piece(
        "nelbo-grid",
        nelbo_grid,
        [
            {
                "seed": 0,
                "vocab": 2,
                "length": 1,
                "count": 1,
                "points": 2,
                "epsilon": 0.001,
                "forced_below": 0.01,
                "first_row": 0,
            },
            {
                "seed": 1,
                "vocab": 3,
                "length": 4,
                "count": 5,
                "points": 9,
                "epsilon": 0.001,
                "forced_below": 0.2,
                "first_row": 0,
            },
            *[
                {
                    "seed": seed,
                    "vocab": 3,
                    "length": 5,
                    "count": 4,
                    "points": 16,
                    "epsilon": 0.01,
                    "forced_below": 0.01 * seed,
                    "first_row": seed,
                }
                for seed in range(2, 8)
            ],
        ],
        STILL,
        float32_only=True,
    ),
    Piece(
        "causal",
        causal,
        [
            {"seed": seed, "vocab": 3, "length": length, "previous": previous}
            for seed, (length, previous) in enumerate(
                ((1, [-1, 0, 2]), (5, [-1, 1, 2, 0, 1]), (4, [2]))
            )
        ],
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
        [
            {
                "estimator": estimator,
                "order": order,
                "seed": seed,
                "first_row": 3 * seed,
                "first_token": ("stream", "control")[seed % 2],
            }
            for seed, (estimator, order) in enumerate(
                (
                    ("nelbo", None),
                    ("nelbo", None),
                    ("nelbo-grid", None),
                    ("nelbo-grid", None),
                    ("chain", "left-to-right"),
                    ("chain", "random"),
                    ("chain", "confidence"),
                    ("chain", "block"),
                    ("causal", None),
                    ("causal", None),
                )
            )
        ],
        STILL,
        float32_only=True,
    ),
    Piece(
        "score",
        score,
        [
            {"seed": seed, "count": count, "draws": draws}
            for seed, (count, draws) in enumerate(((1, 2), (2, 3), (5, 4), (9, 7), (40, 16)))
        ],
    ),
]
