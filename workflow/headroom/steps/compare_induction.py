"""Step: the induction scores of each model's heads in a few numbers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from headroom.artifacts.comparison import COMPARED_INDUCTION
from headroom.artifacts.copying import COPYING
from headroom.artifacts.heads import grid
from headroom.artifacts.prefix_matching import PREFIX_MATCHING
from headroom.artifacts.store import read
from headroom.comparison import Comparison, induction_row
from headroom.steps.compare import write_rows


def rows(study: Comparison) -> list[dict[str, Any]]:
    """A row per model and score."""
    found = []
    for model in study.models:
        part = study.study(model)
        for kind in (PREFIX_MATCHING, COPYING):
            table = read(part.results / "induction" / f"{kind.name}.parquet", kind, model=part.digest)
            n_sequences = table.column("n_sequences")[0].as_py()
            means, variances = grid(table, "mean"), grid(table, "variance")
            found.append(induction_row(model.name, kind.name, means, variances, n_sequences))
    return found


def run(out: Path, study: Comparison) -> None:
    """Write the artifact."""
    write_rows(out, COMPARED_INDUCTION, "steps.compare_induction", study, lambda: rows(study))
