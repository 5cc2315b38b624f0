"""Steps by how far the loss depends on each weight: they are the best for their size, and finite
differences of the loss agree with what they follow from.
"""

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import fast.allot
import fast.quantize
import reference.allot
import reference.quantize
from fast import artifact, container, data, quantize, train, transformer
from reference.recipe import DIALS, TINY, InputError, StepExponents, check
from tests.support.observed import stream

UNIFORM = replace(TINY.quantization, format="uniform", threshold=16)


def recipe_with(**quantization):
    """The smallest recipe with some fields of its quantization."""
    model = replace(TINY.model, vocab=3, length=4, causal_share=0.5, shift=True, mixing=1)
    return check(replace(TINY, model=model, quantization=replace(UNIFORM, **quantization)))


def weights_of(recipe, seed: int = 0) -> dict[str, torch.Tensor]:
    draw = torch.Generator().manual_seed(seed)
    return {
        name: torch.randn(shape, generator=draw, dtype=torch.float64) * 0.2
        for name, shape in transformer.shapes(recipe.model).items()
    }


def test_squared_gradients_are_those_of_each_window_alone():
    """At a gradient per window: of the first windows of training, in their order, per token."""
    recipe = recipe_with(fisher=9)
    batch, params = data.batches(stream(), recipe), weights_of(recipe)
    length, rows = recipe.model.length, recipe.training.tokens_per_step // recipe.model.length
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(fast.allot, "TOKENS", length)
        found = fast.allot.squared_gradients(params, batch, recipe)
    expected = {name: torch.zeros_like(value) for name, value in params.items()}
    for window in range(9):
        step, row = divmod(window, rows)
        leaves = {name: value.clone().requires_grad_() for name, value in params.items()}
        loss = train.batch_loss(
            transformer.stack(leaves),
            tuple(map(torch.from_numpy, batch(step, [row]))),
            step,
            np.array([row]),
            recipe,
        )
        loss.backward()
        for name, leaf in leaves.items():
            expected[name] += (length * leaf.grad).square() / (9 * length)
    for name, value in expected.items():
        assert torch.allclose(found[name], value, rtol=1e-9, atol=0), name


@pytest.mark.parametrize("drift", [0.5, -0.5])
def test_squared_gradients_have_the_share_of_causal_rows_without_its_drift(drift):
    """The artifact is read by both kinds of attention, whichever the first steps trained."""
    recipe = recipe_with(fisher=9)
    recipe = replace(recipe, model=replace(recipe.model, causal_share=0.5))
    drifting = replace(recipe, training=replace(recipe.training, causal_drift=drift))
    batch, params = data.batches(stream(), recipe), weights_of(recipe)
    expected = fast.allot.squared_gradients(params, batch, recipe)
    for allot, given_ in (
        (fast.allot, params),
        (reference.allot, {k: v.numpy() for k, v in params.items()}),
    ):
        found = allot.squared_gradients(given_, batch, drifting)
        for name, value in expected.items():
            assert np.allclose(np.asarray(found[name]), value, rtol=1e-9, atol=0), name


@pytest.mark.parametrize("stacked", [True, False])
def test_squared_gradients_leave_the_weights_alone(stacked):
    recipe = recipe_with(fisher=3)
    params = weights_of(recipe)
    given_ = transformer.stack(params) if stacked else params
    before = {name: value.clone() for name, value in given_.items()}
    found = fast.allot.squared_gradients(given_, data.batches(stream(), recipe), recipe)
    assert found.keys() == params.keys()
    assert all(torch.equal(given_[name], value) for name, value in before.items())
    assert all(not value.requires_grad for value in given_.values())


@settings(max_examples=50)
@given(seed=st.integers(0, 2**32), rows=st.integers(1, 9), columns=st.integers(1, 9))
def test_a_product_of_rows_and_columns_is_found(seed, rows, columns):
    rng = np.random.default_rng(seed)
    row_R, column_C = np.exp(rng.standard_normal(rows)), np.exp(rng.standard_normal(columns))
    squares_RC = np.outer(row_R, column_C)
    for half, given_ in (
        (reference.allot, squares_RC),
        (fast.allot, torch.from_numpy(squares_RC)),
    ):
        found_R, found_C = (np.asarray(part) for part in half.factors(given_))
        # What is added to each entry, as a share of the smallest
        added = 20 * reference.allot.FLOOR * squares_RC.mean() / squares_RC.min()
        np.testing.assert_allclose(np.outer(found_R, found_C), squares_RC, added + 1e-9)
        assert np.log(found_C).mean() == pytest.approx(0, abs=1e-12)


def rounding_errors(values, exponents):
    """The values as they are stored, less the values."""
    data_ = quantize.to_bytes(values, "uniform", dial=exponents)
    return quantize.from_bytes(data_, tuple(values.shape), "uniform").double() - values


def test_damage_per_bit_is_alike_wherever_a_weight_lies():
    """F s^2 of every weight of both matrices is the same, but for the rounding of both exponents."""
    rng = np.random.default_rng(3)
    values = {"a": torch.from_numpy(rng.standard_normal((40, 30)))}
    values["b"] = torch.from_numpy(rng.standard_normal((50, 30)) * 1e-3)
    squares = {
        "a": torch.from_numpy(np.outer(*(np.exp(rng.standard_normal(n)) for n in (40, 30)))),
        "b": torch.from_numpy(1e4 * np.outer(*(np.exp(rng.standard_normal(n)) for n in (50, 30)))),
    }
    steps = fast.allot.step_exponents(values, squares, 32.0)
    shares = []
    for name, square in squares.items():
        exponent_RC = steps[name].rows_R[:, None] + steps[name].columns_C
        shares.append((square * 4.0 ** (exponent_RC / 8)).reshape(-1))
    spread = torch.cat(shares).log2()
    assert (spread - spread.mean()).abs().max() < 2 * (0.5 + 0.5) / 8 + 0.05


@pytest.mark.parametrize("squared", [True, False])
def test_the_dial_is_the_mean_over_the_weights(squared):
    rng = np.random.default_rng(4)
    values = {
        "a": torch.from_numpy(rng.standard_normal((40, 30))),
        "b": torch.from_numpy(rng.standard_normal((10, 7)) * 1e-3),
    }
    values["a"][3] = 0.0
    squares = {name: torch.rand(value.shape) + 0.5 for name, value in values.items()}
    squares["b"] *= 1e6
    steps = fast.allot.step_exponents(values, squares if squared else None, 30.0)
    total = count = 0
    for name, value in values.items():
        alive = value.any(dim=1)
        dials = 8 * value.square().mean(dim=1).sqrt().log2() - steps[name].rows_R
        total += float(dials[alive].sum()) * value.shape[1]
        count += int(alive.sum()) * value.shape[1]
    assert total / count == pytest.approx(30.0, abs=0.2)
    if not squared:
        assert not steps["a"].columns_C.any()


def exponents_of(half, values: np.ndarray, squares: np.ndarray | None, dial: float):
    """The exponents of one matrix by one half."""
    make = torch.from_numpy if half is fast.allot else np.asarray
    given_ = None if squares is None else {"w": make(squares)}
    return half.step_exponents({"w": make(values)}, given_, dial)["w"]


def moved_by(half, values: np.ndarray, exponents: StepExponents, dial: float) -> StepExponents:
    """The exponents of one matrix, shifted by one half."""
    make = torch.from_numpy if half is fast.allot else np.asarray
    given_ = StepExponents(*(make(np.asarray(part)) for part in exponents))
    return half.shifted({"w": make(values)}, {"w": given_}, dial)["w"]


both = pytest.mark.parametrize("half", [reference.allot, fast.allot], ids=["reference", "fast"])


@both
def test_no_step_is_above_the_size_of_its_row(half):
    values, squares = np.ones((3, 400)), np.ones((3, 400))
    squares[0] = 1e-4
    coarse, one, other = exponents_of(half, values, squares, 10.0).rows_R
    assert int(coarse) == 0 and int(one) == int(other) < 0


@both
def test_no_code_takes_more_than_16_bits(half):
    """The root mean square of n numbers is at most the square root of n below the largest."""
    values = np.zeros((2, 40_000))
    values[0, 7], values[1] = 1.0, 1.0
    exponents = exponents_of(half, values, None, 64.0)
    largest = 2.0 ** (-np.asarray(exponents.rows_R) / 8)
    assert 2**14 < largest[0] <= 2**15 - 1 and largest[1] == 2.0**8
    stored = reference.quantize.to_bytes(values, "uniform", dial=exponents)
    assert fast.quantize.to_bytes(torch.from_numpy(values), "uniform", dial=exponents) == stored


@both
@pytest.mark.parametrize("dial", [0.0, 16.0, 32.0])
def test_no_finer_step_takes_more_than_16_bits(half, dial):
    """shifted(): weights may have grown since their steps were chosen."""
    values = np.zeros((2, 40))
    values[0, 7], values[1] = 2.0**12, 2.0**9
    chosen = StepExponents(*(np.zeros(n, int) for n in values.shape))
    rows_R = moved_by(half, values, chosen, dial).rows_R
    assert np.asarray(rows_R).tolist() == [max(-int(dial), -23), -int(dial)]


@both
def test_a_fraction_of_a_shift_is_a_share_of_the_rows(half):
    values = np.random.default_rng(0).standard_normal((20, 9))
    chosen = exponents_of(half, values, None, 20.0)
    for dial, most, share in ((0.0, 1, 0), (2.25, 3, 5), (-1.75, -1, 5)):
        found = moved_by(half, values, chosen, dial)
        apart = np.asarray(chosen.rows_R) - np.asarray(found.rows_R)
        assert apart.tolist() == [most] * share + [most - 1] * (20 - share)
        assert np.array_equal(found.columns_C, chosen.columns_C)


@both
def test_a_fraction_of_the_dial_is_a_share_of_the_rows(half):
    values = np.random.default_rng(0).standard_normal((20, 9))
    coarse, between, fine = (
        np.asarray(exponents_of(half, values, None, dial).rows_R) for dial in (20.0, 20.33, 21.0)
    )
    assert ((coarse - fine) == 1).all()
    assert np.array_equal(between, np.where(np.arange(20) < 7, fine, coarse))


def test_the_same_bytes_do_less_damage():
    """Of a quadratic loss, whose second derivatives the squares are."""
    rng = np.random.default_rng(5)
    values = {"w": torch.from_numpy(rng.standard_normal((800, 200)))}
    squares = {
        "w": torch.from_numpy(np.outer(*(np.exp(rng.standard_normal(n)) for n in (800, 200))))
    }

    def damage_and_size(exponents) -> tuple[float, int]:
        errors = rounding_errors(values["w"], exponents["w"])
        size = len(container.pack(values, {"w": "uniform"}, {}, "entropy", exponents))
        return float((squares["w"] * errors.square()).sum()), size

    plain, allotted = (
        damage_and_size(fast.allot.step_exponents(values, given_, 24.0))
        for given_ in (None, squares)
    )
    assert allotted[0] < plain[0] / 2.5 and allotted[1] < 1.05 * plain[1]


# an artifact within a budget


def written(tmp_path, recipe, params, **more) -> bytes:
    """The bytes of an artifact of a recipe."""
    batch = data.batches(stream(), recipe)
    size = artifact.write(tmp_path / "a.mgolf", params, recipe, batch=batch, **more)
    found = (tmp_path / "a.mgolf").read_bytes()
    assert len(found) == size
    return found


def large_weights(recipe, seed: int = 0) -> tuple:
    """A recipe of a larger model, and its weights."""
    model = replace(recipe.model, layers=4, d=64)
    recipe = replace(recipe, model=model)
    return recipe, {name: value.float() for name, value in weights_of(recipe, seed).items()}


@pytest.mark.parametrize("fisher", [0, 4])
@pytest.mark.parametrize("share", [0.1, 0.3, 0.5])
def test_a_budget_is_met_to_a_thousandth(tmp_path, fisher, share):
    recipe, params = large_weights(recipe_with(fisher=fisher))

    def with_budget(budget: int):
        return replace(recipe, quantization=replace(recipe.quantization, budget=budget))

    most = len(written(tmp_path, with_budget(10**9), params))
    with pytest.raises(InputError) as caught:
        written(tmp_path, with_budget(1000), params)
    least = int(str(caught.value).split("found ")[1].split()[0].replace(",", ""))
    budget = int(least + share * (most - least))
    size = len(written(tmp_path, with_budget(budget), params))
    assert 0.999 * budget <= size <= budget


def test_a_budget_that_all_fits_in_takes_the_finest_steps(tmp_path):
    recipe = recipe_with(budget=10**9)
    params = weights_of(recipe)
    found = written(tmp_path, recipe, params, codec="none")
    exponents = fast.allot.step_exponents(
        {k: v for k, v in params.items() if v.numel() > 16 and v.ndim > 1}, None, DIALS[1]
    )
    kept = container.unpack(found)[1]["embedding"].double()
    expected = params["embedding"] + rounding_errors(params["embedding"], exponents["embedding"])
    assert torch.equal(kept, expected)


def test_a_budget_too_small_says_by_how_much(tmp_path):
    recipe = recipe_with(budget=1000)
    message = (
        r"quantization.budget: expected an artifact of at most 1,000 bytes, found ([\d,]+) with the"
        r" coarsest steps, ([\d,]+) over; choose a smaller model"
    )
    with pytest.raises(InputError, match=message):
        written(tmp_path, recipe, weights_of(recipe))
    assert not (tmp_path / "a.mgolf").exists()


def test_gradients_need_text(tmp_path):
    recipe = recipe_with(fisher=2)
    with pytest.raises(InputError, match="quantization.fisher: expected training text"):
        artifact.write(tmp_path / "a.mgolf", weights_of(recipe), recipe)
