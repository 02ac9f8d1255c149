"""Tables by column, as artifacts hold them, from rows, as loops make them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any


def by_column(rows: Sequence[Mapping[str, Any]]) -> dict[str, list[Any]]:
    """The columns of rows that all have the same keys."""
    return {name: [row[name] for row in rows] for name in rows[0]}
