"""Times, masks and the loss: bit for bit where discrete, against loops with an `if` where not."""

import math

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st

import fast.masking
import reference.masking
from reference.recipe import GOLF
from tests.support.compare import assert_same_algorithm, relative_error, unit_roundoff
from tests.support.second_device import second_device
from tests.support.strategies import rngs, seeds

EPSILON = GOLF.diffusion.epsilon
steps = st.integers(0, 2**31)
rows_lists = st.lists(st.integers(0, 2**31), min_size=1, max_size=12)


def random_batch(rng, rows, length, vocab, scale=1.5):
    """Return (logits, ids, mask, weights); some rows with nothing masked, some with everything."""
    logits_BLV = scale * rng.standard_normal((rows, length, vocab))
    mask_BL = rng.random((rows, length)) < rng.choice([0.0, 0.4, 1.0], (rows, 1))
    return logits_BLV, rng.integers(0, vocab, (rows, length)), mask_BL, rng.uniform(1, 100, rows)


def fast_loss(logits_BLV, ids_BL, mask_BL, weights_B, dtype=torch.float64):
    """Return the fast loss of NumPy inputs."""
    return fast.masking.loss(
        torch.as_tensor(logits_BLV).to(dtype),
        torch.as_tensor(ids_BL),
        torch.as_tensor(mask_BL),
        torch.as_tensor(weights_B),
    )


def rounding_limit(batch, expected, dtype):
    """Return what rounding may do to a loss: V + 4 roundings of each normaliser, 2 of the largest
    logit, L + B + 4 of the positive sum.
    """
    logits_BLV, _, _, weights_B = batch
    B, L, V = logits_BLV.shape
    return unit_roundoff(dtype) * (
        (L + B + 4) * expected + (V + 4 + 2 * np.abs(logits_BLV).max()) * np.mean(weights_B)
    )


def loop_loss(logits_BLV, ids_BL, mask_BL, weights_B):
    """Return the loss with a loop and an `if`, in exact sums."""
    terms = []
    for b, ids in enumerate(ids_BL):
        for i, token in enumerate(ids):
            if mask_BL[b][i]:
                top = max(logits_BLV[b][i])
                normalizer = top + math.log(math.fsum(math.exp(z - top) for z in logits_BLV[b][i]))
                terms.append(weights_B[b] * (normalizer - logits_BLV[b][i][token]))
    return math.fsum(terms) / len(ids_BL) / len(ids_BL[0])


batches = st.tuples(rngs, st.integers(1, 4), st.integers(1, 6), st.integers(2, 7)).map(
    lambda sizes: random_batch(*sizes)
)


# times


@given(st.lists(st.integers(0, 2**32 - 1), min_size=1, max_size=20))
@example([0, 1, 2**31, 2**32 - 1])
def test_radical_inverse_is_the_reversed_string(rows):
    expected = [int(format(row, "032b")[::-1], 2) / 2**32 for row in rows]
    assert reference.masking.radical_inverse(rows).tolist() == expected
    assert fast.masking.radical_inverse(np.array(rows)).tolist() == expected


@given(seeds, steps, rows_lists)
def test_times_and_thresholds_are_bitwise_equal(seed, step, rows):
    expected = reference.masking.times(seed, step, rows, EPSILON)
    found = fast.masking.times(seed, step, np.array(rows), EPSILON)
    assert found.dtype == np.float64
    np.testing.assert_array_equal(found, expected)
    assert reference.masking.rotation(seed, step) == fast.masking.rotation(seed, step)
    np.testing.assert_array_equal(
        fast.masking.thresholds(found), reference.masking.thresholds(expected)
    )
    np.testing.assert_array_equal(
        fast.masking.weights(found, 100.0), reference.masking.weights(expected, 100.0)
    )


@given(seeds, steps, rows_lists, st.floats(1e-6, 0.9))
def test_times_lie_between_epsilon_and_one(seed, step, rows, epsilon):
    t = reference.masking.times(seed, step, rows, epsilon)
    assert (t >= epsilon).all() and (t < 1).all()


@given(seeds, steps, st.integers(0, 9), st.integers(0, 2**20))
def test_every_aligned_power_of_two_slice_is_an_even_grid(seed, step, log_size, block):
    size = 2**log_size
    rows = np.arange(block * size, (block + 1) * size)
    unit = np.sort((reference.masking.times(seed, step, rows, EPSILON) - EPSILON) / (1 - EPSILON))
    gaps = np.diff(np.append(unit, unit[0] + 1))
    assert np.abs(gaps - 1 / size).max() < 1e-12  # a few roundings of numbers near 1
    assert len(set(np.floor(unit * size - unit[0] * size + 0.5))) == size


@given(seeds, steps, rows_lists)
def test_one_rotation_serves_all_rows(seed, step, rows):
    t = reference.masking.times(seed, step, rows, EPSILON)
    shifted = (
        (t - EPSILON) / (1 - EPSILON)
        - reference.masking.radical_inverse(rows)
        - reference.masking.rotation(seed, step)
    ) % 1.0
    assert np.minimum(shifted, 1 - shifted).max() < 1e-12


def test_rotations_are_spread_over_steps():
    u = np.array([reference.masking.rotation(7, step) for step in range(2000)])
    assert abs(u.mean() - 0.5) < 6 * math.sqrt(1 / 12 / 2000) and len(set(u)) > 1990


# masks


@pytest.mark.parametrize(
    ("t", "count"),
    [
        (2.0**-24, 1),
        (2.0**-25, 1),
        (0.5, 2**23),
        (0.5 + 2.0**-26, 2**23 + 1),
        (1.0, 2**24),
        (1 - 2.0**-40, 2**24),
    ],
)
def test_thresholds_round_up(t, count):
    assert (
        reference.masking.thresholds([t]).tolist()
        == [count]
        == fast.masking.thresholds([t]).tolist()
    )
    assert fast.masking.thresholds([t]).dtype == reference.masking.thresholds([t]).dtype == np.int64


@given(st.floats(1e-9, 1.0))
def test_threshold_counts_the_draws_below_t(t):
    count = int(reference.masking.thresholds([t])[0])
    assert count == fast.masking.thresholds([t])[0]
    assert (count - 1) * 2.0**-24 < t <= count * 2.0**-24


@given(seeds, steps, rows_lists, st.integers(1, 40))
def test_masks_are_bitwise_equal(seed, step, rows, length):
    thresholds_B = reference.masking.thresholds(reference.masking.times(seed, step, rows, EPSILON))
    expected = reference.masking.mask(seed, step, rows, length, thresholds_B)
    for step_given in (step, torch.tensor(step)):
        found = fast.masking.mask(
            seed, step_given, torch.tensor(rows), length, torch.from_numpy(thresholds_B)
        )
        assert found.dtype == torch.bool
        np.testing.assert_array_equal(found.numpy(), expected)


@given(seeds, steps, st.integers(0, 2**31), st.integers(1, 40))
def test_the_comparison_at_the_draw_itself(seed, step, row, length):
    """A position is masked from threshold draw + 1 on, and not at threshold draw: strict, and for
    all draws at t = 1.
    """
    draws = reference.philox.words(seed, 1, step, [row], length)[0] >> 8
    for shift, masked in ((0, False), (1, True)):
        thresholds = np.full(1, int(draws[-1]) + shift)
        assert reference.masking.mask(seed, step, [row], length, thresholds)[0, -1] == masked
        assert (
            fast.masking.mask(
                seed, step, torch.tensor([row]), length, torch.from_numpy(thresholds)
            )[0, -1]
            == masked
        )
    everything = reference.masking.thresholds([1.0])
    assert reference.masking.mask(seed, step, [row], length, everything).all()
    assert not reference.masking.mask(seed, step, [row], length, [0]).any()


@given(seeds, steps, st.sampled_from([1, 2, 4, 8]))
def test_masks_do_not_depend_on_the_split(seed, step, micro):
    def masks(rows):
        thresholds_B = fast.masking.thresholds(fast.masking.times(seed, step, rows, EPSILON))
        return fast.masking.mask(
            seed, step, torch.from_numpy(rows), 11, torch.from_numpy(thresholds_B)
        )

    parts = torch.cat([masks(np.arange(first, first + micro)) for first in range(0, 8, micro)])
    assert torch.equal(parts, masks(np.arange(8)))


def test_masked_share_is_t():
    """Over 2**8 rows of 2**10 draws the share deviates from t by at most 6 standard deviations
    (fixed seed).
    """
    rows = np.arange(256)
    t = reference.masking.times(3, 5, rows, EPSILON)
    share = reference.masking.mask(3, 5, rows, 1024, reference.masking.thresholds(t)).mean(axis=1)
    assert (np.abs(share - t) <= 6 * np.sqrt(t * (1 - t) / 1024) + 2.0**-24).all()
    assert not np.array_equal(
        reference.masking.mask(3, 5, [0], 64, [2**23]),
        reference.masking.mask(3, 6, [0], 64, [2**23]),
    )
    assert not np.array_equal(
        reference.masking.mask(3, 5, [0], 64, [2**23]),
        reference.masking.mask(3, 5, [1], 64, [2**23]),
    )


@given(batches)
def test_corruption_replaces_masked_ids_only(batch):
    _, ids_BL, mask_BL, _ = batch
    expected = [
        [99 if masked else token for token, masked in zip(*row, strict=True)]
        for row in zip(ids_BL, mask_BL, strict=True)
    ]
    assert reference.masking.corrupt(ids_BL, mask_BL, 99).tolist() == expected
    given_ids = torch.from_numpy(ids_BL)
    assert fast.masking.corrupt(given_ids, torch.from_numpy(mask_BL), 99).tolist() == expected
    assert given_ids.tolist() == ids_BL.tolist()


# loss


@pytest.mark.parametrize(
    ("t", "weight"),
    [(0.5, 2.0), (1.0, 1.0), (0.01, 100.0), (0.009, 100.0), (0.001, 100.0), (0.0101, 1 / 0.0101)],
)
def test_weight_is_one_over_t_up_to_its_largest_value(t, weight):
    assert (
        reference.masking.weights([t], 100.0).tolist()
        == [weight]
        == fast.masking.weights([t], 100.0).tolist()
    )


@given(batches)
def test_loss_is_the_loop_with_an_if(batch):
    expected = loop_loss(*batch)
    assert abs(reference.masking.loss(*batch) - expected) <= rounding_limit(
        batch, expected, torch.float64
    )
    assert_same_algorithm(fast_loss(*batch), reference.masking.loss(*batch))


@given(batches)
def test_loss_in_float32_stays_within_its_rounding(batch):
    logits_BLV, ids_BL, mask_BL, weights_B = batch
    rounded = logits_BLV.astype(np.float32).astype(np.float64), ids_BL, mask_BL, weights_B
    expected = reference.masking.loss(*rounded)
    found = fast_loss(*rounded, dtype=torch.float32)
    assert found.dtype == torch.float32 and abs(found.item() - expected) <= rounding_limit(
        rounded, expected, torch.float32
    )


@given(batches)
@settings(max_examples=40)
def test_unmasked_positions_contribute_nothing(batch):
    logits_BLV, ids_BL, mask_BL, weights_B = batch
    spoiled = np.where(
        mask_BL[..., None], logits_BLV, np.random.default_rng(0).uniform(-50, 50, logits_BLV.shape)
    )
    other_ids = np.where(mask_BL, ids_BL, 0)
    assert reference.masking.loss(spoiled, other_ids, mask_BL, weights_B) == reference.masking.loss(
        *batch
    )
    assert fast_loss(spoiled, other_ids, mask_BL, weights_B) == fast_loss(*batch)
    impossible = np.where(mask_BL[..., None], logits_BLV, -np.inf)
    # Token 0 certain, so the others cost infinity
    impossible[..., 0] = np.where(mask_BL, logits_BLV[..., 0], 0.0)
    assert fast_loss(impossible, np.where(mask_BL, ids_BL, 1), mask_BL, weights_B) == fast_loss(
        *batch
    )


@given(batches)
@settings(max_examples=40)
def test_gradient_of_the_loss_by_hand(batch):
    """d loss / d logits is w (softmax - one hot) / (B L) at masked positions, zero elsewhere."""
    logits_BLV, ids_BL, mask_BL, weights_B = batch
    logits = torch.tensor(logits_BLV, requires_grad=True)
    fast.masking.loss(
        logits, torch.from_numpy(ids_BL), torch.from_numpy(mask_BL), torch.from_numpy(weights_B)
    ).backward()
    p = np.exp(logits_BLV - logits_BLV.max(-1, keepdims=True))
    p /= p.sum(-1, keepdims=True)
    p -= np.eye(logits_BLV.shape[-1])[ids_BL]
    expected = p * mask_BL[..., None] * weights_B[:, None, None] / ids_BL.size
    assert_same_algorithm(logits.grad, expected)
    assert (logits.grad.numpy()[~mask_BL] == 0).all()


@given(batches, st.sampled_from([1, 2, 4]))
def test_micro_batches_average_to_the_whole(batch, parts):
    logits_BLV, ids_BL, mask_BL, weights_B = (np.concatenate([part] * 4) for part in batch)
    size = len(ids_BL) // parts
    pieces = [slice(first, first + size) for first in range(0, len(ids_BL), size)]
    losses = [fast_loss(logits_BLV[s], ids_BL[s], mask_BL[s], weights_B[s]) for s in pieces]
    assert_same_algorithm(torch.stack(losses).mean(), reference.masking.loss(*batch))


@given(batches)
def test_log_softmax_and_cross_entropy(batch):
    logits_BLV, ids_BL = batch[:2]
    expected = reference.masking.log_softmax(logits_BLV)
    np.testing.assert_allclose(np.exp(expected).sum(-1), 1, rtol=1e-13)
    assert_same_algorithm(fast.masking.log_softmax(torch.from_numpy(logits_BLV)), expected)
    shifted = reference.masking.log_softmax(logits_BLV + 7.5)
    assert relative_error(shifted, expected) < 1e-13
    nats_BL = reference.masking.cross_entropy(logits_BLV, ids_BL)
    assert nats_BL[0, 0] == -expected[0, 0, ids_BL[0, 0]]
    assert_same_algorithm(
        fast.masking.cross_entropy(torch.from_numpy(logits_BLV), torch.from_numpy(ids_BL)), nats_BL
    )


def test_log_softmax_of_extreme_logits():
    huge = np.array([[700.0, -700.0, 0.0], [1e300, 1e300, -1e300], [-1e5, -1e5, -1e5]])
    assert np.isfinite(reference.masking.log_softmax(huge)[..., 0]).all()
    np.testing.assert_allclose(
        fast.masking.log_softmax(torch.from_numpy(huge)).numpy(),
        reference.masking.log_softmax(huge),
        rtol=1e-14,
    )


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_log_softmax_is_float32_for_any_compute_dtype(dtype):
    logits = torch.linspace(-30, 30, 1024).to(dtype)
    found = fast.masking.log_softmax(logits)
    assert found.dtype == torch.float32
    exact = reference.masking.log_softmax(logits.double().numpy())
    # Sum of V terms, range of the logits
    assert np.abs(found.numpy() - exact).max() <= (1024 + 2 * 60) * unit_roundoff(torch.float32)


@given(batches)
def test_causal_loss_is_the_plain_mean(batch):
    logits_BLV, ids_BL, _, _ = batch
    everything = logits_BLV, ids_BL, np.ones_like(ids_BL, bool), np.ones(len(ids_BL))
    expected = loop_loss(*everything)
    assert abs(reference.masking.causal_loss(logits_BLV, ids_BL) - expected) <= rounding_limit(
        everything, expected, torch.float64
    )
    found = fast.masking.causal_loss(torch.from_numpy(logits_BLV), torch.from_numpy(ids_BL))
    assert_same_algorithm(found, reference.masking.causal_loss(logits_BLV, ids_BL))


def test_the_token_before_each_token():
    """The first of a window has its own; id 0 stands in where the stream starts."""
    ids_BL, previous_B = np.array([[3, 4], [6, 7]]), np.array([-1, 5])
    expected = reference.masking.tokens_before(ids_BL, previous_B)
    assert expected.tolist() == [[0, 3], [5, 6]]
    found = fast.masking.tokens_before(torch.from_numpy(ids_BL), torch.from_numpy(previous_B))
    assert found.tolist() == expected.tolist()


def test_uniform_model_costs_log_v_times_weighted_share():
    mask_BL = np.array([[True, True, False, False], [False, False, False, True]])
    expected = math.log(16) * (2.0 * 2 / 4 + 4.0 * 1 / 4) / 2
    batch = np.zeros((2, 4, 16)), np.zeros((2, 4), int), mask_BL, np.array([2.0, 4.0])
    assert reference.masking.loss(*batch) == pytest.approx(expected, rel=1e-15)


# the head on masked positions alone


@given(rngs, st.integers(1, 5), st.integers(1, 9), st.integers(0, 6))
def test_kept_positions_give_the_loss_and_its_gradients(rng, rows, length, spare):
    """float64, any mask, exact capacity (one slot at least) and slots to spare: the loss and the
    gradient of what the head reads.

    Nothing where nothing is masked.
    """
    _, ids_BL, mask_BL, weights_B = (
        torch.as_tensor(each) for each in random_batch(rng, rows, length, 5)
    )
    x_BLd, head_dV = (
        torch.from_numpy(rng.standard_normal((rows, length, 3))),
        torch.from_numpy(rng.standard_normal((3, 5))),
    )
    losses, grads = [], []
    for masked in (
        None,
        fast.masking.masked_positions(mask_BL, max(1, int(mask_BL.sum()) + spare)),
    ):
        leaves = x_BLd.clone().requires_grad_(), head_dV.clone().requires_grad_()
        if masked is None:
            loss = fast.masking.loss(leaves[0] @ leaves[1], ids_BL, mask_BL, weights_B)
        else:
            loss = fast.masking.masked_loss(
                masked.take(leaves[0].flatten(0, 1)) @ leaves[1], ids_BL, masked, weights_B
            )
        losses.append(loss.detach())
        grads.append(torch.autograd.grad(loss, leaves))
    assert relative_error(losses[1].numpy(), losses[0].numpy()) < 1e-12
    for found, expected in zip(grads[1], grads[0], strict=True):
        assert relative_error(found.numpy(), expected.numpy()) < 1e-12
    assert (grads[1][0][~mask_BL] == 0).all()


def test_masked_positions_without_room_are_not_dropped_in_silence():
    mask_BL = torch.tensor([[True, False, True], [False, True, True]])
    ids_BL, weights_B = torch.zeros(2, 3, dtype=torch.int64), torch.ones(2)
    for slots in range(1, 7):
        masked = fast.masking.masked_positions(mask_BL, slots)
        loss = fast.masking.masked_loss(torch.zeros(slots, 4), ids_BL, masked, weights_B)
        assert loss.isnan() == (slots < 4) and masked.filled_C.sum() == min(slots, 4)
        assert masked.position_C[: min(slots, 4)].tolist() == [0, 2, 4, 5][:slots]
        # What found no slot has no gradient of its own, and asks for none behind the end
        x_BLd = torch.ones(2, 3, 1, requires_grad=True)
        assert (
            torch.autograd.grad(masked.take(x_BLd.flatten(0, 1)).sum(), x_BLd)[0].shape
            == x_BLd.shape
        )


def test_slots_are_counted_where_the_mask_is():
    mask_BL = torch.tensor([[True, False, True], [False, True, True]])
    with second_device() as device:
        masked = fast.masking.masked_positions(mask_BL.to(device), 4)
        assert all(tensor.device.type == device for tensor in masked)
        assert masked.position_C.cpu().tolist() == [0, 2, 4, 5]


@pytest.mark.parametrize(("rows", "length"), [(32, 128), (64, 32), (24, 128), (48, 64), (3, 400)])
def test_the_room_suffices_and_is_little_more_than_half(rows, length):
    """Thirty steps of consecutive rows, whose grid is even where their number is a power of two."""
    slots = fast.masking.capacity(rows, length)
    for step in range(30):
        for first in (0, rows):
            at = np.arange(first, first + rows)
            thresholds_B = torch.from_numpy(
                fast.masking.thresholds(fast.masking.times(7, step, at, EPSILON))
            )
            assert (
                fast.masking.mask(7, step, torch.from_numpy(at), length, thresholds_B).sum()
                <= slots
                <= rows * length
            )
    if rows == 32:
        assert slots <= 0.58 * rows * length


def test_room_is_never_more_than_all():
    assert [
        fast.masking.capacity(rows, length)
        for rows, length in ((1, 1), (1, 1024), (2, 8), (64, 1024))
    ] == [1, 1024, 16, 34048]
