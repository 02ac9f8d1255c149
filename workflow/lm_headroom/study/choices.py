"""Values that options of commands and keys of the study can have. Standard library only."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final, Literal, get_args

from lm_headroom.settings import MARGIN, AddBos, Dtype

__all__ = ["AddBos", "Dtype"]

Reduction = Literal["token", "example"]
LastLayerTokens = Literal["all", "target"]
Device = Literal["auto", "cpu", "cuda"]
PromptStyle = Literal["paper", "harness"]
DEFAULT_PROMPTS: PromptStyle = "paper"
Metric = Literal["question", "answer"]
Sample = Literal["first", "shuffled"]
Aggregation = Literal["mean", "mean_normalised", "mean_rank"]
Selection = Literal["evaluation", "scoring"]
AblationKind = Literal["zero", "mean", "resample"]
"""What removed heads and FFNs give."""
Statistic = Literal["spearman", "argsort"]
KnockoutOutcome = Literal[
    "accuracy", "gold_probability", "gold_probability_norm", "gold_bits_per_byte", "loss", "margin"
]
"""Outcomes of knockouts of single components."""
Outcome = Literal[KnockoutOutcome, "accuracy_norm"]
CommonComponent = Literal["heads", "ffns"]
"""What every decoder has and can lose."""
Component = Literal[CommonComponent, "experts"]
"""What can be pruned."""
HeadOutput = Literal["attention", "value"]
FigureWidth = Literal["single", "double"]
FigureTitle = Literal["above", "none"]
ImportanceScale = Literal["linear", "log", "rank"]
CapacityScale = Literal["retained", "difference"]
LEVELS = tuple(range(0, 100, 10))
"""Percents at which curves are measured, unless others are named."""
OUTCOMES = get_args(Outcome)
ACCURACY: Final = "accuracy"
"""The paper's outcome, which every study has."""
RELATIVE_OUTCOMES: tuple[Outcome, ...] = ("gold_bits_per_byte", "loss")
"""Outcomes whose margin is a percentage of what the whole model has, since their scale differs by task."""
DEFAULT_MARGINS: dict[Outcome, float] = {
    "accuracy": MARGIN,
    "accuracy_norm": MARGIN,
    # Half as many points, since a probability moves before the answer flips.
    "gold_probability": 1,
    "gold_probability_norm": 1,
    "gold_bits_per_byte": 1,
    "loss": 1,
    "margin": 0.01,
}
"""Losses that count as none unless a study says otherwise: points, of relative outcomes percent, else the unit."""


def ascending(values: Iterable[int]) -> list[int]:
    """Values in order, each once."""
    return sorted(set(values))


def with_zero(percents: Iterable[int]) -> list[int]:
    """Percents, ascending, with the model of which nothing is pruned, which is always evaluated."""
    return ascending([0, *percents])
