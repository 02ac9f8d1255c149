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


def logits(model: Any, hidden: Tensor) -> Tensor:
    """Compute logits [..., vocabulary] of last hidden states [..., d_model], in at least float32."""
    return cap_logits(model, at_least_float32(model.get_output_embeddings()(hidden)))


def cap_logits(model: Any, values: Tensor) -> Tensor:
    """Apply the model's soft cap to logits, if it has one."""
    key = architectures.architecture_of(model).softcap
    cap = getattr(architectures.text_config(model), key) if key else None
    return values if cap is None else soft_cap(values, cap)


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
