"""Figure 7: an average outcome over heads and FFNs pruned together with half its 95% interval, a heatmap per shot."""

from __future__ import annotations

from typing import Any

import numpy as np
import seaborn as sns
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
    return np.vectorize(lambda value, half: f"{value:.{spec.decimals}f}\n±{half:.{spec.decimals}f}")(
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
    figure, axes = style.panels(len(values), width=max(3.6, 0.62 * columns + 1.4), height=max(3.4, 0.5 * rows + 1.2))
    for ax, (shots, grid) in zip(axes, values.items(), strict=True):
        limits = judged.shown_limits(outcome, grid.band)
        sns.heatmap(
            spec.shown(grid.mean),
            ax=ax,
            # Bright is better, whether that is more or less.
            cmap="cividis_r" if spec.is_cost else "cividis",
            # From the lowest to the highest limit: noise alone shall not fill the scale.
            vmin=limits.low.min(),
            vmax=limits.high.max(),
            annot=labels(grid, outcome),
            fmt="",
            annot_kws={"size": 7, "linespacing": 1.1},
            xticklabels=grid.ffns,
            yticklabels=grid.heads,
            cbar_kws={"label": judged.level_label(outcome, "average", 32)},
        )
        ax.set(title=style.shot_title(shots), xlabel="FFNs pruned (%)", ylabel="heads pruned (%)")
        ax.xaxis.tick_top()
        ax.xaxis.set_label_position("top")
        ax.tick_params(axis="y", rotation=0)
    style.headline(figure, f"{title}, {len(matrix.tasks)} tasks")
    judged.note(figure, outcome, left_out)
    return figure
