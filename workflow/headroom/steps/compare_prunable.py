"""Step: how much of each model's heads and FFNs can go by the stated rule."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from headroom.artifacts.comparison import COMPARED_PRUNABLE
from headroom.chance import chances
from headroom.comparison import Comparison, prunable_row
from headroom.figures.accuracy import average, study_curves
from headroom.figures.study import COMPONENTS
from headroom.settings import MARGIN
from headroom.steps.compare import write_rows


def rows(study: Comparison) -> list[dict[str, Any]]:
    """A row per model, component and number of shots."""
    # All models are given the same prompts.
    guess = float(np.mean(list(chances(study.study(study.models[0])).values())))
    found = []
    for model in study.models:
        part = study.study(model)
        for component in COMPONENTS:
            for shots in study.shots:
                curve = average(list(study_curves(part, shots, component=component).values()))
                found.append(prunable_row(model.name, component, shots, curve, guess, study.margin or MARGIN))
    return found


def run(out: Path, study: Comparison) -> None:
    """Write the artifact."""
    write_rows(out, COMPARED_PRUNABLE, "steps.compare_prunable", study, lambda: rows(study))
