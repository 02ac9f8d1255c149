"""FFN importance of a study's tasks and its average."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from lm_headroom.analysis.bootstrap import Interval, interval, resample
from lm_headroom.analysis.metrics import mean_and_error
from lm_headroom.artifacts.ffn_importance import FFN_IMPORTANCE, metric_of
from lm_headroom.artifacts.store import made_by, read
from lm_headroom.results.curves import lost_by_question
from lm_headroom.results.matrix import ResultsMatrix
from lm_headroom.study.choices import KnockoutOutcome

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
    metrics: list[KnockoutOutcome]


def read_ffns(matrix: ResultsMatrix, shots: int) -> FfnImportance:
    """FFN importance at one number of shots by the study's outcome, whichever outcome ranked the FFNs.

    The average is taken here: the aggregate artifact may hold ranks (``aggregate: mean_rank``) instead of losses.

    Raises:
        ArtifactError: an artifact is missing, or not the one expected.
        UndefinedOutcomeError: a task does not define the outcome.
    """
    lost, metrics = {}, set[KnockoutOutcome]()
    for task in matrix.tasks:
        path = matrix.path("ffn_importance", shots, task=task)
        table = read(path, FFN_IMPORTANCE, **matrix.expected(shots, task)).sort_by("layer")
        lost[task] = lost_by_question(table, path, matrix.outcome)
        metrics.add(metric_of(made_by(table)))
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
