"""Figure 10: prefix-matching (a) and copying (b) scores of all heads."""

from __future__ import annotations

from matplotlib.figure import Figure

from lm_headroom.report.figures import style
from lm_headroom.results.induction import SCORES, Induction, Score, read_induction
from lm_headroom.results.matrix import ResultsMatrix


def data(matrix: ResultsMatrix) -> dict[Score, Induction]:
    """Scores of all heads per induction score."""
    return {score: read_induction(matrix, score) for score in SCORES}


@style.drawing
def draw(matrix: ResultsMatrix) -> Figure:
    """Draw the figure."""
    values = data(matrix)
    figure, axes = style.panels(len(values), width=2.6, height=2.2)
    for ax, letter, (score, induction) in zip(axes, "ab", values.items(), strict=True):
        title, label = f"({letter}) {SCORES[score]}", f"{SCORES[score]} score"
        style.head_heatmap(ax, induction.scores, induction.layers, title, label, from_zero=True)
    style.headline(figure, f"Induction heads, {matrix.model}")
    return figure
