"""Arrays [layer, head] from artifacts with a row per head."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa

Array = np.ndarray[Any, np.dtype[np.float64]]


def grid(table: pa.Table, column: str) -> Array:
    """A column as [layer, head]; missing values become NaN. Reading the table has proved that it has every head."""
    layers, heads = table.column("layer").to_numpy(), table.column("head").to_numpy()
    values = np.full((layers.max() + 1, heads.max() + 1), np.nan)
    values[layers, heads] = table.column(column).to_numpy(zero_copy_only=False).astype(float)
    return values
