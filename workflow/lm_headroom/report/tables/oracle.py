"""Table: how far scores rank heads and FFNs as the oracle does."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from lm_headroom.analysis.outcomes import MEASURES, OUTCOMES
from lm_headroom.artifacts.oracle_agreement import ORACLE_AGREEMENT
from lm_headroom.artifacts.provenance import describe_drawn
from lm_headroom.artifacts.store import read, reads
from lm_headroom.report import pages

NAMES = {
    "component": "component",
    "task": "task",
    "shots": "shots",
    "measure": "oracle",
    "n_components": "components",
    "n_questions": "questions",
    "srcc": "SRCC",
    "srcc_low": "low",
    "srcc_high": "high",
    "srcc_within_layer": "inside layers",
    "reliability_gradient": "reliability, gradient",
    "reliability_oracle": "reliability, oracle",
    "noise_ceiling": "noise ceiling",
    "corrected": "disattenuated SRCC",
    "corrected_low": "its low",
    "corrected_high": "its high",
}
"""Column of the artifact to column of the table."""
LABELS = {
    "heads": "heads",
    "ffns": "FFNs",
    **{measure: OUTCOMES[outcome].loss_title for measure, outcome in MEASURES.items()},
    "loss_rise": "rise of the loss",
    "loss_change": "change of the loss, up or down",
}
NOTES = (
    "SRCC correlates the scores by `importance.criterion` (of FFNs by `token` where it ranks heads alone) with the "
    "oracle's losses without each head or FFN alone; FFNs are measured by the outcome that ranks them (`ffn.metric`). "
    "Limits are 95% intervals over the oracle's questions, the scores' error and, where heads were sampled, the draw "
    "of heads.",
    "The noise ceiling is the SRCC that two equal rankings would show if measured with this noise; the disattenuated "
    "SRCC is the SRCC divided by it. FFNs that are ranked by the documents of their scores (`ffn.selection: scoring`) "
    "share noise with these: there it is the mean SRCC of halves that share no document, over the geometric mean of "
    "the SRCCs between the halves of each. It may exceed 1 by chance. 'Inside layers' means inside key-value groups "
    "where heads share keys. A cell is empty where all scores are equal or the noise is too large to say.",
)


def data(path: Path, **expected: Any) -> list[list[object]]:
    """Rows of the table."""
    rows = read(path, ORACLE_AGREEMENT, **expected).to_pylist()
    return [[_shown(row[name]) for name in NAMES] for row in rows]


def _shown(value: Any) -> object:
    return "" if value is None else LABELS.get(value, value)


def write_table(path: Path, out: Path) -> None:
    """Write the table of an oracle-agreement artifact to ``out``.csv, ``out``.md and ``out``.html."""
    with reads() as sources:
        rows = data(path)
    provenance = describe_drawn("table", "report.tables.oracle", sources, {}, out)
    title = "Scores against the oracle"
    pages.write_table(out, title, list(NAMES.values()), rows, provenance, NOTES)
