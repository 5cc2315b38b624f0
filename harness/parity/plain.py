"""The network and the update once more, written plainly in one compute dtype: einsums and explicit
softmax, every result rounded, sums in other orders.

Its error is what the compute dtype costs anybody; the fast half may make at most twice as much.
"""

import numpy as np
import torch

from reference import adam, ema, masking
from reference.recipe import Model, Optimizer, Recipe


def rounded_norm(x: torch.Tensor, eps: float) -> torch.Tensor:
    """Return rmsnorm in float32, rounded to the dtype of x."""
    wide = x.float()
    return (wide / ((wide * wide).flip(-1).mean(-1, keepdim=True) + eps).sqrt()).to(x.dtype)


def rotated(x_BLHh: torch.Tensor, base: float) -> torch.Tensor:
    """Return RoPE with float32 angles, pair by pair, rounded to the dtype of x."""
    half = x_BLHh.shape[-1] // 2
    pairs = []
    position = torch.arange(x_BLHh.shape[1], dtype=torch.float32, device=x_BLHh.device)[:, None]
    for j in range(half):
        angle = position * base ** (-j / half)
        one, two = x_BLHh[..., j].float(), x_BLHh[..., j + half].float()
        pairs.append((one * angle.cos() + two * angle.sin(), two * angle.cos() - one * angle.sin()))
    return torch.stack([one for one, _ in pairs] + [two for _, two in pairs], dim=-1).to(
        x_BLHh.dtype
    )


def attention(x_BLd: torch.Tensor, p: dict[str, torch.Tensor], model: Model) -> torch.Tensor:
    """Return the attention output, one query head at a time."""
    (_, L, _), width = x_BLd.shape, model.d // model.heads
    heads = []
    for head in range(model.heads):
        q_rows = slice(head * width, (head + 1) * width)
        group = head * model.kv_heads // model.heads
        kv_rows = slice(group * width, (group + 1) * width)
        q, k, v = (
            torch.einsum("bld,hd->blh", x_BLd, matrix)
            for matrix in (p["q"][q_rows], p["k"][kv_rows], p["v"][kv_rows])
        )
        q = (
            rotated(rounded_norm(q, model.norm_eps)[:, :, None], model.rope_base)[:, :, 0]
            * p["query_gain"][head]
        )
        k = rotated(rounded_norm(k, model.norm_eps)[:, :, None], model.rope_base)[:, :, 0]
        scores = torch.einsum("bih,bjh->bij", q, k) / width**0.5
        if model.causal:
            scores = scores.masked_fill(
                torch.ones(L, L, dtype=torch.bool, device=x_BLd.device).triu(1), -torch.inf
            )
        heads.append(
            torch.einsum("bij,bjh->bih", scores.exp() / scores.exp().sum(-1, keepdim=True), v)
        )
    return torch.einsum("bld,ed->ble", torch.cat(heads, dim=-1), p["o"])


def block(
    x: torch.Tensor, x0: torch.Tensor, p: dict[str, torch.Tensor], model: Model
) -> torch.Tensor:
    """Return x after one block, whose own weights p are already in the compute dtype."""
    x = p["mix"][0] * x + p["mix"][1] * x0
    x = x + p["attn_scale"] * attention(rounded_norm(x, model.norm_eps), p, model)
    hidden = torch.einsum("bld,ud->blu", rounded_norm(x, model.norm_eps), p["up"]).clamp(min=0)
    return x + p["mlp_scale"] * torch.einsum("blu,du->bld", hidden * hidden, p["down"])


def own(params: dict[str, torch.Tensor], i: int, dtype: torch.dtype) -> dict[str, torch.Tensor]:
    """Return the weights of block i by kind, in dtype."""
    return {
        name.split(".")[2]: value.to(dtype)
        for name, value in params.items()
        if name.startswith(f"blocks.{i}.")
    }


def forward(
    params: dict[str, torch.Tensor], ids_BL: torch.Tensor, model: Model, dtype: torch.dtype
) -> torch.Tensor:
    """Return float32 logits_BLV of float32 weights, all products in dtype."""
    x = x0 = rounded_norm(params["embedding"][ids_BL], model.norm_eps).to(dtype)
    outputs, half = [], model.layers // 2
    for i in range(model.layers):
        if half <= i < 2 * half:
            x = x + params["skip"][i - half].to(dtype) * outputs[2 * half - 1 - i]
        x = block(x, x0, own(params, i, dtype), model)
        outputs.append(x)
    logits = torch.einsum(
        "bld,vd->blv", rounded_norm(x, model.norm_eps), params["embedding"][: model.vocab].to(dtype)
    ).float()
    return model.softcap * torch.tanh(logits / model.softcap)


def gradients(
    params: dict,
    ids_BS: np.ndarray,
    step: int,
    rows,
    recipe: Recipe,
    dtype: torch.dtype,
    device="cpu",
) -> tuple[float, dict]:
    """Return (loss, float64 gradients) of float32 copies of the weights, back through forward() in
    dtype.
    """
    leaves = {
        name: torch.tensor(value, dtype=torch.float32, device=device, requires_grad=True)
        for name, value in params.items()
    }
    model, ids_BL = recipe.model, ids_BS[:, 1:]
    if model.causal:
        inputs_BL, weight_BL = np.maximum(ids_BS[:, :-1], 0), np.full(ids_BL.shape, 1 / ids_BL.size)
    else:
        times_B = masking.times(recipe.seed, step, rows, recipe.diffusion.epsilon)
        mask_BL = masking.mask(recipe.seed, step, rows, model.length, masking.thresholds(times_B))
        inputs_BL = masking.corrupt(ids_BL, mask_BL, model.vocab)
        weight_BL = (
            mask_BL * masking.weights(times_B, recipe.diffusion.max_weight)[:, None] / ids_BL.size
        )
    logits_BLV = forward(leaves, torch.from_numpy(inputs_BL).to(device), model, dtype)
    target_BL1 = torch.from_numpy(ids_BL).to(device)[..., None]
    nats_BL = logits_BLV.exp().sum(-1).log() - logits_BLV.gather(-1, target_BL1)[..., 0]
    loss = (nats_BL * torch.from_numpy(weight_BL).to(device).float()).flip(0).sum()
    grads = torch.autograd.grad(loss, list(leaves.values()), materialize_grads=True)
    return loss.item(), {
        name: grad.double().cpu().numpy() for name, grad in zip(leaves, grads, strict=True)
    }


def newton_schulz(
    matrix: torch.Tensor, steps: int, coefficients: tuple[float, float, float], eps: float
) -> torch.Tensor:
    """Return the same iteration with its products associated the other way: b A X + c A (A X)."""
    a, b, c = coefficients
    x = matrix.mT if matrix.shape[-2] > matrix.shape[-1] else matrix
    x = x / (x.float().square().sum().sqrt() + eps).to(x.dtype)
    for _ in range(steps):
        once = x @ x.mT @ x
        x = a * x + (b * once + c * (x @ x.mT @ once))
    return x.mT if matrix.shape[-2] > matrix.shape[-1] else x


def muon_step(
    weight,
    grad,
    buffer,
    lr: float,
    momentum: float,
    optimizer: Optimizer,
    dtype: torch.dtype,
    device="cpu",
):
    """Return (weight, buffer) after one step whose iteration runs in dtype; the rest runs in the
    dtype of the arrays.
    """
    buffer = momentum * buffer + grad
    nesterov = torch.from_numpy(grad + momentum * buffer).to(device, dtype)
    update = (
        newton_schulz(
            nesterov, optimizer.muon_steps, optimizer.muon_coefficients, optimizer.muon_eps
        )
        .double()
        .cpu()
        .numpy()
    )
    rows, columns = weight.shape
    return weight - (lr * np.sqrt(max(1.0, rows / columns)) * update).astype(weight.dtype), buffer


def step(
    state,
    grads: dict,
    multiplier: float,
    momentum: float,
    averaging: bool,
    recipe: Recipe,
    dtype: torch.dtype,
    device="cpu",
):
    """Return the reference state after an update by these gradients in float32, the iteration of
    Muon in dtype.
    """
    optimizer = recipe.optimizer
    state = state._replace(
        **{
            group: single(getattr(state, group))
            for group in ("params", "buffers", "first", "second", "shadow")
        }
    )
    grads, _ = adam.clip(single(grads), optimizer.clip)
    groups = {group: {} for group in ("params", "buffers", "first", "second", "shadow")}
    for name, weight in state.params.items():
        if name in state.buffers:
            groups["params"][name], groups["buffers"][name] = muon_step(
                weight,
                grads[name],
                state.buffers[name],
                multiplier * optimizer.muon_lr,
                momentum,
                optimizer,
                dtype,
                device,
            )
        else:
            lr = multiplier * (
                optimizer.embedding_lr if name == "embedding" else optimizer.vector_lr
            )
            groups["params"][name], groups["first"][name], groups["second"][name] = adam.adam_step(
                weight,
                grads[name],
                state.first[name],
                state.second[name],
                state.step + 1,
                lr,
                optimizer,
            )
        groups["shadow"][name] = ema.ema_update(
            state.shadow[name], groups["params"][name], recipe.ema.decay if averaging else 0.0
        )
    return state._replace(**groups, step=state.step + 1)


def single(values: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Return float32 copies."""
    return {name: value.astype(np.float32) for name, value in values.items()}
