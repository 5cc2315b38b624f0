"""README.md of a submission folder: what it is, how it works, the scores with their error bars, how
to repeat them.
"""

from fast.objective import objective_of
from reference.recipe import Recipe

FULL_SPLIT = (
    62_021_845  # tokens of the challenge's validation split with its own tokenizer (SPEC section 9)
)
ESTIMATORS = {
    "nelbo": (
        "an unbiased estimate of the NELBO, the chain-rule code length averaged over all orders, "
        "which bounds the code length of the text"
    ),
    "causal": "the exact chain-rule code length, from left to right",
}


def _text_scored(described: dict) -> str:
    """Return which text was scored, and whether it is the challenge's."""
    tokens, size = described["validation_tokens"], described["validation_bytes"]
    whole = (
        f"the whole validation split, {tokens:,} tokens that stand for {size:,} bytes of text, each"
        " token scored once"
    )
    return (
        whole
        if tokens == FULL_SPLIT
        else f"{whole}. This split is not the challenge's full one ({FULL_SPLIT:,} tokens)"
    )


def _results(described: dict) -> str:
    """Return the table of the seeds."""
    rows = [
        (
            "| seed | val_bpb | ± masks | ± sequences | val_loss | steps | training s | bytes, code"
            " + model |"
        ),
        "|---|---|---|---|---|---|---|---|",
    ]
    for seed, one in described["seed_results"].items():
        spread = "-" if one["stderr_sequences"] is None else f"{one['stderr_sequences']:.4f}"
        rows.append(
            f"| {seed} | {one['val_bpb']:.4f} | {one['stderr_masks']:.4f} | {spread} |"
            f" {one['val_loss']:.4f} | {one['train_steps']:,} | {one['wallclock_seconds']:.1f} |"
            f" {one['bytes_total']:,} |"
        )
    spread = described["val_bpb_std"]
    deviation = (
        "one seed, no deviation"
        if spread is None
        else f"standard deviation over the seeds {spread:.4f}"
    )
    return "\n".join([*rows, "", f"Mean val_bpb **{described['val_bpb']:.4f}**, {deviation}."])


def _how(recipe: Recipe) -> str:
    """Return the method in a few lines."""
    model, training, optimizer, stored = (
        recipe.model,
        recipe.training,
        recipe.optimizer,
        recipe.quantization,
    )
    kind = objective_of(model).description
    cap = (
        f" or {training.max_wallclock_seconds:g} s, whichever binds first"
        if training.max_wallclock_seconds
        else ""
    )
    return "\n".join(
        [
            f"- {kind}",
            (
                f"- {model.layers} layers of width {model.d}, {model.heads} query heads on"
                f" {model.kv_heads} key/value heads, MLP {model.mlp}x, rows of {model.length}"
                f" tokens, vocabulary {model.vocab}, tied embedding, U-Net skips."
            ),
            (
                f"- Muon (lr {optimizer.muon_lr:g}) for matrices, Adam for the rest;"
                f" {training.tokens_per_step:,} tokens per step, {training.iterations:,}"
                f" steps{cap}; the learning rate falls to zero over the last {training.warmdown:,}"
                " steps."
            ),
            (
                f"- The weights that ship are a float32 average (decay {recipe.ema.decay:g}) "
                f"that starts after {recipe.ema.start:.0%} of the budget."
            ),
            (
                f"- Weights above {stored.threshold:,} elements are stored as {stored.format}, "
                f"the rest as {stored.small_format}, then coded losslessly."
            ),
            (
                "- Random draws are counter-based (Philox): a seed names the same masks and batches"
                " on any machine and any number of GPUs."
            ),
        ]
    )


def text(described: dict, recipe: Recipe, logs: list[str]) -> str:
    """Return the README of a folder with this submission.json."""
    seed, files = described["artifact_seed"], ", ".join(f"`{name}`" for name in logs)
    return f"""# {described["name"]}

{described["blurb"]}

Author: {described["author"]} ([{described["github_id"]}](https://github.com/{described["github_id"]})), {described["date"]}, track
`{described["track"]}`, {described["hardware"]}, PyTorch {described["pytorch_version"]}. {described["parameters"]:,} parameters,
{described["bytes_total"]:,} of 16,000,000 bytes: code {described["bytes_code"]:,}, model {described["bytes_model"]:,}.

## Results

{_results(described)}

val_bpb is {ESTIMATORS[described["val_bpb_estimator"]]}, read from the artifact file: bits per byte of {_text_scored(described)}.
"± masks" is one standard error over other random masks on this text, "± sequences" one over other text of its kind.

## How it works

{_how(recipe)}

## Reproduce

```
pip install -r requirements.txt
export DATA_PATH=./data/datasets/fineweb10B_sp1024 TOKENIZER_PATH=./data/tokenizers/fineweb_1024_bpe.model
python train_gpt.py --score final_model.mgolf                                  # the score of the artifact here (seed {seed})
SEED={seed} torchrun --standalone --nproc_per_node=8 train_gpt.py               # train again; one process: SEED={seed} python train_gpt.py
```

ITERATIONS, MAX_WALLCLOCK_SECONDS and RUN_ID may be set too; the log is `logs/RUN_ID.txt`. Training writes `final_model.mgolf` into the
current folder.

## Files

`train_gpt.py` (all code, one file), `final_model.mgolf` (weights and recipe; no pickle), `requirements.txt`, `submission.json`, {files},
`MODEL_CARD.md` (the model for those who would use it).
"""
