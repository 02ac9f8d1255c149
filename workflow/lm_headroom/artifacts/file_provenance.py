"""What made a figure, page or table, kept where its format has room for it, with digests of what was written.

A PNG has a text chunk for it, an HTML page a ``meta`` element. Each holds what made the file, a digest of the rest of
it, and digests of the files that were written beside it: a figure's PDF and SVG, a page's Markdown and CSV, which stay
as readers expect them. So a byte that has changed in any of them shows.
"""

from __future__ import annotations

import hashlib
import html
import json
import re
import struct
import zlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from lm_headroom.artifacts.json_object import LARGEST, read_bytes
from lm_headroom.artifacts.store import ArtifactError, UnrecognisedError, file_digest, parse_provenance, provenance

_NAME = "lm-headroom"
AGAIN = "delete it and run the workflow again"
VOUCHERS = {".pdf": ".png", ".svg": ".png", ".md": ".html", ".csv": ".html"}
"""Suffix of a file that says nothing of itself to that of the file beside it which does."""


def as_text(provenance: Mapping[str, Any]) -> str:
    """Provenance as one line of ASCII."""
    return json.dumps(provenance, sort_keys=True)


def vouching(suffix: str, content: bytes, provenance: Mapping[str, Any], beside: Mapping[str, bytes]) -> bytes:
    """A PNG or HTML page with what made it.

    Args:
        suffix: ``.png`` or ``.html``.
        content: the file without that.
        provenance: the provenance.
        beside: suffix to content of what is written beside it.
    """
    digests = {other: hashlib.sha256(written).hexdigest() for other, written in beside.items()}
    digests[suffix] = _own_digest(content, {**provenance, "files": dict(digests)})
    return _FORMATS[suffix].join(content, as_text({**provenance, "files": digests}))


def _own_digest(content: bytes, provenance: Mapping[str, Any]) -> str:
    """Digest of a file without its provenance, together with the provenance without that digest."""
    return hashlib.sha256(as_text(provenance).encode() + content).hexdigest()


def read_provenance(path: Path) -> dict[str, Any]:
    """What made an artifact, figure, table or page.

    Raises:
        ArtifactError: the file is missing, not lm-headroom's, or has changed since it was written, or the file beside
            it that vouches for it is missing or has changed.
    """
    path = Path(path)
    known = (".parquet", *_FORMATS, *VOUCHERS)
    if path.suffix not in known:
        raise ArtifactError(f"{path}: expected one of lm-headroom's files: {', '.join(known)}, or a model.json")
    if not path.is_file():
        raise ArtifactError(f"{path}: no such file")
    if path.suffix == ".parquet":
        return provenance(path)
    voucher = path.with_suffix(VOUCHERS.get(path.suffix, path.suffix))
    if not voucher.is_file():
        raise UnrecognisedError(
            f"{path}: {voucher.name}, which would say what made it, is not beside it; if there was none, this file was "
            "not written by lm-headroom"
        )
    record = _read_voucher(voucher)
    # Read whole where it is as small as such files are: to read a larger one may take hours.
    if voucher != path and (path.stat().st_size > LARGEST or record["files"].get(path.suffix) != file_digest(path)):
        raise ArtifactError(f"{path}: it has changed since it was written, or is not from the run of {voucher.name}")
    return record


def _read_voucher(path: Path) -> dict[str, Any]:
    """What a PNG or page says of itself and the files beside it.

    Raises:
        ArtifactError: it says nothing, or has changed since it was written.
    """
    layout = _FORMATS[path.suffix]
    try:
        whole = read_bytes(path)
        text, content = layout.split(whole)
    except (OSError, ValueError, struct.error) as error:
        raise ArtifactError(f"{path}: it cannot be read ({error}); {AGAIN}") from error
    if text is None:
        raise UnrecognisedError(f"{path}: this file was not written by lm-headroom (it carries no provenance)")
    provenance = parse_provenance(path, text)
    files = provenance.get("files") or {}
    others = {suffix: digest for suffix, digest in files.items() if suffix != path.suffix}
    vouched = files.get(path.suffix) == _own_digest(content, {**provenance, "files": others})
    if not vouched or layout.join(content, as_text(provenance)) != whole:
        raise ArtifactError(f"{path}: it has changed since it was written; {AGAIN}")
    return provenance


class _Format(NamedTuple):
    """How a format holds provenance.

    Attributes:
        join: a file's bytes from its content and the provenance.
        split: the reverse; the provenance is None where there is none. Raises ValueError or struct.error where the file
            is damaged.
    """

    join: Callable[[bytes, str], bytes]
    split: Callable[[bytes], tuple[str | None, bytes]]


_HEAD = b"<head>\n"
_META = re.compile(rf'<meta name="{_NAME}" content="([^"]*)">'.encode())


def _join_page(content: bytes, text: str) -> bytes:
    return content.replace(_HEAD, _HEAD + f'<meta name="{_NAME}" content="{html.escape(text)}">'.encode(), 1)


def _split_page(whole: bytes) -> tuple[str | None, bytes]:
    match = _META.search(whole)
    if not match:
        return None, whole
    return html.unescape(match[1].decode()), whole[: match.start()] + whole[match.end() :]


_PNG_START = b"\x89PNG\r\n\x1a\n"
_PNG_HEADER_END = len(_PNG_START) + 25
_TEXT = b"tEXt" + _NAME.encode() + b"\0"


def _join_png(content: bytes, text: str) -> bytes:
    chunk = _TEXT + text.encode()
    framed = struct.pack(">I", len(chunk) - 4) + chunk + struct.pack(">I", zlib.crc32(chunk))
    return content[:_PNG_HEADER_END] + framed + content[_PNG_HEADER_END:]


def _split_png(whole: bytes) -> tuple[str | None, bytes]:
    if not whole.startswith(_PNG_START):
        raise ValueError("not a PNG")
    start = len(_PNG_START)
    while start < len(whole):
        # Length, type, data, checksum.
        end = start + 12 + struct.unpack_from(">I", whole, start)[0]
        if whole.startswith(_TEXT, start + 4):
            return whole[start + 4 + len(_TEXT) : end - 4].decode(), whole[:start] + whole[end:]
        start = end
    return None, whole


_FORMATS = {".png": _Format(_join_png, _split_png), ".html": _Format(_join_page, _split_page)}
