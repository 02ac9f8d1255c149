"""What figures of evaluations share: axes named by the outcome, limits as shown, and notes on tasks without it."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties

from lm_headroom.analysis.bootstrap import Interval
from lm_headroom.analysis.non_inferiority import CONFIDENCE
from lm_headroom.analysis.outcomes import OUTCOMES, explain_undefined
from lm_headroom.report.figures import style
from lm_headroom.results.chance import ChanceLevel
from lm_headroom.study.choices import ACCURACY, Outcome

AXIS = style.AXIS
"""Characters of a vertical axis's label that fit a panel's height."""
BETWEEN = f"between both limits ({100 * (2 * CONFIDENCE - 1):.0f}%)"
COULD_SHOW_MORE = "at least: more questions or levels could show more"
"""What legends call the line from a tested share to its upper bound, and the mark of a share that may be larger."""


def level_label(outcome: Outcome, average: str = "", width: int = AXIS) -> str:
    """``accuracy (%)``, ``loss of the gold continuation (nats per token, lower is better)``.

    Args:
        outcome: the outcome.
        average: a word before its name.
        width: of a line, in characters.
    """
    spec = OUTCOMES[outcome]
    brackets = _in_brackets(_unit(outcome, "%"), "lower is better" if spec.is_cost else "")
    return _wrap(f"{average} {spec.title}".strip(), brackets, width)


def loss_label(outcome: Outcome, without: str) -> str:
    """``accuracy lost without the FFN (points)``; a cost rises."""
    spec = OUTCOMES[outcome]
    return _wrap(f"{spec.loss_title} {without}", _in_brackets(_unit(outcome, spec.unit)), AXIS)


def gain_label(outcome: Outcome) -> str:
    """``few-shot gain (points)``, which is positive where examples help."""
    return f"few-shot gain ({OUTCOMES[outcome].unit})"


def _unit(outcome: Outcome, points: str) -> str:
    """The unit beside a title, which may name it already."""
    spec = OUTCOMES[outcome]
    return "" if spec.unit in spec.title else points if spec.unit == "points" else spec.unit


def _wrap(label: str, brackets: str, width: int) -> str:
    """Lines of at most so many characters, none of which ends within the brackets."""
    text = textwrap.fill(f"{label} {brackets.replace(' ', chr(160))}".strip(), width, break_long_words=False)
    return text.replace(chr(160), " ")


def _in_brackets(*parts: str) -> str:
    text = ", ".join(filter(None, parts))
    return f"({text})" if text else ""


def subject(outcome: Outcome) -> str:
    """The outcome as the first words of a title."""
    return OUTCOMES[outcome].title.capitalize()


def shown_limits(outcome: Outcome, limits: Interval) -> Interval:
    """Limits of a score as they are shown, the lower one first."""
    shown = OUTCOMES[outcome].shown
    low, high = (limits.high, limits.low) if OUTCOMES[outcome].is_cost else (limits.low, limits.high)
    return Interval(shown(low), shown(high))


def shown_loss_limits(outcome: Outcome, limits: Interval) -> Interval:
    """Limits of a loss as they are shown."""
    return Interval(*map(OUTCOMES[outcome].shown_loss, (limits.low, limits.high)))


def chance_line(axes: Axes, chance: Iterable[ChanceLevel], outcome: Outcome) -> None:
    """The score that needs no model, on average over tasks, where an outcome has one.

    That is the chance level for accuracies, and an equal probability of all choices for that of the gold one.
    """
    spec = OUTCOMES[outcome]
    if spec.is_share:
        scores = [level.level if outcome.startswith(ACCURACY) else level.random_choice for level in chance]
        axes.axhline(spec.shown(np.mean(scores)), color="0.6", linewidth=0.8, linestyle=(0, (6, 2)), label="chance")


def note(figure: Figure, outcome: Outcome, left_out: Sequence[str], *more: str) -> None:
    """A note below the panels: tasks that the figure leaves out, and why, and what else it says."""
    why = [f"Not shown: {', '.join(left_out)}, since {explain_undefined(outcome)}."] if left_out else []
    text = " ".join([*why, *more])
    if not text:
        return
    text = textwrap.fill(text, int(16 * figure.get_figwidth()))  # about 16 characters of 8 points per inch
    figure.set_figheight(figure.get_figheight() + 0.16 * len(text.splitlines()))
    if figure.legends:
        # A legend below the panels has the place of a label.
        figure.legends[0].set_title(text, prop=FontProperties(size=8))
    else:
        figure.supxlabel(text, fontsize=8)


def draw_undefined(title: str, outcome: Outcome, left_out: Sequence[str]) -> Figure:
    """The figure of a study none of whose tasks defines the outcome: it says so."""
    figure, (ax,) = style.panels(1, width=6, height=2)
    ax.text(0.5, 0.5, f"No task of this figure defines {OUTCOMES[outcome].title}.", ha="center", va="center")
    ax.set_axis_off()
    style.headline(figure, title)
    note(figure, outcome, left_out)
    return figure
