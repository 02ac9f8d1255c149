"""Head scores of one task or of a set of tasks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from lm_headroom.analysis.correlation import TaskScores, key_value_groups
from lm_headroom.analysis.ranking import AGGREGATE
from lm_headroom.artifacts.catalogue import file_of
from lm_headroom.artifacts.head_importance import HEAD_IMPORTANCE
from lm_headroom.artifacts.heads import grid
from lm_headroom.artifacts.model_record import recorded_digest
from lm_headroom.artifacts.store import ArtifactError, digest_of, made_by, read
from lm_headroom.study.ranking_names import CRITERIA

Array = np.ndarray[Any, np.dtype[np.float64]]


@dataclass(frozen=True)
class HeadScores:
    """Columns of a head-importance artifact, each [layer, head], and its provenance.

    Attributes:
        path: the artifact.
        facts: its provenance.
        score, stderr, even, odd: by the configured reading of eq. 8.
        others: other rankings' scores by name (:data:`lm_headroom.study.ranking_names.CRITERIA`).
    """

    path: Path
    facts: Mapping[str, Any]
    score: Array
    stderr: Array
    even: Array
    odd: Array
    others: Mapping[str, Array]

    @property
    def by_halves(self) -> TaskScores:
        """What rankings are correlated by."""
        return TaskScores(self.score, self.even, self.odd, key_value_groups(self.facts))


def place(results: Path, task: str, shots: int, seed: int | None) -> Path:
    """Where a task's head importance is, below a model's results folder."""
    return file_of(results, "head_importance", task=task, shot=shots, seed=seed)


def read_scores(path: Path, **expected: Any) -> HeadScores:
    """Read a head-importance artifact.

    Raises:
        ArtifactError: it is none, or not the one expected (see :func:`lm_headroom.artifacts.store.read`).
    """
    table = read(path, HEAD_IMPORTANCE, **expected)
    score, stderr, even, odd = (grid(table, name) for name in ("score", "stderr", "score_even", "score_odd"))
    others = {name: grid(table, name) for name in CRITERIA}
    return HeadScores(path, made_by(table), score, stderr, even, odd, others)


def read_tasks(
    results: Path, tasks: Sequence[str], shots: int, seed: int | None, aggregate: bool = False
) -> dict[str, HeadScores]:
    """Scores of several tasks of one model.

    Args:
        results: the model's results folder.
        tasks: their names.
        shots, seed: of all of them.
        aggregate: read their aggregate, too.

    Raises:
        ArtifactError: one is missing, damaged, or of another model, task, shot or seed; or their shapes differ.
    """
    found: dict[str, HeadScores] = {}
    model = recorded_digest(results)
    for task in [*tasks, *([AGGREGATE] if aggregate else [])]:
        of = list(tasks) if task == AGGREGATE else None
        path = place(results, task, shots, seed)
        found[task] = read_scores(path, model=model, task=task, shots=shots, seed=seed, tasks=of)
        # Without a record, all must be of the model that the first is of.
        model = model or digest_of(found[task].facts)
    shapes = {task: scores.score.shape for task, scores in found.items()}
    if len(set(shapes.values())) > 1:
        raise ArtifactError(f"{results}: tasks have scores of different models, layers x heads: {shapes}")
    return found


def read_seeds(
    results: Path, tasks: Sequence[str], shots: int, seeds: Sequence[int]
) -> dict[str, dict[int, HeadScores]]:
    """Scores of several tasks and their aggregate by seed.

    Raises:
        ArtifactError: see :func:`read_tasks`; or seeds have scores of different models.
    """
    by_seed = {seed: read_tasks(results, tasks, shots, seed, aggregate=True) for seed in seeds}
    shapes = {seed: found[AGGREGATE].score.shape for seed, found in by_seed.items()}
    if len(set(shapes.values())) > 1:
        raise ArtifactError(f"{results}: seeds have scores of different models, layers x heads: {shapes}")
    return {task: {seed: found[task] for seed, found in by_seed.items()} for task in [*tasks, AGGREGATE]}
