"""Pieces loss, rmsnorm, rope, attention, block, unet, forward, predictor and gradients."""

import itertools
from dataclasses import replace
from functools import partial

import numpy as np
import torch

import fast.evaluate
import fast.masking
import fast.train
import fast.transformer
import reference.gradient
import reference.masking
import reference.objective
import reference.train
import reference.transformer
from fast.data import windows_of
from fast.objective import objective_of
from harness.parity import plain
from harness.parity.compare import (
    Compare,
    Difference,
    Setting,
    against_plain,
    held,
    joined,
    representable,
    same_tensors,
    twice,
    unit_roundoff,
    within,
)
from harness.parity.suite import Piece, table
from reference.recipe import TINY, Model, check

EPS, BASE = TINY.model.norm_eps, TINY.model.rope_base
FLOAT32 = unit_roundoff(torch.float32)
KINDS = ("q", "k", "v", "o", "query_gain")
MATRICES = ("q", "k", "v", "o", "up", "down")
SMALL = Model(layers=2, d=4, heads=2, kv_heads=1, mlp=1, vocab=4, length=4)
GROUPED = Model(layers=2, d=24, heads=6, kv_heads=3, mlp=1, vocab=5, length=5)
MEDIUM = Model(layers=3, d=48, heads=6, kv_heads=2, mlp=2, vocab=40, length=33)


def random_params(model: Model, seed: int) -> dict[str, np.ndarray]:
    """Return weights of every shape, matrices scaled by fan-in, the rest of order one: initial
    weights leave half of it unused.
    """
    rng = np.random.default_rng(seed)
    shapes = reference.transformer.shapes(model)
    scale = {
        name: shape[1] ** -0.5 if name.split(".")[-1] in MATRICES else 1.0
        for name, shape in shapes.items()
    }
    return {
        name: representable(scale[name] * rng.standard_normal(shape))
        for name, shape in shapes.items()
    }


def random_ids(model: Model, seed: int, rows: int, length: int) -> np.ndarray:
    """Return ids that the network may see, the mask's among them where it has one."""
    vocab = model.vocab + objective_of(model).mask_token
    return np.random.default_rng(seed).integers(0, vocab, (rows, length))


def loss(seed: int, rows: int, length: int, vocab: int, scale: float) -> Compare:
    """The diffusion loss and the causal one, of logits within the softcap."""
    rng = np.random.default_rng(seed)
    logits_BLV = representable(scale * rng.uniform(-1, 1, (rows, length, vocab)))
    ids_BL = rng.integers(0, vocab, (rows, length))
    mask_BL = rng.random((rows, length)) < rng.random((rows, 1))
    weights_B = np.minimum(1 / rng.uniform(1e-3, 1, rows), 100.0)

    def both(half, logits_BLV, ids_BL, mask_BL, weights_B):
        masked = half.masking.loss(logits_BLV, ids_BL, mask_BL, weights_B)
        return masked, half.masking.causal_loss(logits_BLV, ids_BL)

    exact = np.array(both(reference, logits_BLV, ids_BL, mask_BL, weights_B))
    # Shift, exp, a sum of V and the log: each logit counts with its size; then the sums over L and
    # B.
    nats_BL = reference.masking.cross_entropy(logits_BLV, ids_BL)
    token, sums = FLOAT32 * (6 * scale + vocab + 10), FLOAT32 * (length + rows + 4)
    size = weights_B[:, None] * (token + sums * nats_BL) * mask_BL / length
    bound = np.array([size.sum(axis=1).mean(), token + sums * nats_BL.mean()])

    def compare(setting: Setting) -> list[Difference]:
        arrays = map(setting.tensor, (logits_BLV, ids_BL, mask_BL))
        losses = setting.run(partial(both, fast), *arrays, setting.tensor(weights_B, torch.float64))
        return [within(setting, torch.stack(losses), exact, bound)]

    return compare


def rmsnorm(seed: int, width: int, scale: float) -> Compare:
    """The norm over the last axis."""
    x = representable(scale * np.random.default_rng(seed).standard_normal((16, width)))
    exact = reference.transformer.rmsnorm(x, EPS)

    def compare(setting: Setting) -> list[Difference]:
        if not held(x, setting.dtype).all():
            return []
        normed, last = fast.transformer.rmsnorm(setting.cast(x), EPS), setting.last
        # Below the smallest normal number a rounding is absolute.
        bound = ((width + 4) * FLOAT32 * (1 + last) + last) * np.abs(exact)
        return [within(setting, normed, exact, bound + torch.finfo(setting.dtype).tiny * last)]

    return compare


def rope(seed: int, length: int, width: int, base: float, frequencies: str) -> Compare:
    """The rotation of pairs, with its own angles and with a table."""
    x = representable(np.random.default_rng(seed).standard_normal((1, 2, length, width)))
    exact = reference.transformer.rope(x, base, frequencies=frequencies)
    pair = np.tile(np.abs(x[..., : width // 2]) + np.abs(x[..., width // 2 :]), 2)

    def compare(setting: Setting) -> list[Difference]:
        bound = 4 * FLOAT32 * pair * (1 + setting.last) + setting.last * np.abs(exact)
        given = length, width, base, setting.device, setting.master
        tables = None, fast.transformer.rope_table(*given, frequencies)
        turned = (
            fast.transformer.rope(setting.cast(x), base, table, frequencies=frequencies)
            for table in tables
        )
        return [within(setting, found, exact, bound) for found in turned]

    return compare


def attention(seed: int, model: Model) -> Compare:
    """Grouped heads, both directions of view."""
    params = random_params(model, seed)
    weights = {kind: params[f"blocks.0.{kind}"] for kind in KINDS}
    x = representable(np.random.default_rng(seed).standard_normal((2, model.length, model.d)))
    return against_plain(
        reference.transformer.attention(x, *weights.values(), model),
        lambda at: fast.transformer.attention(at.cast(x), *at.tensors(weights).values(), model),
        lambda at: plain.attention(at.cast(x), at.tensors(weights, at.dtype), model),
    )


def block(seed: int, model: Model) -> Compare:
    """A whole block, the last one of the model."""
    params, rng, i = random_params(model, seed), np.random.default_rng(seed), model.layers - 1
    both = [representable(rng.standard_normal((2, model.length, model.d))) for _ in range(2)]

    def plainly(at: Setting) -> torch.Tensor:
        weights = plain.block_weights(at.tensors(params), i, at.dtype)
        return plain.block(*map(at.cast, both), weights, model)

    return against_plain(
        reference.transformer.block(*both, params, i, model),
        lambda at: fast.transformer.block(*map(at.cast, both), at.tensors(params), i, model),
        plainly,
    )


def forward(
    seed: int, model: Model, rows: int = 2, open: bool = True, scale: float = 1.0
) -> Compare:
    """Logits of the whole network; open=False shuts attention and MLP, which leaves the U-Net's
    wiring alone.
    """
    params = random_params(model, seed)
    params["embedding"] = representable(scale * params["embedding"])
    for name in () if open else params:
        if name.endswith(("attn_scale", "mlp_scale")):
            params[name] = 0 * params[name]
    ids_BL = random_ids(model, seed, rows, model.length)

    def run(at: Setting) -> torch.Tensor:
        def logits(params, ids_BL):
            return fast.transformer.forward(params, ids_BL, model, at.dtype)

        return at.run(logits, at.tensors(params), at.tensor(ids_BL))

    return against_plain(
        reference.transformer.forward(params, ids_BL, model),
        run,
        lambda at: plain.forward(at.tensors(params), at.tensor(ids_BL), model, at.dtype),
        masters=True,
    )


def plain_log_probs(
    params: dict, ids_BL: np.ndarray, model: Model, at: Setting, causal: bool = False
) -> torch.Tensor:
    """Return log-probabilities by the plain network in the dtype of a setting."""
    objective = reference.objective.objective_of(model)
    causal = causal or objective.is_causal
    given_BL = (objective.before if causal else objective.shown)(ids_BL, model)
    logits_BLV = plain.forward(at.tensors(params), at.tensor(given_BL), model, at.dtype, causal)
    return logits_BLV.log_softmax(-1)


def predictor(seed: int, model: Model, length: int, causal: bool = False) -> Compare:
    """Log-probabilities as every score takes them, for whole windows and for a shorter one; causal:
    by the attention that looks back.
    """
    params, ids_BL = random_params(model, seed), random_ids(model, seed, 2, length)
    estimator = "causal" if causal else None

    def run(at: Setting) -> torch.Tensor:
        training = replace(TINY.training, compute_dtype=at.dtype_name)
        recipe = replace(TINY, model=model, training=training)
        log_probs = fast.evaluate.predictor(
            at.tensors(params), recipe, at.device, at.compiled, estimator
        )
        return log_probs(at.tensor(ids_BL))

    return against_plain(
        reference.transformer.log_probs(params, ids_BL, model, causal),
        run,
        partial(plain_log_probs, params, ids_BL, model, causal=causal),
        masters=True,
    )


def gradients(
    seed: int, model: Model, step: int, rows: list[int], spare: int | None = None
) -> Compare:
    """Autograd of the whole fast loss against the complex step of the reference, every parameter;
    the loss too.

    spare: the head sees masked positions alone, with so many slots left over.
    """
    tokens = {"tokens_per_step": (1 + max(rows)) * model.length, "micro_batch_tokens": model.length}
    training = replace(TINY.training, **tokens)
    recipe = check(replace(TINY, seed=seed, model=model, training=training))
    params, rows_B = random_params(model, seed), np.array(rows)
    ids_BS = np.random.default_rng(seed).integers(0, model.vocab, (len(rows), model.length + 1))
    ids_BS[0, 0] = -1  # the first token of a stream
    windows = windows_of(ids_BS)

    def loss_of(params):
        return reference.train.batch_loss(params, windows, step, rows, recipe)

    value, exact = np.array(loss_of(params)), reference.gradient.gradient(loss_of, params)
    views = reference.objective.objective_of(model).views(*windows, step, rows, recipe)
    masked = sum(int(view.asked_BL.sum()) for view in views if not view.looks_back)
    capacity = None if spare is None else masked + spare

    def sent(setting: Setting) -> tuple[torch.Tensor, ...]:
        return tuple(map(setting.tensor, windows))

    def compare(setting: Setting) -> list[Difference]:
        def fast_loss(leaves, windows, step, rows_B, drawn):
            settings = recipe, drawn, setting.dtype
            return fast.train.batch_loss(
                leaves, windows, step, rows_B, *settings, capacity=capacity
            )

        leaves = setting.leaves(params)
        at = torch.tensor(step, device=setting.device)
        drawn = objective_of(model).noise(recipe, step, rows_B, setting.device)
        given = sent(setting), at, setting.tensor(rows_B), drawn
        loss = setting.run(fast_loss, leaves, *given)
        grads = plain.gradients_of(loss, leaves)
        if setting.algorithm:
            return [within(setting, loss, value, 0.0), *same_tensors(grads, exact)]

        def plainly() -> np.ndarray:
            leaves = setting.leaves(params)
            given = sent(setting), step, rows_B, recipe, setting.dtype
            return joined(plain.gradients_of(plain.batch_loss(leaves, *given), leaves))

        whole = torch.from_numpy(joined(grads)).to(setting.master)
        return twice(setting, whole, joined(exact), plainly, setting.master)

    return compare


def models(**fields) -> list[Model]:
    """Return the models of the fixed cases with some fields replaced, medium ones last, both
    directions of view.
    """
    three = [SMALL, GROUPED, replace(SMALL, heads=1, kv_heads=1, length=1), MEDIUM]
    return [replace(model, causal=causal, **fields) for model in three for causal in (True, False)]


# Neighbours at the input, and predictions one position early
MIXED, SHIFTED = replace(GROUPED, mixing=2, causal=True), replace(GROUPED, mixing=1, shift=True)
ROUNDED = replace(MEDIUM, rope_frequencies="bfloat16")
DUAL = replace(TINY.model, mixing=2, shift=True, causal_share=0.5)  # two objectives as well


TWICE = "2 x the rms error of a plain run in the same dtype, its sums in another order"
PIECES = [
    Piece(
        "loss",
        loss,
        table(
            "seed rows length vocab scale",
            (0, 1, 1, 2, 0.0),
            *((seed, 3, 5, 4, scale) for seed in range(6) for scale in (1.0, 30.0)),
            (1, 8, 33, 40, 30.0),
        ),
        "u(6S + V + 10) for each masked position's log-softmax of logits up to S, u(L + B + 4) of"
        " the sums",
        float32_only=True,
        compiles=1,
    ),
    Piece(
        "rmsnorm",
        rmsnorm,
        table(
            "seed width scale",
            *(
                (seed, width, scale)
                for seed, width in enumerate((1, 2, 6, 576))
                for scale in (0.0, 1e-5, 1.0, 1e4)
            ),
        ),
        "(width + 4) roundings of float32, then one of the dtype",
    ),
    Piece(
        "rope",
        rope,
        table(
            "seed length width base frequencies",
            (0, 1, 2, 10.0, "exact"),
            (1, 7, 4, 10000.0, "exact"),
            (2, 5, 6, 100.0, "exact"),
            (3, 1024, 72, 10000.0, "exact"),
            (4, 1024, 72, 10000.0, "bfloat16"),
        ),
        "4 roundings of float32 of the pair's size, then one of the dtype",
    ),
    Piece(
        "attention",
        attention,
        table("seed model", *itertools.product(range(2), models(layers=1))),
        TWICE,
    ),
    Piece("block", block, table("seed model", *itertools.product(range(2), models())), TWICE),
    Piece(
        "unet",
        forward,
        table(
            "seed model",
            *((layers, replace(SMALL, layers=layers)) for layers in (1, 2, 3, 4, 5, 8)),
            (7, replace(MEDIUM, layers=6, d=12, heads=2, kv_heads=1)),
            open=False,
        ),
        TWICE,
    ),
    Piece(
        "forward",
        forward,
        [
            *table("seed model", *itertools.product(range(2), models())),
            {"seed": 4, "model": replace(SMALL, softcap=3.0), "scale": 20.0},
            {"seed": 5, "model": replace(SMALL, layers=5)},
            {"seed": 6, "model": MEDIUM, "rows": 4},
            {"seed": 7, "model": MIXED},
            {"seed": 8, "model": replace(MEDIUM, mixing=2)},
            {"seed": 9, "model": ROUNDED},
        ],
        TWICE,
        compiles=1,
    ),
    Piece(
        "predictor",
        predictor,
        table(
            "seed model length",
            (0, SMALL, 4),
            (1, GROUPED, 2),
            (2, replace(SMALL, causal=True), 4),
            (3, replace(MEDIUM, causal=True), 33),
            (4, MEDIUM, 20),
            (5, MEDIUM, 33),
            (6, MIXED, 5),
            (7, SHIFTED, 3),
            (8, replace(MEDIUM, mixing=2, shift=True), 33),
            (11, ROUNDED, 33),
        )
        + table(
            "seed model length causal",
            (9, DUAL, 5, True),
            (10, replace(MEDIUM, mixing=2, causal_share=0.5), 33, True),
        ),
        TWICE,
        compiles=1,
    ),
    Piece(
        "gradients",
        gradients,
        table(
            "seed model step rows spare",
            (0, replace(SMALL, layers=1, length=1), 0, [0], None),
            (1, replace(SMALL, layers=3, d=2, heads=1, vocab=3), 1, [4, 9], None),
            (2, replace(SMALL, causal=True), 3, [1, 0, 2], None),
            (3, SMALL, 80_000, [5, 6, 7], None),
            (4, replace(TINY.model, causal=True), 3, [0, 1, 2, 3], None),
            (5, TINY.model, 3, [0, 1, 2, 3], None),
            (6, SMALL, 4, [0, 1, 2], 0),
            (7, TINY.model, 5, [0, 1, 2, 3], 5),
            (8, replace(SMALL, causal=True, mixing=2), 3, [1, 0, 2], None),
            (9, replace(SMALL, shift=True), 3, [1, 0, 2], None),
            (10, replace(TINY.model, mixing=2, shift=True), 5, [0, 1, 2, 3], 5),
            (11, replace(SMALL, causal_share=0.3), 2, [6, 3, 4, 2], 1),
            (12, replace(SMALL, mixing=1, causal_share=0.75), 2, [1, 2, 3], None),
            (13, DUAL, 4, [0, 1, 2, 3, 4, 5], 3),
        ),
        TWICE,
        compiles=1,
    ),
]
