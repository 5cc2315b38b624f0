"""Which attention operator CUDA would choose. A trace on the CPU would otherwise meet the CPU's."""

from collections.abc import Callable

import torch
import torch.nn.functional as F

HALF = (torch.bfloat16, torch.float16)
CHOICES = ("cudnn", "flash")


def operator(kernel: str) -> Callable:
    """Return what F.scaled_dot_product_attention is on CUDA, `kernel` being one of CHOICES.

    Both take half-precision inputs alone, and flash takes no mask: what they do not take goes to
    the memory-efficient kernel, and heads too narrow for that one to the plain formula.
    """

    def attend(
        q, k, v, attn_mask=None, dropout_p=0.0, is_causal=False, scale=None, enable_gqa=False
    ):
        aten, half = torch.ops.aten, q.dtype in HALF
        trained = torch.is_grad_enabled() and any(x.requires_grad for x in (q, k, v))
        if half and q.shape[-1] % 8 == 0 and kernel == "flash" and attn_mask is None:
            flash = aten._scaled_dot_product_flash_attention
            return flash(q, k, v, dropout_p, is_causal, scale=scale)[0]
        if half and q.shape[-1] % 8 == 0 and kernel == "cudnn":
            bias, cudnn = _additive(attn_mask, q, k), aten._scaled_dot_product_cudnn_attention
            return cudnn(q, k, v, bias, trained, dropout_p, is_causal, scale=scale)[0]
        if q.shape[-1] * q.element_size() % 16 == 0:
            if enable_gqa:  # the one kernel here that does not share heads
                k, v = (x.repeat_interleave(q.shape[1] // x.shape[1], dim=1) for x in (k, v))
            bias, efficient = (
                _additive(attn_mask, q, k),
                aten._scaled_dot_product_efficient_attention,
            )
            return efficient(q, k, v, bias, trained, dropout_p, is_causal, scale=scale)[0]
        return _plain(q, k, v, attn_mask, is_causal, scale, enable_gqa)

    return attend


def _additive(mask, q, k):
    """Return a mask as a bias of the scores, of the shape that the kernels read."""
    if mask is None:
        return None
    shape = (*q.shape[:2], q.shape[2], k.shape[2])
    if mask.dtype != torch.bool:
        return mask.expand(shape)
    return torch.zeros_like(mask, dtype=q.dtype).masked_fill(~mask, -torch.inf).expand(shape)


def _plain(q, k, v, mask, is_causal, scale, enable_gqa):
    if enable_gqa:
        k, v = (x.repeat_interleave(q.shape[1] // x.shape[1], dim=1) for x in (k, v))
    scores = q @ k.mT * (q.shape[-1] ** -0.5 if scale is None else scale)
    if is_causal:
        mask = torch.ones(scores.shape[-2:], dtype=torch.bool, device=q.device).tril()
    if mask is not None:
        scores = scores + _additive(mask, q, k)
    return F.softmax(scores, dim=-1) @ v
