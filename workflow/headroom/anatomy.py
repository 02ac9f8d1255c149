"""Where attention and FFN sit in each model family: a table, and the check that refuses what is not in it.

Only what differs between families is here; everything else is one code path.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import reduce
from typing import TYPE_CHECKING, Any

from headroom.errors import HeadroomError

if TYPE_CHECKING:
    # The command that resolves a model asks for its family, and starts without torch.
    from torch import nn


@dataclass(frozen=True)
class Family:
    """Attribute paths in one family.

    Attributes:
        layers: from the causal language model to the list of decoder layers.
        attention: from a layer to its attention module.
        output: from the attention module to its output projection.
        query, key, value: from the attention module to its input projections.
        ffn: from a layer to the modules that make its FFN, in the order of their calls, each fed by the one before.
        ffn_norm: from a layer to the norm of the FFN.
        pre_norm: config key that says whether norms come before their block; empty where they always do.
    """

    layers: str
    attention: str = "self_attn"
    output: str = "o_proj"
    query: str = "q_proj"
    key: str = "k_proj"
    value: str = "v_proj"
    ffn: tuple[str, ...] = ("mlp",)
    ffn_norm: str = "post_attention_layernorm"
    pre_norm: str = ""


FAMILIES = {
    # OPT's fc1 and fc2 sit on the layer itself; its 350m has norms after their blocks.
    "opt": Family(
        layers="model.decoder.layers",
        output="out_proj",
        ffn=("fc1", "fc2"),
        ffn_norm="final_layer_norm",
        pre_norm="do_layer_norm_before",
    ),
    "llama": Family(layers="model.layers"),
}


@dataclass(frozen=True)
class Heads:
    """Head counts of a model: layers, query heads and key-value heads per layer, and the width of a head."""

    layers: int
    heads: int
    key_value_heads: int
    width: int

    @property
    def total(self) -> int:
        """All query heads of the model."""
        return self.layers * self.heads


def family(model: Any) -> Family:
    """The table's row for a model.

    Raises:
        HeadroomError: the family is not supported.
    """
    return supported(model.config.model_type)


def supported(name: str | None) -> Family:
    """The table's row for a model type.

    Raises:
        HeadroomError: there is none.
    """
    if name not in FAMILIES:
        raise HeadroomError(f"model family {name!r} is not supported; supported: {', '.join(sorted(FAMILIES))}")
    return FAMILIES[name]


def layers(model: Any) -> list[nn.Module]:
    """The decoder layers, in order."""
    return list(_descend(model, family(model).layers))


def attention_modules(model: Any) -> list[nn.Module]:
    """The attention module of each layer, in order."""
    path = family(model).attention
    return [_descend(layer, path) for layer in layers(model)]


def ffn_modules(model: Any) -> list[list[nn.Module]]:
    """The modules of each layer's FFN, in order."""
    paths = family(model).ffn
    return [[_descend(layer, path) for path in paths] for layer in layers(model)]


def input_device(model: Any) -> Any:
    """Where token ids go; where the embedding itself waits outside the GPU, the device on which it is computed."""
    embedding = model.get_input_embeddings()
    device = embedding.weight.device
    return embedding._hf_hook.execution_device if device.type == "meta" and hasattr(embedding, "_hf_hook") else device


def projections(model: Any) -> list[list[nn.Linear]]:
    """The linear maps of each layer's attention, the output projection last."""
    row = family(model)
    paths = (row.query, row.key, row.value, row.output)
    return [[_descend(attention, path) for path in paths] for attention in attention_modules(model)]


def output_projections(model: Any) -> list[nn.Linear]:
    """The attention output projection of each layer: its input's h-th slice is head h's output A^h."""
    row = family(model)
    return [_descend(attention, row.output) for attention in attention_modules(model)]


def heads(model: Any) -> Heads:
    """Head counts, read from the modules and checked against the projections' shapes.

    Raises:
        HeadroomError: the family is not supported, or the layers differ from each other.
    """
    row = family(model)
    config = model.config
    counts = {
        (_descend(module, row.query).out_features, _descend(module, row.key).out_features)
        for module in attention_modules(model)
    }
    query_heads = config.num_attention_heads
    key_value_heads = getattr(config, "num_key_value_heads", None) or query_heads
    width = getattr(config, "head_dim", None) or config.hidden_size // query_heads
    if counts != {(query_heads * width, key_value_heads * width)}:
        raise HeadroomError(
            f"the config says {query_heads} heads, {key_value_heads} key-value heads of width {width}, "
            f"but the query and key projections have {sorted(counts)} outputs"
        )
    return Heads(len(attention_modules(model)), query_heads, key_value_heads, width)


def sizes(model: Any) -> dict[str, int]:
    """What costs and memory follow from; a model on the meta device will do.

    Returns:
        layers, heads, width (L, H and d_h), hidden and inner (of the residual and inside the FFN), vocabulary, window
        (largest number of input tokens), parameters (all of the model), attention and ffn (of one layer's maps, on
        average, which each token is multiplied by), readout (of the output embedding).
    """
    shape, readout = heads(model), model.get_output_embeddings().weight
    maps = [sum(p.weight.numel() for p in layer) for layer in projections(model)]
    modules = ffn_modules(model)
    ffns = [sum(p.numel() for m in layer for p in m.parameters() if p.dim() > 1) for layer in modules]
    return {
        "layers": shape.layers,
        "heads": shape.heads,
        "width": shape.width,
        "hidden": model.config.hidden_size,
        "inner": max(p.shape[0] for m in modules[0] for p in m.parameters()),
        "vocabulary": readout.shape[0],
        "window": model.config.max_position_embeddings,
        "parameters": sum(p.numel() for p in model.parameters()),
        "attention": round(sum(maps) / len(maps)),
        "ffn": round(sum(ffns) / len(ffns)),
        "readout": readout.numel(),
    }


def ffn_parameters(model: Any, layer: int) -> int:
    """Parameters that go with a layer's FFN: its own, and those of its norm unless that norms the residual."""
    row = family(model)
    norm_goes = not row.pre_norm or getattr(model.config, row.pre_norm)
    modules = [*ffn_modules(model)[layer], *([_descend(layers(model)[layer], row.ffn_norm)] if norm_goes else [])]
    return sum(parameter.numel() for module in modules for parameter in module.parameters())


def removed_parameters(model: Any, pruned: Sequence[tuple[int, int]]) -> int:
    """Parameters that go with the pruned heads.

    A query head takes its rows of the query projection (with biases) and its columns of the output projection; a
    key-value head goes only when every query head that reads it is pruned. The output bias stays.

    Args:
        model: the language model.
        pruned: (layer, head) pairs, from 0.
    """
    row, shape = family(model), heads(model)
    group = shape.heads // shape.key_value_heads
    total = 0
    for layer, module in enumerate(attention_modules(model)):
        gone = {head for at, head in pruned if at == layer}
        groups_gone = sum(gone >= set(range(g * group, (g + 1) * group)) for g in range(shape.key_value_heads))
        total += len(gone) * (
            _outputs(_descend(module, row.query), shape.width) + _descend(module, row.output).out_features * shape.width
        )
        total += groups_gone * sum(_outputs(_descend(module, path), shape.width) for path in (row.key, row.value))
    return total


def _outputs(linear: nn.Linear, width: int) -> int:
    """Parameters behind ``width`` outputs of a linear map."""
    return width * (linear.in_features + (linear.bias is not None))


def _descend(root: Any, path: str) -> Any:
    return reduce(getattr, path.split("."), root)
