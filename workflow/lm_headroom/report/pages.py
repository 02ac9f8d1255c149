"""Pages and tables for readers: Markdown, CSV, and HTML that needs no other file and says what made all three."""

from __future__ import annotations

import csv
import html
import io
import math
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from markdown_it import MarkdownIt

from lm_headroom.artifacts.file_provenance import vouching
from lm_headroom.artifacts.store import atomic

_STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem; color: #1a1a1a; }
h1 { font-size: 1.5rem; } h2 { font-size: 1.15rem; margin-top: 2rem; } li { margin: 0.5rem 0; }
table { border-collapse: collapse; font-size: 0.9rem; }
th, td { border-bottom: 1px solid #ccc; padding: 0.35rem 0.7rem; text-align: left; vertical-align: top; }
th { border-bottom: 2px solid #444; }
"""


def listed(names: Sequence[str]) -> str:
    """``a, b and c``."""
    return " and ".join(filter(None, [", ".join(names[:-1]), names[-1]]))


def write_page(
    out: Path, title: str, markdown: str, provenance: Mapping[str, Any], others: Mapping[str, str] | None = None
) -> None:
    """Write ``out``.md and the same as ``out``.html, style included.

    Args:
        out: path without suffix.
        title: of the page, plain text.
        markdown: the text below it.
        provenance: of what is written.
        others: suffix to text of other files of the same provenance.
    """
    text = f"# {title}\n\n{markdown}"
    files = {".md": text, **(others or {})}
    # Names come from studies and checkpoints: what looks like HTML in them is text.
    body = MarkdownIt("commonmark", {"html": False}).enable("table").render(text)
    page = (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f"<title>{html.escape(title)}</title>\n<style>{_STYLE}</style>\n</head>\n"
        f"<body>\n{body}</body>\n</html>\n"
    )
    beside = {suffix: content.encode() for suffix, content in files.items()}
    for suffix, content in {**beside, ".html": vouching(".html", page.encode(), provenance, beside)}.items():
        with atomic(out.with_name(out.name + suffix)) as partial:
            partial.write_bytes(content)


def write_table(
    out: Path,
    title: str,
    columns: Sequence[str],
    rows: Sequence[Sequence[object]],
    provenance: Mapping[str, Any],
    notes: Sequence[str] = (),
    page: tuple[Sequence[str], Sequence[Sequence[object]]] | None = None,
) -> None:
    """Write a table as ``out``.csv, ``out``.md and ``out``.html.

    Args:
        out: path without suffix.
        title: of the page.
        columns: their names.
        rows: values, where None and NaN leave a cell empty; floats have all their digits in the CSV and three decimals
            on the page.
        provenance: of what is written.
        notes: paragraphs below the table, in Markdown.
        page: columns and rows of the page, where it has others than the CSV: fewer, or in words.
    """
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows([map(_as_text, row) for row in (columns, *rows)])
    columns, rows = page or (columns, rows)
    lines = [_line(columns), "|" + "---|" * len(columns), *map(_line, rows)]
    for note in notes:
        lines += ["", note]
    write_page(out, title, "\n".join([*lines, ""]), provenance, {".csv": text.getvalue()})


def _as_text(value: object) -> object:
    """A cell in one line, and none that a spreadsheet takes for a formula: an apostrophe goes before what looks so."""
    if not isinstance(value, str):
        return None if _is_nan(value) else value
    text = re.sub(r"[\x00-\x1f]+", " ", value)
    return f"'{text}" if text.lstrip().startswith(("=", "+", "-", "@")) else text


def _line(values: Sequence[object]) -> str:
    shown = map(_in_cell, values)
    return "| " + " | ".join(re.sub(r"[\x00-\x1f]+", " ", text).replace("|", "\\|") for text in shown) + " |"


def _in_cell(value: object) -> str:
    if value is None or _is_nan(value):
        return ""
    return f"{value:.3f}" if isinstance(value, float) else str(value)


def _is_nan(value: object) -> bool:
    return isinstance(value, float) and math.isnan(value)


def size(parameters: float) -> str:
    """``12.3 M``; billions from 1e9 on."""
    return f"{parameters / 1e9:.1f} B" if parameters >= 1e9 else f"{parameters / 1e6:.1f} M"
