"""Figures 5 and 6: an outcome against the share of heads (FFNs, experts) pruned, by task, and on average by ranking."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from lm_headroom.analysis.bootstrap import Interval
from lm_headroom.analysis.outcomes import OUTCOMES
from lm_headroom.report.figures import judged, style
from lm_headroom.results.chance import read_chance_levels
from lm_headroom.results.curves import average, study_curves
from lm_headroom.results.matrix import NAMES, Component, ResultsMatrix
from lm_headroom.results.outcomes import restrict
from lm_headroom.study.choices import ACCURACY, Outcome
from lm_headroom.study.ranking_names import EXPERT_CRITERIA, ITERATIVE, NAMED_CONTROLS, REVERSED, drawn_with

Array = np.ndarray[Any, np.dtype[np.float64]]


@dataclass(frozen=True)
class Curves:
    """Mean scores of one shot: per task and their average with its 95% band, against percent pruned."""

    percent: list[int]
    tasks: dict[str, Array]
    average: Array
    band: Interval


def data(matrix: ResultsMatrix, component: Component = "heads", ranking: str = "own") -> dict[int, Curves]:
    """Curves per shot under a ranking."""
    by_shots = {}
    for shots in matrix.shots:
        curves = study_curves(matrix, shots, ranking, component)
        mean = average(list(curves.values()))
        scores = {task: curve.mean for task, curve in curves.items()}
        by_shots[shots] = Curves(mean.percent, scores, mean.mean, mean.band)
    return by_shots


MARKERS = ("o", "^", "s", "D", "v", "d", "H", "8", "P", "<", ">")
DASHES: tuple[Any, ...] = (":", "--", "-.", (0, (3, 1)), (0, (1, 1)))
"""Of control rankings, whose markers are hollow; filled ones on solid lines are the tasks'."""


def control_looks(custom: Sequence[str]) -> dict[str, dict[str, Any]]:
    """Colour, hollow marker and dash of each ranking but those in random order, the same in all figures of a study.

    Args:
        custom: the user's own rankings.
    """
    names = dict.fromkeys([REVERSED, *NAMED_CONTROLS, *EXPERT_CRITERIA, *custom])
    colours = [*sns.color_palette("flare", 3), *sns.color_palette("crest", 4)]
    # 7 colours, 11 markers and 5 dashes: no two of 385 rankings look alike.
    return {
        name: {
            "color": colours[i % len(colours)],
            "marker": MARKERS[i % len(MARKERS)],
            "linestyle": DASHES[i % len(DASHES)],
        }
        for i, name in enumerate(names)
    }


def draw_controls(
    axes: Axes,
    controls: Mapping[str, Curves],
    whose: str = "average",
    outcome: Outcome = ACCURACY,
    custom: Sequence[str] = (),
) -> None:
    """The average over tasks under control rankings: a line each, and one band of all random orders.

    Args:
        axes: to draw on, percent pruned against the outcome.
        controls: curves of one number of shots by the name of their ranking.
        whose: what the average is called.
        outcome: of which the curves are.
        custom: which of the rankings are the user's own.
    """
    shown = OUTCOMES[outcome].shown
    drawn = [curves for name, curves in controls.items() if drawn_with(name) is not None]
    if drawn:
        percent, averages = drawn[0].percent, shown(np.array([curves.average for curves in drawn]))
        which = "random order"
        if len(drawn) > 1:
            which = f"random (range of {len(drawn)})"
            # Hatched: a shade is of an interval.
            low, high = averages.min(axis=0), averages.max(axis=0)
            axes.fill_between(percent, low, high, facecolor="none", edgecolor="0.65", hatch="/////", linewidth=0.6)
        axes.plot(percent, averages.mean(axis=0), color="grey", linewidth=1.5, label=f"{whose}, {which}")
    looks = control_looks(custom)
    for name, curves in controls.items():
        if drawn_with(name) is None:
            axes.plot(
                curves.percent,
                shown(curves.average),
                linewidth=1,
                markersize=3.5,
                markerfacecolor="white",
                label=f"{whose}, {name.replace('_', ' ')}",
                **looks[name],
            )


def iterative_line(axes: Axes, curves: Curves, whose: str, outcome: Outcome) -> None:
    """The average under the iterative ranking, beside the own ranking's in black, with its 95% band."""
    style.band(axes, curves.percent, judged.shown_limits(outcome, curves.band), "crimson", alpha=0.12)
    look: dict[str, Any] = {
        "color": "crimson",
        "linewidth": 1.5,
        "linestyle": (0, (5, 1.5)),
        "label": f"{whose}, iterative ranking",
    }
    axes.plot(curves.percent, OUTCOMES[outcome].shown(curves.average), **look)


@style.drawing
def draw(matrix: ResultsMatrix, component: Component) -> Figure:
    """Draw the figure."""
    outcome, styles = matrix.outcome, style.task_styles(matrix.tasks)
    title = f"{judged.subject(outcome)} with the least important {NAMES[component]} pruned, {matrix.model}"
    matrix, left_out = restrict(matrix, component=component)
    if not matrix.tasks:
        return judged.draw_undefined(title, outcome, left_out)
    own, shown = data(matrix, component), OUTCOMES[outcome].shown
    chance = read_chance_levels(matrix)
    others = {name: data(matrix, component, name) for name in matrix.beside_own(component)}
    custom = {"heads": matrix.custom_heads, "ffns": matrix.custom_ffns, "experts": EXPERT_CRITERIA}[component]
    again = data(matrix, component, ITERATIVE) if component == "heads" and matrix.iterative else {}
    whose = style.name_of_average(matrix.tasks)
    compares = bool(others or again)
    figure, axes = style.panels(
        len(own) * (1 + compares), width=2.6, height=2.3, share_y=True, per_row=2 if compares else None
    )
    for i, (shots, curves) in enumerate(own.items()):
        first, *more = axes[i * (1 + compares) :][: 1 + compares]
        for task in style.beside_average(matrix.tasks):
            scores = shown(curves.tasks[task])
            first.plot(curves.percent, scores, label=task, markersize=3.5, linewidth=0.9, **styles[task])
        for ax in (first, *more):
            limits = judged.shown_limits(outcome, curves.band)
            style.average_line(ax, curves.percent, shown(curves.average), limits, matrix.tasks)
            judged.chance_line(ax, chance.values(), outcome)
            pruned = f"{NAMES[component]} pruned (%)"
            ax.set(xlabel=pruned, xlim=(-2, max(curves.percent) + 2))
            ax.grid(alpha=0.3)
        what = ", by task" if more else ""
        first.set_title(f"{style.shot_title(shots)}{what}")
        for ax in more:
            draw_controls(ax, {name: by_shots[shots] for name, by_shots in others.items()}, whose, outcome, custom)
            if again:
                iterative_line(ax, again[shots], whose, outcome)
            ax.set_title(f"{style.shot_title(shots)}, by ranking")
    style.label_left(axes, judged.level_label(outcome))
    style.legend_below(figure, *axes)
    style.headline(figure, title)
    judged.note(figure, outcome, left_out)
    return figure
