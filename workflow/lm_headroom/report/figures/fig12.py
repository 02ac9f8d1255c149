"""Figures 12, 13 and 14: head importance of each task, a heatmap per task; 0, 1 and 5 shots."""

from __future__ import annotations

from typing import Any

import numpy as np
from matplotlib.figure import Figure

from lm_headroom.report.figures import style
from lm_headroom.results.matrix import Study
from lm_headroom.results.scores import read_tasks

PANELS_PER_ROW = 7


def data(study: Study) -> dict[str, np.ndarray[Any, np.dtype[np.float64]]]:
    """Importance [layer, head] per task, at the study's one number of shots.

    Raises:
        HeadroomError: the study has several numbers of shots; each has a figure of its own.
    """
    found = read_tasks(study.results, study.tasks, style.one_shot(study), study.seed)
    return {task: scores.score for task, scores in found.items()}


@style.drawing
def draw(study: Study) -> Figure:
    """Draw the figure."""
    values = data(study)
    figure, axes = style.panels(len(values), width=2.6, height=3.0, per_row=PANELS_PER_ROW)
    for ax, (task, scores) in zip(axes, values.items(), strict=True):
        style.head_heatmap(ax, scores, task, "importance (nats)")
    style.headline(figure, f"Head importance by task, {study.model}, {style.shot_title(study.shots[0])}")
    return figure
