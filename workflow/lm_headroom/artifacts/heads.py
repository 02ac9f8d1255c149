"""Arrays [layer, head] from artifacts with a row per head, and back; layers without heads have no row."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from lm_headroom.artifacts.store import ArtifactError, ArtifactFile

Array = np.ndarray[Any, np.dtype[np.float64]]


def grid(table: pa.Table, column: str) -> Array:
    """A column as [layer, head], a row per layer that has heads (:func:`layers_of`); missing values become NaN.

    Reading the table has proved that it has every head.
    """
    layers, heads = table.column("layer").to_numpy(), table.column("head").to_numpy()
    numbers, rows = np.unique(layers, return_inverse=True)
    values = np.full((len(numbers), heads.max() + 1), np.nan)
    values[rows, heads] = table.column(column).to_numpy(zero_copy_only=False).astype(float)
    return values


def layers_of(table: pa.Table) -> list[int]:
    """Numbers of the layers that have heads, in order: those of the rows of :func:`grid`."""
    numbers: list[int] = np.unique(table.column("layer").to_numpy()).tolist()
    return numbers


def places(layers: Sequence[int], n_heads: int) -> dict[str, list[int]]:
    """The columns layer and head of an array [layer, head] of scores, in the order of its flattened values.

    Args:
        layers: number of each row's layer.
        n_heads: heads per layer.
    """
    return {"layer": np.repeat(layers, n_heads).tolist(), "head": list(range(n_heads)) * len(layers)}


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
