"""Log-likelihoods of continuations; one pass computes a document's shared prefix once for all its choices.

Vocabulary logits are computed only at positions that predict a continuation token, once per position even if several
sequences share it.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import chain, pairwise
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lm_headroom.engine.ablation import ZERO, Ablation
from lm_headroom.engine.batch_size import LOGIT_ROWS
from lm_headroom.engine.loading import LoadedModel
from lm_headroom.engine.packing import Batch, Batches, Document, TokenSequence
from lm_headroom.engine.resume_cache import NO_CACHE, ResumeCache, WorkUnit, digest
from lm_headroom.engine.unembedding import logits as logits_of
from lm_headroom.errors import HeadroomError
from lm_headroom.models import architectures
from lm_headroom.progress import Progress
from lm_headroom.settings import AddBos, other_dtype

Array = np.ndarray[Any, np.dtype[np.float64]]


def encode(
    pairs: Sequence[tuple[int, str, str]], tokenizer: Any, max_positions: int, add_bos: AddBos = False
) -> list[Document]:
    """Tokenise (doc_id, context, continuation) triples as lm-eval's HFLM does; triples of a document must be adjacent.

    Trailing spaces of a context move to its continuation. Documents that are too long lose context on the left, by the
    excess of their longest sequence, so that all choices keep the same context.

    Args:
        pairs: the triples.
        tokenizer: a transformers tokenizer; no special tokens are added but those of ``add_bos``.
        max_positions: largest number of input tokens.
        add_bos: put the BOS token (else EOS) before each context that does not begin with it, or, ``auto``, what the
            tokenizer itself puts before a text.

    Raises:
        HeadroomError: a continuation has no tokens or does not fit; or the tokenizer lacks a start token that is
            needed.
    """
    start = tokenizer.bos_token_id if tokenizer.bos_token_id is not None else tokenizer.eos_token_id
    first = start_tokens(tokenizer, add_bos)
    begun = tokenizer.decode([start]) if start is not None else None
    ids = _tokenise(tokenizer, pairs)
    documents: list[tuple[int, list[tuple[list[int], list[int]]]]] = []
    for doc_id, context, continuation in pairs:
        stripped = context.rstrip()
        prefix = ids[stripped]
        target = ids[context + continuation][len(prefix) :]
        # As HFLM does: an empty context is conditioned on the start token, and a template may have begun with it.
        if not prefix:
            if start is None:
                raise HeadroomError(
                    f"document {doc_id}: an empty context needs a start token, and the tokenizer has neither BOS nor "
                    "EOS; leave the document out, or take another model"
                )
            prefix = [start]
        elif not (begun and stripped.startswith(begun)):
            prefix = [*first, *prefix]
        if not target:
            continuation = context[len(stripped) :] + continuation
            raise HeadroomError(f"document {doc_id}: the continuation {continuation!r} has no tokens of its own")
        if not documents or documents[-1][0] != doc_id:
            documents.append((doc_id, []))
        documents[-1][1].append((prefix, target))
    return [_truncate(doc_id, rows, max_positions) for doc_id, rows in documents]


def start_tokens(tokenizer: Any, add_bos: AddBos) -> list[int]:
    """Tokens that precede each prompt.

    Args:
        tokenizer: a transformers tokenizer.
        add_bos: as :func:`encode` takes it.

    Raises:
        HeadroomError: the tokenizer lacks a start token that is needed.
    """
    if add_bos == "auto":
        alone, whole = (tokenizer("a", add_special_tokens=special)["input_ids"] for special in (False, True))
        return next((whole[:n] for n in range(len(whole)) if whole[n : n + len(alone)] == alone), [])
    if not add_bos:
        return []
    start = tokenizer.bos_token_id if tokenizer.bos_token_id is not None else tokenizer.eos_token_id
    if start is None:
        raise HeadroomError(
            "add_bos needs a start token, and the tokenizer has neither BOS nor EOS; set add_bos: false"
        )
    return [start]


def start_provenance(loaded: LoadedModel, add_bos: AddBos) -> dict[str, Any]:
    """What results record of the tokens that precede their prompts."""
    tokens = loaded.tokenizer.convert_ids_to_tokens(start_tokens(loaded.tokenizer, add_bos))
    return {"start_tokens": tokens}


def tokenise(pairs: Sequence[tuple[int, str, str]], loaded: LoadedModel, add_bos: AddBos) -> list[Document]:
    """Documents for a model; says on standard error how many were cut to the positions that it has.

    Args:
        pairs: (doc_id, context, continuation) triples; see :func:`encode`.
        loaded: the model.
        add_bos: see :func:`encode`.
    """
    documents = encode(pairs, loaded.tokenizer, loaded.max_positions, add_bos)
    for document in documents:
        loaded.check_tokens(
            f"document {document.doc_id}", chain.from_iterable(row.tokens for row in document.sequences)
        )
    truncated = sum(document.truncated > 0 for document in documents)
    if truncated:
        print(
            f"{truncated} of {len(documents)} documents lost context to fit {loaded.max_positions} tokens",
            file=sys.stderr,
        )
    return documents


def _tokenise(tokenizer: Any, pairs: Sequence[tuple[int, str, str]]) -> dict[str, list[int]]:
    """Tokenise each distinct context and each distinct context with continuation once."""
    texts = dict.fromkeys(text for _, context, rest in pairs for text in (context.rstrip(), context + rest))
    ids: list[list[int]] = tokenizer(list(texts), add_special_tokens=False)["input_ids"]
    return dict(zip(texts, ids, strict=True))


def _truncate(doc_id: int, rows: list[tuple[list[int], list[int]]], max_positions: int) -> Document:
    excess = max(0, max(len(prefix) + len(target) - 1 for prefix, target in rows) - max_positions)
    if excess >= min(len(prefix) for prefix, _ in rows):
        longest = max(len(target) for _, target in rows)
        raise HeadroomError(
            f"document {doc_id}: a continuation of {longest} tokens leaves no room for its context in the model's "
            f"context window of {max_positions} tokens; leave the document out or take a model "
            "with a longer context window"
        )
    return Document(doc_id, tuple(TokenSequence((*p[excess:], *t), len(t)) for p, t in rows), excess)


def target_log_probabilities(loaded: LoadedModel, batch: Batch) -> Tensor:
    """Compute log p of each target token, [T], in at least float32; differentiable if the activations are."""
    return predict(loaded, batch)[0]


def predict(loaded: LoadedModel, batch: Batch) -> tuple[Tensor, Tensor]:
    """Compute log p of each target token, [T], and whether it is the likeliest token there, bool [T]."""
    model = loaded.model
    with loaded.interventions.layout(batch.layout()):
        hidden = architectures.body(model)(
            input_ids=batch.input_ids, position_ids=batch.position_ids, use_cache=False
        ).last_hidden_state
    needed = hidden.reshape(-1, hidden.shape[-1])[batch.positions.to(hidden.device)]
    parts, greedy = [], []
    sources = batch.sources.to(hidden.device)
    # Chunk by chunk of positions, so that the whole [positions, vocabulary] tensor never exists.
    order = torch.argsort(sources, stable=True)
    bounds = torch.searchsorted(
        sources[order], torch.arange(0, len(needed) + LOGIT_ROWS, LOGIT_ROWS, device=hidden.device)
    )
    for chunk, start in enumerate(range(0, len(needed), LOGIT_ROWS)):
        logits = logits_of(model, needed[start : start + LOGIT_ROWS])
        members = order[bounds[chunk] : bounds[chunk + 1]]
        places = sources[members] - start
        targets = batch.targets.to(hidden.device)[members]
        aimed = logits[places, targets]
        parts.append(aimed - torch.logsumexp(logits, dim=-1)[places])
        greedy.append(_likeliest(logits.detach(), places, targets, aimed.detach()))
    back = torch.argsort(order)
    return torch.cat(parts)[back], torch.cat(greedy)[back]


def _likeliest(logits: Tensor, places: Tensor, targets: Tensor, aimed: Tensor) -> Tensor:
    """Whether each target is the argmax at its position; computed only where it has the largest logit."""
    likeliest = aimed == logits.amax(dim=-1)[places]
    tied = likeliest.nonzero()[:, 0]
    likeliest[tied] = logits[places[tied]].argmax(dim=-1) == targets[tied]
    return likeliest


TokenPredictions = tuple[Tensor, Tensor, Tensor]
"""Of each target token of a batch: sequence number, log p and whether it is the likeliest token; on the CPU."""


def predict_checked(loaded: LoadedModel, batch: Batch) -> TokenPredictions:
    """Run a batch and return what :class:`Likelihoods` sums; refuse values that are not finite.

    Raises:
        HeadroomError: see :func:`check_finite`.
    """
    values, greedy = predict(loaded, batch)
    check_finite(loaded, batch, values)
    return batch.sequence_ids.cpu(), values.double().cpu(), greedy.cpu()


def check_finite(loaded: LoadedModel, batch: Batch, values: Tensor) -> None:
    """Refuse log p of target tokens, [T], that are not finite.

    Raises:
        HeadroomError: one is not finite; names its document and the first layer with non-finite values.
    """
    bad = (~torch.isfinite(values)).nonzero()
    if len(bad) == 0:
        return
    row = int(batch.sequence_ids[bad[0, 0]])
    start = 0
    for tree in batch.trees:
        for member in tree.members:
            if member.first_sequence <= row < member.first_sequence + len(member.document.sequences):
                where = _locate_overflow(loaded, batch, slice(start, start + tree.columns))
                raise HeadroomError(
                    f"document {member.document.doc_id}: the log-likelihood of a continuation is "
                    f"{values[bad[0, 0]].item()}; values first become non-finite in {where}: "
                    + other_dtype(str(loaded.model.dtype))
                )
        start += tree.columns


@torch.no_grad()
def _locate_overflow(loaded: LoadedModel, batch: Batch, columns: slice) -> str:
    """Say where these columns' hidden states first become non-finite, by another pass that keeps all of them."""
    with loaded.interventions.layout(batch.layout()), loaded.interventions.layer_inputs() as inputs:
        architectures.body(loaded.model)(input_ids=batch.input_ids, position_ids=batch.position_ids, use_cache=False)
    overflowed = [layer for layer, hidden in sorted(inputs.items()) if not torch.isfinite(hidden[0, columns]).all()]
    if not overflowed:
        return f"the last layer, {loaded.shape.layers - 1}, or after it"
    return f"layer {overflowed[0] - 1}" if overflowed[0] else "the embedding"


ENTRY = {"values": ("f", ()), "greedy": ("b", ())}
"""Layout of a document's entry in the resume cache, one number per sequence; see :meth:`Likelihoods.entry`."""


class Likelihoods:
    """Log-likelihoods of sequences, filled batch by batch.

    Attributes:
        values: nats, float64 [n_rows].
        greedy: whether greedy decoding gives the continuation, bool [n_rows].
    """

    def __init__(self, n_sequences: int) -> None:
        self._totals = torch.zeros(n_sequences, dtype=torch.float64)
        self._misses = torch.zeros(n_sequences, dtype=torch.int64)

    def add(self, predictions: TokenPredictions) -> None:
        """Add the predictions of a batch."""
        rows, values, greedy = predictions
        self._totals.index_add_(0, rows, values)
        self._misses.index_add_(0, rows, (~greedy).long())

    def entry(self, rows: slice) -> dict[str, np.ndarray[Any, Any]]:
        """The values of a finished document, as :meth:`restore` takes them."""
        return {"values": self._totals[rows].numpy(), "greedy": (self._misses[rows] == 0).numpy()}

    def restore(self, rows: slice, values: np.ndarray[Any, Any], greedy: np.ndarray[Any, Any]) -> None:
        """Set the values of a document to what :meth:`entry` returned."""
        self._totals[rows] = torch.from_numpy(values)
        self._misses[rows] = torch.from_numpy(~greedy).long()

    @property
    def values(self) -> Array:
        """Log-likelihoods in nats, [n_sequences]."""
        result: Array = self._totals.numpy()
        return result

    @property
    def greedy(self) -> np.ndarray[Any, np.dtype[np.bool_]]:
        """Whether greedy decoding gives each continuation, [n_sequences]."""
        result: np.ndarray[Any, np.dtype[np.bool_]] = (self._misses == 0).numpy()
        return result


@torch.no_grad()
def likelihoods(
    loaded: LoadedModel,
    batches: Batches,
    gates: Tensor | None = None,
    without_ffns: Iterable[int] = (),
    progress: Progress | None = None,
    cache: ResumeCache = NO_CACHE,
    ablation: Ablation = ZERO,
    without_experts: Iterable[tuple[int, int]] = (),
) -> Likelihoods:
    """Compute the log-likelihood of each continuation, with heads gated and FFNs or experts left out.

    Args:
        loaded: the model.
        batches: the documents.
        gates: [layer, head]; None for open gates.
        without_ffns: layers whose FFN is left out.
        progress: advanced by documents.
        cache: holds finished documents.
        ablation: what pruned heads and FFNs give.
        without_experts: experts that the routers do not choose, as (layer, expert).

    Raises:
        HeadroomError: a log-likelihood is not finite; names document and layer; or a layer would keep too few experts.
    """
    removal = Removal(gates, tuple(sorted(set(without_ffns))), tuple(sorted(set(without_experts))))
    return likelihoods_of(loaded, batches, [removal], progress, cache, ablation)[0]


@dataclass(frozen=True, eq=False)
class Removal:
    """What an evaluation leaves out.

    Attributes:
        gates: [layer, head]; None for open gates.
        ffns: layers whose FFN is left out, ascending.
        experts: experts that the routers do not choose, as (layer, expert), ascending.
    """

    gates: Tensor | None = None
    ffns: tuple[int, ...] = ()
    experts: tuple[tuple[int, int], ...] = ()

    def first_difference(self, other: Removal, n_layers: int) -> int:
        """The first layer that computes something else with another removal; the last layer if none does."""
        experts = set(self.experts).symmetric_difference(other.experts)
        layers = {n_layers - 1, *set(self.ffns).symmetric_difference(other.ffns), *(layer for layer, _ in experts)}
        if self.gates is not None or other.gates is not None:
            ours, theirs = (1 if gates is None else gates for gates in (self.gates, other.gates))
            layers.update(torch.as_tensor(ours != theirs).any(dim=1).nonzero()[:, 0].tolist())
        return min(layers)


def likelihoods_of(
    loaded: LoadedModel,
    batches: Batches,
    removals: Sequence[Removal],
    progress: Progress | None = None,
    cache: ResumeCache = NO_CACHE,
    ablation: Ablation = ZERO,
) -> list[Likelihoods]:
    """Compute :func:`likelihoods` under several removals that differ, in their order.

    Each pass starts at the first layer that differs from the removal before, so that nested levels cost less than as
    many whole passes. The results are the same bit for bit.

    Args:
        loaded: the model.
        batches: the documents.
        removals: what is left out.
        progress: advanced by documents times removals.
        cache: holds finished documents; each removal is a work unit.
        ablation: what pruned heads and FFNs give.

    Raises:
        HeadroomError: see :func:`likelihoods`.
    """
    results = [Likelihoods(batches.n_sequences) for _ in removals]
    with ExitStack() as stack:
        units = [
            stack.enter_context(open_unit(cache, batches, removal.gates, removal.ffns, ablation, removal.experts))
            for removal in removals
        ]
        for unit, restored in zip(units, results, strict=True):
            for number, entry in unit.done.items():
                restored.restore(batches.sequence_slice(number), **entry)
        if progress:
            progress.reuse(sum(len(unit.done) for unit in units))
        if all(unit.complete for unit in units):
            return results
        stack.enter_context(loaded.interventions.replacing(ablation.replacements))
        stack.enter_context(loaded.interventions.keeping_cuts())

        def evaluate(batch: Batch) -> None:
            numbers = {member.number for member in batch.members}
            waiting = [place for place, unit in enumerate(units) if not numbers <= unit.done.keys()]
            if not waiting:
                # A half of a batch that did not fit: of these documents, the removals that were left were known.
                return
            predictions = _predict_each(loaded, batch, [removals[place] for place in waiting])
            for place, values in zip(waiting, predictions, strict=True):
                added = _keep(units[place], results[place], batches, batch, values)
                if progress:
                    progress.advance(added)

        for _ in batches.each(evaluate, frozenset.intersection(*(frozenset(unit.done) for unit in units))):
            pass
    return results


def _keep(unit: WorkUnit, results: Likelihoods, batches: Batches, batch: Batch, predictions: TokenPredictions) -> int:
    """Keep the predictions of a batch in its unit; return the number of documents that were new."""
    results.add(predictions)
    n_added = 0
    for member in batch.members:
        rows = batches.sequence_slice(member.number)
        if member.number in unit.done:
            # An interrupted run finished this document: its values stay.
            results.restore(rows, **unit.done[member.number])
            continue
        unit.add(member.number, **results.entry(rows))
        n_added += 1
    unit.save_if_due()
    return n_added


def _predict_each(loaded: LoadedModel, batch: Batch, removals: Sequence[Removal]) -> Iterator[TokenPredictions]:
    """Predict under each removal, from the kept input of the first layer that differs from the removal before."""
    interventions, n_layers = loaded.interventions, loaded.shape.layers
    differing = (one.first_difference(other, n_layers) for one, other in pairwise(removals))
    starts = [0, *map(loaded.shape.restart_at, differing)]
    kept: dict[int, Tensor] = {}
    for place, (start, removal) in enumerate(zip(starts, removals, strict=True)):
        later = frozenset(starts[place + 1 :]) - {0}
        with ExitStack() as stack:
            stack.enter_context(interventions.gates(removal.gates))
            stack.enter_context(interventions.without_ffns(removal.ffns))
            stack.enter_context(interventions.experts.without(removal.experts))
            if start:
                stack.enter_context(interventions.restart(start, kept[start]))
            inputs = stack.enter_context(interventions.layer_inputs(later))
            predictions = predict_checked(loaded, batch)
        # The inputs of layers below the start are those of the pass before.
        kept = {layer: inputs[layer] if layer in inputs else kept[layer] for layer in later}
        yield predictions


def open_unit(
    cache: ResumeCache,
    batches: Batches,
    gates: Tensor | None = None,
    without_ffns: Sequence[int] = (),
    ablation: Ablation = ZERO,
    without_experts: Sequence[tuple[int, int]] = (),
) -> WorkUnit:
    """Open the work unit of an evaluation: one entry per document, see :meth:`Likelihoods.entry`.

    The whole model's is the same whatever pruned components would give.
    """
    key = [] if gates is None and not without_ffns else ablation.key
    experts = [list(without_experts)] if without_experts else []
    name = f"likelihoods-{digest(None if gates is None else gates.tolist(), list(without_ffns), *experts, *key)}"
    return cache.unit(name, batches.keys, ENTRY, batches.sizes)


def log_likelihoods(loaded: LoadedModel, batches: Batches, gates: Tensor | None = None) -> Array:
    """Log-likelihood in nats of each row's continuation given its context, [n_rows].

    Raises:
        HeadroomError: a log-likelihood is not finite; names document and layer.
    """
    return likelihoods(loaded, batches, gates).values


def sequence_slices(documents: Sequence[Document]) -> Iterator[tuple[int, slice]]:
    """Yield (doc_id, slice of its sequence numbers) for each document, in order."""
    start = 0
    for document in documents:
        yield document.doc_id, slice(start, start + len(document.sequences))
        start += len(document.sequences)
