"""Gradient head importance (eq. 8 and 9 of arXiv 2212.09095).

For a document (x, y) with y the gold continuation, L(y|x) is the mean over y's tokens of -log p. A^h is head h's
output, and its importance |A^h . dL/dA^h| is what a first-order expansion says removing the head does to the loss.
Weights are frozen: only activations carry gradients.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from headroom.checkpoints import Loaded
from headroom.errors import HeadroomError
from headroom.likelihood import check_finite, target_log_probabilities
from headroom.packing import Batch, Batches, Document, out_of_memory
from headroom.parts import NO_PARTS, Parts
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
        zeros: how many of the products A_t . dL/dA_t are exactly zero though the loss depends on A_t, [N, layer].
        n_inputs: input tokens, N_i - 1 of a document of N_i tokens, [N].
        n_targets: target tokens, [N].
    """

    absolute: Array
    signed: Array
    zeros: Array
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
    loaded: Loaded,
    documents: Sequence[Document],
    token_budget: int | Callable[[], int],
    progress: Progress | None = None,
    parts: Parts = NO_PARTS,
) -> Contributions:
    """One forward and backward pass per document.

    Args:
        loaded: the model.
        documents: one row each: the gold continuation.
        token_budget: tokens per batch; batches change nothing but speed and memory. A function is called when the
            model is needed.
        progress: advanced by documents.
        parts: where documents are kept that are done, and looked for.

    Raises:
        HeadroomError: a gradient or loss is not finite; names document and layer.
    """
    shape = (len(documents), loaded.shape.layers, loaded.shape.heads)
    found = Contributions(
        np.zeros(shape),
        np.zeros(shape),
        np.zeros(shape[:2]),
        np.array([len(document.rows[0].inputs) for document in documents], dtype=float),
        np.array([document.rows[0].n_target for document in documents], dtype=float),
    )

    def differentiate(batch: Batch) -> list[Sums]:
        try:
            return _contributions(loaded, batch, found.n_targets)
        except (MemoryError, RuntimeError) as error:
            if not out_of_memory(error) or batch.n_documents > 1:
                raise
        # One document alone: layers are computed twice rather than kept.
        return _contributions(loaded, batch, found.n_targets, checkpointing=True)

    # Every document has its own gradient, so none shares a tree.
    batches = Batches(documents, token_budget, lambda: loaded.device, share=False)
    with parts.unit("head-gradients", batches.keys) as unit:
        known = frozenset(unit.known)
        for number in known:
            entry = unit.known[number]
            found.absolute[number], found.signed[number] = entry["absolute"][0], entry["signed"][0]
            found.zeros[number] = entry["zeros"][0]
        if progress:
            progress.reuse(len(known))
        if unit.complete:
            return found
        for batch, sums in batches.each(differentiate, known):
            members = [member.number for member in batch.members]
            for layer, (absolute, signed, zeros) in enumerate(sums):
                if not (np.isfinite(absolute).all() and np.isfinite(signed).all()):
                    place = int(np.argwhere(~np.isfinite(absolute + signed))[0][0])
                    raise HeadroomError(
                        f"document {documents[members[place]].doc_id}, layer {layer}: the gradient of the loss is not "
                        "finite; try dtype float32 or bfloat16"
                    )
                found.absolute[members, layer], found.signed[members, layer] = absolute, signed
                found.zeros[members, layer] = zeros
            for place, number in enumerate(members):
                kept = (np.stack([values[which][place] for values in sums])[None] for which in (0, 1, 2))
                unit.add(number, **dict(zip(("absolute", "signed", "zeros"), kept, strict=True)))
            if progress:
                progress.advance(batch.n_documents)
    return found


Sums = tuple[Array, Array, Array]
"""Of one layer, sums over a document's tokens: |A_t . dL/dA_t| and A_t . dL/dA_t, each [document, head], and how many
products are exactly zero, [document]."""


def _contributions(loaded: Loaded, batch: Batch, n_targets: Array, checkpointing: bool = False) -> list[Sums]:
    """The sums of each layer."""
    # Each document has a tree of its own.
    places = batch.owners()
    sums = []
    for layer, products in enumerate(head_products(loaded, batch, n_targets, checkpointing)):
        places = places.to(products.device)
        empty = products.new_zeros(batch.n_documents, products.shape[1])
        parts = [empty.index_add(0, places, values) for values in (products.abs(), products)]
        # In the last layer, only columns that predict can reach the loss.
        last = layer == loaded.shape.layers - 1
        reached = batch.positions.to(products.device) if last else torch.arange(len(places), device=products.device)
        silent = (products[reached] == 0).to(products.dtype)
        zeros = empty.index_add(0, places[reached], silent).sum(dim=1)
        sums.append((parts[0].cpu().numpy(), parts[1].cpu().numpy(), zeros.cpu().numpy()))
    return sums


def head_products(loaded: Loaded, batch: Batch, n_targets: Array, checkpointing: bool = False) -> list[Tensor]:
    """A_t . dL/dA_t for each layer, [column, head], in at least float32.

    Args:
        loaded: the model.
        batch: trees of one document each.
        n_targets: target tokens of each row.
        checkpointing: compute layers again in the backward pass rather than keep what it needs.
    """
    with torch.enable_grad(), loaded.seam.capture(checkpointing) as captured:
        log_p = target_log_probabilities(loaded, batch)
        check_finite(loaded, batch, log_p.detach())
        weights = torch.as_tensor(1 / n_targets[batch.rows.cpu().numpy()], device=log_p.device, dtype=log_p.dtype)
        # A sum of per-document means: the gradient with respect to one document's activations is that document's own.
        loss = -(log_p * weights).sum()
        captures = [captured[layer] for layer in range(loaded.shape.layers)]
        gradients = torch.autograd.grad(loss, [capture.probe for capture in captures])
    wide = torch.promote_types(captures[0].value.dtype, torch.float32)
    return [(c.value.to(wide) * g.to(wide)).sum(dim=-1)[0] for c, g in zip(captures, gradients, strict=True)]


def zero_shares(found: Contributions) -> Array:
    """Share of the products A_t . dL/dA_t that are exactly zero though the loss depends on A_t, [layer].

    Next to none, unless a head is dead or gradients underflow, as they do in float16.
    """
    n_products = np.repeat(found.n_inputs.sum() * found.absolute.shape[2], found.absolute.shape[1])
    n_products[-1] = found.n_targets.sum() * found.absolute.shape[2]
    shares: Array = found.zeros.sum(axis=0) / n_products
    return shares


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
