"""Scores of heads or FFNs that are the user's own: read from a file, or computed by a function of the user's."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq

from lm_headroom.artifacts.store import file_digest
from lm_headroom.errors import HeadroomError, nearest
from lm_headroom.study.criteria import HEADS
from lm_headroom.study.values import FUNCTION

if TYPE_CHECKING:
    from lm_headroom.engine.loading import LoadedModel
    from lm_headroom.engine.packing import Document

Array = np.ndarray[Any, np.dtype[np.float64]]


def source_file(source: str) -> Path:
    """The file that a source's scores come from, or the module of its function, in the working folder.

    Raises:
        HeadroomError: it is not there.
    """
    function = FUNCTION.fullmatch(source)
    path = Path(f"{function[1].replace('.', '/')}.py" if function else source)
    if not path.is_file():
        raise HeadroomError(f"ranking source {source!r}: {path} is not there")
    return path


def custom_scores(source: str, component: str, loaded: LoadedModel, documents: Sequence[Document]) -> Array:
    """The scores of a source, [layer, head], a row per layer that has heads; or of FFNs [layer].

    Args:
        source: a Parquet or CSV file, or ``module:function``.
        component: heads or ffns.
        loaded: the model, which a function is given.
        documents: the scoring documents, which a function is given.

    Raises:
        HeadroomError: names the row, layer or head that is wrong, or what the function returned or raised.
    """
    shape = loaded.shape
    if FUNCTION.fullmatch(source):
        return call_function(source, shape.grid if component == HEADS else (shape.layers,), loaded, documents)
    if component == HEADS:
        return read_file(Path(source), (shape.layers, shape.heads), shape.without_heads)
    return read_file(Path(source), (shape.layers,))


def read_file(path: Path, shape: tuple[int, ...], without_heads: Sequence[int] = ()) -> Array:
    """The scores of a file with a row per head (columns layer, head, score), or per FFN (layer, score).

    Args:
        path: Parquet or CSV.
        shape: layers of the model, and, of a ranking of heads, heads of each.
        without_heads: layers that have no heads, and so no rows in the file or the result.

    Raises:
        HeadroomError: it cannot be read; a column is unknown or missing; or a row is wrong, there twice, or missing.
    """
    table = read_table(path)
    names = ("layer", "head")[: len(shape)]
    _check_columns(path, table, [*names, "score"])
    places = [_numbers(path, table, name, size) for name, size in zip(names, shape, strict=True)]
    values = _scores(path, table)
    scores, rows = np.full(shape, np.nan), np.zeros(shape, dtype=int)
    for row, (place, value) in enumerate(zip(zip(*places, strict=True), values, strict=True), start=1):
        if place[0] in without_heads:
            raise HeadroomError(f"{path}: row {row} names layer {place[0]}, which has no attention heads")
        if rows[place]:
            raise HeadroomError(f"{path}: {_named(place)} is in rows {rows[place]} and {row}; keep one of them")
        scores[place], rows[place] = value, row
    rows[list(without_heads)] = 1
    if not rows.all():
        first = tuple(np.argwhere(rows == 0)[0])
        raise HeadroomError(
            f"{path}: {_named(first)} is missing; the model has {' x '.join(map(str, shape))} {_components(shape)}, "
            f"{rows.size - len(without_heads) * rows[0].size} rows, and the file has {len(table)}"
        )
    present: Array = np.delete(scores, list(without_heads), axis=0)
    return present


def call_function(source: str, shape: tuple[int, ...], loaded: LoadedModel, documents: Sequence[Document]) -> Array:
    """The scores that a function computes, called as ``function(loaded, documents)``.

    Raises:
        HeadroomError: the module or the function cannot be had, it raises, or it returns no finite numbers of the
            shape.
    """
    function = _load_function(source)
    try:
        returned = function(loaded, documents)
    except Exception as error:
        raise HeadroomError(f"{source} raised {type(error).__name__}: {error}") from error
    try:
        if hasattr(returned, "detach"):
            returned = returned.detach().double().cpu()
        scores = np.asarray(returned, dtype=float)
    except (TypeError, ValueError) as error:
        raise HeadroomError(f"{source} returned {type(returned).__name__}; return an array of numbers") from error
    if scores.shape != shape:
        wanted = "[layers, heads]" if len(shape) == 2 else "[layers]"
        raise HeadroomError(
            f"{source} returned an array of shape {list(scores.shape)}; the ranking of {_components(shape)} needs "
            f"{list(shape)}, {wanted} of the model"
        )
    if not np.isfinite(scores).all():
        first = tuple(np.argwhere(~np.isfinite(scores))[0])
        raise HeadroomError(f"{source} returned {scores[first]} for {_named(first)}; scores must be finite")
    return scores


def _load_function(source: str) -> Callable[..., Any]:
    """Import the file that is tracked, and no other module of its name; what it imports may lie beside it."""
    path, (module, name) = source_file(source), source.split(":")
    spec = importlib.util.spec_from_file_location(module, path)
    if spec is None or spec.loader is None:
        raise HeadroomError(f"{source}: {path} cannot be imported")
    imported = importlib.util.module_from_spec(spec)
    sys.modules[module] = imported
    sys.path.append(str(Path.cwd()))
    try:
        spec.loader.exec_module(imported)
    except Exception as error:
        raise HeadroomError(f"{path} cannot be imported: {type(error).__name__}: {error}") from error
    function = getattr(imported, name, None)
    if not callable(function):
        raise HeadroomError(f"{path} has no function {name!r}{nearest(name, dir(imported))}")
    called: Callable[..., Any] = function
    return called


def read_table(path: Path) -> pa.Table:
    """The table of a CSV or Parquet file of the user's.

    Raises:
        HeadroomError: it is neither.
    """
    try:
        return pyarrow.csv.read_csv(path) if path.suffix == ".csv" else pq.read_table(path)
    except (OSError, pa.ArrowException) as error:
        raise HeadroomError(f"{path}: it cannot be read as a table ({str(error).splitlines()[0]})") from error


def _check_columns(path: Path, table: pa.Table, wanted: list[str]) -> None:
    expected = f"expected {', '.join(wanted[:-1])} and {wanted[-1]}"
    for name in table.column_names:
        if name == "head" and name not in wanted:
            raise HeadroomError(f"{path}: has a column 'head', but the study says that it ranks FFNs; {expected}")
        if name not in wanted or table.column_names.count(name) > 1:
            wrong = "is unknown" if name not in wanted else "is there twice"
            raise HeadroomError(f"{path}: column {name!r} {wrong}{nearest(name, wanted)}; {expected}")
    missing = [name for name in wanted if name not in table.column_names]
    if missing:
        advice = "; for a ranking of FFNs, set component: ffns" if missing == ["head"] else ""
        raise HeadroomError(f"{path}: column {missing[0]!r} is missing; {expected}{advice}")


def _numbers(path: Path, table: pa.Table, name: str, size: int) -> list[int]:
    """A column of layers or heads, each below ``size``."""
    values = table.column(name).to_pylist()
    for row, value in enumerate(values, start=1):
        if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value < size:
            raise HeadroomError(
                f"{path}, row {row}: {name} {value!r} is none of the model's, which are 0 to {size - 1} (they count "
                "from 0)"
            )
    return values


def _scores(path: Path, table: pa.Table) -> list[float]:
    values = table.column("score").to_pylist()
    for row, value in enumerate(values, start=1):
        if not isinstance(value, int | float) or isinstance(value, bool) or not np.isfinite(value):
            raise HeadroomError(f"{path}, row {row}: score {value!r} is not a finite number")
    return values


def _named(place: tuple[int, ...]) -> str:
    layer, *head = place
    return f"layer {layer}, head {head[0]}" if head else f"layer {layer}"


def _components(shape: tuple[int, ...]) -> str:
    return "heads" if len(shape) == 2 else "FFNs"


def describe_source(source: str) -> dict[str, str]:
    """What provenance records of a source: its file, with the digest of its content.

    Raises:
        HeadroomError: the file is not there.
    """
    path = source_file(source)
    return {"source": source, "file": str(path), "digest": file_digest(path)}
