"""FFN importance of a study's tasks and its average."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from lm_headroom.analysis.bootstrap import Interval, interval, resample
from lm_headroom.artifacts.ffn_importance import FFN_IMPORTANCE
from lm_headroom.artifacts.ffns import layers
from lm_headroom.artifacts.store import read
from lm_headroom.results.matrix import ResultsMatrix

Array = np.ndarray[Any, np.dtype[np.float64]]


@dataclass(frozen=True)
class FfnImportance:
    """Accuracy lost without each FFN (eq. 7): per task with standard errors, and their average with its 95% band.

    Each is [layer].
    """

    tasks: dict[str, Array]
    errors: dict[str, Array]
    average: Array
    band: Interval


def read_ffns(matrix: ResultsMatrix, shots: int) -> FfnImportance:
    """FFN importance at one number of shots.

    The average is taken here: the aggregate artifact may hold ranks (``aggregate: mean_rank``) instead of accuracies.
    """
    scores, errors, lost = {}, {}, []
    for task in matrix.tasks:
        path = matrix.path("ffn_importance", shots, task=task)
        table = read(path, FFN_IMPORTANCE, **matrix.expected(shots, task))
        scores[task], errors[task] = (layers(table, name) for name in ("score", "stderr"))
        order = np.argsort(table.column("layer").to_numpy())
        outcomes = [np.array(table.column(name).to_pylist(), float) for name in ("correct_dense", "correct_ablated")]
        lost.append((outcomes[0] - outcomes[1])[order])
    return FfnImportance(scores, errors, np.mean(list(scores.values()), axis=0), interval(resample(lost)))
