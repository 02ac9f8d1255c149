"""Tiny models in GGUF files."""

import json
import re

import gguf
import torch
from transformers import AutoModelForCausalLM, LlamaConfig

from tests.support.model_types import randomise

Q8 = gguf.GGMLQuantizationType.Q8_0
PARTS = {
    "self_attn.q_proj": "attn_q", "self_attn.k_proj": "attn_k", "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output", "mlp.gate_proj": "ffn_gate", "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down", "input_layernorm": "attn_norm", "post_attention_layernorm": "ffn_norm",
}  # fmt: skip
HEADS = {"q_proj": 4, "k_proj": 2}


def stored_name(name):
    """A weight's name in GGUF files."""
    rest, kind = name.rsplit(".", 1)
    top = {"model.embed_tokens": "token_embd", "model.norm": "output_norm", "lm_head": "output"}
    layer = re.fullmatch(r"model\.layers\.(\d+)\.(.*)", rest)
    return f"blk.{layer[1]}.{PARTS[layer[2]]}.{kind}" if layer else f"{top[rest]}.{kind}"


def rotated(values, heads):
    """Rows of queries or keys in the order of LLaMA's GGUF files, whose rotary pairs are neighbours."""
    return values.reshape(heads, 2, -1, *values.shape[1:]).swapaxes(1, 2).reshape(values.shape)


def tiny_packed(path, tokenizer, kind=LlamaConfig, seed=0, change=None, **more):
    """Write a tiny random model in 8 bits to a GGUF file; return the model."""
    torch.manual_seed(seed)
    settings = {"max_position_embeddings": 128, "tie_word_embeddings": False, "rms_norm_eps": 1e-5}
    config = kind(
        vocab_size=len(tokenizer), hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, **settings | more,
    )  # fmt: skip
    model = AutoModelForCausalLM.from_config(config).float().eval()
    randomise(model)
    model.tie_weights()
    write_gguf(path, model, tokenizer, change)
    return model


def write_gguf(path, model, tokenizer, change=None):
    """A model in 8 bits, with its tokenizer; ``change`` takes the writer and its tensors, (numbers, type) by name."""
    config, family = model.config, model.config.model_type
    writer = gguf.GGUFWriter(path, family)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_freq_base(10000.0)
    writer.add_vocab_size(config.vocab_size)
    content = json.loads(tokenizer.backend_tokenizer.to_str())["model"]
    tokens = sorted(tokenizer.get_vocab(), key=tokenizer.get_vocab().get)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("qwen2" if family == "qwen2" else "llama-bpe")
    writer.add_token_list(tokens)
    writer.add_token_types([3 if number in tokenizer.all_special_ids else 1 for number in range(len(tokens))])
    writer.add_token_merges([pair if isinstance(pair, str) else " ".join(pair) for pair in content["merges"]])
    for name in ("bos", "eos", "unk"):
        getattr(writer, f"add_{name}_token_id")(getattr(tokenizer, f"{name}_token_id") or 0)
    tensors = {}
    for name, weight in model.state_dict().items():
        if name == "lm_head.weight" and config.tie_word_embeddings:
            continue
        values = weight.numpy()
        heads = next((count for part, count in HEADS.items() if part in name and family == "llama"), None)
        values = rotated(values, heads) if heads else values
        tensors[stored_name(name)] = (gguf.quants.quantize(values, Q8), Q8) if values.ndim == 2 else (values, None)
    if change:
        change(writer, tensors)
    for name, (values, kind) in tensors.items():
        writer.add_tensor(name, values, raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
