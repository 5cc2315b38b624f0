"""The training step as public scripts of this kind do it, as a baseline of `bench step` only.

A module compiled whole with its loss, logits at every position, gradients in .grad, one compiled
orthogonalisation per matrix, torch's own clip and Adam. It computes the recipe's step; only the way
there is that of openai/parameter-golf's train_gpt.py (2026) and modded-nanogpt's. Adam is fused, as
in that script.

B rows, L positions, S = L + 1, d width, H query heads, G key/value heads, h head width,
V vocabulary.
"""

from collections.abc import Callable
from functools import partial

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from fast import masking, schedule, train, transformer
from harness.bench.measure import compiler
from harness.parity import plain
from reference.recipe import Model, Optimizer, Recipe


class Block(nn.Module):
    """One block: mix with the embedding, attention, MLP. Weights are cast to the dtype of the
    activations where they are used.
    """

    def __init__(self, model: Model, weights: dict[str, torch.Tensor]):
        """Keep the weights of one block, by kind."""
        super().__init__()
        self.model = model
        for kind, weight in weights.items():
            self.register_parameter(kind, nn.Parameter(weight))

    def norm(self, x: torch.Tensor) -> torch.Tensor:
        """Return x over its root mean square along the last axis."""
        return F.rms_norm(x, x.shape[-1:], eps=self.model.norm_eps)

    def heads(self, x_BLd: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        """Return a projection as (B, heads, L, h)."""
        B, L, d = x_BLd.shape
        return (
            F.linear(x_BLd, weight.to(x_BLd.dtype))
            .view(B, L, -1, d // self.model.heads)
            .transpose(1, 2)
        )

    def attention(
        self, x_BLd: torch.Tensor, cos_Lh: torch.Tensor, sin_Lh: torch.Tensor
    ) -> torch.Tensor:
        """Return the attention output (B, L, d); the tables hold h / 2 columns."""
        q_BHLh, k_BGLh, v_BGLh = (self.heads(x_BLd, weight) for weight in (self.q, self.k, self.v))
        q_BHLh = (
            rotated(self.norm(q_BHLh), cos_Lh, sin_Lh)
            * self.query_gain.to(x_BLd.dtype)[:, None, None]
        )
        k_BGLh = rotated(self.norm(k_BGLh), cos_Lh, sin_Lh)
        y_BHLh = F.scaled_dot_product_attention(q_BHLh, k_BGLh, v_BGLh, enable_gqa=True)
        return F.linear(y_BHLh.transpose(1, 2).reshape(x_BLd.shape), self.o.to(x_BLd.dtype))

    def forward(
        self, x_BLd: torch.Tensor, x0_BLd: torch.Tensor, cos_Lh: torch.Tensor, sin_Lh: torch.Tensor
    ) -> torch.Tensor:
        """Return x after the block; x0 is the normed embedding."""
        dtype = x_BLd.dtype
        mix = self.mix.to(dtype)
        x_BLd = mix[0] * x_BLd + mix[1] * x0_BLd
        x_BLd = x_BLd + self.attn_scale.to(dtype) * self.attention(self.norm(x_BLd), cos_Lh, sin_Lh)
        wide = F.relu(F.linear(self.norm(x_BLd), self.up.to(dtype))).square()
        return x_BLd + self.mlp_scale.to(dtype) * F.linear(wide, self.down.to(dtype))


class Network(nn.Module):
    """The masked-diffusion transformer with its loss; parameters bear the names of
    fast.transformer.shapes.
    """

    def __init__(self, recipe: Recipe, weights: dict[str, torch.Tensor], dtype: torch.dtype):
        """Keep the weights by name; dtype is that of the activations."""
        super().__init__()
        self.recipe, self.dtype, model = recipe, dtype, recipe.model
        self.embedding, self.skip = (
            nn.Parameter(weights["embedding"]),
            nn.Parameter(weights["skip"]),
        )
        kinds = [
            name.rpartition(".")[2]
            for name in transformer.shapes(model)
            if name.startswith("blocks.0.")
        ]
        self.blocks = nn.ModuleList(
            Block(model, {kind: weights[f"blocks.{i}.{kind}"] for kind in kinds})
            for i in range(model.layers)
        )
        self.accurate = torch.promote_types(dtype, torch.float32)
        width = model.d // model.heads
        frequencies = transformer.inverse_frequencies(
            width, model.rope_base, model.rope_frequencies
        )
        angles = np.outer(np.arange(model.length), frequencies.numpy())
        for name, table in (("cos", np.cos(angles)), ("sin", np.sin(angles))):
            self.register_buffer(
                name, torch.from_numpy(table).to(self.embedding.device, self.accurate)
            )

    def logits(self, ids_BL: torch.Tensor) -> torch.Tensor:
        """Return logits_BLV at every position, float32 or better."""
        model = self.recipe.model
        looked_up = F.embedding(ids_BL, self.embedding)
        x = x0 = F.rms_norm(looked_up, looked_up.shape[-1:], eps=model.norm_eps).to(self.dtype)
        kept, half = [], model.layers // 2
        for i, block in enumerate(self.blocks):
            if i >= half and kept:
                x = x + self.skip[i - half].to(self.dtype) * kept.pop()
            x = block(x, x0, self.cos, self.sin)
            if i < half:
                kept.append(x)
        x = F.rms_norm(x, x.shape[-1:], eps=model.norm_eps)
        logits = F.linear(x, self.embedding[: model.vocab].to(self.dtype)).to(self.accurate)
        return model.softcap * torch.tanh(logits / model.softcap)

    def nats(self, ids_BL: torch.Tensor, mask_BL: torch.Tensor) -> torch.Tensor:
        """Return -log p of every token given those outside the mask, shape (B, L); tokens outside
        it cost 0.
        """
        logits_BLV = self.logits(ids_BL.masked_fill(mask_BL, self.recipe.model.vocab))
        return (
            F.cross_entropy(logits_BLV.flatten(0, 1), ids_BL.flatten(), reduction="none")
            .view(ids_BL.shape)
            .where(mask_BL, 0.0)
        )

    def forward(self, ids_BL, step, rows_B, thresholds_B, weights_B) -> torch.Tensor:
        """Return the loss of windows (B, L) in nats per token; step and rows say which masks are
        drawn.
        """
        mask_BL = masking.mask(self.recipe.seed, step, rows_B, ids_BL.shape[1], thresholds_B)
        nats_BL = self.nats(ids_BL, mask_BL)
        return (nats_BL.mean(dim=1) * weights_B.to(nats_BL.dtype)).mean()


def rotated(x: torch.Tensor, cos_Lh: torch.Tensor, sin_Lh: torch.Tensor) -> torch.Tensor:
    """Return x (..., L, h) with its halves rotated by their position's angle; the tables hold h / 2
    columns.
    """
    left, right = x.to(cos_Lh.dtype).chunk(2, dim=-1)
    return torch.cat((left * cos_Lh + right * sin_Lh, right * cos_Lh - left * sin_Lh), dim=-1).to(
        x.dtype
    )


def torch_adam(
    params: dict[str, nn.Parameter], first: dict, second: dict, count: int, optimizer: Optimizer
) -> torch.optim.Adam:
    """Return torch's Adam for the parameters that have moments, after so many steps; each group
    holds its rate as base_lr.
    """
    vectors = [params[name] for name in first if name != "embedding"]
    groups = [
        {"params": [params["embedding"]], "base_lr": optimizer.embedding_lr},
        {"params": vectors, "base_lr": optimizer.vector_lr},
    ]
    betas = (optimizer.adam_beta1, optimizer.adam_beta2)
    adam = torch.optim.Adam(groups, lr=0.0, betas=betas, eps=optimizer.adam_eps, fused=True)
    for name, moment in first.items():
        adam.state[params[name]] = {
            "step": torch.tensor(float(count), device=moment.device),
            "exp_avg": moment,
            "exp_avg_sq": second[name],
        }
    return adam


class PublicStep:
    """The step of fast.train.Stepper on its own copy of a state, as a public script takes it."""

    def __init__(
        self,
        recipe: Recipe,
        state: train.State,
        device: str = "cpu",
        compiled: bool = True,
        dtype: torch.dtype | None = None,
    ):
        """dtype: of activations, masters and the iteration of Muon, where it is not the recipe's
        own (which compares with float64).
        """
        self.recipe, self.device, self.count = recipe, torch.device(device), state.step
        master, optimizer = dtype or torch.float32, recipe.optimizer
        self.muon_dtype = dtype or getattr(torch, optimizer.muon_dtype)
        copies = plain.copied(state, device, master)
        weights, self.buffers, self.first, self.second, self.shadow = copies.values()
        self.network = Network(
            recipe, weights, dtype or getattr(torch, recipe.training.compute_dtype)
        )
        self.params = dict(self.network.named_parameters())
        compile = compiler(compiled)
        self.loss, self.nats = compile(self.network), torch.no_grad()(compile(self.network.nats))
        self.orthogonalized = compile(partial(plain.newton_schulz, optimizer=optimizer))
        self.adam = torch_adam(self.params, self.first, self.second, self.count, optimizer)

    def gradients(self, batch: Callable, step: int) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        """Return (loss, gradients) of the global batch: the weights' .grad, added up over
        micro-batches.
        """
        self.network.zero_grad(set_to_none=True)
        total, at = torch.zeros((), device=self.device), torch.tensor(step, device=self.device)
        for rows, share in plain.micro_batches(self.recipe):
            ids_BL = torch.as_tensor(batch(step, rows)[0]).to(self.device)
            drawn = masking.noise(self.recipe, step, rows, self.device)
            loss = self.loss(ids_BL, at, torch.from_numpy(rows).to(self.device), *drawn) * share
            loss.backward()
            total = total + loss.detach()
        return total, {name: weight.grad for name, weight in self.params.items()}

    @torch.no_grad()
    def update(self, grads: dict[str, torch.Tensor], multiplier: float, averaging: bool) -> None:
        """Clip, Muon, Adam and the average."""
        optimizer, weights = self.recipe.optimizer, list(self.params.values())
        for name, weight in self.params.items():
            weight.grad = grads[name]
        # What clip_grad_norm_ does, but for the 1e-6 that it adds to the norm: the recipe divides
        # by the norm alone.
        scale = (optimizer.clip / nn.utils.get_total_norm(grads.values())).clamp(max=1.0)
        torch._foreach_mul_(list(grads.values()), scale)
        momentum = schedule.muon_momentum(self.count, optimizer)
        for name, buffer in self.buffers.items():
            weight = self.params[name]
            buffer.mul_(momentum).add_(weight.grad)
            update = self.orthogonalized(
                weight.grad.add(buffer, alpha=momentum).to(self.muon_dtype)
            )
            stretch = max(1.0, weight.shape[0] / weight.shape[1]) ** 0.5
            weight.add_(update.to(weight.dtype), alpha=-multiplier * optimizer.muon_lr * stretch)
        for group in self.adam.param_groups:
            group["lr"] = multiplier * group["base_lr"]
        self.adam.step()
        self.count += 1
        decay = self.recipe.ema.decay if averaging else 0.0
        torch._foreach_lerp_([self.shadow[name] for name in self.params], weights, 1 - decay)

    def __call__(self, batch: Callable, multiplier: float, averaging: bool) -> torch.Tensor:
        """Advance by one step; return the loss."""
        loss, grads = self.gradients(batch, self.count)
        self.update(grads, multiplier, averaging)
        return loss
