"""Figure 7: average accuracy over heads and FFNs pruned together, a heatmap per shot."""

from __future__ import annotations

import seaborn as sns
from matplotlib.figure import Figure

from headroom.figures import style
from headroom.figures.accuracy import AverageGrid, average_grid, study_grids
from headroom.figures.study import Study


def data(study: Study) -> dict[int, AverageGrid]:
    """Accuracy averaged over tasks, per shot."""
    return {shots: average_grid(study_grids(study, shots)) for shots in study.shots}


@style.drawing
def draw(study: Study) -> Figure:
    """Draw the figure: FFNs across, heads downward from none, as in the paper."""
    values = data(study)
    rows, columns = next(iter(values.values())).accuracy.shape
    figure, axes = style.panels(len(values), width=max(3.6, 0.6 * columns + 1.4), height=max(3.2, 0.42 * rows + 1.2))
    for ax, (shots, grid) in zip(axes, values.items(), strict=True):
        sns.heatmap(
            100 * grid.accuracy,
            ax=ax,
            cmap="cividis",
            annot=True,
            fmt=".1f",
            annot_kws={"size": 8},
            xticklabels=grid.ffns,
            yticklabels=grid.heads,
            cbar_kws={"label": "average accuracy (%)"},
        )
        ax.set(title=style.shot_title(shots), xlabel="FFNs pruned (%)", ylabel="heads pruned (%)")
        ax.xaxis.tick_top()
        ax.xaxis.set_label_position("top")
        ax.tick_params(axis="y", rotation=0)
    style.headline(figure, f"Accuracy with heads and FFNs pruned together, {study.model}, {len(study.tasks)} tasks")
    return figure
