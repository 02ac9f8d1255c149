"""Heads that an ablation of induction heads takes away, and random heads of the same layers beside them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np

from lm_headroom.analysis.ranking import rank_heads

Array = np.ndarray[Any, np.dtype[np.float64]]
Head = tuple[int, int]
Selection = Literal["prefix_matching", "copying", "both"]
SELECTIONS: dict[Selection, str] = {"prefix_matching": "prefix matching", "copying": "copying", "both": "both"}
"""What heads are chosen by, and what figures and findings call it."""
WHOLE = "none"
"""What stands in a selection's place for the whole model."""


def strongest(
    prefix_matching: Array, copying: Array, selection: Selection, layers: Sequence[int] | None = None
) -> list[Head]:
    """All heads, the strongest first; ties go by layer, then head.

    By ``both``, a head stands where the worse of its two ranks puts it: the first k heads are the k that are in the top
    r of both rankings, for the smallest r that has as many. Ranks, because the two scores have no common unit; the
    worse one, because a head that only matches prefixes, or only copies, is not the induction head of the paper.

    Args:
        prefix_matching, copying: scores, [layer, head].
        selection: what counts.
        layers: see :func:`lm_headroom.analysis.ranking.rank_heads`.
    """
    ranks = [_ranks(scores) for scores in (prefix_matching, copying)]
    worse = {"prefix_matching": ranks[0], "copying": ranks[1], "both": np.maximum(*ranks)}[selection]
    # Two heads may share a place by `both`; the one whose better rank is better goes first.
    rows, heads = np.indices(worse.shape)
    order = np.lexsort((heads.ravel(), rows.ravel(), np.minimum(*ranks).ravel(), worse.ravel()))
    numbers = range(len(worse)) if layers is None else layers
    return [(numbers[int(i) // worse.shape[1]], int(i) % worse.shape[1]) for i in order]


def _ranks(scores: Array) -> Array:
    """Rank of each head from 0, the highest score; ties go by layer, then head."""
    ranks = np.empty(scores.shape)
    for rank, head in enumerate(rank_heads(-scores)):
        ranks[head] = rank
    return ranks


def control(chosen: Sequence[Head], selection: Selection, n_heads: int, number: int) -> list[Head]:
    """As many random heads of the same layers, as many in each, without the chosen ones.

    A layer of which more than half is chosen has too few others: then all of these go, and random ones of the chosen
    make up the number, so that a control has as many heads per layer as the chosen set in any case.

    Args:
        chosen: the heads that it is a control for.
        selection: what they were chosen by.
        n_heads: heads per layer.
        number: of the control, from 1. The draw depends on it, on the selection and on how many heads are chosen: not
            on task, shots or what else is ablated.
    """
    rng = np.random.default_rng([number, list(SELECTIONS).index(selection), len(chosen)])
    control_heads: list[Head] = []
    for layer in sorted({layer for layer, _ in chosen}):
        chosen_here = sorted(head for place, head in chosen if place == layer)
        others = [head for head in range(n_heads) if head not in chosen_here]
        # Both are drawn whatever the numbers are, the chosen behind the others.
        drawn = [*rng.permutation(others), *rng.permutation(chosen_here)][: len(chosen_here)]
        control_heads += [(layer, int(head)) for head in sorted(drawn)]
    return control_heads
