"""What all figures share: look, task colours, heatmaps, saving."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from headroom.artifacts.store import atomic

PANEL = (4.2, 3.8)
"""Width and height of a panel in inches."""
Array = np.ndarray[Any, np.dtype[np.float64]]

# The paper's order of tasks; others follow in the study's order.
_MARKERS = "osD^vP*Xd<>ph8"


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
    """Colour, marker and dash per task: told apart without colour vision, and in print without colour."""
    colours = sns.color_palette("colorblind", 10)
    dashes: list[Any] = ["-", "--", ":"]
    return {
        task: {
            "color": colours[i % 10],
            "marker": _MARKERS[i % len(_MARKERS)],
            "linestyle": dashes[i // 10 % 3],
        }
        for i, task in enumerate(tasks)
    }


def head_heatmap(axes: Axes, values: Array, title: str, label: str) -> None:
    """Heads across, layers upward from layer 1 at the bottom; both count from 1 as in the paper."""
    layers, heads = values.shape
    image = axes.imshow(
        values, origin="lower", aspect="auto", cmap="viridis", extent=(0.5, heads + 0.5, 0.5, layers + 0.5)
    )
    axes.set(title=title, xlabel="head", ylabel="layer")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=3))
    axes.yaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=3))
    axes.figure.colorbar(image, ax=axes, label=label)


def shot_title(shots: int) -> str:
    """``0-shot`` and so on."""
    return f"{shots}-shot"


def save(figure: Figure, out: Path) -> None:
    """Write ``out``.pdf and ``out``.png; the same data give the same bytes."""
    for suffix, metadata in ((".pdf", {"CreationDate": None, "Producer": None}), (".png", {"Software": None})):
        with atomic(out.with_name(out.name + suffix)) as partial:
            figure.savefig(partial, format=suffix[1:], dpi=200, metadata=metadata)
    plt.close(figure)
