"""Weight formats: the twins agree byte for byte, errors stay within half a step, and storing a
stored tensor changes nothing.
"""

import decimal
import itertools
import struct
from fractions import Fraction

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

import fast.quantize
import reference.quantize
from reference.recipe import EIGHTHS, GOLF, InputError, Quantization

FORMATS = reference.quantize.FORMATS
# Largest code value over a float16 scale
SCALED = {"int8-row": 127, "int6-row": 31, "int4-group": 7, "e2m1-group": 6}
# log2 of the smallest step, mantissa bits, largest
STEPS = {"e4m3": (-9, 3, 448.0), "e5m2": (-16, 2, 57344.0), "e2m1": (-1, 1, 6.0)}
formats = pytest.mark.parametrize("format", FORMATS)
shapes = st.sampled_from(
    [
        (),
        (1,),
        (5,),
        (64,),
        (65,),
        (130,),
        (1, 1),
        (3, 5),
        (2, 64),
        (3, 67),
        (4, 129),
        (2, 3, 66),
        (7, 1),
    ]
)


def draw_weights(seed: int, shape: tuple[int, ...], scale: float) -> np.ndarray:
    """Gaussian float32 weights whose rows differ in size by factors up to 2^12, one row being zero
    now and then.
    """
    rng = np.random.default_rng(seed)
    values = rng.standard_normal(shape) * scale
    if len(shape) > 1:
        values = (
            values
            * 2.0 ** rng.integers(-12, 1, shape[:-1] + (1,))
            * (rng.random(shape[:-1] + (1,)) > 0.1)
        )
    return np.asarray(values, np.float32)


def stored(values: np.ndarray, format: str) -> tuple[bytes, np.ndarray]:
    """Bytes and the float32 values read back, after both halves were found to agree on both."""
    data = reference.quantize.to_bytes(values, format)
    assert fast.quantize.to_bytes(torch.from_numpy(np.asarray(values)), format) == data
    assert (
        len(data)
        == reference.quantize.encoded_bytes(values.shape, format)
        == fast.quantize.encoded_bytes(values.shape, format)
    )
    back = reference.quantize.from_bytes(data, values.shape, format)
    fast_back = fast.quantize.from_bytes(data, values.shape, format)
    assert (
        back.dtype == np.float32
        and fast_back.dtype == torch.float32
        and back.shape == values.shape == tuple(fast_back.shape)
    )
    assert back.tobytes() == fast_back.numpy().tobytes()
    return data, back


def half_step_of_float(units: np.ndarray, kind: str) -> np.ndarray:
    """Half the distance of the two codes around each value that does not saturate."""
    smallest, mantissa, _ = STEPS[kind]
    _, exponent = np.frexp(units)  # units = f 2^exponent, f in [0.5, 1)
    return 2.0 ** np.maximum(exponent - 1 - mantissa, smallest) / 2


def scales_of(data: bytes, shape: tuple[int, ...], format: str) -> np.ndarray:
    """The float16 scales of a stored tensor, one per value."""
    rows, columns = reference.quantize.rows_and_columns(shape)
    groups = -(-columns // 64) if format.endswith("-group") else 1
    scales = (
        np.frombuffer(data[: 2 * rows * groups], "<f2").astype(np.float64).reshape(rows, groups)
    )
    return np.repeat(scales, 64 if format.endswith("-group") else columns, axis=1)[
        :, :columns
    ].reshape(shape)


def steps_of(data: bytes, shape: tuple[int, ...]) -> np.ndarray:
    """The step of each value of a tensor in the format uniform."""
    rows, columns = reference.quantize.rows_and_columns(shape)
    exponents = np.frombuffer(data[: 2 * (rows + columns)], "<i2").astype(np.float64)
    return (2.0 ** (np.add.outer(exponents[:rows], exponents[rows:]) / 8)).reshape(shape)


def assert_within_half_a_step(
    values: np.ndarray, data: bytes, back: np.ndarray, format: str
) -> None:
    """The error of every value is at most half the distance between the codes around it (half a
    scale for integer codes).
    """
    wide, error = values.astype(np.float64), np.abs(back.astype(np.float64) - values)
    if format == "float32":
        assert (error == 0).all()
    elif format == "float16":
        _, exponent = np.frexp(wide)
        assert (error <= 2.0 ** np.maximum(exponent - 1 - 10, -24) / 2).all()
    elif format in ("e4m3", "e5m2"):
        largest = STEPS[format][2]
        inside = np.clip(wide, -largest, largest)
        assert (np.abs(back - inside) <= half_step_of_float(inside, format)).all()
    elif format == "e4m3-row":
        rows, columns = reference.quantize.rows_and_columns(values.shape)
        scale = np.repeat(
            2.0 ** np.frombuffer(data[:rows], np.int8).astype(np.float64), columns
        ).reshape(values.shape)
        assert (
            error <= half_step_of_float(np.minimum(np.abs(wide / scale), 448), "e4m3") * scale
        ).all()
    elif format == "uniform":
        step = np.broadcast_to(steps_of(data, values.shape), wide.shape)
        # Beside half a step, what is read is rounded to float32
        last = np.spacing(np.maximum(np.abs(values), np.abs(back)), dtype=np.float32)
        assert (error <= step / 2 * (1 + 1e-12) + last.astype(np.float64) / 2).all()
    elif format == "e2m1-group":
        scale = scales_of(data, values.shape, format)
        assert (error <= half_step_of_float(wide / scale, "e2m1") * scale).all()
    else:
        scale = scales_of(data, values.shape, format)
        # Its scale is the best in the mean, so it clips outliers at one step
        clipped = format == "ternary-group"
        bound = np.where(clipped & (np.abs(wide) > 1.5 * scale), np.abs(wide) - scale, scale / 2)
        assert (error <= bound).all()


def test_the_names_are_the_same_in_both_halves():
    assert tuple(fast.quantize.FORMATS) == FORMATS
    for name in (
        "float32",
        "float16",
        "e4m3",
        "e4m3-row",
        "e5m2",
        "int8-row",
        "int6-row",
        "int4-group",
        "e2m1-group",
        "ternary-group",
        "uniform",
    ):
        assert name in FORMATS
    assert (
        fast.quantize.CONTROL == reference.quantize.CONTROL
        and fast.quantize.GROUP == reference.quantize.GROUP == 64
    )


@formats
@settings(max_examples=40)
@given(
    seed=st.integers(0, 2**32),
    shape=shapes,
    scale=st.sampled_from([1e-30, 1e-9, 1e-6, 1e-3, 0.02, 1.0, 100.0]),
)
def test_round_trip(format, seed, shape, scale):
    values = draw_weights(seed, shape, scale)
    data, back = stored(values, format)
    assert_within_half_a_step(values, data, back, format)


@formats
@settings(max_examples=40)
@given(
    values=hnp.arrays(
        np.float32,
        hnp.array_shapes(max_dims=3, max_side=6),
        elements=st.floats(-65504, 65504, width=32),
    )
)
def test_round_trip_of_arbitrary_values(format, values):
    data, back = stored(values, format)
    assert_within_half_a_step(values, data, back, format)


@formats
@settings(max_examples=40)
@given(seed=st.integers(0, 2**32), shape=shapes, scale=st.sampled_from([1e-30, 1e-6, 0.02, 100.0]))
def test_storing_a_stored_tensor_gives_the_same_bytes(format, seed, shape, scale):
    """The scale of a group is found again because its largest code is the largest possible one.

    Exception: integer and e2m1 codes over a subnormal float16 scale (below 2^-14), whose neighbours
    are too far apart for that.
    """
    values = draw_weights(seed, shape, scale)
    data, back = stored(values, format)
    if format in SCALED:
        normal = scales_of(data, values.shape, format) >= 2.0**-14
        back = np.where(normal, back, 0)
        data, _ = stored(np.where(normal, values, 0).astype(np.float32), format)
    again, back_again = stored(back, format)
    assert again == data and back_again.tobytes() == back.tobytes()


@formats
def test_zero_rows_keep_zero(format):
    values = np.zeros((3, 70), np.float32)
    values[1] = 0.5
    _, back = stored(values, format)
    assert (back[[0, 2]] == 0).all() and (
        np.abs(back[1] - 0.5) <= 0.5 * 2.0**-9
    ).all()  # a scale is rounded up to float16
    stored(np.zeros((2, 3), np.float32), format)


@formats
@pytest.mark.parametrize(
    "value",
    [2.0**-149, 2.0**-126, 2.0**-40, 2.0**-26, 2.0**-25, 1.01 * 2.0**-25, 1.49 * 2.0**-24, 65504.0],
)
def test_tiny_and_huge_rows(format, value):
    values = np.array([[value, value / 2, -value, 0.0, value / 3]], np.float32)
    data, back = stored(values, format)
    assert_within_half_a_step(values, data, back, format)


def test_row_exponents_leave_the_subnormal_range():
    values = (np.random.default_rng(0).standard_normal((4, 256)) * 1e-5).astype(np.float32)
    _, plain = stored(values, "e4m3")
    _, scaled = stored(values, "e4m3-row")
    assert (plain == 0).all()
    # four significand bits: 1/16 of a normal value, or the step of a subnormal, at most largest /
    # 232 * 2^-9
    assert (np.abs(scaled - values) <= np.abs(values) / 16 + np.abs(values).max() * 2.0**-16).all()


@pytest.mark.parametrize("k", [-128, -127, -60, -1, 0, 1, 60, 118, 119])
def test_row_exponent_at_its_boundaries(k):
    """464 * 2^k is the largest maximum that takes exponent k: 464 is the tie above the largest
    code, 448.
    """
    edge = np.float64(464.0) * 2.0**k
    for value, expected in (
        (edge, k),
        (np.nextafter(edge, np.inf), min(k + 1, 119)),
        (np.nextafter(edge, 0), k),
        (240.0 * 2.0**k, k),
    ):
        values = np.array([[value]])
        data = reference.quantize.to_bytes(values, "e4m3-row")
        assert data == fast.quantize.to_bytes(torch.from_numpy(values), "e4m3-row")
        assert np.frombuffer(data[:1], np.int8)[0] == expected
        assert np.isfinite(reference.quantize.from_bytes(data, (1, 1), "e4m3-row")).all()


def test_the_largest_float32_saturates_and_stays_finite():
    largest = np.finfo(np.float32).max
    _, back = stored(np.array([largest, -largest], np.float32), "e4m3-row")
    assert back.tolist() == [448.0 * 2.0**119, -448.0 * 2.0**119]
    assert (
        stored(np.array([1e30], np.float32), "e4m3")[1][0] == 448
        and stored(np.array([-1e30], np.float32), "e5m2")[1][0] == -57344
    )


@pytest.mark.parametrize("format", list(SCALED))
@settings(max_examples=200)
@given(value=st.floats(2.0**-30, 65504, width=32))
def test_the_scale_is_the_smallest_that_covers_the_group(format, value):
    data, _ = stored(np.array([value], np.float32), format)
    code = int.from_bytes(data[:2], "little")
    scale, below = (struct.unpack("<e", struct.pack("<H", c))[0] for c in (code, code - 1))
    assert scale * SCALED[format] >= value and scale > 0
    assert below == 0 or below * SCALED[format] < value


@settings(max_examples=40)
@given(values=st.lists(st.integers(-40, 40), min_size=1, max_size=5))
def test_ternary_scale_is_the_least_squares_one(values):
    """Against all 3^n codes in exact arithmetic: no codes with their own best scale leave a smaller
    squared error.
    """
    best = max(
        (
            Fraction(
                sum(c * v for c, v in zip(codes, values, strict=True)) ** 2,
                sum(c * c for c in codes),
            ),
            codes,
        )
        for codes in itertools.product((-1, 0, 1), repeat=len(values))
        if any(codes)
    )[0]
    data, back = stored(np.array(values, np.float32), "ternary-group")
    error = sum((float(b) - v) ** 2 for b, v in zip(back, values, strict=True))
    smallest = sum(v * v for v in values) - float(best)
    scale = float(np.frombuffer(data[:2], "<f2")[0])
    # float16 rounds the scale by at most 2^-11 of itself; the error is quadratic around its
    # minimum, and moving codes only lowers it
    assert error <= smallest + len(values) * (scale * 2.0**-10) ** 2 + 2.0**-40


@pytest.mark.parametrize("bits", [*range(9)])
@pytest.mark.parametrize("count", [1, 2, 3, 4, 5, 6, 7, 8, 9, 64, 101])
def test_codes_pack_and_unpack(bits, count):
    codes = np.random.default_rng(count).integers(0, 2**bits if bits else 3, count).astype(np.uint8)
    data = reference.quantize.pack_codes(codes, bits)
    assert fast.quantize.pack_codes(torch.from_numpy(codes), bits) == data
    number = sum(int(c) << (bits * i) for i, c in enumerate(codes))
    if bits:
        assert int.from_bytes(data, "little") == number and len(data) == -(-count * bits // 8)
    else:
        assert [
            sum(int(c) * 3**i for i, c in enumerate(codes[j : j + 5])) for j in range(0, count, 5)
        ] == list(data)
    assert reference.quantize.unpack_codes(data, bits, count, "t").tolist() == codes.tolist()
    assert fast.quantize.unpack_codes(data, bits, count, "t").tolist() == codes.tolist()


def test_known_bytes():
    values = np.array([[1.0, -0.5, 0.25]], np.float32)
    assert stored(values, "float32")[0] == struct.pack("<3f", 1.0, -0.5, 0.25)
    assert stored(values, "float16")[0] == struct.pack("<3e", 1.0, -0.5, 0.25)
    assert stored(values, "e4m3")[0] == bytes([0x38, 0xB0, 0x28])
    # Exponent -8: 256, -128, 64
    assert stored(values, "e4m3-row")[0] == bytes([0xF8, 0x78, 0xF0, 0x68])
    assert stored(np.array([[127.0, -127.0, 1.0]], np.float32), "int8-row")[0] == struct.pack(
        "<e", 1.0
    ) + bytes([255, 1, 129])
    assert stored(np.array([[7.0, -7.0, 1.0]], np.float32), "int4-group")[0] == struct.pack(
        "<e", 1.0
    ) + bytes([0x1F, 0x09])
    assert stored(np.array([[6.0, -6.0, 0.5]], np.float32), "e2m1-group")[0] == struct.pack(
        "<e", 1.0
    ) + bytes([0xF7, 0x01])
    assert stored(np.array([[1.0, -1.0, 0.0]], np.float32), "ternary-group")[0] == struct.pack(
        "<e", 1.0
    ) + bytes([2 + 0 * 3 + 1 * 9])


def test_float16_rounds_float64_once():
    value = 1 + 2.0**-11 + 2.0**-40  # through float32 this is a tie, which goes down
    assert stored(np.array([value]), "float16")[0] == struct.pack("<e", 1 + 2.0**-10)


@formats
@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float16])
def test_other_dtypes_are_read_exactly(format, dtype):
    values = torch.from_numpy(draw_weights(5, (3, 67), 1.0)).to(dtype)
    assert fast.quantize.to_bytes(values, format) == reference.quantize.to_bytes(
        values.double().numpy(), format
    )


def test_gradients_and_strides_do_not_matter():
    values = torch.nn.Parameter(torch.from_numpy(draw_weights(6, (66, 5), 1.0)))
    for format in FORMATS:
        assert fast.quantize.to_bytes(values.T, format) == reference.quantize.to_bytes(
            values.detach().numpy().T, format
        )


@formats
@pytest.mark.parametrize("bad", [float("nan"), float("inf"), float("-inf")])
def test_a_value_that_is_not_finite_names_the_tensor_and_the_place(format, bad):
    values = np.ones((3, 4), np.float32)
    values[2, 1] = bad
    for half, array in ((reference.quantize, values), (fast.quantize, torch.from_numpy(values))):
        with pytest.raises(
            InputError,
            match=rf"blocks\.3\.q: expected finite numbers, found {bad} at index \(2, 1\)",
        ):
            half.to_bytes(array, format, name="blocks.3.q")


@pytest.mark.parametrize(
    "format, value",
    [
        ("float32", 1e39),
        ("float16", 65504.1),
        ("int8-row", 65504.0 * 127 * 1.01),
        ("int6-row", 3e6),
        ("int4-group", 5e5),
        ("e2m1-group", 4e5),
        ("ternary-group", 65505.0),
        ("uniform", 1.8e38),
    ],
)
def test_what_a_format_cannot_hold_names_the_tensor(format, value):
    values = np.array([value, -value, 1.0])
    for half, array in ((reference.quantize, values), (fast.quantize, torch.from_numpy(values))):
        with pytest.raises(InputError, match=r"head: expected .* up to .*found"):
            half.to_bytes(array, format, name="head")


@formats
def test_damaged_bytes_are_one_clear_error(format):
    values = draw_weights(1, (3, 67), 0.02)
    data = bytearray(stored(values, format)[0])
    for half in (reference.quantize, fast.quantize):
        for wrong in (data[:-1], data + b"\0", b""):
            with pytest.raises(
                InputError,
                match=rf"mix: expected {len(data)} bytes of {format}, found {len(wrong)}",
            ):
                half.from_bytes(bytes(wrong), values.shape, format, name="mix")


@pytest.mark.parametrize(
    "format, position, value",
    [
        ("float32", 2, b"\x80\x7f"),
        ("float16", 0, b"\x00\x7c"),
        ("float16", 0, b"\x01\xfe"),
        ("e4m3", 1, b"\x7f"),
        ("e4m3", 1, b"\xff"),
        ("e5m2", 0, b"\x7c"),
        ("e5m2", 0, b"\x7d"),
        ("e4m3-row", 0, b"\x7f\x7e"),
        ("e4m3-row", 1, b"\xff"),
        ("int8-row", 0, b"\x00\x7c"),
        ("int8-row", 0, b"\x00\x00"),
        ("int6-row", 0, b"\x00\x80"),
        ("int4-group", 0, b"\x01\x7c"),
        ("e2m1-group", 0, b"\x00\xbc"),
        ("ternary-group", 0, b"\x00\xfc"),
        ("ternary-group", 2, b"\xf3"),
        ("uniform", 0, b"\xff\x7f"),
        ("uniform", 0, b"\x00\x80"),
        ("uniform", 0, b"\x10\x04"),
    ],
)
def test_values_that_could_not_have_been_stored_are_an_error(format, position, value):
    data = bytearray(stored(np.ones((1, 3), np.float32), format)[0])
    data[position : position + len(value)] = value
    for half in (reference.quantize, fast.quantize):
        with pytest.raises(InputError, match="mix: expected .*damaged"):
            half.from_bytes(bytes(data), (1, 3), format, name="mix")


@settings(max_examples=200)
@given(format=st.sampled_from(FORMATS), shape=shapes, data=st.data())
def test_any_bytes_are_read_alike_or_refused_alike(format, shape, data):
    size = reference.quantize.encoded_bytes(shape, format)
    raw = data.draw(st.binary(min_size=size, max_size=size))
    results = []
    for half in (reference.quantize, fast.quantize):
        try:
            results.append(np.asarray(half.from_bytes(raw, shape, format)).tobytes())
        except InputError as error:
            results.append(str(error))
    assert results[0] == results[1]


def test_unknown_formats_are_one_clear_error():
    for half, array in ((reference.quantize, np.ones), (fast.quantize, torch.ones)):
        for function, arguments in (
            (half.encoded_bytes, ((2,),)),
            (half.to_bytes, (array(2),)),
            (half.from_bytes, (b"", (2,))),
        ):
            with pytest.raises(InputError, match="unknown weight format 'int3'"):
                function(*arguments, "int3")


@formats
@pytest.mark.parametrize("shape", [(0,), (3, 0), (0, 3), (2, 0, 4)])
def test_tensors_without_elements_take_no_bytes(format, shape):
    """The skip weights of a one-layer model are such a tensor."""
    data, back = stored(np.zeros(shape, np.float32), format)
    assert data == b"" and back.shape == shape


def test_sizes_of_known_shapes():
    expected = {
        "float32": 1040,
        "float16": 520,
        "e4m3": 260,
        "e4m3-row": 262,
        "e5m2": 260,
        "int8-row": 264,
        "int6-row": 199,
        "int4-group": 142,
        "e2m1-group": 142,
        "ternary-group": 64,
        "uniform": 784,
    }
    for format, size in expected.items():
        assert (
            reference.quantize.encoded_bytes((2, 130), format)
            == size
            == fast.quantize.encoded_bytes((2, 130), format)
        )
    assert (
        reference.quantize.encoded_bytes((), "int6-row")
        == 3
        == fast.quantize.encoded_bytes((), "int6-row")
    )


def test_choice_of_format():
    for half in (reference.quantize, fast.quantize):
        golf = GOLF.quantization
        assert half.choose_format("blocks.0.q", (576, 576), golf) == "e4m3"
        assert half.choose_format("embedding", (1025, 576), golf) == "e4m3"
        # Exactly at the threshold
        assert half.choose_format("blocks.0.q", (256, 256), golf) == "float16"
        assert half.choose_format("blocks.0.q", (256, 257), golf) == "e4m3"
        for control in (
            "blocks.0.query_gain",
            "blocks.7.mix",
            "blocks.3.attn_scale",
            "blocks.3.mlp_scale",
            "skip",
        ):
            assert half.choose_format(control, (1000, 1000), golf) == "float16"
        assert (
            half.choose_format("mixture", (9,), Quantization("int6-row", "float32", 8))
            == "int6-row"
        )


# uniform


def step_exponents(values: np.ndarray, dial: int) -> list[int]:
    """The exponents of rows, the same in both halves."""
    data = reference.quantize.to_bytes(values, "uniform", dial=dial)
    assert fast.quantize.to_bytes(torch.from_numpy(values), "uniform", dial=dial) == data
    return np.frombuffer(data[: 2 * len(values)], "<i2").tolist()


@given(dial=st.integers(8, 64), seed=st.integers(0, 2**32), columns=st.integers(1, 70))
def test_the_step_is_the_root_mean_square_over_a_power_of_two(dial, seed, columns):
    """To the nearest eighth of an octave."""
    rng = np.random.default_rng(seed)
    values = (rng.standard_normal((5, columns)) * 10.0 ** rng.uniform(-6, 6, (5, 1))).astype("f4")
    wide = values.astype(np.float64)
    expected = 4 * np.log2((wide * wide).mean(axis=1)) - dial
    assert (np.abs(step_exponents(values, dial) - expected) <= 0.5 + 1e-9).all()


@pytest.mark.parametrize("e", [-1100, -9, -8, -1, 0, 1, 7, 8, 900])
def test_the_step_at_its_boundaries(e):
    """A row of one number: its step changes halfway between two powers, on a logarithmic scale."""
    border = 2.0 ** ((e + 0.5) / 8)
    values = np.array([[border * (1 - 1e-6)], [border * (1 + 1e-6)]])
    assert step_exponents(values, 20) == [e - 20, e - 19]


@given(seed=st.integers(0, 2**32), shape=shapes, low=st.integers(8, 60), more=st.integers(4, 40))
def test_a_higher_dial_is_closer(seed, shape, low, more):
    """By half an octave or more, row for row: the bound halves with every eight."""
    values, high = draw_weights(seed, shape, 1.0), min(low + more, 64)
    bounds = []
    for dial in (low, high):
        data = reference.quantize.to_bytes(values, "uniform", dial=dial)
        back = reference.quantize.from_bytes(data, values.shape, "uniform")
        assert_within_half_a_step(values, data, back, "uniform")
        bounds.append(steps_of(data, values.shape))
    rows = values.reshape(-1, values.shape[-1] if shape else 1).any(axis=1)
    ratio = (bounds[1] / bounds[0]).reshape(len(rows), -1)[rows]
    np.testing.assert_allclose(ratio, 2.0 ** ((low - high) / 8), rtol=1e-12)


@pytest.mark.parametrize("dial", [8, 28, 64])
@pytest.mark.parametrize(
    "row",
    [
        [0.3] * 9,
        [0.0] * 9,
        [-2.5],
        [1e-3] * 99 + [40.0],
        [2.0**-149, 0.0, -(2.0**-148)],
        [1.7e38, -1.7e38, 1e30],
    ],
    ids=["constant", "zeros", "one element", "outlier", "subnormal", "largest"],
)
def test_odd_rows_come_back_within_half_a_step_and_stay(row, dial):
    values = np.array([row], np.float32)
    data = reference.quantize.to_bytes(values, "uniform", dial=dial)
    back = reference.quantize.from_bytes(data, values.shape, "uniform")
    assert_within_half_a_step(values, data, back, "uniform")
    again = fast.quantize.to_bytes(torch.from_numpy(back), "uniform", dial=dial)
    assert np.array_equal(reference.quantize.from_bytes(again, values.shape, "uniform"), back)
    if not values.any():
        assert data == again == bytes(len(data))


def test_an_outlier_too_many_steps_away_names_the_tensor():
    """The root mean square of n numbers is at most the square root of n below the largest."""
    values = np.zeros((1, 1 << 14), np.float32)
    values[0, 5] = 1.0
    message = r"head: expected values up to 32767 steps, found 32768; use float32 or a smaller dial"
    for half, array in ((reference.quantize, values), (fast.quantize, torch.from_numpy(values))):
        with pytest.raises(InputError, match=message):
            half.to_bytes(array, "uniform", "head", 64)
        data = half.to_bytes(array, "uniform", "head", 63)
        assert float(half.from_bytes(data, values.shape, "uniform")[0, 5]) == pytest.approx(
            1, abs=2**-16
        )


def test_steps_of_both_halves_are_powers_of_the_same_numbers():
    """Nearest float64 of the exact powers, which a library's pow need not give."""
    with decimal.localcontext(prec=60):
        exact = tuple(float(decimal.Decimal(2) ** (decimal.Decimal(j) / 8)) for j in range(8))
    assert exact == EIGHTHS
