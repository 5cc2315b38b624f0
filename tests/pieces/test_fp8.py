"""Small floats: all codes, all 16-bit inputs, float32 at its edges; ml_dtypes as a third
opinion.
"""

import ml_dtypes
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import fast.fp8
import reference.fp8
from reference.recipe import InputError
from tests.scripts import exhaustive

THIRD = {
    "e4m3": ml_dtypes.float8_e4m3fn,
    "e5m2": ml_dtypes.float8_e5m2,
    "e2m1": ml_dtypes.float4_e2m1fn,
}
COUNT = {"e4m3": 256, "e5m2": 256, "e2m1": 16}
LARGEST = {"e4m3": 448.0, "e5m2": 57344.0, "e2m1": 6.0}
STEP = {"e4m3": 2.0**-9, "e5m2": 2.0**-16, "e2m1": 0.5}  # between subnormals
kinds = pytest.mark.parametrize("kind", list(THIRD))


def all_halves(name: str) -> torch.Tensor:
    """All 65,536 values of a 16-bit type, as torch reads the bits."""
    return (
        torch.arange(-(2**15), 2**15, dtype=torch.int32).to(torch.int16).view(getattr(torch, name))
    )


def assert_encoded_alike(values: torch.Tensor, kind: str) -> None:
    """Both halves give the same codes, and inside the range ml_dtypes gives them too."""
    wide = values.to(torch.float64).numpy()  # exact
    expected = reference.fp8.encode(wide, kind)
    found = fast.fp8.encode(values, kind)
    assert found.dtype == torch.uint8 and expected.dtype == np.uint8
    np.testing.assert_array_equal(found.numpy(), expected)
    inside = np.abs(wide) <= LARGEST[kind]
    third = wide[inside].astype(np.float32).astype(THIRD[kind]).view(np.uint8)
    if values.dtype != torch.float64:  # ml_dtypes reads float64 through float32
        np.testing.assert_array_equal(expected[inside], third)


@kinds
def test_every_code_decodes_as_ml_dtypes_says(kind):
    codes = np.arange(COUNT[kind], dtype=np.uint8)
    third = codes.view(THIRD[kind]).astype(np.float64)
    np.testing.assert_array_equal(reference.fp8.decode(codes, kind), third)
    fast_values = fast.fp8.decode(torch.from_numpy(codes), kind)
    assert fast_values.dtype == torch.float32
    np.testing.assert_array_equal(fast_values.numpy(), third)
    np.testing.assert_array_equal(
        np.signbit(fast_values.numpy())[~np.isnan(third)], np.signbit(third)[~np.isnan(third)]
    )


def test_known_codes_of_e4m3():
    known = {
        0x00: 0.0,
        0x01: 2.0**-9,
        0x07: 7 * 2.0**-9,
        0x08: 2.0**-6,
        0x38: 1.0,
        0x7E: 448.0,
        0x81: -(2.0**-9),
        0xFE: -448.0,
    }
    for code, value in known.items():
        assert reference.fp8._decode_one(code, "e4m3") == value
        assert reference.fp8.encode(np.array(value))[()] == code
    assert np.isnan(reference.fp8.decode(np.array([0x7F, 0xFF], np.uint8))).all()


@kinds
def test_every_finite_code_survives_the_round_trip(kind):
    codes = np.arange(COUNT[kind], dtype=np.uint8)
    values = reference.fp8.decode(codes, kind)
    finite = np.isfinite(values)
    np.testing.assert_array_equal(reference.fp8.encode(values[finite], kind), codes[finite])
    fast_codes = fast.fp8.encode(fast.fp8.decode(torch.from_numpy(codes[finite]), kind), kind)
    np.testing.assert_array_equal(fast_codes.numpy(), codes[finite])


@kinds
@pytest.mark.parametrize("name", ["bfloat16", "float16"])
def test_every_16_bit_value(kind, name):
    values = all_halves(name)
    assert_encoded_alike(values[~torch.isnan(values)], kind)


@kinds
def test_ties_their_neighbours_and_the_ends_of_the_range(kind):
    table = reference.fp8.decode(np.arange(COUNT[kind] // 2, dtype=np.uint8), kind)
    table = table[np.isfinite(table)]
    ties = (table[:-1] + table[1:]) / 2
    edges = np.concatenate(
        [
            table,
            ties,
            [
                LARGEST[kind] * 1.03,
                LARGEST[kind] * 1.07,
                LARGEST[kind] * 2,
                3e38,
                np.inf,
                1e-45,
                1e-38,
            ],
        ]
    )
    for dtype in (np.float32, np.float64):
        exact = edges.astype(dtype)
        near = np.concatenate(
            [exact, np.nextafter(exact, dtype(np.inf)), np.nextafter(exact, dtype(0))]
        )
        assert_encoded_alike(torch.from_numpy(np.concatenate([near, -near])), kind)
    # a tie takes the even code, the neighbours of a tie take the near side
    codes = reference.fp8.encode(ties, kind)
    assert (codes % 2 == 0).all()
    lower = np.arange(len(ties))
    np.testing.assert_array_equal(reference.fp8.encode(np.nextafter(ties, 0), kind), lower)
    np.testing.assert_array_equal(reference.fp8.encode(np.nextafter(ties, np.inf), kind), lower + 1)


@kinds
@given(pattern=st.integers(0, 2**32 - 1))
def test_float32_patterns(kind, pattern):
    value = np.array([pattern], np.uint32).view(np.float32)
    if not np.isnan(value[0]):
        assert_encoded_alike(torch.from_numpy(value), kind)


@kinds
@given(value=st.floats(allow_nan=False))
def test_float64_values_are_rounded_once(kind, value):
    assert_encoded_alike(torch.tensor([value], dtype=torch.float64), kind)


@kinds
@given(value=st.floats(-1e6, 1e6, width=32))
def test_encoding_is_nearest_monotone_and_odd(kind, value):
    def encoded(number):
        return float(
            fast.fp8.decode(
                fast.fp8.encode(torch.tensor([number], dtype=torch.float64), kind), kind
            )[0]
        )

    got = encoded(value)
    assert encoded(-value) == -got
    assert encoded(np.nextafter(value, np.inf)) >= got
    codes = np.arange(COUNT[kind], dtype=np.uint8)
    table = reference.fp8.decode(codes, kind)
    assert abs(got - value) == np.nanmin(
        np.abs(np.where(np.isfinite(table), table, np.nan) - value)
    )


@kinds
def test_signed_zero_infinity_and_underflow(kind):
    sign = COUNT[kind] // 2
    values = torch.tensor(
        [
            0.0,
            -0.0,
            float("inf"),
            float("-inf"),
            STEP[kind] / 2,
            -STEP[kind] / 2,
            STEP[kind] * 0.5001,
        ]
    )
    largest = int(reference.fp8.encode(np.array(LARGEST[kind]), kind))
    assert fast.fp8.encode(values, kind).tolist() == [0, sign, largest, largest + sign, 0, sign, 1]
    assert_encoded_alike(values, kind)


@kinds
def test_bad_input_is_one_clear_error(kind):
    for values in ([float("nan")], [1.0, float("nan"), 2.0]):
        with pytest.raises(InputError, match=f"{kind}.*NaN"):
            reference.fp8.encode(np.array(values), kind)
        with pytest.raises(InputError, match=f"{kind}.*NaN"):
            fast.fp8.encode(torch.tensor(values), kind)
    for half, array in ((reference.fp8, np.array), (fast.fp8, torch.tensor)):
        with pytest.raises(InputError, match="unknown small float 'e3m4'"):
            half.encode(array([1.0]), "e3m4")
        with pytest.raises(InputError, match="unknown small float 'e3m4'"):
            half.decode(array([1]), "e3m4")
        with pytest.raises(InputError, match="expected 0 to 15, found.*16"):
            half.decode(array([16]), "e2m1")


@pytest.mark.parametrize("shape", [(), (0,), (1,), (3, 5), (2, 0, 4), (2, 3, 4)])
def test_shapes_are_kept_and_inputs_are_not_changed(shape):
    values = torch.full(shape, 0.3)
    assert fast.fp8.encode(values).shape == shape
    assert reference.fp8.encode(values.numpy()).shape == shape
    assert fast.fp8.decode(fast.fp8.encode(values)).shape == shape
    assert reference.fp8.decode(reference.fp8.encode(values.numpy())).shape == shape
    assert (values == torch.full(shape, 0.3)).all()


def test_strided_input():
    values = torch.linspace(-500, 500, 60).reshape(6, 10)
    np.testing.assert_array_equal(
        fast.fp8.encode(values.T).numpy(), reference.fp8.encode(values.numpy().T)
    )
    np.testing.assert_array_equal(
        fast.fp8.encode(values[::2, ::3]).numpy(), reference.fp8.encode(values.numpy()[::2, ::3])
    )


def test_without_the_look_for_nan_the_codes_are_the_same():
    values = torch.linspace(-500, 500, 1001)
    assert torch.equal(fast.fp8.encode(values, check=False), fast.fp8.encode(values))


def test_slices_of_the_exhaustive_run():
    for start in (
        0,
        0x3B000000 - 2000,
        0x43E00000 - 2000,
        0x7F800000 - 4000,
        0xC3E00000 - 2000,
        2**32 - 4000,
    ):
        assert exhaustive.check_slice(start, start + 4000) == []


def test_the_exhaustive_run_notices_a_wrong_rounding():
    def truncating(values, kind):
        return fast.fp8.encode(values * (1 - 2.0**-12), kind)

    found = exhaustive.check_slice(0x3F880000 - 100, 0x3F880000 + 100, truncating)
    assert len(found) == 1 and "e4m3: 99 mismatches, first at pattern 0x3f880001" in found[0]


def test_the_exhaustive_script_reports_in_its_exit_status():
    assert exhaustive.main(["--start", "0x3f800000", "--stop", "0x3f800100", "--workers", "1"]) == 0
    with pytest.raises(SystemExit):
        exhaustive.main(["--start", "5", "--stop", "5"])


@kinds
def test_encoding_traces_as_one_graph(kind):
    """Without the look for NaN nothing waits for the device, so that a compiled step may hold both
    directions.
    """
    torch.compiler.reset()
    plain = lambda x: fast.fp8.decode(fast.fp8.encode(x, kind, check=False), kind, check=False)  # noqa: E731
    round_trip = torch.compile(plain, fullgraph=True, backend="eager")
    values = torch.linspace(-500, 500, 101)
    assert torch.equal(round_trip(values), fast.fp8.decode(fast.fp8.encode(values, kind), kind))
