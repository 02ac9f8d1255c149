"""Figures 8 and 15: rank correlation of head importance between all tasks and the aggregate, a heatmap per shot.

With ``spearman`` also what noise and layers make of it: SRCC below the diagonal, SRCC corrected for attenuation above,
and each ranking's reliability on it. The aggregate's cells leave the task out. With ``argsort`` the statistic alone, as
the paper's figure.
"""

from __future__ import annotations

import re
import textwrap
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from lm_headroom.analysis.correlation import LEVEL, STATISTICS, is_reliable
from lm_headroom.artifacts.cross_task import CROSS_TASK
from lm_headroom.artifacts.store import ArtifactError, read
from lm_headroom.report.figures import style
from lm_headroom.results.matrix import ResultsMatrix
from lm_headroom.study.ranking_names import AGGREGATE

LABELS = {"spearman": "SRCC", "argsort": "argsort statistic (released code; not SRCC)"}
KEY = (
    "Below the diagonal: SRCC, in parentheses where it does not exceed a shared trend over layers and key-value "
    "groups. Above: disattenuated SRCC. Framed: split-half reliability. Grey: too unreliable. Aggregate: of the other "
    "tasks."
)
"""What the cells of a heatmap with ceilings are."""
UNKNOWN = "–"
"""Stands where the data do not allow to say."""
Array = np.ndarray[Any, np.dtype[np.float64]]


@dataclass(frozen=True)
class Ceilings:
    """What a heatmap shows of one shot, [task or aggregate, task or aggregate].

    Attributes:
        values: SRCC below the diagonal, corrected SRCC above, reliabilities on it; NaN where the data do not allow to
            say.
        texts: what is written in the cells.
    """

    values: Array
    texts: np.ndarray[Any, Any]


def rows(matrix: ResultsMatrix, shots: int) -> dict[tuple[str, str], dict[str, Any]]:
    """Rows of the artifact of one shot by pair.

    Raises:
        ArtifactError: it lacks a pair.
    """
    names = [*matrix.tasks, AGGREGATE]
    path = matrix.path("cross_task", shots)
    cells = {
        (row["task_a"], row["task_b"]): row for row in read(path, CROSS_TASK, **matrix.expected(shots)).to_pylist()
    }
    missing = [pair for pair in ((a, b) for a in names for b in names) if pair not in cells]
    if missing:
        raise ArtifactError(f"{path}: no correlation of {missing[0][0]} and {missing[0][1]}; delete it, run again")
    return cells


def data(matrix: ResultsMatrix) -> dict[int, Array]:
    """Matrices of the study's statistic per shot, rows and columns the study's tasks and then the aggregate.

    Raises:
        ArtifactError: an artifact lacks a pair.
    """
    names = [*matrix.tasks, AGGREGATE]
    column = STATISTICS[matrix.correlation]
    by_shot = {shots: rows(matrix, shots) for shots in matrix.shots}
    return {shots: np.array([[cells[a, b][column] for b in names] for a in names]) for shots, cells in by_shot.items()}


def ceilings(matrix: ResultsMatrix) -> dict[int, Ceilings]:
    """The same with what noise and layers make of it.

    Raises:
        ArtifactError: an artifact lacks a pair.
    """
    names = [*matrix.tasks, AGGREGATE]
    shown = {}
    for shots in matrix.shots:
        cells = rows(matrix, shots)
        values, texts = np.full((len(names), len(names)), np.nan), np.full((len(names), len(names)), UNKNOWN, object)
        for i, a in enumerate(names):
            for j, b in enumerate(names):
                value, text = _cell(cells[a, b], "above" if i < j else "below" if i > j else "on")
                values[i, j], texts[i, j] = np.nan if value is None else value, text
        shown[shots] = Ceilings(values, texts)
    return shown


def _cell(row: dict[str, Any], place: str) -> tuple[float | None, str]:
    """Value and text of a cell above, below or on the diagonal."""
    if place == "on":
        reliability = row["reliability_a"]
        text = UNKNOWN if reliability is None else _said(reliability)
        return (reliability if is_reliable(reliability) else None), text
    left_out = "_leave_one_out" if AGGREGATE in (row["task_a"], row["task_b"]) else ""
    if place == "above":
        value = row[f"srcc{left_out}_corrected"]
        return value, UNKNOWN if value is None else _said(value)
    value, p_value = row[f"srcc{left_out}"], row[f"p_permutation{left_out}"]
    if value is None or np.isnan(value):
        return None, UNKNOWN
    return value, _said(value) if p_value < LEVEL else f"({_said(value)})"


def _said(value: float) -> str:
    return f"{value:z.2f}"


@style.drawing
def draw(matrix: ResultsMatrix) -> Figure:
    """Draw the figure."""
    with_ceilings = matrix.correlation == "spearman"
    if with_ceilings:
        shown = {shots: (grid.values, grid.texts) for shots, grid in ceilings(matrix).items()}
    else:
        shown = {shots: (values, np.vectorize(_said)(values)) for shots, values in data(matrix).items()}
    names = [_broken(name) for name in (*matrix.tasks, AGGREGATE)]
    deepest = max(name.count("\n") + 1 for name in names)
    # Names longer than most take their place beside the cells.
    more = 0.07 * max(0, *(len(line) - 16 for name in names for line in name.splitlines()))
    # Wider than high: a cell holds up to six characters in a line.
    width, height = max(2.9, 0.36 * len(names) + 1.4) + more, (0.1 + 0.12 * deepest) * len(names) + 1.2 + more
    figure, axes = style.panels(len(shown), width=width, height=height)
    for ax, (shots, (values, _)) in zip(axes, shown.items(), strict=True):
        # Grey shows where a heatmap leaves out what the data do not allow to say; the colours have none.
        ax.set_facecolor("0.88")
        bar = {"label": LABELS[matrix.correlation], "shrink": 0.8}
        lowest = min(0.0, float(np.nanmin(values, initial=0.0)))
        style.heatmap(ax, values, names, names, bar, cmap="viridis", vmin=lowest, vmax=1)
        # The aggregate is set apart: every task is part of it.
        ax.axhline(len(matrix.tasks), color="white", linewidth=2)
        ax.axvline(len(matrix.tasks), color="white", linewidth=2)
        if with_ceilings:
            _frame_diagonal(ax, len(values))
        ax.set_title(style.shot_title(shots))
        ax.tick_params(axis="x", rotation=90)
        ax.tick_params(axis="y", rotation=0)
    if with_ceilings:
        # About 15 characters of 8 points per inch.
        figure.supxlabel(textwrap.fill(KEY, int(15 * figure.get_figwidth())), fontsize=8)
    style.headline(figure, f"Rank correlation of head importance between tasks, {matrix.model}")
    style.write_cells(figure, dict(zip(axes, (texts for _, texts in shown.values()), strict=True)))
    return figure


def _broken(name: str) -> str:
    """A name in lines, each of which begins after an underscore where it is longer than most names are."""
    return re.sub(r"(.{12,}?_)(?=.{6})", r"\1\n", name) if len(name) > 24 else name


def _frame_diagonal(ax: Axes, n: int) -> None:
    for i in range(n):
        place = (i + 0.06, i + 0.06)
        # Not clipped: the frames of the first and last cell lie at the panel's edge. Above the lines that set apart.
        ax.add_patch(Rectangle(place, 0.88, 0.88, fill=False, edgecolor="black", linewidth=1, clip_on=False, zorder=3))
