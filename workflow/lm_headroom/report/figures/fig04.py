"""Figure 4: FFN importance by layer, points per task, the average with its interval; a panel per shot; any outcome."""

from __future__ import annotations

import numpy as np
from matplotlib.figure import Figure

from lm_headroom.analysis.outcomes import OUTCOMES, in_title
from lm_headroom.artifacts.ffn_importance import FFN_IMPORTANCE
from lm_headroom.report.figures import judged, style
from lm_headroom.results.ffns import FfnImportance, read_ffns
from lm_headroom.results.matrix import ResultsMatrix
from lm_headroom.results.outcomes import restrict


def data(matrix: ResultsMatrix) -> dict[int, FfnImportance]:
    """FFN importance per shot."""
    return {shots: read_ffns(matrix, shots) for shots in matrix.shots}


@style.drawing
def draw(matrix: ResultsMatrix) -> Figure:
    """Draw the figure."""
    outcome, styles = matrix.outcome, style.task_styles(matrix.tasks)
    title = f"FFN importance, {matrix.model}{in_title(outcome)}"
    matrix, left_out = restrict(matrix, FFN_IMPORTANCE)
    if not matrix.tasks:
        return judged.draw_undefined(title, outcome, left_out)
    values, shown = data(matrix), OUTCOMES[outcome].shown_loss
    figure, axes = style.panels(len(values), width=2.9, height=2.4, share_y=True)
    for ax, (shots, importance) in zip(axes, values.items(), strict=True):
        numbers = np.arange(1, len(importance.average) + 1)
        ax.axhline(0, color="grey", linewidth=0.8)
        # Layers are apart, and no line leads from one to the next.
        tasks = style.beside_average(matrix.tasks)
        for task, aside in zip(tasks, np.linspace(-0.3, 0.3, len(tasks)), strict=True):
            look = styles[task] | {"linestyle": ""}
            ax.plot(numbers + aside, shown(importance.tasks[task]), label=task, markersize=3, alpha=0.8, **look)
        limits, average = judged.shown_loss_limits(outcome, importance.band), shown(importance.average)
        ax.vlines(numbers, limits.low, limits.high, color="black", linewidth=1.2)
        name = style.name_of_average(matrix.tasks)
        ax.plot(numbers, average, "_", color="black", markersize=5, label=f"{name}, 95% interval")
        ax.set(title=style.shot_title(shots), xlabel="layer", xlim=(0.4, len(numbers) + 0.6))
        style.whole_numbers(ax.xaxis, 9)
        ax.grid(alpha=0.3)
    style.label_left(axes, judged.loss_label(outcome, "without the FFN"))
    style.legend_below(figure, axes[0])
    style.headline(figure, title)
    metrics = {metric for importance in values.values() for metric in importance.metrics} - {outcome}
    ranked = " and ".join(sorted(OUTCOMES[metric].title for metric in metrics))
    judged.note(figure, outcome, left_out, *([f"FFNs are ranked by another outcome: {ranked}."] if ranked else []))
    return figure
