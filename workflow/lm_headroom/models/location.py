"""Where this machine has a model's checkpoint: a hidden file beside the model's record, model.json.

The record says what a model is, and is the same wherever its checkpoint lies, so that results are worth the same when
they, or the checkpoint, move. Standard library only: the Snakefile uses this at every parse.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Collection
from pathlib import Path
from typing import Any

from lm_headroom.artifacts.content import Digests
from lm_headroom.artifacts.json_object import read_object
from lm_headroom.errors import HeadroomError
from lm_headroom.models.checkpoint_files import digest, file_states

REMOTE_CODE, PICKLE = "trust_remote_code", "allow_pickle"
PERMISSIONS = (REMOTE_CODE, PICKLE)
"""What a checkpoint may do only where the study says so: keys of a model there, and of its record where it does."""


def location_file(record: Path) -> Path:
    """The file that says where the checkpoint of a record is."""
    return record.with_name(f".{record.name}")


def build_location(
    record: Path, folder: Path, source: str, revision: str | None, code: str, allowed: Collection[str] = ()
) -> dict[str, Any]:
    """What the file says: where the checkpoint is, what it was resolved from and by, and its files as they were.

    A relative source stays relative, to the record: both move together.

    Args:
        record: the model's record.
        folder: the checkpoint.
        source, revision: as the study has them.
        code: digest of the code that resolved it.
        allowed: what the study allows the checkpoint to do.
    """
    source_path = Path(source)
    path = (
        os.path.relpath(source_path, record.parent)
        if source_path.is_dir() and not source_path.is_absolute()
        else str(folder)
    )
    resolution = {"source": source, "revision": revision, "allowed": sorted(allowed), "code": code}
    return {"path": path, **resolution, "record": _record_digest(record), "files": _files(folder, allowed)}


def digests_of(record: Path) -> Digests:
    """Digests of the files of a record's checkpoint, kept beside the record so that each job need not read them all."""
    return Digests(digests_file(record))


def digests_file(record: Path) -> Path:
    """Where these are kept."""
    return record.with_name(".model.digests.json")


def checkpoint_folder(record: Path) -> Path:
    """The checkpoint of a model's record.

    Raises:
        HeadroomError: it is not on this machine.
    """
    place = read_location(record)
    folder = _folder(record, place) if place else None
    if folder is None or not (folder / "config.json").is_file():
        where = f"{folder} is no longer a checkpoint" if folder else "none has been resolved here"
        raise HeadroomError(
            f"{record}: the checkpoint of this model is not on this machine ({where}). Name its folder or hub name as "
            "the model's source in the study and run the workflow again; results of the same checkpoint stay valid"
        )
    return folder


def needs_resolving(record: Path, source: str, revision: str | None, code: str, allowed: Collection[str] = ()) -> bool:
    """Whether a model that has results must be resolved anew before anyone can say what is up to date.

    That is where its record is lost or was edited, where the study names another source or allows it other things,
    where the code that resolves is another, or where the checkpoint is not what it was by the sizes, times and inodes
    of its files.
    """
    if not record.is_file():
        return any(record.parent.glob("*/**/*.parquet"))
    place = read_location(record)
    if not _is_known(place, record, source, revision, code, allowed):
        return True
    return _files(_folder(record, place), allowed) != place.get("files")


def has_kept_content(record: Path, source: str, revision: str | None, code: str, allowed: Collection[str] = ()) -> bool:
    """Whether a checkpoint whose files have other times, or were copied, is still the one of its record.

    All of it is read, and nothing is written: for a dry run, which may not make the record anew.

    Args:
        record, source, revision, code, allowed: as :func:`needs_resolving` takes them.
    """
    place = read_location(record)
    if not record.is_file() or not _is_known(place, record, source, revision, code, allowed):
        return False
    try:
        content = read_object(record)
        return digest(_folder(record, place), bool(content.get(REMOTE_CODE)), digests_of(record)) == content.get(
            "digest"
        )
    except (HeadroomError, OSError, ValueError):
        return False


def _is_known(
    place: dict[str, Any], record: Path, source: str, revision: str | None, code: str, allowed: Collection[str]
) -> bool:
    """Whether a record that is there was made by this code from this source, and nobody has changed it."""
    if not place or has_other_source(record, source, revision, allowed) or place.get("code") != code:
        return False
    return _folder(record, place).is_dir() and _record_digest(record) == place.get("record")


def has_other_source(record: Path, source: str, revision: str | None, allowed: Collection[str] | None = None) -> bool:
    """Whether a record is known to have been made from another source than this one, or with other permissions.

    Args:
        record: the model's record.
        source, revision: as the study has them.
        allowed: what the study allows the checkpoint to do; None does not ask.
    """
    place = read_location(record)
    resolved_from = (place.get("source"), place.get("revision"))
    return bool(place) and (
        resolved_from != (source, revision) or (allowed is not None and place.get("allowed", []) != sorted(allowed))
    )


def read_location(record: Path) -> dict[str, Any]:
    """What is known here of a record's checkpoint; empty where nothing is."""
    try:
        location = read_object(location_file(record))
    except (OSError, ValueError):
        return {}
    sizes = location.get("sizes", {})
    whole = isinstance(sizes, dict) and all(type(size) is int for size in sizes.values())
    return location if whole and isinstance(location.get("path"), str) else {}


def _folder(record: Path, place: dict[str, Any]) -> Path:
    return Path(os.path.normpath(record.parent / place["path"]))


def _files(folder: Path, allowed: Collection[str]) -> list[list[Any]]:
    """By what each file of a checkpoint is known; code of its own only where it may run."""
    return list(file_states(folder, REMOTE_CODE in allowed))


def _record_digest(record: Path) -> str:
    return hashlib.sha256(record.read_bytes()).hexdigest()
