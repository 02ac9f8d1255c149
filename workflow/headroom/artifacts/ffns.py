"""Arrays [layer] from artifacts with a row per layer."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from headroom.artifacts.ranking import FFN_RANKING
from headroom.artifacts.store import ArtifactError, read

Array = np.ndarray[Any, np.dtype[np.float64]]


def layers(table: pa.Table, column: str, path: Path) -> Array:
    """A column as [layer]; missing values become NaN.

    Raises:
        ArtifactError: the rows are not the layers 0, 1, 2, ..., each once.
    """
    order = table.column("layer").to_numpy()
    if len(order) == 0 or sorted(order.tolist()) != list(range(len(order))):
        raise ArtifactError(
            f"{path}: {len(order)} rows are not the layers 0 to {len(order) - 1}, each once; "
            "delete the file and run the workflow again"
        )
    values = np.full(len(order), np.nan)
    values[order] = table.column(column).to_numpy(zero_copy_only=False).astype(float)
    return values


def read_ffn_ranking(path: Path) -> list[int]:
    """Layers of an FFN ranking artifact, least important FFN first.

    Raises:
        ArtifactError: it is none, or its layers or ranks are not 0, 1, 2, ..., each once.
    """
    table = read(path, FFN_RANKING)
    ranks = layers(table, "rank", path).astype(int).tolist()
    if sorted(ranks) != list(range(len(ranks))):
        raise ArtifactError(f"{path}: ranks must be 0 to {len(ranks) - 1}, each once; delete the file and run again")
    return sorted(range(len(ranks)), key=ranks.__getitem__)
