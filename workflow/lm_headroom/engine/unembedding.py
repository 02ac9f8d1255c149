"""Logits from last hidden states."""

from __future__ import annotations

from collections.abc import Sequence
from operator import attrgetter
from typing import Any

import torch
from accelerate.utils import align_module_device
from torch import Tensor

from lm_headroom.engine.attention import soft_cap
from lm_headroom.models import architectures

FACTOR = "lm_headroom_logit_factor"
"""The attribute of a model that holds the factor of its logits."""


def logits(model: Any, hidden: Tensor) -> Tensor:
    """Compute logits [..., vocabulary] of last hidden states [..., d_model], in at least float32."""
    return cap_logits(model, at_least_float32(model.get_output_embeddings()(hidden)))


def cap_logits(model: Any, values: Tensor) -> Tensor:
    """Apply the model's factor and soft cap to logits, if it has any."""
    cap = _cap_of(model)
    values = values * getattr(model, FACTOR, 1.0)
    return values if cap is None else soft_cap(values, cap)


def find_factor(model: Any, raw: Tensor, own: Tensor) -> float:
    """The factor between what the output embedding gives and the model's logits: a number of the configuration.

    It is a number that the configuration holds, one over it, or the ratio of two of them, since families name and use
    it in their own ways. That it explains the logits is proved when interventions are attached.

    Args:
        model: the model.
        raw: outputs of the output embedding, [..., vocabulary].
        own: the model's own logits, likewise.
    """
    cap, raw, own = _cap_of(model), raw.double(), own.double()
    if cap is not None:
        # Near the cap, rounding would be magnified.
        raw, own = (values[own.abs() < cap / 2] for values in (raw, own))
        own = cap * torch.atanh(own / cap)
    fitted = float((raw * own).sum() / raw.square().sum().clamp_min(torch.finfo(torch.float64).tiny))
    numbers = {
        float(value)
        for value in architectures.text_config(model).to_dict().values()
        if isinstance(value, int | float) and not isinstance(value, bool) and value > 0
    }
    candidates = {1.0} | {a / b for a in numbers | {1.0} for b in numbers | {1.0}}
    return min(candidates, key=lambda number: (abs(number - fitted), number != 1))


def _cap_of(model: Any) -> float | None:
    key = architectures.architecture_of(model).softcap
    return getattr(architectures.text_config(model), key) if key else None


def unembedding_rows(model: Any, ids: Sequence[int]) -> Tensor:
    """The unembedding vector of each token, [token, d_model], without norms and biases."""
    embedding = model.get_output_embeddings()
    # Fetches weights that are offloaded from the GPU.
    with align_module_device(embedding):
        rows = at_least_float32(embedding.weight[torch.tensor(ids, device=embedding.weight.device)])
    path = architectures.architecture_of(model).final_projection
    projection = attrgetter(path)(model) if path else None
    if projection is None:
        return rows
    with align_module_device(projection):
        return rows @ projection.weight.to(rows)


def at_least_float32(tensor: Tensor) -> Tensor:
    """Convert to float32 unless the dtype is wider."""
    return tensor.to(torch.promote_types(tensor.dtype, torch.float32))
