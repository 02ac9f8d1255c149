"""Which of the served model types can be exported without heads and experts, and in which form.

``python -m tests.served.exports`` writes them. The smaller models of a tiny one are built, and run without weights, as
an export does before it writes anything. Takes minutes, after ``python -m tests.served.models``, whose types it takes.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from lm_headroom.analysis.ranking import even_ranking
from lm_headroom.errors import HeadroomError
from lm_headroom.models.architecture import HeadLayout
from lm_headroom.models.architectures import head_layout
from lm_headroom.models.experts import check_prunable, expert_blocks
from lm_headroom.models.sizes import model_from_config
from lm_headroom.pruned.export import Pruned
from lm_headroom.pruned.forms import choose_form
from tests.served.models import PAGE, write_part
from tests.support.model_types import tiny_of_type

BEGIN = "<!-- made by tests/served/exports.py -->\n"
PLAIN, OWN = "plain", "own"
ALONE = "transformers' Auto classes do not build its language model alone"
REASONS = {
    r"one norm covers": "one norm covers the queries or keys of all heads",
    r"maps have no rows of single heads": "its maps have no rows of single heads",
    r"part of a larger one": "its language model is part of a larger one",
    r"through transformers' attention interface": "its attention does not go through transformers' attention interface",
    r"attention sinks": "lm-headroom's attention has no sinks",
    r"a pass of the smaller model fails": "its code does not run with fewer heads or experts",
    r"layers differ in": "its layers differ in key-value heads or in the width of heads",
    r"reads the keys and values of layer": "some of its layers read the keys and values of others",
}
"""Pattern of a refusal to what the page says."""


@dataclass(frozen=True)
class Exports:
    """How a type is exported: ``plain``, ``own`` (lm-headroom's classes), or why it is not.

    Attributes:
        even: without half of the heads of each layer, as many of each key-value group or half of the groups.
        uneven: without one head of one layer.
        even_experts: without an expert of each layer; None where it has none.
        uneven_experts: without one expert of one layer.
    """

    even: str
    uneven: str
    even_experts: str | None = None
    uneven_experts: str | None = None


def exports(name: str) -> Exports:
    """Try one served type."""
    try:
        model = model_from_config(tiny_of_type(name).config)
    # transformers raises it of a part of a model that it does not build alone.
    except ValueError:
        return Exports(ALONE, ALONE)
    shape, blocks = head_layout(model), expert_blocks(model)
    places = [(layer, head) for layer in shape.attending for head in range(shape.heads)]
    forms = [_even_form(model, shape, places), _form(model, heads=places[:1])]
    if blocks:
        experts = [(layer, 0) for layer in blocks]
        forms += [_form(model, experts=experts), _form(model, experts=experts[:1])]
    return Exports(*forms)


def _even_form(model: Any, shape: HeadLayout, places: Sequence[tuple[int, int]]) -> str:
    try:
        group = shape.group
    except HeadroomError as error:
        return _reason(error)
    # Rounds, so that configurations that take only numbers of heads that divide their width take this one.
    return _form(model, heads=even_ranking(places, group)[: len(places) // 2])


def _form(model: Any, heads: Sequence[tuple[int, int]] = (), experts: Sequence[tuple[int, int]] = ()) -> str:
    pruned = Pruned(tuple(heads), (), experts=tuple(experts))
    try:
        if experts:
            check_prunable(model.config.model_type, expert_blocks(model).values())
        return PLAIN if choose_form(model, pruned.left(model)).plain else OWN
    except HeadroomError as error:
        return _reason(error)


def _reason(error: HeadroomError) -> str:
    return next(reason for pattern, reason in REASONS.items() if re.search(pattern, str(error)))


def table(by_type: dict[str, Exports]) -> str:
    """The part of the page."""
    lines = ["| | without heads | without experts |", "|---|---|---|"]
    rows: dict[str, tuple[list[str], list[str]]] = {}
    for name, one in by_type.items():
        rows.setdefault(_verdict(one.even, one.uneven), ([], []))[0].append(name)
        if one.even_experts and one.uneven_experts:
            rows.setdefault(_verdict(one.even_experts, one.uneven_experts), ([], []))[1].append(name)
    for verdict, columns in sorted(rows.items(), key=lambda row: -len(row[1][0]) - len(row[1][1])):
        lines.append(f"| {verdict} | {' | '.join(', '.join(f'`{name}`' for name in names) for names in columns)} |")
    return "\n".join([*lines, ""])


def _verdict(even: str, uneven: str) -> str:
    """What the page says of an export whose layers keep as many, and of one whose layers differ."""
    if even == PLAIN and uneven in (PLAIN, OWN):
        other = "" if uneven == PLAIN else "; with lm-headroom's classes where layers differ"
        return f"a plain checkpoint where layers keep as many{other}"
    if even == PLAIN:
        return f"a plain checkpoint where layers keep as many; not where they differ: {uneven}"
    if even == uneven == OWN:
        return "with lm-headroom's classes alone"
    if even == uneven:
        return f"not at all: {even}"
    words = {OWN: "with lm-headroom's classes"}
    return (
        f"{words.get(even, f'not where layers keep as many: {even}')}; where they differ: {words.get(uneven, uneven)}"
    )


def served() -> list[str]:
    """The types that the page's table of models serves."""
    rows = re.findall(r"^\| served, [^|]*\|(.*)\|$", PAGE.read_text(encoding="utf-8"), re.MULTILINE)
    return sorted(re.findall(r"`([^`]+)`", "".join(rows)))


def main() -> None:
    """Try all served types and write the page."""
    write_part(BEGIN, table({name: exports(name) for name in served()}))


if __name__ == "__main__":
    main()
