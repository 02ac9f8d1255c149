"""Step: aggregate FFN importance over tasks (eq. 10)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from lm_headroom.analysis.outcomes import OUTCOMES
from lm_headroom.analysis.ranking import aggregate as aggregate_scores
from lm_headroom.analysis.ranking import aggregation_size, ffn_columns, rank_ffns
from lm_headroom.artifacts.ffn_importance import FFN_IMPORTANCE, metric_of
from lm_headroom.artifacts.ffns import layers
from lm_headroom.artifacts.provenance import build_provenance, cell_provenance
from lm_headroom.artifacts.ranking import FFN_RANKING
from lm_headroom.artifacts.store import ArtifactError, write
from lm_headroom.options import AggregatedCells, OutFile, recorded_options
from lm_headroom.study.choices import Aggregation, Outcome
from lm_headroom.study.ranking_names import AGGREGATE

MEANS = ("score", "accuracy_dense", "accuracy_ablated")


def aggregate_ffns(*, cells: AggregatedCells, out: OutFile, ranking: OutFile) -> None:
    """Aggregate FFN scores over tasks (eq. 10), and rank by the aggregate.

    Oracle scores are of either sign. Losses of accuracy and of probabilities are on one scale for all tasks, so
    `mean_normalised` is their mean. Losses of other metrics have the unit of each task's continuations: there
    `mean_normalised` divides a task's scores by the sum of their sizes.

    Args:
        cells: which results are aggregated.
        out: the aggregate's FFN-importance artifact.
        ranking: the ranking artifact.

    Raises:
        ArtifactError: a task's scores are missing, damaged, of another model, task, shot or seed, or by another
            metric.

    Example:
        lm-headroom aggregate-ffns --results results/opt --tasks copa piqa --shots 0 --out scores.parquet
        --ranking ranking.parquet
    """
    from lm_headroom.results.matrix import ResultsMatrix

    options = recorded_options(aggregate_ffns, locals())
    matrix = ResultsMatrix(cells.results, tuple(cells.tasks), (cells.shots,), cells.seed)
    paths = {task: matrix.path("ffn_importance", cells.shots, task=task) for task in cells.tasks}
    artifacts = matrix.read_all(FFN_IMPORTANCE, paths, cells.shots)
    scores = {
        task: {name: layers(artifact.table, name) for name in (*MEANS, "stderr")}
        for task, artifact in artifacts.items()
    }
    sizes = {task: len(values["score"]) for task, values in scores.items()}
    if len(set(sizes.values())) > 1:
        raise ArtifactError(f"{cells.results}: tasks have FFN scores of different models, layers: {sizes}")
    metrics = {task: metric_of(artifact.provenance) for task, artifact in artifacts.items()}
    metric = metrics[cells.tasks[0]]
    if set(metrics.values()) != {metric}:
        raise ArtifactError(f"{cells.results}: FFNs are scored by different metrics, {metrics}; run the workflow again")
    columns = _aggregate(scores, cells.aggregate, metric)
    inputs = {task: artifact.source for task, artifact in artifacts.items()}
    cell = cell_provenance(artifacts[cells.tasks[0]].provenance, AGGREGATE, cells.shots, cells.seed)
    cell["metric"] = metric
    record = build_provenance("steps.aggregate_ffns", inputs, options, cell)
    write(out, FFN_IMPORTANCE, columns, record)
    write(ranking, FFN_RANKING, ffn_columns(rank_ffns(columns["score"]), columns["score"]), record)


def _aggregate(scores: Mapping[str, dict[str, Any]], how: Aggregation, metric: Outcome) -> dict[str, Any]:
    """Columns of the aggregate from those of each task, which has no outcomes by question."""
    if how == "mean_normalised" and not OUTCOMES[metric].is_share:
        scores = {task: values | _normalised(values) for task, values in scores.items()}
    means = {name: np.mean([values[name] for values in scores.values()], axis=0) for name in MEANS}
    stderr: list[float] | list[None] = (
        np.sqrt(sum(values["stderr"] ** 2 for values in scores.values())) / len(scores)
    ).tolist()
    if how == "mean_rank":
        # A rank's standard error does not follow from the scores'.
        stderr = [None] * len(means["score"])
        means["score"] = aggregate_scores({task: v["score"][:, None] for task, v in scores.items()}, how)[0][:, 0]
    n = len(means["score"])
    return {
        "layer": list(range(n)),
        "stderr": stderr,
        **means,
        **{
            column.name: [None] * n
            for column in FFN_IMPORTANCE.columns
            if column.name not in ("layer", "stderr", *MEANS)
        },
    }


def _normalised(values: Mapping[str, Any]) -> dict[str, Any]:
    """A task's scores and their errors over the sum of the scores' sizes."""
    size = aggregation_size(values["score"], "mean_normalised")
    return {name: values[name] / size for name in ("score", "stderr")}
