"""What a user gives as a ranking, as an order of heads or FFNs: a file, a pandas frame or a list."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from numbers import Real
from operator import index
from pathlib import Path
from typing import Any

import pyarrow as pa

from lm_headroom.artifacts.ranking_kinds import OF_FFNS, OF_HEADS
from lm_headroom.artifacts.store import UnrecognisedError, provenance, read_artifact
from lm_headroom.errors import HeadroomError
from lm_headroom.scoring.custom_ranking import read_table

Place = tuple[int, ...]
"""A head (layer, head), or an FFN (layer,)."""


def order_of(ranking: Any, shape: tuple[int, ...], without_heads: Sequence[int] = ()) -> list[Place]:
    """The heads or FFNs that a ranking lists, the least important first.

    Args:
        ranking: a file, a frame with columns layer, head (of heads) and rank or score, or a list of (layer, head), or
            of layers.
        shape: layers of the model and, of a ranking of heads, heads of each.
        without_heads: layers of the model that have no heads.

    Raises:
        HeadroomError: it is none of these; a column is missing; or a row is twice there, or of no head of the model.

    Example:
        >>> order_of([(1, 0), (0, 1)], (2, 2))
        [(1, 0), (0, 1)]
    """
    name = "the ranking"
    if isinstance(ranking, str | Path):
        name = str(ranking)
        table = _read(Path(ranking), len(shape))
        columns = {column: table.column(column).to_pylist() for column in table.column_names}
    elif hasattr(ranking, "columns"):
        columns = {str(column): list(ranking[column]) for column in ranking.columns}
    elif isinstance(ranking, Iterable) and not isinstance(ranking, set | frozenset | Mapping):
        return _checked(name, [item if len(shape) == 2 else (item,) for item in ranking], shape, without_heads)
    else:
        raise HeadroomError(
            f"expected a ranking: a file, a pandas frame or a list of {_items(shape)}; got {type(ranking).__name__}"
        )
    values, places = _rows(name, columns, len(shape))
    return [place for _, place in sorted(zip(values, _checked(name, places, shape, without_heads), strict=True))]


def _read(path: Path, n_numbers: int) -> pa.Table:
    """The table of a file: an artifact that ranks, with its checks, or a table of the user's."""
    if not path.is_file():
        raise HeadroomError(f"{path}: no such file; expected a ranking's Parquet or CSV file")
    if path.suffix == ".csv":
        return read_table(path)
    try:
        provenance(path)
    except (UnrecognisedError, pa.ArrowException):
        return read_table(path)
    return read_artifact(path, *(OF_HEADS if n_numbers == 2 else OF_FFNS)).table


def _rows(name: str, columns: dict[str, Sequence[Any]], n_numbers: int) -> tuple[Sequence[Any], list[Any]]:
    """Ranks, else scores, of a table's rows, and their layers and heads."""
    numbers = ("layer", "head")[:n_numbers]
    by = next((column for column in ("rank", "score") if column in columns), "rank or score")
    missing = [column for column in (*numbers, by) if column not in columns]
    if missing:
        raise HeadroomError(
            f"{name}: column {missing[0]} is missing; expected {', '.join(numbers)} and rank or score, found "
            f"{', '.join(columns)}"
        )
    if n_numbers == 1 and any(map(_is_finite, columns.get("head", ()))):
        raise HeadroomError(f"{name}: ranks heads (it has a column head); expected a ranking of FFNs, by layer alone")
    for row, value in enumerate(columns[by], start=1):
        if not _is_finite(value):
            raise HeadroomError(f"{name}, row {row}: {by} is {value!r}; expected a finite number")
    return columns[by], list(zip(*(columns[column] for column in numbers), strict=True))


def _is_finite(value: Any) -> bool:
    try:
        return math.isfinite(value)
    # Texts, and what tables have for numbers that are missing.
    except TypeError:
        return False


def _whole(number: Any) -> int:
    """A whole number, which a table may hold as 3.0, where numbers of its column are missing."""
    return int(float(number)) if isinstance(number, Real) and float(number).is_integer() else index(number)


def _checked(name: str, order: Sequence[Any], shape: tuple[int, ...], without_heads: Sequence[int]) -> list[Place]:
    """The same as whole numbers of the model's, each once."""
    checked: dict[Place, None] = {}
    for row, item in enumerate(order, start=1):
        try:
            place = tuple(map(_whole, item))
        except TypeError:
            place = ()
        if len(place) != len(shape):
            shown = item if len(shape) == 2 else item[0]
            raise HeadroomError(f"{name}, row {row}: {shown!r} is not {_items(shape)}")
        for number, size, what in zip(place, shape, ("layer", "head"), strict=False):
            if not 0 <= number < size:
                raise HeadroomError(
                    f"{name}, row {row}: {what} {number} is none of the model's, which are 0 to {size - 1}; it is a "
                    "ranking of another model"
                )
        if len(shape) == 2 and place[0] in without_heads:
            raise HeadroomError(f"{name}, row {row}: layer {place[0]} of the model has no attention heads")
        if place in checked:
            raise HeadroomError(
                f"{name}, row {row}: {', '.join(map(str, place))} is there twice; of a frame of several tasks, "
                "shots or seeds, choose the rows of one"
            )
        checked[place] = None
    return list(checked)


def _items(shape: tuple[int, ...]) -> str:
    return "(layer, head) pairs" if len(shape) == 2 else "layers"
