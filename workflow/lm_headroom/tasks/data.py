"""The files that a task's records come from, known by content: what a prompts artifact depends on outside the results.

Their folders are no part of it: records that were moved, unchanged, are the same records. Standard library and PyYAML
only: the Snakefile uses it at every parse.
"""

from __future__ import annotations

import glob
import hashlib
import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from lm_headroom.artifacts.content import Digests
from lm_headroom.errors import HeadroomError
from lm_headroom.tasks.digest import has_local_data, task_config
from lm_headroom.tasks.files import task_yaml

SOURCE = "source.json"
"""Beside records: where they come from."""
RECORDS = "records"
"""Key of a prompts artifact's provenance: label to SHA-256 of each file that its records came from."""


def mirror_records(folder: Path, digests: Digests) -> dict[str, str]:
    """Name to SHA-256 of the records of one task in a mirror, ``{split}.parquet``, and of what is said of them.

    Raises:
        HeadroomError: a file cannot be read.
    """
    files = [*sorted(folder.glob("*.parquet")), *([folder / SOURCE] if (folder / SOURCE).is_file() else [])]
    return {path.name: digests.of(path) for path in files}


def own_records(name: str, folders: Iterable[Path], digests: Digests) -> dict[str, str]:
    """Label to SHA-256 of the files that a task's own YAML names as its data set; empty where it names none.

    Labels say what a file is to the data set (its split and number, or its path below a folder), not where it lies.

    Raises:
        HeadroomError: the YAML or a file cannot be read.
    """
    path = next((path for path in (task_yaml(name, folder) for folder in folders) if path), None)
    config = task_config(name, path) if path else {}
    return {label: digests.of(file) for label, file in _files(config)} if has_local_data(config) else {}


def digest_of_records(records: dict[str, str]) -> str:
    """One digest of all of a task's files; empty where there are none."""
    return hashlib.sha256(json.dumps(records, sort_keys=True).encode()).hexdigest()[:16] if records else ""


def _files(config: dict[str, Any]) -> Iterator[tuple[str, Path]]:
    """The files of a data set with their labels, found as datasets finds them: from its folder or the working one."""
    kwargs = config.get("dataset_kwargs") or {}
    folder = Path(config["dataset_path"])
    base = folder if folder.is_dir() else Path()
    if kwargs.get("data_dir"):
        base = base / Path(kwargs["data_dir"]).expanduser()
    named = kwargs.get("data_files")
    if named is None:
        yield from ((str(path.relative_to(base)), path) for path in _below(base))
        return
    for split, patterns in sorted(named.items()) if isinstance(named, dict) else [("", named)]:
        for number, pattern in enumerate(patterns if isinstance(patterns, list) else [patterns]):
            matches = sorted(glob.glob(str(base / Path(str(pattern)).expanduser()), recursive=True))
            for place, file in enumerate(path for path in map(Path, matches) if path.is_file()):
                yield f"{split} {number}.{place}{file.suffix}", file


def _below(folder: Path) -> list[Path]:
    return sorted(
        path
        for path in folder.rglob("*")
        if path.is_file() and not any(part.startswith(".") for part in path.relative_to(folder).parts)
    )


def recorded_digest(prompts: Path) -> str:
    """Digest of the records that a prompts artifact was made from; empty where there is none that can be read."""
    # Imported where it is needed, since it imports pyarrow, which the host that plans may lack.
    try:
        from lm_headroom.artifacts.store import provenance

        return digest_of_records(provenance(prompts).get(RECORDS) or {})
    except (ImportError, HeadroomError):
        return ""
