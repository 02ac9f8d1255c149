"""How much each criterion lets one prune within the margin: a row per ranking, a panel per component and shots."""

from __future__ import annotations

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from lm_headroom.analysis.non_inferiority import AT_LEAST, INCONCLUSIVE
from lm_headroom.analysis.outcomes import in_title
from lm_headroom.report.figures import judged, style
from lm_headroom.report.tables.criteria import Compared, compare_average
from lm_headroom.results.chance import read_chance_levels
from lm_headroom.results.margins import margin_in_words
from lm_headroom.results.matrix import NAMES, Component, ResultsMatrix
from lm_headroom.results.outcomes import restrict
from lm_headroom.study.ranking_names import OWN, is_reference

INCONCLUSIVE_AT = -7.0
"""Where inconclusive rankings are marked, in percent."""
PANEL, LETTER = 1.5, 0.07
"""Inches: of a panel without the names of its rankings, and of a letter of these."""


def data(matrix: ResultsMatrix) -> dict[tuple[Component, int], tuple[str, dict[str, Compared]]]:
    """Component and shots to the tasks that are averaged, in words, and ranking to its comparison.

    Args:
        matrix: its tasks define its outcome.

    Raises:
        ArtifactError: an artifact of the study is missing or not its own.
    """
    chance = read_chance_levels(matrix)
    panels: dict[tuple[Component, int], tuple[str, dict[str, Compared]]] = {}
    for component in matrix.components:
        for shots in matrix.shots:
            group, _, compared = compare_average(matrix, shots, component, chance)
            panels[component, shots] = (group, compared)
    return panels


@style.drawing
def draw(matrix: ResultsMatrix) -> Figure:
    """Draw the figure."""
    title = f"Largest share prunable within {margin_in_words(matrix)}, by criterion{in_title(matrix.outcome)}"
    defining, undefined = restrict(matrix)
    left_out = [task for task in undefined if task in matrix.tasks]
    if not defining.tasks:
        return judged.draw_undefined(title, matrix.outcome, left_out)
    panels = data(defining)
    most = max((len(compared) for _, compared in panels.values()), default=1)
    longest = max((len(name) for _, compared in panels.values() for name in compared), default=0)
    width, height = max(2.9, PANEL + LETTER * longest), 1.2 + 0.17 * most
    figure, axes = style.panels(len(panels), width=width, height=height, per_row=len(matrix.shots))
    for ax, ((component, shots), (group, compared)) in zip(axes, panels.items(), strict=True):
        _draw_panel(ax, compared)
        ax.set_title(f"{NAMES[component]}, {style.shot_title(shots)}\n{group}")
    handles = [
        Line2D([], [], color="black", marker="|", linestyle="", markersize=9),
        Line2D([], [], color="black", alpha=0.35, linewidth=3),
        Line2D([], [], color="black", marker=">", linestyle="", markersize=5),
        Line2D([], [], color="black", marker="x", linestyle="", markersize=5),
    ]
    labels = ["point estimate", judged.BETWEEN, judged.COULD_SHOW_MORE, INCONCLUSIVE]
    style.legend_of(figure, dict(zip(labels, handles, strict=True)))
    style.headline(figure, title)
    judged.note(figure, matrix.outcome, left_out)
    return figure


def _draw_panel(ax: Axes, compared: dict[str, Compared]) -> None:
    """Rankings from top to bottom, the study's own first and bold."""
    names = list(compared)
    for place, (name, row) in enumerate(compared.items()):
        colour = "C0" if name == OWN else "grey" if is_reference(name) else "black"
        percent, prunable = row.curve.percent, row.prunable
        if prunable.estimate is not None:
            ax.plot(percent[prunable.estimate], place, marker="|", color=colour, markersize=9, markeredgewidth=1.6)
        if prunable.verdict == INCONCLUSIVE:
            ax.plot(INCONCLUSIVE_AT, place, marker="x", color=colour, markersize=5)
        if prunable.level is None:
            continue
        first, last = percent[prunable.level], 100 if prunable.below is None else percent[prunable.below]
        ax.hlines(place, first, last, color=colour, alpha=0.35, linewidth=3)
        if prunable.verdict == AT_LEAST:
            ax.plot(first, place, marker=">", color=colour, markersize=5)
    ax.set(ylim=(len(names) - 0.5, -0.5), xlim=(INCONCLUSIVE_AT - 4, 102), xlabel="prunable (%)")
    ax.set_yticks(range(len(names)), names)
    for label, name in zip(ax.get_yticklabels(), names, strict=True):
        label.set_fontweight("bold" if name == OWN else "normal")
    ax.axvline(INCONCLUSIVE_AT / 2, color="grey", linewidth=0.6)
    ax.set_xticks(range(0, 101, 20))
    ax.grid(axis="x", alpha=0.3)
