"""Figures 18 and 19: prefix-matching (copying) capacity retained under each task's ranking, a panel per shot."""

from __future__ import annotations

from matplotlib.figure import Figure

from lm_headroom.report.figures import style
from lm_headroom.results.induction import SCORES, Capacity, Score, read_capacity
from lm_headroom.results.matrix import ResultsMatrix
from lm_headroom.study.ranking_names import AGGREGATE


def data(matrix: ResultsMatrix, score: Score) -> dict[int, dict[str, Capacity]]:
    """Curves per shot and task, the aggregate last."""
    return {shots: read_capacity(matrix, shots, score, *matrix.tasks, AGGREGATE) for shots in matrix.shots}


@style.drawing
def draw(matrix: ResultsMatrix, score: Score) -> Figure:
    """Draw the figure."""
    values = data(matrix, score)
    styles = style.task_styles(matrix.tasks) | {AGGREGATE: {"color": "black"}}
    figure, axes = style.panels(len(values), width=2.6, height=2.3, share_y=True)
    for ax, (shots, curves) in zip(axes, values.items(), strict=True):
        # Of one task the aggregate is the same.
        for task in (*matrix.tasks, AGGREGATE) if len(matrix.tasks) > 1 else matrix.tasks:
            curve = curves[task]
            width = 1.6 if task == AGGREGATE else 0.9
            style.capacity_line(ax, curve.percent, curve.retained, label=task, linewidth=width, **styles[task])
        style.capacity_axes(ax, style.shot_title(shots))
    style.label_left(axes, style.capacity_label(f"{SCORES[score]} score"))
    style.legend_below(figure, axes[0])
    style.headline(figure, f"{SCORES[score].capitalize()} capacity retained, each task's ranking, {matrix.model}")
    return figure
