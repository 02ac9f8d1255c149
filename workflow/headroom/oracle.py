"""Oracle importance of FFNs (eq. 7 of arXiv 2212.09095): what accuracy loses without the FFN of one layer.

The layers below the FFN in question are the same with and without it, so each evaluation restarts from the input of
its layer, kept from the pass of the whole model: exact, and half the work on average.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from headroom.checkpoints import Loaded
from headroom.likelihood import Likelihoods, Predicted, predicted
from headroom.packing import Batch, Batches, Document
from headroom.parts import NO_PARTS, Parts
from headroom.progress import Progress
from headroom.pruning import Columns, right_documents
from headroom.statistics import Choices, by_question, mean_and_error


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
