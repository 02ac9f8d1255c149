"""Figure 7: an average outcome over heads and FFNs pruned together with half its 95% interval, a heatmap per shot."""

from __future__ import annotations

from typing import Any

import numpy as np
from matplotlib.figure import Figure

from lm_headroom.analysis.outcomes import OUTCOMES
from lm_headroom.artifacts.pruned_eval import JOINT_EVAL
from lm_headroom.report.figures import judged, style
from lm_headroom.results.curves import AverageGrid, average_grid, study_grids
from lm_headroom.results.matrix import ResultsMatrix
from lm_headroom.results.outcomes import restrict
from lm_headroom.study.choices import ACCURACY, Outcome


def data(matrix: ResultsMatrix) -> dict[int, AverageGrid]:
    """Scores averaged over tasks, per shot."""
    return {shots: average_grid(study_grids(matrix, shots)) for shots in matrix.shots}


def labels(grid: AverageGrid, outcome: Outcome = ACCURACY) -> Any:
    """The outcome and half the width of its interval, as shown, per cell."""
    spec = OUTCOMES[outcome]
    halves = spec.shown_loss(grid.band.high - grid.band.low) / 2
    return np.vectorize(lambda value, half: f"{value:z.{spec.decimals}f}\n±{half:z.{spec.decimals}f}")(
        spec.shown(grid.mean), halves
    )


@style.drawing
def draw(matrix: ResultsMatrix) -> Figure:
    """Draw the figure: FFNs across, heads downward from none, as in the paper."""
    outcome, spec = matrix.outcome, OUTCOMES[matrix.outcome]
    title = f"{judged.subject(outcome)} with heads and FFNs pruned together, {matrix.model}"
    matrix, left_out = restrict(matrix, JOINT_EVAL)
    if not matrix.tasks:
        return judged.draw_undefined(title, outcome, left_out)
    values = data(matrix)
    rows, columns = next(iter(values.values())).mean.shape
    shown = [judged.shown_limits(outcome, grid.band) for grid in values.values()]
    # From the lowest to the highest limit: noise alone shall not fill the scale, which is one for all panels.
    lowest, highest = min(limits.low.min() for limits in shown), max(limits.high.max() for limits in shown)
    figure, axes = style.panels(
        len(values), width=max(2.6, 0.44 * columns + 1.2), height=max(2.2, 0.34 * rows + 0.8), per_row=2
    )
    for ax, (shots, grid) in zip(axes, values.items(), strict=True):
        # Bright is better, whether that is more or less.
        look = {"cmap": "cividis_r" if spec.is_cost else "cividis", "vmin": lowest, "vmax": highest}
        bar = {"label": judged.level_label(outcome, "average", 32)}
        style.heatmap(ax, spec.shown(grid.mean), grid.heads, grid.ffns, bar, **look)
        ax.set(title=style.shot_title(shots), xlabel="FFNs pruned (%)", ylabel="heads pruned (%)")
        ax.xaxis.tick_top()
        ax.xaxis.set_label_position("top")
        ax.tick_params(axis="y", rotation=0)
    style.headline(figure, f"{title}, {len(matrix.tasks)} tasks; ± half the 95% interval")
    judged.note(figure, outcome, left_out)
    texts = [labels(grid, outcome) for grid in values.values()]
    style.write_cells(figure, dict(zip(axes, texts, strict=True)), largest=7)
    return figure
