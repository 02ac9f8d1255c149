"""Reading a JSON file that others may have written. Standard library only: the Snakefile imports this module."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

LARGEST = 2**28
"""Bytes of the largest text that is read into memory: far more than any has, so that a larger file is none."""


def read_object(path: Path) -> dict[str, Any]:
    """The keys and values of a JSON file.

    Raises:
        OSError: it cannot be read.
        ValueError: it is too large, not UTF-8, no JSON, nested too deeply to be read, or holds something else than an
            object; the message says which.
    """
    return parse_object(read_text(path))


def read_text(path: Path) -> str:
    """A file of UTF-8.

    Raises:
        OSError: it cannot be read.
        ValueError: it is too large, or not UTF-8.
    """
    return read_bytes(path).decode()


def read_bytes(path: Path) -> bytes:
    """A file's bytes.

    Raises:
        OSError: it cannot be read.
        ValueError: it is too large.
    """
    size = path.stat().st_size
    if size > LARGEST:
        raise ValueError(f"it is of {size} bytes, larger than any file of its kind")
    return path.read_bytes()


def parse_object(text: str | bytes) -> dict[str, Any]:
    """The keys and values of a JSON text.

    Raises:
        ValueError: see :func:`read_object`.
    """
    try:
        content = json.loads(text)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None
    if not isinstance(content, dict):
        raise ValueError(f"expected an object {{...}}, found {type(content).__name__}")
    return content
