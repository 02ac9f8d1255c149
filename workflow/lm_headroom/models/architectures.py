"""The supported model architectures: a table of where each has its attention and FFNs, and functions that read it.

Only the differences between architectures are here and, if transformers does not route an architecture's attention
through its interface, in :mod:`lm_headroom.engine.attention_adapters`. Everything else is one code path. The key of an
architecture is transformers' ``model_type``, which messages and records call the model's family.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import reduce
from math import prod
from typing import TYPE_CHECKING, Any

from lm_headroom.errors import HeadroomError
from lm_headroom.models.architecture import Architecture, HeadLayout

if TYPE_CHECKING:
    # The command that resolves a model looks up its architecture without importing torch.
    from torch import Tensor, nn


ANYTHING = object()
INFERRED = "lm_headroom_architecture"
"""The attribute of a model that holds what a pass without weights showed."""


_AHEAD = "its tokens attend to later ones"
_BOTH_WAYS = (("use_bidirectional_attention", True, _AHEAD),)
_BY_COLUMN = "it scales queries by their place in a row of tokens, and packed rows have theirs elsewhere"
ANYWHERE = (
    *_BOTH_WAYS,
    ("text_config.use_bidirectional_attention", True, _AHEAD),
    ("add_cross_attention", True, "its layers attend to an encoder"),
    # Llama 4; no scale changes within the few tokens of a proof.
    ("attn_temperature_tuning", True, _BY_COLUMN),
    ("text_config.attn_temperature_tuning", True, _BY_COLUMN),
)
"""Settings that are refused in families without a row."""
_BLOCKS = ("index_block_size", "index_topk_blocks")
WHOLE_UP_TO = (("attention_chunk_size",), ("index_topk",), ("indexer_budget",), _BLOCKS)
"""Settings whose product is the number of tokens that attention sees whole: in a longer row it leaves some out, by
chunks or by a choice of its own, which neither packed rows nor proofs on a few tokens do."""
_UNLISTED = Architecture(layers="")
ARCHITECTURES = {
    "bloom": Architecture(
        layers="transformer.h",
        attention="self_attention",
        output_projection="dense",
        input_projections=("query_key_value",),
        grouped=True,
        # The module adds the residual, so that interventions skip its maps instead.
        ffn=("mlp.dense_h_to_4h", "mlp.dense_4h_to_h"),
        residual_norm=("apply_residual_connection_post_layernorm", True),
        # ALiBi has no largest position; this is the training length, which older configs state.
        max_positions="seq_length",
        default_max_positions=2048,
        reference_attention="eager",
        adapter="bloom",
        returns_tuple=True,
        unsupported=(("slow_but_exact", True, "its maps are computed in slices, past the modules"),),
    ),
    "falcon": Architecture(
        layers="transformer.h",
        attention="self_attention",
        output_projection="dense",
        input_projections=("query_key_value",),
        grouped=True,
        # Sequential blocks have the first; parallel ones with two norms the second; others share attention's.
        ffn_norms=("post_attention_layernorm", "ln_mlp"),
        adapter="falcon",
        returns_tuple=True,
    ),
    "gpt_neo": Architecture(
        layers="transformer.h",
        attention="attn.attention",
        output_projection="out_proj",
        ffn_norms=("ln_2",),
        reference_attention="eager",
        adapter="gpt_neo",
        returns_tuple=True,
    ),
    "gptj": Architecture(
        layers="transformer.h",
        attention="attn",
        output_projection="out_proj",
        # The one norm of a layer feeds attention, too.
        ffn_norms=(),
        reference_attention="eager",
        adapter="gptj",
        returns_tuple=True,
    ),
    "mpt": Architecture(
        layers="transformer.blocks",
        attention="attn",
        output_projection="out_proj",
        input_projections=("Wqkv",),
        # The module adds the residual, as BLOOM's does.
        ffn=("ffn.up_proj", "ffn.down_proj"),
        ffn_norms=("norm_2",),
        max_positions="max_seq_len",
        reference_attention="eager",
        adapter="mpt",
        mask="tensor",
        returns_tuple=True,
        unsupported=tuple(
            (key, value, "transformers computes something else than this setting says")
            for key, value in (
                ("attn_config.alibi", False),
                ("attn_config.qk_ln", True),
                ("attn_config.prefix_lm", True),
                ("attn_config.attn_type", "multiquery_attention"),
                ("no_bias", False),
                ("logit_scale", ANYTHING),
            )
        ),
    ),
}


@dataclass(frozen=True)
class Outputs:
    """The outputs of a projection that belong to each head: ``rows`` [head, d_head], or [key-value head, d_head]."""

    module: nn.Module
    rows: Tensor


@dataclass(frozen=True)
class HeadRows:
    """The weights of a layer's attention that belong to each head.

    Query head h has the outputs ``query.rows[h]`` and reads key-value head ``h // group``. Fused projections are one
    module in all three. See :func:`rows_first` for weights that lie the other way round.

    Attributes:
        query, key, value: the input projections; key and value are None in a layer that reads those of an earlier one.
        output: the output projection; its inputs ``columns[h]`` are head h's output A^h.
        columns: [head, d_head].
        separable: whether the query and key rows of single heads can be removed without changing other heads.
    """

    query: Outputs
    key: Outputs | None
    value: Outputs | None
    output: nn.Module
    columns: Tensor
    separable: bool


def architecture_of(model: Any) -> Architecture:
    """The architecture of a model: its row of the table, or what a pass without weights shows, once per model.

    Raises:
        HeadroomError: the architecture is not supported; says why.
    """
    row = ARCHITECTURES.get(model.config.model_type)
    if row is not None:
        return row
    if not hasattr(model, INFERRED):
        # Imported here: a command that resolves a model of the table works without torch.
        from lm_headroom.models.inference import infer

        setattr(model, INFERRED, infer(model))
    inferred: Architecture = getattr(model, INFERRED)
    return inferred


def share(known: Any, model: Any) -> None:
    """Let a model have the architecture of another of the same configuration, which may be known already."""
    row = architecture_of(known)
    if model.config.model_type not in ARCHITECTURES:
        setattr(model, INFERRED, row)


def text_config(model: Any) -> Any:
    """The configuration of a model's language model, which may be part of a larger model."""
    return model.config.get_text_config()


def check_config(config: Mapping[str, Any]) -> None:
    """Check the settings of a configuration.

    Raises:
        HeadroomError: the architecture is not supported with these settings; says why.
    """
    name = config.get("model_type")
    row = ARCHITECTURES.get(name) if isinstance(name, str) else None
    for key, value, why in row.unsupported if row else ANYWHERE:
        setting: Any = config
        for step in key.split("."):
            setting = setting.get(step) if isinstance(setting, Mapping) else None
        if setting == value or (value is ANYTHING and setting is not None):
            raise HeadroomError(
                f"model family {name!r} is not supported with {key} = {json.dumps(setting)}: {why}; supported: this "
                "family without that setting"
            )


def is_known(name: str | None) -> bool:
    """Whether transformers has a causal language model of this type."""
    if name in ARCHITECTURES:
        return True
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES as NAMES

    return name in NAMES


def attention_implementation(config: Any) -> str | None:
    """The attention implementation of transformers to load a model with; None for transformers' choice."""
    row = ARCHITECTURES.get(config.model_type)
    if row is not None:
        return row.reference_attention
    # SDPA, which transformers takes where a family has it, has no soft cap of attention scores.
    return None if getattr(config.get_text_config(), "attn_logit_softcapping", None) is None else "eager"


def max_positions(config: Any) -> int:
    """Largest number of input tokens; where attention is whole for fewer than positions there are, these.

    Raises:
        HeadroomError: the configuration does not say it.
    """
    row, text = ARCHITECTURES.get(config.model_type, _UNLISTED), config.get_text_config()
    most = getattr(text, row.max_positions, None) or row.default_max_positions
    if not most:
        raise HeadroomError(
            f"model family {config.model_type!r}: its configuration has no {row.max_positions}, the largest number of "
            "input tokens; add it to config.json"
        )
    rope = getattr(text, "rope_parameters", None) or {}
    if rope.get("rope_type") == "longrope":
        # Longer inputs have other rotations, and so would all inputs in the same batch.
        most = min(most, rope["original_max_position_embeddings"])
    for names in WHOLE_UP_TO:
        factors = [getattr(text, name, None) or 0 for name in names]
        most = min(most, prod(factors) or most)
    return int(most)


def body(model: Any) -> Any:
    """The part of a model that gives its last hidden states: all but the output embedding."""
    base = model.base_model
    # Where the model is a part of a larger one, transformers looks for that one's body.
    return base if base is not model else getattr(model, architecture_of(model).layers.split(".")[0])


def layers(model: Any) -> list[nn.Module]:
    """The decoder layers, in order."""
    return list(_descend(model, architecture_of(model).layers))


def attention_modules(model: Any) -> dict[int, nn.Module]:
    """The attention module of each layer that has one, by the layer's number, in order."""
    path, everywhere = architecture_of(model).attention, layers(model)
    return {number: _descend(everywhere[number], path) for number in _attending(model, len(everywhere))}


def _attending(model: Any, n_layers: int) -> Sequence[int]:
    """Numbers of the layers that have heads; those of a row all have."""
    shape = architecture_of(model).shape
    return range(n_layers) if shape is None else shape.attending


def mixers(model: Any) -> dict[int, nn.Module]:
    """The module that mixes tokens in each layer that has no attention, by the layer's number."""
    row, everywhere = architecture_of(model), layers(model)
    without = () if row.shape is None else row.shape.without_heads
    return {
        number: next(one for path in row.mixers if (one := _descend(everywhere[number], path, None)) is not None)
        for number in without
    }


def ffn_modules(model: Any) -> list[list[nn.Module]]:
    """The modules of each layer's FFN, in order."""
    paths = architecture_of(model).ffn
    return [[_descend(layer, path) for path in paths] for layer in layers(model)]


def ffn_output_maps(model: Any) -> list[nn.Module]:
    """The linear map of each layer's FFN that is registered last: the output's, in all families with exports."""
    return [
        [module for module in modules[-1].modules() if hasattr(module, "weight") and module.weight.dim() == 2][-1]
        for modules in ffn_modules(model)
    ]


def ffn_output_norms(model: Any) -> list[nn.Module] | None:
    """The norm between each layer's FFN and the residual, in order; None for families that have none there."""
    path = architecture_of(model).ffn_output_norm
    return [_descend(layer, path) for layer in layers(model)] if path else None


def attention_output_norms(model: Any) -> dict[int, nn.Module | None]:
    """The norm between each layer's attention and the residual, by the layer's number; None where there is none."""
    path, everywhere = architecture_of(model).attention_output_norm, layers(model)
    return {
        number: _descend(everywhere[number], path) if path else None for number in _attending(model, len(everywhere))
    }


def input_device(model: Any) -> Any:
    """Device of token ids; if the embedding is offloaded, the device on which it is computed."""
    embedding = model.get_input_embeddings()
    device = embedding.weight.device
    return embedding._hf_hook.execution_device if device.type == "meta" and hasattr(embedding, "_hf_hook") else device


def projections(model: Any) -> dict[int, list[nn.Module]]:
    """The linear maps of each layer's attention, the output projection last, by the layer's number."""
    row = architecture_of(model)
    return {
        n: [_descend(attention, path) for path in dict.fromkeys((*_inputs(row, n), row.output_projection))]
        for n, attention in attention_modules(model).items()
    }


def _inputs(row: Architecture, layer: int) -> tuple[str, ...]:
    """The input projections of a layer's attention."""
    if row.shape is None or not row.layer_projections:
        return row.input_projections
    return row.layer_projections[row.shape.attending.index(layer)]


def output_projections(model: Any) -> dict[int, nn.Module]:
    """The output projection of each layer's attention, by the layer's number: its input's h-th slice is head h's output
    A^h."""
    row = architecture_of(model)
    return {n: _descend(attention, row.output_projection) for n, attention in attention_modules(model).items()}


def rows_first(linear: nn.Module) -> Tensor:
    """A view of a linear map's weight as [outputs, inputs]; GPT-2 stores it transposed."""
    weight: Tensor = linear.weight
    return weight.T if _is_transposed(linear) else weight


def is_plain(linear: nn.Module) -> bool:
    """Whether a linear map multiplies by a matrix that lies in it as it is, and adds its bias.

    A quantised one does not, nor one whose weights accelerate fetches from memory or disk for each pass.
    """
    from torch.nn import Linear, Parameter

    is_known = type(linear) is Linear or _is_transposed(linear)
    return is_known and type(linear.weight) is Parameter and not hasattr(linear, "_hf_hook")


def n_outputs(linear: nn.Module) -> int:
    """Number of outputs of a linear map, also without its weight."""
    return int(linear.nf if _is_transposed(linear) else linear.out_features)


def _is_transposed(linear: nn.Module) -> bool:
    """Whether a linear map is transformers' Conv1D."""
    return hasattr(linear, "nf")


def head_layout(model: Any) -> HeadLayout:
    """Read the head counts from the config and check them against the projections' shapes.

    Raises:
        HeadroomError: the architecture is not supported, or layers differ from each other.
    """
    row, config = architecture_of(model), text_config(model)
    if row.shape is not None:
        return row.shape
    modules = projections(model)
    counts = {tuple(n_outputs(module) for module in inputs) for *inputs, _ in modules.values()}
    query_heads = config.num_attention_heads
    d_head = getattr(config, "head_dim", None) or config.hidden_size // query_heads
    if len(row.input_projections) == 1 and not hasattr(config, "num_key_value_heads"):
        # Falcon's three layouts differ only in this number.
        key_value_heads = (min(counts)[0] // d_head - query_heads) // 2
        stated = ""
    else:
        key_value_heads = getattr(config, "num_key_value_heads", None) or query_heads
        stated = f"{key_value_heads} key-value heads "
    parts = (query_heads * d_head, key_value_heads * d_head, key_value_heads * d_head)
    expected = {parts if len(row.input_projections) == len(parts) else (sum(parts),)}
    if counts != expected or key_value_heads < 1 or query_heads % key_value_heads:
        raise HeadroomError(
            f"the config says {query_heads} heads, {stated}of width {d_head}, "
            f"but the {', '.join(row.input_projections)} of its layers have {sorted(counts)} outputs"
        )
    return HeadLayout(len(modules), query_heads, key_value_heads, d_head)


def head_rows(model: Any, layer: int) -> HeadRows:
    """Find the weights of a layer's attention that belong to each head."""
    return _head_rows(architecture_of(model), head_layout(model), layer, attention_modules(model)[layer])


def _head_rows(row: Architecture, shape: HeadLayout, layer: int, attention: nn.Module) -> HeadRows:
    import torch

    modules = [_descend(attention, path) for path in _inputs(row, layer)]
    group, d_head = shape.group_of(layer), shape.d_head_of(layer)
    queries, keys = torch.arange(shape.heads), torch.arange(shape.heads // group)
    key: Outputs | None
    value: Outputs | None
    if layer in dict(shape.shared):
        width = n_outputs(modules[0]) // shape.heads
        query, key, value = Outputs(modules[0], queries[:, None] * width + torch.arange(width)), None, None
    elif len(modules) > 1:
        # A map's outputs are of the same width for each of its heads, which latent attention has wider than d_head.
        query, key, value = (
            Outputs(module, n[:, None] * (n_outputs(module) // len(n)) + torch.arange(n_outputs(module) // len(n)))
            for module, n in zip(modules, (queries, keys, keys), strict=True)
        )
        if key.module is value.module:
            key = Outputs(key.module, key.rows[:, :0])
    else:
        if row.grouped:
            stride = group + 2
            first = keys * stride + group
            starts = (queries // group * stride + queries % group, first, first + 1)
        else:
            starts = (queries, shape.heads + keys, shape.heads + len(keys) + keys)
        within = torch.arange(d_head)
        query, key, value = (Outputs(modules[0], start[:, None] * d_head + within) for start in starts)
    columns = queries[:, None] * d_head + torch.arange(d_head)
    return HeadRows(query, key, value, _descend(attention, row.output_projection), columns, not row.joint_norms)


def ffn_norms(model: Any, layer: nn.Module) -> list[str]:
    """The norms of a layer, as paths from it, that are removed with its FFN: not those on the residual stream."""
    row = architecture_of(model)
    if row.residual_norm is not None and getattr(text_config(model), row.residual_norm[0]) == row.residual_norm[1]:
        return []
    return [path for path in row.ffn_norms if _descend(layer, path, None) is not None]


def ffn_parameters(model: Any, layer: int) -> int:
    """Count the parameters removed with an FFN: its own, and its norms' unless they act on the residual stream."""
    block = layers(model)[layer]
    modules = [*ffn_modules(model)[layer], *(_descend(block, path) for path in ffn_norms(model, block))]
    return sum(parameter.numel() for module in modules for parameter in module.parameters())


def removed_parameters(model: Any, pruned: Sequence[tuple[int, int]]) -> int:
    """Count the parameters removed with pruned heads.

    Pruning a query head removes its rows of the query projection (with biases), its columns of the output projection,
    and its own norm. A key-value head is removed once every query head that reads it is pruned, in later layers too. If
    one norm covers the queries or keys of all heads, their rows are kept. A layer without heads keeps only its output
    bias, and keys and values that later layers read.

    Args:
        model: the language model.
        pruned: (layer, head) pairs, from 0.
    """
    row, shape = architecture_of(model), head_layout(model)
    total = 0
    heads = {layer: {head for at, head in pruned if at == layer} for layer in shape.attending}
    for layer, attention in attention_modules(model).items():
        if heads[layer]:
            weights = _head_rows(row, shape, layer, attention)
            total += _removed_from_layer(row, attention, weights, heads[layer], _unread(shape, layer, heads))
    return total


def _unread(shape: HeadLayout, layer: int, pruned: Mapping[int, set[int]]) -> set[int]:
    """The key-value heads of a layer that no head reads any more; none of a layer that has none of its own."""
    if layer in dict(shape.shared):
        return set()
    group = shape.group_of(layer)
    return {
        number
        for number in range(shape.heads // group)
        if all(pruned[reader] >= set(range(number * group, (number + 1) * group)) for reader in shape.readers_of(layer))
    }


def _removed_from_layer(
    row: Architecture, attention: nn.Module, weights: HeadRows, pruned: set[int], groups: set[int]
) -> int:
    """Count the parameters removed with some heads of one layer, and with the key-value heads of ``groups``."""
    n_heads, key, value = len(weights.columns), weights.key, weights.value
    keys_and_values = len(groups) * (0 if value is None else _parameters_per_head(value))
    if key is not None and weights.separable:
        keys_and_values += len(groups) * _parameters_per_head(key)
    if len(pruned) == n_heads:
        bias = weights.output.bias
        whole = sum(p.numel() for p in attention.parameters()) - (0 if bias is None else bias.numel())
        if value is None or len(groups) == len(value.rows):
            return whole
        # Later layers read some.
        kept = {part.module for part in (key, value) if part is not None}
        kept |= {_descend(attention, path) for path in row.shared_norms}
        return whole - sum(p.numel() for module in kept for p in module.parameters()) + keys_and_values
    total = len(pruned) * weights.columns.shape[1] * n_outputs(weights.output) + keys_and_values
    if weights.separable:
        total += len(pruned) * _parameters_per_head(weights.query)
    # Scores of sinks.
    total += len(pruned) * sum(p.shape == (n_heads,) for p in attention.parameters(recurse=False))
    for path, members in zip(row.head_norms, (pruned, groups), strict=False):
        norms = _descend(attention, path, None)
        if norms is not None:
            rows = list(norms.parameters(recurse=False))
            total += sum(p[member].numel() for member in members for p in rows)
            total += 0 if rows else sum(p.numel() for member in members for p in norms[member].parameters())
    return total


def _parameters_per_head(outputs: Outputs) -> int:
    """Count the parameters of a linear map that compute one head's outputs."""
    linear = outputs.module
    return outputs.rows.shape[1] * (linear.weight.numel() // n_outputs(linear) + (linear.bias is not None))


_REQUIRED = object()


def _descend(root: Any, path: str, default: Any = _REQUIRED) -> Any:
    """Follow a dotted path of attributes; return ``default``, if given, where it leads nowhere."""
    steps = path.split(".")
    if default is _REQUIRED:
        return reduce(getattr, steps, root)
    return reduce(lambda at, step: getattr(at, step, default), steps, root)
