"""Rank correlations of head scores between tasks (Figure 8) and shots (Table 1), with what is needed to read them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations, combinations_with_replacement
from math import lcm
from typing import Any

import numpy as np
from scipy.stats import rankdata, spearmanr

from lm_headroom.analysis.columns import by_column
from lm_headroom.analysis.ranking import aggregate, rank_heads
from lm_headroom.errors import HeadroomError
from lm_headroom.study.choices import Aggregation, Statistic
from lm_headroom.study.ranking_names import AGGREGATE, HIGHEST, LOWEST

STATISTICS: dict[Statistic, str] = {"spearman": "srcc", "argsort": "argsort_statistic"}
"""The column of a correlation artifact that holds each statistic."""
TOP_PERCENT = 30
MIN_RELIABILITY = 0.5
"""Below it more of a ranking's variance is noise than signal, and nothing is said of what it would be without."""
PERMUTATIONS = 999
"""Shuffles of a permutation test, whose smallest p-value is 1 / (1 + PERMUTATIONS)."""
LEVEL = 0.05
"""Rankings with a p-value below it agree beyond a shared trend over layers (and key-value groups)."""
Array = np.ndarray[Any, np.dtype[np.float64]]


@dataclass(frozen=True)
class TaskScores:
    """A task's head scores and its two half-sample scores, each [layer, head].

    Attributes:
        score, even, odd: by all scoring documents, and by their halves.
        groups: key-value groups of a layer (:func:`key_value_groups`).
    """

    score: Array
    even: Array
    odd: Array
    groups: int = 1


def key_value_groups(provenance: Mapping[str, Any]) -> int:
    """Into how many groups a layer's heads fall that share keys and values, which makes their scores alike.

    1 where each head has its own keys and values, or all share the same: then nothing inside a layer is grouped. Where
    layers differ, as many as are inside the groups of all of them.

    Args:
        provenance: of the model's head scores. Heads of a group have successive numbers.
    """
    model = provenance.get("model") or {}
    heads, groups = model.get("heads") or 1, model.get("key_value_heads") or 1
    return lcm(*(count for count in (groups if isinstance(groups, list) else [groups]) if count < heads))


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


def srcc_within_layers(a: Array, b: Array, groups: int = 1) -> float | None:
    """Mean over layers of the SRCC inside a layer; None where no layer has both score rows varying.

    A layer-wise trend alone makes SRCC high; this is what is left of it. Where heads of a layer share keys and
    values in groups, the same holds of a trend over groups, and the mean is over the SRCCs inside groups.

    Args:
        a, b: scores, [layer, head].
        groups: of a layer.
    """
    rows = zip(*(scores.reshape(len(scores) * groups, -1) for scores in (a, b)), strict=True)
    values = [srcc(*pair)[0] for pair in rows]
    defined = [value for value in values if not np.isnan(value)]
    return float(np.mean(defined)) if defined else None


def reliability(scores: TaskScores) -> float | None:
    """Spearman-Brown reliability 2r / (1 + r) of the scores from the SRCC r of their halves; None for r <= 0."""
    r, _ = srcc(scores.even, scores.odd)
    return 2 * r / (1 + r) if r > 0 else None


def noise_ceiling(a: TaskScores, b: TaskScores) -> float | None:
    """Largest SRCC to be expected of two perfectly equal rankings whose noise is independent: sqrt(rel_a rel_b)."""
    reliabilities = reliability(a), reliability(b)
    if reliabilities[0] is None or reliabilities[1] is None:
        return None
    return float(np.sqrt(reliabilities[0] * reliabilities[1]))


def is_reliable(value: float | None) -> bool:
    """Whether this reliability of a ranking is high enough to correct for noise."""
    return value is not None and value >= MIN_RELIABILITY


def corrected_srcc(a: TaskScores, b: TaskScores, same_documents: bool = False) -> float | None:
    """SRCC corrected for attenuation: what it would be without the noise in the scores.

    Spearman's correction divides the SRCC by :func:`noise_ceiling`, which takes the noise of the two for independent.
    That of scores of the same documents is not, and raises the plain SRCC. Halves of different documents share none,
    so there it is the mean SRCC of a's even with b's odd documents and of a's odd with b's even ones, over the
    geometric mean of both even/odd SRCCs.

    A value above 1 is sampling error and is kept, since a mean over clipped values would be too low.

    Args:
        a, b: scores with their halves.
        same_documents: both are of the same documents in the same order.

    Returns:
        None where a reliability is below ``MIN_RELIABILITY`` or not defined.
    """
    reliabilities = reliability(a), reliability(b)
    ceiling = noise_ceiling(a, b)
    if not all(map(is_reliable, reliabilities)) or ceiling is None:
        return None
    if not same_documents:
        plain = srcc(a.score, b.score)[0]
        return None if np.isnan(plain) else plain / ceiling
    crossed = (srcc(a.even, b.odd)[0] + srcc(a.odd, b.even)[0]) / 2
    return crossed / float(np.sqrt(srcc(a.even, a.odd)[0] * srcc(b.even, b.odd)[0]))


def within_layer_shuffles(
    shape: tuple[int, int], n: int = PERMUTATIONS, seed: int = 0, groups: int = 1
) -> np.ndarray[Any, Any]:
    """Permutations of head numbers that stay in their layers, and in their groups of these, [n, layer * head].

    Args:
        shape: layers, heads.
        n: how many.
        seed: the same seed gives the same permutations.
        groups: of a layer, of successive heads.
    """
    numbers = np.arange(shape[0] * shape[1], dtype=np.int32).reshape(shape[0] * groups, -1)
    drawn = np.random.default_rng(seed).permuted(np.broadcast_to(numbers, (n, *numbers.shape)), axis=2)
    return drawn.reshape(n, -1)


def permutation_p(scores: Sequence[Array], shuffles: np.ndarray[Any, Any] | None = None) -> Array:
    """p-values of the SRCC of each pair of scores against shuffles of the heads within layers, [i, j], symmetric.

    The null hypothesis: given a head's layer (and key-value group, by the shuffles), its place in one ranking says
    nothing of that in the other. A trend over them, which both may share, stays as it is in every
    shuffle. One-sided: the share of shuffles, the data counted in, whose SRCC is as high as that of the data or higher.
    NaN where scores are constant.

    Args:
        scores: each [layer, head], of one shape.
        shuffles: as :func:`within_layer_shuffles` gives them, its default where None is given.
    """
    shape = scores[0].shape
    if shuffles is None:
        shuffles = within_layer_shuffles((shape[0], shape[1]))
    # Twice the ranks are whole numbers, whose sums of products are exact: equal SRCCs are found equal. Means and
    # variances of ranks are the same in each shuffle, so that the sum of products orders as the SRCC does.
    ranks = 2 * np.stack([rankdata(values) for values in scores])
    observed = ranks @ ranks.T
    reached = np.zeros(observed.shape)
    for shuffle in shuffles:
        reached += ranks @ ranks[:, shuffle].T >= observed
    p_values = (1 + reached) / (1 + len(shuffles))
    # A shuffle of the one is the reverse shuffle of the other: one of both is taken.
    p_values = np.triu(p_values) + np.triu(p_values, 1).T
    constant = np.ptp(ranks, axis=1) == 0
    p_values[constant], p_values[:, constant] = np.nan, np.nan
    return p_values


def n_beyond_layers(rows: Sequence[Mapping[str, Any]]) -> int:
    """How many rows of rank correlations exceed what a shared layer-wise trend explains."""
    return sum(row["p_permutation"] < LEVEL for row in rows)


def compare_pairs(
    scores: Mapping[Any, TaskScores], pairs: Sequence[tuple[Any, Any]], same_documents: bool = False
) -> list[dict[str, Any]]:
    """All statistics of pairs of rankings, by column name, in the order of the pairs.

    Args:
        scores: of all rankings, of one shape.
        pairs: names of two rankings each.
        same_documents: the rankings of a pair are of the same documents, so that they share noise.
    """
    names, values = list(scores), [s.score for s in scores.values()]
    groups = {(a, b): _common_groups(scores[a], scores[b]) for a, b in pairs}
    shuffled = {n: permutation_p(values, within_layer_shuffles(values[0].shape, groups=n)) for n in {*groups.values()}}
    reliabilities = {name: reliability(s) for name, s in scores.items()}
    return [
        {
            **_compare(scores[a], scores[b]),
            "p_permutation": float(shuffled[groups[a, b]][names.index(a), names.index(b)]),
            "reliability_a": reliabilities[a],
            "reliability_b": reliabilities[b],
            # Of a ranking with itself there is nothing to correct.
            "srcc_corrected": None if a == b else corrected_srcc(scores[a], scores[b], same_documents),
        }
        for a, b in pairs
    ]


def _common_groups(a: TaskScores, b: TaskScores) -> int:
    """Groups that are inside those of both."""
    return lcm(a.groups, b.groups)


def _compare(a: TaskScores, b: TaskScores) -> dict[str, Any]:
    statistic, p_value = srcc(a.score, b.score)
    return {
        "srcc": statistic,
        "p_value": p_value,
        "argsort_statistic": argsort_statistic(a.score, b.score),
        "overlap_top30": top_overlap(a.score, b.score),
        "srcc_within_layer": srcc_within_layers(a.score, b.score, _common_groups(a, b)),
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
    return {HIGHEST: (highest, others[highest]), LOWEST: (lowest, others[lowest])}


def cross_shot(scores: Mapping[int, Mapping[str, TaskScores]]) -> dict[str, list[Any]]:
    """Columns of a cross-shot artifact (Table 1): each task's ranking at one number of shots against another.

    Args:
        scores: number of shots -> task (and the aggregate) -> scores; the same tasks for each.
    """
    shots = sorted(scores)
    cells = {(k, task): task_scores for k in shots for task, task_scores in scores[k].items()}
    keys = [(task, a, b) for a, b in combinations(shots, 2) for task in scores[shots[0]]]
    # The same scoring documents, with more examples before them.
    pairs = compare_pairs(cells, [((a, task), (b, task)) for task, a, b in keys], same_documents=True)
    rows = [{"task": task, "shots_a": a, "shots_b": b, **row} for (task, a, b), row in zip(keys, pairs, strict=True)]
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
    pairs = list(combinations_with_replacement(everything, 2))
    by_pair = dict(zip(pairs, compare_pairs(everything, pairs), strict=True))
    left_out = leave_one_out(scores, how)
    rows = []
    for a in everything:
        for b in everything:
            row = by_pair.get((a, b)) or _turned(by_pair[b, a])
            if (a == AGGREGATE) != (b == AGGREGATE):
                # A task's noise is part of its aggregate's: no formula here corrects for noise that both share.
                row = {**row, "srcc_corrected": None, **left_out[b if a == AGGREGATE else a]}
            else:
                row = {**row, **_NOT_LEFT_OUT}
            rows.append({"task_a": a, "task_b": b, **row})
    return by_column(rows)


def _turned(row: Mapping[str, Any]) -> dict[str, Any]:
    """The row of a pair as that of the pair the other way round."""
    return {**row, "reliability_a": row["reliability_b"], "reliability_b": row["reliability_a"]}


_NOT_LEFT_OUT = dict.fromkeys(
    ("srcc_leave_one_out", "srcc_leave_one_out_corrected", "p_permutation_leave_one_out", "reliability_leave_one_out")
)


def leave_one_out(scores: Mapping[str, TaskScores], how: Aggregation = "mean") -> dict[str, dict[str, float | None]]:
    """Each task against the aggregate of the others: it is part of the plain aggregate, and correlates with itself.

    Args:
        scores: per task.
        how: how their aggregate is made.

    Returns:
        Per task its columns of a cross-task artifact, None in all where there is no other task.
    """
    if len(scores) < 2:
        return {task: dict(_NOT_LEFT_OUT) for task in scores}
    others = {task: _aggregate_without(scores, task, how) for task in scores}
    n = len(scores)
    everything = [*scores.values(), *others.values()]
    layers, heads = everything[0].score.shape
    shuffles = within_layer_shuffles((layers, heads), groups=everything[0].groups)
    p_values = permutation_p([s.score for s in everything], shuffles)
    return {
        task: {
            "srcc_leave_one_out": srcc(scores[task].score, others[task].score)[0],
            "srcc_leave_one_out_corrected": corrected_srcc(scores[task], others[task]),
            "p_permutation_leave_one_out": float(p_values[i, n + i]),
            "reliability_leave_one_out": reliability(others[task]),
        }
        for i, task in enumerate(scores)
    }


def _aggregate_without(scores: Mapping[str, TaskScores], task: str, how: Aggregation) -> TaskScores:
    """The aggregate of the other tasks, with its halves."""
    others = {name: task_scores for name, task_scores in scores.items() if name != task}
    score, even, odd = (
        aggregate({name: getattr(task_scores, part) for name, task_scores in others.items()}, how)[0]
        for part in ("score", "even", "odd")
    )
    return TaskScores(score, even, odd, scores[task].groups)
