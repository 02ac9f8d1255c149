"""Words that findings share: numbers with their errors, by any outcome, and counts and lists."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from lm_headroom.analysis.outcomes import OUTCOMES
from lm_headroom.results.chance import ChanceLevel
from lm_headroom.results.curves import Average, AverageCurve, Curve
from lm_headroom.results.estimates import Estimate
from lm_headroom.study.choices import Outcome


def begun(words: str) -> str:
    """Words that begin a sentence."""
    return words[:1].upper() + words[1:]


def sentence(reason: str) -> str:
    """A clause as a sentence."""
    return f"{begun(reason)}."


def chance_in_words(tasks: Sequence[str], chance: Mapping[str, ChanceLevel]) -> str:
    """``chance level: 0.44; random choice: 0.42``, or ``chance level: 0.42`` where both are the same."""
    levels = (np.mean([getattr(chance[task], name) for task in tasks]) for name in ("level", "random_choice"))
    level, random_choice = (f"{value:.2f}" for value in levels)
    return f"chance level: {level}" + ("" if level == random_choice else f"; random choice: {random_choice}")


def mean_at(curve: AverageCurve, level: int) -> str:
    """``0.83 ± 0.07``, an accuracy at a level."""
    return with_error(curve.mean[level], curve.stderr[level])


def loss_at(averaged: Average, at: Any, outcome: Outcome) -> str:
    """What is lost at a level or cell, with its interval."""
    return loss_in_words(Estimate(averaged.loss[at], *(limit[at] for limit in averaged.loss_interval)), outcome)


def with_error(value: float, error: float) -> str:
    """``0.83 ± 0.07``."""
    return f"{value:.2f} ± {error:.2f}"


def score_with_interval(estimate: Estimate, outcome: Outcome) -> str:
    """``0.62 (0.55 to 0.69)``, a score and its 95% interval."""
    value, *limits = (score_in_words(number, outcome) for number in estimate)
    low, high = sorted(limits, key=float)
    return f"{value} ({low} to {high})"


def loss_in_words(estimate: Estimate, outcome: Outcome) -> str:
    """``1.2 points (0.3 to 2.1)``, a loss with its 95% interval in the outcome's unit."""
    spec = OUTCOMES[outcome]
    value, low, high = (f"{spec.shown_loss(number):z.{spec.decimals}f}" for number in estimate)
    return f"{value} {spec.unit} ({low} to {high})"


def change_in_words(value: float, limits: Iterable[float], outcome: Outcome) -> str:
    """``+1.2 points (+0.3 to +2.1)``, a change of a score in the outcome's unit: of a cost, more is worse."""
    spec = OUTCOMES[outcome]
    low, high = sorted(map(spec.shown, limits))
    shown, *shown_limits = (f"{number:+z.{spec.decimals}f}" for number in (spec.shown(value), low, high))
    return f"{shown} {spec.unit} ({' to '.join(shown_limits)})"


def score_in_words(score: float, outcome: Outcome) -> str:
    """``0.68`` of an accuracy or probability, ``1.530`` bits per byte."""
    spec = OUTCOMES[outcome]
    return f"{score:z.2f}" if spec.is_share else f"{spec.shown(score):z.{spec.decimals}f}"


def change_of(value: float, outcome: Outcome) -> str:
    """``+1.7`` points, a change of a score without its unit; of a cost, more is worse."""
    spec = OUTCOMES[outcome]
    return f"{spec.shown(value):+z.{spec.decimals}f}"


def change_with_error(value: float, error: float, outcome: Outcome) -> str:
    """``+1.7 ± 0.8 points``."""
    spec = OUTCOMES[outcome]
    return f"{change_of(value, outcome)} ± {spec.shown_loss(error):.{spec.decimals}f} {spec.unit}"


def at(shots: int) -> str:
    """``with 0-shot prompts``."""
    return f"with {shots}-shot prompts"


def levels_in_words(levels: Sequence[int]) -> str:
    """``9 levels from 10 to 90%``, or ``1 level, 50%,``."""
    if len(levels) == 1:
        return f"1 level, {levels[0]}%,"
    return f"{count(len(levels), 'level')} from {levels[0]} to {levels[-1]}%"


def count(n: int, noun: str) -> str:
    """``1 task``, ``2 tasks``."""
    plural = "criteria" if noun == "criterion" else f"{noun}s"
    return f"{n} {noun}" if n == 1 else f"{n} {plural}"


def common_levels(curves: Iterable[Curve]) -> list[int]:
    """Levels above 0 that all curves have."""
    return sorted(set.intersection(*(set(curve.percent) for curve in curves)) - {0})


def by(outcome: Outcome) -> str:
    """``By gold probability``, which begins a sentence."""
    return f"By {OUTCOMES[outcome].title}"
