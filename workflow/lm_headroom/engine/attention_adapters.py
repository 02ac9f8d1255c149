"""Adapters for architectures whose attention does not call transformers' attention interface.

Each adapter computes q, k and v exactly as the architecture's own code does, with its modules and functions, hands them
to :meth:`Interventions.attend`, and continues with the heads' outputs as that code does.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from torch import Tensor, nn

from lm_headroom.engine.interventions import Interventions


def install(adapter: str, interventions: Interventions, modules: Iterable[Any]) -> None:
    """Install an architecture's adapter in the attention module of each layer."""
    for layer, module in enumerate(modules):
        _ADAPTERS[adapter](interventions, layer, module)


def _replace_forward(module: Any, forward: Callable[..., tuple[Tensor, None]]) -> None:
    """Replace a module's forward method, beneath the hooks that accelerate may have added."""
    if hasattr(module, "_hf_hook"):
        module._old_forward = forward
    else:
        module.forward = forward


def _gpt_neo(interventions: Interventions, layer: int, module: Any) -> None:
    """GPT-Neo: products without scaling; every other layer attends within a sliding window."""
    sliding_window = module.config.window_size if module.attention_type == "local" else None

    def attend(query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None = None) -> tuple[Tensor, None]:
        return interventions.attend(layer, query, key, value, mask, 1.0, sliding_window=sliding_window).transpose(
            1, 2
        ), None

    module._attn = attend


def _gptj(interventions: Interventions, layer: int, module: Any) -> None:
    """GPT-J: products divided by a stored factor."""

    def attend(query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None = None) -> tuple[Tensor, None]:
        return interventions.attend(layer, query, key, value, mask, 1 / float(module.scale_attn)).transpose(1, 2), None

    module._attn = attend


def _falcon(interventions: Interventions, layer: int, module: Any) -> None:
    """Falcon: rotary positions, or ALiBi, which is scaled with the products."""
    # Imported here: only a Falcon needs it, and then transformers has loaded it already.
    from transformers.models.falcon.modeling_falcon import apply_rotary_pos_emb

    def forward(
        hidden_states: Tensor,
        alibi: Tensor | None,
        attention_mask: Tensor | None,
        position_ids: Tensor | None = None,
        layer_past: Any = None,
        position_embeddings: tuple[Tensor, Tensor] | None = None,
        **kwargs: Any,
    ) -> tuple[Tensor, None]:
        query, key, value = (x.transpose(1, 2) for x in module._split_heads(module.query_key_value(hidden_states)))
        if alibi is None:
            assert position_embeddings is not None
            query, key = apply_rotary_pos_emb(query, key, *position_embeddings)
        if layer_past is not None:
            key, value = layer_past.update(key, value, module.layer_idx)
        bias = None
        # A mask that the model made includes ALiBi.
        if alibi is not None and attention_mask is None:
            bias = interventions.at_positions(alibi.reshape(len(query), module.num_heads, -1)) * module.inv_norm_factor
        outputs = interventions.attend(layer, query, key, value, attention_mask, module.inv_norm_factor, key_bias=bias)
        return module.dense(outputs.flatten(2)), None

    _replace_forward(module, forward)


def _bloom(interventions: Interventions, layer: int, module: Any) -> None:
    """BLOOM: ALiBi; the module adds the residual."""

    def forward(
        hidden_states: Tensor,
        residual: Tensor,
        alibi: Tensor,
        attention_mask: Tensor | None,
        layer_past: Any = None,
        **kwargs: Any,
    ) -> tuple[Tensor, None]:
        query, key, value = module._reshape(module.query_key_value(hidden_states))
        if layer_past is not None:
            key, value = layer_past.update(key, value, module.layer_idx)
        bias = interventions.at_positions(alibi.reshape(len(query), module.num_heads, -1))
        outputs = interventions.attend(layer, query, key, value, attention_mask, module.inv_norm_factor, key_bias=bias)
        return module.dense(outputs.flatten(2)) + residual, None

    _replace_forward(module, forward)


def _mpt(interventions: Interventions, layer: int, module: Any) -> None:
    """MPT: ALiBi over all positions, of which the last tokens' part counts; q, k and v may be clipped."""

    def forward(
        hidden_states: Tensor,
        position_bias: Tensor,
        past_key_values: Any = None,
        attention_mask: Tensor | None = None,
        **kwargs: Any,
    ) -> tuple[Tensor, None]:
        mixed = module.Wqkv(hidden_states)
        if module.clip_qkv:
            mixed = mixed.clamp(min=-module.clip_qkv, max=module.clip_qkv)
        query, key, value = (x.unflatten(-1, (module.n_heads, -1)).transpose(1, 2) for x in mixed.chunk(3, dim=-1))
        if past_key_values is not None:
            key, value = past_key_values.update(key, value, module.layer_idx)
        bias = interventions.at_positions(position_bias[None, :, 0, -key.shape[2] :])
        mask = attention_mask if attention_mask is not None and attention_mask.numel() else None
        outputs = interventions.attend(layer, query, key, value, mask, module.softmax_scale, key_bias=bias)
        return module.out_proj(outputs.flatten(2)), None

    _replace_forward(module, forward)


_ADAPTERS: dict[str, Callable[[Interventions, int, nn.Module], None]] = {
    "bloom": _bloom,
    "falcon": _falcon,
    "gpt_neo": _gpt_neo,
    "gptj": _gptj,
    "mpt": _mpt,
}
