"""MODEL_CARD.md of a submission folder: the model for those who would use it, not repeat it. Its
first lines are the metadata that model hubs read (YAML).
"""

import json

from fast.objective import objective_of
from harness.packaging.readme import ESTIMATORS
from reference.recipe import Recipe

CARD = "MODEL_CARD.md"


def _metadata(described: dict) -> str:
    """Return the metadata as YAML, whose strings are JSON's."""
    quoted = {
        name: json.dumps(described[name], ensure_ascii=False)
        for name in ("name", "val_bpb_estimator")
    }
    return f"""library_name: maskgolf
tags: [text-generation, masked-diffusion, parameter-golf]
model-index:
- name: {quoted["name"]}
  results:
  - task: {{type: text-generation}}
    dataset: {{name: "validation split", type: text}}
    metrics:
    - {{type: bits_per_byte, name: {quoted["val_bpb_estimator"]}, value: {described["val_bpb"]}}}"""


def _evaluation(described: dict) -> str:
    seeds = described["seed_results"]
    first = seeds[str(described["artifact_seed"])]
    error = first["stderr_sequences"]
    spread = "" if error is None else f" ± {error:.4f} (one standard error over text of its kind)"
    return (
        f"{first['val_bpb']:.4f}{spread} bits per byte on {described['validation_bytes']:,} bytes"
        f" of held-out text, by {ESTIMATORS[described['val_bpb_estimator']]}. It is read from the"
        f" file here, the model of seed {described['artifact_seed']} of {len(seeds)}."
    )


def _uses(recipe: Recipe) -> str:
    """Return what may be asked of the model."""
    estimators = objective_of(recipe.model).estimators
    uses = [
        "- Text from left to right."
        if "causal" in estimators
        else "- Text from left to right, a pass for each token."
    ]
    if "nelbo" in estimators:
        uses.append("- Gaps in a given text, filled in any order.")
    return "\n".join([*uses, "- Lossless compression of text: `maskgolf compress`."])


def text(described: dict, recipe: Recipe, training_tokens: int) -> str:
    """Return the model card of a folder with this submission.json."""
    model, account = recipe.model, described["github_id"]
    seen = described["train_steps"] * recipe.training.tokens_per_step
    return f"""---
{_metadata(described)}
---

# {described["name"]}

{objective_of(model).description}

- {described["parameters"]:,} parameters in {described["bytes_model"]:,} bytes: {model.layers}
  layers of width {model.d}, windows of {model.length} tokens, a vocabulary of {model.vocab:,}.
- Made by {described["author"]} ([{account}](https://github.com/{account})), {described["date"]}.

## Uses

{_uses(recipe)}

```python
import maskgolf

model = maskgolf.load("final_model.mgolf", tokenizer="TOKENIZER.model")
print(maskgolf.sample(model, "The ")[0])
```

The tokenizer is the SentencePiece model with the SHA-256
`{described["tokenizer_sha256"]}`. `maskgolf export` writes the weights as safetensors.

## Training

{seen:,} tokens in {described["train_steps"]:,} steps, from a split of {training_tokens:,} tokens,
on {described["hardware"]}.

## Evaluation

{_evaluation(described)}

## Limits

- The model is small and was trained for a compression benchmark. It was not tuned to follow
  instructions, and what it writes is often wrong.
- It repeats what is in its training text, bias and offence included. Nothing filters its output.
- It was scored on text like its training text alone. Other languages and kinds of text were not
  measured.
"""
