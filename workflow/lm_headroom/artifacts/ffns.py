"""Arrays [layer] from artifacts with a row per layer."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from lm_headroom.artifacts.ranking import FFN_RANKING
from lm_headroom.artifacts.store import read

Array = np.ndarray[Any, np.dtype[np.float64]]


def layers(table: pa.Table, column: str) -> Array:
    """A column as [layer]; missing values become NaN. Reading the table has proved that it has every layer."""
    order = table.column("layer").to_numpy()
    values = np.full(len(order), np.nan)
    values[order] = table.column(column).to_numpy(zero_copy_only=False).astype(float)
    return values


def read_ffn_ranking(path: Path, **expected: Any) -> list[int]:
    """Layers of an FFN ranking artifact, least important FFN first.

    Raises:
        ArtifactError: it is none, or not the one expected (see :func:`lm_headroom.artifacts.store.read`).
    """
    table = read(path, FFN_RANKING, **expected)
    ranks = layers(table, "rank").tolist()
    return sorted(range(len(ranks)), key=ranks.__getitem__)
