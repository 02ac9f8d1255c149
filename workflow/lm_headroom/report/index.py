"""A model's first page: the answer in short, figures that show it, tables to sort and filter, links to the rest."""

from __future__ import annotations

import csv
import html
from collections.abc import Mapping, Sequence
from pathlib import Path

from markdown_it import MarkdownIt

from lm_headroom.artifacts.file_provenance import vouching
from lm_headroom.artifacts.provenance import describe_drawn
from lm_headroom.artifacts.store import atomic
from lm_headroom.report.findings.page import IN_SHORT
from lm_headroom.report.index_page import PAGE
from lm_headroom.report.page_parts import Files, figure, fill, table
from lm_headroom.results.matrix import ResultsMatrix

FIRST = ("figures/prunable_share-", "figures/fig05_heads_pruned-seed")
"""Figures at the head of the page."""


def write(matrix: ResultsMatrix, out: Path, products: Sequence[str], captions: Mapping[str, str]) -> None:
    """Write a model's first page to ``out``.html.

    Args:
        matrix: the model's part of a study.
        out: path without suffix.
        products: figures, tables, findings and pages that it leads to, each as its path below the model's results
            folder without suffix, an equals sign and what it is called.
        captions: of figures, by their paths, in Markdown.

    Raises:
        ArtifactError: a file of one of them is missing.
    """
    named = dict(product.split("=", 1) for product in products)
    files = Files(matrix.results)
    figures = [stem for stem in named if stem.startswith("figures/")]
    first = [stem for start in FIRST for stem in figures if stem.startswith(start)]

    def shown(stem: str) -> str:
        return figure(stem, named[stem], files.embedded(f"{stem}.png"), captions[stem])

    texts = {
        "@MODEL@": html.escape(matrix.model),
        "@VERDICTS@": "".join(_verdicts(files, stem) for stem in named if stem.startswith("findings/")),
        "@FIRST@": "".join(shown(stem) for stem in first),
        "@FIGURES@": "".join(shown(stem) for stem in figures if stem not in first),
        "@PAGES@": _links({s: name for s, name in named.items() if not s.startswith(("figures/", "tables/"))}),
        "@TABLES@": _tables(files, {s: name for s, name in named.items() if s.startswith("tables/")}),
    }
    page = fill(PAGE, texts)
    record = describe_drawn("page", "report.index", files.read, {"products": list(products)}, out)
    with atomic(out.with_name(f"{out.name}.html")) as partial:
        partial.write_bytes(vouching(".html", page.encode(), record, {}))


def _verdicts(files: Files, stem: str) -> str:
    """The findings in short, as HTML."""
    text = files.content(f"{stem}.md").decode()
    short = text.partition(f"## {IN_SHORT}\n")[2].partition("\n## ")[0]
    body = MarkdownIt("commonmark", {"html": False}).render(short)
    link = f'<a href="{html.escape(stem)}.html">All findings, {html.escape(Path(stem).name)}</a>'
    return f'<div class="short">{body}</div><p>{link}</p>'


def _links(named: Mapping[str, str]) -> str:
    items = (f'<li><a href="{html.escape(stem)}.html">{html.escape(name)}</a></li>' for stem, name in named.items())
    return f"<ul>{''.join(items)}</ul>"


def _tables(files: Files, named: Mapping[str, str]) -> str:
    """Each table, with a link to its CSV."""
    parts = []
    for stem, name in named.items():
        rows = list(csv.reader(files.content(f"{stem}.csv").decode().splitlines()))
        place = html.escape(stem)
        links = f'<a href="{place}.csv" download>CSV</a> <a href="{place}.html">with notes</a>'
        parts.append(table(stem, name, rows, links))
    return "".join(parts)
