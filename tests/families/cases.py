"""Tiny random models of each family, and of each of its quirks, on disk."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

LAYERS, HEADS, WIDTH, HIDDEN, WINDOW, VOCABULARY = 3, 4, 6, 24, 256, 523
NARROW = 5
"""Tokens that a sliding window holds."""


@dataclass(frozen=True)
class Case:
    """A model.

    Attributes:
        family: transformers' model type.
        settings: of its configuration, beside the common ones.
        last: from a layer to the last map of its FFN.
        width: of a head.
        groups: key-value heads.
    """

    family: str
    last: str
    settings: dict[str, Any] = field(default_factory=dict)
    width: int = WIDTH
    groups: int = HEADS


_GATED = {
    "hidden_size": HIDDEN, "intermediate_size": 40, "num_hidden_layers": LAYERS, "num_attention_heads": HEADS,
    "num_key_value_heads": 2, "max_position_embeddings": WINDOW,
}  # fmt: skip
_GPT = {"n_embd": HIDDEN, "n_layer": LAYERS, "n_head": HEADS, "n_positions": WINDOW}
_FALCON = {
    "hidden_size": HIDDEN, "num_hidden_layers": LAYERS, "num_attention_heads": HEADS, "max_position_embeddings": WINDOW,
}  # fmt: skip
_GEMMA = _GATED | {"head_dim": 8}
_OPT = {
    "hidden_size": HIDDEN, "ffn_dim": 48, "num_hidden_layers": LAYERS, "num_attention_heads": HEADS,
    "max_position_embeddings": WINDOW, "word_embed_proj_dim": HIDDEN,
}  # fmt: skip
_NEOX = {
    "hidden_size": HIDDEN, "intermediate_size": 40, "num_hidden_layers": LAYERS, "num_attention_heads": HEADS,
    "max_position_embeddings": WINDOW,
}  # fmt: skip
_BLOOM = {"hidden_size": HIDDEN, "n_layer": LAYERS, "n_head": HEADS}
_MPT = {"d_model": HIDDEN, "n_layers": LAYERS, "n_heads": HEADS, "max_seq_len": WINDOW}
_SLIDING = {"layer_types": ["sliding_attention", "full_attention", "sliding_attention"], "sliding_window": NARROW}

CASES = {
    "opt": Case("opt", "fc2", _OPT),
    "opt-350m": Case("opt", "fc2", _OPT | {"word_embed_proj_dim": 16, "do_layer_norm_before": False}),
    "gpt2": Case("gpt2", "mlp.c_proj", _GPT),
    "gpt2-scaled-by-layer": Case("gpt2", "mlp.c_proj", _GPT | {"scale_attn_by_inverse_layer_idx": True}),
    "gpt_neo": Case(
        "gpt_neo", "mlp.c_proj",
        {"hidden_size": HIDDEN, "num_layers": LAYERS, "num_heads": HEADS, "max_position_embeddings": WINDOW,
         "attention_types": [[["local", "global", "local"], 1]], "window_size": NARROW},
    ),  # fmt: skip
    "gptj": Case("gptj", "mlp.fc_out", _GPT | {"rotary_dim": 4}),
    "gpt_neox": Case("gpt_neox", "mlp.dense_4h_to_h", _NEOX | {"rotary_pct": 0.7}),
    "gpt_neox-sequential": Case("gpt_neox", "mlp.dense_4h_to_h", _NEOX | {"use_parallel_residual": False}),
    "llama": Case("llama", "mlp.down_proj", _GATED, groups=2),
    "mistral": Case("mistral", "mlp.down_proj", _GATED | {"sliding_window": None}, groups=2),
    "mistral-sliding": Case("mistral", "mlp.down_proj", _GATED | {"sliding_window": NARROW}, groups=2),
    "qwen2": Case("qwen2", "mlp.down_proj", _GATED, groups=2),
    "qwen2-sliding": Case(
        "qwen2", "mlp.down_proj", _GATED | _SLIDING | {"use_sliding_window": True}, groups=2
    ),
    "qwen3": Case("qwen3", "mlp.down_proj", _GATED | {"head_dim": 10}, width=10, groups=2),
    "phi3": Case("phi3", "mlp.down_proj", _GATED | {"pad_token_id": 0, "sliding_window": NARROW}, groups=2),
    "gemma": Case("gemma", "mlp.down_proj", _GEMMA | {"num_key_value_heads": 1}, width=8, groups=1),
    "gemma2": Case(
        "gemma2", "mlp.down_proj",
        _GEMMA | _SLIDING | {"query_pre_attn_scalar": 7, "attn_logit_softcapping": 2.0, "final_logit_softcapping": 3.0},
        width=8, groups=2,
    ),  # fmt: skip
    "gemma3_text": Case(
        "gemma3_text", "mlp.down_proj", _GEMMA | _SLIDING | {"query_pre_attn_scalar": 7}, width=8, groups=2
    ),
    "stablelm": Case("stablelm", "mlp.down_proj", _GATED | {"use_qkv_bias": True}, groups=2),
    "stablelm-parallel": Case(
        "stablelm", "mlp.down_proj", _GATED | {"use_parallel_residual": True, "qk_layernorm": True}, groups=2
    ),
    "olmo2": Case("olmo2", "mlp.down_proj", _GATED, groups=2),
    "falcon": Case("falcon", "mlp.dense_4h_to_h", _FALCON, groups=1),
    "falcon-new": Case(
        "falcon", "mlp.dense_4h_to_h", _FALCON | {"new_decoder_architecture": True, "num_kv_heads": 2}, groups=2
    ),
    "falcon-one-norm": Case(
        "falcon", "mlp.dense_4h_to_h",
        _FALCON | {"new_decoder_architecture": True, "num_kv_heads": 2, "num_ln_in_parallel_attn": 1}, groups=2,
    ),  # fmt: skip
    "falcon-rw": Case(
        "falcon", "mlp.dense_4h_to_h",
        _FALCON | {"multi_query": False, "alibi": True, "parallel_attn": False, "bias": True},
    ),  # fmt: skip
    "bloom": Case("bloom", "mlp.dense_4h_to_h", _BLOOM),
    "bloom-post-norm": Case(
        "bloom", "mlp.dense_4h_to_h", _BLOOM | {"apply_residual_connection_post_layernorm": True}
    ),
    # Six heads: no power of two, for which slopes are made otherwise.
    "mpt": Case("mpt", "ffn.down_proj", _MPT | {"attn_config": {"clip_qkv": 1.5}}),
}  # fmt: skip


def save(case: Case, folder: Path, tokenizer: Any) -> Path:
    """A random checkpoint of a case; biases and norms are not at their neutral start, where they would not show."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    torch.manual_seed(0)
    special = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
    config = AutoConfig.for_model(case.family, **{"vocab_size": VOCABULARY} | special | case.settings)
    model = AutoModelForCausalLM.from_config(config, attn_implementation="eager").double()
    for name, parameter in model.named_parameters():
        if parameter.dim() > 1:
            torch.nn.init.normal_(parameter, std=0.3)
        else:
            parameter.data += 0.3 * torch.randn_like(parameter)
    model.tie_weights()
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def reference(folder: Path) -> Any:
    """transformers' own model of a checkpoint, with the attention that it writes out, in float64."""
    import torch
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float64, attn_implementation="eager")
    return model.eval().requires_grad_(False)
