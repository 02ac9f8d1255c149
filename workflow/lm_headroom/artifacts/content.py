"""Files outside the results, known by content: SHA-256 of each, computed once as long as the file stays as it is.

A file counts as unchanged while its size, its times of modification and of change (mtime_ns, ctime_ns) and its inode
stay the same. Copies that keep times, such as ``cp -p`` or ``rsync -a``, set the time of change anew, and so does
writing in place and setting the time of modification back: nobody but an administrator sets that one.

    digests = Digests(Path("results/.digests.json"))
    digests.digest_file(Path("mirror/boolq/train.parquet"))  # 64 hexadecimal digits
    digests.keep()  # not in a dry run, which writes nothing

Standard library only: the Snakefile imports this module at every parse.
"""

from __future__ import annotations

import hashlib
import json
import os
import stat
import time
from contextlib import suppress
from pathlib import Path

from lm_headroom.artifacts.json_object import read_object
from lm_headroom.errors import HeadroomError

SMALL = 2**20
"""Bytes up to which a file is read each time: that takes a millisecond, and no kept digest has to be believed."""
SETTLED = 100_000_000
"""Nanoseconds since its last change after which a file's digest may be kept: a file system's clock ticks every few
milliseconds, and a second change within one tick would leave all that a file is known by as it is."""
MOST_KEPT = 20_000


class Digests:
    """Digests of files by content, kept in a file between processes.

    Nothing is written until :meth:`keep` is called. What was kept is believed only where each entry's seal is right,
    so that an edit by hand is no digest; a store that is missing, damaged or unreadable costs time alone.
    """

    def __init__(self, store: Path | None = None) -> None:
        """Digests of earlier processes are taken from ``store``; None takes and keeps none."""
        self._store = store
        self._known = _read(store) if store else {}
        self._added: dict[str, str] = {}

    def digest_file(self, path: Path) -> str:
        """SHA-256 of a file's content, 64 hexadecimal digits. Symbolic links are followed.

        Raises:
            HeadroomError: it is no regular file, or it cannot be read.
        """
        try:
            before = os.stat(path)
            if not stat.S_ISREG(before.st_mode):
                # Opening a pipe would wait for its writer.
                raise HeadroomError(f"{path} is not a regular file; it cannot be known by its content")
            key = _key(path, before)
            if before.st_size > SMALL and key in self._known:
                return self._known[key]
            with open(path, "rb") as file:
                digest = hashlib.file_digest(file, "sha256").hexdigest()
                after = os.fstat(file.fileno())
        except OSError as error:
            raise HeadroomError(f"{path} cannot be read ({error.strerror or error})") from error
        settled = time.time_ns() - max(after.st_ctime_ns, after.st_mtime_ns) > SETTLED
        if before.st_size > SMALL and settled and _key(path, after) == key:
            self._known[key] = self._added[key] = digest
        return digest

    def keep(self) -> None:
        """Add what this process computed to the store: written beside and renamed, as others may do the same.

        Where the folder is read-only the next process computes it again.
        """
        if not self._added or self._store is None:
            return
        kept = dict([*(_read(self._store) | self._added).items()][-MOST_KEPT:])
        content = {key: [digest, _seal(key, digest)] for key, digest in kept.items()}
        partial = self._store.with_name(f".{self._store.name}.{os.getpid()}.partial")
        try:
            self._store.parent.mkdir(parents=True, exist_ok=True)
            partial.write_text(json.dumps(content, indent=0), encoding="utf-8")
            partial.replace(self._store)
        except OSError:
            with suppress(OSError):
                partial.unlink()
            return
        self._added = {}


def state_of(path: Path) -> str:
    """What a file is known by as long as nobody changes it.

    Raises:
        OSError: there is none.
    """
    return _key(path, os.stat(path))


def _key(path: Path, status: os.stat_result) -> str:
    """What an unchanged file is known by. Its folder is no part of it: that may be moved."""
    return f"{path.name} {status.st_size} {status.st_mtime_ns} {status.st_ctime_ns} {status.st_ino}"


def _seal(key: str, digest: str) -> str:
    return hashlib.sha256(f"lm-headroom: {key} has the digest {digest}".encode(errors="surrogateescape")).hexdigest()[
        :16
    ]


def _read(store: Path) -> dict[str, str]:
    """What a store holds; entries without the right seal are left out."""
    try:
        content = read_object(store)
    except (OSError, ValueError):
        return {}
    pairs = {key: pair for key, pair in content.items() if isinstance(pair, list) and len(pair) == 2}
    return {
        key: digest for key, (digest, seal) in pairs.items() if isinstance(digest, str) and seal == _seal(key, digest)
    }
