"""Folders: check that outputs can be written, and make private ones. Standard library only: every command uses this."""

from __future__ import annotations

import os
from pathlib import Path

from lm_headroom.errors import HeadroomError


def check_writable(path: Path, folder: bool = False) -> None:
    """Refuse an output path that cannot be written, before hours of work.

    Args:
        path: the output.
        folder: whether the output is a folder of files.

    Raises:
        HeadroomError: it cannot be written.
    """
    path = path.absolute()
    if not folder and path.is_dir():
        raise HeadroomError(f"{path} is a folder; name a file to write")
    above = next(place for place in (path if folder else path.parent, *path.parents) if place.exists())
    if not above.is_dir():
        raise HeadroomError(f"{path} cannot be written: {above} is a file, not a folder")
    # Also asks the file system: on a read-only one, not even root may write.
    if not os.access(above, os.W_OK | os.X_OK):
        raise HeadroomError(f"{path} cannot be written: the folder {above} is read-only for you; write elsewhere")


def private_folder(folder: Path) -> Path:
    """Create a folder that only this user may enter, and return it.

    Args:
        folder: its place, in a folder that others can write to.

    Raises:
        HeadroomError: another user created it.
    """
    folder.mkdir(mode=0o700, exist_ok=True)
    if folder.is_symlink() or folder.stat().st_uid != os.getuid():
        raise HeadroomError(f"{folder}: this folder belongs to another user; remove it")
    return folder
