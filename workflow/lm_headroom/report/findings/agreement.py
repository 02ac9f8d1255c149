"""Finding 3: whether tasks, numbers of shots and the oracle agree on which heads and FFNs matter."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from lm_headroom.analysis.correlation import LEVEL, MIN_RELIABILITY, n_beyond_layers
from lm_headroom.analysis.outcomes import MEASURES, OUTCOMES
from lm_headroom.artifacts.cross_task import CROSS_TASK
from lm_headroom.artifacts.oracle_agreement import ORACLE_AGREEMENT
from lm_headroom.artifacts.store import read
from lm_headroom.report.findings.words import at, begun, count
from lm_headroom.report.tables import table1
from lm_headroom.results.matrix import ResultsMatrix
from lm_headroom.results.method import name_scores
from lm_headroom.study.ranking_names import AGGREGATE

Array = np.ndarray[Any, np.dtype[np.float64]]
ORACLE_MEASURES = {"loss_rise": "rise of the loss", "loss_change": "absolute change of the loss"}
"""Measures of the oracle of heads that findings report, and their names."""


def agreement_findings(matrix: ResultsMatrix) -> list[str]:
    """All sentences of the finding."""
    overlaps = (overlap_sentence(matrix, shots) for shots in matrix.shots)
    return [*overlaps, *shot_sentences(matrix), *oracle_sentences(matrix)]


def overlap_sentence(matrix: ResultsMatrix, shots: int) -> str:
    """Whether tasks need the same heads."""
    table = read(matrix.path("cross_task", shots), CROSS_TASK, **matrix.expected(shots))
    pairs = [r for r in table.to_pylist() if AGGREGATE not in (r["task_a"], r["task_b"]) and r["task_a"] < r["task_b"]]
    if not pairs:
        return f"- **Not applicable {at(shots)}.** The study has one task alone, so no pair can correlate."
    srcc = np.array([r["srcc"] for r in pairs])
    within = [r["srcc_within_layer"] for r in pairs if r["srcc_within_layer"] is not None]
    overlap = np.mean([r["overlap_top30"] for r in pairs])
    argsort = np.mean([r["argsort_statistic"] for r in pairs])
    corrected = [r["srcc_corrected"] for r in pairs if r["srcc_corrected"] is not None]
    inside = f"Inside layers the SRCC averages {np.mean(within):z.2f}" if within else "Inside layers no SRCC is defined"
    disattenuated = disattenuated_part(float(np.mean(corrected or [np.nan])), len(corrected), len(pairs), "pair")
    return (
        f"- **{agreement_verdict(n_beyond_layers(pairs), len(pairs), 'task pair')} beyond a shared layer-wise trend "
        f"{at(shots)}.** {_permutation_test('pairs')} The SRCC between the head importances of two tasks is "
        f"{_over_pairs(srcc)}; {disattenuated}. {inside}. The top 30% of heads "
        f"overlap by {100 * overlap:.0f}% (30% by chance). The released code's argsort statistic, which is not SRCC, "
        f"is {argsort:z.2f}."
    )


def agreement_verdict(n: int, total: int, noun: str) -> str:
    """``All 3 task pairs agree``, ``2 of 3 task pairs agree``, ``No task pair agrees``."""
    if total == 1:
        return f"The only {noun} {'agrees' if n else 'does not agree'}"
    if n in (0, total):
        return f"All {n} {noun}s agree" if n else f"No {noun} agrees"
    return f"{n} of {total} {noun}s agree{'s' if n == 1 else ''}"


def _permutation_test(nouns: str) -> str:
    """A sentence: how agreement beyond layers is tested."""
    return (
        f"The test shuffles heads within layers and key-value groups (p < {LEVEL} each; 1 in 20 {nouns} would pass by "
        "chance)."
    )


def _over_pairs(srcc: Array) -> str:
    """``0.91 on average (0.83 to 0.95 over 10 pairs)``; of a single pair its value."""
    if len(srcc) == 1:
        return f"{srcc[0]:z.2f}"
    return f"{srcc.mean():z.2f} on average ({srcc.min():z.2f} to {srcc.max():z.2f} over {count(len(srcc), 'pair')})"


def disattenuated_part(mean: float, n_corrected: int, n: int, noun: str) -> str:
    """Part of a sentence: the mean SRCC without the noise in the scores, and over how many it is defined."""
    if not n_corrected:
        return f"no {noun} has a disattenuated SRCC, since a split-half reliability of each is below {MIN_RELIABILITY}"
    which = "" if n_corrected == n else f" over the {n_corrected} of {n} {noun}s that are reliable enough"
    return f"the disattenuated SRCC, without the noise in the scores, is {mean:z.2f}{which}"


def shot_sentences(matrix: ResultsMatrix) -> list[str]:
    """Whether a task needs the same heads at another number of shots."""
    if len(matrix.shots) < 2:
        return []
    path = matrix.path("cross_shot")
    return [
        f"- **{agreement_verdict(row.n_beyond_layers, row.tasks, 'task')} between {row.shots.replace('-', ' and ')} "
        f"shots beyond a shared layer-wise trend.** {_permutation_test('tasks')} The SRCC of a task's head importances "
        f"averages {row.srcc_mean:z.2f} over {count(row.tasks, 'task')}; "
        f"{disattenuated_part(row.corrected_mean, row.n_corrected, row.tasks, 'task')}. Both numbers of shots score "
        f"the same documents. The top 30% of heads overlap by {100 * row.overlap:.0f}%."
        for row in table1.data(path, **matrix.expected())
    ]


def oracle_sentences(matrix: ResultsMatrix) -> list[str]:
    """Whether the gradient ranks FFNs and heads as the oracle does."""
    path = matrix.path("oracle_agreement")
    rows = read(path, ORACLE_AGREEMENT, **matrix.expected()).to_pylist()
    sentences = []
    for shots in matrix.shots:
        of_shots = [row for row in rows if row["shots"] == shots]
        ffns = [row for row in of_shots if row["component"] == "ffns"]
        sentences.append(_ffn_agreement(shots, ffns, name_scores(matrix, "ffns")))
        heads = (row for row in of_shots if row["component"] == "heads" and row["measure"] in ORACLE_MEASURES)
        sentences += (_head_agreement(row, name_scores(matrix, "heads")) for row in heads)
    return sentences


def _ffn_agreement(shots: int, rows: Sequence[Mapping[str, Any]], scores: str) -> str:
    """The oracle agreement of FFNs over all tasks; their scores are called ``scores``."""
    defined = [row for row in rows if row["srcc"] is not None]
    lost = f"the {OUTCOMES[MEASURES[rows[0]['measure']]].loss_title} without each FFN"
    if not defined:
        return f"- **Not defined for FFNs {at(shots)}.** On no task do {scores} and the oracle ({lost}) have an SRCC."
    srcc = np.array([row["srcc"] for row in defined])
    above = sum(row["srcc_low"] is not None and row["srcc_low"] > 0 for row in defined)
    below = sum(row["srcc_high"] is not None and row["srcc_high"] < 0 for row in defined)
    reliable = [row for row in defined if row["corrected"] is not None]
    n_tasks = count(len(defined), "task")
    everywhere = f"{'all ' if len(defined) > 1 else ''}{n_tasks}"
    verdict = (
        f"agree with the oracle on {everywhere if above == len(defined) else f'{above} of {n_tasks}'}"
        if above
        else "do not significantly agree with the oracle on any task"
    )
    spread = f"{srcc.min():z.2f} to {srcc.max():z.2f} over {n_tasks}" if len(defined) > 1 else n_tasks
    text = (
        f"- **{begun(scores)} {verdict} {at(shots)}.** Their mean "
        f"SRCC is {srcc.mean():z.2f} ({spread}) with {lost}; its 95% interval lies above 0 "
        f"on {above} and below 0 on {below} of them."
    )
    if not reliable:
        return f"{text} The scores are too noisy for a disattenuated SRCC."
    less = sum(row["corrected_high"] < 1 for row in reliable)
    return (
        f"{text} The disattenuated SRCC averages {np.mean([row['corrected'] for row in reliable]):z.2f} over the "
        f"{count(len(reliable), 'task')} that are reliable enough; its interval stays below 1 on {less} of them."
    )


def _head_agreement(row: Mapping[str, Any], scores: str) -> str:
    """The oracle agreement of a task's heads, whose scores are called ``scores``."""
    task, measure, n_heads = row["task"], ORACLE_MEASURES[row["measure"]], count(row["n_components"], "head")
    if row["srcc"] is None:
        return (
            f"- **Not defined for heads on {task} {at(row['shots'])}.** {begun(scores)} and the {measure} without "
            f"each of {n_heads} have no SRCC."
        )
    low, high = row["srcc_low"], row["srcc_high"]
    significant = low is not None and not low <= 0 <= high
    verdict = "do not significantly agree" if not significant else "agree" if low > 0 else "disagree"
    interval = n_heads if low is None else f"95% interval {low:z.2f} to {high:z.2f}, {n_heads}"
    within = row["srcc_within_layer"]
    inside = "" if within is None else f", {within:z.2f} inside layers"
    text = (
        f"- **{begun(scores)} {verdict} with the oracle on {task} {at(row['shots'])}.** Their SRCC is "
        f"{row['srcc']:z.2f} ({interval}){inside}, with the {measure} when each head is removed alone."
    )
    if not significant:
        return text
    if row["corrected"] is None:
        return f"{text} The scores are too noisy for a disattenuated SRCC."
    whether = "below" if row["corrected_high"] < 1 else "not significantly different from"
    return (
        f"{text} The disattenuated SRCC is {row['corrected']:z.2f} ({row['corrected_low']:z.2f} to "
        f"{row['corrected_high']:z.2f}), {whether} full agreement."
    )
