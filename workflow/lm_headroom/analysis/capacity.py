"""Induction capacity that pruning retains (Figures 11, 18 and 19)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from lm_headroom.errors import HeadroomError

Array = np.ndarray[Any, np.dtype[np.float64]]


def retained(scores: Array, ranking: Sequence[tuple[int, int]]) -> Array:
    """Share of the total score left after the k least important heads go, [k], k = 0 to all.

    Args:
        scores: induction scores, [layer, head], a row per layer that has heads.
        ranking: (layer, head) pairs, least important first.

    Raises:
        HeadroomError: the ranking is of another number of heads, or the total is not above zero.
    """
    numbers = {layer: row for row, layer in enumerate(sorted({layer for layer, _ in ranking}))}
    ranked = [(numbers[layer], head) for layer, head in ranking]
    if len(ranking) != scores.size or max(ranked) != (scores.shape[0] - 1, scores.shape[1] - 1):
        raise HeadroomError(
            f"scores of {scores.shape[0]} layers x {scores.shape[1]} heads cannot be pruned by a ranking of "
            f"{len(ranking)} heads that ends at layer {max(ranking)[0]}, head {max(ranking)[1]}"
        )
    layers, heads = np.transpose(ranked)
    # Summed from the most important head on, so that nothing is left exactly when all are gone.
    left = np.cumsum(np.append(scores[layers, heads], 0.0)[::-1])[::-1]
    if not left[0] > 0:
        raise HeadroomError(f"the scores of all heads add up to {left[0]:g}; there is no capacity to retain")
    shares: Array = left / left[0]
    return shares


def capacity(
    scores: Mapping[str, Array], rankings: Mapping[str, Sequence[tuple[int, int]]]
) -> dict[str, Sequence[Any] | Array]:
    """Columns of a capacity artifact.

    Args:
        scores: name of an induction score to its values, each [layer, head].
        rankings: task (or ``aggregate``) to its ranking of heads, least important first.

    Raises:
        HeadroomError: see :func:`retained`; names the score and the task.
    """
    curves = {}
    for task, ranking in rankings.items():
        for name, values in scores.items():
            try:
                curves[task, name] = retained(values, ranking)
            except HeadroomError as error:
                raise HeadroomError(f"{name} under the ranking of {task}: {error}") from error
    counts = [np.arange(len(curve)) for curve in curves.values()]
    return {
        "task": [task for (task, _), curve in curves.items() for _ in curve],
        "score": [name for (_, name), curve in curves.items() for _ in curve],
        "n_pruned": np.concatenate(counts),
        "percent": np.concatenate([100 * count / count[-1] for count in counts]),
        "retained": np.concatenate(list(curves.values())),
    }
