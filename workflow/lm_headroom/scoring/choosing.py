"""Gradient-activation products of heads and FFNs by the loss of choosing.

The loss of a document is the cross entropy over its answer choices: log sum_k exp(l_k) over all choices, minus the same
over the right ones, where l_k is the log-likelihood of choice k, summed over its tokens, as accuracy compares them.
Eq. 9 asks how likely the right answer is; this asks how much likelier than the others. With one choice, it is zero.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from lm_headroom.engine.loading import LoadedModel
from lm_headroom.engine.packing import Batch, Batches, Document
from lm_headroom.engine.resume_cache import NO_CACHE, ResumeCache, digest
from lm_headroom.progress import Progress
from lm_headroom.scoring.gradient import check_sums, differentiated, gate_products, sum_by_document
from lm_headroom.settings import other_dtype

Array = np.ndarray[Any, np.dtype[np.float64]]
Right = Sequence[Sequence[bool]]
"""Whether each sequence of each document is a right choice."""


class ChoosingProducts(NamedTuple):
    """c_d: sums over each document's tokens of A_t . dL/dA_t, [N, layer, head], and F_t . dL/dF_t, [N, layer, 1]."""

    heads: Array
    ffns: Array


def choosing_loss(batch: Batch, log_p: Tensor, right: Right) -> Tensor:
    """Sum of the documents' losses, nats, from the log p of each target token, [T]."""
    last = max(member.first_sequence + len(member.document.sequences) for member in batch.members)
    totals = log_p.new_zeros(last).index_add(0, batch.sequence_ids.to(log_p.device), log_p)
    losses = []
    for member in batch.members:
        choices = totals[member.first_sequence :][: len(member.document.sequences)]
        is_right = torch.tensor(right[member.number], device=choices.device)
        losses.append(choices.logsumexp(0) - choices[is_right].logsumexp(0))
    return torch.stack(losses).sum()


def choosing_products(
    loaded: LoadedModel,
    documents: Sequence[Document],
    right: Right,
    token_budget: int | Callable[[], int],
    progress: Progress | None = None,
    cache: ResumeCache = NO_CACHE,
    gates: Tensor | None = None,
) -> ChoosingProducts:
    """Compute the products of documents, by one forward and one backward pass over all choices of each.

    Args:
        loaded: the model.
        documents: with a sequence for each choice, at least one of them right.
        right: which choices are right.
        token_budget: tokens per batch; changes only speed and memory.
        progress: advanced by documents.
        cache: holds finished documents.
        gates: [layer, head], in force in both passes; None for open gates.

    Raises:
        HeadroomError: a gradient or log-likelihood is not finite; names document and layer.
    """
    n, shape = len(documents), loaded.shape
    result = ChoosingProducts(np.zeros((n, *shape.grid)), np.zeros((n, shape.layers, 1)))

    def differentiate(batch: Batch) -> ChoosingProducts:
        # The gates must also be in force when the backward pass recomputes layers.
        with loaded.interventions.gates(gates):
            return differentiated(batch, partial(_sums, loaded, batch, right))

    # Every document has its own gradient, so none shares a tree.
    batches = Batches(documents, token_budget, lambda: loaded.device, share=False)
    keys = [digest(key, list(map(bool, golds))) for key, golds in zip(batches.keys, right, strict=True)]
    unit_name = "choosing-gradients" if gates is None else f"choosing-gradients-{digest(gates.tolist())}"
    layout = {name: ("f", values.shape[1:]) for name, values in result._asdict().items()}
    with cache.unit(unit_name, keys, layout) as unit:
        return sum_by_document(unit, batches, result, differentiate, progress)


def _sums(loaded: LoadedModel, batch: Batch, right: Right, checkpointing: bool) -> ChoosingProducts:
    """The products of a batch's documents."""
    owners, advice = batch.owners(), other_dtype(str(loaded.model.dtype))
    by_component: tuple[list[Array], list[Array]] = ([], [])
    passes = gate_products(loaded, batch, lambda log_p: choosing_loss(batch, log_p, right), checkpointing)
    for layer, (_, *both) in enumerate(passes):
        for values, layers in zip(both, by_component, strict=True):
            if values is None:
                continue
            empty = values.new_zeros(batch.n_documents, values.shape[1])
            sums = empty.index_add(0, owners.to(values.device), values).cpu().numpy()
            check_sums(batch, layer, sums, advice)
            layers.append(sums)
    return ChoosingProducts(*(np.stack(sums, axis=1) for sums in by_component))
