"""What a study found, in words, computed from its artifacts. Three findings, as the paper has three.

A sentence says no more than its numbers: losses come with the standard error of the paired difference, correlations
with their noise ceiling, and chance levels stand beside what is compared with them.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.compute as pc

from headroom import table1
from headroom.artifacts.cross_task import CROSS_TASK
from headroom.artifacts.heads import grid, read_ranking
from headroom.artifacts.prefix_matching import PREFIX_MATCHING
from headroom.artifacts.prompts import EVALUATION, PROMPTS
from headroom.artifacts.pruned_eval import PRUNED_EVAL
from headroom.artifacts.store import read
from headroom.correlation import AGGREGATE
from headroom.figures.study import Study
from headroom.ranking import count_at

Array = np.ndarray[Any, np.dtype[np.float64]]
NOISE = 2.0
"""A loss of up to this many standard errors is not told from noise here."""


@dataclass(frozen=True)
class AverageCurve:
    """Accuracy averaged over tasks, with the loss against level 0 and its paired standard error, per level."""

    percent: list[int]
    accuracy: Array
    stderr: Array
    loss: Array
    loss_stderr: Array


def average_curve(study: Study, shots: int, ranking: str) -> AverageCurve:
    """Average over the study's tasks, documents paired between levels."""
    tables = [
        read(study.cell("pruned_eval", shots, "heads", task) / f"{ranking}.parquet", PRUNED_EVAL)
        for task in study.tasks
    ]
    percent = tables[0].column("percent").to_pylist()
    accuracy, variance, loss, loss_variance = (np.zeros(len(percent)) for _ in range(4))
    for table in tables:
        correct = np.array(table.column("correct").to_pylist(), dtype=float)
        dense = correct[percent.index(0)]
        lost = dense - correct
        n = correct.shape[1]
        accuracy += correct.mean(axis=1)
        variance += correct.var(axis=1, ddof=1) / n
        loss += lost.mean(axis=1)
        loss_variance += lost.var(axis=1, ddof=1) / n
    t = len(tables)
    return AverageCurve(percent, accuracy / t, np.sqrt(variance) / t, loss / t, np.sqrt(loss_variance) / t)


def flat_until(curve: AverageCurve) -> int:
    """Largest level up to which no level loses more than ``NOISE`` paired standard errors."""
    last = curve.percent[0]
    for percent, loss, stderr in zip(curve.percent, curve.loss, curve.loss_stderr, strict=True):
        if loss > NOISE * stderr:
            break
        last = percent
    return last


def chance(study: Study, shots: int, results: Path) -> float:
    """Average over tasks of the accuracy of guessing."""
    shares = []
    for task in study.tasks:
        path = results / "prompts" / task / f"{shots}shot-seed{study.seed}.parquet"
        table = read(path, PROMPTS).filter(pc.field("purpose") == EVALUATION)
        shares.append(pc.sum(table.column("gold")).as_py() / table.num_rows)
    return float(np.mean(shares))


def heads_sentence(study: Study, shots: int) -> str:
    """Finding 1: how many heads can go."""
    curve = average_curve(study, shots, "own")
    flat = flat_until(curve)
    at = curve.percent.index(flat)
    worst = len(curve.percent) - 1
    parts = [
        f"- {shots}-shot: average accuracy over {_count(len(study.tasks), 'task')} is "
        f"{_pm(curve.accuracy[0], curve.stderr[0])} with all heads and "
        f"{_pm(curve.accuracy[worst], curve.stderr[worst])} with {curve.percent[worst]} % pruned "
        f"(guessing: {chance(study, shots, study.results.parent):.2f}).",
        f"Up to {flat} % pruned the loss is not told from noise"
        + (f" ({_pm(curve.loss[at], curve.loss_stderr[at])} at {flat} %)" if flat else ""),
    ]
    if at + 1 < len(curve.percent):
        following = at + 1
        loss = _pm(curve.loss[following], curve.loss_stderr[following])
        parts.append(f"and at {curve.percent[following]} % it is {loss}")
    sentence = f"{parts[0]} {', '.join(parts[1:])}."
    for name in (control for control in study.controls if control != "reversed"):
        control = average_curve(study, shots, name)
        # Where nothing can go, the first level with heads pruned is what there is to compare.
        level = max(at, 1) if len(control.percent) > 1 else 0
        sentence += (
            f" With heads pruned at random ({name}) it is "
            f"{_pm(control.accuracy[level], control.stderr[level])} at {control.percent[level]} %, where the "
            f"importance ranking has {_pm(curve.accuracy[level], curve.stderr[level])}."
        )
    return sentence


def overlap_sentence(study: Study, shots: int) -> str:
    """Finding 2: whether tasks need the same heads."""
    path = study.cell("correlation", shots, "cross_task").with_suffix(".parquet")
    table = read(path, CROSS_TASK)
    pairs = [r for r in table.to_pylist() if AGGREGATE not in (r["task_a"], r["task_b"]) and r["task_a"] < r["task_b"]]
    if not pairs:
        return f"- {shots}-shot: one task alone, nothing to correlate."
    srcc = np.array([r["srcc"] for r in pairs])
    within = [r["srcc_within_layer"] for r in pairs if r["srcc_within_layer"] is not None]
    ceilings = [r["noise_ceiling"] for r in pairs if r["noise_ceiling"] is not None]
    overlap = np.mean([r["overlap_top30"] for r in pairs])
    argsort = np.mean([r["argsort_statistic"] for r in pairs])
    ceiling = f"{np.mean(ceilings):.2f}" if ceilings else "not defined"
    return (
        f"- {shots}-shot: SRCC between head importances of two tasks is {srcc.mean():.2f} on average "
        f"({srcc.min():.2f} to {srcc.max():.2f} over {_count(len(pairs), 'pair')}); the noise in the scores allows at "
        f"most {ceiling}. Inside layers it is {np.mean(within):.2f}, so that part is not a profile over layers. "
        f"The top 30 % of heads overlap by {100 * overlap:.0f} % (30 % by chance). The released code's argsort "
        f"statistic, which is not SRCC, reads {argsort:.2f}."
    )


def shot_sentences(study: Study) -> list[str]:
    """Finding 2, continued: whether a task needs the same heads at another number of shots."""
    if len(study.shots) < 2:
        return []
    path = study.results / "correlation" / "cross_shot" / f"seed{study.seed}.parquet"
    return [
        f"- Between {row.shots.replace('-', ' and ')} shots: SRCC of a task's head importances is {row.srcc_mean:.2f} "
        f"on average over {_count(row.tasks, 'task')}; the top 30 % of heads overlap by {100 * row.overlap:.0f} %."
        for row in table1.data(path)
    ]


def induction_sentences(study: Study) -> list[str]:
    """Finding 3: where induction heads are and whether the aggregate ranking keeps them."""
    path = study.results / "induction" / "prefix_matching.parquet"
    table = read(path, PREFIX_MATCHING)
    scores = grid(table, "mean", path)
    layer, head = np.unravel_index(int(np.argmax(scores)), scores.shape)
    strong = int((scores >= scores.max() / 2).sum())
    share = np.sort(scores.ravel())[::-1][: max(1, scores.size // 10)].sum() / scores.sum()
    sentences = [
        f"- Layer {layer + 1} head {head + 1} (counted from 1) has the highest prefix-matching score, "
        f"{scores.max():.2f}; the median head has {np.median(scores):.3f}. {_count(strong, 'head')} of {scores.size} "
        f"reach half of the highest, and the top tenth of heads holds {100 * share:.0f} % of the total "
        f"({_count(table.column('n_sequences')[0].as_py(), 'sequence')})."
    ]
    for shots in study.shots:
        ranking = read_ranking(study.cell("ranking", shots, "heads", AGGREGATE).with_suffix(".parquet"))
        kept = {}
        for percent in (30, 50, 70):
            gone = ranking[: count_at(percent, scores.size)]
            kept[percent] = 100 * (1 - sum(scores[pair] for pair in gone) / scores.sum())
        shares = ", ".join(f"{value:.0f} % with {percent} % of heads pruned" for percent, value in kept.items())
        sentences.append(
            f"- {shots}-shot: of the total score, the aggregate ranking keeps {shares} (at random: 70, 50, 30 %)."
        )
    return sentences


def findings(study: Study) -> str:
    """The three findings of one model and seed, as Markdown."""
    lines = [
        f"# Findings: {study.model}, few-shot seed {study.seed}",
        "",
        f"Tasks: {', '.join(study.tasks)}. Values after ± are standard errors over documents.",
        "",
        "## 1. How many attention heads can go",
        *(heads_sentence(study, shots) for shots in study.shots),
        "",
        "## 2. Whether tasks need the same heads",
        *(overlap_sentence(study, shots) for shots in study.shots),
        *shot_sentences(study),
        "",
        "## 3. Where the induction heads are, and whether pruning keeps them",
        *induction_sentences(study),
        "",
    ]
    return "\n".join(lines)


def _pm(value: float, error: float) -> str:
    return f"{value:.2f} ± {error:.2f}"


def _count(n: int, noun: str) -> str:
    return f"{n} {noun}" if n == 1 else f"{n} {noun}s"
