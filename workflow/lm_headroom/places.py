"""Where results go: found out before the work is done. Standard library only: the command line asks at once."""

from __future__ import annotations

import os
from pathlib import Path

from lm_headroom.errors import HeadroomError


def check_writable(path: Path, folder: bool = False) -> None:
    """Refuse a place that cannot be written before hours of work are done for it.

    Args:
        path: what will be written.
        folder: whether that is a folder of files.

    Raises:
        HeadroomError: it cannot be.
    """
    path = path.absolute()
    if not folder and path.is_dir():
        raise HeadroomError(f"{path} is a folder; name a file to write")
    above = next(place for place in (path if folder else path.parent, *path.parents) if place.exists())
    if not above.is_dir():
        raise HeadroomError(f"{path} cannot be written: {above} is a file, not a folder")
    # Asks the file system too: on one that is read-only, not even root may write.
    if not os.access(above, os.W_OK | os.X_OK):
        raise HeadroomError(f"{path} cannot be written: the folder {above} is read-only for you; write elsewhere")
