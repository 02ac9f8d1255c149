"""Head scores of one task or of a set of tasks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from headroom.artifacts.head_importance import HEAD_IMPORTANCE
from headroom.artifacts.heads import grid
from headroom.artifacts.store import ArtifactError, read

Array = np.ndarray[Any, np.dtype[np.float64]]


@dataclass(frozen=True)
class HeadScores:
    """Columns of a head-importance artifact, each [layer, head]."""

    path: Path
    score: Array
    stderr: Array
    even: Array
    odd: Array


def place(results: Path, task: str, shots: int, seed: int | None) -> Path:
    """Where a task's head importance is, below a model's results folder."""
    return results / "head_importance" / task / f"{shots}shot-seed{seed}.parquet"


def read_scores(path: Path) -> HeadScores:
    """Read a head-importance artifact.

    Raises:
        ArtifactError: it is none, or a score is not finite.
    """
    table = read(path, HEAD_IMPORTANCE)
    columns = [grid(table, name, path) for name in ("score", "stderr", "score_even", "score_odd")]
    if not np.isfinite(columns[0]).all():
        layer, head = np.argwhere(~np.isfinite(columns[0]))[0]
        raise ArtifactError(f"{path}: layer {layer} head {head} has score {columns[0][layer, head]}")
    return HeadScores(path, *columns)


def read_tasks(results: Path, tasks: Sequence[str], shots: int, seed: int | None) -> dict[str, HeadScores]:
    """Scores of several tasks of one model.

    Raises:
        ArtifactError: one is missing or wrong, or their shapes differ.
    """
    found = {task: read_scores(place(results, task, shots, seed)) for task in tasks}
    shapes = {task: scores.score.shape for task, scores in found.items()}
    if len(set(shapes.values())) > 1:
        raise ArtifactError(f"{results}: tasks have scores of different models, layers x heads: {shapes}")
    return found
