"""Parity: algebra + rounding, as transformer. Log-probabilities of the next token: attention looks
back only, and the keys and values of the positions before are kept.

B rows, L positions, d width, H query heads, G key/value heads, h head width, V vocabulary, M mixed
neighbours.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F

from fast import masking, transformer
from fast.objective import objective_of
from reference.recipe import Model


@dataclass
class Past:
    """What later positions need of those that are done."""

    keys: list[torch.Tensor]  # of each block, (B, G, L, h), rotated
    values: list[torch.Tensor]
    embedded_BMd: torch.Tensor  # of the last M positions, the latest one first
    position: int = 0  # the next one


class NextPredictor:
    """A network whose attention looks back, one position of every row at a time; __call__ is the
    plain forward pass of every row, the oracle.
    """

    def __init__(
        self,
        params: dict[str, torch.Tensor],
        model: Model,
        dtype: torch.dtype,
        device="cpu",
        start: int = 0,
    ):
        """Make the weights ready on the device; start is the id that stands in front of a text,
        unless the model has an id of its own for that.
        """
        self.model, self.dtype, self.device = model, dtype, torch.device(device)
        front_11 = objective_of(model).before(torch.tensor([[start]]), model)
        self.front = int(front_11)
        with torch.no_grad():
            placed = {name: value.detach().to(device) for name, value in params.items()}
            self.weights = transformer.prepare(placed, model, dtype)
            self.rotation = transformer.table_for(model, model.length, dtype, device)

    @torch.no_grad()
    def __call__(self, ids_BL: torch.Tensor) -> torch.Tensor:
        """Return log_probs_BLV: row i predicts token i from those before it, whatever stands at or
        behind it.
        """
        before_BL = torch.cat([torch.full_like(ids_BL[:, :1], self.front), ids_BL[:, :-1]], dim=1)
        # A hidden token, id V, changes no row before it, and a causal model has no such id
        before_BL[:, 1:] = before_BL[:, 1:].masked_fill(before_BL[:, 1:] == self.model.vocab, 0)
        network = transformer.forward(
            self.weights, before_BL, self.model, self.dtype, self.rotation, causal=True
        )
        return masking.log_softmax(network)

    def begin(self, rows: int) -> Past:
        """Return the past of windows of which nothing is known."""
        model = self.model
        shape = rows, model.kv_heads, model.length, model.d // model.heads
        keys, values = (
            [torch.zeros(shape, dtype=self.dtype, device=self.device) for _ in range(model.layers)]
            for _ in range(2)
        )
        shape = rows, model.mixing, model.d
        return Past(keys, values, torch.zeros(shape, dtype=self.dtype, device=self.device))

    @torch.no_grad()
    def next(self, past: Past, token_B: torch.Tensor | None = None) -> torch.Tensor:
        """Return log_probs_BV of the token behind token_B, which is added to the past; None where
        the window begins.
        """
        if token_B is None:
            token_B = torch.full((len(past.embedded_BMd),), self.front, device=self.device)
        model, half, pushed = self.model, self.model.layers // 2, []
        x = self.weights["table"][token_B]
        if model.mixing:
            latest_BMd, weights_Md = past.embedded_BMd, self.weights["neighbours"][: model.mixing]
            past.embedded_BMd = torch.cat([x[:, None], latest_BMd[:, :-1]], dim=1)
            x = x + (weights_Md * latest_BMd).sum(dim=1)
        x0 = x
        for i, weights in enumerate(self.weights["blocks"]):
            if pushed and i >= half:
                x = x + self.weights["skip"][i - half] * pushed.pop()
            x = weights["mix"][0] * x + weights["mix"][1] * x0
            x = x + self._attend(x, weights, past, i)
            x = x + transformer.mlp(x, weights["up"], weights["down"], model.norm_eps)
            if i < half:
                pushed.append(x)
        past.position += 1
        logits = F.linear(transformer.rmsnorm(x, model.norm_eps), self.weights["head"])
        accurate = logits.to(torch.promote_types(self.dtype, torch.float32))
        return masking.log_softmax(model.softcap * torch.tanh(accurate / model.softcap))

    def _attend(self, x_Bd, weights, past: Past, i: int) -> torch.Tensor:
        """Return the attention output (B, d) of block i. The heads of a group stand behind one
        another, so that no key is copied.
        """
        model, at = self.model, past.position
        H, G, table = model.heads, model.kv_heads, self.rotation[:, at : at + 1]
        projected = F.linear(transformer.rmsnorm(x_Bd, model.norm_eps), weights["qkv"])
        q, k, v_BGh = projected.unflatten(-1, (H + 2 * G, -1)).split([H, G, G], dim=1)
        q = transformer.rmsnorm(q, model.norm_eps, weights["query_gain"][:, None])
        k = transformer.rmsnorm(k, model.norm_eps)
        q, k = (transformer.rope(each[:, :, None], model.rope_base, table) for each in (q, k))
        past.keys[i][:, :, at], past.values[i][:, :, at] = k[:, :, 0], v_BGh
        keys, values = past.keys[i][:, :, : at + 1], past.values[i][:, :, : at + 1]
        y = F.scaled_dot_product_attention(q.reshape(len(x_Bd), G, H // G, -1), keys, values)
        return F.linear(y.reshape(len(x_Bd), -1), weights["o"])
