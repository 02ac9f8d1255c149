"""Write the README's table of outputs from the catalogue of artifacts and the table of products.

``python -m lm_headroom.report.outputs`` replaces the table between its two markers.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from lm_headroom.artifacts.catalogue import CATALOGUE, PRUNED, RECORD
from lm_headroom.artifacts.schemas import SCHEMAS
from lm_headroom.report.products import PRODUCTS, Product

PAGE = Path(__file__).resolve().parents[3] / "README.md"
_BEGIN, _END = "<!-- artifacts: begin -->\n", "<!-- artifacts: end -->\n"


def with_table(page: str) -> str:
    """A page with the current table between its markers."""
    before, _, rest = page.partition(_BEGIN)
    _, _, after = rest.partition(_END)
    head = "| file below `results/` | holds | columns |\n|---|---|---|\n"
    return before + _BEGIN + head + "".join(f"| {' | '.join(row)} |\n" for row in _rows()) + _END + after


def _rows() -> Iterator[tuple[str, str, str]]:
    """Path, content and columns of each output."""
    columns = {schema.name: ", ".join(column.name for column in schema.columns) for schema in SCHEMAS}
    for artifact in CATALOGUE:
        yield f"`{artifact.template}`", artifact.title, columns[artifact.name]
    yield "`{model}/figures/fig{NN}_*.{pdf,png}`", "Figures 3 to 19 of the paper, if the study has what they show", ""
    for product in PRODUCTS:
        if product.title:
            yield ", ".join(_files(each) for each in PRODUCTS if each.name == product.name), product.title, ""
    yield "`comparison/figures/*.{pdf,png}`", "of two or more models: a figure per comparison", ""
    yield f"`{PRUNED}/`", "a checkpoint without its least important heads and FFNs, if you ask for one", ""
    yield f"`{RECORD}`", "the model's record: its source and the digest of its checkpoint", ""


def _files(product: Product) -> str:
    return f"`{product.stem}.{{{','.join(product.suffixes)}}}`"


if __name__ == "__main__":
    PAGE.write_text(with_table(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
