"""Figure 10a: prefix-matching scores of all heads."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from headroom.artifacts.heads import grid
from headroom.artifacts.prefix_matching import PREFIX_MATCHING
from headroom.artifacts.store import read
from headroom.figures import style
from headroom.figures.study import Study


def data(study: Study) -> np.ndarray[Any, np.dtype[np.float64]]:
    """Mean prefix-matching scores, [layer, head]."""
    path = study.results / "induction" / "prefix_matching.parquet"
    return grid(read(path, PREFIX_MATCHING), "mean", path)


def draw(study: Study, out: Path) -> None:
    """Write the figure to ``out``.pdf and ``out``.png."""
    figure, axes = style.panels(1, width=5.2)
    style.head_heatmap(axes[0], data(study), f"Prefix matching, {study.model}", "prefix-matching score")
    style.save(figure, out)
