"""The network: bidirectional (or causal) transformer with grouped heads, U-Net skips and a tied
head. Accepts complex128.

B rows, L positions, d width, H query heads, G key/value heads, h head width, V vocabulary.
"""

import numpy as np

from reference import masking, philox
from reference.objective import objective_of
from reference.recipe import Stream


def shapes(model):
    """Return {name: shape} of every parameter, in the order that numbers their initial draws."""
    d, width = model.d, model.d // model.heads
    out = {"embedding": (model.vocab + objective_of(model).mask_token, d)}
    for i in range(model.layers):
        out |= {
            f"blocks.{i}.q": (d, d),
            f"blocks.{i}.k": (model.kv_heads * width, d),
            f"blocks.{i}.v": (model.kv_heads * width, d),
            f"blocks.{i}.o": (d, d),
            f"blocks.{i}.up": (model.mlp * d, d),
            f"blocks.{i}.down": (d, model.mlp * d),
            f"blocks.{i}.query_gain": (model.heads,),
            f"blocks.{i}.attn_scale": (d,),
            f"blocks.{i}.mlp_scale": (d,),
            f"blocks.{i}.mix": (2, d),
        }
    out["skip"] = (model.layers // 2, d)
    if model.mixing:
        out["neighbours"] = (len(offsets(model)), d)
    return out


def offsets(model, causal=None):
    """Return how far before each position its mixed neighbours stand: 1, 2, ..., and where it sees
    those behind it -1, -2, ... causal: as in attention().
    """
    before = range(1, model.mixing + 1)
    if objective_of(model).is_causal if causal is None else causal:
        return [*before]
    return [*before, *(-offset for offset in before)]


def initialize(model, seed):
    """Return {name: float64 array} of initial weights; draws come from Philox, row = index of the
    tensor.
    """
    params = {}
    for index, (name, shape) in enumerate(shapes(model).items()):
        size, kind = int(np.prod(shape)), name.split(".")[-1]
        if kind == "embedding":
            u = philox.uniforms(philox.words(seed, Stream.INIT, 0, [index], 2 * size)[0]).reshape(
                size, 2
            )
            # Box & Muller 1958
            normal = np.sqrt(-2 * np.log(1 - u[:, 0])) * np.cos(2 * np.pi * u[:, 1])
            params[name] = model.embedding_std * normal.reshape(shape)
        elif kind in ("q", "k", "v", "up"):
            u = philox.uniforms(philox.words(seed, Stream.INIT, 0, [index], size)[0])
            params[name] = ((2 * u - 1) / np.sqrt(shape[1])).reshape(shape)
        elif kind in ("o", "down", "neighbours"):
            params[name] = np.zeros(shape)
        elif kind == "mix":
            params[name] = np.stack([np.ones(shape[1]), np.zeros(shape[1])])
        else:
            params[name] = np.full(shape, model.query_gain if kind == "query_gain" else 1.0)
    return params


def rmsnorm(x, eps):
    """Return x / sqrt(mean(x**2) + eps) over the last axis, no gain (Zhang & Sennrich 2019)."""
    return x / np.sqrt((x * x).mean(axis=-1, keepdims=True) + eps)


def inverse_frequencies(width, base, frequencies="exact"):
    """Return base**(-2j/h), radians per position, float64 (h/2,). frequencies bfloat16: rounded to
    float32, then to bfloat16, ties to even.
    """
    exact = base ** (-np.arange(0, width, 2) / width)
    if frequencies == "exact":
        return exact
    mantissa, exponent = np.frexp(exact.astype(np.float32).astype(np.float64))
    return np.ldexp(np.rint(mantissa * 2**8), exponent - 8)  # 8 significant bits


def rope(x_BHLh, base, *, frequencies="exact"):
    """Rotate pairs (x_j, x_{j + h/2}) by angle position * base**(-2j/h) (Su et al. 2021, eq. 34,
    half-split pairs). frequencies: of inverse_frequencies().
    """
    length, width = x_BHLh.shape[-2:]
    angle = np.arange(length)[:, None] * inverse_frequencies(width, base, frequencies)
    cos, sin = np.cos(angle), np.sin(angle)
    x1, x2 = x_BHLh[..., : width // 2], x_BHLh[..., width // 2 :]
    return np.concatenate([x1 * cos + x2 * sin, -x1 * sin + x2 * cos], axis=-1)


def mix_neighbours(x_BLd, weights_Od, offsets):
    """Return x_i + sum over offsets o of w_o * x_{i - o}, zeros outside the window; weights of no
    offset are not used.
    """
    mixed_BLd, length = x_BLd, x_BLd.shape[1]
    for weight_d, offset in zip(weights_Od, offsets, strict=False):
        padded = np.pad(x_BLd, ((0, 0), (max(offset, 0), max(-offset, 0)), (0, 0)))
        mixed_BLd = mixed_BLd + weight_d * (
            padded[:, :length] if offset > 0 else padded[:, -length:]
        )
    return mixed_BLd


def softmax(x):
    """Return the softmax over the last axis; the shift looks at real parts only."""
    e = np.exp(x - x.real.max(axis=-1, keepdims=True))
    return e / e.sum(axis=-1, keepdims=True)


def attention(x_BLd, q, k, v, o, query_gain, model, *, causal=None):
    """Return the attention output (B, L, d): grouped heads, q and k normed, RoPE, gain on q,
    softmax scale 1/sqrt(h). causal: whether it looks back only (default: as the objective does).

    Key/value head g serves query heads g H/G ... (g + 1) H/G - 1 (Ainslie et al. 2023, GQA).
    """
    B, L, d = x_BLd.shape
    width = d // model.heads

    def split(matrix):
        return (x_BLd @ matrix.T).reshape(B, L, -1, width).swapaxes(1, 2)

    def turned(matrix):
        normed_BHLh = rmsnorm(split(matrix), model.norm_eps)
        return rope(normed_BHLh, model.rope_base, frequencies=model.rope_frequencies)

    q_BHLh = turned(q) * query_gain[:, None, None]
    k_BHLh = np.repeat(turned(k), model.heads // model.kv_heads, axis=1)
    v_BHLh = np.repeat(split(v), model.heads // model.kv_heads, axis=1)
    scores = q_BHLh @ k_BHLh.swapaxes(-1, -2) / np.sqrt(width)
    if objective_of(model).is_causal if causal is None else causal:
        scores = np.where(np.tril(np.ones((L, L), bool)), scores, -np.inf)
    return (softmax(scores) @ v_BHLh).swapaxes(1, 2).reshape(B, L, d) @ o.T


def mlp(x_BLd, up, down):
    """Return relu(x up')**2 down' (So et al. 2021, Primer)."""
    hidden = x_BLd @ up.T
    return (hidden * (hidden.real > 0)) ** 2 @ down.T


def block(x_BLd, x0_BLd, params, i, model, *, causal=None):
    """Return x after block i: mix with the embedding, attention, MLP, each scaled per channel."""
    p = {
        name.split(".")[2]: value
        for name, value in params.items()
        if name.startswith(f"blocks.{i}.")
    }
    x_BLd = p["mix"][0] * x_BLd + p["mix"][1] * x0_BLd
    normed = rmsnorm(x_BLd, model.norm_eps)
    x_BLd = x_BLd + p["attn_scale"] * attention(
        normed, p["q"], p["k"], p["v"], p["o"], p["query_gain"], model, causal=causal
    )
    return x_BLd + p["mlp_scale"] * mlp(rmsnorm(x_BLd, model.norm_eps), p["up"], p["down"])


def forward(params, ids_BL, model, *, causal=None):
    """Return logits_BLV in (-softcap, softcap). The first half of the blocks push, block half + j
    adds skip[j] * pop().
    """
    x = rmsnorm(params["embedding"][ids_BL], model.norm_eps)
    if model.mixing:
        x = mix_neighbours(x, params["neighbours"], offsets(model, causal))
    x0 = x
    half, pushed = model.layers // 2, []
    for i in range(model.layers):
        if half <= i < 2 * half:
            x = x + params["skip"][i - half] * pushed.pop()
        x = block(x, x0, params, i, model, causal=causal)
        if i < half:
            pushed.append(x)
    head = params["embedding"][: model.vocab]
    return model.softcap * np.tanh(rmsnorm(x, model.norm_eps) @ head.T / model.softcap)


def log_probs(params, ids_BL, model, causal=False):
    """Return log p (B, L, V) of every token of windows whose hidden ones are id V; where attention
    looks back (causal, or a causal model) ids are the tokens before those.
    """
    objective = objective_of(model)
    causal = causal or objective.is_causal
    given_BL = (objective.before if causal else objective.shown)(ids_BL, model)
    return masking.log_softmax(forward(params, given_BL, model, causal=causal))
