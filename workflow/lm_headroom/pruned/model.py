"""Models without their pruned heads, FFNs and experts: smaller maps, no FFN modules, and a configuration of them.

A pruned model is the architecture's own class with fewer rows and columns. Pruning a query head removes its rows of the
query projection and its columns of the output projection; a key-value head is removed with the last query head that
reads it. A layer without heads keeps its output bias. An FFN is removed with its norm, unless that acts on the residual
stream. An expert is removed with its rows of the router. :func:`lm_headroom.models.architectures.removed_parameters`,
:func:`lm_headroom.models.architectures.ffn_parameters` and :func:`lm_headroom.models.experts.expert_parameters` count
what is removed.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import transformers
from torch import Tensor, nn
from transformers import MODEL_FOR_CAUSAL_LM_MAPPING, AttentionInterface, AttentionMaskInterface, AutoConfig
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask
from transformers.pytorch_utils import Conv1D

from lm_headroom.artifacts.pruned_checkpoint import MODEL_TYPE
from lm_headroom.errors import HeadroomError, first_of
from lm_headroom.models import architectures
from lm_headroom.models.architecture import HeadLayout
from lm_headroom.models.checkpoint_files import CONFIG
from lm_headroom.models.experts import COUNTS, ExpertBlock, expert_blocks, expert_rows
from lm_headroom.models.inference import WHOLE_CLASS

IMPLEMENTATION = "lm_headroom_pruned"
HEAD_COUNTS = {"opt": "num_heads"}
"""Attribute of the attention module with the number of heads."""
HEAD_WIDTHS = {"gpt2": "split_size"}
"""Attribute of the attention module with the total width of its heads."""
_PREFIX = "Pruned"
_FORMATS = 1, 2, 3
"""Of checkpoints whose removed FFNs leave nothing, of those that keep biases, and of those without some experts."""
_NOT_CHOSEN = {
    "attn_implementation": "layers have different numbers of heads, which only lm-headroom's own function takes",
    "config": "the folder's own says what is left of the model",
}
"""Options of ``from_pretrained`` that pruned models leave no choice of, and why."""
_HINT = "pruned by lm-headroom: load it with lm_headroom.load_pruned"


@dataclass(frozen=True)
class Remainder:
    """What remains of a model.

    Attributes:
        heads: the remaining query heads by layer, in order.
        ffns: the layers whose FFN remains, in order.
        keeps_biases: whether removed FFNs leave the bias of their last map, which then holds their mean.
        experts: if any are removed, each layer that has experts with those that remain, in order; else empty.
    """

    heads: tuple[tuple[int, ...], ...]
    ffns: tuple[int, ...]
    keeps_biases: bool = False
    experts: tuple[tuple[int, tuple[int, ...]], ...] = ()

    @classmethod
    def without(
        cls,
        shape: HeadLayout,
        heads: Iterable[tuple[int, int]] = (),
        ffns: Iterable[int] = (),
        keeps_biases: bool = False,
        experts: Iterable[tuple[int, tuple[int, ...]]] = (),
    ) -> Remainder:
        """Remove these (layer, head) pairs, the FFNs of these layers, and all but these experts."""
        pruned_heads, pruned_ffns = set(heads), set(ffns)
        return cls(
            tuple(
                tuple(head for head in range(shape.heads) if (layer, head) not in pruned_heads)
                for layer in range(shape.layers)
            ),
            tuple(layer for layer in range(shape.layers) if layer not in pruned_ffns),
            keeps_biases,
            tuple((layer, kept) for layer, kept in experts if layer not in pruned_ffns),
        )

    @classmethod
    def parse(cls, content: Mapping[str, Any]) -> Remainder:
        """Read what :attr:`content` gave, from a configuration."""
        return cls(
            tuple(map(tuple, content["heads_left"])),
            tuple(content["ffns_left"]),
            content.get("keeps_biases", False),
            tuple((layer, tuple(kept)) for layer, kept in content.get("experts_left", ())),
        )

    @property
    def content(self) -> dict[str, Any]:
        """The part of a configuration that says it."""
        biases = {"keeps_biases": True} if self.keeps_biases else {}
        experts = {"experts_left": [[layer, list(kept)] for layer, kept in self.experts]} if self.experts else {}
        return {"heads_left": [list(heads) for heads in self.heads], "ffns_left": list(self.ffns), **biases, **experts}

    @property
    def format(self) -> int:
        """The format of a checkpoint that says it, the oldest that can."""
        return 3 if self.experts else 2 if self.keeps_biases else 1


class Groups:
    """The key-value head that each query head of a layer reads, if groups are uneven."""

    def __init__(self, key_value_heads: Iterable[int]) -> None:
        self._heads = tuple(key_value_heads)
        self._index: dict[torch.device, Tensor] = {}

    def on(self, device: torch.device) -> Tensor:
        """The key-value head of each query head, [head], on a device. Not a buffer, since the file has none for it."""
        if device not in self._index:
            self._index[device] = torch.tensor(self._heads, device=device)
        return self._index[device]


class HeadlessAttention(nn.Module):
    """Attention without heads: nothing, or the bias of its output projection. The cache still counts the tokens."""

    def __init__(self, output: str, projection: nn.Linear, layer: int) -> None:
        super().__init__()
        self.layer_idx = layer
        self.add_module(output, OutputBias(projection))
        self._output = output

    def forward(self, hidden_states: Tensor, *args: Any, past_key_values: Any = None, **kwargs: Any) -> Any:
        """Return zeros or the bias, [batch, pos, d_model]."""
        # GPT-NeoX uses this name.
        past_key_values = kwargs.get("layer_past", past_key_values)
        if past_key_values is not None:
            # One number per token: an empty tensor would count as none, and the first layer's count is used for all.
            token = hidden_states.new_zeros(hidden_states.shape[0], 1, hidden_states.shape[1], 1)
            past_key_values.update(token, token, self.layer_idx)
        return self.get_submodule(self._output)(hidden_states), None


class OutputBias(nn.Module):
    """A linear map without inputs."""

    def __init__(self, projection: nn.Linear) -> None:
        super().__init__()
        self.bias = projection.bias

    def forward(self, hidden: Tensor) -> Tensor:
        """Return the bias at each position."""
        return torch.zeros_like(hidden) if self.bias is None else self.bias.to(hidden.dtype).expand_as(hidden)


class ZeroFFN(nn.Module):
    """A removed FFN."""

    def forward(self, hidden: Tensor) -> Tensor:
        """Return zeros, which leave the residual stream unchanged."""
        return torch.zeros_like(hidden)


def shrink(model: Any, left: Remainder) -> None:
    """Remove everything but ``left`` from a model, in place; its weights may be on the meta device.

    Whether the family's code works with what is left, :mod:`lm_headroom.pruned.forms` finds out.
    """
    row, shape = architectures.architecture_of(model), architectures.head_layout(model)
    modules = architectures.attention_modules(model)
    # Read while all layers are still equal.
    weights = {number: architectures.head_rows(model, number) for number in modules}
    ffn_outputs = architectures.ffn_output_maps(model)
    norms = [architectures.ffn_norms(model, layer) for layer in architectures.layers(model)]
    blocks = expert_blocks(model) if left.experts else {}
    for number, kept in left.experts:
        _shrink_experts(blocks[number], kept)
    for number, layer in enumerate(architectures.layers(model)):
        heads = left.heads[number]
        if number in modules and not heads:
            _replace(layer, row.attention, HeadlessAttention(row.output_projection, weights[number].output, number))
        elif number in modules and len(heads) < shape.heads:
            _shrink_attention(modules[number], weights[number], shape, heads, row.head_norms)
            for names, size in ((HEAD_COUNTS, len(heads)), (HEAD_WIDTHS, len(heads) * shape.d_head_of(number))):
                if model.config.model_type in names:
                    setattr(modules[number], names[model.config.model_type], size)
        if number not in left.ffns:
            for path in row.ffn[:-1]:
                _replace(layer, path, nn.Identity())
            _replace(layer, row.ffn[-1], OutputBias(ffn_outputs[number]) if left.keeps_biases else ZeroFFN())
            for path in norms[number]:
                _replace(layer, path, nn.Identity())


def _shrink_attention(
    attention: nn.Module,
    weights: architectures.HeadRows,
    shape: HeadLayout,
    heads: tuple[int, ...],
    norms: tuple[str, ...],
) -> None:
    read = [head // shape.group for head in heads]
    key_value_heads = sorted(set(read))
    rows: dict[nn.Module, list[Tensor]] = {}
    for outputs, members in (
        (weights.query, list(heads)), (weights.key, key_value_heads), (weights.value, key_value_heads)
    ):  # fmt: skip
        assert outputs is not None, "families whose layers share keys are refused"
        rows.setdefault(outputs.module, []).append(outputs.rows[members].flatten())
    for module, indices in rows.items():
        # Sorted, so that a fused projection keeps its layout.
        _select(module, torch.cat(indices).sort().values, outputs=True)
    _select(weights.output, weights.columns[list(heads)].flatten(), outputs=False)
    for name, values in list(attention.named_parameters(recurse=False)):
        # Scores of sinks.
        if values.shape == (shape.heads,):
            _keep_rows(attention, name, heads)
    for path, kept in zip(norms, (heads, key_value_heads), strict=False):
        norm = attention.get_submodule(path)
        for name, _ in list(norm.named_parameters(recurse=False)):
            _keep_rows(norm, name, kept)
    if shape.group > 1:
        even = len(heads) // len(key_value_heads)
        if read == [head for head in key_value_heads for _ in range(even)]:
            attention.num_key_value_groups = even
        else:
            # One to one after the function below has gathered them; no other function handles uneven groups.
            attention.num_key_value_groups = 1
            attention.lm_headroom_groups = Groups(key_value_heads.index(head) for head in read)


def _keep_rows(module: nn.Module, name: str, rows: Sequence[int]) -> None:
    """Keep some rows of a module's parameter."""
    values = getattr(module, name)
    index = torch.tensor(rows, device=values.device)
    setattr(module, name, nn.Parameter(values.detach()[index], values.requires_grad))


def _shrink_experts(block: ExpertBlock, kept: tuple[int, ...]) -> None:
    """Keep some experts, with their rows of the router and of biases of the choice, in place."""
    if len(kept) == block.number:
        return
    index = torch.tensor(kept)
    for module in (*block.router.modules(), block.experts, *block.around):
        for name, values in [*module.named_parameters(recurse=False), *module.named_buffers(recurse=False)]:
            # Of what holds router and experts, a bias of the choice alone is of single experts.
            if module in block.around and values.numel() != block.number:
                continue
            rows = expert_rows(values, block.number, index)
            setattr(module, name, nn.Parameter(rows, values.requires_grad) if name in module._parameters else rows)
        for name in COUNTS:
            if getattr(module, name, None) == block.number:
                setattr(module, name, len(kept))


def _select(linear: Any, index: Tensor, outputs: bool) -> None:
    """Keep some outputs of a linear map, with their biases, or some inputs."""
    # GPT-2's maps have inputs first.
    transposed = isinstance(linear, Conv1D)
    index = index.to(linear.weight.device)
    weight = linear.weight.detach().index_select(int(outputs == transposed), index)
    linear.weight = nn.Parameter(weight, linear.weight.requires_grad)
    if outputs and linear.bias is not None:
        linear.bias = nn.Parameter(linear.bias.detach().index_select(0, index), linear.bias.requires_grad)
    if transposed:
        linear.nx, linear.nf = linear.weight.shape
    else:
        linear.out_features, linear.in_features = linear.weight.shape


def _replace(root: nn.Module, path: str, module: nn.Module) -> None:
    parent, _, name = path.rpartition(".")
    setattr(root.get_submodule(parent), name, module)


def attend(
    module: Any, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None, **kwargs: Any
) -> tuple[Tensor, None]:
    """The function that transformers calls: it gathers key-value heads for transformers' own.

    Raises:
        ValueError: attention has what SDPA lacks: sinks, or a soft cap of its scores.
    """
    groups: Groups | None = getattr(module, "lm_headroom_groups", None)
    if groups is not None:
        index = groups.on(key.device)
        key, value = key.index_select(1, index), value.index_select(1, index)
    if kwargs.get("s_aux") is not None:
        # It would leave them out without a word.
        raise ValueError("SDPA takes no scores of attention sinks")
    outputs: tuple[Tensor, None] = sdpa_attention_forward(module, query, key, value, attention_mask, **kwargs)
    return outputs


AttentionInterface.register(IMPLEMENTATION, attend)
AttentionMaskInterface.register(IMPLEMENTATION, sdpa_mask)


class PrunedConfig:
    """Mixin that makes an architecture's configuration one of a pruned model."""

    lm_headroom_pruned: dict[str, Any]
    attribute_map: dict[str, str]

    @property
    def left(self) -> Remainder:
        """What remains of the model."""
        return Remainder.parse(self.lm_headroom_pruned)

    def to_json_file(self, json_file_path: str | Path, use_diff: bool = True) -> None:
        """Write ``config.json``, with the whole model's configuration nested in it."""
        base = json.loads(self.to_json_string(use_diff))  # type: ignore[attr-defined]
        pruned = base.pop("lm_headroom_pruned")
        names = base.get("architectures") or []
        base["architectures"] = [name.removeprefix(_PREFIX) for name in names]
        content = {
            "model_type": MODEL_TYPE,
            "architectures": [_PREFIX + name for name in base["architectures"]],
            # An architecture's own class, if used instead of AutoModelForCausalLM, fails at this value.
            "num_hidden_layers": _HINT,
            self.attribute_map.get("num_hidden_layers", "num_hidden_layers"): _HINT,
            "format": self.left.format,
            **pruned,
            # Not within ``base``, where transformers would look for a configuration of that type.
            "base_model_type": base.pop("model_type"),
            "base": base,
        }
        Path(json_file_path).write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


class PrunedModel:
    """Mixin that makes an architecture's model class one of pruned models."""

    def __init__(self, config: Any, *args: Any, **kwargs: Any) -> None:
        super().__init__(config, *args, **kwargs)  # type: ignore[call-arg]
        shrink(self, config.left)
        # Whatever was asked for: no other function takes uneven groups.
        self.set_attn_implementation(IMPLEMENTATION)  # type: ignore[attr-defined]


_classes: dict[type, Any] = {}


def pruned_class(base: type) -> Any:
    """Return the class of an architecture's pruned models, or of their configurations; always the same one."""
    if base not in _classes:
        extra = PrunedConfig if issubclass(base, transformers.PretrainedConfig) else PrunedModel
        _classes[base] = type(_PREFIX + base.__name__, (extra, base), {"__module__": __name__, WHOLE_CLASS: base})
    return _classes[base]


def __getattr__(name: str) -> Any:
    """Find the classes by name, for pickle."""
    base = getattr(transformers, name.removeprefix(_PREFIX), None) if name.startswith(_PREFIX) else None
    if isinstance(base, type):
        return pruned_class(base)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def pruned_config(base: Any, left: Remainder, **options: Any) -> Any:
    """Build the configuration of a model pruned to ``left`` from the whole model's configuration ``base``.

    Args:
        base: the whole model's.
        left: what remains.
        options: as ``from_dict`` of configurations takes them.
    """
    return pruned_class(type(base)).from_dict({**base.to_dict(), "lm_headroom_pruned": left.content}, **options)


def prune_for_good(model: Any, left: Remainder) -> Any:
    """Prune a model in memory, in place, and change its class to the pruned one."""
    whole = model.config
    shrink(model, left)
    model.__class__ = pruned_class(type(model))
    config = pruned_config(whole, left)
    for module in model.modules():
        # All modules share one configuration object, as before.
        if getattr(module, "config", None) is whole:
            module.config = config
    model.set_attn_implementation(IMPLEMENTATION)
    return model


def load_pruned(folder: str | Path, **options: Any) -> Any:
    """The model of a folder that ``lm-headroom export-pruned`` (or its ``save_pretrained``) wrote.

    A plain checkpoint is not among them: ``AutoModelForCausalLM.from_pretrained`` of transformers loads it, and, after
    ``import lm_headroom``, any export.

    Args:
        folder: the checkpoint.
        options: what ``from_pretrained`` takes, such as ``dtype`` and ``device_map``.

    Returns:
        The model in evaluation mode: the architecture's own class with fewer heads and FFNs.

    Raises:
        HeadroomError: the folder is not a pruned checkpoint or is damaged, or a configuration or an attention
            implementation is given.
    """
    folder = Path(folder)
    for name, why in _NOT_CHOSEN.items():
        if name in options:
            raise HeadroomError(f"load_pruned: {name} cannot be chosen: {why}; leave it out")
    config = read_config(folder)
    model_class = MODEL_FOR_CAUSAL_LM_MAPPING[type(config)]
    returns_info = options.get("output_loading_info", False)
    fixed = {"attn_implementation": IMPLEMENTATION, "local_files_only": True, "output_loading_info": True}
    try:
        model, info = model_class.from_pretrained(folder, config=config, **options | fixed)
    except HeadroomError:
        raise
    # transformers and its dependencies raise arbitrary errors, whose messages do not name the checkpoint.
    except (OSError, RuntimeError, ValueError) as error:
        raise HeadroomError(f"{folder}: this pruned checkpoint cannot be loaded ({error})") from error
    except Exception as error:
        if type(error).__name__ != "SafetensorError":
            raise
        raise HeadroomError(f"{folder}: a weight file is cut short or damaged ({error}); export it again") from error
    if info["missing_keys"]:
        missing = first_of(info["missing_keys"])
        raise HeadroomError(f"{folder}: the checkpoint has no weights for {missing}; export it again")
    return (model, info) if returns_info else model


def read_config(folder: Path) -> Any:
    """Read the configuration of a pruned checkpoint.

    Raises:
        HeadroomError: there is none, or it is not that of a pruned checkpoint.
    """
    path = folder / CONFIG
    if not path.is_file():
        raise HeadroomError(f"{folder}: no {CONFIG} there; expected a folder that 'lm-headroom export-pruned' made")
    try:
        content = json.loads(path.read_text(encoding="utf-8"), object_hook=_number)
    except ValueError as error:
        raise HeadroomError(f"{path} is no JSON ({error}); export the model again") from error
    if not isinstance(content, dict) or content.get("model_type") != MODEL_TYPE:
        model_type = content.get("model_type") if isinstance(content, dict) else None
        raise HeadroomError(
            f"{folder}: this is no pruned checkpoint (model type {model_type!r}); load it with transformers' own "
            "AutoModelForCausalLM.from_pretrained"
        )
    return parse_config(content, folder)


def _number(content: dict[str, Any]) -> Any:
    """The number that transformers writes as an object, since JSON has none for it; any other object as it is."""
    return float(content["__float__"]) if content.keys() == {"__float__"} else content


def parse_config(content: Mapping[str, Any], where: Path | str, **options: Any) -> Any:
    """The configuration that a pruned checkpoint's ``config.json`` holds; transformers' Auto classes know its model.

    Args:
        content: of the file.
        where: the checkpoint, for messages.
        options: as ``from_dict`` of configurations takes them, some of which change what it returns.

    Raises:
        HeadroomError: another version wrote it, or it does not say what is left.
    """
    if content.get("format") not in _FORMATS:
        raise HeadroomError(
            f"{where}: format {content.get('format')!r} of pruned checkpoints is not known here (only "
            f"{', '.join(map(str, _FORMATS))}); another version of lm-headroom made it: load it with that one"
        )
    try:
        base = AutoConfig.for_model(content["base_model_type"], **content["base"])
        config = pruned_config(base, Remainder.parse(content), **options)
    except (KeyError, TypeError, ValueError) as error:
        raise HeadroomError(
            f"{where}: {CONFIG} does not say what is left of the model ({error}); export it again"
        ) from error
    kind = pruned_class(type(base))
    if kind not in MODEL_FOR_CAUSAL_LM_MAPPING:
        MODEL_FOR_CAUSAL_LM_MAPPING.register(kind, pruned_class(MODEL_FOR_CAUSAL_LM_MAPPING[type(base)]))
    return config
