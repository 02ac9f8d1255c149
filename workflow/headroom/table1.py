"""Table 1: cross-shot rank correlation of head importance, mean and variance over tasks."""

from __future__ import annotations

import csv
import io
from pathlib import Path

import numpy as np

from headroom.artifacts.cross_shot import CROSS_SHOT
from headroom.artifacts.store import atomic, read
from headroom.correlation import AGGREGATE

COLUMNS = ("shots", "tasks", "SRCC mean", "SRCC variance", "argsort mean", "argsort variance", "top-30 % overlap")


def data(path: Path) -> list[tuple[str, int, float, float, float, float, float]]:
    """A row per pair of shots: SRCC and the released code's argsort statistic, mean and sample variance over tasks.

    The variance over a single task is not defined: NaN.
    """
    rows = [row for row in read(path, CROSS_SHOT).to_pylist() if row["task"] != AGGREGATE]
    table = []
    for pair in sorted({(row["shots_a"], row["shots_b"]) for row in rows}):
        members = [row for row in rows if (row["shots_a"], row["shots_b"]) == pair]
        moments = []
        for name in ("srcc", "argsort_statistic"):
            values = np.array([row[name] for row in members])
            variance = float(values.var(ddof=1)) if len(values) > 1 else float("nan")
            moments += [float(values.mean()), variance]
        overlap = float(np.mean([row["overlap_top30"] for row in members]))
        table.append((f"{pair[0]}-{pair[1]}", len(members), moments[0], moments[1], moments[2], moments[3], overlap))
    return table


def write_table(path: Path, out: Path) -> None:
    """Write the table of a cross-shot artifact to ``out``.csv and ``out``.md."""
    rows = data(path)
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows([COLUMNS, *rows])
    lines = ["| " + " | ".join(COLUMNS) + " |", "|" + "---|" * len(COLUMNS)]
    for shots, tasks, *numbers in rows:
        lines.append(f"| {shots} | {tasks} | " + " | ".join(f"{value:.3f}" for value in numbers) + " |")
    lines += ["", "The argsort statistic is the released code's; it is not SRCC.", ""]
    for suffix, content in ((".csv", text.getvalue()), (".md", "\n".join(lines))):
        with atomic(out.with_name(out.name + suffix)) as partial:
            partial.write_text(content, encoding="utf-8")
