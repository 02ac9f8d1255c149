"""The form of an export: a plain checkpoint of its family, or one that takes lm-headroom's own classes.

Where all layers keep as many heads, groups and experts, a family's own class may be built from other numbers in its
configuration. Neither form is listed by family: the smaller model is built without weights and run. That its logits are
the masked model's is shown by the written export itself (:func:`lm_headroom.pruned.export.check_export`).
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from copy import deepcopy
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from transformers import AttentionInterface, AttentionMaskInterface

from lm_headroom.errors import HeadroomError
from lm_headroom.models import architectures
from lm_headroom.models.architecture import HeadLayout
from lm_headroom.models.experts import expert_blocks
from lm_headroom.models.inference import run_without_weights
from lm_headroom.models.sizes import model_from_config
from lm_headroom.pruned.model import Remainder, attend, shrink

_ANY, _OWN = "lm_headroom_shapes_alone", "lm_headroom_pruned_shapes"
"""Attention of passes without weights: of any function that a family may choose, and of pruned models' own."""


def _shaped(_: Any, query: Tensor, key: Tensor, value: Tensor, *__: Any, **___: Any) -> tuple[Tensor, None]:
    """Values of the shape that attention has."""
    return value.repeat_interleave(query.shape[1] // key.shape[1], dim=1).transpose(1, 2).contiguous(), None


for _name, _function in ((_ANY, _shaped), (_OWN, attend)):
    AttentionInterface.register(_name, _function)
    AttentionMaskInterface.register(_name, lambda *_, **__: None)


@dataclass(frozen=True)
class Counts:
    """Query heads and key-value heads of each layer of a plain checkpoint, and its experts.

    Attributes:
        heads, key_value_heads: of each layer that has heads.
        experts: of each layer that has experts; None where all are left.
        experts_key: the key of the family's configuration that says so.
    """

    heads: int
    key_value_heads: int
    experts: int | None = None
    experts_key: str = ""


@dataclass(frozen=True)
class Form:
    """How an export is written.

    Attributes:
        plain: of a plain checkpoint, the counts that its configuration names; None for lm-headroom's own classes.
        why_not: of the latter, why it cannot be plain.
    """

    plain: Counts | None
    why_not: str = ""


def choose_form(model: Any, left: Remainder) -> Form:
    """Choose the form of an export, plain where that is possible.

    Args:
        model: the whole model; only its class and configuration matter.
        left: what remains of it.

    Raises:
        HeadroomError: its family can be exported in neither form; names it and says why.
    """
    shape = architectures.head_layout(model)
    fault = _separation_fault(model, shape, left)
    if not fault:
        counts = even_counts(shape, left)
        plain = counts if isinstance(counts, str) else _plain_counts(model, left, counts)
        if not isinstance(plain, str):
            return Form(plain)
        fault = _own_fault(model, left)
        if not fault:
            return Form(None, plain)
    parts = "heads, FFNs and experts" if left.experts else "heads and FFNs"
    raise HeadroomError(
        f"model family {model.config.model_type!r} cannot be exported without these {parts}: {fault}; "
        "measure it with masks instead (lm_headroom.mask)"
    )


def even_counts(shape: HeadLayout, left: Remainder) -> Counts | str:
    """The counts that all layers share, or why no single ones describe them."""
    if len(left.ffns) < shape.layers:
        return "FFNs are removed"
    kept = [left.heads[layer] for layer in shape.attending]
    read = [
        [head // shape.group_of(layer) for head in heads] for layer, heads in zip(shape.attending, kept, strict=True)
    ]
    counts = {Counts(len(heads), len(set(groups))) for heads, groups in zip(kept, read, strict=True)}
    if len(counts) > 1:
        return "layers keep different numbers of heads or key-value heads"
    (count,) = counts
    if not count.heads:
        return "no head is left"
    each = count.heads // count.key_value_heads
    if any(groups != [group for group in sorted(set(groups)) for _ in range(each)] for groups in read):
        return "key-value heads are read by different numbers of heads"
    experts = {len(kept) for _, kept in left.experts}
    if len(experts) > 1:
        return "layers keep different numbers of experts"
    return replace(count, experts=max(experts, default=None))


def plain_config(whole: Any, counts: Counts, d_head: int) -> Any:
    """The configuration of a plain checkpoint.

    Args:
        whole: the whole model's.
        counts: of each layer.
        d_head: width of a head, which other families than those that name it would work out from the number of heads.

    Raises:
        AttributeError: the configuration works out one of them.
    """
    config = deepcopy(whole)
    text = config.get_text_config()
    text.num_attention_heads = counts.heads
    if getattr(text, "num_key_value_heads", None) is not None:
        text.num_key_value_heads = counts.key_value_heads
    if getattr(text, "head_dim", None) is None:
        text.head_dim = d_head
    if counts.experts is not None:
        setattr(text, counts.experts_key, counts.experts)
    return config


def make_plain(model: Any, left: Remainder, counts: Counts) -> Any:
    """Remove everything but ``left`` from a model, and put its weights into the family's class with fewer of them."""
    config = plain_config(model.config, counts, architectures.head_layout(model).widest)
    shrink(model, left)
    with torch.device("meta"):
        plain = type(model)(config)
    # Strictly by name and shape, and without a copy.
    plain.load_state_dict(model.state_dict(), assign=True)
    plain.tie_weights()
    plain.generation_config = model.generation_config
    return plain.eval()


def _separation_fault(model: Any, shape: HeadLayout, left: Remainder) -> str:
    """Why some heads of a layer cannot be removed without others; empty where they can."""
    if any(len(heads) < shape.heads for heads in left.heads):
        if shape.shared:
            return f"layer {shape.shared[0][0]} reads the keys and values of layer {shape.shared[0][1]}"
        if not isinstance(shape.d_head, int) or not isinstance(shape.key_value_heads, int):
            return "its layers differ in key-value heads or in the width of heads"
    if all(len(heads) in (0, shape.heads) for heads in left.heads):
        return ""
    if architectures.architecture_of(model).joint_norms:
        return "one norm covers the queries or keys of all heads of a layer"
    other = next((m for maps in architectures.projections(model).values() for m in maps if not _is_matrix(m)), None)
    return "" if other is None else f"its {type(other).__name__} maps have no rows of single heads"


def _is_matrix(linear: Any) -> bool:
    return architectures.is_plain(linear) and linear.weight.dim() == 2


def _plain_counts(model: Any, left: Remainder, counts: Counts) -> Counts | str:
    """The counts with which the family's class is the smaller model, or why it is with none."""
    if counts.experts is None:
        return _plain_fault(model, left, counts) or counts
    text = model.config.get_text_config()
    number = next(iter(expert_blocks(model).values())).number
    keys = [key for key, value in text.to_dict().items() if type(value) is int and value == number]
    # Names of old stand for others; and the likeliest is tried first, since each costs a model.
    keys = sorted(set(keys) - set(text.attribute_map), key=lambda key: ("expert" not in key, key))
    faults = []
    for key in keys:
        named = replace(counts, experts_key=key)
        fault = _plain_fault(model, left, named)
        if not fault:
            return named
        faults.append(fault)
    return faults[0] if faults else "its configuration has no key with the number of experts"


def _plain_fault(model: Any, left: Remainder, counts: Counts) -> str:
    """Why the family's class, built with other head counts, is not the smaller model; empty where it is."""
    try:
        config = plain_config(model.config, counts, architectures.head_layout(model).widest)
        # As it is read back: some configurations look at numbers of heads only where they are built from all keys.
        plain = model_from_config(type(config).from_dict(config.to_dict()))
    # A configuration may refuse numbers in any way.
    except Exception as error:
        what = "experts" if counts.experts_key else "heads"
        return f"its configuration cannot say how many {what} are left ({_short(error)})"
    smaller = _without_weights(model)
    shrink(smaller, left)
    shapes, expected = _shapes(plain.state_dict()), _shapes(smaller.state_dict())
    differing = sorted(name for name in {*shapes, *expected} if shapes.get(name) != expected.get(name))
    if differing:
        return f"its configuration does not decide the shape of {differing[0]}"
    return _pass_fault(plain, _ANY)


def _own_fault(model: Any, left: Remainder) -> str:
    """Why the family's code does not run with fewer heads in some layers; empty where it does."""
    if model.config.get_text_config() is not model.config:
        # Its own class would not stop at the sentence that it reads for the number of layers.
        return "its language model is part of a larger one"
    smaller = _without_weights(model)
    try:
        shrink(smaller, left)
    # Its parts may be of any kind.
    except Exception as error:
        return _short(error)
    return _pass_fault(smaller, _OWN)


def _without_weights(model: Any) -> Any:
    smaller = model_from_config(deepcopy(model.config))
    architectures.share(model, smaller)
    return smaller


def _shapes(state: Mapping[str, Tensor]) -> dict[str, torch.Size]:
    return {name: values.shape for name, values in state.items()}


def _pass_fault(model: Any, attention: str) -> str:
    """Why a pass of a model without weights fails, with one of the attention functions above; empty where it runs."""
    try:
        with torch.device("meta"), torch.no_grad(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            model.set_attn_implementation(attention)
            if model.config._attn_implementation != attention:
                return "its attention does not go through transformers' attention interface"
            if hasattr(model, "set_experts_implementation"):
                model.set_experts_implementation("batched_mm")
            run_without_weights(model)
    # A family's code may raise anything.
    except Exception as error:
        return f"a pass of the smaller model fails ({_short(error)})"
    return ""


def _short(error: Exception) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())[:120]}"
