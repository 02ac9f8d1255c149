"""A model's first page: the answer in short, figures that show it, tables to sort and filter, links to the rest."""

from __future__ import annotations

import base64
import csv
import html
import json
from collections.abc import Mapping, Sequence
from hashlib import sha256
from pathlib import Path

from markdown_it import MarkdownIt

from lm_headroom.artifacts.file_provenance import AGAIN, vouching
from lm_headroom.artifacts.provenance import describe_drawn
from lm_headroom.artifacts.store import ArtifactError, Source, atomic, place_of
from lm_headroom.report.findings.page import IN_SHORT
from lm_headroom.report.index_page import PAGE
from lm_headroom.results.matrix import ResultsMatrix

FIRST = ("figures/prunable_share-", "figures/fig05_heads_pruned-seed")
"""Figures at the head of the page, which are within it; others are links."""


def write(matrix: ResultsMatrix, out: Path, products: Sequence[str]) -> None:
    """Write a model's first page to ``out``.html.

    Args:
        matrix: the model's part of a study.
        out: path without suffix.
        products: figures, tables, findings and pages that it leads to, each as its path below the model's results
            folder without suffix, an equals sign and what it is called.

    Raises:
        ArtifactError: a file of one of them is missing.
    """
    named = dict(product.split("=", 1) for product in products)
    files = _Files(matrix.results)
    figures = [stem for stem in named if stem.startswith("figures/")]
    first = [stem for start in FIRST for stem in figures if stem.startswith(start)]
    texts = {
        "@MODEL@": html.escape(matrix.model),
        "@VERDICTS@": "".join(_verdicts(files, stem) for stem in named if stem.startswith("findings/")),
        "@FIRST@": "".join(_figure(stem, named[stem], files.embedded(f"{stem}.png")) for stem in first),
        "@FIGURES@": "".join(_figure(s, named[s], f"{s}.svg") for s in figures if s not in first),
        "@PAGES@": _links({s: name for s, name in named.items() if not s.startswith(("figures/", "tables/"))}),
        "@TABLES@": _tables(files, {s: name for s, name in named.items() if s.startswith("tables/")}),
    }
    page = PAGE
    for mark, text in texts.items():
        page = page.replace(mark, text)
    record = describe_drawn("page", "report.index", files.read, {"products": list(products)}, out)
    with atomic(out.with_name(f"{out.name}.html")) as partial:
        partial.write_bytes(vouching(".html", page.encode(), record, {}))


class _Files:
    """Files of a model's results, of which the page notes what it has read."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.read: dict[Path, Source] = {}

    def content(self, name: str) -> bytes:
        """The bytes of a file.

        Raises:
            ArtifactError: it is missing.
        """
        path = self.folder / name
        if not path.is_file():
            raise ArtifactError(f"{path}: no such file, which the page shows; {AGAIN}")
        content = path.read_bytes()
        pattern = "/".join(("{model}", *Path(name).parts))
        self.read[path] = Source(place_of(path, pattern), sha256(content).hexdigest())
        return content

    def embedded(self, name: str) -> str:
        """A picture as an address that holds it."""
        return f"data:image/png;base64,{base64.b64encode(self.content(name)).decode()}"


def _verdicts(files: _Files, stem: str) -> str:
    """The findings in short, as HTML."""
    text = files.content(f"{stem}.md").decode()
    short = text.partition(f"## {IN_SHORT}\n")[2].partition("\n## ")[0]
    body = MarkdownIt("commonmark", {"html": False}).render(short)
    link = f'<a href="{html.escape(stem)}.html">All findings, {html.escape(Path(stem).name)}</a>'
    return f'<div class="short">{body}</div><p>{link}</p>'


def _figure(stem: str, name: str, source: str) -> str:
    stem, name = html.escape(stem), html.escape(name)
    downloads = " ".join(f'<a href="{stem}.{suffix}">{suffix.upper()}</a>' for suffix in ("pdf", "svg", "png"))
    image = f'<img src="{html.escape(source)}" alt="{name}" loading="lazy">'
    return f"<figure>{image}<figcaption>{name}. {downloads}</figcaption></figure>\n"


def _links(named: Mapping[str, str]) -> str:
    items = (f'<li><a href="{html.escape(stem)}.html">{html.escape(name)}</a></li>' for stem, name in named.items())
    return f"<ul>{''.join(items)}</ul>"


def _tables(files: _Files, named: Mapping[str, str]) -> str:
    """Each table as its rows in JSON, from which the page makes what it shows, with a link to its CSV."""
    parts = []
    for stem, name in named.items():
        rows = list(csv.reader(files.content(f"{stem}.csv").decode().splitlines()))
        numbers = json.dumps(rows, separators=(",", ":")).replace("<", "\\u003c")
        name, stem = html.escape(name), html.escape(stem)
        links = f'<a href="{stem}.csv" download>CSV</a> <a href="{stem}.html">with notes</a>'
        parts.append(
            f'<details class="table" id="{stem.replace("/", "-")}"><summary>{name} ({len(rows) - 1} rows)</summary>'
            f"<p>{links} <label>Rows that contain <input type=search></label> <output></output></p>"
            f'<div class="rows" tabindex="0" role="region" aria-label="{name}"><table></table></div>'
            f'<script type="application/json">{numbers}</script></details>\n'
        )
    return "".join(parts)
