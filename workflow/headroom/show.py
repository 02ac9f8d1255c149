"""Printing an artifact and what made it."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow.parquet as pq

from headroom.artifacts.store import provenance, run_facts


def describe(path: Path, n_rows: int) -> str:
    """Provenance, columns and the first rows of an artifact."""
    facts = provenance(path)
    table = pq.ParquetFile(path).read()
    lines = [f"{path}: {facts.get('kind')} artifact, {table.num_rows} rows", "", "Provenance"]
    lines += [f"  {line}" for line in json.dumps(facts, indent=1, sort_keys=True).splitlines()[1:-1]]
    took = run_facts(path)
    if took:
        lines += ["", "Run"] + [f"  {name}: {value}" for name, value in sorted(took.items())]
    lines += ["", "Columns"]
    for field in table.schema:
        description = (field.metadata or {}).get(b"description", b"").decode()
        lines.append(f"  {field.name} ({field.type}): {description}")
    lines += ["", f"First {min(n_rows, table.num_rows)} rows"]
    for row in table.slice(0, n_rows).to_pylist():
        lines.append("  " + ", ".join(f"{name}={_short(value)}" for name, value in row.items()))
    return "\n".join(lines)


def _short(value: object) -> str:
    if isinstance(value, float):
        return f"{value:.6g}"
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:40]} ... {text[-15:]}"
