"""Figure 3: aggregate head importance, a heatmap per shot."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from headroom.artifacts.head_importance import HEAD_IMPORTANCE
from headroom.artifacts.heads import grid
from headroom.artifacts.store import read
from headroom.figures import style
from headroom.figures.study import Study


def data(study: Study) -> dict[int, np.ndarray[Any, np.dtype[np.float64]]]:
    """Aggregate importance [layer, head] per shot."""
    paths = {k: study.cell("head_importance", k, "aggregate").with_suffix(".parquet") for k in study.shots}
    return {k: grid(read(path, HEAD_IMPORTANCE), "score", path) for k, path in paths.items()}


def draw(study: Study, out: Path) -> None:
    """Write the figure to ``out``.pdf and ``out``.png."""
    values = data(study)
    figure, axes = style.panels(len(values))
    for ax, (shots, scores) in zip(axes, values.items(), strict=True):
        style.head_heatmap(ax, scores, style.shot_title(shots), "importance (nats)")
    figure.suptitle(f"Aggregate head importance, {study.model}, {len(study.tasks)} tasks")
    style.save(figure, out)
