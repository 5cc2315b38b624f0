"""Small floats against the casts of torch and ml_dtypes, and our entropy coder against general
compressors, on weights.
"""

import lzma
import zlib

import brotli
import lz4.block
import ml_dtypes
import numpy as np
import pytest
import torch

import fast.codec
import fast.fp8
import reference.fp8
from tests.benchmarks import compiled, implementations

COUNT = 1 << 17


def weights() -> np.ndarray:
    """Return weights as a trained matrix has them: normal, of a few scales, some of them subnormal
    in e4m3.
    """
    rng = np.random.default_rng(0)
    return (rng.standard_normal((8, COUNT // 8)) * 2.0 ** -np.arange(8)[:, None]).astype(np.float32)


@pytest.mark.benchmark(group=f"fp8 e4m3 encode {COUNT:,} values")
@implementations("reference", "fast", "compiled", "torch", "ml_dtypes")
def test_encode(benchmark, implementation):
    """Codes agree to the bit; inputs stay below the largest value, beyond which the libraries
    disagree.
    """
    values = weights()
    tensor = torch.from_numpy(values)
    run = {
        "reference": lambda: reference.fp8.encode(values),
        "fast": lambda: fast.fp8.encode(tensor),
        "compiled": compiled(benchmark, lambda: fast.fp8.encode(tensor, check=False)),
        "torch": lambda: tensor.to(torch.float8_e4m3fn).view(torch.uint8),
        "ml_dtypes": lambda: values.astype(ml_dtypes.float8_e4m3fn).view(np.uint8),
    }[implementation]
    assert np.array_equal(np.asarray(run()), reference.fp8.encode(values))
    benchmark(run)


@pytest.mark.benchmark(group=f"fp8 e4m3 decode {COUNT:,} codes")
@implementations("reference", "fast", "compiled", "torch", "ml_dtypes")
def test_decode(benchmark, implementation):
    """Values agree to the bit."""
    codes = reference.fp8.encode(weights())
    tensor = torch.from_numpy(codes)
    run = {
        "reference": lambda: reference.fp8.decode(codes),
        "fast": lambda: fast.fp8.decode(tensor),
        "compiled": compiled(benchmark, lambda: fast.fp8.decode(tensor, check=False)),
        "torch": lambda: tensor.view(torch.float8_e4m3fn).to(torch.float32),
        "ml_dtypes": lambda: codes.view(ml_dtypes.float8_e4m3fn).astype(np.float32),
    }[implementation]
    assert np.array_equal(np.asarray(run(), np.float64), reference.fp8.decode(codes))
    benchmark(run)


ENDS = [COUNT // 8 * i for i in range(1, 9)]  # of the tensors: one per scale


def _entropy(raw):
    return fast.codec.compress(raw, ENDS, "entropy")[0]


PACKERS = {  # (to bytes, back again); fast is the entropy coder over each tensor's statistics
    "fast": (_entropy, lambda data, size: fast.codec.decompress(data, size, ENDS, "entropy")),
    "zlib": (lambda raw: zlib.compress(raw, 9), lambda data, size: zlib.decompress(data)),
    "lzma": (lambda raw: lzma.compress(raw, preset=6), lambda data, size: lzma.decompress(data)),
    "lz4": (
        lambda raw: lz4.block.compress(
            raw, mode="high_compression", compression=12, store_size=False
        ),
        lambda data, size: lz4.block.decompress(data, uncompressed_size=size),
    ),
    "brotli": (
        lambda raw: brotli.compress(raw, quality=11),
        lambda data, size: brotli.decompress(data),
    ),
}


def _packed(implementation):
    """Return (raw, packed) of one implementation; what it packed opens to the same bytes, and the
    entropy coder's are the fewest.
    """
    raw = reference.fp8.encode(weights()).tobytes()
    pack, unpack = PACKERS[implementation]
    packed = pack(raw)
    assert unpack(packed, len(raw)) == raw
    assert len(_entropy(raw)) <= len(packed) < len(raw)
    return raw, packed


@pytest.mark.benchmark(group=f"compress {COUNT:,} e4m3 codes")
@implementations(*PACKERS)
def test_compress(benchmark, implementation):
    """Seconds to pack; the bytes it takes are kept beside them."""
    raw, packed = _packed(implementation)
    benchmark.extra_info["bytes"] = len(packed)
    benchmark(PACKERS[implementation][0], raw)


@pytest.mark.benchmark(group=f"decompress {COUNT:,} e4m3 codes")
@implementations(*PACKERS)
def test_decompress(benchmark, implementation):
    raw, packed = _packed(implementation)
    benchmark(PACKERS[implementation][1], packed, len(raw))
