"""Induction scores of each model's heads, along training or over sizes: a panel per score."""

from __future__ import annotations

from typing import Any

from matplotlib.figure import Figure

from lm_headroom.artifacts.comparison import COMPARED_INDUCTION
from lm_headroom.report.figures import comparison, style
from lm_headroom.results.comparison import Comparison
from lm_headroom.results.induction import SCORES, Score

LINES = {"maximum": ("{}: highest head", "-"), "top_mean": ("{}: mean of the top tenth", "--")}
"""Columns that are drawn, their labels and dashes."""


def data(compared: Comparison) -> dict[Score, dict[str, dict[str, Any]]]:
    """Score to model to its row of the artifact."""
    rows = comparison.read_rows(compared, "induction", COMPARED_INDUCTION)
    return {score: {row["model"]: row for row in rows if row["score"] == score} for score in SCORES}


@style.drawing
def draw(compared: Comparison) -> Figure:
    """Draw the figure."""
    models, values = comparison.read_models(compared), data(compared)
    place = comparison.axis(models)
    figure, axes = style.panels(len(values), width=2.9, height=2.5)
    for ax, (score, rows) in zip(axes, values.items(), strict=True):
        for column, (label, dash) in LINES.items():
            shown = {name: row[column] for name, row in rows.items()}
            comparison.join(ax, models, place, shown, label=label, linestyle=dash)
        highest = max(row["maximum"] for row in rows.values())
        ax.set(title=SCORES[score], ylim=(-0.03 * highest, 1.08 * highest) if highest > 0 else None)
        ax.grid(alpha=0.3)
        comparison.set_axis(ax, place)
    axes[0].set_ylabel("score")
    style.legend_below(figure, axes[0])
    style.headline(figure, "Induction scores of heads")
    return figure
