"""Findings 1 and 2: how many heads or FFNs can be pruned, each task under its own ranking.

The sharpest outcome gives the verdict, and the others stand beside it. Which one is the sharpest follows from the
spread of its paired differences and its margin, and not from what it shows.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence

import numpy as np

from lm_headroom.analysis.non_inferiority import ESTIMATE_ONLY, INCONCLUSIVE, Prunable
from lm_headroom.analysis.outcomes import OUTCOMES
from lm_headroom.report.findings.criteria import criterion_sentence
from lm_headroom.report.findings.words import at, by, chance_in_words, count, loss_at, mean_at, sentence
from lm_headroom.report.pages import listed, size
from lm_headroom.report.tables.gains import gain_in_words, gain_sentence, measure_gains
from lm_headroom.report.tables.headroom import average_prunable, limits_in_words
from lm_headroom.results.chance import ChanceLevel
from lm_headroom.results.curves import AverageCurve, average, study_curves
from lm_headroom.results.margins import margin_in_words
from lm_headroom.results.matrix import AVERAGE, COMPONENTS, Component, ResultsMatrix
from lm_headroom.results.power import Judge, judges_of
from lm_headroom.study.ranking_names import OWN, drawn_with


def pruning_sentence(
    matrix: ResultsMatrix, judges: Sequence[Judge], shots: int, component: Component, chance: Mapping[str, ChanceLevel]
) -> str:
    """How many heads (FFNs) can be pruned by the sharpest outcome, what the others say, and the accuracy."""
    verdicts = [average_prunable(judge.matrix, shots, component, chance) for judge in judges]
    (tasks, curve, prunable), *_ = verdicts
    others = "".join(
        f" {_in_short(judge, other_curve, other)}"
        for judge, (_, other_curve, other) in zip(judges[1:], verdicts[1:], strict=True)
    )
    whole = average(list(study_curves(matrix.by_accuracy, shots, component=component).values()))
    last = len(whole.percent) - 1
    return (
        f"- {_verdict(judges[0], shots, component, curve, prunable)}{others}"
        f"{without_tasks_at_chance(judges[0].matrix.tasks, tasks)}{without_undefined(judges)} "
        f"Over {count(len(matrix.tasks), 'task')}, accuracy averages {mean_at(whole, 0)} with all "
        f"{COMPONENTS[component]} and {mean_at(whole, last)} with {whole.percent[last]}% pruned "
        f"({chance_in_words(matrix.tasks, chance)})."
    )


def _verdict(judge: Judge, shots: int, component: Component, curve: AverageCurve, prunable: Prunable) -> str:
    """The verdict of an outcome and what it stands on."""
    parts, margin, outcome = COMPONENTS[component], margin_in_words(judge.matrix), judge.matrix.outcome
    if prunable.verdict == INCONCLUSIVE:
        return f"**Inconclusive for {parts} {at(shots)}.** {by(outcome)}, {prunable.reason}{_more(judge, prunable)}."
    if prunable.level is None:
        return (
            f"**Estimate only for {parts} {at(shots)}.** {by(outcome)}, observed losses stay within {margin} "
            f"(up to {curve.percent[prunable.estimate or 0]}% pruned), but no test can confirm it: {prunable.reason}."
        )
    limits = limits_in_words(prunable, curve)
    if not prunable.level:
        return (
            f"**No tested share of {parts} can be pruned {at(shots)}.** {by(outcome)}, no test shows a loss within "
            f"{margin} ({limits})."
        )
    share = f"{prunable.verdict.capitalize()} {curve.percent[prunable.level]}% of {parts}"
    return (
        f"**{share} can be pruned {at(shots)}.** {by(outcome)}, the loss stays within {margin} ({limits}). At that "
        f"level, pruning removes {size(curve.removed[prunable.level])} parameters and loses "
        f"{loss_at(curve, prunable.level, outcome)}."
    )


def _in_short(judge: Judge, curve: AverageCurve, prunable: Prunable) -> str:
    """What another outcome than the sharpest says."""
    verdict = prunable.verdict
    if verdict == INCONCLUSIVE:
        verdict += _more(judge, prunable)
    elif verdict != ESTIMATE_ONLY:
        verdict = f"{verdict} {curve.percent[prunable.level]}%" if prunable.level else "no tested share"
    return f"{by(judge.matrix.outcome)}: {verdict}."


def _more(judge: Judge, prunable: Prunable) -> str:
    """How many more documents would do, where a verdict lacks them."""
    if prunable.power is None:
        return ""
    if judge.more is None:
        return "; no number of documents would settle it"
    return f"; about {judge.more} more documents of each task would settle it"


def without_tasks_at_chance(tasks: Sequence[str], tested: Sequence[str]) -> str:
    """A sentence that names the tasks that are left out, being at chance level; empty where none is."""
    left_out = [task for task in tasks if task not in tested]
    if not left_out:
        return ""
    return (
        f" The verdict averages over the {count(len(tested), 'task')} above chance level, without {listed(left_out)}."
    )


def without_undefined(judges: Iterable[Judge]) -> str:
    """Sentences that name the tasks that do not define an outcome; empty where there are none."""
    return "".join(
        f" {sentence(f'{OUTCOMES[judge.matrix.outcome].title} leaves out {listed(judge.left_out)}, not defined there')}"
        for judge in judges
        if judge.left_out
    )


def control_sentences(matrix: ResultsMatrix, shots: int, component: Component) -> str:
    """The accuracy with heads (FFNs) pruned at random instead."""
    own = average(list(study_curves(matrix, shots, component=component).values()))
    # The levels between nothing and everything are where rankings differ.
    level = len(own.percent) // 2
    random = {
        name: average(list(study_curves(matrix, shots, name, component).values()))
        for name in matrix.beside_own(component)
        if drawn_with(name) is not None
    }
    if not random:
        return ""
    if len(random) == 1:
        ((name, curve),) = random.items()
        accuracy = f"({name}), accuracy is {mean_at(curve, level)}"
    else:
        values = [curve.mean[level] for curve in random.values()]
        spread = f"{min(values):.2f} to {max(values):.2f} over {len(values)} random orders"
        accuracy = f"accuracy is {np.mean(values):.2f} ({spread})"
    return (
        f" With {own.percent[level]}% of {COMPONENTS[component]} pruned at random {accuracy}; the importance ranking "
        f"reaches {mean_at(own, level)}."
    )


def pruning_findings(matrix: ResultsMatrix, component: Component, chance: Mapping[str, ChanceLevel]) -> Iterator[str]:
    """All sentences of one component."""
    by_shots = {shots: judges_of(matrix, shots, component, chance) for shots in matrix.shots}
    for shots, judges in by_shots.items():
        text = pruning_sentence(matrix, judges, shots, component, chance)
        yield text + control_sentences(matrix.by_accuracy, shots, component)
        sharpest, *others = (judge.matrix for judge in judges)
        yield from criterion_sentence(sharpest, shots, component, chance, others)
    for shots, judges in by_shots.items():
        for text in gain_sentence(judges[0].matrix, shots, component, chance):
            yield text + "".join(_gain_in_short(judge.matrix, shots, component) for judge in judges[1:])


def _gain_in_short(matrix: ResultsMatrix, shots: int, component: Component) -> str:
    """What the own ranking gains over random order by another outcome than the sharpest."""
    table = measure_gains(matrix, shots, component)
    if table is None:
        return ""
    own = table.gains[AVERAGE][OWN]
    gained = gain_in_words(OUTCOMES[matrix.outcome], own.over_random, own.over_random_limits)
    return f" {by(matrix.outcome)}: {gained}."
