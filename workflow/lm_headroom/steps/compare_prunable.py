"""Step: how much of each model's heads and FFNs can go by the stated rule."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from lm_headroom.artifacts.comparison import COMPARED_PRUNABLE
from lm_headroom.report.tables.headroom import certified_average
from lm_headroom.results.chance import chances
from lm_headroom.results.comparison import Comparison, prunable_row
from lm_headroom.results.matrix import COMPONENTS
from lm_headroom.steps.compare import write_rows


def rows(comparison: Comparison) -> list[dict[str, Any]]:
    """A row per model, component and number of shots."""
    # All models are given the same prompts.
    known = chances(comparison.matrix(comparison.models[0]))
    found = []
    for model in comparison.models:
        part = replace(comparison.matrix(model), margin=comparison.margin)
        for component in COMPONENTS:
            for shots in comparison.shots:
                tasks, curve, certified = certified_average(part, shots, component, known)
                chance = [known[task] for task in tasks]
                found.append(prunable_row(model.name, component, shots, curve, certified, chance))
    return found


def run(out: Path, comparison: Comparison) -> None:
    """Write the artifact."""
    write_rows(out, COMPARED_PRUNABLE, "steps.compare_prunable", comparison, lambda: rows(comparison))
