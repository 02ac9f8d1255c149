"""FFN importance of a study's tasks and its average."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from lm_headroom.analysis.bootstrap import Interval, interval, resample
from lm_headroom.analysis.metrics import mean_and_error
from lm_headroom.artifacts.ffn_importance import FFN_IMPORTANCE
from lm_headroom.artifacts.store import made_by, read
from lm_headroom.results.curves import answers
from lm_headroom.results.matrix import ResultsMatrix
from lm_headroom.study.choices import ACCURACY, Outcome

Array = np.ndarray[Any, np.dtype[np.float64]]


@dataclass(frozen=True)
class FfnImportance:
    """What of an outcome is lost without each FFN (eq. 7): per task with standard errors, and their average.

    Attributes:
        tasks, errors, average, band: in units of the score, [layer]; the band is at 95%.
        metrics: outcomes whose loss ranked the FFNs, one unless the artifacts were made apart.
    """

    tasks: dict[str, Array]
    errors: dict[str, Array]
    average: Array
    band: Interval
    metrics: list[Outcome]


def read_ffns(matrix: ResultsMatrix, shots: int) -> FfnImportance:
    """FFN importance at one number of shots by the study's outcome, whichever outcome ranked the FFNs.

    The average is taken here: the aggregate artifact may hold ranks (``aggregate: mean_rank``) instead of losses.

    Raises:
        ArtifactError: an artifact is missing, or not the one expected.
        UndefinedOutcomeError: a task does not define the outcome.
    """
    lost, metrics = {}, set()
    for task in matrix.tasks:
        path = matrix.path("ffn_importance", shots, task=task)
        table = read(path, FFN_IMPORTANCE, **matrix.expected(shots, task)).sort_by("layer")
        lost[task] = _lost(table, path, matrix.outcome)
        metrics.add(made_by(table).get("options", {}).get("metric", ACCURACY))
    estimated = {task: np.transpose([mean_and_error(layer) for layer in losses]) for task, losses in lost.items()}
    scores, errors = ({task: rows[i] for task, rows in estimated.items()} for i in (0, 1))
    average = np.mean(list(scores.values()), axis=0)
    return FfnImportance(scores, errors, average, interval(resample(list(lost.values()))), sorted(metrics))


def largest_swing(matrix: ResultsMatrix, shots: int, tasks: Sequence[str]) -> tuple[str, int, float, float]:
    """Task, layer (from 0), loss and standard error of the FFN whose removal costs the most."""
    importance = read_ffns(matrix, shots)
    task = max(tasks, key=lambda name: importance.tasks[name].max())
    layer = int(np.argmax(importance.tasks[task]))
    return task, layer, float(importance.tasks[task][layer]), float(importance.errors[task][layer])


def _lost(table: pa.Table, path: Path, outcome: Outcome) -> Array:
    """What each question loses without each FFN, [layer, question]."""
    if outcome == ACCURACY:
        dense, ablated = (
            np.array(table.column(name).to_pylist(), float) for name in ("correct_dense", "correct_ablated")
        )
    else:
        dense, ablated = (answers(table, path, outcome, name) for name in ("log_likelihoods_dense", "log_likelihoods"))
    losses: Array = dense - ablated
    return losses
