"""Gradient importance of heads (eq. 8 and 9 of arXiv 2212.09095), and of FFNs.

For a document (x, y) with y the gold continuation, the loss L(y|x) is the mean over y's tokens of -log p. With A^h the
output of head h, its importance |A^h . dL/dA^h| estimates, to first order, how the loss changes if the head is removed.
For an FFN it is |F . dL/dF|, with F its output to the residual stream. Weights are frozen: only activations carry
gradients. Two criteria need no gradient: the norm of a head's output to the residual stream on the same documents, and
the norm of its slice of the output projection.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, NamedTuple, TypeVar

import numpy as np
import torch
from accelerate.utils import align_module_device
from torch import Tensor, nn

from lm_headroom.analysis.criteria import depth, document_terms, hies, signed_criteria
from lm_headroom.engine.attention import AttentionSpec
from lm_headroom.engine.likelihood import check_finite, target_log_probabilities
from lm_headroom.engine.loading import LoadedModel
from lm_headroom.engine.packing import Batch, Batches, Document, out_of_memory
from lm_headroom.engine.resume_cache import NO_CACHE, ResumeCache, WorkUnit, digest
from lm_headroom.errors import HeadroomError
from lm_headroom.models import architectures
from lm_headroom.models.architecture import HeadLayout
from lm_headroom.progress import Progress
from lm_headroom.settings import other_dtype
from lm_headroom.study.choices import LastLayerTokens, Reduction
from lm_headroom.study.ranking_names import VARIANTS

BLOCK = 64
"""Query positions whose attention is computed at once, so that no N x N attention map is kept."""
GRADIENT, FORWARD = "the gradient of the loss", ("written", "entropy", "sink")
"""What is not finite if a sum is not, and the sums that the forward pass decides."""
_PARTS = (slice(None), slice(0, None, 2), slice(1, None, 2))
"""All documents, and those at even and odd places."""
Array = np.ndarray[Any, np.dtype[np.float64]]
Result = TypeVar("Result")
Sums = TypeVar("Sums", bound=Any)
"""A named tuple of arrays."""


@dataclass(frozen=True)
class GradientProducts:
    """Gradient-activation products: what each of N documents contributes to the scores of heads, or FFNs.

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
class Contributions(GradientProducts):
    """Gradient-activation products of heads, and what the same passes measure beside them.

    Attributes:
        written: sum over tokens of ||A_t W_O^h||_2, [N, layer, head]: what the head adds to the residual stream, after
            the norm that some architectures have there.
        entropy: sum over query positions of the entropy of the head's attention, [N, layer, head], nats. The first
            position, which can attend to itself alone, counts with 0.
        sink: sum over query positions of the attention to the document's first token, [N, layer, head]; the first
            position counts with 1, and one whose sliding window has left that token with 0.
        ffns: the same products for the FFNs' outputs, [N, layer, 1].
    """

    written: Array
    entropy: Array
    sink: Array
    ffns: GradientProducts


@dataclass(frozen=True)
class Scores:
    """Scores with standard errors, and scores by even and odd documents alone, each [layer, head], in the criterion's
    unit."""

    score: Array
    stderr: Array
    even: Array
    odd: Array

    @property
    def columns(self) -> dict[str, Array]:
        """The columns that artifacts have of them, in the order of heads."""
        return {
            "score": self.score.ravel(),
            "stderr": self.stderr.ravel(),
            "score_even": self.even.ravel(),
            "score_odd": self.odd.ravel(),
        }


def contributions(
    loaded: LoadedModel,
    documents: Sequence[Document],
    token_budget: int | Callable[[], int],
    progress: Progress | None = None,
    cache: ResumeCache = NO_CACHE,
    gates: Tensor | None = None,
) -> Contributions:
    """Compute the contributions of documents, by one forward and one backward pass for each.

    Args:
        loaded: the model.
        documents: with one sequence each, the gold continuation.
        token_budget: tokens per batch; changes only speed and memory. A function is called when the model is needed.
        progress: advanced by documents.
        cache: holds finished documents.
        gates: [layer, head], in force in both passes; a head with gate 0 has no output and contributes nothing. None
            for open gates.

    Raises:
        HeadroomError: a gradient or loss is not finite; names document and layer.
    """
    arrays, result = _empty_contributions(documents, loaded.shape)

    def differentiate(batch: Batch) -> DocumentSums:
        # The gates must also be in force when the backward pass recomputes layers.
        with loaded.interventions.gates(gates):
            sums = differentiated(batch, partial(_contributions, loaded, batch, result.n_targets))
        return _stacked(batch, sums, other_dtype(str(loaded.model.dtype)))

    # Every document has its own gradient, so none shares a tree.
    batches = Batches(documents, token_budget, lambda: loaded.device, share=False)
    unit_name = "head-gradients" if gates is None else f"head-gradients-{digest(gates.tolist())}"
    layout = {name: ("f", values.shape[1:]) for name, values in arrays._asdict().items()}
    with cache.unit(unit_name, batches.keys, layout) as unit:
        sum_by_document(unit, batches, arrays, differentiate, progress)
    return result


def sum_by_document(
    unit: WorkUnit,
    batches: Batches,
    result: Sums,
    differentiate: Callable[[Batch], Sums],
    progress: Progress | None = None,
) -> Sums:
    """Fill arrays of all documents with what a work unit has, and compute and keep what it lacks.

    Args:
        unit: keeps the arrays of finished documents, under their names.
        batches: the documents.
        result: a named tuple of arrays, each [document, ...], which are filled.
        differentiate: gives the same of a batch's documents.
        progress: advanced by documents.
    """
    for number, entry in unit.done.items():
        for name, values in result._asdict().items():
            values[number] = entry[name][0]
    if progress:
        progress.reuse(len(unit.done))
    if unit.complete:
        return result
    for batch, sums in batches.each(differentiate, frozenset(unit.done)):
        for place, member in enumerate(batch.members):
            for values, added in zip(result, sums, strict=True):
                values[member.number] = added[place]
            unit.add(member.number, **{name: added[place][None] for name, added in sums._asdict().items()})
        unit.save_if_due()
        if progress:
            progress.advance(batch.n_documents)
    return result


def differentiated(batch: Batch, differentiate: Callable[[bool], Result]) -> Result:
    """Differentiate a batch; recompute layers (True) if a single document does not fit into memory."""
    try:
        return differentiate(False)
    except (MemoryError, RuntimeError) as error:
        if not out_of_memory(error) or batch.n_documents > 1:
            raise
    # Outside the except clause, so that the failed pass's tensors are freed.
    return differentiate(True)


def _empty_contributions(documents: Sequence[Document], layout: HeadLayout) -> tuple[DocumentSums, Contributions]:
    """Allocate contributions of all documents, and their arrays as sums per document and layer."""
    n = len(documents)
    by_layer, by_head, by_ffn = (n, layout.grid[0]), (n, *layout.grid), (n, layout.layers)
    n_inputs = np.array([len(document.sequences[0].inputs) for document in documents], dtype=float)
    n_targets = np.array([document.sequences[0].n_target for document in documents], dtype=float)
    arrays = DocumentSums(
        *(np.zeros(size) for size in (by_head, by_head, by_layer, *[by_head] * 3)),
        *(np.zeros(size) for size in ((*by_ffn, 1), (*by_ffn, 1), by_ffn)),
    )
    ffns = GradientProducts(arrays.ffn_absolute, arrays.ffn_signed, arrays.ffn_zeros, n_inputs, n_targets)
    return arrays, Contributions(
        *(arrays.absolute, arrays.signed, arrays.zeros, n_inputs, n_targets),
        *(arrays.written, arrays.entropy, arrays.sink, ffns),
    )


def _stacked(batch: Batch, sums: Sequence[DocumentSums], advice: str) -> DocumentSums:
    """Put the sums of a batch, one item per layer, into one array per kind, [document, layer, ...].

    Raises:
        HeadroomError: a sum is not finite; names document and layer, and gives ``advice``.
    """
    kinds = {name: _by_layer(sums, name) for name in DocumentSums._fields}
    for name, layers in kinds.items():
        for layer, values in layers.items():
            check_sums(batch, layer, values, advice, "what heads compute" if name in FORWARD else GRADIENT)
    return DocumentSums(**{name: np.stack(list(layers.values()), axis=1) for name, layers in kinds.items()})


def _by_layer(sums: Sequence[DocumentSums], name: str) -> dict[int, Array]:
    """One kind of sums by the number of the layer; of layers that have what it is of."""
    return {layer: values for layer, each in enumerate(sums) if (values := getattr(each, name)) is not None}


def check_sums(batch: Batch, layer: int, values: Array, advice: str, what: str = GRADIENT) -> None:
    """Refuse sums of ``what`` in a layer over each document's tokens, [document, ...], that are not finite.

    Raises:
        HeadroomError: names document and layer, and gives ``advice``.
    """
    if not np.isfinite(values).all():
        member = batch.members[int(np.argwhere(~np.isfinite(values))[0][0])]
        raise HeadroomError(f"document {member.document.doc_id}, layer {layer}: {what} is not finite; {advice}")


class DocumentSums(NamedTuple):
    """Sums over the tokens of each document; see :class:`Contributions`.

    For one layer and the documents of a batch, or with both as leading axes: ``absolute``, ``signed``, ``written``,
    ``entropy`` and ``sink`` are [document, head], ``zeros`` is [document]; those of the layer's FFN are [document, 1]
    and [document]. A layer without heads has None for what heads have.
    """

    absolute: Any
    signed: Any
    zeros: Any
    written: Any
    entropy: Any
    sink: Any
    ffn_absolute: Array
    ffn_signed: Array
    ffn_zeros: Array


class LayerProducts(NamedTuple):
    """Products and norms of one layer in each column of a batch, in at least float32.

    Attributes:
        heads: A_t . dL/dA_t, [column, head].
        written: ||A_t W_O^h||_2, [column, head], the norm of what the head adds to the residual stream, after a norm
            that the architecture has there, and without the output bias, which belongs to no head.
        entropy: of each head's attention, [column, head], nats.
        sink: attention to the first column of the column's tree, [column, head].
        ffn: F_t . dL/dF_t of the layer's FFN, [column, 1].

    A layer without heads has None for what heads have.
    """

    heads: Any
    written: Any
    entropy: Any
    sink: Any
    ffn: Tensor


def _contributions(
    loaded: LoadedModel, batch: Batch, n_targets: Array, checkpointing: bool = False
) -> list[DocumentSums]:
    """Compute the sums over each document's tokens, one item per layer."""
    # Each document has a tree of its own.
    owners = batch.owners()
    sums, last_attending = [], loaded.shape.attending[-1]
    for layer, layer_products in enumerate(products(loaded, batch, n_targets, checkpointing)):
        # In the last layer, only columns that predict can reach the loss.
        every, predicting = torch.arange(len(owners)), batch.positions
        reached = predicting if layer == loaded.shape.layers - 1 else every
        ffn_sums = _sums(layer_products.ffn, owners, reached, batch.n_documents)
        if layer_products.heads is None:
            sums.append(DocumentSums(None, None, None, None, None, None, *ffn_sums))
            continue
        # Of the last layer that has heads, these columns are looked at, whether or not others reach the loss.
        reached = predicting if layer == last_attending else every
        written, entropy, sink = (
            values.new_zeros(batch.n_documents, values.shape[1])
            .index_add(0, owners.to(values.device), values)
            .cpu()
            .numpy()
            for values in (layer_products.written, layer_products.entropy, layer_products.sink)
        )
        head_sums = _sums(layer_products.heads, owners, reached, batch.n_documents)
        sums.append(DocumentSums(*head_sums, written, entropy, sink, *ffn_sums))
    return sums


def _sums(values: Tensor, places: Tensor, reached: Tensor, n_documents: int) -> tuple[Array, Array, Array]:
    """Sum [column, head] over each document's columns: absolute values, signed values, and the count of zeros."""
    places, reached = places.to(values.device), reached.to(values.device)
    empty = values.new_zeros(n_documents, values.shape[1])
    absolute, signed = (empty.index_add(0, places, part).cpu().numpy() for part in (values.abs(), values))
    silent = (values[reached] == 0).to(values.dtype)
    return absolute, signed, empty.index_add(0, places[reached], silent).sum(dim=1).cpu().numpy()


def products(loaded: LoadedModel, batch: Batch, n_targets: Array, checkpointing: bool = False) -> list[LayerProducts]:
    """Compute gradient-activation products of each layer, the norms of what heads write, and how they attend.

    Args:
        loaded: the model.
        batch: trees of one document each.
        n_targets: target tokens of each sequence.
        checkpointing: recompute layers in the backward pass instead of keeping their activations.
    """
    attended: dict[int, tuple[Tensor, Tensor]] = {}

    def observer(layer: int, q: Tensor, k: Tensor, attention_spec: AttentionSpec) -> None:
        # A layer that is recomputed in the backward pass attends as before.
        if layer not in attended:
            attended[layer] = attention_statistics(q[0], k[0], attention_spec, [t.columns for t in batch.trees])

    with loaded.interventions.observe(observer):
        by_layer = gate_products(loaded, batch, gold_loss(batch, n_targets), checkpointing)
    layer_products = []
    projections = architectures.output_projections(loaded.model)
    norms = architectures.attention_output_norms(loaded.model)
    for layer, (outputs, by_head, by_ffn) in enumerate(by_layer):
        if outputs is None:
            layer_products.append(LayerProducts(None, None, None, None, by_ffn))
            continue
        written = _written(outputs, projections[layer], norms[layer])
        layer_products.append(LayerProducts(by_head, written, *attended[layer], by_ffn))
    return layer_products


def gold_loss(batch: Batch, n_targets: Array) -> Callable[[Tensor], Tensor]:
    """The sum over a batch's documents of L(y|x), eq. 9, as a function of the log p of each target token, [T].

    Args:
        batch: trees of one document each.
        n_targets: target tokens of each sequence.
    """

    def loss(log_p: Tensor) -> Tensor:
        weights = torch.as_tensor(
            1 / n_targets[batch.sequence_ids.cpu().numpy()], device=log_p.device, dtype=log_p.dtype
        )
        return -(log_p * weights).sum()

    return loss


def gate_products(
    loaded: LoadedModel, batch: Batch, loss: Callable[[Tensor], Tensor], checkpointing: bool = False
) -> Iterator[tuple[Tensor | None, Tensor | None, Tensor]]:
    """Differentiate a loss; yield of each layer A, [column, head, d_head], and the products A_t . dL/dA_t and F_t .
    dL/dF_t, [column, head] and [column, 1], in at least float32. A layer without heads has None for the first two.

    Args:
        loaded: the model.
        batch: trees of one document each.
        loss: of the log p of each target token, [T]; a sum over documents, so that the gradient with respect to one
            document's activations is that document's own.
        checkpointing: recompute layers in the backward pass instead of keeping their activations.

    Raises:
        HeadroomError: a log p is not finite; names document and layer.
    """
    layers = range(loaded.shape.layers)
    with (
        torch.enable_grad(),
        loaded.interventions.capture(checkpointing) as heads,
        loaded.interventions.capture_ffns() as ffns,
    ):
        log_p = target_log_probabilities(loaded, batch)
        check_finite(loaded, batch, log_p.detach())
        captures = [*(heads[layer] for layer in loaded.shape.attending), *(ffns[layer] for layer in layers)]
        gradients = iter(torch.autograd.grad(loss(log_p), [capture.probe for capture in captures]))
    by_head = dict(zip(loaded.shape.attending, gradients, strict=False))
    by_ffn = dict(zip(layers, gradients, strict=True))
    wide = torch.promote_types(captures[0].value.dtype, torch.float32)

    def of_layer(layer: int) -> tuple[Tensor | None, Tensor | None, Tensor]:
        ffn = (ffns[layer].value.to(wide) * by_ffn[layer].to(wide)).sum(dim=-1).reshape(-1, 1)
        if layer not in by_head:
            return None, None, ffn
        outputs = heads[layer].value[0].to(wide)
        return outputs, (outputs * by_head[layer][0].to(wide)).sum(dim=-1), ffn

    return map(of_layer, layers)


@torch.no_grad()
def attention_statistics(
    q: Tensor, k: Tensor, attention_spec: AttentionSpec, columns: Sequence[int]
) -> tuple[Tensor, Tensor]:
    """Entropy of each query's attention, nats, and what it pays to its tree's first column, each [column, head].

    Sinks, where a model has some, take part in the softmax; the entropy is the sum over tokens alone.

    Args:
        q, k: [head, column, d_head].
        attention_spec: how the layer attends.
        columns: columns of each tree, which are causal.
    """
    wide = torch.promote_types(q.dtype, torch.float32)
    q, k = q.to(wide) * attention_spec.scaling, k.to(wide)
    entropies, sinks = [], []
    for queries, keys in zip(q.split(list(columns), dim=1), k.split(list(columns), dim=1), strict=True):
        for begin in range(0, queries.shape[1], BLOCK):
            end = min(begin + BLOCK, queries.shape[1])
            logits = attention_spec.cap(queries[:, begin:end] @ keys[:, :end].transpose(1, 2))
            # Finite, since a masked key's probability of 0 is multiplied by it.
            logits.masked_fill_(attention_spec.masked_keys(begin, end, q.device), torch.finfo(wide).min / 2)
            # With the largest logit at 0, the logarithm of the normaliser is small, and nothing cancels.
            largest = logits.amax(dim=-1, keepdim=True)
            logits -= largest
            weights = logits.exp()
            totals = weights.sum(dim=-1)
            normalisers = totals.log()
            if attention_spec.sinks is not None:
                normalisers = torch.logaddexp(normalisers, attention_spec.sinks.to(logits)[:, None] - largest[..., 0])
            # Rows are normalised after their sums, not number by number: this pass takes time on long documents.
            factors = (-normalisers).exp()
            sinks.append(weights[:, :, 0] * factors)
            entropies.append((normalisers * totals - weights.mul_(logits).sum(dim=-1)) * factors)
    return torch.cat(entropies, dim=1).transpose(0, 1), torch.cat(sinks, dim=1).transpose(0, 1)


def _written(outputs: Tensor, projection: nn.Module, norm: nn.Module | None) -> Tensor:
    """Norm of each head's part of what attention adds to the residual, [column, head], for A [column, head, d_head].

    Without a norm in between, the part is A_t W_O^h. A norm divides the sum o_t of all heads' parts and the bias by its
    root mean square and multiplies channels by a gain g, so that the part is g (A_t W_O^h) / rms(o_t).

    By the Gram matrix G_h = W_O^h W_O^h', [d_head, d_head], it is the root of A_t G_h A_t': no
    vector of d_model is computed per token and head.
    """
    with align_module_device(projection):
        slices = _slices(projection, outputs.shape[1]).to(outputs)
        bias = None if norm is None or projection.bias is None else projection.bias.to(outputs)
    scale = outputs.new_ones(())
    if norm is not None:
        whole = torch.einsum("chw,hwd->cd", outputs, slices)
        if bias is not None:
            whole = whole + bias
        gain = norm(whole.new_ones(1, whole.shape[1])).to(whole)
        slices = slices * gain
        # 1 / rms(o_t), as the norm itself computes it; zero if o_t is zero.
        scale = norm(whole).to(whole).norm(dim=-1, keepdim=True)
        scale = scale / (whole * gain).norm(dim=-1, keepdim=True).clamp_min(torch.finfo(whole.dtype).tiny)
    by_head = outputs.transpose(0, 1)
    squares = (by_head @ (slices @ slices.transpose(1, 2)) * by_head).sum(dim=-1)
    # Rounding may make the square of a head that writes nothing negative.
    return squares.clamp_min(0).sqrt().transpose(0, 1) * scale


def _slices(projection: nn.Module, heads: int) -> Tensor:
    """W_O^h of all heads of a layer, [head, d_head, d_model]: the factor of A_t."""
    return architectures.rows_first(projection).unflatten(1, (heads, -1)).permute(1, 2, 0)


def magnitudes(loaded: LoadedModel, cache: ResumeCache = NO_CACHE) -> Array:
    """Frobenius norm of each head's slice of the output projection, ||W_O^h||_F, [layer, head].

    Args:
        loaded: the model; its weights are read unless the cache holds the norms.
        cache: holds the norms.
    """
    layout = {"magnitude": ("f", loaded.shape.grid)}
    with cache.unit("head-magnitudes", [digest("magnitude")], layout) as unit:
        if not unit.complete:
            norms = []
            for projection in architectures.output_projections(loaded.model).values():
                with align_module_device(projection):
                    slices = _slices(projection, loaded.shape.heads).flatten(1)
                    wide = torch.promote_types(slices.dtype, torch.float32)
                    norms.append(slices.to(wide).norm(dim=1).double().cpu().numpy())
            unit.add(0, magnitude=np.stack(norms)[None])
        values: Array = unit.done[0]["magnitude"][0]
    return values


def zero_shares(products: GradientProducts) -> Array:
    """Share of the products A_t . dL/dA_t that are exactly zero though the loss depends on A_t, [layer].

    It is near 0 unless a head is dead or gradients underflow, as they do in float16.
    """
    n_products = np.repeat(products.n_inputs.sum() * products.absolute.shape[2], products.absolute.shape[1])
    n_products[-1] = products.n_targets.sum() * products.absolute.shape[2]
    shares: Array = products.zeros.sum(axis=0) / n_products
    return shares


def scores(
    products: GradientProducts, reduction: Reduction = "token", last_layer_tokens: LastLayerTokens = "all"
) -> Scores:
    """Reduce the contributions of documents to head scores (eq. 8 and 9).

    ``token`` divides the sum over documents and tokens of |A_t . dL/dA_t| by the sum of N_i - 1, as the released code
    does; ``example`` is eq. 8 read literally, the mean over documents of |sum over tokens A_t . dL/dA_t|.
    ``last_layer_tokens="target"`` divides the last layer by the number of target tokens instead, which the released
    code did and which inflates that layer (token reduction only).

    Raises:
        HeadroomError: there are fewer than two documents, so that one half would be empty.
    """
    n = len(products.n_inputs)
    _check_halves(n)
    if reduction == "example":
        values = np.abs(products.signed)
        return Scores(
            values.mean(axis=0),
            values.std(axis=0, ddof=1) / np.sqrt(n),
            values[::2].mean(axis=0),
            values[1::2].mean(axis=0),
        )
    sizes = np.repeat(products.n_inputs[:, None], products.absolute.shape[1], axis=1)
    if last_layer_tokens == "target":
        sizes[:, -1] = products.n_targets
    sizes = sizes[:, :, None]

    def ratio(part: slice) -> Array:
        result: Array = products.absolute[part].sum(axis=0) / sizes[part].sum(axis=0)
        return result

    score = ratio(slice(None))
    residuals = products.absolute - score * sizes
    stderr = np.sqrt(n / (n - 1) * (residuals**2).sum(axis=0)) / sizes.sum(axis=0)
    return Scores(score, stderr, ratio(slice(0, None, 2)), ratio(slice(1, None, 2)))


def scores_by(products: GradientProducts, criterion: str) -> Scores:
    """Reduce the contributions of documents to scores by one of :func:`lm_headroom.study.criteria.task_criteria`.

    Half scores are the criterion on half of the documents. Standard errors are over documents: of a ratio (``token``,
    ``target``, ``output_norm``, ``attention_entropy``, ``bos_sink``) by its residuals, of ``hies`` by the jackknife, of
    other criteria of the mean of what each document adds, with the set of small steps of the trusted ones held fixed.

    Raises:
        HeadroomError: there are fewer than two documents.
    """
    if criterion in VARIANTS:
        return scores(products, *VARIANTS[criterion])
    _check_halves(len(products.signed))
    if isinstance(products, Contributions):
        if criterion in PER_TOKEN:
            return scores(replace(products, absolute=_token_sums(products, criterion)))
        if criterion == "hies":
            terms = np.stack([np.abs(products.signed), _normalised_entropies(products)])
            n = terms.shape[1]
            left_out = hies(*(terms.sum(axis=1, keepdims=True) - terms) / (n - 1))
            stderr = np.sqrt(n - 1) * left_out.std(axis=0)
            score, even, odd = (hies(*terms[:, part].mean(axis=1)) for part in _PARTS)
            return Scores(score, stderr, even, odd)
    return signed_scores(products.signed, criterion)


def signed_scores(signed: Array, criterion: str) -> Scores:
    """Reduce products of a gate and the loss, [document, layer, head], by one criterion of
    :func:`lm_headroom.analysis.criteria.signed_criteria`.

    Raises:
        HeadroomError: there are fewer than two documents.
    """
    _check_halves(len(signed))
    score, even, odd = (signed_criteria(signed[part])[criterion] for part in _PARTS)
    terms = document_terms(signed, criterion)
    return Scores(score, terms.std(axis=0, ddof=1) / np.sqrt(len(terms)), even, odd)


def _check_halves(n: int) -> None:
    if n < 2:
        raise HeadroomError(f"head importance needs at least two scoring documents for its half scores, got {n}")


def criterion_scores(products: GradientProducts) -> dict[str, Array]:
    """Compute scores [layer, head] by each criterion that these passes decide (:mod:`lm_headroom.study.criteria`)."""
    scored = signed_criteria(products.signed) | {"depth": depth(*products.signed.shape[1:])}
    scored |= {name: scores(products, *how).score for name, how in VARIANTS.items()}
    if isinstance(products, Contributions):
        n = products.n_inputs.sum()
        scored |= {name: _token_sums(products, name).sum(axis=0) / n for name in PER_TOKEN}
        scored["hies"] = hies(scored["example"], _normalised_entropies(products).mean(axis=0))
    return scored


PER_TOKEN = ("output_norm", "attention_entropy", "bos_sink")
"""Criteria that are means over all input tokens of what a forward pass gives."""


def _token_sums(result: Contributions, criterion: str) -> Array:
    """Sum over each document's input tokens of one of :data:`PER_TOKEN`, [document, layer, head]."""
    if criterion == "bos_sink":
        return result.n_inputs[:, None, None] - result.sink
    return result.written if criterion == "output_norm" else -result.entropy


def _normalised_entropies(result: Contributions) -> Array:
    """Mean over each document's n query positions of attention entropy over log n, [document, layer, head]."""
    n = result.n_inputs[:, None, None]
    # The entropy of a single token's attention is 0.
    normalised: Array = result.entropy / (n * np.log(np.maximum(n, 2)))
    return normalised
