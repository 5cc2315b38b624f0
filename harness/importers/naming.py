"""The challenge's names for the network's tensors, and the shape of the model that they give
away.
"""

import re
from dataclasses import replace

import torch

from fast import transformer
from harness.importers.assume import Assume
from reference.recipe import GOLF, ROPE_FREQUENCIES, InputError, Model, Recipe, check

PREFIXES = ("module.", "_orig_mod.")  # of distributed and of compiled modules
TOP = {"tok_emb.weight": "embedding", "skip_weights": "skip"}
BLOCK = {
    "attn.c_q.weight": "q",
    "attn.c_k.weight": "k",
    "attn.c_v.weight": "v",
    "attn.proj.weight": "o",
    "attn.q_gain": "query_gain",
    "mlp.fc.weight": "up",
    "mlp.proj.weight": "down",
    "attn_scale": "attn_scale",
    "mlp_scale": "mlp_scale",
    "resid_mix": "mix",
}
HEAD = "lm_head.weight"
FREQUENCIES = r"blocks\.[0-9]{1,4}\.attn\.rotary\.inv_freq"
MAX_LAYERS = 1000
SHOWN = 12  # names that an error lists


def plain_name(name: str) -> str:
    """Return a name without the prefixes that wrappers add."""
    while name.startswith(PREFIXES):
        name = name.partition(".")[2]
    return name


def our_name(name: str) -> str | None:
    """Return the network's name for a tensor of the challenge's; None where it has none."""
    found = re.fullmatch(r"blocks\.(0|[1-9][0-9]{0,3})\.(.+)", name)
    if found and found[2] in BLOCK and int(found[1]) < MAX_LAYERS:
        return f"blocks.{found[1]}.{BLOCK[found[2]]}"
    return TOP.get(name)


def their_name(name: str) -> str:
    """Return the challenge's name for a tensor of the network's."""
    known = {ours: theirs for theirs, ours in (BLOCK | TOP).items()}
    head, _, kind = name.rpartition(".")
    return f"{head}.{known[kind]}" if head else known[kind]


def some(names: list[str]) -> str:
    """Return the first names of a list, and how many more there are."""
    return ", ".join(name[:100] for name in names[:SHOWN]) + (
        f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    )


def tied(state: dict[str, torch.Tensor], head: torch.Tensor) -> bool:
    """Return whether an output head is the embedding once more, as a state_dict of a model with a
    tied head has it.
    """
    embedding = next(
        (values for name, values in state.items() if plain_name(name) == "tok_emb.weight"), None
    )
    return embedding is not None and head.dtype == embedding.dtype and torch.equal(head, embedding)


def match(state: dict[str, torch.Tensor], where: str) -> dict[str, torch.Tensor]:
    """Return {our name: tensor}; names on either side that have no partner are an InputError that
    lists them.
    """
    params, unknown = {}, []
    for name, values in state.items():
        ours = our_name(plain_name(name))
        if plain_name(name) == HEAD and tied(state, values):
            continue
        if re.fullmatch(FREQUENCIES, plain_name(name)):  # see rope_frequencies()
            continue
        if ours is None:
            unknown.append(name)
        elif ours in params:
            raise InputError(
                f"{where}: expected each tensor once, "
                f"found {plain_name(name)} twice, with and without a prefix; save one model"
            )
        else:
            params[ours] = values
    layers = 1 + max(
        (int(name.split(".")[1]) for name in params if name.startswith("blocks.")), default=0
    )
    needed = [
        "embedding",
        "skip",
        *(f"blocks.{i}.{kind}" for i in range(layers) for kind in BLOCK.values()),
    ]
    missing = [their_name(name) for name in needed if name not in params]
    if unknown or missing:
        sides = [f"in the file without a place in the network: {some(sorted(unknown))}"] * bool(
            unknown
        )
        sides += [f"in the network and not in the file: {some(missing)}"] * bool(missing)
        raise InputError(
            f"{where}: expected the tensors of the challenge's network with a tied head, found"
            f" names {'; '.join(sides)}"
        )
    return params


def vocabulary(rows: int, assume: Assume, where: str) -> tuple[int, bool]:
    """Return (vocabulary, causal) for an embedding of so many rows: a mask row means masked
    diffusion.
    """
    causal = assume.causal
    if causal is None and assume.vocab is not None:
        causal = assume.vocab == rows
    if causal is None:
        powers = [size > 1 and size & (size - 1) == 0 for size in (rows, rows - 1)]
        if not any(powers):
            expected = "a vocabulary that is a power of two, with a mask row or without"
            raise InputError(
                f"{where}: tok_emb.weight: expected {expected}, "
                f"found {rows} rows; say --vocab {rows} (causal) or --vocab {rows - 1}"
            )
        causal = powers[0]
    vocab = rows if causal else rows - 1
    if assume.vocab not in (None, vocab):
        kind = "causal model" if causal else "masked-diffusion model with its mask row"
        raise InputError(
            f"{where}: tok_emb.weight: expected {assume.vocab + (not causal)} rows for a {kind} of"
            f" --vocab {assume.vocab}, found {rows}; padded vocabularies have no place in the"
            " network"
        )
    return vocab, causal


def model_of(params: dict[str, torch.Tensor], assume: Assume, where: str) -> Model:
    """Return the model that the shapes of block 0, the number of blocks and the embedding's rows
    describe; the rest is assumed.
    """
    ranks = {"embedding": 2, "blocks.0.query_gain": 1, "blocks.0.k": 2, "blocks.0.up": 2}
    for name, rank in ranks.items():
        if params[name].dim() != rank or not all(params[name].shape):
            raise InputError(
                f"{where}: {their_name(name)}: expected {rank} axes, found the shape"
                f" {tuple(params[name].shape)}"
            )
    (rows, d), heads = params["embedding"].shape, len(params["blocks.0.query_gain"])
    kv, wide = len(params["blocks.0.k"]), len(params["blocks.0.up"])
    if d % heads or kv % (d // heads) or wide % d:
        rules = (
            f"{heads} heads to divide width {d}, c_k a whole number of heads, mlp.fc a multiple of"
            " the width"
        )
        raise InputError(
            f"{where}: blocks.0: expected {rules}; found {kv} rows in c_k and {wide} in mlp.fc"
        )
    layers = sum(name.endswith(".query_gain") for name in params)
    vocab, causal = vocabulary(rows, assume, where)
    return replace(
        GOLF.model,
        layers=layers,
        d=d,
        heads=heads,
        kv_heads=kv // (d // heads),
        mlp=wide // d,
        vocab=vocab,
        causal=causal,
        length=assume.length,
        rope_base=assume.rope_base,
        softcap=assume.softcap,
    )


def rope_frequencies(
    state: dict[str, torch.Tensor], layout: str, model: Model, where: str
) -> tuple[str, str]:
    """Return (exact or bfloat16, what tells so) of a file's inverse frequencies of RoPE; InputError
    for frequencies of another base.

    They are a buffer that model.bfloat16() rounds, and that scripts seldom save.
    """
    given = model.d // model.heads, model.rope_base
    known = {kind: transformer.inverse_frequencies(*given, kind) for kind in ROPE_FREQUENCIES}
    for name, values in state.items():
        if not re.fullmatch(FREQUENCIES, plain_name(name)):
            continue
        for kind, expected in known.items():
            same = values.shape == expected.shape and values.dtype.is_floating_point
            # float32 and its power are 2**-21 off at most
            if same and torch.allclose(values.double(), expected, rtol=2**-21, atol=0.0):
                return kind, f"{name} in the file"
        raise InputError(
            f"{where}: {name}: expected the {len(known['exact'])} inverse frequencies of RoPE base"
            f" {model.rope_base:g}, found others; say --rope-base"
        )
    if layout.startswith("__quant_"):
        return "bfloat16", "the layout: its scripts cast them with the model"
    dtypes = {plain_name(name): values.dtype for name, values in state.items()}
    if dtypes.get("tok_emb.weight") == torch.bfloat16:
        return "bfloat16", "tok_emb.weight in bfloat16: the model was cast, and they with it"
    return "exact", "assumed: nothing in the file tells"


def recipe_of(model: Model, assume: Assume, where: str) -> Recipe:
    """Return a recipe with the model; its budget and optimizer are golf's, which scoring does not
    read.
    """
    length = max(model.length, 1)
    micro = max(1, GOLF.training.micro_batch_tokens // length) * length
    many = GOLF.training.tokens_per_step // GOLF.training.micro_batch_tokens
    training = replace(
        GOLF.training,
        tokens_per_step=many * micro,
        micro_batch_tokens=micro,
        compute_dtype=assume.compute_dtype,
    )
    try:
        return check(replace(GOLF, preset="imported", model=model, training=training))
    except InputError as error:
        raise InputError(f"{where}: {error}") from error


def adopt(
    state: dict[str, torch.Tensor], layout: str, assume: Assume, where: str
) -> tuple[Recipe, dict[str, torch.Tensor], str]:
    """Return (recipe, {our name: float32 tensor}, what tells RoPE's frequencies); shapes that do
    not fit one model, and values that are no numbers, are an InputError.
    """
    params = match(state, where)
    model = model_of(params, assume, where)
    recipe_of(model, assume, where)
    frequencies, told_by = rope_frequencies(state, layout, model, where)
    if assume.rope_frequencies:
        frequencies, told_by = assume.rope_frequencies, "--rope-frequencies"
    recipe = recipe_of(replace(model, rope_frequencies=frequencies), assume, where)
    expected = transformer.shapes(recipe.model)
    wrong = [
        f"{their_name(name)} {tuple(params[name].shape)} instead of {shape}"
        for name, shape in expected.items()
        if params[name].shape != shape
    ]
    if wrong:
        raise InputError(
            f"{where}: expected the shapes of one model of {recipe.model.layers} different blocks,"
            f" found {some(wrong)}"
        )
    for name, values in params.items():
        if not values.is_floating_point() or not torch.isfinite(values.double()).all():
            raise InputError(
                f"{where}: {their_name(name)}: expected finite weights, found {values.dtype} with"
                " others; it cannot be scored"
            )
    return recipe, {name: params[name].float() for name in expected}, told_by
