"""Arrays [layer, head] from artifacts with a row per head."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from lm_headroom.artifacts.ranking import RANKING
from lm_headroom.artifacts.store import ArtifactSchema, read

Array = np.ndarray[Any, np.dtype[np.float64]]


def grid(table: pa.Table, column: str) -> Array:
    """A column as [layer, head]; missing values become NaN. Reading the table has proved that it has every head."""
    layers, heads = table.column("layer").to_numpy(), table.column("head").to_numpy()
    values = np.full((layers.max() + 1, heads.max() + 1), np.nan)
    values[layers, heads] = table.column(column).to_numpy(zero_copy_only=False).astype(float)
    return values


def read_ranking(path: Path, kind: ArtifactSchema = RANKING, **expected: Any) -> list[tuple[int, int]]:
    """(layer, head) pairs of a ranking artifact of this kind, in the order in which they go.

    Raises:
        ArtifactError: it is none, or not the one expected (see :func:`lm_headroom.artifacts.store.read`).
    """
    table = read(path, kind, **expected)
    rows = sorted(zip(*(table.column(name).to_pylist() for name in ("rank", "layer", "head")), strict=True))
    return [(layer, head) for _, layer, head in rows]
