"""Step: the induction scores of each model's heads in a few numbers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from lm_headroom.artifacts.comparison import COMPARED_INDUCTION
from lm_headroom.artifacts.copying import COPYING
from lm_headroom.artifacts.heads import grid, layers_of
from lm_headroom.artifacts.prefix_matching import PREFIX_MATCHING
from lm_headroom.artifacts.store import read
from lm_headroom.results.comparison import Comparison, induction_row
from lm_headroom.steps.compare import write_rows


def rows(comparison: Comparison) -> list[dict[str, Any]]:
    """A row per model and score."""
    table = []
    for model, matrix in comparison.matrices.items():
        for kind in (PREFIX_MATCHING, COPYING):
            scores = read(matrix.path(kind.name), kind, model=matrix.digest)
            n_sequences = scores.column("n_sequences")[0].as_py()
            means, variances = grid(scores, "mean"), grid(scores, "variance")
            table.append(induction_row(model, kind.name, means, variances, n_sequences, layers_of(scores)))
    return table


def compare_induction(out: Path, comparison: Comparison) -> None:
    """Write the artifact."""
    write_rows(out, COMPARED_INDUCTION, "steps.compare_induction", comparison, lambda: rows(comparison))
