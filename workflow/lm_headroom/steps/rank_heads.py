"""Step: the ranking of one task's head scores."""

from __future__ import annotations

from pathlib import Path

from lm_headroom.analysis.ranking import as_columns
from lm_headroom.analysis.ranking import rank_heads as rank
from lm_headroom.artifacts.provenance import build_provenance
from lm_headroom.artifacts.ranking import RANKING
from lm_headroom.artifacts.store import write
from lm_headroom.options import OutFile

_CELL = ("model", "dtype", "task", "shots", "seed")
"""What the ranking takes over from the scores' provenance."""


def rank_heads(*, scores: Path, out: OutFile) -> None:
    """Rank heads by one task's scores.

    Args:
        scores: head-importance artifact.
        out: the ranking artifact.

    Example:
        lm-headroom rank-heads --scores scores.parquet --out ranking.parquet
    """
    from lm_headroom.results.scores import read_scores

    importances = read_scores(scores)
    cell = {name: importances.provenance[name] for name in _CELL if name in importances.provenance}
    record = build_provenance("steps.rank_heads", {"scores": importances.artifact.source}, {}, cell)
    score, layers = importances.score, importances.layers
    write(out, RANKING, as_columns(rank(score, layers), score, layers), record)
