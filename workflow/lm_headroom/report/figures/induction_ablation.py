"""An outcome and its few-shot gain without the strongest induction heads, averaged over tasks, with 95% bands.

A row of panels per choice of heads, so that at most two bands lie over each other.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from lm_headroom.analysis.head_selection import SELECTIONS
from lm_headroom.analysis.outcomes import OUTCOMES, in_title
from lm_headroom.artifacts.induction_ablation import INDUCTION_ABLATION
from lm_headroom.report.figures import judged, style
from lm_headroom.results.ablation import GAIN, Effect, effects, select
from lm_headroom.results.estimates import Estimate
from lm_headroom.results.matrix import ResultsMatrix
from lm_headroom.results.outcomes import restrict

AXIS = 22
"""Characters of a vertical axis's label that fit a panel's height."""
Shown = Callable[[Any], Any]


@style.drawing
def draw(matrix: ResultsMatrix) -> Figure:
    """Draw the figure: a column of panels per number of shots, then one per few-shot gain."""
    judged_by, spec = matrix.outcome, OUTCOMES[matrix.outcome]
    title = f"Without the strongest induction heads, average over tasks, 95% bands, {matrix.model}"
    title += in_title(judged_by)
    matrix, left_out = restrict(matrix, INDUCTION_ABLATION)
    if not matrix.ablated:
        return judged.draw_undefined(title, judged_by, left_out)
    all_effects = effects(matrix)
    columns = list(dict.fromkeys((effect.outcome, effect.shots) for effect in all_effects))
    if len({effect.cell.percent for effect in all_effects}) == 1:
        figure = _draw_level(matrix, all_effects, columns)
        style.headline(figure, title)
        judged.note(figure, judged_by, left_out)
        return figure
    figure, axes = style.panels(len(SELECTIONS) * len(columns), width=1.55, height=1.9, per_row=len(columns))
    colours = style.series_styles([*SELECTIONS])
    panels = {
        (selection, *column): ax
        for (selection, column), ax in zip(((s, c) for s in SELECTIONS for c in columns), axes, strict=True)
    }
    for (selection, outcome, shots), ax in panels.items():
        cells = [e for cell, e in select(all_effects, outcome, shots).items() if cell.selection == selection]
        # Gains are positive where examples help, of costs too.
        shown = spec.shown_loss if outcome == GAIN else spec.shown
        if outcome == GAIN:
            ax.axhline(0, color="black", linewidth=0.8)
        _band(ax, cells, [e.control for e in cells], "grey", shown)
        _band(ax, cells, [e.ablated for e in cells], colours[selection]["color"], shown)
        _markers(ax, cells, colours[selection]["color"], shown)
        column = style.shot_title(shots) + (" gain" if outcome == GAIN else "")
        ax.set(title=f"{column}, {SELECTIONS[selection]}", xlabel="heads ablated (%)")
        ax.set_ylabel(judged.gain_label(judged_by) if outcome == GAIN else judged.level_label(judged_by, width=AXIS))
        ax.grid(alpha=0.3)
    for quantity in dict.fromkeys(outcome for _, outcome, _ in panels):
        _share_y([ax for (_, outcome, _), ax in panels.items() if outcome == quantity])
    _legend(figure)
    style.headline(figure, title)
    judged.note(figure, judged_by, left_out)
    return figure


def _draw_level(matrix: ResultsMatrix, all_effects: Sequence[Effect], columns: Sequence[tuple[str, int]]) -> Figure:
    """One level alone: a panel per column, points with 95% intervals, the whole model as a line."""
    judged_by, spec = matrix.outcome, OUTCOMES[matrix.outcome]
    figure, axes = style.panels(len(columns), width=1.9, height=2.6)
    colours = style.series_styles([*SELECTIONS])
    for ax, (outcome, shots) in zip(axes, columns, strict=True):
        shown = spec.shown_loss if outcome == GAIN else spec.shown
        cells = {cell.selection: e for cell, e in select(all_effects, outcome, shots).items()}
        for place, (selection, effect) in enumerate(cells.items()):
            colour = colours[selection]["color"]
            ax.axvline(shown(effect.whole.value), color="black", linewidth=0.8, linestyle=":")
            fill = colour if effect.beyond_controls else "white"
            _interval(ax, place - 0.13, shown(np.array(effect.ablated)), {"color": colour, "markerfacecolor": fill})
            _interval(ax, place + 0.13, shown(np.array(effect.control)), {"color": "grey", "marker": "|"}, "--")
        percent = next(iter(cells.values())).cell.percent
        ax.set_yticks(range(len(cells)), [SELECTIONS[name] for name in cells] if style.begins_row(ax) else [])
        gain = " gain" if outcome == GAIN else ""
        ax.set(ylim=(len(cells) - 0.5, -0.5), title=f"{style.shot_title(shots)}{gain}, {percent}% ablated")
        ax.set_xlabel(judged.gain_label(judged_by) if outcome == GAIN else judged.level_label(judged_by, width=AXIS))
        ax.grid(axis="x", alpha=0.3)
    _legend(figure)
    return figure


def _interval(ax: Axes, place: float, estimate: Any, point: Mapping[str, Any], dashes: str = "-") -> None:
    """A value with its limits, across."""
    value, low, high = estimate
    ax.hlines(place, low, high, color=point["color"], linewidth=1.2, linestyles=dashes)
    look: dict[str, Any] = {"marker": "o", "markersize": 4, **point}
    ax.plot(value, place, **look)


def _band(ax: Axes, cells: Sequence[Effect], values: Sequence[Estimate], colour: object, shown: Shown) -> None:
    """A line from the whole model on and its band."""
    percent = [0, *(effect.cell.percent for effect in cells)]
    value, low, high = shown(np.array([cells[0].whole, *values])).T
    ax.fill_between(percent, low, high, color=colour, alpha=0.25, linewidth=0)
    ax.plot(percent, value, color=colour, linewidth=1.5, linestyle="--" if colour == "grey" else "-")


def _markers(ax: Axes, cells: Sequence[Effect], colour: object, shown: Shown) -> None:
    """Filled where more is lost than without random heads, hollow where that is not shown."""
    for effect in cells:
        fill = colour if effect.beyond_controls else "white"
        point = effect.cell.percent, shown(effect.ablated.value)
        ax.plot(*point, marker="o", markersize=4, markeredgecolor=colour, markerfacecolor=fill, linestyle="none")


def _legend(figure: Figure) -> None:
    """What lines, bands and markers are; colours tell rows apart, and their titles name them."""
    dark: Any = {"color": "black", "markeredgecolor": "black"}
    handles = {
        "strongest heads": Line2D([], [], color="black"),
        "random heads of the same layers": Line2D([], [], color="grey", linestyle="--"),
        "loses more than random heads": Line2D([], [], marker="o", linestyle="none", **dark),
        "not shown to lose more": Line2D([], [], marker="o", linestyle="none", markerfacecolor="white", **dark),
    }
    style.legend_of(figure, handles)


def _share_y(axes: Sequence[Axes]) -> None:
    limits = np.array([ax.get_ylim() for ax in axes])
    for ax in axes:
        ax.set_ylim(limits[:, 0].min(), limits[:, 1].max())
