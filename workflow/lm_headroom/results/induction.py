"""Induction scores of all heads, and what is left of their total as heads go (capacity retained)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from lm_headroom.artifacts.capacity import CAPACITY
from lm_headroom.artifacts.copying import COPYING
from lm_headroom.artifacts.heads import grid, layers_of
from lm_headroom.artifacts.prefix_matching import PREFIX_MATCHING
from lm_headroom.artifacts.store import ArtifactError, read
from lm_headroom.results.matrix import ResultsMatrix

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


class Induction(NamedTuple):
    """Induction scores of a model's heads.

    Attributes:
        scores: means over sequences, [layer, head], a row per layer that has heads.
        n_sequences: number of sequences.
        layers: number of each row's layer.
    """

    scores: Array
    n_sequences: int
    layers: list[int]


def read_induction(matrix: ResultsMatrix, score: Score) -> Induction:
    """Scores of all heads."""
    table = read(matrix.path(score), _KINDS[score], model=matrix.digest)
    return Induction(grid(table, "mean"), table.column("n_sequences")[0].as_py(), layers_of(table))


def read_capacity(matrix: ResultsMatrix, shots: int, score: Score, *tasks: str) -> dict[str, Capacity]:
    """Curves of the given tasks (or the aggregate) at one number of shots.

    Raises:
        ArtifactError: the artifact lacks one or a part of it, or is of another model, shot or seed.
    """
    path = matrix.path("capacity", shots)
    table = read(path, CAPACITY, **matrix.expected(shots))
    table = table.filter(pc.equal(table["score"], score))
    curves = {}
    for task in tasks:
        rows: pa.Table = table.filter(pc.equal(table["task"], task)).sort_by("n_pruned")
        counts = rows.column("n_pruned").to_pylist()
        if not counts:
            raise ArtifactError(f"{path}: no {score} capacity of {task}; delete the file and run the workflow again")
        if counts != list(range(len(counts))) or abs(rows.column("retained")[-1].as_py()) > 1e-9:
            raise ArtifactError(
                f"{path}: the {score} capacity of {task} is not that of 0, 1, 2 ... all heads pruned; delete the file "
                "and run the workflow again"
            )
        curves[task] = Capacity(rows.column("percent").to_numpy(), rows.column("retained").to_numpy())
    return curves
