"""Induction scores of all heads, and what is left of their total as heads go (capacity retained)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from headroom.artifacts.capacity import CAPACITY
from headroom.artifacts.copying import COPYING
from headroom.artifacts.heads import grid
from headroom.artifacts.prefix_matching import PREFIX_MATCHING
from headroom.artifacts.store import ArtifactError, read
from headroom.figures.study import Study

Array = np.ndarray[Any, np.dtype[np.float64]]
Score = Literal["prefix_matching", "copying"]
SCORES: dict[Score, str] = {"prefix_matching": "prefix matching", "copying": "copying"}
"""Induction scores, and what figures and findings call them."""
_KINDS = {"prefix_matching": PREFIX_MATCHING, "copying": COPYING}


@dataclass(frozen=True)
class Capacity:
    """Percent of heads pruned and share of the total score retained, for 0, 1, ... all heads pruned."""

    percent: Array
    retained: Array


def read_induction(study: Study, score: Score) -> tuple[Array, int]:
    """Mean scores of all heads [layer, head], and over how many sequences."""
    path = study.results / "induction" / f"{score}.parquet"
    table = read(path, _KINDS[score])
    return grid(table, "mean", path), table.column("n_sequences")[0].as_py()


def read_capacity(study: Study, shots: int, score: Score, *tasks: str) -> dict[str, Capacity]:
    """Curves of the given tasks (or the aggregate) at one number of shots.

    Raises:
        ArtifactError: the artifact lacks one.
    """
    path = study.file("capacity", shots)
    table = read(path, CAPACITY)
    table = table.filter(pc.equal(table["score"], score))
    found = {}
    for task in tasks:
        rows: pa.Table = table.filter(pc.equal(table["task"], task)).sort_by("n_pruned")
        if rows.num_rows == 0:
            raise ArtifactError(f"{path}: no {score} capacity of {task}; delete the file and run the workflow again")
        found[task] = Capacity(rows.column("percent").to_numpy(), rows.column("retained").to_numpy())
    return found
