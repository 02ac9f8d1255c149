"""What all figures share: size and type for print, looks of tasks, heatmaps, saving."""

from __future__ import annotations

import hashlib
import io
import textwrap
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
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
from matplotlib.colors import LogNorm, to_rgb
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from scipy.stats import rankdata

from lm_headroom.analysis.bootstrap import Interval
from lm_headroom.artifacts.file_provenance import vouching
from lm_headroom.artifacts.provenance import describe_drawn
from lm_headroom.artifacts.store import atomic, reads
from lm_headroom.errors import HeadroomError
from lm_headroom.report.figures.layout import DEFAULT, Layout
from lm_headroom.results.matrix import ResultsMatrix

PANEL = (2.0, 1.8)
"""Least width of a panel in inches, and its height where it is as wide as that."""
AXIS = 28
"""Characters of a vertical axis's label that fit the height of a panel."""
TALLEST = 2.9
"""Height in inches that no panel exceeds because its figure has room in width."""
Array = np.ndarray[Any, np.dtype[np.float64]]

_MARKERS = "osD^vP*Xd<>ph8H|"
_DASHES: tuple[Any, ...] = ("-", "--", ":", "-.")
KNOWN_TASKS = (
    *("arc_easy", "piqa", "copa", "winogrande", "hellaswag", "openbookqa", "boolq", "arc_challenge"),
    *("cb", "rte", "wic", "wsc", "record", "multirc", "mathqa", "lambada_openai"),
)
"""The paper's tasks: each has one look in all figures and studies, and no other task has it."""
TYPE = {
    "font.size": 8,
    "axes.titlesize": 8,
    "axes.labelsize": 8,
    "xtick.labelsize": 8,
    "ytick.labelsize": 8,
    "legend.fontsize": 8,
    "figure.titlesize": 8,
    "figure.titleweight": "bold",
    "axes.linewidth": 0.6,
    "xtick.major.width": 0.6,
    "ytick.major.width": 0.6,
    "xtick.major.size": 3,
    "ytick.major.size": 3,
    "grid.linewidth": 0.5,
    "hatch.linewidth": 0.5,
    "legend.columnspacing": 1.0,
    "legend.handlelength": 1.8,
}
"""Type and lines at the size of print, in points."""
EMBEDDED = {"pdf.fonttype": 42, "ps.fonttype": 42, "svg.fonttype": "path", "svg.hashsalt": "lm-headroom"}
"""TrueType fonts within the PDF, which publishers ask for; outlines in the SVG, which needs no font of its viewer."""
_LAYOUT = ContextVar("layout", default=DEFAULT)
"""How the figure that is drawn is laid out."""


@contextmanager
def laid_out(layout: Layout) -> Iterator[None]:
    """Lay out what is drawn inside."""
    before = _LAYOUT.set(layout)
    try:
        yield
    finally:
        _LAYOUT.reset(before)


def layout() -> Layout:
    """How the figure that is drawn is laid out."""
    return _LAYOUT.get()


def panels(
    n: int, width: float = PANEL[0], height: float = PANEL[1], share_y: bool = False, per_row: int | None = None
) -> tuple[Figure, list[Axes]]:
    """A figure of ``n`` panels that is as wide as its layout says, at most ``per_row`` of them (default all) in a row.

    Args:
        n: number of panels.
        width: least width in inches at which a panel can be read; narrower ones go on to another row.
        height: of a panel of that width; a wider one is higher, up to a limit.
        share_y: whether all have one vertical scale.
        per_row: the most panels in a row.
    """
    # Figures are the same whatever matplotlibrc lies in a folder or a home: warm processes read another than cold ones.
    matplotlib.rcdefaults()
    sns.set_theme(context="paper", style="ticks", rc=TYPE | EMBEDDED)
    whole = layout().inches
    columns = max(1, min(n, per_row or n, int(whole / width + 1e-6)))
    rows = -(-n // columns)
    tall = max(height, min(TALLEST, height * whole / columns / width))
    figure, axes = plt.subplots(
        rows, columns, figsize=(whole, tall * rows), squeeze=False, sharey=share_y, layout="constrained"
    )
    for unused in axes.ravel()[n:]:
        unused.set_axis_off()
    return figure, list(axes.ravel()[:n])


def begins_row(ax: Axes) -> bool:
    """Whether a panel is the first of its row."""
    place = ax.get_subplotspec()
    return place is None or place.is_first_col()


def label_left(axes: Sequence[Axes], text: str) -> None:
    """Name the vertical scale, which these panels share, at the first one and at the first of each row."""
    for ax in axes:
        if ax is axes[0] or begins_row(ax):
            ax.set_ylabel(text if "\n" in text else textwrap.fill(text, AXIS))


def _colours() -> list[Any]:
    """Colours that differ without colour vision; black and grey are left to averages and controls."""
    palette = sns.color_palette("colorblind", 10)
    # Without its grey (7) and its yellow (8), which vanishes on white.
    return [palette[i] for i in (0, 1, 2, 3, 4, 5, 9, 6)]


def series_styles(names: Sequence[str]) -> dict[str, dict[str, Any]]:
    """Colour, marker and dash by position: of shots, rankings and groups, which have an order. Sixteen differ."""
    colours = _colours()
    return {
        name: {
            "color": colours[i % len(colours)],
            "marker": _MARKERS[i % len(_MARKERS)],
            "linestyle": _DASHES[i // len(colours) % len(_DASHES)],
        }
        for i, name in enumerate(names)
    }


def task_styles(tasks: Sequence[str]) -> dict[str, dict[str, Any]]:
    """Colour, marker and dash per task, the same in every figure and study.

    Those of the paper's tasks are fixed. Any other task's follow from its name, in dashes that no task of the paper
    has; only where two of a study would be alike does the later one take the next look.
    """
    colours, known = _colours(), series_styles(KNOWN_TASKS)
    styles: dict[str, dict[str, Any]] = {}
    used: set[int] = set()
    for task in tasks:
        if task in known:
            styles[task] = known[task]
            continue
        number = int.from_bytes(hashlib.sha256(task.encode()).digest()[:4], "big") % (len(_MARKERS) * len(colours))
        while number in used and len(used) < len(_MARKERS) * len(colours):
            number = (number + 1) % (len(_MARKERS) * len(colours))
        used.add(number)
        colour, marker = divmod(number, len(_MARKERS))
        styles[task] = {"color": colours[colour], "marker": _MARKERS[marker], "linestyle": _DASHES[2 + number % 2]}
    return styles


def headline(figure: Figure, text: str) -> None:
    """The figure's title, broken into lines that fit its width, unless its layout has none."""
    if layout().title != "none":
        figure.suptitle(textwrap.fill(text, int(14 * figure.get_figwidth())))  # about 14 bold characters per inch


def legend_below(figure: Figure, *axes: Axes) -> None:
    """One legend for all panels below them, each label once, in as many columns as fit the figure's width."""
    entries: dict[str, Any] = {}
    for ax in axes:
        for handle, label in zip(*ax.get_legend_handles_labels(), strict=True):
            entries.setdefault(label, handle)
    legend_of(figure, entries)


LEGEND_LINE, LEGEND_LINES = 0.18, 3
"""Height of a line of a legend in inches, and how many lines the height of panels allows for."""


def legend_of(figure: Figure, entries: Mapping[str, Any]) -> None:
    """A legend below the panels, from label to handle; labels wider than the figure are broken."""
    inches = figure.get_figwidth()
    labels = [textwrap.fill(label, int((inches - 0.5) / 0.07)) for label in entries]
    widest = 0.45 + 0.066 * max(len(line) for label in labels for line in label.splitlines())
    columns = max(1, min(len(labels), int(inches / widest)))
    half = int((inches / 2 - 0.45) / 0.066)
    if columns == 1 and len(labels) > 4 and all(len(word) <= half for label in labels for word in label.split()):
        # Two columns of broken labels take less height than one of whole ones.
        labels, columns = [textwrap.fill(label, half) for label in entries], 2
    # A long legend makes the figure higher, not its panels lower.
    rows = -(-len(labels) // columns)
    lines = max(sum(label.count("\n") + 1 for label in labels[i : i + rows]) for i in range(0, len(labels), rows))
    figure.set_figheight(figure.get_figheight() + LEGEND_LINE * max(0, lines - LEGEND_LINES))
    figure.legend(list(entries.values()), labels, loc="outside lower center", ncols=columns, frameon=False)


def importance_label(unit: str) -> str:
    """What the colours of head importance are, on the layout's scale."""
    return "rank (% of heads below)" if layout().importance_scale == "rank" else f"importance ({unit})"


def heat_scale(values: Array, scale: str) -> tuple[Array, dict[str, Any]]:
    """Scores as a heatmap shows them, and what arguments its image needs.

    Args:
        values: scores, [layer, head].
        scale: ``linear``, ``log``, or ``rank`` in percent from the lowest to the highest.
    """
    if scale == "rank":
        order = rankdata(values, method="average").reshape(values.shape)
        return 100 * (order - 1) / max(values.size - 1, 1), {"vmin": 0, "vmax": 100}
    positive = values[values > 0]
    if scale == "log" and positive.size and positive.min() < positive.max():
        # What is not positive has the colour of the lowest: a logarithm knows no other place for it.
        return np.maximum(values, positive.min()), {"norm": LogNorm(positive.min(), positive.max())}
    return values, {}


def head_heatmap(
    axes: Axes, values: Array, layers: Sequence[int], title: str, label: str, from_zero: bool = False
) -> None:
    """Heads across, layers upward from layer 1 at the bottom; both count from 1 as in the paper.

    Args:
        axes: to draw on.
        values: [layer, head], a row per layer that has heads; the others stay blank.
        layers: number of each row's layer, from 0.
        title: of the panel.
        label: of the colours; empty for none.
        from_zero: whether the colours begin at 0, unless a score is negative; otherwise the layout says their scale.
    """
    top, heads = max(layers) + 1, values.shape[1]
    shown, look = heat_scale(values, "linear" if from_zero else layout().importance_scale)
    if from_zero:
        look = {"vmin": min(0.0, float(values.min()))}
    rows = np.full((top, heads), np.nan)
    rows[list(layers)] = shown
    image = axes.imshow(
        rows, origin="lower", aspect="auto", cmap="viridis", extent=(0.5, heads + 0.5, 0.5, top + 0.5), **look
    )
    axes.set(title=title, xlabel="head", ylabel="layer")
    whole_numbers(axes.xaxis, 5)  # numbers stand side by side, in panels as narrow as an inch
    whole_numbers(axes.yaxis, 7)
    axes.figure.colorbar(image, ax=axes, label=label)


def heatmap(
    axes: Axes, values: Array, rows: Sequence[Any], columns: Sequence[Any], bar: Mapping[str, Any], **look: Any
) -> None:
    """Cells in colours, row 0 at the top and without frames; a cell without a value is blank.

    As seaborn's, which draws the whole figure for each of its panels to see whether names overlap.

    Args:
        axes: to draw on.
        values: [row, column].
        rows: a name for each row.
        columns: a name for each column.
        bar: look of the bar of colours, such as its label.
        look: colours of the cells: ``cmap``, ``vmin`` and ``vmax``.
    """
    sns.despine(ax=axes, left=True, bottom=True)
    mesh = axes.pcolormesh(np.ma.masked_invalid(values), **look)
    n_rows, n_columns = values.shape
    axes.set(xlim=(0, n_columns), ylim=(n_rows, 0))
    outline: Any = axes.figure.colorbar(mesh, ax=axes, **bar).outline
    outline.set_linewidth(0)
    axes.set_xticks(np.arange(n_columns) + 0.5, [str(name) for name in columns])
    axes.set_yticks(np.arange(n_rows) + 0.5, [str(name) for name in rows], va="center")


def write_cells(
    figure: Figure, cells: Mapping[Axes, np.ndarray[Any, Any]], largest: float = 8, smallest: float = 5
) -> None:
    """Write into the cells of heatmaps what fits them, black or white, whichever stands out more.

    Of black and white, one has a contrast of at least 4.5:1 with any colour (WCAG 2).

    Args:
        figure: with everything else on it, so that panels have their final places.
        cells: panel with a heatmap to its texts, [row, column].
        largest: size of type in points.
        smallest: size below which nothing is written.
    """
    figure.draw_without_rendering()  # gives panels their places
    for axes, texts in cells.items():
        mesh: Any = axes.collections[0]
        mesh.update_scalarmappable()
        rows, columns = texts.shape
        box = axes.get_window_extent()
        width, height = box.width / columns * 72 / figure.dpi, box.height / rows * 72 / figure.dpi  # points
        lines = [str(text).splitlines() or [""] for text in texts.ravel()]
        longest, deepest = max(len(line) for cell in lines for line in cell), max(map(len, lines))
        size = min(largest, 0.95 * width / (0.62 * max(longest, 1)), 0.95 * height / (1.15 * deepest))
        if size < smallest:
            continue
        for (row, column), colour in zip(np.ndindex(rows, columns), mesh.get_facecolors(), strict=True):
            ink = ink_on(colour if colour[3] else axes.get_facecolor())
            place = (column + 0.5, row + 0.5)
            text = axes.text(*place, str(texts[row, column]), ha="center", va="center", size=size, color=ink)
            text.set(linespacing=1.1, in_layout=False)  # inside its cell: layout would measure each


def numbers(values: Array, decimals: int = 2) -> np.ndarray[Any, Any]:
    """Numbers as texts for cells; none where there is no value."""
    return np.array([["" if np.isnan(x) else f"{x:z.{decimals}f}" for x in row] for row in values], dtype=object)


def luminance(colour: Any) -> float:
    """Relative luminance of a colour (WCAG 2)."""
    channels = np.array(to_rgb(colour))
    linear = np.where(channels <= 0.03928, channels / 12.92, ((channels + 0.055) / 1.055) ** 2.4)
    return float(linear @ [0.2126, 0.7152, 0.0722])


def ink_on(colour: Any) -> str:
    """Black or white, whichever has more contrast with a colour."""
    return "black" if (luminance(colour) + 0.05) / 0.05 > 1.05 / (luminance(colour) + 0.05) else "white"


def average_line(axes: Axes, x: Any, values: Array, limits: Interval, tasks: Sequence[str]) -> None:
    """The average over tasks in black with its 95% band; a task alone is its own average, drawn once."""
    name = name_of_average(tasks)
    band(axes, x, limits, "black")
    axes.plot(x, values, color="black", linewidth=1.6, label=f"{name}, 95% band")


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
    """A capacity-retained curve: a point per head, of which a few carry the marker, elsewhere than the line before's.

    So curves that coincide can be distinguished. The figure's layout says whether what pruning at random retains is
    subtracted.
    """
    every = max(1, len(percent) // 8)
    start = len(axes.lines) * max(1, every // 4) % every
    shown = 100 * retained - (100 - percent if layout().capacity_scale == "difference" else 0)
    axes.plot(percent, shown, **{"linewidth": 1.0, "markersize": 3.5, "markevery": (start, every), **look})


def capacity_axes(axes: Axes, title: str) -> None:
    """Percent pruned across, and in grey what pruning at random retains; retained shares from 0 to 100%."""
    is_difference = layout().capacity_scale == "difference"
    axes.plot([0, 100], [0, 0] if is_difference else [100, 0], color="grey", linestyle="--", label="at random")
    axes.set(title=title, xlabel="heads pruned (%)", xlim=(-2, 102))
    if not is_difference:
        axes.set_ylim(-2, 102)
    axes.grid(alpha=0.3)


def capacity_label(what: str) -> str:
    """The vertical axis of capacity retained, such as that of ``total score``."""
    is_difference = layout().capacity_scale == "difference"
    return f"{what} retained beyond chance (points)" if is_difference else f"{what} retained (%)"


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
    """Make of a function that draws a study one that writes ``out``.pdf, .svg and .png, with what made them.

    The artifacts that are read while it draws are the figure's inputs; the layout is recorded, too.
    """

    @wraps(draw)
    def write(matrix: Shown, out: Path, layout: Layout = DEFAULT, **what: Any) -> None:
        with reads() as read, laid_out(layout):
            figure = draw(matrix, **what)
        step = draw.__module__.removeprefix("lm_headroom.")
        options = {**matrix.options, **what, **layout.options}
        save(figure, out, describe_drawn("figure", step, read, options, out))

    return write


def save(figure: Figure, out: Path, provenance: Mapping[str, Any]) -> None:
    """Write ``out``.pdf, ``out``.svg and ``out``.png; the same data give the same bytes.

    Args:
        figure: closed afterwards.
        out: path without suffix.
        provenance: of what is written.
    """
    # What matplotlib would put there by itself: the time, and its version, which the provenance has.
    unwanted = {".pdf": ("CreationDate", "Producer"), ".svg": ("Date", "Creator"), ".png": ("Software",)}
    drawn = {}
    for suffix, names in unwanted.items():
        content = io.BytesIO()
        with matplotlib.rc_context(EMBEDDED):
            figure.savefig(content, format=suffix[1:], dpi=300, metadata=dict.fromkeys(names))
        drawn[suffix] = content.getvalue()
        # Panels keep the places that the first format gave them: to find them takes as long as to draw.
        figure.set_layout_engine(None)
    plt.close(figure)
    beside = {suffix: drawn[suffix] for suffix in (".pdf", ".svg")}
    for suffix, written in {**beside, ".png": vouching(".png", drawn[".png"], provenance, beside)}.items():
        with atomic(out.with_name(out.name + suffix)) as partial:
            partial.write_bytes(written)
