"""Parity: algebra + rounding, as transformer. Log-probabilities at a few rows of a window: what
those rows do not read is not computed.

Exactly true of the network: what the first block projects is a function of the token alone (a table
of V + 1 rows, less the rotation by position) unless neighbours are mixed, and the last block's
queries, MLP and head serve only the rows that are asked for. What lies behind `visible` is hidden
from all.

B rows, L positions, R queried positions, d width, H query heads, G key/value heads, h head width, V
vocabulary.
"""

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import torch
import torch.nn.functional as F

from fast import masking, transformer
from fast.objective import objective_of
from reference.recipe import Model

CACHED_TOKENS = (
    1024  # times a few hundred channels of float32: about a megabyte, what one core keeps at hand
)


class Tables(NamedTuple):
    """What each of the V + 1 ids (rows) enters the first block with."""

    embedded: torch.Tensor  # (V + 1, d): rmsnorm of the embedding
    mixed: torch.Tensor  # (V + 1, d): the first block's residual stream
    q: torch.Tensor  # (V + 1, H, h): normed, before rotation and gain
    k: torch.Tensor  # (V + 1, G, h): normed, before rotation
    v: torch.Tensor  # (V + 1, G, h)


def tables(params: dict[str, torch.Tensor], model: Model, dtype: torch.dtype) -> Tables:
    """Return the first block's Tables, computed once per model."""
    eps, width = model.norm_eps, model.d // model.heads
    embedded = transformer.rmsnorm(params["embedding"], eps).to(dtype)
    mix = params["blocks.0.mix"].to(dtype)
    mixed = mix[0] * embedded + mix[1] * embedded
    normed = transformer.rmsnorm(mixed, eps)
    q, k, v = (
        F.linear(normed, params[f"blocks.0.{kind}"].to(dtype)).unflatten(-1, (-1, width))
        for kind in "qkv"
    )
    return Tables(embedded, mixed, transformer.rmsnorm(q, eps), transformer.rmsnorm(k, eps), v)


class RowPredictor:
    """A bidirectional network that answers for a few rows; __call__ is the plain forward pass of
    every row, the oracle.
    """

    def __init__(
        self,
        params: dict[str, torch.Tensor],
        model: Model,
        dtype: torch.dtype,
        device="cpu",
        compiled: bool = False,
    ):
        """Move the weights to the device and build the tables."""
        self.compiled, self.device, self._graphs = compiled, torch.device(device), {}
        named = transformer.unstack(params)
        params = {name: value.detach().to(device) for name, value in named.items()}
        self.model, self.dtype = model, dtype
        with torch.no_grad():
            self.weights = {name: value.to(dtype) for name, value in params.items()}
            self.prepared = transformer.prepare(params, model, dtype)
            self.tables = tables(params, model, dtype)
            self.rotation = transformer.table_for(model, model.length, dtype, device)

    @torch.no_grad()
    def __call__(self, ids_BL: torch.Tensor) -> torch.Tensor:
        """Return log_probs_BLV of every row by the whole forward pass."""
        return self.run(_whole, ids_BL.shape[1])(ids_BL)

    def most_rows(self, length: int) -> int:
        """Return how many windows of a length go through one pass of a chain at best: on a CPU,
        what its cache holds.
        """
        return max(CACHED_TOKENS // length, 1) if self.device.type == "cpu" else 2**31

    def rows(
        self, ids_BL: torch.Tensor, rows_BR: torch.Tensor, visible: torch.Tensor | None = None
    ) -> torch.Tensor:
        """Return log_probs_BRV at positions rows_BR of windows no longer than the model's; only the
        first `visible` positions exist.
        """
        weights, model, half = self.weights, self.model, self.model.layers // 2
        length = ids_BL.shape[1]
        mask_L = (
            None
            if visible is None
            else (torch.arange(length, device=ids_BL.device) < visible)[None, None, None]
        )
        ids_BL = objective_of(model).shown(ids_BL, model)
        x0, pushed = self.tables.embedded[ids_BL], []
        if model.mixing:
            if mask_L is not None:
                x0 = x0 * mask_L[0, 0, 0, :, None]
            x0 = transformer.mix_neighbours(x0, weights["neighbours"], transformer.offsets(model))
        x = x0
        for i in range(model.layers):
            prefix = f"blocks.{i}."
            asked = rows_BR if i == model.layers - 1 else None
            if i == 0 and not model.mixing:
                x = self.tables.mixed[ids_BL]
                own = ids_BL if asked is None else ids_BL.gather(1, asked)
                q, k, v = self.tables.q[own], self.tables.k[ids_BL], self.tables.v[ids_BL]
            else:
                if pushed and i >= half:
                    x = x + weights["skip"][i - half] * pushed.pop()
                mix = weights[prefix + "mix"]
                x = mix[0] * x + mix[1] * x0
                q, k, v = self._project(x, prefix, asked)
            x = take_rows(x, asked)
            x = x + weights[prefix + "attn_scale"] * self._attend(q, k, v, prefix, asked, mask_L)
            expanded = transformer.mlp(
                transformer.rmsnorm(x, model.norm_eps),
                weights[prefix + "up"],
                weights[prefix + "down"],
            )
            x = x + weights[prefix + "mlp_scale"] * expanded
            if i < half:
                pushed.append(x)
        logits = F.linear(
            transformer.rmsnorm(x, model.norm_eps),
            weights["embedding"][: model.vocab],
        )
        accurate = logits.to(torch.promote_types(self.dtype, torch.float32))
        return masking.log_softmax(model.softcap * torch.tanh(accurate / model.softcap))

    def run(self, function: Callable, length: int, *settings) -> Callable:
        """Return function(self, *settings, tensors...), compiled where the model is: one graph per
        setting and shape, kept with the model.

        The last window of a stream is shorter than the others, and short enough to run as it is.
        """
        if not self.compiled or length != self.model.length:
            return partial(function, self, *settings)
        key = (function, *settings)
        if key not in self._graphs:
            # Every model, setting and shape is one more entry in the same function's cache.
            torch._dynamo.config.recompile_limit = max(torch._dynamo.config.recompile_limit, 64)
            self._graphs[key] = torch.compile(
                partial(function, self, *settings), dynamic=False, fullgraph=True
            )
        return self._graphs[key]

    def _project(self, x_BLd, prefix, asked):
        """Return normed q (B, R, H, h), normed k and v (B, L, G, h)."""
        eps, width = self.model.norm_eps, self.model.d // self.model.heads
        normed = transformer.rmsnorm(x_BLd, eps)
        inputs = {"q": take_rows(normed, asked), "k": normed, "v": normed}
        q, k, v = (
            F.linear(inputs[kind], self.weights[prefix + kind]).unflatten(-1, (-1, width))
            for kind in "qkv"
        )
        return transformer.rmsnorm(q, eps), transformer.rmsnorm(k, eps), v

    def _attend(self, q_BRHh, k_BLGh, v_BLGh, prefix, asked, mask_L):
        """Return the attention output (B, R, d). The heads of a group stand behind one another, so
        that no key is copied.
        """
        B, R, H, width = q_BRHh.shape
        groups, table = self.model.kv_heads, self.rotation[:, : k_BLGh.shape[1]]
        asked_table = table if asked is None else table[:, asked][:, :, None]
        q = transformer.rope(q_BRHh.transpose(1, 2), self.model.rope_base, asked_table)
        q = q * self.weights[prefix + "query_gain"][:, None, None]
        k = transformer.rope(k_BLGh.transpose(1, 2), self.model.rope_base, table)
        y = F.scaled_dot_product_attention(
            q.reshape(B, groups, -1, width), k, v_BLGh.transpose(1, 2), attn_mask=mask_L
        )
        y = y.reshape(B, H, R, width).transpose(1, 2).reshape(B, R, -1)
        return F.linear(y, self.weights[prefix + "o"])


def _whole(query: RowPredictor, ids_BL: torch.Tensor) -> torch.Tensor:
    shown_BL = objective_of(query.model).shown(ids_BL, query.model)
    return masking.log_softmax(
        transformer.forward(query.prepared, shown_BL, query.model, query.dtype, query.rotation)
    )


def take_rows(x_BLd: torch.Tensor, rows_BR: torch.Tensor | None) -> torch.Tensor:
    """Return x_BRd of some rows of each window; None means all."""
    if rows_BR is None:
        return x_BLd
    return x_BLd.gather(1, rows_BR[..., None].expand(-1, -1, x_BLd.shape[-1]))
