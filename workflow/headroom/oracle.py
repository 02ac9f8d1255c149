"""Oracle importance of FFNs (eq. 7 of arXiv 2212.09095) and heads: what is lost without one of them alone.

The layers below the FFN or head in question are the same with and without it, so each evaluation restarts from the
input of its layer, kept from the pass of the whole model: exact, and half the work on average.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from headroom.anatomy import Heads
from headroom.artifacts.store import by_column
from headroom.checkpoints import Loaded, gates_without
from headroom.errors import HeadroomError
from headroom.likelihood import Likelihoods, Predicted, predicted, rows_of
from headroom.packing import Batch, Batches, Document
from headroom.parts import NO_PARTS, Parts, Unit, digest
from headroom.progress import Progress
from headroom.pruning import Columns, Head, right_documents
from headroom.statistics import Choices, by_question, mean_and_error

Array = np.ndarray[Any, np.dtype[np.float64]]
SAMPLE_SEED = 0
"""Of the sample of heads: every task, shot and study of a model has the same."""


@dataclass(frozen=True)
class Knockouts:
    """Likelihoods of the whole model, and without the FFN of each layer."""

    dense: Likelihoods
    ablated: list[Likelihoods]


@torch.no_grad()
def knock_out_ffns(
    loaded: Loaded, batches: Batches, progress: Progress | None = None, parts: Parts = NO_PARTS
) -> Knockouts:
    """Evaluate without each layer's FFN in turn.

    Args:
        loaded: the model.
        batches: the documents; the inputs of all layers are kept for one batch at a time.
        progress: advanced by documents times layers.
        parts: where documents are kept that are done, and looked for.
    """
    layers = range(loaded.shape.layers)
    found = Knockouts(Likelihoods(batches.n_rows), [Likelihoods(batches.n_rows) for _ in layers])
    every = [found.dense, *found.ablated]

    def knock_out(batch: Batch) -> list[Predicted]:
        with loaded.seam.layer_inputs() as inputs:
            results = [predicted(loaded, batch)]
        for layer in layers:
            # Popped, so that the inputs of layers that are done make room.
            with loaded.seam.restart(layer, inputs.pop(layer)), loaded.seam.without_ffns([layer]):
                results.append(predicted(loaded, batch))
        return results

    with parts.unit("ffn-oracle", batches.keys, batches.sizes) as unit:
        known = frozenset(unit.known)
        for number in known:
            rows, entry = batches.rows_of(number), unit.known[number]
            for place, likelihoods in enumerate(every):
                likelihoods.restore(rows, entry["values"][:, place], entry["greedy"][:, place])
        if progress:
            progress.reuse(len(known) * len(layers))
        if unit.complete:
            return found
        for batch, results in batches.each(knock_out, known):
            for likelihoods, values in zip(every, results, strict=True):
                likelihoods.add(values)
            for member in batch.members:
                rows = batches.rows_of(member.number)
                entries = [likelihoods.entry(rows) for likelihoods in every]
                # [row, the whole model and each layer]
                unit.add(member.number, **{k: np.stack([e[k] for e in entries], 1) for k in ("values", "greedy")})
            if progress:
                progress.advance(batch.n_documents * len(layers))
    return found


def importance(documents: Sequence[Document], choices: Sequence[Choices], found: Knockouts) -> Columns:
    """Columns of an FFN-importance artifact: a row per layer, outcomes and errors by question."""
    dense = by_question(choices, right_documents(documents, choices, found.dense))
    whole = np.array(list(dense.values()))
    columns: dict[str, list[Any]] = {
        name: [] for name in ("layer", "score", "stderr", "accuracy_dense", "accuracy_ablated", "correct_dense")
    }
    columns["doc_id"] = [list(dense)] * len(found.ablated)
    columns["correct_ablated"] = []
    for layer, ablated in enumerate(found.ablated):
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


def sample_heads(shape: Heads, n: int | None) -> list[Head]:
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
def knock_out_heads(
    loaded: Loaded,
    batches: Batches,
    heads: Sequence[Head],
    progress: Progress | None = None,
    parts: Parts = NO_PARTS,
) -> Knockouts:
    """Evaluate without each of some heads in turn.

    Finished layers of a batch are kept: without all heads of one, a batch takes as many passes as it has heads.

    Args:
        loaded: the model.
        batches: the documents; the inputs of all layers are kept for one batch at a time.
        heads: which ones; ``ablated`` has their order.
        progress: advanced by documents times heads.
        parts: where documents are kept that are done, and looked for.
    """
    places: dict[int, list[int]] = {}
    for place, (layer, _) in enumerate(heads):
        places.setdefault(layer, []).append(place)
    found = Knockouts(Likelihoods(batches.n_rows), [Likelihoods(batches.n_rows) for _ in heads])
    # Layer of a unit, None for the whole model's, to the likelihoods that it keeps.
    kept: dict[int | None, list[Likelihoods]] = {None: [found.dense]}
    kept |= {layer: [found.ablated[place] for place in of] for layer, of in places.items()}

    def restore(key: int | None, number: int) -> None:
        entry = units[key].known[number]
        for column, likelihoods in enumerate(kept[key]):
            likelihoods.restore(batches.rows_of(number), entry["values"][:, column], entry["greedy"][:, column])

    def keep(key: int | None, batch: Batch, results: Sequence[Predicted]) -> None:
        for likelihoods, result in zip(kept[key], results, strict=True):
            likelihoods.add(result)
        for member in batch.members:
            if member.number in units[key].known:
                # Of documents that were cut off in the middle, what is known stays.
                restore(key, member.number)
                continue
            entries = [likelihoods.entry(batches.rows_of(member.number)) for likelihoods in kept[key]]
            arrays = {name: np.stack([entry[name] for entry in entries], 1) for name in ("values", "greedy")}
            units[key].add(member.number, **arrays)
            if progress and key is not None:
                progress.advance(len(kept[key]))

    def knock_out(batch: Batch) -> None:
        numbers = {member.number for member in batch.members}
        with loaded.seam.layer_inputs() as inputs:
            whole = predicted(loaded, batch)
        keep(None, batch, [whole])
        for layer, of in sorted(places.items()):
            # Popped, so that the inputs of layers that are done make room.
            hidden = inputs.pop(layer)
            if numbers <= units[layer].known.keys():
                continue
            results = []
            for place in of:
                with loaded.seam.restart(layer, hidden), loaded.seam.gates(gates_without(loaded.shape, [heads[place]])):
                    results.append(predicted(loaded, batch))
            keep(layer, batch, results)

    units: dict[int | None, Unit] = {}
    with ExitStack() as stack:
        for key in kept:
            of = [] if key is None else [heads[place][1] for place in places[key]]
            name = "head-oracle-whole" if key is None else f"head-oracle-{key}-{digest(of)}"
            units[key] = stack.enter_context(parts.unit(name, batches.keys, batches.sizes))
            for number in units[key].known:
                restore(key, number)
            if progress and key is not None:
                progress.reuse(len(units[key].known) * len(of))
        known = frozenset.intersection(*(frozenset(unit.known) for unit in units.values()))
        if len(known) < len(batches.documents):
            for _ in batches.each(knock_out, known):
                pass
    return found


def gold_losses(documents: Sequence[Document], choices: Sequence[Choices], found: Likelihoods) -> Array:
    """L(y|x) of eq. 8 for each document: the mean over the tokens of its first right choice of -log p, nats.

    Raises:
        HeadroomError: a document has no right choice.
    """
    losses = []
    for document, choice, (_, rows) in zip(documents, choices, rows_of(documents), strict=True):
        if True not in choice.gold:
            raise HeadroomError(f"document {document.doc_id}: no choice is right, so that its loss is not defined")
        gold = choice.gold.index(True)
        losses.append(-found.values[rows][gold] / document.rows[gold].n_target)
    return np.array(losses)


def head_oracle(
    documents: Sequence[Document], choices: Sequence[Choices], heads: Sequence[Head], found: Knockouts
) -> Columns:
    """Columns of a head-oracle artifact: a row per head, outcomes and errors by question.

    A question of several documents has the mean of their losses.
    """
    numbers = [document.doc_id if document.question is None else document.question for document in choices]
    questions = {question: place for place, question in enumerate(dict.fromkeys(numbers))}
    of = [questions[number] for number in numbers]
    sizes = np.bincount(of)
    dense = by_question(choices, right_documents(documents, choices, found.dense))
    whole, losses = np.array(list(dense.values())), gold_losses(documents, choices, found.dense)
    rows = []
    for (layer, head), ablated in zip(heads, found.ablated, strict=True):
        right = np.array(list(by_question(choices, right_documents(documents, choices, ablated)).values()))
        rises = np.bincount(of, gold_losses(documents, choices, ablated) - losses) / sizes
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
