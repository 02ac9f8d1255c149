"""Sizes of a checkpoint from its configuration, without reading weights."""

from __future__ import annotations

from collections.abc import Sequence
from copy import deepcopy
from pathlib import Path
from typing import Any

from lm_headroom.models import architectures
from lm_headroom.models.experts import ExpertBlock, expert_blocks

NEUTRAL = {
    "output_attentions": False,
    "output_hidden_states": False,
    "return_dict": True,
    "torchscript": False,
    "fusion_config": None,
}
"""Settings of a pass's outputs, which do not describe the model; passes set their own."""


def read_config(folder: Path | str, trust: bool = False) -> Any:
    """Read the configuration of a checkpoint, with neutral settings of a pass's outputs.

    Args:
        folder: the checkpoint.
        trust: whether its own code may run.

    Raises:
        OSError, ValueError: transformers cannot read it.
    """
    from transformers import AutoConfig

    # Passed to transformers, too, which checks their consistency while it reads.
    config = AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=trust, **NEUTRAL)
    for part in (config, config.get_text_config()):
        for name, value in NEUTRAL.items():
            if getattr(part, name, value) != value:
                setattr(part, name, value)
    return config


def model_from_config(config: Any, dtype: Any = None, device: str = "meta", trust: bool = False) -> Any:
    """Build a model with random weights, or without weights on the meta device.

    Args:
        config: its configuration.
        dtype: number format; None for the configuration's.
        device: device of its weights.
        trust: whether its own code may run.
    """
    import torch
    from transformers import AutoModelForCausalLM

    with torch.device(device):
        model = AutoModelForCausalLM.from_config(
            config,
            attn_implementation=architectures.attention_implementation(config),
            dtype=dtype,
            trust_remote_code=trust,
        )
    return model.eval()


def with_layers(config: Any, n_layers: int) -> Any:
    """Copy a configuration with another number of layers, whose kinds repeat as listed; all have their own keys."""
    changed = deepcopy(config)
    text = changed.get_text_config()
    differing = [
        {name: getattr(layer, name) for name in text.per_layer_attributes}
        for layer in (text.per_layer_config if getattr(text, "is_heterogeneous", False) else ())
    ]
    text.num_hidden_layers = n_layers
    if differing:
        text.per_layer_config = {place: differing[place % len(differing)] for place in range(n_layers)}
    if getattr(text, "num_kv_shared_layers", None):
        text.num_kv_shared_layers = 0
    for name in ("layer_types", "attention_layers"):
        kinds = getattr(text, name, None)
        if kinds:
            setattr(text, name, [kinds[place % len(kinds)] for place in range(n_layers)])
    return changed


def checkpoint_sizes(path: Path, trust: bool = False) -> dict[str, Any]:
    """Sizes (:func:`model_sizes`) of a checkpoint folder's model; trusted code may run.

    Raises:
        HeadroomError: the architecture is not supported.
        OSError, ValueError: transformers cannot read the configuration.
    """
    return model_sizes(model_from_config(read_config(path, trust), trust=trust))


def model_sizes(model: Any) -> dict[str, Any]:
    """Measure the sizes that determine costs and memory; a model on the meta device suffices.

    Returns:
        layers, heads, key_value_heads and d_head (a list by layer where these differ), d_model, d_mlp, vocabulary,
        max_positions (largest number of input tokens), parameters (of the whole model), attention and ffn (parameters
        of one layer's linear maps, on average,
        which each token is multiplied by: of experts those that it is sent to; maps of what mixes tokens in layers
        without heads count as attention's), unembedding (its parameters); where some layers have no heads,
        without_heads (their numbers); where layers share keys, restarts (where a pass must begin to
        compute each layer); where layers have experts, experts (their number over all layers).
    """
    layout, unembedding = architectures.head_layout(model), model.get_output_embeddings().weight
    maps = [sum(p.weight.numel() for p in layer) for layer in architectures.projections(model).values()]
    maps += [
        sum(p.numel() for p in mixer.parameters() if p.dim() > 1) for mixer in architectures.mixers(model).values()
    ]
    blocks, modules = expert_blocks(model), architectures.ffn_modules(model)
    widths = [_width(p, blocks.get(n)) for n, layer in enumerate(modules) for part in layer for p in part.parameters()]
    ffns = [_ffn_maps(layer, blocks.get(number)) for number, layer in enumerate(modules)]
    return {
        "layers": layout.layers,
        "heads": layout.heads,
        "key_value_heads": _listed(layout.key_value_heads),
        "d_head": _listed(layout.d_head),
        "d_model": architectures.text_config(model).hidden_size,
        "d_mlp": max(widths),
        "vocabulary": unembedding.shape[0],
        "max_positions": architectures.max_positions(model.config),
        "parameters": sum(p.numel() for p in model.parameters()),
        "attention": round(sum(maps) / len(maps)),
        "ffn": round(sum(ffns) / len(ffns)),
        "unembedding": unembedding.numel(),
        **({"experts": sum(block.number for block in blocks.values())} if blocks else {}),
        **({"without_heads": list(layout.without_heads)} if layout.without_heads else {}),
        **({"restarts": [layout.restart_at(n) for n in range(layout.layers)]} if layout.shared else {}),
    }


def _listed(numbers: int | tuple[int, ...]) -> int | list[int]:
    return numbers if isinstance(numbers, int) else list(numbers)


def _ffn_maps(modules: Sequence[Any], block: ExpertBlock | None) -> int:
    """Parameters of an FFN's linear maps that a token is multiplied by."""
    total = sum(p.numel() for module in modules for p in module.parameters() if p.dim() > 1)
    if block is None:
        return total
    stacked = sum(p.numel() for p in block.experts.parameters() if p.dim() > 1)
    return total - stacked + stacked * block.top_k // block.number


def _width(parameter: Any, block: ExpertBlock | None) -> int:
    """Numbers that a linear map of an FFN gives per token, at most: of stacked experts, those that it is sent to."""
    if block is not None and parameter.dim() == 3 and parameter.shape[0] == block.number:
        return int(block.top_k * max(parameter.shape[1:]))
    return int(parameter.shape[0])
