"""Step: aggregate head importance over tasks (eq. 10)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from lm_headroom.analysis.ranking import aggregate as aggregate_scores
from lm_headroom.analysis.ranking import aggregation_size, as_columns, rank_heads
from lm_headroom.artifacts.head_importance import HEAD_IMPORTANCE
from lm_headroom.artifacts.heads import places
from lm_headroom.artifacts.provenance import build_provenance, cell_provenance
from lm_headroom.artifacts.ranking import RANKING
from lm_headroom.artifacts.store import ArtifactError, write
from lm_headroom.options import AggregatedCells, OutFile, recorded_options
from lm_headroom.study.ranking_names import AGGREGATE, CRITERIA

HALVES = ("even", "odd")


def aggregate_heads(*, cells: AggregatedCells, out: OutFile, ranking: OutFile) -> None:
    """Aggregate head scores over tasks (eq. 10), and rank by the aggregate.

    Args:
        cells: which results are aggregated.
        out: the aggregate's head-importance artifact.
        ranking: the ranking artifact.

    Raises:
        ArtifactError: a task's scores are missing or another's, or by another criterion.

    Example:
        lm-headroom aggregate-heads --results results/opt --tasks copa piqa --shots 0 --out scores.parquet
        --ranking ranking.parquet
    """
    from lm_headroom.results.matrix import ResultsMatrix
    from lm_headroom.results.scores import read_tasks

    options = recorded_options(aggregate_heads, locals())
    matrix, how = ResultsMatrix(cells.results, tuple(cells.tasks), (cells.shots,), cells.seed), cells.aggregate
    scores = read_tasks(matrix, cells.shots)
    criteria = {task: s.criterion for task, s in scores.items()}
    if len(set(criteria.values())) > 1:
        raise ArtifactError(
            f"{cells.results}: heads are scored by different criteria, {criteria}; run the workflow again"
        )
    mean, shares = aggregate_scores({task: s.score for task, s in scores.items()}, how)
    even, odd = (aggregate_scores({t: getattr(s, half) for t, s in scores.items()}, how)[0] for half in HALVES)
    shared = [name for name in CRITERIA if all(name in s.others for s in scores.values())]
    others = {name: aggregate_scores({t: s.others[name] for t, s in scores.items()}, how)[0] for name in shared}
    if how == "mean_rank":
        # A rank's standard error does not follow from the scores'.
        stderr: Sequence[float | None] = [None] * mean.size
    else:
        variance = sum((s.stderr / aggregation_size(s.score, how)) ** 2 for s in scores.values())
        stderr = (np.sqrt(variance) / len(scores)).ravel().tolist()
    first = next(iter(scores.values()))
    cell = cell_provenance(first.provenance, AGGREGATE, cells.shots, cells.seed)
    provenance = {**cell, "criterion": first.criterion, "shares": shares}
    inputs = {task: s.artifact.source for task, s in scores.items()}
    record = build_provenance("steps.aggregate_heads", inputs, options, provenance)
    layers = first.layers
    columns = {
        **places(layers, mean.shape[1]),
        "score": mean.ravel(),
        "stderr": stderr,
        "score_even": even.ravel(),
        "score_odd": odd.ravel(),
        **{name: others[name].ravel() if name in others else [None] * mean.size for name in CRITERIA},
    }
    write(out, HEAD_IMPORTANCE, columns, record)
    write(ranking, RANKING, as_columns(rank_heads(mean, layers), mean, layers), record)
