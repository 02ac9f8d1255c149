"""Oracle importance of FFNs (eq. 7 of arXiv 2212.09095) and heads: what is lost without one of them alone.

The layers below the FFN or head in question are the same with and without it, so each evaluation restarts from the
input of its layer, kept from the pass of the whole model: exact, and half the work on average.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from lm_headroom.analysis.columns import by_column
from lm_headroom.analysis.metrics import Choices, by_question, mean_and_error
from lm_headroom.engine.likelihood import ENTRY, Likelihoods, TokenPredictions, predict_checked, sequence_slices
from lm_headroom.engine.loading import LoadedModel, gates_without
from lm_headroom.engine.packing import Batch, Batches, Document
from lm_headroom.engine.resume_cache import NO_CACHE, ResumeCache, WorkUnit, digest
from lm_headroom.errors import HeadroomError
from lm_headroom.models.architectures import HeadLayout
from lm_headroom.progress import Progress
from lm_headroom.scoring.pruned_evaluation import Columns, Head, right_documents

Array = np.ndarray[Any, np.dtype[np.float64]]
SAMPLE_SEED = 0
"""Of the sample of heads: every task, shot and study of a model has the same."""


@dataclass(frozen=True)
class Knockouts:
    """Likelihoods of the whole model, and without each of some heads or FFNs alone."""

    dense: Likelihoods
    ablated: list[Likelihoods]


Component = tuple[int, int | None]
"""What is removed: a head, as (layer, head), or the FFN of a layer, as (layer, None)."""


def knock_out_ffns(
    loaded: LoadedModel, batches: Batches, progress: Progress | None = None, cache: ResumeCache = NO_CACHE
) -> Knockouts:
    """Evaluate without each layer's FFN in turn; see :func:`_knock_out`.

    Args:
        loaded: the model.
        batches: the documents; the inputs of all layers are kept for one batch at a time.
        progress: advanced by documents times layers.
        cache: where documents are kept that are done, and looked for.
    """
    components: list[Component] = [(layer, None) for layer in range(loaded.shape.layers)]
    return _knock_out(loaded, batches, components, "ffn-oracle", progress, cache)


def knock_out_heads(
    loaded: LoadedModel,
    batches: Batches,
    heads: Sequence[Head],
    progress: Progress | None = None,
    cache: ResumeCache = NO_CACHE,
) -> Knockouts:
    """Evaluate without each of some heads in turn; see :func:`_knock_out`.

    Args:
        loaded: the model.
        batches: the documents; the inputs of all layers are kept for one batch at a time.
        heads: which ones; ``ablated`` has their order.
        progress: advanced by documents times heads.
        cache: where documents are kept that are done, and looked for.
    """
    return _knock_out(loaded, batches, heads, "head-oracle", progress, cache)


def ffn_importance_columns(documents: Sequence[Document], choices: Sequence[Choices], knockouts: Knockouts) -> Columns:
    """Columns of an FFN-importance artifact: a row per layer, outcomes and errors by question."""
    dense = by_question(choices, right_documents(documents, choices, knockouts.dense))
    whole = np.array(list(dense.values()))
    columns: dict[str, list[Any]] = {
        name: [] for name in ("layer", "score", "stderr", "accuracy_dense", "accuracy_ablated", "correct_dense")
    }
    columns["doc_id"] = [list(dense)] * len(knockouts.ablated)
    columns["correct_ablated"] = []
    for layer, ablated in enumerate(knockouts.ablated):
        right = np.array(list(by_question(choices, right_documents(documents, choices, ablated)).values()))
        # The difference of paired outcomes, so that its error is that of pairs.
        score, stderr = mean_and_error(whole.astype(float) - right)
        columns["layer"].append(layer)
        columns["score"].append(score)
        columns["stderr"].append(stderr)
        columns["accuracy_dense"].append(whole.mean())
        columns["accuracy_ablated"].append(right.mean())
        columns["correct_dense"].append(whole.tolist())
        columns["correct_ablated"].append(right.tolist())
    return columns


def sample_heads(shape: HeadLayout, n: int | None) -> list[Head]:
    """A stratified random sample of heads, in order: as many of each layer, give or take one.

    A larger sample contains the smaller ones.

    Args:
        shape: of the model.
        n: how many; None, or as many as there are, for all.
    """
    rng = np.random.default_rng(SAMPLE_SEED)
    layers = rng.permutation(shape.layers)
    orders = [rng.permutation(shape.heads) for _ in range(shape.layers)]
    n = shape.total if n is None else min(n, shape.total)
    counts = np.full(shape.layers, n // shape.layers)
    counts[layers[: n % shape.layers]] += 1
    return [(layer, int(head)) for layer, order in enumerate(orders) for head in sorted(order[: counts[layer]])]


@torch.no_grad()
def _knock_out(
    loaded: LoadedModel,
    batches: Batches,
    components: Sequence[Component],
    label: str,
    progress: Progress | None,
    cache: ResumeCache,
) -> Knockouts:
    """Evaluate without each of some components in turn.

    Each layer of a batch is a unit, kept when it is done: a small study is one batch, and takes a pass for each
    component of each layer.

    Args:
        loaded: the model.
        batches: the documents; the inputs of all layers are kept for one batch at a time.
        components: which ones; ``ablated`` has their order.
        label: what the units' names begin with.
        progress: advanced by documents times components.
        cache: where documents are kept that are done, and looked for.
    """
    places: dict[int, list[int]] = {}
    for place, (layer, _) in enumerate(components):
        places.setdefault(layer, []).append(place)
    found = Knockouts(Likelihoods(batches.n_sequences), [Likelihoods(batches.n_sequences) for _ in components])
    # Layer of a unit, None for the whole model's, to the likelihoods that it keeps.
    kept: dict[int | None, list[Likelihoods]] = {None: [found.dense]}
    kept |= {layer: [found.ablated[place] for place in of] for layer, of in places.items()}

    def restore(key: int | None, number: int) -> None:
        entry = units[key].done[number]
        for column, likelihoods in enumerate(kept[key]):
            likelihoods.restore(batches.sequence_slice(number), entry["values"][:, column], entry["greedy"][:, column])

    def keep(key: int | None, batch: Batch, results: Sequence[TokenPredictions]) -> None:
        for likelihoods, result in zip(kept[key], results, strict=True):
            likelihoods.add(result)
        for member in batch.members:
            if member.number in units[key].done:
                # Of documents that were cut off in the middle, what is known stays.
                restore(key, member.number)
                continue
            entries = [likelihoods.entry(batches.sequence_slice(member.number)) for likelihoods in kept[key]]
            arrays = {name: np.stack([entry[name] for entry in entries], 1) for name in ("values", "greedy")}
            units[key].add(member.number, **arrays)
            if progress and key is not None:
                progress.advance(len(kept[key]))
        units[key].save_if_due()

    def knock_out(batch: Batch) -> None:
        numbers = {member.number for member in batch.members}
        with loaded.interventions.layer_inputs() as inputs:
            whole = predict_checked(loaded, batch)
        keep(None, batch, [whole])
        for layer, of in sorted(places.items()):
            # Popped, so that the inputs of layers that are done make room.
            hidden = inputs.pop(layer)
            if numbers <= units[layer].done.keys():
                continue
            results = []
            for place in of:
                with loaded.interventions.restart(layer, hidden), _without(loaded, components[place]):
                    results.append(predict_checked(loaded, batch))
            keep(layer, batch, results)

    units: dict[int | None, WorkUnit] = {}
    with ExitStack() as stack:
        for key, likelihoods in kept.items():
            of = [] if key is None else [components[place][1] for place in places[key]]
            name = f"{label}-whole" if key is None else f"{label}-{key}-{digest(of)}"
            layout = {array: (kind, (len(likelihoods),)) for array, (kind, _) in ENTRY.items()}
            units[key] = stack.enter_context(cache.unit(name, batches.keys, layout, batches.sizes))
            for number in units[key].done:
                restore(key, number)
            if progress and key is not None:
                progress.reuse(len(units[key].done) * len(of))
        known = frozenset.intersection(*(frozenset(unit.done) for unit in units.values()))
        if len(known) < len(batches.documents):
            for _ in batches.each(knock_out, known):
                pass
    return found


def _without(loaded: LoadedModel, component: Component) -> AbstractContextManager[None]:
    """Leave a component out of passes."""
    layer, head = component
    if head is None:
        return loaded.interventions.without_ffns([layer])
    return loaded.interventions.gates(gates_without(loaded.shape, [(layer, head)]))


def gold_losses(documents: Sequence[Document], choices: Sequence[Choices], results: Likelihoods) -> Array:
    """L(y|x) of eq. 8 for each document: the mean over the tokens of its first right choice of -log p, nats.

    Raises:
        HeadroomError: a document has no right choice.
    """
    losses = []
    for document, choice, (_, rows) in zip(documents, choices, sequence_slices(documents), strict=True):
        if True not in choice.gold:
            raise HeadroomError(f"document {document.doc_id}: no choice is right, so that its loss is not defined")
        gold = choice.gold.index(True)
        losses.append(-results.values[rows][gold] / document.sequences[gold].n_target)
    return np.array(losses)


def head_oracle_columns(
    documents: Sequence[Document], choices: Sequence[Choices], heads: Sequence[Head], knockouts: Knockouts
) -> Columns:
    """Columns of a head-oracle artifact: a row per head, outcomes and errors by question.

    A question of several documents has the mean of their losses.
    """
    numbers = [document.doc_id if document.question is None else document.question for document in choices]
    questions = {question: place for place, question in enumerate(dict.fromkeys(numbers))}
    question_index = [questions[number] for number in numbers]
    sizes = np.bincount(question_index)
    dense = by_question(choices, right_documents(documents, choices, knockouts.dense))
    whole, losses = np.array(list(dense.values())), gold_losses(documents, choices, knockouts.dense)
    rows = []
    for (layer, head), ablated in zip(heads, knockouts.ablated, strict=True):
        right = np.array(list(by_question(choices, right_documents(documents, choices, ablated)).values()))
        rises = np.bincount(question_index, gold_losses(documents, choices, ablated) - losses) / sizes
        lost, stderr = mean_and_error(whole.astype(float) - right)
        rise, rise_stderr = mean_and_error(rises)
        rows.append(
            {
                "layer": layer,
                "head": head,
                "loss_rise": rise,
                "loss_stderr": rise_stderr,
                "loss_rise_even": rises[::2].mean(),
                "loss_rise_odd": rises[1::2].mean(),
                "accuracy_lost": lost,
                "accuracy_stderr": stderr,
                "doc_id": list(dense),
                "loss_rises": rises.tolist(),
                "correct_dense": whole.tolist(),
                "correct_ablated": right.tolist(),
            }
        )
    return by_column(rows)
