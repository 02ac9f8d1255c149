"""Folders of this checkout, and what lets one test worker make what the others then find."""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock

ROOT = Path(__file__).resolve().parents[2]
ASSETS = ROOT / "build" / "test-assets"
SNAKEMAKE = [sys.executable, "-m", "lm_headroom.warm", "snakemake", "snakemake"]
"""Snakemake in a fork of a process that has imported it, which takes half the time."""


def environment_of_runs() -> dict[str, str]:
    """Variables of a study's runs, in which this interpreter's programs come first: equal ones share warm processes."""
    return {**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}


@contextmanager
def one_at_a_time(folder: Path, name: str) -> Iterator[None]:
    """Let one worker make what the others then find."""
    folder.mkdir(parents=True, exist_ok=True)
    with FileLock(folder / f".{name}.lock"):
        yield
