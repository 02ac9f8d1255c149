"""Lists of a study as files, which rules that gather over them take as inputs.

Missing intermediates are no reason to run, so without the list of tasks a new task would leave aggregates and figures
as they are. Standard library only: the Snakefile imports this module at every parse.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

FOLDER = "matrix"
"""Where they are kept, below the results folder."""
LISTED = {name: f"{FOLDER}/{name}.txt" for name in ("tasks", "shots", "unseen", "seeds", "models")}
"""Keys of the study whose values are kept as lists, and paths of these below the results folder."""


def keep_list(path: Path, values: Iterable[object], folder: Path | None) -> str:
    """The path of a list of the study as a file.

    Written beside and renamed, and only when it differs, since several Snakemake processes may do so at once.

    Args:
        path: where it is kept.
        values: a line each.
        folder: what the path is below where it has to be written; None does not write it.
    """
    text = "".join(f"{value}\n" for value in values)
    if folder is None or (path.is_file() and path.read_text() == text):
        return str(path)
    target = folder / path
    target.parent.mkdir(parents=True, exist_ok=True)
    partial = target.with_name(f".{path.name}.{os.getpid()}.partial")
    partial.write_text(text)
    partial.replace(target)
    return str(target)
