"""Step: the induction scores of each model's heads in a few numbers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from lm_headroom.artifacts.comparison import COMPARED_INDUCTION
from lm_headroom.artifacts.copying import COPYING
from lm_headroom.artifacts.heads import grid
from lm_headroom.artifacts.prefix_matching import PREFIX_MATCHING
from lm_headroom.artifacts.store import read
from lm_headroom.results.comparison import Comparison, induction_row
from lm_headroom.steps.compare import write_rows


def rows(comparison: Comparison) -> list[dict[str, Any]]:
    """A row per model and score."""
    found = []
    for model in comparison.models:
        part = comparison.matrix(model)
        for kind in (PREFIX_MATCHING, COPYING):
            table = read(part.path(kind.name), kind, model=part.digest)
            n_sequences = table.column("n_sequences")[0].as_py()
            means, variances = grid(table, "mean"), grid(table, "variance")
            found.append(induction_row(model.name, kind.name, means, variances, n_sequences))
    return found


def run(out: Path, comparison: Comparison) -> None:
    """Write the artifact."""
    write_rows(out, COMPARED_INDUCTION, "steps.compare_induction", comparison, lambda: rows(comparison))
