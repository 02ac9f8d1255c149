"""Parquet artifacts: a fixed schema per kind, atomic writes, checked reads, provenance in the file's metadata."""

from __future__ import annotations

import glob
import hashlib
import json
import os
import platform
import re
import shutil
import tempfile
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from filelock import lock_descriptor

from lm_headroom.artifacts.catalogue import template_of
from lm_headroom.artifacts.json_object import parse_object
from lm_headroom.errors import HeadroomError

WITHOUT_HEADS = "without_heads"
"""Key of a model's record: the layers that have no attention heads; only where there are some."""
_KEY = b"lm_headroom"
_RUN_KEY = b"lm_headroom_run"
"""What a run took, apart from what made the artifact: it differs from run to run."""
_NOTED: ContextVar[dict[Path, Source] | None] = ContextVar("noted", default=None)
"""Artifacts read so far, where someone wants to know."""


class ArtifactError(HeadroomError):
    """A file is not the artifact that a step needs."""


class UnrecognisedError(ArtifactError):
    """A file is whole, but not lm-headroom's, or not what belongs there."""


@dataclass(frozen=True)
class Column:
    """One column of an artifact.

    Attributes:
        name: stored in the file.
        type: its Arrow type.
        description: what it holds.
        nullable: whether values may be missing.
        undefined: whether a number may be NaN: a statistic that some data do not define. Other numbers are finite.
    """

    name: str
    type: pa.DataType
    description: str
    nullable: bool = False
    undefined: bool = False


@dataclass(frozen=True)
class ArtifactSchema:
    """A kind of artifact.

    Attributes:
        name: of the artifact in the catalogue; stored in the file and checked on read.
        columns: the contract; files may hold no others.
        grids: sets of columns that number the rows: each combination from 0 up is there once. Layers and heads are as
            many as the provenance says of the model, whose layers without heads have no rows for them.
    """

    name: str
    columns: tuple[Column, ...]
    grids: tuple[tuple[str, ...], ...] = ()

    @property
    def place(self) -> str:
        """Where the workflow keeps it, below the results folder: its row of the catalogue."""
        return template_of(self.name)

    @property
    def schema(self) -> pa.Schema:
        """The Arrow schema, with descriptions as field metadata."""
        return pa.schema(
            [pa.field(c.name, c.type, c.nullable, metadata={"description": c.description}) for c in self.columns]
        )


@dataclass(frozen=True)
class Source:
    """What a provenance records of an artifact that was read.

    Attributes:
        place: its path below the results folder, so that it is found again where results have moved; None outside.
        digest: SHA-256 of the bytes that were read.
    """

    place: str | None
    digest: str


@dataclass(frozen=True)
class ArtifactFile:
    """An artifact that was read and checked: its content, what made it, and the digest of the bytes these came from.

    A step opens each of its inputs once and hands this on.
    """

    path: Path
    table: pa.Table
    provenance: Mapping[str, Any]
    digest: str

    @property
    def source(self) -> Source:
        """What the provenance of a result records of this input."""
        return Source(self.provenance.get("place"), self.digest)

    def check_origin(self, **expected: Any) -> None:
        """Refuse an artifact that was made from something else than expected; see :func:`read_artifact`."""
        _check_origin(self.path, self.provenance, expected)


def place_of(path: Path, pattern: str) -> str | None:
    """The part of a path below its results folder, if it ends as a pattern such as ``{model}/figures/{name}`` says.

    Results may move to another folder or machine; this part stays as it is.
    """
    tail = "/".join(Path(os.path.abspath(path)).parts[-1 - pattern.count("/") :])
    expression = "[^/]+".join(map(re.escape, re.split(r"\{[^}]*\}", pattern)))
    return tail if re.fullmatch(expression, tail) else None


def write(
    path: Path,
    kind: ArtifactSchema,
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
        ArtifactError: columns are missing, unknown, of unequal length, do not fit the schema, or hold numbers that are
            not finite; or the place cannot be written.
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
    record = {"kind": kind.name, **({"place": place} if place else {}), **provenance}
    metadata = {_KEY: json.dumps(record, sort_keys=True)}
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
    _check_finite(path, kind, table, "nothing was written")
    with atomic(path) as partial:
        pq.write_table(table, partial, compression="zstd", write_page_checksum=True)


class atomic:
    """Context manager: yields a temporary path beside ``path`` and renames it on success, removes it on failure.

    What a killed process left there is removed first.

    Raises:
        ArtifactError: the place cannot be written: the disk is full, or read-only. What was there stays.
    """

    def __init__(self, path: Path) -> None:
        self.path = Path(path)

    def __enter__(self) -> Path:
        prefix = f".{self.path.name}."
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            remove_abandoned(self.path.parent, prefix)
            self._lock, self.partial = _locked_partial(self.path.parent, prefix)
        except OSError as error:
            raise _unwritable(self.path, error) from error
        return self.partial

    def __exit__(self, kind: type | None, error: BaseException | None, trace: object) -> None:
        if error is None:
            try:
                self._put_in_place()
            except OSError as failed:
                error = failed
        if error is not None:
            self.partial.unlink(missing_ok=True)
        os.close(self._lock)
        if isinstance(error, OSError):
            raise _unwritable(self.path, error) from error

    def _put_in_place(self) -> None:
        with self.partial.open("rb") as file:
            os.fsync(file.fileno())
        # mkstemp makes files private; results are for everyone who may read the folder.
        umask = os.umask(0)
        os.umask(umask)
        self.partial.chmod(0o666 & ~umask)
        self.partial.replace(self.path)


_PARTIAL = ".partial"
_ABANDONED = 600.0
"""Seconds without a write after which a partial file of another machine counts as abandoned: locks may not reach there.
"""


def partial_suffix() -> str:
    """How the names of what this machine's processes have begun to write end."""
    return f"@{platform.node()}{_PARTIAL}"


def _locked_partial(folder: Path, prefix: str) -> tuple[int, Path]:
    """A new file, and a descriptor that locks it for as long as this process lives."""
    while True:
        handle, name = tempfile.mkstemp(dir=folder, prefix=prefix, suffix=partial_suffix())
        lock(handle)
        # Another process may have seen it before it was locked.
        if os.fstat(handle).st_nlink:
            return handle, Path(name)
        os.close(handle)


def lock(handle: int) -> None:
    """Lock an open file or folder until it is closed, or this process dies, where the file system has locks."""
    with suppress(OSError):
        lock_descriptor(handle)


def remove_abandoned(folder: Path, prefix: str) -> None:
    """Remove partial files and folders whose process was killed; those that are being written stay.

    Args:
        folder: where they are.
        prefix: how their names begin, a dot first.
    """
    for path in folder.glob(f"{glob.escape(prefix)}*{_PARTIAL}"):
        with suppress(OSError):
            if _is_abandoned(path):
                shutil.rmtree(path) if path.is_dir() else path.unlink()


def _is_abandoned(path: Path) -> bool:
    """Whether nobody writes it any more: its lock is free, and it is not another machine's that was changed lately."""
    if path.is_symlink() or not (path.is_file() or path.is_dir()):
        return False
    host = path.name.removesuffix(_PARTIAL).rpartition("@")[2] if "@" in path.name else platform.node()
    is_lockable = True
    handle = os.open(path, os.O_RDONLY)
    try:
        if not lock_descriptor(handle, blocking=False):
            return False
    except OSError:
        is_lockable = False
    finally:
        os.close(handle)
    if is_lockable and host == platform.node():
        return True
    last = max(entry.stat().st_mtime for entry in (path, *path.rglob("*")))
    return time.time() - last > _ABANDONED


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Write a small JSON file beside its place and rename it; the same content gives the same bytes."""
    with atomic(path) as partial:
        partial.write_text(json.dumps(content, indent=1, sort_keys=True) + "\n", encoding="utf-8")


def _unwritable(path: Path, error: OSError) -> ArtifactError:
    return ArtifactError(f"{path} could not be written ({error.strerror or error}); what was there is as it was")


def read(path: Path, kind: ArtifactSchema, **expected: Any) -> pa.Table:
    """The content of an artifact; see :func:`read_artifact`."""
    return read_artifact(path, kind, **expected).table


def read_artifact(path: Path, *kinds: ArtifactSchema, **expected: Any) -> ArtifactFile:
    """Read an artifact and check that it is one.

    Args:
        path: the file.
        kinds: what it may be.
        expected: what its provenance must say: ``model`` (the digest), ``task``, ``shots``, ``seed`` and so on; None
            where any will do, a frozenset where one of several will.

    Raises:
        ArtifactError: the file is missing, no Parquet, of another kind, made for another place, or of another model,
            task, shots or seed; it lacks a column of the contract, rows are missing, or a number is not finite.
    """
    path = Path(path)
    with _file(path) as (file, digest):
        table = file.read()
    record = _provenance(path, table.schema)
    kind = next((kind for kind in kinds if kind.name == record.get("kind")), None)
    if kind is None:
        names = " or ".join(kind.name for kind in kinds)
        raise UnrecognisedError(
            f"{path}: expected a {names} artifact, found {record.get('kind')!r}; make it again with lm-headroom"
        )
    _check_origin(path, record, expected)
    _check_place(path, kind, record)
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
    for numbers in kind.grids:
        _check_grid(path, table, numbers, record.get("model") or {})
    _check_finite(path, kind, table, "delete the file and run the workflow again")
    return ArtifactFile(path, table, record, digest)


def _check_place(path: Path, kind: ArtifactSchema, record: Mapping[str, Any]) -> None:
    """Refuse what lies at another place of its kind than it was made for; a model's folder may have any name."""
    here, place = place_of(path, kind.place), record.get("place")
    if here and place and here.partition("/")[2] != place.partition("/")[2]:
        raise UnrecognisedError(
            f"{path}: it was made for {place}; move it there, or delete it and run the workflow again"
        )


def _check_origin(path: Path, record: Mapping[str, Any], expected: Mapping[str, Any]) -> None:
    """Refuse what was made of something else than its place says."""
    for name, wanted in expected.items():
        value = digest_of(record) if name == "model" else record.get(name, (record.get("options") or {}).get(name))
        several = wanted if isinstance(wanted, frozenset) else (wanted,)
        if wanted is None or _unordered(value) in map(_unordered, several):
            continue
        origin = f"no known {name}" if value is None else f"{name} {_as_text(name, value)}"
        if name == "model" and value is not None:
            origin = f"model {record['model'].get('name')!r} ({_as_text(name, value)})"
        raise UnrecognisedError(
            f"{path}: made from {origin}, expected {' or '.join(_as_text(name, one) for one in several)}; it does not "
            "belong in this place: delete the file and run the workflow again"
        )


def _unordered(value: Any) -> Any:
    return sorted(value, key=repr) if isinstance(value, (list, tuple)) else value


def _as_text(name: str, value: Any) -> str:
    if name == "model":
        return f"digest {value:.12}"
    return ", ".join(map(str, value)) if isinstance(value, (list, tuple)) else str(value)


def _check_grid(path: Path, table: pa.Table, numbers: Sequence[str], model: Mapping[str, Any]) -> None:
    """Refuse rows that do not have each combination of the numbers once."""
    columns = [table.column(name).to_pylist() for name in numbers]
    present = [max(column, default=-1) + 1 for column in columns]
    wanted = [model.get(f"{name}s") or size for name, size in zip(numbers, present, strict=True)]
    rows = set(zip(*columns, strict=True))
    without = frozenset((model.get(WITHOUT_HEADS) or ()) if "head" in numbers else ())
    ranges: list[Iterable[int]] = [range(size) for size in wanted]
    if "expert" in numbers:
        # Dense layers have none, and records do not say which those are.
        ranges[numbers.index("layer")] = set(columns[numbers.index("layer")])
    expected = {row for row in product(*ranges) if row[0] not in without}
    if rows != expected or not rows or len(rows) != table.num_rows:
        sizes = " x ".join(f"{size} {name}s" for size, name in zip(wanted, numbers, strict=True))
        raise ArtifactError(
            f"{path}: {table.num_rows} rows do not number {sizes} from 0, each once"
            + (f", but layers without heads ({', '.join(map(str, sorted(without)))})" if without else "")
            + "; delete the file and run the workflow again"
        )


def _check_finite(path: Path, kind: ArtifactSchema, table: pa.Table, advice: str) -> None:
    """Refuse infinite numbers, and NaN where nothing is undefined; names the row by what numbers or names it."""
    # Here, since commands that only look at a file need none of it to start.
    import pyarrow.compute as pc

    for column in kind.columns:
        if not pa.types.is_floating(column.type):
            continue
        values = table.column(column.name)
        good = pc.is_finite(values)
        if column.undefined:
            good = pc.or_(good, pc.is_nan(values))
        if pc.all(good, skip_nulls=True).as_py() is False:
            row = pc.index(good, False).as_py()
            names = [c.name for c in kind.columns if pa.types.is_integer(c.type) or pa.types.is_string(c.type)]
            place = ", ".join(f"{name} {table.column(name)[row].as_py()}" for name in names[:3])
            raise ArtifactError(f"{path}: {column.name} is {values[row].as_py()} at {place}; {advice}")


def provenance(path: Path) -> dict[str, Any]:
    """What made an artifact, as stored in it.

    Raises:
        ArtifactError: the file is missing, no Parquet, or was not written by lm-headroom.
    """
    return _provenance(Path(path), _schema(Path(path)))


def made_by(table: pa.Table) -> dict[str, Any]:
    """What made an artifact that :func:`read` gave."""
    return parse_object(table.schema.metadata[_KEY])


def identify(path: Path) -> tuple[dict[str, Any], str]:
    """What made an artifact, and the digest of its bytes, from one look at the file.

    Raises:
        ArtifactError: see :func:`provenance`.
    """
    with _file(Path(path)) as (file, digest):
        return _provenance(Path(path), file.schema_arrow), digest


@contextmanager
def reads() -> Iterator[dict[Path, Source]]:
    """Notes the artifacts that are read inside: the inputs of a figure or a page, none of which it can forget."""
    noted: dict[Path, Source] = {}
    token = _NOTED.set(noted)
    try:
        yield noted
    finally:
        _NOTED.reset(token)


def run_statistics(path: Path) -> dict[str, Any]:
    """What the run that made an artifact took; empty where that was not recorded.

    Raises:
        ArtifactError: see :func:`provenance`; or the record cannot be read.
    """
    try:
        return parse_object((_schema(Path(path)).metadata or {}).get(_RUN_KEY, b"{}"))
    except ValueError as error:
        raise ArtifactError(
            f"{path}: what its run took cannot be read ({error}); delete the file and run again"
        ) from error


def read_unchecked(path: Path) -> pa.Table:
    """All columns of an artifact of any kind, as they are.

    Raises:
        ArtifactError: the file is missing, or no Parquet.
    """
    with _file(path) as (file, _):
        return file.read()


def _schema(path: Path) -> pa.Schema:
    """The schema alone, with its metadata: the file's last bytes, however large it is, unless all are noted."""
    with _file(path, whole=_NOTED.get() is not None) as (file, _):
        return file.schema_arrow


@contextmanager
def _file(path: Path, whole: bool = True) -> Iterator[tuple[pq.ParquetFile, str]]:
    """An open artifact, and the digest of its bytes: all are read at once where the ``whole`` file is asked for."""
    if not path.is_file():
        raise ArtifactError(f"{path}: no such file")
    try:
        content = path.read_bytes() if whole else b""
        digest = hashlib.sha256(content).hexdigest() if whole else ""
        # One file as it stands: a path such as results/shot=1/... must not grow partition columns.
        with pq.ParquetFile(pa.BufferReader(content) if whole else path, page_checksum_verification=True) as file:
            noted = _NOTED.get()
            if noted is not None:
                noted[path] = Source(_provenance(path, file.schema_arrow).get("place"), digest)
            yield file, digest
    except (pa.ArrowException, OSError) as error:
        raise ArtifactError(
            f"{path}: not a readable Parquet file ({error}); delete it and run the workflow again"
        ) from error


def _provenance(path: Path, schema: pa.Schema) -> dict[str, Any]:
    raw = (schema.metadata or {}).get(_KEY)
    if raw is None:
        raise UnrecognisedError(f"{path}: this Parquet file was not written by lm-headroom (it carries no provenance)")
    return parse_provenance(path, raw)


_PROVENANCE = {
    **dict.fromkeys(("kind", "place", "step", "code", "task", "definition", "definition_digest"), str),
    **dict.fromkeys(("inputs", "options", "packages", "model", "compared", "data", "files", "records"), dict),
}
"""Key of a provenance that readers look into to the type of its value."""


def parse_provenance(path: Path, text: str | bytes) -> dict[str, Any]:
    """What made a file, from the JSON that the file carries. Keys may be missing.

    Raises:
        ArtifactError: it is no JSON object, or a value in it is of another type than readers expect; names the key.
    """
    try:
        provenance = parse_object(text)
        _expect(provenance, "", _PROVENANCE)
        for name, source in (provenance.get("inputs") or {}).items():
            _expect({name: source}, "inputs.", {name: dict})
            _expect({"path": None, **source}, f"inputs.{name}.", {"path": str, "digest": str})
            if not {"path", "digest"} <= set(source):
                raise ValueError(f"inputs.{name} lacks its path or digest")
        _expect(provenance.get("model") or {}, "model.", {"name": str, "digest": str})
        for name, record in (provenance.get("compared") or {}).items():
            _expect({name: record}, "compared.", {name: dict})
    except ValueError as error:
        raise ArtifactError(
            f"{path}: its provenance cannot be read ({error}); delete the file and run again"
        ) from error
    return provenance


def _expect(content: Mapping[str, Any], above: str, types: Mapping[str, type]) -> None:
    """Refuse values of another type; those that are missing or null are no values.

    Raises:
        ValueError: names the key, with the keys above it.
    """
    for key, expected in types.items():
        value = content.get(key)
        if value is not None and not isinstance(value, expected):
            raise ValueError(f"{above}{key} is of type {type(value).__name__}, expected {expected.__name__}")


def digest_of(provenance: Mapping[str, Any]) -> str | None:
    """The digest of the model that a provenance names; None where it names none."""
    digest: str | None = (provenance.get("model") or {}).get("digest")
    return digest


def file_digest(path: Path) -> str:
    """SHA-256 of a file's bytes."""
    with Path(path).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
