"""Finding 1: how many attention heads can be pruned."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from lm_headroom.analysis.outcomes import OUTCOMES
from lm_headroom.report.findings.shares import pruning_findings
from lm_headroom.report.findings.words import at, by, change_in_words, common_levels, count, levels_in_words
from lm_headroom.results.chance import ChanceLevel
from lm_headroom.results.curves import study_curves
from lm_headroom.results.gain import gain
from lm_headroom.results.matrix import ResultsMatrix
from lm_headroom.results.power import Judge, judges_of
from lm_headroom.study.ranking_names import ITERATIVE


def head_findings(matrix: ResultsMatrix, chance: Mapping[str, ChanceLevel]) -> list[str]:
    """All sentences of the finding."""
    iterative = (
        iterative_sentence(judges_of(matrix, shots, "heads", chance), shots)
        for shots in matrix.shots
        if matrix.iterative
    )
    return [*pruning_findings(matrix, "heads", chance), *iterative]


def iterative_sentence(judges: Sequence[Judge], shots: int) -> str:
    """The gain from scoring heads again after each pruning step, by the sharpest outcome first."""
    matrix = judges[0].matrix
    own, other = (study_curves(matrix, shots, ranking) for ranking in ("own", ITERATIVE))
    levels = common_levels([*own.values(), *other.values()])
    if not levels:
        return f"- **Not computed {at(shots)}.** The study evaluated no level above 0 under iterative re-scoring."
    mean, (low, high) = gain(own, other, levels)
    title = OUTCOMES[matrix.outcome].title
    effect = "improves" if low > 0 else "worsens" if high < 0 else "does not change"
    significantly = "" if low > 0 or high < 0 else " significantly"
    return (
        f"- **Iterative re-scoring of heads {effect} {title}{significantly} {at(shots)}.** Against scoring once, it "
        f"changes by {change_in_words(mean, (low, high), matrix.outcome)}, averaged over {levels_in_words(levels)} of "
        f"heads pruned and {count(len(matrix.tasks), 'task')}."
        + "".join(_in_short(judge.matrix, shots, levels) for judge in judges[1:])
    )


def _in_short(matrix: ResultsMatrix, shots: int, levels: Sequence[int]) -> str:
    own, other = (study_curves(matrix, shots, ranking) for ranking in ("own", ITERATIVE))
    return f" {by(matrix.outcome)}: {change_in_words(*gain(own, other, levels), matrix.outcome)}."
