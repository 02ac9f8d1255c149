"""Parquet artifacts: a fixed schema per kind, atomic writes, checked reads, provenance in the file's metadata."""

from __future__ import annotations

import hashlib
import json
import os
import re
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from headroom.errors import HeadroomError

_KEY = b"headroom"
_RUN_KEY = b"headroom_run"
"""What a run took, apart from what made the artifact: it differs from run to run."""
_NOTED: ContextVar[dict[Path, None] | None] = ContextVar("noted", default=None)
"""Artifacts read so far, where someone wants to know."""


class ArtifactError(HeadroomError):
    """A file is not the artifact that a step needs."""


class ForeignError(ArtifactError):
    """A file is whole, but not headroom's, or not of the kind that belongs there."""


@dataclass(frozen=True)
class Column:
    """One column of an artifact: its Arrow type, whether values may be missing, and what it holds."""

    name: str
    type: pa.DataType
    description: str
    nullable: bool = False


@dataclass(frozen=True)
class Kind:
    """A kind of artifact.

    Attributes:
        name: stored in the file and checked on read.
        place: where the workflow keeps it, below the results folder.
        columns: the contract; files may hold no others.
    """

    name: str
    place: str
    columns: tuple[Column, ...]

    @property
    def schema(self) -> pa.Schema:
        """The Arrow schema, with descriptions as field metadata."""
        return pa.schema(
            [pa.field(c.name, c.type, c.nullable, metadata={"description": c.description}) for c in self.columns]
        )


def place_of(path: Path, pattern: str) -> str | None:
    """The part of a path below its results folder, if it ends as a pattern such as ``{model}/figures/{name}`` says.

    Results may move to another folder or machine; this part stays as it is.
    """
    tail = "/".join(Path(os.path.abspath(path)).parts[-1 - pattern.count("/") :])
    expression = "[^/]+".join(map(re.escape, re.split(r"\{[^}]*\}", pattern)))
    return tail if re.fullmatch(expression, tail) else None


def write(
    path: Path,
    kind: Kind,
    columns: Mapping[str, Any],
    provenance: Mapping[str, Any],
    run: Mapping[str, Any] | None = None,
) -> None:
    """Write an artifact beside its place and rename it, so that no reader sees half a file.

    Args:
        path: where the artifact goes; its folder is made.
        kind: the artifact's kind; ``columns`` must hold exactly its columns.
        columns: column name to values (a list or an array), all of one length.
        provenance: JSON-able facts about what made it; ``kind`` and, where ``path`` is at the kind's place in a
            results folder, ``place`` are added.
        run: JSON-able facts about what that took, such as memory.

    Raises:
        ArtifactError: columns are missing, unknown, of unequal length, or do not fit the schema.
    """
    path = Path(path)
    wanted = [column.name for column in kind.columns]
    if set(columns) != set(wanted):
        raise ArtifactError(
            f"{path}: a {kind.name} artifact has the columns {', '.join(wanted)}; got {', '.join(columns)}"
        )
    if len({len(values) for values in columns.values()}) > 1:
        lengths = {name: len(values) for name, values in columns.items()}
        raise ArtifactError(f"{path}: columns of unequal length: {lengths}")
    place = place_of(path, kind.place)
    facts = {"kind": kind.name, **({"place": place} if place else {}), **provenance}
    metadata = {_KEY: json.dumps(facts, sort_keys=True)}
    if run is not None:
        metadata[_RUN_KEY] = json.dumps(run, sort_keys=True)
    try:
        arrays = [pa.array(columns[c.name], c.type) for c in kind.columns]
    except (pa.ArrowInvalid, pa.ArrowTypeError, OverflowError) as error:
        raise ArtifactError(f"{path}: values do not fit the {kind.name} schema: {error}") from error
    for column, array in zip(kind.columns, arrays, strict=True):
        if array.null_count and not column.nullable:
            raise ArtifactError(f"{path}: column {column.name} of a {kind.name} artifact holds missing values")
    table = pa.Table.from_arrays(arrays, schema=kind.schema.with_metadata(metadata))
    with atomic(path) as partial:
        pq.write_table(table, partial, compression="zstd")


def by_column(rows: Sequence[Mapping[str, Any]]) -> dict[str, list[Any]]:
    """Rows, all with the same keys, as the columns that :func:`write` takes."""
    return {name: [row[name] for row in rows] for name in rows[0]}


class atomic:
    """Context manager: yields a temporary path beside ``path`` and renames it on success, removes it on failure."""

    def __init__(self, path: Path) -> None:
        self.path = Path(path)

    def __enter__(self) -> Path:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(dir=self.path.parent, prefix=f".{self.path.name}.", suffix=".partial")
        os.close(handle)
        self.partial = Path(name)
        return self.partial

    def __exit__(self, kind: type | None, error: BaseException | None, trace: object) -> None:
        if error is None:
            with self.partial.open("rb") as file:
                os.fsync(file.fileno())
            # mkstemp makes files private; results are for everyone who may read the folder.
            umask = os.umask(0)
            os.umask(umask)
            self.partial.chmod(0o666 & ~umask)
            self.partial.replace(self.path)
        else:
            self.partial.unlink(missing_ok=True)


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Write a small JSON file beside its place and rename it; the same content gives the same bytes."""
    with atomic(path) as partial:
        partial.write_text(json.dumps(content, indent=1, sort_keys=True) + "\n", encoding="utf-8")


def read(path: Path, kind: Kind) -> pa.Table:
    """Read an artifact and check that it is one.

    Raises:
        ArtifactError: the file is missing, no Parquet, of another kind, or lacks a column of the contract.
    """
    path = Path(path)
    table = _open(path)
    found = _provenance(path, table.schema).get("kind")
    if found != kind.name:
        raise ForeignError(f"{path}: expected a {kind.name} artifact, found {found!r}; make it again with headroom")
    for column in kind.columns:
        if column.name not in table.column_names:
            raise ArtifactError(
                f"{path}: column {column.name!r} ({column.type}) is missing from this {kind.name} artifact; "
                f"it has {', '.join(table.column_names)}. Delete the file and run the workflow again"
            )
        if table.schema.field(column.name).type != column.type:
            raise ArtifactError(
                f"{path}: column {column.name!r} is {table.schema.field(column.name).type}, expected {column.type}. "
                "Delete the file and run the workflow again"
            )
        if not column.nullable and table.column(column.name).null_count:
            raise ArtifactError(f"{path}: column {column.name!r} holds missing values; delete the file and run again")
    return table


def provenance(path: Path) -> dict[str, Any]:
    """What made an artifact, as stored in it.

    Raises:
        ArtifactError: the file is missing, no Parquet, or was not written by headroom.
    """
    return _provenance(Path(path), _schema(Path(path)))


def made_by(table: pa.Table) -> dict[str, Any]:
    """What made an artifact that :func:`read` gave."""
    return dict(json.loads(table.schema.metadata[_KEY]))


@contextmanager
def reads() -> Iterator[dict[Path, None]]:
    """Notes the artifacts that are read inside: the inputs of a figure or a page, none of which it can forget."""
    noted: dict[Path, None] = {}
    token = _NOTED.set(noted)
    try:
        yield noted
    finally:
        _NOTED.reset(token)


def run_facts(path: Path) -> dict[str, Any]:
    """What the run that made an artifact took; empty where that was not recorded."""
    return dict(json.loads((_schema(Path(path)).metadata or {}).get(_RUN_KEY, b"{}")))


def _open(path: Path) -> pa.Table:
    with _file(path) as file:
        return file.read()


def _schema(path: Path) -> pa.Schema:
    """The schema alone, with its metadata: the file's last bytes, however large it is."""
    with _file(path) as file:
        return file.schema_arrow


@contextmanager
def _file(path: Path) -> Iterator[pq.ParquetFile]:
    if not path.is_file():
        raise ArtifactError(f"{path}: no such file")
    noted = _NOTED.get()
    if noted is not None:
        noted[path] = None
    try:
        # One file as it stands: a path such as results/shot=1/... must not grow partition columns.
        with pq.ParquetFile(path) as file:
            yield file
    except (pa.ArrowInvalid, OSError) as error:
        raise ArtifactError(
            f"{path}: not a readable Parquet file ({error}); delete it and run the workflow again"
        ) from error


def _provenance(path: Path, schema: pa.Schema) -> dict[str, Any]:
    raw = (schema.metadata or {}).get(_KEY)
    if raw is None:
        raise ForeignError(f"{path}: this Parquet file was not written by headroom (it carries no provenance)")
    return dict(json.loads(raw))


def file_digest(path: Path) -> str:
    """SHA-256 of a file's bytes."""
    with Path(path).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
