"""Figures 12, 13 and 14: head importance of each task, a heatmap per task; 0, 1 and 5 shots."""

from __future__ import annotations

from matplotlib.figure import Figure

from lm_headroom.report.figures import style
from lm_headroom.results.matrix import ResultsMatrix
from lm_headroom.results.scores import HeadScores, read_tasks

PANELS_PER_ROW = 3


def data(matrix: ResultsMatrix) -> dict[str, HeadScores]:
    """Importance [layer, head] per task, at the study's one number of shots.

    Raises:
        HeadroomError: the study has several numbers of shots; each has a figure of its own.
    """
    return read_tasks(matrix, style.one_shot(matrix))


@style.drawing
def draw(matrix: ResultsMatrix) -> Figure:
    """Draw the figure."""
    values = data(matrix)
    figure, axes = style.panels(len(values), width=1.5, height=1.5, per_row=PANELS_PER_ROW)
    for ax, (task, scores) in zip(axes, values.items(), strict=True):
        style.head_heatmap(ax, scores.score, scores.layers, task, "")
        ax.label_outer()
    # Colours have one meaning in all panels, and each panel its own range.
    figure.supxlabel(f"colours: {style.importance_label(next(iter(values.values())).unit)}", fontsize=8)
    style.headline(figure, f"Head importance by task, {matrix.model}, {style.shot_title(matrix.shots[0])}")
    return figure
