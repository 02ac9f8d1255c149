"""Check that outputs can be written, before any work. Standard library only: the command line calls this first."""

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
