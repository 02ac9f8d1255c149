"""What made an artifact: recorded in its metadata, the same for the same inputs (no times, no host names)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from lm_headroom.artifacts.code_digest import code_digest
from lm_headroom.artifacts.store import Source, place_of

COMPUTING = ("torch", "transformers", "lm_eval", "numpy", "scipy", "pyarrow")
FOLDERS = {"figure": "figures", "table": "tables", "findings": "findings", "page": ""}
"""Kind of what is drawn and written to its folder below a model's results; empty for that folder itself."""
DRAWING = ("matplotlib", "seaborn", "numpy", "pyarrow")
WRITING = ("markdown-it-py", "numpy", "pyarrow")


def build_provenance(
    step: str,
    inputs: Mapping[str, Source],
    options: Mapping[str, Any],
    details: Mapping[str, Any] | None = None,
    packages: Sequence[str] = COMPUTING,
) -> dict[str, Any]:
    """Provenance of one artifact.

    Args:
        step: module below ``lm-headroom`` whose code digest identifies what ran.
        inputs: name to each artifact that was read.
        options: method options.
        details: more, such as the task or the model.
        packages: those whose versions are recorded.
    """
    return {
        "step": step,
        "code": code_digest(step),
        "inputs": {name: {"path": source.place, "digest": source.digest} for name, source in inputs.items()},
        "options": dict(options),
        "packages": versions(packages),
        **(details or {}),
    }


def cell_provenance(
    source: Mapping[str, Any], task: str | None, shots: int | None, seed: int | None = None
) -> dict[str, Any]:
    """Which cell of the matrix an artifact is that is made from artifacts: what readers hold it against.

    Args:
        source: provenance of one of them; all are of one model.
        task: the task, or ``aggregate``; None for all tasks.
        shots: None for several.
        seed: the few-shot seed.
    """
    cell = {"task": task, "shots": shots, "seed": seed}
    return {
        "model": source.get("model"),
        "dtype": source.get("dtype"),
        **{name: value for name, value in cell.items() if value is not None},
    }


def describe_drawn(
    kind: str, step: str, read: Mapping[Path, Source], options: Mapping[str, Any], out: Path
) -> dict[str, Any]:
    """Provenance of a figure or page, which has no metadata of a schema.

    Args:
        kind: figure, table or findings.
        step: module below ``lm-headroom`` that draws or writes it.
        read: the artifacts it shows.
        options: what of them it shows, and how.
        out: path without suffix; its place in a results folder is recorded, if it has one.
    """
    inputs = {source.place or str(path): source for path, source in read.items()}
    place = place_of(out, "/".join(filter(None, ("{model}", FOLDERS[kind], "{name}"))))
    details = {"kind": kind, **({"place": place} if place else {})}
    return build_provenance(step, inputs, options, details, DRAWING if kind == "figure" else WRITING)


def code_now(step: str) -> str | None:
    """Digest of a step's code as it is installed; None where there is no such step any more."""
    if not all(part.isidentifier() for part in step.split(".")):
        return None
    try:
        return code_digest(step)
    except FileNotFoundError:
        return None


def versions(packages: Sequence[str]) -> dict[str, str]:
    """Versions of packages, as far as they are installed."""
    installed = {}
    for package in packages:
        try:
            installed[package] = installed_version(package)
        except PackageNotFoundError:
            # Each family of rules may have an environment of its own; absent here means not used here.
            continue
    return installed


@cache
def installed_version(package: str) -> str:
    """Version of an installed package; found once, since to parse the metadata of a few packages takes a tenth second.

    Raises:
        PackageNotFoundError: it is not installed.
    """
    return version(package)


def model_provenance(record: Mapping[str, Any], dtype: str) -> dict[str, Any]:
    """What the provenance says of the model: its record, which does not say where the checkpoint lies."""
    return {"model": dict(record), "dtype": dtype}
