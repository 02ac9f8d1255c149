"""What lies in a folder of results, links followed: nothing that is shown there is passed over."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Entry:
    """A file, or something else that is no folder to look into.

    Attributes:
        path: below the folder, with slashes.
        problem: why nobody can read it as a file; empty where it is one.
        is_known: whether it leads to a folder that is looked into by another name.
    """

    path: str
    problem: str = ""
    is_known: bool = False


def entries(folder: Path) -> Iterator[Entry]:
    """All entries of a folder and the folders in it, but for hidden ones, whose names begin with a dot.

    Without the folder there are none. Links to files and folders are followed, each folder is looked into once, and
    nothing is opened: a pipe would wait for its writer. Folders come before links to folders, so that a link to one of
    them, or in a circle, is known.
    """
    seen: dict[tuple[int, int], str] = {}
    folders = [""] if folder.is_dir() else []
    links: list[str] = []
    while folders or links:
        name = folders.pop() if folders else links.pop(0)
        path = folder / name
        try:
            status = path.stat()
            first = seen.setdefault((status.st_dev, status.st_ino), name)
            if first != name:
                where = first or "the folder that holds it"
                yield Entry(name, f"it leads to {where}, which is looked into there", is_known=True)
                continue
            children = sorted(entry.name for entry in os.scandir(path) if not entry.name.startswith("."))
        except OSError as error:
            yield Entry(name or ".", f"this folder cannot be looked into ({error.strerror})")
            continue
        for child in children:
            place = f"{name}/{child}" if name else child
            try:
                mode = (path / child).stat().st_mode
            except OSError as error:
                what = "a link that leads nowhere" if (path / child).is_symlink() else "it cannot be looked at"
                yield Entry(place, f"{what} ({error.strerror})")
                continue
            if stat.S_ISDIR(mode):
                (links if (path / child).is_symlink() else folders).append(place)
            else:
                yield Entry(place, "" if stat.S_ISREG(mode) else "it is neither a file nor a folder")
