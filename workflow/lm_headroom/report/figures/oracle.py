"""Scores against the oracle: of FFNs a panel per shot, of heads a panel per task and shot."""

from __future__ import annotations

from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

from lm_headroom.analysis.outcomes import MEASURES, OUTCOMES
from lm_headroom.artifacts.oracle_agreement import ORACLE_AGREEMENT
from lm_headroom.artifacts.store import read
from lm_headroom.report.figures import judged, style
from lm_headroom.results.matrix import COMPONENTS, Component, ResultsMatrix
from lm_headroom.results.method import scored_by
from lm_headroom.results.oracle import read_ffns, read_heads
from lm_headroom.study.criteria import CRITERIA

Array = np.ndarray[Any, np.dtype[np.float64]]
Row = dict[str, Any]


def data(matrix: ResultsMatrix) -> dict[tuple[str, str, int], Row]:
    """Rows of the agreement by component, task and shots: heads by the rise of the loss, FFNs by what ranks them."""
    path = matrix.path("oracle_agreement")
    rows = read(path, ORACLE_AGREEMENT, **matrix.expected()).to_pylist()
    chosen = [row for row in rows if row["component"] == "ffns" or row["measure"] == "loss_rise"]
    return {(row["component"], row["task"], row["shots"]): row for row in chosen}


def _scores_across(ax: Axes, scores: Array, criterion: str) -> None:
    """Scores on a logarithmic axis, about 0 a linear one if some are not positive, with numbers that do not overlap."""
    ax.set_xlabel(f"score by {criterion} ({CRITERIA[criterion].unit})")
    if scores.min() <= 0:
        ax.set_xscale("symlog", linthresh=0.01 * float(np.abs(scores).max()) or 1.0)
        return
    ax.set_xscale("log")
    low, high = ax.get_xlim()
    if high < 100 * low:
        ax.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        ax.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    ax.xaxis.set_minor_formatter(NullFormatter())


@style.drawing
def draw(matrix: ResultsMatrix, component: Component) -> Figure:
    """Draw the figure."""
    rows = {key: row for key, row in data(matrix).items() if key[0] == component}
    if component == "ffns":
        figure, axes = style.panels(len(matrix.shots), width=2.6, height=2.4)
        for ax, shots in zip(axes, matrix.shots, strict=True):
            _ffns(ax, matrix, shots, [rows["ffns", task, shots] for task in matrix.tasks])
        style.legend_below(figure, axes[0])
    else:
        cells = [(task, shots) for task in dict.fromkeys(task for _, task, _ in rows) for shots in matrix.shots]
        figure, axes = style.panels(len(cells), width=2.6, height=2.2)
        for ax, (task, shots) in zip(axes, cells, strict=True):
            _heads(ax, matrix, shots, task, rows["heads", task, shots])
    style.headline(figure, f"Scores of {COMPONENTS[component]} against the oracle, {matrix.model}")
    return figure


def _ffns(ax: Axes, matrix: ResultsMatrix, shots: int, rows: list[Row]) -> None:
    """All tasks, a point per layer."""
    ax.axhline(0, color="grey", linewidth=0.8)
    scores = {task: read_ffns(matrix, shots, task) for task in matrix.tasks}
    for task, look in style.task_styles(matrix.tasks).items():
        ffns = scores[task]
        ((measure, losses),) = ffns.outcomes.items()
        lost = OUTCOMES[MEASURES[measure]].shown_loss(losses.mean(axis=1))
        ax.plot(ffns.gradient.score, lost, label=task, markersize=3.5, alpha=0.8, **look | {"linestyle": ""})
    _scores_across(ax, np.concatenate([ffns.gradient.score for ffns in scores.values()]), scored_by(matrix, "ffns"))
    ax.set_ylabel(judged.loss_label(MEASURES[measure], "without the FFN"))
    ax.set_title(f"FFNs, {style.shot_title(shots)}\n{_average(rows)}")
    ax.grid(alpha=0.3)


def _heads(ax: Axes, matrix: ResultsMatrix, shots: int, task: str, row: Row) -> None:
    """One task, a point per head in the colour of its layer, with the error of the oracle."""
    heads = read_heads(matrix, shots, task)
    assert heads.layers is not None
    rises = heads.outcomes["loss_rise"]
    rise, error = rises.mean(axis=1), rises.std(axis=1, ddof=1) / np.sqrt(rises.shape[1])
    ax.axhline(0, color="grey", linewidth=0.8)
    score = heads.gradient.score
    ax.errorbar(score, rise, error, fmt="none", ecolor="grey", elinewidth=0.6, alpha=0.4, zorder=1)
    points = ax.scatter(score, rise, c=heads.layers + 1, cmap="viridis", s=6, zorder=2)
    # Most heads hardly matter and a few matter much: linear where the noise is, logarithmic beyond.
    least = float(np.median(error)) or 1e-6
    _scores_across(ax, score, scored_by(matrix, "heads"))
    ax.set_yscale("symlog", linthresh=10 ** np.ceil(np.log10(least)))
    ax.set_ylabel("rise of the loss (nats)")
    ax.set_title(f"heads, {task}, {style.shot_title(shots)}\n{_srcc(row)}")
    ax.grid(alpha=0.3)
    style.whole_numbers(ax.figure.colorbar(points, ax=ax, label="layer").ax.yaxis, 7)


def _srcc(row: Row) -> str:
    """``SRCC 0.62 (0.55 to 0.69), ceiling 0.95``."""
    if row["srcc"] is None:
        return "SRCC not defined"
    limits = "" if row["srcc_low"] is None else f" ({row['srcc_low']:z.2f} to {row['srcc_high']:z.2f})"
    return f"SRCC {row['srcc']:z.2f}{limits}, ceiling {_maybe(row['noise_ceiling'])}"


def _average(rows: list[Row]) -> str:
    """The same of several tasks: their average."""
    if len(rows) == 1:
        return _srcc(rows[0])
    known = [row["srcc"] for row in rows if row["srcc"] is not None]
    ceilings = [row["noise_ceiling"] for row in rows if row["noise_ceiling"] is not None]
    if not known:
        return "SRCC not defined"
    counts = f" ({len(ceilings)} of {len(rows)} tasks)" if len(ceilings) < len(rows) else ""
    ceiling = f"{np.mean(ceilings):z.2f}{counts}" if ceilings else "not defined"
    return f"average SRCC {np.mean(known):z.2f}, ceiling {ceiling}"


def _maybe(value: float | None) -> str:
    return "not defined" if value is None else f"{value:z.2f}"
