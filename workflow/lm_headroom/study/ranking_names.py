"""Names of rankings. Standard library only."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import get_args

from lm_headroom.study.choices import AblationKind, LastLayerTokens, Reduction
from lm_headroom.study.criteria import CRITERIA as ROWS
from lm_headroom.study.criteria import EXPERTS, FFNS, HEADS, criteria_of, criterion_columns

OWN, AGGREGATE, ITERATIVE, LEARNED = "own", "aggregate", "iterative", "learned"
"""A task's ranking by its own scores, by those of all tasks, and by its own scored again as heads are pruned."""
AVERAGE = "average"
"""What tables and figures have in a task's place for the average over tasks."""
HIGHEST, LOWEST = "highest_srcc", "lowest_srcc"
"""Rankings of the tasks whose scores correlate with a task's own the most and the least."""
OTHER_DOCUMENTS = "other_documents"
"""Ranking of FFNs by other documents than the study ranks by."""
VARIANTS: dict[str, tuple[Reduction, LastLayerTokens]] = {
    "token": ("token", "all"),
    "example": ("example", "all"),
    "target": ("token", "target"),
}
"""The variants of eq. 8: how documents are reduced, and what the last layer's sum is divided by."""
RANDOM = "random_"
"""How names of rankings in random order begin; the seed follows."""
DRAWN = rf"{RANDOM}(0|[1-9][0-9]{{0,8}})"
"""Pattern of these names. A seed has no zeros before it, since that would be the same order once more."""
REVERSED = "reversed"
"""The own ranking from its end: the most important first."""
CRITERIA = tuple(criterion_columns(HEADS))
"""Columns of the head-importance artifact by which heads can be ranked, and the names of these rankings."""
HEAD_CRITERIA = criteria_of(HEADS)
FFN_CRITERIA = criteria_of(FFNS)
EXPERT_CRITERIA = criteria_of(EXPERTS)
ALL_CRITERIA = tuple(name for name in ROWS if name in (*HEAD_CRITERIA, *FFN_CRITERIA))
"""All criteria by which heads or FFNs can be ranked: these columns and the oracles."""
ORACLES = tuple(name for name, row in ROWS.items() if row.knockout)
"""The criteria that are losses without the component alone."""
ABLATED_OWN: dict[str, AblationKind] = {f"{OWN}_{kind}": kind for kind in get_args(AblationKind)}
"""The own ranking where removed components give something else than in the rest of the study."""
EVEN = f"{OWN}_even"
"""The own ranking in rounds that prune as many heads in each layer."""
NAMED_CONTROLS = (*ALL_CRITERIA, *ABLATED_OWN, EVEN)
"""All control rankings but the reversed one and those in random order."""


def variant_of(reduction: str, last_layer_tokens: str) -> str:
    """The variant that these options name; by example, every layer is divided by the number of documents."""
    return "example" if reduction == "example" else "target" if last_layer_tokens == "target" else "token"


def drawn_with(name: str) -> int | None:
    """The seed of a ranking in random order; None for any other ranking."""
    drawn = re.fullmatch(DRAWN, name)
    return int(drawn[1]) if drawn else None


def is_reference(name: str) -> bool:
    """Whether a ranking is an order that no criterion makes by itself: random, or the own one reversed or in rounds."""
    return name in (REVERSED, EVEN) or drawn_with(name) is not None


def expert_controls(controls: Iterable[str]) -> list[str]:
    """Which of these control rankings experts have."""
    return [name for name in controls if name in (REVERSED, *EXPERT_CRITERIA) or drawn_with(name) is not None]


def head_controls(controls: Iterable[str]) -> list[str]:
    """Which of these control rankings heads have."""
    return [
        name
        for name in controls
        if name in (REVERSED, EVEN, *ABLATED_OWN, *HEAD_CRITERIA) or drawn_with(name) is not None
    ]


def ffn_controls(controls: Iterable[str]) -> list[str]:
    """Which of these control rankings FFNs have, too."""
    return [
        name for name in controls if name in (REVERSED, *ABLATED_OWN, *FFN_CRITERIA) or drawn_with(name) is not None
    ]
