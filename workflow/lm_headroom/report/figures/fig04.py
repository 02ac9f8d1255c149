"""Figure 4: FFN importance by layer, a line per task, the average in black, a panel per shot."""

from __future__ import annotations

import numpy as np
from matplotlib.figure import Figure

from lm_headroom.report.figures import style
from lm_headroom.results.ffns import FfnImportance, read_ffns
from lm_headroom.results.matrix import ResultsMatrix


def data(matrix: ResultsMatrix) -> dict[int, FfnImportance]:
    """FFN importance per shot."""
    return {shots: read_ffns(matrix, shots) for shots in matrix.shots}


@style.drawing
def draw(matrix: ResultsMatrix) -> Figure:
    """Draw the figure."""
    styles = style.task_styles(matrix.tasks)
    values = data(matrix)
    figure, axes = style.panels(len(values), width=4.8, height=4.2, share_y=True)
    for ax, (shots, importance) in zip(axes, values.items(), strict=True):
        numbers = np.arange(1, len(importance.average) + 1)
        every = max(1, len(numbers) // 16)  # markers enough to follow a line
        ax.axhline(0, color="grey", linewidth=0.8)
        for task in style.beside_average(matrix.tasks):
            scores = importance.tasks[task]
            ax.plot(numbers, 100 * scores, label=task, markersize=3, markevery=every, linewidth=1, **styles[task])
        style.average_line(ax, numbers, importance.average, importance.band, matrix.tasks)
        ax.set(title=style.shot_title(shots), xlabel="layer", xlim=(0.5, len(numbers) + 0.5))
        style.whole_numbers(ax.xaxis, 9)
        ax.grid(alpha=0.3)
    axes[0].set_ylabel("accuracy lost without the FFN (points)")
    style.legend_below(figure, axes[0])
    style.headline(figure, f"FFN importance, {matrix.model}")
    return figure
