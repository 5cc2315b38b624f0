"""Every field of the recipe does what it says, in both halves, and nothing else: it is changed from
a lopsided recipe, the parts that must change do, and all others stay as they were to the last bit.
"""

import functools
from collections.abc import Callable
from dataclasses import dataclass, fields, is_dataclass, replace

import numpy as np
import pytest
import torch

import fast.train
import reference.likelihood
from fast import checkpoint, evaluate
from fast.bytes import ByteTable
from fast.data import Continued
from fast.evaluate import Effort
from reference.recipe import InputError, Recipe, check
from tests.support import observed
from tests.support.compare import ALGORITHM, relative_error, rms, unit_roundoff
from tests.support.halves import halves
from tests.support.observed import BASE, parts
from tests.support.table_model import TableModel

HALVES = ("reference", "fast")

# Groups of parts that change together
RUN = ("run losses", "run weights", "run shadow", "loop losses", "loop weights", "loop shadow")
LOOP = RUN[3:]
SHIPPED = ("predictor", "validator")  # scores of given weights
STORED = ("formats", "bytes")
UPDATE = tuple(
    f"update {part}"
    for part in ("matrices", "embedding", "vectors", "buffers", "first", "second", "shadow")
)
MUON = ("update matrices", "update shadow", *RUN)
ADAM = ("update embedding", "update vectors", "update shadow", *RUN)
MOMENTUM = ("momentum", "update buffers", *MUON)
# What another set of tensors changes; the clip makes every move depend on all gradients
TENSORS = (
    "shapes",
    "logits",
    "loss",
    *UPDATE,
    "update norm",
    "bytes",
    *SHIPPED,
    *LOOP,
    "plan",
    "estimate",
)
NOISE = ("inputs", "masks", "weights", "loss", *RUN)
NETWORK = ("logits", "loss", *LOOP, *SHIPPED)


@dataclass(frozen=True)
class Entry:
    """A field, another value, and every part that changes with it. how(before, after) asserts in
    which way, before and after being the parts of one half.
    """

    name: str
    value: object
    changes: tuple[str, ...]
    how: Callable[[dict, dict], None] = lambda before, after: None
    close: tuple[str, ...] = ()  # parts that rounding alone may change
    fast: tuple[str, ...] = ()  # parts that change in the fast half, and in the reference do not
    free: tuple[str, ...] = ()  # parts of which nothing is said
    given: tuple[tuple[str, object], ...] = ()  # other fields of the base, without which it is idle


def doubled(*names: str) -> Callable[[dict, dict], None]:
    """Return an assertion that parts are twice what they were."""

    def how(before: dict, after: dict) -> None:
        for name in names:
            assert relative_error(after[name], 2 * before[name]) < 1e-12, name

    return how


def scaled(factor: float, *names: str) -> Callable[[dict, dict], None]:
    """Return an assertion that parts are some multiple of what they were."""

    def how(before: dict, after: dict) -> None:
        for name in names:
            assert relative_error(after[name], factor * before[name]) < 1e-12, name

    return how


def larger(name: str) -> Callable[[dict, dict], None]:
    """Return an assertion that a part shrinks: its field stands in a denominator."""

    def how(before: dict, after: dict) -> None:
        assert (np.abs(after[name]) < np.abs(before[name])).all(), name

    return how


def holds(assertion: Callable[[dict], bool]) -> Callable[[dict, dict], None]:
    """Return an assertion about the new parts alone."""

    def how(before: dict, after: dict) -> None:
        assert assertion(after)

    return how


def _uncapped(parts: dict) -> np.ndarray:
    """Return the times of the rows whose weight is below both caps."""
    return 1 / parts["weights"]


def _epsilon(before: dict, after: dict) -> None:
    """A time is epsilon + (1 - epsilon) u, with u as before."""
    one, two = _uncapped(before), _uncapped(after)
    free = (one > 1 / BASE.diffusion.max_weight) & (two > 1 / BASE.diffusion.max_weight)
    share = (one - BASE.diffusion.epsilon) / (1 - BASE.diffusion.epsilon)
    assert free.sum() >= 3
    assert np.abs(two - (0.3 + 0.7 * share))[free].max() < 1e-12


def _weights_reach(cap: float) -> Callable[[dict, dict], None]:
    def how(before: dict, after: dict) -> None:
        assert after["weights"].max() == cap
        lower = before["weights"] < BASE.diffusion.max_weight
        assert np.array_equal(np.minimum(before["weights"], cap)[lower], after["weights"][lower])

    return how


def _softcap(before: dict, after: dict) -> None:
    """What is capped is as before."""
    raw = [
        cap * np.arctanh(part["logits"] / cap)
        for part, cap in ((before, BASE.model.softcap), (after, 2.0))
    ]
    assert relative_error(*raw) < 1e-9 and np.abs(after["logits"]).max() < 2


def _clipped(before: dict, after: dict) -> None:
    """The momentum takes in twice the gradient; the norm is that before the clip."""
    taken = after["update buffers"] - before["update buffers"]
    matrices = observed.weights(BASE.model, "grads")
    grads = observed.joined(matrices, lambda kind: kind in fast.train.transformer.MATRICES)
    share = (0.2 - BASE.optimizer.clip) / before["update norm"]
    assert relative_error(taken, share * grads) < 1e-12


def _momentum(start: float, end: float, warmup: int) -> Callable[[dict, dict], None]:
    def how(before: dict, after: dict) -> None:
        straight = np.interp([0, 2, 3, 6, 9], [0, warmup], [start, end])
        assert np.abs(after["momentum"] - straight).max() < 1e-15

    return how


def _decay(before: dict, after: dict) -> None:
    """The shadow goes 1 - decay of its way to the new weights."""
    assert relative_error(after["update shadow"], 0.1 / 0.3 * before["update shadow"]) < 1e-12


def _same_until(count: int) -> Callable[[dict, dict], None]:
    def how(before: dict, after: dict) -> None:
        one, two = before["run losses"], after["run losses"]
        assert np.array_equal(one[:count], two[:count]) and not np.array_equal(one, two)

    return how


# Records of metrics.jsonl beside a line of the log
RECORDED = {"train_loss": ("recorded train",), "validated": ("recorded val",)}


def _events(kind: str, *steps: int) -> Callable[[dict, dict], None]:
    def how(before: dict, after: dict) -> None:
        if "loop events" in after:
            kinds = (kind, *RECORDED.get(kind, ()))
            for name in kinds:
                assert [step for step, what in after["loop events"] if what == name] == list(steps)
            others = [
                [event for event in part["loop events"] if event[1] not in kinds]
                for part in (before, after)
            ]
            assert others[0] == others[1]

    return how


def _averaging(*steps: bool) -> Callable[[dict, dict], None]:
    def how(before: dict, after: dict) -> None:
        assert after.get("loop averaging", steps) == steps

    return how


def _steps(count: int) -> Callable[[dict, dict], None]:
    def how(before: dict, after: dict) -> None:
        assert len(after.get("loop losses", [0] * count)) == count

    return how


def _formats(expected: Callable[[str, int], str]) -> Callable[[dict, dict], None]:
    """Return an assertion on the format of each tensor by its last name and its elements."""

    def how(before: dict, after: dict) -> None:
        for (name, format), (_, shape) in zip(
            after["formats"], sorted(after["shapes"]), strict=True
        ):
            assert format == expected(name.rpartition(".")[2], int(np.prod(shape))), name

    return how


CONTROL = ("query_gain", "mix", "attn_scale", "mlp_scale", "skip", "neighbours")
ENTRIES = [
    Entry("preset", "other", ("plan",)),
    Entry("seed", 8, ("initial embedding", "initial matrices", *NOISE, "windows", "validator")),
    # The high half of its 64 bits
    Entry(
        "seed",
        7 + 2**32,
        ("initial embedding", "initial matrices", *NOISE, "windows", "validator"),
    ),
    Entry(
        "model.layers",
        3,
        (*TENSORS, "initial matrices", "initial gains", "initial rest", "formats"),
    ),
    Entry(
        "model.d",
        18,
        (*TENSORS, "formats", "initial embedding", "initial matrices", "initial rest"),
    ),
    Entry("model.heads", 6, (*TENSORS, "initial matrices", "initial gains")),
    Entry("model.kv_heads", 3, (*TENSORS, "formats", "initial matrices")),
    Entry("model.mlp", 2, (*TENSORS, "initial matrices")),
    Entry("model.vocab", 13, (*TENSORS, "inputs", "initial embedding")),
    Entry(
        "model.length",
        2,
        (*NETWORK, "inputs", "masks", *RUN[:3], "windows", "rows", "plan"),
    ),
    Entry(
        "model.causal",
        True,
        (*TENSORS, "inputs", "masks", "weights", *RUN[:3], "effort", "initial embedding"),
    ),
    Entry("model.mixing", 1, (*TENSORS, "formats", "initial rest", *RUN[:3])),
    Entry("model.shift", True, (*NETWORK[1:], "inputs", *RUN[:3])),  # of ids that are given, none
    Entry("model.causal_share", 0.5, (*NOISE, *LOOP, "plan")),
    Entry("model.rope_base", 500.0, NETWORK),  # angles of a head of width 2 have no base
    Entry("model.rope_frequencies", "bfloat16", NETWORK),
    Entry("model.softcap", 2.0, (*NETWORK, *RUN[:3]), _softcap),
    Entry("model.norm_eps", 0.02, (*NETWORK, *RUN[:3])),
    Entry(
        "model.query_gain",
        2.5,
        ("initial gains", *RUN),
        holds(lambda after: (after["initial gains"] == 2.5).all()),
    ),
    Entry("model.embedding_std", 0.6, ("initial embedding", *RUN), doubled("initial embedding")),
    Entry("diffusion.epsilon", 0.3, (*NOISE, "effort"), _epsilon),
    Entry("diffusion.max_weight", 1.5, ("weights", "loss", *RUN), _weights_reach(1.5)),
    Entry("optimizer.muon_lr", 0.06, MUON, doubled("update matrices")),
    Entry("optimizer.muon_steps", 4, MUON),
    Entry("optimizer.muon_coefficients", (3.4, -4.7, 2.1), MUON),
    Entry("optimizer.muon_eps", 0.02, MUON),
    Entry("optimizer.muon_dtype", "bfloat16", LOOP),
    Entry("optimizer.momentum_start", 0.7, MOMENTUM, _momentum(0.7, 0.9, 6)),
    Entry("optimizer.momentum", 0.8, MOMENTUM, _momentum(0.6, 0.8, 6)),
    Entry("optimizer.momentum_warmup", 8, MOMENTUM, _momentum(0.6, 0.9, 8)),
    Entry(
        "optimizer.embedding_lr",
        0.1,
        ("update embedding", "update shadow", *RUN),
        doubled("update embedding"),
    ),
    Entry(
        "optimizer.vector_lr",
        0.08,
        ("update vectors", "update shadow", *RUN),
        doubled("update vectors"),
    ),
    Entry("optimizer.adam_beta1", 0.9, ("update first", *ADAM), scaled(0.1 / 0.2, "update first")),
    Entry(
        "optimizer.adam_beta2", 0.9, ("update second", *ADAM), scaled(0.1 / 0.3, "update second")
    ),
    Entry("optimizer.adam_eps", 0.002, ADAM, larger("update vectors")),
    Entry("optimizer.clip", 0.2, (*UPDATE, *RUN), _clipped),
    Entry("training.iterations", 5, ("remaining", *RUN, "loop averaging", "loop events", "plan")),
    Entry(
        "training.max_wallclock_seconds",
        3.5,
        ("remaining", *LOOP, "loop averaging", "loop events"),
        _steps(3),
    ),
    Entry("training.warmdown", 3, ("multipliers", *RUN), _same_until(2)),
    Entry("training.tokens_per_step", 16, (*RUN, "windows", "rows", "plan")),
    Entry(
        "training.micro_batch_tokens", 8, ("rows",), close=RUN[:3], free=LOOP
    ),  # the same sums in another order
    Entry("training.compute_dtype", "float32", (*LOOP, *SHIPPED), fast=RUN[:3]),
    Entry("training.repeatable", True, ("kernels",)),
    Entry("training.shuffle", False, ("windows", *RUN)),
    # Of two rows at the first steps of a run: one of them is causal, then none, or both
    Entry(
        "training.causal_drift",
        0.5,
        (*NOISE, *LOOP),
        given=(("model.causal_share", 0.5),),
    ),
    Entry("training.checkpoint_every", 2, ("loop events",), _events("saved", 2, 4)),
    Entry("training.checkpoint_every", 0, ("loop events",), _events("saved", 4)),
    Entry("training.validate_every", 3, ("loop events",), _events("validated", 3, 4)),
    Entry("training.validate_every", 0, ("loop events",), _events("validated", 4)),
    Entry("training.log_every", 3, ("loop events",), _events("train_loss", 1, 3, 4)),
    Entry("ema.decay", 0.9, ("update shadow", "run shadow", "loop shadow"), _decay),
    Entry(
        "ema.start",
        0.6,
        ("run shadow", "loop shadow", "loop averaging", "loop events"),
        _averaging(False, False, True, True),
    ),
    Entry(
        "quantization.format",
        "int8-row",
        (*STORED, "estimate"),
        _formats(lambda kind, size: "float16" if kind in CONTROL or size <= 100 else "int8-row"),
    ),
    Entry(
        "quantization.small_format",
        "float32",
        (*STORED, "estimate"),
        _formats(lambda kind, size: "float32" if kind in CONTROL or size <= 100 else "e4m3"),
    ),
    Entry(
        "quantization.threshold",
        40,
        (*STORED, "estimate"),
        _formats(lambda kind, size: "float16" if kind in CONTROL or size <= 40 else "e4m3"),
    ),
    Entry(
        "quantization.dial",
        20,
        ("bytes", "estimate"),
        given=(("quantization.format", "uniform"),),
    ),
    Entry(
        "quantization.fisher",
        3,
        ("bytes",),
        given=(("quantization.format", "uniform"),),
    ),
    Entry(
        "quantization.compensate",
        True,
        ("bytes",),
        given=(("quantization.format", "uniform"), ("quantization.fisher", 3)),
    ),
    Entry(
        "quantization.budget",
        1_000_000,
        ("estimate",),
        fast=("bytes",),  # the reference writes no artifact
        given=(("quantization.format", "uniform"),),
    ),
    Entry(
        "quantization.aware_steps",
        2,
        (*RUN, "run shadow"),
        given=(("quantization.format", "uniform"), ("quantization.threshold", 1)),
    ),
]


def leaves(part=Recipe, prefix: str = "") -> list[str]:
    """Return the dotted name of every field that holds a value."""
    names = []
    for field in fields(part):
        nested = is_dataclass(field.type) and field.type
        name = prefix + field.name
        names += leaves(nested, f"{name}.") if nested else [name]
    return names


def changed(*changes: tuple[str, object]) -> Recipe:
    """Return the base with other values in some fields."""
    recipe = BASE
    for name, value in changes:
        part, _, field = name.rpartition(".")
        holder = getattr(recipe, part) if part else recipe
        holder = replace(holder, **{field: value})
        recipe = replace(recipe, **{part: holder}) if part else holder
    return check(recipe)


def changed_by(entry: Entry) -> Recipe:
    """Return the base with an entry's value, and what it needs."""
    return changed(*entry.given, (entry.name, entry.value))


def test_every_field_has_an_entry():
    assert {entry.name for entry in ENTRIES} == set(leaves())
    for entry in ENTRIES:
        assert functools.reduce(getattr, entry.name.split("."), BASE) != entry.value, entry.name


@pytest.mark.parametrize("entry", ENTRIES, ids=lambda entry: f"{entry.name}={entry.value}")
@halves
def test_a_field_changes_its_parts_and_no_others(half, entry):
    before, after = parts(half, changed(*entry.given)), parts(half, changed_by(entry))
    expected = {*entry.changes, *(entry.fast if half == "fast" else ())} & set(before)
    assert set(entry.changes) <= set(parts("fast", BASE))
    found = {name for name in before if not observed.same(before[name], after[name])}
    for name in set(entry.close) & found:
        assert relative_error(after[name], before[name]) < ALGORITHM, name
    assert found - {*entry.close, *entry.free} == expected
    entry.how(before, after)


@pytest.mark.parametrize(
    "entry", [Entry("seed", 7, ()), *ENTRIES], ids=lambda e: f"{e.name}={e.value}"
)
def test_the_halves_agree_on_what_it_changes_to(entry):
    recipe = changed_by(entry)
    one, other = (parts(half, recipe) for half in HALVES)
    for name in one.keys() - set(entry.fast):
        if name in ("inputs", "masks") or not isinstance(one[name], np.ndarray | float):
            assert observed.same(one[name], other[name]), name
            continue
        initial = name.startswith("initial")  # float32 in the fast half
        limit = unit_roundoff(torch.float32) if initial else ALGORITHM
        assert relative_error(other[name], one[name]) <= limit, name


def _error(field: str, dtype: str) -> float:
    """Return how far a dtype moves what it computes from float64, relative."""
    recipe = changed((field, dtype))
    if field == "training.compute_dtype":
        params = {k: torch.from_numpy(value) for k, value in observed.weights(BASE.model).items()}
        ids = torch.from_numpy(observed.windows(BASE.model, 4)[0])
        exact, rounded = (evaluate.predictor(params, made)(ids) for made in (BASE, recipe))
    else:
        exact, rounded = (_moved(made) for made in (changed((field, "float64")), recipe))
    return rms((rounded - exact).double()) / rms(exact)


def _moved(recipe: Recipe) -> torch.Tensor:
    """Return what the update that ships moves zeros by, from float32 states."""
    state = fast.train.initial_state(recipe)
    grads = observed.native("fast", observed.weights(recipe.model, "grads"))
    grads = {name: value.float() for name, value in grads.items()}
    state.params["up"].data.zero_()  # so that the sum does not round
    fast.train.Stepper(recipe, compiled=False).update(state, torch.tensor(1.0), grads, 1.0, False)
    return state.params["up"].detach()


@pytest.mark.parametrize("field", ["training.compute_dtype", "optimizer.muon_dtype"])
def test_a_dtype_rounds_as_its_precision_says(field):
    """The same operations round in each dtype: the errors stand to each other as the roundoffs, of
    which bfloat16's is eight times float16's. Within a factor of 2; of 8 against float32, for a CPU
    adds up the products of the small dtypes in float32.
    """
    wide, half, brain = (_error(field, name) for name in ("float32", "float16", "bfloat16"))
    assert 1 / 8 < brain / unit_roundoff(torch.bfloat16) < 8
    assert 4 < brain / half < 16
    assert 2**13 / 8 < half / wide < 2**13 * 8


@pytest.mark.parametrize("repeatable", [False, True])
def test_repeatable_holds_torch_to_algorithms_that_repeat(repeatable):
    with fast.train.deterministic(repeatable):
        assert torch.is_deterministic_algorithms_warn_only_enabled() is not repeatable


SHOWN_ONLY = {"training.checkpoint_every", "training.validate_every", "training.log_every"}


def test_a_checkpoint_belongs_to_one_value_of_every_field(tmp_path):
    """But for what decides when a run is logged, validated and saved."""
    one = {"embedding": torch.zeros(1)}
    checkpoint.save(tmp_path, {"params": one}, {"step": 3}, BASE)
    assert checkpoint.load(tmp_path, BASE)[1] == {"step": 3}
    for entry in ENTRIES:
        recipe = changed_by(entry)
        if entry.name in SHOWN_ONLY:
            assert checkpoint.load(tmp_path, recipe)
            continue
        with pytest.raises(InputError) as caught:
            checkpoint.load(tmp_path, recipe)
        assert f"{entry.name}: " in str(caught.value)


# The effort of a score

BLOCKS = Effort("chain", "block", block=2)
EFFORTS = [  # a base, a field of it and another value
    (Effort(draws=4), "draws", 6),
    (Effort(draws=4), "seed", 5),
    (Effort(draws=4), "estimator", "nelbo-grid"),
    (Effort("nelbo-grid", points=6), "points", 7),
    (Effort("nelbo-grid", points=6), "seed", 5),
    (Effort("nelbo-grid", points=6), "epsilon", 0.2),
    # Above a time whose row hides other positions than the first
    (Effort("nelbo-grid", points=6), "forced_below", 0.9),
    *((Effort("chain", "left-to-right"), "order", order) for order in ("random", "entropy")),
    (Effort("chain", "random"), "seed", 5),
    (Effort("chain", "left-to-right"), "step", 2),
    (BLOCKS, "block", 3),
    (BLOCKS, "step", 2),
    (Effort("chain", "left-to-right"), "positions", 2),
    (Effort("chain", "left-to-right", positions=2), "seed", 5),
    (Effort("chain", "left-to-right"), "trailing", 1),
    (Effort("chain", "left-to-right"), "stride", 1),
]
TABLE = TableModel(3, 5, seed=2)
CONTEXT = TABLE.windows(4, seed=3)
TEXT = Continued(TABLE.windows(4), CONTEXT[:, -1], CONTEXT)
FIRST_ROW = 3


def of_any_length(ids_BL):
    """Return log-probabilities of windows that may be cut behind: token 0 stands for what is."""
    missing = TABLE.length - ids_BL.shape[1]
    if isinstance(ids_BL, torch.Tensor):
        whole_BLV = TABLE.torch(torch.nn.functional.pad(ids_BL, (0, missing)))
    else:
        whole_BLV = TABLE.numpy(np.pad(ids_BL, ((0, 0), (0, missing))))
    return whole_BLV[:, : ids_BL.shape[1]]


def nats(half: str, effort: Effort, plans=None) -> np.ndarray:
    """Return the totals of the windows of a text by one half."""
    if half == "reference":
        if effort.stride:
            text = TEXT.ids_NL, TEXT.context_NC
            return reference.likelihood.strided(of_any_length, *text, TABLE.vocab, effort).sum(1)
        estimate = reference.likelihood.METHODS[effort.estimator]
        text = TEXT.ids_NL, TEXT.previous_N
        return estimate(of_any_length, *text, TABLE.vocab, effort, FIRST_ROW)[0]
    table = ByteTable(np.ones(TABLE.vocab, int), *np.zeros((2, TABLE.vocab), bool))
    settings = {"first_row": FIRST_ROW, "plans": plans}
    measured = evaluate.measure(of_any_length, [TEXT], table, effort, **settings)
    return np.concatenate([part.nats_N for part in measured])


def test_every_field_of_the_effort_is_changed():
    names = {field.name for field in fields(Effort)}
    assert names == {name for _, name, _ in EFFORTS}


@pytest.mark.parametrize(
    ("base", "name", "value"),
    EFFORTS,
    ids=[f"{base.estimator}-{base.order}-{name}={value}" for base, name, value in EFFORTS],
)
def test_a_field_of_the_effort_moves_the_score_alike_in_both_halves(base, name, value):
    other = replace(base, **{name: value})
    for half in HALVES:
        assert not np.array_equal(nats(half, base), nats(half, other))
    assert relative_error(nats("fast", other), nats("reference", other)) < ALGORITHM


@pytest.mark.parametrize(("name", "value"), [("seed", 5), ("draws", 6)])
def test_masks_of_nelbo_follow_the_effort_under_one_plan(name, value):
    """So that the seed of the pilot is not all that moves the score."""
    base, plans = Effort(draws=4), {}
    one = nats("fast", base, plans)
    assert plans and not np.array_equal(one, nats("fast", replace(base, **{name: value}), plans))
