"""Arrays [layer] from artifacts with a row per layer."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa

Array = np.ndarray[Any, np.dtype[np.float64]]


def layers(table: pa.Table, column: str) -> Array:
    """A column as [layer]; missing values become NaN. Reading the table has proved that it has every layer."""
    order = table.column("layer").to_numpy()
    values = np.full(len(order), np.nan)
    values[order] = table.column(column).to_numpy(zero_copy_only=False).astype(float)
    return values
