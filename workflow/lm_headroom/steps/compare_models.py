"""Step: the models of a study side by side: what they are, how large, and what they are checkpoints of."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from lm_headroom.artifacts.comparison import COMPARED_MODELS
from lm_headroom.artifacts.model_record import NAME
from lm_headroom.models.location import read_location
from lm_headroom.results.comparison import Comparison
from lm_headroom.steps.compare import write_rows


def rows(comparison: Comparison) -> list[dict[str, Any]]:
    """A row per model."""
    table = []
    for model in comparison.models:
        matrix = comparison.matrices[model.name]
        record = matrix.read_record()
        # Sizes stand beside the record, and are lost where hidden files are not copied.
        sizes = read_location(matrix.results / NAME).get("sizes") or {}
        labels = {"model": model.name, "group": model.group, "step": model.step}
        shape = {name: record.get(name) for name in ("family", "revision", "layers", "heads")}
        table.append({**labels, **shape, "parameters": sizes.get("parameters")})
    return table


def compare_models(out: Path, comparison: Comparison) -> None:
    """Write the artifact."""
    write_rows(out, COMPARED_MODELS, "steps.compare_models", comparison, lambda: rows(comparison))
