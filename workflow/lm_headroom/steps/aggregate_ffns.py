"""Step: aggregate FFN importance over tasks (eq. 10)."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from lm_headroom.analysis.ranking import AGGREGATE, Aggregation, aggregate, ffn_columns, rank_ffns
from lm_headroom.artifacts.ffn_importance import FFN_IMPORTANCE
from lm_headroom.artifacts.ffns import layers
from lm_headroom.artifacts.provenance import build_provenance, cell_provenance
from lm_headroom.artifacts.ranking import FFN_RANKING
from lm_headroom.artifacts.store import ArtifactError, write
from lm_headroom.results.matrix import ResultsMatrix

MEANS = ("score", "accuracy_dense", "accuracy_ablated")


def run(out: Path, ranking: Path, results: Path, tasks: Sequence[str], shots: int, seed: int, how: Aggregation) -> None:
    """Write the aggregate's FFN-importance artifact and its ranking.

    Oracle scores are differences of accuracies, on one scale for all tasks and of either sign, so that there is
    nothing to normalise: ``mean_normalised`` is the mean here.

    Raises:
        ArtifactError: a task's scores are missing, damaged, or of another model, task, shot or seed.
    """
    matrix = ResultsMatrix(results, tuple(tasks), (shots,), seed)
    paths = {task: matrix.path("ffn_importance", shots, task=task) for task in tasks}
    artifacts = matrix.read_all(FFN_IMPORTANCE, paths, shots)
    scores = {
        task: {name: layers(artifact.table, name) for name in (*MEANS, "stderr")}
        for task, artifact in artifacts.items()
    }
    sizes = {task: len(values["score"]) for task, values in scores.items()}
    if len(set(sizes.values())) > 1:
        raise ArtifactError(f"{results}: tasks have FFN scores of different models, layers: {sizes}")
    means = {name: np.mean([values[name] for values in scores.values()], axis=0) for name in MEANS}
    stderr: list[float] | list[None] = (
        np.sqrt(sum(values["stderr"] ** 2 for values in scores.values())) / len(scores)
    ).tolist()
    if how == "mean_rank":
        # A rank's standard error does not follow from the scores'.
        stderr = [None] * len(means["score"])
        means["score"] = aggregate({task: v["score"][:, None] for task, v in scores.items()}, how)[0][:, 0]
    n = len(means["score"])
    columns = {
        "layer": list(range(n)),
        "stderr": stderr,
        **means,
        **{name: [None] * n for name in ("doc_id", "correct_dense", "correct_ablated")},
    }
    inputs = {task: artifact.source for task, artifact in artifacts.items()}
    cell = cell_provenance(artifacts[tasks[0]].provenance, AGGREGATE, shots, seed)
    record = build_provenance("steps.aggregate_ffns", inputs, {"aggregate": how, "tasks": list(tasks)}, cell)
    write(out, FFN_IMPORTANCE, columns, record)
    write(ranking, FFN_RANKING, ffn_columns(rank_ffns(means["score"]), means["score"]), record)
