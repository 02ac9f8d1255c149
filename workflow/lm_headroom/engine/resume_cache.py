"""Finished units of a job, kept on disk, so that neither the job started again nor another one computes them twice.

A unit is a set of pruned components, an oracle, a task's gradients or a random sequence. It has entries (documents, or
the sequence alone), each known by a digest of what it was computed from, so that a longer list of documents finds the
old ones. Blocks of entries go to files of their own, written beside and renamed: a job that is killed loses what it did
since the last block, and several jobs may keep parts of one unit.

A block's name holds a digest of its bytes together with its unit and stamp: a file that is damaged, or another unit's
under this name, is known before anything of it is read as numbers. It is named, removed and computed again.

A folder of parts is named by a stamp of everything else that its numbers depend on: code, model, number format and the
versions of the libraries that compute. Another stamp is another folder, so nothing is ever reused that does not match.
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
from importlib.metadata import version
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np

from lm_headroom.artifacts.code_digest import code_digest
from lm_headroom.artifacts.store import atomic, remove_abandoned

Array = np.ndarray[Any, Any]
SAVE_EVERY = 10.0
"""Seconds after which a unit's finished entries are written, beside at its end."""
_ENGINES = ("torch", "transformers", "tokenizers")


Layout = Mapping[str, tuple[str, tuple[int, ...]]]
"""Name of each array of a unit to its kind of numbers (numpy's letter: ``f`` or ``b``) and its axes after the first."""


@dataclass(frozen=True)
class ResumeCache:
    """A folder of parts with one stamp.

    Attributes:
        folder: None keeps nothing and knows nothing.
        stamp: what its blocks are told apart by from those of other stamps and options.
    """

    folder: Path | None = None
    stamp: str = ""

    def subfolder(self, name: str) -> ResumeCache:
        """The same for one choice of options."""
        return ResumeCache(self.folder / name, f"{self.stamp}/{name}") if self.folder else self

    def unit(self, name: str, keys: Sequence[str], layout: Layout, sizes: Sequence[int] | None = None) -> WorkUnit:
        """A unit, with what is known of it.

        Args:
            name: of the unit, fit for a file name.
            keys: digest of each entry.
            layout: of the arrays that each entry has.
            sizes: length of each entry's arrays along their first axis; None for 1.
        """
        return WorkUnit(self, name, keys, layout, sizes or [1] * len(keys))


NO_CACHE = ResumeCache()


def open_cache(folder: Path | None, module: str, record: Mapping[str, Any], dtype: str) -> ResumeCache:
    """The parts below ``folder`` that were computed by today's code from this model.

    Args:
        folder: of one task, shot and seed, or of the model; None keeps nothing.
        module: whose code, with what it imports, computes them.
        record: the model's.
        dtype: number format.
    """
    if folder is None:
        return NO_CACHE
    stamp = {
        "code": code_digest(module),
        "model": record.get("digest"),
        "dtype": dtype,
        "packages": {name: version(name) for name in _ENGINES},
    }
    name = f"{module}-{digest(json.dumps(stamp, sort_keys=True))[:16]}"
    return ResumeCache(folder / name, name)


def digest(*values: Any) -> str:
    """What tells entries or sets apart: 32 hexadecimal digits."""
    return hashlib.blake2b(repr(values).encode(), digest_size=16).hexdigest()


class _DamagedError(Exception):
    """A file is not a block of its unit."""


class WorkUnit:
    """What is known of a unit's entries. A context manager: what was added is kept when it is left, by an error too.

    Attributes:
        done: number of each known entry to its arrays.
    """

    def __init__(
        self, parts: ResumeCache, name: str, keys: Sequence[str], layout: Layout, sizes: Sequence[int]
    ) -> None:
        self._folder, self._stamp, self._name = parts.folder, parts.stamp, name
        self._keys, self._layout, self._sizes = keys, layout, sizes
        self._added: list[int] = []
        self._last = time.monotonic()
        self.done: dict[int, dict[str, Array]] = self._read() if self._folder else {}

    @property
    def complete(self) -> bool:
        """Whether nothing is left to compute."""
        return len(self.done) == len(self._keys)

    def add(self, number: int, **arrays: Array) -> None:
        """Take the arrays of a finished entry; their first axis has the entry's size."""
        self.done[number] = arrays
        self._added.append(number)

    def save_if_due(self) -> None:
        """Write what has been added, if the last time is long ago; called when all entries of a batch are there."""
        if time.monotonic() - self._last >= SAVE_EVERY:
            self.save()

    def save(self) -> None:
        """Write what has been added since the last time."""
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
        """What a block's name holds: a digest of its bytes, its unit and its stamp."""
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
        """Key of each entry of a block to its arrays.

        Raises:
            _DamagedError: it is not the block that was written under this name.
            OSError: it cannot be read.
        """
        if not path.is_file():
            # Opening a pipe would wait for its writer.
            raise OSError("it is no regular file")
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
