"""What all figures share: look, task colours, heatmaps, saving."""

from __future__ import annotations

import io
import textwrap
from collections.abc import Callable, Mapping, Sequence
from functools import wraps
from pathlib import Path
from typing import Any, Protocol

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from lm_headroom.analysis.bootstrap import Interval
from lm_headroom.artifacts.file_provenance import vouching
from lm_headroom.artifacts.provenance import describe_drawn
from lm_headroom.artifacts.store import atomic, reads
from lm_headroom.errors import HeadroomError
from lm_headroom.results.matrix import ResultsMatrix

PANEL = (4.2, 3.8)
"""Width and height of a panel in inches."""
Array = np.ndarray[Any, np.dtype[np.float64]]

_MARKERS = "osD^vP*Xd<>ph8H|"
_DASHES: tuple[Any, ...] = ("-", "--", ":", "-.")


def panels(
    n: int, width: float = PANEL[0], height: float = PANEL[1], share_y: bool = False, per_row: int | None = None
) -> tuple[Figure, list[Axes]]:
    """A figure of ``n`` panels, ``per_row`` of them (default all) in a row; ``width`` and ``height`` are a panel's."""
    sns.set_theme(context="paper", style="ticks", font_scale=1.0)
    columns = min(n, per_row or n)
    rows = -(-n // columns)
    figure, axes = plt.subplots(
        rows, columns, figsize=(width * columns, height * rows), squeeze=False, sharey=share_y, layout="constrained"
    )
    for unused in axes.ravel()[n:]:
        unused.set_axis_off()
    return figure, list(axes.ravel()[:n])


def task_styles(tasks: Sequence[str]) -> dict[str, dict[str, Any]]:
    """Colour, marker and dash per task: distinct without colour vision, and in print without colour.

    Sixteen tasks differ in marker, and in colour or dash. Black and grey are left to averages and controls.
    """
    palette = sns.color_palette("colorblind", 10)
    # Without its grey (7) and its yellow (8), which vanishes on white.
    colours = [palette[i] for i in (0, 1, 2, 3, 4, 5, 9, 6)]
    return {
        task: {
            "color": colours[i % len(colours)],
            "marker": _MARKERS[i % len(_MARKERS)],
            "linestyle": _DASHES[i // len(colours) % len(_DASHES)],
        }
        for i, task in enumerate(tasks)
    }


def headline(figure: Figure, text: str) -> None:
    """The figure's title, broken into lines that fit its width."""
    figure.suptitle(textwrap.fill(text, int(12 * figure.get_figwidth())))  # about 12 characters of 12 points per inch


def legend_below(figure: Figure, axes: Axes) -> None:
    """One legend for all panels below them, in as many columns as fit the figure's width."""
    handles, labels = axes.get_legend_handles_labels()
    widest = 0.5 + 0.075 * max(map(len, labels))  # inches: the line, and about 0.075 per character of 9 points
    columns = max(1, min(len(labels), int(figure.get_figwidth() / widest)))
    figure.legend(handles, labels, loc="outside lower center", ncols=columns, frameon=False)


def head_heatmap(axes: Axes, values: Array, title: str, label: str) -> None:
    """Heads across, layers upward from layer 1 at the bottom; both count from 1 as in the paper."""
    layers, heads = values.shape
    image = axes.imshow(
        values, origin="lower", aspect="auto", cmap="viridis", extent=(0.5, heads + 0.5, 0.5, layers + 0.5)
    )
    axes.set(title=title, xlabel="head", ylabel="layer")
    whole_numbers(axes.xaxis, 6)  # numbers stand side by side, in panels as narrow as an inch
    whole_numbers(axes.yaxis, 9)
    axes.figure.colorbar(image, ax=axes, label=label)


def average_line(axes: Axes, x: Any, values: Array, limits: Interval, tasks: Sequence[str]) -> None:
    """The average over tasks in black with its 95% band; a task alone is its own average, drawn once."""
    name = name_of_average(tasks)
    band(axes, x, limits, "black")
    axes.plot(x, values, color="black", linewidth=2.2, label=f"{name}, 95% band")


def name_of_average(tasks: Sequence[str]) -> str:
    """What the average over tasks is called: a task alone by its name."""
    return "average" if len(tasks) > 1 else tasks[0]


def beside_average(tasks: Sequence[str]) -> Sequence[str]:
    """Tasks that have a line beside that of their average."""
    return tasks if len(tasks) > 1 else ()


def band(axes: Axes, x: Any, limits: Interval, color: Any, alpha: float = 0.18) -> None:
    """95% limits around a line; paler where several lie on each other."""
    axes.fill_between(x, limits.low, limits.high, color=color, alpha=alpha, linewidth=0)


def capacity_line(axes: Axes, percent: Array, retained: Array, **look: Any) -> None:
    """A capacity-retained curve: a point per head, so that only a few carry the marker."""
    every = max(1, len(percent) // 10)
    axes.plot(percent, 100 * retained, **{"linewidth": 1.2, "markersize": 4, "markevery": every, **look})


def capacity_axes(axes: Axes, title: str) -> None:
    """Both axes from 0 to 100%, and in grey what pruning at random retains."""
    axes.plot([0, 100], [100, 0], color="grey", linestyle="--", linewidth=1.2, label="at random")
    axes.set(title=title, xlabel="heads pruned (%)", xlim=(-2, 102), ylim=(-2, 102))
    axes.grid(alpha=0.3)


def whole_numbers(axis: Axis, most: int) -> None:
    """At most so many ticks, at whole numbers only: layers and heads."""
    axis.set_major_locator(MaxNLocator(most, integer=True, min_n_ticks=3))


def one_shot(matrix: ResultsMatrix) -> int:
    """The study's one number of shots.

    Raises:
        HeadroomError: it has several.
    """
    if len(matrix.shots) != 1:
        raise HeadroomError(f"this figure shows one number of shots, got {list(matrix.shots)}")
    return matrix.shots[0]


def shot_title(shots: int) -> str:
    """``0-shot`` and so on."""
    return f"{shots}-shot"


class Shown(Protocol):
    """What a figure shows, a study or several: its provenance names the options."""

    @property
    def options(self) -> dict[str, Any]:
        """Options of what is shown."""
        ...


def drawing(draw: Callable[..., Figure]) -> Callable[..., None]:
    """Make of a function that draws a study one that writes ``out``.pdf and ``out``.png, with what made them.

    The artifacts that are read while it draws are the figure's inputs.
    """

    @wraps(draw)
    def write(matrix: Shown, out: Path, **what: Any) -> None:
        with reads() as read:
            figure = draw(matrix, **what)
        step = draw.__module__.removeprefix("lm_headroom.")
        save(figure, out, describe_drawn("figure", step, read, {**matrix.options, **what}, out))

    return write


def save(figure: Figure, out: Path, provenance: Mapping[str, Any]) -> None:
    """Write ``out``.pdf and ``out``.png; the same data give the same bytes.

    Args:
        figure: closed afterwards.
        out: path without suffix.
        provenance: of what is written.
    """
    # What matplotlib would put there by itself: the time, and its version, which the provenance has.
    unwanted = {".pdf": ("CreationDate", "Producer"), ".png": ("Software",)}
    drawn = {}
    for suffix, names in unwanted.items():
        content = io.BytesIO()
        figure.savefig(content, format=suffix[1:], dpi=200, metadata=dict.fromkeys(names))
        drawn[suffix] = content.getvalue()
    plt.close(figure)
    beside = {".pdf": drawn[".pdf"]}
    for suffix, written in {**beside, ".png": vouching(".png", drawn[".png"], provenance, beside)}.items():
        with atomic(out.with_name(out.name + suffix)) as partial:
            partial.write_bytes(written)
