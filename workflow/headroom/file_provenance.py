"""What made a figure, page or table, kept where its format has room for it.

A PNG has a text chunk for it, a PDF its subject, an HTML page a ``meta`` element. CSV and Markdown files stay as
readers expect them: the HTML page that is written beside them knows them by their digests.
"""

from __future__ import annotations

import html
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from headroom.artifacts.store import ArtifactError, ForeignError, file_digest, provenance

_NAME = "headroom"
_PDF = re.compile(rb"/Subject \(((?:[^\\()]|\\.)*)\)", re.DOTALL)
_HTML = re.compile(rf'<meta name="{_NAME}" content="([^"]*)">')
_PDF_ESCAPES = {b"n": b"\n", b"r": b"\r"}
AGAIN = "delete it and run the workflow again"


def as_text(made: Mapping[str, Any]) -> str:
    """Provenance as one line of ASCII."""
    return json.dumps(made, sort_keys=True)


def png_metadata(text: str) -> dict[str, str]:
    """What matplotlib is given to put provenance into a PNG."""
    return {_NAME: text}


def pdf_metadata(text: str) -> dict[str, str]:
    """What matplotlib is given to put provenance into a PDF: it knows the keys of the format only."""
    return {"Subject": f"{_NAME} {text}"}


def html_metadata(made: Mapping[str, Any], files: Mapping[str, str]) -> str:
    """The element of a page's head that holds provenance.

    Args:
        made: the provenance.
        files: suffix to digest of what is written beside the page.
    """
    text = as_text({**made, "files": dict(files)})
    return f'<meta name="{_NAME}" content="{html.escape(text)}">'


def read_provenance(path: Path) -> dict[str, Any]:
    """What made an artifact, figure, table or page.

    Raises:
        ArtifactError: the file is missing, damaged, not headroom's, or not what the page beside it was written with.
    """
    path = Path(path)
    readers = {".parquet": provenance, ".png": _png, ".pdf": _pdf, ".html": _html, ".md": _beside, ".csv": _beside}
    if path.suffix not in readers:
        raise ArtifactError(f"{path}: expected one of headroom's files: {', '.join(readers)}, or a model.json")
    if not path.is_file():
        raise ArtifactError(f"{path}: no such file")
    return readers[path.suffix](path)


def _png(path: Path) -> dict[str, Any]:
    # Figures are rare among what is read.
    from PIL import Image

    try:
        with Image.open(path) as image:
            text = image.info.get(_NAME)
            image.verify()
    # Pillow raises SyntaxError for broken chunks.
    except (OSError, SyntaxError) as error:
        raise ArtifactError(f"{path}: not a readable PNG ({error}); {AGAIN}") from error
    return _parsed(path, text)


def _pdf(path: Path) -> dict[str, Any]:
    content = path.read_bytes()
    if not content.startswith(b"%PDF-") or not content.rstrip().endswith(b"%%EOF"):
        raise ArtifactError(f"{path}: not a whole PDF; {AGAIN}")
    found = _PDF.search(content)
    subject = re.sub(rb"\\(.)", lambda m: _PDF_ESCAPES.get(m[1], m[1]), found[1]).decode() if found else ""
    return _parsed(path, subject.removeprefix(f"{_NAME} ") if subject.startswith(f"{_NAME} ") else None)


def _html(path: Path) -> dict[str, Any]:
    try:
        page = path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise ArtifactError(f"{path}: not a readable page ({error}); {AGAIN}") from error
    if not page.rstrip().endswith("</html>"):
        raise ArtifactError(f"{path}: not a whole page; {AGAIN}")
    found = _HTML.search(page)
    return _parsed(path, html.unescape(found[1]) if found else None)


def _beside(path: Path) -> dict[str, Any]:
    page = path.with_suffix(".html")
    if not page.is_file():
        raise ArtifactError(f"{path}: {page.name}, the page that says what made it, is not beside it")
    made = _html(page)
    if made.get("files", {}).get(path.suffix) != file_digest(path):
        raise ArtifactError(f"{path}: it has changed since it was written, or is not from the run of {page.name}")
    return made


def _parsed(path: Path, text: str | None) -> dict[str, Any]:
    if text is None:
        raise ForeignError(f"{path}: this file was not written by headroom (it carries no provenance)")
    try:
        return dict(json.loads(text))
    except ValueError as error:
        raise ArtifactError(f"{path}: its provenance cannot be read ({error}); {AGAIN}") from error
