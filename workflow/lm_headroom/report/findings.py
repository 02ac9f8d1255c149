"""The findings of a study in words, computed from its artifacts.

Each finding begins with its verdict in bold. A sentence says no more than its numbers: losses come with their interval
or the standard error of the paired difference, correlations with what they would be without noise, and the chance level
stands beside the accuracy that is compared with it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from lm_headroom.analysis.correlation import LEVEL, MIN_RELIABILITY, n_beyond_layers
from lm_headroom.analysis.head_selection import SELECTIONS
from lm_headroom.analysis.non_inferiority import (
    ESTIMATE_ONLY,
    INCONCLUSIVE,
    Prunable,
    find_prunable_cell,
)
from lm_headroom.analysis.ranking import count_at
from lm_headroom.artifacts.cross_task import CROSS_TASK
from lm_headroom.artifacts.oracle_agreement import ORACLE_AGREEMENT
from lm_headroom.artifacts.provenance import describe_drawn
from lm_headroom.artifacts.store import provenance, read, reads
from lm_headroom.report.pages import size, write_page
from lm_headroom.report.tables import table1
from lm_headroom.report.tables.gains import gain_sentence
from lm_headroom.report.tables.headroom import average_prunable, limits_in_words, tasks_above_chance, whole_of
from lm_headroom.report.tables.selection_bias import measure_selection_bias
from lm_headroom.results.ablation import GAIN, Effect, effects, select
from lm_headroom.results.chance import ChanceLevel, explain_overlap, read_chance_levels
from lm_headroom.results.curves import (
    Average,
    AverageCurve,
    Curve,
    Grid,
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
from lm_headroom.results.margins import margin_of
from lm_headroom.results.matrix import AVERAGE, COMPONENTS, ONE_PARTNER, Component, ResultsMatrix
from lm_headroom.settings import MARGIN
from lm_headroom.study.ranking_names import AGGREGATE, HIGHEST, ITERATIVE, LOWEST, RANDOM

Array = np.ndarray[Any, np.dtype[np.float64]]


def pruning_sentence(matrix: ResultsMatrix, shots: int, component: Component, chance: Mapping[str, ChanceLevel]) -> str:
    """Findings 1 and 2: how many heads (FFNs) can be pruned, each task under its own ranking."""
    curves = list(study_curves(matrix, shots, component=component).values())
    whole, parts = average(curves), COMPONENTS[component]
    last = len(whole.percent) - 1
    tasks, curve, prunable = average_prunable(matrix, shots, component, chance)
    return (
        f"- {_pruning_verdict(matrix, shots, component, curve, prunable)}{_above_chance(matrix, tasks)} "
        f"Over {_count(len(matrix.tasks), 'task')}, accuracy averages {_accuracy(whole, 0)} with all {parts} and "
        f"{_accuracy(whole, last)} with {whole.percent[last]}% pruned ({_chance_levels(matrix.tasks, chance)})."
    )


def _pruning_verdict(
    matrix: ResultsMatrix, shots: int, component: Component, curve: AverageCurve, prunable: Prunable
) -> str:
    """The verdict and what it stands on."""
    parts, margin = COMPONENTS[component], f"{matrix.margin or MARGIN:g} points"
    if prunable.verdict == INCONCLUSIVE:
        return f"**Inconclusive for {parts} {_with(shots)}.** {_sentence(prunable.reason)}"
    if prunable.level is None:
        return (
            f"**Estimate only for {parts} {_with(shots)}.** Observed losses stay within {margin} "
            f"(up to {curve.percent[prunable.estimate or 0]}% pruned), but no test can confirm it: {prunable.reason}."
        )
    limits = limits_in_words(prunable, curve)
    if not prunable.level:
        return (
            f"**No tested share of {parts} can be pruned {_with(shots)}.** No test shows a loss within {margin} "
            f"({limits})."
        )
    share = f"{prunable.verdict.capitalize()} {curve.percent[prunable.level]}% of {parts}"
    return (
        f"**{share} can be pruned {_with(shots)}.** The loss stays within {margin} ({limits}). At that level, "
        f"pruning removes {size(curve.removed[prunable.level])} parameters and loses {_points(curve, prunable.level)}."
    )


def _sentence(reason: str) -> str:
    return f"{reason[:1].upper()}{reason[1:]}."


def _chance_levels(tasks: Sequence[str], chance: Mapping[str, ChanceLevel]) -> str:
    """``chance level: 0.44; random choice: 0.42``, or ``chance level: 0.42`` where both are the same."""
    levels = (np.mean([getattr(chance[task], name) for task in tasks]) for name in ("level", "random_choice"))
    level, random_choice = (f"{value:.2f}" for value in levels)
    return f"chance level: {level}" + ("" if level == random_choice else f"; random choice: {random_choice}")


def _above_chance(matrix: ResultsMatrix, tasks: Sequence[str]) -> str:
    """A sentence that names the tasks that are left out, being at chance level; empty where none is."""
    left_out = [task for task in matrix.tasks if task not in tasks]
    if not left_out:
        return ""
    return (
        f" The verdict averages over the {_count(len(tasks), 'task')} above chance level, without {_listed(left_out)}."
    )


def control_sentences(matrix: ResultsMatrix, shots: int, component: Component) -> str:
    """Findings 1 and 2, continued: the accuracy with heads (FFNs) pruned at random instead."""
    own = average(list(study_curves(matrix, shots, component=component).values()))
    # The levels between nothing and everything are where rankings differ.
    level = len(own.percent) // 2
    random = {
        name: average(list(study_curves(matrix, shots, name, component).values()))
        for name in matrix.controls
        if name.startswith(RANDOM)
    }
    if not random:
        return ""
    if len(random) == 1:
        ((name, curve),) = random.items()
        accuracy = f"({name}), accuracy is {_accuracy(curve, level)}"
    else:
        values = [curve.mean[level] for curve in random.values()]
        spread = f"{min(values):.2f} to {max(values):.2f} over {len(values)} random orders"
        accuracy = f"accuracy is {np.mean(values):.2f} ({spread})"
    return (
        f" With {own.percent[level]}% of {COMPONENTS[component]} pruned at random {accuracy}; the importance ranking "
        f"reaches {_accuracy(own, level)}."
    )


def iterative_sentence(matrix: ResultsMatrix, shots: int) -> str:
    """Finding 1, continued: the gain from scoring heads again after each pruning step."""
    own, other = (study_curves(matrix, shots, ranking) for ranking in ("own", ITERATIVE))
    levels = common_levels([*own.values(), *other.values()])
    if not levels:
        return f"- **Not computed {_with(shots)}.** The study evaluated no level above 0 under iterative re-scoring."
    mean, limits = gain(own, other, levels)
    low, high = (100 * limit for limit in limits)
    effect = "improves accuracy" if low > 0 else "lowers accuracy" if high < 0 else "does not change accuracy"
    significantly = "" if low > 0 or high < 0 else " significantly"
    return (
        f"- **Iterative re-scoring of heads {effect}{significantly} {_with(shots)}.** Against scoring once, accuracy "
        f"changes by {100 * mean:+.1f} points ({low:+.1f} to {high:+.1f}), averaged over {_levels(levels)} of heads "
        f"pruned and {_count(len(matrix.tasks), 'task')}."
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
        f"- **The FFN of layer {layer + 1} matters most {_with(shots)}.** Without it, {task} loses "
        f"{_pm(loss, error)} of accuracy (layers count from 1; this is the largest of {layers * len(matrix.tasks)} "
        "measured losses, so noise has raised it)."
    )


def selection_note(matrix: ResultsMatrix) -> list[str]:
    """Finding 2, continued: whether the evaluation questions also ranked the FFNs, and the gain from that."""
    record = provenance(matrix.path("ffn_importance", matrix.shots[0], task=matrix.tasks[0]))
    sentences = [selection_bias_sentence(matrix, shots) for shots in matrix.shots if matrix.selection_bias]
    if record.get("options", {}).get("selection") != "evaluation":
        return sentences
    bias = "the lines above give its size" if sentences else "the study does not measure its size"
    note = "As in the paper, the evaluation questions also rank the FFNs, so accuracies include a selection bias"
    return [*sentences, "", f"{note}: {bias}."]


def selection_bias_sentence(matrix: ResultsMatrix, shots: int) -> str:
    """Finding 2, continued: the accuracy that a ranking of FFNs gains from the documents that evaluate it."""
    row = next(row for row in measure_selection_bias(matrix, shots) if row.task == AVERAGE and row.percent is None)
    low, high = row.difference.low, row.difference.high
    effect = "raises" if low > 0 else "lowers" if high < 0 else "does not significantly change"
    return (
        f"- **Ranking FFNs on the evaluation documents {effect} accuracy {_with(shots)}.** The selection bias is "
        f"{_in_points(row.difference)}: accuracy averages {row.evaluation.value:.2f} under this ranking and "
        f"{row.scoring.value:.2f} under that of the scoring documents, over {_count(len(matrix.tasks), 'task')} and "
        f"{_count(row.n_levels, 'level')}."
    )


def joint_sentence(matrix: ResultsMatrix, shots: int, chance: Mapping[str, ChanceLevel]) -> str:
    """Finding 2, continued: heads and FFNs together."""
    grids = dict(zip(matrix.tasks, study_grids(matrix, shots), strict=True))
    tasks = tasks_above_chance(matrix.tasks, whole_of(grids), chance)
    verdict = _joint_verdict(matrix, shots, [grids[task] for task in tasks], tasks, chance)
    return f"- {verdict}{_above_chance(matrix, tasks)}"


def _joint_verdict(
    matrix: ResultsMatrix, shots: int, grids: Sequence[Grid], tasks: Sequence[str], chance: Mapping[str, ChanceLevel]
) -> str:
    grid, levels = average_grid(grids), [chance[task].level for task in tasks]
    overlap = explain_overlap(matrix, shots, "ffns", chance)
    prunable = find_prunable_cell(grid.scores, grid.removed, levels, margin_of(matrix), overlap)
    margin = f"{matrix.margin or MARGIN:g} points"
    if prunable.verdict == INCONCLUSIVE:
        return f"**Inconclusive for heads and FFNs together {_with(shots)}.** {_sentence(prunable.reason)}"
    cell = prunable.cell or prunable.estimate or (0, 0)
    share = f"{grid.heads[cell[0]]}% of heads and {grid.ffns[cell[1]]}% of FFNs"
    if prunable.verdict == ESTIMATE_ONLY:
        return (
            f"**Estimate only for heads and FFNs together {_with(shots)}.** Observed losses stay within {margin} "
            f"(up to {share}, {size(grid.removed[cell])} parameters), but no test can confirm it: {prunable.reason}."
        )
    if cell == (0, 0):
        return (
            f"**No tested share of heads and FFNs can be pruned together {_with(shots)}.** No test shows a loss "
            f"within {margin} (95% confidence)."
        )
    return (
        f"**{share} can be pruned together {_with(shots)}.** This cell removes the most parameters "
        f"({size(grid.removed[cell])}) of those shown to lose no more than {margin}; it loses {_points(grid, cell)}."
    )


def overlap_sentence(matrix: ResultsMatrix, shots: int) -> str:
    """Finding 3: whether tasks need the same heads."""
    table = read(matrix.path("cross_task", shots), CROSS_TASK, **matrix.expected(shots))
    pairs = [r for r in table.to_pylist() if AGGREGATE not in (r["task_a"], r["task_b"]) and r["task_a"] < r["task_b"]]
    if not pairs:
        return f"- **Not applicable {_with(shots)}.** The study has one task alone, so no pair can correlate."
    srcc = np.array([r["srcc"] for r in pairs])
    within = [r["srcc_within_layer"] for r in pairs if r["srcc_within_layer"] is not None]
    overlap = np.mean([r["overlap_top30"] for r in pairs])
    argsort = np.mean([r["argsort_statistic"] for r in pairs])
    corrected = [r["srcc_corrected"] for r in pairs if r["srcc_corrected"] is not None]
    inside = f"Inside layers the SRCC averages {np.mean(within):.2f}" if within else "Inside layers no SRCC is defined"
    disattenuated = disattenuated_part(float(np.mean(corrected or [np.nan])), len(corrected), len(pairs), "pair")
    return (
        f"- **{agreement_verdict(n_beyond_layers(pairs), len(pairs), 'task pair')} beyond a shared layer-wise trend "
        f"{_with(shots)}.** {_permutation_test('pairs')} The SRCC between the head importances of two tasks is "
        f"{_over_pairs(srcc)}; {disattenuated}. {inside}. The top 30% of heads "
        f"overlap by {100 * overlap:.0f}% (30% by chance). The released code's argsort statistic, which is not SRCC, "
        f"is {argsort:.2f}."
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
        return f"{srcc[0]:.2f}"
    return f"{srcc.mean():.2f} on average ({srcc.min():.2f} to {srcc.max():.2f} over {_count(len(srcc), 'pair')})"


def disattenuated_part(mean: float, n_corrected: int, n: int, noun: str) -> str:
    """Part of a sentence: the mean SRCC without the noise in the scores, and over how many it is defined."""
    if not n_corrected:
        return f"no {noun} has a disattenuated SRCC, since a split-half reliability of each is below {MIN_RELIABILITY}"
    which = "" if n_corrected == n else f" over the {n_corrected} of {n} {noun}s that are reliable enough"
    return f"the disattenuated SRCC, without the noise in the scores, is {mean:.2f}{which}"


def shot_sentences(matrix: ResultsMatrix) -> list[str]:
    """Finding 3, continued: whether a task needs the same heads at another number of shots."""
    if len(matrix.shots) < 2:
        return []
    path = matrix.path("cross_shot")
    return [
        f"- **{agreement_verdict(row.n_beyond_layers, row.tasks, 'task')} between {row.shots.replace('-', ' and ')} "
        f"shots beyond a shared layer-wise trend.** {_permutation_test('tasks')} The SRCC of a task's head importances "
        f"averages {row.srcc_mean:.2f} over {_count(row.tasks, 'task')}; "
        f"{disattenuated_part(row.corrected_mean, row.n_corrected, row.tasks, 'task')}. Both numbers of shots score "
        f"the same documents. The top 30% of heads overlap by {100 * row.overlap:.0f}%."
        for row in table1.data(path, **matrix.expected())
    ]


ORACLE_MEASURES = {"loss_rise": "rise of the loss", "loss_change": "absolute change of the loss"}
"""Measures of the oracle of heads that findings report, and their names."""


def oracle_sentences(matrix: ResultsMatrix) -> list[str]:
    """Finding 3, continued: whether the gradient ranks FFNs and heads as the oracle does."""
    path = matrix.path("oracle_agreement")
    rows = read(path, ORACLE_AGREEMENT, **matrix.expected()).to_pylist()
    sentences = []
    for shots in matrix.shots:
        of_shots = [row for row in rows if row["shots"] == shots]
        sentences.append(_ffn_agreement(shots, [row for row in of_shots if row["component"] == "ffns"]))
        heads = (row for row in of_shots if row["component"] == "heads" and row["measure"] in ORACLE_MEASURES)
        sentences += map(_head_agreement, heads)
    return sentences


def _ffn_agreement(shots: int, rows: Sequence[Mapping[str, Any]]) -> str:
    """The oracle agreement of FFNs over all tasks."""
    defined = [row for row in rows if row["srcc"] is not None]
    if not defined:
        return (
            f"- **Not defined for FFNs {_with(shots)}.** On no task do gradient scores and the oracle (the accuracy "
            "lost without each FFN) have an SRCC."
        )
    srcc = np.array([row["srcc"] for row in defined])
    above = sum(row["srcc_low"] is not None and row["srcc_low"] > 0 for row in defined)
    below = sum(row["srcc_high"] is not None and row["srcc_high"] < 0 for row in defined)
    reliable = [row for row in defined if row["corrected"] is not None]
    n_tasks = _count(len(defined), "task")
    everywhere = f"{'all ' if len(defined) > 1 else ''}{n_tasks}"
    verdict = (
        f"agree with the oracle on {everywhere if above == len(defined) else f'{above} of {n_tasks}'}"
        if above
        else "do not significantly agree with the oracle on any task"
    )
    spread = f"{srcc.min():.2f} to {srcc.max():.2f} over {n_tasks}" if len(defined) > 1 else n_tasks
    text = (
        f"- **Gradient scores of FFNs {verdict} {_with(shots)}.** Their mean "
        f"SRCC is {srcc.mean():.2f} ({spread}) with the accuracy lost without each FFN; its 95% interval lies above 0 "
        f"on {above} and below 0 on {below} of them."
    )
    if not reliable:
        return f"{text} The scores are too noisy for a disattenuated SRCC."
    less = sum(row["corrected_high"] < 1 for row in reliable)
    return (
        f"{text} The disattenuated SRCC averages {np.mean([row['corrected'] for row in reliable]):.2f} over the "
        f"{_count(len(reliable), 'task')} that are reliable enough; its interval stays below 1 on {less} of them."
    )


def _head_agreement(row: Mapping[str, Any]) -> str:
    """The oracle agreement of a task's heads."""
    task, measure, n_heads = row["task"], ORACLE_MEASURES[row["measure"]], _count(row["n_components"], "head")
    if row["srcc"] is None:
        return (
            f"- **Not defined for heads on {task} {_with(row['shots'])}.** Gradient scores and the {measure} without "
            f"each of {n_heads} have no SRCC."
        )
    low, high = row["srcc_low"], row["srcc_high"]
    significant = low is not None and not low <= 0 <= high
    verdict = "do not significantly agree" if not significant else "agree" if low > 0 else "disagree"
    interval = n_heads if low is None else f"95% interval {low:.2f} to {high:.2f}, {n_heads}"
    within = row["srcc_within_layer"]
    inside = "" if within is None else f", {within:.2f} inside layers"
    text = (
        f"- **Gradient scores of heads {verdict} with the oracle on {task} {_with(row['shots'])}.** Their SRCC is "
        f"{row['srcc']:.2f} ({interval}){inside}, with the {measure} when each head is removed alone."
    )
    if not significant:
        return text
    if row["corrected"] is None:
        return f"{text} The scores are too noisy for a disattenuated SRCC."
    whether = "below" if row["corrected_high"] < 1 else "not significantly different from"
    return (
        f"{text} The disattenuated SRCC is {row['corrected']:.2f} ({row['corrected_low']:.2f} to "
        f"{row['corrected_high']:.2f}), {whether} full agreement."
    )


def aggregate_sentence(matrix: ResultsMatrix, shots: int) -> str:
    """Finding 4: the cost of the aggregate ranking against each task's own, over all tasks."""
    own, other = (study_curves(matrix, shots, ranking) for ranking in ("own", AGGREGATE))
    levels = common_levels([*own.values(), *other.values()])
    if not levels:
        return f"- **Not computed {_with(shots)}.** The study evaluated no level above 0 under both rankings."
    gained = np.array([difference(own[task], other[task], levels) for task in matrix.tasks])
    accuracy = np.mean([over_levels(curve, levels).mean() for curve in own.values()])
    change = _signed(gained[:, 0].mean(), np.sqrt((gained[:, 1] ** 2).sum()) / len(gained))
    return (
        f"- **The aggregate ranking changes accuracy by {change} {_with(shots)}.** Accuracy averages {accuracy:.2f} "
        f"under each task's own ranking ({_levels(levels)} of heads pruned, {_count(len(matrix.tasks), 'task')})."
    )


def transfer_sentence(
    matrix: ResultsMatrix, shots: int, task: str, curves: Mapping[str, Curve], chance: ChanceLevel
) -> str:
    """Finding 4, continued: one task under other rankings than its own, averaged over levels."""
    levels = common_levels(curves.values())
    if not levels:
        return (
            f"- **Not computed for {task} {_with(shots)}.** The study evaluated no level above 0 under all its "
            "rankings."
        )
    own = curves["own"]
    changes = {_source(name, curve): difference(own, curve, levels) for name, curve in curves.items() if name != "own"}
    values = sorted({_change(change) for change, _ in changes.values()}, key=float)
    span = values[0] if len(values) == 1 else f"{values[0]} to {values[-1]}"
    unseen = f" The aggregate ranking does not include {task}." if task in matrix.unseen else ""
    listed = ", ".join(f"{source} {_signed(*change)}" for source, change in changes.items())
    return (
        f"- **Other rankings change accuracy on {task} by {span} {_with(shots)}.** Under its own ranking, accuracy "
        f"averages {over_levels(own, levels).mean():.2f} ({own.mean[0]:.2f} with all heads, "
        f"{_chance_levels([task], {task: chance})}), over {_levels(levels)} of heads pruned. By ranking, the change "
        f"is: {listed}.{unseen}"
    )


def common_levels(curves: Any) -> list[int]:
    """Levels above 0 that all curves have."""
    return sorted(set.intersection(*(set(curve.percent) for curve in curves)) - {0})


def induction_sentence(matrix: ResultsMatrix, score: Score) -> str:
    """Finding 5: where induction heads are."""
    scores, n_sequences = read_induction(matrix, score)
    name = SCORES[score].replace(" ", "-")
    if scores.max() <= 0:
        return f"- **No head has a {name} score above 0.** All were measured ({_count(n_sequences, 'sequence')})."
    layer, head = np.unravel_index(int(np.argmax(scores)), scores.shape)
    strong = int((scores >= scores.max() / 2).sum())
    share = np.sort(scores.ravel())[::-1][: max(1, scores.size // 10)].sum() / scores.sum()
    return (
        f"- **Layer {layer + 1} head {head + 1} has the highest {name} score.** It scores {scores.max():.2f}, the "
        f"median head {np.median(scores):.3f} ({_count(n_sequences, 'sequence')}; layers and heads count from 1). Half "
        f"of the highest score is reached by {_count(strong, 'head')} of {scores.size}, and the top tenth of heads "
        f"holds {100 * share:.0f}% of the total."
    )


def capacity_sentence(matrix: ResultsMatrix, score: Score, shots: int) -> str:
    """Finding 5, continued: whether the aggregate ranking keeps induction heads."""
    retained = read_capacity(matrix, shots, score, AGGREGATE)[AGGREGATE].retained
    total = len(retained) - 1
    kept = {percent: f"{100 * retained[count_at(percent, total)]:.0f}%" for percent in (30, 50, 70)}
    name = SCORES[score].replace(" ", "-")
    return (
        f"- **The top half of heads by {shots}-shot aggregate importance keeps {kept[50]} of the {name} score.** At "
        f"30% and 70% pruned, {kept[30]} and {kept[70]} remain (at random: 70, 50, 30%)."
    )


def ablation_sentences(matrix: ResultsMatrix) -> list[str]:
    """Finding 5, continued: whether tasks need induction heads more than random heads of the same layers."""
    if not matrix.ablated:
        return []
    measured = effects(matrix)
    percent = max(effect.cell.percent for effect in measured)
    sentences = []
    for outcome, shots in dict.fromkeys((effect.outcome, effect.shots) for effect in measured):
        cells = [e for cell, e in select(measured, outcome, shots).items() if cell.percent == percent]
        sentences += [_ablated(effect, len(matrix.ablated)) for effect in cells]
    shared = max(effect.n_shared for effect in measured)
    if shared:
        sentences.append(
            f"- **Some random draws include ablated heads.** Some layers have too few others (up to {shared:.1f} heads "
            "of a draw), which hides a part of the difference."
        )
    return sentences


def _ablated(effect: Effect, n_tasks: int) -> str:
    """The cost of ablating one choice of heads beyond random heads, as far as the interval says."""
    e, extra = effect, effect.extra
    by = "both scores" if e.cell.selection == "both" else SELECTIONS[e.cell.selection]
    heads = f"the top {e.cell.percent}% of heads by {by}"
    outcome = f"{e.shots}-shot {'gain' if e.outcome == GAIN else 'accuracy'}"
    average = (
        f"the average of {_count(e.n_controls, 'random draw')} of {_count(e.n_heads, 'head')} from the same layers"
    )
    verdict = f"Ablating {heads} costs more {outcome} than the average random draw"
    comparison = f"{_in_points(extra)} more than {average}"
    if e.beyond_controls:
        verdict = f"Ablating {heads} costs more {outcome} than each random draw"
    elif extra.low > 0:
        verdict += ", not each"
    elif extra.high < 0:
        verdict = verdict.replace(" costs more ", " costs less ")
        comparison = f"{_in_points(Estimate(-extra.value, -extra.high, -extra.low))} less than {average}"
    else:
        verdict = f"Inconclusive for {heads} and {outcome}"
        comparison = f"not significantly different from {average}: the difference is {_in_points(extra)}"
    whole = (_in_points if e.outcome == GAIN else _range)(e.whole)
    return (
        f"- **{verdict}.** The ablation loses {_in_points(e.lost)}, {comparison}. With all heads, the {outcome} "
        f"averages {whole} over {_count(n_tasks, 'task')}."
    )


def findings(matrix: ResultsMatrix) -> str:
    """The findings of one model and seed, as Markdown without a title."""
    matrix = matrix.judges[0]
    chance = read_chance_levels(matrix)
    sections = {
        "1. How many attention heads can be pruned": _head_findings(matrix, chance),
        "2. How many FFNs can be pruned, alone and together with heads": _ffn_findings(matrix, chance),
        "3. Whether tasks need the same heads": [
            *(overlap_sentence(matrix, shots) for shots in matrix.shots),
            *shot_sentences(matrix),
            *oracle_sentences(matrix),
        ],
        "4. Whether other rankings work as well": [
            *(aggregate_sentence(matrix, shots) for shots in matrix.shots),
            *(
                transfer_sentence(matrix, shots, task, curves, chance[task])
                for shots in matrix.shots
                for task, curves in transfer_curves(matrix, shots).items()
            ),
        ],
        "5. Where the induction heads are, and whether pruning keeps them": _induction_findings(matrix),
    }
    intro = (
        f"The study's tasks are {_listed(matrix.tasks)}. Values after ± are standard errors over questions; ranges of "
        "losses are 95% intervals over the same questions. A share can be pruned if a non-inferiority test at each "
        "level up to it shows, with 95% confidence, a loss within the margin (see the headroom table). A few-shot gain "
        "is the accuracy at these shots minus that at 0 shots."
    )
    return "\n".join([intro, *(line for name, lines in sections.items() for line in ("", f"## {name}", *lines)), ""])


def _pruning_findings(matrix: ResultsMatrix, component: Component, chance: Mapping[str, ChanceLevel]) -> Iterable[str]:
    for shots in matrix.shots:
        yield pruning_sentence(matrix, shots, component, chance) + control_sentences(matrix, shots, component)
    for shots in matrix.shots:
        yield from gain_sentence(matrix, shots, component)


def _head_findings(matrix: ResultsMatrix, chance: Mapping[str, ChanceLevel]) -> list[str]:
    iterative = (iterative_sentence(matrix, shots) for shots in matrix.shots if matrix.iterative)
    return [*_pruning_findings(matrix, "heads", chance), *iterative]


def _ffn_findings(matrix: ResultsMatrix, chance: Mapping[str, ChanceLevel]) -> list[str]:
    return [
        *_pruning_findings(matrix, "ffns", chance),
        *(swing_sentence(matrix, shots) for shots in matrix.shots),
        *(joint_sentence(matrix, shots, chance) for shots in matrix.shots if matrix.joint),
        *selection_note(matrix),
    ]


def _induction_findings(matrix: ResultsMatrix) -> list[str]:
    if matrix.without_induction:
        return [
            *ablation_sentences(matrix),
            "- **Not computed.** The study leaves induction scores out (`induction.sequences: 0`).",
        ]
    sentences = []
    for score in SCORES:
        sentences.append(induction_sentence(matrix, score))
        sentences += [capacity_sentence(matrix, score, shots) for shots in matrix.shots]
    return sentences + ablation_sentences(matrix)


def write(matrix: ResultsMatrix, out: Path) -> None:
    """Write the findings to ``out``.md and ``out``.html."""
    with reads() as sources:
        text = findings(matrix)
    record = describe_drawn("findings", "report.findings", sources, matrix.options, out)
    write_page(out, f"Findings: {matrix.model}, few-shot seed {matrix.seed}", text, record)


def _accuracy(curve: AverageCurve, level: int) -> str:
    return _pm(curve.mean[level], curve.stderr[level])


def _points(averaged: Average, at: Any) -> str:
    """A loss in points with its interval."""
    return _in_points(Estimate(averaged.loss[at], *(limit[at] for limit in averaged.loss_interval)))


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


def _change(value: float) -> str:
    # Adding zero makes of a negative zero, which rounding gives, a positive one.
    return f"{round(value, 2) + 0.0:+.2f}"


def _signed(value: float, error: float) -> str:
    return f"{_change(value)} ± {error:.2f}"


def _with(shots: int) -> str:
    return f"with {shots}-shot prompts"


def _levels(levels: Sequence[int]) -> str:
    """``9 levels from 10 to 90%``, or ``1 level, 50%,``."""
    if len(levels) == 1:
        return f"1 level, {levels[0]}%,"
    return f"{_count(len(levels), 'level')} from {levels[0]} to {levels[-1]}%"


def _count(n: int, noun: str) -> str:
    return f"{n} {noun}" if n == 1 else f"{n} {noun}s"


def _listed(names: Sequence[str]) -> str:
    return " and ".join(filter(None, [", ".join(names[:-1]), names[-1]]))
