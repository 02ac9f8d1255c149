"""Write the table of artifacts from their catalogue and the table of products, and the table of outcomes.

``python -m lm_headroom.report.documentation`` writes them.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from pathlib import Path

from lm_headroom.analysis.outcomes import OUTCOMES
from lm_headroom.artifacts.catalogue import CATALOGUE, PRUNED, RECORD, fill
from lm_headroom.artifacts.schemas import SCHEMAS
from lm_headroom.report.products import PRODUCTS
from lm_headroom.study.choices import DEFAULT_MARGINS, RELATIVE_OUTCOMES

_DOCS = Path(__file__).resolve().parents[3] / "docs"
_OTHERS = (
    ("{model}/figures/fig{NN}_*.{pdf,svg,png}", "Figures 3 to 19 of the paper, if the study has what they show"),
    ("comparison/figures/*.{pdf,svg,png}", "of two or more models: a figure per comparison"),
    (
        fill(f"{PRUNED}/", pruned="heads{heads}-ffns{ffns}[-experts{experts}][-even]"),
        "a checkpoint without its least important heads, FFNs and experts, if you ask for one",
    ),
    (RECORD, "the model's record: its source and the digest of its checkpoint"),
)


def rows() -> Iterator[tuple[str, str, str, str]]:
    """Path below the results folder, what is there, and the kind and columns of artifacts."""
    columns = {schema.name: ", ".join(column.name for column in schema.columns) for schema in SCHEMAS}
    for artifact in CATALOGUE:
        yield artifact.template, artifact.title, f"`{artifact.name}`", columns[artifact.name]
    for product in PRODUCTS:
        if product.title:
            yield f"{product.stem}.{{{','.join(product.suffixes)}}}", product.title, "", ""
    for path, title in _OTHERS:
        yield path, title, "", ""


def table() -> str:
    """The table, in Markdown."""
    head = "| file below `results/` | holds | kind | columns |\n|---|---|---|---|\n"
    return head + "".join(f"| `{path}` | {title} | {kind} | {columns} |\n" for path, title, kind, columns in rows())


def outcomes() -> str:
    """The table of outcomes, in Markdown."""
    head = "| outcome | of a document | unit of a loss | source | default margin |\n|---|---|---|---|---|\n"
    rows = []
    for name, spec in OUTCOMES.items():
        margin = f"{DEFAULT_MARGINS[name]:g}" + "%" * (name in RELATIVE_OUTCOMES)
        rows.append(f"| `{name}` | {spec.formula} | {spec.unit} | {spec.source} | {margin} |\n")
    return head + "".join(rows)


TABLES: dict[Path, tuple[str, Callable[[], str]]] = {
    _DOCS / "artifacts.md": ("artifacts", table),
    _DOCS / "statistics.md": ("outcomes", outcomes),
}
"""Page to the name of the table that is made for it, which stands between marks of that name, and its text."""


def with_table(page: Path) -> str:
    """The text of a page with its table as it is now."""
    name, text = TABLES[page]
    begin, end = f"<!-- {name}: begin -->\n", f"<!-- {name}: end -->"
    return re.sub(f"{begin}.*?{end}", lambda match: begin + text() + end, page.read_text("utf-8"), flags=re.DOTALL)


if __name__ == "__main__":
    for path in TABLES:
        path.write_text(with_table(path), encoding="utf-8")
