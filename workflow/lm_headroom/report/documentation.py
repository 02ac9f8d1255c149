"""Write the README's table of outputs from the catalogue of artifacts and the table of products.

``python -m lm_headroom.report.documentation`` writes it.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from lm_headroom.artifacts.catalogue import CATALOGUE, PRUNED, RECORD
from lm_headroom.artifacts.schemas import SCHEMAS
from lm_headroom.report.products import PRODUCTS

README = Path(__file__).resolve().parents[3] / "README.md"
BEGIN, END = "<!-- artifacts: begin -->\n", "<!-- artifacts: end -->"
_OTHERS = (
    ("{model}/figures/fig{NN}_*.{pdf,png}", "Figures 3 to 19 of the paper, if the study has what they show"),
    ("comparison/figures/*.{pdf,png}", "of two or more models: a figure per comparison"),
    (f"{PRUNED}/", "a checkpoint without its least important heads and FFNs, if you ask for one"),
    (RECORD, "the model's record: its source and the digest of its checkpoint"),
)


def rows() -> Iterator[tuple[str, str, str]]:
    """Path below the results folder, what is there, and the columns of artifacts."""
    columns = {schema.name: ", ".join(column.name for column in schema.columns) for schema in SCHEMAS}
    for artifact in CATALOGUE:
        yield artifact.template, artifact.title, columns[artifact.name]
    for product in PRODUCTS:
        if product.title:
            yield f"{product.stem}.{{{','.join(product.suffixes)}}}", product.title, ""
    for path, title in _OTHERS:
        yield path, title, ""


def table() -> str:
    """The table, in Markdown."""
    head = "| file below `results/` | holds | columns |\n|---|---|---|\n"
    return head + "".join(f"| `{path}` | {title} | {columns} |\n" for path, title, columns in rows())


def with_table(page: str) -> str:
    """A page with the table between its marks."""
    return re.sub(f"{BEGIN}.*?{END}", lambda match: BEGIN + table() + END, page, flags=re.DOTALL)


if __name__ == "__main__":
    README.write_text(with_table(README.read_text(encoding="utf-8")), encoding="utf-8")
