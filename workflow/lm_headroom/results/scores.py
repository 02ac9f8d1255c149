"""Head scores of one task or of a set of tasks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from lm_headroom.analysis.correlation import TaskScores, key_value_groups
from lm_headroom.artifacts.head_importance import HEAD_IMPORTANCE
from lm_headroom.artifacts.heads import computed, grid, layers_of
from lm_headroom.artifacts.store import ArtifactError, ArtifactFile, read_artifact
from lm_headroom.results.matrix import ResultsMatrix
from lm_headroom.study.criteria import CRITERIA as ROWS
from lm_headroom.study.ranking_names import AGGREGATE, CRITERIA

Array = np.ndarray[Any, np.dtype[np.float64]]
AGGREGATED = {"mean_rank": "rank, mean over tasks", "mean_normalised": "share of a task's total, mean over tasks"}
"""Units of aggregates that are not in the unit of the criterion."""


@dataclass(frozen=True)
class HeadScores:
    """Columns of a head-importance artifact, each [layer, head].

    Attributes:
        artifact: the file that was read.
        score, stderr, even, odd: by the study's criterion.
        others: other rankings' scores by name, as far as they were computed
            (:data:`lm_headroom.study.ranking_names.CRITERIA`).
    """

    artifact: ArtifactFile
    score: Array
    stderr: Array
    even: Array
    odd: Array
    others: Mapping[str, Array]

    @classmethod
    def parse(cls, artifact: ArtifactFile) -> HeadScores:
        """The columns of an artifact."""
        score, stderr, even, odd = (
            grid(artifact.table, name) for name in ("score", "stderr", "score_even", "score_odd")
        )
        others = {name: grid(artifact.table, name) for name in computed(artifact.table, CRITERIA)}
        return cls(artifact, score, stderr, even, odd, others)

    @property
    def provenance(self) -> Mapping[str, Any]:
        """What made the artifact."""
        return self.artifact.provenance

    @property
    def layers(self) -> list[int]:
        """Numbers of the layers that have heads: those of the rows."""
        return layers_of(self.artifact.table)

    @property
    def criterion(self) -> str:
        """By which the study ranks."""
        # A task's scores record it among the options, the aggregate's beside them.
        known = {**self.provenance, **(self.provenance.get("options") or {})}
        return str(known.get("criterion", "token"))

    @property
    def unit(self) -> str:
        """What the scores are measured in, which their criterion decides, and of an aggregate how tasks enter it."""
        how = (self.provenance.get("options") or {}).get("aggregate")
        return AGGREGATED.get(str(how), ROWS[self.criterion].unit)

    @property
    def by_halves(self) -> TaskScores:
        """What rankings are correlated by."""
        return TaskScores(self.score, self.even, self.odd, key_value_groups(self.provenance))


def read_scores(path: Path, **expected: Any) -> HeadScores:
    """Read a head-importance artifact.

    Raises:
        ArtifactError: it is none, or not the one expected (see :func:`lm_headroom.artifacts.store.read_artifact`).
    """
    return HeadScores.parse(read_artifact(path, HEAD_IMPORTANCE, **expected))


def read_aggregate(matrix: ResultsMatrix, shots: int) -> HeadScores:
    """The scores of the aggregate over the matrix's tasks at one number of shots."""
    path = matrix.path("head_importance", shots, task=AGGREGATE)
    expected = {**matrix.expected(shots, AGGREGATE), "tasks": list(matrix.tasks)}
    return read_scores(path, **expected)


def read_tasks(matrix: ResultsMatrix, shots: int, aggregate: bool = False) -> dict[str, HeadScores]:
    """Scores of the matrix's tasks at one number of shots; with their ``aggregate``, which comes last, where asked for.

    Raises:
        ArtifactError: one is missing, damaged, or of another model, task, shot or seed; or their shapes differ.
    """
    names = [*matrix.tasks, *([AGGREGATE] if aggregate else [])]
    paths = {task: matrix.path("head_importance", shots, task=task) for task in names}
    artifacts = matrix.read_all(HEAD_IMPORTANCE, paths, shots)
    if aggregate:
        artifacts[AGGREGATE].check_origin(tasks=list(matrix.tasks))
    scores = {task: HeadScores.parse(artifact) for task, artifact in artifacts.items()}
    _check_shapes(matrix, "tasks", scores)
    return scores


def read_seeds(matrix: ResultsMatrix, shots: int, seeds: Sequence[int]) -> dict[str, dict[int, HeadScores]]:
    """Scores of the matrix's tasks and their aggregate by seed.

    Raises:
        ArtifactError: see :func:`read_tasks`; or seeds have scores of different models.
    """
    by_seed = {seed: read_tasks(matrix.changed(seed=seed), shots, aggregate=True) for seed in seeds}
    _check_shapes(matrix, "seeds", {seed: scores[AGGREGATE] for seed, scores in by_seed.items()})
    return {task: {seed: by_seed[seed][task] for seed in seeds} for task in [*matrix.tasks, AGGREGATE]}


def _check_shapes(matrix: ResultsMatrix, names: str, scores: Mapping[Any, HeadScores]) -> None:
    shapes = {name: values.score.shape for name, values in scores.items()}
    if len(set(shapes.values())) > 1:
        raise ArtifactError(f"{matrix.results}: {names} have scores of different models, layers x heads: {shapes}")
