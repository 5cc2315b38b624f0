"""What no piece may do: change its arguments, mind strides, use a global generator, follow a global
dtype, leave the device.
"""

import random
from collections.abc import Callable

import numpy as np
import pytest
import torch

from fast import (
    adam,
    bytes,
    chain,
    container,
    ema,
    fp8,
    likelihood,
    masking,
    muon,
    orders,
    philox,
    quantize,
    schedule,
    sizes,
    train,
    transformer,
)
from reference.recipe import GOLF, TINY, Plan
from tests.support.compare import relative_error, unit_roundoff

OPTIMIZER, TRAINING, MODEL = GOLF.optimizer, TINY.training, TINY.model
TABLE = bytes.byte_table(
    ["a", "\u2581b", "\u2581", "<s>", "<0x41>"], ["normal", "normal", "normal", "control", "byte"]
)
COUNTS = torch.from_numpy(np.array([[2**22, 2**23, 2**23 + 2**22, 2**24]] * 2))
PLAN = Plan(COUNTS.numpy(), np.linspace(2, 1, 4)[None].repeat(2, axis=0))


def normal(*shape: int) -> torch.Tensor:
    """The same float64 numbers every time, about 1 in size."""
    return torch.from_numpy(np.random.default_rng(len(shape)).standard_normal(shape))


def ids() -> torch.Tensor:
    """Ids (3, 4) below 5."""
    return torch.arange(12).reshape(3, 4) % 5


IDS = torch.arange(2 * MODEL.length).reshape(2, -1) * 5 % MODEL.vocab
WEIGHTS = [normal(*shape) / shape[-1] ** 0.5 for shape in transformer.shapes(MODEL).values()]


def named(weights) -> dict[str, torch.Tensor]:
    """The model's weights by name."""
    return dict(zip(transformer.shapes(MODEL), weights, strict=True))


def log_probs(ids_BL: torch.Tensor) -> torch.Tensor:
    """A model of 5 tokens that leans on the ids to its left."""
    logits_BLV = normal(1, 4, 5) + ids_BL.cumsum(1)[..., None] * torch.linspace(
        0, 0.4, 5, dtype=torch.float64
    )
    return logits_BLV.log_softmax(-1)


def orthogonal(matrix: torch.Tensor) -> torch.Tensor:
    """Newton-Schulz as the recipe has it."""
    return muon.newton_schulz(
        matrix, OPTIMIZER.muon_steps, OPTIMIZER.muon_coefficients, OPTIMIZER.muon_eps
    )


def stored(format: str) -> Callable:
    """Through a weight format and back."""
    return lambda values: quantize.from_bytes(quantize.to_bytes(values, format), (3, 66), format)


def packed(codec: str) -> Callable:
    """Through a container and back."""
    formats = {"a": "float32", "b": "e4m3-row"}
    return lambda one, two: container.unpack(
        container.pack({"a": one, "b": two}, formats, {"x": 1}, codec)
    )


def next_two(order: str) -> Callable:
    """The next two positions of an order."""
    return lambda log_probs_BLV, masked_BL, priority_BL: orders.next_positions(
        order, log_probs_BLV, masked_BL, priority_BL, 2
    )


def along(order: str) -> Callable:
    """The chain rule along an order."""
    return lambda ids_NL: chain.chain(log_probs, ids_NL, 5, order, 7, 3, 2, batch_rows=2)


def sliding(ids_NL, context_NC):
    """Windows that slide by two tokens."""

    def cost(ids_NW, previous_N, first_N, count):
        return chain.continuation(log_probs, ids_NW, 5, first_N, count, batch_rows=2)

    return likelihood.sliding(cost, ids_NL, context_NC, 2)


CALLS: dict[str, tuple[Callable, list]] = (
    {
        "philox4x32": (
            philox.philox4x32,
            [torch.arange(8).reshape(2, 4), torch.tensor([[3, 5], [7, 11]])],
        ),
        "words": (lambda rows: philox.words(7, 1, 3, rows, 5), [torch.tensor([4, 2, 9])]),
        "uniforms": (philox.uniforms, [torch.arange(6).reshape(2, 3) << 28]),
        "radical_inverse": (masking.radical_inverse, [np.arange(9)]),
        "times": (lambda rows: masking.times(7, 3, rows, 0.01), [np.arange(6)]),
        "thresholds": (masking.thresholds, [np.linspace(0.01, 1, 6)]),
        "mask": (
            lambda rows, thresholds: masking.mask(7, 3, rows, 5, thresholds),
            [torch.arange(4), torch.tensor([1, 2**22, 2**23, 2**24])],
        ),
        "corrupt": (
            lambda ids_BL, mask_BL: masking.corrupt(ids_BL, mask_BL, 5),
            [ids(), ids() > 2],
        ),
        "log_softmax": (masking.log_softmax, [normal(3, 4, 5)]),
        "log_softmax of bfloat16": (masking.log_softmax, [normal(3, 4, 5).bfloat16()]),
        "weights": (lambda times: masking.weights(times, 100.0), [np.array([0.5, 0.001, 1.0])]),
        "loss": (masking.loss, [normal(3, 4, 5), ids(), ids() > 2, torch.tensor([1.0, 2.0, 4.0])]),
        "loss in float32": (
            masking.loss,
            [normal(3, 4, 5).float(), ids(), ids() > 2, normal(3).square()],
        ),
        "causal_loss": (masking.causal_loss, [normal(3, 4, 5), ids()]),
        "newton_schulz": (orthogonal, [normal(6, 4)]),
        "newton_schulz, wide": (orthogonal, [normal(2, 4, 6)]),
        "muon_step": (
            lambda *state: muon.muon_step(*state, 0.02, 0.95, OPTIMIZER),
            [normal(6, 4), 2 * normal(6, 4), 3 * normal(6, 4)],
        ),
        "adam_step": (
            lambda *state: adam.adam_step(*state, 3, 0.04, OPTIMIZER),
            [normal(6, 4), normal(6, 4), normal(6, 4), normal(6, 4).square()],
        ),
        "clip": (
            lambda one, two: adam.clip({"one": one, "two": two}, 0.5),
            [normal(6, 4), normal(5)],
        ),
        "clip of small gradients": (
            lambda one, two: adam.clip({"one": one, "two": two}, 1e9),
            [normal(6, 4), normal(5)],
        ),
        "ema_update": (
            lambda shadow, weight: ema.ema_update(shadow, weight, 0.9),
            [normal(6, 4), 2 * normal(6, 4)],
        ),
        "ema_update from bfloat16": (
            lambda shadow, weight: ema.ema_update(shadow, weight, 0.9),
            [normal(6, 4).float(), normal(6, 4).bfloat16()],
        ),
        "rmsnorm": (lambda x: transformer.rmsnorm(x, 1e-6), [normal(2, 3, 4)]),
        "rope": (lambda x: transformer.rope(x, 10000.0), [normal(2, 2, 5, 4)]),
        "initialize": (lambda: transformer.initialize(MODEL, 7), []),
        "forward": (
            lambda ids_BL, *weights: transformer.forward(named(weights), ids_BL, MODEL),
            [IDS, *WEIGHTS],
        ),
        "forward in bfloat16": (
            lambda ids_BL, *weights: transformer.forward(
                named(weights), ids_BL, MODEL, torch.bfloat16
            ),
            [IDS, *(w.float() for w in WEIGHTS)],
        ),
        "batch_loss": (
            lambda ids_BL, previous_B, *weights: train.batch_loss(
                named(weights), (ids_BL, previous_B), 3, np.arange(2), TINY
            ),
            [torch.cat([IDS[:, 1:], IDS[:, :1]], dim=1), IDS[:, 0], *WEIGHTS],
        ),
        "step_seconds": (schedule.step_seconds, [[0.3, 0.1, 0.5, 0.2, 0.4, 0.6]]),
        "remaining_steps": (
            lambda durations: schedule.remaining_steps(
                9, 3.0, schedule.step_seconds(durations), TRAINING
            ),
            [[0.3, 0.1]],
        ),
        "byte_table": (bytes.byte_table, [["a", "\u2581b"], ["normal", "normal"]]),
        "token_bytes": (
            lambda now, before: bytes.token_bytes(now, before, TABLE),
            [ids().numpy(), ids().numpy() - 1],
        ),
        "scores": (
            lambda log_probs_BLV: orders.scores("entropy", log_probs_BLV),
            [log_probs(ids())],
        ),
        "fixed_mask": (
            likelihood.fixed_mask,
            [philox.words(7, 1, 3, range(3), 4), torch.tensor([1, 4, 2])],
        ),
        "nll": (
            lambda ids_BL, mask_BL: likelihood.nll(log_probs, ids_BL, mask_BL, 5),
            [ids(), ids() > 2],
        ),
        "causal_nll": (
            lambda ids_NL, before: likelihood.causal_nll(log_probs, ids_NL, before, batch_rows=2),
            [ids().numpy(), np.array([-1, 0, 3])],
        ),
        "pilot": (
            lambda ids_NL: likelihood.pilot(log_probs, ids_NL, 5, 4, 7, batch_rows=2),
            [ids().numpy()],
        ),
        "nelbo": (
            lambda ids_NL: likelihood.nelbo(log_probs, ids_NL, 5, 3, PLAN, 7, batch_rows=2),
            [ids().numpy()],
        ),
        "nelbo_grid": (
            lambda ids_NL: likelihood.nelbo_grid(
                log_probs, ids_NL, 5, 3, 0.01, 0.01, 7, batch_rows=2
            ),
            [ids().numpy()],
        ),
        "sliding": (sliding, [ids().numpy(), 4 - ids().numpy()]),
        "mask_variance": (likelihood.mask_variance, [np.square(normal(4, 5).numpy())]),
        "cumulative_counts": (sizes.cumulative_counts, [np.array([3.0, 1.0, 0.0, 2.0])]),
        "draw_sizes": (
            lambda counts, offsets: sizes.draw_sizes(counts, offsets, 3),
            [COUNTS, torch.tensor([5, 2**23])],
        ),
        "fit": (
            lambda drawn, losses: sizes.fit(drawn, losses, 4),
            [np.array([1, 2, 3, 4]), np.array([2.0, 1.5, 1.2, np.nan])],
        ),
    }
    | {
        f"encode {kind}, {dtype}": (
            lambda values, kind=kind: fp8.encode(values, kind),
            [normal(3, 5).to(dtype)],
        )
        for kind in fp8.KINDS
        for dtype in (torch.float64, torch.float32, torch.bfloat16)
    }
    | {
        f"decode {kind}": (
            lambda codes, kind=kind: fp8.decode(codes, kind),
            [torch.arange(15, dtype=torch.uint8).reshape(3, 5)],
        )
        for kind in fp8.KINDS
    }
    | {
        f"to_bytes {format}": (
            lambda values, format=format: quantize.to_bytes(values, format),
            [normal(3, 66).float()],
        )
        for format in quantize.FORMATS
    }
    | {f"from_bytes {format}": (stored(format), [normal(3, 66)]) for format in quantize.FORMATS}
    | {
        f"container, {codec}": (packed(codec), [normal(3, 66), normal(0, 5)])
        for codec in ("none", "zlib", "lzma", "lz4", "entropy")
    }
    | {
        f"next_positions {order}": (
            next_two(order),
            [
                log_probs(ids()),
                torch.tensor([[1, 1, 0, 1]] * 3).bool(),
                orders.priorities(order, 7, range(3), 4, 2).clone(),
            ],
        )
        for order in orders.ORDERS
    }
    | {f"chain {order}": (along(order), [ids().numpy()]) for order in orders.ORDERS}
)
every_call = pytest.mark.parametrize(("call", "arguments"), CALLS.values(), ids=CALLS)


def plain(value):
    """A result as nested lists with the type of every array: equal exactly where results are."""
    if isinstance(value, torch.Tensor):
        return (
            str(value.dtype),
            tuple(value.shape),
            value.detach().cpu().contiguous().flatten().view(torch.uint8).tolist(),
        )
    if isinstance(value, np.ndarray | np.generic):
        return str(value.dtype), np.shape(value), value.tobytes()
    if isinstance(value, dict):
        return {key: plain(inner) for key, inner in value.items()}
    return [plain(inner) for inner in value] if isinstance(value, list | tuple) else value


def assert_alike(found, expected):
    """Equal where discrete, and where float up to 64 roundings of the largest entry: sums of fewer
    terms may pair otherwise.
    """
    if isinstance(expected, dict | list | tuple):
        assert len(found) == len(expected)
        for one, two in (
            zip(found.values(), expected.values())
            if isinstance(expected, dict)
            else zip(found, expected)
        ):
            assert_alike(one, two)
    elif isinstance(expected, torch.Tensor) and expected.is_floating_point():
        assert found.dtype == expected.dtype
        assert relative_error(found, expected) <= 64 * unit_roundoff(expected.dtype)
    else:
        assert plain(found) == plain(expected)


def strided(value):
    """The same values in other memory: every second entry of the last axis of something larger,
    which holds other values in between.
    """
    if isinstance(value, torch.Tensor):
        return torch.stack([value, torch.ones_like(value)], dim=-1)[..., 0]
    return (
        np.stack([value, np.ones_like(value)], axis=-1)[..., 0]
        if isinstance(value, np.ndarray)
        else value
    )


@every_call
def test_arguments_stay_as_they_are_and_results_repeat(call, arguments):
    before = plain(arguments)
    first = plain(call(*arguments))
    assert plain(arguments) == before
    assert plain(call(*arguments)) == first


@every_call
def test_strides_do_not_matter(call, arguments):
    assert_alike(call(*map(strided, arguments)), call(*arguments))


@every_call
def test_global_generators_are_neither_used_nor_moved(call, arguments):
    results = []
    for seed in (0, 1):
        torch.manual_seed(seed), np.random.seed(seed), random.seed(seed)
        before = (
            torch.get_rng_state().tolist(),
            plain(np.random.get_state()[1]),
            np.random.get_state()[2],
            random.getstate(),
        )
        results.append(plain(call(*arguments)))
        assert (
            torch.get_rng_state().tolist(),
            plain(np.random.get_state()[1]),
            np.random.get_state()[2],
            random.getstate(),
        ) == before
    assert results[0] == results[1]


@every_call
def test_the_default_dtype_does_not_matter(call, arguments):
    expected = plain(call(*arguments))
    try:
        torch.set_default_dtype(torch.float64)
        assert plain(call(*arguments)) == expected
    finally:
        torch.set_default_dtype(torch.float32)


ON_HOST = (  # by the start of the name
    "radical_inverse",
    "times",
    "thresholds",
    "weights",
    "step_seconds",
    "remaining_steps",
    "byte_table",
    "token_bytes",
    "initialize",
    "nll",
    "causal_nll",
    "pilot",
    "nelbo",
    "chain",
    "sliding",
    "mask_variance",
    "cumulative_counts",
    "fit",
    "to_bytes",
    "from_bytes",
    "container",
    "encode",
    "decode",
)
ON_DEVICE = {name: pair for name, pair in CALLS.items() if not name.startswith(ON_HOST)} | {
    f"{verb} {kind} unchecked": (
        lambda values, verb=verb, kind=kind: getattr(fp8, verb)(values, kind, check=False),
        [argument],
    )
    for kind in fp8.KINDS
    for verb, argument in (
        ("encode", normal(3, 5)),
        ("decode", torch.arange(15, dtype=torch.uint8)),
    )
}


@pytest.mark.parametrize(("call", "arguments"), ON_DEVICE.values(), ids=ON_DEVICE)
def test_results_lie_where_the_arguments_do(call, arguments):
    """The meta device computes shapes, dtypes and devices alone; an operation on two devices and a
    look at a value are errors.
    """
    expected, found = call(*arguments), call(*(value.to("meta") for value in arguments))

    def compare(one, two):
        if isinstance(two, torch.Tensor):
            assert one.is_meta and one.dtype == two.dtype and one.shape == two.shape
        else:
            pairs = zip(one.values(), two.values()) if isinstance(two, dict) else zip(one, two)
            for inner, other in pairs:
                compare(inner, other)

    compare(found, expected)


def test_float64_controls_leave_a_float32_state_in_float32():
    """A compiled step passes rate, momentum, count and decay as 0-d float64 tensors; they act as
    plain floats do, up to rounding.
    """
    controls = [torch.tensor(value, dtype=torch.float64) for value in (3.0, 0.04, 0.9)]
    weight, grad, first, second = (
        normal(6, 4).float(),
        normal(4, 6).mT.float(),
        normal(6, 4).float(),
        normal(6, 4).square().float(),
    )
    for step, lr, decay in (controls, [value.item() for value in controls]):
        results = [
            *adam.adam_step(weight, grad, first, second, step, lr, OPTIMIZER),
            *muon.muon_step(weight, grad, first, lr, decay, OPTIMIZER, torch.bfloat16),
            ema.ema_update(first, weight.bfloat16(), decay),
        ]
        assert {value.dtype for value in results} == {torch.float32}
        if lr is controls[1]:
            expected = results
    for found, other in zip(results, expected, strict=True):
        assert relative_error(found, other) <= 64 * unit_roundoff(torch.float32)
