"""Figures 9, 16 and 17: heads pruned by other rankings than a task's own, a panel per task; 0, 1 and 5 shots."""

from __future__ import annotations

from matplotlib.figure import Figure

from lm_headroom.analysis.outcomes import OUTCOMES, in_title
from lm_headroom.errors import HeadroomError
from lm_headroom.report.figures import judged, style
from lm_headroom.results.chance import read_chance_levels
from lm_headroom.results.curves import Curve, band, transfer_curves
from lm_headroom.results.matrix import ONE_PARTNER, ResultsMatrix
from lm_headroom.results.outcomes import restrict
from lm_headroom.study.ranking_names import AGGREGATE, HIGHEST, LOWEST

NAMES = {
    "own": "own",
    AGGREGATE: "aggregate",
    HIGHEST: "highest",
    LOWEST: "lowest",
    ONE_PARTNER: "highest and lowest",
}
"""Ranking to its name in the legend."""
PANELS_PER_ROW = 3


def data(matrix: ResultsMatrix) -> dict[str, dict[str, Curve]]:
    """Curves per task and ranking.

    Raises:
        HeadroomError: the study has several numbers of shots; each has a figure of its own.
    """
    return transfer_curves(matrix, style.one_shot(matrix))


@style.drawing
def draw(matrix: ResultsMatrix) -> Figure:
    """Draw the figure."""
    outcome, spec = matrix.outcome, OUTCOMES[matrix.outcome]
    statistic = {"spearman": "SRCC", "argsort": "the argsort statistic"}[matrix.correlation]
    shots = style.shot_title(style.one_shot(matrix))
    title = f"Heads pruned by other tasks' rankings (partners by {statistic}), {matrix.model}, {shots}, 95% bands"
    title += in_title(outcome)
    if not (matrix.transfer or matrix.unseen):
        raise HeadroomError(
            "this figure shows tasks under other rankings than their own; name them as --transfer or --unseen"
        )
    # Other tasks have no panel.
    matrix, left_out = restrict(matrix.changed(tasks=()))
    values = data(matrix)
    if not values:
        return judged.draw_undefined(title, outcome, left_out)
    chance = read_chance_levels(matrix.changed(tasks=tuple(values), unseen=()))
    styles = style.series_styles([*NAMES])
    # Curves may lie on each other: dashes show what is below.
    dashes = dict(zip(NAMES, ("-", "--", "-.", ":", "-."), strict=True))
    figure, axes = style.panels(len(values), width=2.0, height=2.6, per_row=PANELS_PER_ROW)
    for ax, (task, curves) in zip(axes, values.items(), strict=True):
        for name, curve in curves.items():
            look = styles[name] | {"linestyle": dashes[name]}
            ax.plot(curve.percent, spec.shown(curve.mean), label=label(name, curve), markersize=3, linewidth=1, **look)
            style.band(ax, curve.percent, judged.shown_limits(outcome, band(curve)), look["color"], alpha=0.1)
        judged.chance_line(ax, [chance[task]], outcome)
        name = f"{task} (unseen)" if task in matrix.unseen else task
        ax.set(title=name, xlabel="heads pruned (%)")
        # Where all scores are the same, the limits would be a hair's breadth around it.
        low, high = ax.get_ylim()
        hundredth = spec.shown_loss(0.01)
        if high - low < hundredth:
            ax.set_ylim(low - 5 * hundredth, high + 5 * hundredth)
        ax.grid(alpha=0.3)
        # Below the panel: curves cross, so that no corner is free for sure.
        ax.legend(loc="upper center", bbox_to_anchor=(0.5, 0), borderaxespad=4, frameon=False)
    style.label_left(axes, judged.level_label(outcome))
    style.headline(figure, title)
    judged.note(figure, outcome, left_out)
    return figure


def label(ranking: str, curve: Curve) -> str:
    """``highest: piqa (0.93)``; a ranking without a partner by its name alone."""
    name = NAMES[ranking]
    if curve.partner is None:
        return name
    return f"{name}: {curve.partner}" + (f" ({curve.correlation:z.2f})" if curve.correlation is not None else "")
