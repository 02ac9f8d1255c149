"""How much of each model can be pruned within the margin: a row per component and outcome, a panel per shot."""

from __future__ import annotations

from typing import Any

from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from lm_headroom.analysis.non_inferiority import AT_LEAST, INCONCLUSIVE
from lm_headroom.analysis.outcomes import OUTCOMES
from lm_headroom.artifacts.comparison import COMPARED_PRUNABLE
from lm_headroom.report.figures import comparison, judged, style
from lm_headroom.results.comparison import Comparison
from lm_headroom.results.matrix import COMPONENTS, Component
from lm_headroom.study.choices import ACCURACY, Outcome

BELOW = -9.0
"""Height of the marks of inconclusive models, in percent."""


def data(compared: Comparison) -> dict[tuple[Component, Outcome, int], dict[str, dict[str, Any]]]:
    """Component, outcome and shots to model to its row of the artifact."""
    rows = comparison.read_rows(compared, "prunable", COMPARED_PRUNABLE)
    return {
        (component, outcome, shots): {
            row["model"]: row
            for row in rows
            if (row["outcome"], row["component"], row["shots"]) == (outcome, component, shots)
        }
        for component in COMPONENTS
        for outcome in dict.fromkeys(row["outcome"] for row in rows)
        for shots in compared.shots
    }


@style.drawing
def draw(compared: Comparison) -> Figure:
    """Draw the figure."""
    models, values = comparison.read_models(compared), data(compared)
    place, colours = comparison.axis(models), comparison.group_colours(models)
    figure, axes = style.panels(len(values), width=2.6, height=2.2, share_y=True, per_row=len(compared.shots))
    names_outcome = {outcome for _, outcome, _ in values} != {ACCURACY}
    for ax, ((component, outcome, shots), rows) in zip(axes, values.items(), strict=True):
        comparison.join(ax, models, place, {name: row["percent"] for name, row in rows.items()})
        for model in models:
            row, x = rows[model.name], place.places[model.name]
            if row["percent"] is not None:
                # From the share shown to be prunable to the upper bound.
                last = 100 if row["below"] is None else row["below"]
                ax.vlines(x, row["percent"], last, color=colours[model.group], alpha=0.35, linewidth=3)
            if row["estimate"] is not None:
                ax.plot(x, row["estimate"], marker="_", color=colours[model.group], markersize=9, markeredgewidth=1.6)
            if row["verdict"] == AT_LEAST:
                ax.annotate(
                    "",
                    (x, row["percent"] + 9),
                    (x, row["percent"]),
                    arrowprops={"arrowstyle": "->", "color": colours[model.group], "linewidth": 1.4},
                )
            if row["verdict"] == INCONCLUSIVE:
                ax.plot(x, BELOW, marker="x", color=colours[model.group], linestyle="", markersize=6)
        ax.axhline(BELOW / 2, color="grey", linewidth=0.6)
        by_outcome = f"\nby {OUTCOMES[outcome].title}" if names_outcome else ""
        ax.set(title=f"{COMPONENTS[component]}, {style.shot_title(shots)}{by_outcome}", ylim=(BELOW - 5, 105))
        ax.set_yticks([BELOW, *range(0, 101, 20)], [INCONCLUSIVE, *map(str, range(0, 101, 20))])
        ax.grid(alpha=0.3)
        comparison.set_axis(ax, place)
    style.label_left(axes, "prunable (%)")
    handles, labels = axes[0].get_legend_handles_labels()
    arrow = Line2D([], [], color="black", marker=r"$\uparrow$", linestyle="", markersize=8)
    dash = Line2D([], [], color="black", marker="_", linestyle="", markersize=9)
    open_part = Line2D([], [], color="black", alpha=0.35, linewidth=3)
    names = ["estimate", judged.BETWEEN, judged.COULD_SHOW_MORE]
    style.legend_of(figure, dict(zip([*labels, *names], [*handles, dash, open_part, arrow], strict=True)))
    style.headline(figure, "Largest share prunable within the margin, own rankings")
    return figure
