"""How a study's own rankings came about, and what its removed heads and FFNs gave, from the artifacts themselves."""

from __future__ import annotations

from pathlib import Path

from lm_headroom.artifacts.store import provenance
from lm_headroom.results.matrix import ResultsMatrix

GIVES = {
    "zero": "A removed head or FFN gives zeros",
    "mean": "A removed head or FFN gives its mean over the scoring documents",
    "resample": "A removed head or FFN gives its activation on another scoring document",
}
"""Sentence by kind of ablation, without its end."""


def describe_method(matrix: ResultsMatrix) -> str:
    """Say which criterion the own ranking of heads goes by, and what a removed component gives.

    Empty where the artifacts of the first task do not say.

    Raises:
        ArtifactError: one of them is damaged.
    """
    shots, task = matrix.shots[0], matrix.tasks[0]
    criterion = _option(matrix.path("head_importance", shots, task=task), "criterion")
    ablation = _option(matrix.curve(task, shots), "ablation")
    ranks = f"The own ranking of heads goes by the criterion `{criterion}` (docs/criteria.md). " if criterion else ""
    return ranks + (f"{GIVES[ablation]}. " if ablation else "")


def _option(path: Path, name: str) -> str | None:
    options = provenance(path).get("options", {}) if path.is_file() else {}
    return str(options[name]) if name in options else None
