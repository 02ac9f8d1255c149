"""Figures 5 and 6: accuracy against the share of heads (FFNs) pruned, a line per task, the average in black."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from headroom.figures import style
from headroom.figures.accuracy import average, study_curves
from headroom.figures.study import COMPONENTS, Component, Study
from headroom.uncertainty import Interval

Array = np.ndarray[Any, np.dtype[np.float64]]


@dataclass(frozen=True)
class Curves:
    """Accuracy curves of one shot: per task and their average with its 95 % band, against percent pruned."""

    percent: list[int]
    tasks: dict[str, Array]
    average: Array
    band: Interval


def data(study: Study, component: Component = "heads", ranking: str = "own") -> dict[int, Curves]:
    """Curves per shot under a ranking."""
    found = {}
    for shots in study.shots:
        curves = study_curves(study, shots, ranking, component)
        mean = average(list(curves.values()))
        accuracies = {task: curve.accuracy for task, curve in curves.items()}
        found[shots] = Curves(mean.percent, accuracies, mean.accuracy, mean.band)
    return found


@style.drawing
def draw(study: Study, component: Component) -> Figure:
    """Draw the figure."""
    own = data(study, component)
    # Controls are orders of heads.
    others = {name: data(study, component, name) for name in study.controls} if component == "heads" else {}
    styles = style.task_styles(study.tasks)
    figure, axes = style.panels(len(own), width=4.6, height=4.2, share_y=True)
    for ax, (shots, curves) in zip(axes, own.items(), strict=True):
        for task, accuracy in curves.tasks.items():
            ax.plot(curves.percent, 100 * accuracy, label=task, markersize=4, linewidth=1, **styles[task])
        style.average_line(ax, curves.percent, curves.average, curves.band)
        for name, dash in zip(others, ("--", ":", "-.", (0, (1, 4))) * len(others), strict=False):
            control = others[name][shots]
            ax.plot(
                control.percent,
                100 * control.average,
                color="grey",
                linestyle=dash,
                linewidth=1.6,
                label=f"average, {name.replace('_', ' ')}",
            )
        pruned = f"{COMPONENTS[component]} pruned (%)"
        ax.set(title=style.shot_title(shots), xlabel=pruned, xlim=(-2, max(curves.percent) + 2))
        ax.grid(alpha=0.3)
    axes[0].set_ylabel("accuracy (%)")
    style.legend_below(figure, axes[0])
    style.headline(figure, f"Accuracy with the least important {COMPONENTS[component]} pruned, {study.model}")
    return figure
