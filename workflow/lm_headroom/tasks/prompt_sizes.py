"""Count the text of prompts when they are rendered; the time limits of cluster jobs follow from it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import groupby
from operator import itemgetter
from typing import Any

from lm_headroom.artifacts.prompts import EVALUATION, IMPORTANCE

Rows = Sequence[tuple[str, str]]
"""Context and continuation of a document's choices."""


def prompt_sizes(columns: Mapping[str, Sequence[Any]]) -> dict[str, dict[str, int]]:
    """Count the characters of scoring documents with their first right choice, with all choices, and of evaluation.

    Args:
        columns: columns of a prompts artifact; rows of a document are adjacent.

    Returns:
        For each of ``scoring``, ``scoring_choices`` and ``evaluation``: ``columns``, characters that are read, with
        what a document's choices begin with counted once; ``pairs``, pairs of them inside documents; ``logits``,
        characters of continuations.
    """
    totals = {name: dict.fromkeys(("columns", "pairs", "logits"), 0) for name in LOADS}
    names = ("purpose", "doc_id", "context", "continuation", "gold")
    rows = zip(*(columns[name] for name in names), strict=True)
    for (purpose, _), members in groupby(rows, key=itemgetter(0, 1)):
        choices = [(context, rest, gold) for _, _, context, rest, gold in members]
        everything = [(context, rest) for context, rest, _ in choices]
        if purpose == EVALUATION:
            _add(totals["evaluation"], everything)
        elif purpose == IMPORTANCE:
            _add(totals["scoring_choices"], everything)
            _add(totals["scoring"], [(context, rest) for context, rest, gold in choices if gold][:1])
    return totals


LOADS = ("scoring", "scoring_choices", "evaluation")


def _common(texts: Sequence[str]) -> int:
    """Characters that all texts begin with."""
    first, last = min(texts), max(texts)
    pairs = zip(first, last, strict=False)
    return next((place for place, (a, b) in enumerate(pairs) if a != b), len(first))


def _add(total: dict[str, int], rows: Rows) -> None:
    contexts = [context for context, _ in rows]
    # A shared context is the rule; comparing it with itself, letter by letter, would take long.
    if len(set(contexts)) == 1:
        shared = len(contexts[0]) + _common([rest for _, rest in rows])
    else:
        shared = _common([context + rest for context, rest in rows])
    n = shared + sum(len(context) + len(rest) - shared for context, rest in rows)
    total["columns"] += n
    total["pairs"] += n * (n + 1) // 2
    total["logits"] += sum(len(rest) for _, rest in rows)
