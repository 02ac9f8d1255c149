"""Tiny random models of each family, and of each of its quirks, on disk."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import reduce
from pathlib import Path
from typing import Any, NamedTuple

from tests.support.model_types import randomise

LAYERS, HEADS, WIDTH, HIDDEN, WINDOW, VOCABULARY = 3, 4, 6, 24, 256, 523
SPECIAL = {"vocab_size": VOCABULARY, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
NARROW = 5
"""Tokens that a sliding window holds."""


@dataclass(frozen=True)
class Case:
    """A model.

    Attributes:
        family: transformers' model type.
        settings: of its configuration, beside special tokens and vocabulary.
        heads, groups, width: query heads, key-value heads, and how wide they are; of each layer where these differ.
    """

    family: str
    settings: dict[str, Any] = field(default_factory=dict)
    heads: int = HEADS
    groups: int | tuple[int, ...] = HEADS
    width: int | tuple[int, ...] = WIDTH

    def width_of(self, layer: int) -> int:
        """How wide the heads of a layer are."""
        return self.width if isinstance(self.width, int) else self.width[layer]

    def groups_of(self, layer: int) -> int:
        """Key-value heads of a layer."""
        return self.groups if isinstance(self.groups, int) else self.groups[layer]


class Places(NamedTuple):
    """Where a family has its layers, and from a layer its output projection and the last map of its FFN."""

    layers: str
    output: str
    last: str


PLACES = {
    "bloom": Places("transformer.h", "self_attention.dense", "mlp.dense_4h_to_h"),
    "falcon": Places("transformer.h", "self_attention.dense", "mlp.dense_4h_to_h"),
    "gemma3": Places("model.language_model.layers", "self_attn.o_proj", "mlp.down_proj"),
    "gpt2": Places("transformer.h", "attn.c_proj", "mlp.c_proj"),
    "gpt_neo": Places("transformer.h", "attn.attention.out_proj", "mlp.c_proj"),
    "gpt_neox": Places("gpt_neox.layers", "attention.dense", "mlp.dense_4h_to_h"),
    "gptj": Places("transformer.h", "attn.out_proj", "mlp.fc_out"),
    "mpt": Places("transformer.blocks", "attn.out_proj", "ffn.down_proj"),
    "opt": Places("model.decoder.layers", "self_attn.out_proj", "fc2"),
}
_COMMON = Places("model.layers", "self_attn.o_proj", "mlp.down_proj")

_SHAPE = {"num_hidden_layers": LAYERS, "num_attention_heads": HEADS, "max_position_embeddings": WINDOW}
_GATED = _SHAPE | {"hidden_size": HIDDEN, "intermediate_size": 40, "num_key_value_heads": 2}
_GEMMA = _GATED | {"head_dim": 8}
# Four of six numbers are rotated.
_STABLE = _GATED | {"partial_rotary_factor": 0.7}
_GPT = {"n_embd": HIDDEN, "n_layer": LAYERS, "n_head": HEADS, "n_positions": WINDOW}
_NEO = {"hidden_size": HIDDEN, "num_layers": LAYERS, "num_heads": HEADS, "max_position_embeddings": WINDOW}
_FALCON = _SHAPE | {"hidden_size": HIDDEN}
_NEOX = _FALCON | {"intermediate_size": 40}
_OPT = _FALCON | {"ffn_dim": 48, "word_embed_proj_dim": HIDDEN}
# Six heads are no power of two, where ALiBi takes some of its slopes from elsewhere.
_BLOOM = {"hidden_size": HIDDEN, "n_layer": LAYERS, "n_head": 6}
_MPT = {"d_model": HIDDEN, "n_layers": LAYERS, "n_heads": 6, "max_seq_len": WINDOW}
_SLIDING = {"layer_types": ["sliding_attention", "full_attention", "sliding_attention"], "sliding_window": NARROW}
_NEW = {"new_decoder_architecture": True, "num_kv_heads": 2}
_EYES = {"hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1, "image_size": 8}
_EYES |= {"patch_size": 4}
# A layer with narrow heads, and two with wide ones, the last of which reads the keys and values of the one before.
_GEMMA4 = _GEMMA | {
    "layer_types": ["sliding_attention", "full_attention", "full_attention"], "sliding_window": NARROW,
    "global_head_dim": 16,
}  # fmt: skip
_PER_LAYER = {"hidden_size_per_layer_input": 6, "vocab_size_per_layer_input": VOCABULARY}
_WITHOUT = {"hidden_size_per_layer_input": 0}
_CAPS = {"attn_logit_softcapping": 2.0, "final_logit_softcapping": 3.0}

CASES = {
    "opt": Case("opt", _OPT),
    "opt-350m": Case("opt", _OPT | {"word_embed_proj_dim": 16, "do_layer_norm_before": False}),
    "gpt2": Case("gpt2", _GPT),
    "gpt2-scaled-by-layer": Case("gpt2", _GPT | {"scale_attn_by_inverse_layer_idx": True}),
    "gpt_neo": Case("gpt_neo", _NEO | {"attention_types": [[["local", "global", "local"], 1]], "window_size": NARROW}),
    "gptj": Case("gptj", _GPT | {"rotary_dim": 4}),
    "gpt_neox": Case("gpt_neox", _NEOX | {"rotary_pct": 0.7}),
    "gpt_neox-sequential": Case("gpt_neox", _NEOX | {"use_parallel_residual": False}),
    "llama": Case("llama", _GATED, groups=2),
    "mistral": Case("mistral", _GATED | {"sliding_window": None}, groups=2),
    "mistral-sliding": Case("mistral", _GATED | {"sliding_window": NARROW}, groups=2),
    "qwen2": Case("qwen2", _GATED, groups=2),
    "qwen2-sliding": Case("qwen2", _GATED | _SLIDING | {"use_sliding_window": True}, groups=2),
    "qwen3": Case("qwen3", _GATED | {"head_dim": 10}, groups=2, width=10),
    "phi3": Case("phi3", _GATED | {"sliding_window": NARROW}, groups=2),
    "gemma": Case("gemma", _GEMMA | {"num_key_value_heads": 1}, groups=1, width=8),
    "gemma2": Case("gemma2", _GEMMA | _SLIDING | _CAPS | {"query_pre_attn_scalar": 7}, groups=2, width=8),
    "gemma3_text": Case("gemma3_text", _GEMMA | _SLIDING | {"query_pre_attn_scalar": 7}, groups=2, width=8),
    "gemma3": Case(
        "gemma3",
        {
            "text_config": _GEMMA | _SLIDING | SPECIAL | {"query_pre_attn_scalar": 7},
            "vision_config": _EYES,
            "mm_tokens_per_image": 4,
            "image_token_index": VOCABULARY - 1,
        },
        groups=2,
        width=8,
    ),
    "gemma4_text": Case(
        "gemma4_text",
        _GEMMA4 | _PER_LAYER | {"num_kv_shared_layers": 1, "use_double_wide_mlp": True, "final_logit_softcapping": 3.0},
        groups=2,
        width=(8, 16, 16),
    ),
    # Its keys are its values, too, in layers with wide heads.
    "gemma4_text-dense": Case(
        "gemma4_text",
        _GEMMA4 | _WITHOUT | {"attention_k_eq_v": True, "num_global_key_value_heads": 1},
        groups=(2, 1, 1),
        width=(8, 16, 16),
    ),
    "stablelm": Case("stablelm", _STABLE | {"use_qkv_bias": True}, groups=2),
    "stablelm-parallel": Case("stablelm", _STABLE | {"use_parallel_residual": True, "qk_layernorm": True}, groups=2),
    "olmo2": Case("olmo2", _GATED, groups=2),
    "falcon": Case("falcon", _FALCON, groups=1),
    "falcon-new": Case("falcon", _FALCON | _NEW, groups=2),
    "falcon-one-norm": Case("falcon", _FALCON | _NEW | {"num_ln_in_parallel_attn": 1}, groups=2),
    "falcon-rw": Case("falcon", _FALCON | {"multi_query": False, "alibi": True, "parallel_attn": False, "bias": True}),
    "bloom": Case("bloom", _BLOOM, heads=6, groups=6, width=4),
    "bloom-post-norm": Case(
        "bloom", _BLOOM | {"apply_residual_connection_post_layernorm": True}, heads=6, groups=6, width=4
    ),
    "mpt": Case("mpt", _MPT | {"attn_config": {"clip_qkv": 1.5}}, heads=6, groups=6, width=4),
}


def save(case: Case, folder: Path, tokenizer: Any) -> Path:
    """A random checkpoint of a case; biases and norms are not at their neutral start, where they would not show."""
    model = model_of(case)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def model_of(case: Case) -> Any:
    """The same in memory, in float64."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    torch.manual_seed(0)
    config = AutoConfig.for_model(case.family, **SPECIAL | case.settings)
    model = AutoModelForCausalLM.from_config(config, attn_implementation="eager").double()
    randomise(model)
    return model.eval()


def reference(folder: Path) -> Any:
    """transformers' own model of a checkpoint, with the attention that it writes out, in float64."""
    import torch
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float64, attn_implementation="eager")
    if getattr(model.config, "alibi", False):
        # Written out, Falcon adds ALiBi to the scores though it is in the mask already; its other attention does not.
        for layer in layers_of(model):
            layer.self_attention.register_forward_pre_hook(_without_alibi, with_kwargs=True)
    return model.eval().requires_grad_(False)


def _without_alibi(module: Any, arguments: tuple[Any, ...], named: dict[str, Any]) -> tuple[tuple[Any, ...], Any]:
    return arguments, named | {"alibi": 0 * named["alibi"]}


def layers_of(model: Any) -> list[Any]:
    """The layers of a model, by the paths above."""
    return list(reduce(getattr, _places(model).layers.split("."), model))


def output_projections(model: Any) -> list[Any]:
    """Its output projections."""
    return [reduce(getattr, _places(model).output.split("."), layer) for layer in layers_of(model)]


def ffn_outputs(model: Any) -> list[Any]:
    """What gives the tensor that each FFN adds to the residual: its last map, or the norm behind it."""
    norms = [getattr(layer, "post_feedforward_layernorm", None) for layer in layers_of(model)]
    return [norm or last for norm, last in zip(norms, last_maps(model), strict=True)]


def attention_norms(model: Any) -> list[Any]:
    """The norm behind each layer's attention, before the residual: where FFNs have one, attention has one, too."""
    return [
        layer.post_attention_layernorm if hasattr(layer, "post_feedforward_layernorm") else None
        for layer in layers_of(model)
    ]


def last_maps(model: Any) -> list[Any]:
    """The last map of each FFN."""
    return [reduce(getattr, _places(model).last.split("."), layer) for layer in layers_of(model)]


def _places(model: Any) -> Places:
    return PLACES.get(model.config.model_type, _COMMON)
