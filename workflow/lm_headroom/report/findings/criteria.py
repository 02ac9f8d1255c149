"""Findings 1 and 2, continued: the study's own criterion, the best other one and a learned mask, side by side."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from lm_headroom.analysis.non_inferiority import CONFIDENCE
from lm_headroom.report.findings.words import at, by, count, levels_in_words, loss_in_words
from lm_headroom.report.tables.by_outcome import p_in_words
from lm_headroom.report.tables.criteria import Compared, compare_average
from lm_headroom.report.tables.headroom import ABOVE_CHANCE, share_in_words
from lm_headroom.results.chance import ChanceLevel
from lm_headroom.results.curves import pruning_levels
from lm_headroom.results.matrix import COMPONENTS, Component, ResultsMatrix
from lm_headroom.study.choices import Outcome
from lm_headroom.study.ranking_names import EVEN, LEARNED, OWN, is_reference


def criterion_sentence(
    matrix: ResultsMatrix,
    shots: int,
    component: Component,
    chance: Mapping[str, ChanceLevel],
    beside: Sequence[ResultsMatrix] = (),
) -> Iterator[str]:
    """Whether another criterion loses less than the study's own, and how far both are from a learned mask.

    Nothing where no other was evaluated. The best of several looks better than it is; its p value is corrected for
    their number.

    Args:
        matrix: judged by one outcome, which its tasks define.
        shots: number of few-shot examples.
        component: what is pruned.
        chance: chance levels by task.
        beside: the same judged by other outcomes, whose values stand at the end of each sentence.
    """
    group, tasks, compared = compare_average(matrix, shots, component, chance)
    by_others = [(other.outcome, compare_average(other, shots, component, chance)[2]) for other in beside]
    if LEARNED in compared:
        what = f"{COMPONENTS[component]} {at(shots)}"
        yield from _learned_sentence(matrix, compared[LEARNED], what, _in_short(by_others, LEARNED))
    if EVEN in compared:
        yield from _even_sentence(matrix, compared[EVEN], at(shots), _in_short(by_others, EVEN))
    others = _other_criteria(compared)
    if not others:
        return
    name, best = _best(others)
    assert best.mean_beyond_own is not None
    assert best.p_holm is not None
    is_better = best.p_holm < 1 - CONFIDENCE and best.mean_beyond_own[0] < 0
    what = f"the own ranking of {COMPONENTS[component]} {at(shots)}"
    verdict = f"`{name}` loses less than {what}" if is_better else f"No criterion loses significantly less than {what}"
    levels = [best.curve.percent[place] for place in pruning_levels(best.curve)]
    over = " over the tasks above chance" if group == ABOVE_CHANCE else f" and {count(len(tasks), 'task')}"
    yield (
        f"- **{verdict}.** {by(matrix.outcome)}, `{name}`, {_place(len(others))}, loses "
        f"{loss_in_words(best.mean_beyond_own, matrix.outcome)} beyond the own ranking, averaged over "
        f"{levels_in_words(levels)}{over} (p {p_in_words(best.p_holm)}, corrected for the number of rankings). "
        f"Prunable: {_share(compared[OWN])} under the own ranking, {_share(best)} under `{name}`."
        + "".join(_best_in_short(outcome, _other_criteria(rows)) for outcome, rows in by_others)
    )


def _place(n_others: int) -> str:
    return "the only other criterion" if n_others == 1 else f"the best of {n_others} criteria"


def _in_short(by_others: Sequence[tuple[Outcome, Mapping[str, Compared]]], name: str) -> str:
    """What a ranking loses beyond the own one by other outcomes."""
    return "".join(
        f" {by(outcome)}: {loss_in_words(beyond, outcome)} beyond it."
        for outcome, rows in by_others
        if name in rows and rows[name].p_holm is not None and (beyond := rows[name].mean_beyond_own) is not None
    )


def _best_in_short(outcome: Outcome, others: Mapping[str, Compared]) -> str:
    """The best criterion by another outcome, which may be another one."""
    if not others:
        return ""
    name, best = _best(others)
    assert best.mean_beyond_own is not None
    assert best.p_holm is not None
    beyond = loss_in_words(best.mean_beyond_own, outcome)
    return f" {by(outcome)}, the best is `{name}`: {beyond} beyond the own ranking (p {p_in_words(best.p_holm)})."


def _other_criteria(compared: Mapping[str, Compared]) -> dict[str, Compared]:
    return {name: row for name, row in compared.items() if _is_other_criterion(name, row)}


def _best(others: Mapping[str, Compared]) -> tuple[str, Compared]:
    return min(others.items(), key=lambda item: item[1].mean_beyond_own or (0.0, 0.0, 0.0))


def _learned_sentence(matrix: ResultsMatrix, learned: Compared, what: str, beside: str) -> Iterator[str]:
    """What a learned mask loses beside the own ranking."""
    beyond = learned.mean_beyond_own
    # As for criteria: no p where the evaluation questions ranked what one of the two prunes.
    if beyond is not None and learned.p_holm is not None:
        verdict = "less" if beyond[2] < 0 else "more" if beyond[1] > 0 else "not significantly less"
        yield (
            f"- **A learned mask of {what} loses {verdict} than the own ranking.** {by(matrix.outcome)}, it loses "
            f"{loss_in_words(beyond, matrix.outcome)} beyond the own ranking, averaged over levels: what gates trained "
            f"on the scoring documents show to be within reach. Prunable: {_share(learned)} under the mask.{beside}"
        )


def _even_sentence(matrix: ResultsMatrix, even: Compared, when: str, beside: str) -> Iterator[str]:
    """What equal numbers of heads in each layer cost."""
    beyond = even.mean_beyond_own
    if beyond is not None and even.p_holm is not None:
        verdict = "costs more" if beyond[1] > 0 else "does not cost significantly more"
        yield (
            f"- **Pruning as many heads in each layer {verdict} than the free choice {when}.** {by(matrix.outcome)}, "
            f"`{EVEN}` loses {loss_in_words(beyond, matrix.outcome)} beyond the own ranking, averaged over levels. "
            f"Prunable: {_share(even)} under `{EVEN}`, which `export-pruned --even` follows.{beside}"
        )


def _is_other_criterion(name: str, row: Compared) -> bool:
    """Whether a ranking is by another criterion, not the own one under its name, and validly tested."""
    is_criterion = name != LEARNED and not is_reference(name)
    return row.p_holm is not None and is_criterion and bool(row.beyond_own and row.beyond_own[0].any())


def _share(row: Compared) -> str:
    return share_in_words(row.prunable, row.curve)
