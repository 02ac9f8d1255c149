"""Lists of a study as files, which rules that gather over them take as inputs.

Missing intermediates are no reason to run, so without the list of tasks a new task would leave aggregates and figures
as they are. Standard library only: the Snakefile imports this module at every parse.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path


def is_listed(path: Path, values: Iterable[object]) -> bool:
    """Whether a file lists exactly these values."""
    return path.is_file() and path.read_text() == _text(values)


def write_list(path: Path, values: Iterable[object]) -> Path:
    """Write a line per value, beside the file and renamed, since several Snakemake processes may do so at once."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    partial.write_text(_text(values))
    partial.replace(path)
    return path


def _text(values: Iterable[object]) -> str:
    return "".join(f"{value}\n" for value in values)
