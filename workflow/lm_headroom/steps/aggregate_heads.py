"""Step: aggregate head importance over tasks (eq. 10), and rankings of given scores."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from lm_headroom.analysis.ranking import AGGREGATE, Aggregation, aggregate, aggregation_weight, as_columns, rank_heads
from lm_headroom.artifacts.head_importance import HEAD_IMPORTANCE
from lm_headroom.artifacts.provenance import build_provenance, cell_provenance
from lm_headroom.artifacts.ranking import RANKING
from lm_headroom.artifacts.store import write
from lm_headroom.results.matrix import ResultsMatrix
from lm_headroom.results.scores import read_scores, read_tasks
from lm_headroom.study.ranking_names import CRITERIA

_CELL = ("model", "dtype", "task", "shots", "seed")
"""What the ranking of one task's scores takes over from their provenance."""


def run(out: Path, ranking: Path, results: Path, tasks: Sequence[str], shots: int, seed: int, how: Aggregation) -> None:
    """Write the aggregate's head-importance artifact and its ranking."""
    scores = read_tasks(ResultsMatrix(results, tuple(tasks), (shots,), seed), shots)
    mean, shares = aggregate({task: s.score for task, s in scores.items()}, how)
    halves = [aggregate({t: getattr(s, half) for t, s in scores.items()}, how)[0] for half in ("even", "odd")]
    others = {name: aggregate({t: s.others[name] for t, s in scores.items()}, how)[0] for name in CRITERIA}
    if how == "mean_rank":
        # A rank's standard error does not follow from the scores'.
        stderr: Sequence[float | None] = [None] * mean.size
    else:
        weights = {task: aggregation_weight(s.score, how) for task, s in scores.items()}
        variance = sum((s.stderr * weights[task]) ** 2 for task, s in scores.items())
        stderr = (np.sqrt(variance) / len(scores)).ravel().tolist()
    first = next(iter(scores.values())).provenance
    provenance = {**cell_provenance(first, AGGREGATE, shots, seed), "shares": shares}
    inputs = {task: s.artifact.source for task, s in scores.items()}
    record = build_provenance("steps.aggregate_heads", inputs, {"aggregate": how, "tasks": list(tasks)}, provenance)
    layers, heads = np.indices(mean.shape)
    columns = {
        "layer": layers.ravel(),
        "head": heads.ravel(),
        "score": mean.ravel(),
        "stderr": stderr,
        "score_even": halves[0].ravel(),
        "score_odd": halves[1].ravel(),
        **{name: values.ravel() for name, values in others.items()},
    }
    write(out, HEAD_IMPORTANCE, columns, record)
    write(ranking, RANKING, as_columns(rank_heads(mean), mean), record)


def rank_one(out: Path, scores: Path) -> None:
    """Write the ranking of one head-importance artifact."""
    importances = read_scores(scores)
    cell = {name: importances.provenance[name] for name in _CELL if name in importances.provenance}
    record = build_provenance("steps.aggregate_heads", {"scores": importances.artifact.source}, {}, cell)
    write(out, RANKING, as_columns(rank_heads(importances.score), importances.score), record)
