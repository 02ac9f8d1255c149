"""Tiny random models, sentences for their tokenizers, and a count of what they compute."""

from collections.abc import Callable
from typing import Any

SENTENCES = [
    "The quick brown fox jumps over the lazy dog near the river bank every morning.",
    "Question: Which of these is a source of light? Answer: the sun, a lamp, a stone or a river.",
    "She opened the window because the room was warm, and the wind carried the smell of rain.",
    "Water boils at one hundred degrees and freezes at zero; ice floats because it is lighter.",
    "A person is sitting on a roof. He starts pulling up shingles and throws them to the ground.",
]


def tiny_config(family: str, vocabulary: int) -> Any:
    """A model of three layers: OPT, OLMoE with four experts, DeepSeek-V3 with as many in two groups, LFM2, or LLaMA.

    LFM2 has attention in its second layer alone, and short convolutions in the others. All but OPT and DeepSeek-V3 have
    grouped key-value heads.

    ``opt-350m`` is OPT with the quirks of its 350m: norms after their blocks, embeddings of another width.
    """
    from transformers import DeepseekV3Config, Lfm2Config, LlamaConfig, OlmoeConfig, OPTConfig

    if family in ("opt", "opt-350m"):
        quirks = family == "opt-350m"
        return OPTConfig(
            vocab_size=vocabulary, hidden_size=24, ffn_dim=48, num_hidden_layers=3, num_attention_heads=4,
            max_position_embeddings=256, word_embed_proj_dim=16 if quirks else 24, do_layer_norm_before=not quirks,
            init_std=0.3, pad_token_id=0, bos_token_id=1, eos_token_id=2,
        )  # fmt: skip
    if family == "olmoe":
        return OlmoeConfig(
            vocab_size=vocabulary, hidden_size=24, intermediate_size=32, num_hidden_layers=3, num_attention_heads=4,
            num_key_value_heads=2, max_position_embeddings=256, initializer_range=0.3, num_experts=4,
            num_experts_per_tok=2, pad_token_id=0, bos_token_id=1, eos_token_id=2,
        )  # fmt: skip
    if family == "deepseek_v3":
        return DeepseekV3Config(
            vocab_size=vocabulary, hidden_size=24, intermediate_size=48, moe_intermediate_size=16, num_hidden_layers=3,
            num_attention_heads=4, num_key_value_heads=4, q_lora_rank=12, kv_lora_rank=12, qk_rope_head_dim=4,
            qk_nope_head_dim=4, v_head_dim=6, n_routed_experts=4, num_experts_per_tok=2, n_group=2, topk_group=1,
            n_shared_experts=1, first_k_dense_replace=1, max_position_embeddings=256, initializer_range=0.3,
            pad_token_id=0, bos_token_id=1, eos_token_id=2,
        )  # fmt: skip
    if family == "lfm2":
        return Lfm2Config(
            vocab_size=vocabulary, hidden_size=24, intermediate_size=48, num_hidden_layers=3, num_attention_heads=4,
            num_key_value_heads=2, max_position_embeddings=256, initializer_range=0.3, block_auto_adjust_ff_dim=False,
            layer_types=["conv", "full_attention", "conv"], pad_token_id=0, bos_token_id=1, eos_token_id=2,
        )  # fmt: skip
    return LlamaConfig(
        vocab_size=vocabulary, hidden_size=24, intermediate_size=48, num_hidden_layers=3, num_attention_heads=4,
        num_key_value_heads=2, max_position_embeddings=256, initializer_range=0.3, tie_word_embeddings=False,
        pad_token_id=0, bos_token_id=1, eos_token_id=2,
    )  # fmt: skip


def tiny_model(family: str, vocabulary: int = 523, seed: int = 0) -> Any:
    """A random model in float64 with scaled-dot-product attention; the same seed gives the same weights."""
    import torch
    from transformers import AutoModelForCausalLM

    torch.manual_seed(seed)
    model = AutoModelForCausalLM.from_config(tiny_config(family, vocabulary), attn_implementation="sdpa")
    # Biases start at zero, where a forgotten bias would not show.
    for name, parameter in model.named_parameters():
        if name.endswith("bias"):
            torch.nn.init.normal_(parameter, std=0.3)
    return model.double().eval()


def count_operations(work: Callable[[], Any]) -> int:
    """Floating-point operations of linear maps, as torch counts them.

    Those of the attention kernel are left out: torch counts them too once its decompositions have been imported, which
    other tests may have done.
    """
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    kernel = "_scaled_dot_product_flash_attention_for_cpu"
    kernels = [getattr(torch.ops.aten, f"{kernel}{suffix}") for suffix in ("", "_backward")]
    with FlopCounterMode(display=False, custom_mapping=dict.fromkeys(kernels, lambda *_, **__: 0)) as counter:
        work()
    return int(counter.get_total_flops())
