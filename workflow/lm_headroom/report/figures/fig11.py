"""Figure 11: induction capacity retained under the aggregate ranking, a curve per shot, a panel per score."""

from __future__ import annotations

from matplotlib.figure import Figure

from lm_headroom.report.figures import style
from lm_headroom.results.induction import SCORES, Capacity, Score, read_capacity
from lm_headroom.results.matrix import ResultsMatrix
from lm_headroom.study.ranking_names import AGGREGATE


def data(matrix: ResultsMatrix) -> dict[Score, dict[int, Capacity]]:
    """Curves per induction score and shot."""
    return {
        score: {shots: read_capacity(matrix, shots, score, AGGREGATE)[AGGREGATE] for shots in matrix.shots}
        for score in SCORES
    }


@style.drawing
def draw(matrix: ResultsMatrix) -> Figure:
    """Draw the figure."""
    values = data(matrix)
    names = {shots: style.shot_title(shots) for shots in matrix.shots}
    styles = style.series_styles([*names.values()])
    figure, axes = style.panels(len(values), width=2.6, height=2.3, share_y=True)
    for ax, (score, curves) in zip(axes, values.items(), strict=True):
        for shots, curve in curves.items():
            style.capacity_line(ax, curve.percent, curve.retained, label=names[shots], **styles[names[shots]])
        style.capacity_axes(ax, SCORES[score])
    style.label_left(axes, style.capacity_label("total score"))
    style.legend_below(figure, axes[0])
    style.headline(figure, f"Induction capacity retained, aggregate ranking, {matrix.model}")
    return figure
