"""Step: aggregate head importance over tasks (eq. 10)."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import numpy as np

from lm_headroom.analysis.ranking import aggregate as aggregate_scores
from lm_headroom.analysis.ranking import aggregation_weight, as_columns, rank_heads
from lm_headroom.artifacts.head_importance import HEAD_IMPORTANCE
from lm_headroom.artifacts.provenance import build_provenance, cell_provenance
from lm_headroom.artifacts.ranking import RANKING
from lm_headroom.artifacts.store import write
from lm_headroom.options import Count, OutFile, StudyKey, recorded_options
from lm_headroom.study.choices import Aggregation
from lm_headroom.study.ranking_names import AGGREGATE, CRITERIA

HALVES = ("even", "odd")


def aggregate_heads(
    *,
    results: Path,
    tasks: Annotated[Sequence[str], StudyKey("tasks")],
    shots: Count,
    seed: int = 1234,
    aggregate: Annotated[Aggregation, StudyKey("aggregate")] = "mean",
    out: OutFile,
    ranking: OutFile,
) -> None:
    """Aggregate head scores over tasks (eq. 10), and rank by the aggregate.

    Args:
        results: the model's results folder.
        tasks: the tasks of the aggregate.
        shots: number of few-shot examples.
        seed: seed of the few-shot sampler.
        aggregate: how scores of several tasks become one.
        out: the aggregate's head-importance artifact.
        ranking: the ranking artifact.

    Example:
        lm-headroom aggregate-heads --results results/opt --tasks copa piqa --shots 0 --out scores.parquet
        --ranking ranking.parquet
    """
    from lm_headroom.results.matrix import ResultsMatrix
    from lm_headroom.results.scores import read_tasks

    options = recorded_options(aggregate_heads, locals())
    scores = read_tasks(ResultsMatrix(results, tuple(tasks), (shots,), seed), shots)
    mean, shares = aggregate_scores({task: s.score for task, s in scores.items()}, aggregate)
    even, odd = (aggregate_scores({t: getattr(s, half) for t, s in scores.items()}, aggregate)[0] for half in HALVES)
    others = {name: aggregate_scores({t: s.others[name] for t, s in scores.items()}, aggregate)[0] for name in CRITERIA}
    if aggregate == "mean_rank":
        # A rank's standard error does not follow from the scores'.
        stderr: Sequence[float | None] = [None] * mean.size
    else:
        weights = {task: aggregation_weight(s.score, aggregate) for task, s in scores.items()}
        variance = sum((s.stderr * weights[task]) ** 2 for task, s in scores.items())
        stderr = (np.sqrt(variance) / len(scores)).ravel().tolist()
    first = next(iter(scores.values())).provenance
    provenance = {**cell_provenance(first, AGGREGATE, shots, seed), "shares": shares}
    inputs = {task: s.artifact.source for task, s in scores.items()}
    record = build_provenance("steps.aggregate_heads", inputs, options, provenance)
    layers, heads = np.indices(mean.shape)
    columns = {
        "layer": layers.ravel(),
        "head": heads.ravel(),
        "score": mean.ravel(),
        "stderr": stderr,
        "score_even": even.ravel(),
        "score_odd": odd.ravel(),
        **{name: values.ravel() for name, values in others.items()},
    }
    write(out, HEAD_IMPORTANCE, columns, record)
    write(ranking, RANKING, as_columns(rank_heads(mean), mean), record)
