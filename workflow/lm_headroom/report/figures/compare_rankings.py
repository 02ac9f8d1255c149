"""Rank correlation of head importance between models of equal shape: plain and inside layers, a panel per shot."""

from __future__ import annotations

from typing import Any

import numpy as np
from matplotlib.figure import Figure

from lm_headroom.analysis.correlation import STATISTICS
from lm_headroom.artifacts.comparison import COMPARED_RANKINGS
from lm_headroom.report.figures import comparison, style
from lm_headroom.report.figures.fig08 import LABELS
from lm_headroom.results.comparison import Comparison
from lm_headroom.study.ranking_names import AGGREGATE

Array = np.ndarray[Any, np.dtype[np.float64]]
WITHIN = "srcc_within_layer"


def data(compared: Comparison) -> dict[tuple[str, int], Array]:
    """Statistic and shots to its matrix of the aggregates, [model, model]; NaN where shapes differ."""
    names = [model.name for model in compared.models]
    shown = STATISTICS[compared.correlation or "spearman"]
    rows = comparison.read_rows(compared, "rankings", COMPARED_RANKINGS)
    matrices = {}
    for column in (shown, WITHIN):
        for shots in compared.shots:
            matrix = np.full((len(names), len(names)), np.nan)
            for row in rows:
                if (row["task"], row["shots"]) == (AGGREGATE, shots) and row[column] is not None:
                    a, b = names.index(row["model_a"]), names.index(row["model_b"])
                    matrix[a, b] = matrix[b, a] = row[column]
            matrices[column, shots] = matrix
    return matrices


@style.drawing
def draw(compared: Comparison) -> Figure:
    """Draw the figure."""
    names = [model.name for model in comparison.read_models(compared)]
    matrices = data(compared)
    if all(np.isnan(matrix).all() for matrix in matrices.values()):
        figure, (ax,) = style.panels(1, width=6, height=2)
        ax.text(0.5, 0.5, "No two models have as many layers and heads.", ha="center", va="center")
        ax.set_axis_off()
        return figure
    statistic = compared.correlation or "spearman"
    titles = {STATISTICS[statistic]: LABELS[statistic], WITHIN: "mean SRCC inside a layer"}
    size = max(2.4, 0.3 * len(names) + 1.6)
    figure, axes = style.panels(len(matrices), width=size * 1.15, height=0.8 * size, per_row=len(compared.shots))
    for ax, ((column, shots), matrix) in zip(axes, matrices.items(), strict=True):
        ax.set_facecolor("0.9")
        bar = {"label": titles[column], "shrink": 0.8}
        style.heatmap(ax, matrix, names, names, bar, cmap="vlag", vmin=-1, vmax=1)
        ax.set_title(f"{style.shot_title(shots)}{', inside layers' if column == WITHIN else ''}")
        ax.set_xticks(ax.get_xticks(), names, rotation=60, ha="right", rotation_mode="anchor")
        ax.tick_params(axis="y", rotation=0)
    style.headline(figure, "Rank correlation of aggregate head importance between models (grey: itself, other shape)")
    style.write_cells(figure, {ax: style.numbers(values) for ax, values in zip(axes, matrices.values(), strict=True)})
    return figure
