"""Estimators in batches: the twins agree on the same draws, whatever the batch, its first row,
dtype or device.
"""

import math

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import fast.chain
import fast.likelihood
import fast.sizes
import reference.chain
import reference.likelihood
from reference.orders import ORDERS
from reference.recipe import Plan
from tests.support.compare import OnlyStableSorts
from tests.support.halves import EXACT
from tests.support.table_model import TableModel

# Twins, batches, rows


@settings(max_examples=40)
@given(
    st.integers(0, 2**64 - 1),
    st.integers(2, 3),
    st.integers(1, 5),
    st.integers(1, 7),
    st.sampled_from(ORDERS),
    st.integers(1, 6),
    st.integers(1, 4),
    st.integers(0, 2**31),
    st.integers(1, 8),
)
def test_twins_agree_on_the_same_draws(
    seed, vocab, length, count, order, step, block, first_row, batch_rows
):
    model = TableModel(vocab, length)
    ids_NL, batch = model.windows(count), {"batch_rows": batch_rows}
    expected = reference.chain.chain(
        model.numpy, ids_NL, vocab, order, seed, step, block, first_row
    )
    found = fast.chain.chain(
        model.torch, ids_NL, vocab, order, seed, step, block, first_row, **batch
    )
    np.testing.assert_array_equal(found, expected)
    expected_plan = reference.likelihood.pilot(model.numpy, ids_NL, vocab, 6, seed, first_row)
    plan = fast.likelihood.pilot(model.torch, ids_NL, vocab, 6, seed, first_row, **batch)
    np.testing.assert_array_equal(plan.cumulative_2L, expected_plan.cumulative_2L)
    np.testing.assert_allclose(plan.curve_2L, expected_plan.curve_2L, rtol=1e-9)
    expected = reference.likelihood.nelbo(
        model.numpy, ids_NL, vocab, 3, expected_plan, seed, first_row
    )
    found = fast.likelihood.nelbo(model.torch, ids_NL, vocab, 3, plan, seed, first_row, **batch)
    # A draw may lie near 0 by cancellation
    np.testing.assert_allclose(found, expected, rtol=1e-9, atol=1e-9 * abs(expected).max())
    expected = reference.likelihood.nelbo_grid(
        model.numpy, ids_NL, vocab, 3, 0.001, 0.01, seed, first_row
    )
    found = fast.likelihood.nelbo_grid(
        model.torch, ids_NL, vocab, 3, 0.001, 0.01, seed, first_row, **batch
    )
    np.testing.assert_allclose(found, expected, rtol=1e-12)


def shift_model(ids_BL):
    """Next token = input + 1 mod 5 with probability 0.6, the rest even."""
    p = np.full((*ids_BL.shape, 5), 0.1)
    np.put_along_axis(p, ((np.asarray(ids_BL) + 1) % 5)[..., None], 0.6, axis=-1)
    return np.log(p)


def test_causal_pass_predicts_each_token_from_the_one_before():
    ids_NL, previous_N = (
        np.array([[1, 2, 3], [4, 0, 1], [0, 1, 4], [3, 4, 0]]),
        np.array([-1, 3, 2, 2]),
    )
    hit, miss = -math.log(0.6), -math.log(0.1)
    # Id 0 stands in before the stream
    expected = [[hit, hit, hit], [hit, hit, hit], [miss, hit, miss], [hit, hit, hit]]
    np.testing.assert_allclose(
        reference.likelihood.causal_nll(shift_model, ids_NL, previous_N), expected, **EXACT
    )
    for batch_rows in (1, 3, 9):
        found = fast.likelihood.causal_nll(
            lambda ids: torch.from_numpy(shift_model(ids)),
            ids_NL,
            previous_N,
            batch_rows=batch_rows,
        )
        np.testing.assert_allclose(found, expected, **EXACT)


def test_single_precision_costs_one_rounding_per_token():
    """float32 log-probabilities differ from float64 ones by 2**-24 relative each, and everything
    after is float64.
    """
    model = TableModel(3, 5)
    ids_NL = model.windows(6)
    single = lambda ids_BL: model.torch(ids_BL).float()  # noqa: E731
    # The table's scores lie further apart than the rounding, so the orders are the same.
    for order in ORDERS:
        expected = reference.chain.chain(model.numpy, ids_NL, 3, order, 2, 1, 2)
        assert (
            abs(fast.chain.chain(single, ids_NL, 3, order, 2, 1, 2) - expected)
            <= 2.0**-24 * expected
        ).all()
    plan = reference.likelihood.pilot(model.numpy, ids_NL, 3, 8, 2)
    expected = reference.likelihood.nelbo(model.numpy, ids_NL, 3, 4, plan, 2)
    flat = plan._replace(curve_2L=np.zeros_like(plan.curve_2L))
    # Weight * loss alone: what rounding is relative to
    charged = reference.likelihood.nelbo(model.numpy, ids_NL, 3, 4, flat, 2)
    assert (
        abs(fast.likelihood.nelbo(single, ids_NL, 3, 4, plan, 2) - expected)
        <= 2.0**-24 * charged + 1e-12
    ).all()


def test_a_window_costs_the_same_in_any_batch():
    model = TableModel(3, 5)
    ids_NL = model.windows(11)
    plan = fast.likelihood.pilot(model.torch, ids_NL, 3, 8, 9, 20)

    def chain(order):
        return lambda ids_NL, row, **k: fast.chain.chain(
            model.torch, ids_NL, 3, order, 9, 2, 2, row, **k
        )

    estimators = {
        "nelbo": lambda ids_NL, row, **k: fast.likelihood.nelbo(
            model.torch, ids_NL, 3, 4, plan, 9, row, **k
        ),
        "grid": lambda ids_NL, row, **k: fast.likelihood.nelbo_grid(
            model.torch, ids_NL, 3, 4, 0.001, 0.01, 9, row, **k
        ),
        **{order: chain(order) for order in ORDERS},
    }
    for name, estimate in estimators.items():
        whole = estimate(ids_NL, 20)
        for batch_rows in (1, 2, 4, 11, 100):
            np.testing.assert_array_equal(
                estimate(ids_NL, 20, batch_rows=batch_rows), whole, err_msg=name
            )
        np.testing.assert_array_equal(
            np.concatenate([estimate(ids_NL[:3], 20), estimate(ids_NL[3:], 23)]),
            whole,
            err_msg=name,
        )
        if name in ("nelbo", "grid", "random"):
            assert not np.array_equal(estimate(ids_NL[3:], 20), whole[3:]), name


def test_batches_keep_one_shape_and_copies_are_not_counted():
    model = TableModel(3, 4)
    ids_NL, passes = model.windows(10), []
    settings = {"batch_rows": 4, "on_pass": passes.append}
    plan = fast.likelihood.pilot(model.torch, ids_NL, 3, 6, 0, **settings)
    fast.likelihood.nelbo(model.torch, ids_NL, 3, 5, plan, 0, **settings)
    fast.likelihood.nelbo_grid(model.torch, ids_NL, 3, 5, 0.001, 0.01, 0, **settings)
    fast.chain.chain(model.torch, ids_NL, 3, "entropy", 0, 3, 2, **settings)
    assert model.shapes == {(4, 4)}
    assert sum(passes) == 2 * 6 + 10 * 5 + 10 * 5 + 10 * 2 and set(passes) == {4, 2}
    assert model.calls > sum(passes)  # the filled-up batches did run


# Devices and ties


def test_masks_of_fixed_size_ask_for_a_stable_sort():
    with OnlyStableSorts() as sorts:
        fast.likelihood.fixed_mask(torch.zeros(2, 5), torch.tensor([2, 3]))
    assert sorts.seen


def test_masks_and_sizes_lie_where_their_inputs_do():
    """The meta device computes shapes and devices alone, and refuses operands from two devices."""
    words_BL, size_B = (
        torch.zeros(3, 5, dtype=torch.int64, device="meta"),
        torch.ones(3, dtype=torch.int64, device="meta"),
    )
    mask_BL = fast.likelihood.fixed_mask(words_BL, size_B)
    assert (mask_BL.device.type, mask_BL.shape, mask_BL.dtype) == ("meta", (3, 5), torch.bool)
    size_BK = fast.sizes.draw_sizes(words_BL, size_B, 4)
    assert (size_BK.device.type, size_BK.shape, size_BK.dtype) == ("meta", (3, 4), torch.int64)


def test_every_estimator_stays_on_the_device_asked_for(monkeypatch):
    """On the meta device an operation on two devices is an error, and so is a way back to the host
    other than .cpu(), which makes zeros.
    """
    on_host = torch.Tensor.cpu
    monkeypatch.setattr(
        torch.Tensor,
        "cpu",
        lambda self: torch.zeros(self.shape, dtype=self.dtype) if self.is_meta else on_host(self),
    )

    def model(ids_BL):
        assert ids_BL.is_meta and ids_BL.dtype == torch.int64
        return torch.zeros(*ids_BL.shape, 3, dtype=torch.float64, device="meta")

    likelihood, ids_NL, plan = fast.likelihood, np.zeros((5, 4), np.int64), flat_plan(4)
    assert np.isfinite(likelihood.pilot(model, ids_NL, 3, 4, 0, device="meta").curve_2L).all()
    for nats, columns in (
        (likelihood.nelbo(model, ids_NL, 3, 2, plan, 0, batch_rows=2, device="meta"), 2),
        (
            likelihood.nelbo_grid(model, ids_NL, 3, 2, 0.001, 0.01, 0, batch_rows=2, device="meta"),
            2,
        ),
        (
            likelihood.causal_nll(
                model, ids_NL, np.zeros(5, np.int64), batch_rows=2, device="meta"
            ),
            4,
        ),
        *(
            (fast.chain.chain(model, ids_NL, 3, order, 0, 3, 2, batch_rows=2, device="meta"), 4)
            for order in ORDERS
        ),
    ):
        assert nats.shape == (5, columns) and not nats.any()


def flat_plan(length):
    """A plan that draws every size alike and expects nothing."""
    cumulative_L = fast.sizes.cumulative_counts(np.ones(length))
    return Plan(np.stack([cumulative_L] * 2), np.zeros((2, length)))


def test_no_estimator_records_a_graph():
    """The weights of a model being validated ask for gradients: keeping every pass would fill the
    device.
    """
    weight, ids_NL = (
        torch.zeros(3, dtype=torch.float64, requires_grad=True),
        np.zeros((2, 4), np.int64),
    )

    def model(ids_BL):
        log_probs_BLV = weight.expand(*ids_BL.shape, 3).log_softmax(-1)
        assert not log_probs_BLV.requires_grad
        return log_probs_BLV

    likelihood = fast.likelihood
    likelihood.pilot(model, ids_NL, 3, 4, 0)
    likelihood.nelbo(model, ids_NL, 3, 2, flat_plan(4), 0)
    likelihood.nelbo_grid(model, ids_NL, 3, 2, 0.001, 0.01, 0)
    likelihood.causal_nll(model, ids_NL, np.zeros(2, np.int64))
    fast.chain.chain(model, ids_NL, 3, "confidence", 0, 1, 1)


def test_sums_are_float64_whatever_the_model_returns():
    """A float32 model costs to the bit what its numbers cost when they are widened first."""
    random = np.random.default_rng(4)
    table = torch.from_numpy(random.standard_normal((3, 3))).float().log_softmax(-1)

    def narrow(ids_BL):
        return table[ids_BL.clamp(max=2)]

    def wide(ids_BL):
        return narrow(ids_BL).double()

    likelihood, ids_NL = fast.likelihood, random.integers(0, 3, (4, 33))
    plan = flat_plan(33)
    for score in (
        lambda model: likelihood.nelbo(model, ids_NL, 3, 2, plan, 0),
        lambda model: likelihood.nelbo_grid(model, ids_NL, 3, 2, 0.001, 0.01, 0),
        lambda model: likelihood.causal_nll(model, ids_NL, np.zeros(4, np.int64)),
        lambda model: fast.chain.chain(model, ids_NL, 3, "left-to-right", 0, 5, 1),
        lambda model: likelihood.pilot(model, ids_NL, 3, 6, 0).curve_2L,
    ):
        assert score(narrow).dtype == np.float64
        np.testing.assert_array_equal(score(narrow), score(wide))
