"""Rank correlations of head scores between tasks (Figure 8) and shots (Table 1), with what is needed to read them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import combinations
from typing import Any, Literal

import numpy as np
from scipy.stats import spearmanr

from headroom.artifacts.store import by_column
from headroom.errors import HeadroomError
from headroom.ranking import AGGREGATE, Aggregation, aggregate, rank_heads

Statistic = Literal["spearman", "argsort"]
STATISTICS: dict[Statistic, str] = {"spearman": "srcc", "argsort": "argsort_statistic"}
"""The column of a correlation artifact that holds each statistic."""
TOP_PERCENT = 30
Array = np.ndarray[Any, np.dtype[np.float64]]


@dataclass(frozen=True)
class TaskScores:
    """A task's head scores and its two half-sample scores, each [layer, head]."""

    score: Array
    even: Array
    odd: Array


def srcc(a: Array, b: Array) -> tuple[float, float]:
    """Spearman's rank correlation coefficient of two score arrays and its two-sided p-value.

    NaN where one of them is constant.
    """
    if np.ptp(a) == 0 or np.ptp(b) == 0:
        return float("nan"), float("nan")
    result = spearmanr(a.ravel(), b.ravel())
    return float(result.statistic), float(result.pvalue)


def argsort_statistic(a: Array, b: Array) -> float:
    """The released code's statistic: Pearson's correlation of the two argsort permutations.

    It compares head *numbers* at equal ranks instead of ranks of equal heads, so it is not SRCC: it measures a common
    trend over layers and depends on how heads are numbered. Kept to reproduce the paper's Table 1 and Figure 8.
    """
    orders = [[layer * s.shape[1] + head for layer, head in rank_heads(s)] for s in (a, b)]
    return float(np.corrcoef(orders[0], orders[1])[0, 1])


def top_overlap(a: Array, b: Array, percent: int = TOP_PERCENT) -> float:
    """Share of the top ``percent`` % heads of one that are also in the top of the other."""
    count = max(1, percent * a.size // 100)
    tops = [set(rank_heads(scores)[-count:]) for scores in (a, b)]
    return len(tops[0] & tops[1]) / count


def srcc_within_layers(a: Array, b: Array) -> float | None:
    """Mean over layers of the SRCC inside a layer; None where no layer has both score rows varying.

    A profile over layers alone makes SRCC high; this is what is left of it.
    """
    values = [srcc(a[layer], b[layer])[0] for layer in range(len(a))]
    defined = [value for value in values if not np.isnan(value)]
    return float(np.mean(defined)) if defined else None


def reliability(scores: TaskScores) -> float | None:
    """Spearman-Brown reliability 2r / (1 + r) of the scores from the SRCC r of their halves; None for r <= 0."""
    r, _ = srcc(scores.even, scores.odd)
    return 2 * r / (1 + r) if r > 0 else None


def noise_ceiling(a: TaskScores, b: TaskScores) -> float | None:
    """Largest SRCC to be expected of two perfectly equal rankings measured this noisily: sqrt(rel_a rel_b)."""
    reliabilities = reliability(a), reliability(b)
    if reliabilities[0] is None or reliabilities[1] is None:
        return None
    return float(np.sqrt(reliabilities[0] * reliabilities[1]))


def compare(a: TaskScores, b: TaskScores) -> dict[str, Any]:
    """All statistics of a pair of rankings, by column name."""
    statistic, p_value = srcc(a.score, b.score)
    return {
        "srcc": statistic,
        "p_value": p_value,
        "argsort_statistic": argsort_statistic(a.score, b.score),
        "overlap_top30": top_overlap(a.score, b.score),
        "srcc_within_layer": srcc_within_layers(a.score, b.score),
        "noise_ceiling": noise_ceiling(a, b),
    }


def partners(task: str, values: Mapping[str, float]) -> dict[str, tuple[str, float]]:
    """The tasks with the highest and the lowest correlation to ``task``, and the correlation.

    Args:
        task: left out, as is the aggregate; where two are equal, the first is taken.
        values: the correlation of each task with ``task``; NaN where a ranking is constant.

    Raises:
        HeadroomError: no other task has a correlation.
    """
    others = {name: v for name, v in values.items() if name not in (task, AGGREGATE) and not np.isnan(v)}
    if not others:
        raise HeadroomError(f"task {task!r}: no other task's head scores have a correlation with its own")
    highest, lowest = max(others, key=others.__getitem__), min(others, key=others.__getitem__)
    return {"highest_srcc": (highest, others[highest]), "lowest_srcc": (lowest, others[lowest])}


def cross_shot(scores: Mapping[int, Mapping[str, TaskScores]]) -> dict[str, list[Any]]:
    """Columns of a cross-shot artifact (Table 1): each task's ranking at one number of shots against another.

    Args:
        scores: number of shots -> task (and the aggregate) -> scores; the same tasks for each.
    """
    shots = sorted(scores)
    rows = [
        {"task": task, "shots_a": a, "shots_b": b, **compare(scores[a][task], scores[b][task])}
        for a, b in combinations(shots, 2)
        for task in scores[shots[0]]
    ]
    return by_column(rows)


def cross_task(
    scores: Mapping[str, TaskScores], aggregate_scores: TaskScores, how: Aggregation = "mean"
) -> dict[str, list[Any]]:
    """Columns of a cross-task artifact: a row per ordered pair of tasks and the aggregate.

    Args:
        scores: per task, in the order of the figure.
        aggregate_scores: their aggregate.
        how: how it was made, for its leave-one-out versions.
    """
    everything = {**scores, AGGREGATE: aggregate_scores}
    rows = []
    for name_a, a in everything.items():
        for name_b, b in everything.items():
            rows.append(
                {
                    "task_a": name_a,
                    "task_b": name_b,
                    **compare(a, b),
                    "srcc_leave_one_out": _leave_one_out(scores, name_a, name_b, how),
                }
            )
    return by_column(rows)


def _leave_one_out(scores: Mapping[str, TaskScores], a: str, b: str, how: Aggregation) -> float | None:
    """A task against the aggregate of the others: a task is part of the plain aggregate, which alone correlates."""
    if (a == AGGREGATE) == (b == AGGREGATE) or len(scores) < 2:
        return None
    task = b if a == AGGREGATE else a
    others, _ = aggregate({name: s.score for name, s in scores.items() if name != task}, how)
    return srcc(scores[task].score, others)[0]
