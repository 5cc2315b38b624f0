"""What the property suites draw: models, weights, ids. Weights are never at their initial values,
where half the network is zero.
"""

import numpy as np
import torch
from hypothesis import strategies as st

import reference.transformer
from reference.recipe import Model

seeds = st.integers(0, 2**64 - 1)
rngs = st.integers(0, 2**32 - 1).map(np.random.default_rng)


@st.composite
def models(
    draw,
    layers=st.integers(1, 5),
    causal=st.booleans(),
    length=st.integers(1, 7),
    mixing=st.integers(0, 2),
) -> Model:
    """Return a small model; heads and groups in every proportion, odd numbers of layers, one
    position.
    """
    kv_heads, group = draw(st.integers(1, 2)), draw(st.integers(1, 3))
    width, tokens, looks_back = draw(st.sampled_from([2, 4, 6])), draw(length), draw(causal)
    return Model(
        layers=draw(layers),
        d=kv_heads * group * width,
        heads=kv_heads * group,
        kv_heads=kv_heads,
        mlp=draw(st.integers(1, 3)),
        vocab=draw(st.integers(2, 9)),
        length=tokens,
        causal=looks_back,
        mixing=min(draw(mixing), tokens - 1),
        shift=not looks_back and draw(st.booleans()),
        causal_share=0.0 if looks_back else draw(st.sampled_from([0.0, 0.0, 0.5, 0.75])),
        softcap=draw(st.sampled_from([3.0, 30.0])),
    )


def random_params(model: Model, rng: np.random.Generator) -> dict[str, np.ndarray]:
    """Return float64 weights of every shape: matrices scaled by fan-in, everything else of order
    one.
    """
    return {
        name: (
            rng.standard_normal(shape)
            / (
                np.sqrt(shape[1])
                if name.split(".")[-1] in ("q", "k", "v", "o", "up", "down")
                else 1
            )
        )
        for name, shape in reference.transformer.shapes(model).items()
    }


def random_ids(
    model: Model, rng: np.random.Generator, rows: int, masked: bool = True
) -> np.ndarray:
    """Return ids (rows, L), the mask id among them unless the model is causal."""
    return rng.integers(0, model.vocab + (masked and not model.causal), (rows, model.length))


def tensors(params: dict[str, np.ndarray], dtype=torch.float64) -> dict[str, torch.Tensor]:
    """Return the same weights for the fast half."""
    return {name: torch.from_numpy(value).to(dtype) for name, value in params.items()}
