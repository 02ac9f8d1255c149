"""Gradient head importance (eq. 8 and 9 of arXiv 2212.09095).

For a document (x, y) with y the gold continuation, L(y|x) is the mean over y's tokens of -log p. A^h is head h's
output, and its importance |A^h . dL/dA^h| is what a first-order expansion says removing the head does to the loss.
Weights are frozen: only activations carry gradients.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from headroom.checkpoints import Loaded
from headroom.errors import HeadroomError
from headroom.likelihood import Batch, Document, pack, target_log_probabilities
from headroom.progress import Progress

Reduction = Literal["token", "example"]
LastLayerTokens = Literal["all", "target"]
Array = np.ndarray[Any, np.dtype[np.float64]]


@dataclass(frozen=True)
class Contributions:
    """What each document contributes to the head scores (N documents).

    Attributes:
        absolute: sum over tokens of |A_t . dL/dA_t|, [N, layer, head], nats.
        signed: sum over tokens of A_t . dL/dA_t, [N, layer, head], nats: dL/d(gate of the head) at an open gate.
        n_inputs: input tokens, N_i - 1 of a document of N_i tokens, [N].
        n_targets: target tokens, [N].
    """

    absolute: Array
    signed: Array
    n_inputs: Array
    n_targets: Array


@dataclass(frozen=True)
class Scores:
    """Scores of all heads, each [layer, head], nats."""

    score: Array
    stderr: Array
    even: Array
    odd: Array


def contributions(
    loaded: Loaded, documents: Sequence[Document], token_budget: int, progress: Progress | None = None
) -> Contributions:
    """One forward and backward pass per document.

    Args:
        loaded: the model.
        documents: one row each: the gold continuation.
        token_budget: tokens per batch; batches change nothing but speed and memory.
        progress: advanced by documents.

    Raises:
        HeadroomError: a gradient or loss is not finite; names document and layer.
    """
    shape = (len(documents), loaded.shape.layers, loaded.shape.heads)
    found = Contributions(
        np.zeros(shape),
        np.zeros(shape),
        np.array([len(document.rows[0].inputs) for document in documents], dtype=float),
        np.array([document.rows[0].n_target for document in documents], dtype=float),
    )
    for batch in pack(documents, token_budget, loaded.device):
        members = torch.unique_consecutive(batch.rows).cpu().numpy()
        for layer, products in enumerate(_head_products(loaded, batch, found.n_targets)):
            # products: A_t . dL/dA_t per token, [document, time, head]
            for target, values in ((found.absolute, products.abs()), (found.signed, products)):
                sums = values.sum(dim=1).double().cpu().numpy()
                if not np.isfinite(sums).all():
                    place = int(np.argwhere(~np.isfinite(sums))[0][0])
                    raise HeadroomError(
                        f"document {documents[members[place]].doc_id}, layer {layer}: the gradient of the loss is not "
                        "finite; try dtype float32 or bfloat16"
                    )
                target[members, layer] = sums
        if progress:
            progress.advance(batch.n_documents)
    return found


def _head_products(loaded: Loaded, batch: Batch, n_targets: Array) -> list[Tensor]:
    """A_t . dL/dA_t for each layer, [document, time, head], in at least float32."""
    with torch.enable_grad(), loaded.seam.capture() as captured:
        log_p = target_log_probabilities(loaded, batch)
        weights = torch.as_tensor(1 / n_targets[batch.rows.cpu().numpy()], device=log_p.device, dtype=log_p.dtype)
        # A sum of per-document means: the gradient with respect to one document's activations is that document's own.
        loss = -(log_p * weights).sum()
        outputs = [captured[layer] for layer in range(loaded.shape.layers)]
        gradients = torch.autograd.grad(loss, outputs)
    wide = torch.promote_types(outputs[0].dtype, torch.float32)
    return [(a.detach().to(wide) * g.to(wide)).sum(dim=-1) for a, g in zip(outputs, gradients, strict=True)]


def scores(found: Contributions, reduction: Reduction = "token", last_layer_tokens: LastLayerTokens = "all") -> Scores:
    """Reduce documents to head scores.

    ``token`` divides the sum over documents and tokens of |A_t . dL/dA_t| by the sum of N_i - 1, as the released code
    does; ``example`` is eq. 8 read literally, the mean over documents of |sum over tokens A_t . dL/dA_t|.
    ``last_layer_tokens="target"`` divides the last layer by the number of target tokens instead, which the released
    code did and which inflates that layer (token reduction only).

    Raises:
        HeadroomError: fewer than two documents, so that a half of them would be empty.
    """
    n = len(found.n_inputs)
    if n < 2:
        raise HeadroomError(f"head importance needs at least two scoring documents for its half scores, got {n}")
    if reduction == "example":
        values = np.abs(found.signed)
        return Scores(
            values.mean(axis=0),
            values.std(axis=0, ddof=1) / np.sqrt(n),
            values[::2].mean(axis=0),
            values[1::2].mean(axis=0),
        )
    sizes = np.repeat(found.n_inputs[:, None], found.absolute.shape[1], axis=1)
    if last_layer_tokens == "target":
        sizes[:, -1] = found.n_targets
    sizes = sizes[:, :, None]

    def ratio(part: slice) -> Array:
        result: Array = found.absolute[part].sum(axis=0) / sizes[part].sum(axis=0)
        return result

    score = ratio(slice(None))
    residuals = found.absolute - score * sizes
    stderr = np.sqrt(n / (n - 1) * (residuals**2).sum(axis=0)) / sizes.sum(axis=0)
    return Scores(score, stderr, ratio(slice(0, None, 2)), ratio(slice(1, None, 2)))
