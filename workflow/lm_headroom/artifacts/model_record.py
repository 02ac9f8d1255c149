"""The model record, model.json in a model's results folder: what the model is."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lm_headroom.artifacts.json_object import read_object
from lm_headroom.artifacts.seal import KEY as SEAL
from lm_headroom.artifacts.seal import is_unchanged, sealed
from lm_headroom.artifacts.store import ArtifactError, write_json

NAME = "model.json"
TAKEN_FROM = ("source", "revision", "gguf_file")
"""Keys that say where on the hub a checkpoint was taken from; results do not depend on them."""
_KINDS: dict[str, Any] = {
    **dict.fromkeys(("name", "family", "digest"), str),
    **dict.fromkeys(TAKEN_FROM, str | None),
    **dict.fromkeys(("layers", "heads"), int),
    "origin": dict | None,
}
"""What the record's keys hold, where they are there."""


def read_record(path: Path) -> dict[str, Any]:
    """A model's record.

    Raises:
        ArtifactError: it is missing, or none.
    """
    return {key: value for key, value in _read(path).items() if key != SEAL}


def read_unedited_record(path: Path) -> dict[str, Any]:
    """The same, if nobody has changed it since it was written.

    Raises:
        ArtifactError: it is missing, none, or has been changed.
    """
    if not is_unchanged(_read(path)):
        raise ArtifactError(f"{path}: it has changed since it was written; delete it and run the workflow again")
    return read_record(path)


def write_record(path: Path, record: Mapping[str, Any]) -> None:
    """Write a model's record with its seal."""
    write_json(path, sealed(record))


def _read(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise ArtifactError(f"{path}: no such model record; 'lm-headroom resolve-model' makes one")
    try:
        record = read_object(path)
    except (OSError, ValueError) as error:
        raise ArtifactError(f"{path}: not a model record ({error}); delete it and run the workflow again") from error
    for key, kind in _KINDS.items():
        if key in record and not isinstance(record[key], kind):
            raise ArtifactError(
                f"{path}: not a model record, as its {key} is {type(record[key]).__name__}; delete it and run again"
            )
    if not {"name", "digest"} <= set(record):
        raise ArtifactError(f"{path}: not a model record, as it has no name or digest; delete it and run again")
    return record


def recorded_digest(results: Path) -> str | None:
    """The digest of the model whose results folder this is; None where no record says which it is."""
    path = results / NAME
    return str(read_record(path)["digest"]) if path.is_file() else None
