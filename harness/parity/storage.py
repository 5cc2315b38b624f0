"""Pieces fp8, quantize (one per format), container and bytes: what is stored and counted is the
same to the byte.
"""

import hashlib
import json
import struct

import numpy as np
import torch

import fast.bytes
import fast.container
import fast.fp8
import fast.quantize
import reference.bytes
import reference.codec
import reference.container
import reference.fp8
import reference.quantize
from harness.parity.compare import Compare, Difference, Setting, held, representable, same
from harness.parity.suite import Piece, table
from reference.recipe import DEMO, GOLF, TINY, StepExponents

CODECS = ("none", "zlib", "lzma", "best")
EXACT = "exact: the codes of the values, whatever dtype they come in"


def fp8(kind: str, values: list[float]) -> Compare:
    """Codes of the values that the setting's dtype holds, and the values of all codes."""
    numbers = np.array(values, np.float64)
    codes = reference.fp8.encode(numbers, kind)
    every = np.arange(2 << sum(reference.fp8.KINDS[kind][:2])).astype(np.uint8)
    decoded = reference.fp8.decode(every, kind)

    def compare(setting: Setting) -> list[Difference]:
        kept = held(numbers, setting.dtype)
        given = setting.cast(numbers[kept])
        unchecked = setting.run(lambda values: fast.fp8.encode(values, kind, check=False), given)
        return [
            same(unchecked, codes[kept]),
            same(fast.fp8.encode(given, kind), codes[kept]),
            same(fast.fp8.decode(setting.tensor(every), kind), decoded),
        ]

    return compare


def fp8_cases() -> list[dict]:
    """Return every bfloat16 value, the ends and ties of every kind, and random float32 patterns."""
    every = np.arange(2**16, dtype=np.uint32) << 16
    random = np.random.default_rng(0).integers(0, 2**32, 2**12, dtype=np.uint32)
    every, random = (values.view(np.float32) for values in (every, random))
    every, random = (values[~np.isnan(values)].astype(np.float64) for values in (every, random))
    cases = []
    for kind, (exponent, mantissa, *_) in reference.fp8.KINDS.items():
        codes = reference.fp8.decode(np.arange(1 << exponent + mantissa, dtype=np.uint8), kind)
        codes = codes[np.isfinite(codes)]
        ties = ((codes[1:] + codes[:-1]) / 2).astype(np.float64)
        near = [np.nextafter(np.float32(ties), np.float32(end)) for end in (0, np.inf)]
        beyond = [1.05 * codes[-1], 2 * codes[-1], 1e30, np.inf, 1e-30, 0.0]
        edges = np.concatenate([codes, ties, *near, beyond])
        for values in (every, np.concatenate([edges, -edges]), random):
            cases.append({"kind": kind, "values": values.tolist()})
    return cases


def quantize(format: str, seed: int, shape: list[int], scale: float) -> Compare:
    """Bytes of a tensor, and the tensor they are read back as; rows of zeros, tiny and large values
    among them.
    """
    values = scale * np.random.default_rng(seed).standard_normal(shape)
    if len(shape) == 2:
        values *= np.array([1.0, 0.0, 2.0**-12, 0.1])[np.arange(shape[0]) % 4][:, None]
    values = representable(values)
    data = reference.quantize.to_bytes(values, format)
    back = reference.quantize.from_bytes(data, tuple(shape), format)

    def compare(setting: Setting) -> list[Difference]:
        if not held(values, setting.dtype).all():
            return []
        size = fast.quantize.encoded_bytes(tuple(shape), format)
        read = fast.quantize.from_bytes(data, tuple(shape), format)
        return [
            same(fast.quantize.to_bytes(setting.cast(values), format), data),
            same(np.array(size), np.array(len(data))),
            same(read, back),
            same(np.signbit(read.numpy()), np.signbit(back)),
        ]

    return compare


def quantize_steps(seed: int, rows: int, columns: int) -> Compare:
    """Bytes of a matrix under steps of its rows and columns that are given, and what they are read
    back as.
    """
    rng = np.random.default_rng(seed)
    exponents = StepExponents(rng.integers(-60, -20, rows), rng.integers(-15, 16, columns))
    steps_RC = 2.0 ** (np.add.outer(exponents.rows_R, exponents.columns_C) / 8)
    values = representable(rng.standard_normal((rows, columns)) * 9 * steps_RC)
    values[rows // 2] = 0.0
    data = reference.quantize.to_bytes(values, "uniform", dial=exponents)
    back = reference.quantize.from_bytes(data, (rows, columns), "uniform")
    rounded = reference.quantize.rounded({"m": values}, {"m": exponents})["m"]
    joined = torch.from_numpy(np.concatenate(exponents))

    def compare(setting: Setting) -> list[Difference]:
        if not held(values, setting.dtype).all():
            return []
        wide = torch.from_numpy(values)[None]
        return [
            same(fast.quantize.rounded({"m": wide}, {"m": joined[None]})["m"][0], rounded),
            same(fast.quantize.to_bytes(setting.cast(values), "uniform", dial=exponents), data),
            same(fast.quantize.from_bytes(data, (rows, columns), "uniform"), back),
            same((np.abs(values - back) > steps_RC * (0.5 + 1e-6)).sum(), 0),
        ]

    return compare


def assemble(tensors: dict, formats: dict[str, str], header: dict, codec: str) -> bytes:
    """An artifact put together by its published layout from the reference's encoders: what the fast
    half must write.
    """
    table, raw = [], b""
    for name in sorted(tensors):
        data = reference.quantize.to_bytes(tensors[name], formats[name], name)
        row = {"name": name, "shape": list(np.shape(tensors[name])), "format": formats[name]}
        table.append({**row, "offset": len(raw), "bytes": len(data)})
        raw += data
    ends = [row["offset"] + row["bytes"] for row in table]
    payload, codec = reference.codec.compress(raw, ends, codec)
    sizes = {"raw_bytes": len(raw), "payload_bytes": len(payload)}
    header = {**header, **sizes, "codec": codec, "tensors": table}
    header["sha256"] = hashlib.sha256(payload).hexdigest()
    header["header_sha256"] = hashlib.sha256(_spelled(header)).hexdigest()
    text = _spelled(header)
    return struct.pack("<8sII", b"MASKGOLF", 1, len(text)) + text + payload


def _spelled(value: object) -> bytes:
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()


def container(seed: int, codec: str, format: str) -> Compare:
    """A file of several tensors and what is read from it; the format of every tensor by the
    presets' rules.
    """
    rng = np.random.default_rng(seed)
    shapes = {
        "embedding": (13, 8),
        "blocks.0.q": (8, 8),
        "blocks.10.q": (8, 8),
        "blocks.0.mix": (2, 8),
        "skip": (1, 8),
        "blocks.0.query_gain": (4,),
    }
    tensors = {name: representable(rng.standard_normal(shape)) for name, shape in shapes.items()}
    choose = reference.quantize.choose_format
    formats = {name: choose(name, shape, TINY.quantization) for name, shape in shapes.items()}
    formats["embedding"] = format
    header = {"recipe": {"seed": seed, "note": "\u2581\u00e9"}, "values": [1.5, None, True]}
    asked = [
        (*tensor, preset.quantization) for tensor in shapes.items() for preset in (GOLF, DEMO, TINY)
    ]
    for tensor in (("up", (256, 256)), ("up", (257, 256)), ("mix", (900, 900))):
        asked.append((*tensor, GOLF.quantization))

    def chosen(half) -> str:
        return " ".join(half.quantize.choose_format(*one) for one in asked)

    def described(header: dict) -> str:
        return json.dumps([header["recipe"], header["tensors"]])

    def compare(setting: Setting) -> list[Difference]:
        given = setting.tensors(dict(reversed(tensors.items())))
        packed = fast.container.pack(given, formats, header, codec)
        read, back = fast.container.unpack(packed)
        plainly = assemble(tensors, formats, header, "none")
        expected_header, expected = reference.container.unpack(plainly)
        differences = [
            same(chosen(fast), chosen(reference)),
            *(same(back[name], value) for name, value in expected.items()),
            same(described(read), described(expected_header)),
        ]
        if codec != "best":  # the fast half has codecs that the reference lacks
            whole = assemble(tensors, formats, header, codec)
            differences.append(same(packed, whole))
        return differences

    return compare


def byte_counts(vocabulary: list[list[str]], pairs: list[list[int]]) -> Compare:
    """The table of a vocabulary of [piece, kind], and the bytes of [token, previous token]."""
    columns = [piece for piece, _ in vocabulary], [kind for _, kind in vocabulary]
    expected = reference.bytes.byte_table(*columns)
    ids, previous = np.array(pairs).reshape(-1, 2).T
    counts = reference.bytes.token_bytes(ids, previous, expected)

    def compare(setting: Setting) -> list[Difference]:
        made = fast.bytes.byte_table(*columns)
        differences = [same(*pair) for pair in zip(made, expected, strict=True)]
        return [*differences, same(fast.bytes.token_bytes(ids, previous, made), counts)]

    return compare


def byte_cases() -> list[dict]:
    """Return every pair of tokens of a vocabulary with one piece of each sort, and random
    vocabularies.
    """
    sorts = [
        ["<unk>", "unknown"],
        ["<s>", "control"],
        ["unused", "unused"],
        ["<0x41>", "byte"],
        ["\u2581", "normal"],
        ["\u2581the", "normal"],
        ["the", "normal"],
        ["\u00e9\u4e16", "normal"],
        ["\u2581\u2581a\u2581b", "normal"],
        ["<s>", "normal"],
        ["a\u2581", "normal"],
    ]
    pairs = [[a, b] for a in range(len(sorts)) for b in range(-1, len(sorts))]
    cases = [{"vocabulary": sorts, "pairs": pairs}]
    letters = ["\u2581", "a", "b", "\u00fc", "\u4e16", "\U0001f600", " "]
    for seed in range(6):
        rng = np.random.default_rng(seed)
        texts = ["".join(rng.choice(letters, rng.integers(1, 6))) for _ in range(20)]
        chances = [0.6, 0.1, 0.1, 0.1, 0.1]
        vocabulary = [[text, str(rng.choice(reference.bytes.KINDS, p=chances))] for text in texts]
        pairs = np.stack([rng.integers(0, 20, 200), rng.integers(-1, 20, 200)], axis=1).tolist()
        cases.append({"vocabulary": vocabulary, "pairs": pairs})
    return cases


# Shapes that fill groups, leave some unfilled, and have one row or none; scales from the subnormal
# to the large.
SHAPES = ([1], [64], [3, 5], [4, 64], [5, 130], [2, 3, 7], [0, 4], [])
SCALES = (1e-3, 1.0, 300.0)
QUANTIZED = [(seed, shape, scale) for seed, shape in enumerate(SHAPES) for scale in SCALES]
PIECES = [
    Piece("fp8", fp8, fp8_cases(), EXACT, bitwise=True, compiles=1),
    *[
        Piece(
            f"quantize-{format}",
            quantize,
            table("seed shape scale", *QUANTIZED, format=format),
            EXACT,
            bitwise=True,
        )
        for format in reference.quantize.FORMATS
    ],
    Piece(
        "quantize-steps",
        quantize_steps,
        table("seed rows columns", (0, 1, 1), (1, 5, 70), (2, 40, 3)),
        EXACT,
        bitwise=True,
    ),
    Piece(
        "container",
        container,
        table(
            "seed codec format",
            *(
                (seed, codec, format)
                for seed, codec in enumerate(CODECS)
                for format in ("e4m3", "int6-row", "float16")
            ),
        ),
        bitwise=True,
    ),
    Piece("bytes", byte_counts, byte_cases(), bitwise=True),
]
