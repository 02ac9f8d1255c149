"""A tiny random model of each causal language model type of transformers."""

from __future__ import annotations

import warnings
from copy import deepcopy
from itertools import product
from typing import Any

VOCABULARY, LAYERS, LARGEST = 101, 3, 20_000_000
SIZES: dict[str, Any] = {
    "vocab_size": VOCABULARY, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2, "initializer_range": 0.3,
    "hidden_size": 32, "d_model": 32, "n_embd": 32, "intermediate_size": 48, "ffn_dim": 48, "n_inner": 48,
    "num_hidden_layers": LAYERS, "n_layer": LAYERS, "num_layers": LAYERS, "decoder_layers": LAYERS,
    "num_attention_heads": 4, "n_head": 4, "num_key_value_heads": 2, "head_dim": 8, "max_position_embeddings": 64,
    "decoder_attention_heads": 4, "decoder_ffn_dim": 48, "word_embed_proj_dim": 32, "hidden_size_per_layer_input": 8,
    "vocab_size_per_layer_input": VOCABULARY, "moe_intermediate_size": 16, "num_experts": 4, "num_local_experts": 4,
    "n_routed_experts": 4, "num_experts_per_tok": 2, "n_group": 1, "topk_group": 1, "first_k_dense_replace": 1,
    "shared_expert_intermediate_size": 16, "q_lora_rank": 16, "kv_lora_rank": 16, "qk_rope_head_dim": 8,
    "qk_nope_head_dim": 8, "v_head_dim": 8, "is_decoder": True, "n_shared_experts": 1,
    "sliding_window": 5, "indexer_n_heads": 2, "indexer_kv_heads": 1, "indexer_head_dim": 8,
    "indexer_budget": 4, "indexer_compress_ratio": 2, "linear_num_key_heads": 2, "linear_num_value_heads": 4,
    "linear_key_head_dim": 8, "linear_value_head_dim": 8, "encoder_hash_byte_group_vocab": VOCABULARY,
}  # fmt: skip
"""Settings of those configurations that have them."""
_MAMBA = {"mamba_n_heads": 4, "mamba_d_head": 16, "mamba_d_state": 16}
_MIXED = ["full_attention", "sliding_attention", "full_attention"]
_GEMMA4 = {
    "sliding_window": 256, "global_head_dim": 16, "num_global_key_value_heads": 1, "attention_k_eq_v": True,
    "num_kv_shared_layers": 1,
}  # fmt: skip
PARTICULARS: dict[str, dict[str, Any]] = {
    "codegen": {"rotary_dim": 4},
    "gptj": {"rotary_dim": 4},
    # Left at 32 heads of 128, its chunks of 64 tokens are loops over hundreds of megabytes.
    "kimi_linear": {"linear_head_dim": 8, "linear_num_heads": 4},
    "gpt_neo": {"attention_types": [[["global", "local", "global"], 1]]},
    # Factors that a forgotten one would show.
    "cohere": {"logit_scale": 0.3},
    "cohere2": {"logit_scale": 0.3},
    "granite": {"logits_scaling": 4.0, "residual_multiplier": 0.5, "embedding_multiplier": 3.0},
    "granitemoe": {"logits_scaling": 4.0, "residual_multiplier": 0.5, "embedding_multiplier": 3.0},
    "minicpm3": {"dim_model_base": 8, "scale_emb": 3, "scale_depth": 1.4},
    "granitemoehybrid": _MAMBA | {"layer_types": ["mamba", "attention", "mamba"]},
    "jamba": {"attn_layer_period": 3, "attn_layer_offset": 1},
    "bamba": _MAMBA | {"attn_layer_indices": [1], "mamba_expand": 2},
    "hunyuan_v1_dense": {"head_dim": 8},
    "hunyuan_v1_moe": {"head_dim": 8},
    "ministral": {"head_dim": 8},
    "nemotron": {"num_key_value_heads": 2},
    "zaya": {"num_experts_per_tok": 1},
    "dbrx": {"attn_config": {"kv_n_heads": 2, "rope_theta": 1e4, "clip_qkv": 4.0}, "ffn_config": {"moe_top_k": 2}},
    "mamba2": {"num_heads": 8, "n_groups": 2, "state_size": 16},
    "zamba": {"layers_block_type": ["hybrid", "linear_attention", "hybrid"]},
    "gemma4": {"text_config": _GEMMA4},
    "gemma4_text": _GEMMA4,
    "gemma4_unified": {"text_config": _GEMMA4},
    "gemma4_unified_text": _GEMMA4,
    "xmod": {"default_language": "en_XX"},
    "gemma3n_text": {"activation_sparsity_pattern": [0.0] * LAYERS, "num_kv_shared_layers": 0, "layer_types": _MIXED},
    "lfm2": {"layer_types": ["conv", "full_attention", "conv"]},
    # So wide that all tokens of a test reach its loss.
    "lfm3": {"sliding_window": 256},
    "lfm2_moe": {"layer_types": ["conv", "full_attention", "conv"]},
    "cohere_compass_text": {"layer_types": _MIXED, "rope_parameters": {kind: {"rope_theta": 1e4} for kind in _MIXED}},
}
"""What configurations of a type need besides."""
DERIVED = ("layer_types", "per_layer_config")
"""Settings of the default parts of a model that hold for as many layers as these have."""
TRIES: tuple[dict[str, Any], ...] = (
    {},
    {"qk_rope_head_dim": 4, "qk_nope_head_dim": 4},
    {"head_dim": None},
    {"num_key_value_heads": 4},
    {"head_dim": 4, "qk_rope_head_dim": 4, "qk_nope_head_dim": 4},
)
"""Changes that are tried in turn where a model cannot be made, or run; None leaves a setting out."""


class NotTinyError(Exception):
    """No tiny model of a type can be made from these settings."""


def model_types() -> list[str]:
    """All types."""
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES as NAMES

    return sorted(NAMES)


def tiny_of_type(name: str) -> Any:
    """A random model of a type, whose biases and norms are not at their neutral start.

    It is in float64; in float32 where the family's code holds numbers of that type only.

    Raises:
        NotTinyError: none of the settings that are tried gives one that runs.
    """
    import torch

    reason = ""
    for dtype, is_filled, more in product((torch.float64, torch.float32), (False, True), TRIES):
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                return _make(_configuration(name, more, is_filled), dtype)
        # A family's code may raise anything.
        except Exception as error:
            reason = reason or f"{type(error).__name__}: {' '.join(str(error).split())}"
    raise NotTinyError(reason)


def randomise(model: Any) -> None:
    """Give a model weights so large that each of its parts changes what it says."""
    import torch

    for parameter in model.parameters():
        if parameter.dim() > 1:
            torch.nn.init.normal_(parameter, std=0.3)
        else:
            parameter.data += 0.3 * torch.randn_like(parameter)
    model.tie_weights()


def _make(config: Any, dtype: Any) -> Any:
    import torch
    from transformers import AutoModelForCausalLM

    with torch.device("meta"):
        size = sum(parameter.numel() for parameter in AutoModelForCausalLM.from_config(config).parameters())
    if size > LARGEST:
        raise NotTinyError(f"its other parts leave {size} parameters")
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config).to(dtype).eval()
    randomise(model)
    if hasattr(model, "set_experts_implementation"):
        model.set_experts_implementation("eager")
    with torch.no_grad():
        out = model(input_ids=torch.linspace(1, VOCABULARY - 1, 12).long()[None], use_cache=False)
    if not torch.isfinite(out.logits).all():
        raise NotTinyError("its logits are not finite")
    return model


def _configuration(name: str, more: dict[str, Any], is_filled: bool) -> Any:
    from transformers import CONFIG_MAPPING

    cls = CONFIG_MAPPING[name]
    own = PARTICULARS.get(name, {})
    try:
        default = cls()
    except Exception:
        return cls(**SIZES | own)
    return cls(**_settings(default, own, more, is_filled))


def _settings(config: Any, own: dict[str, Any], more: dict[str, Any], is_filled: bool) -> dict[str, Any]:
    """Settings that make the model of a configuration tiny, those of its parts among them.

    Args:
        config: the defaults of a type, or of a part of it.
        own: what a type needs besides; of a part, under the part's key.
        more: the changes of this try.
        is_filled: whether sizes that the defaults leave open are set, too.
    """
    values = {
        key: value
        for key, value in (SIZES | more).items()
        if value is not None and _has(config, key, is_filled) and _takes(config, key, value)
    }
    values |= _lists_by_layer(config)
    for key in config.sub_configs:
        part = getattr(config, key, None)
        if part is not None:
            kept = {k: v for k, v in part.to_dict().items() if k not in DERIVED}
            values[key] = kept | _settings(part, own.get(key, {}), more, is_filled)
    return values | {key: value for key, value in own.items() if key not in config.sub_configs}


def _lists_by_layer(config: Any) -> dict[str, list[Any]]:
    """Lists with an item for each layer, as long as there are layers now; all kinds of layers among the first."""
    n_layers = getattr(config, "num_hidden_layers", None)
    lists = {}
    for key, value in config.to_dict().items():
        if isinstance(value, (list, tuple)) and len(value) == n_layers:
            several = [item for number, item in enumerate(value) if item not in value[:number]]
            lists[key] = [several[number % len(several)] for number in range(LAYERS)]
    return {key: value for key, value in lists.items() if _takes(config, key, value)}


def _has(config: Any, key: str, is_filled: bool) -> bool:
    """Whether a configuration has a setting, if only one that it leaves open."""
    try:
        return hasattr(config, key) if is_filled else getattr(config, key, None) is not None
    # Of layers that differ.
    except Exception:
        return True


def _takes(config: Any, key: str, value: Any) -> bool:
    """Whether a setting can be set; some are derived from others, and some refuse."""
    try:
        setattr(deepcopy(config), key, value)
    except Exception:
        return False
    return True
