"""Finding 4: whether other rankings than a task's own work as well."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from lm_headroom.analysis.outcomes import OUTCOMES
from lm_headroom.report.findings.words import (
    at,
    by,
    chance_in_words,
    change_of,
    change_with_error,
    common_levels,
    count,
    levels_in_words,
    score_in_words,
)
from lm_headroom.results.chance import ChanceLevel
from lm_headroom.results.curves import Curve, difference, over_levels, study_curves, transfer_curves
from lm_headroom.results.matrix import ONE_PARTNER, ResultsMatrix
from lm_headroom.results.power import judges_of
from lm_headroom.study.choices import ACCURACY, Outcome
from lm_headroom.study.ranking_names import AGGREGATE, HIGHEST, LOWEST


def ranking_findings(matrix: ResultsMatrix, chance: Mapping[str, ChanceLevel]) -> Iterator[str]:
    """All sentences of the finding, by the outcome that is the sharpest for heads."""
    by_shots = {shots: [judge.matrix for judge in judges_of(matrix, shots, "heads", chance)] for shots in matrix.shots}
    for shots, judged in by_shots.items():
        yield aggregate_sentence(judged, shots)
    for shots, judged in by_shots.items():
        by_outcome = {one.outcome: transfer_curves(one, shots) for one in judged}
        for task in dict.fromkeys(task for curves in by_outcome.values() for task in curves):
            curves = {outcome: by_task[task] for outcome, by_task in by_outcome.items() if task in by_task}
            yield transfer_sentence(shots, task, curves, chance[task], task in matrix.unseen)


def aggregate_sentence(judged: Sequence[ResultsMatrix], shots: int) -> str:
    """The cost of the aggregate ranking against each task's own, over all tasks, by the sharpest outcome first."""
    matrix = judged[0]
    own, other = (study_curves(matrix, shots, ranking) for ranking in ("own", AGGREGATE))
    levels = common_levels([*own.values(), *other.values()])
    if not levels:
        return f"- **Not computed {at(shots)}.** The study evaluated no level above 0 under both rankings."
    title = OUTCOMES[matrix.outcome].title
    mean = float(np.mean([over_levels(curve, levels).mean() for curve in own.values()]))
    in_short = (f" {by(one.outcome)}: {_aggregate_change(one, shots, levels)}." for one in judged[1:])
    return (
        f"- **The aggregate ranking changes {title} by {_aggregate_change(matrix, shots, levels)} {at(shots)}.** It "
        f"averages {score_in_words(mean, matrix.outcome)} under each task's own ranking ({levels_in_words(levels)} of "
        f"heads pruned, {count(len(matrix.tasks), 'task')}).{''.join(in_short)}"
    )


def _aggregate_change(matrix: ResultsMatrix, shots: int, levels: Sequence[int]) -> str:
    own, other = (study_curves(matrix, shots, ranking) for ranking in ("own", AGGREGATE))
    gained = np.array([difference(own[task], other[task], levels) for task in matrix.tasks])
    error = np.sqrt((gained[:, 1] ** 2).sum()) / len(gained)
    return change_with_error(gained[:, 0].mean(), error, matrix.outcome)


def transfer_sentence(
    shots: int, task: str, by_outcome: Mapping[Outcome, Mapping[str, Curve]], chance: ChanceLevel, is_unseen: bool
) -> str:
    """One task under other rankings than its own, averaged over levels, by the sharpest outcome first."""
    (outcome, curves), *others = by_outcome.items()
    levels = common_levels(curves.values())
    if not levels:
        return (
            f"- **Not computed for {task} {at(shots)}.** The study evaluated no level above 0 under all its rankings."
        )
    own, title = curves["own"], OUTCOMES[outcome].title
    changes = {_source(name, curve): difference(own, curve, levels) for name, curve in curves.items() if name != "own"}
    listed = ", ".join(f"{source} {change_with_error(*changed, outcome)}" for source, changed in changes.items())
    unseen = f" The aggregate ranking does not include {task}." if is_unseen else ""
    in_short = "".join(f" {by(other)}: {_span(of_other, levels, other)}." for other, of_other in others)
    accuracy = "" if outcome == ACCURACY else f", accuracy {own.whole_right.mean():z.2f}"
    whole, pruned = (score_in_words(float(mean), outcome) for mean in (own.mean[0], over_levels(own, levels).mean()))
    return (
        f"- **Other rankings change {title} on {task} by {_span(curves, levels, outcome)} {at(shots)}.** Under its own "
        f"ranking, it averages {pruned} ({whole} with all heads{accuracy}, {chance_in_words([task], {task: chance})}), "
        f"over {levels_in_words(levels)} of heads pruned. By ranking, the change is: {listed}.{in_short}{unseen}"
    )


def _span(curves: Mapping[str, Curve], levels: Sequence[int], outcome: Outcome) -> str:
    """``-20.0 to +10.0 points``, changes under other rankings than the own one; one where they are the same."""
    others = (difference(curves["own"], curve, levels)[0] for name, curve in curves.items() if name != "own")
    values = sorted({change_of(mean, outcome) for mean in others}, key=float)
    return f"{' to '.join(dict.fromkeys((values[0], values[-1])))} {OUTCOMES[outcome].unit}"


def _source(ranking: str, curve: Curve) -> str:
    """A ranking that is not the task's own: ``piqa's (highest correlation, 0.93)``."""
    if curve.partner is None:
        return ranking
    which = {HIGHEST: "highest", LOWEST: "lowest", ONE_PARTNER: "highest and lowest"}[ranking]
    return f"{curve.partner}'s ({which} correlation, {curve.correlation:z.2f})"
