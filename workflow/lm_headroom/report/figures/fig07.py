"""Figure 7: average accuracy over heads and FFNs pruned together with half of its 95% interval, a heatmap per shot."""

from __future__ import annotations

from typing import Any

import numpy as np
import seaborn as sns
from matplotlib.figure import Figure

from lm_headroom.report.figures import style
from lm_headroom.results.curves import AverageGrid, average_grid, study_grids
from lm_headroom.results.matrix import ResultsMatrix


def data(matrix: ResultsMatrix) -> dict[int, AverageGrid]:
    """Accuracy averaged over tasks, per shot."""
    return {shots: average_grid(study_grids(matrix, shots)) for shots in matrix.shots}


def labels(grid: AverageGrid) -> Any:
    """Accuracy and half the width of its interval, in percent, per cell."""
    halves = (grid.band.high - grid.band.low) / 2
    return np.vectorize(lambda value, half: f"{100 * value:.1f}\n±{100 * half:.1f}")(grid.mean, halves)


@style.drawing
def draw(matrix: ResultsMatrix) -> Figure:
    """Draw the figure: FFNs across, heads downward from none, as in the paper."""
    values = data(matrix)
    rows, columns = next(iter(values.values())).mean.shape
    figure, axes = style.panels(len(values), width=max(3.6, 0.62 * columns + 1.4), height=max(3.4, 0.5 * rows + 1.2))
    for ax, (shots, grid) in zip(axes, values.items(), strict=True):
        sns.heatmap(
            100 * grid.mean,
            ax=ax,
            cmap="cividis",
            # From the lowest to the highest limit: noise alone shall not fill the scale.
            vmin=100 * grid.band.low.min(),
            vmax=100 * grid.band.high.max(),
            annot=labels(grid),
            fmt="",
            annot_kws={"size": 7, "linespacing": 1.1},
            xticklabels=grid.ffns,
            yticklabels=grid.heads,
            cbar_kws={"label": "average accuracy (%)"},
        )
        ax.set(title=style.shot_title(shots), xlabel="FFNs pruned (%)", ylabel="heads pruned (%)")
        ax.xaxis.tick_top()
        ax.xaxis.set_label_position("top")
        ax.tick_params(axis="y", rotation=0)
    style.headline(figure, f"Accuracy with heads and FFNs pruned together, {matrix.model}, {len(matrix.tasks)} tasks")
    return figure
