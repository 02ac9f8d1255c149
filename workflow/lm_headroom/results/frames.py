"""All results of a folder as pandas frames, one per kind of artifact."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from lm_headroom.artifacts.catalogue import ARTIFACTS
from lm_headroom.artifacts.entries import entries
from lm_headroom.artifacts.model_record import NAME
from lm_headroom.artifacts.schemas import SCHEMAS
from lm_headroom.artifacts.store import UnrecognisedError, provenance, read
from lm_headroom.errors import HeadroomError, nearest

if TYPE_CHECKING:
    import pandas as pd

KINDS = {schema.name: schema for schema in SCHEMAS}
NUMBERS = {"shot": "shots", "seed": "seed"}
"""Dimensions of the catalogue that are numbers, and their columns."""


def load_results(folder: str | Path, kinds: Iterable[str] | None = None) -> dict[str, pd.DataFrame]:
    """Read the artifacts of a study, or of one of its models, into one tidy frame per kind.

    What a file's place says, such as model, task, shots, seed, component and ranking, becomes columns of its rows,
    before those of the artifact (docs/artifacts.md). Columns that the artifact itself has keep its values. Hidden
    folders are left out; links are followed.

    Args:
        folder: a results folder, or a model's folder in it.
        kinds: kinds to read, by their names in docs/artifacts.md; None for all.

    Returns:
        The frame of each kind that is there.

    Raises:
        HeadroomError: the folder has no artifacts of these kinds, or a kind is unknown; or a Parquet file is
            unreadable, damaged, not lm-headroom's, not where its kind belongs or made for another place, or a link
            leads nowhere; it is named.

    Example:
        >>> import lm_headroom
        >>> frames = lm_headroom.load_results(results)
        >>> frames["ffn_importance"].columns[:5].tolist()
        ['model', 'task', 'shots', 'seed', 'layer']
    """
    import pandas as pd

    # As it is called in full: "." has no name, and no folder above it.
    folder = Path(os.path.abspath(folder))
    wanted = set(KINDS if kinds is None else [kinds] if isinstance(kinds, str) else kinds)
    for kind in sorted(wanted - set(KINDS)):
        raise HeadroomError(f"there is no kind of artifact {kind!r}{nearest(kind, KINDS)}; kinds: {', '.join(KINDS)}")
    root = folder.parent if (folder / NAME).is_file() else folder
    frames: dict[str, list[pd.DataFrame]] = {}
    for path in _parquet_files(folder):
        kind = provenance(path).get("kind", "")
        dimensions = _dimensions(path, path.relative_to(root).as_posix(), kind)
        parts = frames.setdefault(kind, [])
        if kind in wanted:
            parts.append(_frame(path, kind, dimensions))
    if not frames:
        raise HeadroomError(f"{folder}: no artifacts there; expected a results folder, or a model's folder in it")
    if not any(frames.values()):
        raise HeadroomError(f"{folder}: no {' or '.join(sorted(wanted))} there; it has {', '.join(sorted(frames))}")
    return {kind: pd.concat(parts, ignore_index=True) for kind, parts in frames.items() if parts}


def _parquet_files(folder: Path) -> list[Path]:
    """Files of a folder that may be artifacts, in order; links are followed.

    Raises:
        UnrecognisedError: something there cannot be read, such as a link to a disk that is not there.
    """
    files = []
    for entry in entries(folder):
        if entry.problem and not entry.is_known:
            raise UnrecognisedError(f"{folder / entry.path}: {entry.problem}; mend or remove it")
        if not entry.problem and entry.path.endswith(".parquet"):
            files.append(folder / entry.path)
    return sorted(files)


def _dimensions(path: Path, below: str, kind: str) -> dict[str, str | int]:
    """What a file's place says, as columns.

    Raises:
        UnrecognisedError: its kind is unknown, or belongs elsewhere.
    """
    if kind not in KINDS:
        raise UnrecognisedError(f"{path}: {kind!r} is no kind of artifact; expected one of {', '.join(KINDS)}")
    template = ARTIFACTS[kind].template
    pattern = re.sub(r"\\{(\w+)\\}", r"(?P<\1>[^/]+)", re.escape(template))
    place = re.fullmatch(pattern, below)
    if place is None:
        raise UnrecognisedError(f"{path}: a {kind} artifact belongs at {template} below the results folder")
    try:
        return {NUMBERS.get(name, name): int(v) if name in NUMBERS else v for name, v in place.groupdict().items()}
    except ValueError as error:
        raise UnrecognisedError(f"{path}: shots and seed are no numbers; expected {template}") from error


def _frame(path: Path, kind: str, dimensions: dict[str, str | int]) -> pd.DataFrame:
    frame = read(path, KINDS[kind]).to_pandas()
    new = [(name, value) for name, value in dimensions.items() if name not in frame.columns]
    for position, (name, value) in enumerate(new):
        frame.insert(position, name, value)
    return frame
