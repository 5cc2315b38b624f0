"""The network and the training step once more, written plainly: what parity measures rounding by,
and a baseline of the benchmarks.

The network is einsums and explicit softmax in one compute dtype, every result rounded, sums in
other orders. Its error is what the compute dtype costs anybody; the fast half may make at most
twice as much. The step goes through one tensor after the other and compiles nothing.
"""

import math
from collections.abc import Callable

import numpy as np
import torch

from fast import schedule, train, transformer
from reference.objective import objective_of
from reference.recipe import Model, Optimizer, Recipe


def accurate(dtype: torch.dtype) -> torch.dtype:
    """Return float32, or the dtype where it is wider."""
    return torch.promote_types(dtype, torch.float32)


def rounded_norm(x: torch.Tensor, eps: float) -> torch.Tensor:
    """Return rmsnorm in float32 or better, rounded to the dtype of x."""
    wide = x.to(accurate(x.dtype))
    return (wide / ((wide * wide).flip(-1).mean(-1, keepdim=True) + eps).sqrt()).to(x.dtype)


def rotated(x_BLHh: torch.Tensor, model: Model) -> torch.Tensor:
    """Return RoPE with angles in float32 or better, pair by pair, rounded to the dtype of x."""
    half, wide = x_BLHh.shape[-1] // 2, x_BLHh.to(accurate(x_BLHh.dtype))
    pairs = []
    position = torch.arange(x_BLHh.shape[1], dtype=wide.dtype, device=x_BLHh.device)[:, None]
    for j in range(half):
        frequency = model.rope_base ** (-j / half)
        if model.rope_frequencies == "bfloat16":
            frequency = torch.tensor(frequency).bfloat16().item()
        angle = position * frequency
        one, two = wide[..., j], wide[..., j + half]
        pairs.append((one * angle.cos() + two * angle.sin(), two * angle.cos() - one * angle.sin()))
    return torch.stack([one for one, _ in pairs] + [two for _, two in pairs], dim=-1).to(
        x_BLHh.dtype
    )


def mixed(x_BLd: torch.Tensor, weights_Od: torch.Tensor, far: int, causal: bool) -> torch.Tensor:
    """Return x with its neighbours added, the farthest first; causal: only those before."""
    length, total = x_BLd.shape[1], torch.zeros_like(x_BLd)
    for offset in range(far, 0, -1):
        if not causal:
            total[:, : length - offset] += weights_Od[far + offset - 1] * x_BLd[:, offset:]
        total[:, offset:] += weights_Od[offset - 1] * x_BLd[:, : length - offset]
    return total + x_BLd


def attention(
    x_BLd: torch.Tensor, p: dict[str, torch.Tensor], model: Model, causal: bool | None = None
) -> torch.Tensor:
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
            rotated(rounded_norm(q, model.norm_eps)[:, :, None], model)[:, :, 0]
            * p["query_gain"][head]
        )
        k = rotated(rounded_norm(k, model.norm_eps)[:, :, None], model)[:, :, 0]
        scores = torch.einsum("bih,bjh->bij", q, k) / width**0.5
        if objective_of(model).is_causal if causal is None else causal:
            scores = scores.masked_fill(
                torch.ones(L, L, dtype=torch.bool, device=x_BLd.device).triu(1), -torch.inf
            )
        heads.append(
            torch.einsum("bij,bjh->bih", scores.exp() / scores.exp().sum(-1, keepdim=True), v)
        )
    return torch.einsum("bld,ed->ble", torch.cat(heads, dim=-1), p["o"])


def block(
    x: torch.Tensor,
    x0: torch.Tensor,
    p: dict[str, torch.Tensor],
    model: Model,
    causal: bool | None = None,
) -> torch.Tensor:
    """Return x after one block, whose own weights p are already in the compute dtype."""
    x = p["mix"][0] * x + p["mix"][1] * x0
    x = x + p["attn_scale"] * attention(rounded_norm(x, model.norm_eps), p, model, causal)
    hidden = torch.einsum("bld,ud->blu", rounded_norm(x, model.norm_eps), p["up"]).clamp(min=0)
    return x + p["mlp_scale"] * torch.einsum("blu,du->bld", hidden * hidden, p["down"])


def block_weights(params: dict, i: int, dtype: torch.dtype) -> dict[str, torch.Tensor]:
    """Return the weights of block i by kind, in dtype."""
    return {
        name.split(".")[2]: value.to(dtype)
        for name, value in params.items()
        if name.startswith(f"blocks.{i}.")
    }


def forward(
    params: dict[str, torch.Tensor],
    ids_BL: torch.Tensor,
    model: Model,
    dtype: torch.dtype,
    causal: bool | None = None,
) -> torch.Tensor:
    """Return logits_BLV in float32 or better, all products in dtype."""
    causal = objective_of(model).is_causal if causal is None else causal
    x = rounded_norm(params["embedding"][ids_BL], model.norm_eps).to(dtype)
    if model.mixing:
        x = mixed(x, params["neighbours"].to(dtype), model.mixing, causal)
    x0 = x
    outputs, half = [], model.layers // 2
    for i in range(model.layers):
        if half <= i < 2 * half:
            x = x + params["skip"][i - half].to(dtype) * outputs[2 * half - 1 - i]
        x = block(x, x0, block_weights(params, i, dtype), model, causal)
        outputs.append(x)
    logits = torch.einsum(
        "bld,vd->blv", rounded_norm(x, model.norm_eps), params["embedding"][: model.vocab].to(dtype)
    ).to(accurate(dtype))
    return model.softcap * torch.tanh(logits / model.softcap)


def batch_loss(
    params: dict[str, torch.Tensor],
    windows: tuple[torch.Tensor, torch.Tensor],
    step: int,
    rows: np.ndarray,
    recipe: Recipe,
    dtype: torch.dtype,
) -> torch.Tensor:
    """Return the loss of windows, by forward(): the twin of fast.train.batch_loss."""
    (ids_BL, _), model, total = windows, recipe.model, 0
    plainly = (part.cpu().numpy() for part in windows)
    for view in objective_of(model).views(*plainly, step, rows, recipe):
        inputs_BL, chosen_B = (
            torch.from_numpy(part).to(ids_BL.device) for part in (view.inputs_BL, view.chosen_B)
        )
        logits_BLV = forward(params, inputs_BL, model, dtype, view.looks_back)
        asked_BL = ids_BL[chosen_B][..., None]
        nats_BL = logits_BLV.exp().sum(-1).log() - logits_BLV.gather(-1, asked_BL)[..., 0]
        weight_BL = view.asked_BL * view.weights_B[:, None] / ids_BL.numel()
        total = total + (nats_BL * torch.from_numpy(weight_BL).to(nats_BL)).flip(0).sum()
    return total


def gradients_of(loss: torch.Tensor, params: dict) -> dict[str, torch.Tensor]:
    """Return the gradients of a loss by name, zeros where a weight is not used."""
    grads = torch.autograd.grad(loss, list(params.values()), materialize_grads=True)
    return dict(zip(params, grads, strict=True))


def newton_schulz(
    matrix: torch.Tensor, optimizer: Optimizer, other_order: bool = False
) -> torch.Tensor:
    """Return one matrix orthogonalised, in its dtype: (b A + c A A) X with A = X X', as public
    scripts have it; other_order: b A X + c A (A X).
    """
    a, b, c = optimizer.muon_coefficients
    x = matrix.mT if matrix.shape[0] > matrix.shape[1] else matrix
    norm = x.to(accurate(x.dtype)).square().sum().sqrt() if other_order else x.norm()
    x = x / (norm + optimizer.muon_eps).to(x.dtype)
    for _ in range(optimizer.muon_steps):
        gram = x @ x.mT
        if other_order:
            once = gram @ x
            x = a * x + (b * once + c * (gram @ once))
        else:
            x = a * x + (b * gram + c * (gram @ gram)) @ x
    return x.mT if matrix.shape[0] > matrix.shape[1] else x


def muon_weight(
    weight: torch.Tensor,
    grad: torch.Tensor,
    buffer: torch.Tensor,
    lr: float,
    momentum: float,
    optimizer: Optimizer,
    dtype: torch.dtype | None = None,
    other_order: bool = False,
) -> torch.Tensor:
    """Return a matrix after one step. buffer is the momentum with this step's gradient; dtype is
    that of the iteration, default the gradient's.
    """
    nesterov = (grad + momentum * buffer).to(dtype or grad.dtype)
    update = newton_schulz(nesterov, optimizer, other_order).to(weight.dtype)
    rows, columns = weight.shape
    return weight - lr * math.sqrt(max(1.0, rows / columns)) * update


class PlainStep:
    """The step of fast.train.Stepper on its own copy of a state: eager, logits at every position,
    one matrix, one tensor, one weight after the other.
    """

    def __init__(
        self,
        recipe: Recipe,
        state,
        device: str = "cpu",
        dtype: torch.dtype | None = None,
        other_order: bool = False,
    ):
        """Begin at a state of either half. dtype: of activations, masters and the iteration of
        Muon, where it is not the recipe's own (which compares with float64). other_order: sums and
        products as forward() and newton_schulz() have them for parity.
        """
        self.recipe, self.device, self.count = recipe, torch.device(device), state.step
        self.other_order = other_order
        self.compute_dtype = dtype or getattr(torch, recipe.training.compute_dtype)
        self.muon_dtype = dtype or getattr(torch, recipe.optimizer.muon_dtype)
        copies = copied(state, device, dtype or torch.float32)
        self.params, self.buffers, self.first, self.second, self.shadow = copies.values()
        for value in self.params.values():
            value.requires_grad_()

    def loss(self, windows: tuple, step: int, rows, drawn=None) -> torch.Tensor:
        """Return the loss of some rows; drawn is noise() of them, where it is known."""
        if self.other_order:
            return batch_loss(self.params, windows, step, rows, self.recipe, self.compute_dtype)
        return train.batch_loss(
            self.params, windows, step, rows, self.recipe, drawn, self.compute_dtype
        )

    def gradients(self, batch: Callable, step: int) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        """Return (loss, gradients) of the global batch."""
        total = 0.0
        for rows, share in micro_batches(self.recipe):
            windows = [torch.as_tensor(part).to(self.device) for part in batch(step, rows)]
            loss = self.loss(windows, step, rows) * share
            loss.backward()
            total = total + loss.detach()
        grads = {}
        for name, value in self.params.items():
            grads[name] = torch.zeros_like(value) if value.grad is None else value.grad
            value.grad = None
        return total, grads

    @torch.no_grad()
    def update(self, grads: dict[str, torch.Tensor], multiplier: float, averaging: bool) -> None:
        """Clip, Muon, Adam and the average, all in place."""
        optimizer = self.recipe.optimizer
        momentum = schedule.muon_momentum(self.count, optimizer)
        self.count += 1
        norm = torch.stack([grad.norm() for grad in grads.values()]).norm()
        scale = (optimizer.clip / norm).clamp(max=1.0)
        beta1, beta2 = optimizer.adam_beta1, optimizer.adam_beta2
        decay = self.recipe.ema.decay if averaging else 0.0
        for name, weight in self.params.items():
            grad = grads[name].mul_(scale)
            if name in self.buffers:
                buffer = self.buffers[name].mul_(momentum).add_(grad)
                moved = muon_weight(
                    weight,
                    grad,
                    buffer,
                    multiplier * optimizer.muon_lr,
                    momentum,
                    optimizer,
                    self.muon_dtype,
                    self.other_order,
                )
                weight.copy_(moved)
            else:
                lr = optimizer.embedding_lr if name == "embedding" else optimizer.vector_lr
                first = self.first[name].mul_(beta1).add_(grad, alpha=1 - beta1)
                second = self.second[name].mul_(beta2).addcmul_(grad, grad, value=1 - beta2)
                root = (second / (1 - beta2**self.count)).sqrt().add_(optimizer.adam_eps)
                weight.sub_(multiplier * lr * (first / (1 - beta1**self.count)) / root)
            self.shadow[name].mul_(decay).add_(weight, alpha=1 - decay)

    def __call__(self, batch: Callable, multiplier: float, averaging: bool) -> torch.Tensor:
        """Advance by one step; return the loss."""
        loss, grads = self.gradients(batch, self.count)
        self.update(grads, multiplier, averaging)
        return loss


def micro_batches(recipe: Recipe) -> list[tuple[np.ndarray, float]]:
    """Return (global rows, their share of the step) of every micro-batch of a step."""
    length, training = recipe.model.length, recipe.training
    whole = training.tokens_per_step // length
    count = min(whole, max(1, training.micro_batch_tokens // length))
    parts = [np.arange(first, min(first + count, whole)) for first in range(0, whole, count)]
    return [(rows, len(rows) / whole) for rows in parts]


def copied(state, device: str, dtype: torch.dtype) -> dict[str, dict[str, torch.Tensor]]:
    """Return copies of every group of a state of either half, by the names of single tensors."""
    return {
        group: {
            name: torch.as_tensor(value).detach().to(device, dtype, copy=True)
            for name, value in transformer.unstack(getattr(state, group)).items()
        }
        for group in train.GROUPS
    }
