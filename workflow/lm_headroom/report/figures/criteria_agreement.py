"""Why criteria differ: rank correlations between them, and first-order estimates against the true rise of the loss."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from lm_headroom.analysis.criteria_agreement import linearity
from lm_headroom.report.figures import style
from lm_headroom.report.tables.criteria_agreement import AgreementRow, rows
from lm_headroom.results.criteria import Estimates, read_estimates
from lm_headroom.results.matrix import COMPONENTS, Component, ResultsMatrix

ROW, BELOW, SCATTER, LABEL = 0.16, 0.7, 2.5, 0.13
"""Inches: of a row of a matrix, of its title, numbers and bar, of a scatter plot, and of a label below that."""

SIDE: dict[int, Literal["center", "right"]] = {1: "right", 2: "center"}
"""Where the title of a panel stands: in one column, names to the left leave it no place on the right."""


def matrices(matrix: ResultsMatrix) -> dict[tuple[Component, int], list[AgreementRow]]:
    """Component and shots to the pairs of criteria: means over tasks, or those of the only task."""
    panels: dict[tuple[Component, int], list[AgreementRow]] = {}
    for row in rows(matrix):
        if row.task in (matrix.averages or matrix.tasks):
            panels.setdefault((row.component, row.shots), []).append(row)
    return panels


@style.drawing
def draw(matrix: ResultsMatrix) -> Figure:
    """Draw the figure."""
    panels = matrices(matrix)
    scatters = [
        [values for values in read_estimates(matrix, shots) if values.component == component]
        for component in COMPONENTS
        for shots in matrix.shots
    ]
    scatters = [group for group in scatters if group]
    figure, axes = style.panels(2 * len(panels) + len(scatters), width=2.6, height=2.6, per_row=2)
    grid: Any = axes[0].get_gridspec()
    legend = LABEL * (1 + -(-len(matrix.tasks) // grid.ncols))
    cells, heights = {}, dict.fromkeys(range(grid.nrows), SCATTER + legend)
    for i, ((component, shots), pairs) in enumerate(panels.items()):
        # A matrix of criteria takes a row of its own.
        place = grid[i, :] if grid.ncols == 2 else grid[2 * i : 2 * i + 2, 0]
        for ax in axes[2 * i : 2 * i + 2]:
            ax.remove()
        ax = figure.add_subplot(place)
        cells[ax] = _draw_matrix(ax, pairs, grid.ncols)
        names = len(cells[ax])
        matrix_rows = [i] if grid.ncols == 2 else [2 * i, 2 * i + 1]
        heights |= dict.fromkeys(matrix_rows, (ROW * names + BELOW) / len(matrix_rows))
        ax.set_title(f"SRCC of criteria of {COMPONENTS[component]}, {style.shot_title(shots)}", loc=SIDE[grid.ncols])
    grid.set_height_ratios(list(heights.values()))
    figure.set_figheight(sum(heights.values()))
    for ax, group in zip(axes[2 * len(panels) :], scatters, strict=True):
        _draw_scatter(ax, matrix, group, grid.ncols)
    style.headline(figure, f"Why criteria differ, {matrix.model}")
    style.write_cells(figure, cells, smallest=4)
    return figure


def _draw_matrix(ax: Axes, pairs: list[AgreementRow], columns: int) -> np.ndarray[Any, Any]:
    """The matrix without its numbers, which are returned: they are written once panels have their places."""
    names = list(dict.fromkeys(name for row in pairs for name in (row.a, row.b)))
    values = np.eye(len(names))
    for row in pairs:
        i, j = names.index(row.a), names.index(row.b)
        values[i, j] = values[j, i] = np.nan if row.srcc is None else row.srcc
    bar = {"label": "SRCC", "shrink": 0.8, "location": "right" if columns == 2 else "bottom"}
    # Columns by number: their names would take as much height as the matrix.
    numbers = range(1, len(names) + 1)
    labels = [f"{name} {number}" for name, number in zip(names, numbers, strict=True)]
    style.heatmap(ax, values, labels, numbers, bar, vmin=-1, vmax=1, cmap="vlag")
    ax.tick_params(labelsize=6, length=0)
    ax.tick_params(axis="x", labelsize=6 if columns == 2 else 4.5)
    return style.numbers(values, 1)


def _draw_scatter(ax: Axes, matrix: ResultsMatrix, group: list[Estimates], columns: int) -> None:
    """All tasks of one component and number of shots, a point per head or FFN; a perfect estimate lies on the line."""
    looks = style.task_styles(matrix.tasks)
    ax.axline((0, 0), slope=1, color="grey", linewidth=0.8)
    for values in group:
        slope = linearity(values.estimate, values.rise).slope
        label = values.task if slope is None else f"{values.task}: {slope:z.2f}"
        look = looks.get(values.task, {"color": "black", "marker": "o"}) | {"linestyle": ""}
        ax.plot(values.estimate, values.rise, label=label, markersize=3, alpha=0.7, **look)
    # Linear about 0, where most heads lie, and logarithmic beyond, so that one layer does not swallow the rest.
    smallest = 0.01 * max(float(np.abs(values.rise).max()) for values in group) or 1.0
    largest = max(float(np.abs([values.estimate, values.rise]).max()) for values in group)
    decades = 10.0 ** np.arange(np.ceil(np.log10(smallest)), np.log10(largest) + 1)
    ax.set_xscale("symlog", linthresh=smallest)
    ax.set_yscale("symlog", linthresh=smallest)
    limits = ax.get_xlim(), ax.get_ylim()
    # Inside the linear part, ticks of decades would overlap.
    for axis in (ax.xaxis, ax.yaxis):
        axis.set_ticks([*-decades[::-2], 0, *decades[::-2]])
    ax.set(xlim=limits[0], ylim=limits[1])
    ax.set(xlabel="first-order estimate (nats)", ylabel="rise of the loss (nats)")
    title = f"Single {COMPONENTS[group[0].component]} removed, {style.shot_title(group[0].shots)}"
    ax.set_title(title, loc=SIDE[columns])
    # Below the panel: points lie everywhere in it. No wider than it: panels would become narrower for it.
    below = {"loc": "upper center", "bbox_to_anchor": (0.5, -0.22), "ncols": columns, "columnspacing": 1}
    ax.legend(title="slopes", fontsize=6, title_fontsize=6, frameon=False, handlelength=1, **below)
    ax.grid(alpha=0.3)
