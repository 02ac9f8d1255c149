"""Step: importance of heads and FFNs by layer, for models of any depth."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from lm_headroom.artifacts.comparison import COMPARED_PROFILES
from lm_headroom.results.comparison import Comparison, profile_rows
from lm_headroom.results.ffns import read_ffns
from lm_headroom.results.scores import read_aggregate
from lm_headroom.steps.compare import write_rows


def rows(comparison: Comparison) -> list[dict[str, Any]]:
    """A row per model, component, number of shots and layer."""
    table = []
    for model, matrix in comparison.matrices.items():
        for shots in comparison.shots:
            heads = read_aggregate(matrix, shots)
            by_layer = dict(zip(heads.layers, heads.score.mean(axis=1).tolist(), strict=True))
            ffns = dict(enumerate(read_ffns(matrix, shots).average.tolist()))
            table += profile_rows(model, "heads", shots, by_layer, len(ffns))
            table += profile_rows(model, "ffns", shots, ffns, len(ffns))
    return table


def compare_profiles(out: Path, comparison: Comparison) -> None:
    """Write the artifact."""
    write_rows(out, COMPARED_PROFILES, "steps.compare_profiles", comparison, lambda: rows(comparison))
