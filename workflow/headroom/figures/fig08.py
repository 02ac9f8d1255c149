"""Figures 8 and 15: rank correlation of head importance between all tasks and the aggregate, a heatmap per shot."""

from __future__ import annotations

from typing import Any

import numpy as np
import seaborn as sns
from matplotlib.figure import Figure

from headroom.artifacts.cross_task import CROSS_TASK
from headroom.artifacts.store import ArtifactError, read
from headroom.correlation import STATISTICS
from headroom.figures import style
from headroom.figures.study import Study
from headroom.ranking import AGGREGATE

LABELS = {"spearman": "SRCC", "argsort": "argsort statistic (released code; not SRCC)"}


def data(study: Study) -> dict[int, np.ndarray[Any, np.dtype[np.float64]]]:
    """Correlation matrices per shot, rows and columns the study's tasks and then the aggregate.

    Raises:
        ArtifactError: an artifact lacks a pair.
    """
    names = [*study.tasks, AGGREGATE]
    column = STATISTICS[study.correlation]
    found = {}
    for shots in study.shots:
        path = study.file("correlation", shots, "cross_task")
        rows = read(path, CROSS_TASK, **study.of(shots)).to_pylist()
        values = {(row["task_a"], row["task_b"]): row[column] for row in rows}
        missing = [pair for pair in ((a, b) for a in names for b in names) if pair not in values]
        if missing:
            raise ArtifactError(f"{path}: no correlation of {missing[0][0]} and {missing[0][1]}; delete it, run again")
        found[shots] = np.array([[values[a, b] for b in names] for a in names])
    return found


@style.drawing
def draw(study: Study) -> Figure:
    """Draw the figure."""
    matrices = data(study)
    names = [*study.tasks, AGGREGATE]
    size = max(4.0, 0.5 * len(names) + 2)
    figure, axes = style.panels(len(matrices), width=size, height=size * 0.85)
    for ax, (shots, matrix) in zip(axes, matrices.items(), strict=True):
        sns.heatmap(
            matrix,
            ax=ax,
            vmin=min(0.0, float(np.nanmin(matrix))),
            vmax=1,
            cmap="cividis",
            annot=True,
            fmt=".2f",
            annot_kws={"size": 8},
            square=True,
            xticklabels=names,
            yticklabels=names,
            cbar_kws={"label": LABELS[study.correlation], "shrink": 0.8},
        )
        # The aggregate is set apart: every task is part of it.
        ax.axhline(len(study.tasks), color="white", linewidth=2)
        ax.axvline(len(study.tasks), color="white", linewidth=2)
        ax.set_title(style.shot_title(shots))
        ax.tick_params(axis="x", rotation=60)
        ax.tick_params(axis="y", rotation=0)
    style.headline(figure, f"Rank correlation of head importance between tasks, {study.model}")
    return figure
