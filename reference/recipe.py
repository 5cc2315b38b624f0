"""Every hyperparameter, with its unit and source, the rules a recipe must keep, and the other
constants and records that the halves share. The one file that both read.
"""

import math
from dataclasses import dataclass, field, replace
from enum import IntEnum
from functools import reduce
from typing import Any, Literal, NamedTuple, get_args


class InputError(ValueError):
    """Bad input, said in one message: what, where, expected, found, what to do."""


class Stream(IntEnum):
    """Fourth counter word of Philox: which use a draw belongs to, so that no two uses share a
    word.
    """

    TIME = 0  # the third word, step: the optimizer step
    MASK = 1  # the optimizer step
    ORDER = 2  # 0
    DATA = 3  # the epoch
    INIT = 4  # 0
    EVALUATION = 5  # see EVALUATION_STEPS
    SAMPLING = 6  # the position


# The steps of each use of the stream EVALUATION; the other streams have one use each.
EVALUATION_STEPS = {
    "nelbo": range(0x80000000),  # draws
    "nelbo-grid": range(0x80000000, 0xFFFFFFE0),  # times
    "positions": range(0xFFFFFFE0, 0xFFFFFFE1),
    "pilot": range(0xFFFFFFF0, 0xFFFFFFF2),  # folds
    "rotations": range(0xFFFFFFFF, 0x100000000),
}

CAUSAL_STAGES = 4  # of a run: the share of causal rows is constant in each

GRID = 2**24  # values of a draw's top bits: mask sizes and drawn positions take a share of them

# Evaluation orders; each has its rule in both orders.py.
Order = Literal[
    "left-to-right", "right-to-left", "random", "confidence", "entropy", "margin", "block"
]
ORDERS: tuple[str, ...] = get_args(Order)
# Scores are rounded to multiples of this: what is equal but for rounding must tie on every device.
TIE = 2.0**-10

# Estimators of a masked network's score; each has its row of METHODS in fast/evaluate.py and in
# reference/likelihood.py.
Estimator = Literal[
    "nelbo",
    "nelbo-grid",
    "chain",
]
ESTIMATORS: tuple[str, ...] = get_args(Estimator)

# What an estimator's numbers depend on, of ScoreOptions and the seed; nothing without a row.
ESTIMATOR_OPTIONS: dict[str, tuple[str, ...]] = {
    "nelbo": ("draws", "seed"),
    "nelbo-grid": ("points", "seed"),
    "chain": ("order", "step", "block", "positions", "trailing", "stride", "seed"),
    "causal": ("stride",),
}
# What an order depends on, of block, stride and the seed; nothing without a row.
ORDER_OPTIONS: dict[str, tuple[str, ...]] = {
    "left-to-right": ("stride",),
    "random": ("seed",),
    "block": ("block",),
}

FORMATS = (  # of weights; each is one row of DESCRIPTIONS in both quantize.py
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
)
DIALS = (8, 64)  # of the format uniform, least and most: finer steps would not fit 16 bits
EIGHTHS = (  # 2**(0/8) to 2**(7/8), nearest float64: the powers of two between which a step lies
    1.0,
    1.0905077326652577,
    1.189207115002721,
    1.2968395546510096,
    1.4142135623730951,
    1.5422108254079407,
    1.681792830507429,
    1.8340080864093424,
)
ROPE_FREQUENCIES = ("exact", "bfloat16")
GROUP = 64  # neighbours along a row that share a scale in the formats "-group"
# Last name component of tensors that steer others: stored in the small format.
CONTROL = ("query_gain", "mix", "attn_scale", "mlp_scale", "skip", "neighbours")

# The artifact file.
MAGIC = b"MASKGOLF"
VERSION = 1
MAX_HEADER = 1 << 20  # bytes; a golf header takes about 15 KB
MAX_RAW = 1 << 28  # bytes of weights; 16 times the 16 MB that the challenge allows compressed
MAX_ELEMENTS = 1 << 27  # weights; a 16 MB file of one-bit weights holds fewer
MAX_AXES = 8  # of one tensor; the model has two
LZMA_MEMORY = 1 << 26  # bytes the decoder may take; preset 6 needs 9 MB
# The rest of a header is the caller's.
OWN_FIELDS = ("codec", "header_sha256", "payload_bytes", "raw_bytes", "sha256", "tensors")


class Score(NamedTuple):
    """One score as every command prints it; standard errors are in bits per byte."""

    estimator: str
    order: str | None
    bpb: float
    stderr_masks: float
    stderr_sequences: float
    nats_per_token: float
    tokens: int
    bytes: int
    forwards: int
    seconds: float


class Plan(NamedTuple):
    """What a pilot learnt for windows of even (index 0) and odd (1) row: from windows of the other
    parity.
    """

    cumulative_2L: Any  # int64: grid points of sizes 1..l, the last one 2**24
    curve_2L: Any  # nats per hidden token to expect at each size: the control variate


class StepExponents(NamedTuple):
    """The steps of a matrix in the format uniform: 2**((e + c) / 8), e of the row, c of the
    column.
    """

    rows_R: Any  # integers
    columns_C: Any


@dataclass(frozen=True)
class Model:
    """Bidirectional transformer with tied embedding, grouped heads and U-Net skips (causal: the AR
    baseline).
    """

    layers: int = 8
    d: int = 576  # model width
    heads: int = 8  # query heads H
    kv_heads: int = 4  # key/value heads G
    mlp: int = 2  # MLP width as a multiple of d
    vocab: int = 1024  # V; the mask token is id V
    length: int = 1024  # tokens per row L
    causal: bool = False  # autoregressive baseline: causal mask, no mask token
    # neighbours on each side whose embeddings are added at the input, by a learned weight per
    # offset and channel; a causal model looks back only. 0: none
    mixing: int = 0
    # a masked model predicts a token at the position before it; a mask token stands in front, and a
    # window's last token is seen by no other
    shift: bool = False
    # share of a batch's rows, spread evenly, that a masked model trains on as a causal one: no
    # masks, attention looks back only, the next token
    causal_share: float = 0.0
    rope_base: float = 10000.0  # Su et al. 2021
    # RoPE's inverse frequencies: exact, or rounded to bfloat16 as the challenge's scripts have them
    rope_frequencies: str = "exact"
    softcap: float = 30.0  # logits lie in (-softcap, softcap)
    norm_eps: float = 2.0**-23  # added to the mean square inside rmsnorm
    query_gain: float = 1.5  # initial gain on each query head
    embedding_std: float = 0.005  # standard deviation of the initial embedding


@dataclass(frozen=True)
class Diffusion:
    """Forward process and loss weight (Sahoo et al. 2024, MDLM, alpha_t = 1 - t)."""

    epsilon: float = 0.001  # smallest time
    max_weight: float = 100.0  # 1/t is clamped to this


@dataclass(frozen=True)
class Optimizer:
    """Muon for matrices inside blocks (Jordan 2024), Adam (Kingma & Ba 2015) for everything
    else.
    """

    muon_lr: float = 0.02
    muon_steps: int = 5  # Newton-Schulz iterations
    muon_coefficients: tuple[float, float, float] = (3.4445, -4.7750, 2.0315)
    muon_eps: float = 1e-7  # added to the Frobenius norm
    # of the Newton-Schulz iteration in fast: float32, bfloat16, float16 or float64
    muon_dtype: str = "bfloat16"
    momentum_start: float = 0.85
    momentum: float = 0.95
    momentum_warmup: int = 500  # steps from momentum_start to momentum, linear
    embedding_lr: float = 0.05
    vector_lr: float = 0.04  # vectors, gains, mixes and skip weights
    adam_beta1: float = 0.9
    adam_beta2: float = 0.95
    adam_eps: float = 1e-8
    clip: float = 1.0  # global gradient norm; 0 turns clipping off


@dataclass(frozen=True)
class Training:
    """Budget and batch. The run ends at iterations or at max_wallclock_seconds, whichever binds
    first.
    """

    iterations: int = 80_000
    # training clock; 0 means no cap. The public run's 99 minutes (challenge pull request 1699)
    max_wallclock_seconds: float = 5940.0
    # steps over which the learning rate falls linearly to 0. Ours: the public run's never began
    warmdown: int = 16_000
    tokens_per_step: int = 524_288  # global batch at any world size
    micro_batch_tokens: int = 65_536  # tokens per forward pass on one device; gradients accumulate
    # of activations: float32, bfloat16, float16 or float64; masters are float32
    compute_dtype: str = "bfloat16"
    # on GPUs too the same weights to the last bit each time: slower attention, no kernels chosen by
    # timing
    repeatable: bool = False
    shuffle: bool = False  # permute the windows in every epoch
    # model.causal_share moves over the iterations, in four equal stages, from itself minus this to
    # itself plus this: above 0 masks come first, below 0 causal rows do
    causal_drift: float = 0.0
    checkpoint_every: int = 1000  # steps; 0 means only at the end or on SIGTERM
    validate_every: int = 4000  # steps; 0 means only at the end
    log_every: int = 50  # steps


@dataclass(frozen=True)
class EMA:
    """Exponential moving average of the weights, float32, the weights that ship."""

    decay: float = 0.999  # beta
    start: float = 0.1  # fraction of the budget before averaging starts


@dataclass(frozen=True)
class Quantization:
    """How weights are stored in the artifact."""

    # matrices above the threshold: float32, float16, e4m3, e4m3-row, e5m2, int8-row, int6-row,
    # int4-group, e2m1-group, ternary-group or uniform
    format: str = "e4m3"
    # control tensors and everything at or below the threshold: one of the same
    small_format: str = "float16"
    threshold: int = 65_536  # elements
    # uniform: the step of a row is its root mean square divided by 2**(dial / 8)
    dial: int = 28
    # uniform: windows of training text whose squared gradients set the steps instead, with that
    # dial on average; 0: none
    fisher: int = 0
    # uniform: rounding makes up for earlier columns' errors by second moments on those windows
    compensate: bool = False
    # uniform: bytes of the artifact, which the dial is set by; 0: the dial as it is
    budget: int = 0
    # uniform: last steps of training whose gradients are taken at the weights as they are stored,
    # with steps chosen when the first of them begins (quantisation-aware training); 0: none
    aware_steps: int = 0


@dataclass(frozen=True)
class Recipe:
    """The whole recipe of one run."""

    # golf, best, demo or tiny: what the other fields are by default
    preset: str = "golf"
    seed: int = 1337  # keys every random draw; 64 bits
    model: Model = field(default_factory=Model)
    diffusion: Diffusion = field(default_factory=Diffusion)
    optimizer: Optimizer = field(default_factory=Optimizer)
    training: Training = field(default_factory=Training)
    ema: EMA = field(default_factory=EMA)
    quantization: Quantization = field(default_factory=Quantization)


@dataclass(frozen=True)
class ScoreOptions:
    """By what a text is scored; an estimator reads its ESTIMATOR_OPTIONS alone."""

    estimator: Estimator = "nelbo"
    order: Order | None = None  # of chain
    draws: int = 16  # nelbo: masks per window
    points: int = 256  # nelbo-grid: times
    step: int = 1  # chain: positions revealed per pass
    block: int = 32  # chain along block: tokens per block
    # chain along an order fixed in advance: estimate from so many drawn positions per window.
    positions: int | None = None
    # chain left-to-right: mask tokens kept behind the queried position (None: to the end).
    trailing: int | None = None
    # causal, chain left-to-right: a window starts every so many tokens, a divisor of its length,
    # and costs its last ones alone (None: windows side by side).
    stride: int | None = None


def check_passes(
    order: str | None,
    step: int,
    positions: int | None,
    trailing: int | None,
    stride: int | None = None,
):
    """Raise InputError where options of chain do not go together: each says what a pass asks
    for.
    """
    values = {"positions": positions, "trailing": trailing, "step": None if step == 1 else step}
    values["stride"] = stride
    given = [name for name, value in values.items() if value is not None]
    if len(given) > 1:
        raise InputError(
            f"--{given[0]}: expected one position per pass and one such option, found --{given[1]}"
            f" {values[given[1]]} as well; drop one"
        )
    for name in ("trailing", "stride"):
        if values[name] is not None and order != "left-to-right":
            raise InputError(f"--{name}: expected order left-to-right, found {order!r}; drop one")


def check_stride(stride: int | None, length: int):
    """Raise InputError where a stride does not divide the tokens of a window."""
    if stride is not None and length % stride:
        divisors = [str(part) for part in range(1, length + 1) if length % part == 0]
        raise InputError(
            f"--stride: expected a divisor of the window length {length}, found {stride}; choose"
            f" one of {', '.join(divisors)}"
        )


# The public run's recipe, with a warmdown
GOLF = Recipe()

# The same tokens and bytes, trained both ways, with more weights in fewer bits each: what was
# measured to pay (LOG.md). Half of the rows are causal: in long training more of them cost the
# bound. The budget leaves room for the code.
BEST = replace(
    GOLF,
    preset="best",
    model=replace(
        GOLF.model,
        layers=9,
        d=640,
        heads=10,
        kv_heads=5,
        mixing=2,
        shift=True,
        causal_share=0.5,
    ),
    quantization=replace(GOLF.quantization, format="uniform", fisher=64, budget=15_700_000),
)

# The small sister of best: minutes on a CPU. In so short a training more causal rows pay.
DEMO = replace(
    BEST,
    preset="demo",
    model=replace(BEST.model, layers=4, d=128, heads=4, kv_heads=2, length=128, causal_share=0.875),
    optimizer=replace(
        GOLF.optimizer, momentum_warmup=100, muon_dtype="float32", embedding_lr=0.02, vector_lr=0.02
    ),
    training=replace(
        GOLF.training,
        iterations=450,
        max_wallclock_seconds=0.0,
        warmdown=150,
        tokens_per_step=4096,
        micro_batch_tokens=4096,
        compute_dtype="float32",
        shuffle=True,
        checkpoint_every=100,
        validate_every=0,
        log_every=10,
    ),
    ema=replace(GOLF.ema, decay=0.95),
    quantization=replace(GOLF.quantization, threshold=4096),
)

TINY = replace(
    DEMO,
    preset="tiny",
    model=replace(GOLF.model, layers=2, d=8, heads=4, kv_heads=2, vocab=12, length=8),
    optimizer=replace(GOLF.optimizer, momentum_warmup=10, muon_dtype="float32"),
    training=replace(
        DEMO.training,
        iterations=50,
        max_wallclock_seconds=0.0,
        warmdown=20,
        tokens_per_step=32,
        micro_batch_tokens=16,
        checkpoint_every=10,
        log_every=1,
    ),
    ema=replace(GOLF.ema, decay=0.9),
    quantization=replace(GOLF.quantization, threshold=64),
)

PRESETS = {"golf": GOLF, "best": BEST, "demo": DEMO, "tiny": TINY}


DTYPES = ("float32", "bfloat16", "float16", "float64")

MAX_COUNT = 2**31 - 1  # of steps, tokens, positions and channels: Philox counters are 32 bits wide
MAX_LAYERS = 1024
COUNTS = (
    "model.d",
    "model.heads",
    "model.kv_heads",
    "model.mlp",
    "model.length",
    "optimizer.muon_steps",
    "optimizer.momentum_warmup",
    "training.iterations",
    "training.warmdown",
    "training.tokens_per_step",
    "training.micro_batch_tokens",
    "training.checkpoint_every",
    "training.validate_every",
    "training.log_every",
    "quantization.threshold",
    "quantization.fisher",
    "quantization.budget",
    "quantization.aware_steps",
)

RANGES = (  # what must hold of one field, the check, the fields
    (
        "must be at least 1",
        lambda value: value >= 1,
        (
            "model.layers",
            "model.d",
            "model.heads",
            "model.kv_heads",
            "model.mlp",
            "model.length",
            "optimizer.muon_steps",
            "training.iterations",
            "training.log_every",
        ),
    ),
    (
        "must not be negative nor infinite",
        lambda value: 0 <= value < math.inf,
        (
            "optimizer.muon_lr",
            "optimizer.muon_eps",
            "optimizer.momentum_warmup",
            "optimizer.embedding_lr",
            "optimizer.vector_lr",
            "optimizer.clip",
            "model.mixing",
            "quantization.fisher",
            "quantization.budget",
            "quantization.aware_steps",
            "training.max_wallclock_seconds",
            "training.warmdown",
            "training.checkpoint_every",
            "training.validate_every",
            "quantization.threshold",
        ),
    ),
    (
        "must be positive and finite",
        lambda value: 0 < value < math.inf,
        (
            "model.rope_base",
            "model.softcap",
            "model.norm_eps",
            "model.query_gain",
            "model.embedding_std",
            "diffusion.max_weight",
            "optimizer.adam_eps",
        ),
    ),
    ("must lie in (0, 1)", lambda value: 0 < value < 1, ("diffusion.epsilon",)),
    (
        "must lie in [0, 1)",
        lambda value: 0 <= value < 1,
        (
            "optimizer.momentum_start",
            "optimizer.momentum",
            "optimizer.adam_beta1",
            "optimizer.adam_beta2",
            "model.causal_share",
            "ema.decay",
            "ema.start",
        ),
    ),
    (
        "must lie in 2 ... 65535 (shards hold uint16 ids)",
        lambda value: 2 <= value <= 65_535,
        ("model.vocab",),
    ),
    (
        f"must lie in {DIALS[0]} ... {DIALS[1]}",
        lambda value: DIALS[0] <= value <= DIALS[1],
        ("quantization.dial",),
    ),
    ("must lie in -0.5 ... 0.5", lambda value: -0.5 <= value <= 0.5, ("training.causal_drift",)),
    ("must lie in 0 ... 2**64 - 1", lambda value: 0 <= value < 2**64, ("seed",)),
    (
        "must be three finite numbers",
        lambda value: len(value) == 3 and all(map(math.isfinite, value)),
        ("optimizer.muon_coefficients",),
    ),
    (f"must be at most {MAX_COUNT:,} (a 32-bit count)", lambda value: value <= MAX_COUNT, COUNTS),
    (f"must be at most {MAX_LAYERS:,}", lambda value: value <= MAX_LAYERS, ("model.layers",)),
    (
        f"must be one of {', '.join(DTYPES)}",
        lambda value: value in DTYPES,
        ("training.compute_dtype", "optimizer.muon_dtype"),
    ),
    (
        f"must be one of {', '.join(ROPE_FREQUENCIES)}",
        lambda value: value in ROPE_FREQUENCIES,
        ("model.rope_frequencies",),
    ),
)


def _out_of_range(recipe):
    """Yield (rule, found) for each field that breaks a rule of its own."""
    for rule, holds, names in RANGES:
        for name in names:
            value = reduce(getattr, name.split("."), recipe)
            if not holds(value):
                yield f"{name} {rule}", value


def _mismatched_objectives(recipe):
    """Yield (rule, found) for each field that does not fit what the model is trained for."""
    model, drift = recipe.model, recipe.training.causal_drift
    for name in ("shift", "causal_share"):
        if model.causal and getattr(model, name):
            found = getattr(model, name)
            yield f"model.{name} goes with a masked model, not with model.causal", found
    ends = model.causal_share - drift, model.causal_share + drift
    if drift and not (model.causal_share and 0 <= min(ends) and max(ends) <= 1):
        yield (
            "training.causal_drift must keep a model.causal_share above 0 within 0 ... 1",
            f"{drift} and {model.causal_share}",
        )
    iterations = max(recipe.training.iterations, 1)
    last = CAUSAL_STAGES * (iterations - 1) // iterations  # stage that the run reaches
    most = max(ends[0], model.causal_share + drift * (2 * last / (CAUSAL_STAGES - 1) - 1))
    rows = recipe.training.tokens_per_step // model.length
    if model.causal_share and rows * most < 1:
        yield (
            "model.causal_share must make a row of a step causal; a step has"
            f" training.tokens_per_step / model.length = {rows} rows",
            model.causal_share,
        )


def _mismatched_storage(recipe):
    """Yield (rule, found) for each field that another format than uniform does not read."""
    stored = recipe.quantization
    for name in ("fisher", "compensate", "budget", "aware_steps"):
        if getattr(stored, name) and stored.format != "uniform":
            yield f"quantization.{name} goes with quantization.format uniform", stored.format
    if stored.compensate and not stored.fisher:
        yield "quantization.compensate goes with quantization.fisher above 0", stored.fisher


def _mismatched(recipe):
    """Yield (rule, found) for each pair of fields that do not fit together, where both are at least
    1.
    """
    m, t = recipe.model, recipe.training
    if min(m.d, m.heads, m.kv_heads, m.length) < 1:
        return
    keys = m.d * m.kv_heads // m.heads
    weights = m.vocab * m.d + m.layers * m.d * (2 * m.d + 2 * keys + 2 * m.mlp * m.d)
    if weights > MAX_ELEMENTS:
        yield f"the model must have at most {MAX_ELEMENTS:,} weights, as an artifact", weights
    if m.d % m.heads:
        yield "model.d must be divisible by model.heads", f"{m.d} and {m.heads}"
    elif (m.d // m.heads) % 2:
        yield (
            "the head width model.d / model.heads must be even (RoPE rotates pairs)",
            m.d // m.heads,
        )
    if m.mixing >= m.length:
        yield "model.mixing must be below model.length", f"{m.mixing} and {m.length}"
    yield from _mismatched_objectives(recipe)
    if m.heads % m.kv_heads:
        yield "model.heads must be divisible by model.kv_heads", f"{m.heads} and {m.kv_heads}"
    sizes = {"tokens_per_step": t.tokens_per_step, "micro_batch_tokens": t.micro_batch_tokens}
    broken = {
        name: tokens for name, tokens in sizes.items() if tokens < m.length or tokens % m.length
    }
    for name, tokens in broken.items():
        yield f"training.{name} must be a multiple of model.length", f"{tokens} and {m.length}"
    if not broken and t.tokens_per_step % min(t.micro_batch_tokens, t.tokens_per_step):
        yield (
            "training.tokens_per_step must be a multiple of training.micro_batch_tokens",
            f"{t.tokens_per_step} and {t.micro_batch_tokens}",
        )


def check(recipe):
    """Raise InputError naming every rule that the recipe breaks; return the recipe."""
    broken = _out_of_range(recipe), _mismatched(recipe), _mismatched_storage(recipe)
    problems = [problem for part in broken for problem in part]
    if problems:
        raise InputError(
            f"impossible recipe: {'; '.join(f'{rule} (found {found})' for rule, found in problems)}"
        )
    return recipe
