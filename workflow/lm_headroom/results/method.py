"""How a study's own rankings came about, and what its removed heads and FFNs gave, from the artifacts themselves."""

from __future__ import annotations

from pathlib import Path

from lm_headroom.artifacts.store import provenance
from lm_headroom.results.matrix import NAMES, Component, ResultsMatrix
from lm_headroom.study.criteria import criteria_of
from lm_headroom.study.ranking_names import VARIANTS

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


def scored_by(matrix: ResultsMatrix, component: Component) -> str:
    """The criterion of the scores of heads, or of those of FFNs by gradients, as the first task's artifacts say.

    A criterion that ranks heads alone leaves FFNs `token`, which also stands where the artifacts do not say.
    """
    artifact = {"heads": "head_importance", "ffns": "ffn_gradient"}[component]
    criterion = _option(matrix.path(artifact, matrix.shots[0], task=matrix.tasks[0]), "criterion") or "token"
    return criterion if criterion in criteria_of(component) else "token"


def name_scores(matrix: ResultsMatrix, component: Component) -> str:
    """``gradient scores of heads``, or ``scores of heads by `fisher```, where that is no variant of eq. 8."""
    criterion, parts = scored_by(matrix, component), NAMES[component]
    return f"gradient scores of {parts}" if criterion in VARIANTS else f"scores of {parts} by `{criterion}`"


def _option(path: Path, name: str) -> str | None:
    options = provenance(path).get("options", {}) if path.is_file() else {}
    return str(options[name]) if name in options else None
