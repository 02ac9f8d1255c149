"""How tokens attend: scaled, soft-capped, within a window, with a bias for each key; no more than a model says."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import pad, scaled_dot_product_attention

BLOCK = 256
"""Query rows whose capped scores are computed at once."""
PARTS = 3
"""Numbers of 16 bits that hold one of 24."""


@dataclass(frozen=True)
class AttentionSpec:
    """How one layer attends.

    Attributes:
        scaling: of the products of queries and keys.
        softcap: scores s become softcap tanh(s / softcap); None leaves them.
        sliding_window: a token attends to so many tokens at most, itself the last; None for all before it.
    """

    scaling: float
    softcap: float | None = None
    sliding_window: int | None = None

    def cap(self, scores: Tensor) -> Tensor:
        """Scores after the cap."""
        return scores if self.softcap is None else soft_cap(scores, self.softcap)

    def masked_keys(self, begin: int, end: int, device: torch.device) -> Tensor:
        """Keys 0 to ``end`` - 1 of a sequence that its queries from ``begin`` on do not see, bool [query, key]."""
        ahead = torch.arange(end, device=device)[None] - torch.arange(begin, end, device=device)[:, None]
        return ahead > 0 if self.sliding_window is None else (ahead > 0) | (ahead <= -self.sliding_window)

    def restrict(self, mask: Tensor | None, query: Tensor, key: Tensor) -> Tensor | None:
        """``mask`` with the window in it; the last query is the last key's.

        Args:
            mask: bool (True: may attend) or added to scores; None for causal.
            query: [batch, head, time, width].
            key: [batch, head, time, width].
        """
        n = key.shape[2]
        if self.sliding_window is None or n <= self.sliding_window:
            return mask
        visible = ~self.masked_keys(n - query.shape[2], n, key.device)
        if mask is None:
            return visible
        return mask & visible if mask.dtype == torch.bool else mask.masked_fill(~visible, torch.finfo(mask.dtype).min)


def soft_cap(values: Tensor, cap: float) -> Tensor:
    """``cap`` tanh(x / ``cap``)."""
    return (values / cap).tanh() * cap


def attention(query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, attention_spec: AttentionSpec) -> Tensor:
    """Softmax attention, [batch, head, time, width]; the window is in the mask, and None means causal."""
    causal = mask is None and query.shape[2] > 1
    if attention_spec.softcap is not None:
        return _capped_attention(query, key, value, mask, causal, attention_spec)
    return scaled_dot_product_attention(
        query, key, value, attn_mask=mask, is_causal=causal, scale=attention_spec.scaling
    )


def _capped_attention(
    query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, causal: bool, attention_spec: AttentionSpec
) -> Tensor:
    """The same with capped scores, which the library's kernel does not have; in blocks of queries."""
    wide = torch.promote_types(query.dtype, torch.float32)
    outputs = []
    for begin in range(0, query.shape[2], BLOCK):
        end = min(begin + BLOCK, query.shape[2])
        keys = end if causal else key.shape[2]
        products = query[:, :, begin:end] @ key[:, :, :keys].transpose(2, 3)
        scores = attention_spec.cap(products.to(wide) * attention_spec.scaling)
        if causal:
            future = torch.arange(keys, device=query.device) > torch.arange(begin, end, device=query.device)[:, None]
            scores = scores.masked_fill(future, torch.finfo(wide).min)
        elif mask is not None:
            part = mask[..., begin:end, :]
            scores = scores.masked_fill(~part, torch.finfo(wide).min) if part.dtype == torch.bool else scores + part
        outputs.append(scores.softmax(dim=-1).to(value.dtype) @ value[:, :, :keys])
    return torch.cat(outputs, dim=2)


def with_key_bias(
    query: Tensor, key: Tensor, value: Tensor, bias: Tensor, scaling: float
) -> tuple[Tensor, Tensor, Tensor]:
    """q, k and v, a little wider, whose scaled products have the keys' ``bias`` [batch, head, time] in them.

    The bias is one more number of each key, which every query multiplies by 1. So ALiBi needs no mask of n x n per
    head, and whatever is computed from q and k has it. In 16 bits it takes three numbers to be as exact as in 32. Zeros
    fill up to a multiple of 8, which kernels want; v gets as wide, because the fast ones want that.
    """
    rest = bias.to(torch.promote_types(query.dtype, torch.float32)) / scaling
    parts = []
    for _ in range(PARTS if query.element_size() == 2 else 1):
        parts.append(rest.to(query.dtype))
        rest = rest - parts[-1].to(rest.dtype)
    extra = torch.stack(parts, dim=-1)
    padding = -(query.shape[-1] + len(parts)) % 8
    ones = extra.new_ones(*query.shape[:-1], len(parts))
    return (
        pad(torch.cat([query, ones], dim=-1), (0, padding)),
        pad(torch.cat([key, extra.expand(*key.shape[:-1], -1)], dim=-1), (0, padding)),
        pad(value, (0, len(parts) + padding)),
    )
