"""Step: how much of each model's heads and FFNs can be pruned within the margin."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from lm_headroom.artifacts.comparison import COMPARED_PRUNABLE
from lm_headroom.report.tables.headroom import average_prunable
from lm_headroom.results.chance import read_chance_levels
from lm_headroom.results.comparison import Comparison, prunable_row
from lm_headroom.results.matrix import COMPONENTS
from lm_headroom.steps.compare import write_rows


def rows(comparison: Comparison) -> list[dict[str, Any]]:
    """A row per model, component and number of shots."""
    # All models are given the same prompts.
    chance = read_chance_levels(next(iter(comparison.matrices.values())))
    table = []
    for model, matrix in comparison.matrices.items():
        for component in COMPONENTS:
            for shots in comparison.shots:
                tasks, curve, prunable = average_prunable(matrix, shots, component, chance)
                levels = [chance[task] for task in tasks]
                table.append(prunable_row(model, component, shots, curve, prunable, levels))
    return table


def compare_prunable(out: Path, comparison: Comparison) -> None:
    """Write the artifact."""
    write_rows(out, COMPARED_PRUNABLE, "steps.compare_prunable", comparison, lambda: rows(comparison))
