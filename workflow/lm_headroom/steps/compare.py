"""What the comparing steps share: an artifact of rows, and what made it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from lm_headroom.artifacts.provenance import build_provenance
from lm_headroom.artifacts.store import ArtifactSchema, reads, write
from lm_headroom.errors import HeadroomError
from lm_headroom.results.comparison import Comparison


def write_rows(
    out: Path, kind: ArtifactSchema, step: str, comparison: Comparison, rows: Callable[[], Sequence[Mapping[str, Any]]]
) -> None:
    """Write an artifact of rows; what is read while they are made are its inputs.

    Args:
        out: where it goes.
        kind: its kind.
        step: module below ``lm-headroom`` that makes the rows.
        comparison: what is compared; the provenance has its models' records.
        rows: makes the rows.

    Raises:
        HeadroomError: there is one model alone, or a model is named twice.
    """
    names = [model.name for model in comparison.models]
    if len(set(names)) != len(names) or len(names) < 2:
        raise HeadroomError(f"a comparison needs two or more models, each once; got {', '.join(names) or 'none'}")
    with reads() as sources:
        table = rows()
    inputs = {source.place or str(path): source for path, source in sources.items()}
    compared = {name: matrix.read_record() for name, matrix in comparison.matrices.items()}
    columns = {column.name: [row[column.name] for row in table] for column in kind.columns}
    write(out, kind, columns, build_provenance(step, inputs, comparison.options, {"compared": compared}))
