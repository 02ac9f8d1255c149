"""Finding 5: where induction heads are, and whether tasks need them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np

from lm_headroom.analysis.head_selection import SELECTIONS
from lm_headroom.analysis.outcomes import OUTCOMES
from lm_headroom.analysis.ranking import count_at
from lm_headroom.report.findings.shares import without_undefined
from lm_headroom.report.findings.words import by, count, loss_in_words, score_with_interval
from lm_headroom.results.ablation import GAIN, Effect, effects, select
from lm_headroom.results.chance import ChanceLevel
from lm_headroom.results.estimates import Estimate
from lm_headroom.results.induction import SCORES, Score, read_capacity, read_induction
from lm_headroom.results.matrix import ResultsMatrix
from lm_headroom.results.power import judges_of
from lm_headroom.study.choices import Outcome
from lm_headroom.study.ranking_names import AGGREGATE


def induction_findings(matrix: ResultsMatrix, chance: Mapping[str, ChanceLevel]) -> list[str]:
    """All sentences of the finding."""
    if matrix.without_induction:
        return [
            *ablation_sentences(matrix, chance),
            "- **Not computed.** The study leaves induction scores out (`induction.sequences: 0`).",
        ]
    sentences = []
    for score in SCORES:
        sentences.append(induction_sentence(matrix, score))
        sentences += [capacity_sentence(matrix, score, shots) for shots in matrix.shots]
    return sentences + ablation_sentences(matrix, chance)


def induction_sentence(matrix: ResultsMatrix, score: Score) -> str:
    """Where induction heads are."""
    scores, n_sequences, layers = read_induction(matrix, score)
    name = SCORES[score].replace(" ", "-")
    if scores.max() <= 0:
        return f"- **No head has a {name} score above 0.** All were measured ({count(n_sequences, 'sequence')})."
    row, head = np.unravel_index(int(np.argmax(scores)), scores.shape)
    strong = int((scores >= scores.max() / 2).sum())
    share = np.sort(scores.ravel())[::-1][: max(1, scores.size // 10)].sum() / scores.sum()
    return (
        f"- **Layer {layers[row] + 1} head {head + 1} has the highest {name} score.** It scores {scores.max():.2f}, "
        f"the median head {np.median(scores):.3f} ({count(n_sequences, 'sequence')}; layers and heads count from 1). "
        f"Half of the highest score is reached by {count(strong, 'head')} of {scores.size}, and the top tenth of heads "
        f"holds {100 * share:.0f}% of the total."
    )


def capacity_sentence(matrix: ResultsMatrix, score: Score, shots: int) -> str:
    """Whether the aggregate ranking keeps induction heads."""
    retained = read_capacity(matrix, shots, score, AGGREGATE)[AGGREGATE].retained
    total = len(retained) - 1
    kept = {percent: f"{100 * retained[count_at(percent, total)]:.0f}%" for percent in (30, 50, 70)}
    name = SCORES[score].replace(" ", "-")
    return (
        f"- **The top half of heads by {shots}-shot aggregate importance keeps {kept[50]} of the {name} score.** At "
        f"30% and 70% pruned, {kept[30]} and {kept[70]} remain (at random: 70, 50, 30%)."
    )


def ablation_sentences(matrix: ResultsMatrix, chance: Mapping[str, ChanceLevel]) -> list[str]:
    """Whether tasks need induction heads more than random heads of the same layers, by the sharpest outcome first."""
    if not matrix.ablated:
        return []
    of_study = judges_of(matrix, matrix.shots[0], "heads", chance)
    judges = [judge for judge in of_study if judge.matrix.ablated]
    if not judges:
        return []
    # Of the ablated tasks, which others than those of the study may be among.
    undefined = without_undefined(
        replace(judge, left_out=tuple(task for task in matrix.ablated if task not in judge.matrix.ablated))
        for judge in of_study
    )
    measured = {judge.matrix.outcome: effects(judge.matrix) for judge in judges}
    lead, *others = measured.items()
    n_tasks = len(judges[0].matrix.ablated)
    percent = max(effect.cell.percent for effect in lead[1])
    sentences = []
    for gained, shots in dict.fromkeys((effect.outcome == GAIN, effect.shots) for effect in lead[1]):
        selected = {
            outcome: select(of_outcome, GAIN if gained else outcome, shots) for outcome, of_outcome in (lead, *others)
        }
        for cell, effect in selected[lead[0]].items():
            if cell.percent == percent:
                beside = [(outcome, selected[outcome][cell]) for outcome, _ in others]
                sentences.append(_ablated(effect, lead[0], n_tasks) + _in_short(beside) + undefined)
    shared = max(effect.n_shared for effect in lead[1])
    if shared:
        sentences.append(
            f"- **Some random draws include ablated heads.** Some layers have too few others (up to {shared:.1f} heads "
            "of a draw), which hides a part of the difference."
        )
    return sentences


def _in_short(beside: Sequence[tuple[Outcome, Effect]]) -> str:
    """What the ablation costs beyond random heads by other outcomes."""
    return "".join(f" {by(outcome)}: {loss_in_words(effect.extra, outcome)}." for outcome, effect in beside)


def _ablated(effect: Effect, judged: Outcome, n_tasks: int) -> str:
    """The cost of ablating one choice of heads beyond random heads, as far as the interval says."""
    e, extra = effect, effect.extra
    selection = "both scores" if e.cell.selection == "both" else SELECTIONS[e.cell.selection]
    heads = f"the top {e.cell.percent}% of heads by {selection}"
    is_gain = e.outcome == GAIN
    outcome = f"{e.shots}-shot {OUTCOMES[judged].title}{' gain' if is_gain else ''}"
    average = f"the average of {count(e.n_controls, 'random draw')} of {count(e.n_heads, 'head')} from the same layers"
    verdict = f"Ablating {heads} costs more {outcome} than the average random draw"
    comparison = f"{loss_in_words(extra, judged)} more than {average}"
    if e.beyond_controls:
        verdict = f"Ablating {heads} costs more {outcome} than each random draw"
    elif extra.low > 0:
        verdict += ", not each"
    elif extra.high < 0:
        verdict = verdict.replace(" costs more ", " costs less ")
        comparison = f"{loss_in_words(Estimate(-extra.value, -extra.high, -extra.low), judged)} less than {average}"
    else:
        verdict = f"Inconclusive for {heads} and {outcome}"
        comparison = f"not significantly different from {average}: the difference is {loss_in_words(extra, judged)}"
    whole = loss_in_words(e.whole, judged) if is_gain else score_with_interval(e.whole, judged)
    return (
        f"- **{verdict}.** The ablation loses {loss_in_words(e.lost, judged)}, {comparison}. With all heads, the "
        f"{outcome} averages {whole} over {count(n_tasks, 'task')}."
    )
