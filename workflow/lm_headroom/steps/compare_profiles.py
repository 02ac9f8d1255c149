"""Step: importance of heads and FFNs by layer, for models of any depth."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from lm_headroom.analysis.ranking import AGGREGATE
from lm_headroom.artifacts.comparison import COMPARED_PROFILES
from lm_headroom.results.comparison import Comparison, profile_rows
from lm_headroom.results.ffns import read_ffns
from lm_headroom.results.scores import place, read_scores
from lm_headroom.steps.compare import write_rows


def rows(comparison: Comparison) -> list[dict[str, Any]]:
    """A row per model, component, number of shots and layer."""
    found = []
    for model in comparison.models:
        part = comparison.matrix(model)
        for shots in comparison.shots:
            path = place(part.results, AGGREGATE, shots, comparison.seed)
            heads = read_scores(path, **part.expected(shots, AGGREGATE), tasks=list(comparison.tasks))
            found += profile_rows(model.name, "heads", shots, heads.score.mean(axis=1).tolist())
            found += profile_rows(model.name, "ffns", shots, read_ffns(part, shots).average.tolist())
    return found


def run(out: Path, comparison: Comparison) -> None:
    """Write the artifact."""
    write_rows(out, COMPARED_PROFILES, "steps.compare_profiles", comparison, lambda: rows(comparison))
