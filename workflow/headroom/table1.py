"""Table 1: cross-shot rank correlation of head importance, mean and variance over tasks."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from headroom import tables
from headroom.artifacts.cross_shot import CROSS_SHOT
from headroom.artifacts.store import read
from headroom.provenance import describe_drawn
from headroom.ranking import AGGREGATE

COLUMNS = ("shots", "tasks", "SRCC mean", "SRCC variance", "argsort mean", "argsort variance", "top-30 % overlap")


class Row(NamedTuple):
    """A pair of shots (``0-1``), the number of tasks, and mean and sample variance over them."""

    shots: str
    tasks: int
    srcc_mean: float
    srcc_variance: float
    argsort_mean: float
    argsort_variance: float
    overlap: float


def data(path: Path, **expected: Any) -> list[Row]:
    """A row per pair of shots: SRCC and the released code's argsort statistic, mean and sample variance over tasks.

    The variance over a single task is not defined: NaN.
    """
    rows = [row for row in read(path, CROSS_SHOT, **expected).to_pylist() if row["task"] != AGGREGATE]
    table = []
    for pair in sorted({(row["shots_a"], row["shots_b"]) for row in rows}):
        members = [row for row in rows if (row["shots_a"], row["shots_b"]) == pair]
        srcc, argsort = (_moments([row[name] for row in members]) for name in ("srcc", "argsort_statistic"))
        overlap = float(np.mean([row["overlap_top30"] for row in members]))
        table.append(Row(f"{pair[0]}-{pair[1]}", len(members), *srcc, *argsort, overlap))
    return table


def _moments(values: list[float]) -> tuple[float, float]:
    """Mean and sample variance."""
    return float(np.mean(values)), float(np.var(values, ddof=1)) if len(values) > 1 else float("nan")


def write_table(path: Path, out: Path) -> None:
    """Write the table of a cross-shot artifact to ``out``.csv, ``out``.md and ``out``.html."""
    title = "Table 1: rank correlation of head importance between numbers of shots"
    notes = ["The argsort statistic is the released code's; it is not SRCC."]
    tables.write_table(out, title, COLUMNS, data(path), describe_drawn("table", "table1", [path], {}, out), notes)
