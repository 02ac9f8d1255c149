"""Arrays [layer, head] from artifacts with a row per head."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from headroom.artifacts.ranking import RANKING
from headroom.artifacts.store import ArtifactError, read

Array = np.ndarray[Any, np.dtype[np.float64]]


def grid(table: pa.Table, column: str, path: Path) -> Array:
    """A column as [layer, head]; missing values become NaN.

    Raises:
        ArtifactError: the rows are not all heads of a layers x heads grid, each once.
    """
    layers, heads = table.column("layer").to_numpy(), table.column("head").to_numpy()
    shape = (int(layers.max(initial=-1)) + 1, int(heads.max(initial=-1)) + 1)
    pairs = set(zip(layers.tolist(), heads.tolist(), strict=True))
    if len(layers) == 0 or len(pairs) != len(layers) or len(pairs) != shape[0] * shape[1] or min(map(min, pairs)) < 0:
        raise ArtifactError(
            f"{path}: {len(layers)} rows do not make a grid of {shape[0]} layers x {shape[1]} heads, each head once; "
            "delete the file and run the workflow again"
        )
    values = np.full(shape, np.nan)
    values[layers, heads] = table.column(column).to_numpy(zero_copy_only=False).astype(float)
    return values


def read_ranking(path: Path) -> list[tuple[int, int]]:
    """(layer, head) pairs of a ranking artifact, least important first.

    Raises:
        ArtifactError: it is none, or its ranks are not 0, 1, 2, ...
    """
    table = read(path, RANKING)
    grid(table, "score", path)
    rows = sorted(zip(*(table.column(name).to_pylist() for name in ("rank", "layer", "head")), strict=True))
    if [rank for rank, _, _ in rows] != list(range(len(rows))):
        raise ArtifactError(f"{path}: ranks must be 0 to {len(rows) - 1}, each once; delete the file and run again")
    return [(layer, head) for _, layer, head in rows]
