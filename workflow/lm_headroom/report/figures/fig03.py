"""Figure 3: aggregate head importance, a heatmap per shot."""

from __future__ import annotations

from typing import Any

import numpy as np
from matplotlib.figure import Figure

from lm_headroom.report.figures import style
from lm_headroom.results.matrix import ResultsMatrix
from lm_headroom.results.scores import read_aggregate


def data(matrix: ResultsMatrix) -> dict[int, np.ndarray[Any, np.dtype[np.float64]]]:
    """Aggregate importance [layer, head] per shot."""
    return {shots: read_aggregate(matrix, shots).score for shots in matrix.shots}


@style.drawing
def draw(matrix: ResultsMatrix) -> Figure:
    """Draw the figure."""
    values = data(matrix)
    figure, axes = style.panels(len(values))
    for ax, (shots, scores) in zip(axes, values.items(), strict=True):
        style.head_heatmap(ax, scores, style.shot_title(shots), "importance (nats)")
    style.headline(figure, f"Aggregate head importance, {matrix.model}, {len(matrix.tasks)} tasks")
    return figure
