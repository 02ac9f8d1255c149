"""The location of a model's checkpoint on this machine: a hidden file beside the model's record, model.json.

The record describes the model and does not depend on the location, so that results stay valid when they or the
checkpoint are moved. Standard library only: the Snakefile uses this module at every parse.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from lm_headroom.artifacts.content import Digests, state_of
from lm_headroom.artifacts.json_object import read_object
from lm_headroom.errors import HeadroomError
from lm_headroom.models.checkpoint_files import CONFIG, digest, file_states

REMOTE_CODE, PICKLE = "trust_remote_code", "allow_pickle"
PERMISSIONS = (REMOTE_CODE, PICKLE)
"""Permissions that a study may give a model: keys of the model there, and of its record if the checkpoint uses them."""
WRITTEN_OUT, PACKED = ".checkpoint", "packed"
"""Folder beside a record with the plain weights of packed ones, and key of the packed ones in the location: they are a
GGUF file, or the folder of a quantised checkpoint."""


def allowed_by(asked: object) -> list[str]:
    """The permissions that a model of a study, or a command, gives a checkpoint: attributes that are true."""
    return [permission for permission in PERMISSIONS if getattr(asked, permission)]


def location_file(record: Path) -> Path:
    """The file with the location of a record's checkpoint."""
    return record.with_name(f".{record.name}")


def build_location(
    record: Path,
    folder: Path,
    source: str,
    revision: str | None,
    code: str,
    allowed: Collection[str] = (),
    chat: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Build the location file's content: path, source, resolving code, and the states of the checkpoint's files.

    A relative source stays relative to the record, so that both can be moved together.

    Args:
        record: the model's record.
        folder: the checkpoint.
        source, revision: as in the study.
        code: digest of the code that resolved it.
        allowed: permissions that the study gives the checkpoint.
        chat: settings of its chat template, where it is applied.
    """
    path = _relative(folder, record) if folder == written_out(record) else _path_from(record, folder, source)
    resolution = {"source": source, "revision": revision, "allowed": sorted(allowed), "chat": chat, "code": code}
    return {"path": path, **resolution, "record": _record_digest(record), "files": _files(folder, allowed)}


def _path_from(record: Path, place: Path, source: str) -> str:
    """The path of a file or folder: from the record if its source is relative, so that both can be moved together."""
    is_relative = Path(source).exists() and not Path(source).is_absolute()
    return _relative(Path(source), record) if is_relative else str(place)


def _relative(path: Path, record: Path) -> str:
    return os.path.relpath(path, record.parent)


def written_out(record: Path) -> Path:
    """The folder of the plain weights of a record's packed ones."""
    return record.with_name(WRITTEN_OUT)


def describe_packed(record: Path, packed: Path, source: str, digest: str) -> dict[str, str]:
    """Describe the packed weights that were written out, for the location under :data:`PACKED`.

    Args:
        record: the model's record.
        packed: the GGUF file, or the folder of a quantised checkpoint.
        source: as in the study.
        digest: of their content, as :func:`digest_packed` computes it.
    """
    return {"path": _path_from(record, packed, source), "digest": digest, "state": _state(packed)}


def digest_packed(packed: Path, digests: Digests) -> str:
    """SHA-256 of a GGUF file, or of the names and contents of the files that decide what a checkpoint computes.

    Raises:
        HeadroomError: a file cannot be read; or see :func:`lm_headroom.models.checkpoint_files.find_weights`.
    """
    return digests.digest_file(packed) if packed.is_file() else digest(packed, False, digests)


def _state(packed: Path) -> str:
    """What changes with packed weights, without reading them: size, times and inode of each file."""
    if packed.is_file():
        return state_of(packed)
    return hashlib.sha256(json.dumps(_files(packed, ())).encode(errors="surrogateescape")).hexdigest()


def other_packed(record: Path, digests: Digests | None = None) -> Path | None:
    """The packed weights that a record's checkpoint was written out from, if they are others now than then.

    Those that are gone are None, too: the plain ones lie beside the record.

    Args:
        record: the model's record.
        digests: known digests of files, to compare contents; None compares size, times and inode.

    Raises:
        HeadroomError: see :func:`digest_packed`.
    """
    known = read_location(record).get(PACKED) or {}
    packed = _folder(record, known) if known else None
    if packed is None or not (packed.is_file() or (packed / CONFIG).is_file()):
        return None
    is_same = digest_packed(packed, digests) == known["digest"] if digests else _state(packed) == known["state"]
    return None if is_same else packed


def is_written_out(record: Path, digest: str, code: str, packages: Mapping[str, str | None]) -> bool:
    """Whether the folder of plain weights is of packed ones of this content, and as it was written by this code.

    Args:
        record: the model's record.
        digest: of the packed weights, as :func:`digest_packed` computes it.
        code: digest of the resolving code.
        packages: versions of the packages that read them.
    """
    place, folder = read_location(record), written_out(record)
    written_from = ((place.get(PACKED) or {}).get("digest"), place.get("code"), place.get("packages"))
    return written_from == (digest, code, packages) and folder.is_dir() and _files(folder, ()) == place.get("files")


def digests_of(record: Path) -> Digests:
    """Digests of the checkpoint's files, stored beside the record so that not every job reads all files."""
    return Digests(digests_file(record))


def digests_file(record: Path) -> Path:
    """The file of these digests."""
    return record.with_name(".model.digests.json")


def checkpoint_folder(record: Path) -> Path:
    """Return the checkpoint folder of a model's record.

    Raises:
        HeadroomError: the checkpoint is not on this machine.
    """
    place = read_location(record)
    folder = _folder(record, place) if place else None
    if folder is None or not (folder / CONFIG).is_file():
        where = f"{folder} is no longer a checkpoint" if folder else "none has been resolved here"
        raise HeadroomError(
            f"{record}: the checkpoint of this model is not on this machine ({where}). Name its folder or hub name as "
            "the model's source in the study and run the workflow again; results of the same checkpoint stay valid"
        )
    return folder


def needs_resolving(
    record: Path,
    source: str,
    revision: str | None,
    code: str,
    allowed: Collection[str] = (),
    chat: Mapping[str, Any] | None = None,
) -> bool:
    """Whether a model with results must be resolved again before it is known which results are up to date.

    This is the case if its record is lost or was edited, if the study names another source, other permissions or
    another use of its chat template, if the resolving code changed, or if sizes, times or inodes of the checkpoint's
    files changed.
    """
    if not record.is_file():
        return any(record.parent.glob("*/**/*.parquet"))
    place = read_location(record)
    if not _is_known(place, record, source, revision, code, allowed, chat):
        return True
    return _files(_folder(record, place), allowed) != place.get("files") or other_packed(record) is not None


def has_kept_content(
    record: Path,
    source: str,
    revision: str | None,
    code: str,
    allowed: Collection[str] = (),
    chat: Mapping[str, Any] | None = None,
) -> bool:
    """Whether a checkpoint whose files have other times, or were copied, still has the content of its record.

    Reads the whole checkpoint and writes nothing; for dry runs, which may not resolve the model again.

    Args:
        record, source, revision, code, allowed, chat: as :func:`needs_resolving` takes them.
    """
    place = read_location(record)
    if not record.is_file() or not _is_known(place, record, source, revision, code, allowed, chat):
        return False
    try:
        content, digests = read_object(record), digests_of(record)
        is_same = digest(_folder(record, place), bool(content.get(REMOTE_CODE)), digests) == content.get("digest")
        return is_same and other_packed(record, digests) is None
    except (HeadroomError, OSError, ValueError):
        return False


def _is_known(
    place: dict[str, Any],
    record: Path,
    source: str,
    revision: str | None,
    code: str,
    allowed: Collection[str],
    chat: Mapping[str, Any] | None,
) -> bool:
    """Whether this code made the existing record from this source, and nobody has edited it."""
    if not place or has_other_source(record, source, revision, allowed) or place.get("code") != code:
        return False
    if place.get("chat") != chat:
        return False
    return _folder(record, place).is_dir() and _record_digest(record) == place.get("record")


def has_other_source(record: Path, source: str, revision: str | None, allowed: Collection[str] | None = None) -> bool:
    """Whether a record is known to come from another source or to have other permissions.

    Args:
        record: the model's record.
        source, revision: as in the study.
        allowed: permissions that the study gives the checkpoint; None skips their comparison.
    """
    place = read_location(record)
    resolved_from = (place.get("source"), place.get("revision"))
    return bool(place) and (
        resolved_from != (source, revision) or (allowed is not None and place.get("allowed", []) != sorted(allowed))
    )


def read_location(record: Path) -> dict[str, Any]:
    """Read the location of a record's checkpoint; empty if none is stored."""
    try:
        location = read_object(location_file(record))
    except (OSError, ValueError):
        return {}
    sizes = location.get("sizes", {})
    whole = isinstance(sizes, dict) and all(map(_is_size, sizes, sizes.values()))
    packed = location.get(PACKED, {})
    named = isinstance(packed, dict) and all(isinstance(value, str) for value in packed.values())
    return location if whole and named and isinstance(location.get("path"), str) else {}


def _is_size(name: str, size: Any) -> bool:
    """Whether this is a whole number, or a list of them where layers may differ."""
    by_layer = name in ("without_heads", "restarts", "key_value_heads", "d_head")
    numbers = size if by_layer and isinstance(size, list) else [size]
    return all(type(number) is int for number in numbers)


def _folder(record: Path, place: dict[str, Any]) -> Path:
    return Path(os.path.normpath(record.parent / place["path"]))


def _files(folder: Path, allowed: Collection[str]) -> list[list[Any]]:
    """States of a checkpoint's files; its own code counts only if it may run."""
    return list(file_states(folder, REMOTE_CODE in allowed))


def _record_digest(record: Path) -> str:
    return hashlib.sha256(record.read_bytes()).hexdigest()
