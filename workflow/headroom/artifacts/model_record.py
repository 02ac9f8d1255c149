"""The model record, model.json in a model's results folder: what the model is."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from headroom.artifacts.store import ArtifactError

NAME = "model.json"


def read_record(path: Path) -> dict[str, Any]:
    """A model's record.

    Raises:
        ArtifactError: it is missing, or none.
    """
    if not path.is_file():
        raise ArtifactError(f"{path}: no such model record; 'headroom model' makes one")
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ArtifactError(f"{path}: not a model record ({error}); delete it and run the workflow again") from error
    if not isinstance(record, dict) or not {"name", "digest"} <= set(record):
        raise ArtifactError(f"{path}: not a model record, as it has no name or digest; delete it and run again")
    return record


def recorded_digest(results: Path) -> str | None:
    """The digest of the model whose results folder this is; None where no record says which it is."""
    path = results / NAME
    return str(read_record(path)["digest"]) if path.is_file() else None
