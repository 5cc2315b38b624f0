"""The network: twins in float64, loops and torch's own attention as oracles, rounding against a
plainer run in the same dtype.
"""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

import fast.transformer
import reference.transformer
from harness.parity import plain
from reference.recipe import DEMO, GOLF, TINY, Model
from tests.support.compare import (
    assert_same_algorithm,
    assert_same_tensors,
    relative_error,
    rms,
    unit_roundoff,
)
from tests.support.strategies import models, random_ids, random_params, rngs, seeds, tensors

KINDS = ("q", "k", "v", "o", "query_gain")
MEDIUM = Model(layers=3, d=48, heads=6, kv_heads=2, mlp=2, vocab=40, length=33)
half_dtypes = pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])


def both(params, ids_BL, model):
    """Return (fast, reference) logits in float64."""
    return fast.transformer.forward(
        tensors(params), torch.from_numpy(ids_BL), model
    ), reference.transformer.forward(params, ids_BL, model)


def attention_inputs(model, rng, rows=2):
    """Return x_BLd and the five weights of an attention."""
    params = random_params(model, rng)
    return rng.standard_normal((rows, model.length, model.d)), [
        params[f"blocks.0.{kind}"] for kind in KINDS
    ]


# parameters


def test_golf_has_19190656_parameters():
    for half in (reference.transformer, fast.transformer):
        assert sum(math.prod(shape) for shape in half.shapes(GOLF.model).values()) == 19_190_656


def test_tiny_is_tiny():
    assert (
        900
        < sum(math.prod(shape) for shape in reference.transformer.shapes(TINY.model).values())
        < 1500
    )


@given(models())
def test_shapes_are_equal_in_order_and_size(model):
    expected = reference.transformer.shapes(model)
    assert list(fast.transformer.shapes(model).items()) == list(expected.items())
    assert expected["embedding"] == (model.vocab + (0 if model.causal else 1), model.d)
    assert expected["skip"] == (model.layers // 2, model.d)


@given(models(), seeds)
@settings(max_examples=30)
def test_initial_weights_are_equal(model, seed):
    """Float32 of the same float64 formulas: the last bit may differ where log and cos of the two
    libraries do.
    """
    expected = reference.transformer.initialize(model, seed)
    found = fast.transformer.initialize(model, seed)
    assert list(found) == list(expected)
    for name, value in expected.items():
        assert found[name].dtype == torch.float32 and found[name].shape == value.shape
        assert relative_error(found[name], value) <= 2 * unit_roundoff(torch.float32), name


def test_initial_weights_are_what_the_specification_says():
    """Moments of about 10**5 draws within 6 standard errors; ranges exactly."""
    params = reference.transformer.initialize(replace(DEMO.model, layers=2), 11)
    embedding = params["embedding"]
    assert embedding.shape == (1025, 128)
    assert abs(embedding.mean()) < 6 * 0.005 / math.sqrt(embedding.size)
    assert abs(embedding.std() / 0.005 - 1) < 6 / math.sqrt(2 * embedding.size)
    assert abs((embedding**4).mean() / 0.005**4 - 3) < 6 * math.sqrt(96 / embedding.size)
    for name, value in params.items():
        kind = name.split(".")[-1]
        if kind in ("o", "down", "neighbours"):
            assert not value.any()
        elif kind in ("q", "k", "v", "up"):
            edge = 1 / math.sqrt(value.shape[1])
            assert -edge <= value.min() < -0.999 * edge and 0.999 * edge < value.max() <= edge
            assert abs(value.mean()) < 6 * edge / math.sqrt(3 * value.size)
        elif kind == "mix":
            assert (value[0] == 1).all() and (value[1] == 0).all()
        elif kind != "embedding":
            assert (value == (1.5 if kind == "query_gain" else 1.0)).all()
    distinct = {
        value.ravel()[:4].tobytes()
        for name, value in params.items()
        if name.split(".")[-1] in ("q", "k", "v", "up")
    }
    assert len(distinct) == 8
    one, other = (
        reference.transformer.initialize(TINY.model, seed)["embedding"] for seed in (1, 2)
    )
    assert not np.array_equal(one, other)


@given(models(layers=st.integers(1, 4)), rngs)
@settings(max_examples=30)
def test_stack_and_unstack_undo_each_other(model, rng):
    params = tensors(random_params(model, rng))
    stacked = fast.transformer.stack(params)
    assert all(
        value.shape[0] == model.layers
        for kind, value in stacked.items()
        if kind not in ("embedding", "skip", "neighbours")
    )
    again = fast.transformer.unstack(stacked)
    assert list(again) == list(params)
    assert all(torch.equal(again[name], params[name]) for name in params)
    assert all(again[name]._is_view() for name in params if name.startswith("blocks."))
    assert fast.transformer.unstack(again) is again
    part = {name: value for name, value in params.items() if name.endswith((".q", "skip"))}
    again = fast.transformer.unstack(fast.transformer.stack(part))
    assert list(again) == list(part)
    assert all(torch.equal(again[name], part[name]) for name in part)


# rmsnorm


@given(rngs, st.integers(1, 20), st.sampled_from([1e-12, 1.0, 1e6]))
def test_rmsnorm(rng, width, scale):
    x = scale * rng.standard_normal((3, width))
    expected = reference.transformer.rmsnorm(x, 2.0**-23)
    assert_same_algorithm(fast.transformer.rmsnorm(torch.from_numpy(x), 2.0**-23), expected)
    by_hand = [
        [value / math.sqrt(math.fsum(v * v for v in row) / width + 2.0**-23) for value in row]
        for row in x
    ]
    assert relative_error(expected, np.array(by_hand)) < 1e-13


def test_rmsnorm_of_zero_is_zero_and_of_anything_large_has_mean_square_one():
    assert not reference.transformer.rmsnorm(np.zeros((1, 4)), 2.0**-23).any()
    assert not fast.transformer.rmsnorm(torch.zeros(1, 4), 2.0**-23).any()
    large = reference.transformer.rmsnorm(np.array([[1e5, -2e5, 3e5]]), 2.0**-23)
    assert (large**2).mean() == pytest.approx(1, rel=1e-14)


@half_dtypes
@pytest.mark.parametrize("scale", [1e-6, 1.0, 1e4])
def test_rmsnorm_rounds_once(dtype, scale):
    """float32 inside: (width + 4) roundings of 2**-24 from the sum, root and products, then one
    rounding to the dtype.
    """
    x = (scale * torch.randn(64, 576, generator=torch.Generator().manual_seed(0))).to(dtype)
    exact = reference.transformer.rmsnorm(x.double().numpy(), 2.0**-23)
    found = fast.transformer.rmsnorm(x, 2.0**-23)
    assert found.dtype == dtype
    limit = (576 + 4) * unit_roundoff(torch.float32) + (
        unit_roundoff(dtype) if dtype != torch.float32 else 0
    )
    assert (np.abs(found.double().numpy() - exact) <= limit * np.abs(exact)).all()


# RoPE


@given(rngs, st.integers(1, 12), st.sampled_from([2, 4, 6, 10]), st.sampled_from([10.0, 10000.0]))
def test_rope_is_a_rotation_of_complex_numbers(rng, length, width, base):
    """Pair (j, j + h/2) as x1 + i x2 turns by -position * base**(-2j/h)."""
    x = rng.standard_normal((2, 3, length, width))
    expected = reference.transformer.rope(x, base)
    z = x[..., : width // 2] + 1j * x[..., width // 2 :]
    turned = np.array(
        [
            [z[:, :, i, j] * np.exp(-1j * i * base ** (-2 * j / width)) for j in range(width // 2)]
            for i in range(length)
        ]
    )
    turned = np.moveaxis(turned, (0, 1), (2, 3))
    assert relative_error(expected, np.concatenate([turned.real, turned.imag], axis=-1)) < 1e-12
    assert_same_algorithm(fast.transformer.rope(torch.from_numpy(x), base), expected)
    table = fast.transformer.rope_table(length, width, base, dtype=torch.float64)
    assert_same_algorithm(fast.transformer.rope(torch.from_numpy(x), base, table), expected)


@pytest.mark.parametrize("base", [10.0, 500.0, 10000.0, 1e6])
def test_inverse_frequencies_are_rounded_as_a_buffer_is(base):
    """Every head width: the float32 that public scripts compute, cast by their model.bfloat16(), in
    both halves to the last bit.
    """
    changed = 0
    for width in range(2, 258, 2):
        buffer = 1.0 / (base ** (torch.arange(0, width, 2, dtype=torch.float32) / width))
        rounded = torch.nn.Module()
        rounded.register_buffer("inv_freq", buffer)
        expected = rounded.bfloat16().inv_freq.double().numpy()
        for half in (reference.transformer, fast.transformer):
            values = np.asarray(half.inverse_frequencies(width, base, "bfloat16"))
            assert values.dtype == np.float64 and np.array_equal(values, expected), width
            exact = np.asarray(half.inverse_frequencies(width, base))
            assert relative_error(exact, buffer.double().numpy()) < 2**-21  # a power in float32
            changed += (exact != expected).any()
    assert changed > 200  # of 2 * 128: a head of width 2 has the frequency 1


@given(rngs, st.sampled_from([2, 6, 72]), st.floats(1.0, 1e6))
def test_rope_by_rounded_frequencies_is_the_same_in_both_halves(rng, width, base):
    x = rng.standard_normal((1, 2, 40, width))
    expected = reference.transformer.rope(x, base, frequencies="bfloat16")
    given_x = torch.from_numpy(x)
    found = fast.transformer.rope(given_x, base, frequencies="bfloat16")
    assert_same_algorithm(found, expected)
    table = fast.transformer.rope_table(40, width, base, None, torch.float64, "bfloat16")
    assert_same_algorithm(fast.transformer.rope(given_x, base, table), expected)


@given(rngs, st.integers(0, 5), st.integers(1, 5))
def test_rope_scores_depend_on_the_distance_alone(rng, distance, shift):
    q, k = rng.standard_normal((2, 1, 1, 1, 6))
    q_at = reference.transformer.rope(np.repeat(q, 16, axis=2), 10000.0)[0, 0]
    k_at = reference.transformer.rope(np.repeat(k, 16, axis=2), 10000.0)[0, 0]
    scores = q_at @ k_at.T
    assert scores[distance, 0] == pytest.approx(
        scores[distance + shift, shift], rel=1e-11, abs=1e-12
    )
    assert scores[0, distance] == pytest.approx(
        scores[shift, distance + shift], rel=1e-11, abs=1e-12
    )
    np.testing.assert_array_equal(q_at[0], q[0, 0, 0])
    assert np.linalg.norm(q_at, axis=1) == pytest.approx(np.linalg.norm(q), rel=1e-12)


@half_dtypes
def test_rope_rounds_once_at_every_position(dtype):
    """Two products and a sum of float32 (3 roundings of the pair's size) with float32 angles, then
    one rounding to the dtype.
    """
    x = torch.randn(1, 2, 1024, 72, generator=torch.Generator().manual_seed(0)).to(dtype)
    exact = reference.transformer.rope(x.double().numpy(), 10000.0)
    size = np.abs(x.double().numpy())
    pair = np.tile(size[..., :36] + size[..., 36:], 2)
    limit = 4 * unit_roundoff(torch.float32) * pair + (
        unit_roundoff(dtype) * np.abs(exact) * (1 + 2**-8) if dtype != torch.float32 else 0
    )
    for table in (None, fast.transformer.rope_table(1024, 72, 10000.0)):
        found = fast.transformer.rope(x, 10000.0, table)
        assert found.dtype == dtype
        assert (np.abs(found.double().numpy() - exact) <= limit).all()


def test_positions_stay_distinct_in_bfloat16():
    ones = torch.ones(1, 1, 1024, 72, dtype=torch.bfloat16)
    assert len({tuple(row.tolist()) for row in fast.transformer.rope(ones, 10000.0)[0, 0]}) == 1024


# attention


@given(models(layers=st.just(1)), rngs)
@settings(max_examples=40)
def test_attention_is_a_loop_over_heads_and_positions(model, rng):
    x, (q, k, v, o, gain) = attention_inputs(model, rng)
    width, group = model.d // model.heads, model.heads // model.kv_heads
    out = np.zeros_like(x)
    for b in range(len(x)):
        joined = np.zeros((model.length, model.d))
        for head in range(model.heads):
            mine, shared = (
                slice(head * width, (head + 1) * width),
                slice(head // group * width, (head // group + 1) * width),
            )

            def turned(vectors):
                return reference.transformer.rope(
                    reference.transformer.rmsnorm(vectors, model.norm_eps), model.rope_base
                )

            queries, keys, values = (
                gain[head] * turned(x[b] @ q[mine].T),
                turned(x[b] @ k[shared].T),
                x[b] @ v[shared].T,
            )
            for i in range(model.length):
                seen = i + 1 if model.causal else model.length
                odds = [math.exp(queries[i] @ keys[j] / math.sqrt(width)) for j in range(seen)]
                joined[i, mine] = sum(odd * values[j] for j, odd in enumerate(odds)) / math.fsum(
                    odds
                )
        out[b] = joined @ o.T
    expected = reference.transformer.attention(x, q, k, v, o, gain, model)
    assert relative_error(expected, out) < 1e-11
    found = fast.transformer.attention(
        *(torch.from_numpy(value) for value in (x, q, k, v, o, gain)), model
    )
    assert_same_algorithm(found, expected)


@given(models(layers=st.just(1)), rngs)
@settings(max_examples=40)
def test_reference_attention_is_torchs(model, rng):
    x, (q, k, v, o, gain) = attention_inputs(model, rng)
    width = model.d // model.heads

    def split(matrix):
        return torch.from_numpy((x @ matrix.T).reshape(2, model.length, -1, width)).transpose(1, 2)

    def turned(heads):
        return torch.from_numpy(
            reference.transformer.rope(
                F.rms_norm(heads, (width,), eps=model.norm_eps).numpy(), model.rope_base
            )
        )

    queries = turned(split(q)) * torch.from_numpy(gain)[:, None, None]
    y = F.scaled_dot_product_attention(
        queries, turned(split(k)), split(v), is_causal=model.causal, enable_gqa=True
    )
    expected = y.transpose(1, 2).reshape(x.shape).numpy() @ o.T
    assert (
        relative_error(reference.transformer.attention(x, q, k, v, o, gain, model), expected)
        < 1e-11
    )


@given(models(layers=st.just(1), length=st.integers(2, 7)), rngs, st.data())
@settings(max_examples=30)
def test_bidirectional_attention_sees_everything_and_causal_nothing_later(model, rng, data):
    x, weights = attention_inputs(model, rng, rows=1)
    place = data.draw(st.integers(0, model.length - 1))
    other = x.copy()
    other[0, place] += rng.standard_normal(model.d)
    before, after = (
        fast.transformer.attention(
            torch.from_numpy(value), *(torch.from_numpy(w) for w in weights), model
        )[0]
        for value in (x, other)
    )
    changed = (before != after).any(-1).tolist()
    assert changed == [not model.causal or i >= place for i in range(model.length)]


@given(models(length=st.integers(2, 7)), rngs)
@settings(max_examples=10)
def test_one_set_of_weights_under_either_attention(model, rng):
    """causal wins over the objective's attention, through every block, in both halves."""
    params = random_params(model, rng)
    ids_BL = rng.integers(0, model.vocab, (2, model.length))
    given_to_fast = tensors(params), torch.from_numpy(ids_BL)
    for causal in (False, True):
        meant = replace(model, causal=causal)
        expected = reference.transformer.forward(params, ids_BL, meant)
        found = reference.transformer.forward(params, ids_BL, model, causal=causal)
        assert np.array_equal(found, expected)
        found = fast.transformer.forward(*given_to_fast, model, causal=causal)
        assert torch.equal(found, fast.transformer.forward(*given_to_fast, meant))


# block and wiring


@given(models(), rngs)
@settings(max_examples=30)
def test_block_and_mlp(model, rng):
    params, i = random_params(model, rng), model.layers - 1
    x, x0 = rng.standard_normal((2, 2, model.length, model.d))
    up, down = params[f"blocks.{i}.up"], params[f"blocks.{i}.down"]
    hidden = np.maximum(x @ up.T, 0) ** 2
    assert relative_error(reference.transformer.mlp(x, up, down), hidden @ down.T) < 1e-13
    assert_same_algorithm(
        fast.transformer.mlp(*(torch.from_numpy(value) for value in (x, up, down))), hidden @ down.T
    )
    expected = reference.transformer.block(x, x0, params, i, model)
    assert_same_algorithm(
        fast.transformer.block(
            torch.from_numpy(x), torch.from_numpy(x0), tensors(params), i, model
        ),
        expected,
    )


@given(models(layers=st.just(1)), rngs)
@settings(max_examples=20)
def test_block_with_closed_branches_mixes_only(model, rng):
    params = random_params(model, rng)
    params |= {"blocks.0.attn_scale": np.zeros(model.d), "blocks.0.mlp_scale": np.zeros(model.d)}
    x, x0 = rng.standard_normal((2, 1, model.length, model.d))
    mix = params["blocks.0.mix"]
    np.testing.assert_array_equal(
        reference.transformer.block(x, x0, params, 0, model), mix[0] * x + mix[1] * x0
    )


@pytest.mark.parametrize("layers", [1, 2, 3, 4, 5])
def test_unet_wiring_by_hand(layers):
    """Blocks reduced to x <- a_i x: what is left is the arithmetic of pushes and pops, in scalars,
    up to the final norm.
    """
    rng = np.random.default_rng(layers)
    model = Model(layers=layers, d=4, heads=2, kv_heads=1, vocab=5, length=3)
    params = random_params(model, rng)
    for i in range(layers):
        params[f"blocks.{i}.attn_scale"] = params[f"blocks.{i}.mlp_scale"] = np.zeros(4)
    half = layers // 2
    x0 = reference.transformer.rmsnorm(params["embedding"][[[4, 0, 5]]], model.norm_eps)
    outputs, x = {}, x0
    for i in range(layers):
        mirror = 2 * half - 1 - i
        if half <= i < 2 * half:
            x = x + params["skip"][i - half] * outputs[mirror]
        outputs[i] = x = params[f"blocks.{i}.mix"][0] * x + params[f"blocks.{i}.mix"][1] * x0
    logits = reference.transformer.rmsnorm(x, model.norm_eps) @ params["embedding"][:5].T
    found, expected = both(params, np.array([[4, 0, 5]]), model)
    assert relative_error(expected, 30 * np.tanh(logits / 30)) < 1e-12
    assert_same_algorithm(found, expected)


# whole forward


@given(models(), rngs, st.integers(1, 3))
@settings(max_examples=40)
def test_forward(model, rng, rows):
    found, expected = both(random_params(model, rng), random_ids(model, rng, rows), model)
    assert expected.shape == (rows, model.length, model.vocab)
    assert_same_algorithm(found, expected)
    assert (np.abs(expected) <= model.softcap).all()


@given(models(), rngs)
@settings(max_examples=20)
def test_forward_of_initial_weights(model, rng):
    params = {
        name: value.astype(np.float32).astype(np.float64)
        for name, value in reference.transformer.initialize(model, 5).items()
    }
    assert_same_algorithm(*both(params, random_ids(model, rng, 2), model))


@given(models(length=st.integers(2, 7)), rngs, st.data())
@settings(max_examples=20)
def test_no_row_sees_another_and_causal_rows_see_no_later_token(model, rng, data):
    params, ids = random_params(model, rng), random_ids(model, rng, 3, masked=False)
    place = data.draw(st.integers(0, model.length - 1))
    other = ids.copy()
    other[1, place] = (ids[1, place] + 1) % model.vocab
    for half in (
        lambda ids_BL: reference.transformer.forward(params, ids_BL, model),
        lambda ids_BL: both(params, ids_BL, model)[0].numpy(),
    ):
        changed = (half(ids) != half(other)).any(-1)
        assert not changed[[0, 2]].any()
        if model.causal:
            assert not changed[1, :place].any()
        assert changed[1, place]


def test_every_position_of_the_bidirectional_model_sees_every_other():
    rng = np.random.default_rng(0)
    model = replace(MEDIUM, length=6)
    params, ids = random_params(model, rng), random_ids(model, rng, 1, masked=False)
    for place in range(6):
        other = ids.copy()
        other[0, place] = (ids[0, place] + 1) % model.vocab
        assert (both(params, ids, model)[0] != both(params, other, model)[0]).any(-1).all()


@given(models(causal=st.just(False)), rngs)
@settings(max_examples=30)
def test_mask_row_is_read_and_never_written(model, rng):
    """The mask embedding matters where the mask id stands, and is no output: without mask ids it
    changes nothing.
    """
    params, ids = random_params(model, rng), random_ids(model, rng, 2, masked=False)
    other = params | {
        "embedding": np.vstack(
            [params["embedding"][:-1], params["embedding"][-1:] + rng.standard_normal(model.d)]
        )
    }
    np.testing.assert_array_equal(both(params, ids, model)[0], both(other, ids, model)[0])
    np.testing.assert_array_equal(
        reference.transformer.forward(params, ids, model),
        reference.transformer.forward(other, ids, model),
    )
    ids[0, 0] = model.vocab
    assert relative_error(both(params, ids, model)[0], both(other, ids, model)[1]) > 1e-6


@pytest.mark.parametrize("scale", [1e-3, 1e3])
def test_softcap_bounds_the_logits(scale):
    """Small logits pass as they are, up to (z/30)**3 / 3; large ones end at 30."""
    rng = np.random.default_rng(1)
    params, ids = random_params(TINY.model, rng), random_ids(TINY.model, rng, 2)
    params["embedding"] = scale * params["embedding"] / np.abs(params["embedding"]).max()
    logits = both(params, ids, TINY.model)[0]
    assert logits.abs().max() <= 30
    uncapped = both(params, ids, replace(TINY.model, softcap=1e9))[0]
    if scale == 1e-3:
        assert relative_error(logits, uncapped.numpy()) < 1e-6
    else:
        assert (
            relative_error(logits, 30 * np.tanh(uncapped.numpy() / 30)) < 1e-9
            and logits.abs().max() > 29.9
        )


@half_dtypes
@pytest.mark.parametrize("causal", [False, True])
def test_forward_in_production_dtype_errs_at_most_twice_as_much_as_a_plain_run(dtype, causal):
    rng = np.random.default_rng(int(causal))
    model = replace(MEDIUM, causal=causal)
    params = {
        name: value.astype(np.float32).astype(np.float64)
        for name, value in random_params(model, rng).items()
    }
    ids = random_ids(model, rng, 4)
    exact = reference.transformer.forward(params, ids, model)
    masters = tensors(params, torch.float32)
    found = fast.transformer.forward(masters, torch.from_numpy(ids), model, dtype)
    assert found.dtype == torch.float32
    limit = 2 * rms(
        plain.forward(masters, torch.from_numpy(ids), model, dtype).double().numpy() - exact
    )
    assert 0 < limit < 0.1 * rms(exact)
    assert rms(found.double().numpy() - exact) <= limit


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_the_embedding_gradient_is_the_same_sum_both_ways(dtype, monkeypatch):
    """By rows added in turn, as on a CPU, and by the product with one-hot ids, as on a GPU; half of
    the ids are one.
    """
    rng = np.random.default_rng(0)
    table = torch.from_numpy(rng.standard_normal((13, 5))).to(dtype).requires_grad_()
    ids = torch.from_numpy(np.where(rng.random(300) < 0.5, 12, rng.integers(0, 12, 300)))
    upstream = torch.from_numpy(rng.standard_normal((300, 5))).to(dtype)
    found = []
    for serial in (False, True):
        monkeypatch.setattr(
            fast.transformer, "_written_for_gpus", lambda device, serial=serial: not serial
        )
        found += torch.autograd.grad(fast.transformer._Embed.apply(table, ids), table, upstream)
    exact = torch.zeros(13, 5, dtype=torch.float64).index_add(0, ids, upstream.double())
    sizes = torch.zeros(13, 5, dtype=torch.float64).index_add(0, ids, upstream.double().abs())
    for (
        gradient
    ) in found:  # each sum is rounded once to dtype, and was added up in float32 or better
        limit = (
            torch.finfo(dtype).eps * exact.abs()
            + 300 * torch.finfo(torch.float32 if dtype == torch.bfloat16 else dtype).eps * sizes
        )
        assert ((gradient.double() - exact).abs() <= limit).all()


@pytest.fixture
def for_gpus(monkeypatch):
    """A call that runs with the forms that GPUs take, where there are two."""

    def run(function, *arguments, **keywords):
        with monkeypatch.context() as patched:
            patched.setattr(fast.transformer, "_written_for_gpus", lambda device: True)
            return function(*arguments, **keywords)

    return run


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_forms_for_gpus_compute_the_same_rope(dtype, for_gpus):
    """The sum of two products, rounded once in float32 or better and once to dtype, whichever is
    fused: two roundings apart.
    """
    x = torch.randn(2, 3, 7, 10, generator=torch.Generator().manual_seed(0)).to(dtype)
    found, wanted = for_gpus(fast.transformer.rope, x, 10.0), fast.transformer.rope(x, 10.0)
    assert found.dtype == dtype and not torch.equal(found, x)
    assert (found - wanted).abs().max() <= 2 * torch.finfo(dtype).eps * x.abs().max()


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("stacked", [False, True])
def test_forms_for_gpus_compute_the_same_logits_and_gradients(causal, stacked, for_gpus):
    model = Model(layers=3, d=24, heads=4, kv_heads=2, mlp=3, length=7, vocab=13, causal=causal)
    rng = np.random.default_rng(0)
    params, ids = tensors(random_params(model, rng)), torch.from_numpy(random_ids(model, rng, 3))
    params = fast.transformer.stack(params) if stacked else params
    params = {name: value.requires_grad_() for name, value in params.items()}
    upstream = torch.from_numpy(rng.standard_normal((3, 7, 13)))

    def run():
        logits = fast.transformer.forward(params, ids, model)
        return [logits, *torch.autograd.grad(logits, list(params.values()), upstream)]

    for found, wanted in zip(for_gpus(run), run(), strict=True):
        assert relative_error(found.detach(), wanted.detach().numpy()) < 1e-12


@given(models(layers=st.integers(1, 5)), rngs)
@settings(max_examples=30)
def test_stacked_weights_are_the_named_ones(model, rng):
    params, ids = tensors(random_params(model, rng)), torch.from_numpy(random_ids(model, rng, 2))
    named = fast.transformer.forward(params, ids, model)
    assert (
        relative_error(
            fast.transformer.forward(fast.transformer.stack(params), ids, model),
            named.numpy(),
        )
        < 1e-12
    )


@given(models(layers=st.integers(1, 5)), rngs)
@settings(max_examples=30)
def test_picked_positions_have_the_logits_that_they_have_among_all(model, rng):
    params, ids = tensors(random_params(model, rng)), torch.from_numpy(random_ids(model, rng, 3))
    places = torch.from_numpy(rng.permutation(3 * model.length)[: 1 + model.length])
    found = fast.transformer.forward(params, ids, model, pick=lambda x: x[places])
    wanted = fast.transformer.forward(params, ids, model).flatten(0, 1)[places]
    assert found.shape == wanted.shape and relative_error(found, wanted.numpy()) < 1e-12


def test_default_dtype_is_the_weights_and_a_table_changes_nothing():
    rng = np.random.default_rng(2)
    params, ids = (
        tensors(random_params(TINY.model, rng), torch.float32),
        torch.from_numpy(random_ids(TINY.model, rng, 2)),
    )
    table = fast.transformer.rope_table(8, 2, 10000.0)
    expected = fast.transformer.forward(params, ids, TINY.model, torch.float32, table)
    assert torch.equal(fast.transformer.forward(params, ids, TINY.model), expected)


def test_reference_runs_in_complex_numbers_and_agrees_with_itself():
    rng = np.random.default_rng(3)
    for model in (TINY.model, replace(TINY.model, causal=True)):
        params, ids = random_params(model, rng), random_ids(model, rng, 2)
        complex_params = {name: value.astype(np.complex128) for name, value in params.items()}
        logits = reference.transformer.forward(complex_params, ids, model)
        assert not logits.imag.any()
        assert (
            relative_error(logits.real, reference.transformer.forward(params, ids, model)) < 1e-12
        )


@given(models(), rngs)
@settings(max_examples=10)
def test_dicts_of_weights_keep_their_order(model, rng):
    params = random_params(model, rng)
    assert_same_tensors(fast.transformer.unstack(fast.transformer.stack(tensors(params))), params)
