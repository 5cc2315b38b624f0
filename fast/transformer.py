"""Parity: algebra + rounding. Masters stay float32; matrix products and activations run in the
dtype given, norms, RoPE and softcap in float32 or better.

B rows, L positions, d width, H query heads, G key/value heads, h head width, V vocabulary.
"""

import math
from collections.abc import Iterator

import torch
import torch.nn.functional as F

from fast import philox
from fast.objective import objective_of
from reference.recipe import Model, Stream

MATRICES = ("q", "k", "v", "o", "up", "down")
ENDS = ("embedding", "skip", "neighbours")  # parameters outside blocks; the first in front of them
BLOCK = (*MATRICES, "query_gain", "attn_scale", "mlp_scale", "mix")


def shapes(model: Model) -> dict[str, tuple[int, ...]]:
    """Return {name: shape} of every parameter, in the order that numbers their initial draws."""
    d, kv, wide = model.d, model.d // model.heads * model.kv_heads, model.mlp * model.d
    block = {
        "q": (d, d),
        "k": (kv, d),
        "v": (kv, d),
        "o": (d, d),
        "up": (wide, d),
        "down": (d, wide),
        "query_gain": (model.heads,),
        "attn_scale": (d,),
        "mlp_scale": (d,),
        "mix": (2, d),
    }
    blocks = {
        f"blocks.{i}.{kind}": shape for i in range(model.layers) for kind, shape in block.items()
    }
    mixed = {"neighbours": (len(offsets(model)), d)} if model.mixing else {}
    return {
        "embedding": (model.vocab + objective_of(model).mask_token, d),
        **blocks,
        "skip": (model.layers // 2, d),
        **mixed,
    }


def offsets(model: Model, causal: bool | None = None) -> list[int]:
    """Return how far before each position its mixed neighbours stand, those behind it negative.
    causal: as in forward().
    """
    looks_back = objective_of(model).is_causal if causal is None else causal
    signs = (1,) if looks_back else (1, -1)
    return [sign * far for sign in signs for far in range(1, model.mixing + 1)]


def initialize(model: Model, seed: int) -> dict[str, torch.Tensor]:
    """Return {name: float32 tensor} of initial weights on the CPU; they depend on the seed
    alone.
    """
    params = {}
    for index, (name, shape) in enumerate(shapes(model).items()):
        kind = name.rpartition(".")[2]
        if kind == "embedding":
            u = philox.uniforms(
                philox.words(seed, Stream.INIT, 0, [index], 2 * math.prod(shape))
            ).view(*shape, 2)
            value = (
                model.embedding_std
                * (-2 * torch.log1p(-u[..., 0])).sqrt()
                * torch.cos(2 * math.pi * u[..., 1])
            )
        elif kind in ("o", "down", "neighbours"):
            value = torch.zeros(shape)
        elif kind in MATRICES:
            u = philox.uniforms(philox.words(seed, Stream.INIT, 0, [index], math.prod(shape))).view(
                shape
            )
            value = (2 * u - 1) / math.sqrt(shape[1])
        elif kind == "mix":
            value = torch.tensor([[1.0], [0.0]]).repeat(1, shape[1])
        else:
            value = torch.full(shape, model.query_gain if kind == "query_gain" else 1.0)
        params[name] = value.float()
    return params


def stack(params: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Return {kind: (layers, ...)} with the tensors of blocks stacked, the others as they are. One
    tensor per kind trains. Of a part of the parameters, what is there.
    """
    layers = 1 + max((int(name.split(".")[1]) for name in params if "." in name), default=-1)
    kinds = dict.fromkeys(name.rpartition(".")[2] for name in params)
    return {
        kind: params[kind]
        if kind in params
        else torch.stack([params[f"blocks.{i}.{kind}"] for i in range(layers)])
        for kind in kinds
    }


def unstack(params: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Return {name: tensor} from stacked kinds, as views, in the order of shapes; what is named
    already stays. Of a part of the parameters, what is there.
    """
    kinds = [kind for kind in params if kind not in ENDS]
    if any("." in kind for kind in kinds):
        return params
    rows = {kind: params[kind].unbind(0) for kind in kinds}
    layers = len(rows[kinds[0]]) if kinds else 0
    blocks = {f"blocks.{i}.{kind}": rows[kind][i] for i in range(layers) for kind in kinds}
    ends = {name: params[name] for name in ENDS if name in params}
    first = {name: ends.pop(name) for name in ENDS[:1] if name in ends}
    return {**first, **blocks, **ends}


def mix_neighbours(
    x_BLd: torch.Tensor, weights_Od: torch.Tensor, offsets: list[int]
) -> torch.Tensor:
    """Return x_i + sum over offsets o of w_o * x_{i - o}, zeros outside the window; weights of no
    offset are not used.
    """
    length, most = x_BLd.shape[1], max(map(abs, offsets))
    padded, mixed = F.pad(x_BLd, (0, 0, most, most)), x_BLd
    for weight_d, offset in zip(weights_Od, offsets, strict=False):
        mixed = mixed + weight_d * padded[:, most - offset : most - offset + length]
    return mixed


def _written_for_gpus(device: torch.device) -> bool:
    """Return whether forms for GPUs are taken where there are two: fewer kernels. CPUs want vectors
    and what is in the cache.
    """
    return device.type != "cpu"


def _accurate(dtype: torch.dtype) -> torch.dtype:
    return torch.promote_types(dtype, torch.float32)


def rmsnorm(x: torch.Tensor, eps: float, gain: torch.Tensor | None = None) -> torch.Tensor:
    """Return x / sqrt(mean(x**2) + eps) over the last axis, computed in float32 or better, in the
    dtype of x.

    gain: a factor for each vector, broadcast against (..., 1). It multiplies the one number that
    each vector is multiplied by anyway.
    """
    accurate = x.to(_accurate(x.dtype))
    scale = torch.rsqrt(accurate.square().mean(-1, keepdim=True) + eps)
    return (accurate * (scale if gain is None else scale * gain)).to(x.dtype)


class _NormedLinear(torch.autograd.Function):
    """linear(rmsnorm(x), weight) for x (N, d), without storing rmsnorm(x): x times the weight, then
    each row times 1 / rms.

    With g the gradient of the output, r = 1 / rms and t = (r g) weight: the gradients are (r g)' x
    and t - r**2 mean(t x) x.
    """

    @staticmethod
    def forward(ctx, x_Nd, weight, eps):
        accurate = _accurate(x_Nd.dtype)
        scale_N1 = torch.rsqrt(x_Nd.to(accurate).square().mean(-1, keepdim=True) + eps)
        ctx.save_for_backward(x_Nd, weight, scale_N1)
        return (F.linear(x_Nd, weight).to(accurate) * scale_N1).to(x_Nd.dtype)

    @staticmethod
    def backward(ctx, grad_Nm):
        x_Nd, weight, scale_N1 = ctx.saved_tensors
        scaled_Nm = (grad_Nm.to(scale_N1.dtype) * scale_N1).to(x_Nd.dtype)
        toward_Nd, x = (scaled_Nm @ weight).to(scale_N1.dtype), x_Nd.to(scale_N1.dtype)
        along_N1 = scale_N1.square() * (toward_Nd * x).mean(-1, keepdim=True)
        return (toward_Nd - along_N1 * x).to(x_Nd.dtype), scaled_Nm.T @ x_Nd, None


def inverse_frequencies(width: int, base: float, frequencies: str = "exact") -> torch.Tensor:
    """Return base**(-2j/h), radians per position, float64 (h/2,). frequencies bfloat16: rounded to
    float32, then to bfloat16, ties to even.
    """
    exact = base ** (-torch.arange(0, width, 2, dtype=torch.float64) / width)
    return exact if frequencies == "exact" else exact.float().bfloat16().double()


def rope_table(
    length: int,
    width: int,
    base: float,
    device=None,
    dtype=torch.float32,
    frequencies: str = "exact",
) -> torch.Tensor:
    """Return (2, L, h): cosines and signed sines of the angles position * base**(-2j/h), from
    float64 angles. frequencies: of inverse_frequencies().

    Row 0 multiplies x and row 1 multiplies x rolled by h/2, so the sines of the second half are
    negative.
    """
    position = torch.arange(length, dtype=torch.float64)
    angle = position[:, None] * inverse_frequencies(width, base, frequencies)
    cos, sin = angle.cos(), angle.sin()
    return torch.stack([torch.cat([cos, cos], -1), torch.cat([sin, -sin], -1)]).to(
        device=device, dtype=dtype
    )


def table_for(model: Model, length: int, dtype: torch.dtype, device=None) -> torch.Tensor:
    """Return rope_table() of a model for windows of a length; dtype is that of the activations."""
    width, dtype = model.d // model.heads, _accurate(dtype)
    return rope_table(length, width, model.rope_base, device, dtype, model.rope_frequencies)


def rope(
    x_BHLh: torch.Tensor,
    base: float,
    table: torch.Tensor | None = None,
    *,
    frequencies: str = "exact",
) -> torch.Tensor:
    """Rotate pairs (x_j, x_{j + h/2}) by their position's angle; angles and products in float32 or
    better. frequencies: of inverse_frequencies(), where there is no table.

    table: rope_table(), with axes of size 1 added where x has its heads elsewhere than in (B, H, L,
    h). A GPU rolls x: one kernel. A CPU computes the halves apart: vector instructions, which a
    roll has none of.
    """
    length, width = x_BHLh.shape[-2:]
    accurate = _accurate(x_BHLh.dtype)
    if table is None:
        table = rope_table(length, width, base, x_BHLh.device, accurate, frequencies)
    cos, sin = table
    x = x_BHLh.to(accurate)
    if _written_for_gpus(x.device):
        return (x * cos + x.roll(width // 2, -1) * sin).to(x_BHLh.dtype)
    (left, right), (cos, _), (sin, _) = (
        each.unflatten(-1, (2, width // 2)).unbind(-2) for each in (x, cos, sin)
    )
    halves = left * cos + right * sin, right * cos - left * sin
    return torch.stack([half.to(x_BHLh.dtype) for half in halves], dim=-2).flatten(-2)


def _attention(
    x_Nd, qkv, o, query_gain, model: Model, table, pick=None, causal=None
) -> torch.Tensor:
    """Return attention() for N = B L positions: q, k and v projected by one matrix, weights in the
    dtype of x. pick, causal: as in forward().
    """
    H, G, (_, L, width) = model.heads, model.kv_heads, table.shape
    q, k, v_BLGh = F.linear(x_Nd, qkv).view(-1, L, H + 2 * G, width).split([H, G, G], dim=2)
    # q and k stay (B, L, heads, h); CPUs attend faster to (B, heads, L, h)
    in_place = _written_for_gpus(x_Nd.device)
    if in_place:
        table, gain = table[:, :, None], query_gain[:, None]
    else:
        q, k, gain = q.transpose(1, 2), k.transpose(1, 2), query_gain[:, None, None]
    q = rope(rmsnorm(q, model.norm_eps, gain), model.rope_base, table)
    k = rope(rmsnorm(k, model.norm_eps), model.rope_base, table)
    if in_place:
        q, k = q.transpose(1, 2), k.transpose(1, 2)
    if causal is None:
        causal = objective_of(model).is_causal
    y_BHLh = F.scaled_dot_product_attention(
        q, k, v_BLGh.transpose(1, 2), is_causal=causal, enable_gqa=True
    )
    y_Nd = y_BHLh.transpose(1, 2).reshape(x_Nd.shape)
    return F.linear(y_Nd if pick is None else pick(y_Nd), o)


def attention(
    x_BLd,
    q,
    k,
    v,
    o,
    query_gain,
    model: Model,
    table: torch.Tensor | None = None,
    *,
    causal: bool | None = None,
) -> torch.Tensor:
    """Return the attention output (B, L, d): grouped heads, q and k normed, RoPE, gain on q,
    softmax scale 1/sqrt(h). causal: as in forward().
    """
    L = x_BLd.shape[1]
    if table is None:
        table = table_for(model, L, x_BLd.dtype, x_BLd.device)
    qkv, o = (matrix.to(x_BLd.dtype) for matrix in (torch.cat([q, k, v]), o))
    y_Nd = _attention(x_BLd.flatten(0, 1), qkv, o, query_gain, model, table, None, causal)
    return y_Nd.view_as(x_BLd)


def mlp(
    x_BLd: torch.Tensor, up: torch.Tensor, down: torch.Tensor, eps: float | None = None
) -> torch.Tensor:
    """Return relu(x up')**2 down'. eps: where given, x is (N, d) and rmsnorm(x) is part of the
    first product.
    """
    up, down = up.to(x_BLd.dtype), down.to(x_BLd.dtype)
    hidden = F.linear(x_BLd, up) if eps is None else _NormedLinear.apply(x_BLd, up, eps)
    return F.linear(F.relu(hidden).square(), down)


def _ready(params: dict[str, torch.Tensor], dtype: torch.dtype) -> dict[str, torch.Tensor]:
    """Return the weights of a block, or of all blocks stacked, as _block multiplies by them: in
    dtype, q, k and v in one matrix.

    The channel scales multiply the rows of the output projections: the same sum, and no pass over
    the activations.
    """
    out, down = (
        params[scale][..., None] * params[kind]
        for scale, kind in (("attn_scale", "o"), ("mlp_scale", "down"))
    )
    matrices = {
        "qkv": torch.cat([params[kind] for kind in "qkv"], -2),
        "o": out,
        "up": params["up"],
        "down": down,
        "mix": params["mix"],
    }
    return {
        "query_gain": params["query_gain"],
        **{kind: value.to(dtype) for kind, value in matrices.items()},
    }


def _blocks(
    params: dict[str, torch.Tensor], model: Model, dtype: torch.dtype
) -> Iterator[dict[str, torch.Tensor]]:
    """Yield the ready weights of each block.

    On a GPU stacked parameters are made ready in one operation per kind. On a CPU each block's are
    when its turn comes: they, and later their gradients, are then still in the cache.
    """
    if "q" in params and _written_for_gpus(params["q"].device):
        rows = {
            kind: value.unbind(0)
            for kind, value in _ready({kind: params[kind] for kind in BLOCK}, dtype).items()
        }
        yield from ({kind: rows[kind][i] for kind in rows} for i in range(model.layers))
        return
    if "q" in params:
        params = unstack(params)
    for i in range(model.layers):
        yield _ready({kind: params[f"blocks.{i}.{kind}"] for kind in BLOCK}, dtype)


def _block(
    x_Nd,
    x0_Nd,
    weights: dict[str, torch.Tensor],
    model: Model,
    table: torch.Tensor,
    pick=None,
    causal: bool | None = None,
) -> torch.Tensor:
    """Return x after a block with the weights of _ready. pick, causal: as in forward().

    The N = B L positions stand in one axis, as in the matrix products, so that the compiler can
    append to a product what follows it.
    """
    x_Nd = weights["mix"][0] * x_Nd + weights["mix"][1] * x0_Nd
    normed_Nd = rmsnorm(x_Nd, model.norm_eps)
    attended = _attention(
        normed_Nd, weights["qkv"], weights["o"], weights["query_gain"], model, table, pick, causal
    )
    x_Nd = (x_Nd if pick is None else pick(x_Nd)) + attended
    return x_Nd + mlp(x_Nd, weights["up"], weights["down"], model.norm_eps)


def block(
    x_BLd,
    x0_BLd,
    params: dict[str, torch.Tensor],
    i: int,
    model: Model,
    table: torch.Tensor | None = None,
    *,
    causal: bool | None = None,
) -> torch.Tensor:
    """Return x after block i: mix with the embedding, attention, MLP, each scaled per channel."""
    L = x_BLd.shape[1]
    if table is None:
        table = table_for(model, L, x_BLd.dtype, x_BLd.device)
    weights = _ready({kind: params[f"blocks.{i}.{kind}"] for kind in BLOCK}, x_BLd.dtype)
    x_Nd, x0_Nd = x_BLd.flatten(0, 1), x0_BLd.flatten(0, 1)
    return _block(x_Nd, x0_Nd, weights, model, table, None, causal).view_as(x_BLd)


class _Embed(torch.autograd.Function):
    """Rows of a table (V + 1, d) by id (N,). The gradient's sums have a fixed order.

    On a GPU they are a product with one-hot ids: rows are added in turn there, and half of all ids
    are the mask token.
    """

    @staticmethod
    def forward(ctx, table_Vd, ids_N):
        ctx.save_for_backward(ids_N)
        ctx.rows = len(table_Vd)
        return table_Vd[ids_N]

    @staticmethod
    def backward(ctx, grad_Nd):
        [ids_N] = ctx.saved_tensors
        if not _written_for_gpus(grad_Nd.device):
            accurate = _accurate(grad_Nd.dtype)
            sums_Vd = grad_Nd.new_zeros((ctx.rows, grad_Nd.shape[1]), dtype=accurate).index_add(
                0, ids_N, grad_Nd.to(accurate)
            )
            return sums_Vd.to(grad_Nd.dtype), None
        # Matrix products want a multiple of 8
        columns = torch.arange(-(-ctx.rows // 8) * 8, device=ids_N.device)
        return ((ids_N[:, None] == columns).to(grad_Nd.dtype).T @ grad_Nd)[: ctx.rows], None


def _prepare(params: dict[str, torch.Tensor], model: Model, dtype: torch.dtype) -> dict:
    table, head = rmsnorm(params["embedding"], model.norm_eps), params["embedding"][: model.vocab]
    ready = {
        "table": table.to(dtype),
        "blocks": _blocks(params, model, dtype),
        "skip": params["skip"].to(dtype),
        "head": head.to(dtype),
    }
    return ready | ({"neighbours": params["neighbours"].to(dtype)} if model.mixing else {})


def prepare(params: dict[str, torch.Tensor], model: Model, dtype: torch.dtype) -> dict:
    """Return named or stacked weights as forward() multiplies by them: once for all passes where
    they stay as they are.
    """
    ready = _prepare(params, model, dtype)
    return {**ready, "blocks": list(ready["blocks"])}


def forward(
    params: dict[str, torch.Tensor],
    ids_BL: torch.Tensor,
    model: Model,
    dtype=None,
    table=None,
    pick=None,
    *,
    causal: bool | None = None,
) -> torch.Tensor:
    """Return logits_BLV in (-softcap, softcap), float32 or better; dtype is that of the
    activations, default the parameters'.

    params are named, stacked or prepared. pick, where given, takes activations (N, d), N = B L, to
    those of the positions whose logits are asked for, (C, d): what follows the last attention sees
    no others, and the result is (C, V).
    causal: whether attention looks back only (default: as the model's objective does).
    """
    if "blocks" not in params:
        params = _prepare(params, model, dtype or params["embedding"].dtype)
    length = ids_BL.shape[1]
    if table is None or table.shape[1] < length:
        table = table_for(model, length, params["table"].dtype, ids_BL.device)
    ids_N = ids_BL.flatten()
    # The compiler stores the ids, and does not draw the masks wherever one is read
    ids_N = ids_N.as_strided(ids_N.shape, ids_N.stride())
    x = _Embed.apply(params["table"], ids_N)
    if model.mixing:
        x_BLd = x.view(*ids_BL.shape, -1)
        x = mix_neighbours(x_BLd, params["neighbours"], offsets(model, causal)).flatten(0, 1)
    x0 = x
    half, pushed = model.layers // 2, []
    for i, weights in enumerate(params["blocks"]):
        if pushed and i >= half:
            x = x + params["skip"][i - half] * pushed.pop()
        picked = pick if i == model.layers - 1 else None
        x = _block(x, x0, weights, model, table[:, :length], picked, causal)
        if i < half:
            pushed.append(x)
    logits = F.linear(rmsnorm(x, model.norm_eps), params["head"])
    accurate = _accurate(logits.dtype)
    logits = model.softcap * torch.tanh(logits.to(accurate) / model.softcap)
    return logits if pick is not None else logits.view(*ids_BL.shape, -1)
