"""The training step written plainly, as the baseline of `bench step` only: eager model, logits at
every position, the loss outside any compiled region, one matrix, one tensor, one weight after the
other.
"""

import math
from collections.abc import Callable

import numpy as np
import torch

from fast import schedule, train
from reference.recipe import Optimizer, Recipe


def newton_schulz(matrix: torch.Tensor, optimizer: Optimizer) -> torch.Tensor:
    """Return one matrix orthogonalised, in its dtype."""
    a, b, c = optimizer.muon_coefficients
    x = matrix.T if matrix.shape[0] > matrix.shape[1] else matrix
    x = x / (x.norm() + optimizer.muon_eps)
    for _ in range(optimizer.muon_steps):
        gram = x @ x.T
        x = a * x + (b * gram + c * (gram @ gram)) @ x
    return x.T if matrix.shape[0] > matrix.shape[1] else x


def muon_step(
    weight: torch.Tensor,
    grad: torch.Tensor,
    buffer: torch.Tensor,
    lr: float,
    momentum: float,
    optimizer: Optimizer,
    dtype=None,
):
    """Return the new weight of one matrix and move its buffer in place; dtype is that of the
    iteration, default the gradient's.
    """
    buffer.mul_(momentum).add_(grad)
    update = newton_schulz((grad + momentum * buffer).to(dtype or grad.dtype), optimizer).to(
        weight.dtype
    )
    rows, columns = weight.shape
    return weight - lr * math.sqrt(max(1.0, rows / columns)) * update


class PlainStep:
    """The step of fast.train.Stepper on its own copy of a state, blocks unstacked."""

    def __init__(
        self,
        recipe: Recipe,
        state: train.State,
        device: str = "cpu",
        dtype: torch.dtype | None = None,
    ):
        """dtype: of activations, masters and the iteration of Muon, where it is not the recipe's
        own (which compares with float64).
        """
        self.recipe, self.device, self.count = recipe, torch.device(device), state.step
        master = dtype or torch.float32
        self.compute_dtype = dtype or getattr(torch, recipe.training.compute_dtype)
        self.muon_dtype = dtype or getattr(torch, recipe.optimizer.muon_dtype)
        groups = {group: unstacked(members) for group, members in state.tensors().items()}
        copies = {
            group: {name: value.detach().to(master, copy=True) for name, value in members.items()}
            for group, members in groups.items()
        }
        self.params, self.buffers, self.first, self.second, self.shadow = (
            copies[group] for group in train.GROUPS
        )
        for value in self.params.values():
            value.requires_grad_()

    def gradients(self, batch: Callable, step: int) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        """Return (loss, gradients) of the global batch."""
        model, training = self.recipe.model, self.recipe.training
        whole = training.tokens_per_step // model.length
        count = min(whole, max(1, training.micro_batch_tokens // model.length))
        total = 0.0
        for first in range(0, whole, count):
            rows = np.arange(first, min(first + count, whole))
            ids_BS = torch.as_tensor(batch(step, rows)).to(self.device)
            loss = train.batch_loss(
                self.params, ids_BS, step, rows, self.recipe, dtype=self.compute_dtype
            ) * (len(rows) / whole)
            loss.backward()
            total = total + loss.detach()
        grads = {
            name: torch.zeros_like(value) if value.grad is None else value.grad
            for name, value in self.params.items()
        }
        for value in self.params.values():
            value.grad = None
        return total, grads

    @torch.no_grad()
    def update(self, grads: dict[str, torch.Tensor], multiplier: float, averaging: bool) -> None:
        """Clip, Muon, Adam and the average."""
        optimizer = self.recipe.optimizer
        self.count += 1
        momentum = schedule.muon_momentum(self.count - 1, optimizer)
        self.clip(grads)
        for name, weight in self.params.items():
            grad = grads[name]
            if train.is_matrix(name):
                lr = multiplier * optimizer.muon_lr
                weight.copy_(
                    muon_step(
                        weight, grad, self.buffers[name], lr, momentum, optimizer, self.muon_dtype
                    )
                )
            else:
                lr = multiplier * (
                    optimizer.embedding_lr if name == "embedding" else optimizer.vector_lr
                )
                first = (
                    self.first[name]
                    .mul_(optimizer.adam_beta1)
                    .add_(grad, alpha=1 - optimizer.adam_beta1)
                )
                second = (
                    self.second[name]
                    .mul_(optimizer.adam_beta2)
                    .addcmul_(grad, grad, value=1 - optimizer.adam_beta2)
                )
                denominator = (
                    (second / (1 - optimizer.adam_beta2**self.count))
                    .sqrt()
                    .add_(optimizer.adam_eps)
                )
                weight.sub_(lr * (first / (1 - optimizer.adam_beta1**self.count)) / denominator)
        self.average(self.recipe.ema.decay if averaging else 0.0)

    def clip(self, grads: dict[str, torch.Tensor]) -> None:
        """Scale the gradients in place so that their norm together is at most the limit, which a
        preset always has.
        """
        norm = torch.stack([grad.norm() for grad in grads.values()]).norm()
        scale = (self.recipe.optimizer.clip / norm).clamp(max=1.0)
        for grad in grads.values():
            grad.mul_(scale)

    def average(self, decay: float) -> None:
        """Move the shadow towards the weights."""
        for name, weight in self.params.items():
            self.shadow[name].mul_(decay).add_(weight.detach(), alpha=1 - decay)

    def __call__(self, batch: Callable, multiplier: float, averaging: bool) -> torch.Tensor:
        """Advance by one step; return the loss."""
        loss, grads = self.gradients(batch, self.count)
        self.update(grads, multiplier, averaging)
        return loss


def unstacked(members: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Return a group of a fast state by the names of single tensors: blocks.{i}.{kind}, embedding
    and skip.
    """
    whole = {name: value for name, value in members.items() if name in ("embedding", "skip")}
    blocks = {
        f"blocks.{i}.{kind}": each
        for kind, value in members.items()
        if kind not in whole
        for i, each in enumerate(value.unbind(0))
    }
    return whole | blocks
