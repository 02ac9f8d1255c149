"""Finished units of a job, kept on disk, so that neither the job started again nor another one computes them twice.

A unit is a set of pruned components, an oracle, a task's gradients or a random sequence. It has entries (documents, or
the sequence alone), each known by a digest of what it was computed from, so that a longer list of documents finds the
old ones. Blocks of entries go to files of their own, written beside and renamed: a job that is killed loses what it did
since the last block, and several jobs may keep parts of one unit.

A folder of parts is named by a stamp of everything else that its numbers depend on: code, model, number format and the
versions of the libraries that compute. Another stamp is another folder, so nothing is ever reused that does not match.
"""

from __future__ import annotations

import hashlib
import json
import sys
import time
import uuid
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np

from headroom.artifacts.store import atomic
from headroom.digest import code_digest

Array = np.ndarray[Any, Any]
KEEP_EVERY = 10.0
"""Seconds after which a unit's finished entries are written, beside at its end."""
_ENGINES = ("torch", "transformers", "tokenizers")


@dataclass(frozen=True)
class Parts:
    """A folder of parts with one stamp.

    Attributes:
        folder: None keeps nothing and knows nothing.
    """

    folder: Path | None = None

    def below(self, name: str) -> Parts:
        """The same for one choice of options."""
        return Parts(self.folder / name if self.folder else None)

    def unit(self, name: str, keys: Sequence[str], sizes: Sequence[int] | None = None) -> Unit:
        """A unit, with what is known of it.

        Args:
            name: of the unit, fit for a file name.
            keys: digest of each entry.
            sizes: length of each entry's arrays along their first axis; None for 1.
        """
        return Unit(self.folder, name, keys, sizes or [1] * len(keys))


NO_PARTS = Parts()


def parts_of(folder: Path | None, module: str, record: Mapping[str, Any], dtype: str) -> Parts:
    """The parts below ``folder`` that were computed by today's code from this model.

    Args:
        folder: of one task, shot and seed, or of the model; None keeps nothing.
        module: whose code, with what it imports, computes them.
        record: the model's.
        dtype: number format.
    """
    if folder is None:
        return NO_PARTS
    stamp = {
        "code": code_digest(module),
        "model": record.get("digest"),
        "dtype": dtype,
        "packages": {name: version(name) for name in _ENGINES},
    }
    return Parts(folder / f"{module}-{digest(json.dumps(stamp, sort_keys=True))[:16]}")


def digest(*values: Any) -> str:
    """What tells entries or sets apart: 32 hexadecimal digits."""
    return hashlib.blake2b(repr(values).encode(), digest_size=16).hexdigest()


class Unit:
    """What is known of a unit's entries. A context manager: what was added is kept when it is left, by an error too.

    Attributes:
        known: number of each known entry to its arrays.
    """

    def __init__(self, folder: Path | None, name: str, keys: Sequence[str], sizes: Sequence[int]) -> None:
        self._folder, self._name, self._keys, self._sizes = folder, name, keys, sizes
        self._added: list[int] = []
        self._last = time.monotonic()
        self.known: dict[int, dict[str, Array]] = self._read() if folder else {}

    @property
    def complete(self) -> bool:
        """Whether nothing is left to compute."""
        return len(self.known) == len(self._keys)

    def add(self, number: int, **arrays: Array) -> None:
        """Take the arrays of a finished entry; their first axis has the entry's size."""
        self.known[number] = arrays
        self._added.append(number)
        if time.monotonic() - self._last >= KEEP_EVERY:
            self.keep()

    def keep(self) -> None:
        """Write what has been added since the last time."""
        if self._added and self._folder:
            entries = [self.known[number] for number in self._added]
            arrays = {name: np.concatenate([entry[name] for entry in entries]) for name in entries[0]}
            keys = np.array([self._keys[number] for number in self._added], dtype="S32")
            sizes = np.array([self._sizes[number] for number in self._added])
            with atomic(self._folder / f"{self._name}.{uuid.uuid4().hex[:12]}.npz") as partial:
                with partial.open("wb") as file:
                    np.savez(file, allow_pickle=False, keys=keys, sizes=sizes, **arrays)
        self._added = []
        self._last = time.monotonic()

    def _read(self) -> dict[int, dict[str, Array]]:
        assert self._folder is not None
        found: dict[str, dict[str, Array]] = {}
        for path in sorted(self._folder.glob(f"{self._name}.*.npz")):
            try:
                with np.load(path, allow_pickle=False) as file:
                    arrays = {name: file[name] for name in file.files}
                keys, ends = arrays.pop("keys"), np.cumsum(arrays.pop("sizes"))
                for key, end, begin in zip(keys, ends, [0, *ends[:-1]], strict=True):
                    found[key.decode()] = {name: values[begin:end] for name, values in arrays.items()}
            except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
                # Numbers of a damaged file are computed again; its checksums tell.
                print(f"{path}: cannot be reused ({error}); what it held is computed again", file=sys.stderr)
        return {number: found[key] for number, key in enumerate(self._keys) if key in found}

    def __enter__(self) -> Unit:
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.keep()
