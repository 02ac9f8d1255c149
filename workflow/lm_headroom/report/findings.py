"""What a study found, in words, computed from its artifacts.

A sentence says no more than its numbers: losses come with the standard error of the paired difference, correlations
with what they would be without noise, and chance levels stand beside what is compared with them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from lm_headroom.analysis.correlation import LEVEL, MIN_RELIABILITY, n_beyond_layers
from lm_headroom.analysis.head_selection import SELECTIONS
from lm_headroom.analysis.non_inferiority import CERTIFIED, ESTIMATE_ONLY, NOT_CERTIFIABLE, certify_grid
from lm_headroom.analysis.ranking import AGGREGATE, ITERATIVE, count_at
from lm_headroom.artifacts.cross_task import CROSS_TASK
from lm_headroom.artifacts.oracle_agreement import ORACLE_AGREEMENT
from lm_headroom.artifacts.provenance import describe_drawn
from lm_headroom.artifacts.store import provenance, read, reads
from lm_headroom.report.pages import size, write_page
from lm_headroom.report.tables import table1
from lm_headroom.report.tables.gains import gain_sentence
from lm_headroom.report.tables.headroom import certifiable, certified_average, what_can_go, whole_of
from lm_headroom.report.tables.selection_bias import optimism
from lm_headroom.results.ablation import ACCURACY, GAIN, Effect, effects, select
from lm_headroom.results.chance import Chance, chances, judged_by_rankers
from lm_headroom.results.curves import (
    Average,
    AverageCurve,
    Curve,
    average,
    average_grid,
    difference,
    over_levels,
    study_curves,
    study_grids,
    transfer_curves,
)
from lm_headroom.results.estimates import Estimate
from lm_headroom.results.ffns import read_ffns
from lm_headroom.results.gain import gain
from lm_headroom.results.induction import SCORES, Score, read_capacity, read_induction
from lm_headroom.results.matrix import AVERAGE, COMPONENTS, ONE_PARTNER, Component, ResultsMatrix
from lm_headroom.settings import MARGIN
from lm_headroom.study.ranking_names import HIGHEST, LOWEST, RANDOM

Array = np.ndarray[Any, np.dtype[np.float64]]


def pruning_sentence(matrix: ResultsMatrix, shots: int, component: Component, known: Mapping[str, Chance]) -> str:
    """Findings 1 and 2: how many heads (FFNs) can go, each task under its own ranking."""
    whole = average(list(study_curves(matrix, shots, component=component).values()))
    last, what, margin = len(whole.percent) - 1, COMPONENTS[component], matrix.margin or MARGIN
    tasks, curve, found = certified_average(matrix, shots, component, known)
    start = (
        f"- {shots}-shot: average accuracy over {_count(len(matrix.tasks), 'task')} is {_accuracy(whole, 0)} with all "
        f"{what} and {_accuracy(whole, last)} with {whole.percent[last]}% pruned ({_chance(matrix.tasks, known)}). "
    )
    of = _above_chance(matrix, tasks)
    if found.verdict == NOT_CERTIFIABLE:
        return (
            f"{start}How many can go at a loss of {margin:g} points at most{of} is {NOT_CERTIFIABLE}: {found.reason}."
        )
    if found.level is None:
        share = f"{curve.percent[found.estimate or 0]}%"
        return (
            f"{start}No observed loss exceeds {margin:g} points up to {share} of them{of}, which is no certificate: "
            f"{found.reason}."
        )
    lost = (
        f"; the loss there is {_points(curve, found.level)}, {size(curve.removed[found.level])} parameters"
        if found.level
        else ""
    )
    return f"{start}Of them {what_can_go(found, curve)} can go at a loss of {margin:g} points at most{of}{lost}."


def _chance(tasks: Sequence[str], known: Mapping[str, Chance]) -> str:
    """``chance: 0.44; guessing: 0.42``, or ``chance: 0.42`` where nothing but guessing makes it."""
    level, guessing = (np.mean([getattr(known[task], name) for task in tasks]) for name in ("level", "guessing"))
    return f"chance: {level:.2f}" + ("" if f"{level:.2f}" == f"{guessing:.2f}" else f"; guessing: {guessing:.2f}")


def _above_chance(matrix: ResultsMatrix, tasks: Sequence[str]) -> str:
    """Part of a sentence: which tasks are left out, being at chance."""
    left_out = [task for task in matrix.tasks if task not in tasks]
    if not left_out:
        return ""
    return f" on average over the {_count(len(tasks), 'task')} above chance (without {', '.join(left_out)})"


def control_sentences(matrix: ResultsMatrix, shots: int, component: Component) -> str:
    """Findings 1 and 2, continued: what heads (FFNs) drawn at random cost instead."""
    own = average(list(study_curves(matrix, shots, component=component).values()))
    # The levels between nothing and everything are what rankings are told apart at.
    level = len(own.percent) // 2
    drawn = {
        name: average(list(study_curves(matrix, shots, name, component).values()))
        for name in matrix.controls
        if name.startswith(RANDOM)
    }
    if not drawn:
        return ""
    if len(drawn) == 1:
        ((name, curve),) = drawn.items()
        said = f"({name}) it is {_accuracy(curve, level)}"
    else:
        found = [curve.accuracy[level] for curve in drawn.values()]
        said = f"it is {np.mean(found):.2f} ({min(found):.2f} to {max(found):.2f} over {len(found)} random orders)"
    return (
        f" With {COMPONENTS[component]} pruned at random {said} at {own.percent[level]}%, where the importance "
        f"ranking has {_accuracy(own, level)}."
    )


def iterative_sentence(matrix: ResultsMatrix, shots: int) -> str:
    """Finding 1, continued: what is gained by computing importance again while heads go."""
    own, other = (study_curves(matrix, shots, ranking) for ranking in ("own", ITERATIVE))
    levels = common_levels([*own.values(), *other.values()])
    if not levels:
        return f"- {shots}-shot: no level above 0 was evaluated under the iterative ranking."
    mean, limits = gain(own, other, levels)
    low, high = (100 * limit for limit in limits)
    told = "a gain" if low > 0 else "a loss" if high < 0 else "not told from no change"
    return (
        f"- {shots}-shot, importance computed again after each step of heads that go, instead of once: averaged over "
        f"{_levels(levels)} of heads pruned and {_count(len(matrix.tasks), 'task')}, accuracy changes by "
        f"{100 * mean:+.1f} points ({low:+.1f} to {high:+.1f}), {told}."
    )


def largest_swing(matrix: ResultsMatrix, shots: int, tasks: Sequence[str]) -> tuple[str, int, float, float]:
    """Task, layer (from 0), loss and standard error of the FFN whose removal costs the most accuracy."""
    importance = read_ffns(matrix, shots)
    task = max(tasks, key=lambda name: importance.tasks[name].max())
    layer = int(np.argmax(importance.tasks[task]))
    return task, layer, float(importance.tasks[task][layer]), float(importance.errors[task][layer])


def swing_sentence(matrix: ResultsMatrix, shots: int) -> str:
    """Finding 2, continued: the single FFN that matters most."""
    task, layer, loss, error = largest_swing(matrix, shots, matrix.tasks)
    layers = len(read_ffns(matrix, shots).average)
    return (
        f"- {shots}-shot, one FFN: the largest loss is {_pm(loss, error)}, without the FFN of layer {layer + 1} on "
        f"{task} (counted from 1; the largest of {layers * len(matrix.tasks)} measured, so that noise has raised it)."
    )


def selection_note(matrix: ResultsMatrix) -> list[str]:
    """Finding 2, continued: whether FFNs were judged on the questions that ranked them, and what that gains."""
    record = provenance(matrix.path("ffn_importance", matrix.shots[0], task=matrix.tasks[0]))
    found = [selection_bias_sentence(matrix, shots) for shots in matrix.shots if matrix.selection_bias]
    if record.get("options", {}).get("selection") != "evaluation":
        return found
    much = "by how much, the lines above say" if found else "optimistic"
    return [*found, "", f"FFNs are ranked on the questions that their curves are measured on, as in the paper: {much}."]


def selection_bias_sentence(matrix: ResultsMatrix, shots: int) -> str:
    """Finding 2, continued: what a ranking of FFNs gains from the documents that judge it."""
    found = next(row for row in optimism(matrix, shots) if row.task == AVERAGE and row.percent is None)
    sure = "" if found.difference.low > 0 or found.difference.high < 0 else "not "
    return (
        f"- {shots}-shot, optimism: over {_count(len(matrix.tasks), 'task')} and {_count(found.n_levels, 'level')}, "
        f"accuracy is {found.evaluation.value:.2f} with FFNs ranked by the evaluation documents themselves and "
        f"{found.scoring.value:.2f} with FFNs ranked by the scoring documents; the difference, "
        f"{_in_points(found.difference)}, is {sure}told from 0."
    )


def joint_sentence(matrix: ResultsMatrix, shots: int, known: Mapping[str, Chance]) -> str:
    """Finding 2, continued: heads and FFNs together."""
    grids, margin = dict(zip(matrix.tasks, study_grids(matrix, shots), strict=True)), matrix.margin or MARGIN
    tasks = certifiable(matrix.tasks, whole_of(grids), known)
    grid = average_grid([grids[task] for task in tasks])
    chosen = judged_by_rankers(matrix, shots, "ffns", known)
    found = certify_grid(grid.correct, grid.removed, [known[task].level for task in tasks], margin, chosen)
    start, of = f"- {shots}-shot, heads and FFNs together: ", _above_chance(matrix, tasks)
    if found.verdict == NOT_CERTIFIABLE:
        return f"{start}{NOT_CERTIFIABLE}{of}, {found.reason}."
    cell = found.cell or found.estimate or (0, 0)
    what = f"{grid.heads[cell[0]]}% of heads with {grid.ffns[cell[1]]}% of FFNs ({size(grid.removed[cell])} parameters)"
    if found.verdict == ESTIMATE_ONLY:
        seen = f"no observed loss exceeds {margin:g} points up to {what}{of}"
        return f"{start}{seen}, which is no certificate: {found.reason}."
    if cell == (0, 0):
        return f"{start}no cell of the grid is {CERTIFIED} to lose {margin:g} points at most{of}."
    return (
        f"{start}{what} are {CERTIFIED} to go at a loss of {margin:g} points at most{of} (it is "
        f"{_points(grid, cell)}), the most parameters of all such cells."
    )


def overlap_sentence(matrix: ResultsMatrix, shots: int) -> str:
    """Finding 3: whether tasks need the same heads."""
    table = read(matrix.path("cross_task", shots), CROSS_TASK, **matrix.expected(shots))
    pairs = [r for r in table.to_pylist() if AGGREGATE not in (r["task_a"], r["task_b"]) and r["task_a"] < r["task_b"]]
    if not pairs:
        return f"- {shots}-shot: one task alone, nothing to correlate."
    srcc = np.array([r["srcc"] for r in pairs])
    within = [r["srcc_within_layer"] for r in pairs if r["srcc_within_layer"] is not None]
    overlap = np.mean([r["overlap_top30"] for r in pairs])
    argsort = np.mean([r["argsort_statistic"] for r in pairs])
    corrected = [r["srcc_corrected"] for r in pairs if r["srcc_corrected"] is not None]
    inside = f"Inside layers it is {np.mean(within):.2f} on average" if within else "Inside layers it is not defined"
    return (
        f"- {shots}-shot: SRCC between head importances of two tasks is {_over_pairs(srcc)}; "
        f"{corrected_part(float(np.mean(corrected or [np.nan])), len(corrected), len(pairs), 'pair')}. {inside}; "
        f"{layers_part(n_beyond_layers(pairs), len(pairs), 'pair')}. The top 30% of heads overlap by "
        f"{100 * overlap:.0f}% (30% by chance). The released code's argsort statistic, which is not SRCC, reads "
        f"{argsort:.2f}."
    )


def _over_pairs(srcc: Array) -> str:
    """``0.91 on average (0.83 to 0.95 over 10 pairs)``; of a single pair its value."""
    if len(srcc) == 1:
        return f"{srcc[0]:.2f}"
    return f"{srcc.mean():.2f} on average ({srcc.min():.2f} to {srcc.max():.2f} over {_count(len(srcc), 'pair')})"


def corrected_part(mean: float, n_corrected: int, n: int, noun: str) -> str:
    """Part of a sentence: what a mean SRCC would be without the noise in the scores, and for how many it is known."""
    if not n_corrected:
        return (
            "what it would be without the noise in the scores is not known, since of each "
            f"{noun} a split-half reliability is below {MIN_RELIABILITY}"
        )
    which = "" if n_corrected == n else f" over the {n_corrected} of {n} {noun}s reliable enough to say"
    return f"corrected for the noise in the scores it is {mean:.2f}{which}"


def layers_part(n_beyond: int, n: int, noun: str) -> str:
    """Part of a sentence: how many SRCCs a profile over layers does not explain."""
    return (
        f"{n_beyond} of {_count(n, noun)} agree{'s' if n_beyond == 1 else ''} more than a profile over layers explains "
        f"(p < {LEVEL} each, heads shuffled within layers and key-value groups; 1 in 20 would by chance)"
    )


def shot_sentences(matrix: ResultsMatrix) -> list[str]:
    """Finding 3, continued: whether a task needs the same heads at another number of shots."""
    if len(matrix.shots) < 2:
        return []
    path = matrix.path("cross_shot")
    return [
        f"- Between {row.shots.replace('-', ' and ')} shots: SRCC of a task's head importances is {row.srcc_mean:.2f} "
        f"on average over {_count(row.tasks, 'task')}; "
        f"{corrected_part(row.corrected_mean, row.n_corrected, row.tasks, 'task')}; "
        f"{layers_part(row.n_beyond_layers, row.tasks, 'task')}. The scores are of the same documents at both numbers "
        f"of shots. The top 30% of heads overlap by {100 * row.overlap:.0f}%."
        for row in table1.data(path, **matrix.expected())
    ]


ORACLE_MEASURES = {
    "loss_rise": "the rise of the loss",
    "loss_change": "how much the loss of a question changes, up or down,",
}
"""What findings hold the gradient scores of heads against."""


def oracle_sentences(matrix: ResultsMatrix) -> list[str]:
    """Finding 3, continued: whether the gradient ranks FFNs and heads as the oracle does."""
    path = matrix.path("oracle_agreement")
    rows = read(path, ORACLE_AGREEMENT, **matrix.expected()).to_pylist()
    found = []
    for shots in matrix.shots:
        ffns = [row for row in rows if row["shots"] == shots and row["component"] == "ffns"]
        found.append(_ffn_agreement(shots, ffns))
        heads = [row for row in rows if row["shots"] == shots and row["component"] == "heads"]
        found += [_head_agreement(row) for row in heads if row["measure"] in ORACLE_MEASURES]
    return found


def _ffn_agreement(shots: int, rows: Sequence[Mapping[str, Any]]) -> str:
    """One sentence over all tasks."""
    start = f"- {shots}-shot: the gradient scores of FFNs have with the accuracy lost without each (the oracle) "
    known = [row for row in rows if row["srcc"] is not None]
    if not known:
        return f"{start}no SRCC that is defined."
    srcc = np.array([row["srcc"] for row in known])
    above = sum(row["srcc_low"] is not None and row["srcc_low"] > 0 for row in known)
    below = sum(row["srcc_high"] is not None and row["srcc_high"] < 0 for row in known)
    clear = [row for row in known if row["corrected"] is not None]
    less = sum(row["corrected_high"] < 1 for row in clear)
    text = f"{start}an SRCC of {srcc.mean():.2f} on average over {_count(len(known), 'task')}"
    if len(known) > 1:
        text += f" ({srcc.min():.2f} to {srcc.max():.2f})"
    text += f"; its 95% interval is above 0 on {above} and below 0 on {below} of them."
    if not clear:
        return f"{text} There is too much noise to say what it would be without noise."
    return (
        f"{text} Without noise it would be {np.mean([row['corrected'] for row in clear]):.2f} on average over the "
        f"{_count(len(clear), 'task')} with little enough noise to say; on {less} of them the interval stays below 1."
    )


def _head_agreement(row: Mapping[str, Any]) -> str:
    """One sentence of a task's heads."""
    start = (
        f"- {row['shots']}-shot, {row['task']}: over {_count(row['n_components'], 'head')}, the gradient scores have "
        f"with {ORACLE_MEASURES[row['measure']]} when each is removed alone (the oracle) "
    )
    if row["srcc"] is None:
        return f"{start}no SRCC that is defined."
    text = f"{start}an SRCC of {row['srcc']:.2f}"
    if row["srcc_low"] is not None:
        text += f" (95% interval {row['srcc_low']:.2f} to {row['srcc_high']:.2f})"
    if row["srcc_within_layer"] is not None:
        text += f", {row['srcc_within_layer']:.2f} inside layers"
    if row["srcc_low"] is None or row["srcc_low"] <= 0 <= row["srcc_high"]:
        return f"{text}: not told from none."
    if row["corrected"] is None:
        return f"{text}. There is too much noise to say what it would be without noise."
    whether = "less than full agreement" if row["corrected_high"] < 1 else "not told from full agreement"
    return (
        f"{text}. Without noise it would be {row['corrected']:.2f} ({row['corrected_low']:.2f} to "
        f"{row['corrected_high']:.2f}), {whether}."
    )


def aggregate_sentence(matrix: ResultsMatrix, shots: int) -> str:
    """Finding 4: what the aggregate ranking costs against each task's own, over all tasks."""
    own, other = (study_curves(matrix, shots, ranking) for ranking in ("own", AGGREGATE))
    levels = common_levels([*own.values(), *other.values()])
    if not levels:
        return f"- {shots}-shot: no level above 0 was evaluated under both rankings."
    gained = np.array([difference(own[task], other[task], levels) for task in matrix.tasks])
    accuracy = np.mean([over_levels(curve, levels).mean() for curve in own.values()])
    change = _signed(gained[:, 0].mean(), np.sqrt((gained[:, 1] ** 2).sum()) / len(gained))
    return (
        f"- {shots}-shot: averaged over {_levels(levels)} of heads pruned and {_count(len(matrix.tasks), 'task')}, "
        f"accuracy is {accuracy:.2f} under each task's own ranking; the aggregate ranking changes it by {change}."
    )


def transfer_sentence(matrix: ResultsMatrix, shots: int, task: str, curves: Mapping[str, Curve], known: Chance) -> str:
    """Finding 4, continued: one task under other rankings than its own, averaged over levels."""
    levels = common_levels(curves.values())
    if not levels:
        return f"- {shots}-shot, {task}: no level above 0 was evaluated under all its rankings."
    own = curves["own"]
    changes = [
        f"{_source(name, curve)} {_signed(*difference(own, curve, levels))}"
        for name, curve in curves.items()
        if name != "own"
    ]
    unseen = " (no part of the aggregate)" if task in matrix.unseen else ""
    return (
        f"- {shots}-shot, {task}{unseen}: averaged over {_levels(levels)} of heads pruned, accuracy is "
        f"{over_levels(own, levels).mean():.2f} under its own ranking ({own.accuracy[0]:.2f} with all heads, "
        f"{_chance([task], {task: known})}). Other rankings change it by: {', '.join(changes)}."
    )


def common_levels(curves: Any) -> list[int]:
    """Levels above 0 that all curves have."""
    return sorted(set.intersection(*(set(curve.percent) for curve in curves)) - {0})


def induction_sentence(matrix: ResultsMatrix, score: Score) -> str:
    """Finding 5: where induction heads are."""
    scores, n_sequences = read_induction(matrix, score)
    name = SCORES[score].replace(" ", "-")
    if scores.max() <= 0:
        return f"- No head has a {name} score above 0."
    layer, head = np.unravel_index(int(np.argmax(scores)), scores.shape)
    strong = int((scores >= scores.max() / 2).sum())
    share = np.sort(scores.ravel())[::-1][: max(1, scores.size // 10)].sum() / scores.sum()
    return (
        f"- Layer {layer + 1} head {head + 1} (counted from 1) has the highest {name} score, "
        f"{scores.max():.2f}; the median head has {np.median(scores):.3f}. {_count(strong, 'head')} of {scores.size} "
        f"reach half of the highest, and the top tenth of heads holds {100 * share:.0f}% of the total "
        f"({_count(n_sequences, 'sequence')})."
    )


def capacity_sentence(matrix: ResultsMatrix, score: Score, shots: int) -> str:
    """Finding 5, continued: whether the aggregate ranking keeps induction heads."""
    retained = read_capacity(matrix, shots, score, AGGREGATE)[AGGREGATE].retained
    total = len(retained) - 1
    kept = {percent: 100 * retained[count_at(percent, total)] for percent in (30, 50, 70)}
    shares = ", ".join(f"{value:.0f}% with {percent}% of heads pruned" for percent, value in kept.items())
    return (
        f"- {shots}-shot: of the total {SCORES[score].replace(' ', '-')} score, the aggregate ranking keeps {shares} "
        "(at random: 70, 50, 30%)."
    )


def ablation_sentences(matrix: ResultsMatrix) -> list[str]:
    """Finding 5, continued: whether tasks need induction heads more than random heads of the same layers."""
    if not matrix.ablated:
        return []
    found = effects(matrix)
    percent = max(effect.cell.percent for effect in found)
    sentences = []
    for outcome, shots in dict.fromkeys((effect.outcome, effect.shots) for effect in found):
        cells = [e for cell, e in select(found, outcome, shots).items() if cell.percent == percent]
        of, first = f"over {_count(len(matrix.ablated), 'task')}", cells[0]
        what = {
            ACCURACY: f"{shots}-shot: average accuracy {of} is {_range(first.whole)}",
            GAIN: f"{shots}-shot minus 0-shot: average gain {of} is {_in_points(first.whole)}",
        }
        sentences.append(
            f"- {what[outcome]} with all heads. Without the strongest {percent}% "
            f"({_count(first.n_heads, 'head')}) " + "; ".join(map(_ablated, cells)) + "."
        )
    shared = max(effect.n_shared for effect in found)
    if shared:
        sentences.append(
            f"- Some layers have too few other heads: up to {shared:.1f} of a random draw's heads are chosen ones, "
            "which hides a part of the difference."
        )
    return sentences


def _ablated(effect: Effect) -> str:
    """What one choice of heads costs beyond random heads, as far as the interval says."""
    e, extra = effect, _in_points(effect.extra)
    draws = f"{_count(e.n_controls, 'random draw')} from the same layers"
    if e.beyond_controls:
        verdict = f"more than each of {draws}, and than their average by {extra}"
    elif e.extra.low > 0:
        verdict = f"more than the average of {draws} by {extra}, but not than each"
    elif e.extra.high < 0:
        less = Estimate(-e.extra.value, -e.extra.high, -e.extra.low)
        verdict = f"less than the average of {draws} by {_in_points(less)}"
    else:
        verdict = f"not told from the average of {draws} (difference {extra})"
    return f"by {SELECTIONS[e.cell.selection]} it loses {_in_points(e.lost)}, {verdict}"


def findings(matrix: ResultsMatrix) -> str:
    """The findings of one model and seed, as Markdown without a title."""
    known = chances(matrix)
    sections = {
        "1. How many attention heads can go": [
            *(
                pruning_sentence(matrix, shots, "heads", known) + control_sentences(matrix, shots, "heads")
                for shots in matrix.shots
            ),
            *(sentence for shots in matrix.shots for sentence in gain_sentence(matrix, shots, "heads")),
            *(iterative_sentence(matrix, shots) for shots in matrix.shots if matrix.iterative),
        ],
        "2. How many FFNs can go, alone and together with heads": [
            *(
                pruning_sentence(matrix, shots, "ffns", known) + control_sentences(matrix, shots, "ffns")
                for shots in matrix.shots
            ),
            *(sentence for shots in matrix.shots for sentence in gain_sentence(matrix, shots, "ffns")),
            *(swing_sentence(matrix, shots) for shots in matrix.shots),
            *(joint_sentence(matrix, shots, known) for shots in matrix.shots if matrix.joint),
            *selection_note(matrix),
        ],
        "3. Whether tasks need the same heads": [
            *(overlap_sentence(matrix, shots) for shots in matrix.shots),
            *shot_sentences(matrix),
            *oracle_sentences(matrix),
        ],
        "4. Whether other rankings serve as well": [
            *(aggregate_sentence(matrix, shots) for shots in matrix.shots),
            *(
                transfer_sentence(matrix, shots, task, curves, known[task])
                for shots in matrix.shots
                for task, curves in transfer_curves(matrix, shots).items()
            ),
        ],
        "5. Where the induction heads are, and whether pruning keeps them": [
            sentence
            for score in (() if matrix.without_induction else SCORES)
            for sentence in (
                induction_sentence(matrix, score),
                *(capacity_sentence(matrix, score, shots) for shots in matrix.shots),
            )
        ]
        + ablation_sentences(matrix)
        + (["- The study leaves induction scores out (`induction.sequences: 0`)."] if matrix.without_induction else []),
    }
    intro = (
        f"Tasks: {', '.join(matrix.tasks)}. Values after ± are standard errors over questions; ranges of losses are "
        "95% intervals of the same questions. What can go is certified with 95% confidence at each limit, see the "
        "lm-headroom table."
    )
    return "\n".join([intro, *(line for name, lines in sections.items() for line in ("", f"## {name}", *lines)), ""])


def write(matrix: ResultsMatrix, out: Path) -> None:
    """Write the findings to ``out``.md and ``out``.html."""
    with reads() as sources:
        text = findings(matrix)
    made = describe_drawn("findings", "report.findings", sources, matrix.options, out)
    write_page(out, f"Findings: {matrix.model}, few-shot seed {matrix.seed}", text, made)


def _accuracy(curve: AverageCurve, level: int) -> str:
    return _pm(curve.accuracy[level], curve.stderr[level])


def _points(found: Average, at: Any) -> str:
    """A loss in points with its interval."""
    return _in_points(Estimate(found.loss[at], *(limit[at] for limit in found.loss_interval)))


def _source(ranking: str, curve: Curve) -> str:
    """A ranking that is not the task's own: ``piqa's (highest correlation, 0.93)``."""
    if curve.partner is None:
        return ranking
    which = {HIGHEST: "highest", LOWEST: "lowest", ONE_PARTNER: "highest and lowest"}[ranking]
    return f"{curve.partner}'s ({which} correlation, {curve.correlation:.2f})"


def _pm(value: float, error: float) -> str:
    return f"{value:.2f} ± {error:.2f}"


def _range(estimate: Estimate) -> str:
    """``0.62 (0.55 to 0.69)``, an accuracy and its 95% interval."""
    return f"{estimate.value:.2f} ({estimate.low:.2f} to {estimate.high:.2f})"


def _in_points(estimate: Estimate) -> str:
    """A difference of accuracies in points with its 95% interval."""
    value, low, high = (100 * number for number in estimate)
    return f"{value:.1f} points ({low:.1f} to {high:.1f})"


def _signed(value: float, error: float) -> str:
    # Adding zero makes of a negative zero, which rounding gives, a positive one.
    return f"{round(value, 2) + 0.0:+.2f} ± {error:.2f}"


def _levels(levels: Sequence[int]) -> str:
    """``9 levels from 10 to 90%``, or ``1 level, 50%,``."""
    if len(levels) == 1:
        return f"1 level, {levels[0]}%,"
    return f"{_count(len(levels), 'level')} from {levels[0]} to {levels[-1]}%"


def _count(n: int, noun: str) -> str:
    return f"{n} {noun}" if n == 1 else f"{n} {noun}s"
