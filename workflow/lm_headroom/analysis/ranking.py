"""Rankings of heads and FFNs, their aggregate over tasks (eq. 10), and how many a pruning level takes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from itertools import accumulate
from typing import Any

import numpy as np
from scipy.stats import rankdata

from lm_headroom.errors import HeadroomError
from lm_headroom.study.choices import Aggregation

Array = np.ndarray[Any, np.dtype[np.float64]]


def rank_heads(scores: Array, layers: Sequence[int] | None = None) -> list[tuple[int, int]]:
    """(layer, head) pairs from the least to the most important; ties go by layer, then head.

    Args:
        scores: importance, [layer, head].
        layers: number of each row's layer, where some layers have no heads and no row; None for 0, 1, ...

    Raises:
        HeadroomError: a score is not finite; names the head.
    """
    if not np.isfinite(scores).all():
        row, head = np.argwhere(~np.isfinite(scores))[0]
        layer = row if layers is None else layers[row]
        raise HeadroomError(f"layer {layer} head {head} has importance {scores[row, head]}; nothing can be ranked")
    rows, heads = np.indices(scores.shape)
    order = np.lexsort((heads.ravel(), rows.ravel(), scores.ravel()))
    numbers = range(len(scores)) if layers is None else layers
    return [(numbers[int(i) // scores.shape[1]], int(i) % scores.shape[1]) for i in order]


def rank_ffns(scores: Array) -> list[int]:
    """Layers from the least to the most important FFN; ties go by layer.

    Args:
        scores: importance, [layer].
    """
    return [layer for layer, _ in rank_heads(scores[:, None])]


def in_pruning_order(order: Sequence[tuple[int, int]], kept: int, number: int) -> list[tuple[int, int]]:
    """Experts in an order whose every part that prunes leaves each layer ``kept``; those that it must keep come last.

    Args:
        order: (layer, expert), the least important first.
        kept: experts that each layer keeps at least: as many as it sends a token to.
        number: experts of each layer.

    Example:
        >>> in_pruning_order([(0, 1), (0, 0), (1, 0), (1, 1)], kept=1, number=2)
        [(0, 1), (1, 0), (0, 0), (1, 1)]
    """
    pruned: Counter[int] = Counter()
    first: list[tuple[int, int]] = []
    last: list[tuple[int, int]] = []
    for layer, expert in order:
        pruned[layer] += 1
        (first if pruned[layer] <= number - kept else last).append((layer, expert))
    return first + last


def removable(grid: tuple[int, int], kept: int) -> int:
    """How many experts can be pruned: all but those that each layer keeps; see :func:`in_pruning_order`."""
    layers, number = grid
    return layers * (number - kept)


def check_removable(what: str, percents: Iterable[int], grid: tuple[int, int], kept: int) -> None:
    """Refuse a percent of experts that no order of them can reach.

    Args:
        what: asks for it, for the message.
        percents: of all experts.
        grid: layers that have experts, and experts of each.
        kept: experts that each layer keeps at least.

    Raises:
        HeadroomError: names the percent and the highest that is possible.
    """
    total, most = grid[0] * grid[1], removable(grid, kept)
    for percent in percents:
        if count_at(percent, total) > most:
            raise HeadroomError(
                f"{what}: {percent}% of {total} experts cannot be pruned, since each of {grid[0]} layers keeps at "
                f"least {kept} of {grid[1]}, to which a token is sent; at most {100 * most // total}%"
            )


def random_ranking(layers: int, heads: int, seed: int) -> list[tuple[int, int]]:
    """All heads in an order drawn at random: the control beside each curve."""
    order = np.random.default_rng(seed).permutation(layers * heads)
    return [(int(i) // heads, int(i) % heads) for i in order]


def random_ffns(layers: int, seed: int) -> list[int]:
    """The same for the FFNs of all layers."""
    return [layer for layer, _ in random_ranking(layers, 1, seed)]


def even_rounds(heads: int, group: int) -> list[int]:
    """How many heads of a layer each round of :func:`even_ranking` removes.

    Args:
        heads: query heads of a layer.
        group: query heads that share a key-value head.

    Example:
        >>> even_rounds(6, 3)
        [2, 2, 1, 1]
    """
    groups = heads // group
    return [groups] * (group - 1) + [1] * groups


def even_ranking(ranking: Sequence[tuple[int, int]], group: int) -> list[tuple[int, int]]:
    """The heads of a ranking in rounds that leave all layers with as many heads and key-value heads.

    As long as groups have several heads, a round removes the first-ranked remaining head of each group of each layer,
    then the first-ranked remaining head of each layer, and with it the last of its group. Within a round, heads keep
    the order of the ranking.

    Args:
        ranking: (layer, head) pairs of all heads, the first to be pruned first.
        group: query heads that share a key-value head, one after another.

    Example:
        >>> even_ranking([(0, 0), (0, 1), (1, 1), (1, 0)], 1)
        [(0, 0), (1, 1), (0, 1), (1, 0)]
    """
    removed: Counter[tuple[int, int]] = Counter()
    last: Counter[int] = Counter()
    rounds: list[list[tuple[int, int]]] = [[] for _ in range(len(ranking) + group)]
    for layer, head in ranking:
        place = (layer, head // group)
        removed[place] += 1
        if removed[place] < group:
            rounds[removed[place] - 1].append((layer, head))
        else:
            last[layer] += 1
            rounds[group - 2 + last[layer]].append((layer, head))
    return [head for heads in rounds for head in heads]


def even_count(count: int, layers: int, heads: int, group: int) -> int:
    """The most heads up to ``count`` that whole rounds of :func:`even_ranking` remove.

    Args:
        count: heads that may be removed.
        layers: layers that have heads.
        heads, group: of each layer; see :func:`even_rounds`.
    """
    totals = accumulate((layers * removed for removed in even_rounds(heads, group)), initial=0)
    return max(total for total in totals if total <= count)


def count_at(percent: int, total: int) -> int:
    """How many of ``total`` components go at ``percent``: floor(percent * total / 100), in integers."""
    return percent * total // 100


def aggregate(scores: Mapping[str, Array], how: Aggregation = "mean") -> tuple[Array, dict[str, float]]:
    """One score per head over a set of tasks (eq. 10).

    Args:
        scores: importance per task, each [layer, head].
        how: ``mean`` of the raw scores; ``mean_normalised``: each task divided by its sum of absolute values first;
            ``mean_rank``: mean of the ranks, from 0, where equal scores share the mean of theirs.

    Returns:
        The aggregate [layer, head] and each task's share in it, which for raw scores is far from equal: they fall
        with prompt length.
    """
    parts = {task: _weighted(values, how) for task, values in scores.items()}
    total = sum(float(part.sum()) for part in parts.values())
    shares = {task: float(part.sum()) / total if total else 1 / len(parts) for task, part in parts.items()}
    mean: Array = np.mean(list(parts.values()), axis=0)
    return mean, shares


def _weighted(values: Array, how: Aggregation) -> Array:
    if how == "mean_rank":
        # By their layers, equal scores would add a trend over layers.
        ranks: Array = rankdata(values).reshape(values.shape) - 1
        return ranks
    return values / aggregation_size(values, how)


def aggregation_size(values: Array, how: Aggregation) -> float:
    """What a task's scores, and their standard errors, are divided by in a sum-like aggregate; zeros stay zeros."""
    return (float(np.abs(values).sum()) or 1.0) if how == "mean_normalised" else 1.0


def as_columns(
    ranking: Sequence[tuple[int, int]], scores: Array, layers: Sequence[int] | None = None
) -> dict[str, list[Any]]:
    """Columns of a ranking artifact; see :func:`rank_heads`."""
    rows = {layer: row for row, layer in enumerate(range(len(scores)) if layers is None else layers)}
    return {
        "rank": list(range(len(ranking))),
        "layer": [layer for layer, _ in ranking],
        "head": [head for _, head in ranking],
        "score": [float(scores[rows[layer], head]) for layer, head in ranking],
    }


def ffn_columns(ranking: Sequence[int], scores: Array) -> dict[str, list[Any]]:
    """Columns of an FFN-ranking artifact."""
    return {
        "rank": list(range(len(ranking))),
        "layer": list(ranking),
        "score": [float(scores[layer]) for layer in ranking],
    }
