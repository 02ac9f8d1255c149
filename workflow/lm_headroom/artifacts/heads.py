"""Arrays [layer, head] from artifacts with a row per head."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
import pyarrow as pa

from lm_headroom.artifacts.store import ArtifactError, ArtifactFile

Array = np.ndarray[Any, np.dtype[np.float64]]


def grid(table: pa.Table, column: str) -> Array:
    """A column as [layer, head]; missing values become NaN. Reading the table has proved that it has every head."""
    layers, heads = table.column("layer").to_numpy(), table.column("head").to_numpy()
    values = np.full((layers.max() + 1, heads.max() + 1), np.nan)
    values[layers, heads] = table.column(column).to_numpy(zero_copy_only=False).astype(float)
    return values


def computed(table: pa.Table, columns: Iterable[str]) -> list[str]:
    """Which of these columns were computed; one that was not holds missing values alone."""
    return [name for name in columns if not table.column(name).null_count]


def check_computed(artifact: ArtifactFile, column: str) -> None:
    """Refuse to rank by scores that were not computed.

    Raises:
        ArtifactError: names the file, the column and the option that computes it.
    """
    if not computed(artifact.table, [column]):
        raise ArtifactError(
            f"{artifact.path}: {column} was not computed, which takes a pass over all choices; run score-heads again "
            "with --choosing"
        )
