"""What made an artifact: recorded in its metadata, the same for the same inputs (no times, no host names)."""

from __future__ import annotations

from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from headroom.artifacts.store import file_digest
from headroom.digest import code_digest

_PACKAGES = ("torch", "transformers", "lm_eval", "numpy", "scipy", "pyarrow")


def describe(
    step: str, inputs: Mapping[str, Path], options: Mapping[str, Any], facts: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """Provenance of one artifact.

    Args:
        step: module below ``headroom`` whose code digest identifies what ran.
        inputs: name to path of each artifact read; recorded by content digest.
        options: method options.
        facts: more, such as the task or the model.
    """
    return {
        "step": step,
        "code": code_digest(step),
        "inputs": {name: file_digest(path) for name, path in inputs.items()},
        "options": dict(options),
        "packages": _versions(),
        **(facts or {}),
    }


def _versions() -> dict[str, str]:
    found = {}
    for package in _PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            # Each family of rules may have an environment of its own; absent here means not used here.
            continue
    return found


def model_facts(record: Mapping[str, Any], dtype: str) -> dict[str, Any]:
    """What the provenance says of the model: its record without the path, which is this machine's business."""
    return {"model": {key: value for key, value in record.items() if key != "path"}, "dtype": dtype}
