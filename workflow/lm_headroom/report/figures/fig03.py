"""Figure 3: aggregate head importance, a heatmap per shot."""

from __future__ import annotations

from matplotlib.figure import Figure

from lm_headroom.report.figures import style
from lm_headroom.results.matrix import ResultsMatrix
from lm_headroom.results.scores import HeadScores, read_aggregate


def data(matrix: ResultsMatrix) -> dict[int, HeadScores]:
    """Aggregate importance per shot."""
    return {shots: read_aggregate(matrix, shots) for shots in matrix.shots}


@style.drawing
def draw(matrix: ResultsMatrix) -> Figure:
    """Draw the figure."""
    values = data(matrix)
    figure, axes = style.panels(len(values), width=2.2, height=2.0)
    for ax, (shots, scores) in zip(axes, values.items(), strict=True):
        style.head_heatmap(
            ax, scores.score, scores.layers, style.shot_title(shots), style.importance_label(scores.unit)
        )
    style.headline(figure, f"Aggregate head importance, {matrix.model}, {len(matrix.tasks)} tasks")
    return figure
