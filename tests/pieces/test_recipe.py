"""The recipe: SPEC's numbers, and every rule named when it is broken."""

import itertools
from dataclasses import fields, is_dataclass, replace

import pytest

from reference.recipe import (
    BEST,
    DEMO,
    EVALUATION_STEPS,
    GOLF,
    PRESETS,
    RANGES,
    TINY,
    InputError,
    Stream,
    check,
)

SPEC = {  # SPEC.md, sections 4 to 8
    "diffusion": {"epsilon": 0.001, "max_weight": 100.0},
    "model": {
        "layers": 8,
        "d": 576,
        "heads": 8,
        "kv_heads": 4,
        "mlp": 2,
        "vocab": 1024,
        "length": 1024,
        "causal": False,
        "mixing": 0,
        "shift": False,
        "causal_share": 0.0,
        "rope_base": 10000.0,
        "rope_frequencies": "exact",
        "softcap": 30.0,
        "norm_eps": 2.0**-23,
        "query_gain": 1.5,
        "embedding_std": 0.005,
    },
    "optimizer": {
        "muon_lr": 0.02,
        "muon_steps": 5,
        "muon_coefficients": (3.4445, -4.7750, 2.0315),
        "muon_eps": 1e-7,
        "muon_dtype": "bfloat16",
        "momentum_start": 0.85,
        "momentum": 0.95,
        "momentum_warmup": 500,
        "embedding_lr": 0.05,
        "vector_lr": 0.04,
        "adam_beta1": 0.9,
        "adam_beta2": 0.95,
        "adam_eps": 1e-8,
        "clip": 1.0,
    },
    "ema": {"decay": 0.999, "start": 0.1},
    "quantization": {
        "format": "e4m3",
        "small_format": "float16",
        "threshold": 65_536,
        "dial": 28,
        "fisher": 0,
        "compensate": False,
        "budget": 0,
        "aware_steps": 0,
    },
}

BROKEN = [  # (part, field, value, words of the message)
    ("model", "layers", 0, "model.layers must be at least 1 (found 0)"),
    ("model", "d", 0, "model.d must be at least 1"),
    ("model", "heads", 0, "model.heads must be at least 1"),
    ("model", "kv_heads", -1, "model.kv_heads must be at least 1 (found -1)"),
    ("model", "mlp", 0, "model.mlp must be at least 1"),
    ("model", "length", 0, "model.length must be at least 1"),
    ("model", "d", 20, "model.d must be divisible by model.heads (found 20 and 8)"),
    (
        "model",
        "d",
        24,
        "head width model.d / model.heads must be even (RoPE rotates pairs) (found 3)",
    ),
    ("model", "kv_heads", 3, "model.heads must be divisible by model.kv_heads (found 8 and 3)"),
    ("model", "vocab", 1, "model.vocab must lie in 2"),
    ("model", "vocab", 65_536, "model.vocab must lie in 2"),
    ("model", "rope_base", 0.0, "model.rope_base must be positive"),
    (
        "model",
        "rope_frequencies",
        "float32",
        "model.rope_frequencies must be one of exact, bfloat16 (found float32)",
    ),
    ("model", "softcap", -30.0, "model.softcap must be positive"),
    ("model", "norm_eps", float("nan"), "model.norm_eps must be positive"),
    ("diffusion", "epsilon", 0.0, "diffusion.epsilon must lie in (0, 1)"),
    ("diffusion", "epsilon", 1.0, "diffusion.epsilon must lie in (0, 1)"),
    ("diffusion", "max_weight", float("inf"), "diffusion.max_weight must be positive and finite"),
    ("optimizer", "clip", -1.0, "optimizer.clip must not be negative"),
    ("optimizer", "muon_lr", float("nan"), "optimizer.muon_lr must not be negative"),
    ("optimizer", "muon_dtype", "fp8", "optimizer.muon_dtype must be one of float32, bfloat16"),
    (
        "optimizer",
        "muon_coefficients",
        (1.0, 2.0),
        "optimizer.muon_coefficients must be three finite numbers",
    ),
    ("optimizer", "adam_beta2", 1.0, "optimizer.adam_beta2 must lie in [0, 1)"),
    ("optimizer", "momentum", -0.1, "optimizer.momentum must lie in [0, 1)"),
    ("training", "iterations", 0, "training.iterations must be at least 1"),
    ("training", "log_every", 0, "training.log_every must be at least 1"),
    ("training", "warmdown", -1, "training.warmdown must not be negative"),
    (
        "training",
        "max_wallclock_seconds",
        float("inf"),
        "training.max_wallclock_seconds must not be negative nor infinite",
    ),
    ("training", "compute_dtype", "int8", "training.compute_dtype must be one of"),
    (
        "training",
        "tokens_per_step",
        1000,
        "training.tokens_per_step must be a multiple of model.length (found 1000 and 1024)",
    ),
    (
        "training",
        "tokens_per_step",
        0,
        "training.tokens_per_step must be a multiple of model.length",
    ),
    (
        "training",
        "micro_batch_tokens",
        1500,
        "training.micro_batch_tokens must be a multiple of model.length",
    ),
    (
        "training",
        "micro_batch_tokens",
        3 * 1024,
        "training.tokens_per_step must be a multiple of training.micro_batch_tokens",
    ),
    (
        "optimizer",
        "muon_coefficients",
        (1.0, float("inf"), 2.0),
        "optimizer.muon_coefficients must be three finite numbers",
    ),
    ("model", "layers", 1025, "model.layers must be at most 1,024 (found 1025)"),
    ("model", "d", 2**12, "the model must have at most 134,217,728 weights"),
    ("model", "mlp", 40, "the model must have at most 134,217,728 weights"),
    ("training", "iterations", 10**20, "training.iterations must be at most 2,147,483,647"),
    ("ema", "decay", 1.0, "ema.decay must lie in [0, 1)"),
    ("ema", "start", -0.5, "ema.start must lie in [0, 1)"),
    ("quantization", "threshold", -1, "quantization.threshold must not be negative"),
    ("quantization", "dial", 7, "quantization.dial must lie in 8 ... 64 (found 7)"),
    (
        "quantization",
        "fisher",
        9,
        "quantization.fisher goes with quantization.format uniform (found e4m3)",
    ),
    (
        "quantization",
        "compensate",
        True,
        "quantization.compensate goes with quantization.format uniform (found e4m3); "
        "quantization.compensate goes with quantization.fisher above 0 (found 0)",
    ),
    (
        "quantization",
        "budget",
        9,
        "quantization.budget goes with quantization.format uniform (found e4m3)",
    ),
    (
        "quantization",
        "aware_steps",
        9,
        "quantization.aware_steps goes with quantization.format uniform (found e4m3)",
    ),
]


@pytest.mark.parametrize("power", [31, 70, 2000])
def test_whole_numbers_have_an_upper_bound(power):
    """Every one of them, far above what a float holds too; a dry run would count to it otherwise."""
    for part in (GOLF, *(getattr(GOLF, name) for name in SPEC), GOLF.training):
        for field in fields(part):
            if type(getattr(part, field.name)) is int:
                changed = replace(part, **{field.name: 2**power})
                recipe = changed
                if part is not GOLF:
                    name = next(name for name in vars(GOLF) if getattr(GOLF, name) is part)
                    recipe = replace(GOLF, **{name: changed})
                if (field.name, power) == ("seed", 31):
                    continue  # 64 bits
                with pytest.raises(InputError, match=rf"{field.name} must|weights"):
                    check(recipe)


@pytest.mark.parametrize("preset", PRESETS)
def test_presets_keep_every_rule_and_know_their_name(preset):
    assert check(PRESETS[preset]) is PRESETS[preset]
    assert PRESETS[preset].preset == preset


@pytest.mark.parametrize("part", SPEC)
def test_golf_says_what_the_specification_says(part):
    assert {
        field.name: getattr(getattr(GOLF, part), field.name)
        for field in fields(getattr(GOLF, part))
    } == SPEC[part]


def test_golf_batch():
    assert (GOLF.training.tokens_per_step, GOLF.training.compute_dtype) == (524_288, "bfloat16")


def test_best_is_golf_with_another_objective_and_more_weights_in_fewer_bits():
    """At golf's tokens; the demo trains by the same objective, on more causal rows."""
    added = {"mixing": 2, "shift": True, "causal_share": 0.5}
    shape = {"layers": 9, "d": 640, "heads": 10, "kv_heads": 5}
    stored = replace(GOLF.quantization, format="uniform", fisher=64, budget=15_700_000)
    model = replace(GOLF.model, **added, **shape)
    assert replace(GOLF, preset="best", model=model, quantization=stored) == BEST
    short = added | {"causal_share": 0.875}
    assert all(getattr(DEMO.model, name) == value for name, value in short.items())


def test_small_presets_differ_from_golf_in_size_only():
    kept = ("rope_base", "softcap", "norm_eps", "query_gain", "embedding_std", "causal")
    for preset in (DEMO, TINY):
        assert preset.diffusion == GOLF.diffusion
        assert all(getattr(preset.model, name) == getattr(GOLF.model, name) for name in kept)
        assert preset.optimizer.muon_coefficients == GOLF.optimizer.muon_coefficients


@pytest.mark.parametrize(("part", "name", "value", "message"), BROKEN)
def test_each_broken_rule_is_named(part, name, value, message):
    with pytest.raises(InputError) as caught:
        check(replace(GOLF, **{part: replace(getattr(GOLF, part), **{name: value})}))
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("seed", [-1, 2**64])
def test_seed_is_64_bits(seed):
    with pytest.raises(InputError, match="seed must lie in"):
        check(replace(GOLF, seed=seed))
    assert check(replace(GOLF, seed=2**64 - 1))


def test_all_broken_rules_are_named_at_once():
    broken = replace(
        GOLF,
        model=replace(GOLF.model, d=20, softcap=0.0),
        training=replace(GOLF.training, iterations=0, tokens_per_step=5, micro_batch_tokens=7),
    )
    with pytest.raises(InputError) as caught:
        check(broken)
    for words in (
        "model.d must",
        "softcap",
        "iterations",
        "tokens_per_step must be a multiple",
        "micro_batch_tokens must be a multiple",
    ):
        assert words in str(caught.value)


def test_every_number_has_a_rule():
    def numbers(part, prefix=""):
        for field in fields(part):
            value = getattr(part, field.name)
            if is_dataclass(value):
                yield from numbers(value, f"{prefix}{field.name}.")
            elif isinstance(value, int | float) and not isinstance(value, bool):
                yield prefix + field.name

    # Bound to model.length, so to a multiple of it
    elsewhere = {"training.tokens_per_step", "training.micro_batch_tokens"}
    assert {name for _, _, names in RANGES for name in names} >= set(numbers(GOLF)) - elsewhere


def test_no_two_uses_of_a_stream_share_a_step():
    ranges = sorted(EVALUATION_STEPS.values(), key=lambda steps: steps.start)
    assert all(len(steps) and steps.step == 1 for steps in ranges)
    assert ranges[0].start >= 0 and ranges[-1].stop <= 2**32
    assert all(one.stop <= two.start for one, two in itertools.pairwise(ranges))


def test_streams_are_distinct_words():
    assert len({int(stream) for stream in Stream}) == len(list(Stream)) == 7
    assert all(0 <= stream < 2**32 for stream in Stream)


@pytest.mark.parametrize("value", ["inf", "-inf", "nan", "1e400"])
def test_no_number_is_infinite_or_nan(value):
    """Every field that holds one, the coefficients of Newton-Schulz one by one."""
    seen = 0
    for name in SPEC | {"training": {}}:
        part = getattr(GOLF, name)
        for field in fields(part):
            held = getattr(part, field.name)
            wrong = []
            if type(held) is float:
                wrong = [float(value)]
            elif type(held) is tuple:
                wrong = [(*held[:i], float(value), *held[i + 1 :]) for i in range(len(held))]
            for changed in wrong:
                seen += 1
                with pytest.raises(InputError, match=rf"{name}\.{field.name} must"):
                    check(replace(GOLF, **{name: replace(part, **{field.name: changed})}))
    assert seen == 25
