"""Printing an artifact, figure, page or model record, and what made it."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from lm_headroom.artifacts.catalogue import MANIFEST
from lm_headroom.artifacts.file_provenance import read_provenance
from lm_headroom.artifacts.model_record import read_unedited_record
from lm_headroom.artifacts.provenance import code_now
from lm_headroom.artifacts.pruned_checkpoint import read_manifest
from lm_headroom.artifacts.store import read_unchecked, run_statistics
from lm_headroom.errors import HeadroomError
from lm_headroom.models.location import checkpoint_folder, read_location

_SHOWN_APART = ("kind", "place", "step", "code", "inputs", "options", "packages", "files")


def describe_file(path: Path, n_rows: int) -> str:
    """What made a file; of an artifact also its columns and first rows.

    Raises:
        HeadroomError: the file is missing, damaged or not lm-headroom's.
    """
    if path.name == MANIFEST:
        provenance = read_manifest(path.parent)
        return "\n".join(
            [f"{path}: {provenance['kind']}", *_made({k: v for k, v in provenance.items() if k != "lineage"})]
        )
    if path.suffix == ".json":
        return "\n".join(_model(path))
    provenance = read_provenance(path)
    if path.suffix == ".parquet":
        return "\n".join([*_artifact(path, provenance, n_rows)])
    return "\n".join([f"{path}: {provenance.get('kind')}", *_made(provenance)])


def _made(provenance: Mapping[str, Any]) -> Iterator[str]:
    """The sections that all files have."""
    yield from ("", "Made by")
    if provenance.get("step"):
        same = "as" if code_now(provenance["step"]) == provenance.get("code") else "not as"
        yield f"  {provenance['step']}, code {provenance.get('code')} ({same} installed now)"
    if provenance.get("packages"):
        yield f"  {', '.join(f'{name} {version}' for name, version in sorted(provenance['packages'].items()))}"
    if provenance.get("inputs"):
        yield from ("", "From (name, place below the results folder, SHA-256)")
    for name, source in (provenance.get("inputs") or {}).items():
        place = source["path"] or "not in a results folder"
        yield f"  {'' if name == place else f'{name}: '}{place} {source['digest'][:16]}"
    if provenance.get("options"):
        yield from ("", "Options", *_values(provenance["options"]))
    others = {name: value for name, value in provenance.items() if name not in _SHOWN_APART}
    if others:
        yield from ("", "Facts", *_values(others))


def _values(values: Mapping[str, Any]) -> Iterator[str]:
    for name, value in sorted(values.items()):
        yield f"  {name}: {value if isinstance(value, str) else json.dumps(value, sort_keys=True)}"


def _artifact(path: Path, provenance: Mapping[str, Any], n_rows: int) -> Iterator[str]:
    table = read_unchecked(path)
    yield f"{path}: {provenance.get('kind')} artifact, {table.num_rows} rows"
    yield from _made(provenance)
    statistics = run_statistics(path)
    if statistics:
        yield from ("", "Run", *_values(statistics))
    yield from ("", "Columns")
    for field in table.schema:
        description = (field.metadata or {}).get(b"description", b"").decode(errors="backslashreplace")
        yield f"  {field.name} ({field.type}): {description}"
    yield from ("", f"First {min(n_rows, table.num_rows)} rows")
    for row in table.slice(0, n_rows).to_pylist():
        yield "  " + ", ".join(f"{name}={_short(value)}" for name, value in row.items())


def _model(path: Path) -> Iterator[str]:
    record = read_unedited_record(path)
    yield f"{path}: record of model {record['name']}"
    yield from ("", "Model", *_values(record))
    yield from ("", "Checkpoint on this machine")
    try:
        folder = checkpoint_folder(path)
    except HeadroomError:
        yield "  none"
        return
    location = read_location(path)
    yield from _values({"folder": str(folder), "resolved from": location["source"], "revision": location["revision"]})
    yield from _made({"step": "models.resolve", "code": location.get("code"), "packages": location.get("packages", {})})


def _short(value: object) -> str:
    if isinstance(value, float):
        return f"{value:.6g}"
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:40]} ... {text[-15:]}"
