"""The resume cache: finished work units of jobs on disk, which a restarted job or another job reuses.

A work unit is the evaluation of one set of pruned components, one layer of an oracle, a task's gradients, or a random
sequence. It has entries (documents, or the single sequence). Each entry's key is a digest of its inputs, so that a
longer list of documents reuses the old entries. Blocks of entries are separate files, written under a partial name and
renamed: a job that is killed loses only its work since the last block, and several jobs may add to one unit.

The name of a block includes a digest of its bytes, its unit and its stamp. A damaged file, or one of another unit, is
therefore detected before its numbers are read; it is reported, removed and computed again.

The name of a cache folder is a stamp of everything else that its numbers depend on: code, model, number format and the
versions of the computing libraries. Results with another stamp are in another folder and are never reused.
"""

from __future__ import annotations

import glob
import hashlib
import io
import json
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np

from lm_headroom.artifacts.code_digest import code_digest
from lm_headroom.artifacts.provenance import installed_version
from lm_headroom.artifacts.store import atomic, remove_abandoned

Array = np.ndarray[Any, Any]
SAVE_EVERY = 10.0
"""Seconds after which a unit writes its finished entries; it also writes them when it ends."""
_ENGINES = ("torch", "transformers", "tokenizers")


Layout = Mapping[str, tuple[str, tuple[int, ...]]]
"""Maps the name of each array of a unit to its kind (numpy's letter: ``f`` or ``b``) and its axes after the first."""


@dataclass(frozen=True)
class ResumeCache:
    """A cache folder with one stamp.

    Attributes:
        folder: the folder; None disables the cache.
        stamp: distinguishes its blocks from those of other stamps and options.
    """

    folder: Path | None = None
    stamp: str = ""

    def subfolder(self, name: str) -> ResumeCache:
        """The cache of one choice of options."""
        return ResumeCache(self.folder / name, f"{self.stamp}/{name}") if self.folder else self

    def unit(self, name: str, keys: Sequence[str], layout: Layout, sizes: Sequence[int] | None = None) -> WorkUnit:
        """Open a unit and read its finished entries.

        Args:
            name: name of the unit, valid as a file name.
            keys: digest of each entry.
            layout: layout of the arrays of an entry.
            sizes: length of each entry's arrays along their first axis; None for 1.
        """
        return WorkUnit(self, name, keys, layout, sizes or [1] * len(keys))


NO_CACHE = ResumeCache()


def open_cache(folder: Path | None, module: str, record: Mapping[str, Any], dtype: str) -> ResumeCache:
    """Open the cache below ``folder`` of results that the current code computes from this model.

    Args:
        folder: folder of one task, shot and seed, or of the model; None disables the cache.
        module: the module that computes the results; its imports count too.
        record: the model's record.
        dtype: number format.
    """
    if folder is None:
        return NO_CACHE
    stamp = {
        "code": code_digest(module),
        "model": record.get("digest"),
        "dtype": dtype,
        "packages": {name: installed_version(name) for name in _ENGINES},
    }
    name = f"{module}-{digest(json.dumps(stamp, sort_keys=True))[:16]}"
    return ResumeCache(folder / name, name)


def digest(*values: Any) -> str:
    """Digest of values, 32 hexadecimal digits."""
    return hashlib.blake2b(repr(values).encode(), digest_size=16).hexdigest()


class _DamagedError(Exception):
    """A file is not a valid block of its unit."""


class WorkUnit:
    """The finished entries of a unit. A context manager that saves added entries when it ends, even by an error.

    Attributes:
        done: maps the number of each finished entry to its arrays.
    """

    def __init__(
        self, cache: ResumeCache, name: str, keys: Sequence[str], layout: Layout, sizes: Sequence[int]
    ) -> None:
        self._folder, self._stamp, self._name = cache.folder, cache.stamp, name
        self._keys, self._layout, self._sizes = keys, layout, sizes
        self._added: list[int] = []
        self._last = time.monotonic()
        self.done: dict[int, dict[str, Array]] = self._read() if self._folder else {}

    @property
    def complete(self) -> bool:
        """Whether all entries are finished."""
        return len(self.done) == len(self._keys)

    def add(self, number: int, **arrays: Array) -> None:
        """Add the arrays of a finished entry; their first axis has the entry's size."""
        self.done[number] = arrays
        self._added.append(number)

    def save_if_due(self) -> None:
        """Save added entries if the last save is long ago; called after each batch."""
        if time.monotonic() - self._last >= SAVE_EVERY:
            self.save()

    def save(self) -> None:
        """Save the entries added since the last save."""
        if self._added and self._folder:
            entries = [self.done[number] for number in self._added]
            arrays = {name: np.concatenate([entry[name] for entry in entries]) for name in entries[0]}
            keys = np.array([self._keys[number] for number in self._added], dtype="S32")
            sizes = np.array([self._sizes[number] for number in self._added])
            content = io.BytesIO()
            np.savez(content, allow_pickle=False, keys=keys, sizes=sizes, **arrays)
            with atomic(self._folder / f"{self._name}.{self._digest(content)}.npz") as partial:
                partial.write_bytes(content.getbuffer())
        self._added = []
        self._last = time.monotonic()

    def _digest(self, content: io.BytesIO | io.BufferedReader) -> str:
        """Digest for a block's name: of its bytes, its unit and its stamp."""
        content.seek(0)
        return digest(self._stamp, self._name, hashlib.file_digest(content, "sha256").hexdigest())

    def _read(self) -> dict[int, dict[str, Array]]:
        assert self._folder is not None
        remove_abandoned(self._folder, f".{self._name}.")
        entries: dict[str, dict[str, Array]] = {}
        for path in sorted(self._folder.glob(f"{glob.escape(self._name)}.*.npz")):
            try:
                entries |= self._read_block(path)
            except (_DamagedError, OSError) as error:
                print(f"{path}: cannot be reused ({error}); its entries are computed again", file=sys.stderr)
                if isinstance(error, _DamagedError):
                    path.unlink(missing_ok=True)
        return {number: entries[key] for number, key in enumerate(self._keys) if key in entries}

    def _read_block(self, path: Path) -> dict[str, dict[str, Array]]:
        """Read a block: the arrays of each entry by its key.

        Raises:
            _DamagedError: the file is not the block that was written under this name.
            OSError: the file cannot be read.
        """
        if not path.is_file():
            # Opening a pipe would wait for its writer.
            raise OSError("it is not a regular file")
        with path.open("rb") as file:
            if path.name != f"{self._name}.{self._digest(file)}.npz":
                raise _DamagedError("its content is not what was written under this name")
            file.seek(0)
            with np.load(file, allow_pickle=False) as block:
                arrays = {name: block[name] for name in block.files}
        keys, sizes = arrays.pop("keys", np.empty(0)), arrays.pop("sizes", np.empty(0, int))
        stored = {name: (values.dtype.kind, values.shape) for name, values in arrays.items()}
        expected = {name: (kind, (int(sizes.sum()), *axes)) for name, (kind, axes) in self._layout.items()}
        if stored != expected or len(keys) != len(sizes):
            raise _DamagedError(f"it holds {stored}, expected {expected}")
        ends = np.cumsum(sizes)
        return {
            key.decode(): {name: values[begin:end] for name, values in arrays.items()}
            for key, begin, end in zip(keys, [0, *ends[:-1]], ends, strict=True)
        }

    def __enter__(self) -> WorkUnit:
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.save()
