"""Orders: what each one means, ties, and twins that choose alike."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import fast.orders
import reference.orders
from reference.recipe import InputError
from tests.support.compare import OnlyStableSorts

every_order = pytest.mark.parametrize("order", reference.orders.ORDERS)


def choose(order, log_probs_LV, masked_L, priority_L, count):
    """The fast choice for one window."""
    arguments = (
        torch.from_numpy(np.array(array))[None] for array in (log_probs_LV, masked_L, priority_L)
    )
    return fast.orders.next_positions(order, *arguments, count)[0].tolist()


def both(order, p_LV, masked_L=None, count=1, block=2, row=0):
    """The choice that both halves make from probabilities; fails where they differ."""
    with np.errstate(divide="ignore"):
        log_probs_LV = np.log(np.asarray(p_LV, np.float64))
    masked_L = np.ones(len(p_LV), bool) if masked_L is None else np.asarray(masked_L, bool)
    priority_L = reference.orders.priorities(order, 3, [row], len(p_LV), block)[0]
    expected = reference.orders.next_positions(
        order, log_probs_LV, masked_L, priority_L, count
    ).tolist()
    assert choose(order, log_probs_LV, masked_L, priority_L, count) == expected
    return expected


def test_names_are_those_of_the_specification():
    expected = (
        "left-to-right",
        "right-to-left",
        "random",
        "confidence",
        "entropy",
        "margin",
        "block",
    )
    assert reference.orders.ORDERS == fast.orders.ORDERS == expected


@pytest.mark.parametrize("half", [reference.orders, fast.orders])
def test_unknown_order_is_an_error_that_lists_the_orders(half):
    with pytest.raises(
        InputError, match="left-to-right, right-to-left, random, confidence, entropy, margin, block"
    ):
        half.check_order("best")


def test_each_adaptive_order_has_its_own_favourite():
    # Largest maximum: 0. Largest gap between the first two: 1. Smallest entropy: 2.
    p_LV = [
        [0.50, 0.30, 0.10, 0.10],
        [0.47, 0.18, 0.18, 0.17],
        [0.49, 0.49, 0.01, 0.01],
        [0.25, 0.25, 0.25, 0.25],
    ]
    assert both("confidence", p_LV) == [0]
    assert both("margin", p_LV) == [1]
    assert both("entropy", p_LV) == [2]
    assert both("block", p_LV, block=2) == [0]
    assert both("block", p_LV, block=4) == [0]
    assert both("block", p_LV, masked_L=[0, 0, 1, 1], block=2) == [2]
    assert both("confidence", p_LV, count=4) == [0, 2, 1, 3]
    assert both("entropy", p_LV, count=4) == [2, 0, 1, 3]
    assert both("margin", p_LV, count=4) == [1, 0, 2, 3]


def test_margin_is_a_gap_of_probabilities_not_of_logarithms():
    # Probabilities 0.3 against 0.2 apart, but a factor of 2 against a factor of 3.
    assert both("margin", [[0.6, 0.3, 0.1, 0, 0, 0, 0, 0], [0.3] + 7 * [0.1]]) == [0]


def test_impossible_tokens_cost_no_entropy():
    assert both("entropy", [[0.6, 0.4, 0.0], [1.0, 0.0, 0.0], [0.5, 0.25, 0.25]], count=3) == [
        1,
        0,
        2,
    ]


@every_order
def test_ties_go_to_the_lowest_index(order):
    uniform = np.full((9, 3), 1 / 3)
    expected = {"right-to-left": 7, "random": None}.get(order, 1)
    masked_L = [0, 1, 1, 0, 1, 1, 1, 1, 0]
    chosen = both(order, uniform, masked_L, block=3)
    assert expected is None or chosen == [expected]
    if order not in ("right-to-left", "random"):
        assert both(order, uniform, masked_L, count=6, block=3) == [1, 2, 4, 5, 6, 7]


def test_ties_of_equal_words_go_to_the_lowest_index():
    masked_L, equal_L = np.array([False, True, True, True]), np.zeros(4, np.int64)
    assert reference.orders.next_positions(
        "random", np.zeros((4, 2)), masked_L, equal_L, 2
    ).tolist() == [1, 2]
    assert choose("random", np.zeros((4, 2)), masked_L, equal_L, 2) == [1, 2]


def test_block_finishes_a_block_before_the_next():
    confident_late = np.array([[0.5 + 0.04 * i, 0.5 - 0.04 * i] for i in range(9)])
    assert both("block", confident_late, count=9, block=4) == [3, 2, 1, 0, 7, 6, 5, 4, 8]
    assert both("confidence", confident_late, count=9) == [8, 7, 6, 5, 4, 3, 2, 1, 0]


@given(
    st.sampled_from(reference.orders.ORDERS),
    st.integers(0, 2**64 - 1),
    st.lists(st.integers(0, 2**32 - 1), min_size=1, max_size=4),
    st.integers(1, 40),
    st.integers(1, 50),
)
def test_priorities_agree_bit_for_bit(order, seed, rows, length, block):
    expected = reference.orders.priorities(order, seed, rows, length, block)
    found = fast.orders.priorities(order, seed, rows, length, block)
    assert expected.dtype == np.int64 and found.dtype == torch.int64
    np.testing.assert_array_equal(found.numpy(), expected)


@every_order
@pytest.mark.parametrize(
    "given", [{"device": "meta", "rows": [3, 5]}, {"rows": torch.tensor([3, 5], device="meta")}]
)
def test_priorities_lie_on_the_device_asked_for_or_that_of_the_rows(order, given):
    """The meta device computes shapes and devices alone, and refuses operands from two devices."""
    found = fast.orders.priorities(order, 1, length=6, block=2, **given)
    assert (found.device.type, found.shape, found.dtype) == ("meta", (2, 6), torch.int64)


@every_order
def test_scores_are_what_their_order_says(order):
    p_BLV = np.random.default_rng(0).dirichlet(np.ones(4), size=(2, 3))
    top_BL, second_BL = np.sort(p_BLV, axis=-1)[..., -1], np.sort(p_BLV, axis=-1)[..., -2]
    expected = {
        "confidence": np.log(top_BL),
        "block": np.log(top_BL),
        "entropy": (p_BLV * np.log(p_BLV)).sum(-1),
        "margin": top_BL - second_BL,
    }.get(order, np.zeros((2, 3)))
    rounded = np.round(expected * 1024) / 1024
    np.testing.assert_array_equal(
        fast.orders.scores(order, torch.from_numpy(np.log(p_BLV))), rounded
    )
    for p_LV, row in zip(p_BLV, rounded, strict=True):
        np.testing.assert_array_equal(reference.orders.scores(order, np.log(p_LV)), row)


@pytest.mark.parametrize("order", ["confidence", "entropy", "margin", "block"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_noise_of_rounding_breaks_no_ties(order, dtype):
    """Positions that differ by the noise of float32 tie, and the lowest index wins, in both
    halves.
    """
    p_V = np.array([0.7, 0.2, 0.1])
    noise = 1e-6 * np.random.default_rng(3).standard_normal((20, 9, 3))
    for log_probs_LV in np.log(p_V) + noise:
        masked_L, priority_L = np.ones(9, bool), np.zeros(9, np.int64)
        assert reference.orders.next_positions(
            order, log_probs_LV, masked_L, priority_L, 1
        ).tolist() == [0]
        found = fast.orders.next_positions(
            order,
            torch.from_numpy(log_probs_LV)[None].to(dtype),
            torch.from_numpy(masked_L)[None],
            torch.from_numpy(priority_L)[None],
            1,
        )
        assert found.tolist() == [[0]]


@every_order
def test_no_sort_may_break_ties_as_it_likes(order):
    """On the CPU every sort of torch is stable, on a GPU only where one asks for it."""
    with OnlyStableSorts() as sorts:
        fast.orders.next_positions(
            order,
            torch.zeros(2, 5, 3),
            torch.ones(2, 5).bool(),
            torch.zeros(2, 5, dtype=torch.int64),
            2,
        )
    assert sorts.seen


def test_random_order_belongs_to_the_seed_and_the_row_alone():
    batch = np.argsort(reference.orders.priorities("random", 5, [4, 9, 2], 64, 1), axis=1)
    alone = np.argsort(reference.orders.priorities("random", 5, [9], 64, 1), axis=1)
    np.testing.assert_array_equal(batch[1], alone[0])
    assert not np.array_equal(batch[0], batch[1])
    assert not np.array_equal(
        alone, np.argsort(reference.orders.priorities("random", 6, [9], 64, 1), axis=1)
    )


@given(
    st.data(),
    st.sampled_from(reference.orders.ORDERS),
    st.integers(1, 24),
    st.integers(1, 6),
    st.integers(0, 2**32 - 1),
)
def test_twins_choose_alike_with_ties_and_revealed_positions(data, order, length, block, seed):
    # Rows come from a small pool: equal rows are exact ties, unequal ones differ by far more than
    # rounding.
    pool = np.random.default_rng(seed).dirichlet(np.ones(5), size=3)
    p_LV = pool[data.draw(st.lists(st.integers(0, 2), min_size=length, max_size=length))]
    masked_L = np.array(data.draw(st.lists(st.booleans(), min_size=length, max_size=length)))
    if masked_L.any():
        count = data.draw(st.integers(1, int(masked_L.sum())))
        chosen = both(order, p_LV, masked_L, count, block, row=seed)
        assert len(set(chosen)) == count and masked_L[chosen].all()


@every_order
def test_a_batch_chooses_as_its_rows_do(order):
    random = np.random.default_rng(0)
    log_probs_BLV = torch.from_numpy(np.log(random.dirichlet(np.ones(4), size=(6, 10))))
    masked_BL = torch.from_numpy(random.permuted(np.tile(np.arange(10) < 7, (6, 1)), axis=1))
    priority_BL = fast.orders.priorities(order, 1, np.arange(6), 10, 3)
    together = fast.orders.next_positions(order, log_probs_BLV, masked_BL, priority_BL, 5)
    for b in range(6):
        alone = fast.orders.next_positions(
            order, log_probs_BLV[b : b + 1], masked_BL[b : b + 1], priority_BL[b : b + 1], 5
        )
        torch.testing.assert_close(alone[0], together[b], rtol=0, atol=0)
