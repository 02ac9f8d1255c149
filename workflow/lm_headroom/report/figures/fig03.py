"""Figure 3: aggregate head importance, a heatmap per shot."""

from __future__ import annotations

from typing import Any

import numpy as np
from matplotlib.figure import Figure

from lm_headroom.analysis.ranking import AGGREGATE
from lm_headroom.report.figures import style
from lm_headroom.results.matrix import Study
from lm_headroom.results.scores import place, read_scores


def data(study: Study) -> dict[int, np.ndarray[Any, np.dtype[np.float64]]]:
    """Aggregate importance [layer, head] per shot."""
    return {
        k: read_scores(
            place(study.results, AGGREGATE, k, study.seed), **study.of(k, AGGREGATE), tasks=list(study.tasks)
        ).score
        for k in study.shots
    }


@style.drawing
def draw(study: Study) -> Figure:
    """Draw the figure."""
    values = data(study)
    figure, axes = style.panels(len(values))
    for ax, (shots, scores) in zip(axes, values.items(), strict=True):
        style.head_heatmap(ax, scores, style.shot_title(shots), "importance (nats)")
    style.headline(figure, f"Aggregate head importance, {study.model}, {len(study.tasks)} tasks")
    return figure
