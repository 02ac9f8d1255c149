"""Digests of the files with a task's records, on which a prompts artifact depends.

Digests cover content, not folders: records that are moved stay the same. Standard library and PyYAML only: the
Snakefile uses this module at every parse.
"""

from __future__ import annotations

import glob
import hashlib
import json
import os
import shlex
from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

from lm_headroom.artifacts.content import Digests
from lm_headroom.errors import HeadroomError
from lm_headroom.settings import check_embedded
from lm_headroom.tasks.digest import has_local_data, task_config
from lm_headroom.tasks.files import task_yaml
from lm_headroom.tasks.own import own_file_records, read_own
from lm_headroom.tasks.sources import HUB, OWN, TaskSources

SOURCE = "source.json"
"""File beside records with their origin."""
EMBEDDED_FOLDER = "resources/data"
"""Where the embedded records are unpacked, from the working folder."""
RECORDS = "records"
"""Key of a prompts artifact's provenance that maps the label of each file with its records to a SHA-256."""


def mirror_records(folder: Path, digests: Digests) -> dict[str, str]:
    """Map names to SHA-256 of one task's files in a mirror: ``{split}.parquet`` and ``source.json``.

    Raises:
        HeadroomError: a file cannot be read.
    """
    files = [*sorted(folder.glob("*.parquet")), *([folder / SOURCE] if (folder / SOURCE).is_file() else [])]
    return {path.name: digests.digest_file(path) for path in files}


def own_records(name: str, folders: Iterable[Path], digests: Digests) -> dict[str, str]:
    """Map labels to SHA-256 of the files that a task's own YAML names as its data set; empty if it names none.

    A label is the file's split and number, or its path below a folder; it does not depend on the folder.

    Raises:
        HeadroomError: the YAML or a file cannot be read.
    """
    path = next((path for path in (task_yaml(name, folder) for folder in folders) if path), None)
    config = task_config(name, path) if path else {}
    return {label: digests.digest_file(file) for label, file in _files(config)} if has_local_data(config) else {}


def digest_of_records(records: dict[str, str]) -> str:
    """Compute one digest of all files of a task; empty if there are none."""
    return hashlib.sha256(json.dumps(records, sort_keys=True).encode()).hexdigest()[:16] if records else ""


class Records:
    """The records of a study's tasks: where they lie, and their content, as far as it is known."""

    SPLITS = ("train.parquet", "validation.parquet")

    def __init__(self, study: Any, sources: TaskSources, digests: Digests) -> None:
        """Say where records lie.

        Args:
            study: the typed study.
            sources: of its tasks.
            digests: of files, as far as they are known.
        """
        self._study, self._sources, self.digests = study, sources, digests
        self._known: dict[str, str] = {}

    def check(self) -> None:
        """Check the records of all tasks before any job starts; see :meth:`check_task`."""
        for task in self._study.all_entries:
            self.check_task(task)

    def check_task(self, task: str) -> None:
        """Read the records of a task; embedded ones may not be unpacked yet.

        Raises:
            HeadroomError: a mirror or a file is missing or cannot be read, a row of an own file is not right, or the
                task is not embedded.
        """
        entry, source = self._study.all_entries[task], self._sources.source(task)
        if entry.file is not None:
            self._sources.check_name(task)
            # The host that plans may lack pyarrow.
            with suppress(ImportError):
                read_own(entry)
        if source == "mirror":
            self._study.check_mirrors([task])
        if source == "embedded":
            check_embedded(task)
        else:
            self._digest(task)

    def options(self, task: str) -> str:
        """Where the rendering command finds a task, as its options, quoted for the shell."""
        entry = self._study.all_entries[task]
        words = ["--own", entry.model_dump_json()] if entry.file is not None else [f"--data={self.place(task)}"]
        folders = self._sources.own_folders
        return shlex.join([*words, *(["--task-folders", *map(str, folders)] if folders else [])])

    def place(self, task: str) -> str:
        """Folder of the records, as the rendering command is given it; `hub` where they are the hub's."""
        data = self._sources.data(task)
        if data and data.mirror_folder:
            # As a path even where it is called hub.
            return os.path.join(".", data.mirror_folder)
        return EMBEDDED_FOLDER if self._sources.source(task) == "embedded" else HUB

    def files(self, task: str) -> list[str]:
        """The files that a rule unpacks; none where the records are not the embedded ones."""
        is_embedded = self._sources.source(task) == "embedded"
        return [f"{EMBEDDED_FOLDER}/{task}/{name}" for name in (SOURCE, *self.SPLITS) if is_embedded]

    def digest(self, task: str, prompts: Path) -> str:
        """Digest of the content of a task's records, as far as they are files; empty where there are none.

        Where the embedded ones were removed after they had served, or are not unpacked yet, that of the prompts' own.

        Args:
            task: its name.
            prompts: the prompts artifact that is made from them.
        """
        return self._digest(task) if self._are_there(task) else recorded_digest(prompts)

    def contents(self) -> dict[str, tuple[str, str]]:
        """Map each task to digests of its definition and of its records, as far as these are files that are there."""
        digests = {task: self._digest(task) if self._are_there(task) else "" for task in self._study.all_entries}
        return {task: (self._sources.digest(task), digest) for task, digest in digests.items()}

    def _are_there(self, task: str) -> bool:
        # Embedded records may be unpacked later in this process: their digest is not to be known before.
        return all(map(os.path.exists, self.files(task)))

    def _digest(self, task: str) -> str:
        if task not in self._known:
            entry, source = self._study.all_entries[task], self._sources.source(task)
            if source == OWN:
                records = own_file_records(entry, Path(), self.digests)
            elif source == HUB:
                records = own_records(task, [self._sources.folder(task)], self.digests)
            else:
                records = mirror_records(Path(self.place(task), task), self.digests)
            self._known[task] = digest_of_records(records)
        return self._known[task]


def _files(config: dict[str, Any]) -> Iterator[tuple[str, Path]]:
    """Find the files of a data set with their labels as datasets does: from its folder or the working folder."""
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
    """Digest of the records that a prompts artifact was made from; empty if there is no readable artifact."""
    # Imported where it is needed, since it imports pyarrow, which the host that plans may lack.
    try:
        from lm_headroom.artifacts.store import provenance

        return digest_of_records(provenance(prompts).get(RECORDS) or {})
    except (ImportError, HeadroomError):
        return ""
