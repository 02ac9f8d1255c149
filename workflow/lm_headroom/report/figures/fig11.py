"""Figure 11: induction capacity retained under the aggregate ranking, a curve per shot, a panel per score."""

from __future__ import annotations

from matplotlib.figure import Figure

from lm_headroom.analysis.ranking import AGGREGATE
from lm_headroom.report.figures import style
from lm_headroom.results.induction import SCORES, Capacity, Score, read_capacity
from lm_headroom.results.matrix import Study


def data(study: Study) -> dict[Score, dict[int, Capacity]]:
    """Curves per induction score and shot."""
    return {
        score: {shots: read_capacity(study, shots, score, AGGREGATE)[AGGREGATE] for shots in study.shots}
        for score in SCORES
    }


@style.drawing
def draw(study: Study) -> Figure:
    """Draw the figure."""
    values = data(study)
    names = {shots: style.shot_title(shots) for shots in study.shots}
    styles = style.task_styles([*names.values()])
    figure, axes = style.panels(len(values), width=4.6, height=4.2, share_y=True)
    for ax, (score, curves) in zip(axes, values.items(), strict=True):
        for shots, curve in curves.items():
            style.capacity_line(ax, curve.percent, curve.retained, label=names[shots], **styles[names[shots]])
        style.capacity_axes(ax, SCORES[score])
    axes[0].set_ylabel("total score retained (%)")
    style.legend_below(figure, axes[0])
    style.headline(figure, f"Induction capacity retained, aggregate ranking, {study.model}")
    return figure
