"""The challenge's network written from its description alone, with its tensor names; and its
scripts' quantised layouts, for the tests.
"""

import io
import json
import lzma
import zlib

import torch
from torch import nn


def unit(x: torch.Tensor) -> torch.Tensor:
    """Divide by the root mean square of the last axis."""
    return x / (x.square().mean(-1, keepdim=True) + 2.0**-23).sqrt()


class Attention(nn.Module):
    """Attention head by head; rotations as products of complex numbers."""

    def __init__(self, width: int, heads: int, shared: int):
        super().__init__()
        size = width // heads
        self.heads, self.shared = heads, shared
        self.c_q, self.proj = (
            nn.Linear(width, width, bias=False),
            nn.Linear(width, width, bias=False),
        )
        self.c_k, self.c_v = (
            nn.Linear(width, shared * size, bias=False),
            nn.Linear(width, shared * size, bias=False),
        )
        self.q_gain = nn.Parameter(torch.empty(heads))
        self.rounded = False  # the frequencies, to bfloat16

    def turned(self, x: torch.Tensor) -> torch.Tensor:
        """Turn the pair (j, j + half) at each position back by position / 10000^(j / half)."""
        half, x = x.shape[-1] // 2, unit(x)
        frequency = 10000.0 ** (-torch.arange(half, dtype=x.dtype) / half)
        if self.rounded:
            frequency = frequency.bfloat16().to(x.dtype)
        angle = torch.arange(x.shape[-2], dtype=x.dtype)[:, None] * frequency
        pairs = torch.complex(x[..., :half], x[..., half:]) * torch.polar(
            torch.ones_like(angle), -angle
        )
        return torch.cat([pairs.real, pairs.imag], dim=-1)

    def forward(self, x: torch.Tensor, causal: bool) -> torch.Tensor:
        size, outputs = x.shape[-1] // self.heads, []
        for head in range(self.heads):
            own = slice(head * size, (head + 1) * size)
            pair = head * self.shared // self.heads
            other = slice(pair * size, (pair + 1) * size)
            query = self.turned(self.c_q(x)[..., own]) * self.q_gain[head]
            agreement = query @ self.turned(self.c_k(x)[..., other]).mT / size**0.5
            if causal:
                agreement = agreement + torch.full(agreement.shape[-2:], -torch.inf).triu(1).to(
                    x.dtype
                )
            outputs.append(agreement.softmax(-1) @ self.c_v(x)[..., other])
        return self.proj(torch.cat(outputs, dim=-1))


class MLP(nn.Module):
    """Square of the positive part between two matrices."""

    def __init__(self, width: int, multiple: int):
        super().__init__()
        self.fc, self.proj = (
            nn.Linear(width, multiple * width, bias=False),
            nn.Linear(multiple * width, width, bias=False),
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.proj(self.fc(x).clamp(min=0) ** 2)


class Block(nn.Module):
    """One layer with its scales and its mixture with the embedding."""

    def __init__(self, width: int, heads: int, shared: int, multiple: int):
        super().__init__()
        self.attn, self.mlp = Attention(width, heads, shared), MLP(width, multiple)
        self.attn_scale, self.mlp_scale = (
            nn.Parameter(torch.empty(width)),
            nn.Parameter(torch.empty(width)),
        )
        self.resid_mix = nn.Parameter(torch.empty(2, width))

    def forward(self, x: torch.Tensor, first: torch.Tensor, causal: bool) -> torch.Tensor:
        x = torch.einsum("kd,kbld->bld", self.resid_mix, torch.stack([x, first]))
        x = x + self.attn_scale * self.attn(unit(x), causal)
        return x + self.mlp_scale * self.mlp(unit(x))


class Published(nn.Module):
    """The network: ids (B, L) to logits (B, L, V). A masked-diffusion one has one more row in its
    embedding than it predicts.
    """

    def __init__(
        self,
        vocab: int,
        layers: int,
        width: int,
        heads: int,
        shared: int,
        multiple: int,
        causal: bool,
        seed: int = 0,
    ):
        super().__init__()
        self.vocab, self.causal = vocab, causal
        self.tok_emb = nn.Embedding(vocab + (not causal), width)
        self.skip_weights = nn.Parameter(torch.empty(layers // 2, width))
        self.blocks = nn.ModuleList(Block(width, heads, shared, multiple) for _ in range(layers))
        draw = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            for name, values in self.named_parameters():
                spread = torch.randn(values.shape, generator=draw)
                values.copy_(
                    spread / values.shape[-1] ** 0.5
                    if name.endswith("weight")
                    else 1 + 0.3 * spread
                )

    def round_frequencies(self, rounded: bool) -> None:
        """Take frequencies in bfloat16, or exact ones."""
        for block in self.blocks:
            block.attn.rounded = rounded

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        first = x = unit(self.tok_emb(ids))
        kept = []
        for number, block in enumerate(self.blocks):
            decoder = number - len(self.blocks) // 2
            if 0 <= decoder < len(kept):
                x = x + self.skip_weights[decoder] * kept[len(kept) - 1 - decoder]
            x = block(x, first, self.causal)
            if decoder < 0:
                kept.append(x)
        return 30 * torch.tanh(unit(x) @ self.tok_emb.weight[: self.vocab].T / 30)


def saved(value: object, codec: str = "none") -> bytes:
    """Return what torch.save writes, under a codec."""
    memory = io.BytesIO()
    torch.save(value, memory)
    return {"none": bytes, "zlib": lambda data: zlib.compress(data, 9), "lzma": lzma.compress}[
        codec
    ](memory.getvalue())


def safetensors(state: dict[str, torch.Tensor], metadata: dict | None = None) -> bytes:
    """Return a safetensors file."""
    kinds = {
        torch.float32: "F32",
        torch.bfloat16: "BF16",
        torch.float16: "F16",
        torch.float8_e4m3fn: "F8_E4M3",
    }
    table, body = {"__metadata__": metadata} if metadata else {}, b""
    for name, values in state.items():
        raw = values.contiguous().view(-1).view(torch.uint8).numpy().tobytes()
        table[name] = {
            "dtype": kinds[values.dtype],
            "shape": list(values.shape),
            "data_offsets": [len(body), len(body) + len(raw)],
        }
        body += raw
    head = json.dumps(table).encode()
    return len(head).to_bytes(8, "little") + head + body


def parts(state: dict[str, torch.Tensor]) -> tuple[dict, dict]:
    """Return (the matrices, which get quantised, and the rest)."""
    chosen = {name: values for name, values in state.items() if name.endswith("weight")}
    return chosen, {name: values for name, values in state.items() if name not in chosen}


def rows_of_int8(values: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return (codes, float16 scale of each row), no scale under 1/127."""
    scale = (values.abs().amax(dim=1) / 127).clamp(min=1 / 127)
    return (values / scale[:, None]).round().clamp(-127, 127).to(torch.int8), scale.half()


def halves(values: torch.Tensor) -> torch.Tensor:
    """Return four-bit codes (n,) as bytes, the even ones in the low half."""
    codes = values.to(torch.int64) & 15
    return (codes[0::2] | codes[1::2] << 4).to(torch.uint8)


def grouped(values: torch.Tensor, size: int) -> tuple[torch.Tensor, int]:
    """Return the values in groups of `size` along the flattened tensor, and how many zeros that
    took.
    """
    pad = -values.numel() % size
    return torch.cat([values.flatten(), torch.zeros(pad)]).view(-1, size), pad


E2M1 = torch.tensor([0, 0.5, 1, 1.5, 2, 3, 4, 6])


def four_bits(values: torch.Tensor, kind: str, size: int = 32) -> tuple[dict, torch.Tensor]:
    """Return an entry of mode int4 or e2m1, and the numbers that it stands for."""
    groups, pad = grouped(values, size)
    largest = groups.abs().amax(dim=1, keepdim=True).clamp(min=1e-10)
    if kind == "int4":
        scales = largest.bfloat16()
        numbers = (groups / largest * 7).round().clamp(-8, 7)
        codes, meant = numbers, numbers * (scales.float() / 7)
    else:
        scales = (largest / 6).bfloat16()
        places = ((groups / (largest / 6)).abs()[..., None] - E2M1).abs().argmin(-1)
        codes, meant = places + 8 * (groups < 0), E2M1[places] * groups.sign() * scales.float()
    entry = {
        "packed": halves(codes.flatten()),
        "scales": scales.squeeze(1),
        "shape": list(values.shape),
        "pad": pad,
        "group_size": size,
    }
    return entry, meant.flatten()[: values.numel()].view(values.shape)


def mode(
    state: dict[str, torch.Tensor], name: str, scale: str = ""
) -> tuple[dict, dict[str, torch.Tensor]]:
    """Return a file's value of a __quant_mode__ and the numbers it stands for: rounded to bfloat16.
    scale: of fp8, by row or tensor.
    """
    matrices, rest = parts(state)
    entries, meant = {}, {key: values.half().bfloat16().float() for key, values in rest.items()}
    for key, values in matrices.items():
        if name == "int8":
            codes, rows = rows_of_int8(values)
            entries[key], numbers = (
                {"q": codes, "scale": rows, "scheme": "per_row"},
                codes.float() * rows.float()[:, None],
            )
        elif name in ("int4", "e2m1"):
            entries[key], numbers = four_bits(values, name)
        else:
            factor = {
                "": torch.tensor(1.0),
                "row": values.abs().amax(dim=1) / 448,
                "tensor": values.abs().max() / 448,
            }[scale]
            divided = values / (factor[:, None] if scale == "row" else factor)
            codes = divided.to(torch.float8_e4m3fn)
            codes = (
                codes
                if name == "fp8"
                else (codes if name == "fp8_cascade" else divided).to(torch.float8_e5m2)
            )
            word = {"fp8": "e4m3", "fp8_e5m2": "e5m2", "fp8_cascade": "e4m3->e5m2"}[name]
            entries[key] = {"data": codes, "shape": list(values.shape), "fmt": word} | (
                {"scale": factor} if scale else {}
            )
            numbers = codes.float() * (factor[:, None] if scale == "row" else factor)
        meant[key] = numbers.bfloat16().float()
    return {
        "__quant_mode__": name,
        "entries": entries,
        "passthrough": {key: values.half() for key, values in rest.items()},
    }, meant


def official(state: dict[str, torch.Tensor]) -> tuple[dict, dict[str, torch.Tensor]]:
    """Return a file's value of the challenge's int8 layout and the numbers it stands for: the
    embedding bfloat16, matrices float32.
    """
    matrices, rest = parts(state)
    codes = {key: rows_of_int8(values) for key, values in matrices.items()}
    dtypes = {key: "bfloat16" if key == "tok_emb.weight" else "float32" for key in matrices}
    meant = {
        key: (q.float() * scale.float()[:, None]).to(getattr(torch, dtypes[key])).float()
        for key, (q, scale) in codes.items()
    }
    small = {key for key in rest if key.endswith("q_gain")}
    value = {
        "__quant_format__": "int8_clean_per_row_v1",
        "quantized": {key: q for key, (q, _) in codes.items()},
        "scales": {key: scale for key, (_, scale) in codes.items()},
        "dtypes": dtypes,
        "qmeta": {key: {"scheme": "per_row", "axis": 0} for key in codes},
        "passthrough": {
            key: values.half() if key in small else values for key, values in rest.items()
        },
        "passthrough_orig_dtypes": {key: "bfloat16" for key in small},
    }
    return value, meant | {
        key: values.half().bfloat16().float() if key in small else values
        for key, values in rest.items()
    }
