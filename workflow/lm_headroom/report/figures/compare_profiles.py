"""Importance by relative depth, a line per model: heads above, FFNs below, a panel per shot."""

from __future__ import annotations

from typing import Any

import numpy as np
from matplotlib.figure import Figure

from lm_headroom.artifacts.comparison import COMPARED_PROFILES
from lm_headroom.report.figures import comparison, style
from lm_headroom.results.comparison import Comparison
from lm_headroom.results.matrix import COMPONENTS, Component

Array = np.ndarray[Any, np.dtype[np.float64]]
PARTS = 12
"""Layers of deeper models are averaged over so many parts of their depth, so that their lines can be distinguished."""


def data(compared: Comparison) -> dict[tuple[Component, int], dict[str, tuple[Array, Array]]]:
    """Component and shots to model to its depths and values, each [part of the depth].

    Values are relative importances of heads, and points of accuracy lost for FFNs; a model without them is left out.
    """
    rows = comparison.read_rows(compared, "profiles", COMPARED_PROFILES)
    profiles: dict[tuple[Component, int], dict[str, tuple[Array, Array]]] = {}
    for component in COMPONENTS:
        for shots in compared.shots:
            cell = profiles.setdefault((component, shots), {})
            for model in compared.models:
                chosen = [r for r in rows if (r["model"], r["component"], r["shots"]) == (model.name, component, shots)]
                values = [r["relative"] if component == "heads" else 100 * r["importance"] for r in chosen]
                if None not in values:
                    cell[model.name] = in_parts(np.array([r["depth"] for r in chosen]), np.array(values))
    return profiles


def in_parts(depth: Array, values: Array) -> tuple[Array, Array]:
    """Means of depths and values over parts of the depth; of few layers, each is a part."""
    part = np.floor(depth * PARTS).astype(int)
    parts = np.unique(part)
    return np.array([depth[part == i].mean() for i in parts]), np.array([values[part == i].mean() for i in parts])


@style.drawing
def draw(compared: Comparison) -> Figure:
    """Draw the figure."""
    models, values = comparison.read_models(compared), data(compared)
    looks = comparison.styles(models)
    shots = len(compared.shots)
    of_heads = (lines for (component, _), lines in values.items() if component == "heads")
    is_signed = any((value < 0).any() for lines in of_heads for _, value in lines.values())
    figure, axes = style.panels(len(values), width=2.6, height=2.2, per_row=shots)
    for ax, ((component, k), lines) in zip(axes, values.items(), strict=True):
        for model in models:
            # All of them, so that the legend is whole.
            depth, value = lines.get(model.name, (np.array([]), np.array([])))
            ax.plot(depth, value, label=model.name, linewidth=1.5, **looks[model.name])
        is_multiple = component == "heads" and not is_signed
        ax.axhline(1 if is_multiple else 0, color="grey", linewidth=0.8, zorder=0)
        ax.set(title=f"{COMPONENTS[component]}, {style.shot_title(k)}", xlim=(0, 1))
        ax.grid(alpha=0.3)
        if is_multiple:
            ax.set_ylim(bottom=0)
        if component == "ffns":
            ax.set_xlabel("relative depth (0: first layer, 1: last)")
    style.label_left(axes[:shots], f"importance, {'mean size' if is_signed else 'mean'} over layers = 1")
    style.label_left(axes[shots:], "accuracy lost (points)")
    style.legend_below(figure, axes[0])
    style.headline(figure, "Importance by depth, aggregate over tasks")
    return figure
