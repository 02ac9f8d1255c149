"""Table 1: cross-shot rank correlation of head importance, mean and variance over tasks."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from lm_headroom.analysis.correlation import LEVEL, MIN_RELIABILITY, n_beyond_layers
from lm_headroom.artifacts.cross_shot import CROSS_SHOT
from lm_headroom.artifacts.provenance import describe_drawn
from lm_headroom.artifacts.store import read, reads
from lm_headroom.report import pages
from lm_headroom.study.ranking_names import AGGREGATE

COLUMNS = (
    "shots",
    "tasks",
    "SRCC mean",
    "SRCC variance",
    "argsort mean",
    "argsort variance",
    "top-30% overlap",
    "disattenuated SRCC mean",
    "tasks disattenuated",
    "tasks beyond layer-wise trend",
)
NOTES = (
    "The argsort statistic is the released code's; it is not SRCC.",
    "The disattenuated SRCC estimates the SRCC without the noise in the scores, over the tasks whose split-half "
    f"reliability is at least {MIN_RELIABILITY} at both numbers of shots. Both score the same documents, so it is "
    "computed from halves of different ones. It may exceed 1 by chance.",
    f"Tasks beyond layer-wise trend: SRCC exceeds what a shared layer-wise trend explains, p below {LEVEL} in a "
    "one-sided permutation test that shuffles heads within layers and key-value groups. Both numbers of shots score "
    "the same documents, so shared noise may explain a part of it; the disattenuated SRCC is free of that noise.",
)


class ShotPairRow(NamedTuple):
    """A pair of shots (``0-1``), the number of tasks, mean and sample variance over them, and what noise leaves.

    The corrected mean is over ``n_corrected`` tasks, NaN where there is none; ``n_beyond_layers`` counts tasks whose
    rankings agree beyond a shared layer-wise trend.
    """

    shots: str
    tasks: int
    srcc_mean: float
    srcc_variance: float
    argsort_mean: float
    argsort_variance: float
    overlap: float
    corrected_mean: float
    n_corrected: int
    n_beyond_layers: int


def data(path: Path, **expected: Any) -> list[ShotPairRow]:
    """A row per pair of shots: SRCC and the released code's argsort statistic, mean and sample variance over tasks.

    The variance over a single task is not defined: NaN.
    """
    rows = [row for row in read(path, CROSS_SHOT, **expected).to_pylist() if row["task"] != AGGREGATE]
    table = []
    for pair in sorted({(row["shots_a"], row["shots_b"]) for row in rows}):
        members = [row for row in rows if (row["shots_a"], row["shots_b"]) == pair]
        srcc, argsort = (_moments([row[name] for row in members]) for name in ("srcc", "argsort_statistic"))
        overlap = float(np.mean([row["overlap_top30"] for row in members]))
        corrected = [row["srcc_corrected"] for row in members if row["srcc_corrected"] is not None]
        mean = float(np.mean(corrected)) if corrected else float("nan")
        beyond = n_beyond_layers(members)
        table.append(
            ShotPairRow(f"{pair[0]}-{pair[1]}", len(members), *srcc, *argsort, overlap, mean, len(corrected), beyond)
        )
    return table


def _moments(values: list[float]) -> tuple[float, float]:
    """Mean and sample variance."""
    return float(np.mean(values)), float(np.var(values, ddof=1)) if len(values) > 1 else float("nan")


def write_table(path: Path, out: Path) -> None:
    """Write the table of a cross-shot artifact to ``out``.csv, ``out``.md and ``out``.html."""
    title = "Table 1: rank correlation of head importance between numbers of shots"
    with reads() as sources:
        rows = data(path)
    provenance = describe_drawn("table", "report.tables.table1", sources, {}, out)
    pages.write_table(out, title, COLUMNS, rows, provenance, NOTES)
