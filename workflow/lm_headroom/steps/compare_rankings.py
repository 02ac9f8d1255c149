"""Step: rank correlations of head scores between models with as many layers and heads."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from lm_headroom.artifacts.comparison import COMPARED_RANKINGS
from lm_headroom.results.comparison import Comparison, ranking_rows
from lm_headroom.results.scores import read_tasks
from lm_headroom.steps.compare import write_rows


def rows(comparison: Comparison) -> list[dict[str, Any]]:
    """A row per pair of models, task and number of shots."""
    table: list[dict[str, Any]] = []
    for shots in comparison.shots:
        scores = {
            name: {task: s.by_halves for task, s in read_tasks(matrix, shots, aggregate=True).items()}
            for name, matrix in comparison.matrices.items()
        }
        table += ranking_rows(scores, shots)
    return table


def compare_rankings(out: Path, comparison: Comparison) -> None:
    """Write the artifact."""
    write_rows(out, COMPARED_RANKINGS, "steps.compare_rankings", comparison, lambda: rows(comparison))
