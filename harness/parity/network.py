"""Pieces loss, rmsnorm, rope, attention, block, unet, forward, predictor and gradients."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import torch

import fast.evaluate
import fast.masking
import fast.train
import fast.transformer
import reference.gradient
import reference.masking
import reference.train
import reference.transformer
from harness.parity import plain
from harness.parity.compare import (
    Difference,
    Setting,
    held,
    joined,
    representable,
    same_tensors,
    twice,
    unit_roundoff,
    within,
)
from harness.parity.suite import Compare, Piece
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


def loss(seed: int, rows: int, length: int, vocab: int, scale: float) -> Compare:
    """The diffusion loss and the causal one, of logits within the softcap."""
    rng = np.random.default_rng(seed)
    logits_BLV = representable(scale * rng.uniform(-1, 1, (rows, length, vocab)))
    ids_BL, mask_BL = (
        rng.integers(0, vocab, (rows, length)),
        rng.random((rows, length)) < rng.random((rows, 1)),
    )
    weights_B = np.minimum(1 / rng.uniform(1e-3, 1, rows), 100.0)
    exact = np.array(
        [
            reference.masking.loss(logits_BLV, ids_BL, mask_BL, weights_B),
            reference.masking.causal_loss(logits_BLV, ids_BL),
        ]
    )
    # shift, exp, a sum of V and the log: each logit counts with its size; then the sums over L and
    # B.
    nats_BL, each = (
        reference.masking.cross_entropy(logits_BLV, ids_BL),
        FLOAT32 * (6 * scale + vocab + 10),
    )
    sums = FLOAT32 * (length + rows + 4)
    size = weights_B[:, None] * (each + sums * nats_BL) * mask_BL / length
    bound = np.array([size.sum(axis=1).mean(), each + sums * nats_BL.mean()])

    def compare(setting: Setting) -> list[Difference]:
        def both(logits_BLV, ids_BL, mask_BL, weights_B):
            return fast.masking.loss(
                logits_BLV, ids_BL, mask_BL, weights_B
            ), fast.masking.causal_loss(logits_BLV, ids_BL)

        given = (
            setting.tensor(logits_BLV),
            setting.tensor(ids_BL),
            setting.tensor(mask_BL),
            setting.tensor(weights_B, torch.float64),
        )
        found = torch.stack(setting.run(both, *given))
        return [within(setting, found, exact, bound)]

    return compare


def rmsnorm(seed: int, width: int, scale: float) -> Compare:
    """The norm over the last axis."""
    x = representable(scale * np.random.default_rng(seed).standard_normal((16, width)))
    exact = reference.transformer.rmsnorm(x, EPS)

    def compare(setting: Setting) -> list[Difference]:
        if not held(x, setting.dtype).all():
            return []
        found = fast.transformer.rmsnorm(setting.tensor(x, setting.dtype), EPS)
        last = unit_roundoff(setting.dtype) if setting.dtype != torch.float32 else 0.0
        least = (
            torch.finfo(setting.dtype).tiny * last
        )  # below the smallest normal number a rounding is absolute
        return [
            within(
                setting,
                found,
                exact,
                ((width + 4) * FLOAT32 * (1 + last) + last) * np.abs(exact) + least,
            )
        ]

    return compare


def rope(seed: int, length: int, width: int, base: float) -> Compare:
    """The rotation of pairs, with its own angles and with a table."""
    x = representable(np.random.default_rng(seed).standard_normal((1, 2, length, width)))
    exact = reference.transformer.rope(x, base)
    pair = np.tile(np.abs(x[..., : width // 2]) + np.abs(x[..., width // 2 :]), 2)

    def compare(setting: Setting) -> list[Difference]:
        last = unit_roundoff(setting.dtype) if setting.dtype != torch.float32 else 0.0
        bound = 4 * FLOAT32 * pair * (1 + last) + last * np.abs(exact)
        table = fast.transformer.rope_table(length, width, base, setting.device, setting.master)
        given = setting.tensor(x, setting.dtype)
        return [
            within(setting, fast.transformer.rope(given, base, each), exact, bound)
            for each in (None, table)
        ]

    return compare


def attention(seed: int, model: Model) -> Compare:
    """Grouped heads, both directions of view."""
    params, rng = random_params(model, seed), np.random.default_rng(seed)
    x, weights = (
        representable(rng.standard_normal((2, model.length, model.d))),
        [params[f"blocks.0.{kind}"] for kind in KINDS],
    )
    exact = reference.transformer.attention(x, *weights, model)

    def compare(setting: Setting) -> list[Difference]:
        given = setting.tensor(x, setting.dtype)
        found = fast.transformer.attention(given, *map(setting.tensor, weights), model)
        own = dict(
            zip(KINDS, (setting.tensor(value, setting.dtype) for value in weights), strict=True)
        )
        return twice(setting, found, exact, lambda: plain.attention(given, own, model))

    return compare


def block(seed: int, model: Model) -> Compare:
    """A whole block, the last one of the model."""
    params, rng, i = random_params(model, seed), np.random.default_rng(seed), model.layers - 1
    x, x0 = (representable(rng.standard_normal((2, model.length, model.d))) for _ in range(2))
    exact = reference.transformer.block(x, x0, params, i, model)

    def compare(setting: Setting) -> list[Difference]:
        given = setting.tensor(x, setting.dtype), setting.tensor(x0, setting.dtype)
        masters = setting.tensors(params)
        found = fast.transformer.block(*given, masters, i, model)
        return twice(
            setting,
            found,
            exact,
            lambda: plain.block(*given, plain.block_weights(masters, i, setting.dtype), model),
        )

    return compare


def forward(
    seed: int, model: Model, rows: int = 2, open: bool = True, scale: float = 1.0
) -> Compare:
    """Logits of the whole network; open=False shuts attention and MLP, which leaves the U-Net's
    wiring alone.
    """
    params = random_params(model, seed)
    params["embedding"] = representable(scale * params["embedding"])
    if not open:
        params |= {
            name: np.zeros_like(value)
            for name, value in params.items()
            if name.endswith(("attn_scale", "mlp_scale"))
        }
    ids_BL = np.random.default_rng(seed).integers(
        0, model.vocab + (not model.causal), (rows, model.length)
    )
    exact = reference.transformer.forward(params, ids_BL, model)

    def compare(setting: Setting) -> list[Difference]:
        given = setting.tensors(params), setting.tensor(ids_BL)
        found = setting.run(
            lambda params, ids_BL: fast.transformer.forward(params, ids_BL, model, setting.dtype),
            *given,
        )
        return twice(
            setting,
            found,
            exact,
            lambda: plain.forward(*given, model, setting.dtype),
            setting.master,
        )

    return compare


def predictor(seed: int, model: Model, length: int) -> Compare:
    """Log-probabilities as every score takes them, for whole windows and for a shorter one."""
    recipe, params = replace(TINY, model=model), random_params(model, seed)
    ids_BL = np.random.default_rng(seed).integers(0, model.vocab + (not model.causal), (2, length))
    exact = reference.masking.log_softmax(reference.transformer.forward(params, ids_BL, model))

    def compare(setting: Setting) -> list[Difference]:
        own = replace(recipe, training=replace(recipe.training, compute_dtype=setting.dtype_name))
        given = setting.tensors(params), setting.tensor(ids_BL)
        found = fast.evaluate.predictor(given[0], own, setting.device, setting.compiled)(given[1])
        return twice(
            setting,
            found,
            exact,
            lambda: plain.forward(*given, model, setting.dtype).log_softmax(-1),
            setting.master,
        )

    return compare


def gradients(
    seed: int, model: Model, step: int, rows: list[int], spare: int | None = None
) -> Compare:
    """Autograd of the whole fast loss against the complex step of the reference, every parameter;
    the loss too.

    spare: the head sees masked positions alone, with so many slots left over.
    """
    training = replace(TINY.training, tokens_per_step=model.length, micro_batch_tokens=model.length)
    recipe = check(replace(TINY, seed=seed, model=model, training=training))
    params = random_params(model, seed)
    ids_BS = np.random.default_rng(seed).integers(0, model.vocab, (len(rows), model.length + 1))
    ids_BS[0, 0] = -1  # the first token of a stream

    def of_params(params):
        return reference.train.batch_loss(params, ids_BS, step, rows, recipe)

    value, exact = np.array(of_params(params)), reference.gradient.gradient(of_params, params)
    thresholds_B = reference.masking.thresholds(
        reference.masking.times(seed, step, rows, recipe.diffusion.epsilon)
    )
    masked = int(reference.masking.mask(seed, step, rows, model.length, thresholds_B).sum())
    capacity = None if spare is None else masked + spare

    def compare(setting: Setting) -> list[Difference]:
        leaves = {name: leaf.requires_grad_() for name, leaf in setting.tensors(params).items()}
        drawn = fast.train.noise(recipe, step, np.array(rows), setting.device)

        def fast_loss(leaves, ids_BS, step, rows_B, drawn):
            return fast.train.batch_loss(
                leaves, ids_BS, step, rows_B, recipe, drawn, setting.dtype, capacity=capacity
            )

        at = torch.tensor(step, device=setting.device)
        found = setting.run(
            fast_loss, leaves, setting.tensor(ids_BS), at, setting.tensor(np.array(rows)), drawn
        )
        grads = dict(
            zip(
                leaves,
                torch.autograd.grad(found, list(leaves.values()), materialize_grads=True),
                strict=True,
            )
        )
        if setting.algorithm:
            return [within(setting, found, value, 0.0), *same_tensors(grads, exact)]
        whole = torch.from_numpy(joined(grads)).to(setting.master)
        return twice(
            setting, whole, joined(exact), lambda: _plain_gradients(setting), setting.master
        )

    def _plain_gradients(setting: Setting) -> np.ndarray:
        leaves = {
            name: leaf.requires_grad_()
            for name, leaf in setting.tensors(params, torch.float32).items()
        }
        loss = plain.batch_loss(leaves, setting.tensor(ids_BS), step, rows, recipe, setting.dtype)
        grads = torch.autograd.grad(loss, list(leaves.values()), materialize_grads=True)
        return joined(dict(zip(leaves, grads, strict=True)))

    return compare


def models(**fields) -> list[Model]:
    """Return the models of the fixed cases with some fields replaced, medium ones last, both
    directions of view.
    """
    three = [SMALL, GROUPED, replace(SMALL, heads=1, kv_heads=1, length=1), MEDIUM]
    return [replace(model, causal=causal, **fields) for model in three for causal in (True, False)]


def numbered(make: Callable, count: int) -> list[dict]:
    """Return make(seed) for the first seeds."""
    return [make(seed) for seed in range(count)]


TWICE = "2 x the rms error of a plain run in the same dtype, its sums in another order"
PIECES = [
    Piece(
        "loss",
        loss,
        [
            {"seed": 0, "rows": 1, "length": 1, "vocab": 2, "scale": 0.0},
            *[
                {"seed": seed, "rows": 3, "length": 5, "vocab": 4, "scale": scale}
                for seed in range(6)
                for scale in (1.0, 30.0)
            ],
            {"seed": 1, "rows": 8, "length": 33, "vocab": 40, "scale": 30.0},
        ],
        "u(6S + V + 10) for each masked position's log-softmax of logits up to S, u(L + B + 4) of"
        " the sums",
        float32_only=True,
        compiles=1,
    ),
    Piece(
        "rmsnorm",
        rmsnorm,
        [
            {"seed": seed, "width": width, "scale": scale}
            for seed, width in enumerate((1, 2, 6, 576))
            for scale in (0.0, 1e-5, 1.0, 1e4)
        ],
        "(width + 4) roundings of float32, then one of the dtype",
    ),
    Piece(
        "rope",
        rope,
        [
            {"seed": seed, "length": length, "width": width, "base": base}
            for seed, (length, width, base) in enumerate(
                ((1, 2, 10.0), (7, 4, 10000.0), (5, 6, 100.0), (1024, 72, 10000.0))
            )
        ],
        "4 roundings of float32 of the pair's size, then one of the dtype",
    ),
    Piece(
        "attention",
        attention,
        [{"seed": seed, "model": model} for seed in range(2) for model in models(layers=1)],
        TWICE,
    ),
    Piece(
        "block",
        block,
        [{"seed": seed, "model": model} for seed in range(2) for model in models()],
        TWICE,
    ),
    Piece(
        "unet",
        forward,
        [
            *[
                {"seed": layers, "model": replace(SMALL, layers=layers), "open": False}
                for layers in (1, 2, 3, 4, 5, 8)
            ],
            {
                "seed": 7,
                "model": replace(MEDIUM, layers=6, d=12, heads=2, kv_heads=1),
                "open": False,
            },
        ],
        TWICE,
    ),
    Piece(
        "forward",
        forward,
        [
            *[{"seed": seed, "model": model} for seed in range(2) for model in models()],
            {"seed": 4, "model": replace(SMALL, softcap=3.0), "scale": 20.0},
            {"seed": 5, "model": replace(SMALL, layers=5)},
            {"seed": 6, "model": MEDIUM, "rows": 4},
        ],
        TWICE,
        compiles=1,
    ),
    Piece(
        "predictor",
        predictor,
        [
            {"seed": 0, "model": SMALL, "length": 4},
            {"seed": 1, "model": GROUPED, "length": 2},
            {"seed": 2, "model": replace(SMALL, causal=True), "length": 4},
            {"seed": 3, "model": replace(MEDIUM, causal=True), "length": 33},
            {"seed": 4, "model": MEDIUM, "length": 20},
            {"seed": 5, "model": MEDIUM, "length": 33},
        ],
        TWICE,
        compiles=1,
    ),
    Piece(
        "gradients",
        gradients,
        [
            {"seed": 0, "model": replace(SMALL, layers=1, length=1), "step": 0, "rows": [0]},
            {
                "seed": 1,
                "model": replace(SMALL, layers=3, d=2, heads=1, vocab=3),
                "step": 1,
                "rows": [4, 9],
            },
            {"seed": 2, "model": replace(SMALL, causal=True), "step": 3, "rows": [1, 0, 2]},
            {"seed": 3, "model": SMALL, "step": 80_000, "rows": [5, 6, 7]},
            {"seed": 4, "model": replace(TINY.model, causal=True), "step": 3, "rows": [0, 1, 2, 3]},
            {"seed": 5, "model": TINY.model, "step": 3, "rows": [0, 1, 2, 3]},
            {"seed": 6, "model": SMALL, "step": 4, "rows": [0, 1, 2], "spare": 0},
            {"seed": 7, "model": TINY.model, "step": 5, "rows": [0, 1, 2, 3], "spare": 5},
        ],
        TWICE,
        compiles=1,
    ),
]
