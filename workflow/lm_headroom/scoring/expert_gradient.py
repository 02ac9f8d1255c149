"""Gradient importance of experts: eq. 8 and 9 for what a layer's experts add to its FFN's output.

Expert e gives w_te E_e(x_t) to token t if the router sends it there, with weight w_te, else nothing. The product of
this output and the gradient of the loss by it is w_te dL/dw_te, since the FFN's output is linear in the weights: one
backward pass to the routers' weights serves all experts. As for heads, it estimates to first order how the loss changes
if the output is removed. The estimate leaves out that the router then sends the token to another expert instead, which
removing an expert does (:mod:`lm_headroom.engine.expert_interventions`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from lm_headroom.engine.likelihood import check_finite, target_log_probabilities
from lm_headroom.engine.loading import LoadedModel
from lm_headroom.engine.packing import Batch, Batches, Document
from lm_headroom.engine.resume_cache import NO_CACHE, ResumeCache
from lm_headroom.models.experts import expert_grid
from lm_headroom.progress import Progress
from lm_headroom.scoring.gradient import (
    GradientProducts,
    Scores,
    check_sums,
    differentiated,
    gold_loss,
    scores,
    scores_by,
    sum_by_document,
)
from lm_headroom.settings import other_dtype

Array = np.ndarray[Any, np.dtype[np.float64]]


class ExpertSums(NamedTuple):
    """Sums over each document's tokens, each [document, layer, expert]; see :class:`ExpertProducts`."""

    absolute: Array
    signed: Array
    routed: Array


@dataclass(frozen=True)
class ExpertProducts(GradientProducts):
    """Gradient-activation products of experts: ``absolute`` and ``signed`` are [document, layer, expert], in nats, with
    a row for each layer that has experts.

    Attributes:
        routed: tokens of each document that are sent to each expert, [document, layer, expert]; in the last layer,
            whose FFN gets only the tokens that predict the continuation, estimated from these.
        layers: numbers of the layers that have experts.
    """

    routed: Array
    layers: list[int]

    @property
    def usage(self) -> Array:
        """Share of all tokens that are sent to each expert, [layer, expert]."""
        share: Array = self.routed.sum(axis=0) / self.n_inputs.sum()
        return share


def expert_products(
    loaded: LoadedModel,
    documents: Sequence[Document],
    token_budget: int | Callable[[], int],
    progress: Progress | None = None,
    cache: ResumeCache = NO_CACHE,
) -> ExpertProducts:
    """Compute the products of documents, by one forward and one backward pass for each.

    Args:
        loaded: the model.
        documents: with one sequence each, the gold continuation.
        token_budget: tokens per batch; changes only speed and memory.
        progress: advanced by documents.
        cache: holds finished documents.

    Raises:
        HeadroomError: the model has no experts that a router chooses among; or a gradient or loss is not finite (names
            the document and the layer).

    Example:
        products = expert_products(loaded, documents, 4096)
        np.abs(products.signed).mean(axis=0)  # the criterion `example`, [layer, expert]
    """
    layers, number, _ = expert_grid(loaded.skeleton)
    n_inputs = np.array([len(document.sequences[0].inputs) for document in documents], dtype=float)
    n_targets = np.array([document.sequences[0].n_target for document in documents], dtype=float)
    result = ExpertSums(*(np.zeros((len(documents), len(layers), number)) for _ in ExpertSums._fields))
    # Every document has its own gradient, so none shares a tree.
    batches = Batches(documents, token_budget, lambda: loaded.device, share=False)
    layout = {name: ("f", values.shape[1:]) for name, values in result._asdict().items()}
    sums_of = partial(_sums, loaded, layers, number, n_targets)
    with cache.unit("expert-gradients", batches.keys, layout) as unit:
        sum_by_document(unit, batches, result, lambda batch: differentiated(batch, partial(sums_of, batch)), progress)
    zeros = np.zeros((len(documents), len(layers)))
    return ExpertProducts(result.absolute, result.signed, zeros, n_inputs, n_targets, result.routed, layers)


def _sums(
    loaded: LoadedModel, layers: Sequence[int], number: int, n_targets: Array, batch: Batch, checkpointing: bool
) -> ExpertSums:
    """The sums of a batch's documents."""
    owners, advice = batch.owners(), other_dtype(str(loaded.model.dtype))
    interventions = loaded.interventions
    # Layers are recomputed where heads are captured, too; their outputs are not asked for.
    with torch.enable_grad(), interventions.capture(checkpointing), interventions.experts.capture() as routed:
        log_p = target_log_probabilities(loaded, batch)
        check_finite(loaded, batch, log_p.detach())
        probes = [routed[layer].probe for layer in layers]
        gradients = torch.autograd.grad(gold_loss(batch, n_targets)(log_p), probes)
    sums = []
    for layer, gradient in zip(layers, gradients, strict=True):
        weights, experts = routed[layer].weights, routed[layer].experts
        wide = torch.promote_types(weights.dtype, torch.float32)
        products = weights.to(wide) * gradient.to(wide)
        # Of the last layer's FFN, only the columns that predict are computed: each stands for as many of its document.
        places = owners if len(weights) == len(owners) else owners[batch.positions.cpu()]
        inputs, passed = (torch.bincount(each, minlength=batch.n_documents) for each in (owners, places))
        tokens = (inputs / passed)[places].to(products).unsqueeze(1).expand_as(products)
        by_document = [
            _by_expert(values, experts, places, (batch.n_documents, number))
            for values in (products.abs(), products, tokens)
        ]
        check_sums(batch, layer, by_document[1], advice)
        sums.append(by_document)
    return ExpertSums(*(np.stack(each, axis=1) for each in zip(*sums, strict=True)))


def _by_expert(values: Tensor, experts: Tensor, owners: Tensor, shape: tuple[int, int]) -> Array:
    """Sum [token, k] over each document's tokens by the expert that each value is of, [document, expert]."""
    places = owners.to(experts.device)[:, None] * shape[1] + experts
    sums = values.new_zeros(shape[0] * shape[1]).index_add(0, places.flatten(), values.flatten())
    return sums.reshape(shape).double().cpu().numpy()


def score_experts_by(products: ExpertProducts, criterion: str) -> Scores:
    """Scores of experts with errors over documents and halves, by one of
    :func:`lm_headroom.study.criteria.expert_criteria`.

    Raises:
        HeadroomError: there are fewer than two documents.
    """
    if criterion != "usage":
        return scores_by(products, criterion)
    # A ratio of sums over documents, as `token` is.
    return scores(replace(products, absolute=products.routed))
