"""What the tensors of a model do not say."""

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class Assume:
    """What the tensors do not say; the defaults are those of the challenge's scripts."""

    length: int = 1024  # tokens per row
    # Vocabulary without a mask row (default: told by the embedding's rows, if they are a power of
    # two, with or without a mask row).
    vocab: int | None = None
    # true: autoregressive; false: masked diffusion, the embedding's last row is the mask (default:
    # told by the embedding's rows).
    causal: bool | None = None
    # Base of the rotary angles.
    rope_base: float = 10000.0
    # RoPE's inverse frequencies: exact, or rounded to bfloat16 (default: told by the file, see
    # docs/submission.md).
    rope_frequencies: Literal["exact", "bfloat16"] | None = None
    # Bound of the logits.
    softcap: float = 30.0
    # Activations of a forward pass.
    compute_dtype: Literal["bfloat16", "float32"] = "bfloat16"
