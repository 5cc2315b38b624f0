"""Parity: algebra + rounding. Masters stay float32; matrix products and activations run in the dtype given, norms, RoPE and softcap in
float32 or better.

B rows, L positions, d width, H query heads, G key/value heads, h head width, V vocabulary.
"""

import math

import torch
import torch.nn.functional as F

from fast import philox
from reference.recipe import Model, Stream

MATRICES = ("q", "k", "v", "o", "up", "down")


def shapes(model: Model) -> dict[str, tuple[int, ...]]:
    """Return {name: shape} of every parameter, in the order that numbers their initial draws."""
    d, kv, wide = model.d, model.d // model.heads * model.kv_heads, model.mlp * model.d
    block = {
        "q": (d, d), "k": (kv, d), "v": (kv, d), "o": (d, d), "up": (wide, d), "down": (d, wide),
        "query_gain": (model.heads,), "attn_scale": (d,), "mlp_scale": (d,), "mix": (2, d),
    }  # fmt: skip
    blocks = {f"blocks.{i}.{kind}": shape for i in range(model.layers) for kind, shape in block.items()}
    return {"embedding": (model.vocab + (0 if model.causal else 1), d), **blocks, "skip": (model.layers // 2, d)}


def initialize(model: Model, seed: int) -> dict[str, torch.Tensor]:
    """Return {name: float32 tensor} of initial weights on the CPU; they depend on the seed alone."""
    params = {}
    for index, (name, shape) in enumerate(shapes(model).items()):
        kind = name.rpartition(".")[2]
        if kind == "embedding":
            u = philox.uniforms(philox.words(seed, Stream.INIT, 0, [index], 2 * math.prod(shape))).view(*shape, 2)
            value = model.embedding_std * (-2 * torch.log1p(-u[..., 0])).sqrt() * torch.cos(2 * math.pi * u[..., 1])
        elif kind in ("o", "down"):
            value = torch.zeros(shape)
        elif kind in MATRICES:
            u = philox.uniforms(philox.words(seed, Stream.INIT, 0, [index], math.prod(shape))).view(shape)
            value = (2 * u - 1) / math.sqrt(shape[1])
        elif kind == "mix":
            value = torch.tensor([[1.0], [0.0]]).repeat(1, shape[1])
        else:
            value = torch.full(shape, model.query_gain if kind == "query_gain" else 1.0)
        params[name] = value.float()
    return params


def stack(params: dict[str, torch.Tensor], model: Model) -> dict[str, torch.Tensor]:
    """Return {kind: (layers, ...)} with the blocks' tensors stacked; embedding and skip as they are. One tensor per kind trains."""
    kinds = [name.rpartition(".")[2] for name in params if name.startswith("blocks.0.")]
    stacked = {kind: torch.stack([params[f"blocks.{i}.{kind}"] for i in range(model.layers)]) for kind in kinds}
    return {"embedding": params["embedding"], **stacked, "skip": params["skip"]}


def unstack(stacked: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Return {name: tensor} from stacked kinds, as views, in the order of shapes."""
    kinds = [kind for kind in stacked if kind not in ("embedding", "skip")]
    rows = {kind: stacked[kind].unbind(0) for kind in kinds}
    blocks = {f"blocks.{i}.{kind}": rows[kind][i] for i in range(len(rows[kinds[0]])) for kind in kinds}
    return {"embedding": stacked["embedding"], **blocks, "skip": stacked["skip"]}


def _accurate(dtype: torch.dtype) -> torch.dtype:
    return torch.promote_types(dtype, torch.float32)


def rmsnorm(x: torch.Tensor, eps: float) -> torch.Tensor:
    """Return x / sqrt(mean(x**2) + eps) over the last axis, computed in float32 or better, in the dtype of x."""
    accurate = x.to(_accurate(x.dtype))
    return (accurate * torch.rsqrt(accurate.square().mean(-1, keepdim=True) + eps)).to(x.dtype)


def rope_table(length: int, width: int, base: float, device=None, dtype=torch.float32) -> torch.Tensor:
    """Return (2, L, h/2): cosines and sines of the angles position * base**(-2j/h), from float64 angles."""
    frequency = base ** (-torch.arange(0, width, 2, dtype=torch.float64) / width)
    angle = torch.arange(length, dtype=torch.float64)[:, None] * frequency
    return torch.stack([angle.cos(), angle.sin()]).to(device=device, dtype=dtype)


def rope(x_BHLh: torch.Tensor, base: float, table: torch.Tensor | None = None) -> torch.Tensor:
    """Rotate pairs (x_j, x_{j + h/2}) by their position's angle; angles and products in float32 or better."""
    length, width = x_BHLh.shape[-2:]
    accurate = _accurate(x_BHLh.dtype)
    if table is None:
        table = rope_table(length, width, base, x_BHLh.device, accurate)
    cos, sin = table
    x1, x2 = x_BHLh.to(accurate).chunk(2, dim=-1)
    return torch.cat([x1 * cos + x2 * sin, x2 * cos - x1 * sin], dim=-1).to(x_BHLh.dtype)


def attention(x_BLd, q, k, v, o, query_gain, model: Model, table: torch.Tensor | None = None) -> torch.Tensor:
    """Return the attention output (B, L, d): grouped heads, q and k normed, RoPE, gain on q, softmax scale 1/sqrt(h)."""
    B, L, d = x_BLd.shape
    width, group = d // model.heads, model.heads // model.kv_heads

    def split(matrix):
        return F.linear(x_BLd, matrix.to(x_BLd.dtype)).view(B, L, -1, width).transpose(1, 2)

    def shared(x_BGLh):
        return x_BGLh[:, :, None].expand(-1, -1, group, -1, -1).reshape(B, model.heads, L, width)

    q_BHLh = rope(rmsnorm(split(q), model.norm_eps), model.rope_base, table) * query_gain.to(x_BLd.dtype)[:, None, None]
    k_BGLh = rope(rmsnorm(split(k), model.norm_eps), model.rope_base, table)
    y_BHLh = F.scaled_dot_product_attention(q_BHLh, shared(k_BGLh), shared(split(v)), is_causal=model.causal)
    return F.linear(y_BHLh.transpose(1, 2).reshape(B, L, d), o.to(x_BLd.dtype))


def mlp(x_BLd: torch.Tensor, up: torch.Tensor, down: torch.Tensor) -> torch.Tensor:
    """Return relu(x up')**2 down'."""
    return F.linear(F.relu(F.linear(x_BLd, up.to(x_BLd.dtype))).square(), down.to(x_BLd.dtype))


def block(x_BLd, x0_BLd, params: dict[str, torch.Tensor], i: int, model: Model, table: torch.Tensor | None = None) -> torch.Tensor:
    """Return x after block i: mix with the embedding, attention, MLP, each scaled per channel."""
    prefix, dtype = f"blocks.{i}.", x_BLd.dtype
    mix = params[prefix + "mix"].to(dtype)
    x_BLd = mix[0] * x_BLd + mix[1] * x0_BLd
    weights = [params[prefix + kind] for kind in ("q", "k", "v", "o", "query_gain")]
    attended = attention(rmsnorm(x_BLd, model.norm_eps), *weights, model, table)
    x_BLd = x_BLd + params[prefix + "attn_scale"].to(dtype) * attended
    expanded = mlp(rmsnorm(x_BLd, model.norm_eps), params[prefix + "up"], params[prefix + "down"])
    return x_BLd + params[prefix + "mlp_scale"].to(dtype) * expanded


def forward(params: dict[str, torch.Tensor], ids_BL: torch.Tensor, model: Model, dtype=None, table=None, pick=None) -> torch.Tensor:
    """Return logits_BLV in (-softcap, softcap), float32 or better; dtype is that of the activations, default the parameters'.

    pick, where given, takes the last activations (B, L, d) to those whose logits are asked for, (C, d): the head sees no others.
    """
    dtype = dtype or params["embedding"].dtype
    if table is None:
        table = rope_table(ids_BL.shape[1], model.d // model.heads, model.rope_base, ids_BL.device, _accurate(dtype))
    x = x0 = rmsnorm(F.embedding(ids_BL, params["embedding"]), model.norm_eps).to(dtype)
    half = model.layers // 2
    pushed = []
    for i in range(model.layers):
        if pushed and i >= half:
            x = x + params["skip"][i - half].to(dtype) * pushed.pop()
        x = block(x, x0, params, i, model, table)
        if i < half:
            pushed.append(x)
    if pick is not None:
        x = pick(x)
    logits = F.linear(rmsnorm(x, model.norm_eps), params["embedding"][: model.vocab].to(dtype))
    return model.softcap * torch.tanh(logits.to(_accurate(dtype)) / model.softcap)
