"""Importance of experts by task, from artifacts."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from lm_headroom.artifacts.expert_importance import EXPERT_IMPORTANCE
from lm_headroom.artifacts.heads import computed
from lm_headroom.results.matrix import ResultsMatrix
from lm_headroom.study.criteria import CRITERIA, EXPERTS, criteria_of

Array = np.ndarray[Any, np.dtype[np.float64]]


@dataclass(frozen=True)
class ExpertScores:
    """Scores of one task's experts.

    Attributes:
        layers: numbers of the layers that have experts.
        own: by the study's criterion, [layer, expert].
        criterion: its name.
        by_criterion: the same by each criterion that was computed.
        per_token: experts that a token is sent to, and a layer keeps at least.
    """

    layers: list[int]
    own: Array
    criterion: str
    by_criterion: dict[str, Array]
    per_token: int

    @property
    def unit(self) -> str:
        """What the scores are measured in."""
        return CRITERIA[self.criterion].unit


def read_experts(matrix: ResultsMatrix, shots: int) -> dict[str, ExpertScores]:
    """Task to the scores of its experts.

    Raises:
        ArtifactError: an artifact is missing, or not the one expected.
    """
    paths = {task: matrix.path("expert_importance", shots, task=task) for task in matrix.tasks}
    scores = {}
    for task, artifact in matrix.read_all(EXPERT_IMPORTANCE, paths, shots).items():
        table = artifact.table.sort_by([("layer", "ascending"), ("expert", "ascending")])
        numbers = np.unique(table.column("layer").to_numpy()).tolist()

        def grid(name: str, rows: Any = table, n_layers: int = len(numbers)) -> Array:
            values: Array = rows.column(name).to_numpy(zero_copy_only=False).astype(float)
            return values.reshape(n_layers, -1)

        columns = {name: grid(name) for name in computed(table, criteria_of(EXPERTS))}
        record = artifact.provenance
        criterion, per_token = record["options"]["criterion"], int(record["experts_per_token"])
        scores[task] = ExpertScores(numbers, grid("score"), criterion, columns, per_token)
    return scores
