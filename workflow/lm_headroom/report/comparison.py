"""The page that compares the models of a study: verdicts side by side, prunable shares on one axis, tables to sort.

The page is one file, which needs neither server nor network; its links lead to each model's own pages.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

from lm_headroom.analysis.outcomes import OUTCOMES
from lm_headroom.artifacts.comparison import (
    COMPARED_INDUCTION,
    COMPARED_MODELS,
    COMPARED_PROFILES,
    COMPARED_PRUNABLE,
    COMPARED_RANKINGS,
)
from lm_headroom.artifacts.file_provenance import vouching
from lm_headroom.artifacts.provenance import describe_drawn
from lm_headroom.artifacts.store import atomic, read, reads
from lm_headroom.report.comparison_page import PAGE
from lm_headroom.report.page_parts import Files, figure, fill, packed, packed_plotly, table
from lm_headroom.report.tables.by_outcome import value_of
from lm_headroom.report.tables.headroom import levels_in_words
from lm_headroom.results.comparison import Comparison
from lm_headroom.results.matrix import COMPONENTS

_KINDS = {
    "models": COMPARED_MODELS,
    "prunable": COMPARED_PRUNABLE,
    "rankings": COMPARED_RANKINGS,
    "induction": COMPARED_INDUCTION,
    "profiles": COMPARED_PROFILES,
}
_PAGES = ("index", "explorer")
"""Pages of each model that the page leads to."""


def write(comparison: Comparison, out: Path, products: Sequence[str], captions: Mapping[str, str]) -> None:
    """Write the page that compares models to ``out``.html.

    Args:
        comparison: the models.
        out: path without suffix.
        products: artifacts and figures that it shows, each as its path below the folder of comparisons without
            suffix, an equals sign and what it is called.
        captions: of figures, by their paths, in Markdown.

    Raises:
        ArtifactError: one of them is missing, or of other models.
    """
    named = dict(product.split("=", 1) for product in products)
    folder, names = comparison.results / "comparison", [model.name for model in comparison.models]
    files = Files(folder)
    figures = [stem for stem in named if stem.startswith("figures/")]
    with reads() as sources:
        rows = {
            stem: read(folder / f"{stem}.parquet", _KINDS[stem.partition("/")[0]], models=names).to_pylist()
            for stem in named
            if stem not in figures
        }
    page = fill(
        PAGE,
        {
            "@COUNT@": str(len(names)),
            "@TABLES@": "".join(table(stem, named[stem], _cells(part)) for stem, part in rows.items()),
            "@FIGURES@": "".join(figure(s, named[s], files.embedded(f"{s}.png"), captions[s]) for s in figures),
            "@DATA@": packed(json.dumps(data(names, rows), separators=(",", ":")).encode()),
            "@PLOTLY@": packed_plotly(),
        },
    )
    options = {"models": names, "labels": comparison.labels, "products": list(products)}
    record = describe_drawn("page", "report.comparison", {**sources, **files.read}, options, out)
    with atomic(out.with_name(f"{out.name}.html")) as partial:
        partial.write_bytes(vouching(".html", page.encode(), record, {}))


def data(names: Sequence[str], rows: Mapping[str, Sequence[Mapping[str, Any]]]) -> dict[str, Any]:
    """What the verdicts and their axis show, as JSON has it.

    Args:
        names: of the models.
        rows: path of an artifact without suffix to its rows, as in ``prunable/seed1234``.

    Returns:
        ``rows`` by outcome, component, number of shots and seed, and model; ``pages`` of each model; and ``names`` of
        outcomes and components in words.
    """
    prunable = {stem: part for stem, part in rows.items() if stem.startswith("prunable/")}
    return {
        "rows": [
            {
                **{name: row[name] for name in ("model", "outcome", "component", "percent", "estimate", "below")},
                "cell": f"{row['shots']}-shot, seed {stem.partition('seed')[2]}",
                "verdict": levels_in_words(*(row[name] for name in ("verdict", "percent", "estimate", "below"))),
                "reason": row["reason"] or "",
                "score": None if row["score"] is None else value_of(row["outcome"], row["score"]),
            }
            for stem, part in prunable.items()
            for row in part
        ],
        "pages": {name: {page: f"../{quote(name)}/{page}.html" for page in _PAGES} for name in names},
        "names": {**COMPONENTS, **{name: spec.title for name, spec in OUTCOMES.items()}},
    }


def _cells(rows: Sequence[Mapping[str, Any]]) -> list[list[str]]:
    """A table's cells as text, with the columns' names first; empty where there is no value."""
    if not rows:
        return [["no rows"]]
    return [list(rows[0]), *(["" if value is None else str(value) for value in row.values()] for row in rows)]
