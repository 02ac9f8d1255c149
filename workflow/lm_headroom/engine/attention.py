"""Softmax attention with the options that models use: scaling, a soft cap, a sliding window, sinks, a bias per key."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import pad, scaled_dot_product_attention

BLOCK = 256
"""Query positions whose capped scores are computed at once."""
BIAS_TERMS = 3
"""16-bit numbers whose sum holds a bias as exactly as float32 does."""


@dataclass(frozen=True)
class AttentionSpec:
    """How one layer attends.

    Attributes:
        scaling: factor of the products of queries and keys.
        softcap: scores s become softcap tanh(s / softcap); None leaves them.
        sliding_window: number of tokens that a token attends to at most, including itself; None for no limit.
        sinks: a score of each head, [head], that takes part in the softmax and gives nothing; None for none.
    """

    scaling: float
    softcap: float | None = None
    sliding_window: int | None = None
    sinks: Tensor | None = None

    def normalisers(self, scores: Tensor) -> Tensor:
        """Logarithm of what the softmax divides by, [..., head, query], of scores, [..., head, query, key]."""
        own = scores.logsumexp(dim=-1)
        return own if self.sinks is None else torch.logaddexp(own, self.sinks.to(own)[:, None])

    def cap(self, scores: Tensor) -> Tensor:
        """Apply the soft cap to scores."""
        return scores if self.softcap is None else soft_cap(scores, self.softcap)

    def masked_keys(self, begin: int, end: int, device: torch.device) -> Tensor:
        """Mark the keys, of 0 to ``end`` - 1, that queries from ``begin`` on must not attend to, bool [query, key]."""
        ahead = torch.arange(end, device=device)[None] - torch.arange(begin, end, device=device)[:, None]
        return ahead > 0 if self.sliding_window is None else (ahead > 0) | (ahead <= -self.sliding_window)

    def restrict(self, mask: Tensor | None, query: Tensor, key: Tensor) -> Tensor | None:
        """Add the sliding window to a mask; the last query is at the position of the last key.

        Args:
            mask: bool (True: may attend) or added to scores; None for causal.
            query: [batch, head, pos, d_head].
            key: [batch, head, pos, d_head].
        """
        n = key.shape[2]
        if self.sliding_window is None or n <= self.sliding_window:
            return mask
        visible = ~self.masked_keys(n - query.shape[2], n, key.device)
        if mask is None:
            return visible
        return mask & visible if mask.dtype == torch.bool else mask.masked_fill(~visible, torch.finfo(mask.dtype).min)


def soft_cap(values: Tensor, cap: float) -> Tensor:
    """Compute ``cap`` tanh(x / ``cap``)."""
    return (values / cap).tanh() * cap


def attention(query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, attention_spec: AttentionSpec) -> Tensor:
    """Compute softmax attention, [batch, head, pos, d_head]; ``mask`` includes the window, and None means causal."""
    causal = mask is None and query.shape[2] > 1
    if attention_spec.softcap is not None or attention_spec.sinks is not None:
        return _written_out_attention(query, key, value, mask, causal, attention_spec)
    return scaled_dot_product_attention(
        query, key, value, attn_mask=mask, is_causal=causal, scale=attention_spec.scaling
    )


def _written_out_attention(
    query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, causal: bool, attention_spec: AttentionSpec
) -> Tensor:
    """Compute attention with capped scores, or with sinks, in blocks of queries; torch's kernel has neither."""
    wide, has_sinks = torch.promote_types(query.dtype, torch.float32), attention_spec.sinks is not None
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
        shares = (scores - attention_spec.normalisers(scores)[..., None]).exp() if has_sinks else scores.softmax(dim=-1)
        outputs.append(shares.to(value.dtype) @ value[:, :, :keys])
    return torch.cat(outputs, dim=2)


def with_key_bias(
    query: Tensor, key: Tensor, value: Tensor, bias: Tensor, scaling: float
) -> tuple[Tensor, Tensor, Tensor]:
    """Widen q, k and v so that their scaled products include the keys' ``bias``, [batch, head, pos].

    The bias becomes one more channel of each key, which every query multiplies by 1. ALiBi then needs no n x n mask per
    head, and everything computed from q and k includes it. In 16 bits, three channels hold the bias as exactly as
    float32. Zeros pad the channels to a multiple of 8, as kernels require; v is padded too, for the fast kernels.
    """
    rest = bias.to(torch.promote_types(query.dtype, torch.float32)) / scaling
    parts = []
    for _ in range(BIAS_TERMS if query.element_size() == 2 else 1):
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
